//! What to send and when: the send window, Nagle and cork, silly window avoidance, super-segments, pure ACKs.

use super::block::{NEVER, change, flag, recovery, setting};
use super::state::State;
use super::{Conn, rtt, seq};
use crate::api::{CloseReason, Host};
use crate::congestion;
use crate::counters::Counter;
use crate::env::Unsent;
use crate::wire::TcpFlags;

/// One (super-)segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    from: u64,
    len: u32,
    /// The FIN goes with it, after the bytes.
    fin: bool,
    again: bool,
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
        loop {
            let payload_mss = self.tcb.payload_mss();
            let Some(plan) = self.plan(payload_mss) else { break };
            if let Err(unsent) = self.send(host, plan, payload_mss) {
                self.blocked(unsent);
                break;
            }
        }
        self.arm_probe();
        self.rearm();
    }

    #[inline]
    fn plan(&mut self, payload_mss: u32) -> Option<Plan> {
        if self.tcb.recovery != recovery::OPEN
            && let Some((from, end)) = self.next_retransmission(payload_mss)
        {
            return Some(self.plan_again(from, end, payload_mss));
        }
        self.plan_new(payload_mss).or_else(|| {
            let (from, end) = self.speculative_retransmission(payload_mss)?;
            Some(self.plan_again(from, end, payload_mss))
        })
    }

    #[inline]
    fn plan_again(&self, from: u64, end: u64, payload_mss: u32) -> Plan {
        let data_end = end.min(self.tcb.snd_end);
        let most = u64::from(self.largest_payload(payload_mss));
        let len = data_end.saturating_sub(from).min(most);
        Plan { from, len: len as u32, fin: from + len == self.tcb.snd_end && end > self.tcb.snd_end, again: true }
    }

    /// New data and the FIN, as far as windows, Nagle and cork let them go.
    #[inline]
    fn plan_new(&mut self, payload_mss: u32) -> Option<Plan> {
        let tcb = &*self.tcb;
        let from = tcb.snd_nxt;
        let fin_waits = tcb.has(flag::FIN_WANTED) && !tcb.has(flag::FIN_SENT);
        let unsent = tcb.snd_end.saturating_sub(from);
        if unsent == 0 {
            return fin_waits.then_some(Plan { from, len: 0, fin: true, again: false });
        }
        let mss = u64::from(payload_mss);
        let window_room = (tcb.snd_una + u64::from(tcb.snd_wnd)).saturating_sub(from);
        let cwnd_room = u64::from(tcb.cwnd).saturating_sub(self.pipe());
        let room = window_room.min(cwnd_room);
        let tcb = &mut *self.tcb;
        if cwnd_room < unsent.min(window_room).min(mss) || (cwnd_room <= window_room && cwnd_room < unsent) {
            // RFC 7661 / RFC 9438 section 4.2: only a window that was used up may grow.
            tcb.set(flag::CWND_LIMITED);
        }
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
            let small_in_flight = tcb.snd_small > tcb.snd_una;
            let tail_may_go =
                fin_waits || urgent || (!corked && (tcb.settings.has(setting::NODELAY) || !small_in_flight));
            let len = if tail_may_go { len } else { len - tail };
            if len == 0 {
                return None;
            }
            let fin = fin_waits && len == unsent;
            return Some(Plan { from, len: len as u32, fin, again: false });
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
        Some(Plan { from, len: len as u32, fin: false, again: false })
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
        self.emit(host, from, len, flags, payload_mss)?;

        let wire_segments = len.div_ceil(payload_mss).max(1);
        let end = end + u64::from(fin);
        let now = self.now;
        let tcb = &mut *self.tcb;
        tcb.sent_at = now;
        if again {
            tcb.high_rxt = tcb.high_rxt.max(end);
            tcb.rxt_nxt = tcb.snd_nxt;
            tcb.retransmits += wire_segments;
            // Karn: a byte that was sent twice says nothing of the round trip.
            if tcb.rtt_seq > from {
                tcb.rtt_seq = 0;
            }
            tcb.rtx_at = now.as_micros() + rtt::backed_off(tcb.rto, tcb.retries);
            let recovery = tcb.recovery;
            self.env.count_many(Counter::TcpRetransSegs, u64::from(wire_segments));
            let how = if recovery == recovery::LOSS {
                Counter::TcpExtTCPSlowStartRetrans
            } else {
                Counter::TcpExtTCPFastRetrans
            };
            self.env.count_many(how, u64::from(wire_segments));
            return Ok(());
        }
        if tcb.snd_una == tcb.snd_nxt || tcb.rtx_at == NEVER {
            tcb.rtx_at = now.as_micros() + rtt::backed_off(tcb.rto, 0);
            tcb.retries = 0;
        }
        tcb.snd_nxt = end;
        if tcb.rtt_seq == 0 {
            tcb.rtt_seq = end;
            tcb.rtt_sent = now;
        }
        if len % payload_mss != 0 {
            tcb.snd_small = end;
        }
        if fin {
            tcb.set(flag::FIN_SENT);
        }
        if len > 0 {
            // Linux's pingpong mode: an answer within the delay of an ACK means that data goes both ways.
            if now.since(tcb.heard_at).as_micros() < super::receive::DELAYED_ACK {
                tcb.set(flag::PINGPONG);
            }
            self.env.count_many(Counter::TcpExtTCPOrigDataSent, u64::from(wire_segments));
        }
        Ok(())
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
                    self.tcb.rtx_at = self.now.as_micros() + rtt::backed_off(self.tcb.rto, self.tcb.retries);
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
            self.send_ack(host);
        }
        self.rearm();
    }

    /// With data waiting and nothing in flight no ACK will come by itself: the probe timer has to run (RFC 9293
    /// section 3.8.6.1). It also ends the wait of a corked or silly segment, as on Linux.
    #[inline]
    fn arm_probe(&mut self) {
        let tcb = &mut *self.tcb;
        let waits = tcb.snd_end > tcb.snd_nxt;
        if tcb.snd_una == tcb.snd_nxt && waits && tcb.rtx_at == NEVER {
            tcb.rtx_at = self.now.as_micros() + rtt::backed_off(tcb.rto.max(rtt::MIN_VARIATION), tcb.retries);
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
            let plan = Plan { from: tcb.snd_nxt, len, fin, again: false };
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
        if let Err(unsent) = self.emit(host, self.tcb.snd_una - 1, 0, TcpFlags::ACK, mss) {
            // The timer that wanted it comes again.
            debug_assert!(unsent != Unsent::NoRoute || self.tcb.rtx_at != NEVER || self.tcb.idle_at != NEVER);
        }
    }

    /// RFC 5681 section 4.1: after an idle RTO the window is no longer known to be right.
    #[inline]
    fn restart_after_idle(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.snd_nxt != tcb.snd_una || tcb.snd_end == tcb.snd_nxt || tcb.sent_at.as_micros() == 0 {
            return;
        }
        let mut idle = self.now.since(tcb.sent_at).as_micros();
        let rto = u64::from(tcb.rto);
        if idle <= rto || tcb.recovery != recovery::OPEN {
            return;
        }
        let restart = congestion::initial_window(tcb.mss).min(tcb.cwnd);
        // Linux: half of it per RTO, not below the initial window; ssthresh remembers three quarters.
        tcb.ssthresh = tcb.ssthresh.max(tcb.cwnd / 4 * 3);
        while idle > rto && tcb.cwnd > restart {
            tcb.cwnd /= 2;
            idle -= rto;
        }
        tcb.cwnd = tcb.cwnd.max(restart);
        let path = self.path();
        congestion::with(self.tcb.settings.congestion, &mut self.tcb.control, |controller| controller.on_idle(&path));
    }

    /// The application's end of the stream moved to `end`.
    pub(crate) fn write<H: Host>(&mut self, host: &mut H, end: u64) {
        let end = seq::FIRST + end;
        if end > self.tcb.snd_end && self.tcb.state().sends() && !self.tcb.has(flag::FIN_WANTED) {
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
