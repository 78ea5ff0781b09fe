//! From the file as it is written to a [`Config`]: defaults, what belongs together, and what contradicts itself.

use super::access::{resolve_access, resolve_account};
use super::file::{AddressKind, File, InterfaceFile, InterfaceKind, LogLevel};
use super::rules::resolve_rules;
use super::scalar::{Count, Loose, Mac, Scalar};
use super::sysctl;
use super::{Access, Account, Config, INTERFACES, Interface, OffloadMask, Problem, Sizes, lkl};
use crate::sysctl::{BUFFER_MAX, BUFFER_MIN};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

const USER: &str = "nobody";
/// Longer than a restart of the engine takes, shorter than a retransmission timer that backed off a few times.
const HOLD: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(2);
/// Records of a shard: enough for a busy server, and untouched records take no memory.
pub(crate) const SIZES: Sizes =
    Sizes { connections: 65_536, listeners: 1_024, requests: 4_096, time_waits: 32_768, reassembly: 4 << 20 };
/// Longest interface name (IFNAMSIZ with its NUL is 16).
const NAME_MAX: usize = 15;
/// virtio-net bits that mean something here; see [`OffloadMask`].
const OFFLOAD_KNOWN: u32 = 0x1 | 0x2 | 0x80 | 0x100 | 0x800 | 0x1000;

/// All problems are found before any is reported.
pub(super) fn resolve(file: File) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let mut notes = Notes { warnings: lkl::global(&file), problems: Vec::new() };
    let (mut sysctls, warnings) =
        match file.sysctl.as_ref().map(|text| sysctl::parse(&text.0)).unwrap_or_else(|| Ok(Default::default())) {
            Ok(parsed) => parsed,
            Err(problems) => {
                notes.problems.extend(problems);
                Default::default()
            }
        };
    notes.warnings.extend(warnings);

    let mut bounded = |key: &str, value: Option<Loose<u32>>, default: u32, min: u32, max: u32| {
        let value = value.map_or(default, |value| value.0);
        if !(min..=max).contains(&value) {
            notes.problem(key, format_args!("{value} is out of range: from {min} to {max}"));
        }
        value
    };
    let (send, receive) = (&mut sysctls.send_buffer, &mut sysctls.receive_buffer);
    send.most = bounded("send_buffer", file.send_buffer, send.most, BUFFER_MIN, BUFFER_MAX);
    receive.most = bounded("receive_buffer", file.receive_buffer, receive.most, BUFFER_MIN, BUFFER_MAX);
    for buffer in [send, receive] {
        buffer.usual = buffer.usual.min(buffer.most);
    }
    let sizes = Sizes {
        connections: bounded("connections", file.connections, SIZES.connections, 16, 1 << 22),
        listeners: bounded("listeners", file.listeners, SIZES.listeners, 1, 1 << 16),
        requests: bounded("syn_backlog", file.syn_backlog, sysctls.requests.unwrap_or(SIZES.requests), 1, 1 << 20),
        time_waits: bounded("time_waits", file.time_waits, sysctls.time_waits.unwrap_or(SIZES.time_waits), 0, 1 << 22),
        reassembly: bounded(
            "reassembly",
            file.reassembly,
            sysctls.reassembly.unwrap_or(SIZES.reassembly),
            65_536,
            1 << 28,
        ),
    };

    let (shards, cpus) = placement(&mut notes, file.shards, file.cpus, file.singlecpu.is_some_and(|single| single.0.0));
    let user = resolve_account(file.user.as_ref().map_or(USER, |user| &user.0.0)).unwrap_or_else(|problem| {
        notes.problems.push(problem);
        Account { name: String::new(), uid: u32::MAX, gid: u32::MAX }
    });
    let access = file.access.map_or(Access::Everybody, |access| resolve_access(&access, &mut notes.problems));
    let rules = resolve_rules(file.rules.unwrap_or_default(), &mut notes.problems);
    let interfaces = interfaces(&mut notes, file.interfaces.unwrap_or_default());
    let debug = file.debug.is_some_and(|debug| debug.0 != 0);
    if file.gateway6.is_some() {
        notes.warn("gateway6", lkl::IPV4_ONLY);
    }

    let config = Config {
        interfaces,
        gateway: file.gateway.map(|gateway| gateway.0),
        gateway6: file.gateway6.map(|gateway| gateway.0),
        shards,
        cpus,
        spin: file.spin_us.map(|spin| Duration::from_micros(spin.0.into())),
        user,
        access,
        rules,
        strict: file.strict.is_some_and(|strict| strict.0),
        sysctls,
        sizes,
        hold: file.hold_ms.map_or(HOLD, |hold| Duration::from_millis(hold.0.into())),
        linger: file.linger_ms.map_or(LINGER, |linger| Duration::from_millis(linger.0.into())),
        log: file.log.map_or(if debug { LogLevel::Debug } else { LogLevel::default() }, |log| log.0),
    };
    gateways(&mut notes, &config);
    if notes.problems.is_empty() { Ok((config, notes.warnings)) } else { Err(notes.problems) }
}

