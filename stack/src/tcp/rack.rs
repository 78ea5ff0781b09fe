//! RACK-TLP (RFC 8985): loss is told by time. What was sent before something that has arrived is lost once it is later than a
//! reordering window; and the end of a flight, which nothing follows, is probed before the retransmission timer expires.

use super::Conn;
use super::block::{NEVER, flag, recovery, timer};
use super::delivery::Delivery;
use super::flights::bit;
use super::rtt;
use super::sender::fact;
use crate::api::Host;
use crate::counters::Counter;
use crate::sysctl::rack;

/// RFC 8985 section 6.2 step 4: recoveries after which a widened reordering window is what it was.
const PERSISTS: u8 = 16;
/// A probe of a single segment allows for the peer's delayed ACK (RFC 8985 section 7.2: WCDelAckT), as Linux: its RTO_MIN.
const WORST_DELAYED_ACK: u64 = rtt::USUAL_MIN as u64;
/// Linux's TCP_TIMEOUT_MIN: timers are not set for less.
const LEAST_WAIT: u64 = 2_000;

impl Conn<'_, '_> {
    /// RFC 8985 section 6.2, steps 1 to 4: what has arrived moves the measure of what should have.
    pub(crate) fn update_rack(&mut self, news: &Delivery) {
        let now = self.now.as_micros();
        let (una, nxt) = (self.tcb.snd_una, self.tcb.snd_nxt);
        let steady = self.env.globals.sysctls.recovery & rack::STATIC_WINDOW != 0;
        let sender = self.sender();
        if let Some((sent_at, end)) = news.rack {
            sender.rack_rtt = (now - sent_at).min(u64::from(u32::MAX)) as u32;
            if (sent_at, end) > (sender.rack_at, sender.rack_end) {
                (sender.rack_at, sender.rack_end) = (sent_at, end);
            }
        }
        sender.fack = sender.fack.max(news.highest);
        let mut seen = false;
        sender.history.reord_seen = sender.history.reord_seen.saturating_add(u32::from(news.overtaken));
        if news.overtaken && !sender.has(fact::REORDERING) {
            sender.facts |= fact::REORDERING;
            seen = true;
        }
        if news.dsack > 0 {
            sender.facts |= fact::DSACK;
            // Once per round trip: RFC 8985 section 6.2 step 4.
            if una >= sender.dsack_round && !news.dsack_of_probe && !steady {
                sender.dsack_round = nxt;
                sender.reorder_steps = sender.reorder_steps.saturating_add(1);
                sender.reorder_persists = PERSISTS;
            }
        }
        if seen {
            self.env.count(Counter::TcpExtTCPSACKReorder);
        }
    }

    /// A recovery is over: a widened window narrows after some of them.
    pub(crate) fn settle_reordering(&mut self) {
        let sender = self.sender();
        sender.reorder_persists = sender.reorder_persists.saturating_sub(1);
        if sender.reorder_persists == 0 {
            sender.reorder_steps = 1;
        }
    }

    /// How late something may be, in microseconds.
    fn reordering_window(&self) -> u64 {
        let Some(sender) = self.sender_if_any() else { return 0 };
        let recovering = self.tcb.recovery >= recovery::FAST;
        let sysctls = &self.env.globals.sysctls;
        let enough = u64::from(sysctls.reordering) * u64::from(self.tcb.mss);
        let many = u64::from(sender.queue.sacked) >= enough && sysctls.recovery & rack::NO_DUP_THRESH == 0;
        if !sender.has(fact::REORDERING) && (recovering || many) {
            return 0;
        }
        (u64::from(self.tcb.min_rtt) * u64::from(sender.reorder_steps) / 4).min(u64::from(self.tcb.srtt))
    }

    /// RFC 8985 section 6.2, step 5. Returns bytes that count as lost from now on; what may be reordered gets a timer.
    pub(crate) fn detect_losses(&mut self) -> u64 {
        let now = self.now.as_micros();
        let window = self.reordering_window();
        let (mut pool, sender) = self.flights();
        let measure = (sender.rack_at, sender.rack_end);
        let (mut lost, mut again, mut wait) = (0, 0, 0);
        let mut index = sender.queue.oldest();
        while let Some(flight) = pool.get(index) {
            if measure <= (flight.sent_at, flight.end) {
                break;
            }
            let due = flight.sent_at + u64::from(sender.rack_rtt) + window;
            let newer = flight.newer();
            if due <= now {
                again += u64::from(flight.has(bit::RESENT));
                lost += pool.lose(&mut sender.queue, index);
            } else {
                wait = wait.max(due - now);
            }
            index = newer;
        }
        sender.lost_total += lost;
        if again > 0 {
            self.env.count_many(Counter::TcpExtTCPLostRetransmit, again);
        }
        if wait > 0 {
            self.tcb.rtx_at = now + wait.max(LEAST_WAIT);
            self.tcb.rtx_kind = timer::REORDERING;
        } else if self.tcb.rtx_kind == timer::REORDERING {
            self.arm_retransmission();
        }
        lost
    }

