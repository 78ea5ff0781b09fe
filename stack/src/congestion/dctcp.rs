//! DCTCP (RFC 8257): reduces by as much as the path marks, so that queues stay at the depth where marking begins. For networks
//! whose every queue marks early; elsewhere it pushes others aside.

use super::{Ack, Cause, Controller, Details, MAX_CWND, Path, Window, slow_start};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// DCTCP.Alpha's unit, and g = 1/16 as a shift (RFC 8257 section 4.2).
const ONE: u32 = 1 << 10;
const G_SHIFT: u32 = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Dctcp {
    /// Bytes that were acknowledged and that were marked in this observation window (DCTCP.BytesAcked, DCTCP.BytesMarked).
    acked: u64,
    marked: u64,
    /// Bytes acknowledged since the window last grew by a segment.
    credit: u64,
    /// DCTCP.Alpha in 1,024ths.
    alpha: u32,
    _pad: u32,
}

impl Dctcp {
    /// RFC 8257 section 3.3, steps 4 to 8: the estimate at the end of an observation window.
    fn estimate(&mut self) {
        // One 1,024th of alpha would never go away by shifting.
        let leaves = (self.alpha >> G_SHIFT).max(u32::from(self.alpha > 0));
        let share = (self.marked.min(self.acked) << 10 >> G_SHIFT) / self.acked.max(1);
        self.alpha = (self.alpha - leaves + share as u32).min(ONE);
        self.acked = 0;
        self.marked = 0;
    }
}

impl Controller for Dctcp {
    fn details(&self) -> Details {
        let bytes = |amount: u64| amount.min(u64::from(u32::MAX)) as u32;
        Details::Dctcp { alpha: self.alpha, marked: bytes(self.marked), acked: bytes(self.acked) }
    }

    fn start(&mut self, _path: &Path, _window: &mut Window) {
        // Section 4.2: nothing is known, so the first mark counts in full.
        self.alpha = ONE;
    }

    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        self.acked += u64::from(ack.delivered);
        self.marked += u64::from(ack.marked);
        if ack.round {
            self.estimate();
        }
        if !ack.may_grow {
            return;
        }
        // Section 3.4: growth is RFC 5681's.
        self.credit += u64::from(slow_start(window, ack.delivered));
        let windows = self.credit / u64::from(window.cwnd);
        self.credit -= windows * u64::from(window.cwnd);
        let grown = u64::from(window.cwnd).saturating_add(windows * u64::from(path.mss));
        window.cwnd = grown.min(u64::from(MAX_CWND)) as u32;
    }

    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        self.credit = 0;
        let reduced = match cause {
            // Section 3.3, step 9: cwnd * (1 - alpha / 2).
            Cause::Marked => window.cwnd - (u64::from(window.cwnd) * u64::from(self.alpha) / u64::from(2 * ONE)) as u32,
            // Section 3.5: losses are what they are to others.
            Cause::Loss | Cause::Timeout => path.in_flight.min(window.cwnd) / 2,
        };
        reduced.max(2 * path.mss)
    }

    fn on_idle(&mut self, _path: &Path, _window: &mut Window) {
        self.credit = 0;
    }

    fn on_undo(&mut self, _path: &Path, _window: &mut Window) {
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Note;
    use super::super::testing::{ack, path};
    use super::*;
    use zerocopy::FromZeros;

    const WINDOW: Window = Window { cwnd: 64_000, ssthresh: 32_000, pacing: 0, note: Note::None };

    /// A round in which `marked` of 32,000 bytes are.
    fn round(dctcp: &mut Dctcp, marked: u32) {
        let ack = Ack { marked, round: true, may_grow: false, ..ack(32_000) };
        dctcp.on_ack(&path(0), &ack, &mut WINDOW.clone());
    }

    fn started() -> Dctcp {
        let mut dctcp = Dctcp::new_zeroed();
        dctcp.start(&path(0), &mut WINDOW.clone());
        dctcp
    }

    #[test]
    fn the_first_mark_halves_as_a_loss_does() {
        let mut dctcp = started();
        assert_eq!(dctcp.on_congestion(&path(0), Cause::Marked, &WINDOW), 32_000);
        let full = Path { in_flight: 64_000, ..path(0) };
        assert_eq!(dctcp.on_congestion(&full, Cause::Loss, &WINDOW), 32_000);
    }

    /// alpha = 15/16 alpha + 1/16 of the share: 1, 0.9375, then 0.8789 + 0.0313 with half of a round marked.
    #[test]
    fn alpha_follows_the_share_of_marked_bytes() {
        let mut dctcp = started();
        round(&mut dctcp, 0);
        assert_eq!(dctcp.alpha, 960);
        round(&mut dctcp, 16_000);
        assert_eq!(dctcp.alpha, 960 - 60 + 32);
        for _ in 0..200 {
            round(&mut dctcp, 8_000);
        }
        // A quarter, and what rounding leaves below a sixteenth.
        assert!((256..256 + 16).contains(&dctcp.alpha), "{}", dctcp.alpha);
        // An eighth of 64,000 and a little.
        let reduced = dctcp.on_congestion(&path(0), Cause::Marked, &WINDOW);
        assert!((55_500..=56_000).contains(&reduced), "{reduced}");
    }

    #[test]
    fn without_marks_alpha_goes_away_and_two_segments_stay() {
        let mut dctcp = started();
        for _ in 0..200 {
            round(&mut dctcp, 0);
        }
        assert_eq!(dctcp.alpha, 0);
        assert_eq!(dctcp.on_congestion(&path(0), Cause::Marked, &WINDOW), 64_000);
        let small = Window { cwnd: 2_000, ..WINDOW };
        assert_eq!(started().on_congestion(&path(0), Cause::Marked, &small), 2_000);
    }

    #[test]
    fn grows_by_a_segment_per_window() {
        let (mut dctcp, mut window) = (started(), WINDOW);
        for _ in 0..64 {
            dctcp.on_ack(&path(0), &ack(1_000), &mut window);
        }
        assert_eq!(window.cwnd, 65_000);
    }
}
