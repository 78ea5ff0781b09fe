//! NewReno: additive increase, multiplicative decrease (RFC 5681, RFC 6582), with HyStart++ in the first slow start.

use super::hystart::HyStart;
use super::{Ack, Cause, Controller, MAX_CWND, Path, Window};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct NewReno {
    /// Bytes acknowledged since the window last grew by a segment.
    acked: u64,
    hystart: HyStart,
}

impl Controller for NewReno {
    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        let left = self.hystart.slow_start(ack, window);
        // RFC 5681 section 3.1 with byte counting (RFC 3465): a segment per window of acknowledged bytes.
        self.acked += u64::from(left);
        let windows = self.acked / u64::from(window.cwnd);
        self.acked -= windows * u64::from(window.cwnd);
        let grown = u64::from(window.cwnd).saturating_add(windows * u64::from(path.mss));
        window.cwnd = grown.min(u64::from(MAX_CWND)) as u32;
    }

    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        self.acked = 0;
        let used = u64::from(path.in_flight.min(window.cwnd));
        let reduced = match cause {
            // RFC 8511 section 4.1: a mark comes from a short queue, which 0.8 drains.
            Cause::Marked => used * 8 / 10,
            // RFC 5681 equation (4).
            Cause::Loss | Cause::Timeout => used / 2,
        };
        (reduced as u32).max(2 * path.mss)
    }

    fn on_idle(&mut self, _path: &Path, _window: &mut Window) {
        self.acked = 0;
    }

    fn on_undo(&mut self, _path: &Path, _window: &mut Window) {
        self.acked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Note;
    use super::super::testing::{ack, path};
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_segment_per_window_above_the_threshold() {
        let mut reno = NewReno::new_zeroed();
        let mut window = Window { cwnd: 20_000, ssthresh: 10_000, pacing: 0, note: Note::None };
        for _ in 0..20 {
            reno.on_ack(&path(0), &ack(1_000), &mut window);
        }
        assert_eq!(window.cwnd, 21_000);
    }

    #[test]
    fn halves_on_loss_but_keeps_two_segments() {
        let mut reno = NewReno::new_zeroed();
        let window = Window { cwnd: 20_000, ssthresh: 10_000, pacing: 0, note: Note::None };
        let lost =
            |reno: &mut NewReno, in_flight| reno.on_congestion(&Path { in_flight, ..path(0) }, Cause::Loss, &window);
        assert_eq!(lost(&mut reno, 20_000), 10_000);
        assert_eq!(lost(&mut reno, 1_000), 2_000);
    }

    #[test]
    fn a_mark_takes_a_fifth() {
        let window = Window { cwnd: 20_000, ssthresh: 10_000, pacing: 0, note: Note::None };
        let full = Path { in_flight: 20_000, ..path(0) };
        assert_eq!(NewReno::new_zeroed().on_congestion(&full, Cause::Marked, &window), 16_000);
    }
}
