//! NewReno: additive increase, multiplicative decrease (RFC 5681, RFC 6582).

use super::{Controller, MAX_CWND, Path, slow_start};
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct NewReno {
    /// Bytes acknowledged since the window last grew by a segment.
    acked: u64,
}

impl Controller for NewReno {
    fn on_ack(&mut self, path: &Path, acked: u32) -> u32 {
        let (cwnd, acked) = slow_start(path, acked);
        // RFC 5681 section 3.1 with byte counting (RFC 3465): a segment per window of acknowledged bytes.
        self.acked += u64::from(acked);
        let windows = self.acked / u64::from(cwnd);
        self.acked -= windows * u64::from(cwnd);
        u64::from(cwnd).saturating_add(windows * u64::from(path.mss)).min(u64::from(MAX_CWND)) as u32
    }

    fn on_loss(&mut self, path: &Path, in_flight: u32) -> u32 {
        self.acked = 0;
        // RFC 5681 equation (4).
        (in_flight.min(path.cwnd) / 2).max(2 * path.mss)
    }

    fn on_timeout(&mut self, path: &Path, in_flight: u32) -> u32 {
        self.on_loss(path, in_flight)
    }

    fn on_idle(&mut self, _path: &Path) {
        self.acked = 0;
    }

    fn on_undo(&mut self, _path: &Path) {
        self.acked = 0;
    }

    fn on_clock(&mut self, _from: Instant, _to: Instant) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(cwnd: u32) -> Path {
        Path { cwnd, ssthresh: 10_000, mss: 1_000, srtt: 10_000, now: Instant::default() }
    }

    #[test]
    fn a_segment_per_window_above_the_threshold() {
        let mut reno = NewReno { acked: 0 };
        let mut cwnd = 20_000;
        for _ in 0..20 {
            cwnd = reno.on_ack(&path(cwnd), 1_000);
        }
        assert_eq!(cwnd, 21_000);
    }

    #[test]
    fn halves_on_loss_but_keeps_two_segments() {
        let mut reno = NewReno { acked: 0 };
        assert_eq!(reno.on_loss(&path(20_000), 20_000), 10_000);
        assert_eq!(reno.on_loss(&path(20_000), 1_000), 2_000);
    }
}
