//! The AF_XDP socket: options, rings, bind, and the two syscalls of the data path.

use super::queues::{Kernel, Rings};
use super::ring::{Consumer, Producer, Raw};
use super::umem::{Geometry, METADATA, Umem};
use crate::port::error::PortError;
use crate::port::interface::Interface;
use crate::port::mapping::Mapping;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpRingOffset, XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::sync::atomic::AtomicU32;

/// XDP_UMEM_TX_METADATA_LEN (Linux 6.11; the length alone suffices from 6.8 on).
const UMEM_TX_METADATA_LEN: u32 = 1 << 2;
/// XDP_MAX_TX_SKB_BUDGET (Linux 6.17): frames per send in copy mode.
const MAX_TX_SKB_BUDGET: i32 = 9;
const SOL_XDP: i32 = 283;
/// Send buffer that never limits what the transmit frames can hold.
const SEND_BUFFER: u32 = 64 << 20;

/// A socket with its mapped rings.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    copies: bool,
    _mappings: [Mapping; 4],
}

impl Socket {
    /// An unbound socket on `umem`, with rings of the geometry's sizes. Takes metadata out of the geometry where the
    /// kernel does not know it.
    pub fn unbound(umem: &mut Umem, on: &str) -> Result<OwnedFd, PortError> {
        let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(
            |error| match error {
                Errno::AFNOSUPPORT => {
                    PortError::Unsupported { on: on.to_owned(), what: "AF_XDP (Linux 4.18 with CONFIG_XDP_SOCKETS)" }
                }
                Errno::PERM => PortError::Permission {
                    operation: "opening an AF_XDP socket",
                    on: on.to_owned(),
                    capability: "CAP_NET_RAW",
                },
                other => {
                    PortError::Io { operation: "opening an AF_XDP socket", on: on.to_owned(), source: other.into() }
                }
            },
        )?;
        register(&fd, umem, on)?;
        let geometry = umem.geometry();
        let size = |result: rustix::io::Result<()>| result.map_err(PortError::io("making the AF_XDP rings", on));
        size(sockopt::set_xdp_umem_fill_ring_size(&fd, geometry.fill_entries()))?;
        size(sockopt::set_xdp_umem_completion_ring_size(&fd, geometry.tx_frames))?;
        size(sockopt::set_xdp_rx_ring_size(&fd, geometry.rx_frames))?;
        size(sockopt::set_xdp_tx_ring_size(&fd, geometry.tx_frames))?;
        Ok(fd)
    }

    /// Maps the rings of a socket, new or taken over.
    pub fn map(fd: OwnedFd, geometry: &Geometry, on: &str) -> Result<(Self, Rings), PortError> {
        let offsets = sockopt::xdp_mmap_offsets(&fd).map_err(PortError::io("asking for the AF_XDP rings", on))?;
        let ring = |at: &XdpRingOffset, size: u32, entry: usize, page: u64| {
            let len = at.desc as usize + size as usize * entry;
            Mapping::new(&fd, len, page).map_err(PortError::io("mapping the AF_XDP rings", on))
        };
        let fill = ring(&offsets.fr, geometry.fill_entries(), 8, XDP_UMEM_PGOFF_FILL_RING)?;
        let completion = ring(&offsets.cr, geometry.tx_frames, 8, XDP_UMEM_PGOFF_COMPLETION_RING)?;
        let rx = ring(&offsets.rx, geometry.rx_frames, 16, XDP_PGOFF_RX_RING)?;
        let tx = ring(&offsets.tx, geometry.tx_frames, 16, XDP_PGOFF_TX_RING)?;
        // SAFETY: the offsets are the kernel's for these mappings, which live as long as the socket; the port is the only
        // user of its socket.
        let rings = unsafe {
            Rings {
                fill: Producer::new(raw(&fill, &offsets.fr, geometry.fill_entries())),
                completion: Consumer::new(raw(&completion, &offsets.cr, geometry.tx_frames)),
                rx: Consumer::new(raw(&rx, &offsets.rx, geometry.rx_frames)),
                tx: Producer::new(raw(&tx, &offsets.tx, geometry.tx_frames)),
            }
        };
        let copies =
            sockopt::xdp_options(&fd).is_ok_and(|options| !options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));
        Ok((Self { fd, copies, _mappings: [fill, completion, rx, tx] }, rings))
    }

    pub fn statistics(&self) -> Option<XdpStatistics> {
        sockopt::xdp_statistics(&self.fd).ok()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Kernel for Socket {
    fn send(&self) -> Result<(), Errno> {
        rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT).map(|_| ())
    }

    fn wake_receive(&self) -> Result<(), Errno> {
        let mut nothing = [0u8; 0];
        rustix::net::recv(&self.fd, &mut nothing[..], RecvFlags::DONTWAIT).map(|_| ())
    }

    fn copies(&self) -> bool {
        self.copies
    }
}

