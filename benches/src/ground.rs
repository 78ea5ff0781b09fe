//! The ground of the end-to-end measurements: namespace pairs of one kind, an engine in the first, and samples of
//! Persona, of the host kernel and of the minimal loops in turn.
//!
//! All sides exist all the time, each with a namespace pair of its own, and those that are not measured are asleep. A round
//! has one sample of each contender, back to back; who begins changes from round to round, so that a neighbour's
//! load hits all of them.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal};
use persona_tests::engine::interface;
use persona_tests::topology::{INTERFACE, OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Running, Side, Topology, binary};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a program may take beyond the time it was given.
const PATIENCE: u64 = 20;
const PORT: u16 = 5201;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// An interrupt ends the programs in the foreground group; the flag ends the run, and namespaces are removed.
pub fn handle_interrupts() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and nothing else.
        unsafe { nix::sys::signal::signal(signal, SigHandler::Handler(on_interrupt)) }
            .with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

/// Whether the run is to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

extern "C" fn on_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Who a sample is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Persona,
    Host,
    /// The minimal loop on this ring (`minimal`'s first argument). Only as client, for bulk, anywhere.
    Minimal(&'static str),
}

/// Which end of the connections the measured side is. The other is always a host kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// Which processors the programs of one side may use (taskset's list), and how long the client's blocking calls look
/// for news before they block (a setting that only Persona's library knows).
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub client: &'static str,
    pub server: &'static str,
    pub spin_us: u32,
}

/// Wherever the scheduler wants them.
pub const ANYWHERE: Placement = Placement { client: "0-1023", server: "0-1023", spin_us: 0 };
/// One processor each, for the host's round trips.
pub const APART: Placement = Placement { client: "0", server: "1", spin_us: 0 };

/// What the programs do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// A word of `load`'s: what the client does.
    pub kind: &'static str,
    pub milliseconds: u64,
    pub connections: u32,
    pub role: Role,
    /// Of Persona's programs, and of everybody else's.
    pub ours: Placement,
    pub theirs: Placement,
}

impl Work {
    /// On one connection, as client, anywhere.
    pub fn new(kind: &'static str, milliseconds: u64) -> Self {
        Self { kind, milliseconds, connections: 1, role: Role::Client, ours: ANYWHERE, theirs: ANYWHERE }
    }
}

/// Namespace pairs of one kind. The host of the second has the address itself; the third is the minimal loops'.
pub struct Ground {
    // Dropped in this order: programs, engine, namespaces.
    servers: Vec<Running>,
    pub engine: Engine,
    pub persona: Topology,
    host: Topology,
    minimal: Topology,
}

impl Ground {
    /// `more`: keys of the configuration beside the interface.
    pub fn new(link: Link, kind: &str, more: &Value) -> Result<Self> {
        let persona = Topology::new(link)?;
        let host = Topology::new(Link { shared: true, ..link })?;
        let minimal = Topology::new(link)?;
        know_each_other(&minimal)?;
        let mut config = json!({ "interfaces": [interface(kind, &persona)], "shards": 1 });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let engine = Engine::start_with(&persona, &config)?;
        Ok(Self { servers: vec![], engine, persona, host, minimal })
    }

    /// Samples of each contender, `rounds` times: what the clients printed, in the order of `who`.
    pub fn rounds<const N: usize>(&mut self, who: [Who; N], work: &Work, rounds: usize) -> Result<Vec<[Value; N]>> {
        self.serve(who, work)?;
        let outcome = (0..rounds).map(|round| self.round(who, work, round)).collect();
        self.servers.clear();
        eprintln!("{}: {rounds} rounds of {N} samples of {} ms taken", work.kind, work.milliseconds);
        outcome
    }

    fn round<const N: usize>(&self, who: [Who; N], work: &Work, round: usize) -> Result<[Value; N]> {
        let mut samples = [const { Value::Null }; N];
        for turn in 0..N {
            let at = (turn + round) % N;
            samples[at] = self.sample(who[at], work)?;
        }
        Ok(samples)
    }

    /// Starts the servers that the contenders need.
    pub fn serve<const N: usize>(&mut self, who: [Who; N], work: &Work) -> Result<()> {
        let load = binary("load").display().to_string();
        let (client, mut minimal) = (work.role == Role::Client, false);
        for who in who {
            // All minimal loops use the same server.
            if matches!(who, Who::Minimal(_)) && std::mem::replace(&mut minimal, true) {
                continue;
            }
            let (topology, place) = self.place(who, work);
            let side = match who {
                _ if client => Side::Peer,
                Who::Persona => Side::Persona(&self.engine),
                Who::Host => Side::Host,
                Who::Minimal(ring) => bail!("the minimal loop on {ring} cannot be a server"),
            };
            let address = address(work.role);
            let server = topology.spawn(side, &["taskset", "-c", place.server, &load, "serve", &address])?;
            match side {
                Side::Peer => topology.wait_for_peer_listener(PORT)?,
                Side::Persona(engine) => engine.wait_for_listener(PORT)?,
                Side::Host => wait_for_listener(topology, &topology.ours)?,
                Side::Middle => bail!("no server is part of the link"),
            }
            self.servers.push(server);
        }
        Ok(())
    }

