//! The trace: what happens to the connections that somebody looks at, in a ring in the arena. What is counted comes under its
//! counter's name ([`Counter`] is a part of this vocabulary); what a counter cannot say (numbers, windows, times) has a word
//! of its own. A connection that nobody looks at pays one branch per call.

use crate::api::{CloseReason, ConnectionId};
use crate::counters::Counter;
use crate::memory::NONE;
use crate::tcp::state::State;
use crate::time::Instant;
use crate::wire::TcpFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod record;

use record::TraceRecord;

/// Records that the ring holds; the oldest go first.
pub(crate) const ROOM: usize = 2_048;
/// Connections that can be looked at at once.
pub const WATCHES: usize = 8;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    pub at: Instant,
    /// Whom it happened to; `None`: to the stack as a whole.
    pub connection: Option<ConnectionId>,
    pub what: Happening,
}

/// What can happen. Sequence numbers are counted from the SYN of their direction: it has 0, the first byte 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Counted {
        what: Counter,
        amount: u64,
    },
    /// A (super-)segment left.
    Sent {
        seq: u64,
        len: u32,
        flags: TcpFlags,
        ack: u64,
        /// Bytes.
        window: u32,
        why: Why,
    },
    /// A segment (or a train of them) came, and its checksum holds.
    Received {
        seq: u64,
        len: u32,
        flags: TcpFlags,
        ack: u64,
        window: u32,
    },
    /// A SACK block of the segment that came last.
    Sacked {
        start: u64,
        end: u64,
    },
    State {
        from: State,
        to: State,
    },
    /// Linux's TCP_CA_*, as in `Info::recovery`.
    Recovery {
        from: u8,
        to: u8,
    },
    /// Bytes, bytes per second (0: not paced), and the controller's mode ([`crate::Congestion::mode_name`]).
    Window {
        cwnd: u32,
        ssthresh: u32,
        pacing: u64,
        in_flight: u64,
        mode: u8,
    },
    /// Proportional rate reduction (RFC 9937): bytes delivered and sent since the episode began, and in flight then.
    Reduction {
        delivered: u32,
        sent: u32,
        flight: u32,
    },
    /// Microseconds.
    RoundTrip {
        srtt: u32,
        rttvar: u32,
        rto: u32,
        min_rtt: u32,
    },
    /// Bytes known to have arrived since the connection began to send.
    Delivered {
        total: u64,
    },
    /// Bytes that count as lost from now on.
    Lost {
        bytes: u64,
        why: Why,
    },
    Armed {
        timer: Timer,
        at: Instant,
    },
    Stopped {
        timer: Timer,
    },
    Fired {
        timer: Timer,
    },
    Ended {
        reason: CloseReason,
    },
}

/// Why something was sent, or counts as lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// New data, an acknowledgement, a handshake.
    #[default]
    New,
    /// Later than the reordering window (RFC 8985 section 6).
    Rack,
    /// Three duplicates of a peer without SACK (RFC 6582).
    Duplicates,
    /// Tail loss probe (RFC 8985 section 7).
    TailProbe,
    /// The retransmission timer expired (RFC 6298).
    Timeout,
    /// The peer gave up what it had reported (RFC 2018 section 8).
    Reneging,
    /// The path's MTU shrank (RFC 1191).
    PathMtu,
    /// Asks whether the peer lives and has room: window probe, keepalive.
    Probe,
}

impl Why {
    const ALL: [Why; 8] =
        [Why::New, Why::Rack, Why::Duplicates, Why::TailProbe, Why::Timeout, Why::Reneging, Why::PathMtu, Why::Probe];

    /// As the trace prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Why::New => "new",
            Why::Rack => "rack",
            Why::Duplicates => "duplicates",
            Why::TailProbe => "tail_probe",
            Why::Timeout => "timeout",
            Why::Reneging => "reneging",
            Why::PathMtu => "path_mtu",
            Why::Probe => "probe",
        }
    }

    fn of(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

/// A connection's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timer {
    Retransmission,
    TailProbe,
    Reordering,
    /// The peer's window is closed, or something keeps back what could go.
    Persist,
    DelayedAck,
    /// Keepalive, or the end of an orphan.
    Idle,
    Pacing,
}

impl Timer {
    const ALL: [Timer; 7] = [
        Timer::Retransmission,
        Timer::TailProbe,
        Timer::Reordering,
        Timer::Persist,
        Timer::DelayedAck,
        Timer::Idle,
        Timer::Pacing,
    ];

    /// As the trace prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Timer::Retransmission => "retransmission",
            Timer::TailProbe => "tail_probe",
            Timer::Reordering => "reordering",
            Timer::Persist => "persist",
            Timer::DelayedAck => "delayed_ack",
            Timer::Idle => "idle",
            Timer::Pacing => "pacing",
        }
    }

    fn of(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or(Timer::Idle)
    }
}

/// A connection that is looked at.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
struct Watch {
    index: u32,
    generation: u32,
    /// [`Why`]: what the repair that is under way is for.
    cause: u32,
    _pad: u32,
}

