//! TIME-WAIT (RFC 9293 section 3.10.7.4): a small record that answers what is left in the network, and lets a new
//! connection of the same 4-tuple in when it is certain to be new (RFC 6191), and may end early because of a RST (RFC 1337
//! says why not to; Linux lets the administrator choose).

use super::block::{Tcb, TimeWait, flag};
use super::challenge;
use super::emit::{seconds, stamp};
use super::reply::{self, Bare};
use super::segment::Arrival;
use super::seq;
use crate::api::Host;
use crate::counters::Counter;
use crate::env::Env;
use crate::sysctl::Sysctls;
use crate::time::Instant;
use crate::wire::{SeqNumber, TcpFlags, TcpOptions, Timestamps};

/// Linux's TCP_TIMEWAIT_LEN. Microseconds.
pub(crate) const LIFETIME: u64 = 60_000_000;
/// A new connection's first number lies this far beyond the old one's last (Linux: 65535 + 2).
const ISN_GAP: u32 = 65_537;

/// What a segment for a TIME-WAIT leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Dealt with; the record stays.
    Stays,
    /// Linux without tcp_rfc1337: a RST in order ends it.
    Ends,
    /// A new connection: the record goes, and its ISN has to be at least this.
    Reopens { isn: u32 },
}

impl TimeWait {
    /// What is left of a connection that has ended in order.
    pub(crate) fn of(tcb: &mut Tcb, now: Instant) -> Self {
        let window = tcb.offer_window();
        Self {
            flow: tcb.flow,
            hash: tcb.hash,
            snd_nxt: seq::to_wire(tcb.iss, tcb.snd_nxt).0,
            rcv_nxt: seq::to_wire(tcb.irs, tcb.rcv_nxt).0,
            ends_at: now.as_micros() + LIFETIME,
            ts_recent: tcb.ts_recent,
            ts_offset: tcb.ts_offset,
            ts_recent_at: tcb.ts_recent_at,
            oow_ms: 0,
            window,
            timestamps: u8::from(tcb.has(flag::TIMESTAMPS)),
            tos: tcb.settings.tos,
            ttl: tcb.settings.ttl,
            _pad: [0; 51],
        }
    }

    /// A segment arrived for it.
    pub(crate) fn on_segment<H: Host>(
        &mut self,
        env: &mut Env<'_>,
        host: &mut H,
        now: Instant,
        arrival: &Arrival<'_>,
    ) -> Verdict {
        let rcv_nxt = SeqNumber(self.rcv_nxt);
        let stamps = arrival.options.timestamps.filter(|_| self.timestamps != 0);
        let newer = stamps.is_some_and(|stamps| (stamps.value.wrapping_sub(self.ts_recent) as i32) > 0);
        let outdated = stamps.is_some_and(|stamps| (self.ts_recent.wrapping_sub(stamps.value) as i32) > 0);
        if arrival.flags.rst() {
            // RFC 1337: it may be an old one, and what it would end protects whoever comes next.
            let believed = env.globals.sysctls.rfc1337 == 0 && arrival.seq == rcv_nxt && !outdated;
            return if believed { Verdict::Ends } else { Verdict::Stays };
        }
        if arrival.flags.syn() && !arrival.flags.ack() && !outdated && (newer || arrival.seq.after(rcv_nxt)) {
            // RFC 6191 section 2; RFC 9293 MAY-2.
            let isn = self.snd_nxt.wrapping_add(ISN_GAP);
            return Verdict::Reopens { isn: if isn == 0 { 1 } else { isn } };
        }
        if outdated {
            env.count(Counter::TcpExtPAWSEstab);
        } else if let Some(stamps) = stamps
            && arrival.seq == rcv_nxt
        {
            self.ts_recent = stamps.value;
            self.ts_recent_at = seconds(now);
        }
        if arrival.sequence_len() == 0 && arrival.seq == rcv_nxt {
            return Verdict::Stays;
        }
        if arrival.flags.fin() && !arrival.flags.syn() && !outdated {
            // The peer repeats its FIN: our ACK was lost, so the wait starts again.
            self.ends_at = now.as_micros() + LIFETIME;
        } else if !challenge::may_answer(&mut self.oow_ms, now, env.globals.sysctls.invalid_ratelimit) {
            env.count(Counter::TcpExtTCPACKSkippedTimeWait);
            return Verdict::Stays;
        }
        self.acknowledge(env, host, now);
        Verdict::Stays
    }

    /// Whether a connection that we open may take this 4-tuple over (Linux's tcp_tw_reuse, tcp_tw_reuse_delay): the peer's
    /// timestamps let it tell old from new once some time has passed.
    pub(crate) fn reusable(&self, sysctls: &Sysctls, now: Instant) -> Option<u32> {
        let waited = (now.as_micros() + LIFETIME).saturating_sub(self.ends_at);
        let late = waited > u64::from(sysctls.tw_reuse_delay) * 1_000;
        (sysctls.tw_reuse == 1 && self.timestamps != 0 && late).then(|| self.snd_nxt.wrapping_add(ISN_GAP).max(1))
    }

    fn acknowledge<H: Host>(&self, env: &mut Env<'_>, host: &mut H, now: Instant) {
        let stamps = Timestamps { value: stamp(now, self.ts_offset), echo: self.ts_recent };
        let options = TcpOptions { timestamps: (self.timestamps != 0).then_some(stamps), ..TcpOptions::default() };
        let bare = Bare {
            flow: &self.flow,
            seq: SeqNumber(self.snd_nxt),
            ack: SeqNumber(self.rcv_nxt),
            flags: TcpFlags::ACK,
            window: self.window,
            options,
            ttl: if self.ttl == 0 { env.globals.sysctls.ttl() } else { self.ttl },
            tos: self.tos,
        };
        // Lost like any other ACK when it cannot be sent: the peer repeats what it answers.
        let _ = reply::send(env, host, now, &bare);
    }
}