/// Binds: zero-copy first, then copying. Returns the reason why zero-copy was not to be had, if it was not.
pub fn bind(
    fd: &OwnedFd,
    interface: &Interface,
    queue: u32,
    umem: &Umem,
    zero_copy: bool,
) -> Result<Option<Errno>, PortError> {
    let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    if umem.geometry().multi_buffer != 0 {
        flags |= SocketAddrXdpFlags::XDP_USE_SG;
    }
    let try_bind = |mode| rustix::net::bind(fd, &SocketAddrXdp::new(flags | mode, interface.index, queue));
    let refused = if zero_copy {
        match try_bind(SocketAddrXdpFlags::XDP_ZEROCOPY) {
            Ok(()) => return Ok(None),
            Err(error) => Some(error),
        }
    } else {
        None
    };
    match try_bind(SocketAddrXdpFlags::XDP_COPY) {
        Ok(()) => {
            // Both are improvements only: an older kernel or a missing capability leaves the defaults.
            let _ = sockopt::set_socket_send_buffer_size_force(fd, SEND_BUFFER as usize);
            set_budget(fd, umem.geometry().tx_frames);
            Ok(refused)
        }
        Err(error) => Err(bind_error(error, interface, queue, umem)),
    }
}

fn bind_error(error: Errno, interface: &Interface, queue: u32, umem: &Umem) -> PortError {
    let on = interface.name.clone();
    match error {
        Errno::BUSY => PortError::Busy { interface: on, queue },
        Errno::NODEV => PortError::NoInterface(on),
        Errno::NETDOWN => PortError::Down(on),
        Errno::INVAL if umem.geometry().multi_buffer != 0 && !kernel_has_multi_buffer() => {
            PortError::Mtu { on, mtu: interface.mtu, what: "AF_XDP multi-buffer", since: "6.6" }
        }
        Errno::INVAL => PortError::NoQueue { interface: on, queue },
        other => PortError::Io { operation: "binding the AF_XDP socket", on, source: other.into() },
    }
}

/// Linux 6.6 and later.
fn kernel_has_multi_buffer() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

fn register(fd: &OwnedFd, umem: &mut Umem, on: &str) -> Result<(), PortError> {
    let mut geometry = umem.geometry();
    loop {
        let flags = if geometry.metadata != 0 { UMEM_TX_METADATA_LEN } else { 0 };
        let registration = XdpUmemReg {
            addr: umem.start() as u64,
            len: geometry.bytes() as u64,
            chunk_size: geometry.frame_size,
            headroom: 0,
            flags: XdpUmemRegFlags::from_bits_retain(flags),
            tx_metadata_len: geometry.metadata,
        };
        match sockopt::set_xdp_umem_reg(fd, registration) {
            Ok(()) => {
                umem.describe(geometry);
                return Ok(());
            }
            // A kernel that does not know the flag.
            Err(Errno::INVAL) if geometry.metadata == METADATA => geometry.metadata = 0,
            Err(Errno::NOBUFS | Errno::NOMEM) => {
                return Err(PortError::LockedMemory { on: on.to_owned(), bytes: geometry.bytes() });
            }
            Err(error) => return Err(PortError::io("registering the packet memory", on)(error)),
        }
    }
}

fn set_budget(fd: &OwnedFd, frames: u32) {
    // SAFETY: the option takes a u32.
    unsafe {
        libc::setsockopt(fd.as_raw_fd(), SOL_XDP, MAX_TX_SKB_BUDGET, (&raw const frames).cast(), 4);
    }
}

fn raw<T>(mapping: &Mapping, at: &XdpRingOffset, size: u32) -> Raw<T> {
    let word = |offset: u64| mapping.start().wrapping_add(offset as usize).cast::<AtomicU32>().cast_const();
    Raw {
        producer: word(at.producer),
        consumer: word(at.consumer),
        flags: at.flags.map_or(std::ptr::null(), word),
        entries: mapping.start().wrapping_add(at.desc as usize).cast(),
        size,
    }
}
