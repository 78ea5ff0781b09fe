//! struct tcp_info of linux/tcp.h, as Linux 6.18 has it: what TCP_INFO answers.
//!
//! Fields that nobody counts here are zero, as on a kernel that has just begun to count.

use super::inspect::segments;
use persona_channel::layout::REPLY_SIZE;
use persona_stack::{Details, Duration, Info, State};
use zerocopy::{FromZeros, Immutable, IntoBytes};

#[repr(C)]
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
pub struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    /// Send scale in the low half.
    window_scales: u8,
    flags: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
    rcv_wnd: u32,
    rehash: u32,
    total_rto: u16,
    total_rto_recoveries: u16,
    total_rto_time: u32,
    received_ce: u32,
    delivered_e1_bytes: u32,
    delivered_e0_bytes: u32,
    delivered_ce_bytes: u32,
    received_e1_bytes: u32,
    received_e0_bytes: u32,
    received_ce_bytes: u32,
    accecn_fail_mode: u16,
    accecn_opt_seen: u16,
}

const _: () = assert!(size_of::<TcpInfo>() == 280 && size_of::<TcpInfo>() <= REPLY_SIZE);

const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;
const TCPI_OPT_ECN: u8 = 8;
const TCPI_OPT_ECN_SEEN: u8 = 16;

/// Bytes of a segment's headers without options.
const HEADERS: u16 = 40;
/// The timestamps option, padded.
const TIMESTAMPS_LEN: u16 = 12;
/// Linux's TCP_MSS_DEFAULT and TCP_TIMEOUT_INIT, which a socket without a connection shows.
const DEFAULT_MSS: u32 = 536;
const FIRST_TIMEOUT: u32 = 1_000_000;
/// Linux's TCP_INIT_CWND before a connection is there, and TCP_INFINITE_SSTHRESH.
const FIRST_CWND: u32 = 10;
const NO_THRESHOLD: u32 = 0x7fff_ffff;
/// Linux's net.ipv4.tcp_reordering.
const REORDERING: u32 = 3;

fn micros(span: Duration) -> u32 {
    span.as_micros().min(u64::from(u32::MAX)) as u32
}

fn millis(span: Duration) -> u32 {
    span.as_millis().min(u64::from(u32::MAX)) as u32
}

/// TCP_ESTABLISHED and so on, as linux/tcp_states.h counts.
fn number_of(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}

/// Of a controller that does not pace, Linux shows what it would be paced with (tcp_update_pacing_rate).
fn pacing_rate(info: &Info) -> u64 {
    let rtt = info.rtt.as_micros();
    match info.sending.pacing_rate {
        Some(rate) => rate,
        None if rtt == 0 => u64::MAX,
        None => {
            let percent = if info.cwnd < info.ssthresh / 2 { 200 } else { 120 };
            u64::from(info.cwnd) * percent * 10_000 / rtt
        }
    }
}

/// struct tcp_bbr_info, struct tcp_dctcp_info: what TCP_CC_INFO answers.
pub fn controller_info(info: &Info) -> Vec<u8> {
    /// Linux's BBR_UNIT.
    const UNIT: u32 = 256;
    match info.sending.controller {
        Details::None => Vec::new(),
        Details::Bbr { bandwidth, min_rtt, pacing_gain, cwnd_gain } => {
            let gain = |percent: u32| percent * UNIT / 100;
            let words = [bandwidth as u32, (bandwidth >> 32) as u32, min_rtt, gain(pacing_gain), gain(cwnd_gain)];
            words.as_bytes().to_vec()
        }
        Details::Dctcp { alpha, marked, acked } => {
            // dctcp_enabled, dctcp_ce_state.
            let mut bytes = [u16::from(info.ecn), 0].as_bytes().to_vec();
            bytes.extend_from_slice([alpha, marked, acked].as_bytes());
            bytes
        }
    }
}

impl TcpInfo {
    /// A listener: Linux shows how many connections wait and may wait in two fields of other meaning.
    pub fn listening(waiting: u32, backlog: u32) -> Self {
        Self { state: number_of(State::Listen), unacked: waiting, sacked: backlog, ..Self::unpaced() }
    }

    /// A socket that has no connection, or none any more.
    pub fn closed() -> Self {
        Self {
            state: number_of(State::Closed),
            rto: FIRST_TIMEOUT,
            snd_mss: DEFAULT_MSS,
            snd_cwnd: FIRST_CWND,
            snd_ssthresh: NO_THRESHOLD,
            reordering: REORDERING,
            ..Self::unpaced()
        }
    }

