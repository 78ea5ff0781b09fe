//! Frames under way: their bytes, and an order by due time. Memory is taken once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Takes a frame of an MTU of 1,500 bytes with a VLAN tag.
pub const SLOT: usize = 2048;

/// Number of a frame's bytes in `Frames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

/// Memory of frames, for both directions.
pub struct Frames {
    memory: Vec<u8>,
    lengths: Vec<u16>,
    free: Vec<Slot>,
}

impl Frames {
    /// Room for `count` frames; pages nobody writes to cost nothing.
    pub fn new(count: u32) -> Self {
        let slots = count as usize;
        // The last freed is the next taken, so that a short queue stays in the cache.
        Self { memory: vec![0; slots * SLOT], lengths: vec![0; slots], free: (0..count).rev().map(Slot).collect() }
    }

    /// A copy of `frame`; nothing when there is no room, or the frame is longer than a slot.
    pub fn store(&mut self, frame: &[u8]) -> Option<Slot> {
        if frame.len() > SLOT {
            return None;
        }
        let slot = self.free.pop()?;
        let start = slot.0 as usize * SLOT;
        self.memory[start..start + frame.len()].copy_from_slice(frame);
        self.lengths[slot.0 as usize] = frame.len() as u16;
        Some(slot)
    }

    pub fn bytes(&self, slot: Slot) -> &[u8] {
        let start = slot.0 as usize * SLOT;
        &self.memory[start..start + usize::from(self.lengths[slot.0 as usize])]
    }

    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let start = slot.0 as usize * SLOT;
        &mut self.memory[start..start + usize::from(self.lengths[slot.0 as usize])]
    }

    /// Another copy of what lies in `slot`; nothing when there is no room.
    pub fn again(&mut self, slot: Slot) -> Option<Slot> {
        let copy = self.free.pop()?;
        let (from, to, len) = (slot.0 as usize, copy.0 as usize, self.lengths[slot.0 as usize]);
        self.memory.copy_within(from * SLOT..from * SLOT + usize::from(len), to * SLOT);
        self.lengths[to] = len;
        Some(copy)
    }

    pub fn release(&mut self, slot: Slot) {
        self.free.push(slot);
    }
}

/// Frames of one direction by due time (nanoseconds since the beginning); of one time in the order in which they came.
pub struct Pending {
    heap: BinaryHeap<Reverse<(u64, u64, Slot)>>,
    order: u64,
}

impl Pending {
    pub fn new(room: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(room), order: 0 }
    }

    pub fn push(&mut self, due: u64, slot: Slot) {
        self.heap.push(Reverse((due, self.order, slot)));
        self.order += 1;
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due, ..))| *due)
    }

    /// The next frame that is due at `now`, with its due time.
    pub fn pop_due(&mut self, now: u64) -> Option<(u64, Slot)> {
        let Reverse((due, ..)) = self.heap.peek()?;
        if *due > now {
            return None;
        }
        self.heap.pop().map(|Reverse((due, _, slot))| (due, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_by_due_time_and_then_as_they_came() {
        let mut frames = Frames::new(4);
        let slots = [b"a", b"b", b"c", b"d"].map(|bytes| frames.store(bytes).unwrap());
        assert_eq!(frames.store(b"e"), None);
        let mut pending = Pending::new(4);
        for (due, slot) in [20, 10, 20, 10].into_iter().zip(slots) {
            pending.push(due, slot);
        }
        assert_eq!((pending.next_due(), pending.pop_due(9)), (Some(10), None));
        let mut text = Vec::new();
        while let Some((_, slot)) = pending.pop_due(20) {
            text.extend_from_slice(frames.bytes(slot));
            frames.release(slot);
        }
        assert_eq!(text, b"bdac");
        let slot = frames.store(b"abc").unwrap();
        let copy = frames.again(slot).unwrap();
        frames.bytes_mut(slot)[0] = b'x';
        assert_eq!((frames.bytes(slot), frames.bytes(copy)), (&b"xbc"[..], &b"abc"[..]));
        assert!(frames.store(&[0; SLOT]).is_some() && frames.store(&[0; SLOT + 1]).is_none());
    }
}
