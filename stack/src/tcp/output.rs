//! What to send and when: the send window, Nagle and cork, silly window avoidance, super-segments, pure ACKs.

use super::block::{NEVER, change, flag, recovery, timer};
use super::flights::Departure;
use super::sender::fact;
use super::settings::setting;
use super::state::State;
use super::{Conn, seq};
use crate::api::{CloseReason, Host};
use crate::congestion;
use crate::counters::Counter;
use crate::env::Unsent;
use crate::memory::NONE;
use crate::trace::Why;
use crate::wire::TcpFlags;

/// One (super-)segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    from: u64,
    len: u32,
    /// The FIN goes with it, after the bytes.
    fin: bool,
    /// The flight that begins at `from` is sent again.
    again: Option<u32>,
}

/// What leaves together because timers are no finer, in microseconds: pacing lets so much go ahead of its time.
const PACING_SLACK: u64 = 1_000;
/// Sent queues join what leaves within this part of a round trip.
const GRAINS: u64 = 256;

/// What a recovery lets go.
enum Repair {
    /// Nothing is lost: new data may go.
    Nothing,
    Plan(Plan),
    /// Something is, and the window has no room for it.
    Wait,
}

/// errno of a send that found no route while the connection was open; reported as a soft error.
const ENETUNREACH: u16 = 101;

impl Conn<'_, '_> {
    /// Sends all that may be sent now: retransmissions first, then new data, then the FIN.
    pub(crate) fn push<H: Host>(&mut self, host: &mut H) {
        if self.tcb.has(flag::ENDED) {
            return;
        }
        if !self.tcb.state().synchronised() {
            return;
        }
        self.restart_after_idle();
        let before = self.tcb.snd_nxt;
        loop {
            let payload_mss = self.tcb.payload_mss();
            let Some(plan) = self.plan(payload_mss) else { break };
            if let Err(unsent) = self.send(host, plan, payload_mss) {
                self.blocked(unsent);
                break;
            }
        }
        if self.tcb.snd_nxt != before {
            self.schedule_probe();
        }
        self.arm_probe();
        self.note_phase();
        self.rearm();
    }

    #[inline]
    fn plan(&mut self, payload_mss: u32) -> Option<Plan> {
        if self.paced() {
            return None;
        }
        if self.tcb.repairs() {
            match self.plan_repair(payload_mss) {
                Repair::Nothing => {}
                Repair::Plan(plan) => return Some(plan),
                Repair::Wait => return None,
            }
        }
        self.plan_new(payload_mss)
    }

    /// Lost bytes go before new ones, but for F-RTO's question.
    fn plan_repair(&mut self, payload_mss: u32) -> Repair {
        let (una, nxt) = (self.tcb.snd_una, self.tcb.snd_nxt);
        let loss = self.tcb.recovery == recovery::LOSS;
        let sender = self.sender();
        if loss && sender.has(fact::FRTO) && sender.undo_from != 0 && una > sender.undo_from {
            // RFC 5682 section 3.1 step 2.b: the first acknowledgement after a timeout is answered with new data.
            let asked = nxt > sender.recover;
            if let Some(plan) = self.plan_new(payload_mss) {
                return Repair::Plan(plan);
            }
            if asked {
                return Repair::Wait;
            }
            self.sender().facts &= !fact::FRTO;
        }
        let room = u64::from(self.tcb.cwnd).saturating_sub(self.pipe());
        let (pool, sender) = self.flights();
        let Some((index, from, end)) = pool.first_lost(&mut sender.queue) else { return Repair::Nothing };
        let mss = u64::from(payload_mss);
        if room < mss.min(end - from) {
            return Repair::Wait;
        }
        Repair::Plan(self.plan_again(index, from, end.min(from + (room / mss).max(1) * mss), payload_mss))
    }

    /// Flight `index`, from its beginning `from` to `end` at most.
    #[inline]
    fn plan_again(&self, index: u32, from: u64, end: u64, payload_mss: u32) -> Plan {
        let data_end = end.min(self.tcb.snd_end);
        let most = u64::from(self.largest_payload(payload_mss));
        let len = data_end.saturating_sub(from).min(most);
        let fin = from + len == self.tcb.snd_end && end > self.tcb.snd_end;
        Plan { from, len: len as u32, fin, again: Some(index) }
    }

