//! The worked example of `docs/congestion-control.md`: what the page shows is this file's first part, and a test compares them.

// Shown in the page from here.
use super::{Ack, Cause, Controller, MAX_CWND, Path, Window, slow_start};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Additive increase, multiplicative decrease, with the increase in bytes per second rather than per round trip, so that
/// flows with short and long round trips grow alike.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Even {
    /// When the window last grew, in microseconds; 0: not since the last reduction.
    grown_at: u64,
}

/// Segments by which the window grows in a second.
const SEGMENTS_PER_SECOND: u64 = 20;

impl Controller for Even {
    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        if !ack.may_grow || slow_start(window, ack.delivered) == 0 {
            return;
        }
        let now = path.now.as_micros();
        let since = now.saturating_sub(self.grown_at);
        let segments = since * SEGMENTS_PER_SECOND / 1_000_000;
        if self.grown_at == 0 {
            self.grown_at = now;
        } else if segments > 0 {
            // Not the whole time that an application was silent: a second's growth at most.
            let segments = segments.min(SEGMENTS_PER_SECOND) as u32;
            self.grown_at = now;
            window.cwnd = window.cwnd.saturating_add(segments * path.mss).min(MAX_CWND);
        }
    }

    fn on_congestion(&mut self, path: &Path, _cause: Cause, window: &Window) -> u32 {
        self.grown_at = 0;
        (path.in_flight.min(window.cwnd) / 2).max(2 * path.mss)
    }
}
// Shown in the page up to here.

#[cfg(test)]
mod tests {
    use super::super::testing::{ack, path};
    use super::super::{Memory, Note, view};
    use super::*;

    #[test]
    fn the_page_shows_what_compiles() {
        let (source, page) = (include_str!("example.rs"), include_str!("../../../docs/congestion-control.md"));
        let shown = source.split("// Shown in the page from here.\n").nth(1).expect("the first mark");
        let shown = shown.split("// Shown in the page up to here.").next().expect("the second mark");
        assert!(page.contains(shown), "docs/congestion-control.md shows something else than {shown}");
    }

    #[test]
    fn it_fits_grows_by_the_clock_and_halves() {
        let mut memory = Memory::default();
        let even: &mut Even = view(&mut memory);
        let mut window = Window { cwnd: 10_000, ssthresh: 10_000, pacing: 0, note: Note::None };
        even.on_ack(&path(0), &ack(1_000), &mut window);
        even.on_ack(&path(49), &ack(1_000), &mut window);
        assert_eq!(window.cwnd, 10_000);
        even.on_ack(&path(100), &ack(1_000), &mut window);
        assert_eq!(window.cwnd, 12_000);
        even.on_ack(&path(9_000), &ack(1_000), &mut window);
        assert_eq!(window.cwnd, 32_000);
        let full = Path { in_flight: 30_000, ..path(9_001) };
        assert_eq!(even.on_congestion(&full, Cause::Loss, &window), 15_000);
    }
}
