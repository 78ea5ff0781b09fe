//! The end-to-end measurements: one unmodified program under Persona and on the host kernel in turn, the same peer
//! kernel at the other end of a veth pair of the same kind. Needs root and `cargo build --release --workspace`.
//!
//! Both sides exist all the time, each with a namespace pair of its own, and the side that is not measured is asleep.
//! A pair of samples is taken back to back, the order changing from pair to pair, so that a neighbour's load
//! hits both. The table goes to standard output, CSV and SVG to `target/bench/` (or the directory given as argument).

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal};
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::memory::{Ends, persona::Persona, smoltcp::Smoltcp};
use persona_benches::{machine, report};
use persona_tests::engine::interface;
use persona_tests::topology::PEER_ADDRESS;
use persona_tests::{Engine, Link, Running, Side, Topology, binary};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PAIRS: usize = 5;
/// Of one bulk sample: long enough that a tick of /proc/stat (10 ms) is one in a hundred.
const BULK_MS: u64 = 1500;
const ECHO_MS: u64 = 1500;
const CONNECT_MS: u64 = 1000;
/// Of a sample of the stack alone.
const STACK_BYTES: usize = 64 << 20;
const STACK_PAIRS: usize = 15;
const IDLE: Duration = Duration::from_secs(10);
/// What a program may take beyond the time it was given.
const PATIENCE: u64 = 20;
const PORT: u16 = 5201;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    // An interrupt ends the programs in the foreground group; the flag ends the run, and namespaces are removed.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and nothing else.
        unsafe { nix::sys::signal::signal(signal, SigHandler::Handler(on_interrupt)) }
            .with_context(|| format!("cannot handle {signal}"))?;
    }
    let (load, processors) = (machine::load_average()?, std::thread::available_parallelism()?.get());
    let (mut figures, busy) = (Vec::new(), load > processors as f64 / 2.0);
    let outcome = measure(&mut figures);
    // What was measured before a failure is worth having.
    print!("\n{}", report::table(&figures));
    if busy {
        println!(
            "\nThe machine was busy before this began (load average {load:.1}, {processors} processors): CPU per GB \
             counts what others did, and engine and program had to wait for each other. Repeat on a quiet machine."
        );
    }
    report::write(&directory, &figures)?;
    println!("\nsamples and picture: {}/endtoend.csv, endtoend.svg", directory.display());
    outcome
}

extern "C" fn on_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn measure(figures: &mut Vec<Figure>) -> Result<()> {
    figures.push(stack_only());
    let plain = Link { offload: false, ..Link::default() };
    {
        let mut xdp = Ground::new(plain, "xdp", &json!({}))?;
        figures.extend(xdp.bulk("AF_XDP, offloads off", Some(Target::AtLeast(1.0)))?);
        figures.push(xdp.connections("AF_XDP, offloads off")?);
        figures.push(xdp.idle("AF_XDP")?);
    }
    {
        let mut packet = Ground::new(Link::default(), "packet", &json!({}))?;
        figures.extend(packet.bulk("packet_mmap, offloads on", None)?);
    }
    // The shard has a processor of its own and never sleeps.
    let mut spinning = Ground::new(plain, "xdp", &json!({ "spin_us": 1_000_000, "cpus": [0] }))?;
    let half = Some(Target::AtMost(0.5));
    let ours = Placement { client: "1", server: "1", spin_us: 0 };
    figures.extend(spinning.round_trips("engine spins", &ours, half)?);
    let ours = Placement { client: "1", server: "0", spin_us: 10_000 };
    figures.extend(spinning.round_trips("engine and program spin", &ours, half)?);
    Ok(())
}

/// Two ends over memory in this thread, beside smoltcp's, in turn.
fn stack_only() -> Figure {
    let (mut persona, mut other) = (Persona::connect(0), Smoltcp::connect());
    let name = "stack only, per segment, against smoltcp";
    let mut figure = Figure::new(name, "ns", Better::Lower).with_target(Target::AtMost(1.0));
    // Once for the caches and the congestion window.
    per_segment(&mut persona);
    per_segment(&mut other);
    for _ in 0..STACK_PAIRS {
        figure.pairs.push((per_segment(&mut persona), per_segment(&mut other)));
    }
    figure
}

