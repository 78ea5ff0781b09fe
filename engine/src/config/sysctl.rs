//! LKL's `sysctl` key: which of Linux's settings mean something to the stack, and why the others do not.

use super::Problem;
use super::json::nearest;
use persona_stack::{Congestion, Duration, SocketOptions};
use serde::Serialize;

/// Most bytes that a stream can hold: its chunk map covers no more.
pub const BUFFER_MAX: u32 = (persona_channel::layout::MAP_ENTRIES * persona_channel::layout::CHUNK_SIZE) as u32;
/// Fewer bytes than these do not keep one segment and its acknowledgement under way.
pub const BUFFER_MIN: u32 = 4096;
/// Buffers grow with the path, up to these.
const BUFFER_DEFAULT: u32 = BUFFER_MAX;

/// What a new socket starts with. `None`: the stack's default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketDefaults {
    /// Bytes.
    pub send_buffer: u32,
    /// Bytes.
    pub receive_buffer: u32,
    /// Linux's name of the congestion controller.
    #[serde(serialize_with = "by_name")]
    pub congestion: Congestion,
    /// Seconds.
    pub keep_idle: Option<u32>,
    /// Seconds.
    pub keep_interval: Option<u32>,
    pub keep_count: Option<u8>,
    pub syn_retries: Option<u8>,
    pub ttl: Option<u8>,
}

impl Default for SocketDefaults {
    fn default() -> Self {
        Self {
            send_buffer: BUFFER_DEFAULT,
            receive_buffer: BUFFER_DEFAULT,
            congestion: Congestion::default(),
            keep_idle: None,
            keep_interval: None,
            keep_count: None,
            syn_retries: None,
            ttl: None,
        }
    }
}

impl SocketDefaults {
    /// As the stack takes them.
    pub fn options(&self) -> SocketOptions {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        SocketOptions {
            send_buffer: Some(self.send_buffer),
            receive_buffer: Some(self.receive_buffer),
            tune_receive: true,
            tune_send: true,
            congestion: Some(self.congestion),
            keep_idle: self.keep_idle.map(seconds),
            keep_interval: self.keep_interval.map(seconds),
            keep_count: self.keep_count,
            syn_retries: self.syn_retries,
            ttl: self.ttl,
            ..SocketOptions::default()
        }
    }
}

/// What the `sysctl` key changes.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub sockets: SocketDefaults,
    pub requests: Option<u32>,
    pub time_waits: Option<u32>,
    pub reassembly: Option<u32>,
    pub warnings: Vec<Problem>,
}

/// Names that are applied.
const APPLIED: &[&str] = &[
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.ip_default_ttl",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.ipfrag_high_thresh",
];

/// Names, or beginnings of names that end with a dot, without effect, and why. The first that fits is said.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("net.mptcp.", "this release has no MPTCP"),
    ("net.ipv4.tcp_sack", "selective acknowledgements are always on"),
    ("net.ipv4.tcp_timestamps", "timestamps are always offered"),
    ("net.ipv4.tcp_window_scaling", "window scaling is always offered"),
    ("net.ipv4.tcp_syncookies", "cookies serve whenever the backlog is full, and only then"),
    ("net.ipv4.tcp_mem", "memory is bounded by the keys connections, send_buffer and receive_buffer"),
    (
        "net.ipv4.tcp_moderate_rcvbuf",
        "a receive buffer takes memory only while it holds bytes, so nothing is moderated",
    ),
    ("net.ipv4.tcp_no_metrics_save", "no metrics are saved between connections"),
    ("net.ipv4.tcp_low_latency", "Linux itself ignores it"),
    ("net.ipv4.tcp_fastopen", "this release has no TCP Fast Open"),
    ("net.ipv4.tcp_ecn", "this release does not negotiate ECN"),
    ("net.ipv4.tcp_mtu_probing", "this release does not probe path MTUs"),
    ("net.ipv4.ip_forward", "the stack forwards nothing"),
    ("net.ipv4.ip_local_port_range", "the stack picks ephemeral ports by the shard that will own the flow"),
    ("net.core.wmem_max", "the key send_buffer is the limit"),
    ("net.core.rmem_max", "the key receive_buffer is the limit"),
    ("net.core.default_qdisc", "there is no queueing discipline between stack and port"),
    ("net.core.busy_poll", "the key spin_us says how long a shard polls"),
    ("net.core.busy_read", "the key spin_us says how long a shard polls"),
    ("net.ipv6.", "this release's stack carries IPv4 only"),
    ("net.", "Persona's stack has no such setting"),
    ("kernel.", "there is no kernel inside Persona that it could set"),
    ("vm.", "there is no kernel inside Persona that it could set"),
    ("fs.", "there is no kernel inside Persona that it could set"),
    ("dev.", "there is no kernel inside Persona that it could set"),
    ("debug.", "there is no kernel inside Persona that it could set"),
];

