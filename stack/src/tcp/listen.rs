//! Opening passively: listeners, half-open requests, SYN cookies, and how a request becomes a connection (RFC 9293
//! section 3.10.7.2, RFC 4987).

use super::block::{Listener, Request, Tcb, flag};
use super::emit::{seconds, stamp};
use super::handshake::{DEFAULT_MSS, LEAST_MSS, announced_mss};
use super::reply::{self, Bare};
use super::segment::Arrival;
use super::settings::Settings;
use super::state::State;
use super::{accecn, challenge, cookie, ecn, rtt, seq, window};
use crate::api::Host;
use crate::counters::Counter;
use crate::env::Env;
use crate::flow::Flow;
use crate::frame::PortId;
use crate::sysctl::Sysctls;
use crate::time::Instant;
use crate::wire::{SeqNumber, TcpFlags, TcpOptions, Timestamps};

/// A SYN,ACK that was repeated so often does not speak of AccECN any more.
const QUIET_RETRIES: u8 = 2;

/// What a SYN agreed on, whoever remembered it: a request or a cookie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(crate) irs: u32,
    pub(crate) iss: u32,
    pub(crate) options: TcpOptions,
    pub(crate) ts_offset: u32,
    /// As in [`Tcb::ecn`]; the codepoint of the SYN, and how often the SYN,ACK was sent in vain.
    pub(crate) ecn: u8,
    pub(crate) syn_codepoint: u8,
    pub(crate) retries: u8,
}

/// What a segment for a request leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Dealt with; the request stays.
    Stays,
    /// The peer took it back, or an ICMP error did.
    Gone,
    /// The handshake is complete.
    Completes,
    /// The ACK is not for our SYN,ACK.
    Unacceptable,
}

impl Request {
    /// For a SYN. `isn`: from a TIME-WAIT that it takes over.
    pub(crate) fn new(env: &Env<'_>, flow: &Flow, hash: u32, port: u8, arrival: &Arrival<'_>, now: Instant) -> Self {
        let options = env.globals.sysctls.permit(arrival.options);
        let mut flags = 0;
        if options.timestamps.is_some() {
            flags |= flag::TIMESTAMPS;
        }
        if options.sack_permitted {
            flags |= flag::SACK;
        }
        Self {
            flow: *flow,
            hash,
            irs: arrival.seq.0,
            iss: env.globals.secrets.isn(flow, now),
            ts_recent: options.timestamps.map_or(0, |stamps| stamps.value),
            ts_offset: env.globals.stamp_offset(flow),
            listener: 0,
            listener_generation: 0,
            retry_at: now.as_micros() + u64::from(rtt::INITIAL_RTO),
            sent_at: now,
            peer_mss: options.mss.unwrap_or(DEFAULT_MSS).max(LEAST_MSS),
            snd_scale: options.window_scale.map_or(Self::NO_SCALE, |scale| scale.min(window::MAX_SCALE)),
            retries: 0,
            flags: flags as u8,
            port,
            ecn: ecn::answer(env.globals.sysctls.ecn, arrival),
            syn_codepoint: arrival.ecn,
            acked: 0,
            oow_ms: 0,
            _pad1: [0; 35],
        }
    }

    fn has(&self, flags: u16) -> bool {
        u16::from(self.flags) & flags != 0
    }

    /// The options of the SYN, as far as they were kept.
    pub(crate) fn agreed(&self) -> Agreed {
        let options = TcpOptions {
            mss: Some(self.peer_mss),
            window_scale: (self.snd_scale != Self::NO_SCALE).then_some(self.snd_scale),
            sack_permitted: self.has(flag::SACK),
            timestamps: self.has(flag::TIMESTAMPS).then_some(Timestamps { value: self.ts_recent, echo: 0 }),
            ..TcpOptions::default()
        };
        Agreed {
            irs: self.irs,
            iss: self.iss,
            options,
            ts_offset: self.ts_offset,
            ecn: self.ecn,
            syn_codepoint: self.syn_codepoint,
            retries: self.retries,
        }
    }