/// Nanoseconds of this thread that a data segment takes, both ends, its share of acknowledgements included.
fn per_segment(ends: &mut impl Ends) -> f64 {
    let started = machine::thread_time();
    let segments = ends.transfer(STACK_BYTES);
    (machine::thread_time() - started).as_nanos() as f64 / segments as f64
}

/// Two namespace pairs of one kind: an engine on one, the host's own address on the other, a server at both peers.
struct Ground {
    // Dropped in this order: programs, engine, namespaces.
    servers: Vec<Running>,
    engine: Engine,
    persona: Topology,
    host: Topology,
}

/// Which of the two sides a sample is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Persona,
    Host,
}

/// Which processors the programs of one side may use (taskset's list), and how long the client's blocking calls look
/// for news before they block (a setting that only Persona's library knows).
#[derive(Clone, Copy)]
struct Placement {
    client: &'static str,
    server: &'static str,
    spin_us: u32,
}

/// Wherever the scheduler wants them.
const ANYWHERE: Placement = Placement { client: "0-1023", server: "0-1023", spin_us: 0 };
/// One processor each, for the host's round trips.
const APART: Placement = Placement { client: "0", server: "1", spin_us: 0 };

impl Ground {
    /// `more`: keys of the configuration beside the interface.
    fn new(link: Link, kind: &str, more: &Value) -> Result<Self> {
        let persona = Topology::new(link)?;
        let host = Topology::new(Link { shared: true, ..link })?;
        let mut config = json!({ "interfaces": [interface(kind, &persona)], "shards": 1 });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let engine = Engine::start_with(&persona, &config)?;
        Ok(Self { servers: vec![], engine, persona, host })
    }

