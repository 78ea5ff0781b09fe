//! Accurate ECN feedback (RFC 9768): what of the arriving marks is told to the peer, in three header flags (the ACE field) and
//! an option of byte counters, and what the peer's feedback means. Who agrees on it is [`ecn`](super::ecn)'s affair.
//!
//! Counters are kept without the values that they begin with on the wire.

use super::Conn;
use super::block::{Tcb, flag};
use super::delivery::Delivery;
use super::ecn::{self, codepoint};
use super::info::AccurateEcn;
use super::segment::Arrival;
use super::sender::{Sender, fact};
use super::seq;
use super::state::State;
use crate::congestion::Congestion;
use crate::counters::Counter;
use crate::sysctl::Sysctls;
use crate::time::Instant;
use crate::wire::{EcnBytes, MAX_OPTIONS_LEN, TcpFlags, TcpOptions};

/// Bits of [`Tcb::accurate`].
pub(crate) mod bit {
    /// The codepoint of the peer's last packet; of its SYN,ACK until our first ACK.
    pub(crate) const LAST: u8 = 3;
    /// How many segments are still to bear the option because something has changed.
    pub(crate) const DUE: u8 = 3 << 2;
    pub(crate) const DUE_ONE: u8 = 1 << 2;
    pub(crate) const DUE_TWICE: u8 = 2 << 2;
    /// The peer has sent the option; it had counters in it.
    pub(crate) const SEEN: u8 = 1 << 4;
    pub(crate) const COUNTERS_SEEN: u8 = 1 << 5;
    /// The option goes with every segment; it may go at all.
    pub(crate) const ALWAYS: u8 = 1 << 6;
    pub(crate) const ALLOWED: u8 = 1 << 7;
}

/// Bits of [`Tcb::ecn_fail`], as Linux's TCP_ACCECN_*_FAIL_*.
pub(crate) mod fail {
    /// What the peer tells of our marks cannot be trusted: nothing of ours is ECN-capable any more.
    pub(crate) const ACE_RECEIVED: u8 = 1 << 1;
    /// The peer's option is not what was sent.
    pub(crate) const OPTION_RECEIVED: u8 = 1 << 3;
}

/// Places in the records' three counters.
const ECT1: usize = 0;
const ECT0: usize = 1;
const CE: usize = 2;

/// RFC 9768 section 3.2.1: where the counters begin: packets, bytes with ECT(1), ECT(0) and CE.
const FIRST_PACKETS: u32 = 5;
const FIRST_BYTES: [u32; 3] = [1, 1, 0];

/// RFC 9768 section 3.2.2.5.1: so many marks without an ACK demand one, with and without new data to acknowledge.
const MARKS_WITH_DATA: u8 = 2;
const MARKS_WITHOUT: u8 = 3;
/// RFC 9768 section 3.2.2.3: when all that is sent in so many round trips arrives marked, it is no queue that marks.
const CONTINUOUS_ROUNDS: u32 = 4;

/// The ACE field that feeds the codepoint of a SYN or SYN,ACK back (RFC 9768 section 3.1.1, table 2, and section 3.2.2.1, table 3).
pub(crate) fn reflection(received: u8) -> TcpFlags {
    TcpFlags::from_ace(match received {
        codepoint::ECT1 => 0b011,
        codepoint::ECT0 => 0b100,
        codepoint::CE => 0b110,
        _ => 0b010,
    })
}

/// The codepoint that arrived, as `ace` reflects it; what is reserved stands for no news.
fn reflected(ace: u8) -> u8 {
    match ace {
        0b011 => codepoint::ECT1,
        0b100 => codepoint::ECT0,
        0b110 => codepoint::CE,
        _ => codepoint::NOT_ECT,
    }
}

/// The ACE field before a mark has arrived.
pub(crate) fn first_ace() -> TcpFlags {
    TcpFlags::from_ace(FIRST_PACKETS as u8)
}

/// The option of a SYN,ACK.
pub(crate) fn first_option() -> EcnBytes {
    EcnBytes::new(false, FIRST_BYTES[ECT0], FIRST_BYTES[CE], FIRST_BYTES[ECT1], 3)
}

