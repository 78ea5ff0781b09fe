//! Recovery: what acknowledgements lead to. Which state the sending half is in, when the window is reduced (RFC 5681, RFC 6675,
//! RFC 6582 without SACK) and by how much at a time (RFC 9937), what a timeout leaves behind, and taking back what was no
//! loss (RFC 3522, RFC 4015, RFC 3708, RFC 5682).

use super::block::{Tcb, flag, recovery};
use super::delivery::Delivery;
use super::emit::stamp;
use super::flights::bit;
use super::segment::Arrival;
use super::sender::fact;
use super::{Conn, seq};
use crate::congestion::{self, Ack, Cause, Congestion, Note, Path, RateSample, Window};
use crate::counters::Counter;
use crate::trace::Why;

impl Conn<'_, '_> {
    pub(crate) fn path(&self) -> Path {
        let (delivered, lost) = self.sender_if_any().map_or((0, 0), |sender| (sender.delivered, sender.lost_total));
        Path {
            mss: u32::from(self.tcb.mss),
            srtt: self.tcb.srtt,
            min_rtt: self.tcb.min_rtt,
            in_flight: self.pipe().min(u64::from(u32::MAX)) as u32,
            delivered,
            lost,
            sack: self.tcb.has(flag::SACK),
            accurate: self.tcb.is_accurate(),
            seed: self.tcb.iss ^ self.tcb.ts_offset.rotate_left(16),
            now: self.now,
        }
    }

    pub(crate) fn window(&self) -> Window {
        Window {
            cwnd: self.tcb.cwnd,
            ssthresh: self.tcb.ssthresh,
            pacing: self.sender_if_any().map_or(0, |sender| sender.pacing_rate),
            note: Note::None,
        }
    }

    pub(crate) fn set_window(&mut self, window: &Window) {
        self.tcb.cwnd = window.cwnd.max(u32::from(self.tcb.mss));
        self.tcb.ssthresh = window.ssthresh;
        self.sender().pacing_rate = window.pacing;
    }

    /// Lets the controller decide about the window.
    pub(crate) fn control<R>(
        &mut self,
        act: impl FnOnce(&mut dyn congestion::Controller, &Path, &mut Window) -> R,
    ) -> R {
        self.sender();
        let (path, mut window, kind) = (self.path(), self.window(), self.tcb.settings.congestion);
        let sender = self.sender();
        let answer = congestion::with(kind, &mut sender.control, |controller| act(controller, &path, &mut window));
        self.set_window(&window);
        match window.note {
            Note::None => {}
            Note::HystartDelay => {
                self.env.count(Counter::TcpExtTCPHystartDelayDetect);
                let segments = window.cwnd / u32::from(self.tcb.mss).max(1);
                self.env.count_many(Counter::TcpExtTCPHystartDelayCwnd, u64::from(segments));
            }
            Note::AppLimited => self.limited_by_application(),
        }
        answer
    }

    /// Samples of what is in flight are not about the path (draft-ietf-ccwg-bbr section 4.1.2.4).
    pub(crate) fn limited_by_application(&mut self) {
        let pipe = self.pipe();
        let sender = self.sender();
        sender.app_limited = (sender.delivered + pipe).max(1);
    }

    fn steers(&self) -> bool {
        Congestion::from_byte(self.tcb.settings.congestion).steers()
    }

    /// Takes out of the sent queue what lies below `ack`.
    pub(crate) fn take_acked(&mut self, ack: u64, news: &mut Delivery) {
        news.acked = ack - self.tcb.snd_una;
        let (mut pool, sender) = self.flights();
        pool.acked(&mut sender.queue, ack, |flight| news.take(flight, true));
        // RFC 2018 section 8: the byte at SND.UNA is missing by definition. If it was sacked, the peer reneged.
        if pool.head(&sender.queue).is_some_and(|head| head.has(bit::SACKED)) {
            pool.forget_sacks(&mut sender.queue);
            self.env.trace.set_cause(Why::Reneging);
            self.env.count(Counter::TcpExtTCPSACKReneging);
        }
    }

