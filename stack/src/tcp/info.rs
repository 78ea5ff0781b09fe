//! Looking in: what a connection is doing, in the terms of Linux's TCP_INFO.

use super::block::{NEVER, Tcb, flag};
use super::sender::{Sender, fact};
use super::state::State;
use super::{ecn, seq, window};
use crate::api::ConnectionId;
use crate::congestion::{self, Congestion, Details};
use crate::frame::{Owner, PortId};
use crate::time::{Duration, Instant};
use core::net::SocketAddr;

/// A connection's state at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    pub connection: ConnectionId,
    pub owner: Owner,
    pub state: State,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub port: PortId,
    /// close() was called, and the connection lives on.
    pub orphan: bool,
    pub timestamps: bool,
    pub sack: bool,
    /// ECN was agreed on; the peer's packets were seen to be ECN-capable; segments of ours that arrived marked.
    pub ecn: bool,
    pub ecn_seen: bool,
    pub delivered_ce: u32,
    /// `Some` when the feedback is AccECN's.
    pub accurate_ecn: Option<AccurateEcn>,
    /// Shift counts, 0 without window scaling.
    pub snd_scale: u8,
    pub rcv_scale: u8,
    /// 0 open, 1 disorder, 2 the window is being reduced, 3 fast recovery, 4 after a timeout: Linux's TCP_CA_*.
    pub recovery: u8,
    /// Timeouts in a row, and probes without an answer.
    pub retries: u8,
    pub probes: u8,
    pub congestion: Congestion,
    /// Bytes.
    pub snd_mss: u16,
    pub rcv_mss: u16,
    pub pmtu: u16,
    pub cwnd: u32,
    pub ssthresh: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub rtt: Duration,
    pub rtt_variation: Duration,
    pub min_rtt: Duration,
    pub rto: Duration,
    /// Bytes sent and not acknowledged, sacked, lost, and waiting to be sent.
    pub unacked: u64,
    pub sacked: u32,
    pub lost: u64,
    pub unsent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// Received in order and not read, as far as the stack was told.
    pub unread: u64,
    pub retransmits: u32,
    pub sending: Sending,
    pub segs_in: u32,
    pub segs_out: u32,
    pub last_sent: Duration,
    pub last_heard: Duration,
    /// When the retransmission or probe timer fires.
    pub timer: Option<Duration>,
}

/// The counters of AccECN (RFC 9768), from 0. Bytes of payload by codepoint: ECT(1), ECT(0), CE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccurateEcn {
    /// Packets that arrived here with CE.
    pub received_ce: u32,
    pub received_bytes: [u32; 3],
    /// As the peer told; 0 again when nothing was sent for long.
    pub delivered_bytes: [u32; 3],
    /// Linux's TCP_ACCECN_*_FAIL_*: 2: marks of ours are not to be trusted, 8: the peer's option is not.
    pub failed: u8,
    /// Linux's TCP_ACCECN_OPT_*: 0: the peer's option was not seen, 1: without counters, 2: with them, 3: it is not to be trusted.
    pub option_seen: u8,
    /// Data leaves with ECT(1) (RFC 9331).
    pub l4s: bool,
}

/// What is known of sending; since the connection was idle for half a minute, where it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Bytes per second; `None`: not paced by a controller.
    pub pacing_rate: Option<u64>,
    /// Bytes per second of the latest sample, and whether the application had no more to send.
    pub delivery_rate: u64,
    pub app_limited: bool,
    /// Bytes that were sent again, and those of them that are under way.
    pub bytes_retrans: u64,
    pub resent: u32,
    /// There was something to send, or in flight; and the peer's window kept it back.
    pub busy: Duration,
    pub rwnd_limited: Duration,
    /// Segments that the peer had twice, and events of reordering.
    pub dsack_dups: u32,
    pub reord_seen: u32,
    /// Timeouts, rows of them, and milliseconds that such rows lasted.
    pub total_rto: u16,
    pub total_rto_recoveries: u16,
    pub total_rto_time: u32,
    pub controller: Details,
}