    /// Whether pacing holds everything back; a timer then lets it go.
    #[inline]
    fn paced(&mut self) -> bool {
        let now = self.now.as_micros();
        let Some(sender) = self.env.senders.get(self.tcb.sender as usize) else { return false };
        if sender.pacing_rate == 0 || sender.pace_next <= now + PACING_SLACK {
            return false;
        }
        self.tcb.pace_at = sender.pace_next - PACING_SLACK;
        true
    }

    /// New data and the FIN, as far as windows, Nagle and cork let them go.
    #[inline]
    fn plan_new(&mut self, payload_mss: u32) -> Option<Plan> {
        let tcb = &*self.tcb;
        let from = tcb.snd_nxt;
        let fin_waits = tcb.has(flag::FIN_WANTED) && !tcb.has(flag::FIN_SENT);
        let unsent = tcb.snd_end.saturating_sub(from);
        if unsent == 0 && !fin_waits {
            return None;
        }
        let (pool, sender) = self.flights();
        if !pool.can_grow(&sender.queue) {
            return None;
        }
        if unsent == 0 {
            return Some(Plan { from, len: 0, fin: true, again: None });
        }
        let tcb = &*self.tcb;
        let mss = u64::from(payload_mss);
        let window_room = (tcb.snd_una + u64::from(tcb.snd_wnd)).saturating_sub(from);
        let cwnd_room = u64::from(tcb.cwnd).saturating_sub(self.pipe());
        let room = window_room.min(cwnd_room);
        if cwnd_room < unsent.min(window_room).min(mss) || (cwnd_room <= window_room && cwnd_room < unsent) {
            // RFC 7661 / RFC 9438 section 4.2: only a window that was used up may grow.
            self.sender().facts |= fact::CWND_LIMITED;
        }
        let tcb = &*self.tcb;
        // RFC 9293 section 3.8.5: urgent data is sent in segments of its own, so that each carries its pointer.
        let urgent = tcb.snd_up > from;
        let most = if urgent { payload_mss } else { self.largest_payload(payload_mss) };
        let most = u64::from(most);
        let tcb = &*self.tcb;

        if unsent <= room {
            let len = unsent.min(most);
            let tail = if len == unsent { len % mss } else { 0 };
            // RFC 9293 section 3.7.4, as Minshall changed it: a small segment waits only for another small one.
            let corked = tcb.settings.has(setting::CORK);
            let small_in_flight = tcb.small_in_flight();
            let tail_may_go =
                fin_waits || urgent || (!corked && (tcb.settings.has(setting::NODELAY) || !small_in_flight));
            let len = if tail_may_go { len } else { len - tail };
            if len == 0 {
                return None;
            }
            let fin = fin_waits && len == unsent;
            return Some(Plan { from, len: len as u32, fin, again: None });
        }
        // RFC 9293 section 3.8.6.2.1: whole segments, or at least half of the largest window ever offered.
        let whole = room.min(most) / mss * mss;
        let len = if whole > 0 {
            whole
        } else if window_room <= cwnd_room && room > 0 && room >= u64::from(tcb.max_wnd / 2) {
            room.min(most)
        } else {
            return None;
        };
        Some(Plan { from, len: len as u32, fin: false, again: None })
    }

