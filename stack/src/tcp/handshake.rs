//! Opening actively: SYN, what comes back in SYN-SENT, simultaneous open (RFC 9293 sections 3.5, 3.10.7.3).

use super::block::{NEVER, Tcb, change, flag};
use super::ecn::codepoint;
use super::emit::{TIMESTAMPS_LEN, seconds, stamp};
use super::segment::Arrival;
use super::state::State;
use super::{Conn, rtt, seq, window};
use crate::api::{CloseReason, Host};
use crate::congestion;
use crate::counters::Counter;
use crate::env::Unsent;
use crate::wire::{TcpFlags, TcpOptions, TcpRepr, Timestamps};

/// IPv4 and TCP header without options.
pub(crate) const FIXED_HEADERS: u16 = 40;
/// RFC 9293 section 3.7.1: what a peer that announces nothing can take.
pub(crate) const DEFAULT_MSS: u16 = 536;
/// Linux's TCP_MIN_MSS: a smaller announcement is taken as this.
pub(crate) const LEAST_MSS: u16 = 48;

/// The MSS that we announce on a path of `mtu`.
pub(crate) fn announced_mss(mtu: u16, max_segment: u16) -> u16 {
    let mss = mtu.saturating_sub(FIXED_HEADERS).max(LEAST_MSS);
    if max_segment == 0 { mss } else { mss.min(max_segment.max(LEAST_MSS)) }
}

impl Tcb {
    /// Takes what the peer's SYN says: RFC 9293 section 3.7.1, RFC 7323 sections 2.2 and 3.2, RFC 2018 section 2.
    /// Options count only when both sides sent them.
    pub(crate) fn agree(&mut self, options: &TcpOptions, scale_offered: bool, stamps_offered: bool, sack: bool) {
        self.peer_mss = options.mss.unwrap_or(DEFAULT_MSS).max(LEAST_MSS);
        match options.window_scale.filter(|_| scale_offered) {
            Some(scale) => {
                self.snd_scale = scale.min(window::MAX_SCALE);
                self.rcv_scale = window::SCALE;
            }
            None => {
                self.snd_scale = 0;
                self.rcv_scale = 0;
            }
        }
        match options.timestamps.filter(|_| stamps_offered) {
            Some(stamps) => {
                self.set(flag::TIMESTAMPS);
                self.ts_recent = stamps.value;
            }
            None => self.clear(flag::TIMESTAMPS),
        }
        if options.sack_permitted && sack {
            self.set(flag::SACK)
        } else {
            self.clear(flag::SACK)
        }
        self.update_mss();
    }

    /// Brings the effective MSS in line with path, peer and setting (RFC 9293 section 3.7.1, RFC 6691).
    pub(crate) fn update_mss(&mut self) {
        let mut mss = self.peer_mss.min(announced_mss(self.pmtu, self.settings.max_segment));
        if self.has(flag::TIMESTAMPS) {
            mss = mss.saturating_sub(TIMESTAMPS_LEN);
        }
        self.mss = mss.max(LEAST_MSS - TIMESTAMPS_LEN);
    }
}

impl Conn<'_, '_> {
    /// Sends the first SYN.
    pub(crate) fn open<H: Host>(&mut self, host: &mut H) {
        let now = self.now;
        let tcb = &mut *self.tcb;
        tcb.snd_nxt = seq::FIRST;
        tcb.sent_at = now;
        tcb.heard_at = now;
        tcb.rtx_at = now.as_micros() + u64::from(rtt::INITIAL_RTO);
        let sysctls = &self.env.globals.sysctls;
        if sysctls.timestamps != 0 {
            tcb.set(flag::TIMESTAMPS);
        }
        if sysctls.sack != 0 {
            tcb.set(flag::SACK);
        }
        tcb.rcv_scale = if sysctls.window_scaling != 0 { window::SCALE } else { 0 };
        tcb.ask_for_ecn(sysctls.ecn);
        if let Err(unsent) = self.send_syn(host) {
            self.blocked(unsent);
        }
        self.rearm();
    }

    /// SYN in SYN-SENT, SYN,ACK in SYN-RECEIVED.
    fn send_syn<H: Host>(&mut self, host: &mut H) -> Result<(), Unsent> {
        self.resolve()?;
        let answering = self.tcb.state() == State::SynReceived;
        let tcb = &mut *self.tcb;
        let stamps =
            Timestamps { value: stamp(self.now, tcb.ts_offset), echo: if answering { tcb.ts_recent } else { 0 } };
        let options = TcpOptions {
            mss: Some(announced_mss(tcb.pmtu, tcb.settings.max_segment)),
            window_scale: (tcb.rcv_scale != 0).then_some(window::SCALE),
            sack_permitted: tcb.has(flag::SACK),
            timestamps: tcb.has(flag::TIMESTAMPS).then_some(stamps),
            ..TcpOptions::default()
        };
        let repr = TcpRepr {
            source_port: tcb.flow.local_port,
            destination_port: tcb.flow.remote_port,
            seq: seq::to_wire(tcb.iss, seq::SYN),
            ack: seq::to_wire(tcb.irs, tcb.rcv_nxt),
            flags: if answering { TcpFlags::SYN | TcpFlags::ACK } else { TcpFlags::SYN | tcb.asking_flags() },
            window: tcb.offer_first_window(),
            urgent: 0,
            options,
        };
        self.transmit(host, &repr, 0, 0, 1, codepoint::NOT_ECT)
    }

