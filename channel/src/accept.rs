//! Accept rings: completed connections of one listener on one shard. The shard pushes, any thread of the family claims.

use crate::layout::*;
use crate::memory::Slot;
use crate::sync::Ordering;

/// The shard's place in one accept ring: engine memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptWriter {
    tail: u32,
}

/// The ring holds [`ACCEPT_RING`] or the backlog's number of connections, or its counters make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptFull;

/// A completed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub slot: Slot,
    /// Generation of the slot at that time: another one now means that the slot was freed meanwhile.
    pub generation: u32,
}

impl AcceptWriter {
    pub const fn new() -> Self {
        Self { tail: 0 }
    }

    /// Connections in the ring, at most [`ACCEPT_RING`]; `None` when the counters make no sense.
    pub fn len(&self, ring: &AcceptRing) -> Option<u32> {
        let len = self.tail.wrapping_sub(ring.head.load(Ordering::Acquire));
        (len as usize <= ACCEPT_RING).then_some(len)
    }

    /// Puts a connection into the ring if fewer than `backlog` lie there. Everything about the slot was published
    /// before. Afterwards make an input edge on the listener and notify.
    pub fn push(&mut self, ring: &AcceptRing, backlog: u32, accepted: Accepted) -> Result<(), AcceptFull> {
        let len = self.len(ring).ok_or(AcceptFull)?;
        if len >= backlog.min(ACCEPT_RING as u32) {
            return Err(AcceptFull);
        }
        let entry = accepted.slot.get() as u64 | (accepted.generation as u64) << 32;
        ring.entries[self.tail as usize % ACCEPT_RING].store(entry, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Takes back what nobody has accepted, when the listener closes: at most [`ACCEPT_RING`] entries, also of a family
    /// that goes on moving the head. They were in shared memory: check that the slot and generation are a connection of this
    /// listener.
    pub fn take_back<'m>(&self, ring: &'m AcceptRing) -> impl Iterator<Item = Accepted> + use<'m> {
        (0..self.len(ring).unwrap_or(0)).map_while(|_| ring.pop())
    }

    /// Makes the ring empty for the next listener. The family can no longer accept from it.
    pub fn reset(&mut self, ring: &AcceptRing) {
        self.tail = 0;
        ring.tail.store(0, Ordering::Relaxed);
        ring.head.store(0, Ordering::Release);
    }
}

/// How often a claim tries again when other threads win.
const CLAIM_ATTEMPTS: usize = 64;

impl AcceptRing {
    /// True when a connection waits.
    pub fn ready(&self) -> bool {
        self.head.load(Ordering::Relaxed) != self.tail.load(Ordering::Acquire)
    }

    /// Claims the oldest connection. `None`: there is none (or others won every time, and took what there was).
    pub fn pop(&self) -> Option<Accepted> {
        for _ in 0..CLAIM_ATTEMPTS {
            let head = self.head.load(Ordering::Acquire);
            if head == self.tail.load(Ordering::Acquire) {
                return None;
            }
            let entry = self.entries[head as usize % ACCEPT_RING].load(Ordering::Relaxed);
            let next = head.wrapping_add(1);
            if self.head.compare_exchange(head, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(Accepted { slot: Slot::new(entry as u32)?, generation: (entry >> 32) as u32 });
            }
        }
        None
    }
}
