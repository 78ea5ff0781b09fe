//! The packet socket: its options in the order that the kernel demands, its rings, its statistics.

use super::Params;
use super::rx::{Receive, Shape};
use super::tx::{self, Transmit};
use crate::port::error::PortError;
use crate::port::interface::Interface;
use crate::port::mapping::Mapping;
use crate::port::vnet;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::cell::Cell;
use std::io;
use std::os::fd::FromRawFd;

/// Smallest block or slot that takes a whole super-segment (64 KiB and headers, in pages), as received or sent.
const WHOLE: usize = 17 * 4096;
/// Block of the transmit ring where a slot holds a super-segment: fifteen of them fit with little waste.
const LARGE_BLOCK: usize = 1 << 20;
/// Block of the transmit ring otherwise.
const SMALL_BLOCK: usize = 1 << 18;
/// Longest link header (two VLAN tags).
const LINK_HEADER: usize = 22;
/// Send buffer that never limits what the ring can hold.
pub const SEND_BUFFER: i32 = 64 << 20;

/// A bound packet socket with its mapped rings.
pub struct Socket {
    fd: OwnedFd,
    _mapping: Mapping,
    /// Frames dropped so far; the kernel's counter starts over each time it is read.
    dropped: Cell<u64>,
}

/// What the kernel agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Frames carry a virtio_net_hdr; if not although asked for, why.
    pub vnet: Result<(), String>,
    pub qdisc_bypass: bool,
}

impl Socket {
    /// A packet socket of protocol 0, which receives nothing before it is bound.
    pub fn unbound(on: &str) -> Result<OwnedFd, PortError> {
        // SAFETY: a plain syscall.
        let number =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if number < 0 {
            return Err(match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EPERM) => PortError::Permission {
                    operation: "opening a packet socket",
                    on: on.to_owned(),
                    capability: "CAP_NET_RAW",
                },
                error if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    PortError::Unsupported { on: on.to_owned(), what: "packet sockets (CONFIG_PACKET)" }
                }
                source => PortError::Io { operation: "opening a packet socket", on: on.to_owned(), source },
            });
        }
        // SAFETY: just opened and owned by nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    pub fn open(params: &Params, interface: &Interface) -> Result<(Self, Receive, Transmit, Agreed), PortError> {
        let on = interface.name.as_str();
        let fd = Self::unbound(on)?;
        let packet = |option, value: i32| set(&fd, libc::SOL_PACKET, option, &value);

        let version =
            if params.blocks { libc::tpacket_versions::TPACKET_V3 } else { libc::tpacket_versions::TPACKET_V2 };
        packet(libc::PACKET_VERSION, version as i32).map_err(PortError::io("choosing the ring version", on))?;
        let vnet = if params.vnet {
            packet(libc::PACKET_VNET_HDR, 1).map_err(|error| format!("PACKET_VNET_HDR: {error}"))
        } else {
            Err("not configured".to_owned())
        };
        // Own frames would come back as received ones.
        packet(libc::PACKET_IGNORE_OUTGOING, 1).map_err(PortError::io("leaving out outgoing frames", on))?;
        // A malformed frame must not stop those behind it.
        packet(libc::PACKET_LOSS, 1).map_err(PortError::io("setting PACKET_LOSS", on))?;
        // Past the queueing discipline the kernel drops what it has to cut itself, and whether the device cuts can
        // change at any time (a peer of a veth that attaches XDP).
        let qdisc_bypass = params.qdisc_bypass && vnet.is_err() && packet(libc::PACKET_QDISC_BYPASS, 1).is_ok();
        // An improvement only.
        let _ = set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER);

        let (receive, transmit, mapping) = rings(&fd, params, interface, vnet.is_ok())?;
        if let Some(filter) = &params.filter {
            set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &filter.as_raw_fd())
                .map_err(PortError::io("attaching the socket filter", on))?;
        }
        bind(&fd, interface, libc::ETH_P_ALL as u16)?;
        if let Some(group) = params.fanout {
            // The kernel's hash of a flow chooses the socket; it is symmetric and keeps a flow's order.
            packet(libc::PACKET_FANOUT, (group as i32) | (libc::PACKET_FANOUT_HASH as i32) << 16)
                .map_err(PortError::io("sharing the interface's frames among packet sockets", on))?;
        }
        let socket = Self { fd, _mapping: mapping, dropped: Cell::new(0) };
        Ok((socket, receive, transmit, Agreed { vnet, qdisc_bypass }))
    }

    /// Makes the kernel send what waits in the transmit ring.
    pub fn kick(&self) -> io::Result<()> {
        match rustix::net::send(&self.fd, &[], rustix::net::SendFlags::DONTWAIT) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Frames that the kernel could not put into the receive ring, since creation.
    pub fn dropped(&self) -> u64 {
        // SAFETY: all zero bytes are valid; the kernel writes the version's own, never a longer, structure.
        let mut statistics: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: as above.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            self.dropped.set(self.dropped.get() + u64::from(statistics.tp_drops));
        }
        self.dropped.get()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes and maps both rings, receive first, as the kernel lays them out.
fn rings(
    fd: &OwnedFd,
    params: &Params,
    interface: &Interface,
    vnet: bool,
) -> Result<(Receive, Transmit, Mapping), PortError> {
    let on = interface.name.as_str();
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            PortError::Io { operation: "allocating the packet rings", on: on.to_owned(), source: error }
        }
        _ => PortError::io("making the packet rings", on)(error),
    };
    let header = if params.blocks { tx::V3 } else { tx::V2 };
    let tx = transmit_request(params, interface, vnet, header.frame);
    let rx = receive_request(params);
    if params.blocks {
        set(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &rx).map_err(failed)?;
        let plain = libc::tpacket_req3 { tp_retire_blk_tov: 0, ..tx };
        set(fd, libc::SOL_PACKET, libc::PACKET_TX_RING, &plain).map_err(failed)?;
    } else {
        for (option, request) in [(libc::PACKET_RX_RING, &rx), (libc::PACKET_TX_RING, &tx)] {
            let request = libc::tpacket_req {
                tp_block_size: request.tp_block_size,
                tp_block_nr: request.tp_block_nr,
                tp_frame_size: request.tp_frame_size,
                tp_frame_nr: request.tp_frame_nr,
            };
            set(fd, libc::SOL_PACKET, option, &request).map_err(failed)?;
        }
    }
    let rx_len = rx.tp_block_size as usize * rx.tp_block_nr as usize;
    let tx_len = tx.tp_block_size as usize * tx.tp_block_nr as usize;
    let mapping = Mapping::new(fd, rx_len + tx_len, 0).map_err(PortError::io("mapping the packet rings", on))?;
    let receive = if params.blocks {
        let block_size = rx.tp_block_size as usize;
        let count = rx.tp_block_nr as usize;
        Receive::blocks(Shape { start: mapping.start(), block_size, per_block: 1, size: block_size, count })
    } else {
        Receive::slots(shape(mapping.start(), &rx))
    };
    let transmit = Transmit::new(shape(mapping.start().wrapping_add(rx_len), &tx), header);
    Ok((receive, transmit, mapping))
}

