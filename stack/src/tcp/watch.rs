//! What one call has changed about a connection that is looked at, as happenings of the trace. Taken by comparing before and
//! after, so that the lines that do the work need not say it.

use super::Conn;
use super::block::{NEVER, flag, recovery, timer};
use super::segment::Arrival;
use super::seq;
use crate::congestion;
use crate::time::Instant;
use crate::trace::{Happening, Timer, Why};
use crate::wire::{TcpFlags, TcpRepr};

/// What the trace compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glimpse {
    state: super::state::State,
    recovery: u8,
    /// cwnd, ssthresh, pacing rate, mode; and bytes in flight, which alone are no news.
    window: (u32, u32, u64, u8),
    in_flight: u64,
    /// srtt, rttvar, rto, min_rtt.
    round_trip: (u32, u32, u32, u32),
    /// PRR: delivered, sent, flight.
    reduction: (u32, u32, u32),
    delivered: u64,
    lost: u64,
    timers: [(Timer, u64); 4],
}

fn relative(number: u64) -> u64 {
    number.saturating_sub(seq::SYN)
}

impl Conn<'_, '_> {
    #[cold]
    pub(crate) fn glimpse(&self) -> Glimpse {
        let (tcb, window) = (&*self.tcb, self.window());
        let sender = self.sender_if_any();
        let mode = sender.map_or(0, |sender| {
            let mut memory = sender.control;
            congestion::with(tcb.settings.congestion, &mut memory, |controller| controller.mode(&window))
        });
        Glimpse {
            state: tcb.state(),
            recovery: tcb.recovery,
            window: (window.cwnd, window.ssthresh, window.pacing, mode),
            in_flight: self.pipe(),
            round_trip: (tcb.srtt, tcb.rttvar, tcb.rto, tcb.min_rtt),
            reduction: sender.map_or((0, 0, 0), |half| (half.prr_delivered, half.prr_out, half.prr_flight)),
            delivered: sender.map_or(0, |sender| sender.delivered),
            lost: sender.map_or(0, |sender| sender.lost_total),
            timers: self.timers(),
        }
    }

    fn timers(&self) -> [(Timer, u64); 4] {
        let tcb = &*self.tcb;
        let first = match tcb.rtx_kind {
            _ if tcb.in_flight() == 0 => Timer::Persist,
            timer::PROBE => Timer::TailProbe,
            timer::REORDERING => Timer::Reordering,
            _ => Timer::Retransmission,
        };
        [(first, tcb.rtx_at), (Timer::DelayedAck, tcb.ack_at), (Timer::Idle, tcb.idle_at), (Timer::Pacing, tcb.pace_at)]
    }

    /// Tells what is different from `before`.
    #[cold]
    pub(crate) fn trace_changes(&mut self, before: &Glimpse) {
        let after = self.glimpse();
        if after.state != before.state {
            self.env.trace.push(Happening::State { from: before.state, to: after.state });
        }
        if after.recovery != before.recovery {
            self.env.trace.push(Happening::Recovery { from: before.recovery, to: after.recovery });
        }
        // The sending half ends after an idle time, and what was counted in it.
        if after.lost > before.lost {
            let why = self.why_again();
            self.env.trace.push(Happening::Lost { bytes: after.lost - before.lost, why });
        }
        if after.delivered > before.delivered {
            self.env.trace.push(Happening::Delivered { total: after.delivered });
        }
        if after.round_trip != before.round_trip {
            let (srtt, rttvar, rto, min_rtt) = after.round_trip;
            self.env.trace.push(Happening::RoundTrip { srtt, rttvar, rto, min_rtt });
        }
        let reduces = matches!(after.recovery, recovery::FAST | recovery::REDUCING);
        if reduces && after.reduction != before.reduction {
            let (delivered, sent, flight) = after.reduction;
            self.env.trace.push(Happening::Reduction { delivered, sent, flight });
        }
        if (after.window, after.in_flight) != (before.window, before.in_flight) {
            self.tell_window(&after);
        }
        for ((timer, due), (old, old_due)) in after.timers.into_iter().zip(before.timers) {
            if due == NEVER && old_due != NEVER && old_due > self.now.as_micros() {
                self.env.trace.push(Happening::Stopped { timer: old });
            } else if due != NEVER && (timer, due) != (old, old_due) {
                self.env.trace.push(Happening::Armed { timer, at: Instant::from_micros(due) });
            }
        }
        if after.recovery < recovery::REDUCING {
            self.env.trace.set_cause(Why::New);
        }
    }

