//! Spinning before sleeping, for those who pay a core for latency: PERSONA_SPIN is how many microseconds a call that
//! has to wait looks again and again before it blocks. 0, the default, blocks at once.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::{environment, sys};

/// Microseconds plus one; 0: not asked yet.
static LONGEST: AtomicU32 = AtomicU32::new(0);

/// How long to spin, in microseconds.
fn longest() -> u32 {
    match LONGEST.load(Ordering::Relaxed) {
        0 => {
            let mut text = [0; 12];
            let digits = environment::ours(c"PERSONA_SPIN", &mut text).unwrap_or(b"0");
            let value = digits
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .fold(0u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
            let value = value.min(1_000_000);
            LONGEST.store(value + 1, Ordering::Relaxed);
            value
        }
        known => known - 1,
    }
}

/// Looks at `condition` until it holds (true) or the time is over.
pub fn until(condition: &dyn Fn() -> bool) -> bool {
    let time = longest();
    if time == 0 {
        return false;
    }
    let end = sys::now() + u64::from(time) * 1_000;
    loop {
        for _ in 0..16 {
            if condition() {
                return true;
            }
            core::hint::spin_loop();
        }
        if sys::now() >= end {
            return false;
        }
        // What we wait for may need this very processor: the peer, another thread, the shard itself.
        sys::sched_yield();
    }
}