/// The ring and where it stands; lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Trace {
    /// Time and connection of the call in hand.
    pub(crate) now: Instant,
    pub(crate) index: u32,
    generation: u32,
    /// 1: everything is looked at.
    whole: u32,
    /// Places of `watches` that are taken, a bit each.
    watching: u32,
    /// 0: the call in hand concerns nobody who is looked at.
    on: u32,
    /// Place of the connection in hand in `watches`; the last place belongs to those that are looked at with everything.
    place: u32,
    /// [`Why`] the next segment of this call leaves.
    next: u32,
    first: u32,
    held: u32,
    _pad: u32,
    /// Records that were pushed out before somebody took them.
    dropped: u64,
    watches: [Watch; WATCHES + 1],
    records: [TraceRecord; ROOM],
}

impl Trace {
    pub(crate) fn reset(&mut self) {
        self.index = NONE;
        (self.whole, self.watching, self.on, self.first, self.held, self.dropped) = (0, 0, 0, 0, 0, 0);
    }

    /// Looks at everything, or no longer.
    pub(crate) fn switch(&mut self, on: bool) {
        self.whole = u32::from(on);
        self.on = self.whole;
    }

    /// Looks at one connection. `false`: at so many already, or at this one.
    pub(crate) fn watch(&mut self, id: ConnectionId) -> bool {
        let free = (!self.watching).trailing_zeros() as usize;
        if free >= WATCHES || self.find(id.index, id.generation).is_some() {
            return false;
        }
        self.watches[free] = Watch { index: id.index, generation: id.generation, cause: 0, _pad: 0 };
        self.watching |= 1 << free;
        true
    }

    pub(crate) fn unwatch(&mut self, id: ConnectionId) {
        if let Some(place) = self.find(id.index, id.generation) {
            self.watching &= !(1 << place);
        }
    }

    pub(crate) fn watches(&self, id: ConnectionId) -> bool {
        self.find(id.index, id.generation).is_some()
    }

    fn find(&self, index: u32, generation: u32) -> Option<usize> {
        (0..WATCHES).find(|&place| {
            let watch = &self.watches[place];
            self.watching & 1 << place != 0 && watch.index == index && watch.generation == generation
        })
    }

    /// A call for this connection begins. Whether it is looked at.
    #[inline]
    pub(crate) fn begin(&mut self, now: Instant, index: u32, generation: u32) -> bool {
        (self.now, self.index, self.generation) = (now, index, generation);
        self.watching | self.whole != 0 && self.select()
    }

    #[cold]
    fn select(&mut self) -> bool {
        let found = self.find(self.index, self.generation);
        self.place = found.unwrap_or(WATCHES) as u32;
        self.on = u32::from(found.is_some()) | self.whole;
        self.next = 0;
        self.on != 0
    }

    /// The call is over.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.index = NONE;
        self.on = self.whole;
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on != 0
    }

    /// What the next segment is for.
    #[inline]
    pub(crate) fn announce(&mut self, why: Why) {
        if self.is_on() {
            self.next = why as u32;
        }
    }

    pub(crate) fn has_announced(&self) -> bool {
        self.next != 0
    }

    pub(crate) fn take_announced(&mut self) -> Why {
        Why::of(core::mem::take(&mut self.next) as u8)
    }

    /// A repair begins for this reason.
    #[inline]
    pub(crate) fn set_cause(&mut self, why: Why) {
        if self.is_on() {
            self.watches[self.place as usize % (WATCHES + 1)].cause = why as u32;
        }
    }

    pub(crate) fn cause(&self) -> Why {
        Why::of(self.watches[self.place as usize % (WATCHES + 1)].cause as u8)
    }

    #[cold]
    pub(crate) fn push(&mut self, what: Happening) {
        if self.held as usize == ROOM {
            self.first = (self.first + 1) % ROOM as u32;
            self.held -= 1;
            self.dropped += 1;
        }
        let place = (self.first + self.held) as usize % ROOM;
        self.records[place] = TraceRecord::new(self.now, self.index, self.generation, &what);
        self.held += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Traced> {
        while self.held > 0 {
            let record = self.records[self.first as usize % ROOM];
            self.first = (self.first + 1) % ROOM as u32;
            self.held -= 1;
            // An arena of another build may hold numbers that this one does not know.
            if let Some(traced) = record.read() {
                return Some(traced);
            }
        }
        None
    }

    /// Records that were lost since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn counted(amount: u64) -> Happening {
        Happening::Counted { what: Counter::TcpInSegs, amount }
    }

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        let mut trace = Trace::new_zeroed();
        trace.reset();
        for amount in 0..ROOM as u64 + 10 {
            trace.push(counted(amount));
        }
        for amount in 10..ROOM as u64 + 10 {
            let traced = trace.pop().unwrap();
            assert_eq!((traced.what, traced.connection), (counted(amount), None));
        }
        assert_eq!(trace.pop(), None);
        assert_eq!((trace.take_dropped(), trace.take_dropped()), (10, 0));
    }

    #[test]
    fn so_many_are_looked_at_and_no_others() {
        let mut trace = Trace::new_zeroed();
        trace.reset();
        let id = |index| ConnectionId { index, generation: 7 };
        for index in 0..WATCHES as u32 {
            assert!(trace.watch(id(index)));
            assert!(!trace.watch(id(index)), "once is enough");
        }
        assert!(!trace.watch(id(100)));
        assert!(trace.begin(Instant::default(), 3, 7) && trace.is_on());
        assert!(!trace.begin(Instant::default(), 3, 8), "the record's next connection");
        trace.unwatch(id(3));
        assert!(!trace.begin(Instant::default(), 3, 7));
        trace.end();
        assert!(!trace.is_on() && trace.watch(id(100)));
    }
}
