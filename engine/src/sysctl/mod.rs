//! Linux's names for what an administrator tunes: [`Tunables`] holds the values of an engine, [`table`] says what there is.
//!
//! The configuration's `sysctl` key sets them before start, `persona sysctl` while the engine runs: the control thread keeps the
//! values and tells every shard. They last as long as the engine, as those of sysctl(8) until the next start.

pub mod document;
pub mod table;
#[cfg(test)]
mod tests;

use crate::config::{SIZES, Sizes, nearest};
use persona_channel::stream::MAX_BUFFER;
use persona_stack::{Congestion, RESERVED_RANGES, SocketOptions, Stack, Sysctls};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use table::{Entry, Kind, TABLE};

/// Most bytes that a stream can hold: its chunk map covers no more.
pub const BUFFER_MAX: u32 = (persona_channel::layout::MAP_ENTRIES * persona_channel::layout::CHUNK_SIZE) as u32;
/// Fewer bytes than these do not keep one segment and its acknowledgement under way.
pub const BUFFER_MIN: u32 = 4096;
/// Linux's default of net.core.somaxconn.
const SOMAXCONN: u32 = 4_096;
/// Linux's range, where the host's cannot be read.
const PORTS: (u16, u16) = (32_768, 60_999);

/// tcp_rmem or tcp_wmem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// As on Linux of no more than documentary value: no memory is short.
    pub least: u32,
    /// What a socket has whose buffer does not grow.
    pub usual: u32,
    pub most: u32,
}

/// The values of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    pub stack: Sysctls,
    pub send_buffer: Buffer,
    pub receive_buffer: Buffer,
    /// Receive buffers grow with the path.
    pub moderate: bool,
    pub congestion: Congestion,
    /// The most that SO_SNDBUF and SO_RCVBUF ask for, before Linux doubles it.
    pub send_asked: u32,
    pub receive_asked: u32,
    pub somaxconn: u32,
    /// For ephemeral ports; `None`: the stack's and the host's.
    pub ports: Option<(u16, u16)>,
    /// Ranges, both ends included, that no ephemeral port is taken from.
    pub reserved_ports: Vec<(u16, u16)>,
    /// Records of a shard, which the arena is made for.
    pub requests: Option<u32>,
    pub time_waits: Option<u32>,
    /// Bytes of a shard.
    pub reassembly: Option<u32>,
    /// The arena is there: what sizes it cannot be set any more, and the tables are as large as these.
    pub started: Option<Made>,
}

/// What the arenas of a running engine were made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub requests: u32,
    pub time_waits: u32,
    pub reassembly: u32,
}

/// A value was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Linux knows it, and it has no effect here: the whole sentence.
    WithoutEffect(String),
    /// Nobody knows the name, or the value is wrong: the whole sentence.
    Wrong(String),
}

impl Refused {
    pub fn into_sentence(self) -> String {
        match self {
            Refused::WithoutEffect(sentence) | Refused::Wrong(sentence) => sentence,
        }
    }
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            stack: Sysctls::LINUX,
            send_buffer: Buffer { least: BUFFER_MIN, usual: 16_384, most: BUFFER_MAX },
            receive_buffer: Buffer { least: BUFFER_MIN, usual: 131_072, most: BUFFER_MAX },
            moderate: true,
            congestion: Congestion::default(),
            send_asked: MAX_BUFFER / 2,
            receive_asked: MAX_BUFFER / 2,
            somaxconn: SOMAXCONN,
            ports: None,
            reserved_ports: Vec::new(),
            requests: None,
            time_waits: None,
            reassembly: None,
            started: None,
        }
    }
}

impl Tunables {
    /// What a new socket starts with, as the stack takes it.
    pub fn options(&self) -> SocketOptions {
        let receive = if self.moderate { self.receive_buffer.most } else { self.receive_buffer.usual };
        SocketOptions {
            send_buffer: Some(self.send_buffer.most),
            receive_buffer: Some(receive),
            tune_receive: self.moderate,
            tune_send: true,
            congestion: Some(self.congestion),
            ..SocketOptions::default()
        }
    }

    /// The values of an engine whose arenas were made by `sizes`.
    pub fn started(&self, sizes: &Sizes) -> Self {
        let Sizes { requests, time_waits, reassembly, .. } = *sizes;
        Self {
            requests: self.requests.map(|wanted| wanted.min(requests)),
            time_waits: self.time_waits.map(|wanted| wanted.min(time_waits)),
            started: Some(Made { requests, time_waits, reassembly }),
            ..self.clone()
        }
    }

