//! Loss: the scoreboard of sacked ranges (RFC 2018, RFC 6675), fast retransmit and recovery with and without SACK
//! (RFC 5681, RFC 6582), what a timeout leaves behind, and taking back what was no loss (RFC 3522).
//!
//! Three boundaries say everything: bytes below `lost_end` that are not sacked are lost; of those, bytes below
//! `high_rxt` were sent again; `recover` ends the episode.

use super::block::{Tcb, flag, recovery};
use super::ranges::Inserted;
use super::segment::Arrival;
use super::{Conn, seq};
use crate::congestion::{self, Path};
use crate::counters::Counter;

/// RFC 6675 section 2: DupThresh.
const DUP_THRESH: u8 = 3;

/// What an ACK says, in the terms of loss recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckNews {
    /// Bytes newly acknowledged in order.
    pub(crate) acked: u64,
    /// Bytes newly sacked.
    pub(crate) sacked: u64,
    /// A duplicate in the sense of RFC 5681 section 2.
    pub(crate) duplicate: bool,
    /// The echoed timestamp.
    pub(crate) echo: Option<u32>,
}

impl Conn<'_, '_> {
    pub(crate) fn path(&self) -> Path {
        Path {
            cwnd: self.tcb.cwnd,
            ssthresh: self.tcb.ssthresh,
            mss: u32::from(self.tcb.mss),
            srtt: self.tcb.srtt,
            now: self.now,
        }
    }

    /// Bytes that are thought to be in the network (RFC 6675 section 4, SetPipe).
    #[inline]
    pub(crate) fn pipe(&self) -> u64 {
        let tcb = &*self.tcb;
        let flight = tcb.in_flight();
        if tcb.recovery == recovery::OPEN && tcb.sacked == 0 && tcb.dup_acks == 0 {
            return flight;
        }
        let outside = if tcb.has(flag::SACK) {
            u64::from(tcb.sacked)
        } else {
            // Each duplicate ACK means that a segment has left the network (RFC 6582 section 3.2 step 3).
            (u64::from(tcb.dup_acks) * u64::from(tcb.mss)).min(flight.saturating_sub(u64::from(tcb.mss)))
        };
        let from = tcb.high_rxt.max(tcb.snd_una);
        let missing = if from < tcb.lost_end { self.unsacked(from, tcb.lost_end) } else { 0 };
        flight.saturating_sub(outside).saturating_sub(missing)
    }

    /// Enters the SACK blocks of an ACK for `ack` into the scoreboard; returns how many bytes are new.
    pub(crate) fn take_sack(&mut self, arrival: &Arrival<'_>, ack: u64) -> u64 {
        if !self.tcb.has(flag::SACK) {
            return 0;
        }
        let (iss, una, nxt) = (self.tcb.iss, self.tcb.snd_una.max(ack), self.tcb.snd_nxt);
        let blocks = arrival.options.sack.as_slice();
        let mut added = 0;
        for (place, block) in blocks.iter().enumerate() {
            let start = seq::from_wire(iss, una, block.start);
            let end = seq::from_wire(iss, una, block.end);
            if start >= end || end > nxt {
                self.env.count(Counter::TcpExtTCPSACKDiscard);
                continue;
            }
            // RFC 2883 section 4: the first block reports a duplicate when it lies below the ACK or within the second.
            let inside = blocks.get(1).is_some_and(|second| {
                place == 0
                    && seq::from_wire(iss, una, second.start) <= start
                    && end <= seq::from_wire(iss, una, second.end)
            });
            if end <= ack || inside {
                self.env.count(Counter::TcpExtTCPDSACKRecv);
                continue;
            }
            if start < self.tcb.snd_una {
                self.env.count(Counter::TcpExtTCPSACKDiscard);
                continue;
            }
            let tcb = &mut *self.tcb;
            match self.env.ranges().insert(&mut tcb.sack_head, &mut tcb.sack_count, start.max(una), end) {
                Inserted::Covered { added: new, .. } => added += new,
                // What is not noted is sent again: RFC 2018 section 8 lets the sender forget.
                Inserted::Full => self.env.count(Counter::PersonaRangesExhausted),
            }
        }
        self.tcb.sacked += added as u32;
        added
    }

