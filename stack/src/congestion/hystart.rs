//! HyStart++ (RFC 9406): the first slow start ends when round trips grow, before the queue overflows. A part of
//! controllers that begin with slow start.

use super::{Ack, MAX_CWND, Note, Window};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// RFC 9406 section 4.3; microseconds.
const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u32 = 5;

/// Where the first slow start stands. Round-trip times in microseconds; 0: not known, the RFC's infinity.
///
/// The RFC's limit L on what one acknowledgement may add is left out: acknowledgements of whole trains are normal where
/// ports merge and cut, and Linux grows by all that they acknowledge.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(crate) struct HyStart {
    last_round: u32,
    this_round: u32,
    samples: u32,
    /// Of the conservative phase: the least round trip when it began (cssBaselineMinRtt), 0 outside of it, and the rounds
    /// that it has seen.
    baseline: u32,
    rounds: u32,
    /// Delivered bytes that the conservative phase has not turned into growth yet.
    rest: u32,
}

impl HyStart {
    /// Slow start with an eye on round trips; what remains of `ack.delivered` is for congestion avoidance.
    pub(crate) fn slow_start(&mut self, ack: &Ack, window: &mut Window) -> u32 {
        if window.ssthresh != u32::MAX {
            // Section 4.3: only the first slow start, whose threshold nobody knows.
            return if ack.may_grow { super::slow_start(window, ack.delivered) } else { 0 };
        }
        self.observe(ack, window);
        if !ack.may_grow {
            return 0;
        }
        if window.ssthresh != u32::MAX {
            return ack.delivered;
        }
        let grown = if self.baseline == 0 {
            ack.delivered
        } else {
            let credit = ack.delivered.saturating_add(self.rest);
            self.rest = credit % CSS_GROWTH_DIVISOR;
            credit / CSS_GROWTH_DIVISOR
        };
        window.cwnd = window.cwnd.saturating_add(grown).min(MAX_CWND);
        0
    }

    /// Section 4.2: rounds, samples, and what they say.
    fn observe(&mut self, ack: &Ack, window: &mut Window) {
        if ack.round {
            self.last_round = self.this_round;
            self.this_round = 0;
            self.samples = 0;
            if self.baseline != 0 {
                self.rounds += 1;
                if self.rounds >= CSS_ROUNDS {
                    // The longer round trips have lasted: congestion avoidance from here.
                    window.ssthresh = window.cwnd;
                    window.note = Note::HystartDelay;
                    return;
                }
            }
        }
        let Some(rtt) = ack.rtt else { return };
        self.this_round = if self.this_round == 0 { rtt } else { self.this_round.min(rtt) };
        self.samples += 1;
        if self.samples < N_RTT_SAMPLE {
            return;
        }
        if self.baseline != 0 {
            if self.this_round < self.baseline {
                // It was jitter: slow start goes on.
                self.baseline = 0;
            }
        } else if self.last_round != 0 {
            let margin = (self.last_round / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
            if self.this_round >= self.last_round + margin {
                self.baseline = self.this_round;
                self.rounds = 0;
                self.rest = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::ack;
    use super::*;
    use zerocopy::FromZeros;

    const START: Window = Window { cwnd: 10_000, ssthresh: u32::MAX, pacing: 0, note: Note::None };

    /// A round of `count` acknowledgements of 1,000 bytes, each after `rtt` microseconds.
    fn round(hystart: &mut HyStart, window: &mut Window, count: u32, rtt: u32) {
        for place in 0..count {
            hystart.slow_start(&Ack { round: place == 0, rtt: Some(rtt), ..ack(1_000) }, window);
        }
    }

    #[test]
    fn steady_round_trips_double_the_window() {
        let (mut hystart, mut window) = (HyStart::new_zeroed(), START);
        for doubled in [20_000, 40_000, 80_000] {
            let count = window.cwnd / 1_000;
            round(&mut hystart, &mut window, count, 100_000);
            assert_eq!(window, Window { cwnd: doubled, ..START });
        }
    }

    /// A hundred milliseconds and an eighth of them, 12.5: at 112.4 slow start goes on, at 112.5 it becomes conservative
    /// with the eighth sample, a quarter as fast, and ends after five rounds.
    #[test]
    fn longer_round_trips_slow_it_down_and_end_it() {
        let (mut hystart, mut window) = (HyStart::new_zeroed(), START);
        round(&mut hystart, &mut window, 10, 100_000);
        round(&mut hystart, &mut window, 20, 112_400);
        assert_eq!((hystart.baseline, window.cwnd), (0, 40_000));
        // Now the last round's are 112.4 ms, and an eighth of it more is 126.45.
        round(&mut hystart, &mut window, 8, 126_449);
        assert_eq!((hystart.baseline, window.cwnd), (0, 48_000));
        round(&mut hystart, &mut window, 16, 143_000);
        // The first seven add 1,000 each; from the eighth on it is 250.
        assert_eq!((hystart.baseline, window.cwnd), (143_000, 48_000 + 7_000 + 9 * 250));
        for _ in 0..4 {
            round(&mut hystart, &mut window, 8, 143_000);
        }
        assert_eq!((window.ssthresh, window.cwnd), (u32::MAX, 57_250 + 32 * 250));
        let left = hystart.slow_start(&Ack { round: true, ..ack(1_000) }, &mut window);
        assert_eq!(
            (left, window),
            (1_000, Window { cwnd: 65_250, ssthresh: 65_250, pacing: 0, note: Note::HystartDelay })
        );
    }

    #[test]
    fn a_round_that_is_shorter_again_was_jitter() {
        let (mut hystart, mut window) = (HyStart::new_zeroed(), START);
        round(&mut hystart, &mut window, 8, 20_000);
        // An eighth of 20 ms is less than 4 ms, the least margin.
        round(&mut hystart, &mut window, 8, 23_999);
        assert_eq!(hystart.baseline, 0);
        round(&mut hystart, &mut window, 8, 28_000);
        assert_eq!(hystart.baseline, 28_000);
        round(&mut hystart, &mut window, 8, 27_999);
        assert_eq!(hystart.baseline, 0);
        let before = window.cwnd;
        round(&mut hystart, &mut window, 8, 27_999);
        assert_eq!(window.cwnd, before + 8_000);
    }

    #[test]
    fn few_samples_say_nothing() {
        let (mut hystart, mut window) = (HyStart::new_zeroed(), START);
        round(&mut hystart, &mut window, 7, 10_000);
        round(&mut hystart, &mut window, 7, 500_000);
        round(&mut hystart, &mut window, 7, 900_000);
        assert_eq!((hystart.baseline, window.cwnd), (0, 31_000));
    }
}
