//! LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus): takes what others leave. It gives way when its packets wait for more than 60 ms,
//! long before a queue is full, and goes out of the way from time to time to see how long the path is without it.

use super::{Ack, Cause, Controller, MAX_CWND, Path, Window};
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Section 4.5: the queueing delay that it may cause, in microseconds.
const TARGET: u32 = 60_000;
/// Section 4.1: at most so many times slower than Reno.
const SLOWEST: u32 = 16;
/// RFC 6817 section 4.2, BASE_HISTORY: the least round trip of so many minutes.
const HISTORY: usize = 10;
const MINUTE: u64 = 60_000_000;
/// RFC 6817, CURRENT_FILTER: the least of so many samples.
const RECENT: usize = 4;
/// Section 4.4: two round trips at two segments, and nine times as long until the next time.
const SLOWDOWN_ROUNDS: u64 = 2;
const SLOWDOWN_REST: u64 = 9;

/// Round-trip times and moments in microseconds; 0: not known.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Ledbat {
    /// Growth and shrinkage that do not make a byte yet, in bytes times window.
    credit: i64,
    /// When the minute of `history[0]` began, and the phase.
    minute_at: u64,
    phase_at: u64,
    /// When the slowdown began whose ramp is under way.
    slowdown_at: u64,
    history: [u32; HISTORY],
    recent: [u32; RECENT],
    next_recent: u8,
    phase: u8,
    _pad: [u8; 6],
}

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first slow start.
    Begin,
    /// Two round trips after it, until the first slowdown.
    Pause,
    /// Out of the way.
    Slowdown,
    /// Slow start back to where it was.
    Ramp,
    /// Following the delay until `phase_at`.
    Steady,
}

impl Ledbat {
    fn phase(&self) -> Phase {
        match self.phase {
            0 => Phase::Begin,
            1 => Phase::Pause,
            2 => Phase::Slowdown,
            3 => Phase::Ramp,
            _ => Phase::Steady,
        }
    }

    fn enter(&mut self, phase: Phase, until: u64) {
        self.phase = phase as u8;
        self.phase_at = until;
        self.credit = 0;
    }

    fn observe(&mut self, now: u64, rtt: u32) {
        if self.minute_at == 0 {
            self.minute_at = now;
        }
        while now.saturating_sub(self.minute_at) >= MINUTE {
            self.minute_at += MINUTE;
            self.history.rotate_right(1);
            self.history[0] = 0;
        }
        let least = self.history[0];
        self.history[0] = if least == 0 { rtt } else { least.min(rtt) };
        self.recent[usize::from(self.next_recent) % RECENT] = rtt;
        self.next_recent = self.next_recent.wrapping_add(1);
    }

    fn base(&self) -> u32 {
        self.history.iter().copied().filter(|&it| it != 0).min().unwrap_or(0)
    }

    /// How long packets wait.
    fn queueing(&self) -> u32 {
        let current = self.recent.iter().copied().filter(|&it| it != 0).min().unwrap_or(0);
        current.saturating_sub(self.base())
    }

    /// Section 4.1: 1 / GAIN = min(16, ceil(2 * TARGET / base)).
    fn slowness(&self) -> u32 {
        match self.base() {
            0 => SLOWEST,
            base => (2 * TARGET).div_ceil(base).clamp(1, SLOWEST),
        }
    }

    /// Section 4.3: slow start by GAIN, up to ssthresh. Whether it goes on.
    fn slow_start(&self, ack: &Ack, window: &mut Window) -> bool {
        if window.cwnd >= window.ssthresh || self.queueing() > TARGET / 4 * 3 {
            return false;
        }
        if ack.may_grow {
            let grown = window.cwnd.saturating_add((ack.delivered / self.slowness()).max(1));
            window.cwnd = grown.min(window.ssthresh).min(MAX_CWND);
        }
        true
    }

