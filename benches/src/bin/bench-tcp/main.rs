//! TCP over emulated paths: Persona and the host kernel through the same bottleneck, in turn and at once. Needs root, and
//! `cargo build --release --workspace`.
//!
//! `bench-tcp [--quick] [--rounds N] [--point NAME]... [DIRECTORY]`: the table goes to standard output, CSV and SVG to the directory
//! (`target/bench/`). Exit status 1 when a transfer was not exact or a sample could not be taken; a missed target is none.

mod compare;
mod course;
mod fairness;
mod points;

use anyhow::{Context, Result, bail};
use course::Course;
use persona_benches::{ground, machine, report};
use persona_tests::binary;
use std::path::PathBuf;
use std::process::ExitCode;

struct Effort {
    goodput_rounds: usize,
    latency_rounds: usize,
    /// Paths, rounds, milliseconds.
    fairness: (usize, usize, u64),
}

const FULL: Effort = Effort { goodput_rounds: 3, latency_rounds: 2, fairness: (3, 2, 15_000) };
const QUICK: Effort = Effort { goodput_rounds: 1, latency_rounds: 1, fairness: (1, 1, 6_000) };
const USAGE: &str = "usage: bench-tcp [--quick] [--rounds N] [--point NAME]... [DIRECTORY]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tcp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut rounds = None;
    let (mut quick, mut names, mut directory) = (false, Vec::new(), PathBuf::from("target/bench"));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--rounds" => {
                let word = arguments.next().context(USAGE)?;
                rounds = Some(word.parse().with_context(|| format!("`{word}` is no number of rounds; {USAGE}"))?);
            }
            "--point" => names.push(arguments.next().context(USAGE)?),
            option if option.starts_with('-') => bail!("{option}: {USAGE}"),
            path => directory = path.into(),
        }
    }
    let (mut effort, points) = (if quick { QUICK } else { FULL }, points::chosen(&names, quick)?);
    if let Some(rounds) = rounds {
        (effort.goodput_rounds, effort.latency_rounds, effort.fairness.1) = (rounds, rounds, rounds);
    }
    ground::handle_interrupts()?;
    for name in ["persona", "load", "emulate"] {
        // Says which command builds it.
        binary(name);
    }
    let (before, processors) = (machine::busy_processors()?, std::thread::available_parallelism()?.get());
    let course = Course::new()?;
    let controllers = course.controllers()?;
    let (mut figures, mut problems) = (Vec::new(), Vec::new());
    for point in points {
        if ground::interrupted() {
            break;
        }
        for controller in &controllers {
            figures.push(compare::goodput(&course, point, controller, effort.goodput_rounds, &mut problems));
        }
        figures.extend(compare::latency(&course, point, effort.latency_rounds, &mut problems));
    }
    if !ground::interrupted() {
        figures.extend(fairness::measure(&course, &controllers, effort.fairness, &mut problems));
    }
    print!("\n{}", report::table(&figures));
    println!("\nbusy processors before: {before:.1} of {processors}; one is Persona, other the host kernel");
    report::write(&directory, "bench-tcp", &figures)?;
    println!("samples and picture: {}/bench-tcp.csv, bench-tcp.svg", directory.display());
    if ground::interrupted() {
        bail!("interrupted: what was measured before is above");
    }
    if problems.is_empty() { Ok(()) } else { bail!("{} samples failed:\n{}", problems.len(), problems.join("\n")) }
}
