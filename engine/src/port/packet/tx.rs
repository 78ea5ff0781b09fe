//! The transmit ring of a packet socket: slots that the kernel sends from, in place.

use super::rx::Shape;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU32, Ordering};

const AVAILABLE: u32 = libc::TP_STATUS_AVAILABLE;
const SEND_REQUEST: u32 = libc::TP_STATUS_SEND_REQUEST;
const WRONG_FORMAT: u32 = libc::TP_STATUS_WRONG_FORMAT;

/// Where the words of a slot's header lie, which depends on the ring's version.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    status: usize,
    len: usize,
    /// Beginning of the frame.
    pub frame: usize,
}

pub const V2: Header = Header {
    status: offset_of!(libc::tpacket2_hdr, tp_status),
    len: offset_of!(libc::tpacket2_hdr, tp_len),
    frame: align(size_of::<libc::tpacket2_hdr>()),
};
pub const V3: Header = Header {
    status: offset_of!(libc::tpacket3_hdr, tp_status),
    len: offset_of!(libc::tpacket3_hdr, tp_len),
    frame: align(size_of::<libc::tpacket3_hdr>()),
};

/// TPACKET_ALIGN.
const fn align(len: usize) -> usize {
    len.next_multiple_of(16)
}

pub struct Transmit {
    shape: Shape,
    header: Header,
    /// Slots ever filled.
    filled: usize,
    /// Slots that the kernel has seen, at least.
    seen: usize,
    /// Slots whose frame left the kernel, at least.
    done: usize,
}

// SAFETY: as for the receive side.
unsafe impl Send for Transmit {}

impl Transmit {
    pub fn new(shape: Shape, header: Header) -> Self {
        Self { shape, header, filled: 0, seen: 0, done: 0 }
    }

    /// Bytes that a slot can hold.
    pub fn capacity(&self) -> usize {
        self.shape.size - self.header.frame
    }

    /// Whether the next `count` slots are free. Slots with a frame that the kernel found malformed are free as well;
    /// their number is added to `dropped`.
    pub fn has_room(&mut self, count: usize, dropped: &mut u64) -> bool {
        if count > self.shape.count {
            return false;
        }
        for index in self.filled..self.filled + count {
            match self.status(index).load(Ordering::Acquire) & (SEND_REQUEST | libc::TP_STATUS_SENDING | WRONG_FORMAT) {
                AVAILABLE => {}
                WRONG_FORMAT => {
                    *dropped += 1;
                    self.status(index).store(AVAILABLE, Ordering::Relaxed);
                }
                _ => return false,
            }
        }
        true
    }

    /// The memory of the next slot, which is free. [`Transmit::commit`] hands it to the kernel.
    pub fn slot(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.capacity());
        let start = self.shape.at(self.filled).wrapping_add(self.header.frame);
        // SAFETY: the slot lies in the ring's mapping, `has_room` found it free, and `&mut self` keeps others away.
        unsafe { core::slice::from_raw_parts_mut(start, len) }
    }

    /// Queues the slot with the `len` bytes written to it. The kernel looks when it is kicked.
    pub fn commit(&mut self, len: usize) {
        let at = self.shape.at(self.filled).wrapping_add(self.header.len).cast::<u32>();
        // SAFETY: the header of a slot that is ours; aligned to 16.
        unsafe { at.write(len as u32) };
        self.status(self.filled).store(SEND_REQUEST, Ordering::Release);
        self.filled += 1;
    }

    /// Slots that wait for a kick.
    pub fn unsent(&mut self) -> usize {
        while self.seen < self.filled && self.status(self.seen).load(Ordering::Acquire) & SEND_REQUEST == 0 {
            self.seen += 1;
        }
        self.filled - self.seen
    }

    /// Slots not free yet, looked at in order.
    pub fn outstanding(&mut self) -> usize {
        let busy = SEND_REQUEST | libc::TP_STATUS_SENDING;
        self.done = self.done.max(self.filled.saturating_sub(self.shape.count));
        while self.done < self.filled && self.status(self.done).load(Ordering::Acquire) & busy == 0 {
            self.done += 1;
        }
        self.filled - self.done
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the word lies in the ring's mapping, which lives as long as the port, and is aligned.
        unsafe { &*self.shape.at(index).wrapping_add(self.header.status).cast::<AtomicU32>() }
    }
}