#[derive(Default)]
struct Notes {
    warnings: Vec<Problem>,
    problems: Vec<Problem>,
}

impl Notes {
    fn warn(&mut self, at: &str, reason: impl fmt::Display) {
        self.warnings.push(Problem::new(at, reason));
    }

    fn problem(&mut self, at: &str, reason: impl fmt::Display) {
        self.problems.push(Problem::new(at, reason));
    }
}

fn placement(
    notes: &mut Notes,
    shards: Option<Loose<Count>>,
    cpus: Option<Vec<Loose<u16>>>,
    single: bool,
) -> (Count, Vec<usize>) {
    let mut shards = shards.map_or(Count::Auto, |shards| shards.0);
    let mut cpus: Vec<usize> = cpus.unwrap_or_default().into_iter().map(|cpu| usize::from(cpu.0)).collect();
    if let (Count::Exactly(wanted), false) = (shards, cpus.is_empty())
        && usize::from(wanted) > cpus.len()
    {
        notes.problem("cpus", format_args!("{} processors for {wanted} shards: name one for each", cpus.len()));
    }
    if single {
        if let Count::Exactly(wanted @ 2..) = shards {
            notes.problem("singlecpu", format_args!("contradicts shards = {wanted}: remove one of the two keys"));
        }
        shards = Count::Exactly(1);
        cpus.truncate(1);
    }
    (shards, cpus)
}

fn interfaces(notes: &mut Notes, files: Vec<InterfaceFile>) -> Vec<Interface> {
    if files.is_empty() {
        notes.problem("interfaces", "missing: an engine needs at least one interface");
    }
    if files.len() > INTERFACES {
        notes.problem("interfaces", format_args!("{} of them: at most {INTERFACES} are possible", files.len()));
    }
    let mut resolved: Vec<Interface> = Vec::with_capacity(files.len());
    for (index, file) in files.into_iter().enumerate() {
        let path = format!("interfaces[{index}]");
        notes.warnings.extend(lkl::interface(&path, &file));
        let interface = interface(notes, &path, file);
        if !interface.param.is_empty() && resolved.iter().any(|other| other.param == interface.param) {
            notes.problem(&format!("{path}.param"), format_args!("{} is there twice", interface.param));
        }
        if interface.ip.is_some() && resolved.iter().any(|other| other.ip.map(|ip| ip.0) == interface.ip.map(|ip| ip.0))
        {
            notes.problem(&format!("{path}.ip"), "another interface has the same address");
        }
        resolved.push(interface);
    }
    resolved
}