    /// One sample: what the client printed.
    pub fn sample(&self, who: Who, work: &Work) -> Result<Value> {
        let (topology, place) = self.place(who, work);
        if let Who::Minimal(ring) = who {
            return minimal(topology, ring, work.kind, work.milliseconds);
        }
        let side = match (work.role, who) {
            (Role::Server, _) => Side::Peer,
            (_, Who::Persona) => Side::Persona(&self.engine),
            _ => Side::Host,
        };
        let load = binary("load").display().to_string();
        let (time, count) = (work.milliseconds.to_string(), work.connections.to_string());
        let spin = format!("PERSONA_SPIN={}", place.spin_us);
        let address = address(work.role);
        let program = ["taskset", "-c", place.client, "env", &spin, &load, work.kind, &address, &time, &count];
        run(topology, side, &program, work.milliseconds)
    }

    fn place(&self, who: Who, work: &Work) -> (&Topology, Placement) {
        match who {
            Who::Persona => (&self.persona, work.ours),
            Who::Host => (&self.host, work.theirs),
            Who::Minimal(_) => (&self.minimal, work.theirs),
        }
    }

    /// What the engine had to send again so far, by Linux's counter names.
    pub fn repeated(&self) -> Result<String> {
        let stats = self.engine.json(&["stats"])?;
        let counters = stats["stack"].as_object().context("no counters of the stack")?;
        // Counters that are zero are left out by the command.
        let found = ["TcpRetransSegs", "TcpExtTCPTimeouts"]
            .iter()
            .filter_map(|name| counters.get(*name).map(|value| format!("{name} {value}")));
        let found: Vec<_> = found.collect();
        Ok(if found.is_empty() { "sent nothing again".into() } else { found.join(", ") })
    }
}

/// Gives the peer a neighbour entry of ours that is not asked for: the minimal loops answer no ARP.
pub fn know_each_other(topology: &Topology) -> Result<()> {
    let mac = topology.run(&topology.ours, &["cat", &format!("/sys/class/net/{INTERFACE}/address")])?;
    let entry = ["ip", "neigh", "replace", OUR_ADDRESS, "lladdr", mac.trim(), "dev", INTERFACE, "nud", "permanent"];
    topology.run(&topology.peer, &entry).map(drop)
}

/// A server on the peer's kernel.
pub fn serve_at_peer(topology: &Topology) -> Result<Running> {
    let load = binary("load").display().to_string();
    let server = topology.spawn(Side::Peer, &[&load, "serve", &address(Role::Client)])?;
    topology.wait_for_peer_listener(PORT)?;
    Ok(server)
}

/// One sample of the minimal loop on `ring`, against the server at the peer.
pub fn minimal(topology: &Topology, ring: &str, kind: &str, milliseconds: u64) -> Result<Value> {
    let program = binary("minimal").display().to_string();
    let mac = topology.run(&topology.peer, &["cat", &format!("/sys/class/net/{INTERFACE}/address")])?;
    let (peer, time) = (address(Role::Client), milliseconds.to_string());
    let program = [&program, ring, kind, INTERFACE, OUR_ADDRESS, &peer, mac.trim(), &time];
    run(topology, Side::Host, &program, milliseconds)
}

fn run(topology: &Topology, side: Side<'_>, program: &[&str], milliseconds: u64) -> Result<Value> {
    if interrupted() {
        bail!("interrupted");
    }
    let finished = topology.succeed(side, program, milliseconds / 1000 + PATIENCE)?;
    serde_json::from_str(&finished.stdout).with_context(|| format!("{program:?}: not JSON: {}", finished.stdout))
}

fn wait_for_listener(topology: &Topology, namespace: &str) -> Result<()> {
    let needle = format!(":{PORT:04X} 00000000:0000 0A");
    for _ in 0..200 {
        if topology.run(namespace, &["cat", "/proc/net/tcp"])?.contains(&needle) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    bail!("nothing listens on port {PORT} of {namespace} after 5 s")
}

/// Where the server listens.
fn address(role: Role) -> String {
    match role {
        Role::Client => format!("{PEER_ADDRESS}:{PORT}"),
        Role::Server => format!("{OUR_ADDRESS}:{PORT}"),
    }
}