    /// Enters the SACK blocks of an ACK for `ack` into the sent queue.
    pub(crate) fn take_sack(&mut self, arrival: &Arrival<'_>, ack: u64, news: &mut Delivery) {
        if !self.tcb.has(flag::SACK) {
            return;
        }
        let (iss, una, nxt) = (self.tcb.iss, self.tcb.snd_una.max(ack), self.tcb.snd_nxt);
        let blocks = arrival.options.sack.as_slice();
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
                self.take_dsack(start, end, news);
                continue;
            }
            if start < self.tcb.snd_una {
                self.env.count(Counter::TcpExtTCPSACKDiscard);
                continue;
            }
            let (mut pool, sender) = self.flights();
            news.sacked += pool.sacked(&mut sender.queue, start.max(una), end, |flight| news.take(flight, false));
        }
    }

    /// The peer has bytes twice: one retransmission fewer that was needed (RFC 3708).
    fn take_dsack(&mut self, start: u64, end: u64, news: &mut Delivery) {
        self.env.count(Counter::TcpExtTCPDSACKRecv);
        let len = end - start;
        let Some(sender) = self.sender_if_any() else { return };
        // What was acknowledged before the window was reduced is not about this reduction.
        let concerned = sender.undo_from != 0 && start >= sender.undo_from;
        news.dsack_of_probe |= sender.probe_end != 0 && sender.has(fact::PROBE_RESENT) && end == sender.probe_end;
        // More than a window ago: not of what we sent (RFC 3708 section 5: packets that the network duplicates).
        if end + u64::from(self.tcb.max_wnd) < self.tcb.snd_una {
            return;
        }
        news.dsack += len;
        let segments = len.div_ceil(u64::from(self.tcb.mss.max(1))) as u32;
        let history = &mut self.sender().history;
        history.dsack_dups = history.dsack_dups.saturating_add(segments);
        if concerned {
            let sender = self.sender();
            sender.undo_bytes = sender.undo_bytes.saturating_sub(len.min(u64::from(u32::MAX)) as u32);
        }
    }

    /// The state machine, after SND.UNA and sent queue were brought up to date. `duplicate`: in the sense of RFC 5681
    /// section 2; it counts where the peer does not report what has arrived.
    pub(crate) fn judge(&mut self, ack: u64, mut news: Delivery, duplicate: bool) {
        let news = &mut news;
        let mss = u64::from(self.tcb.mss);
        let sack = self.tcb.has(flag::SACK);
        let repeated = duplicate;
        let duplicate = duplicate && !sack;
        let sender = self.sender();
        let lost_before = sender.lost_total;
        // RFC 9937 section 6: without SACK a duplicate tells of one segment, and the acknowledgement that follows of those again.
        let told = u64::from(sender.dup_acks) * mss;
        let arrived = match (sack, duplicate) {
            (true, _) => news.delivered,
            (false, true) => mss,
            (false, false) => news.delivered.saturating_sub(told).max(mss),
        };
        let rate = news.account(self.sender());
        self.update_rack(news);
        let probe_repaired = self.judge_probe(ack, news, repeated);
        // RFC 9768 section 3.3: marks of segments that had left before the window was reduced are answered by that.
        let answered =
            self.tcb.is_accurate() && self.tcb.recovery >= recovery::REDUCING && ack <= self.sender().recover;
        self.leave_if_over(news);
        match self.tcb.recovery {
            recovery::FAST => self.judge_fast(news, duplicate),
            recovery::LOSS => self.judge_loss(news, duplicate),
            _ => self.judge_open(news, duplicate),
        }
        if probe_repaired && self.tcb.recovery < recovery::REDUCING {
            // RFC 8985 section 7.4.2: the loss was repaired, and is congestion all the same.
            self.reduce(Cause::Loss, self.tcb.in_flight());
            self.end_reduction();
        }
        if news.congested && !answered && self.tcb.recovery < recovery::REDUCING {
            self.enter_reducing(news.acked);
        }
        let lost = self.sender().lost_total - lost_before;
        self.steer(news, rate, arrived, lost);
    }

    /// RecoveryPoint was reached.
    fn leave_if_over(&mut self, news: &Delivery) {
        let state = self.tcb.recovery;
        if state < recovery::REDUCING || news.acked == 0 {
            return;
        }
        let (una, recover) = (self.tcb.snd_una, self.sender().recover);
        // RFC 6582 section 3.2 step 1: without SACK what arrives right at the point may still be about the old episode; and
        // the mark that began a reduction is echoed until data with CWR has arrived, which lies beyond the point.
        let at_point = state == recovery::LOSS || state == recovery::FAST && self.tcb.has(flag::SACK);
        let over = if at_point { una >= recover } else { una > recover };
        if !over && self.tcb.in_flight() > 0 {
            return;
        }
        if state >= recovery::FAST {
            self.undo_if_needless(news);
            self.settle_reordering();
        }
        if self.tcb.recovery != recovery::OPEN {
            self.leave();
        }
    }

    /// The episode is over; the window stays where it was brought.
    fn leave(&mut self) {
        if self.tcb.recovery == recovery::FAST || self.tcb.recovery == recovery::REDUCING {
            self.end_reduction();
        }
        self.tcb.recovery = recovery::OPEN;
        let now = self.now.as_micros();
        let sender = self.sender();
        sender.history.recovered(now);
        sender.undo_from = 0;
        sender.resent_at = 0;
        sender.dup_acks = 0;
        sender.facts &= !fact::FRTO;
    }

    fn end_reduction(&mut self) {
        if self.steers() {
            self.control(|controller, path, window| controller.on_recovered(path, window));
            return;
        }
        self.tcb.cwnd = self.tcb.ssthresh.max(u32::from(self.tcb.mss));
        self.control(|controller, path, window| controller.on_recovered(path, window));
    }

    fn judge_open(&mut self, news: &Delivery, duplicate: bool) {
        let sender = self.sender();
        if news.acked > 0 {
            sender.dup_acks = 0;
        }
        if duplicate {
            sender.dup_acks = sender.dup_acks.saturating_add(1);
        }
        if sender.queue.sacked == 0 && sender.queue.lost == 0 && sender.dup_acks == 0 {
            if self.tcb.recovery == recovery::DISORDER {
                self.tcb.recovery = recovery::OPEN;
            }
            return;
        }
        if self.tcb.has(flag::SACK) {
            self.detect_losses();
        }
        let sack = self.tcb.has(flag::SACK);
        let una = self.tcb.snd_una;
        let threshold = self.env.globals.sysctls.reordering;
        let sender = self.sender();
        // RFC 6582 section 3.2 step 2: not again for what an earlier episode has already covered.
        let duplicates = !sack && u32::from(sender.dup_acks) >= threshold && una >= sender.recover;
        if sender.queue.lost > 0 || duplicates {
            self.enter_fast();
        } else if self.tcb.recovery == recovery::OPEN {
            self.tcb.recovery = recovery::DISORDER;
        }
    }

    fn judge_fast(&mut self, news: &Delivery, duplicate: bool) {
        let mss = u64::from(self.tcb.mss);
        let delayed = self.delayed(news);
        let (mut pool, sender) = self.env.flights(self.tcb.sender);
        if news.acked > 0 {
            if !self.tcb.has(flag::SACK) {
                // RFC 6582 section 3.2 step 5: a partial acknowledgement stops at the next hole.
                let left = (news.acked / mss).clamp(1, 255) as u8;
                sender.dup_acks = sender.dup_acks.saturating_sub(left);
                sender.lost_total += pool.lose_head(&mut sender.queue, mss);
            } else if sender.undo_from != 0 && delayed && sender.queue.resent == 0 {
                // Originals arrive one after the other: nothing was lost.
                self.undo();
                self.env.count(Counter::TcpExtTCPPartialUndo);
                return;
            }
        } else if duplicate {
            sender.dup_acks = sender.dup_acks.saturating_add(1);
        }
        if self.all_repeated_in_vain() {
            self.undo();
            self.env.count(Counter::TcpExtTCPDSACKUndo);
            return;
        }
        if self.tcb.has(flag::SACK) {
            self.detect_losses();
        }
    }

    /// After a timeout: RFC 5682 section 3.1 (F-RTO with SACK), then slow start through what is lost.
    fn judge_loss(&mut self, news: &Delivery, duplicate: bool) {
        if news.acked > 0 && (self.delayed(news) || self.all_repeated_in_vain()) {
            self.env.count(Counter::TcpExtTCPSpuriousRTOs);
            self.undo();
            return;
        }
        let nxt = self.tcb.snd_nxt;
        let sender = self.sender();
        if sender.has(fact::FRTO) {
            if news.original {
                // Step 3.b: what was sent once has arrived, so not everything was lost.
                self.env.count(Counter::TcpExtTCPSpuriousRTOs);
                self.undo();
                return;
            }
            if nxt > sender.recover {
                if news.sacked > 0 || duplicate {
                    // Step 3.a: only what was sent after the timeout arrives.
                    sender.facts &= !fact::FRTO;
                }
            } else if news.acked > 0 {
                // Step 2.b: see whether new data brings originals to light.
                sender.recover = nxt;
            }
        }
        if self.tcb.has(flag::SACK) {
            self.detect_losses();
        } else if news.acked > 0 {
            self.sender().dup_acks = 0;
        }
    }

    /// RFC 3522: the echo is older than the first retransmission, so the original had arrived.
    fn delayed(&self, news: &Delivery) -> bool {
        let Some(sender) = self.sender_if_any() else { return false };
        if sender.undo_from == 0 || sender.resent_at == 0 {
            return false;
        }
        let resent = stamp(crate::time::Instant::from_micros(sender.resent_at), self.tcb.ts_offset);
        news.echo.is_some_and(|echo| (echo.wrapping_sub(resent) as i32) < 0)
    }

    /// RFC 3708: every retransmission of the episode was reported as a duplicate.
    fn all_repeated_in_vain(&self) -> bool {
        self.sender_if_any()
            .is_some_and(|sender| sender.undo_from != 0 && sender.resent_at != 0 && sender.undo_bytes == 0)
    }

    fn undo_if_needless(&mut self, news: &Delivery) {
        let state = self.tcb.recovery;
        if !self.delayed(news) && !self.all_repeated_in_vain() {
            return;
        }
        let counter = match state {
            recovery::LOSS => Counter::TcpExtTCPSpuriousRTOs,
            _ => Counter::TcpExtTCPFullUndo,
        };
        self.env.count(counter);
        self.undo();
    }

    /// RFC 4015 section 3.2: the window is what it was; what counted as lost is in flight.
    fn undo(&mut self) {
        let (mut pool, sender) = self.env.flights(self.tcb.sender);
        pool.find_again(&mut sender.queue);
        sender.history.recovered(self.now.as_micros());
        sender.undo_from = 0;
        sender.resent_at = 0;
        sender.dup_acks = 0;
        sender.facts &= !fact::FRTO;
        self.tcb.cwnd = self.tcb.cwnd.max(sender.prior_cwnd);
        self.tcb.ssthresh = self.tcb.ssthresh.max(sender.prior_ssthresh);
        self.tcb.recovery = recovery::OPEN;
        self.tcb.retries = 0;
        self.tcb.ecn_undone();
        self.control(|controller, path, window| controller.on_undo(path, window));
    }

    /// Remembers what an undo restores.
    fn begin_episode(&mut self) {
        let (cwnd, ssthresh, una, nxt) = (self.tcb.cwnd, self.tcb.ssthresh, self.tcb.snd_una, self.tcb.snd_nxt);
        let sender = self.sender();
        sender.prior_cwnd = cwnd;
        sender.prior_ssthresh = ssthresh;
        sender.undo_from = una;
        sender.undo_bytes = 0;
        sender.resent_at = 0;
        sender.recover = nxt;
    }

    /// Asks the controller for ssthresh and prepares the window's way down to it from `flight` bytes.
    fn reduce(&mut self, cause: Cause, flight: u64) {
        let ssthresh = self.control(|controller, path, window| {
            let path = Path { in_flight: flight.min(u64::from(u32::MAX)) as u32, ..*path };
            controller.on_congestion(&path, cause, window)
        });
        self.tcb.ssthresh = ssthresh;
        self.tcb.ecn_reduced();
        let sender = self.sender();
        // RFC 9937 section 6: what was in flight, without what had been sacked before.
        sender.prr_flight = flight.saturating_sub(u64::from(sender.queue.sacked)).clamp(1, u64::from(u32::MAX)) as u32;
        sender.prr_delivered = 0;
        sender.prr_out = 0;
    }

    /// RFC 3168 section 6.1.2: a mark halves the window like a loss, once in a round trip. It may not be undone.
    fn enter_reducing(&mut self, acked: u64) {
        let nxt = self.tcb.snd_nxt;
        let sender = self.sender();
        (sender.recover, sender.undo_from, sender.resent_at) = (nxt, 0, 0);
        // What was in flight when the mark was made is what it is about.
        self.reduce(Cause::Marked, self.tcb.in_flight() + acked);
        if self.tcb.in_flight() == 0 {
            // No acknowledgement would lead the window down.
            self.end_reduction();
        } else {
            self.tcb.recovery = recovery::REDUCING;
        }
    }

    pub(crate) fn enter_fast(&mut self) {
        let mss = u64::from(self.tcb.mss);
        let reducing = self.tcb.recovery == recovery::REDUCING;
        if !reducing {
            self.begin_episode();
            self.reduce(Cause::Loss, self.tcb.in_flight());
        } else {
            let nxt = self.tcb.snd_nxt;
            self.sender().recover = nxt;
        }
        self.tcb.recovery = recovery::FAST;
        let how = if self.tcb.has(flag::SACK) {
            Counter::TcpExtTCPSackRecovery
        } else {
            let (mut pool, sender) = self.flights();
            sender.lost_total += pool.lose_head(&mut sender.queue, mss);
            Counter::TcpExtTCPRenoRecovery
        };
        self.env.count(how);
    }

    /// The retransmission timer expired: RFC 5681 section 3.1, RFC 6298 section 5, RFC 8985 section 6.3.
    pub(crate) fn enter_loss(&mut self) {
        self.env.trace.set_cause(Why::Timeout);
        let first = self.tcb.retries == 0;
        let now = self.now.as_micros();
        self.sender().history.timed_out(first, now);
        let una = self.tcb.snd_una;
        if first {
            self.tcb.stalled_at = self.now;
            // Once per window, as Linux: an episode that is under way has reduced it already.
            let state = self.tcb.recovery;
            if state <= recovery::DISORDER || state == recovery::LOSS || self.sender().recover <= una {
                self.begin_episode();
                self.reduce(Cause::Timeout, self.tcb.in_flight());
            }
        }
        let (nxt, sack) = (self.tcb.snd_nxt, self.tcb.has(flag::SACK));
        let (now, window) = (self.now.as_micros(), u64::from(self.tcb.srtt) / 4);
        let frto = self.env.globals.sysctls.frto != 0;
        let (mut pool, sender) = self.flights();
        let late = u64::from(sender.rack_rtt) + window;
        // What was sent within the last round trip may be on its way.
        let lost = |flight: &super::flights::Flight| !sack || flight.start == una || flight.sent_at + late <= now;
        sender.lost_total += pool.lose_where(&mut sender.queue, lost);
        sender.recover = nxt;
        sender.probe_end = 0;
        sender.dup_acks = 0;
        if sack && first && frto {
            sender.facts |= fact::FRTO;
        }
        self.tcb.recovery = recovery::LOSS;
        let pipe = self.pipe().min(u64::from(u32::MAX / 2)) as u32;
        self.tcb.cwnd = pipe + u32::from(self.tcb.mss);
    }

    /// The path's MTU shrank: what is in flight was too large and is sent again in smaller pieces. No congestion.
    pub(crate) fn enter_refit(&mut self) {
        self.env.trace.set_cause(Why::PathMtu);
        let nxt = self.tcb.snd_nxt;
        if self.tcb.recovery < recovery::FAST {
            self.tcb.recovery = recovery::LOSS;
            let sender = self.sender();
            (sender.recover, sender.undo_from, sender.resent_at) = (nxt, 0, 0);
        }
        let (mut pool, sender) = self.flights();
        sender.lost_total += pool.lose_where(&mut sender.queue, |_| true);
        sender.facts &= !fact::FRTO;
        self.tcb.cwnd = self.tcb.cwnd.max(u32::from(self.tcb.mss));
    }

    /// The window after an acknowledgement.
    fn steer(&mut self, news: &Delivery, rate: Option<RateSample>, arrived: u64, lost: u64) {
        let state = self.tcb.recovery;
        let in_proportion = (state == recovery::FAST || state == recovery::REDUCING) && !self.steers();
        if in_proportion {
            self.reduce_in_proportion(arrived, news.acked > 0 && lost == 0);
        }
        let (cwnd, ssthresh, flight) = (self.tcb.cwnd, self.tcb.ssthresh, self.tcb.in_flight());
        let sender = self.sender();
        // In slow start half a window in use is enough, as on Linux: the next round needs twice of it.
        let cwnd_limited = sender.has(fact::CWND_LIMITED);
        let limited = cwnd_limited || (cwnd < ssthresh && u64::from(cwnd) < 2 * (flight + news.acked));
        let may_grow = limited && news.acked > 0 && !in_proportion;
        if may_grow {
            sender.facts &= !fact::CWND_LIMITED;
        }
        let round = rate.is_some_and(|rate| rate.prior_delivered >= sender.round_end);
        if round {
            sender.round_end = sender.delivered;
            sender.rounds = sender.rounds.wrapping_add(1);
        }
        let amount = |bytes: u64| bytes.min(u64::from(u32::MAX)) as u32;
        let ack = Ack {
            delivered: amount(news.delivered),
            lost: amount(lost),
            marked: amount(news.marked),
            cwnd_limited,
            may_grow,
            in_recovery: state >= recovery::FAST,
            round,
            rtt: news.last_rtt(),
            rate,
        };
        self.control(|controller, path, window| controller.on_ack(path, &ack, window));
    }

    /// RFC 9937 section 6: proportional rate reduction. `safe`: SND.UNA moved and nothing more was lost.
    pub(crate) fn reduce_in_proportion(&mut self, delivered: u64, safe: bool) {
        if self.steers() {
            return;
        }
        let (mss, ssthresh) = (u64::from(self.tcb.mss), u64::from(self.tcb.ssthresh));
        let pipe = self.pipe();
        let sender = self.sender();
        sender.prr_delivered = sender.prr_delivered.saturating_add(delivered.min(u64::from(u32::MAX)) as u32);
        let (arrived, out) = (u64::from(sender.prr_delivered), u64::from(sender.prr_out));
        let mut quota = if pipe > ssthresh {
            // Never 0 but in a record that somebody has damaged.
            (arrived * ssthresh).div_ceil(u64::from(sender.prr_flight.max(1))).saturating_sub(out)
        } else {
            // PRR-SSRB where it is safe, else packet conservation.
            let quota = arrived.saturating_sub(out).max(delivered) + if safe { mss } else { 0 };
            quota.min(ssthresh.saturating_sub(pipe))
        };
        // Whole segments leave; the fast retransmit itself does not wait.
        quota = quota.div_ceil(mss).max(u64::from(sender.prr_out == 0)) * mss;
        self.tcb.cwnd = (pipe + quota).clamp(mss, u64::from(congestion::MAX_CWND)) as u32;
    }
}

impl Tcb {
    /// Whether a loss is being repaired.
    pub(crate) fn repairs(&self) -> bool {
        self.recovery >= recovery::FAST
    }
}
