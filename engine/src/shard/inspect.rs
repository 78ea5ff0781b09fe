//! What only a live connection knows: TCP_INFO and its kind for getsockopt, and what `persona sockets` shows.

use super::Shard;
use super::commands::Outcome;
use super::options::Value;
use super::record::Phase;
use super::sessions::owner_of;
use crate::admin::{Tcp, Timer};
use crate::message::SlotKey;
use persona_channel::layout::REPLY_SIZE;
use persona_stack::{Duration, Info, State};
use std::sync::atomic::Ordering;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// struct tcp_info of linux/tcp.h (Linux 6.2); later fields are cut off, as an older kernel does.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
struct TcpInfo {
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
}

const _: () = assert!(size_of::<TcpInfo>() == 232 && size_of::<TcpInfo>() <= REPLY_SIZE);

const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;

impl Shard<'_> {
    pub(crate) fn get_option(&mut self, key: SlotKey, args: &[u64; 6]) -> Outcome {
        let (level, name) = (args[0] as i32, args[1] as i32);
        let room = (args[2] as usize).min(REPLY_SIZE);
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        let info = record.connection.and_then(|connection| self.stack.info(self.now, connection).ok());
        let value = match (level, name, &info) {
            (libc::SOL_SOCKET, libc::SO_ERROR, _) => Ok(Value::int(socket.state.error.swap(0, Ordering::AcqRel))),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN, _) => Ok(Value::int(is_listening(record.phase).into())),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG, Some(info)) => Ok(Value::int(info.snd_mss.into())),
            (libc::IPPROTO_IP, libc::IP_MTU, Some(info)) => Ok(Value::int(info.pmtu.into())),
            (libc::IPPROTO_IP, libc::IP_MTU, None) => Err(libc::ENOTCONN),
            (libc::IPPROTO_TCP, libc::TCP_INFO, _) => {
                let layout = match &info {
                    Some(info) => tcp_info(info),
                    None => TcpInfo { state: linux_state(None, record.phase), ..TcpInfo::new_zeroed() },
                };
                let bytes = layout.as_bytes();
                return Outcome::Bytes(bytes[..bytes.len().min(room)].into());
            }
            (level, name, _) => record.settings.value(level, name),
        };
        match value {
            Ok(value) => Outcome::Bytes(value.as_bytes()[..value.as_bytes().len().min(room)].into()),
            Err(errno) => Outcome::Done(-errno),
        }
    }
}

pub fn is_listening(phase: Phase) -> bool {
    matches!(phase, Phase::Listening(_))
}

/// TCP_ESTABLISHED and so on, as linux/tcp_states.h counts.
fn linux_state(state: Option<State>, phase: Phase) -> u8 {
    match state {
        None if is_listening(phase) => 10,
        None | Some(State::Closed) => 7,
        Some(State::Established) => 1,
        Some(State::SynSent) => 2,
        Some(State::SynReceived) => 3,
        Some(State::FinWait1) => 4,
        Some(State::FinWait2) => 5,
        Some(State::TimeWait) => 6,
        Some(State::CloseWait) => 8,
        Some(State::LastAck) => 9,
        Some(State::Listen) => 10,
        Some(State::Closing) => 11,
    }
}

/// As `ss` spells it.
pub fn state_name(info: &Info) -> &'static str {
    match info.state {
        State::Closed => "UNCONN",
        State::SynSent => "SYN-SENT",
        State::SynReceived => "SYN-RECV",
        State::Established => "ESTAB",
        State::FinWait1 => "FIN-WAIT-1",
        State::FinWait2 => "FIN-WAIT-2",
        State::CloseWait => "CLOSE-WAIT",
        State::Closing => "CLOSING",
        State::LastAck => "LAST-ACK",
        State::TimeWait => "TIME-WAIT",
        State::Listen => "LISTEN",
    }
}