    fn send<H: Host>(&mut self, host: &mut H, plan: Plan, payload_mss: u32) -> Result<(), Unsent> {
        let Plan { from, len, fin, again } = plan;
        let end = from + u64::from(len);
        let mut flags = TcpFlags::ACK;
        if fin {
            flags |= TcpFlags::FIN;
        }
        if len > 0 && end == self.tcb.snd_end {
            flags |= TcpFlags::PSH;
        }
        if again.is_some() && self.env.trace.is_on() && !self.env.trace.has_announced() {
            self.env.trace.announce(self.why_again());
        }
        self.emit(host, from, len, flags, payload_mss)?;

        let wire_segments = len.div_ceil(payload_mss).max(1);
        let end = end + u64::from(fin);
        self.depart(from, end, again);
        let now = self.now;
        let tcb = &mut *self.tcb;
        tcb.sent_at = now;
        if again.is_some() {
            tcb.retransmits += wire_segments;
            if let Some(sender) = self.env.senders.get_mut(tcb.sender as usize) {
                sender.history.bytes_retrans += u64::from(len);
            }
            if tcb.rtx_at == NEVER || tcb.rtx_kind == timer::PROBE {
                self.arm_retransmission();
            }
            let how = if self.tcb.recovery == recovery::LOSS {
                Counter::TcpExtTCPSlowStartRetrans
            } else {
                Counter::TcpExtTCPFastRetrans
            };
            self.env.count_many(Counter::TcpRetransSegs, u64::from(wire_segments));
            self.env.count_many(how, u64::from(wire_segments));
            return Ok(());
        }
        let first = tcb.snd_una == tcb.snd_nxt;
        tcb.snd_nxt = end;
        if first || tcb.rtx_at == NEVER {
            tcb.retries = 0;
            self.arm_retransmission();
        }
        let tcb = &mut *self.tcb;
        if len % payload_mss != 0 {
            tcb.snd_small = end as u32;
        }
        if fin {
            tcb.set(flag::FIN_SENT);
        }
        if len > 0 {
            tcb.note_answer(now);
            self.env.count_many(Counter::TcpExtTCPOrigDataSent, u64::from(wire_segments));
        }
        Ok(())
    }

    /// Notes that `from .. end` has left, as new bytes or as flight `again`.
    #[inline]
    fn depart(&mut self, from: u64, end: u64, again: Option<u32>) {
        let now = self.now.as_micros();
        let len = end - from;
        let in_flight = (self.pipe() + len).min(u64::from(u32::MAX)) as u32;
        let (srtt, idle) = (u64::from(self.tcb.srtt), self.tcb.in_flight() == 0);
        let (mut pool, sender) = self.flights();
        if idle {
            // draft-ietf-ccwg-bbr section 4.1.2.2: a sampling interval begins.
            sender.first_sent_at = now;
            sender.delivered_at = now;
        }
        let span = |since: u64| now.saturating_sub(since).min(u64::from(u32::MAX)) as u32;
        let departure = Departure {
            at: now,
            delivered: sender.delivered,
            since_delivery: span(sender.delivered_at),
            since_first: span(sender.first_sent_at),
            in_flight,
            lost_before: sender.lost_total as u32,
            app_limited: sender.app_limited != 0,
            grain: srtt / GRAINS,
        };
        if let Some(cost) = len.saturating_mul(1_000_000).checked_div(sender.pacing_rate) {
            sender.pace_next = sender.pace_next.max(now) + cost;
        }
        sender.prr_out = sender.prr_out.saturating_add(len as u32);
        match again {
            None => pool.sent(&mut sender.queue, from, end, &departure),
            Some(index) => {
                pool.resent(&mut sender.queue, index, len, &departure);
                sender.undo_bytes = sender.undo_bytes.saturating_add(len as u32);
                if sender.resent_at == 0 {
                    sender.resent_at = now.max(1);
                }
            }
        }
    }

    /// The tail loss probe: a segment of new data where there is some, else the last one again. Whether it was a
    /// retransmission; `None`: nothing was sent.
    pub(crate) fn send_probe<H: Host>(&mut self, host: &mut H) -> Option<bool> {
        let payload_mss = self.tcb.payload_mss();
        let tcb = &*self.tcb;
        let from = tcb.snd_nxt;
        let window_room = (tcb.snd_una + u64::from(tcb.snd_wnd)).saturating_sub(from);
        let unsent = tcb.snd_end.saturating_sub(from);
        let len = unsent.min(window_room).min(u64::from(payload_mss));
        let (pool, sender) = self.flights();
        let plan = if len > 0 && pool.can_grow(&sender.queue) {
            // Whatever the congestion window says: one segment in a round trip.
            Plan { from, len: len as u32, fin: false, again: None }
        } else {
            let (index, start, end) = pool.last(&sender.queue)?;
            let from = start.max(end.saturating_sub(u64::from(payload_mss)));
            let (mut pool, sender) = self.flights();
            let index = pool.split_before(&mut sender.queue, index, from)?;
            self.plan_again(index, from, end, payload_mss)
        };
        self.env.trace.announce(Why::TailProbe);
        match self.send(host, plan, payload_mss) {
            Ok(()) => Some(plan.again.is_some()),
            Err(unsent) => {
                self.blocked(unsent);
                None
            }
        }
    }

