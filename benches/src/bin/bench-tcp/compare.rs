//! Persona beside the kernel over each path in turn: goodput of bulk, latency of small requests.

use crate::course::{Course, Task, Who};
use crate::points::Point;
use anyhow::Result;
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::sample::{field, gigabits};
use persona_tests::Conditions;
use std::time::Duration;

/// Of the kernel's.
const GOODPUT: Target = Target::AtLeast(0.97);
const LATENCY: Target = Target::AtMost(1.1);
/// Small requests meet no congestion: one controller serves.
const CALM: &str = "cubic";

/// `round` chooses the seed and who begins. Failures of samples are said and kept: the other points are worth having.
pub fn goodput(course: &Course, point: &Point, controller: &str, rounds: usize, problems: &mut Vec<String>) -> Figure {
    let name = format!("goodput, {}, {controller}", point.name);
    let mut figure = Figure::new(name, "Mbit/s", Better::Higher).with_target(GOODPUT);
    let conditions = point.conditions();
    let task = Task { kind: "flow", ..task(point, &conditions) };
    for round in 0..rounds {
        take(course, (&task, controller), round, &mut figure, problems, |sample| Ok(gigabits(sample)? * 1000.0));
    }
    figure
}

pub fn latency(course: &Course, point: &Point, rounds: usize, problems: &mut Vec<String>) -> [Figure; 2] {
    let named = |what: &str| Figure::new(format!("request {what}, {}", point.name), "ms", Better::Lower);
    let (mut median, mut tail) = (named("p50"), named("p99").with_target(LATENCY));
    let conditions = point.conditions();
    let task = Task { kind: "paced", connections: point.connections(), ..task(point, &conditions) };
    let mut medians = Vec::new();
    for round in 0..rounds {
        take(course, (&task, CALM), round, &mut tail, problems, |sample| {
            medians.push(field(sample, "p50")? / 1000.0);
            Ok(field(sample, "p99")? / 1000.0)
        });
        // Ours is read first. One that is alone has no pair.
        if let [ours, theirs] = medians[..] {
            median.pairs.push((ours, theirs));
        }
        medians.clear();
    }
    [median, tail]
}

fn task<'a>(point: &Point, conditions: &'a [Conditions; 2]) -> Task<'a> {
    Task {
        conditions,
        round_trip: Duration::from_micros(point.round_trip),
        tolerance: point.tolerance(),
        seed: 0,
        kind: "",
        milliseconds: point.milliseconds(),
        connections: 1,
    }
}

/// One pair, with the same seed for both.
fn take(
    course: &Course,
    (task, controller): (&Task<'_>, &str),
    round: usize,
    figure: &mut Figure,
    problems: &mut Vec<String>,
    mut read: impl FnMut(&serde_json::Value) -> Result<f64>,
) {
    let task = Task { seed: round as u64 + 1, ..*task };
    let mut samples = [None, None];
    let both = [Who::Persona, Who::Host];
    for turn in 0..2 {
        let at = (turn + round) % 2;
        let outcome = course.repeated(both[at]).and_then(|before| {
            let sample = course.sample(&[(both[at], controller)], &task)?;
            let after = course.repeated(both[at])?;
            Ok(sample.map(|sample| (sample, after.0 - before.0, after.1 - before.1)))
        });
        match outcome {
            Ok(sample) => samples[at] = sample,
            Err(error) => return problems.push(format!("{}, round {round}: {error:#}", figure.name)),
        }
    }
    let [Some(ours), Some(theirs)] = &samples else {
        return problems.push(format!("{}, round {round}: the emulator could not carry it", figure.name));
    };
    match (read(&ours.0.clients[0]), read(&theirs.0.clients[0])) {
        (Ok(one), Ok(other)) => {
            figure.pairs.push((one, other));
            let told = |(sample, repeated, timeouts): &(crate::course::Sample, u64, u64)| {
                let link = &sample.link["there"];
                format!(
                    "{repeated} sent again, {timeouts} timeouts, link lost {} and dropped {}",
                    link["lost_alone"], link["dropped_queue"]
                )
            };
            eprintln!("{}: {one:.2} ({}) : {other:.2} ({}) {}", figure.name, told(ours), told(theirs), figure.unit);
        }
        (Err(error), _) | (_, Err(error)) => problems.push(format!("{}, round {round}: {error:#}", figure.name)),
    }
}