    /// Where a trace begins: how things stand.
    pub(crate) fn trace_standing(&mut self) {
        let standing = self.glimpse();
        let (srtt, rttvar, rto, min_rtt) = standing.round_trip;
        self.env.trace.push(Happening::RoundTrip { srtt, rttvar, rto, min_rtt });
        self.env.trace.push(Happening::Delivered { total: standing.delivered });
        self.tell_window(&standing);
        for (timer, due) in standing.timers {
            if due != NEVER {
                self.env.trace.push(Happening::Armed { timer, at: Instant::from_micros(due) });
            }
        }
    }

    fn tell_window(&mut self, glimpse: &Glimpse) {
        let ((cwnd, ssthresh, pacing, mode), in_flight) = (glimpse.window, glimpse.in_flight);
        self.env.trace.push(Happening::Window { cwnd, ssthresh, pacing, in_flight, mode });
    }

    /// The node in the wheel fired: which deadlines have come.
    #[cold]
    pub(crate) fn trace_fired(&mut self) {
        for (timer, due) in self.timers() {
            if due <= self.now.as_micros() {
                self.env.trace.push(Happening::Fired { timer });
            }
        }
    }

    /// Why something is sent again.
    pub(crate) fn why_again(&self) -> Why {
        match (self.env.trace.cause(), self.tcb.recovery) {
            (Why::Reneging, _) => Why::Reneging,
            (Why::New, recovery::LOSS) => Why::Timeout,
            (cause, recovery::LOSS) => cause,
            _ if self.tcb.has(flag::SACK) => Why::Rack,
            _ => Why::Duplicates,
        }
    }

    /// A segment with `len` payload bytes has left.
    #[cold]
    pub(crate) fn trace_sent(&mut self, repr: &TcpRepr, len: u32) {
        let tcb = &*self.tcb;
        // RFC 7323 section 2.2: the window of a SYN is not scaled.
        let scale = if repr.flags.syn() { 0 } else { tcb.rcv_scale };
        let ack = if repr.flags.ack() { seq::from_wire(tcb.irs, tcb.rcv_nxt, repr.ack) } else { 0 };
        let why = self.env.trace.take_announced();
        self.env.trace.push(Happening::Sent {
            seq: relative(seq::from_wire(tcb.iss, tcb.snd_nxt, repr.seq)),
            len,
            flags: repr.flags,
            ack: relative(ack),
            window: u32::from(repr.window) << scale,
            why,
        });
    }

    #[cold]
    pub(crate) fn trace_received(&mut self, arrival: &Arrival<'_>) {
        let tcb = &*self.tcb;
        let syn = arrival.flags.syn();
        let (irs, near) = if syn { (arrival.seq.0, seq::SYN) } else { (tcb.irs, tcb.rcv_nxt) };
        let number = |wire| relative(seq::from_wire(tcb.iss, tcb.snd_una, wire));
        self.env.trace.push(Happening::Received {
            seq: relative(seq::from_wire(irs, near, arrival.seq)),
            len: arrival.payload.len() as u32,
            flags: TcpFlags(arrival.flags.0 & TcpFlags::ALL.0),
            ack: if arrival.flags.ack() { number(arrival.ack) } else { 0 },
            window: u32::from(arrival.window) << if syn { 0 } else { tcb.snd_scale },
        });
        for block in arrival.options.sack.as_slice() {
            self.env.trace.push(Happening::Sacked { start: number(block.start), end: number(block.end) });
        }
    }
}
