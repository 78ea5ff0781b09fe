//! [`Sysctls`]: what Linux lets an administrator tune of TCP and IP by `net.ipv4.*`, as far as it means something here.
//!
//! One record in the arena's globals, read where it is used, so that a change holds for the next decision of every
//! connection. What a socket has set for itself (TCP_KEEPIDLE, IP_TTL ...) goes before it. Ranges are the caller's to check:
//! `engine/src/sysctl` does.

use crate::ip::Rate;
use crate::tcp::RtoBounds;
use crate::wire::TcpOptions;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No limit, as Linux writes it (INT_MAX).
pub const UNLIMITED: u32 = i32::MAX as u32;

macro_rules! sysctls {
    ($($(#[$doc:meta])* $name:ident = $default:expr;)*) => {
        /// The settings of one stack. Names are Linux's without `net.ipv4.tcp_` or `net.ipv4.`; so are units and defaults,
        /// but for [`tw_reuse`](Self::tw_reuse).
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Sysctls { $($(#[$doc])* pub $name: u32,)* }

        impl Sysctls {
            pub const LINUX: Self = Self { $($name: $default,)* };
        }
    };
}

sysctls! {
    /// 1: what overflows the accept queue is answered with RST.
    abort_on_overflow = 0;
    /// Challenge ACKs per second, all connections together.
    challenge_ack_limit = UNLIMITED;
    /// The longest that ACKs beyond a gap are held back, in nanoseconds; never longer than a twentieth of the round trip.
    comp_sack_delay_ns = 1_000_000;
    /// The most that are; 0: none.
    comp_sack_nr = 44;
    dsack = 1;
    /// Tail loss probes: 3 and 4 on, else off.
    early_retrans = 3;
    /// 0: no ECN, 1: asked for and accepted, 2: accepted; 3 to 5: AccECN is accepted, and 3: asked for, 4: classic ECN is asked
    /// for, 5: nothing is.
    ecn = 2;
    /// 1: a SYN that has to be repeated asks no more.
    ecn_fallback = 1;
    /// The option of AccECN: 0: never, 1: when something has changed and in between, 2: in every segment that has room.
    ecn_option = 2;
    /// How often in a round trip it is sent at least where `ecn_option` is 1; 0: not for that reason.
    ecn_option_beacon = 3;
    /// Seconds that an orphan stays in FIN-WAIT-2.
    fin_timeout = 60;
    /// Looking whether a timeout was spurious (RFC 5682); 0: off.
    frto = 2;
    /// Milliseconds between two answers to what does not fit into a connection.
    invalid_ratelimit = 500;
    /// Seconds between two keepalive probes.
    keepalive_intvl = 75;
    keepalive_probes = 9;
    /// Seconds of silence before the first probe.
    keepalive_time = 7_200;
    /// Connections that were closed and live on; one more is reset.
    max_orphans = 65_536;
    /// Half-open connections of all listeners together, where no cookies are sent.
    max_syn_backlog = UNLIMITED;
    /// Connections in TIME-WAIT.
    max_tw_buckets = UNLIMITED;
    /// Seconds for which the least round trip counts.
    min_rtt_wlen = 300;
    /// Retries of an orphan; 0: 8.
    orphan_retries = 0;
    /// Bits: 2 the reordering window stays as it is, 4 duplicate ACKs do not close it.
    recovery = 1;
    /// Segments by which something may be late before it counts as lost.
    reordering = 3;
    /// Retries, counted as the time that so many timeouts from 200 ms take, before a connection is given up.
    retries2 = 15;
    /// 1: RST does not end TIME-WAIT.
    rfc1337 = 0;
    /// Milliseconds.
    rto_max_ms = 120_000;
    /// Microseconds.
    rto_min_us = 200_000;
    sack = 1;
    slow_start_after_idle = 1;
    /// 1: the urgent pointer names the urgent byte (RFC 961), 0: the byte after it.
    stdurg = 0;
    /// SYNs that are repeated after a second each, before the timeout doubles.
    syn_linear_timeouts = 4;
    syn_retries = 6;
    synack_retries = 5;
    /// 0: never, 1: when the backlog is full, 2: always.
    syncookies = 1;
    /// 1: connections with few segments in flight do not back off for six timeouts.
    thin_linear_timeouts = 0;
    /// 0: not, 1: from a random offset, 2: from the clock's zero.
    timestamps = 1;
    /// Whether connect() takes over a 4-tuple in TIME-WAIT. Linux's 2 means on the loopback interface, which no stack
    /// has here, so that it would be 0.
    tw_reuse = 1;
    /// Milliseconds in TIME-WAIT before.
    tw_reuse_delay = 1_000;
    window_scaling = 1;
    /// Hops.
    ip_default_ttl = 64;
    /// 0: DF and path MTU discovery; 1: neither, a router's report means [`min_pmtu`](Self::min_pmtu); 2: no DF, no report is
    /// believed; 3: no DF, reports are believed.
    ip_no_pmtu_disc = 0;
    /// Seconds for the fragments of a datagram.
    ipfrag_time = 30;
    /// net.ipv4.route.min_pmtu: bytes; a router that claims less is not believed.
    min_pmtu = 552;
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::LINUX
    }
}

impl Sysctls {
    #[inline]
    pub(crate) fn rto(&self) -> RtoBounds {
        RtoBounds { min: self.rto_min_us, max: self.rto_max_ms.saturating_mul(1_000) }
    }

    /// What of a SYN's options may be agreed on.
    pub(crate) fn permit(&self, options: &TcpOptions) -> TcpOptions {
        TcpOptions {
            window_scale: options.window_scale.filter(|_| self.window_scaling != 0),
            sack_permitted: options.sack_permitted && self.sack != 0,
            timestamps: options.timestamps.filter(|_| self.timestamps != 0),
            ..*options
        }
    }

    /// `None`: no limit.
    pub(crate) fn challenge_rate(&self) -> Option<Rate> {
        let limit = self.challenge_ack_limit;
        (limit < UNLIMITED).then_some(Rate { per_second: limit, burst: limit })
    }

    /// Whether tail losses are probed for.
    pub(crate) fn probes_tails(&self) -> bool {
        matches!(self.early_retrans, 3 | 4)
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.ip_default_ttl.clamp(1, 255) as u8
    }
}

/// Values of [`Sysctls::recovery`], bit by bit.
pub(crate) mod rack {
    pub(crate) const STATIC_WINDOW: u32 = 2;
    pub(crate) const NO_DUP_THRESH: u32 = 4;
}