    /// SND.UNA has moved: what lies below is no longer the scoreboard's.
    pub(crate) fn forget_acked(&mut self) {
        let tcb = &mut *self.tcb;
        let una = tcb.snd_una;
        tcb.high_rxt = tcb.high_rxt.max(una);
        if tcb.sack_count > 0 {
            let gone = self.env.ranges().remove_below(&mut tcb.sack_head, &mut tcb.sack_count, una);
            tcb.sacked -= gone as u32;
            // RFC 2018 section 8: the byte at SND.UNA is missing by definition. If it was sacked, the peer reneged.
            let head = self.env.ranges().iter(tcb.sack_head).next();
            if head.is_some_and(|head| head.start == una) {
                self.env.count(Counter::TcpExtTCPSACKReneging);
                self.forget_sacks();
            }
        }
    }

    /// Drops the whole scoreboard.
    pub(crate) fn forget_sacks(&mut self) {
        let tcb = &mut *self.tcb;
        self.env.ranges().clear(&mut tcb.sack_head, &mut tcb.sack_count);
        tcb.sacked = 0;
    }

    /// The state machine of recovery, after SND.UNA and scoreboard were brought up to date.
    #[inline]
    pub(crate) fn judge(&mut self, news: AckNews) {
        self.undo_if_spurious(news);
        let una = self.tcb.snd_una;
        if news.acked > 0 && self.tcb.recovery != recovery::OPEN && una >= self.tcb.recover {
            self.leave_recovery();
        }
        match self.tcb.recovery {
            recovery::OPEN => self.judge_open(news),
            recovery::FAST => self.judge_fast(news),
            _ => self.judge_loss(news),
        }
    }

    #[inline]
    fn judge_open(&mut self, news: AckNews) {
        if news.acked > 0 {
            self.tcb.dup_acks = 0;
            self.grow(news.acked);
        }
        if news.duplicate || news.sacked > 0 {
            self.tcb.dup_acks = self.tcb.dup_acks.saturating_add(1);
        }
        if self.tcb.dup_acks == 0 && self.tcb.sacked == 0 {
            return;
        }
        self.find_lost();
        let lost = self.tcb.lost_end > self.tcb.snd_una;
        // RFC 6582 section 3.2 step 2: not again for what an earlier episode has already covered.
        let covered = !self.tcb.has(flag::SACK) && self.tcb.snd_una < self.tcb.recover;
        if (lost || self.tcb.dup_acks >= DUP_THRESH) && !covered && self.tcb.in_flight() > 0 {
            self.enter_fast();
        }
    }

    fn judge_fast(&mut self, news: AckNews) {
        let mss = u64::from(self.tcb.mss);
        if self.tcb.has(flag::SACK) {
            self.find_lost();
            if news.acked > 0 && self.tcb.high_rxt <= self.tcb.snd_una {
                // RFC 6582's partial acknowledgement holds with SACK as well: what it stops at was lost.
                self.lose_head(mss);
            }
            self.find_lost_retransmission();
            return;
        }
        if news.acked > 0 {
            // RFC 6582 section 3.2 step 5: a partial acknowledgement stops at the next hole.
            let left = (news.acked / mss).clamp(1, 255) as u8;
            self.tcb.dup_acks = self.tcb.dup_acks.saturating_sub(left);
            self.tcb.high_rxt = self.tcb.snd_una;
            self.lose_head(mss);
        } else if news.duplicate {
            self.tcb.dup_acks = self.tcb.dup_acks.saturating_add(1);
        }
    }

    fn judge_loss(&mut self, news: AckNews) {
        if news.acked > 0 {
            self.grow(news.acked);
        }
        if self.tcb.has(flag::SACK) {
            self.find_lost_retransmission();
        }
    }

    /// The window grows when it was what limited sending.
    #[inline]
    fn grow(&mut self, acked: u64) {
        let tcb = &mut *self.tcb;
        // In slow start half a window in use is enough, as on Linux: the next round needs twice of it.
        let limited = tcb.has(flag::CWND_LIMITED)
            || (tcb.cwnd < tcb.ssthresh && u64::from(tcb.cwnd) < 2 * (tcb.in_flight() + acked));
        if !limited {
            return;
        }
        tcb.clear(flag::CWND_LIMITED);
        let path = self.path();
        let acked = acked.min(u64::from(u32::MAX)) as u32;
        let tcb = &mut *self.tcb;
        tcb.cwnd = congestion::with(tcb.settings.congestion, &mut tcb.control, |control| control.on_ack(&path, acked));
    }

