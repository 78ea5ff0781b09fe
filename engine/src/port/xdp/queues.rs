//! The port's work on the rings: frames in, frames out, and the account of who holds which frame. Makes no syscall
//! itself; the [`Kernel`] behind it is the socket, or a fake in the tests.
//!
//! Transmit frames are free, in the transmit ring, with the kernel, or in the completion ring. Receive frames are in the
//! fill ring, with the kernel, in the receive ring, or in the batch that is being delivered. A delivered frame goes
//! back to the fill ring before its receive entry is released, so that a crash at any point loses none.

use super::ring::{Consumer, Producer};
use super::umem::Geometry;
use crate::port::cut::{Cut, Device};
use crate::port::merge::{Batch, MAX_PIECES, Received, Treatment};
use crate::port::{Full, PortCounters, TxFrame};
use persona_stack::{RxChecksum, RxFrame, TxChecksum};
use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use std::io;

/// What the rings ask of the kernel.
pub trait Kernel: Send {
    /// Sends what the transmit ring holds, or a part of it.
    fn send(&self) -> Result<(), Errno>;
    /// Makes the driver look at the fill ring.
    fn wake_receive(&self) -> Result<(), Errno>;
    /// The kernel copies frames (and sends them within [`Kernel::send`]).
    fn copies(&self) -> bool;
}

/// The four rings of one socket.
#[derive(Debug)]
pub struct Rings {
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    pub rx: Consumer<XdpDesc>,
    pub tx: Producer<XdpDesc>,
}

/// XDP_TX_METADATA: metadata lies before the frame.
const TX_METADATA: u32 = 1 << 1;
/// XDP_TXMD_FLAGS_CHECKSUM.
const METADATA_CHECKSUM: u64 = 1 << 1;
/// Frames that the kernel sends per syscall in copy mode, at least.
const COPY_BATCH: u32 = 32;
/// Longest link header (two VLAN tags).
const LINK_HEADER: usize = 22;
/// Most descriptors of one frame.
const MAX_DESCRIPTORS: usize = MAX_PIECES + 1;

pub struct Queues<K> {
    kernel: K,
    rings: Rings,
    /// Beginning of the packet memory.
    memory: *mut u8,
    geometry: Geometry,
    /// Transmit frames nobody uses.
    free: Vec<u32>,
    /// After a take-over: transmit frames that are free once the kernel has completed what it had, by index.
    doubtful: Vec<bool>,
    batch: Batch,
    counters: PortCounters,
    /// A super-segment was refused and the kernel holds frames: room will come.
    refused: bool,
}

// SAFETY: the packet memory belongs to the port, which one thread uses at a time.
unsafe impl<K: Kernel> Send for Queues<K> {}

impl<K: Kernel> Queues<K> {
    /// Starts on fresh rings: gives all receive frames to the kernel.
    ///
    /// # Safety
    ///
    /// `memory` must be valid for `geometry.bytes()` for the life of the result, and used by it and the kernel only.
    pub unsafe fn new(kernel: K, rings: Rings, memory: *mut u8, geometry: Geometry, treatment: Treatment) -> Self {
        let mut queues = Self {
            kernel,
            rings,
            memory,
            geometry,
            free: (0..geometry.tx_frames).rev().collect(),
            doubtful: Vec::new(),
            batch: Batch::new(treatment),
            counters: PortCounters::default(),
            refused: false,
        };
        for index in 0..geometry.rx_frames {
            queues.rings.fill.push(u64::from(index) * u64::from(geometry.frame_size));
        }
        queues.rings.fill.publish();
        queues
    }

    /// Goes on with rings that another process left behind.
    ///
    /// # Safety
    ///
    /// As [`Queues::new`]; the other process must have ended.
    pub unsafe fn take_over(
        kernel: K,
        mut rings: Rings,
        memory: *mut u8,
        geometry: Geometry,
        treatment: Treatment,
    ) -> Self {
        // A transmit frame that is in no ring was either free, or is with the kernel and will be completed.
        let mut known = vec![false; geometry.tx_frames as usize];
        let mut mark = |address| {
            if let Some(index) = geometry.tx_index(address) {
                known[index as usize] = true;
            }
        };
        rings.tx.untaken().for_each(|descriptor| mark(descriptor.addr));
        (0..rings.completion.available()).for_each(|offset| mark(rings.completion.peek(offset)));
        let doubtful: Vec<bool> = known.iter().map(|known| !known).collect();

        // A receive entry whose frame is in the fill ring as well was delivered before.
        let mut filled = vec![false; geometry.rx_frames as usize];
        let untaken: Vec<u64> = rings.fill.untaken().collect();
        for index in untaken.into_iter().filter_map(|address| geometry.rx_index(address)) {
            filled[index as usize] = true;
        }
        let delivered = |descriptor: XdpDesc| geometry.rx_index(descriptor.addr).is_some_and(|i| filled[i as usize]);
        let mut stale = 0;
        while stale < rings.rx.available() && delivered(rings.rx.peek(stale)) {
            stale += 1;
        }
        rings.rx.release(stale);

        let mut queues = Self {
            kernel,
            rings,
            memory,
            geometry,
            free: Vec::with_capacity(geometry.tx_frames as usize),
            doubtful,
            batch: Batch::new(treatment),
            counters: PortCounters::default(),
            refused: false,
        };
        queues.reap();
        queues
    }