    /// Repeats the SYN or SYN,ACK.
    pub(crate) fn resend_handshake<H: Host>(&mut self, host: &mut H) {
        if let Err(unsent) = self.send_syn(host) {
            self.blocked(unsent);
        }
    }

    /// RFC 9293 section 3.10.7.3.
    pub(crate) fn on_syn_sent<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>) {
        let flags = arrival.flags;
        let ack = seq::from_wire(self.tcb.iss, self.tcb.snd_una, arrival.ack);
        let ack_good = ack == seq::FIRST;
        // RFC 7323 section 3.2 with Linux's check: an echo that we never sent comes from an old connection.
        let echo_wrong = arrival.options.timestamps.is_some_and(|stamps| {
            let now = stamp(self.now, self.tcb.ts_offset);
            flags.ack() && stamps.echo != 0 && (now.wrapping_sub(stamps.echo) as i32) < 0
        });
        if flags.ack() && (!ack_good || echo_wrong) {
            if echo_wrong {
                self.env.count(Counter::TcpExtPAWSActive);
            }
            if !flags.rst() {
                self.reset_in_reply(host, arrival);
            }
            return;
        }
        if flags.rst() {
            if flags.ack() {
                self.env.count(Counter::TcpAttemptFails);
                self.end(CloseReason::Refused);
            }
            return;
        }
        if !flags.syn() {
            return;
        }
        let now = self.now;
        let tcb = &mut *self.tcb;
        let sysctls = &self.env.globals.sysctls;
        tcb.irs = arrival.seq.0;
        tcb.rcv_nxt = seq::FIRST;
        tcb.rcv_acked = seq::SYN;
        tcb.rcv_read = seq::FIRST;
        tcb.heard_at = now;
        tcb.ts_recent_at = seconds(now);
        let (scale, stamps, sack) = (tcb.rcv_scale != 0, tcb.has(flag::TIMESTAMPS), tcb.has(flag::SACK));
        tcb.agree(arrival.options, scale, stamps, sack);
        tcb.agree_on_ecn(sysctls, arrival);
        // RFC 7323 section 2.2: the window of a SYN is never scaled.
        tcb.take_window(u32::from(arrival.window), seq::SYN);
        // The SYN itself carried an offer of ours.
        tcb.rcv_adv = seq::FIRST + u64::from(tcb.rcv_buffer.min(65_535));
        if !flags.ack() {
            // Simultaneous open, RFC 9293 figure 8. The peer is alive: however often the SYN went out in vain counts no more.
            tcb.set_state(State::SynReceived);
            tcb.retries = 0;
            self.resend_handshake(host);
            return;
        }
        if tcb.retries == 0 {
            let sample = now.since(tcb.sent_at).as_micros();
            tcb.sample_first_rtt(sysctls, now, sample);
        } else if tcb.has(flag::TIMESTAMPS)
            && let Some(stamps) = arrival.options.timestamps
        {
            // RFC 7323 section 4: the echo tells which SYN was answered.
            let span = stamp(now, tcb.ts_offset).wrapping_sub(stamps.echo);
            tcb.sample_first_rtt(sysctls, now, u64::from(span) * 1_000);
        }
        tcb.snd_una = seq::FIRST;
        self.establish();
        // Data and FIN on a SYN,ACK are legal and rare: they are repeated when they are not acknowledged here.
        self.send_ack(host);
        self.push(host);
    }

    /// The ACK of our SYN in SYN-RECEIVED. Whether the segment goes on.
    pub(crate) fn complete_simultaneous<H: Host>(
        &mut self,
        host: &mut H,
        arrival: &Arrival<'_>,
        ack: u64,
        start: u64,
    ) -> bool {
        if ack != seq::FIRST {
            self.reset_in_reply(host, arrival);
            return false;
        }
        self.tcb.snd_una = ack;
        // RFC 7323 section 2.2: the window of a SYN is never scaled.
        let scale = if arrival.flags.syn() { 0 } else { self.tcb.snd_scale };
        self.tcb.take_window(u32::from(arrival.window) << scale, start);
        self.establish();
        true
    }

    /// Both SYNs are acknowledged.
    pub(crate) fn establish(&mut self) {
        let now = self.now;
        let tcb = &mut *self.tcb;
        tcb.set_state(State::Established);
        // RFC 6298 section 5.7: a SYN that had to be repeated without a sample means a timeout of three seconds.
        if tcb.srtt == 0 && tcb.retries > 0 {
            tcb.rto = 3 * rtt::INITIAL_RTO;
        }
        tcb.retries = 0;
        tcb.rtx_at = NEVER;
        tcb.cwnd = congestion::initial_window(tcb.mss);
        tcb.heard_at = now;
        // As Linux: who has sent no data yet has been idle since now, not since the clock's origin.
        tcb.sent_at = now;
        if tcb.has(flag::FIN_WANTED) {
            tcb.set_state(State::FinWait1);
        }
        self.start_idle_timer();
        self.changed(change::ESTABLISHED);
    }

    /// RFC 9293 section 3.10.7.3, first: `<SEQ=SEG.ACK><CTL=RST>`.
    fn reset_in_reply<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>) {
        super::reply::reset(self.env, host, self.now, &self.tcb.flow, self.tcb.port, arrival);
    }
}