fn interface(notes: &mut Notes, path: &str, file: InterfaceFile) -> Interface {
    let at = |key: &str| format!("{path}.{key}");
    if file.kind.is_none() {
        notes.problem(&at("type"), format_args!("missing: {}", InterfaceKind::EXPECTED));
    }
    let kind = file.kind.map_or(InterfaceKind::default(), |kind| kind.0);
    let mode = file.address.map_or(AddressKind::default(), |mode| mode.0);
    let param = file.param.map(|param| param.0).unwrap_or_default();
    if let Err(reason) = check_param(kind, &param) {
        notes.problem(&at("param"), reason);
    }
    if mode == AddressKind::Shared && matches!(kind, InterfaceKind::Tap | InterfaceKind::Macvtap) {
        notes
            .problem(&at("address"), format_args!("shared is impossible with {kind}, which has an address of its own"));
    }
    let ip = file.ip.map(|ip| ip.0);
    let masklen = file.masklen.map(|masklen| masklen.0);
    match (ip, masklen, mode) {
        (None, None, AddressKind::Own) => {
            notes.problem(&at("ip"), "missing: with an address of its own the engine must be told which")
        }
        (Some(_), None, AddressKind::Own) => {
            notes.problem(&at("masklen"), "missing: the length of the network's prefix belongs to ip")
        }
        (None, Some(_), _) => notes.problem(&at("masklen"), "is there without ip, to which it belongs"),
        (_, Some(masklen), _) if !(1..=32).contains(&masklen) => {
            notes.problem(&at("masklen"), format_args!("{masklen} is out of range: from 1 to 32"));
        }
        _ => {}
    }
    if let Some(ip) = ip
        && (ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback())
    {
        notes.problem(&at("ip"), format_args!("{ip} is no address that a host can have"));
    }
    let masklen6 = file.masklen6.map(|masklen| masklen.0);
    if file.ipv6.is_some() != masklen6.is_some() {
        notes.problem(&at("masklen6"), "ipv6 and masklen6 belong together");
    }
    if masklen6.is_some_and(|masklen| !(1..=128).contains(&masklen)) {
        notes.problem(&at("masklen6"), "is out of range: from 1 to 128");
    }
    if let Some(Loose(mtu @ ..576)) = file.mtu {
        notes.problem(&at("mtu"), format_args!("{mtu} is out of range: from 576 to 65535"));
    }
    if file.mode.is_some() && !matches!(kind, InterfaceKind::Xdp | InterfaceKind::Auto) {
        notes.warn(&at("mode"), format_args!("has no effect: {kind} attaches no XDP program for receiving"));
    }
    if mode == AddressKind::Shared && file.mac.is_some() {
        notes.warn(&at("mac"), "has no effect: a shared address uses the interface's own");
    }
    if let Some(Loose(frames)) = file.frames
        && !(frames.is_power_of_two() && (64..=1 << 17).contains(&frames))
    {
        notes.problem(&at("frames"), format_args!("{frames} is not a power of two from 64 to 131072"));
    }
    let offload = file.offload.map(|bits| bits.0);
    if let Some(bits) = offload.filter(|bits| bits & !OFFLOAD_KNOWN != 0) {
        let others = bits & !OFFLOAD_KNOWN;
        notes.warn(
            &at("offload"),
            format_args!("bits {others:#x} have no effect: the ports use {OFFLOAD_KNOWN:#x} only"),
        );
    }
    Interface {
        kind,
        param,
        mode,
        ip: ip.map(|ip| (ip, masklen.unwrap_or(32))),
        ipv6: file.ipv6.map(|ip| ip.0).zip(masklen6),
        gateway: file.ifgateway.map(|gateway| gateway.0),
        gateway6: file.ifgateway6.map(|gateway| gateway.0),
        mtu: file.mtu.map(|mtu| mtu.0),
        mac: file.mac.map(|mac| mac.0).filter(|_| mode == AddressKind::Own),
        neighbours: neighbours(notes, &at("neigh"), file.neigh.as_ref().map_or("", |text| &text.0)),
        offload: offload.map(OffloadMask),
        queues: file.queues.map_or(Count::Auto, |queues| queues.0),
        xdp_mode: file.mode.map(|mode| mode.0).unwrap_or_default(),
        frames: file.frames.map(|frames| frames.0),
    }
}

fn check_param(kind: InterfaceKind, param: &str) -> Result<(), String> {
    if param.is_empty() {
        return Err("missing: the name of the interface, or of the device for macvtap".to_owned());
    }
    if kind == InterfaceKind::Macvtap {
        // Containers and namespaces have the node elsewhere; its name is the device's index in any case.
        let name = param.starts_with('/').then(|| param.rsplit('/').next()).flatten();
        let number = name.and_then(|name| name.strip_prefix("tap")?.parse::<u32>().ok());
        return number.map(drop).ok_or_else(|| format!("`{param}` is not the device of a macvtap, such as /dev/tap23"));
    }
    // What the kernel's dev_valid_name() refuses.
    let valid = param.len() <= NAME_MAX
        && !matches!(param, "." | "..")
        && !param.contains(|letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter == '\0');
    valid.then_some(()).ok_or_else(|| format!("`{param}` cannot be the name of an interface"))
}

/// Reads "ip|mac;ip|mac".
fn neighbours(notes: &mut Notes, at: &str, text: &str) -> Vec<(IpAddr, Mac)> {
    let mut neighbours = Vec::new();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        let parsed =
            entry.split_once('|').and_then(|(ip, mac)| Some((ip.trim().parse().ok()?, Mac::parse(mac.trim())?)));
        match parsed {
            Some(neighbour) => neighbours.push(neighbour),
            None => notes
                .problem(at, format_args!("`{entry}` is not of the form ip|mac, such as 10.9.0.1|02:00:00:00:00:01")),
        }
    }
    neighbours
}

/// A gateway that no interface can reach is a warning and not an error: LKL goes on too, and the talk's own file has one.
fn gateways(notes: &mut Notes, config: &Config) {
    let from_host =
        config.interfaces.iter().any(|interface| interface.mode == AddressKind::Shared && interface.ip.is_none());
    if let Some(gateway) = config.gateway
        && !from_host
        && config.interface_towards(gateway.into()).is_none()
    {
        notes.warn("gateway", format_args!("{gateway} has no effect: it is on no interface's network"));
    }
    for (index, interface) in config.interfaces.iter().enumerate() {
        let own_network =
            interface.ip.map(|(address, prefix_len)| super::Network { address: address.into(), prefix_len });
        if let (Some(gateway), Some(network)) = (interface.gateway, own_network)
            && !network.contains(gateway.into())
        {
            let at = format!("interfaces[{index}].ifgateway");
            notes.problem(
                &at,
                format_args!("{gateway} is not on the interface's network {}/{}", network.address, network.prefix_len),
            );
        }
    }
}
