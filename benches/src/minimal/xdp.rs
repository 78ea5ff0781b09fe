//! AF_XDP rings with nothing around them: one socket in copy mode on queue 0, frames of 2 KiB, the filler in each
//! transmit frame from the beginning.

use super::mapping::{Mapping, interface_index, kick, set_option};
use super::{FILLER, HEADERS, Ring, SEGMENT};
use anyhow::{Context, Result};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const FRAME: usize = 2048;
/// Frames for each direction, and entries of each ring but the fill ring.
const FRAMES: u32 = 2048;
/// Twice the frames: the kernel shows a received frame before it shows that the fill entry is free again.
const FILL: u32 = 2 * FRAMES;
/// Frames of one visit to the receive ring.
const BATCH: u32 = 64;
/// XDP_RING_NEED_WAKEUP.
const NEED_WAKEUP: u32 = 1;
const SOL_XDP: i32 = 283;
/// XDP_MAX_TX_SKB_BUDGET (Linux 6.17): frames per send() in copy mode.
const MAX_TX_SKB_BUDGET: i32 = 9;
/// A send buffer that does not limit what the frames can hold.
const SEND_BUFFER: i32 = 64 << 20;

/// One ring. `next` is our counter, `theirs` the kernel's as we last saw it.
struct Entries {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    first: usize,
    mask: u32,
    next: u32,
    theirs: u32,
}

pub struct XdpRing {
    fill: Entries,
    completion: Entries,
    rx: Entries,
    tx: Entries,
    /// Receive frames, then transmit frames.
    umem: Mapping,
    /// Transmit frames nobody uses.
    free: Vec<u64>,
    /// Transmit frames whose filler was overwritten, by index.
    spoiled: Vec<bool>,
    fd: OwnedFd,
}

impl XdpRing {
    /// The XDP program that redirects to [`XdpRing::socket`] is the caller's affair.
    pub fn open(interface: &str) -> Result<Self> {
        let index = interface_index(interface).with_context(|| format!("there is no interface {interface}"))?;
        let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .context("opening an AF_XDP socket")?;
        let len = 2 * FRAMES as usize * FRAME;
        let umem = Mapping::new(None, len, 0).context("memory for frames")?;
        let registration = XdpUmemReg {
            addr: umem.at(0) as u64,
            len: len as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&fd, registration).context("registering the packet memory")?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, FILL).context("fill ring")?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, FRAMES).context("completion ring")?;
        sockopt::set_xdp_rx_ring_size(&fd, FRAMES).context("receive ring")?;
        sockopt::set_xdp_tx_ring_size(&fd, FRAMES).context("transmit ring")?;
        let at = sockopt::xdp_mmap_offsets(&fd).context("asking for the rings")?;
        let map = |offsets, size, entry, page| Entries::map(fd.as_fd(), offsets, size, entry, page);
        let mut ring = Self {
            fill: map(&at.fr, FILL, 8, XDP_UMEM_PGOFF_FILL_RING)?,
            completion: map(&at.cr, FRAMES, 8, XDP_UMEM_PGOFF_COMPLETION_RING)?,
            rx: map(&at.rx, FRAMES, 16, XDP_PGOFF_RX_RING)?,
            tx: map(&at.tx, FRAMES, 16, XDP_PGOFF_TX_RING)?,
            umem,
            free: (FRAMES..2 * FRAMES).map(|index| u64::from(index) * FRAME as u64).collect(),
            spoiled: vec![true; FRAMES as usize],
            fd,
        };
        for index in 0..FRAMES {
            ring.fill.put(u64::from(index) * FRAME as u64);
        }
        ring.fill.publish();
        for &address in &ring.free.clone() {
            ring.restore(address);
        }
        let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP | SocketAddrXdpFlags::XDP_COPY;
        rustix::net::bind(&ring.fd, &SocketAddrXdp::new(flags, index, 0))
            .with_context(|| format!("binding an AF_XDP socket to queue 0 of {interface}"))?;
        // Improvements only: an older kernel keeps its defaults.
        let _ = set_option(ring.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER);
        let _ = set_option(ring.fd.as_fd(), SOL_XDP, MAX_TX_SKB_BUDGET, &FRAMES);
        Ok(ring)
    }

    /// What the XDP program's map has to hold.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn index(address: u64) -> usize {
        address as usize / FRAME - FRAMES as usize
    }

    /// Writes the filler of a free frame if something else lies there.
    fn restore(&mut self, address: u64) {
        let spoiled = &mut self.spoiled[Self::index(address)];
        if *spoiled {
            // SAFETY: a free transmit frame is ours alone.
            unsafe { self.umem.bytes(address as usize + HEADERS, SEGMENT) }.fill(FILLER);
            *spoiled = false;
        }
    }

    fn reap(&mut self) {
        while self.completion.available() > 0 {
            self.free.push(self.completion.take());
        }
        self.completion.release();
    }
}

