//! A simulation of whole connections: two to five stacks on a switch, in one thread, under virtual time.
//!
//! A seed draws the circumstances ([`scenario`]): links that lose, delay, reorder, double and damage frames, or fail;
//! ports that cut and merge or do not; applications that write, read, pause and end as they please. After each step
//! is looked at what must hold ([`invariants`], [`oracle`], [`host`]): every byte once and in order, nothing beyond the
//! window, no timer forgotten, every record accounted for. A run that fails prints a packet trace and the command that
//! repeats it.
//!
//! ```text
//! PERSONA_SEED=42 cargo test -p persona-stack --lib one_seed -- --nocapture
//! SEEDS=100000 cargo test -p persona-stack --lib soak -- --ignored
//! ```

pub mod app;
pub mod bottleneck;
pub mod content;
pub mod frames;
pub mod fuzzing;
pub mod host;
pub mod invariants;
pub mod link;
pub mod node;
pub mod oracle;
pub mod rng;
pub mod scenario;
pub mod trace;
pub mod world;

#[cfg(test)]
mod tests;

pub use scenario::{Family, Scenario};
pub use world::World;

use crate::counters::Counters;
use crate::stack::Stack;
use std::vec::Vec;

/// What a run is asked for beside being right: sums over all its nodes.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub family: Family,
    pub seen: oracle::Seen,
    /// Counter names and values, added up.
    pub counters: Vec<(&'static str, u64)>,
    /// Directions of flows, and those that went without window scale, SACK, timestamps.
    pub agreed: [u64; 4],
    /// Virtual microseconds until the last connection had ended.
    pub lasted: u64,
    pub steps: u64,
}

impl Outcome {
    /// Value of the counter `name`.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
    }

    /// Adds another run's sums.
    pub fn add(&mut self, other: &Outcome) {
        for ((_, value), (_, more)) in self.counters.iter_mut().zip(&other.counters) {
            *value += more;
        }
        let (seen, more) = (&mut self.seen, &other.seen);
        seen.segments += more.segments;
        seen.data_bytes += more.data_bytes;
        seen.repeated_bytes += more.repeated_bytes;
        seen.sack_blocks += more.sack_blocks;
        seen.window_probes += more.window_probes;
        seen.zero_windows += more.zero_windows;
        seen.resets += more.resets;
        seen.timestamps += more.timestamps;
        seen.ecn_capable += more.ecn_capable;
        seen.echoes += more.echoes;
        seen.exact_echoes += more.exact_echoes;
        seen.window_reductions += more.window_reductions;
        for (sum, more) in self.agreed.iter_mut().zip(other.agreed) {
            *sum += more;
        }
        self.lasted += other.lasted;
        self.steps += other.steps;
    }
}

/// Runs a seed to its end.
///
/// # Panics
///
/// When anything that must hold does not; the trace and the command that repeats it are on standard error then.
pub fn run(seed: u64, keep_trace: usize) -> Outcome {
    let mut world = Scenario::new(seed).build(keep_trace);
    let start = world.now;
    world.run(|_| {});
    finish(&mut world, seed, start)
}

/// Judges a world whose connections have all ended.
pub fn finish(world: &mut World, seed: u64, start: u64) -> Outcome {
    let lasted = world.now - start;
    if let Err(reason) = scenario::judge(world) {
        panic!("{reason}");
    }
    world.settle();
    invariants::check_at_rest(world);
    let mut counters: Vec<(&'static str, u64)> = Vec::new();
    for node in &mut world.nodes {
        let stack = Stack::attach(node.arena.bytes()).expect("the arena holds a stack");
        let tcp: &Counters = stack.counters();
        for (index, (name, value)) in tcp.iter().chain(stack.ip_counters().values()).enumerate() {
            match counters.get_mut(index) {
                Some((_, sum)) => *sum += value,
                None => counters.push((name, value)),
            }
        }
    }
    let mut agreed = [0; 4];
    for (scale, sack, timestamps) in world.oracle.agreed() {
        let without = [true, !scale, !sack, !timestamps];
        for (sum, without) in agreed.iter_mut().zip(without) {
            *sum += u64::from(without);
        }
    }
    Outcome { family: Family::of_seed(seed), seen: world.oracle.seen, counters, agreed, lasted, steps: world.steps }
}
