//! [`Traced`] as plain bytes in the arena.

use super::{Happening, Timer, Traced, Why};
use crate::api::{CloseReason, ConnectionId};
use crate::counters::Counter;
use crate::memory::NONE;
use crate::tcp::state::State;
use crate::time::Instant;
use crate::wire::TcpFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct TraceRecord {
    at: Instant,
    index: u32,
    generation: u32,
    values: [u64; 3],
    /// What does not need more: flags, counter, states.
    detail: [u16; 2],
    kind: u8,
    why: u8,
    _pad: [u8; 2],
}

/// Values of `TraceRecord::kind`.
mod kind {
    pub(super) const COUNTED: u8 = 1;
    pub(super) const SENT: u8 = 2;
    pub(super) const RECEIVED: u8 = 3;
    pub(super) const SACKED: u8 = 4;
    pub(super) const STATE: u8 = 5;
    pub(super) const RECOVERY: u8 = 6;
    pub(super) const WINDOW: u8 = 7;
    pub(super) const REDUCTION: u8 = 8;
    pub(super) const ROUND_TRIP: u8 = 9;
    pub(super) const DELIVERED: u8 = 10;
    pub(super) const LOST: u8 = 11;
    pub(super) const ARMED: u8 = 12;
    pub(super) const STOPPED: u8 = 13;
    pub(super) const FIRED: u8 = 14;
    pub(super) const ENDED: u8 = 15;
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn split(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

impl TraceRecord {
    pub(super) fn new(at: Instant, index: u32, generation: u32, what: &Happening) -> Self {
        let none = (0, [0; 3], [0; 2], 0);
        let (kind, values, detail, why) = match *what {
            Happening::Counted { what, amount } => (kind::COUNTED, [amount, 0, 0], [what as u16, 0], 0),
            Happening::Sent { seq, len, flags, ack, window, why } => {
                (kind::SENT, [seq, ack, pair(len, window)], [flags.0, 0], why as u8)
            }
            Happening::Received { seq, len, flags, ack, window } => {
                (kind::RECEIVED, [seq, ack, pair(len, window)], [flags.0, 0], 0)
            }
            Happening::Sacked { start, end } => (kind::SACKED, [start, end, 0], none.2, 0),
            Happening::State { from, to } => (kind::STATE, none.1, [from as u16, to as u16], 0),
            Happening::Recovery { from, to } => (kind::RECOVERY, none.1, [from.into(), to.into()], 0),
            Happening::Window { cwnd, ssthresh, pacing, in_flight, mode } => {
                (kind::WINDOW, [pair(cwnd, ssthresh), pacing, in_flight], [mode.into(), 0], 0)
            }
            Happening::Reduction { delivered, sent, flight } => {
                (kind::REDUCTION, [pair(delivered, sent), flight.into(), 0], none.2, 0)
            }
            Happening::RoundTrip { srtt, rttvar, rto, min_rtt } => {
                (kind::ROUND_TRIP, [pair(srtt, rttvar), pair(rto, min_rtt), 0], none.2, 0)
            }
            Happening::Delivered { total } => (kind::DELIVERED, [total, 0, 0], none.2, 0),
            Happening::Lost { bytes, why } => (kind::LOST, [bytes, 0, 0], none.2, why as u8),
            Happening::Armed { timer, at } => (kind::ARMED, [at.as_micros(), 0, 0], [timer as u16, 0], 0),
            Happening::Stopped { timer } => (kind::STOPPED, none.1, [timer as u16, 0], 0),
            Happening::Fired { timer } => (kind::FIRED, none.1, [timer as u16, 0], 0),
            Happening::Ended { reason } => (kind::ENDED, none.1, reason_words(reason), 0),
        };
        Self { at, index, generation, values, detail, kind, why, _pad: [0; 2] }
    }

    pub(super) fn read(&self) -> Option<Traced> {
        let [one, two, three] = self.values;
        let [first, second] = self.detail;
        let why = Why::of(self.why);
        let timer = Timer::of(first as u8);
        let what = match self.kind {
            kind::COUNTED => Happening::Counted { what: *Counter::ALL.get(usize::from(first))?, amount: one },
            kind::SENT => {
                let (len, window) = split(three);
                Happening::Sent { seq: one, len, flags: TcpFlags(first), ack: two, window, why }
            }
            kind::RECEIVED => {
                let (len, window) = split(three);
                Happening::Received { seq: one, len, flags: TcpFlags(first), ack: two, window }
            }
            kind::SACKED => Happening::Sacked { start: one, end: two },
            kind::STATE => Happening::State { from: State::from_byte(first as u8), to: State::from_byte(second as u8) },
            kind::RECOVERY => Happening::Recovery { from: first as u8, to: second as u8 },
            kind::WINDOW => {
                let (cwnd, ssthresh) = split(one);
                Happening::Window { cwnd, ssthresh, pacing: two, in_flight: three, mode: first as u8 }
            }
            kind::REDUCTION => {
                let (delivered, sent) = split(one);
                Happening::Reduction { delivered, sent, flight: two as u32 }
            }
            kind::ROUND_TRIP => {
                let ((srtt, rttvar), (rto, min_rtt)) = (split(one), split(two));
                Happening::RoundTrip { srtt, rttvar, rto, min_rtt }
            }
            kind::DELIVERED => Happening::Delivered { total: one },
            kind::LOST => Happening::Lost { bytes: one, why },
            kind::ARMED => Happening::Armed { timer, at: Instant::from_micros(one) },
            kind::STOPPED => Happening::Stopped { timer },
            kind::FIRED => Happening::Fired { timer },
            kind::ENDED => Happening::Ended { reason: reason_of(first, second) },
            _ => return None,
        };
        let id = ConnectionId { index: self.index, generation: self.generation };
        Some(Traced { at: self.at, connection: (self.index != NONE).then_some(id), what })
    }
}

fn reason_words(reason: CloseReason) -> [u16; 2] {
    match reason {
        CloseReason::Finished => [0, 0],
        CloseReason::Reset => [1, 0],
        CloseReason::Refused => [2, 0],
        CloseReason::TimedOut => [3, 0],
        CloseReason::Unreachable(errno) => [4, errno],
        CloseReason::Aborted => [5, 0],
    }
}

fn reason_of(word: u16, errno: u16) -> CloseReason {
    match word {
        0 => CloseReason::Finished,
        1 => CloseReason::Reset,
        2 => CloseReason::Refused,
        3 => CloseReason::TimedOut,
        4 => CloseReason::Unreachable(errno),
        _ => CloseReason::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back_as_it_was() {
        let at = Instant::from_micros(5);
        let all = [
            Happening::Counted { what: Counter::TcpExtTCPTimeouts, amount: 3 },
            Happening::Sent { seq: 1 << 40, len: 9, flags: TcpFlags::AE, ack: 2, window: 7, why: Why::Probe },
            Happening::Received { seq: 1, len: 9, flags: TcpFlags::ACK, ack: 2, window: u32::MAX },
            Happening::Sacked { start: 4, end: 5 },
            Happening::State { from: State::Established, to: State::TimeWait },
            Happening::Recovery { from: 0, to: 4 },
            Happening::Window { cwnd: 1, ssthresh: u32::MAX, pacing: 1 << 50, in_flight: 4, mode: 6 },
            Happening::Reduction { delivered: 1, sent: 2, flight: 3 },
            Happening::RoundTrip { srtt: 1, rttvar: 2, rto: 3, min_rtt: 4 },
            Happening::Delivered { total: 1 << 33 },
            Happening::Lost { bytes: 1, why: Why::Rack },
            Happening::Armed { timer: Timer::Pacing, at },
            Happening::Stopped { timer: Timer::Idle },
            Happening::Fired { timer: Timer::Persist },
            Happening::Ended { reason: CloseReason::Unreachable(113) },
        ];
        for (place, what) in all.into_iter().enumerate() {
            let record = TraceRecord::new(at, 1, 2, &what);
            assert_eq!(usize::from(record.kind), place + 1, "every kind is here");
            let connection = Some(ConnectionId { index: 1, generation: 2 });
            assert_eq!(record.read(), Some(Traced { at, connection, what }));
        }
        for (place, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!((why as usize, Why::of(place as u8)), (place, why));
        }
        for (place, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!((timer as usize, Timer::of(place as u8)), (place, timer));
        }
    }

    #[test]
    fn what_another_build_has_left_is_passed_over() {
        let what = Happening::Delivered { total: 1 };
        let record = TraceRecord::new(Instant::default(), 1, 2, &what);
        assert_eq!(TraceRecord { kind: 99, ..record }.read(), None);
        assert_eq!(TraceRecord { kind: kind::COUNTED, detail: [u16::MAX, 0], ..record }.read(), None);
    }
}
