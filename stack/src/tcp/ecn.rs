//! Explicit congestion notification (RFC 3168): who may use it, what the packets that leave bear, and what the marks and
//! echoes that arrive mean. What a mark does to the window is [`recovery`](super::recovery)'s affair. Here both kinds of feedback
//! are agreed on; how the accurate one (RFC 9768) works is [`accecn`](super::accecn)'s.
//!
//! New data is ECN-capable; SYNs, pure acknowledgements, probes without data and retransmissions are not (RFC 3168 section
//! 6.1.1, 6.1.4, 6.1.5). A simultaneous open goes without.

use super::block::{Tcb, flag};
use super::delivery::Delivery;
use super::segment::Arrival;
use super::{Conn, accecn};
use crate::counters::Counter;
use crate::sysctl::Sysctls;
use crate::wire::TcpFlags;

/// The ECN field of an IP header (RFC 3168 section 5), the low bits of the type of service.
pub(crate) mod codepoint {
    pub(crate) const NOT_ECT: u8 = 0;
    pub(crate) const ECT1: u8 = 1;
    pub(crate) const ECT0: u8 = 2;
    pub(crate) const CE: u8 = 3;
    pub(crate) const MASK: u8 = 3;
}

/// What our SYNs ask for under `net.ipv4.tcp_ecn` = `mode`, as [`Tcb::ecn`] holds it.
fn asks(mode: u32) -> u8 {
    match mode {
        1 | 4 => bit::CLASSIC,
        3 => bit::ACCURATE,
        _ => 0,
    }
}

/// Whether a peer that asks gets classic ECN.
fn accepts(mode: u32) -> bool {
    mode != 0
}

/// Whether a peer that asks for AccECN gets it.
fn accepts_accurate(mode: u32) -> bool {
    mode >= 3
}

/// Bits of [`Tcb::ecn`].
pub(crate) mod bit {
    /// Feedback as RFC 3168 has it; in SYN-SENT: it is asked for.
    pub(crate) const CLASSIC: u8 = 1;
    /// CE has arrived: every ACK bears ECE until the peer's CWR.
    pub(crate) const ECHO: u8 = 1 << 1;
    /// The window was reduced: the next new data bears CWR.
    pub(crate) const CWR_DUE: u8 = 1 << 2;
    /// A packet of the peer's was ECN-capable (Linux's TCPI_OPT_ECN_SEEN).
    pub(crate) const SEEN: u8 = 1 << 3;
    /// Feedback as RFC 9768 has it; in SYN-SENT: it is asked for. Excludes the first three.
    pub(crate) const ACCURATE: u8 = 1 << 4;
    /// AccECN: nothing of ours is ECN-capable.
    pub(crate) const INCAPABLE: u8 = 1 << 5;
    /// AccECN: the next ACK feeds back how the SYN,ACK arrived.
    pub(crate) const REFLECT: u8 = 1 << 6;
    /// AccECN: the first segment after the SYNs has been looked at.
    pub(crate) const CHECKED: u8 = 1 << 7;
}

/// A SYN that asks for AccECN is repeated so often as it is (RFC 9768 section 3.1.4.1).
const ACCURATE_RETRIES: u8 = 1;

/// What a SYN that asks for AccECN bears (RFC 9768 section 3.1.1).
const ASKING_ACCURATE: TcpFlags = TcpFlags::ECN;

/// What a SYN that asks bears (RFC 3168 section 6.1.1).
const ASKING: TcpFlags = TcpFlags(TcpFlags::ECE.0 | TcpFlags::CWR.0);