    /// The timer of [`Self::detect_losses`] fired.
    pub(crate) fn reordering_timeout<H: Host>(&mut self, host: &mut H) {
        self.arm_retransmission();
        if self.detect_losses() > 0 {
            if self.tcb.recovery < recovery::FAST {
                self.enter_fast();
            }
            // The window is the pipe's again, and at least one segment goes.
            self.reduce_in_proportion(0, true);
            self.push(host);
        }
    }

    /// The retransmission timer starts anew (RFC 6298 sections 5.1 to 5.3), or stops.
    pub(crate) fn arm_retransmission(&mut self) {
        self.tcb.rtx_kind = timer::RETRANSMISSION;
        self.tcb.rtx_at = if self.tcb.in_flight() > 0 {
            self.now.as_micros() + self.bounds().backed_off(self.tcb.rto, self.tcb.retries)
        } else {
            NEVER
        };
    }

    /// RFC 8985 section 7.2: a probe comes before the retransmission timer where nothing else is wrong.
    pub(crate) fn schedule_probe(&mut self) {
        let tcb = &*self.tcb;
        if !tcb.has(flag::SACK)
            || !self.env.globals.sysctls.probes_tails()
            || tcb.recovery > recovery::REDUCING
            || tcb.in_flight() == 0
            || tcb.rtx_kind == timer::REORDERING
            || tcb.retries > 0
        {
            return;
        }
        let now = self.now.as_micros();
        let Some(sender) = self.sender_if_any() else { return };
        if sender.probe_end != 0 || sender.queue.sacked > 0 {
            return;
        }
        let single = tcb.in_flight() <= u64::from(tcb.mss);
        let mut wait = match tcb.srtt {
            0 => u64::from(rtt::INITIAL_RTO),
            srtt => 2 * u64::from(srtt) + if single { WORST_DELAYED_ACK } else { LEAST_WAIT },
        };
        // Not later than the retransmission timer, which counts from the sending of the first segment for somebody who goes on
        // sending.
        let Some(head) = self.env.flights.get(sender.queue.head_index() as usize) else { return };
        wait = wait.min((head.sent_at + u64::from(tcb.rto)).saturating_sub(now));
        if tcb.rtx_kind == timer::RETRANSMISSION && tcb.rtx_at != NEVER {
            wait = wait.min(tcb.rtx_at.saturating_sub(now));
        }
        self.tcb.rtx_kind = timer::PROBE;
        self.tcb.rtx_at = now + wait;
    }

    /// RFC 8985 section 7.3: new data, or the last segment again.
    pub(crate) fn probe_tail<H: Host>(&mut self, host: &mut H) {
        let nxt = self.tcb.snd_nxt;
        self.tcb.rtx_kind = timer::RETRANSMISSION;
        self.tcb.rtx_at = NEVER;
        if self.sender().probe_end == 0 {
            let sent = self.send_probe(host);
            if let Some(resent) = sent {
                let end = self.tcb.snd_nxt.max(nxt);
                let sender = self.sender();
                sender.probe_end = end;
                if resent {
                    sender.facts |= fact::PROBE_RESENT;
                } else {
                    sender.facts &= !fact::PROBE_RESENT;
                }
                self.env.count(Counter::TcpExtTCPLossProbes);
            }
        }
        self.arm_retransmission();
    }

    /// RFC 8985 section 7.4: what the acknowledgement says of a probe. Whether a loss was found that only the probe
    /// repaired.
    pub(crate) fn judge_probe(&mut self, ack: u64, news: &Delivery, duplicate: bool) -> bool {
        let Some(sender) = self.sender_if_any() else { return false };
        let (end, resent) = (sender.probe_end, sender.has(fact::PROBE_RESENT));
        if end == 0 || ack < end {
            return false;
        }
        let both_arrived = news.dsack_of_probe || (ack == end && duplicate && news.delivered == 0);
        if !resent || both_arrived {
            self.sender().probe_end = 0;
            return false;
        }
        if ack > end {
            self.sender().probe_end = 0;
            self.env.count(Counter::TcpExtTCPLossProbeRecovery);
            return true;
        }
        false
    }
}