    /// Section 4.2: per round trip, GAIN segments more, and less by as much as the delay exceeds the target, at most half.
    fn follow(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        let (cwnd, mss, queueing) = (i64::from(window.cwnd), i64::from(path.mss), i64::from(self.queueing()));
        let gain = mss / i64::from(self.slowness());
        let target = i64::from(TARGET);
        let per_round = if queueing > target {
            (gain - cwnd * (queueing - target) / target).max(-cwnd / 2)
        } else if ack.may_grow {
            gain
        } else {
            return;
        };
        self.credit += per_round * i64::from(ack.delivered);
        let change = self.credit / cwnd.max(1);
        self.credit -= change * cwnd;
        window.cwnd = (cwnd + change).clamp(2 * mss, i64::from(MAX_CWND)) as u32;
    }
}

impl Controller for Ledbat {
    fn mode(&self, _window: &Window) -> u8 {
        self.phase() as u8
    }

    fn modes(&self) -> &'static [&'static str] {
        &["begin", "pause", "slowdown", "ramp", "steady"]
    }

    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        let now = path.now.as_micros();
        if let Some(rtt) = ack.rtt {
            self.observe(now, rtt);
        }
        if ack.in_recovery {
            return;
        }
        let rounds = SLOWDOWN_ROUNDS * u64::from(path.srtt);
        match self.phase() {
            Phase::Begin => {
                if !self.slow_start(ack, window) {
                    self.enter(Phase::Pause, now + rounds);
                }
            }
            Phase::Pause | Phase::Steady => {
                if now < self.phase_at {
                    self.follow(path, ack, window);
                    return;
                }
                window.ssthresh = window.cwnd;
                window.cwnd = 2 * path.mss;
                self.slowdown_at = now;
                self.enter(Phase::Slowdown, now + rounds);
            }
            Phase::Slowdown => {
                window.cwnd = window.cwnd.min(2 * path.mss);
                if now >= self.phase_at {
                    self.enter(Phase::Ramp, 0);
                }
            }
            Phase::Ramp => {
                if !self.slow_start(ack, window) {
                    let took = now.saturating_sub(self.slowdown_at).max(rounds);
                    self.enter(Phase::Steady, now + SLOWDOWN_REST * took);
                }
            }
        }
    }

    /// Section 4: losses halve the window, as Reno's do; so do marks.
    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        let now = path.now.as_micros();
        match (cause, self.phase()) {
            (Cause::Timeout, _) => {
                self.slowdown_at = now;
                self.enter(Phase::Ramp, 0);
            }
            (_, Phase::Begin) => self.enter(Phase::Pause, now + SLOWDOWN_ROUNDS * u64::from(path.srtt)),
            (_, Phase::Ramp) => {
                let took = now.saturating_sub(self.slowdown_at);
                self.enter(Phase::Steady, now + SLOWDOWN_REST * took);
            }
            _ => self.credit = 0,
        }
        (path.in_flight.min(window.cwnd) / 2).max(2 * path.mss)
    }

    fn on_idle(&mut self, _path: &Path, _window: &mut Window) {
        self.credit = 0;
    }

    fn on_undo(&mut self, _path: &Path, _window: &mut Window) {
        self.credit = 0;
    }

    fn on_clock(&mut self, from: Instant, to: Instant) {
        let (from, to) = (from.as_micros(), to.as_micros());
        for moment in [&mut self.minute_at, &mut self.phase_at, &mut self.slowdown_at] {
            if *moment > from {
                *moment = to + (*moment - from);
            } else if *moment != 0 {
                *moment = to.saturating_sub(from - *moment).max(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Note;
    use super::super::testing::{ack, path};
    use super::*;
    use zerocopy::FromZeros;

    const WINDOW: Window = Window { cwnd: 10_000, ssthresh: u32::MAX, pacing: 0, note: Note::None };

    fn at(ledbat: &mut Ledbat, window: &mut Window, millis: u64, rtt: u32, delivered: u32) {
        let path = Path { srtt: rtt, in_flight: window.cwnd, ..path(millis) };
        ledbat.on_ack(&path, &Ack { rtt: Some(rtt), ..ack(delivered) }, window);
    }

    /// With a base of 30 ms: 120 / 30 = 4 times slower than Reno.
    #[test]
    fn slow_start_grows_by_the_gain_until_packets_wait() {
        let (mut ledbat, mut window) = (Ledbat::new_zeroed(), WINDOW);
        for millis in 0..10 {
            at(&mut ledbat, &mut window, millis, 30_000, 1_000);
        }
        assert_eq!(window.cwnd, 12_500);
        // 45 ms of waiting is three quarters of the target; the least of four samples counts.
        for (place, rtt) in [75_000, 75_001, 75_001, 75_001].into_iter().enumerate() {
            at(&mut ledbat, &mut window, 20 + place as u64, rtt, 1_000);
            assert_eq!(ledbat.phase(), Phase::Begin);
        }
        at(&mut ledbat, &mut window, 30, 75_001, 1_000);
        assert_eq!((ledbat.phase(), window.cwnd), (Phase::Pause, 13_500));
    }

    /// Two round trips after slow start two segments for two round trips, back by slow start, and then nine times as long
    /// without.
    #[test]
    fn goes_out_of_the_way_and_comes_back() {
        let (mut ledbat, mut window) = (Ledbat::new_zeroed(), Window { ssthresh: 10_000, ..WINDOW });
        at(&mut ledbat, &mut window, 0, 120_000, 1_000);
        assert_eq!(ledbat.phase(), Phase::Pause);
        at(&mut ledbat, &mut window, 239, 120_000, 10_000);
        assert_eq!(window.cwnd, 11_000, "a base of 120 ms: as fast as Reno");
        at(&mut ledbat, &mut window, 240, 120_000, 1_000);
        assert_eq!((ledbat.phase(), window.cwnd, window.ssthresh), (Phase::Slowdown, 2_000, 11_000));
        at(&mut ledbat, &mut window, 480, 120_000, 1_000);
        assert_eq!((ledbat.phase(), window.cwnd), (Phase::Ramp, 2_000));
        at(&mut ledbat, &mut window, 600, 120_000, 20_000);
        assert_eq!((ledbat.phase(), window.cwnd), (Phase::Ramp, 11_000));
        at(&mut ledbat, &mut window, 640, 120_000, 1_000);
        assert_eq!(ledbat.phase(), Phase::Steady);
        // From 240 to 640 are 400 ms.
        at(&mut ledbat, &mut window, 640 + 3_599, 120_000, 1);
        assert_eq!(ledbat.phase(), Phase::Steady);
        at(&mut ledbat, &mut window, 640 + 3_600, 120_000, 1);
        assert_eq!(ledbat.phase(), Phase::Slowdown);
    }

    fn steady(cwnd: u32) -> (Ledbat, Window) {
        let mut ledbat = Ledbat::new_zeroed();
        ledbat.history[0] = 120_000;
        ledbat.enter(Phase::Steady, u64::MAX);
        (ledbat, Window { cwnd, ssthresh: cwnd, ..WINDOW })
    }

    /// 66 ms of waiting is a tenth above the target: a tenth less in a round trip, and the segment that is the gain.
    #[test]
    fn shrinks_by_what_exceeds_the_target_and_by_half_at_most() {
        let (mut ledbat, mut window) = steady(100_000);
        ledbat.recent = [186_000; RECENT];
        at(&mut ledbat, &mut window, 1, 186_000, 100_000);
        assert_eq!(window.cwnd, 91_000);
        let (mut ledbat, mut window) = steady(100_000);
        ledbat.recent = [800_000; RECENT];
        at(&mut ledbat, &mut window, 1, 800_000, 100_000);
        assert_eq!(window.cwnd, 50_000);
        let (mut ledbat, mut window) = steady(100_000);
        ledbat.recent = [180_000; RECENT];
        at(&mut ledbat, &mut window, 1, 180_000, 100_000);
        assert_eq!(window.cwnd, 101_000, "at the target it still grows");
    }

    #[test]
    fn the_base_is_forgotten_after_ten_minutes() {
        let mut ledbat = Ledbat::new_zeroed();
        ledbat.observe(1, 50_000);
        for minute in 1..10 {
            ledbat.observe(1 + minute * MINUTE, 80_000);
            assert_eq!(ledbat.base(), 50_000);
        }
        ledbat.observe(1 + 10 * MINUTE, 80_000);
        assert_eq!(ledbat.base(), 80_000);
    }

    #[test]
    fn halves_on_loss() {
        let (mut ledbat, window) = steady(100_000);
        let full = Path { in_flight: 90_000, ..path(1) };
        assert_eq!(ledbat.on_congestion(&full, Cause::Loss, &window), 45_000);
    }
}