/// Bytes as segments, which Linux counts in.
fn segments(bytes: u64, mss: u16) -> u32 {
    bytes.div_ceil(u64::from(mss.max(1))).min(u64::from(u32::MAX)) as u32
}

fn micros(span: Duration) -> u32 {
    span.as_micros().min(u64::from(u32::MAX)) as u32
}

fn millis(span: Duration) -> u32 {
    span.as_millis().min(u64::from(u32::MAX)) as u32
}

fn tcp_info(info: &Info) -> TcpInfo {
    let mut options = 0;
    for (on, bit) in [
        (info.timestamps, TCPI_OPT_TIMESTAMPS),
        (info.sack, TCPI_OPT_SACK),
        (info.snd_scale != 0 || info.rcv_scale != 0, TCPI_OPT_WSCALE),
    ] {
        options |= if on { bit } else { 0 };
    }
    let mss = info.snd_mss;
    TcpInfo {
        state: linux_state(Some(info.state), Phase::Connected),
        ca_state: info.recovery,
        retransmits: info.retries,
        probes: info.probes,
        backoff: info.retries,
        options,
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
            u32::MAX => 0x7fff_ffff,
            bytes => segments(bytes.into(), mss),
        },
        snd_cwnd: segments(info.cwnd.into(), mss),
        advmss: info.rcv_mss.into(),
        reordering: 3,
        rcv_space: info.rcv_wnd,
        total_retrans: info.retransmits,
        pacing_rate: u64::MAX,
        max_pacing_rate: u64::MAX,
        bytes_acked: info.bytes_acked,
        bytes_received: info.bytes_received,
        segs_out: info.segs_out,
        segs_in: info.segs_in,
        notsent_bytes: info.unsent.min(u64::from(u32::MAX)) as u32,
        min_rtt: micros(info.min_rtt),
        bytes_sent: info.bytes_acked + info.unacked,
        snd_wnd: info.snd_wnd,
        ..TcpInfo::new_zeroed()
    }
}

/// What `ss -o` shows.
pub fn timer(info: &Info) -> Option<Timer> {
    let due = info.timer?;
    let name = if info.unacked == 0 && info.unsent > 0 { "persist" } else { "on" };
    Some(Timer { name: name.to_owned(), milliseconds: due.as_millis(), retransmits: info.retries.into() })
}

/// What `ss -i` shows.
pub fn tcp(info: &Info) -> Tcp {
    let millis = |span: Duration| Some(span.as_micros() as f64 / 1_000.0).filter(|&value| value > 0.0);
    let mss = info.snd_mss;
    let scaled = info.snd_scale != 0 || info.rcv_scale != 0;
    Tcp {
        congestion: Some(info.congestion.name().to_owned()),
        timestamps: info.timestamps,
        sack: info.sack,
        wscale: scaled.then_some((info.snd_scale, info.rcv_scale)),
        rto: millis(info.rto),
        rtt: millis(info.rtt),
        rttvar: millis(info.rtt_variation),
        min_rtt: millis(info.min_rtt),
        mss: Some(mss.into()),
        pmtu: Some(info.pmtu.into()),
        cwnd: Some(segments(info.cwnd.into(), mss)),
        ssthresh: (info.ssthresh != u32::MAX).then(|| segments(info.ssthresh.into(), mss)),
        bytes_sent: Some(info.bytes_acked + info.unacked),
        bytes_acked: Some(info.bytes_acked),
        bytes_received: Some(info.bytes_received),
        segs_out: Some(info.segs_out.into()),
        segs_in: Some(info.segs_in.into()),
        unacked: Some(segments(info.unacked, mss)),
        sacked: Some(segments(info.sacked.into(), mss)),
        lost: Some(segments(info.lost, mss)),
        retrans_total: Some(info.retransmits),
        snd_wnd: Some(info.snd_wnd),
        rcv_wnd: Some(info.rcv_wnd),
        lastsnd: Some(info.last_sent.as_millis()),
        lastrcv: Some(info.last_heard.as_millis()),
        ..Tcp::default()
    }
}