    /// Sends the SYN,ACK, or repeats it.
    pub(crate) fn answer<H: Host>(&self, env: &mut Env<'_>, host: &mut H, now: Instant, settings: &Settings) {
        self.answer_as(env, host, now, settings, &self.agreed());
    }

    fn answer_as<H: Host>(&self, env: &mut Env<'_>, host: &mut H, now: Instant, settings: &Settings, agreed: &Agreed) {
        let value = stamp(now, self.ts_offset);
        send_syn_ack(env, host, now, &self.flow, self.port, settings, agreed, value);
    }

    /// SEGMENT ARRIVES in SYN-RECEIVED of a passive open (RFC 9293 section 3.10.7.4).
    pub(crate) fn on_segment<H: Host>(
        &mut self,
        env: &mut Env<'_>,
        host: &mut H,
        now: Instant,
        arrival: &Arrival<'_>,
        settings: &Settings,
        defer_accept: u8,
    ) -> Verdict {
        let rcv_nxt = SeqNumber(self.irs.wrapping_add(1));
        let flags = arrival.flags;
        if flags.syn() && !flags.ack() && arrival.seq == SeqNumber(self.irs) {
            if self.ecn & ecn::bit::ACCURATE != 0 && !flags.intersects(TcpFlags::ECN) {
                // RFC 9768 section 3.1.5: somebody does not like the flags, perhaps.
                self.ecn |= ecn::bit::INCAPABLE;
            }
            // RFC 9768 section 3.1.5: the answer is about the latest SYN.
            self.syn_codepoint = arrival.ecn;
            // The peer repeats its SYN: our answer was lost. Linux bounds how often that is believed.
            if challenge::may_answer(&mut self.oow_ms, now, env.globals.sysctls.invalid_ratelimit) {
                // RFC 9768 section 3.2.3.2.2: AccECN's option may be why it was lost.
                let agreed = self.agreed();
                let agreed = Agreed { retries: agreed.retries.max(1), ..agreed };
                self.answer_as(env, host, now, settings, &agreed);
            } else {
                env.count(Counter::TcpExtTCPACKSkippedSynRecv);
            }
            return Verdict::Stays;
        }
        let stamps = arrival.options.timestamps.filter(|_| self.has(flag::TIMESTAMPS));
        let outdated = stamps.is_some_and(|stamps| (self.ts_recent.wrapping_sub(stamps.value) as i32) > 1);
        let room = settings.receive_buffer.min(65_535);
        let in_window = arrival.seq.since(rcv_nxt) <= room
            || (arrival.seq + arrival.sequence_len()).after(rcv_nxt) && arrival.seq.before(rcv_nxt + room);
        if outdated || !in_window {
            if outdated {
                env.count(Counter::TcpExtPAWSEstab);
            }
            if !flags.rst() && challenge::may_answer(&mut self.oow_ms, now, env.globals.sysctls.invalid_ratelimit) {
                self.acknowledge(env, host, now, settings);
            }
            return Verdict::Stays;
        }
        if flags.rst() {
            // RFC 5961 section 3.2 holds here too; a RST inside the window is no reason to answer half-open peers.
            if arrival.seq != rcv_nxt {
                return Verdict::Stays;
            }
            env.count(Counter::TcpAttemptFails);
            env.count(Counter::TcpExtEmbryonicRsts);
            return Verdict::Gone;
        }
        if flags.syn() || !flags.ack() {
            return Verdict::Stays;
        }
        if arrival.ack != SeqNumber(self.iss.wrapping_add(1)) {
            return Verdict::Unacceptable;
        }
        if let Some(stamps) = stamps
            && arrival.seq.at_or_before(rcv_nxt)
        {
            self.ts_recent = stamps.value;
        }
        if self.retries < defer_accept && arrival.seq + arrival.sequence_len() == rcv_nxt {
            // TCP_DEFER_ACCEPT, as Linux: who has nothing to say yet is not given out before the time is over.
            self.acked = 1;
            env.count(Counter::TcpExtTCPDeferAcceptDrop);
            return Verdict::Stays;
        }
        Verdict::Completes
    }

