//! The configuration of an engine: [`Config`], which cannot be wrong in itself, and how it comes from LKL's
//! environment variables and a JSON file.
//!
//! What only the host can tell (does the interface exist, is the address free) is checked when the engine starts. A
//! configuration loads whole or not at all; what is known but has no effect here becomes a warning, never silence.

mod access;
mod environment;
mod file;
mod json;
mod lkl;
mod resolve;
mod rules;
mod scalar;
mod sysctl;
#[cfg(test)]
mod tests;

pub use access::{Access, Account};
pub use file::{AddressKind, InterfaceKind, LogLevel, Protocol, Verdict, XdpModeChoice};
pub(crate) use json::nearest;
pub use json::schema;
pub(crate) use resolve::SIZES;
pub use rules::{Rule, policy};
pub use scalar::{Count, Mac, Network, PortRange};

use crate::sysctl::Tunables;
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Variable that names the file, LKL's.
pub const FILE_VARIABLE: &str = "LKL_HIJACK_CONFIG_FILE";
/// Read when neither the command line nor the environment names a file, as LKL does.
pub const FILE_DEFAULT: &str = "lkl-hijack.json";
/// Most interfaces of one engine (LKL's MAX_NET_DEVS).
pub const INTERFACES: usize = 16;

/// Everything that an engine is told before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// At least one.
    pub interfaces: Vec<Interface>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub shards: Count,
    /// Processors for the shards, in order; empty: those that the engine may use.
    pub cpus: Vec<usize>,
    /// How long an idle shard looks for work before it sleeps; `None`: it adapts.
    pub spin: Option<Duration>,
    pub user: Account,
    pub access: Access,
    /// The first that matches decides; none: the engine serves.
    pub rules: Vec<Rule>,
    /// A socket that cannot be accelerated is an error.
    pub strict: bool,
    /// What Linux's sysctls say here.
    pub sysctls: Tunables,
    pub sizes: Sizes,
    /// While no engine runs, segments of live flows are held back so long.
    pub hold: Duration,
    /// How long a graceful stop waits for connections to end.
    pub linger: Duration,
    pub log: LogLevel,
}

/// Records and bytes of one shard's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    pub connections: u32,
    pub listeners: u32,
    /// Half-open incoming connections.
    pub requests: u32,
    pub time_waits: u32,
    /// Bytes for fragments.
    pub reassembly: u32,
}

/// One interface of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    pub kind: InterfaceKind,
    /// Interface or device name; path of the device for macvtap.
    pub param: String,
    pub mode: AddressKind,
    /// IPv4 address and prefix length; `None` in shared mode: the host's.
    pub ip: Option<(Ipv4Addr, u8)>,
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Gateway for packets from `ip`.
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    /// Absent: the interface's.
    pub mtu: Option<u16>,
    pub mac: Option<Mac>,
    /// Permanent neighbours.
    pub neighbours: Vec<(IpAddr, Mac)>,
    /// virtio-net feature bits to use at most; `None`: all that the port offers.
    pub offload: Option<OffloadMask>,
    pub queues: Count,
    pub xdp_mode: XdpModeChoice,
    /// Frames of the port's memory per queue; `None`: the port's default.
    pub frames: Option<u32>,
}

/// virtio-net feature bits, LKL's `offload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OffloadMask(pub u32);

impl OffloadMask {
    /// The device may sum what we send (bit 0, CSUM).
    pub const fn tx_checksum(self) -> bool {
        self.0 & 1 != 0
    }

    /// We take frames that are only partially summed (bit 1, GUEST_CSUM).
    pub const fn rx_checksum(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// We take merged TCP segments (bits 7 and 8, GUEST_TSO4 and GUEST_TSO6).
    pub const fn receive_merged(self) -> bool {
        self.0 & (1 << 7 | 1 << 8) != 0
    }

    /// The device may cut our TCP segments (bits 11 and 12, HOST_TSO4 and HOST_TSO6).
    pub const fn segmentation(self) -> bool {
        self.0 & (1 << 11 | 1 << 12) != 0
    }
}

/// A default route that the configuration gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    pub gateway: IpAddr,
    /// Index into [`Config::interfaces`].
    pub interface: usize,
    /// For packets from this address only in LKL's meaning of `ifgateway`; `None`: for all.
    pub source: Option<IpAddr>,
}