fn shape(start: *mut u8, request: &libc::tpacket_req3) -> Shape {
    Shape {
        start,
        block_size: request.tp_block_size as usize,
        per_block: (request.tp_block_size / request.tp_frame_size) as usize,
        size: request.tp_frame_size as usize,
        count: request.tp_frame_nr as usize,
    }
}

/// The receive ring. A local sender's super-segments arrive whole whether or not we asked for virtio headers, so that
/// every block or slot has to take one.
fn receive_request(params: &Params) -> libc::tpacket_req3 {
    if params.blocks {
        let blocks = (params.rx_bytes / params.block_bytes).max(2) as u32;
        libc::tpacket_req3 {
            tp_block_size: params.block_bytes as u32,
            tp_block_nr: blocks,
            // The kernel only checks it; frames lie close together in a block.
            tp_frame_size: 2048,
            tp_frame_nr: blocks * (params.block_bytes / 2048) as u32,
            tp_retire_blk_tov: params.block_timeout_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        }
    } else {
        request(LARGE_BLOCK, WHOLE, params.rx_bytes / WHOLE)
    }
}

fn transmit_request(params: &Params, interface: &Interface, vnet: bool, header: usize) -> libc::tpacket_req3 {
    let wire = header + vnet::LEN + LINK_HEADER + interface.mtu as usize;
    if vnet {
        request(LARGE_BLOCK, WHOLE.max(wire.next_multiple_of(4096)), params.tx_bytes / WHOLE)
    } else {
        let frame = wire.next_power_of_two();
        request(SMALL_BLOCK.max(frame), frame, params.tx_bytes / frame)
    }
}

/// At least `frames` slots, in whole blocks.
fn request(block: usize, frame: usize, frames: usize) -> libc::tpacket_req3 {
    let per_block = block / frame;
    let blocks = frames.div_ceil(per_block).max(1);
    libc::tpacket_req3 {
        tp_block_size: block as u32,
        tp_block_nr: blocks as u32,
        tp_frame_size: frame as u32,
        tp_frame_nr: (blocks * per_block) as u32,
        tp_retire_blk_tov: 0,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    }
}

/// Binds to the interface and to a protocol (ETH_P_*; 0: none, for a socket that only sends).
pub fn bind(fd: &OwnedFd, interface: &Interface, protocol: u16) -> Result<(), PortError> {
    // SAFETY: all zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface.index as i32;
    // SAFETY: a complete address of the length given.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if result == 0 {
        return Ok(());
    }
    Err(match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENODEV) => PortError::NoInterface(interface.name.clone()),
        error if error.raw_os_error() == Some(libc::ENETDOWN) => PortError::Down(interface.name.clone()),
        source => PortError::io("binding the packet socket", &interface.name)(source),
    })
}

pub fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is readable for its size, which is what the kernel is told.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the sizes can be had.
pub fn check(params: &Params, on: &str) -> Result<(), PortError> {
    let size = |what, value: usize, rule| PortError::Size { on: on.to_owned(), what, value: value as u64, rule };
    if !params.block_bytes.is_multiple_of(4096) || params.block_bytes < WHOLE {
        return Err(size("block size", params.block_bytes, "a multiple of 4096, at least 69632"));
    }
    for (what, bytes) in [("receive ring", params.rx_bytes), ("transmit ring", params.tx_bytes)] {
        if !(1 << 20..=1 << 30).contains(&bytes) {
            return Err(size(what, bytes, "between 1 MiB and 1 GiB"));
        }
    }
    Ok(())
}
