//! The sending half of a connection that is at work: sent queue, loss detection, recovery, delivery rate, pacing, and the
//! congestion controller's memory. A connection takes one with the first byte that it sends and gives it back when it has
//! been idle for a while, so that idle connections do without.

use super::Conn;
use super::block::Tcb;
use super::flights::{FlightPool, SentQueue};
use crate::congestion;
use crate::memory::{NONE, Pool, Record, Taken};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// How long a connection with nothing to send keeps its sending half, in microseconds. What a path was like before is
/// worth little then: least round trips and delivery rates are older than controllers trust them for.
pub(crate) const IDLE_LIFETIME: u64 = 30_000_000;

/// What has happened since the half was taken, for whoever asks; nothing is decided by it. Times in microseconds.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct History {
    /// The latest sample of the delivery rate that says something of the path, or the best that does not: bytes in an interval.
    pub(crate) rate_delivered: u32,
    pub(crate) rate_interval: u32,
    pub(crate) bytes_retrans: u64,
    /// Ended spans in which there was something to send or in flight, and those of them in which the peer's window kept it back.
    busy: u64,
    rwnd_limited: u64,
    /// When the span began that is under way, and its [`phase`].
    since: u64,
    phase: u32,
    /// Segments that a DSACK has reported, and events of reordering.
    pub(crate) dsack_dups: u32,
    pub(crate) reord_seen: u32,
    /// Timeouts, rows of them, and milliseconds until such a row was over.
    pub(crate) total_rto: u16,
    pub(crate) total_rto_recoveries: u16,
    pub(crate) total_rto_time: u32,
    /// When the row under way began, in milliseconds (wrapping); 0: none is.
    rto_stamp: u32,
}

/// Values of [`History::phase`].
mod phase {
    pub(super) const IDLE: u32 = 0;
    pub(super) const BUSY: u32 = 1;
    pub(super) const WINDOW_FULL: u32 = 2;
}

impl History {
    #[cold]
    fn enter(&mut self, phase: u32, now: u64) {
        (self.busy, self.rwnd_limited) = self.spans(now);
        (self.phase, self.since) = (phase, now);
    }

    /// Microseconds of being busy, and of these with the peer's window full.
    pub(crate) fn spans(&self, now: u64) -> (u64, u64) {
        let span = now.saturating_sub(self.since);
        let busy = if self.phase == phase::IDLE { 0 } else { span };
        let limited = if self.phase == phase::WINDOW_FULL { span } else { 0 };
        (self.busy + busy, self.rwnd_limited + limited)
    }

    /// The clock is another one: what was `from` is `to`.
    pub(crate) fn on_clock(&mut self, from: u64, to: u64) {
        self.since = to.saturating_sub(from.saturating_sub(self.since));
        if self.rto_stamp != 0 {
            let span = ((from / 1_000) as u32).wrapping_sub(self.rto_stamp);
            self.rto_stamp = ((to / 1_000) as u32).wrapping_sub(span).max(1);
        }
    }

    /// As Linux's tcp_update_rto_stats: the timer expired, for the `first` time in a row.
    pub(crate) fn timed_out(&mut self, first: bool, now: u64) {
        self.total_rto = self.total_rto.saturating_add(1);
        if first {
            self.total_rto_recoveries = self.total_rto_recoveries.saturating_add(1);
            self.rto_stamp = ((now / 1_000) as u32).max(1);
        }
    }

    /// What began with the first timeout of a row is over.
    pub(crate) fn recovered(&mut self, now: u64) {
        if self.rto_stamp != 0 {
            let span = ((now / 1_000) as u32).wrapping_sub(self.rto_stamp);
            self.total_rto_time = self.total_rto_time.wrapping_add(span);
            self.rto_stamp = 0;
        }
    }
}