    /// Sends an ACK without data now; when that is impossible the next flush tries again.
    pub(crate) fn send_ack<H: Host>(&mut self, host: &mut H) {
        let mss = u32::from(self.tcb.mss).max(1);
        if let Err(unsent) = self.emit(host, self.tcb.snd_nxt, 0, TcpFlags::ACK, mss) {
            self.tcb.set(flag::ACK_NOW);
            self.blocked(unsent);
        }
    }

    /// Sends a RST for a synchronised connection (RFC 9293 section 3.10.5); not repeated when it cannot be sent.
    pub(crate) fn send_rst<H: Host>(&mut self, host: &mut H) {
        let mss = u32::from(self.tcb.mss).max(1);
        if self.emit(host, self.tcb.snd_nxt, 0, TcpFlags::RST | TcpFlags::ACK, mss).is_ok() {
            self.env.count(Counter::TcpOutRsts);
        }
    }

    /// Output that could not leave: the next flush tries again; without a route, only the retransmission timer does.
    pub(crate) fn blocked(&mut self, unsent: Unsent) {
        match unsent {
            Unsent::Busy => {
                self.tcb.set(flag::BLOCKED);
                self.flush_later();
            }
            Unsent::NoRoute => {
                self.tcb.soft_error = ENETUNREACH;
                self.changed(change::SOFT_ERROR);
                // Nothing is in flight that a timer would repeat: the probe timer finds the route when it is back.
                if self.tcb.rtx_at == NEVER {
                    self.tcb.rtx_at = self.now.as_micros() + self.bounds().backed_off(self.tcb.rto, self.tcb.retries);
                }
            }
        }
    }

    /// Puts the connection on the list that the next flush walks.
    #[inline]
    pub(crate) fn flush_later(&mut self) {
        if !self.tcb.has(flag::IN_FLUSH) {
            self.tcb.set(flag::IN_FLUSH);
            self.env.queue_flush(self.index);
        }
    }

    /// What a flush does for a connection on its list.
    pub(crate) fn flush<H: Host>(&mut self, host: &mut H) {
        self.tcb.clear(flag::IN_FLUSH);
        if self.tcb.has(flag::ENDED) {
            return;
        }
        if self.tcb.has(flag::BLOCKED) {
            self.tcb.clear(flag::BLOCKED);
            if self.tcb.state().synchronised() {
                self.push(host);
            } else {
                self.resend_handshake(host);
            }
        }
        if self.tcb.has(flag::ACK_NOW) && !self.tcb.has(flag::BLOCKED) {
            // One of those that were held back goes out now.
            self.tcb.compressed = self.tcb.compressed.saturating_sub(1);
            self.send_ack(host);
        }
        self.rearm();
    }

    /// With data waiting and nothing in flight no ACK will come by itself: the probe timer has to run (RFC 9293
    /// section 3.8.6.1). It also ends the wait of a corked or silly segment, as on Linux.
    #[inline]
    fn arm_probe(&mut self) {
        let bounds = self.bounds();
        let tcb = &mut *self.tcb;
        // A FIN waits where pacing holds it back.
        let waits = tcb.snd_end > tcb.snd_nxt || (tcb.has(flag::FIN_WANTED) && !tcb.has(flag::FIN_SENT));
        if tcb.snd_una == tcb.snd_nxt && waits && tcb.rtx_at == NEVER {
            tcb.rtx_at = self.now.as_micros() + bounds.backed_off(tcb.rto.max(bounds.min), tcb.retries);
        }
    }