/// How many of `segments` that an acknowledgement covers were marked, when the ACE field went up by `ace` (modulo eight).
/// `ce`: what the option says, as bytes of all `bytes`. RFC 9768 section 3.2.2.5.2 and appendix A.2.
fn marks(ace: u32, segments: u32, ce: Option<(u64, u64)>, thinned: bool) -> u32 {
    if segments < 8 {
        return ace;
    }
    // As many as the field allows.
    let safest = segments - (segments.wrapping_sub(ace) & 7);
    match ce {
        Some((0, _)) => ace,
        Some((ce, bytes)) if ce < bytes => {
            let estimate = (u64::from(segments) * ce / bytes) as u32;
            // The possible count that is nearest.
            let wraps = (estimate.saturating_sub(ace) + 4) / 8;
            (ace + wraps * 8).min(safest)
        }
        Some(_) => safest,
        // Where every acknowledgement covers many it is no sign of lost ones, which is what the safest case is for.
        None if thinned => ace,
        None => safest,
    }
}

impl Tcb {
    pub(crate) fn is_accurate(&self) -> bool {
        self.ecn & ecn::bit::ACCURATE != 0
    }

    /// AccECN was agreed on. `received`: codepoint of the peer's SYN or SYN,ACK.
    pub(crate) fn start_accurate(&mut self, sysctls: &Sysctls, received: u8) {
        self.accurate = received & bit::LAST | bit::DUE_TWICE;
        self.accurate |= match sysctls.ecn_option {
            0 => 0,
            1 => bit::ALLOWED,
            _ => bit::ALLOWED | bit::ALWAYS,
        };
    }

    /// Takes the SYN,ACK's feedback. Its ACE field says AccECN.
    pub(crate) fn start_accurate_client(&mut self, sysctls: &Sysctls, arrival: &Arrival<'_>) {
        self.start_accurate(sysctls, arrival.ecn);
        self.ecn |= ecn::bit::REFLECT;
        if arrival.ecn == codepoint::CE {
            // RFC 9768 section 3.2.1: the SYN,ACK is the first packet that is counted.
            self.received_ce = 1;
        }
        self.check_reflection(arrival.flags.ace());
        self.note_option(arrival);
    }

    /// RFC 9768 section 3.2.2.3: our SYN and SYN,ACK are not ECN-capable, so that nobody may have made them so.
    fn check_reflection(&mut self, ace: u8) {
        if reflected(ace) != codepoint::NOT_ECT {
            self.distrust();
        }
    }

    /// Nothing of ours is ECN-capable from now on; the peer is told of its marks all the same.
    fn distrust(&mut self) {
        self.ecn |= ecn::bit::INCAPABLE;
        self.ecn_fail |= fail::ACE_RECEIVED;
    }

    /// The ACE field of a segment that leaves now.
    #[inline]
    pub(crate) fn ace(&self) -> TcpFlags {
        if self.ecn & ecn::bit::REFLECT != 0 {
            return reflection(self.accurate & bit::LAST);
        }
        TcpFlags::from_ace((FIRST_PACKETS.wrapping_add(self.received_ce) & 7) as u8)
    }

    /// The codepoint of new data (RFC 9331 section 4.1: ECT(1) is for who answers marks as L4S has it).
    #[inline]
    pub(crate) fn capable(&self) -> u8 {
        if self.is_accurate() && Congestion::from_byte(self.settings.congestion).scalable() {
            codepoint::ECT1
        } else {
            codepoint::ECT0
        }
    }

    /// Whether the next segment bears the option. RFC 9768 section 3.2.3.2.2: not towards a peer whose own never came through.
    #[inline]
    pub(crate) fn sends_ecn_bytes(&self) -> bool {
        const NEEDED: u8 = bit::ALLOWED | bit::SEEN;
        self.is_accurate() && self.accurate & NEEDED == NEEDED && self.accurate & (bit::ALWAYS | bit::DUE) != 0
    }

