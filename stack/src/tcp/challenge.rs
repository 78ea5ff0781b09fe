//! Answers to segments that may be forged (RFC 5961): an ACK that lets the true peer correct itself, at a bounded rate.

use super::Conn;
use crate::api::Host;
use crate::counters::Counter;
use crate::time::Instant;

/// Whether an answer may be sent now; `last_ms` is when the last one was, 0: never. `pause`: milliseconds between two
/// (Linux's tcp_invalid_ratelimit).
pub(crate) fn may_answer(last_ms: &mut u32, now: Instant, pause: u32) -> bool {
    let now = ((now.as_micros() / 1_000) as u32).max(1);
    if *last_ms != 0 && now.wrapping_sub(*last_ms) < pause {
        return false;
    }
    *last_ms = now;
    true
}

impl Conn<'_, '_> {
    /// RFC 5961 sections 3.2, 4.2 and 5.2.
    pub(crate) fn challenge<H: Host>(&mut self, host: &mut H) {
        if !self.may_answer() || !self.env.challenge_allowed(self.now) {
            self.env.count(Counter::TcpExtTCPACKSkippedChallenge);
            return;
        }
        self.env.count(Counter::TcpExtTCPChallengeACK);
        self.send_ack(host);
    }

    /// Answers a segment outside the window (RFC 9293 section 3.10.7.4, first). One with data is always answered: the
    /// peer repeats it because our ACK was lost.
    pub(crate) fn answer_unacceptable<H: Host>(&mut self, host: &mut H, has_data: bool, skipped: Counter) {
        if has_data || self.may_answer() {
            self.send_ack(host);
        } else {
            self.env.count(skipped);
        }
    }

    fn may_answer(&mut self) -> bool {
        may_answer(&mut self.tcb.oow_ms, self.now, self.env.globals.sysctls.invalid_ratelimit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_a_second() {
        let mut last = 0;
        let at = |ms: u64| Instant::from_micros(ms * 1_000);
        assert!(may_answer(&mut last, at(0), 500));
        assert!(!may_answer(&mut last, at(400), 500));
        assert!(may_answer(&mut last, at(501), 500));
        assert!(!may_answer(&mut last, at(1_000), 500));
    }
}
