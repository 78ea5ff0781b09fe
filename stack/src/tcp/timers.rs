//! The timers of a connection. Four deadlines lie in the control block; one node in the wheel fires at the earliest of
//! them or before, and is armed again lazily, so that a segment that moves a deadline touches no list.

use super::block::{NEVER, flag, timer};
use super::settings::setting;
use super::state::State;
use super::{Conn, rtt};
use crate::api::{CloseReason, Host};
use crate::counters::Counter;
use crate::time::Instant;

/// Linux's tcp_orphan_retries of 0 as it works out: an orphan gets fewer.
const ORPHAN_RETRIES: u32 = 8;
/// Linux's TCP_THIN_LINEAR_RETRIES: timeouts that do not double where few segments are in flight.
const THIN_RETRIES: u8 = 6;
/// Linux's tcp_stream_is_thin: fewer segments than these.
const THIN: u64 = 4;

impl Conn<'_, '_> {
    /// Makes sure that the wheel fires when the earliest deadline has come.
    #[inline]
    pub(crate) fn rearm(&mut self) {
        let tcb = &mut *self.tcb;
        let deadline = tcb.rtx_at.min(tcb.ack_at).min(tcb.idle_at).min(tcb.pace_at);
        if deadline < tcb.armed_at {
            tcb.armed_at = deadline;
            self.env.arm(self.index, Instant::from_micros(deadline));
        }
    }

    /// The connection's node in the wheel fired.
    pub(crate) fn on_timer<H: Host>(&mut self, host: &mut H) {
        self.tcb.armed_at = NEVER;
        if self.tcb.has(flag::ENDED) {
            return;
        }
        if self.env.trace.is_on() {
            self.trace_fired();
        }
        let now = self.now.as_micros();
        if self.tcb.ack_at <= now {
            self.tcb.ack_at = NEVER;
            self.ack_timeout(host);
        }
        if self.tcb.rtx_at <= now {
            self.tcb.rtx_at = NEVER;
            match self.tcb.state() {
                State::SynSent | State::SynReceived => self.handshake_timeout(host),
                _ if self.tcb.in_flight() == 0 => self.probe_timeout(host),
                _ => match self.tcb.rtx_kind {
                    timer::PROBE => self.probe_tail(host),
                    timer::REORDERING => self.reordering_timeout(host),
                    _ => self.retransmission_timeout(host),
                },
            }
        }
        if self.tcb.pace_at <= now {
            self.tcb.pace_at = NEVER;
            if !self.tcb.has(flag::ENDED) {
                self.push(host);
                self.rest_sender();
            }
        }
        if self.tcb.idle_at <= now && !self.tcb.has(flag::ENDED) {
            self.tcb.idle_at = NEVER;
            self.idle_timeout(host);
        }
        if !self.tcb.has(flag::ENDED) {
            self.rearm();
        }
    }

    fn handshake_timeout<H: Host>(&mut self, host: &mut H) {
        let sysctls = &self.env.globals.sysctls;
        // The second of each: retries that do not double the timeout.
        let (doubling, linear) = match self.tcb.state() {
            State::SynSent => (self.tcb.settings.syn_retries(sysctls), sysctls.syn_linear_timeouts),
            // A simultaneous open, whose SYN,ACKs Linux counts like SYNs.
            _ => (self.tcb.settings.syn_retries(sysctls), 0),
        };
        let most = doubling + u64::from(linear);
        let bounds = self.tcb.settings.rto(sysctls);
        let since_open = self.now.since(self.tcb.sent_at).as_micros();
        if u64::from(self.tcb.retries) >= most || self.user_timeout_passed(since_open) {
            self.env.count(Counter::TcpAttemptFails);
            self.give_up();
            return;
        }
        let tcb = &mut *self.tcb;
        tcb.retries = tcb.retries.saturating_add(1);
        if sysctls.ecn_fallback != 0 {
            tcb.ask_without_ecn();
        }
        let doublings = tcb.retries.saturating_sub(linear.min(255) as u8);
        tcb.rtx_at = self.now.as_micros() + bounds.backed_off(rtt::INITIAL_RTO, doublings);
        self.env.count(Counter::TcpExtTCPTimeouts);
        self.env.count(Counter::TcpExtTCPSynRetrans);
        self.env.count(Counter::TcpRetransSegs);
        self.resend_handshake(host);
    }

    /// RFC 6298 section 5.4 to 5.6.
    fn retransmission_timeout<H: Host>(&mut self, host: &mut H) {
        let stalled = if self.tcb.retries == 0 { 0 } else { self.now.since(self.tcb.stalled_at).as_micros() };
        if self.tcb.retries > 0 && self.hopeless(stalled) {
            self.env.count(Counter::TcpExtTCPAbortOnTimeout);
            self.give_up();
            return;
        }
        self.env.count(Counter::TcpExtTCPTimeouts);
        self.enter_loss();
        self.tcb.retries = self.tcb.retries.saturating_add(1);
        self.push(host);
        self.tcb.rtx_kind = timer::RETRANSMISSION;
        self.tcb.rtx_at = self.now.as_micros() + self.patience(stalled);
    }

    fn probe_timeout<H: Host>(&mut self, host: &mut H) {
        if self.tcb.snd_end <= self.tcb.snd_nxt && !self.fin_waits() {
            return;
        }
        // A window that is open means that Nagle, cork or silly window avoidance kept the data back, or the route.
        let since = self.tcb.stalled_at.max(self.tcb.heard_at);
        let stalled = if self.tcb.retries == 0 { 0 } else { self.now.since(since).as_micros() };
        if self.tcb.retries > 0 && self.hopeless(stalled) {
            self.env.count(Counter::TcpExtTCPAbortOnTimeout);
            self.give_up();
            return;
        }
        if self.tcb.retries == 0 {
            self.tcb.stalled_at = self.now;
        }
        self.tcb.retries = self.tcb.retries.saturating_add(1);
        self.tcb.rtx_at = self.now.as_micros() + self.patience(stalled).max(self.bounds().min.into());
        self.probe(host);
    }