    pub fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let mut taken = 0;
        while taken < budget {
            let (frames, descriptors) = self.gather(budget - taken);
            if frames == 0 {
                if descriptors == 0 && taken == 0 && self.rings.fill.needs_wakeup() {
                    self.counters.kicks += 1;
                    // Failure (no memory, interface down) leaves the ring as it is; the next visit asks again.
                    let _ = self.kernel.wake_receive();
                }
                break;
            }
            self.batch.deliver(sink);
            for offset in 0..descriptors {
                let address = self.rings.rx.peek(offset).addr;
                self.rings.fill.push(self.geometry.frame_of(address));
            }
            self.rings.fill.publish();
            self.rings.rx.release(descriptors);
            taken += frames;
        }
        taken
    }

    pub fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let device = Device { sums: self.geometry.metadata != 0, cuts: false };
        let fits = |cut: &Cut<'_>| frame.header.len() <= self.geometry.tx_capacity() && self.can_send(cut.longest());
        let Some(mut cut) = Cut::new(frame, device).ok().filter(fits) else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        let each = cut.longest().div_ceil(self.geometry.tx_capacity());
        let needed = each * cut.frames();
        if self.free.len() < needed {
            self.reap();
        }
        if self.free.len() < needed || !self.rings.tx.has_room(needed as u32) {
            self.counters.tx_full += 1;
            self.refused = true;
            return Err(Full);
        }
        self.refused = false;
        while let Some(len) = cut.next_len() {
            self.put(&mut cut, len);
        }
        Ok(())
    }

    /// Kicks the kernel for what waits in the transmit ring. In copy mode the kernel sends a bounded number of frames
    /// per syscall, so it is asked until all went out or it makes no progress.
    pub fn flush(&mut self) -> io::Result<()> {
        self.rings.tx.publish();
        let mut waiting = self.rings.tx.waiting();
        let visits = if self.kernel.copies() { waiting.div_ceil(COPY_BATCH) + 1 } else { 1 };
        for _visit in 0..visits {
            if waiting == 0 || !self.rings.tx.needs_wakeup() {
                break;
            }
            self.counters.kicks += 1;
            let result = self.kernel.send();
            let left = self.rings.tx.waiting();
            match result {
                Ok(()) | Err(Errno::AGAIN) => {}
                // The device's queue dropped a frame, which counts as sent.
                Err(Errno::BUSY) => self.counters.tx_dropped += 1,
                // Out of memory for a copy: the frames stay in the ring.
                Err(Errno::NOBUFS) => break,
                Err(error) => return Err(error.into()),
            }
            if left == waiting {
                break;
            }
            waiting = left;
        }
        self.reap();
        Ok(())
    }

    pub fn pending(&mut self) -> bool {
        if self.rings.rx.available() > 0 || self.rings.tx.waiting() > 0 {
            return true;
        }
        if self.refused {
            self.reap();
            // Once everything has come back there is nothing left to wait for: say so one last time.
            self.refused = self.outstanding() > 0;
            return true;
        }
        false
    }

    pub fn counters(&self) -> PortCounters {
        self.counters
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Transmit frames that the kernel holds or that wait in the transmit ring.
    pub fn outstanding(&self) -> u32 {
        self.geometry.tx_frames - self.free.len() as u32
    }

    fn can_send(&self, len: usize) -> bool {
        let capacity = self.geometry.tx_capacity();
        let descriptors = if self.geometry.multi_buffer != 0 { MAX_DESCRIPTORS } else { 1 };
        len <= self.geometry.mtu as usize + LINK_HEADER && len <= capacity * descriptors
    }

    /// Moves whole packets from the receive ring into the batch. Returns packets and descriptors.
    fn gather(&mut self, budget: usize) -> (usize, u32) {
        let available = self.rings.rx.available();
        let (mut frames, mut used) = (0, 0);
        while frames < budget && self.batch.room() >= MAX_DESCRIPTORS {
            let mut pieces = [Received { start: self.memory, len: 0 }; MAX_DESCRIPTORS];
            let mut count = 0;
            let whole = loop {
                let at = used + count as u32;
                if at == available || count == MAX_DESCRIPTORS {
                    break false;
                }
                let descriptor = self.rings.rx.peek(at);
                pieces[count] = self.piece(&descriptor);
                count += 1;
                if !descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD) {
                    break true;
                }
            };
            if !whole {
                // The kernel publishes whole packets only: the rest is beyond what we looked at.
                break;
            }
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += pieces[..count].iter().map(|piece| piece.len as u64).sum::<u64>();
            // SAFETY: the frames are ours until they are back in the fill ring, which happens after the delivery.
            unsafe { self.batch.push(pieces[0], &pieces[1..count], RxChecksum::Unverified, 0) };
            frames += 1;
            used += count as u32;
        }
        (frames, used)
    }

    fn piece(&self, descriptor: &XdpDesc) -> Received {
        let end = descriptor.addr + u64::from(descriptor.len);
        assert!(end <= self.geometry.bytes() as u64, "the kernel handed out a frame outside of the UMEM");
        Received { start: self.memory.wrapping_add(descriptor.addr as usize), len: descriptor.len as usize }
    }

    /// Writes the next frame of `cut` into free frames and queues it. The caller has made sure of room.
    fn put(&mut self, cut: &mut Cut<'_>, len: usize) {
        let capacity = self.geometry.tx_capacity();
        let count = len.div_ceil(capacity);
        let mut offsets = [0u64; MAX_DESCRIPTORS];
        let mut room: [&mut [u8]; MAX_DESCRIPTORS] = std::array::from_fn(|_| Default::default());
        for (at, (offset, slice)) in offsets.iter_mut().zip(&mut room).take(count).enumerate() {
            let index = self.free.pop().expect("as many free frames as were counted");
            *offset = self.geometry.tx_offset(index) + u64::from(self.geometry.metadata);
            let start = self.memory.wrapping_add(*offset as usize);
            // SAFETY: a free frame is ours alone, and no two slices share one.
            *slice = unsafe { core::slice::from_raw_parts_mut(start, capacity.min(len - at * capacity)) };
        }
        let left = cut.write(&mut room[..count]);
        for at in 0..count {
            let mut options = XdpDescOptions::empty();
            if at + 1 < count {
                options |= XdpDescOptions::XDP_PKT_CONTD;
            }
            if let (0, TxChecksum::Partial { start, offset }) = (at, left) {
                options |= XdpDescOptions::from_bits_retain(TX_METADATA);
                self.request_checksum(offsets[0], start, offset);
            }
            let piece = capacity.min(len - at * capacity) as u32;
            self.rings.tx.push(XdpDesc { addr: offsets[at], len: piece, options });
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += len as u64;
    }

    /// Fills the struct xsk_tx_metadata before the frame at `address`.
    fn request_checksum(&mut self, address: u64, start: u16, offset: u16) {
        let mut bytes = [0u8; super::umem::METADATA as usize];
        bytes[..8].copy_from_slice(&METADATA_CHECKSUM.to_ne_bytes());
        bytes[8..10].copy_from_slice(&start.to_ne_bytes());
        bytes[10..12].copy_from_slice(&offset.to_ne_bytes());
        let to = self.memory.wrapping_add(address as usize - bytes.len());
        // SAFETY: the metadata area is part of the frame at `address`, which is ours until it is published.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Takes completed frames back.
    fn reap(&mut self) {
        loop {
            let count = self.rings.completion.available();
            if count == 0 {
                break;
            }
            for offset in 0..count {
                let address = self.rings.completion.peek(offset);
                let Some(index) = self.geometry.tx_index(address) else { continue };
                if let Some(doubtful) = self.doubtful.get_mut(index as usize) {
                    *doubtful = false;
                }
                self.free.push(index);
            }
            self.rings.completion.release(count);
        }
        if !self.doubtful.is_empty() && self.kernel_holds_none() {
            let doubtful = std::mem::take(&mut self.doubtful);
            self.free.extend((0..).zip(doubtful).filter(|(_, doubtful)| *doubtful).map(|(index, _)| index));
        }
    }

    /// Whether every descriptor that the kernel took from the transmit ring came back by the completion ring. Holds for
    /// certain when the counters meet; descriptors that the kernel rejected are never completed, then it does not
    /// hold and the doubtful frames stay unused.
    fn kernel_holds_none(&self) -> bool {
        self.rings.tx.taken() == self.rings.completion.written()
    }
}

#[cfg(test)]
mod tests;
