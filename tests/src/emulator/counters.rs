//! What one direction did to frames, and how well the emulator kept its own time.

use serde_json::{Value, json};

/// Counts of one direction. Frames that are not IP (ARP) are delayed and counted in `other`, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// That came to the link.
    pub frames: u64,
    /// Sent, copies included.
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub other: u64,
    /// Not sent yet at the end.
    pub under_way: u64,
    pub dropped_queue: u64,
    pub lost_alone: u64,
    pub lost_burst: u64,
    pub lost_outage: u64,
    pub marked: u64,
    pub reordered: u64,
    pub duplicated: u64,
    /// Bytes before a frame that entered.
    pub longest_queue: u64,
    /// Nanoseconds.
    pub longest_wait: u64,
    /// That the emulator had no memory for, that came while its ring was full, that the device refused. With one of
    /// these above 0 the emulator itself lost frames, and what was measured over it is void.
    pub overflowed: u64,
    pub missed: u64,
    pub refused: u64,
    pub lateness: Lateness,
}

impl Counters {
    /// Frames that the emulator lost without being told to.
    pub fn faults(&self) -> u64 {
        self.overflowed + self.missed + self.refused
    }

    pub fn to_json(&self) -> Value {
        json!({
            "frames": self.frames,
            "forwarded": self.forwarded,
            "forwarded_bytes": self.forwarded_bytes,
            "other": self.other,
            "under_way": self.under_way,
            "dropped_queue": self.dropped_queue,
            "lost_alone": self.lost_alone,
            "lost_burst": self.lost_burst,
            "lost_outage": self.lost_outage,
            "marked": self.marked,
            "reordered": self.reordered,
            "duplicated": self.duplicated,
            "longest_queue_bytes": self.longest_queue,
            "longest_wait_us": self.longest_wait / 1000,
            "overflowed": self.overflowed,
            "missed": self.missed,
            "refused": self.refused,
            "late_mean_us": self.lateness.mean() / 1000,
            "late_p99_us": self.lateness.quantile(0.99) / 1000,
            "late_max_us": self.lateness.max / 1000,
        })
    }
}

/// Powers of two of microseconds.
const STEPS: usize = 24;

/// How long after its due time each frame left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    count: u64,
    sum: u64,
    max: u64,
    /// Frames later than nothing, 1 us, 2 us, 4 us and so on, up to the next step.
    steps: [u64; STEPS],
}

impl Lateness {
    pub fn record(&mut self, nanoseconds: u64) {
        self.count += 1;
        self.sum += nanoseconds;
        self.max = self.max.max(nanoseconds);
        let step = (u64::BITS - (nanoseconds / 1000).leading_zeros()) as usize;
        self.steps[step.min(STEPS - 1)] += 1;
    }

    /// Nanoseconds.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// Nanoseconds that this part of the frames did not exceed: the end of its step, a factor of two too much at most.
    pub fn quantile(&self, part: f64) -> u64 {
        let mut left = (self.count as f64 * part).ceil() as u64;
        for (step, count) in self.steps.iter().enumerate() {
            if left <= *count {
                return (1000 << step).min(self.max);
            }
            left -= count;
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_told_to_a_factor_of_two() {
        let mut lateness = Lateness::default();
        assert_eq!((lateness.mean(), lateness.quantile(0.99)), (0, 0));
        for _ in 0..98 {
            lateness.record(1_500);
        }
        lateness.record(70_000);
        lateness.record(1_000_000);
        assert_eq!(lateness.mean(), (98 * 1_500 + 1_070_000) / 100);
        assert_eq!(lateness.quantile(0.5), 2_000);
        assert_eq!(lateness.quantile(0.99), 128_000);
        assert_eq!(lateness.quantile(1.0), 1_000_000);
    }

    #[test]
    fn what_the_emulator_lost_itself_is_a_fault_and_what_it_was_told_to_lose_is_none() {
        let told = Counters { dropped_queue: 3, lost_alone: 2, lost_burst: 1, lost_outage: 4, ..Counters::default() };
        assert_eq!(told.faults(), 0);
        assert_eq!(Counters { overflowed: 1, missed: 2, refused: 3, ..told }.faults(), 6);
    }
}
