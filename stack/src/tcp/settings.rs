//! A socket's settings as a record, from and to the caller's [`SocketOptions`], and the value that counts where a socket leaves
//! one open. What they do is said where they are obeyed.

use super::RtoBounds;
use crate::api::SocketOptions;
use crate::congestion::Congestion;
use crate::sysctl::Sysctls;
use crate::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`SocketOptions`] as a record. 0 in what keepalive, handshake and TTL go by: what [`Sysctls`] says at the time.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Settings {
    /// 0: the retries decide.
    pub(crate) user_timeout_ms: u32,
    pub(crate) receive_buffer: u32,
    pub(crate) send_buffer: u32,
    /// TCP_MAXSEG; 0: by MTU.
    pub(crate) max_segment: u16,
    pub(crate) keep_count: u8,
    pub(crate) syn_retries: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// [`setting`] bits.
    pub(crate) bits: u8,
    pub(crate) congestion: u8,
    /// Seconds.
    pub(crate) keep_idle: u16,
    pub(crate) keep_interval: u16,
    /// Seconds; 0: as [`Sysctls`] says, negative: none.
    pub(crate) linger2: i8,
    /// 0: as [`Sysctls`] says.
    pub(crate) rto_min_ms: u8,
    pub(crate) min_ttl: u8,
    /// 1: timeouts of a thin stream do not back off.
    pub(crate) thin: u8,
}

/// Bits of [`Settings::bits`].
pub(crate) mod setting {
    pub(crate) const NODELAY: u8 = 1;
    pub(crate) const CORK: u8 = 1 << 1;
    pub(crate) const KEEPALIVE: u8 = 1 << 2;
    pub(crate) const LINGER_RESET: u8 = 1 << 3;
    pub(crate) const QUICKACK: u8 = 1 << 4;
    pub(crate) const OOB_INLINE: u8 = 1 << 5;
    pub(crate) const TUNE_RECEIVE: u8 = 1 << 6;
    pub(crate) const TUNE_SEND: u8 = 1 << 7;
}

impl Settings {
    const RECEIVE_BUFFER: u32 = 1 << 20;
    const SEND_BUFFER: u32 = 1 << 20;

    pub(crate) fn new(options: &SocketOptions) -> Self {
        let SocketOptions {
            nodelay,
            cork,
            keepalive,
            keep_idle,
            keep_interval,
            keep_count,
            user_timeout,
            linger_reset,
            max_segment,
            congestion,
            receive_buffer,
            tune_receive,
            send_buffer,
            tune_send,
            quickack,
            ttl,
            tos,
            syn_retries,
            oob_inline,
            linger2,
            rto_min,
            thin_linear_timeouts,
            min_ttl,
            defer_accept: _,
        } = *options;
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        // 0 is the mark for what the socket leaves to the stack's settings.
        let seconds =
            |span: Option<Duration>| span.map_or(0, |span| millis(span).div_ceil(1_000).clamp(1, 65_535) as u16);
        let short = |span: Option<Duration>| span.map_or(0, |span| millis(span).clamp(1, 255) as u8);
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        Self {
            keep_idle: seconds(keep_idle),
            keep_interval: seconds(keep_interval),
            user_timeout_ms: user_timeout.map_or(0, millis),
            receive_buffer: receive_buffer.unwrap_or(Self::RECEIVE_BUFFER).max(super::window::LEAST_BUFFER),
            send_buffer: send_buffer.unwrap_or(Self::SEND_BUFFER),
            max_segment: max_segment.unwrap_or(0),
            keep_count: keep_count.unwrap_or(0),
            syn_retries: syn_retries.unwrap_or(0),
            ttl: ttl.unwrap_or(0),
            tos: tos.unwrap_or(0),
            bits: bit(nodelay, setting::NODELAY)
                | bit(cork, setting::CORK)
                | bit(keepalive, setting::KEEPALIVE)
                | bit(linger_reset, setting::LINGER_RESET)
                | bit(quickack, setting::QUICKACK)
                | bit(oob_inline, setting::OOB_INLINE)
                | bit(tune_receive, setting::TUNE_RECEIVE)
                | bit(tune_send, setting::TUNE_SEND),
            congestion: congestion.unwrap_or_default() as u8,
            linger2: linger2.unwrap_or(0).clamp(-1, 127) as i8,
            rto_min_ms: short(rto_min),
            min_ttl,
            thin: thin_linear_timeouts.into(),
        }
    }