    /// The probe timer fired: sends what the window allows in spite of Nagle, cork and silly window avoidance, or a
    /// segment that the peer has to answer.
    pub(crate) fn probe<H: Host>(&mut self, host: &mut H) {
        let tcb = &*self.tcb;
        let window_room = (tcb.snd_una + u64::from(tcb.snd_wnd)).saturating_sub(tcb.snd_nxt);
        let payload_mss = tcb.payload_mss();
        let len = (tcb.snd_end - tcb.snd_nxt).min(window_room).min(u64::from(payload_mss)) as u32;
        if len > 0 {
            let fin = tcb.has(flag::FIN_WANTED) && tcb.snd_nxt + u64::from(len) == tcb.snd_end;
            let plan = Plan { from: tcb.snd_nxt, len, fin, again: None };
            match self.send(host, plan, payload_mss) {
                Ok(()) => self.push(host),
                Err(unsent) => self.blocked(unsent),
            }
            return;
        }
        self.env.count(Counter::TcpExtTCPWinProbe);
        self.send_stale_ack(host);
    }

    /// An ACK whose number the peer has long passed, which it therefore has to answer: window probe and keepalive.
    pub(crate) fn send_stale_ack<H: Host>(&mut self, host: &mut H) {
        let mss = u32::from(self.tcb.mss).max(1);
        self.env.trace.announce(Why::Probe);
        if let Err(unsent) = self.emit(host, self.tcb.snd_una - 1, 0, TcpFlags::ACK, mss) {
            // The timer that wanted it comes again.
            debug_assert!(unsent != Unsent::NoRoute || self.tcb.rtx_at != NEVER || self.tcb.idle_at != NEVER);
        }
    }

    /// RFC 5681 section 4.1: after an idle RTO the window is no longer known to be right.
    #[inline]
    fn restart_after_idle(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.snd_nxt != tcb.snd_una
            || tcb.snd_end == tcb.snd_nxt
            || tcb.sent_at.as_micros() == 0
            || self.env.globals.sysctls.slow_start_after_idle == 0
        {
            return;
        }
        let mut idle = self.now.since(tcb.sent_at).as_micros();
        let rto = u64::from(tcb.rto);
        if idle <= rto || tcb.recovery != recovery::OPEN {
            return;
        }
        if !congestion::Congestion::from_byte(tcb.settings.congestion).steers() {
            let restart = congestion::initial_window(tcb.mss).min(tcb.cwnd);
            // Linux: half of it per RTO, not below the initial window; ssthresh remembers three quarters.
            tcb.ssthresh = tcb.ssthresh.max(tcb.cwnd / 4 * 3);
            while idle > rto && tcb.cwnd > restart {
                tcb.cwnd /= 2;
                idle -= rto;
            }
            tcb.cwnd = tcb.cwnd.max(restart);
        }
        self.control(|controller, path, window| controller.on_idle(path, window));
    }

    /// Before more is written: whether the window had room and there was nothing to fill it, so that samples of what is in
    /// flight say little of the path (draft-ietf-ccwg-bbr section 4.1.2.4; here, as on Linux, rather than with each ACK).
    #[inline]
    fn note_idleness(&mut self) {
        if self.tcb.snd_end > self.tcb.snd_nxt || self.tcb.sender == NONE {
            return;
        }
        if self.sender().queue.lost == 0 && self.pipe() < u64::from(self.tcb.cwnd) {
            self.limited_by_application();
        }
    }

    /// The application's end of the stream moved to `end`.
    pub(crate) fn write<H: Host>(&mut self, host: &mut H, end: u64) {
        let end = seq::FIRST + end;
        if end > self.tcb.snd_end && self.tcb.state().sends() && !self.tcb.has(flag::FIN_WANTED) {
            self.note_idleness();
            self.tcb.snd_end = end;
            self.push(host);
        }
    }

    /// The sending side ends after the bytes written so far.
    pub(crate) fn finish<H: Host>(&mut self, host: &mut H) {
        match self.tcb.state() {
            State::SynSent => {
                // Nothing was exchanged: the connection is forgotten (RFC 9293 section 3.10.4).
                self.end(CloseReason::Aborted);
                return;
            }
            // The FIN follows the handshake.
            State::SynReceived => {
                self.tcb.set(flag::FIN_WANTED);
                return;
            }
            State::Established => self.tcb.set_state(State::FinWait1),
            State::CloseWait => self.tcb.set_state(State::LastAck),
            _ => return,
        }
        self.tcb.set(flag::FIN_WANTED);
        self.push(host);
    }
}
