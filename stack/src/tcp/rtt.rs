//! Round-trip time and retransmission timeout (RFC 6298), with Linux's bounds and its way of taking a sample with each
//! acknowledgement: the margin follows the largest deviation of a round trip at once and comes down once per round.

use super::block::Tcb;
use super::sender::Sender;
use crate::sysctl::Sysctls;
use crate::time::Instant;

/// RFC 6298 section 2.1. Microseconds, as everything here.
pub(crate) const INITIAL_RTO: u32 = 1_000_000;
/// Linux's TCP_RTO_MIN, where nobody can set it.
pub(crate) const USUAL_MIN: u32 = 200_000;
/// Longer samples are clock trouble, not round trips.
const MAX_SAMPLE: u64 = 60_000_000;

/// Between what the timeout lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RtoBounds {
    /// Linux's tcp_rto_min_us: four times the variation counts as at least this, so that a peer's delayed ACK (40 ms there,
    /// up to 200 ms elsewhere) causes no timeout.
    pub(crate) min: u32,
    /// Linux's tcp_rto_max_ms, in microseconds.
    pub(crate) max: u32,
}

impl RtoBounds {
    /// The timeout after `retries` in a row (RFC 6298 section 5.5).
    pub(crate) fn backed_off(self, rto: u32, retries: u8) -> u64 {
        (u64::from(rto) << retries.min(16)).min(u64::from(self.max))
    }

    /// How long `retries` timeouts take that begin at Linux's TCP_RTO_MIN and double (Linux: tcp_model_timeout).
    pub(crate) fn patience(self, retries: u32) -> u64 {
        let (base, most) = (u64::from(USUAL_MIN), u64::from(self.max));
        let doublings = (most / base).max(1).ilog2();
        let doubled = ((2 << retries.min(doublings)) - 1) * base;
        doubled + u64::from(retries.saturating_sub(doublings)) * most
    }
}

/// What an estimate consists of, as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    srtt: u32,
    /// Mean deviation.
    variation: u32,
    /// Largest deviation of this round and margin of the timeout, four times the mean deviation each.
    most: u32,
    margin: u32,
}

impl Estimate {
    /// RFC 6298 section 2.2.
    fn first(sample: u32, bounds: RtoBounds) -> Self {
        let margin = (2 * sample).max(bounds.min);
        Self { srtt: sample.max(1), variation: sample / 2, most: margin, margin }
    }

    /// RFC 6298 section 2.3. A round trip that is shorter than expected says little about how long one may take, and counts for
    /// an eighth where it would widen the margin.
    fn next(mut self, sample: u32) -> Self {
        let shorter = sample < self.srtt;
        let deviation = self.srtt.abs_diff(sample);
        self.srtt = (self.srtt - self.srtt / 8 + sample / 8).max(1);
        if deviation >= self.variation {
            let step = (deviation - self.variation) / if shorter { 32 } else { 4 };
            self.variation = self.variation.saturating_add(step);
        } else {
            self.variation -= (self.variation - deviation) / 4;
        }
        self.most = self.most.max(self.variation.saturating_mul(4));
        self.margin = self.margin.max(self.most);
        self
    }

    /// A round trip is over.
    fn end_round(&mut self, bounds: RtoBounds) {
        if self.most < self.margin {
            self.margin -= (self.margin - self.most) / 4;
        }
        self.most = bounds.min;
    }

    fn rto(&self, bounds: RtoBounds) -> u32 {
        self.srtt.saturating_add(self.margin.max(bounds.min)).min(bounds.max)
    }
}

impl Tcb {
    /// Takes a sample in microseconds, of a connection that has not begun to send.
    pub(crate) fn sample_first_rtt(&mut self, sysctls: &Sysctls, now: Instant, sample: u64) {
        let sample = sample.clamp(1, MAX_SAMPLE) as u32;
        let bounds = self.settings.rto(sysctls);
        let estimate = Estimate::first(sample, bounds);
        (self.srtt, self.rttvar, self.rto) = (estimate.srtt, estimate.variation, estimate.rto(bounds));
        self.note_min_rtt(now, sample, sysctls.min_rtt_wlen);
    }

