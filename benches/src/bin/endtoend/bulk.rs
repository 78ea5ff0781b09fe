//! Goodput and processor time in one direction: Persona, the host, and the minimal loops over the same kind of ring.

use crate::Effort;
use anyhow::Result;
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::ground::{Ground, Who, Work};
use persona_benches::sample::{cpu_per_gigabyte, gigabits};
use serde_json::Value;

const RATE: (&str, Better) = ("Gbit/s", Better::Higher);
const COST: (&str, Better) = ("s/GB", Better::Lower);
/// The share of the minimal loop's rate that a whole stack has to reach.
const OF_LOOP: f64 = 0.8;

/// With the target: 0.8 of the minimal loop or 1.0 of the host, whichever is less, each way.
pub fn over_xdp(ground: &mut Ground, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    for kind in ["send", "receive"] {
        let work = Work::new(kind, effort.milliseconds);
        if cfg!(feature = "xsk-rs") {
            let who = [Who::Persona, Who::Host, Who::Minimal("xdp"), Who::Minimal("xdp-port"), Who::Minimal("xsk-rs")];
            let rounds = ground.rounds(who, &work, effort.rounds)?;
            against_host_and_loop(kind, "AF_XDP", &rounds, figures)?;
            for (name, ours) in [("AF_XDP", 0), ("our AF_XDP port in a loop", 3)] {
                let name = format!("bulk {kind}, {name} / xsk-rs in a loop");
                figures.push(Figure::of_rounds(name, RATE, &rounds, (ours, 4), gigabits)?);
            }
        } else {
            eprintln!("xsk-rs is not measured: this was built without the feature of that name");
            let who = [Who::Persona, Who::Host, Who::Minimal("xdp")];
            let rounds = ground.rounds(who, &work, effort.rounds)?;
            against_host_and_loop(kind, "AF_XDP", &rounds, figures)?;
        }
    }
    eprintln!("engine: {}", ground.repeated()?);
    ground.persona.assert_kernel_saw_no_tcp()
}

/// The same comparison over packet_mmap, where nothing has to be reached.
pub fn over_packet(ground: &mut Ground, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    for kind in ["send", "receive"] {
        let who = [Who::Persona, Who::Host, Who::Minimal("packet-offload")];
        let rounds = ground.rounds(who, &Work::new(kind, effort.milliseconds), effort.rounds)?;
        against_host_and_loop(kind, "packet_mmap", &rounds, figures)?;
    }
    eprintln!("engine: {}", ground.repeated()?);
    ground.persona.assert_kernel_saw_no_tcp()
}

/// Rounds of Persona, host, minimal loop, and whatever else.
fn against_host_and_loop<const N: usize>(
    kind: &str,
    port: &str,
    rounds: &[[Value; N]],
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let named = |what: &str| format!("bulk {kind}, {what}");
    figures.push(Figure::of_rounds(named(&format!("{port} / host")), RATE, rounds, (0, 1), gigabits)?);
    figures.push(Figure::of_rounds(named(&format!("{port} / minimal loop")), RATE, rounds, (0, 2), gigabits)?);
    if port == "AF_XDP" {
        let name = named(&format!("{port} / the less of {OF_LOOP} loop, host"));
        let mut figure = Figure::new(name, RATE.0, RATE.1).with_target(Target::AtLeast(1.0));
        for round in rounds {
            let bound = (OF_LOOP * gigabits(&round[2])?).min(gigabits(&round[1])?);
            figure.pairs.push((gigabits(&round[0])?, bound));
        }
        figures.push(figure);
    }
    figures.push(Figure::of_rounds(named(&format!("minimal {port} loop / host")), RATE, rounds, (2, 1), gigabits)?);
    let name = format!("CPU per GB, {kind}, {port} / host");
    figures.push(Figure::of_rounds(name, COST, rounds, (0, 1), cpu_per_gigabyte)?);
    let name = format!("CPU per GB, {kind}, {port} / minimal loop");
    figures.push(Figure::of_rounds(name, COST, rounds, (0, 2), cpu_per_gigabyte)?);
    Ok(())
}

/// Several connections at once, beside the host's.
pub fn several(ground: &mut Ground, how: &str, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    for kind in ["send", "receive"] {
        let work = Work { connections: 4, ..Work::new(kind, effort.milliseconds) };
        let rounds = ground.rounds([Who::Persona, Who::Host], &work, effort.rounds)?;
        figures.push(Figure::of_rounds(format!("bulk {kind}, {how} / host"), RATE, &rounds, (0, 1), gigabits)?);
        let name = format!("CPU per GB, {kind}, {how} / host");
        figures.push(Figure::of_rounds(name, COST, &rounds, (0, 1), cpu_per_gigabyte)?);
    }
    ground.persona.assert_kernel_saw_no_tcp()
}
