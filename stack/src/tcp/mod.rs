//! TCP (RFC 9293), one module per concern. The record of a connection is [`block::Tcb`]; whatever happens to it happens
//! through [`Conn`], which joins the record with the shared state and the time for the length of one call.

mod accecn;
mod acknowledge;
pub(crate) mod block;
mod challenge;
mod control;
pub(crate) mod cookie;
pub(crate) mod delivery;
pub(crate) mod ecn;
mod emit;
pub(crate) mod export;
pub(crate) mod flights;
mod handshake;
pub(crate) mod info;
mod input;
pub(crate) mod listen;
mod output;
mod rack;
mod ranges;
mod receive;
mod recovery;
pub(crate) mod reply;
mod rtt;
pub(crate) mod segment;
pub(crate) mod sender;
pub(crate) mod seq;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod timers;
pub(crate) mod timewait;
pub(crate) mod tuning;
mod watch;
mod window;

pub(crate) use flights::{Flight, FlightPool};
#[cfg(any(test, feature = "sim"))]
pub(crate) use ranges::walk;
pub(crate) use ranges::{Range, RangePool};
pub(crate) use rtt::RtoBounds;
pub(crate) use sender::Sender;

/// MTU of an interface that is gone: what every path carries (RFC 791 section 3.1).
pub(crate) const LEAST_MTU: u16 = 576;

use crate::api::CloseReason;
use crate::env::Env;
use crate::time::Instant;
use block::{Tcb, flag};
use state::State;

/// One connection in hand.
pub(crate) struct Conn<'a, 'm> {
    pub(crate) tcb: &'a mut Tcb,
    pub(crate) index: u32,
    pub(crate) env: &'a mut Env<'m>,
    pub(crate) now: Instant,
}

/// How long the `retries`th repetition of a SYN,ACK waits, in microseconds.
pub(crate) fn backed_off_syn(bounds: RtoBounds, retries: u8) -> u64 {
    bounds.backed_off(rtt::INITIAL_RTO, retries)
}

/// [`CloseReason`] as the record holds it.
mod reason {
    pub(super) const FINISHED: u8 = 0;
    pub(super) const RESET: u8 = 1;
    pub(super) const REFUSED: u8 = 2;
    pub(super) const TIMED_OUT: u8 = 3;
    pub(super) const UNREACHABLE: u8 = 4;
    pub(super) const ABORTED: u8 = 5;
}

impl Tcb {
    /// Why the connection ended.
    pub(crate) fn close_reason(&self) -> CloseReason {
        match self.close_reason {
            reason::FINISHED => CloseReason::Finished,
            reason::RESET => CloseReason::Reset,
            reason::REFUSED => CloseReason::Refused,
            reason::TIMED_OUT => CloseReason::TimedOut,
            reason::UNREACHABLE => CloseReason::Unreachable(self.close_errno),
            _ => CloseReason::Aborted,
        }
    }
}

impl Conn<'_, '_> {
    #[inline]
    pub(crate) fn bounds(&self) -> RtoBounds {
        self.tcb.settings.rto(&self.env.globals.sysctls)
    }

    /// The connection is over; whoever holds the table takes the record out of it when the call returns.
    pub(crate) fn end(&mut self, why: CloseReason) {
        if self.tcb.has(flag::ENDED) {
            return;
        }
        self.tcb.close_reason = match why {
            CloseReason::Finished => reason::FINISHED,
            CloseReason::Reset => reason::RESET,
            CloseReason::Refused => reason::REFUSED,
            CloseReason::TimedOut => reason::TIMED_OUT,
            CloseReason::Unreachable(errno) => {
                self.tcb.close_errno = errno;
                reason::UNREACHABLE
            }
            CloseReason::Aborted => reason::ABORTED,
        };
        self.tcb.set_state(State::Closed);
        self.tcb.set(flag::ENDED);
    }

    /// Both directions ended in order and we were the first to close: a [`block::TimeWait`] takes over.
    fn end_in_time_wait(&mut self) {
        self.tcb.close_reason = reason::FINISHED;
        self.tcb.set_state(State::TimeWait);
        self.tcb.set(flag::ENDED);
    }

    /// Reports `changes` with the next events.
    #[inline]
    pub(crate) fn changed(&mut self, changes: u8) {
        self.tcb.changes |= changes;
        if !self.tcb.has(flag::IN_EVENTS) {
            self.tcb.set(flag::IN_EVENTS);
            self.env.queue_event(self.index);
        }
    }
}
