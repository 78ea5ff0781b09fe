//! TCP Prague (draft-briscoe-iccrg-prague-congestion-control): answers marks in proportion, so that a queue that marks early
//! (L4S, RFC 9330 to 9332) stays short, and grows alike on short and long paths. Its data is ECT(1) where the peer tells marks
//! exactly (RFC 9768); elsewhere, and after losses, it does what Reno does (RFC 9331 section 4.3).
//!
//! Left out: telling a classic queue that marks from one of L4S.

use super::{Ack, Cause, Controller, MAX_CWND, Path, Window, initial_window, slow_start};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Alpha's unit, and g = 1/16 as a shift (section 2.4.2).
const ONE: u32 = 1 << 20;
const G_SHIFT: u32 = 4;
/// Round trips shorter than this grow as if they were as long, in microseconds (section 2.4.4).
const REFERENCE_RTT: u32 = 25_000;
/// RFC 8511: what a mark of classic ECN leaves of the window.
const CLASSIC_MARK: (u64, u64) = (4, 5);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Prague {
    /// Bytes that arrived, and that arrived marked, in this round.
    acked: u64,
    marked: u64,
    /// Bytes towards the next segment of growth.
    credit: u64,
    /// Share of the marks, smoothed.
    alpha: u32,
    /// What the window is brought down to with this acknowledgement; 0: it is not.
    target: u32,
}

impl Prague {
    /// Section 2.4.2: the estimate at the end of a round.
    fn estimate(&mut self) {
        let share = (self.marked.min(self.acked) * u64::from(ONE) / self.acked.max(1)) as u32;
        self.alpha = self.alpha - (self.alpha >> G_SHIFT) + (share >> G_SHIFT);
        self.acked = 0;
        self.marked = 0;
    }

    /// Section 2.4.3: a segment in a round trip, or as much less as the round trip is shorter than the reference.
    fn grow(&mut self, path: &Path, window: &mut Window, fresh: u32) {
        let left = u64::from(slow_start(window, fresh));
        let rtt = match path.srtt {
            0 => REFERENCE_RTT,
            srtt => srtt.min(REFERENCE_RTT),
        };
        self.credit += left * u64::from(path.mss) * u64::from(rtt) / u64::from(REFERENCE_RTT);
        let more = self.credit / u64::from(window.cwnd.max(1));
        self.credit -= more * u64::from(window.cwnd);
        window.cwnd = (u64::from(window.cwnd) + more).min(u64::from(MAX_CWND)) as u32;
    }

    /// Section 2.4.5: a window in a round trip, twice as fast as long as it doubles.
    fn pace(path: &Path, window: &mut Window) {
        if path.srtt > 0 {
            let rate = u64::from(window.cwnd) * 1_000_000 / u64::from(path.srtt);
            window.pacing = if window.cwnd < window.ssthresh { 2 * rate } else { rate }.max(1);
        }
    }
}

