//! The stack alone: two ends over memory in this thread, beside smoltcp's, in turn.

use crate::Effort;
use persona_benches::figures::{Better, Figure, Target};
use persona_benches::machine;
use persona_benches::memory::{Ends, Wire, persona::Persona, smoltcp::Smoltcp};

/// Of one sample.
const BYTES: usize = 64 << 20;

pub fn per_segment(effort: &Effort) -> Figure {
    let (mut persona, mut other) = (Persona::<Wire>::connect(0), Smoltcp::connect());
    let name = "stack only, per segment, against smoltcp";
    let mut figure = Figure::new(name, "ns", Better::Lower).with_target(Target::AtMost(1.0));
    // Once for the caches and the congestion window.
    nanoseconds(&mut persona);
    nanoseconds(&mut other);
    for _ in 0..effort.stack_rounds {
        figure.pairs.push((nanoseconds(&mut persona), nanoseconds(&mut other)));
    }
    figure
}

/// Of this thread, for a data segment: both ends, its share of acknowledgements included.
fn nanoseconds(ends: &mut impl Ends) -> f64 {
    let started = machine::thread_time();
    let segments = ends.transfer(BYTES);
    (machine::thread_time() - started).as_nanos() as f64 / segments as f64
}
