//! When what has arrived is acknowledged: at once, with the batch, after a while that follows the sender's own rhythm, or for many
//! segments beyond a gap together (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2; times and counts as Linux's).
//!
//! What is stored is `receive`'s matter; the segment that carries the acknowledgement is `emit`'s.

use super::Conn;
use super::block::{NEVER, Tcb, change, flag};
use super::segment::Arrival;
use super::settings::setting;
use crate::api::Host;
use crate::counters::Counter;
use crate::time::Instant;

/// Linux's TCP_ATO_MIN and TCP_DELACK_MIN, in milliseconds.
pub(crate) const LEAST_DELAY: u16 = 40;
/// Linux's TCP_DELACK_MAX, and what it is without data both ways, in milliseconds.
const MOST_DELAY: u16 = 200;
/// Linux's TCP_MAX_QUICKACKS: so many segments are acknowledged at once when nothing is known of the sender's window.
const QUICK_ACKS: u8 = 16;
/// Linux's TCP_FASTRETRANS_THRESH: so many acknowledgements beyond a gap are sent one by one, since a sender without RACK counts them.
const COUNTED: u8 = 3;
/// Shorter waits than half a tick of the timer wheel, in microseconds, end with the batch.
const SHORTEST_WAIT: u64 = 512;

/// When an ACK is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// At once, each for itself: the sender counts duplicates.
    Immediately,
    /// Something lies beyond a gap: what is not counted may be told together.
    Gap,
    /// In order.
    Usual,
}

/// The clock of the sender's rhythm: milliseconds, wrapping.
fn millis(now: Instant) -> u32 {
    (now.as_micros() / 1_000) as u32
}

impl Tcb {
    /// Linux's tcp_incr_quickack: half of the window's segments, at most [`QUICK_ACKS`], go without delay.
    fn quicken(&mut self) {
        let window = self.rcv_adv.saturating_sub(self.rcv_nxt);
        let half = window / (2 * u64::from(self.rcv_mss.max(1)));
        self.quick = self.quick.max(half.clamp(2, QUICK_ACKS.into()) as u8);
    }

    #[inline]
    fn acknowledges_quickly(&self) -> bool {
        self.settings.has(setting::QUICKACK) || (self.quick > 0 && !self.has(flag::PINGPONG))
    }

    /// Data was sent `now`: an answer to what came within the delay of an ACK means that data goes both ways.
    #[inline]
    pub(super) fn note_answer(&mut self, now: Instant) {
        if millis(now).wrapping_sub(self.data_at) < u32::from(self.ato) {
            self.set(flag::PINGPONG);
        }
    }

    /// Linux's tcp_event_data_recv: the delay of ACKs follows the time between segments.
    #[inline]
    fn note_rhythm(&mut self, now: Instant) {
        let now = millis(now);
        let apart = now.wrapping_sub(self.data_at);
        self.data_at = now;
        let rto = self.rto / 1_000;
        if self.ato == 0 {
            self.ato = LEAST_DELAY;
            self.quicken();
        } else if apart <= u32::from(LEAST_DELAY / 2) {
            self.ato = self.ato / 2 + LEAST_DELAY / 2;
        } else if apart < u32::from(self.ato) {
            self.ato = (u32::from(self.ato / 2) + apart).min(rto).min(u16::MAX.into()) as u16;
        } else if apart > rto {
            // The sender may begin its window anew, and should not wait for an ACK then.
            self.quicken();
        }
    }

    /// How long an ACK waits, in microseconds: Linux's tcp_send_delayed_ack.
    fn delay(&self) -> u64 {
        let mut delay = self.ato;
        if delay > LEAST_DELAY {
            let round_trip = u32::from(LEAST_DELAY).max(self.srtt / 1_000);
            let most = if self.srtt == 0 { MOST_DELAY.into() } else { round_trip.min(MOST_DELAY.into()) };
            delay = delay.min(most as u16);
        }
        u64::from(delay.max(1)) * 1_000
    }

    /// A segment with an ACK has left. How many acknowledgements it stands for that were held back beyond a gap.
    #[inline]
    pub(super) fn acknowledged(&mut self) -> u8 {
        if self.quick > 0 && self.rcv_acked != self.rcv_nxt {
            self.quick -= 1;
            if self.quick == 0 {
                self.ato = LEAST_DELAY;
            }
        }
        self.rcv_acked = self.rcv_nxt;
        self.ack_at = NEVER;
        self.ack_segments = 0;
        self.dsack = [0; 2];
        self.clear(flag::ACK_NOW);
        core::mem::take(&mut self.compressed)
    }
}

