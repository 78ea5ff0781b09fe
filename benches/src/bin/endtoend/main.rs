//! The end-to-end measurements: one unmodified program under Persona and on the host kernel in turn, and the minimal loops
//! beside them; the same peer kernel at the other end of a veth pair of the same kind. Needs root, and
//! `cargo build --release --workspace`.
//!
//! `endtoend [--quick] [DIRECTORY]`: the table goes to standard output, CSV and SVG to the directory (`target/bench/`). Two
//! short rounds with `--quick`: to see that everything can be measured, not to compare anything.

mod bulk;
mod latency;
mod servers;
mod shared;
mod stack_only;

use anyhow::{Context, Result, bail};
use persona_benches::figures::{Figure, Target};
use persona_benches::ground::{self, Ground, Placement};
use persona_benches::{machine, report};
use persona_tests::{Link, binary};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How often and how long.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Of one sample: long enough that a tick of /proc/stat (10 ms) is one in a hundred.
    milliseconds: u64,
    stack_rounds: usize,
    idle: Duration,
}

const FULL: Effort = Effort { rounds: 5, milliseconds: 1500, stack_rounds: 15, idle: Duration::from_secs(10) };
const QUICK: Effort = Effort { rounds: 2, milliseconds: 300, stack_rounds: 3, idle: Duration::from_secs(1) };

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("endtoend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut effort, mut directory) = (FULL, PathBuf::from("target/bench"));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => effort = QUICK,
            option if option.starts_with('-') => bail!("{option}: usage: endtoend [--quick] [DIRECTORY]"),
            path => directory = path.into(),
        }
    }
    ground::handle_interrupts()?;
    let (before, processors) = (machine::busy_processors()?, std::thread::available_parallelism()?.get());
    let (mut figures, busy) = (Vec::new(), before > processors as f64 / 4.0);
    let outcome = measure(&effort, &mut figures);
    // What was measured before a failure is worth having.
    print!("\n{}", report::table(&figures));
    let after = machine::busy_processors()?;
    println!("\nbusy processors: {before:.1} before, {after:.1} after, of {processors}");
    if busy {
        println!(
            "The machine was busy before this began: CPU per GB counts what others did, and engine and program had to \
             wait for each other. Repeat on a quiet machine."
        );
    }
    report::write(&directory, "endtoend", &figures)?;
    println!("samples and picture: {}/endtoend.csv, endtoend.svg", directory.display());
    outcome
}

fn measure(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    for name in ["persona", "load", "minimal"] {
        // Says which command builds it.
        binary(name);
    }
    figures.push(stack_only::per_segment(effort));
    let plain = Link { offload: false, ..Link::default() };
    {
        let mut xdp = Ground::new(plain, "xdp", &json!({})).context("AF_XDP")?;
        bulk::over_xdp(&mut xdp, effort, figures)?;
        bulk::several(&mut xdp, "AF_XDP, 4 connections", effort, figures)?;
        servers::as_client(&mut xdp, effort, figures)?;
        servers::as_server(&mut xdp, effort, figures)?;
        figures.push(latency::idle(&xdp, "AF_XDP", effort)?);
    }
    {
        let mut two = Ground::new(Link { queues: 2, ..plain }, "xdp", &json!({ "shards": 2 })).context("two shards")?;
        bulk::several(&mut two, "AF_XDP, 2 shards, 4 connections", effort, figures)?;
    }
    {
        let mut packet = Ground::new(Link::default(), "packet", &json!({})).context("packet_mmap")?;
        bulk::over_packet(&mut packet, effort, figures)?;
    }
    shared::diversion(effort, figures)?;
    // The shard does not sleep between two round trips. It does while it is the host's turn: spinning on it would take one of
    // the host's two processors, or keep it awake for the host, as it happens.
    let spinning = json!({ "spin_us": 10_000, "cpus": [0] });
    let mut spinning = Ground::new(plain, "xdp", &spinning).context("a shard that spins")?;
    let ours = Placement { client: "1", server: "1", spin_us: 0 };
    figures.extend(latency::round_trips(&mut spinning, "engine spins", ours, None, effort)?);
    let ours = Placement { client: "1", server: "0", spin_us: 10_000 };
    let half = Some(Target::AtMost(0.5));
    figures.extend(latency::round_trips(&mut spinning, "engine and program spin", ours, half, effort)?);
    Ok(())
}