    /// Takes a sample in microseconds.
    pub(crate) fn sample_rtt(&mut self, sender: &mut Sender, sysctls: &Sysctls, now: Instant, sample: u64) {
        let sample = sample.clamp(1, MAX_SAMPLE) as u32;
        let bounds = self.settings.rto(sysctls);
        let estimate = if self.srtt == 0 {
            sender.rtt_round = self.snd_nxt;
            Estimate::first(sample, bounds)
        } else {
            let known = Estimate {
                srtt: self.srtt,
                variation: self.rttvar,
                most: sender.deviation_most,
                // A sending half that is new begins with what the variation says.
                margin: sender.margin.max(self.rttvar.saturating_mul(4)).max(bounds.min),
            };
            let mut next = known.next(sample);
            if self.snd_una >= sender.rtt_round {
                next.end_round(bounds);
                sender.rtt_round = self.snd_nxt;
            }
            next
        };
        (self.srtt, self.rttvar, self.rto) = (estimate.srtt, estimate.variation, estimate.rto(bounds));
        (sender.deviation_most, sender.margin) = (estimate.most, estimate.margin);
        self.note_min_rtt(now, sample, sysctls.min_rtt_wlen);
    }

    /// `lifetime`: seconds for which the least one counts.
    fn note_min_rtt(&mut self, now: Instant, sample: u32, lifetime: u32) {
        let seconds = super::emit::seconds(now);
        let stale = seconds.wrapping_sub(self.min_rtt_at) > lifetime;
        if self.min_rtt == 0 || sample <= self.min_rtt || stale {
            self.min_rtt = sample;
            self.min_rtt_at = seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RtoBounds = RtoBounds { min: USUAL_MIN, max: 120_000_000 };

    #[test]
    fn the_first_sample_sets_both() {
        // RFC 6298 section 2.2: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 * RTTVAR.
        let first = Estimate::first(200_000, BOUNDS);
        assert_eq!((first.srtt, first.variation, first.rto(BOUNDS)), (200_000, 100_000, 600_000));
    }

    #[test]
    fn steady_samples_bring_the_timeout_to_its_floor() {
        let mut at = Estimate::first(80_000, BOUNDS);
        for _ in 0..100 {
            at = at.next(80_000);
            at.end_round(BOUNDS);
        }
        assert!((79_000..=80_000).contains(&at.srtt), "{at:?}");
        assert!(at.rto(BOUNDS) < 80_000 + USUAL_MIN + 1_000, "{at:?}");
    }

    #[test]
    fn a_jump_widens_the_margin_at_once_and_a_drop_hardly() {
        let mut up = Estimate::first(100_000, BOUNDS);
        let mut down = up;
        for _ in 0..100 {
            (up, down) = (up.next(100_000), down.next(100_000));
            up.end_round(BOUNDS);
            down.end_round(BOUNDS);
        }
        let before = up.margin;
        up = up.next(900_000);
        down = down.next(1_000);
        assert!(up.margin > 3 * before, "{before} {up:?}");
        assert!(down.margin < before + before / 8, "{before} {down:?}");
    }

    #[test]
    fn backing_off_doubles_up_to_two_minutes() {
        assert_eq!(BOUNDS.backed_off(200_000, 0), 200_000);
        assert_eq!(BOUNDS.backed_off(200_000, 3), 1_600_000);
        assert_eq!(BOUNDS.backed_off(200_000, 15), 120_000_000);
        assert_eq!(BOUNDS.backed_off(u32::MAX, 255), 120_000_000);
    }

    #[test]
    fn fifteen_retries_take_fifteen_minutes() {
        // Linux's documentation of tcp_retries2: 924.6 seconds.
        assert_eq!(BOUNDS.patience(15), 924_600_000);
        assert_eq!(BOUNDS.patience(0), 200_000);
        assert_eq!(RtoBounds { min: USUAL_MIN, max: 1_000_000 }.patience(4), 1_400_000 + 2_000_000);
    }
}
