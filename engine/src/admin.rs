//! The administration socket's protocol: one JSON request per line, one JSON reply per line.
//!
//! The engine answers, the command asks. `capture` and `trace` are the exceptions: after their reply the connection carries the
//! bytes of a pcapng file, or lines of JSON, until either side closes it. Starting, restarting and stopping are the keeper's affair and not
//! here, since they must work while no engine runs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the command asks: `{"request": "sockets"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answered with [`Info`].
    Info,
    /// Answered with a list of [`Socket`].
    Sockets,
    /// Answered with [`Stats`].
    Stats,
    /// Answered with a list of [`Filter`], one for each interface that diverts.
    Filter,
    /// Sets `set` in order, all or nothing, then answers with a list of [`Sysctl`]: those of `set`, those of `get`, and all where
    /// both are empty.
    Sysctl {
        #[serde(default)]
        set: Vec<Sysctl>,
        #[serde(default)]
        get: Vec<String>,
    },
    /// Answered with null; pcapng follows.
    Capture {
        #[serde(default)]
        filter: CaptureFilter,
        /// Bytes of each frame to keep; absent: all.
        #[serde(default)]
        snap: Option<u32>,
    },
    /// Answered with null; lines of JSON follow ([`crate::trace::Line`]) until the connection ends.
    Trace { local: std::net::SocketAddr, remote: std::net::SocketAddr },
}

/// A setting by Linux's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    pub name: String,
    /// As sysctl(8) writes it.
    pub value: String,
    /// What the user should know of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// `{"ok": ...}` or `{"error": "sentence"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    Ok(T),
    Error(String),
}

/// Which frames to capture: those to which everything that is set applies, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureFilter {
    /// Source or destination address.
    pub host: Option<std::net::IpAddr>,
    /// Source or destination port.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Frames that are ARP and nothing else.
    pub arp: bool,
}

/// What engine this is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    pub version: String,
    pub pid: u32,
    /// Channel ABI.
    pub abi: u32,
    /// Engines that the keeper has started before this one.
    pub restarts: u32,
    /// Seconds since this engine was ready.
    pub uptime: f64,
    pub sessions: u32,
    pub shards: Vec<ShardInfo>,
    pub interfaces: Vec<InterfaceInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardInfo {
    pub tid: u32,
    /// Processor that the shard is pinned to.
    pub cpu: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceInfo {
    /// As the configuration names it.
    pub param: String,
    /// own or shared.
    pub address: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    pub mtu: u32,
    pub mac: Option<String>,
    /// What was chosen for each queue, such as "AF_XDP driver copy, need_wakeup".
    pub ports: Vec<String>,
}

/// One socket, accelerated or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// As `ss` spells it: ESTAB, LISTEN, SYN-SENT, TIME-WAIT...; UNCONN without connection; HOST where the host serves.
    pub state: String,
    /// Address and port; `*` for any.
    pub local: String,
    pub remote: String,
    /// Bytes not yet read, or connections not yet accepted of a listener.
    pub recv_q: u64,
    /// Bytes not yet acknowledged, or the backlog of a listener.
    pub send_q: u64,
    /// Process that opened it; absent for connections that no process has any more.
    pub pid: Option<u32>,
    pub program: Option<String>,
    pub uid: Option<u32>,
    pub session: Option<u64>,
    pub shard: Option<u8>,
    /// Why the host serves the socket; absent where the engine does.
    pub reason: Option<String>,
    /// Payload passes through the anchor.
    pub relay: bool,
    /// A pending timer as `ss -o` shows it.
    pub timer: Option<Timer>,
    pub tcp: Option<Tcp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// on (retransmission), persist, keepalive, timewait, ato (delayed ACK).
    pub name: String,
    pub milliseconds: u64,
    pub retransmits: u32,
}

/// What `ss -i` prints of a connection. Times in milliseconds, sizes in bytes unless the name says otherwise; what the
/// engine does not know is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tcp {
    /// cubic or reno.
    pub congestion: Option<String>,
    pub timestamps: bool,
    pub sack: bool,
    /// Shifts that the peer and we announced.
    pub wscale: Option<(u8, u8)>,
    pub rto: Option<f64>,
    pub rtt: Option<f64>,
    pub rttvar: Option<f64>,
    pub min_rtt: Option<f64>,
    pub mss: Option<u32>,
    pub advmss: Option<u32>,
    pub pmtu: Option<u32>,
    /// Segments.
    pub cwnd: Option<u32>,
    /// Segments.
    pub ssthresh: Option<u32>,
    pub bytes_sent: Option<u64>,
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    pub bytes_retrans: Option<u64>,
    pub segs_out: Option<u64>,
    pub segs_in: Option<u64>,
    /// Segments under way.
    pub unacked: Option<u32>,
    pub sacked: Option<u32>,
    pub lost: Option<u32>,
    pub retrans: Option<u32>,
    pub retrans_total: Option<u32>,
    pub snd_wnd: Option<u32>,
    pub rcv_wnd: Option<u32>,
    /// Since the last data segment was sent.
    pub lastsnd: Option<u64>,
    pub lastrcv: Option<u64>,
    pub lastack: Option<u64>,
}

/// Counters since the engine began, all monotonic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// By Linux's names (TcpActiveOpens, TcpExtTCPTimeouts...), summed over the shards.
    pub stack: BTreeMap<String, u64>,
    /// The same of each shard, with the shard's own beside them (ShardWakeups, ShardMailboxFull...).
    pub shards: Vec<BTreeMap<String, u64>>,
    pub ports: Vec<PortStats>,
    /// Counters of the eBPF programs.
    pub ebpf: Vec<EbpfStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStats {
    pub interface: String,
    pub queue: u32,
    pub shard: u8,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EbpfStats {
    pub interface: String,
    pub counters: BTreeMap<String, u64>,
}

/// What one interface diverts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    pub interface: String,
    /// How it is attached: "xdp driver", "xdp generic", "tc"...
    pub attached: String,
    /// run, hold or pass.
    pub state: String,
    pub entries: Vec<FilterEntry>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterEntry {
    /// flow, listener or address.
    pub kind: String,
    pub local: String,
    pub remote: Option<String>,
    pub shard: Option<u8>,
    /// Frames that matched.
    pub hits: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_one_flat_object() {
        assert_eq!(serde_json::to_value(Request::Sockets).unwrap(), json!({"request": "sockets"}));
        let text = r#"{"request": "capture", "filter": {"port": 80}}"#;
        let expected = Request::Capture { filter: CaptureFilter { port: Some(80), ..Default::default() }, snap: None };
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), expected);
        assert!(serde_json::from_str::<Request>(r#"{"request": "dance"}"#).is_err());
    }

    #[test]
    fn replies_say_ok_or_error() {
        let reply = Reply::Ok(vec![Socket { state: "LISTEN".into(), ..Default::default() }]);
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<Reply<Vec<Socket>>>(&text).unwrap(), reply);
        let refused: Reply<Info> = serde_json::from_str(r#"{"error": "no"}"#).unwrap();
        assert_eq!(refused, Reply::Error("no".into()));
    }
}
