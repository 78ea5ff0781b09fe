//! Ports in memory: two of them, joined back to back, for tests and benches.
//!
//! Each direction is a bounded single-producer ring of frame slots, so that the two ports may live on two threads. What a
//! device would take over (checksum, segmentation) is taken over or not as [`Params`] says, for each combination.

use super::cut::{Cut, Device};
use super::merge::{BATCH, Batch, MAX_PIECES, Received, Treatment};
use super::{Full, Port, PortCounters, TxFrame};
use crossbeam_utils::CachePadded;
use persona_stack::{Offload, RxChecksum, RxFrame, TxChecksum};
use std::cell::UnsafeCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How one port of a pair behaves.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Largest IP packet on the wire, in bytes.
    pub mtu: usize,
    /// Frames that wait for the peer at most. A power of two.
    pub slots: usize,
    /// The device sums: the peer sees frames with only the pseudo-header sum, marked as such.
    pub checksum: bool,
    /// The device cuts: the peer sees super-segments with their cut size.
    pub segmentation: bool,
    /// Received trains are merged.
    pub merge: bool,
    /// Received frames come in pieces of this many bytes, as from multi-buffer rings. 0: in one piece.
    pub piece: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { mtu: 1500, slots: 1024, checksum: false, segmentation: false, merge: false, piece: 0 }
    }
}

/// Ethernet header with two VLAN tags.
const LINK_HEADER: usize = 22;
/// Largest super-segment, limited by IPv4's length field.
const LONGEST: usize = 0xffff;

/// One end of a pair.
pub struct MemoryPort {
    params: Params,
    rx: Arc<Ring>,
    tx: Arc<Ring>,
    batch: Batch,
    counters: PortCounters,
}

/// Joins two ports: what one transmits the other receives.
pub fn pair(a: Params, b: Params) -> (MemoryPort, MemoryPort) {
    let (forth, back) = (Arc::new(Ring::new(&a)), Arc::new(Ring::new(&b)));
    (MemoryPort::new(a, back.clone(), forth.clone()), MemoryPort::new(b, forth, back))
}

impl MemoryPort {
    fn new(params: Params, rx: Arc<Ring>, tx: Arc<Ring>) -> Self {
        let batch = Batch::new(Treatment { partial: false, merge: params.merge });
        Self { params, rx, tx, batch, counters: PortCounters::default() }
    }
}

