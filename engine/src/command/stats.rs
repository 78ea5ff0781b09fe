//! `persona stats` and `persona info`.

use super::{EngineName, admin_client, print_json};
use crate::admin::{Info, Request, Stats};
use anyhow::Result;
use std::collections::BTreeMap;
use std::io::Write;

pub(super) fn show(engine: &EngineName, json: bool, zeros: bool) -> Result<()> {
    let stats: Stats = admin_client::ask(&engine.place()?, &Request::Stats)?;
    let stats = if zeros { stats } else { without_zeros(stats) };
    if json {
        return print_json(&stats);
    }
    let mut out = std::io::stdout().lock();
    for line in render(&stats) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

pub(super) fn info(engine: &EngineName, json: bool) -> Result<()> {
    let place = engine.place()?;
    let info: Info = admin_client::ask(&place, &Request::Info)?;
    if json {
        return print_json(&info);
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "engine `{}`: version {}, process {}, up {:.0} s",
        place.name(),
        info.version,
        info.pid,
        info.uptime
    )?;
    writeln!(out, "  restarts {}, sessions {}", info.restarts, info.sessions)?;
    for (index, shard) in info.shards.iter().enumerate() {
        let cpu = shard.cpu.map_or("any processor".to_owned(), |cpu| format!("processor {cpu}"));
        writeln!(out, "  shard {index}: thread {}, {cpu}", shard.tid)?;
    }
    for interface in &info.interfaces {
        let addresses = interface.addresses.join(", ");
        writeln!(out, "  {}: {addresses} ({}), mtu {}", interface.param, interface.address, interface.mtu)?;
        for port in &interface.ports {
            writeln!(out, "    {port}")?;
        }
    }
    Ok(())
}

fn without_zeros(mut stats: Stats) -> Stats {
    let keep = |counters: &mut BTreeMap<String, u64>| counters.retain(|_, value| *value != 0);
    keep(&mut stats.stack);
    stats.shards.iter_mut().for_each(keep);
    stats.ports.iter_mut().for_each(|port| keep(&mut port.counters));
    stats.ebpf.iter_mut().for_each(|interface| keep(&mut interface.counters));
    stats
}

/// As nstat prints: a name and a number on each line, under a line that begins with `#`.
fn render(stats: &Stats) -> Vec<String> {
    let mut lines = Vec::new();
    let mut group = |title: String, counters: &BTreeMap<String, u64>| {
        lines.push(title);
        lines.extend(counters.iter().map(|(name, value)| format!("{name:<32}{value}")));
    };
    group("#stack".to_owned(), &stats.stack);
    if stats.shards.len() > 1 {
        for (index, counters) in stats.shards.iter().enumerate() {
            group(format!("#shard {index}"), counters);
        }
    }
    for port in &stats.ports {
        group(format!("#port {} queue {} shard {}", port.interface, port.queue, port.shard), &port.counters);
    }
    for interface in &stats.ebpf {
        group(format!("#ebpf {}", interface.interface), &interface.counters);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::PortStats;

    fn counters(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    /// Each counter of the running kernel is counted here, or docs/counters.md says why not; and what it lists is not counted.
    #[test]
    fn every_counter_of_this_kernel_is_counted_or_explained() {
        let page = include_str!("../../../docs/counters.md");
        let (_, missing) = page.split_once("## Not counted").expect("the page has the section");
        let listed: Vec<&str> = missing
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
            .flat_map(|names| {
                names.split('`').filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
            })
            .collect();
        let explained = |name: &str| {
            listed.iter().any(|known| known.strip_suffix('*').map_or(*known == name, |start| name.starts_with(start)))
        };
        let counters = persona_stack::Counter::ALL.iter().map(|counter| counter.name());
        let ours: Vec<&str> = counters.chain(persona_stack::ip::IpCounters::NAMES.iter().copied()).collect();
        let mut seen = 0;
        for file in ["/proc/net/snmp", "/proc/net/netstat"] {
            let text = std::fs::read_to_string(file).expect("the kernel's counters can be read");
            // A line of names, then one of values, each after the group's name.
            for (group, names) in text.lines().step_by(2).filter_map(|line| line.split_once(": ")) {
                for name in names.split_whitespace().map(|name| format!("{group}{name}")) {
                    let counted = ours.contains(&name.as_str());
                    assert!(counted || explained(&name), "{name} is neither counted nor explained in docs/counters.md");
                    assert!(!(counted && explained(&name)), "{name} is counted, and docs/counters.md says it is not");
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen} counters seen");
    }

    #[test]
    fn counters_are_grouped_and_zeros_can_be_left_out() {
        let stats = Stats {
            stack: counters(&[("TcpActiveOpens", 3), ("TcpRetransSegs", 0)]),
            shards: vec![counters(&[("TcpActiveOpens", 3)])],
            ports: vec![PortStats {
                interface: "veth0".into(),
                queue: 1,
                shard: 0,
                counters: counters(&[("RxFrames", 9)]),
            }],
            ebpf: Vec::new(),
        };
        let expected = [
            "#stack",
            "TcpActiveOpens                  3",
            "#port veth0 queue 1 shard 0",
            "RxFrames                        9",
        ];
        assert_eq!(render(&without_zeros(stats.clone())), expected);
        assert_eq!(render(&stats)[2], "TcpRetransSegs                  0");
    }
}
