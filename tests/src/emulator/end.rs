//! One end of the emulated link: a packet socket on an interface, with a receive ring (TPACKET_V2) whose slots carry
//! the time at which each frame came, and batches of frames out.

use anyhow::{Context, Result, ensure};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

const BLOCK: usize = 1 << 20;
/// 16 MiB: 8,192 frames, a tenth of a second of full frames at 1 Gbit/s.
const BLOCKS: usize = 16;
const SLOT: usize = 2048;
const SLOTS: usize = BLOCKS * BLOCK / SLOT;
/// Frames of one sendmmsg.
const BATCH: usize = 64;
const SEND_BUFFER: i32 = 16 << 20;

pub struct End {
    /// Of the ring, `BLOCKS * BLOCK` bytes; unmapped when dropped.
    ring: *mut u8,
    received: usize,
    fd: OwnedFd,
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames from the first on that are done with, those in `refused` included.
    pub done: usize,
    /// Of these, what the device did not take.
    pub refused: usize,
}

impl End {
    pub fn open(interface: &str) -> Result<Self> {
        let name = std::ffi::CString::new(interface).context("a name with a zero byte")?;
        // SAFETY: a string that ends.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "there is no interface {interface} in this namespace");
        // Protocol 0: nothing comes before everything is set and bound.
        // SAFETY: a plain syscall.
        let number = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(number).context("cannot open a packet socket (root is needed)")?;
        // SAFETY: just opened and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        set(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        set(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        set(&fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: SLOTS as u32,
        };
        set(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a mapping at an address of the kernel's choice touches no other memory.
        let ring = unsafe { libc::mmap(std::ptr::null_mut(), BLOCKS * BLOCK, access, flags, fd.as_raw_fd(), 0) };
        ensure!(ring != libc::MAP_FAILED, "cannot map the ring: {}", io::Error::last_os_error());
        // SAFETY: all zero bytes are valid for both.
        let (vectors, messages) = unsafe { (vec![std::mem::zeroed(); BATCH], vec![std::mem::zeroed(); BATCH]) };
        let end = Self { ring: ring.cast(), received: 0, fd, vectors, messages };
        end.bind(index as i32).with_context(|| format!("cannot bind to {interface}"))?;
        Ok(end)
    }

    fn bind(&self, index: i32) -> io::Result<()> {
        // SAFETY: all zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: a complete address of the length given.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
    }

    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Hands over what has come, at most `most` frames, each with its time (nanoseconds of CLOCK_REALTIME); says how
    /// many there were.
    pub fn receive(&mut self, most: usize, mut sink: impl FnMut(u64, &[u8])) -> usize {
        for taken in 0..most {
            let slot = self.ring.wrapping_add(self.received % SLOTS * SLOT);
            let status = slot.wrapping_add(offset_of!(libc::tpacket2_hdr, tp_status)).cast::<AtomicU32>();
            // SAFETY: in the mapping, aligned, and changed by both sides as a whole word only.
            let status = unsafe { &*status };
            if status.load(Acquire) & libc::TP_STATUS_USER == 0 {
                return taken;
            }
            // SAFETY: the kernel has handed the slot over; its header is complete and aligned to 16.
            let header = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
            let (start, len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
            assert!(start + len <= SLOT, "the kernel keeps to the slot");
            // SAFETY: as above; ours until the status says otherwise.
            let frame = unsafe { std::slice::from_raw_parts(slot.wrapping_add(start), len) };
            sink(u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec), frame);
            status.store(libc::TP_STATUS_KERNEL, Release);
            self.received += 1;
        }
        most
    }

    /// Sends as many of the frames as the device takes at once; those beyond `done` are to be offered again.
    pub fn send<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> Sent {
        let mut count = 0;
        for (frame, vector) in frames.zip(&mut self.vectors) {
            *vector = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            count += 1;
        }
        for (message, vector) in self.messages.iter_mut().zip(&mut self.vectors).take(count) {
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        let messages = self.messages.as_mut_ptr();
        // SAFETY: `count` messages of one vector each, whose frames outlive the call; the kernel only reads them.
        let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages, count as u32, libc::MSG_DONTWAIT) };
        match (sent, io::Error::last_os_error().kind()) {
            (0.., _) => Sent { done: sent as usize, refused: 0 },
            (_, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Sent::default(),
            // The first was not taken, for a reason that does not go away by waiting: its interface is down, or full.
            _ => Sent { done: 1, refused: 1 },
        }
    }

    /// Frames that found the ring full since this was last asked.
    pub fn missed(&self) -> u64 {
        // SAFETY: all zero bytes are valid.
        let mut counts: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let (fd, to) = (self.fd.as_raw_fd(), (&raw mut counts).cast());
        // SAFETY: the kernel writes `len` bytes at most.
        unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, to, &raw mut len) };
        counts.tp_drops.into()
    }
}

/// Frames of one `End::send`.
pub const fn batch() -> usize {
    BATCH
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody can refer to it any more.
        unsafe { libc::munmap(self.ring.cast(), BLOCKS * BLOCK) };
    }
}

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: as many bytes as are said.
    let outcome = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len) };
    check(outcome).with_context(|| format!("cannot set option {option} of a packet socket"))?;
    Ok(())
}

fn check(outcome: i32) -> io::Result<i32> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