impl Sending {
    fn of(sender: &Sender, congestion: u8, now: Instant) -> Self {
        let history = &sender.history;
        let (busy, rwnd_limited) = history.spans(now.as_micros());
        let mut memory = sender.control;
        Self {
            pacing_rate: (sender.pacing_rate != 0).then_some(sender.pacing_rate),
            delivery_rate: (u64::from(history.rate_delivered) * 1_000_000)
                .checked_div(history.rate_interval.into())
                .unwrap_or(0),
            app_limited: sender.has(fact::RATE_LIMITED),
            bytes_retrans: history.bytes_retrans,
            resent: sender.queue.resent,
            busy: Duration::from_micros(busy),
            rwnd_limited: Duration::from_micros(rwnd_limited),
            dsack_dups: history.dsack_dups,
            reord_seen: history.reord_seen,
            total_rto: history.total_rto,
            total_rto_recoveries: history.total_rto_recoveries,
            total_rto_time: history.total_rto_time,
            controller: congestion::with(congestion, &mut memory, |controller| controller.details()),
        }
    }
}

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    pub listener: crate::api::ListenerId,
    pub owner: Owner,
    pub local: SocketAddr,
    pub backlog: u32,
    /// Half-open requests, and connections that wait to be adopted.
    pub requests: u32,
    pub waiting: u32,
}

impl Tcb {
    pub(crate) fn info(&self, sender: Option<&Sender>, index: u32, now: Instant) -> Info {
        let micros = |span: u32| Duration::from_micros(u64::from(span));
        let unsent_from = self.snd_nxt.max(seq::FIRST);
        Info {
            connection: ConnectionId { index, generation: self.generation },
            owner: Owner(self.owner),
            state: self.state(),
            local: self.flow.local_socket(),
            remote: self.flow.remote_socket(),
            port: PortId(self.port),
            orphan: self.has(flag::ORPHAN),
            timestamps: self.has(flag::TIMESTAMPS),
            sack: self.has(flag::SACK),
            ecn: self.state().synchronised() && self.ecn & (ecn::bit::CLASSIC | ecn::bit::ACCURATE) != 0,
            ecn_seen: self.ecn & ecn::bit::SEEN != 0,
            delivered_ce: self.delivered_ce,
            accurate_ecn: (self.state().synchronised() && self.is_accurate()).then(|| self.accurate_info(sender)),
            snd_scale: self.snd_scale,
            rcv_scale: self.rcv_scale,
            recovery: self.recovery,
            retries: self.retries,
            probes: self.keep_probes,
            congestion: Congestion::from_byte(self.settings.congestion),
            snd_mss: self.mss,
            rcv_mss: self.rcv_mss,
            pmtu: self.pmtu,
            cwnd: self.cwnd,
            ssthresh: self.ssthresh,
            snd_wnd: self.snd_wnd,
            rcv_wnd: (self.rcv_adv - self.rcv_nxt.min(self.rcv_adv)) as u32,
            rtt: micros(self.srtt),
            rtt_variation: micros(self.rttvar),
            min_rtt: micros(self.min_rtt),
            rto: micros(self.rto),
            unacked: self.in_flight(),
            sacked: sender.map_or(0, |sender| sender.queue.sacked),
            lost: sender.map_or(0, |sender| u64::from(sender.queue.lost)),
            unsent: self.snd_end.saturating_sub(unsent_from),
            bytes_acked: seq::offset(self.snd_una.min(self.snd_end)),
            bytes_received: self.rcv_end(),
            unread: self.rcv_end().saturating_sub(seq::offset(self.rcv_read)),
            retransmits: self.retransmits,
            sending: sender.map(|sender| Sending::of(sender, self.settings.congestion, now)).unwrap_or_default(),
            segs_in: self.segs_in,
            segs_out: self.segs_out,
            last_sent: now.since(self.sent_at),
            last_heard: now.since(self.heard_at),
            timer: (self.rtx_at != NEVER).then(|| Instant::from_micros(self.rtx_at).since(now)),
        }
    }
}

const _: () = assert!(window::SCALE <= window::MAX_SCALE);