    fn unpaced() -> Self {
        Self { pacing_rate: u64::MAX, max_pacing_rate: u64::MAX, ..Self::new_zeroed() }
    }

    /// `max_segment`: TCP_MAXSEG as it was when the connection began.
    pub fn connected(info: &Info, max_segment: Option<u16>) -> Self {
        let mut options = 0;
        for (on, bit) in [
            (info.timestamps, TCPI_OPT_TIMESTAMPS),
            (info.sack, TCPI_OPT_SACK),
            (info.snd_scale != 0 || info.rcv_scale != 0, TCPI_OPT_WSCALE),
            (info.ecn, TCPI_OPT_ECN),
            (info.ecn_seen, TCPI_OPT_ECN_SEEN),
        ] {
            options |= if on { bit } else { 0 };
        }
        let accurate = info.accurate_ecn.unwrap_or_default();
        let [delivered_e1_bytes, delivered_e0_bytes, delivered_ce_bytes] = accurate.delivered_bytes;
        let [received_e1_bytes, received_e0_bytes, received_ce_bytes] = accurate.received_bytes;
        let mss = info.snd_mss;
        let announced = info.pmtu.saturating_sub(HEADERS).min(max_segment.unwrap_or(u16::MAX));
        Self {
            state: number_of(info.state),
            ca_state: info.recovery,
            retransmits: info.retries,
            probes: info.probes,
            backoff: info.retries,
            options,
            flags: u8::from(info.sending.app_limited),
            window_scales: info.snd_scale & 0xf | info.rcv_scale << 4,
            rto: micros(info.rto),
            snd_mss: mss.into(),
            rcv_mss: info.rcv_mss.into(),
            unacked: segments(info.unacked, mss),
            sacked: segments(info.sacked.into(), mss),
            lost: segments(info.lost, mss),
            last_data_sent: millis(info.last_sent),
            last_data_recv: millis(info.last_heard),
            last_ack_recv: millis(info.last_heard),
            pmtu: info.pmtu.into(),
            rtt: micros(info.rtt),
            rttvar: micros(info.rtt_variation),
            snd_ssthresh: match info.ssthresh {
                u32::MAX => NO_THRESHOLD,
                bytes => segments(bytes.into(), mss),
            },
            snd_cwnd: segments(info.cwnd.into(), mss),
            // What room it leaves for payload.
            advmss: announced.saturating_sub(if info.timestamps { TIMESTAMPS_LEN } else { 0 }).into(),
            reordering: REORDERING,
            rcv_space: info.rcv_wnd,
            total_retrans: info.retransmits,
            retrans: segments(info.sending.resent.into(), mss),
            pacing_rate: pacing_rate(info),
            bytes_acked: info.bytes_acked,
            bytes_received: info.bytes_received,
            segs_out: info.segs_out,
            segs_in: info.segs_in,
            notsent_bytes: info.unsent.min(u64::from(u32::MAX)) as u32,
            min_rtt: micros(info.min_rtt),
            delivery_rate: info.sending.delivery_rate,
            busy_time: info.sending.busy.as_micros(),
            rwnd_limited: info.sending.rwnd_limited.as_micros(),
            delivered: segments(info.bytes_acked + u64::from(info.sacked), mss),
            // What was sent again counts again.
            bytes_sent: info.bytes_acked + info.unacked + info.sending.bytes_retrans,
            bytes_retrans: info.sending.bytes_retrans,
            dsack_dups: info.sending.dsack_dups,
            reord_seen: info.sending.reord_seen,
            total_rto: info.sending.total_rto,
            total_rto_recoveries: info.sending.total_rto_recoveries,
            total_rto_time: info.sending.total_rto_time,
            snd_wnd: info.snd_wnd,
            delivered_ce: info.delivered_ce,
            rcv_wnd: info.rcv_wnd,
            received_ce: accurate.received_ce,
            delivered_e1_bytes,
            delivered_e0_bytes,
            delivered_ce_bytes,
            received_e1_bytes,
            received_e0_bytes,
            received_ce_bytes,
            accecn_fail_mode: accurate.failed.into(),
            accecn_opt_seen: accurate.option_seen.into(),
            ..Self::unpaced()
        }
    }
}
