//! What must hold between any two calls, looked at from inside; for the simulation and the tests. `Err` says what does
//! not.

use super::Stack;
use crate::memory::NONE;
use crate::tcp::block::{NEVER, Tcb, flag};
use crate::tcp::flights::bit;
use crate::tcp::seq;
use crate::tcp::state::State;
use crate::time::Instant;
use std::format;
use std::string::String;

/// A timer may come up to two ticks of the wheel late: moments are rounded up, and the tick that is running is over.
const SLACK: u64 = 2_048;

impl Stack<'_> {
    /// Sequence invariants, timers, and records accounted for.
    pub fn audit(&self, now: Instant) -> Result<(), String> {
        let globals = &self.core.env.globals;
        let next = self.next_timeout();
        let (mut ranges, mut senders, mut flights, mut flying, mut orphans) = (0, 0, 0, 0, 0);
        for (tcb, index) in self.core.tables.tcbs.iter().zip(0..globals.connections.bound()) {
            if tcb.state() == State::Closed || tcb.has(flag::ENDED) {
                continue;
            }
            self.audit_sequence(tcb).map_err(|reason| format!("connection {index}: {reason}"))?;
            audit_timers(tcb).map_err(|reason| format!("connection {index}: {reason}"))?;
            // What was armed for a moment that has passed fires with the next tick.
            let latest = tcb.armed_at.max(now.as_micros()).saturating_add(SLACK);
            if tcb.armed_at != NEVER && next.is_none_or(|next| next.as_micros() > latest) {
                return Err(format!(
                    "connection {index} ({:?}) waits for {}, the stack sleeps until {next:?}; retransmission at {}, \
                     ACK at {}, idle at {}, timer {:?}",
                    tcb.state(),
                    tcb.armed_at,
                    tcb.rtx_at,
                    tcb.ack_at,
                    tcb.idle_at,
                    self.core.env.timers.get(index as usize)
                ));
            }
            orphans += u32::from(tcb.has(flag::ORPHAN));
            ranges += u32::from(tcb.ofo_count);
            senders += u32::from(tcb.sender != NONE);
            let count = self.core.env.senders.get(tcb.sender as usize).map_or(0, |sender| sender.queue.count);
            flights += count;
            flying += u32::from(count > 0);
        }
        let used = (senders, flights, flying);
        let counted = (globals.senders.used(), globals.flights.used(), globals.flying);
        if used != counted {
            return Err(format!(
                "sending halves, flights and queues with some: {used:?} are held, {counted:?} are taken"
            ));
        }
        if orphans != globals.orphans {
            return Err(format!("{orphans} orphans are there, {} are counted", globals.orphans));
        }
        if ranges != globals.ranges.used() {
            return Err(format!("{ranges} ranges are in lists, {} are taken", globals.ranges.used()));
        }
        Ok(())
    }

    fn audit_sequence(&self, tcb: &Tcb) -> Result<(), String> {
        let (una, nxt, end) = (tcb.snd_una, tcb.snd_nxt, tcb.snd_end);
        // One beyond the last byte is the FIN's.
        let fin = u64::from(tcb.has(flag::FIN_WANTED));
        if una < seq::SYN || una > nxt || nxt > end.max(seq::FIRST) + fin {
            return Err(format!("SND.UNA {una}, SND.NXT {nxt}, end of data {end} (FIN {fin})"));
        }
        let (read, acked, rcv, edge) = (tcb.rcv_read, tcb.rcv_acked, tcb.rcv_nxt, tcb.rcv_adv);
        let fin = u64::from(tcb.rcv_fin != 0 && rcv > tcb.rcv_fin);
        if tcb.state().synchronised() && (read > rcv || acked > rcv || rcv > edge.max(seq::FIRST) + fin) {
            return Err(format!("read {read}, acknowledged {acked}, RCV.NXT {rcv}, window's edge {edge} (FIN {fin})"));
        }
        let mut at = rcv;
        for range in self.core.env.ranges_iter(tcb.ofo_head) {
            if range.start <= at || range.end <= range.start || range.end > edge + 1 {
                return Err(format!("out-of-order range {}..{} after {at}, edge {edge}", range.start, range.end));
            }
            at = range.end;
        }
        self.audit_queue(tcb)
    }

    /// The sent queue has no gap, its sums are right, and what is in flight is in the order of time.
    fn audit_queue(&self, tcb: &Tcb) -> Result<(), String> {
        let (una, nxt) = (tcb.snd_una.max(seq::FIRST), tcb.snd_nxt);
        let Some(sender) = self.core.env.senders.get(tcb.sender as usize) else {
            return if nxt > una { Err(format!("{una}..{nxt} is in flight without a sending half")) } else { Ok(()) };
        };
        let queue = &sender.queue;
        let (mut at, mut sacked, mut lost, mut resent, mut sent) = (una, 0, 0, 0, 0);
        for flight in crate::tcp::flights::walk(self.core.env.flights, queue) {
            if flight.start != at || flight.end <= flight.start {
                return Err(format!("flight {}..{} after {at}", flight.start, flight.end));
            }
            at = flight.end;
            let len = flight.len();
            match flight.bits & (bit::SACKED | bit::LOST) {
                0 => sent += 1,
                bit::SACKED => sacked += len,
                bit::LOST => lost += len,
                _ => return Err(format!("flight {}..{} is sacked and lost", flight.start, flight.end)),
            }
            resent += if flight.bits & (bit::SACKED | bit::LOST | bit::RESENT) == bit::RESENT { len } else { 0 };
        }
        if at != nxt.max(una) {
            return Err(format!("the sent queue ends at {at}, SND.NXT is {nxt}"));
        }
        let sums = [sacked, lost, resent].map(|sum| sum as u32);
        if sums != [queue.sacked, queue.lost, queue.resent] {
            return Err(format!("sacked, lost, resent: {sums:?} bytes, counted {queue:?}"));
        }
        let (mut index, mut last, mut timed) = (queue.oldest(), 0, 0);
        while let Some(flight) = self.core.env.flights.get(index as usize) {
            if flight.sent_at < last || flight.has(bit::SACKED | bit::LOST) {
                return Err(format!("flight {}..{} out of the order of time", flight.start, flight.end));
            }
            (last, index, timed) = (flight.sent_at, flight.newer(), timed + 1);
        }
        if timed != sent {
            return Err(format!("{sent} flights are in flight, {timed} in the order of time"));
        }
        Ok(())
    }
}

/// A connection that waits for something has a timer, or output that the next flush looks at.
fn audit_timers(tcb: &Tcb) -> Result<(), String> {
    let due = tcb.rtx_at.min(tcb.ack_at).min(tcb.idle_at).min(tcb.pace_at);
    if tcb.armed_at > due {
        return Err(format!("due at {due}, armed for {}", tcb.armed_at));
    }
    let in_flight = tcb.snd_nxt > tcb.snd_una;
    let unsent = tcb.snd_end > tcb.snd_nxt || (tcb.has(flag::FIN_WANTED) && !tcb.has(flag::FIN_SENT));
    let waits = in_flight || (unsent && tcb.state().synchronised());
    if waits && tcb.rtx_at == NEVER && !tcb.has(flag::IN_FLUSH | flag::BLOCKED) {
        return Err(format!(
            "{:?} waits without a timer: SND.UNA {}, SND.NXT {}, end of data {}, window {}",
            tcb.state(),
            tcb.snd_una,
            tcb.snd_nxt,
            tcb.snd_end,
            tcb.snd_wnd
        ));
    }
    Ok(())
}