    /// Goodput and processor time in both directions.
    fn bulk(&mut self, port: &str, target: Option<Target>) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for kind in ["send", "receive"] {
            let pairs = self.pairs([ANYWHERE; 2], kind, BULK_MS)?;
            let mut rate = Figure::new(format!("bulk {kind}, {port}"), "Gbit/s", Better::Higher);
            rate.target = target;
            let mut cost = Figure::new(format!("CPU per GB, {kind}, {port}"), "s/GB", Better::Lower);
            for (ours, theirs) in &pairs {
                rate.pairs.push((gigabits(ours)?, gigabits(theirs)?));
                cost.pairs.push((cpu_per_gigabyte(ours)?, cpu_per_gigabyte(theirs)?));
            }
            figures.extend([rate, cost]);
        }
        self.persona.assert_kernel_saw_no_tcp()?;
        Ok(figures)
    }

    fn connections(&mut self, port: &str) -> Result<Figure> {
        let mut figure = Figure::new(format!("connections, {port}"), "1/s", Better::Higher);
        for (ours, theirs) in self.pairs([ANYWHERE; 2], "connect", CONNECT_MS)? {
            let rate = |sample: &Value| Ok::<_, anyhow::Error>(field(sample, "count")? / field(sample, "seconds")?);
            figure.pairs.push((rate(&ours)?, rate(&theirs)?));
        }
        eprintln!("engine: {}", self.repeated()?);
        Ok(figure)
    }

    /// What the engine had to send again so far, by Linux's counter names.
    fn repeated(&self) -> Result<String> {
        let stats = self.engine.json(&["stats"])?;
        let counters = stats["stack"].as_object().context("no counters of the stack")?;
        // Counters that are zero are left out by the command.
        let found = ["TcpRetransSegs", "TcpExtTCPTimeouts"]
            .iter()
            .filter_map(|name| counters.get(*name).map(|value| format!("{name} {value}")));
        let found: Vec<_> = found.collect();
        Ok(if found.is_empty() { "sent nothing again".into() } else { found.join(", ") })
    }

    /// Percentiles of the 64-byte round trip; the target is the median's.
    fn round_trips(&mut self, how: &str, ours: &Placement, target: Option<Target>) -> Result<Vec<Figure>> {
        let pairs = self.pairs([*ours, APART], "echo", ECHO_MS)?;
        let mut figures = Vec::new();
        for (key, name) in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")] {
            let mut figure = Figure::new(format!("64 B round trip {name}, {how}"), "us", Better::Lower);
            figure.target = target.filter(|_| key == "p50");
            for (ours, theirs) in &pairs {
                figure.pairs.push((field(ours, key)?, field(theirs, key)?));
            }
            figures.push(figure);
        }
        Ok(figures)
    }

    /// Processor time of keeper and engine, in percent of one processor, while nobody does anything. The other side
    /// is 100: what an engine that polls would take.
    fn idle(&self, port: &str) -> Result<Figure> {
        let pids = [self.engine.keeper()?, self.engine.engine_pid()?];
        let spent = || pids.iter().map(|&pid| machine::process_seconds(pid)).sum::<Result<f64>>();
        // What the last connections left behind is over by then.
        std::thread::sleep(Duration::from_secs(1));
        let (before, started) = (spent()?, Instant::now());
        std::thread::sleep(IDLE);
        let percent = 100.0 * (spent()? - before) / started.elapsed().as_secs_f64();
        let mut figure = Figure::new(format!("idle engine, {port}, against polling"), "% CPU", Better::Lower);
        figure.pairs.push((percent, 100.0));
        Ok(figure.with_target(Target::AtMost(0.0)))
    }

    /// Samples of both sides back to back, several times, Persona first in every other pair.
    fn pairs(&mut self, places: [Placement; 2], kind: &str, milliseconds: u64) -> Result<Vec<(Value, Value)>> {
        let [ours, theirs] = places;
        self.serve(places)?;
        let mut pairs = Vec::new();
        for round in 0..PAIRS {
            let persona = || self.sample(Who::Persona, &ours, kind, milliseconds);
            let host = || self.sample(Who::Host, &theirs, kind, milliseconds);
            pairs.push(if round % 2 == 0 {
                let sample = persona()?;
                (sample, host()?)
            } else {
                let sample = host()?;
                (persona()?, sample)
            });
        }
        eprintln!("{kind}: {PAIRS} pairs of {milliseconds} ms taken");
        self.servers.clear();
        Ok(pairs)
    }

    /// Starts a server at both peers.
    fn serve(&mut self, places: [Placement; 2]) -> Result<()> {
        let load = binary("load").display().to_string();
        for (topology, place) in [&self.persona, &self.host].into_iter().zip(places) {
            let program = ["taskset", "-c", place.server, &load, "serve", &address()];
            self.servers.push(topology.spawn(Side::Peer, &program)?);
            topology.wait_for_peer_listener(PORT)?;
        }
        Ok(())
    }

    /// One sample: what the client printed.
    fn sample(&self, who: Who, place: &Placement, kind: &str, milliseconds: u64) -> Result<Value> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let (topology, side) = match who {
            Who::Persona => (&self.persona, Side::Persona(&self.engine)),
            Who::Host => (&self.host, Side::Host),
        };
        let load = binary("load").display().to_string();
        let (time, spin) = (milliseconds.to_string(), format!("PERSONA_SPIN={}", place.spin_us));
        let program = ["taskset", "-c", place.client, "env", &spin, &load, kind, &address(), &time];
        let finished = topology.succeed(side, &program, milliseconds / 1000 + PATIENCE)?;
        serde_json::from_str(&finished.stdout).with_context(|| format!("{kind}: not JSON: {}", finished.stdout))
    }
}

fn address() -> String {
    format!("{PEER_ADDRESS}:{PORT}")
}

fn field(sample: &Value, name: &str) -> Result<f64> {
    sample[name].as_f64().with_context(|| format!("no number {name} in {sample}"))
}

fn gigabits(sample: &Value) -> Result<f64> {
    Ok(field(sample, "bytes")? * 8.0 / 1e9 / field(sample, "seconds")?)
}

fn cpu_per_gigabyte(sample: &Value) -> Result<f64> {
    Ok(field(sample, "busy_seconds")? / (field(sample, "bytes")? / 1e9))
}