    /// What the SYN,ACK's timer leads to, as Linux's syn_ack_recalc: whether the request's time is over, and whether the SYN,ACK is
    /// sent again.
    pub(crate) fn timeout(&self, defer_accept: u8, synack_retries: u32) -> (bool, bool) {
        let spent = u32::from(self.retries) >= synack_retries;
        let Some(last) = defer_accept.checked_sub(1) else { return (spent, true) };
        let waited = self.acked == 0 || self.retries > last;
        // Towards the end of the wait the peer is asked once more, so that its ACK makes a connection.
        (spent && waited, self.acked == 0 || self.retries >= last)
    }

    fn acknowledge<H: Host>(&self, env: &mut Env<'_>, host: &mut H, now: Instant, settings: &Settings) {
        let stamps = Timestamps { value: stamp(now, self.ts_offset), echo: self.ts_recent };
        let scale = if self.snd_scale == Self::NO_SCALE { 0 } else { window::SCALE };
        let bare = Bare {
            flow: &self.flow,
            seq: SeqNumber(self.iss.wrapping_add(1)),
            ack: SeqNumber(self.irs.wrapping_add(1)),
            flags: TcpFlags::ACK | ecn::idle_flags(self.ecn),
            // The window that the SYN,ACK offered; after a handshake that agreed on scaling it is written scaled.
            window: (settings.receive_buffer.min(65_535) >> scale) as u16,
            options: TcpOptions { timestamps: self.has(flag::TIMESTAMPS).then_some(stamps), ..TcpOptions::default() },
            ttl: env.globals.sysctls.ttl(),
            tos: 0,
        };
        // Lost like any other ACK when it cannot be sent.
        let _ = reply::send(env, host, now, &bare);
    }
}

/// Answers a SYN for which no record is left with a cookie.
pub(crate) fn answer_with_cookie<H: Host>(
    env: &mut Env<'_>,
    host: &mut H,
    now: Instant,
    flow: &Flow,
    port: u8,
    settings: &Settings,
    arrival: &Arrival<'_>,
) {
    let secrets = env.globals.secrets;
    let mss = arrival.options.mss.unwrap_or(DEFAULT_MSS);
    let ts_offset = env.globals.stamp_offset(flow);
    let mut options = env.globals.sysctls.permit(arrival.options);
    if options.timestamps.is_none() {
        // Without timestamps the ACK brings nothing back but the MSS.
        options.window_scale = None;
        options.sack_permitted = false;
    }
    let iss = cookie::bake(&secrets, flow, arrival.seq.0, mss, now);
    // Like the options, ECN comes back with the timestamp alone.
    let ecn = if options.timestamps.is_some() { ecn::answer(env.globals.sysctls.ecn, arrival) } else { 0 };
    let value = cookie::stamp_options(stamp(now, ts_offset), &options, ecn != 0);
    let agreed = Agreed { irs: arrival.seq.0, iss, options, ts_offset, ecn, syn_codepoint: arrival.ecn, retries: 0 };
    send_syn_ack(env, host, now, flow, port, settings, &agreed, value);
    env.count(Counter::TcpExtSyncookiesSent);
    env.count(Counter::TcpExtTCPReqQFullDoCookies);
}