impl Conn<'_, '_> {
    /// Linux's tcp_enter_quickack_mode: the sender repeats what was acknowledged, so that an ACK was lost or came too late.
    pub(super) fn ack_was_lost(&mut self) {
        self.env.count(Counter::TcpExtDelayedACKLost);
        self.tcb.quicken();
        self.tcb.clear(flag::PINGPONG);
        self.tcb.ato = LEAST_DELAY;
    }

    /// Decides when the ACK for `arrival` goes out, whose bytes moved RCV.NXT on from `before`. Whether that is now.
    #[inline]
    pub(super) fn account(&mut self, arrival: &Arrival<'_>, before: u64, due: Due) -> bool {
        let now = self.now;
        let tcb = &mut *self.tcb;
        tcb.note_rhythm(now);
        let advanced = tcb.rcv_nxt - before;
        if advanced > 0 {
            tcb.gap_acks = 0;
            self.changed(change::READABLE);
        }
        match due {
            Due::Immediately => return true,
            Due::Gap => return self.account_gap(),
            Due::Usual => {}
        }
        let tcb = &mut *self.tcb;
        let full = u64::from(tcb.rcv_mss.max(1));
        let segments = if arrival.train != 0 { advanced.div_ceil(full) } else { advanced / full };
        tcb.ack_segments = u64::from(tcb.ack_segments).saturating_add(segments).min(255) as u8;
        // RFC 9293 section 3.8.6.3: at least every second full-sized segment; a train that was merged is acknowledged once.
        if tcb.ack_segments >= 2 || tcb.rcv_nxt - tcb.rcv_acked >= 2 * full || tcb.acknowledges_quickly() {
            tcb.set(flag::ACK_NOW);
            self.flush_later();
            return false;
        }
        let (now, delay) = (now.as_micros(), tcb.delay());
        if tcb.ack_at == NEVER {
            tcb.ack_at = now + delay;
        } else if tcb.ack_at <= now + delay / 4 {
            // Linux: a timer that is about to fire has nothing more to wait for.
            tcb.set(flag::ACK_NOW);
            self.flush_later();
        } else {
            tcb.ack_at = tcb.ack_at.min(now + delay);
        }
        false
    }

    /// SACK compression: beyond a gap the first acknowledgements go out one by one, later ones together. Whether this one goes now.
    fn account_gap(&mut self) -> bool {
        let sysctls = &self.env.globals.sysctls;
        let most = sysctls.comp_sack_nr.min(u8::MAX.into()) as u8;
        let longest = u64::from(sysctls.comp_sack_delay_ns / 1_000);
        let tcb = &mut *self.tcb;
        let full = u64::from(tcb.rcv_mss.max(1));
        if !tcb.has(flag::SACK)
            || tcb.rcv_nxt - tcb.rcv_acked > full
            || tcb.acknowledges_quickly()
            || tcb.compressed >= most
        {
            return true;
        }
        if tcb.gap_acks < COUNTED {
            tcb.gap_acks += 1;
            return true;
        }
        tcb.compressed += 1;
        if tcb.compressed > 1 {
            // The timer runs, or the flush comes.
            return false;
        }
        // Linux: a twentieth of the round trip, so that the sender's picture is never much older than its path.
        let delay = longest.min(u64::from(tcb.srtt / 20));
        if delay < SHORTEST_WAIT {
            tcb.set(flag::ACK_NOW);
            self.flush_later();
        } else {
            tcb.ack_at = tcb.ack_at.min(self.now.as_micros() + delay);
        }
        false
    }

    /// The time of an ACK that waited has come.
    pub(super) fn ack_timeout<H: Host>(&mut self, host: &mut H) {
        let tcb = &mut *self.tcb;
        if tcb.compressed > 0 {
            // One of them goes out now.
            tcb.compressed -= 1;
        } else {
            // Linux's tcp_delack_timer_handler: no answer came to travel with.
            if tcb.has(flag::PINGPONG) {
                tcb.clear(flag::PINGPONG);
                tcb.ato = LEAST_DELAY;
            } else {
                tcb.ato = (u32::from(tcb.ato) * 2).min(tcb.rto / 1_000).min(u16::MAX.into()) as u16;
            }
            self.env.count(Counter::TcpExtDelayedACKs);
        }
        self.send_ack(host);
    }
}