/// Reads "name=value;name=value". Names may have slashes for dots, as in /proc/sys.
pub(super) fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    for assignment in text.split(';').map(str::trim).filter(|assignment| !assignment.is_empty()) {
        let Some((name, value)) = assignment.split_once('=') else {
            problems.push(Problem::new("sysctl", format_args!("`{assignment}` is not of the form name=value")));
            continue;
        };
        let name = name.trim().replace('/', ".");
        if let Err(reason) = settings.set(&name, value.trim()) {
            problems.push(Problem::new("sysctl", reason));
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

impl Settings {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if matches!(name, "net.ipv4.tcp_wmem" | "net.ipv4.tcp_rmem") {
            let bytes = self.buffer(name, value)?;
            let sending = name == "net.ipv4.tcp_wmem";
            *(if sending { &mut self.sockets.send_buffer } else { &mut self.sockets.receive_buffer }) = bytes;
            return Ok(());
        }
        let sockets = &mut self.sockets;
        match name {
            "net.ipv4.tcp_congestion_control" => sockets.congestion = congestion(value)?,
            "net.ipv4.tcp_keepalive_time" => sockets.keep_idle = Some(number(name, value, 1, 32_767)?),
            "net.ipv4.tcp_keepalive_intvl" => sockets.keep_interval = Some(number(name, value, 1, 32_767)?),
            "net.ipv4.tcp_keepalive_probes" => sockets.keep_count = Some(number(name, value, 1, 127)? as u8),
            "net.ipv4.tcp_syn_retries" => sockets.syn_retries = Some(number(name, value, 1, 127)? as u8),
            "net.ipv4.ip_default_ttl" => sockets.ttl = Some(number(name, value, 1, 255)? as u8),
            "net.ipv4.tcp_max_syn_backlog" => self.requests = Some(number(name, value, 1, 1 << 20)?),
            "net.ipv4.tcp_max_tw_buckets" => self.time_waits = Some(number(name, value, 1, 1 << 20)?),
            "net.ipv4.ipfrag_high_thresh" => self.reassembly = Some(number(name, value, 65_536, 1 << 28)?),
            _ => self.without_effect(name)?,
        }
        Ok(())
    }

    /// "min default max": the greatest counts, since a buffer takes memory only while it holds bytes.
    fn buffer(&mut self, name: &str, value: &str) -> Result<u32, String> {
        let numbers: Vec<u64> = value.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let &[min, default, max] = numbers.as_slice() else {
            return Err(format!("{name}: `{value}` is not three numbers (least, default and greatest bytes)"));
        };
        if !(min <= default && default <= max) {
            return Err(format!("{name}: `{value}`: the three numbers must not decrease"));
        }
        let bounded = max.clamp(u64::from(BUFFER_MIN), u64::from(BUFFER_MAX)) as u32;
        if u64::from(bounded) != max {
            let reason = format_args!("{name}: {max} bytes are beyond what a stream can hold; {bounded} serve");
            self.warnings.push(Problem::new("sysctl", reason));
        }
        Ok(bounded)
    }

    fn without_effect(&mut self, name: &str) -> Result<(), String> {
        let fits = |known: &str| name == known || known.ends_with('.') && name.starts_with(known);
        let close = nearest(name, APPLIED.iter().copied()).unwrap_or_default();
        let Some((_, reason)) = WITHOUT_EFFECT.iter().find(|(known, _)| fits(known)) else {
            return Err(format!("`{name}` is no sysctl; the nearest that has an effect is {close}"));
        };
        // One or two letters apart: more likely a slip of the pen than another setting.
        let hint =
            if strsim::osa_distance(name, close) <= 2 { format!(" (did you mean {close}?)") } else { String::new() };
        self.warnings.push(Problem::new("sysctl", format_args!("{name} has no effect: {reason}{hint}")));
        Ok(())
    }
}

fn congestion(value: &str) -> Result<Congestion, String> {
    Congestion::by_name(value).ok_or_else(|| {
        let known: Vec<_> = Congestion::ALL.iter().map(|kind| kind.name()).collect();
        format!("net.ipv4.tcp_congestion_control: `{value}` is not in this stack; write one of: {}", known.join(", "))
    })
}

fn by_name<S: serde::Serializer>(kind: &Congestion, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(kind.name())
}

fn number(name: &str, value: &str, min: u32, max: u32) -> Result<u32, String> {
    value
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{name}: `{value}` is not a number from {min} to {max}"))
}
