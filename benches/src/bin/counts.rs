//! Instructions that the stack and the channel execute per segment: a check that a busy machine cannot spoil.
//!
//! `counts [--update] [FILE]` runs fixed work under callgrind, which counts the instructions of the work and of nothing
//! else, and compares with the table in FILE (`benches/counts.json`). Status 1 if a count went up by more than
//! the tolerance; `--update` writes the table anew. Both depend on the compiler and on what the C library chooses for the
//! processor: a table is of one toolchain.

use anyhow::{Context, Result, bail};
use persona_benches::memory::{Ends, Wire, persona::Persona};
use persona_benches::stream::{SEGMENT, Stream};
use serde_json::{Value, json};
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

const TABLE: &str = "benches/counts.json";
/// Above the table's value, in percent.
const TOLERANCE: f64 = 3.0;
/// The child's argument.
const WORK: &str = "--work";
/// What callgrind counts: everything below this function.
const COUNTED: &str = "persona_counted";

const TRANSFER: usize = 2 << 20;
const OTHERS: u16 = 1000;
const REPETITIONS: usize = 1000;

/// A piece of work: does it, and says how many units it was.
type Work = fn() -> u64;

const WORKS: [(&str, Work); 8] = [
    ("copy and sum of 1448 bytes", copy_and_sum),
    ("lookup, acknowledgement without news, 1001 connections", lookup),
    ("segment in", segment_in),
    ("segment out", segment_out),
    ("stream copy, frame to application", receive),
    ("stream copy, application to frame", send),
    ("timer, nothing due, 1001 connections", timer),
    ("two ends over memory, per segment", two_ends),
];

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("counts: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let (mut update, mut table) = (false, TABLE.to_owned());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = arguments.as_slice()
        && flag == WORK
    {
        let (_, work) = WORKS.iter().find(|(known, _)| known == name).with_context(|| format!("no work {name}"))?;
        println!("{}", work());
        return Ok(ExitCode::SUCCESS);
    }
    for argument in arguments {
        match argument.as_str() {
            "--update" => update = true,
            option if option.starts_with('-') => bail!("{option}: usage: counts [--update] [FILE]"),
            path => table = path.into(),
        }
    }
    let mut counts = Vec::new();
    for (name, _) in WORKS {
        counts.push((name, count(name)?));
    }
    if update {
        let known: serde_json::Map<String, Value> =
            counts.iter().map(|(name, count)| ((*name).into(), json!((count * 10.0).round() / 10.0))).collect();
        let text = serde_json::to_string_pretty(&known)? + "\n";
        std::fs::write(&table, text).with_context(|| format!("cannot write {table}"))?;
    }
    compare(&counts, Path::new(&table))
}

/// Prints every count beside the table's.
fn compare(counts: &[(&str, f64)], table: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(table)
        .with_context(|| format!("{}: run `counts --update` to write it", table.display()))?;
    let known: Value = serde_json::from_str(&text).with_context(|| table.display().to_string())?;
    let mut risen = Vec::new();
    println!("{:<58} {:>12} {:>12} {:>8}", "instructions per unit", "now", "table", "change");
    for (name, now) in counts {
        let before = known[*name].as_f64();
        let before = before.with_context(|| format!("{} has no number \"{name}\"", table.display()))?;
        let change = 100.0 * (now / before - 1.0);
        println!("{name:<58} {now:>12.1} {before:>12.1} {change:>+7.1}%");
        if change > TOLERANCE {
            risen.push(format!("{name}: {change:+.1} %"));
        }
    }
    if risen.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nmore than {TOLERANCE} % above the table (mend it, or `counts --update` with the reason in the commit):"
    );
    risen.iter().for_each(|line| println!("  {line}"));
    Ok(ExitCode::FAILURE)
}

/// Instructions per unit of one work, in a process of its own.
fn count(name: &str) -> Result<f64> {
    let report = std::env::temp_dir().join(format!("persona-counts-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", &format!("--toggle-collect={COUNTED}")])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(std::env::current_exe().context("this program's path")?)
        .args([WORK, name])
        .output()
        .context("cannot run valgrind: install it (`deploy/install`)")?;
    let text = std::fs::read_to_string(&report);
    let _ = std::fs::remove_file(&report);
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = text.with_context(|| format!("{name}: callgrind left no {}", report.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 = total.context("callgrind's file has no totals")?.trim().parse().context("callgrind's totals")?;
    let units: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("the work's units")?;
    if total == 0 || units == 0 {
        bail!("{name}: {total} instructions for {units} units: nothing was counted");
    }
    Ok(total as f64 / units as f64)
}

/// Callgrind finds it by its name, and counts from its call to its return.
#[unsafe(no_mangle)]
#[inline(never)]
fn persona_counted(work: &mut dyn FnMut()) {
    work();
}

fn repeat(mut work: impl FnMut(usize)) -> u64 {
    // Once without counting, for what is done only the first time.
    work(0);
    persona_counted(&mut || (0..REPETITIONS).for_each(&mut work));
    REPETITIONS as u64
}

/// Which half of a round is counted.
fn half(out: bool) -> u64 {
    let mut pair = Persona::<Wire>::connect(0);
    pair.transfer(TRANSFER);
    let (before, limit) = (pair.segments(), pair.offset() + TRANSFER as u64);
    while pair.offset() < limit {
        let send = |pair: &mut Persona<Wire>| {
            pair.write(limit);
            pair.send();
        };
        if out {
            persona_counted(&mut || send(&mut pair));
            pair.receive();
        } else {
            send(&mut pair);
            persona_counted(&mut || pair.receive());
        }
        pair.read();
    }
    pair.segments() - before
}

fn segment_out() -> u64 {
    half(true)
}

fn segment_in() -> u64 {
    half(false)
}

fn two_ends() -> u64 {
    let mut pair = Persona::<Wire>::connect(0);
    pair.transfer(TRANSFER);
    let mut segments = 0;
    persona_counted(&mut || segments = pair.transfer(TRANSFER));
    segments
}

fn lookup() -> u64 {
    let mut pair = Persona::<Wire>::connect(OTHERS);
    repeat(|index| pair.find(index % usize::from(OTHERS)))
}

fn timer() -> u64 {
    let mut pair = Persona::<Wire>::connect(OTHERS);
    repeat(|_| {
        black_box(pair.timers());
    })
}

fn send() -> u64 {
    let mut stream = Stream::new();
    repeat(|_| stream.send())
}

fn receive() -> u64 {
    let mut stream = Stream::new();
    repeat(|_| stream.receive())
}

fn copy_and_sum() -> u64 {
    let (from, mut to) = (vec![7u8; SEGMENT], vec![0u8; SEGMENT]);
    repeat(|_| {
        // SAFETY: both are SEGMENT long.
        black_box(unsafe { persona_channel::copy::copy_and_sum(from.as_ptr(), to.as_mut_ptr(), SEGMENT) });
    })
}
