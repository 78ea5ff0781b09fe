//! The ground: our side with an engine and a kernel address on one interface, an emulated link, and a server on the
//! peer's kernel. So Persona and the kernel have one bottleneck, in turn or at once.

use anyhow::{Context, Result, bail};
use persona_benches::ground::interrupted;
use persona_tests::engine::interface;
use persona_tests::topology::{INTERFACE, PEER_ADDRESS};
use persona_tests::{Conditions, Emulator, Engine, Link, Running, Side, Topology, binary};
use serde_json::{Value, json};
use std::time::Duration;

/// Of the kernel on our side; the engine has an address of its own.
const HOST_ADDRESS: &str = "10.9.0.3/24";
const PORT: u16 = 5201;
/// What a program may take beyond its time, seconds: connecting over a path that loses, and the server's patience.
const PATIENCE: u64 = 40;
/// How often a sample is taken again when the emulator spoilt it.
const ATTEMPTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Persona,
    Host,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Persona => "Persona",
            Self::Host => "kernel",
        }
    }
}

/// What the path is and what is done over it.
pub struct Task<'a> {
    pub conditions: &'a [Conditions; 2],
    pub round_trip: Duration,
    /// Mean lateness of the emulator, microseconds, from which on a sample is void.
    pub tolerance: u64,
    pub seed: u64,
    /// `load`'s word.
    pub kind: &'static str,
    pub milliseconds: u64,
    pub connections: u32,
}

/// A client: on whose stack, with which congestion controller.
pub type Client<'a> = (Who, &'a str);

/// What clients at work at the same time printed, and the emulator's counts.
pub struct Sample {
    pub clients: Vec<Value>,
    pub link: Value,
}

pub struct Course {
    // Dropped in this order: server, engine, namespaces.
    _server: Running,
    pub engine: Engine,
    pub topology: Topology,
}

impl Course {
    pub fn new() -> Result<Self> {
        let topology = Topology::emulated(Link::default())?;
        let engine =
            Engine::start_with(&topology, &json!({ "interfaces": [interface("xdp", &topology)], "shards": 1 }))?;
        topology.run(&topology.ours, &["ip", "address", "add", HOST_ADDRESS, "dev", INTERFACE])?;
        for namespace in [&topology.ours, &topology.peer] {
            // Else a connection begins with what the last one learnt, and only the kernel's do.
            topology.run(namespace, &["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"])?;
        }
        let load = binary("load").display().to_string();
        let server = topology.spawn(Side::Peer, &[&load, "serve", &address()])?;
        topology.wait_for_peer_listener(PORT)?;
        Ok(Self { _server: server, engine, topology })
    }

    /// Congestion controllers that both sides have, by asking them for each that this kernel knows.
    pub fn controllers(&self) -> Result<Vec<String>> {
        let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let names = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
        let load = binary("load").display().to_string();
        let mut program = vec![load.as_str(), "controllers"];
        program.extend(names.split_whitespace());
        let mut both: Option<Vec<String>> = None;
        for who in [Who::Persona, Who::Host] {
            let printed = self.topology.succeed(self.side(who), &program, PATIENCE)?.stdout;
            let has: Vec<String> = serde_json::from_str(&printed).with_context(|| format!("not a list: {printed}"))?;
            eprintln!("{} has {}", who.name(), has.join(", "));
            both = Some(match both {
                None => has,
                Some(both) => both.into_iter().filter(|name| has.contains(name)).collect(),
            });
        }
        let both = both.unwrap_or_default();
        if both.is_empty() { bail!("no congestion controller is on both sides") } else { Ok(both) }
    }

    /// One sample of all clients at once over one link, or nothing when the emulator was the bottleneck each time.
    pub fn sample(&self, clients: &[Client<'_>], task: &Task<'_>) -> Result<Option<Sample>> {
        for _ in 0..ATTEMPTS {
            let sample = self.attempt(clients, task)?;
            let late = ["there", "back"].map(|direction| sample.link[direction]["late_mean_us"].as_u64().unwrap_or(0));
            if sample.link["faults"] == 0 && late.iter().all(|late| *late <= task.tolerance) {
                return Ok(Some(sample));
            }
            eprintln!("void, the emulator was too slow: {}", sample.link);
        }
        Ok(None)
    }

    fn attempt(&self, clients: &[Client<'_>], task: &Task<'_>) -> Result<Sample> {
        if interrupted() {
            bail!("interrupted");
        }
        let [there, back] = task.conditions;
        let seconds = task.milliseconds / 1000 + PATIENCE;
        let lifetime = Duration::from_secs(seconds + PATIENCE);
        let emulator = Emulator::start(&self.topology, there, back, task.seed, lifetime)?;
        let (load, address, time) = (binary("load").display().to_string(), address(), task.milliseconds.to_string());
        let count = task.connections.to_string();
        let mut running: Vec<Running> = Vec::new();
        for (who, controller) in clients {
            let program = [&load, task.kind, &address, &time, &count, controller];
            running.push(self.topology.spawn(self.side(*who), &program)?);
        }
        let mut printed = Vec::new();
        for ((who, controller), running) in clients.iter().zip(running) {
            let finished = running.finish(seconds)?;
            let (told, name) = (finished.stdout, who.name());
            if !finished.status.success() {
                bail!("{name} with {controller}: {told}{}", finished.stderr.trim());
            }
            printed.push(serde_json::from_str(&told).with_context(|| format!("{name}: not JSON: {told}"))?);
        }
        // The last resets reach the server, so that nothing of this is left for the next.
        std::thread::sleep(task.round_trip);
        Ok(Sample { clients: printed, link: emulator.finish()? })
    }

    fn side(&self, who: Who) -> Side<'_> {
        match who {
            Who::Persona => Side::Persona(&self.engine),
            Who::Host => Side::Host,
        }
    }

    /// (segments sent again, timeouts) of one side so far.
    pub fn repeated(&self, who: Who) -> Result<(u64, u64)> {
        if who == Who::Host {
            let counter = |group, name| self.topology.kernel_counter(&self.topology.ours, group, name);
            return Ok((counter("Tcp", "RetransSegs")?, counter("TcpExt", "TCPTimeouts")?));
        }
        let stats = self.engine.json(&["stats"])?;
        // Counters that are zero are left out by the command.
        let counter = |name: &str| stats["stack"][name].as_u64().unwrap_or(0);
        Ok((counter("TcpRetransSegs"), counter("TcpExtTCPTimeouts")))
    }
}

fn address() -> String {
    format!("{PEER_ADDRESS}:{PORT}")
}
