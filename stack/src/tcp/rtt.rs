//! Round-trip time and retransmission timeout (RFC 6298), with Linux's bounds and its way of taking a sample with each
//! acknowledgement: the margin follows the largest deviation of a round trip at once and comes down once per round.

use super::block::Tcb;
use super::sender::Sender;
use crate::time::Instant;

/// RFC 6298 section 2.1. Microseconds, as everything here.
pub(crate) const INITIAL_RTO: u32 = 1_000_000;
/// Linux's TCP_RTO_MIN: four times the variation counts as at least this, so that a peer's delayed ACK (40 ms there,
/// up to 200 ms elsewhere) causes no timeout.
pub(crate) const MIN_VARIATION: u32 = 200_000;
/// Linux's TCP_RTO_MAX.
pub(crate) const MAX_RTO: u32 = 120_000_000;
/// Longer samples are clock trouble, not round trips.
const MAX_SAMPLE: u64 = 60_000_000;
/// Linux's tcp_min_rtt_wlen: the least round trip of so many seconds counts.
const MIN_RTT_LIFETIME: u32 = 300;

/// The timeout after `retries` in a row (RFC 6298 section 5.5).
pub(crate) fn backed_off(rto: u32, retries: u8) -> u64 {
    (u64::from(rto) << retries.min(16)).min(u64::from(MAX_RTO))
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
    fn first(sample: u32) -> Self {
        let margin = (2 * sample).max(MIN_VARIATION);
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
    fn end_round(&mut self) {
        if self.most < self.margin {
            self.margin -= (self.margin - self.most) / 4;
        }
        self.most = MIN_VARIATION;
    }

    fn rto(&self) -> u32 {
        self.srtt.saturating_add(self.margin.max(MIN_VARIATION)).min(MAX_RTO)
    }
}

impl Tcb {
    /// Takes a sample in microseconds, of a connection that has not begun to send.
    pub(crate) fn sample_first_rtt(&mut self, now: Instant, sample: u64) {
        let sample = sample.clamp(1, MAX_SAMPLE) as u32;
        let estimate = Estimate::first(sample);
        (self.srtt, self.rttvar, self.rto) = (estimate.srtt, estimate.variation, estimate.rto());
        self.note_min_rtt(now, sample);
    }

    /// Takes a sample in microseconds.
    pub(crate) fn sample_rtt(&mut self, sender: &mut Sender, now: Instant, sample: u64) {
        let sample = sample.clamp(1, MAX_SAMPLE) as u32;
        let estimate = if self.srtt == 0 {
            sender.rtt_round = self.snd_nxt;
            Estimate::first(sample)
        } else {
            let known = Estimate {
                srtt: self.srtt,
                variation: self.rttvar,
                most: sender.deviation_most,
                // A sending half that is new begins with what the variation says.
                margin: sender.margin.max(self.rttvar.saturating_mul(4)).max(MIN_VARIATION),
            };
            let mut next = known.next(sample);
            if self.snd_una >= sender.rtt_round {
                next.end_round();
                sender.rtt_round = self.snd_nxt;
            }
            next
        };
        (self.srtt, self.rttvar, self.rto) = (estimate.srtt, estimate.variation, estimate.rto());
        (sender.deviation_most, sender.margin) = (estimate.most, estimate.margin);
        self.note_min_rtt(now, sample);
    }

    fn note_min_rtt(&mut self, now: Instant, sample: u32) {
        let seconds = super::emit::seconds(now);
        let stale = seconds.wrapping_sub(self.min_rtt_at) > MIN_RTT_LIFETIME;
        if self.min_rtt == 0 || sample <= self.min_rtt || stale {
            self.min_rtt = sample;
            self.min_rtt_at = seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_sets_both() {
        // RFC 6298 section 2.2: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 * RTTVAR.
        let first = Estimate::first(200_000);
        assert_eq!((first.srtt, first.variation, first.rto()), (200_000, 100_000, 600_000));
    }

    #[test]
    fn steady_samples_bring_the_timeout_to_its_floor() {
        let mut at = Estimate::first(80_000);
        for _ in 0..100 {
            at = at.next(80_000);
            at.end_round();
        }
        assert!((79_000..=80_000).contains(&at.srtt), "{at:?}");
        assert!(at.rto() < 80_000 + MIN_VARIATION + 1_000, "{at:?}");
    }

    #[test]
    fn a_jump_widens_the_margin_at_once_and_a_drop_hardly() {
        let mut up = Estimate::first(100_000);
        let mut down = up;
        for _ in 0..100 {
            (up, down) = (up.next(100_000), down.next(100_000));
            up.end_round();
            down.end_round();
        }
        let before = up.margin;
        up = up.next(900_000);
        down = down.next(1_000);
        assert!(up.margin > 3 * before, "{before} {up:?}");
        assert!(down.margin < before + before / 8, "{before} {down:?}");
    }

    #[test]
    fn backing_off_doubles_up_to_two_minutes() {
        assert_eq!(backed_off(200_000, 0), 200_000);
        assert_eq!(backed_off(200_000, 3), 1_600_000);
        assert_eq!(backed_off(200_000, 15), u64::from(MAX_RTO));
        assert_eq!(backed_off(u32::MAX, 255), u64::from(MAX_RTO));
    }
}