/// Times in microseconds, sequence numbers extended, amounts in bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sender {
    // Line 0: what every ACK touches.
    pub(crate) queue: SentQueue,
    /// Bytes known to have arrived (C.delivered), and when the last of them did.
    pub(crate) delivered: u64,
    pub(crate) delivered_at: u64,
    /// When the first segment of the sampling interval was sent (C.first_sent_time).
    pub(crate) first_sent_at: u64,

    // Line 1: RACK, tail loss probe.
    /// Sending time and end of the most recently sent segment that has arrived (RACK.xmit_ts, RACK.end_seq).
    pub(crate) rack_at: u64,
    pub(crate) rack_end: u64,
    /// The highest number that has arrived (RACK.fack).
    pub(crate) fack: u64,
    /// A DSACK widens the reordering window once per round; this round ends here (RACK.dsack_round).
    pub(crate) dsack_round: u64,
    /// SND.NXT when the tail loss probe was sent; 0: none is out (TLP.end_seq).
    pub(crate) probe_end: u64,
    pub(crate) rack_rtt: u32,
    /// Quarters of the least round trip that the reordering window is wide (RACK.reo_wnd_mult), and recoveries until it
    /// is one again (RACK.reo_wnd_persist).
    pub(crate) reorder_steps: u8,
    pub(crate) reorder_persists: u8,
    /// [`fact`] bits.
    pub(crate) facts: u8,
    /// Duplicate ACKs in a row, for peers without SACK.
    pub(crate) dup_acks: u8,
    /// Bytes ever counted as lost.
    pub(crate) lost_total: u64,
    /// Until so many bytes are delivered, samples are limited by the application; 0: they are not.
    pub(crate) app_limited: u64,

    // Line 2: recovery.
    /// SND.NXT when the episode began (RecoveryPoint).
    pub(crate) recover: u64,
    /// SND.UNA when the window was reduced, as long as it may be restored; 0: it may not.
    pub(crate) undo_from: u64,
    /// First retransmission of the episode; 0: none.
    pub(crate) resent_at: u64,
    /// Retransmitted bytes that no DSACK has reported yet.
    pub(crate) undo_bytes: u32,
    pub(crate) prior_cwnd: u32,
    pub(crate) prior_ssthresh: u32,
    /// PRR (RFC 9937): bytes delivered and sent in this episode, and in flight when it began.
    pub(crate) prr_delivered: u32,
    pub(crate) prr_out: u32,
    pub(crate) prr_flight: u32,
    /// Where the round trip ends that is being counted, in delivered bytes.
    pub(crate) round_end: u64,
    pub(crate) rounds: u32,
    /// Segments that one acknowledgement covers on average, in 16ths.
    pub(crate) segments_per_ack: u32,

    // Line 3: round-trip variation as Linux keeps it, pacing.
    /// The round in which the largest deviation is looked for ends here; that deviation, and the margin that the timeout
    /// has over the round-trip time: both are four times the mean deviation.
    pub(crate) rtt_round: u64,
    pub(crate) deviation_most: u32,
    pub(crate) margin: u32,
    /// Bytes per second; 0: not paced.
    pub(crate) pacing_rate: u64,
    /// When the next segment may leave.
    pub(crate) pace_next: u64,
    /// AccECN: bytes that arrived with ECT(1), ECT(0) and CE as the peer told last (s.e1b, s.e0b, s.ceb without their beginnings).
    pub(crate) delivered_bytes: [u32; 3],
    pub(crate) _pad0: u32,
    pub(crate) _pad1: [u64; 2],

    // Line 4: what is only told (TCP_INFO).
    pub(crate) history: History,

    // Lines 5 to 7: the congestion controller's.
    pub(crate) control: congestion::Memory,
}

const _: () = assert!(core::mem::offset_of!(Sender, rack_at) == 64);
const _: () = assert!(core::mem::offset_of!(Sender, history) == 256 && size_of::<History>() == 64);
const _: () = assert!(size_of::<Sender>() == 512);

/// Bits of [`Sender::facts`].
pub(crate) mod fact {
    /// Segments were seen to overtake each other (RACK.reordering_seen).
    pub(crate) const REORDERING: u8 = 1;
    /// The peer reports duplicates.
    pub(crate) const DSACK: u8 = 1 << 1;
    /// The tail loss probe was a retransmission (TLP.is_retrans).
    pub(crate) const PROBE_RESENT: u8 = 1 << 2;
    /// F-RTO is looking whether the timeout was spurious (RFC 5682).
    pub(crate) const FRTO: u8 = 1 << 3;
    /// The window was what limited sending since it was last grown.
    pub(crate) const CWND_LIMITED: u8 = 1 << 4;
    /// It is not known what the peer's AccECN option told before this half was taken.
    pub(crate) const BYTES_UNKNOWN: u8 = 1 << 5;
    /// The sample of the rate that is told was limited by the application.
    pub(crate) const RATE_LIMITED: u8 = 1 << 6;
}

impl Sender {
    fn new(tcb: &Tcb) -> Self {
        let mut sender = Self::new_zeroed();
        sender.queue = SentQueue::EMPTY;
        sender.recover = tcb.snd_una;
        sender.reorder_steps = 1;
        if tcb.snd_una > super::seq::FIRST {
            sender.facts |= fact::BYTES_UNKNOWN;
        }
        sender
    }

