//! CUBIC (RFC 9438): the window grows as a cubic function of the time since the last congestion event, at least as fast as
//! Reno would. Integer arithmetic: milliseconds and bytes.

use super::hystart::HyStart;
use super::{Ack, Cause, Controller, MAX_CWND, Path, Window};
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// RFC 9438 section 4.6: beta_cubic = 0.7, in hundredths.
const BETA: u64 = 70;
const BETA_SCALE: u64 = 100;
/// RFC 8511 section 4.1: beta_ecn = 0.85 for CUBIC. A mark comes from a short queue, which less of a reduction drains.
const BETA_ECN: u64 = 85;
/// RFC 9438 section 5.1: C = 0.4 segments per second cubed, in tenths.
const C: u64 = 4;
const C_SCALE: u64 = 10;
/// RFC 9438 section 4.3: alpha_cubic = 3 * (1 - beta) / (1 + beta) = 9/17.
const ALPHA: (u64, u64) = (9, 17);
/// Beyond this many milliseconds from the plateau the cube is cut off: the window is at its maximum by then.
const MAX_SPAN: u64 = 1 << 20;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Cubic {
    /// When the current epoch of congestion avoidance began; 0: none runs.
    epoch: u64,
    /// Bytes acknowledged and not yet turned into growth, for each of the two estimates; in units of bytes * window.
    credit: u64,
    reno_credit: u64,
    /// W_max, and the window when loss struck (cwnd_prior).
    w_max: u32,
    cwnd_prior: u32,
    /// W_est, what Reno would have.
    w_est: u32,
    /// K, in milliseconds.
    k: u32,
    /// What `undo` restores.
    prior_w_max: u32,
    prior_k: u32,
    hystart: HyStart,
}

impl Cubic {
    /// RFC 9438 section 4.2, equation (2): how long the way back to W_max takes, in milliseconds.
    fn plateau(&self, cwnd: u32, mss: u32) -> u32 {
        let below = u64::from(self.w_max.saturating_sub(cwnd));
        // K = cbrt((W_max - cwnd) / C): in segments and seconds, times 10^9 for milliseconds cubed.
        cube_root(below * (C_SCALE * 1_000_000_000 / C) / u64::from(mss)) as u32
    }

    /// W_cubic (equation (1)) `at` milliseconds into the epoch, in bytes.
    fn w_cubic(&self, at: u64, mss: u32) -> u64 {
        let k = u64::from(self.k);
        let span = at.abs_diff(k).min(MAX_SPAN);
        // C * span^3 segments; span is bounded so that the cube fits: 2^60.
        let segments_e10 = span * span * span / 1_000_000 * C;
        let change = u128::from(segments_e10) * u128::from(mss) / u128::from(C_SCALE * 1_000);
        let change = u64::try_from(change).unwrap_or(u64::MAX);
        let w_max = u64::from(self.w_max);
        if at >= k { w_max.saturating_add(change) } else { w_max.saturating_sub(change) }
    }

    fn reduce(&mut self, path: &Path, cwnd: u32, beta: u64) -> u32 {
        self.prior_w_max = self.w_max;
        self.prior_k = self.k;
        self.epoch = 0;
        self.cwnd_prior = cwnd;
        // RFC 9438 section 4.7, fast convergence: a flow that lost before it was back gives room to newcomers.
        self.w_max =
            if cwnd < self.w_max { (u64::from(cwnd) * (BETA_SCALE + BETA) / (2 * BETA_SCALE)) as u32 } else { cwnd };
        // Section 4.6: from what was in flight, when the application left the window unused.
        let base = u64::from(cwnd.min(path.in_flight.max(cwnd / 2)));
        ((base * beta / BETA_SCALE) as u32).max(2 * path.mss)
    }

    /// Congestion avoidance: `acked` bytes arrived and the window may grow.
    fn avoid(&mut self, path: &Path, acked: u32, window: &mut Window) {
        let cwnd = window.cwnd;
        let now = path.now.as_micros();
        if self.epoch == 0 {
            self.epoch = now.max(1);
            self.credit = 0;
            self.reno_credit = 0;
            self.w_est = cwnd;
            if cwnd < self.w_max {
                self.k = self.plateau(cwnd, path.mss);
            } else {
                // Section 4.8 (after slow start without a W_max): the plateau is here.
                self.k = 0;
                self.w_max = cwnd;
            }
        }
        let at = (now.saturating_sub(self.epoch) + u64::from(path.srtt)) / 1_000;
        let cwnd = u64::from(cwnd);
        let mss = u64::from(path.mss);

        // Section 4.3: the Reno-friendly region, with alpha 1 once W_est is back at cwnd_prior.
        let (numerator, denominator) = if self.w_est < self.cwnd_prior { ALPHA } else { (1, 1) };
        self.reno_credit += u64::from(acked) * mss * numerator / denominator;
        let grown = self.reno_credit / cwnd;
        self.reno_credit -= grown * cwnd;
        self.w_est = (u64::from(self.w_est) + grown).min(u64::from(MAX_CWND)) as u32;

        // Sections 4.2, 4.4, 4.5: towards the target, at most half a window per round trip.
        let target = self.w_cubic(at, path.mss).clamp(cwnd, cwnd + cwnd / 2);
        self.credit = self.credit.saturating_add(u64::from(acked) * (target - cwnd));
        let grown = self.credit / cwnd;
        self.credit -= grown * cwnd;
        window.cwnd = (cwnd + grown).max(u64::from(self.w_est)).min(u64::from(MAX_CWND)) as u32;
    }
}