    /// RFC 6675 section 4, IsLost: three segments' worth of sacked bytes, or three separate ranges, lie above.
    fn find_lost(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.sack_count == 0 {
            return;
        }
        let enough = u64::from(DUP_THRESH - 1) * u64::from(tcb.mss);
        let mut above = u64::from(tcb.sacked);
        let mut ranges_above = tcb.sack_count;
        for range in self.env.ranges().iter(tcb.sack_head) {
            if above <= enough && ranges_above < u16::from(DUP_THRESH) {
                break;
            }
            tcb.lost_end = tcb.lost_end.max(range.start);
            above -= range.end - range.start;
            ranges_above -= 1;
        }
    }

    /// Everything sent again before `rxt_nxt` was new is lost once more when three segments' worth of what was sent
    /// afterwards has arrived.
    fn find_lost_retransmission(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.high_rxt <= tcb.snd_una || tcb.sack_count == 0 {
            return;
        }
        let since = tcb.rxt_nxt;
        let mut above = 0;
        for range in self.env.ranges().iter(tcb.sack_head) {
            above += range.end.saturating_sub(range.start.max(since));
        }
        if above > u64::from(DUP_THRESH - 1) * u64::from(tcb.mss) {
            tcb.high_rxt = tcb.snd_una;
            tcb.rxt_nxt = tcb.snd_nxt;
            tcb.lost_end = tcb.lost_end.max((tcb.snd_una + u64::from(tcb.mss)).min(tcb.snd_nxt));
            self.env.count(Counter::TcpExtTCPLostRetransmit);
        }
    }

    /// The first unacknowledged segment counts as lost.
    fn lose_head(&mut self, mss: u64) {
        let tcb = &mut *self.tcb;
        tcb.lost_end = tcb.lost_end.max((tcb.snd_una + mss).min(tcb.snd_nxt));
    }

    fn enter_fast(&mut self) {
        let in_flight = self.tcb.in_flight().min(u64::from(u32::MAX)) as u32;
        let path = self.path();
        let tcb = &mut *self.tcb;
        tcb.prior_cwnd = tcb.cwnd;
        tcb.prior_ssthresh = tcb.ssthresh;
        let ssthresh =
            congestion::with(tcb.settings.congestion, &mut tcb.control, |control| control.on_loss(&path, in_flight));
        tcb.ssthresh = ssthresh;
        tcb.cwnd = ssthresh;
        tcb.recovery = recovery::FAST;
        tcb.recover = tcb.snd_nxt;
        tcb.high_rxt = tcb.snd_una;
        let mss = u64::from(tcb.mss);
        let how = if tcb.has(flag::SACK) { Counter::TcpExtTCPSackRecovery } else { Counter::TcpExtTCPRenoRecovery };
        self.lose_head(mss);
        self.env.count(how);
    }

    fn leave_recovery(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.recovery == recovery::FAST {
            // RFC 6582 section 3.2 step 5, full acknowledgement: no burst beyond what is in flight and one segment.
            tcb.cwnd = tcb.ssthresh;
        }
        tcb.recovery = recovery::OPEN;
        tcb.dup_acks = 0;
        tcb.lost_end = tcb.snd_una;
        tcb.clear(flag::MAYBE_SPURIOUS);
    }

    /// The retransmission timer expired: all that is not sacked is lost (RFC 5681 section 3.1, RFC 6675 section 5.1).
    pub(crate) fn enter_loss(&mut self) {
        if self.tcb.retries == 0 {
            let in_flight = self.tcb.in_flight().min(u64::from(u32::MAX)) as u32;
            let path = self.path();
            let tcb = &mut *self.tcb;
            if tcb.recovery == recovery::OPEN {
                tcb.prior_cwnd = tcb.cwnd;
                tcb.prior_ssthresh = tcb.ssthresh;
                tcb.set(flag::MAYBE_SPURIOUS);
            }
            tcb.ssthresh = congestion::with(tcb.settings.congestion, &mut tcb.control, |control| {
                control.on_timeout(&path, in_flight)
            });
            tcb.stalled_at = self.now;
        }
        let tcb = &mut *self.tcb;
        tcb.cwnd = u32::from(tcb.mss);
        tcb.recovery = recovery::LOSS;
        tcb.recover = tcb.snd_nxt;
        tcb.lost_end = tcb.snd_nxt;
        tcb.high_rxt = tcb.snd_una;
        tcb.dup_acks = 0;
        tcb.rtt_seq = 0;
    }

