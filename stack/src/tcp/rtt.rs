//! Round-trip time and retransmission timeout (RFC 6298), with Linux's bounds.

use super::block::Tcb;

/// RFC 6298 section 2.1. Microseconds, as everything here.
pub(crate) const INITIAL_RTO: u32 = 1_000_000;
/// Linux's TCP_RTO_MIN: four times the variation counts as at least this, so that a peer's delayed ACK (40 ms there,
/// up to 200 ms elsewhere) causes no timeout.
pub(crate) const MIN_VARIATION: u32 = 200_000;
/// Linux's TCP_RTO_MAX.
pub(crate) const MAX_RTO: u32 = 120_000_000;
/// Longer samples are clock trouble, not round trips.
const MAX_SAMPLE: u64 = 60_000_000;

/// Estimates after one more sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) srtt: u32,
    pub(crate) rttvar: u32,
    pub(crate) rto: u32,
}

/// RFC 6298 section 2.2 and 2.3. `srtt` 0: no sample yet.
pub(crate) fn estimate(srtt: u32, rttvar: u32, sample: u64) -> Estimate {
    let sample = sample.clamp(1, MAX_SAMPLE) as u32;
    let (srtt, rttvar) = if srtt == 0 {
        (sample, sample / 2)
    } else {
        let deviation = srtt.abs_diff(sample);
        let rttvar = rttvar - rttvar / 4 + deviation / 4;
        let srtt = srtt - srtt / 8 + sample / 8;
        (srtt.max(1), rttvar)
    };
    let rto = srtt.saturating_add(rttvar.saturating_mul(4).max(MIN_VARIATION)).min(MAX_RTO);
    Estimate { srtt, rttvar, rto }
}

/// The timeout after `retries` in a row (RFC 6298 section 5.5).
pub(crate) fn backed_off(rto: u32, retries: u8) -> u64 {
    (u64::from(rto) << retries.min(16)).min(u64::from(MAX_RTO))
}

impl Tcb {
    /// Takes a sample in microseconds.
    pub(crate) fn sample_rtt(&mut self, sample: u64) {
        let Estimate { srtt, rttvar, rto } = estimate(self.srtt, self.rttvar, sample);
        self.srtt = srtt;
        self.rttvar = rttvar;
        self.rto = rto;
        let sample = sample.clamp(1, MAX_SAMPLE) as u32;
        self.min_rtt = if self.min_rtt == 0 { sample } else { self.min_rtt.min(sample) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_sets_both() {
        // RFC 6298 section 2.2: SRTT = R, RTTVAR = R/2.
        assert_eq!(estimate(0, 0, 100_000), Estimate { srtt: 100_000, rttvar: 50_000, rto: 300_000 });
    }

    #[test]
    fn steady_samples_bring_the_timeout_to_its_floor() {
        let mut at = estimate(0, 0, 80_000);
        for _ in 0..100 {
            at = estimate(at.srtt, at.rttvar, 80_000);
        }
        assert!((79_000..=80_000).contains(&at.srtt), "{at:?}");
        assert!(at.rto < 80_000 + MIN_VARIATION + 1_000, "{at:?}");
    }

    #[test]
    fn backing_off_doubles_up_to_two_minutes() {
        assert_eq!(backed_off(200_000, 0), 200_000);
        assert_eq!(backed_off(200_000, 3), 1_600_000);
        assert_eq!(backed_off(200_000, 15), u64::from(MAX_RTO));
        assert_eq!(backed_off(u32::MAX, 255), u64::from(MAX_RTO));
    }
}