    /// Back in the caller's terms.
    pub(crate) fn options(&self) -> SocketOptions {
        let span = |millis: u32| Duration::from_millis(u64::from(millis));
        SocketOptions {
            nodelay: self.has(setting::NODELAY),
            cork: self.has(setting::CORK),
            keepalive: self.has(setting::KEEPALIVE),
            keep_idle: (self.keep_idle != 0).then(|| span(u32::from(self.keep_idle) * 1_000)),
            keep_interval: (self.keep_interval != 0).then(|| span(u32::from(self.keep_interval) * 1_000)),
            keep_count: (self.keep_count != 0).then_some(self.keep_count),
            user_timeout: (self.user_timeout_ms != 0).then(|| span(self.user_timeout_ms)),
            linger_reset: self.has(setting::LINGER_RESET),
            max_segment: (self.max_segment != 0).then_some(self.max_segment),
            congestion: Some(Congestion::from_byte(self.congestion)),
            receive_buffer: Some(self.receive_buffer),
            tune_receive: self.has(setting::TUNE_RECEIVE),
            send_buffer: Some(self.send_buffer),
            tune_send: self.has(setting::TUNE_SEND),
            quickack: self.has(setting::QUICKACK),
            ttl: (self.ttl != 0).then_some(self.ttl),
            tos: Some(self.tos),
            syn_retries: (self.syn_retries != 0).then_some(self.syn_retries),
            oob_inline: self.has(setting::OOB_INLINE),
            linger2: (self.linger2 != 0).then_some(self.linger2.into()),
            rto_min: (self.rto_min_ms != 0).then(|| span(self.rto_min_ms.into())),
            thin_linear_timeouts: self.thin != 0,
            min_ttl: self.min_ttl,
            // Of listeners.
            defer_accept: 0,
        }
    }

    /// Bounds of the retransmission timeout.
    #[inline]
    pub(crate) fn rto(&self, sysctls: &Sysctls) -> RtoBounds {
        let general = sysctls.rto();
        RtoBounds { min: or(u32::from(self.rto_min_ms) * 1_000, general.min, 1) as u32, max: general.max }
    }

    /// Microseconds of silence before the first keepalive probe.
    pub(crate) fn keep_idle(&self, sysctls: &Sysctls) -> u64 {
        or(self.keep_idle.into(), sysctls.keepalive_time, 1) * 1_000_000
    }

    /// Microseconds between two probes.
    pub(crate) fn keep_interval(&self, sysctls: &Sysctls) -> u64 {
        or(self.keep_interval.into(), sysctls.keepalive_intvl, 1) * 1_000_000
    }

    pub(crate) fn keep_count(&self, sysctls: &Sysctls) -> u64 {
        or(self.keep_count.into(), sysctls.keepalive_probes, 1)
    }

    pub(crate) fn syn_retries(&self, sysctls: &Sysctls) -> u64 {
        or(self.syn_retries.into(), sysctls.syn_retries, 1)
    }

    pub(crate) fn ttl(&self, sysctls: &Sysctls) -> u8 {
        if self.ttl == 0 { sysctls.ttl() } else { self.ttl }
    }

    #[inline]
    pub(crate) fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }
}

/// The socket's own value, or the stack's in units that are `scale` times as large.
fn or(own: u32, general: u32, scale: u64) -> u64 {
    if own == 0 { u64::from(general) * scale } else { own.into() }
}
