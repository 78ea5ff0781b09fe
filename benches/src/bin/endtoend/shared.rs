//! An address that the host has, too: what the diversion costs against the way of the talk, in which each packet goes to
//! both stacks and a firewall rule drops the resets that the host answers with.
//!
//! The minimal loop receives in either case, so that nothing differs but the way of the packets. Every frame is
//! one of the MTU, as from a network.

use crate::Effort;
use anyhow::{Result, bail};
use persona_benches::figures::{Better, Figure};
use persona_benches::ground::{know_each_other, minimal, serve_at_peer};
use persona_benches::sample::{cpu_per_gigabyte, gigabits};
use persona_tests::{Link, Running, Topology};
use serde_json::Value;

/// The talk's rule, in nft's words.
const RULES: [&str; 3] = [
    "add table ip talk",
    "add chain ip talk output { type filter hook output priority 0 ; }",
    "add rule ip talk output tcp flags & rst == rst counter drop",
];

/// Rings and the ground that each has for itself.
const WAYS: [&str; 3] = ["packet-diverted", "xdp-diverted", "packet"];

pub fn diversion(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let link = Link { offload: false, shared: true, ..Link::default() };
    let mut grounds: Vec<(Option<Running>, Topology)> = Vec::new();
    for way in WAYS {
        let topology = Topology::new(link)?;
        know_each_other(&topology)?;
        if way == "packet" {
            for rule in RULES {
                topology.run(&topology.ours, &["nft", rule])?;
            }
        }
        let server = serve_at_peer(&topology)?;
        grounds.push((Some(server), topology));
    }
    let mut rounds: Vec<[Value; 3]> = Vec::new();
    for round in 0..effort.rounds {
        let mut samples = [const { Value::Null }; 3];
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            samples[at] = minimal(&grounds[at].1, WAYS[at], "receive", effort.milliseconds)?;
        }
        rounds.push(samples);
    }
    eprintln!("shared address: {} rounds of {} samples taken", effort.rounds, WAYS.len());
    for (way, (server, topology)) in WAYS.into_iter().zip(&mut grounds) {
        // Programs go before their namespace.
        *server = None;
        went_its_way(way, topology)?;
    }
    for (name, ours) in [("packet_mmap", 0), ("AF_XDP", 1)] {
        let name = |what| format!("{what}, shared address, {name} diverted / to both stacks");
        let rate = ("Gbit/s", Better::Higher);
        figures.push(Figure::of_rounds(name("bulk receive"), rate, &rounds, (ours, 2), gigabits)?);
        let cost = ("s/GB", Better::Lower);
        figures.push(Figure::of_rounds(name("CPU per GB"), cost, &rounds, (ours, 2), cpu_per_gigabyte)?);
    }
    Ok(())
}

/// The host's counters show that the packets took the way that was to be measured.
fn went_its_way(way: &str, topology: &Topology) -> Result<()> {
    let [received, resets] = ["InSegs", "OutRsts"].map(|name| topology.kernel_counter(&topology.ours, "Tcp", name));
    match (way, received?, resets?) {
        ("packet", 0, _) => bail!("to both stacks: the host's stack saw no segment"),
        ("packet", _, 0) => bail!("to both stacks: the host's stack answered with no reset"),
        ("packet", ..) | (_, 0, 0) => Ok(()),
        (_, received, _) => bail!("{way}: the host's stack saw {received} segments"),
    }
}