    /// Adds the option to `options` as far as there is room: what has changed goes first (RFC 9768 section 3.2.3.1).
    #[cold]
    pub(crate) fn fill_ecn_bytes(&self, options: &mut TcpOptions) {
        let room = MAX_OPTIONS_LEN - options.len();
        let [ect1, ect0, ce] = self.received_bytes;
        // RFC 9768 section 3.2.3.3: rather nothing than an option without what has changed.
        let needed = match (ect1.min(ect0) > 0, ce > 0) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 1,
        };
        let Some(count) = (needed..=3).rev().find(|count| EcnBytes::padded_len(*count) <= room) else { return };
        let of = |place: usize, bytes: u32| FIRST_BYTES[place].wrapping_add(bytes);
        options.ecn_bytes = Some(EcnBytes::new(ect1 > ect0, of(ECT0, ect0), of(CE, ce), of(ECT1, ect1), count));
    }

    /// A segment has left with its ACK, and with the option or without.
    #[inline]
    pub(crate) fn accurate_sent(&mut self, now: Instant, option: bool) {
        self.ecn &= !ecn::bit::REFLECT;
        self.ce_pending = 0;
        if option {
            self.accurate -= bit::DUE_ONE * u8::from(self.accurate & bit::DUE != 0);
            self.ecn_option_at = coarse(now);
        }
    }

    pub(crate) fn accurate_info(&self, sender: Option<&Sender>) -> AccurateEcn {
        let option_seen = match self.accurate & (bit::SEEN | bit::COUNTERS_SEEN) {
            0 => 0,
            _ if self.ecn_fail & fail::OPTION_RECEIVED != 0 => 3,
            bit::SEEN => 1,
            _ => 2,
        };
        AccurateEcn {
            received_ce: self.received_ce,
            received_bytes: self.received_bytes,
            delivered_bytes: sender.map_or([0; 3], |sender| sender.delivered_bytes),
            failed: self.ecn_fail,
            option_seen,
            l4s: self.ecn & ecn::bit::INCAPABLE == 0 && self.capable() == codepoint::ECT1,
        }
    }

    /// Notes that the peer sends the option, and whether it is what was sent.
    fn note_option(&mut self, arrival: &Arrival<'_>) {
        let Some(option) = arrival.options.ecn_bytes else { return };
        self.accurate |= bit::SEEN;
        if option.is_empty() || self.accurate & bit::COUNTERS_SEEN != 0 {
            return;
        }
        self.accurate |= bit::COUNTERS_SEEN;
        // RFC 9768 section 3.2.3.2.4: they begin with 1. Who finds 0 has somebody on the path who wipes them.
        if option.ect0() == Some(0) || option.ect1() == Some(0) {
            self.ecn_fail |= fail::OPTION_RECEIVED;
        }
    }
}

/// [`Tcb::ecn_option_at`]'s clock.
fn coarse(now: Instant) -> u16 {
    (now.as_micros() >> 10) as u16
}

impl Sender {
    /// What has arrived with CE since the last option, as `option` tells it; `None`: it does not, or is an older one.
    fn take_option(&mut self, option: &EcnBytes) -> Option<u64> {
        let told = [option.ect1(), option.ect0(), option.ce()];
        let known = !self.has(fact::BYTES_UNKNOWN);
        let mut more = [0; 3];
        for place in [ECT1, ECT0, CE] {
            let Some(told) = told[place] else { continue };
            let before = FIRST_BYTES[place].wrapping_add(self.delivered_bytes[place]);
            more[place] = told.wrapping_sub(before) & EcnBytes::MASK;
            // RFC 9768 appendix A.1: half of the range back is an acknowledgement that was overtaken.
            if known && more[place] > EcnBytes::MASK / 2 {
                return None;
            }
        }
        for (counter, more) in self.delivered_bytes.iter_mut().zip(more) {
            *counter = counter.wrapping_add(more);
        }
        self.facts &= !fact::BYTES_UNKNOWN;
        option.ce().filter(|_| known).map(|_| u64::from(more[CE]))
    }
}

impl Conn<'_, '_> {
    /// Counts an acceptable segment by its codepoint, and sees whether the peer has to hear of it at once.
    #[inline]
    pub(crate) fn receive_accurately(&mut self, arrival: &Arrival<'_>, start: u64) {
        if self.tcb.is_accurate() {
            self.count_codepoint(arrival, start);
        }
    }