impl Ring for XdpRing {
    fn longest(&self) -> usize {
        SEGMENT
    }

    fn completes_checksums(&self) -> bool {
        false
    }

    fn send(&mut self, header: &[u8], filler: usize) -> bool {
        if self.free.is_empty() {
            self.reap();
        }
        let Some(address) = self.free.pop() else { return false };
        if filler > 0 {
            self.restore(address);
        }
        self.spoiled[Self::index(address)] |= header.len() > HEADERS;
        // SAFETY: a free transmit frame is ours alone.
        unsafe { self.umem.bytes(address as usize, header.len()) }.copy_from_slice(header);
        // There are as many entries as frames.
        self.tx.put(XdpDesc {
            addr: address,
            len: (header.len() + filler) as u32,
            options: rustix::net::xdp::XdpDescOptions::empty(),
        });
        true
    }

    fn kick(&mut self) -> io::Result<()> {
        self.tx.publish();
        // In copy mode the kernel sends a bounded number per call.
        let mut waiting = self.tx.waiting();
        while waiting > 0 && self.tx.needs_wakeup() && kick(self.fd.as_fd())? {
            let left = self.tx.waiting();
            if left == waiting {
                break;
            }
            waiting = left;
        }
        self.reap();
        Ok(())
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let count = self.rx.available().min(BATCH);
        for _ in 0..count {
            let descriptor: XdpDesc = self.rx.take();
            // SAFETY: a received frame is ours until it is back in the fill ring.
            sink(unsafe { self.umem.bytes(descriptor.addr as usize, descriptor.len as usize) });
            self.fill.put(descriptor.addr & !(FRAME as u64 - 1));
        }
        self.fill.publish();
        self.rx.release();
        count as usize
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket()
    }

    fn dropped(&self) -> u64 {
        sockopt::xdp_statistics(&self.fd).map_or(0, |counts| counts.rx_dropped + counts.rx_ring_full.unwrap_or(0))
    }
}

impl Entries {
    fn map(fd: BorrowedFd<'_>, at: &XdpRingOffset, size: u32, entry: usize, page: u64) -> Result<Self> {
        let mapping =
            Mapping::new(Some(fd), at.desc as usize + size as usize * entry, page).context("mapping the rings")?;
        let flags = at.flags.context("a kernel that does not say when a ring wants to be looked at (Linux 5.4)")?;
        Ok(Self {
            mapping,
            producer: at.producer as usize,
            consumer: at.consumer as usize,
            flags: flags as usize,
            first: at.desc as usize,
            mask: size - 1,
            next: 0,
            theirs: 0,
        })
    }

    fn entry<T>(&self, index: u32) -> *mut T {
        self.mapping.at(self.first + (index & self.mask) as usize * size_of::<T>()).cast()
    }

    /// Writes the next entry of a ring that we fill. The caller knows that it is free.
    fn put<T>(&mut self, value: T) {
        // SAFETY: in bounds and aligned; the entry is ours, for the ring has as many as there are frames, or more.
        unsafe { self.entry::<T>(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
    }

    fn publish(&self) {
        self.mapping.word(self.producer).store(self.next, Release);
    }

    /// Published entries that the kernel has not taken.
    fn waiting(&self) -> u32 {
        self.next.wrapping_sub(self.mapping.word(self.consumer).load(Acquire))
    }

    fn needs_wakeup(&self) -> bool {
        self.mapping.word(self.flags).load(Relaxed) & NEED_WAKEUP != 0
    }

    /// Entries to take from a ring that the kernel fills; looks at its counter when there are none left.
    fn available(&mut self) -> u32 {
        if self.theirs == self.next {
            self.theirs = self.mapping.word(self.producer).load(Acquire);
        }
        self.theirs.wrapping_sub(self.next)
    }

    /// The oldest entry, which is there.
    fn take<T>(&mut self) -> T {
        // SAFETY: in bounds and aligned; the kernel has published it and waits for us to release it.
        let value = unsafe { self.entry::<T>(self.next).read() };
        self.next = self.next.wrapping_add(1);
        value
    }

    fn release(&self) {
        self.mapping.word(self.consumer).store(self.next, Release);
    }
}
