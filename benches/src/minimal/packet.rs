//! packet_mmap rings with nothing around them: TPACKET_V2 slots in both directions, the filler in each transmit slot
//! from the beginning; segments of the MTU past the queueing discipline, or super-segments that the kernel cuts.

use super::mapping::{Mapping, interface_index, kick, set_option};
use super::{FILLER, HEADERS, Ring, SEGMENT};
use anyhow::{Context, Result};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Release};

/// Takes a whole super-segment, in pages.
const LARGE: usize = 17 * 4096;
/// Takes a segment of an MTU of 1,500 bytes and the headers before it.
const SMALL: usize = 2048;
/// Memory that the kernel takes in one piece.
const BLOCK: usize = 1 << 20;
/// More slots of any size than the window holds segments.
const RECEIVE_BYTES: usize = 96 << 20;
const SEND_BYTES: usize = 8 << 20;
/// Segments of a super-segment: the most that IPv4's length field allows.
const SEGMENTS: usize = 44;
/// Slots of one visit to the receive ring.
const BATCH: usize = 64;
/// struct virtio_net_hdr.
const VNET: usize = 10;
const VNET_NEEDS_CHECKSUM: u8 = 1;
const VNET_GSO_TCPV4: u8 = 1;
const SEND_BUFFER: i32 = 64 << 20;
/// Beginning of the bytes to send in a slot (TPACKET2_HDRLEN less the address).
const DATA: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);

/// Slots of one direction, in blocks.
#[derive(Clone, Copy)]
struct Slots {
    first: usize,
    size: usize,
    count: usize,
}

impl Slots {
    fn new(first: usize, size: usize, bytes: usize) -> Self {
        Self { first, size, count: bytes / BLOCK * (BLOCK / size) }
    }

    fn blocks(&self) -> usize {
        self.count / (BLOCK / self.size)
    }

    /// Offset in the mapping.
    fn at(&self, index: usize) -> usize {
        let (per_block, index) = (BLOCK / self.size, index % self.count);
        self.first + index / per_block * BLOCK + index % per_block * self.size
    }

    fn request(&self) -> libc::tpacket_req {
        libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: self.blocks() as u32,
            tp_frame_size: self.size as u32,
            tp_frame_nr: self.count as u32,
        }
    }
}

pub struct PacketRing {
    // Before the descriptor, whose memory it is.
    mapping: Mapping,
    rx: Slots,
    tx: Slots,
    received: usize,
    sent: usize,
    /// Transmit slots whose filler was overwritten.
    spoiled: Vec<bool>,
    /// The kernel cuts and sums.
    offload: bool,
    fd: OwnedFd,
}

impl PacketRing {
    /// `filter`: a loaded socket filter that chooses what is received.
    pub fn open(interface: &str, offload: bool, filter: Option<&OwnedFd>) -> Result<Self> {
        let index = interface_index(interface).with_context(|| format!("there is no interface {interface}"))?;
        // Protocol 0: nothing is received before everything is set and bound.
        // SAFETY: a plain syscall.
        let number = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if number < 0 {
            return Err(io::Error::last_os_error()).context("opening a packet socket");
        }
        // SAFETY: just opened and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let set =
            |level, option, value: i32, what: &'static str| set_option(fd.as_fd(), level, option, &value).context(what);
        set(libc::SOL_PACKET, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32, "PACKET_VERSION")?;
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING")?;
        set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER, "SO_SNDBUFFORCE")?;
        if offload {
            set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1, "PACKET_VNET_HDR")?;
        } else {
            set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS")?;
        }
        // A peer on this host sends super-segments unless its offloads are off.
        let size = if offload { LARGE } else { SMALL };
        let rx = Slots::new(0, size, RECEIVE_BYTES);
        let tx = Slots::new(rx.blocks() * BLOCK, size, SEND_BYTES);
        for (option, slots) in [(libc::PACKET_RX_RING, &rx), (libc::PACKET_TX_RING, &tx)] {
            set_option(fd.as_fd(), libc::SOL_PACKET, option, &slots.request()).context("making the rings")?;
        }
        let len = (rx.blocks() + tx.blocks()) * BLOCK;
        let mapping = Mapping::new(Some(fd.as_fd()), len, 0).context("mapping the rings")?;
        if let Some(filter) = filter {
            set(libc::SOL_SOCKET, libc::SO_ATTACH_BPF, filter.as_raw_fd(), "attaching the socket filter")?;
        }
        bind(&fd, index).with_context(|| format!("binding a packet socket to {interface}"))?;
        let spoiled = vec![true; tx.count];
        let mut ring = Self { mapping, rx, tx, received: 0, sent: 0, spoiled, offload, fd };
        for index in 0..tx.count {
            ring.restore(index);
        }
        Ok(ring)
    }

    /// Offset of the bytes that a transmit slot sends.
    fn data(&self, index: usize) -> usize {
        self.tx.at(index) + DATA
    }

    fn prefix(&self) -> usize {
        if self.offload { VNET } else { 0 }
    }

    /// Writes the filler of a free slot if something else lies there.
    fn restore(&mut self, index: usize) {
        if self.spoiled[index] {
            let start = self.data(index) + self.prefix() + HEADERS;
            // SAFETY: a free slot is ours alone.
            unsafe { self.mapping.bytes(start, self.longest()) }.fill(FILLER);
            self.spoiled[index] = false;
        }
    }

    fn status(&self, slot: usize) -> &std::sync::atomic::AtomicU32 {
        self.mapping.word(slot + offset_of!(libc::tpacket2_hdr, tp_status))
    }
}

