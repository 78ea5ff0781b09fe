//! The trace: what was counted, when, and of which connection, in a ring in the arena. Off unless somebody looks.

use crate::api::ConnectionId;
use crate::counters::Counter;
use crate::memory::NONE;
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Records that the ring holds; the oldest go first.
pub(crate) const ROOM: usize = 512;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    pub at: Instant,
    /// Whom it happened to; `None`: to the stack as a whole.
    pub connection: Option<ConnectionId>,
    pub what: Counter,
    pub amount: u64,
}

/// [`Traced`] in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct TraceRecord {
    at: Instant,
    amount: u64,
    index: u32,
    generation: u32,
    what: u32,
    _pad: u32,
}

/// The ring and where it stands; lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Trace {
    /// Time and connection of the call in hand.
    pub(crate) now: Instant,
    pub(crate) index: u32,
    pub(crate) generation: u32,
    /// 0: off.
    on: u32,
    first: u32,
    held: u32,
    _pad: u32,
    records: [TraceRecord; ROOM],
}

impl Trace {
    pub(crate) fn reset(&mut self) {
        self.index = NONE;
        (self.on, self.first, self.held) = (0, 0, 0);
    }

    pub(crate) fn switch(&mut self, on: bool) {
        self.on = u32::from(on);
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on != 0
    }

    #[cold]
    pub(crate) fn push(&mut self, what: Counter, amount: u64) {
        if self.held as usize == ROOM {
            self.first = (self.first + 1) % ROOM as u32;
            self.held -= 1;
        }
        let place = (self.first + self.held) as usize % ROOM;
        self.records[place] = TraceRecord {
            at: self.now,
            amount,
            index: self.index,
            generation: self.generation,
            what: what as u32,
            _pad: 0,
        };
        self.held += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Traced> {
        while self.held > 0 {
            let record = self.records[self.first as usize % ROOM];
            self.first = (self.first + 1) % ROOM as u32;
            self.held -= 1;
            // An arena of another build may hold numbers that this one does not know.
            let Some(what) = Counter::ALL.get(record.what as usize) else { continue };
            let id = ConnectionId { index: record.index, generation: record.generation };
            let connection = (record.index != NONE).then_some(id);
            return Some(Traced { at: record.at, connection, what: *what, amount: record.amount });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn the_oldest_go_first() {
        let mut trace = Trace::new_zeroed();
        trace.reset();
        for amount in 0..ROOM as u64 + 10 {
            trace.push(Counter::TcpInSegs, amount);
        }
        for amount in 10..ROOM as u64 + 10 {
            let traced = trace.pop().unwrap();
            assert_eq!((traced.amount, traced.connection, traced.what), (amount, None, Counter::TcpInSegs));
        }
        assert_eq!(trace.pop(), None);
    }
}
