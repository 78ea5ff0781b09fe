//! What only a live connection knows: TCP_INFO and its kind for getsockopt, and what `persona sockets` shows.
//!
//! The form of TCP_INFO is in `tcp_info.rs`.

use super::Shard;
use super::commands::Outcome;
use super::host::shard_index;
use super::options::Value;
use super::record::Phase;
use super::sessions::owner_of;
use super::tcp_info::{TcpInfo, controller_info};
use crate::admin::{Tcp, Timer};
use crate::message::SlotKey;
use persona_channel::layout::REPLY_SIZE;
use persona_stack::{Duration, Info, State};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

// Constants that the libc crate does not have for every target.
const SO_COOKIE: i32 = 57;
const IP_PROTOCOL: i32 = 52;
const TCP_CC_INFO: i32 = 26;

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
            (libc::SOL_SOCKET, libc::SO_PEERNAME, _) => {
                match record.remote.filter(|_| info.is_some_and(|info| info.state != State::SynSent)) {
                    Some(remote) => address_value(remote, room),
                    None => Err(libc::ENOTCONN),
                }
            }
            (libc::SOL_SOCKET, SO_COOKIE, _) if room < 8 => Err(libc::EINVAL),
            (libc::SOL_SOCKET, SO_COOKIE, _) => Ok(Value::bytes(&cookie(key).to_ne_bytes())),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG, Some(info)) => Ok(Value::int(info.snd_mss.into())),
            (libc::IPPROTO_IP, libc::IP_MTU, Some(info)) => Ok(Value::int(info.pmtu.into())),
            (libc::IPPROTO_IP, libc::IP_MTU, None) => Err(libc::ENOTCONN),
            // What Linux shows is the number of the local port.
            (libc::IPPROTO_IP, IP_PROTOCOL, _) => Ok(Value::int(record.local.map_or(0, |local| local.port().into()))),
            (libc::IPPROTO_TCP, libc::TCP_INFO, _) => {
                let layout = match &info {
                    Some(info) => TcpInfo::connected(info, record.settings.stack.max_segment),
                    None if is_listening(record.phase) => self.listener_info(key),
                    None => TcpInfo::closed(),
                };
                let bytes = layout.as_bytes();
                return Outcome::Bytes(bytes[..bytes.len().min(room)].into());
            }
            (libc::IPPROTO_TCP, TCP_CC_INFO, Some(info)) => {
                let bytes = controller_info(info);
                return Outcome::Bytes(bytes[..bytes.len().min(room)].into());
            }
            (level, name, _) => record.settings.value(level, name, room, self.stack.sysctls()),
        };
        match value {
            Ok(value) => Outcome::Bytes(value.as_bytes()[..value.as_bytes().len().min(room)].into()),
            Err(errno) => Outcome::Done(-errno),
        }
    }
}

impl Shard<'_> {
    /// Of the connections that wait, this shard knows its own.
    fn listener_info(&mut self, key: SlotKey) -> TcpInfo {
        let index = shard_index(self.links.index);
        let Some(attached) = self.host.sessions.get(key.session) else { return TcpInfo::listening(0, 0) };
        let session = Arc::clone(&attached.session);
        let Some(listener) = attached.listener(key.slot) else { return TcpInfo::listening(0, 0) };
        let waiting = listener.accept.len(session.view().accept_ring(listener.ring, index)).unwrap_or(0);
        TcpInfo::listening(waiting, listener.backlog)
    }
}

/// A struct sockaddr_in. Linux refuses room for more.
fn address_value(address: SocketAddr, room: usize) -> Result<Value, i32> {
    let SocketAddr::V4(address) = address else { return Err(libc::EAFNOSUPPORT) };
    let mut bytes = [0; 16];
    if room > bytes.len() {
        return Err(libc::EINVAL);
    }
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&address.ip().octets());
    Ok(Value::bytes(&bytes))
}

/// Names a socket of this engine, never 0.
fn cookie(key: SlotKey) -> u64 {
    u64::from(key.session + 1) << 48 ^ u64::from(key.slot.get()) << 32 ^ u64::from(key.generation)
}

pub fn is_listening(phase: Phase) -> bool {
    matches!(phase, Phase::Listening(_))
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
pub fn segments(bytes: u64, mss: u16) -> u32 {
    bytes.div_ceil(u64::from(mss.max(1))).min(u64::from(u32::MAX)) as u32
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
        bytes_sent: Some(info.bytes_acked + info.unacked + info.sending.bytes_retrans),
        bytes_retrans: Some(info.sending.bytes_retrans),
        bytes_acked: Some(info.bytes_acked),
        bytes_received: Some(info.bytes_received),
        segs_out: Some(info.segs_out.into()),
        segs_in: Some(info.segs_in.into()),
        unacked: Some(segments(info.unacked, mss)),
        sacked: Some(segments(info.sacked.into(), mss)),
        lost: Some(segments(info.lost, mss)),
        retrans: Some(segments(info.sending.resent.into(), mss)),
        retrans_total: Some(info.retransmits),
        snd_wnd: Some(info.snd_wnd),
        rcv_wnd: Some(info.rcv_wnd),
        lastsnd: Some(info.last_sent.as_millis()),
        lastrcv: Some(info.last_heard.as_millis()),
        ..Tcp::default()
    }
}