impl Controller for Prague {
    fn start(&mut self, _path: &Path, _window: &mut Window) {
        // Section 2.4.2: nothing is known, so the first mark counts in full.
        self.alpha = ONE;
    }

    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        if path.accurate {
            self.acked += u64::from(ack.delivered);
            self.marked += u64::from(ack.marked);
            if ack.round {
                self.estimate();
            }
        }
        if self.target > 0 {
            window.cwnd = window.cwnd.min(self.target);
            self.target = 0;
        }
        if ack.may_grow {
            self.grow(path, window, ack.delivered.saturating_sub(ack.marked));
        }
        Self::pace(path, window);
    }

    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        let cwnd = u64::from(window.cwnd);
        let reduced = match cause {
            Cause::Marked if path.accurate => cwnd - cwnd * u64::from(self.alpha) / u64::from(2 * ONE),
            Cause::Marked => cwnd * CLASSIC_MARK.0 / CLASSIC_MARK.1,
            // RFC 9331 section 4.3: losses are what they are to others.
            Cause::Loss | Cause::Timeout => u64::from(path.in_flight.min(window.cwnd) / 2),
        };
        let reduced = (reduced as u32).max(2 * path.mss);
        if cause != Cause::Timeout {
            self.target = reduced;
        }
        reduced
    }

    /// RFC 5681 section 4.1.
    fn on_idle(&mut self, path: &Path, window: &mut Window) {
        window.cwnd = window.cwnd.min(initial_window(path.mss.min(u32::from(u16::MAX)) as u16));
        self.credit = 0;
    }

    fn on_undo(&mut self, _path: &Path, _window: &mut Window) {
        self.target = 0;
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

    fn started() -> Prague {
        let mut prague = Prague::new_zeroed();
        prague.start(&path(0), &mut WINDOW.clone());
        prague
    }

    fn exact() -> Path {
        Path { accurate: true, in_flight: 64_000, ..path(0) }
    }

    fn round(prague: &mut Prague, marked: u32) {
        let ack = Ack { marked, round: true, may_grow: false, ..ack(32_000) };
        prague.on_ack(&exact(), &ack, &mut WINDOW.clone());
    }

    #[test]
    fn a_mark_costs_half_of_its_share() {
        let mut prague = started();
        assert_eq!(prague.on_congestion(&exact(), Cause::Marked, &WINDOW), 32_000, "the first one in full");
        for _ in 0..400 {
            round(&mut prague, 8_000);
        }
        // A quarter of a half of 64,000 is 8,000.
        let reduced = prague.on_congestion(&exact(), Cause::Marked, &WINDOW);
        assert!((55_900..=56_100).contains(&reduced), "{reduced}");
        let mut window = WINDOW;
        prague.on_ack(&exact(), &Ack { may_grow: false, ..ack(1_000) }, &mut window);
        assert_eq!(window.cwnd, reduced, "with the acknowledgement that told");
    }

    #[test]
    fn what_is_not_told_exactly_is_answered_classically() {
        let (mut prague, classic) = (started(), Path { accurate: false, ..exact() });
        for _ in 0..100 {
            prague.on_ack(&classic, &Ack { round: true, ..ack(32_000) }, &mut WINDOW.clone());
        }
        assert_eq!(prague.on_congestion(&classic, Cause::Marked, &WINDOW), 51_200);
        assert_eq!(prague.on_congestion(&exact(), Cause::Loss, &WINDOW), 32_000);
        assert_eq!(prague.on_congestion(&exact(), Cause::Timeout, &WINDOW), 32_000);
    }

    /// Sixty-four segments are a window; a round trip of 5 ms is a fifth of the reference.
    #[test]
    fn growth_goes_by_the_round_trip_and_by_what_is_not_marked() {
        for (srtt, marked, grown) in [(100_000, 0, 1_000), (25_000, 0, 1_000), (5_000, 0, 200), (25_000, 500, 500)] {
            let (mut prague, mut window) = (started(), WINDOW);
            let path = Path { srtt, ..exact() };
            for _ in 0..64 {
                prague.on_ack(&path, &Ack { marked, ..ack(1_000) }, &mut window);
            }
            let more = window.cwnd - WINDOW.cwnd;
            assert!((grown * 97 / 100..=grown).contains(&more), "{srtt} {marked}: {more}");
        }
    }

    #[test]
    fn is_paced_by_the_window() {
        let (mut prague, mut window) = (started(), Window { ssthresh: u32::MAX, ..WINDOW });
        prague.on_ack(&exact(), &Ack { may_grow: false, ..ack(1_000) }, &mut window);
        assert_eq!(window.pacing, 2 * 640_000);
        window.ssthresh = window.cwnd;
        prague.on_ack(&exact(), &Ack { may_grow: false, ..ack(1_000) }, &mut window);
        assert_eq!(window.pacing, 640_000);
    }
}