/// What the ECN bits of a SYN lead to on the passive side, as [`Tcb::ecn`] holds it.
pub(crate) fn answer(mode: u32, arrival: &Arrival<'_>) -> u8 {
    // RFC 9768 section 3.1.3: all that is neither "none" nor the classic question asks for it, or for what comes after it.
    if accepts_accurate(mode) && arrival.flags.intersects(TcpFlags::ECN) && arrival.flags.ace() != ASKING.ace() {
        return bit::ACCURATE;
    }
    // RFC 3168 section 6.1.1: a SYN is never ECN-capable. Linux does not trust one that claims to be.
    let asked = arrival.flags.contains(ASKING) && arrival.ecn == codepoint::NOT_ECT;
    if accepts(mode) && asked { bit::CLASSIC } else { 0 }
}

/// The ECN flags of the SYN,ACK that answers so to a SYN with `codepoint`.
pub(crate) fn answering_flags(ecn: u8, codepoint: u8) -> TcpFlags {
    match ecn & (bit::CLASSIC | bit::ACCURATE) {
        0 => TcpFlags::default(),
        bit::CLASSIC => TcpFlags::ECE,
        _ => accecn::reflection(codepoint),
    }
}

/// The ECN flags of an ACK before anything was received.
pub(crate) fn idle_flags(ecn: u8) -> TcpFlags {
    if ecn & bit::ACCURATE != 0 { accecn::first_ace() } else { TcpFlags::default() }
}

/// What was agreed on by a SYN,ACK that nobody remembers; the cookie brought back that something was.
pub(crate) fn remembered(mode: u32, arrival: &Arrival<'_>) -> u8 {
    // RFC 9768 section 3.2.2.2: the ACK tells which: a classic client sends 0, or 1 at most.
    match arrival.flags.ace() > TcpFlags::ECE.ace() {
        true if accepts_accurate(mode) => bit::ACCURATE,
        _ if accepts(mode) => bit::CLASSIC,
        _ => 0,
    }
}

impl Tcb {
    /// Our first SYN is about to leave.
    pub(crate) fn ask_for_ecn(&mut self, mode: u32) {
        self.ecn = asks(mode);
    }

    /// The ECN flags of our SYN.
    pub(crate) fn asking_flags(&self) -> TcpFlags {
        match self.ecn {
            bit::CLASSIC => ASKING,
            bit::ACCURATE => ASKING_ACCURATE,
            _ => TcpFlags::default(),
        }
    }

    /// The SYN has to be repeated: perhaps somebody on the path does not like its flags (RFC 3168 section 6.1.1.1).
    pub(crate) fn ask_without_ecn(&mut self) {
        if self.ecn & bit::ACCURATE == 0 {
            self.ecn = 0;
        } else if self.retries > ACCURATE_RETRIES {
            // RFC 9768 section 3.1.5: the first answer still decides, but nothing is ECN-capable after a SYN that did not ask.
            self.ecn |= bit::INCAPABLE;
        }
    }

    /// Takes the peer's answer to our SYN.
    pub(crate) fn agree_on_ecn(&mut self, sysctls: &Sysctls, arrival: &Arrival<'_>) {
        if self.ecn & bit::ACCURATE != 0 {
            // RFC 9768 section 3.1.2, table 2; a simultaneous open goes without.
            match arrival.flags.ace() {
                _ if !arrival.flags.ack() => self.ecn = 0,
                // Not ECN, and a peer that reflects what it does not know.
                0b000 | 0b111 => self.ecn = 0,
                0b001 => self.ecn = if self.ecn & bit::INCAPABLE == 0 { bit::CLASSIC } else { 0 },
                _ => self.start_accurate_client(sysctls, arrival),
            }
            return;
        }
        // RFC 3168 section 6.1.1: ECE alone agrees. Both mean a peer that reflects what it does not know.
        let agreed =
            arrival.flags.ack() && arrival.flags.contains(TcpFlags::ECE) && !arrival.flags.contains(TcpFlags::CWR);
        if !agreed {
            self.ecn = 0;
        }
    }

    /// The window is being reduced, for whatever reason.
    #[inline]
    pub(crate) fn ecn_reduced(&mut self) {
        if self.ecn & bit::CLASSIC != 0 {
            self.ecn |= bit::CWR_DUE;
        }
    }