/// What an ACK says that claims to complete a handshake nobody remembers.
pub(crate) fn read_cookie(env: &Env<'_>, flow: &Flow, arrival: &Arrival<'_>, now: Instant) -> Option<Agreed> {
    let secrets = &env.globals.secrets;
    let irs = arrival.seq.0.wrapping_sub(1);
    let iss = arrival.ack.0.wrapping_sub(1);
    let baked = cookie::check(secrets, flow, irs, iss, now)?;
    let mut options = TcpOptions { mss: Some(baked.mss), ..TcpOptions::default() };
    let mut ecn = 0;
    if let Some(stamps) = env.globals.sysctls.permit(arrival.options).timestamps {
        let told = cookie::read_stamp(stamps.echo);
        (options.window_scale, options.sack_permitted) = (told.window_scale, told.sack);
        options.timestamps = Some(stamps);
        ecn = if told.ecn { ecn::remembered(env.globals.sysctls.ecn, arrival) } else { 0 };
    }
    Some(Agreed { irs, iss, options, ts_offset: env.globals.stamp_offset(flow), ecn, syn_codepoint: 0, retries: 0 })
}

#[allow(clippy::too_many_arguments)] // One call for request and cookie, which share nothing but these.
fn send_syn_ack<H: Host>(
    env: &mut Env<'_>,
    host: &mut H,
    now: Instant,
    flow: &Flow,
    port: u8,
    settings: &Settings,
    agreed: &Agreed,
    stamp_value: u32,
) {
    let offered = &agreed.options;
    let accurate = agreed.ecn & ecn::bit::ACCURATE != 0;
    // RFC 9768 section 3.2.3.2.2: first the option goes, then the flags.
    let quiet = accurate && agreed.retries >= QUIET_RETRIES;
    let options = TcpOptions {
        mss: Some(announced_mss(env.mtu(PortId(port)), settings.max_segment)),
        window_scale: offered.window_scale.map(|_| window::SCALE),
        sack_permitted: offered.sack_permitted,
        timestamps: offered.timestamps.map(|stamps| Timestamps { value: stamp_value, echo: stamps.value }),
        ecn_bytes: (accurate && agreed.retries == 0 && env.globals.sysctls.ecn_option != 0).then(accecn::first_option),
        ..TcpOptions::default()
    };
    let bare = Bare {
        flow,
        seq: SeqNumber(agreed.iss),
        ack: SeqNumber(agreed.irs.wrapping_add(1)),
        flags: TcpFlags::SYN
            | TcpFlags::ACK
            | if quiet { TcpFlags::default() } else { ecn::answering_flags(agreed.ecn, agreed.syn_codepoint) },
        window: settings.receive_buffer.min(65_535) as u16,
        options,
        ttl: settings.ttl(&env.globals.sysctls),
        tos: settings.tos & !ecn::codepoint::MASK,
    };
    // Lost like any other when it cannot be sent: the peer or the request's timer repeats.
    let _ = reply::send(env, host, now, &bare);
}

impl Tcb {
    /// The connection that a completed handshake makes.
    #[allow(clippy::too_many_arguments)] // Identity and agreement of a connection: they exist only here together.
    pub(crate) fn passive(
        flow: Flow,
        hash: u32,
        generation: u32,
        listener: &Listener,
        listener_index: u32,
        agreed: &Agreed,
        mtu: u16,
        sysctls: &Sysctls,
        now: Instant,
    ) -> Self {
        let mut tcb = Self::new(flow, hash, generation, listener.settings, State::SynReceived);
        tcb.irs = agreed.irs;
        tcb.iss = agreed.iss;
        tcb.ts_offset = agreed.ts_offset;
        tcb.ecn = agreed.ecn;
        if tcb.is_accurate() {
            tcb.start_accurate(sysctls, agreed.syn_codepoint);
            if agreed.retries >= QUIET_RETRIES {
                // RFC 9768 section 3.1.5.
                tcb.ecn |= ecn::bit::INCAPABLE;
            }
        }
        tcb.rcv_nxt = seq::FIRST;
        tcb.rcv_acked = seq::FIRST;
        tcb.rcv_adv = seq::FIRST + u64::from(listener.settings.receive_buffer.min(65_535));
        tcb.snd_una = seq::FIRST;
        tcb.snd_nxt = seq::FIRST;
        tcb.pmtu = mtu;
        tcb.listener = listener_index;
        tcb.ts_recent_at = seconds(now);
        tcb.agree(&agreed.options, true, true, true);
        tcb
    }
}
