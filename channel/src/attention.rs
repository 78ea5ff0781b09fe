//! How the family gets a shard's attention: dirty bits of sockets and lanes, and the sleep handshake.
//!
//! Marking sets the bit of the socket, then of its summary word, then `raised`, and then looks whether the shard sleeps;
//! the shard clears in the opposite order. Between setting and looking there is a fence on both sides, at each
//! level, so that either the marker sees that a level was cleared (and sets it again) or the shard sees the mark.

use crate::layout::*;
use crate::memory::{LaneIndex, Slot};
use crate::sync::{Ordering, fence, fence_after_rmw};

/// The family's side. Async-signal-safe; no loop.
impl Attention {
    /// The cursors of a socket moved. True: the shard sleeps, write its eventfd.
    #[must_use]
    pub fn mark_socket(&self, slot: Slot) -> bool {
        let word = slot.index() / 64;
        self.sockets[word].fetch_or(1 << (slot.index() % 64), Ordering::AcqRel);
        fence_after_rmw();
        let summary = &self.summary[word / 64];
        let bit = 1 << (word % 64);
        if summary.load(Ordering::Relaxed) & bit == 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
            fence_after_rmw();
        }
        self.raise()
    }

    /// A lane has commands. True: the shard sleeps, write its eventfd.
    #[must_use]
    pub fn mark_lane(&self, lane: LaneIndex) -> bool {
        self.lanes.fetch_or(1 << lane.index(), Ordering::AcqRel);
        fence_after_rmw();
        self.raise()
    }

    /// A fence has gone before.
    fn raise(&self) -> bool {
        if self.raised.load(Ordering::Relaxed) == 0 {
            self.raised.swap(1, Ordering::AcqRel);
            fence_after_rmw();
        }
        self.sleeping.load(Ordering::Relaxed) != 0 && self.sleeping.swap(0, Ordering::AcqRel) != 0
    }
}

/// The shard's side.
impl Attention {
    /// True when there is something to collect: one load while the session is idle.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed) != 0
    }

    /// Starts a round. What is not taken from the result in this visit must be taken in a later one.
    pub fn collect(&self) -> Marks {
        if !self.is_raised() {
            return Marks::default();
        }
        self.raised.swap(0, Ordering::AcqRel);
        fence_after_rmw();
        let lanes = match self.lanes.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.lanes.swap(0, Ordering::AcqRel),
        };
        let mut marks = Marks { lanes: lanes & (u64::MAX >> (64 - LANES)), ..Marks::default() };
        for (taken, summary) in marks.summary.iter_mut().zip(&self.summary) {
            if summary.load(Ordering::Relaxed) != 0 {
                *taken = summary.swap(0, Ordering::AcqRel);
            }
        }
        fence_after_rmw();
        marks
    }

    /// The shard is about to sleep (or to park the session). Announce every session, then one
    /// [`sleep_fence`], then look at every session with [`is_raised`](Self::is_raised): block only if none is.
    pub fn announce_sleep(&self) {
        self.sleeping.swap(1, Ordering::AcqRel);
    }

    /// The shard is awake (or takes the session up again).
    pub fn wake_up(&self) {
        if self.sleeping.load(Ordering::Relaxed) != 0 {
            self.sleeping.swap(0, Ordering::AcqRel);
        }
    }

    /// Announces, fences and looks for this session alone. True: it is idle and its next mark rings the eventfd. False:
    /// there is something to collect.
    #[must_use]
    pub fn park(&self) -> bool {
        self.announce_sleep();
        sleep_fence();
        if self.is_raised() {
            self.wake_up();
            return false;
        }
        true
    }
}

/// Between announcing sleep and looking again.
pub fn sleep_fence() {
    fence(Ordering::SeqCst);
}

/// What a shard has collected in one session and not yet looked at: engine memory, resumable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    lanes: u64,
    summary: [u64; SOCKET_SUMMARY],
    /// The socket word under way.
    word: usize,
    bits: u64,
}

impl Marks {
    pub fn is_empty(&self) -> bool {
        self.lanes == 0 && self.bits == 0 && self.summary.iter().all(|&summary| summary == 0)
    }

    /// The next lane with commands.
    pub fn next_lane(&mut self) -> Option<LaneIndex> {
        let lane = LaneIndex::new(take_lowest(&mut self.lanes)?)?;
        Some(lane)
    }

    /// The next socket with news. Each call makes at most [`SOCKET_WORDS`] steps, and a round of calls yields at most
    /// [`SOCKETS`] however fast others set bits.
    pub fn next_socket(&mut self, attention: &Attention) -> Option<Slot> {
        loop {
            if let Some(bit) = take_lowest(&mut self.bits) {
                return Slot::new((self.word * 64) as u32 + bit);
            }
            let (index, summary) = self.summary.iter_mut().enumerate().find(|(_, summary)| **summary != 0)?;
            self.word = index * 64 + take_lowest(summary)? as usize;
            self.bits = attention.sockets.get(self.word)?.swap(0, Ordering::AcqRel);
        }
    }

    /// Adds what a new round found, so that nothing waits behind an unfinished one.
    pub fn merge(&mut self, newer: Marks) {
        self.lanes |= newer.lanes;
        for (mine, other) in self.summary.iter_mut().zip(newer.summary) {
            *mine |= other;
        }
        debug_assert_eq!(newer.bits, 0, "a fresh round has no word under way");
    }
}

pub(crate) fn take_lowest(bits: &mut u64) -> Option<u32> {
    if *bits == 0 {
        return None;
    }
    let lowest = bits.trailing_zeros();
    *bits &= *bits - 1;
    Some(lowest)
}
