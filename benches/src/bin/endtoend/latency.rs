//! Round trips, and what an engine costs that has nothing to do.

use crate::Effort;
use anyhow::Result;
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::ground::{APART, Ground, Placement, Who, Work};
use persona_benches::machine;
use persona_benches::sample::field;
use std::time::{Duration, Instant};

/// Percentiles of the 64-byte round trip; the target is the median's.
pub fn round_trips(
    ground: &mut Ground,
    how: &str,
    ours: Placement,
    target: Option<Target>,
    effort: &Effort,
) -> Result<Vec<Figure>> {
    let work = Work { ours, theirs: APART, ..Work::new("echo", effort.milliseconds) };
    let rounds = ground.rounds([Who::Persona, Who::Host], &work, effort.rounds)?;
    let mut figures = Vec::new();
    for (key, name) in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")] {
        let name = format!("64 B round trip {name}, {how} / host");
        let read = |sample: &_| field(sample, key);
        let mut figure = Figure::of_rounds(name, ("us", Better::Lower), &rounds, (0, 1), read)?;
        figure.target = target.filter(|_| key == "p50");
        figures.push(figure);
    }
    Ok(figures)
}

/// Processor time of keeper and engine, in percent of one processor, while nobody does anything. The other side
/// is 100: what an engine that polls would take.
pub fn idle(ground: &Ground, port: &str, effort: &Effort) -> Result<Figure> {
    let pids = [ground.engine.keeper()?, ground.engine.engine_pid()?];
    let spent = || pids.iter().map(|&pid| machine::process_seconds(pid)).sum::<Result<f64>>();
    // What the last connections left behind is over by then.
    std::thread::sleep(Duration::from_secs(1));
    let (before, started) = (spent()?, Instant::now());
    std::thread::sleep(effort.idle);
    let percent = 100.0 * (spent()? - before) / started.elapsed().as_secs_f64();
    let mut figure = Figure::new(format!("idle engine, {port} / polling"), "% CPU", Better::Lower);
    figure.pairs.push((percent, 100.0));
    Ok(figure.with_target(Target::AtMost(0.0)))
}
