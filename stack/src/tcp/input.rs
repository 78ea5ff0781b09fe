//! SEGMENT ARRIVES for a connection (RFC 9293 section 3.10.7.4): sequence check, RST, SYN, ACK, and what they lead to.

use super::block::{NEVER, change, flag};
use super::delivery::Delivery;
use super::segment::Arrival;
use super::state::State;
use super::{Conn, emit, seq};
use crate::api::{CloseReason, Host};
use crate::counters::Counter;
use crate::frame::PortId;
use crate::wire::TcpFlags;

/// RFC 7323 section 5.5: a timestamp of an idle connection is void after 24 days.
const PAWS_LIFETIME: u32 = 24 * 24 * 3_600;
/// Linux's TCP_PAWS_WINDOW: ticks by which a timestamp may be behind.
const PAWS_SLACK: i32 = 1;

/// What the acceptability test found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Acceptable,
    /// Wholly before the window: seen already.
    Old,
    Outside,
}

impl Conn<'_, '_> {
    /// Processes a segment whose checksum holds. `stored`: see [`Conn::receive`].
    pub(crate) fn on_segment<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>, stored: Option<usize>) {
        self.tcb.segs_in = self.tcb.segs_in.wrapping_add(1);
        if self.env.trace.is_on() {
            self.trace_received(arrival);
        }
        if self.tcb.state() == State::SynSent {
            self.on_syn_sent(host, arrival);
            self.rearm();
            return;
        }
        let start = seq::from_wire(self.tcb.irs, self.tcb.rcv_nxt, arrival.seq);
        if !self.passes_checks(host, arrival, start) {
            self.rearm();
            return;
        }
        self.heard(arrival, start);
        self.receive_accurately(arrival, start);
        if !self.on_ack(host, arrival, start) {
            self.rearm();
            return;
        }
        if arrival.flags.urg() {
            self.take_urgent(arrival, start);
        }
        self.receive(host, arrival, start, stored);
        self.push(host);
    }

    /// First to fifth step of RFC 9293 section 3.10.7.4. Whether the segment goes on.
    fn passes_checks<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>, start: u64) -> bool {
        let flags = arrival.flags;
        // RFC 7323 section 5.3, R1; RST is exempt.
        if self.outdated(arrival) && !flags.rst() {
            self.env.count(Counter::TcpExtPAWSEstab);
            self.answer_unacceptable(host, !arrival.payload.is_empty(), Counter::TcpExtTCPACKSkippedPAWS);
            return false;
        }
        match self.place(start, arrival.sequence_len()) {
            Place::Acceptable => {}
            _ if flags.rst() => return false,
            // RFC 9293 section 3.5, figure 8: the SYN,ACKs of a simultaneous open cross. What it acknowledges is news;
            // answering it with another SYN,ACK would never end.
            _ if flags.syn() && flags.ack() && start == seq::SYN && self.tcb.state() == State::SynReceived => {
                let ack = seq::from_wire(self.tcb.iss, self.tcb.snd_una, arrival.ack);
                if self.complete_simultaneous(host, arrival, ack, start) {
                    self.push(host);
                }
                return false;
            }
            // RFC 9293 section 3.10.7.4, fourth: the peer of a simultaneous open repeats its SYN.
            _ if flags.syn() && !flags.ack() && self.tcb.state() == State::SynReceived => {
                self.resend_handshake(host);
                return false;
            }
            _ if flags.syn() => {
                self.env.count(Counter::TcpExtTCPSYNChallenge);
                self.challenge(host);
                return false;
            }
            place => {
                let end = start + arrival.payload.len() as u64;
                if place == Place::Old && end > start {
                    self.ack_was_lost();
                    self.duplicate(start, end, Counter::TcpExtTCPDSACKOldSent);
                }
                // A full window is no reason not to hear what is acknowledged (RFC 9293 section 3.10.7.4, first).
                if place == Place::Outside && start == self.tcb.rcv_nxt && flags.ack() {
                    self.on_ack(host, arrival, start);
                    if !self.tcb.has(flag::ENDED) {
                        self.push(host);
                    }
                }
                if !self.tcb.has(flag::ENDED) {
                    self.answer_unacceptable(host, end > start || flags.fin(), Counter::TcpExtTCPACKSkippedSeq);
                }
                return false;
            }
        }
        if flags.rst() {
            // RFC 5961 section 3.2: only the exact number resets.
            if start == self.tcb.rcv_nxt {
                self.on_reset();
            } else {
                self.challenge(host);
            }
            return false;
        }
        if flags.syn() {
            // RFC 5961 section 4.2.
            self.env.count(Counter::TcpExtTCPSYNChallenge);
            self.challenge(host);
            return false;
        }
        flags.ack()
    }

    /// RFC 9293 section 3.10.7.4, table 6.
    #[inline]
    fn place(&self, start: u64, len: u32) -> Place {
        let (nxt, edge) = (self.tcb.rcv_nxt, self.tcb.rcv_adv);
        let end = start + u64::from(len);
        let acceptable = if len == 0 {
            // Linux accepts an empty segment at the very edge, where a peer that fills the window ends up.
            start >= nxt && start <= edge
        } else {
            start < edge && end > nxt
        };
        match acceptable {
            true => Place::Acceptable,
            false if end <= nxt => Place::Old,
            false => Place::Outside,
        }
    }

    /// RFC 7323 section 5.3: the timestamp lies before the last one that was good.
    #[inline]
    fn outdated(&self, arrival: &Arrival<'_>) -> bool {
        let tcb = &*self.tcb;
        let Some(stamps) = arrival.options.timestamps.filter(|_| tcb.has(flag::TIMESTAMPS)) else { return false };
        (tcb.ts_recent.wrapping_sub(stamps.value) as i32) > PAWS_SLACK
            && emit::seconds(self.now).wrapping_sub(tcb.ts_recent_at) < PAWS_LIFETIME
    }

    /// The peer is alive, and its timestamp is noted where it may be.
    #[inline]
    fn heard(&mut self, arrival: &Arrival<'_>, start: u64) {
        let tcb = &mut *self.tcb;
        tcb.heard_at = self.now;
        tcb.keep_probes = 0;
        // RFC 7323 section 4.3, (2).
        if tcb.has(flag::TIMESTAMPS)
            && let Some(stamps) = arrival.options.timestamps
            && start <= tcb.rcv_acked
            && stamps.value.wrapping_sub(tcb.ts_recent) as i32 >= 0
        {
            tcb.ts_recent = stamps.value;
            tcb.ts_recent_at = emit::seconds(self.now);
        }
    }

    fn on_reset(&mut self) {
        let why = match self.tcb.state() {
            State::SynReceived => {
                self.env.count(Counter::TcpAttemptFails);
                CloseReason::Refused
            }
            // The peer had everything and we had everything: RFC 9293 section 3.10.7.4, second.
            State::Closing | State::LastAck => CloseReason::Finished,
            _ => CloseReason::Reset,
        };
        if matches!(self.tcb.state(), State::Established | State::CloseWait) {
            self.env.count(Counter::TcpEstabResets);
        }
        self.end(why);
    }

    /// Fifth step: the ACK field. Whether the segment goes on.
    fn on_ack<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>, start: u64) -> bool {
        let ack = seq::from_wire(self.tcb.iss, self.tcb.snd_una, arrival.ack);
        let una = self.tcb.snd_una;
        if self.tcb.state() == State::SynReceived && !self.complete_simultaneous(host, arrival, ack, start) {
            return false;
        }
        if ack > self.tcb.snd_nxt {
            // RFC 9293: "acks something not yet sent"; RFC 5961 section 5.2 bounds the answers.
            self.challenge(host);
            return false;
        }
        if ack < una {
            // RFC 5961 section 5.2: too old an ACK is not from this peer.
            if ack + u64::from(self.tcb.max_wnd) < una {
                self.challenge(host);
                return false;
            }
            if !arrival.options.sack.is_empty() && self.tcb.in_flight() > 0 {
                let mut news = self.news(arrival);
                self.take_sack(arrival, una, &mut news);
                self.judge(una, news, false);
            }
            return true;
        }
        let window = u32::from(arrival.window) << self.tcb.snd_scale;
        let moved = window != self.tcb.snd_wnd;
        // Linux counts by its header prediction: what is in order, brings nothing special and leaves the window alone.
        let predicted = !moved
            && start == self.tcb.rcv_nxt
            && self.tcb.ofo_count == 0
            && !arrival.flags.intersects(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST | TcpFlags::URG);
        if predicted && !arrival.payload.is_empty() {
            self.env.count(Counter::TcpExtTCPHPHits);
        }
        if predicted && ack > una {
            self.env.count(Counter::TcpExtTCPHPAcks);
        } else if arrival.payload.is_empty() {
            self.env.count(Counter::TcpExtTCPPureAcks);
        }
        // RFC 5681 section 2, "duplicate acknowledgment".
        let duplicate = ack == una
            && self.tcb.in_flight() > 0
            && arrival.payload.is_empty()
            && !arrival.flags.intersects(TcpFlags::SYN | TcpFlags::FIN)
            && !moved;
        // RFC 9293 section 3.10.7.4, fifth, ESTABLISHED. SND.WL2 is not needed: ACKs below SND.UNA never get here.
        if ack > una || (start as u32).wrapping_sub(self.tcb.snd_wl1) as i32 >= 0 {
            self.tcb.take_window(window, start);
        }
        let acked = ack - una;
        let selective = !arrival.options.sack.is_empty() && self.tcb.in_flight() > 0;
        if acked > 0 || selective || duplicate {
            let mut news = self.news(arrival);
            if acked > 0 {
                self.take_acked(ack, &mut news);
            }
            if selective {
                self.take_sack(arrival, ack, &mut news);
            }
            self.take_echo(arrival, &mut news);
            if acked > 0 {
                self.advance(&news, ack);
            } else if let Some(sample) = news.rtt() {
                self.time(sample);
            }
            self.judge(ack, news, duplicate);
        }
        if acked > 0 {
            self.schedule_probe();
            self.after_advance(host);
        } else if self.tcb.in_flight() == 0 {
            self.probe_answered();
        }
        !self.tcb.has(flag::ENDED)
    }

    fn news(&self, arrival: &Arrival<'_>) -> Delivery {
        let stamps = arrival.options.timestamps.filter(|_| self.tcb.has(flag::TIMESTAMPS));
        Delivery::new(self.now, self.tcb, self.sender_if_any(), stamps.map(|stamps| stamps.echo))
    }

    /// Takes a round-trip sample.
    fn time(&mut self, sample: u64) {
        let Some(sender) = self.env.senders.get_mut(self.tcb.sender as usize) else { return };
        let round = sender.rtt_round;
        let tcb = &mut *self.tcb;
        tcb.sample_rtt(sender, &self.env.globals.sysctls, self.now, sample);
        if sender.rtt_round != round {
            // RFC 4861 section 7.3.1: progress of a connection proves its next hop; once per round trip is enough.
            self.env.net.neighbours.confirm(self.now, PortId(tcb.port), tcb.next_hop);
        }
    }

    /// SND.UNA moves to `ack`: round-trip sample, timer, report.
    #[inline]
    fn advance(&mut self, news: &Delivery, ack: u64) {
        let before = self.tcb.snd_una;
        self.tcb.snd_una = ack;
        self.tcb.retries = 0;
        if let Some(sample) = news.rtt() {
            self.time(sample);
        }
        self.arm_retransmission();
        let tcb = &mut *self.tcb;
        if tcb.snd_nxt == ack && tcb.snd_end <= ack && tcb.pace_at == NEVER {
            // Idle for now; the sending half goes when that lasts.
            tcb.pace_at = self.now.as_micros() + super::sender::IDLE_LIFETIME;
        }
        if ack.min(tcb.snd_end) > before.max(seq::FIRST) {
            self.changed(change::ACKED);
        }
    }

    /// What an acknowledged FIN leads to.
    #[inline]
    fn after_advance<H: Host>(&mut self, host: &mut H) {
        if !self.tcb.has(flag::FIN_SENT) || self.tcb.snd_una <= self.tcb.snd_end {
            return;
        }
        match self.tcb.state() {
            State::FinWait1 => {
                self.tcb.set_state(State::FinWait2);
                self.tcb.idle_at = NEVER;
                if self.tcb.has(flag::ORPHAN) && self.tcb.settings.linger2 < 0 {
                    self.env.count(Counter::TcpExtTCPAbortOnData);
                    self.send_rst(host);
                    self.end(CloseReason::Aborted);
                    return;
                }
                self.start_idle_timer();
            }
            State::Closing => self.end_in_time_wait(),
            State::LastAck => self.end(CloseReason::Finished),
            _ => {}
        }
    }

    /// The peer answered while nothing was in flight: probing starts anew when the window opens, and goes on at its
    /// pace when not (RFC 9293 section 3.8.6.1: a peer that answers is never given up).
    fn probe_answered(&mut self) {
        let tcb = &mut *self.tcb;
        tcb.stalled_at = self.now;
        if u64::from(tcb.snd_wnd) > tcb.in_flight() && tcb.snd_end > tcb.snd_nxt {
            tcb.retries = 0;
            tcb.rtx_at = NEVER;
        }
    }
}
