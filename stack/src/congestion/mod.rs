//! Congestion control: events in, window out. A controller sees neither the connection nor the clock; what it has to
//! remember lies in 48 bytes of the control block.

mod cubic;
mod newreno;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::time::Instant;
use cubic::Cubic;
use newreno::NewReno;

/// [`crate::Congestion`] as the records hold it.
pub(crate) const CUBIC: u8 = 0;
pub(crate) const NEW_RENO: u8 = 1;

/// The largest window: keeps sums of two windows within 32 bits.
pub(crate) const MAX_CWND: u32 = 1 << 30;

/// RFC 6928: ten segments, or fewer when they are large.
pub(crate) fn initial_window(mss: u16) -> u32 {
    let mss = u32::from(mss);
    (10 * mss).min((2 * mss).max(14_600))
}

/// What a controller works on. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    pub(crate) mss: u32,
    /// Smoothed round-trip time in microseconds.
    pub(crate) srtt: u32,
    pub(crate) now: Instant,
}

/// One way to control congestion. Times and sizes come in `path`; the answer is the new window.
pub(crate) trait Controller {
    /// `acked` bytes were newly acknowledged while the window limited sending and nothing was known to be lost.
    fn on_ack(&mut self, path: &Path, acked: u32) -> u32;

    /// Loss was detected; `in_flight` bytes were outstanding. Returns ssthresh, which becomes the window as well.
    fn on_loss(&mut self, path: &Path, in_flight: u32) -> u32;

    /// The retransmission timer expired for the first time in a row. Returns ssthresh; the window becomes one segment.
    fn on_timeout(&mut self, path: &Path, in_flight: u32) -> u32;

    /// Sending starts again after an idle time: growth counts from now.
    fn on_idle(&mut self, path: &Path);

    /// A loss or timeout turned out not to have been one; the window is restored by the caller.
    fn on_undo(&mut self, path: &Path);

    /// The clock is another one from now on: what was `from` is `to`.
    fn on_clock(&mut self, from: Instant, to: Instant);
}

/// Slow start (RFC 5681 section 3.1): one byte for each acknowledged byte, up to ssthresh. Returns the window and what
/// is left of `acked` for congestion avoidance.
pub(crate) fn slow_start(path: &Path, acked: u32) -> (u32, u32) {
    let room = path.ssthresh.saturating_sub(path.cwnd);
    let used = acked.min(room);
    ((path.cwnd + used).min(MAX_CWND), acked - used)
}

/// Runs `f` on the controller of kind `kind` whose state is `state`.
pub(crate) fn with<R>(kind: u8, state: &mut [u64; 6], f: impl FnOnce(&mut dyn Controller) -> R) -> R {
    match kind {
        NEW_RENO => f(view::<NewReno>(state)),
        _ => f(view::<Cubic>(state)),
    }
}

fn view<T: FromBytes + IntoBytes + KnownLayout + Immutable>(state: &mut [u64; 6]) -> &mut T {
    const { assert!(size_of::<T>() <= 48 && align_of::<T>() <= 8) };
    match T::mut_from_prefix(state.as_mut_bytes()) {
        Ok((controller, _)) => controller,
        // Size and alignment were checked above, at compile time.
        Err(_) => unreachable!(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_windows() {
        assert_eq!(initial_window(1460), 14_600);
        assert_eq!(initial_window(536), 5_360);
        assert_eq!(initial_window(8960), 17_920);
    }

    #[test]
    fn slow_start_stops_at_the_threshold() {
        let path = Path { cwnd: 10_000, ssthresh: 12_000, mss: 1_000, srtt: 10_000, now: Instant::default() };
        assert_eq!(slow_start(&path, 1_000), (11_000, 0));
        assert_eq!(slow_start(&path, 5_000), (12_000, 3_000));
    }
}