    #[inline]
    pub(crate) fn has(&self, facts: u8) -> bool {
        self.facts & facts != 0
    }

    /// Bytes thought to be in the network, of `flight` that are not acknowledged (RFC 6675 section 4, SetPipe).
    #[inline]
    pub(crate) fn pipe(&self, flight: u64) -> u64 {
        flight.saturating_sub(u64::from(self.queue.sacked)).saturating_sub(u64::from(self.queue.lost))
    }
}

impl Record for Sender {
    fn set_free_link(&mut self, next: u32) {
        self.rounds = next;
    }
    fn free_link(&self) -> u32 {
        self.rounds
    }
}

impl Conn<'_, '_> {
    /// The sending half, taken if there is none. There are as many as connections.
    #[inline]
    pub(crate) fn sender(&mut self) -> &mut Sender {
        if self.tcb.sender == NONE {
            self.take_sender();
        }
        &mut self.env.senders[self.tcb.sender as usize]
    }

    /// The sending half, if there is one.
    #[inline]
    pub(crate) fn sender_if_any(&self) -> Option<&Sender> {
        self.env.senders.get(self.tcb.sender as usize)
    }

    #[cold]
    fn take_sender(&mut self) {
        let taken = Pool { records: &mut *self.env.senders, state: &mut self.env.globals.senders }.take();
        // One for each control block.
        let Taken { index, .. } = taken.expect("as many sending halves as connections");
        self.env.senders[index as usize] = Sender::new(self.tcb);
        self.tcb.sender = index;
        self.start_control();
    }

    /// The controller that the settings name begins anew.
    pub(crate) fn start_control(&mut self) {
        let (path, mut window, kind) = (self.path(), self.window(), self.tcb.settings.congestion);
        window.pacing = 0;
        let Some(sender) = self.env.senders.get_mut(self.tcb.sender as usize) else { return };
        congestion::start(kind, &mut sender.control, &path, &mut window);
        self.set_window(&window);
    }

    /// Gives the sending half back when there has been nothing to send for long.
    pub(crate) fn rest_sender(&mut self) {
        let tcb = &mut *self.tcb;
        if tcb.sender == NONE || tcb.snd_una != tcb.snd_nxt || tcb.snd_end > tcb.snd_nxt {
            return;
        }
        let due = tcb.sent_at.as_micros() + IDLE_LIFETIME;
        if due > self.now.as_micros() {
            tcb.pace_at = due;
        } else {
            self.env.give_back_sender(tcb);
        }
    }

    /// After something was sent, written or acknowledged: whether sending waits, and for what (Linux's chronographs).
    #[inline]
    pub(crate) fn note_phase(&mut self) {
        let tcb = &*self.tcb;
        let Some(sender) = self.env.senders.get_mut(tcb.sender as usize) else { return };
        let unsent = tcb.snd_end.saturating_sub(tcb.snd_nxt).min(u64::from(tcb.mss));
        let flight = tcb.in_flight();
        let phase = if tcb.snd_una >= tcb.snd_end {
            phase::IDLE
        } else if unsent > 0
            && u64::from(tcb.snd_wnd) < flight + unsent
            && u64::from(tcb.cwnd) >= sender.pipe(flight) + unsent
        {
            phase::WINDOW_FULL
        } else {
            phase::BUSY
        };
        if sender.history.phase != phase {
            sender.history.enter(phase, self.now.as_micros());
        }
    }

    /// Sent queue and pool, in hand together.
    #[inline]
    pub(crate) fn flights(&mut self) -> (FlightPool<'_>, &mut Sender) {
        if self.tcb.sender == NONE {
            self.take_sender();
        }
        self.env.flights(self.tcb.sender)
    }

    /// Bytes that are thought to be in the network.
    #[inline]
    pub(crate) fn pipe(&self) -> u64 {
        let flight = self.tcb.in_flight();
        let Some(sender) = self.sender_if_any() else { return flight };
        if self.tcb.has(super::block::flag::SACK) || sender.dup_acks == 0 {
            return sender.pipe(flight);
        }
        // Each duplicate ACK means that a segment has left the network (RFC 6582 section 3.2 step 3).
        let mss = u64::from(self.tcb.mss);
        let outside = (u64::from(sender.dup_acks) * mss).min(flight.saturating_sub(mss));
        sender.pipe(flight).saturating_sub(outside)
    }
}