    /// The next timeout, not beyond TCP_USER_TIMEOUT.
    fn patience(&self, stalled: u64) -> u64 {
        let doublings = if self.thin() { self.tcb.retries.saturating_sub(THIN_RETRIES) } else { self.tcb.retries };
        let span = self.bounds().backed_off(self.tcb.rto, doublings);
        match u64::from(self.tcb.settings.user_timeout_ms) * 1_000 {
            0 => span,
            limit => span.min(limit.saturating_sub(stalled).max(1_000)),
        }
    }

    /// Linux's tcp_thin_linear_timeouts: so few segments are in flight that no duplicate ACKs can come.
    fn thin(&self) -> bool {
        (self.tcb.settings.thin != 0 || self.env.globals.sysctls.thin_linear_timeouts != 0)
            && self.tcb.state() == State::Established
            && self.tcb.in_flight() > 0
            && self.tcb.in_flight() <= (THIN - 1) * u64::from(self.tcb.mss)
            && self.tcb.ssthresh != u32::MAX
    }

    /// Whether the peer has been silent for too long.
    fn hopeless(&self, stalled: u64) -> bool {
        if self.tcb.settings.user_timeout_ms > 0 {
            return self.user_timeout_passed(stalled);
        }
        let sysctls = &self.env.globals.sysctls;
        let bounds = self.tcb.settings.rto(sysctls);
        if !self.tcb.has(flag::ORPHAN) {
            return stalled >= bounds.patience(sysctls.retries2);
        }
        let most = if sysctls.orphan_retries == 0 { ORPHAN_RETRIES } else { sysctls.orphan_retries };
        if self.tcb.in_flight() > 0 {
            return u32::from(self.tcb.retries) >= most;
        }
        // A closed window: even a peer that answers is not waited for longer than the backoff takes to its maximum.
        bounds.backed_off(self.tcb.rto, self.tcb.retries) >= u64::from(bounds.max)
    }

    fn user_timeout_passed(&self, stalled: u64) -> bool {
        let limit = u64::from(self.tcb.settings.user_timeout_ms) * 1_000;
        limit > 0 && stalled >= limit
    }

    /// ETIMEDOUT, or what a router said (RFC 5461: a soft error becomes hard when the connection fails).
    fn give_up(&mut self) {
        let why = match self.tcb.soft_error {
            0 => CloseReason::TimedOut,
            errno => CloseReason::Unreachable(errno),
        };
        self.end(why);
    }

    /// Starts keepalive (RFC 9293 section 3.8.4), or the end of an orphan in FIN-WAIT-2.
    pub(crate) fn start_idle_timer(&mut self) {
        let tcb = &mut *self.tcb;
        let sysctls = &self.env.globals.sysctls;
        let now = self.now.as_micros();
        if tcb.state() == State::FinWait2 && tcb.has(flag::ORPHAN) {
            let seconds = match tcb.settings.linger2 {
                0 => u64::from(sysctls.fin_timeout),
                own => u64::from(own.max(0).unsigned_abs()),
            };
            // Linux's tcp_fin_time: a FIN that is lost can still be repeated.
            tcb.idle_at = now + (seconds * 1_000_000).max(u64::from(tcb.rto) * 7 / 2);
        } else if tcb.settings.has(setting::KEEPALIVE) && tcb.state().synchronised() {
            // Not in the past, where the peer has been silent for longer than a limit that was set just now.
            tcb.idle_at = (tcb.heard_at.as_micros() + tcb.settings.keep_idle(sysctls)).max(now);
        } else {
            tcb.idle_at = NEVER;
        }
    }

    fn idle_timeout<H: Host>(&mut self, host: &mut H) {
        if self.tcb.state() == State::FinWait2 && self.tcb.has(flag::ORPHAN) {
            // Linux drops the orphan silently; what the peer still sends is answered with RST.
            self.end(CloseReason::Finished);
            return;
        }
        if !self.tcb.settings.has(setting::KEEPALIVE) {
            return;
        }
        let now = self.now.as_micros();
        let silent = self.now.since(self.tcb.heard_at).as_micros();
        let (settings, sysctls) = (&self.tcb.settings, &self.env.globals.sysctls);
        let (idle, interval) = (settings.keep_idle(sysctls), settings.keep_interval(sysctls));
        let most = settings.keep_count(sysctls);
        if self.tcb.in_flight() > 0 || self.tcb.snd_end > self.tcb.snd_nxt {
            // The retransmission or probe timer watches the peer.
            self.tcb.idle_at = now + idle.max(1_000);
            return;
        }
        if silent < idle {
            self.tcb.idle_at = self.tcb.heard_at.as_micros() + idle;
            return;
        }
        let dead = match u64::from(self.tcb.settings.user_timeout_ms) * 1_000 {
            0 => u64::from(self.tcb.keep_probes) >= most,
            limit => silent >= limit && self.tcb.keep_probes > 0,
        };
        if dead {
            self.env.count(Counter::TcpExtTCPAbortOnTimeout);
            self.send_rst(host);
            self.give_up();
            return;
        }
        self.tcb.keep_probes = self.tcb.keep_probes.saturating_add(1);
        self.tcb.idle_at = now + interval.max(1_000);
        self.env.count(Counter::TcpExtTCPKeepAlive);
        self.send_stale_ack(host);
    }

    fn fin_waits(&self) -> bool {
        self.tcb.has(flag::FIN_WANTED) && !self.tcb.has(flag::FIN_SENT)
    }
}