    /// RFC 3522: an echo older than the first retransmission means that the original had arrived. RFC 4015: the window
    /// is what it was.
    fn undo_if_spurious(&mut self, news: AckNews) {
        let tcb = &mut *self.tcb;
        if news.acked == 0 || !tcb.has(flag::MAYBE_SPURIOUS) || tcb.recovery != recovery::LOSS {
            return;
        }
        tcb.clear(flag::MAYBE_SPURIOUS);
        let resent = super::emit::stamp(tcb.stalled_at, tcb.ts_offset);
        let Some(echo) = news.echo.filter(|echo| (echo.wrapping_sub(resent) as i32) < 0) else { return };
        let _ = echo;
        tcb.cwnd = tcb.cwnd.max(tcb.prior_cwnd);
        tcb.ssthresh = tcb.ssthresh.max(tcb.prior_ssthresh);
        tcb.recovery = recovery::OPEN;
        tcb.lost_end = tcb.snd_una;
        tcb.high_rxt = tcb.snd_una;
        let path = self.path();
        congestion::with(self.tcb.settings.congestion, &mut self.tcb.control, |control| control.on_undo(&path));
        self.env.count(Counter::TcpExtTCPSpuriousRTOs);
    }

    /// The next bytes to send again, as far as the window allows (RFC 6675 section 4, NextSeg rule 1).
    pub(crate) fn next_retransmission(&self, payload_mss: u32) -> Option<(u64, u64)> {
        let tcb = &*self.tcb;
        let mss = u64::from(payload_mss);
        let (from, end) = self.next_hole(tcb.high_rxt.max(tcb.snd_una), tcb.lost_end.min(tcb.snd_nxt))?;
        let mut room = u64::from(tcb.cwnd).saturating_sub(self.pipe()) / mss * mss;
        if room == 0 && tcb.high_rxt <= tcb.snd_una {
            // RFC 6675 section 5 step 4.3: the first retransmission does not wait for the pipe to drain.
            room = mss;
        }
        (room > 0).then_some((from, end.min(from + room)))
    }

    /// NextSeg rule 3: nothing else can be sent, so what lies below the highest sacked byte is repeated in advance.
    pub(crate) fn speculative_retransmission(&self, payload_mss: u32) -> Option<(u64, u64)> {
        let tcb = &*self.tcb;
        if tcb.recovery != recovery::FAST || tcb.sack_count == 0 {
            return None;
        }
        let mss = u64::from(payload_mss);
        if self.pipe() + mss > u64::from(tcb.cwnd) {
            return None;
        }
        let highest = self.env.ranges_iter(tcb.sack_head).last()?.start;
        let (from, end) = self.next_hole(tcb.high_rxt.max(tcb.snd_una), highest.min(tcb.recover))?;
        Some((from, end.min(from + mss)))
    }

    /// First run of unsacked bytes in `from .. to`.
    fn next_hole(&self, mut from: u64, to: u64) -> Option<(u64, u64)> {
        for range in self.env.ranges_iter(self.tcb.sack_head) {
            if from < range.start {
                break;
            }
            from = from.max(range.end);
        }
        if from >= to {
            return None;
        }
        let next = self.env.ranges_iter(self.tcb.sack_head).find(|range| range.start > from);
        Some((from, next.map_or(to, |range| range.start.min(to))))
    }

    /// Unsacked bytes in `from .. to`.
    fn unsacked(&self, from: u64, to: u64) -> u64 {
        let mut count = to - from;
        for range in self.env.ranges_iter(self.tcb.sack_head) {
            if range.start >= to {
                break;
            }
            count -= range.end.min(to).saturating_sub(range.start.max(from));
        }
        count
    }
}

impl Tcb {
    /// Bytes that count as lost and were not sent again yet, as far as it can be said without the scoreboard.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.lost_end.saturating_sub(self.high_rxt.max(self.snd_una))
    }
}
