//! Two flows through one bottleneck at once, and what each got of it: Jain's index, (a + b)^2 / 2 (a^2 + b^2). It is 1 for equal
//! shares and 0.5 for all or nothing.

use crate::course::{Client, Course, Task, Who};
use crate::points::{POINTS, Point};
use anyhow::{Context, Result};
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::sample::gigabits;
use std::time::Duration;

const FAIR: Target = Target::AtLeast(0.9);
/// The kernel's controller, whatever ours is.
const KERNELS: &str = "cubic";
/// Paths without random loss, on which a window goes through its cycle many times in the time there is.
const NAMES: [&str; 3] = ["cable", "dsl", "city"];

pub fn measure(
    course: &Course,
    controllers: &[String],
    (paths, rounds, milliseconds): (usize, usize, u64),
    problems: &mut Vec<String>,
) -> Vec<Figure> {
    let kernels = (Who::Host, KERNELS);
    // The kernel's two beside each other have no target: they say what the path allows.
    let mut pairs = vec![([kernels, kernels], format!("two of the kernel's ({KERNELS})"), None)];
    for controller in controllers {
        let ours = (Who::Persona, controller.as_str());
        pairs.push(([ours, ours], format!("two of ours ({controller})"), Some(FAIR)));
        pairs.push(([ours, kernels], format!("ours ({controller}) and the kernel's ({KERNELS})"), Some(FAIR)));
    }
    let mut figures = Vec::new();
    for name in &NAMES[..paths] {
        let Some(point) = POINTS.iter().find(|point| point.name == *name) else { continue };
        for (clients, what, target) in &pairs {
            let mut figure = Figure::new(format!("Jain's index, {name}, {what}"), "", Better::Higher);
            figure.target = *target;
            for round in 0..rounds {
                match shares(course, point, clients, round, milliseconds) {
                    Ok([one, other]) => {
                        eprintln!("{}: {one:.2} and {other:.2} Mbit/s", figure.name);
                        figure.pairs.push((jain(one, other), 1.0));
                    }
                    Err(error) => problems.push(format!("{}, round {round}: {error:#}", figure.name)),
                }
            }
            figures.push(figure);
        }
    }
    figures
}

/// Mbit/s of each.
fn shares(
    course: &Course,
    point: &Point,
    clients: &[Client<'_>; 2],
    round: usize,
    milliseconds: u64,
) -> Result<[f64; 2]> {
    let task = Task {
        conditions: &point.conditions(),
        round_trip: Duration::from_micros(point.round_trip),
        tolerance: point.tolerance(),
        seed: round as u64 + 1,
        kind: "flow",
        milliseconds,
        connections: 1,
    };
    let sample = course.sample(clients, &task)?.context("the emulator could not carry it")?;
    let mut rates = [0.0; 2];
    for (rate, client) in rates.iter_mut().zip(&sample.clients) {
        *rate = gigabits(client)? * 1000.0;
    }
    Ok(rates)
}

fn jain(one: f64, other: f64) -> f64 {
    (one + other).powi(2) / (2.0 * (one * one + other * other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_for_equal_shares_and_a_half_for_all_or_nothing() {
        assert_eq!(jain(3.0, 3.0), 1.0);
        assert_eq!(jain(3.0, 0.0), 0.5);
        assert!((jain(2.0, 1.0) - 0.9).abs() < 1e-12, "two to one is the bound of what is fair");
    }

    #[test]
    fn its_paths_are_points() {
        assert!(NAMES.iter().all(|name| POINTS.iter().any(|point| point.name == *name)));
    }
}
