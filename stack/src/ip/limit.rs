//! A token bucket: answers to unsolicited packets must not become somebody's amplifier.

use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// State of a bucket, in the arena. It fills itself: all zeros is a bucket that was full at the origin of time.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TokenBucket {
    /// When the bucket would be empty if nothing more came in, in microseconds.
    spent_until: u64,
}

/// How fast and how deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl TokenBucket {
    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let now = now.as_micros();
        let cost = 1_000_000 / u64::from(rate.per_second.max(1));
        // Each token lasts `cost`; with `burst` of them spent at once the bucket is empty that long.
        let spent_until = self.spent_until.max(now) + cost;
        if spent_until > now + cost * u64::from(rate.burst) {
            return false;
        }
        self.spent_until = spent_until;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate { per_second: 1_000, burst: 50 };
        let mut bucket = TokenBucket::default();
        let start = 7_000_000;
        let taken =
            |bucket: &mut TokenBucket, at| (0..200).filter(|_| bucket.take(Instant::from_micros(at), rate)).count();
        assert_eq!(taken(&mut bucket, start), 50);
        assert_eq!(taken(&mut bucket, start + 999), 0);
        assert_eq!(taken(&mut bucket, start + 10_000), 10);
        assert_eq!(taken(&mut bucket, start + 60_000_000), 50);
    }
}