impl Port for MemoryPort {
    fn offload(&self) -> Offload {
        Offload { max_segment: LONGEST as u32, tx_checksum: true }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let mut taken = 0;
        loop {
            let mut visited = 0;
            while taken < budget && self.batch.room() > MAX_PIECES {
                let Some(slot) = self.rx.peek(visited) else { break };
                // SAFETY: the slot is the consumer's until `release`, which comes after `deliver`.
                unsafe { push_in_pieces(&mut self.batch, slot, self.params.piece) };
                self.counters.rx_frames += 1;
                self.counters.rx_bytes += slot.len as u64;
                visited += 1;
                taken += 1;
            }
            if visited == 0 {
                return taken;
            }
            self.batch.deliver(sink);
            self.rx.release(visited);
        }
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let device = Device { sums: self.params.checksum, cuts: self.params.segmentation };
        let cut = Cut::new(frame, device).ok().filter(|cut| cut.longest() <= self.tx.frame_size);
        let Some(mut cut) = cut else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        if self.tx.room() < cut.frames() {
            self.counters.tx_full += 1;
            return Err(Full);
        }
        let gso_size =
            frame.gso.filter(|gso| device.cuts && cut.longest() > frame.header.len() + usize::from(gso.size));
        let gso_size = gso_size.map_or(0, |gso| gso.size);
        while let Some(len) = cut.next_len() {
            self.tx.push(len, gso_size, |slot| match cut.write(&mut [slot]) {
                TxChecksum::Partial { .. } => RxChecksum::Partial,
                TxChecksum::Complete => RxChecksum::Unverified,
            });
            self.counters.tx_frames += 1;
            self.counters.tx_bytes += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn pending(&mut self) -> bool {
        self.rx.peek(0).is_some()
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn describe(&self) -> String {
        let device = |on| if on { "device" } else { "software" };
        format!(
            "memory: MTU {}, checksum in {}, segmentation in {}",
            self.params.mtu,
            device(self.params.checksum),
            device(self.params.segmentation)
        )
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// # Safety
///
/// As [`Batch::push`]: the slot must stay the consumer's until the batch is delivered.
unsafe fn push_in_pieces(batch: &mut Batch, slot: Slot, piece: usize) {
    let first = if piece == 0 { slot.len } else { piece.max(slot.len.div_ceil(MAX_PIECES)).min(slot.len) };
    let mut tail = [Received { start: slot.start, len: 0 }; MAX_PIECES];
    let mut used = 0;
    let mut at = first;
    while at < slot.len {
        tail[used] = Received { start: slot.start.wrapping_add(at), len: first.min(slot.len - at) };
        at += first;
        used += 1;
    }
    let head = Received { start: slot.start, len: first };
    // SAFETY: the caller's promise.
    unsafe { batch.push(head, &tail[..used], slot.checksum, slot.gso_size) };
}

/// One direction.
struct Ring {
    /// Bytes of a slot.
    frame_size: usize,
    slots: Box<[UnsafeCell<Slot>]>,
    /// What the slots point into.
    _memory: Box<[UnsafeCell<u8>]>,
    /// Frames ever taken, written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Frames ever put, written by the producer.
    tail: CachePadded<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Slot {
    start: *mut u8,
    len: usize,
    checksum: RxChecksum,
    gso_size: u16,
}

// SAFETY: a slot belongs to the producer until `tail` passes it and to the consumer until `head` passes it; each port
// is the only producer of one ring and the only consumer of the other, and needs `&mut self` for either.
unsafe impl Sync for Ring {}
// SAFETY: the pointers of the slots go into memory that the ring owns.
unsafe impl Send for Ring {}

impl Ring {
    fn new(params: &Params) -> Self {
        assert!(params.slots.is_power_of_two(), "slots of a memory port: a power of two");
        let frame_size = if params.segmentation { LINK_HEADER + LONGEST } else { LINK_HEADER + params.mtu };
        let memory: Box<[UnsafeCell<u8>]> = (0..frame_size * params.slots).map(|_| UnsafeCell::new(0)).collect();
        let slots = memory
            .chunks_exact(frame_size)
            .map(|slot| {
                let start = UnsafeCell::raw_get(slot.as_ptr());
                UnsafeCell::new(Slot { start, len: 0, checksum: RxChecksum::Unverified, gso_size: 0 })
            })
            .collect();
        Self { frame_size, slots, _memory: memory, head: CachePadded::default(), tail: CachePadded::default() }
    }

    fn slot(&self, at: usize) -> *mut Slot {
        self.slots[at & (self.slots.len() - 1)].get()
    }

    /// Slots that the producer may fill.
    fn room(&self) -> usize {
        self.slots.len() - (self.tail.load(Ordering::Relaxed) - self.head.load(Ordering::Acquire))
    }

    fn push(&self, len: usize, gso_size: u16, fill: impl FnOnce(&mut [u8]) -> RxChecksum) {
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: the producer asked `room` first, so the slot at `tail` is its own; `len` was checked against
        // `frame_size`, the slot's memory.
        unsafe {
            let slot = &mut *self.slot(tail);
            let checksum = fill(core::slice::from_raw_parts_mut(slot.start, len));
            *slot = Slot { start: slot.start, len, checksum, gso_size };
        }
        self.tail.store(tail + 1, Ordering::Release);
    }

    /// The slot `offset` places behind the oldest, if it is filled.
    fn peek(&self, offset: usize) -> Option<Slot> {
        let at = self.head.load(Ordering::Relaxed) + offset;
        // SAFETY: between `head` and `tail` the slots are the consumer's.
        (at < self.tail.load(Ordering::Acquire)).then(|| unsafe { *self.slot(at) })
    }

    fn release(&self, count: usize) {
        self.head.store(self.head.load(Ordering::Relaxed) + count, Ordering::Release);
    }
}

const _: () = assert!(BATCH > MAX_PIECES);

#[cfg(test)]
mod tests;
