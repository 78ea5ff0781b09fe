//! What one acknowledgement brought: which flights have arrived, and what that says of round-trip time, order and rate.

use super::block::Tcb;
use super::emit::stamp;
use super::flights::{Flight, bit};
use super::sender::{Sender, fact};
use crate::congestion::RateSample;
use crate::time::Instant;

/// Collected flight by flight; see [`Delivery::take`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    now: Instant,
    ts_offset: u32,
    min_rtt: u32,
    /// What had arrived, and where the episode of recovery ends, before this acknowledgement.
    fack: u64,
    recover: u64,
    /// The echoed timestamp, where timestamps were agreed upon.
    pub(crate) echo: Option<u32>,
    /// Bytes newly acknowledged in order, newly sacked, and newly known to have arrived.
    pub(crate) acked: u64,
    pub(crate) sacked: u64,
    pub(crate) delivered: u64,
    /// Sending times of the first and the last flight that was acknowledged in order and sent only once; of the first
    /// one that was sacked.
    first_sent_at: Option<u64>,
    last_sent_at: Option<u64>,
    sacked_sent_at: Option<u64>,
    /// The flight that was sent last.
    newest: Option<Flight>,
    /// The same among those that are certain to be answered by this acknowledgement: when sent, and where it ends.
    pub(crate) rack: Option<(u64, u64)>,
    pub(crate) highest: u64,
    /// Something arrived that was sent once, before what had arrived already.
    pub(crate) overtaken: bool,
    /// Something arrived that was sent once, before the episode of recovery began.
    pub(crate) original: bool,
    /// Something that was sent again was acknowledged.
    pub(crate) resent: bool,
    /// Bytes of a DSACK block; 0: there was none.
    pub(crate) dsack: u64,
    /// The acknowledgement says that something was marked, and how many bytes as far as can be told.
    pub(crate) congested: bool,
    pub(crate) marked: u64,
    /// The DSACK reports what the tail loss probe repeated.
    pub(crate) dsack_of_probe: bool,
}

impl Delivery {
    pub(crate) fn new(now: Instant, tcb: &Tcb, sender: Option<&Sender>, echo: Option<u32>) -> Self {
        Self {
            now,
            ts_offset: tcb.ts_offset,
            min_rtt: tcb.min_rtt,
            fack: sender.map_or(0, |sender| sender.fack),
            recover: sender.map_or(0, |sender| sender.recover),
            echo,
            acked: 0,
            sacked: 0,
            delivered: 0,
            first_sent_at: None,
            last_sent_at: None,
            sacked_sent_at: None,
            newest: None,
            rack: None,
            highest: 0,
            overtaken: false,
            original: false,
            resent: false,
            dsack: 0,
            congested: false,
            marked: 0,
            dsack_of_probe: false,
        }
    }

    /// A flight, or a part of one, has arrived that was not known to have.
    pub(crate) fn take(&mut self, flight: &Flight, in_order: bool) {
        self.delivered += flight.len();
        self.highest = self.highest.max(flight.end);
        let timed = !flight.has(bit::BLURRED);
        if flight.has(bit::RESENT) {
            self.resent |= in_order;
        } else {
            if timed && in_order {
                self.first_sent_at.get_or_insert(flight.sent_at);
                self.last_sent_at = Some(flight.sent_at);
            } else if timed {
                self.sacked_sent_at.get_or_insert(flight.sent_at);
            }
            self.overtaken |= flight.end <= self.fack;
            self.original |= flight.end <= self.recover;
        }
        let key = (flight.sent_at, flight.end);
        if self.newest.is_none_or(|newest| key > (newest.sent_at, newest.end)) {
            self.newest = Some(*flight);
        }
        if self.rack.is_none_or(|known| key > known) && self.answers(flight) {
            self.rack = Some(key);
        }
    }

    /// RFC 8985 section 6.2, step 2: whether it is this transmission of the flight that has arrived, not an earlier one.
    fn answers(&self, flight: &Flight) -> bool {
        if !flight.has(bit::RESENT) {
            return true;
        }
        let sent = stamp(Instant::from_micros(flight.sent_at), self.ts_offset);
        if self.echo.is_some_and(|echo| (echo.wrapping_sub(sent) as i32) < 0) {
            return false;
        }
        self.now.as_micros() - flight.sent_at >= u64::from(self.min_rtt)
    }

    /// Round-trip sample in microseconds (RFC 6298 section 3: never of what was sent twice, unless a timestamp tells).
    pub(crate) fn rtt(&self) -> Option<u64> {
        let now = self.now.as_micros();
        if let Some(sent_at) = self.first_sent_at.filter(|_| !self.resent).or(self.sacked_sent_at) {
            return Some(now - sent_at);
        }
        // RFC 7323 section 4.
        let echo = self.echo.filter(|echo| *echo != 0 && self.acked > 0)?;
        let span = stamp(self.now, self.ts_offset).wrapping_sub(echo);
        (span as i32 >= 0).then(|| u64::from(span) * 1_000)
    }

    /// Round-trip time of what was sent last, for congestion control: without the peer's delay of acknowledgements.
    pub(crate) fn last_rtt(&self) -> Option<u32> {
        let sent_at = self.last_sent_at.filter(|_| !self.resent).or(self.sacked_sent_at)?;
        Some((self.now.as_micros() - sent_at).clamp(1, u64::from(u32::MAX)) as u32)
    }

    /// Brings the counts of deliveries up to date and takes a sample of the rate (draft-ietf-ccwg-bbr section 4.1.2.3).
    pub(crate) fn account(&self, sender: &mut Sender) -> Option<RateSample> {
        if self.delivered == 0 {
            return None;
        }
        let now = self.now.as_micros();
        sender.delivered += self.delivered;
        sender.delivered_at = now;
        if sender.app_limited != 0 && sender.delivered > sender.app_limited {
            sender.app_limited = 0;
        }
        let newest = self.newest?;
        sender.first_sent_at = newest.sent_at;
        if newest.has(bit::BLURRED) {
            return None;
        }
        let delivered_before = newest.sent_at - u64::from(newest.since_delivery);
        let span = u64::from(newest.since_first).max(now - delivered_before);
        // Shorter than any round trip: acknowledgements were bunched together on their way.
        if span < u64::from(self.min_rtt) {
            return None;
        }
        let (told, interval) = (sender.delivered - newest.delivered, span.min(u64::from(u32::MAX)) as u32);
        note_rate(sender, told, interval, newest.has(bit::APP_LIMITED));
        Some(RateSample {
            delivered: sender.delivered - newest.delivered,
            interval: span.min(u64::from(u32::MAX)) as u32,
            prior_delivered: newest.delivered,
            sent_in_flight: newest.in_flight,
            lost: (sender.lost_total as u32).wrapping_sub(newest.lost_before),
            app_limited: newest.has(bit::APP_LIMITED),
        })
    }
}

/// As Linux's tcp_rate_gen: what TCP_INFO tells is the latest sample, but one that the application limited counts only where
/// it is no less than what was seen.
fn note_rate(sender: &mut Sender, delivered: u64, interval: u32, app_limited: bool) {
    let history = &mut sender.history;
    let (old, old_interval) = (u64::from(history.rate_delivered), u64::from(history.rate_interval));
    let delivered = delivered.min(u64::from(u32::MAX));
    if !app_limited || delivered * old_interval >= old * u64::from(interval) {
        (history.rate_delivered, history.rate_interval) = (delivered as u32, interval);
        let kept = sender.facts & !fact::RATE_LIMITED;
        sender.facts = if app_limited { kept | fact::RATE_LIMITED } else { kept };
    }
}