    /// Tells a stack.
    pub fn apply(&self, stack: &mut Stack<'_>) {
        stack.set_sysctls(&self.stack);
        if let Some((first, last)) = self.ports
            && let Err(error) = stack.set_port_range(first, last)
        {
            tracing::error!("ports {first} to {last} cannot be used: {error:?}");
        }
        if let Err(error) = stack.reserve_ports(&self.reserved_ports) {
            tracing::error!("ports cannot be kept from connect(): {error:?}");
        }
    }

    /// Sets `name` to `value` and says what the user should know of it, if anything.
    pub fn set(&mut self, name: &str, value: &str) -> Result<Option<String>, Refused> {
        let name = plain(name);
        let entry = known(&name)?;
        match entry.kind {
            Kind::Stack { field, min, max } => {
                *field(&mut self.stack) = number(&name, value, min, max)?;
                Ok(None)
            }
            Kind::Engine { .. } => self.set_own(&name, value),
            Kind::Start { .. } if self.started.is_some() => Err(Refused::WithoutEffect(format!(
                "{name} sizes memory when the engine starts: set it in the configuration's sysctl"
            ))),
            Kind::Start { .. } => {
                self.reassembly = Some(number(&name, value, 65_536, 1 << 28)?);
                Ok(None)
            }
            Kind::Shown => Err(Refused::WithoutEffect(format!("{name} is shown and cannot be set: {}", entry.note))),
            Kind::Nothing => Err(Refused::WithoutEffect(format!("{name} has no effect: {}", entry.note))),
        }
    }

    fn set_own(&mut self, name: &str, value: &str) -> Result<Option<String>, Refused> {
        match name {
            "net.core.rmem_max" => self.receive_asked = number(name, value, 2_304, i32::MAX as u32)?,
            "net.core.wmem_max" => self.send_asked = number(name, value, 4_608, i32::MAX as u32)?,
            "net.core.somaxconn" => self.somaxconn = number(name, value, 0, 65_535)?,
            "net.ipv4.ip_local_port_range" => self.ports = Some(ports(name, value)?),
            "net.ipv4.ip_local_reserved_ports" => self.reserved_ports = ranges(name, value)?,
            "net.ipv4.tcp_congestion_control" => self.congestion = congestion(name, value)?,
            "net.ipv4.tcp_moderate_rcvbuf" => self.moderate = number(name, value, 0, 1)? != 0,
            "net.ipv4.tcp_max_syn_backlog" => {
                let most = self.started.map_or(1 << 20, |made| made.requests);
                let records = table_size(name, value, 1, most, self.started.is_some(), "syn_backlog")?;
                self.stack.max_syn_backlog = records;
                self.requests = Some(records);
            }
            "net.ipv4.tcp_max_tw_buckets" => {
                let most = self.started.map_or(1 << 22, |made| made.time_waits);
                let records = table_size(name, value, 0, most, self.started.is_some(), "time_waits")?;
                self.stack.max_tw_buckets = records;
                self.time_waits = Some(records);
            }
            "net.ipv4.tcp_rmem" => return buffer(name, value, &mut self.receive_buffer),
            "net.ipv4.tcp_wmem" => return buffer(name, value, &mut self.send_buffer),
            _ => return Err(Refused::Wrong(format!("{name} cannot be set: the engine has no place for it"))),
        }
        Ok(None)
    }

    /// The value as sysctl(8) prints it; for names with an effect.
    pub fn get(&self, name: &str) -> Result<(&'static str, String), Refused> {
        let name = plain(name);
        let entry = known(&name)?;
        match self.shown(entry) {
            Some(value) => Ok((entry.name, value)),
            None => Err(Refused::WithoutEffect(format!("{name} has no effect: {}", entry.note))),
        }
    }

    /// All that have an effect, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        TABLE.iter().filter_map(|entry| Some((entry.name, self.shown(entry)?)))
    }

    fn shown(&self, entry: &Entry) -> Option<String> {
        if let Kind::Stack { field, .. } = entry.kind {
            let mut stack = self.stack;
            return Some(field(&mut stack).to_string());
        }
        if !entry.has_effect() {
            return None;
        }
        let three = |buffer: &Buffer| format!("{} {} {}", buffer.least, buffer.usual, buffer.most);
        let made = self.started;
        Some(match entry.name {
            "net.core.rmem_max" => self.receive_asked.to_string(),
            "net.core.wmem_max" => self.send_asked.to_string(),
            "net.core.somaxconn" => self.somaxconn.to_string(),
            "net.ipv4.ip_local_port_range" => {
                let (first, last) = self.ports.unwrap_or(PORTS);
                format!("{first} {last}")
            }
            "net.ipv4.ip_local_reserved_ports" => shown_ranges(&self.reserved_ports),
            "net.ipv4.ipfrag_high_thresh" => {
                made.map(|made| made.reassembly).or(self.reassembly).unwrap_or(SIZES.reassembly).to_string()
            }
            "net.ipv4.tcp_available_congestion_control" => {
                Congestion::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" ")
            }
            "net.ipv4.tcp_congestion_control" => self.congestion.name().to_owned(),
            "net.ipv4.tcp_max_syn_backlog" => {
                let table = made.map_or(SIZES.requests, |made| made.requests);
                self.requests.unwrap_or(table).to_string()
            }
            "net.ipv4.tcp_max_tw_buckets" => {
                let table = made.map_or(SIZES.time_waits, |made| made.time_waits);
                self.time_waits.unwrap_or(table).to_string()
            }
            "net.ipv4.tcp_moderate_rcvbuf" => u8::from(self.moderate).to_string(),
            "net.ipv4.tcp_rmem" => three(&self.receive_buffer),
            "net.ipv4.tcp_wmem" => three(&self.send_buffer),
            _ => return None,
        })
    }
}