    /// The reduction was a mistake.
    pub(crate) fn ecn_undone(&mut self) {
        self.ecn &= !bit::CWR_DUE;
    }

    /// Flags and IP codepoint of a segment of `len` bytes from `from` on that bears `flags`.
    #[inline]
    pub(crate) fn ecn_outgoing(&self, from: u64, len: u32, flags: TcpFlags) -> (TcpFlags, u8) {
        if self.ecn & (bit::CLASSIC | bit::ACCURATE) == 0 || flags.rst() {
            return (TcpFlags::default(), codepoint::NOT_ECT);
        }
        if self.ecn & bit::ACCURATE != 0 {
            // What may be ECN-capable RFC 9768 leaves as RFC 3168 has it.
            let capable = len > 0 && from >= self.snd_nxt && self.ecn & bit::INCAPABLE == 0;
            return (self.ace(), if capable { self.capable() } else { codepoint::NOT_ECT });
        }
        let mut ecn = if self.ecn & bit::ECHO != 0 { TcpFlags::ECE } else { TcpFlags::default() };
        // RFC 3168 section 6.1.5: never on a retransmission.
        if len == 0 || from < self.snd_nxt {
            return (ecn, codepoint::NOT_ECT);
        }
        if self.ecn & bit::CWR_DUE != 0 {
            // A port that cuts keeps it on the first segment alone.
            ecn |= TcpFlags::CWR;
        }
        (ecn, codepoint::ECT0)
    }
}

impl Conn<'_, '_> {
    /// Takes codepoint and CWR of an acceptable segment that bears data.
    #[inline]
    pub(crate) fn receive_marks(&mut self, arrival: &Arrival<'_>) {
        if self.tcb.ecn & bit::CLASSIC == 0 {
            return;
        }
        let tcb = &mut *self.tcb;
        if arrival.flags.contains(TcpFlags::CWR) {
            // RFC 3168 section 6.1.3. Acknowledged at once, as on Linux: the peer learns that it was heard.
            tcb.ecn &= !bit::ECHO;
            tcb.set(flag::ACK_NOW);
            self.flush_later();
        }
        let tcb = &mut *self.tcb;
        if arrival.ecn != codepoint::NOT_ECT {
            tcb.ecn |= bit::SEEN;
        }
        if arrival.ecn == codepoint::CE && tcb.ecn & bit::ECHO == 0 {
            tcb.ecn |= bit::ECHO;
            // The sender should know soon: Linux's quickack mode for two segments.
            tcb.quick = tcb.quick.max(2);
            tcb.clear(flag::PINGPONG);
        }
    }

    /// Takes what an acknowledgement says of marks on our data, once `news` knows what has arrived.
    #[inline]
    pub(crate) fn take_echo(&mut self, arrival: &Arrival<'_>, news: &mut Delivery) {
        if self.tcb.ecn & bit::ACCURATE != 0 {
            return self.take_counters(arrival, news);
        }
        if self.tcb.ecn & bit::CLASSIC == 0 || !arrival.flags.contains(TcpFlags::ECE) || arrival.flags.syn() {
            return;
        }
        news.congested = true;
        // Which of the segments was marked it does not tell: RFC 8257 section 3.3 takes all of them.
        news.marked = news.delivered;
        self.count_marks(news.delivered.div_ceil(u64::from(self.tcb.mss)));
    }

    #[cold]
    pub(crate) fn count_marks(&mut self, segments: u64) {
        self.tcb.delivered_ce = self.tcb.delivered_ce.wrapping_add(segments as u32);
        self.env.count_many(Counter::TcpExtTCPDeliveredCE, segments);
        if self.tcb.capable() == codepoint::ECT1 {
            self.env.count_many(Counter::PersonaDeliveredCEECT1, segments);
        }
    }
}