impl Config {
    /// Default routes in the order of preference: the global gateways first, then each interface's.
    pub fn default_routes(&self) -> Vec<DefaultRoute> {
        let mut routes = Vec::new();
        for gateway in [self.gateway.map(IpAddr::V4), self.gateway6.map(IpAddr::V6)].into_iter().flatten() {
            if let Some(interface) = self.interface_towards(gateway) {
                routes.push(DefaultRoute { gateway, interface, source: None });
            }
        }
        for (interface, settings) in self.interfaces.iter().enumerate() {
            let v4 = settings.gateway.zip(settings.ip).map(|(gateway, ip)| (gateway.into(), ip.0.into()));
            let v6 = settings.gateway6.zip(settings.ipv6).map(|(gateway, ip)| (gateway.into(), ip.0.into()));
            for (gateway, source) in [v4, v6].into_iter().flatten() {
                routes.push(DefaultRoute { gateway, interface, source: Some(source) });
            }
        }
        routes
    }

    /// The interface on whose network `address` is, by the addresses of the configuration. A shared interface without
    /// one takes its routes from the host.
    pub fn interface_towards(&self, address: IpAddr) -> Option<usize> {
        self.interfaces.iter().position(|interface| {
            let v4 = interface.ip.map(|(ip, prefix_len)| Network { address: ip.into(), prefix_len });
            let v6 = interface.ipv6.map(|(ip, prefix_len)| Network { address: ip.into(), prefix_len });
            [v4, v6].into_iter().flatten().any(|network| network.contains(address))
        })
    }

    /// Shards to run where the engine may use `processors` and its interfaces have `queues` queues at most.
    pub fn shards_on(&self, processors: usize, queues: usize) -> usize {
        match self.shards {
            Count::Exactly(shards) => usize::from(shards),
            Count::Auto => processors.min(queues).clamp(1, persona_channel::layout::SHARDS),
        }
    }
}

/// A configuration and what the user should know about it.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// Loads the configuration of `persona up` and `persona run`: `file`, else the one that LKL_HIJACK_CONFIG_FILE names,
/// else ./lkl-hijack.json, else the environment alone.
pub fn load(file: Option<&Path>) -> Result<Loaded, Invalid> {
    let variables =
        || std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let named = file.map(Path::to_owned).or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    let path = named.or_else(|| Some(PathBuf::from(FILE_DEFAULT)).filter(|default| default.is_file()));
    let text = match &path {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Invalid {
            source: path.display().to_string(),
            problems: vec![Problem::new("", format_args!("cannot be read: {error}"))],
        })?),
    };
    // Who forgot the file reads here where one was looked for.
    let nowhere = || format!("the environment (no --config, no {FILE_VARIABLE}, no ./{FILE_DEFAULT})");
    let source = path.as_ref().map_or_else(nowhere, |path| path.display().to_string());
    let (config, warnings) = from_parts(variables(), text.as_deref(), &source)?;
    Ok(Loaded { config, warnings, file: path })
}

/// Loads the configuration from variables and the text of a file, called `source` in messages.
pub fn from_parts(
    variables: impl Iterator<Item = (String, String)>,
    text: Option<&str>,
    source: &str,
) -> Result<(Config, Vec<Problem>), Invalid> {
    let invalid = |problems| Invalid { source: source.to_owned(), problems };
    let environment = environment::read(variables).map_err(invalid)?;
    let from_file = text.map(json::parse).transpose().map_err(invalid)?.unwrap_or_default();
    let named_by_file: Vec<String> = from_file.keys().cloned().collect();
    let mut merged = environment.values;
    merged.extend(from_file);
    // What came from a variable is reported under the variable's name.
    let relabel = |mut problem: Problem| {
        let top = problem.at.split(['.', '[']).next().unwrap_or_default();
        if !named_by_file.iter().any(|key| key == top) {
            problem.at = environment::variable_of(&problem.at).unwrap_or(problem.at);
        }
        problem
    };
    let file = json::decode(merged).map_err(|problem| invalid(vec![relabel(problem)]))?;
    match resolve::resolve(file) {
        Ok((config, warnings)) => {
            let warnings = environment.warnings.into_iter().chain(warnings.into_iter().map(relabel)).collect();
            Ok((config, warnings))
        }
        Err(problems) => Err(invalid(problems.into_iter().map(relabel).collect())),
    }
}

/// Something to say about one place of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Path such as `interfaces[0].ip`, or the name of a variable; empty: the file as a whole.
    pub at: String,
    pub reason: String,
}

impl Problem {
    fn new(at: &str, reason: impl fmt::Display) -> Self {
        Problem { at: at.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(formatter, "{}: ", self.at)?;
        }
        formatter.write_str(&self.reason)
    }
}

/// The configuration is refused; nothing was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// File name, or what stands for it.
    pub source: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{}: {problem}", self.source)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