impl Serialize for Tunables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.all() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// Names may have slashes for dots, as in /proc/sys.
fn plain(name: &str) -> String {
    name.trim().replace('/', ".")
}

fn known(name: &str) -> Result<&'static Entry, Refused> {
    if let Some(entry) = table::find(name) {
        return Ok(entry);
    }
    if let Some(reason) = table::reason_elsewhere(name) {
        return Err(Refused::WithoutEffect(format!("{name} has no effect: {reason}")));
    }
    let close = nearest(name, TABLE.iter().map(|entry| entry.name)).unwrap_or_default();
    Err(Refused::Wrong(format!("`{name}` is no sysctl; the nearest is {close}")))
}

fn number(name: &str, value: &str, min: u32, max: u32) -> Result<u32, Refused> {
    value
        .trim()
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| Refused::Wrong(format!("{name}: `{}` is not a number from {min} to {max}", value.trim())))
}

fn table_size(name: &str, value: &str, min: u32, most: u32, started: bool, key: &str) -> Result<u32, Refused> {
    number(name, value, min, most).map_err(|refused| match refused {
        Refused::Wrong(sentence) if started => Refused::Wrong(format!(
            "{sentence}: the engine was started with a table of {most} (key {key} of the configuration)"
        )),
        refused => refused,
    })
}

fn ports(name: &str, value: &str) -> Result<(u16, u16), Refused> {
    let ports: Vec<u16> = value.split_whitespace().map_while(|port| port.parse().ok()).collect();
    match (ports.as_slice(), value.split_whitespace().count()) {
        (&[first, last], 2) if first > 0 && first <= last => Ok((first, last)),
        _ => Err(Refused::Wrong(format!("{name}: `{value}` is not two ports from 1 to 65535, the lower one first"))),
    }
}

/// "8080,9148-9150", as Linux writes it; empty: none.
fn ranges(name: &str, value: &str) -> Result<Vec<(u16, u16)>, Refused> {
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range: (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    };
    let ranges: Option<Vec<_>> = parts.map(range).collect();
    ranges.filter(|ranges| ranges.len() <= RESERVED_RANGES).ok_or_else(|| {
        let form = format!("a list of ports and ranges such as 8080,9148-9150, at most {RESERVED_RANGES}");
        Refused::Wrong(format!("{name}: `{value}` is not {form}"))
    })
}

fn shown_ranges(ranges: &[(u16, u16)]) -> String {
    let shown = |&(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(shown).collect::<Vec<_>>().join(",")
}

fn congestion(name: &str, value: &str) -> Result<Congestion, Refused> {
    Congestion::by_name(value.trim()).ok_or_else(|| {
        let known: Vec<_> = Congestion::ALL.iter().map(|kind| kind.name()).collect();
        Refused::Wrong(format!("{name}: `{value}` is not in this stack; write one of: {}", known.join(", ")))
    })
}

/// "min default max". What is beyond the greatest stream is taken as that, and said.
fn buffer(name: &str, value: &str, buffer: &mut Buffer) -> Result<Option<String>, Refused> {
    let numbers: Vec<u64> = value.split_whitespace().map_while(|number| number.parse().ok()).collect();
    let (&[min, default, max], 3) = (numbers.as_slice(), value.split_whitespace().count()) else {
        let sentence = format!("{name}: `{value}` is not three numbers (least, default and greatest bytes)");
        return Err(Refused::Wrong(sentence));
    };
    if !(min <= default && default <= max) {
        return Err(Refused::Wrong(format!("{name}: `{value}`: the three numbers must not decrease")));
    }
    let bounded = |bytes: u64| bytes.clamp(u64::from(BUFFER_MIN), u64::from(BUFFER_MAX)) as u32;
    *buffer = Buffer { least: bounded(min), usual: bounded(default), most: bounded(max) };
    let told = u64::from(buffer.most) != max;
    Ok(told.then(|| format!("{name}: {max} bytes are beyond what a stream can hold; {} serve", buffer.most)))
}