    fn count_codepoint(&mut self, arrival: &Arrival<'_>, start: u64) {
        let (now, beacon) = (self.now, self.env.globals.sysctls.ecn_option_beacon);
        let tcb = &mut *self.tcb;
        if tcb.ecn & ecn::bit::CHECKED == 0 {
            let trusted = tcb.ecn & ecn::bit::INCAPABLE == 0;
            tcb.check_first(arrival, start);
            let lost = trusted && tcb.ecn & ecn::bit::INCAPABLE != 0;
            self.env.count(Counter::PersonaAccECN);
            self.env.count_many(Counter::PersonaAccECNDistrusted, u64::from(lost));
        }
        let tcb = &mut *self.tcb;
        tcb.note_option(arrival);
        let len = arrival.payload.len();
        let last = tcb.accurate & bit::LAST;
        tcb.accurate = tcb.accurate & !bit::LAST | arrival.ecn;
        let place = match arrival.ecn {
            codepoint::ECT1 => ECT1,
            codepoint::ECT0 => ECT0,
            codepoint::CE => CE,
            _ => return,
        };
        tcb.ecn |= ecn::bit::SEEN;
        tcb.received_bytes[place] = tcb.received_bytes[place].wrapping_add(len as u32);
        if place == CE {
            let segments = len.div_ceil(arrival.wire_size().max(1)).max(1);
            tcb.received_ce = tcb.received_ce.wrapping_add(segments as u32);
            tcb.ce_pending = tcb.ce_pending.saturating_add(segments.min(255) as u8);
        }
        if len > 0 && arrival.ecn != last {
            // RFC 9768 section 3.2.3.3: another counter than before goes up: the next ACK tells, and the one after it.
            tcb.accurate = tcb.accurate & !bit::DUE | bit::DUE_TWICE;
        }
        let margin = u64::from(coarse(now).wrapping_sub(tcb.ecn_option_at)) << 10;
        if beacon > 0 && tcb.accurate & bit::DUE == 0 && margin * u64::from(beacon) >= u64::from(tcb.srtt) {
            tcb.accurate |= bit::DUE_ONE;
        }
        let enough = if len > 0 { MARKS_WITH_DATA } else { MARKS_WITHOUT };
        // RFC 9768 section 3.2.2.5.1: the first mark in a row, and every second of them.
        let begins = len > 0 && last != codepoint::CE;
        if place == CE && (begins || tcb.ce_pending >= enough) {
            tcb.set(flag::ACK_NOW);
            self.flush_later();
        }
    }

    #[cold]
    fn distrust(&mut self) {
        if self.tcb.ecn & ecn::bit::INCAPABLE == 0 {
            self.env.count(Counter::PersonaAccECNDistrusted);
        }
        self.tcb.distrust();
    }

    /// Takes what an acknowledgement says of our marks, once `news` knows what has arrived.
    pub(crate) fn take_counters(&mut self, arrival: &Arrival<'_>, news: &mut Delivery) {
        // An acknowledgement without news may be older than the last one.
        if arrival.flags.syn() || news.delivered == 0 {
            return;
        }
        let mss = u64::from(self.tcb.payload_mss());
        let trusted = self.tcb.ecn_fail & fail::OPTION_RECEIVED == 0;
        let option = arrival.options.ecn_bytes.filter(|_| trusted);
        let ace = u32::from(arrival.flags.ace());
        let ace = ace.wrapping_sub(FIRST_PACKETS.wrapping_add(self.tcb.delivered_ce)) & 7;
        let segments = news.delivered.div_ceil(mss).min(u64::from(u32::MAX / 16)) as u32;
        let sender = self.sender();
        let ce = option.and_then(|option| sender.take_option(&option));
        let thinned = sender.segments_per_ack > 6 * 16;
        sender.segments_per_ack -= sender.segments_per_ack / 8;
        sender.segments_per_ack = sender.segments_per_ack.saturating_add(2 * segments);
        let marks = marks(ace, segments, ce.map(|ce| (ce, news.delivered)), thinned);
        if marks == 0 {
            if ce.is_some_and(|ce| ce > 0) && segments < 8 {
                // RFC 9768 section 3.2.3.2.5: bytes were marked and no packet was.
                self.distrust();
            }
            return;
        }
        news.congested = true;
        news.marked = ce.filter(|ce| *ce > 0).unwrap_or(u64::from(marks) * mss).min(news.delivered);
        let all = seq::offset(self.tcb.snd_una) + news.delivered;
        let continuous = u64::from(marks.saturating_add(self.tcb.delivered_ce)) * mss >= all;
        if continuous && self.sender().rounds >= CONTINUOUS_ROUNDS {
            self.distrust();
        }
        self.count_marks(u64::from(marks));
    }
}

impl Tcb {
    /// The first segment after the SYNs (RFC 9768 sections 3.2.2.1 and 3.2.2.4).
    fn check_first(&mut self, arrival: &Arrival<'_>, start: u64) {
        self.ecn |= ecn::bit::CHECKED;
        let ace = arrival.flags.ace();
        if ace == 0 {
            // Zeroed on the way, or by a peer that counts nothing.
            self.distrust();
        } else if self.state() == State::SynReceived && start == seq::FIRST && arrival.payload.is_empty() {
            self.check_reflection(ace);
            // Our SYN,ACK arrived marked: the count begins with it.
            self.delivered_ce += u32::from(reflected(ace) == codepoint::CE);
        }
    }
}