impl Controller for Cubic {
    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        // RFC 9438 section 4.10: HyStart++ in the first slow start.
        let left = self.hystart.slow_start(ack, window);
        if left > 0 {
            self.avoid(path, left, window);
        }
    }

    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        let beta = match cause {
            Cause::Marked => BETA_ECN,
            Cause::Loss | Cause::Timeout => BETA,
        };
        self.reduce(path, window.cwnd, beta)
    }

    fn on_idle(&mut self, _path: &Path, _window: &mut Window) {
        // RFC 9438 section 5.8: the epoch does not go on while the application sends nothing.
        self.epoch = 0;
    }

    fn on_undo(&mut self, _path: &Path, window: &mut Window) {
        self.w_max = self.prior_w_max.max(window.cwnd);
        self.k = self.prior_k;
        self.epoch = 0;
    }

    fn on_clock(&mut self, from: Instant, to: Instant) {
        if self.epoch != 0 {
            let age = from.as_micros().saturating_sub(self.epoch);
            self.epoch = to.as_micros().saturating_sub(age).max(1);
        }
    }
}

/// Floor of the cube root, by bits.
fn cube_root(value: u64) -> u64 {
    let mut root = 0u64;
    for bit in (0..22).rev() {
        let candidate = root | 1 << bit;
        if u64::checked_pow(candidate, 3).is_some_and(|cube| cube <= value) {
            root = candidate;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::super::Note;
    use super::super::testing::{ack, path};
    use super::*;
    use zerocopy::FromZeros;

    fn window(cwnd: u32, ssthresh: u32) -> Window {
        Window { cwnd, ssthresh, pacing: 0, note: Note::None }
    }

    /// Loses everything that the window held.
    fn lose(cubic: &mut Cubic, cwnd: u32, millis: u64) -> u32 {
        let path = Path { in_flight: cwnd, ..path(millis) };
        cubic.on_congestion(&path, Cause::Loss, &window(cwnd, u32::MAX))
    }

    #[test]
    fn cube_roots() {
        for root in [0u64, 1, 2, 3, 10, 999, 1 << 20] {
            assert_eq!(cube_root(root * root * root), root);
            if root > 0 {
                assert_eq!(cube_root(root * root * root - 1), root - 1);
            }
        }
        assert_eq!(cube_root(u64::MAX >> 1), 2_097_151);
    }

    /// After a loss at 1,000 segments, with no more than 0.7 of them, W_max is reached after K = cbrt(300 / 0.4)
    /// = 9.08 s (RFC 9438 section 4.2), slowly around it, and passed afterwards.
    #[test]
    fn comes_back_to_the_plateau_in_time() {
        let mut cubic = Cubic::new_zeroed();
        let ssthresh = lose(&mut cubic, 1_000_000, 0);
        assert_eq!(ssthresh, 700_000);
        let mut window = window(ssthresh, ssthresh);
        let mut at = [0; 3];
        for round in 0..150u64 {
            let millis = 1_000 + round * 100;
            // A round trip's worth of ACKs.
            for _ in 0..10 {
                let delivered = window.cwnd / 10;
                cubic.on_ack(&path(millis), &ack(delivered), &mut window);
            }
            match millis {
                5_000 => at[0] = window.cwnd,
                10_000 => at[1] = window.cwnd,
                15_000 => at[2] = window.cwnd,
                _ => {}
            }
        }
        assert!((930_000..970_000).contains(&at[0]), "halfway: {at:?}");
        assert!((995_000..1_005_000).contains(&at[1]), "at the plateau: {at:?}");
        assert!((1_040_000..1_060_000).contains(&at[2]), "beyond: {at:?}");
    }

    #[test]
    fn a_second_loss_below_the_plateau_gives_room() {
        let mut cubic = Cubic::new_zeroed();
        lose(&mut cubic, 1_000_000, 0);
        lose(&mut cubic, 800_000, 10);
        assert_eq!(cubic.w_max, 680_000);
    }

    #[test]
    fn a_mark_takes_less_than_a_loss() {
        let mut cubic = Cubic::new_zeroed();
        let full = Path { in_flight: 1_000_000, ..path(0) };
        assert_eq!(cubic.on_congestion(&full, Cause::Marked, &window(1_000_000, u32::MAX)), 850_000);
    }

    /// On a short path CUBIC is as fast as Reno: RFC 9438 section 4.3.
    #[test]
    fn not_slower_than_reno_on_short_paths() {
        let mut cubic = Cubic::new_zeroed();
        let ssthresh = lose(&mut cubic, 20_000, 0);
        let mut window = window(ssthresh, ssthresh);
        for round in 0..100u64 {
            let path = Path { srtt: 1_000, ..path(round) };
            let delivered = window.cwnd;
            cubic.on_ack(&path, &ack(delivered), &mut window);
        }
        // Reno with alpha 9/17 until 20 segments, then 1: 100 round trips bring it beyond 80.
        assert!(window.cwnd > 80_000, "{}", window.cwnd);
    }
}
