//! The engine's clock: microseconds of CLOCK_MONOTONIC, so that a successor goes on with its predecessor's times.

use persona_stack::Instant;
use rustix::time::{ClockId, clock_gettime};

pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
}

/// Whole seconds of the same clock.
pub fn seconds() -> u64 {
    clock_gettime(ClockId::Monotonic).tv_sec as u64
}