impl Ring for PacketRing {
    fn longest(&self) -> usize {
        if self.offload { SEGMENTS * SEGMENT } else { SEGMENT }
    }

    fn completes_checksums(&self) -> bool {
        self.offload
    }

    fn send(&mut self, header: &[u8], filler: usize) -> bool {
        let index = self.sent % self.tx.count;
        let slot = self.tx.at(index);
        if self.status(slot).load(Acquire) != libc::TP_STATUS_AVAILABLE {
            return false;
        }
        if filler > 0 {
            self.restore(index);
        }
        self.spoiled[index] |= header.len() > HEADERS;
        let (start, prefix) = (self.data(index), self.prefix());
        // SAFETY: an available slot is ours alone.
        let bytes = unsafe { self.mapping.bytes(start, prefix + header.len()) };
        if prefix > 0 {
            bytes[..VNET].copy_from_slice(&vnet_header(header, filler));
        }
        bytes[prefix..].copy_from_slice(header);
        let len = self.mapping.at(slot + offset_of!(libc::tpacket2_hdr, tp_len)).cast::<u32>();
        // SAFETY: as above; aligned to 16.
        unsafe { len.write((prefix + header.len() + filler) as u32) };
        self.status(slot).store(libc::TP_STATUS_SEND_REQUEST, Release);
        self.sent += 1;
        true
    }

    fn kick(&mut self) -> io::Result<()> {
        // Busy, or without memory: the slots stay, and the next kick finds them.
        kick(self.fd.as_fd()).map(drop)
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        for taken in 0..BATCH {
            let slot = self.rx.at(self.received);
            if self.status(slot).load(Acquire) & libc::TP_STATUS_USER == 0 {
                return taken;
            }
            // SAFETY: the kernel has handed the slot over; its header is complete and aligned to 16.
            let header = unsafe { &*self.mapping.at(slot).cast::<libc::tpacket2_hdr>() };
            let (start, len) = (slot + usize::from(header.tp_mac), header.tp_snaplen as usize);
            // SAFETY: as above.
            sink(unsafe { self.mapping.bytes(start, len) });
            self.status(slot).store(libc::TP_STATUS_KERNEL, Release);
            self.received += 1;
        }
        BATCH
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn dropped(&self) -> u64 {
        // SAFETY: all zero bytes are valid.
        let mut counts: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        // SAFETY: the kernel writes `len` bytes at most.
        let outcome =
            unsafe { libc::getsockopt(self.fd.as_raw_fd(), level, option, (&raw mut counts).cast(), &raw mut len) };
        if outcome == 0 { counts.tp_drops.into() } else { 0 }
    }
}

/// What the kernel has to do with a frame: complete its checksum, and cut it if it is longer than a segment.
fn vnet_header(header: &[u8], filler: usize) -> [u8; VNET] {
    let mut vnet = [0; VNET];
    vnet[0] = VNET_NEEDS_CHECKSUM;
    if filler > SEGMENT {
        vnet[1] = VNET_GSO_TCPV4;
        vnet[4..6].copy_from_slice(&(SEGMENT as u16).to_ne_bytes());
    }
    vnet[2..4].copy_from_slice(&(header.len() as u16).to_ne_bytes());
    // TCP begins at 34, and its checksum field 16 bytes later.
    vnet[6..8].copy_from_slice(&34u16.to_ne_bytes());
    vnet[8..10].copy_from_slice(&16u16.to_ne_bytes());
    vnet
}

fn bind(fd: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a complete address of the length given.
    let outcome = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
