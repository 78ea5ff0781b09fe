//! BBR, version 3 (draft-ietf-ccwg-bbr-06): a model of the path, made of the rate at which data arrives, the least round trip
//! and what is lost, says how fast to send and how much to keep in flight. Names are the draft's.
//!
//! [`model`]: what is measured; [`states`]: Startup, Drain, ProbeBW and ProbeRTT; here: what comes out.
//!
//! Two things are done more coarsely than in the draft. Whether too much was in flight is judged by the acknowledgement that
//! brings the loss to light, with what was in flight when the segment was sent that it acknowledges, not segment by lost
//! segment (HandleLostPacket). And a restart from idle is noticed after an idle RTO, not after any moment without data.

mod model;
mod states;
#[cfg(test)]
mod tests;

use super::{Ack, Cause, Controller, Details, MAX_CWND, Note, Path, Window};
use crate::time::Instant;
use states::{State, Undo};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The draft's Infinity: no bound.
const NO_BOUND: u32 = u32::MAX;
const NO_RATE_BOUND: u64 = u64::MAX;
/// BBR.PacingMarginPercent.
const PACING_MARGIN: u64 = 1;
/// BBR.MinPipeCwnd in segments.
const MIN_PIPE: u32 = 4;
/// BBR.ProbeRTTCwndGain in percent.
const PROBE_RTT_CWND_GAIN: u64 = 50;
/// BBR.Headroom in percent.
const HEADROOM: u64 = 15;

/// Rates in bytes per second, times and spans in microseconds, amounts in bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Debug)]
#[repr(C)]
pub(crate) struct Bbr {
    /// BBR.max_bw_filter: the largest rates of this cycle and of the one before (MaxBwFilterLen is 2).
    max_bw: [u64; 2],
    bw_shortterm: u64,
    bw_latest: u64,
    full_bw: u64,
    undo_bw_shortterm: u64,
    min_rtt_stamp: u64,
    probe_rtt_min_stamp: u64,
    /// 0: not set.
    probe_rtt_done_stamp: u64,
    extra_acked_interval_start: u64,
    cycle_stamp: u64,
    next_round_delivered: u64,
    loss_round_delivered: u64,
    min_rtt: u32,
    probe_rtt_min_delay: u32,
    prior_cwnd: u32,
    inflight_longterm: u32,
    inflight_shortterm: u32,
    inflight_latest: u32,
    undo_inflight_longterm: u32,
    undo_inflight_shortterm: u32,
    /// BBR.extra_acked_filter: the most of this span of rounds and of the one before, and the round in which this one began.
    extra_acked: [u32; 2],
    extra_acked_round: u32,
    extra_acked_delivered: u32,
    probe_up_acked_per_inc: u32,
    bw_probe_up_acked: u32,
    round_count: u32,
    rounds_since_probe_up: u32,
    drain_start_round: u32,
    bw_probe_wait: u32,
    /// State of the chance.
    random: u32,
    /// Low bits of [`Path::lost`] at the last acknowledgement.
    lost_seen: u32,
    /// [`fact`] bits.
    facts: u16,
    state: u8,
    ack_phase: u8,
    undo_state: u8,
    full_bw_count: u8,
    bw_probe_up_rounds: u8,
    /// Acknowledgements of this round that brought losses to light.
    loss_events: u8,
}

/// Bits of [`Bbr::facts`].
mod fact {
    pub(super) const FULL_BW_REACHED: u16 = 1;
    pub(super) const FULL_BW_NOW: u16 = 1 << 1;
    pub(super) const ROUND_START: u16 = 1 << 2;
    pub(super) const LOSS_ROUND_START: u16 = 1 << 3;
    pub(super) const LOSS_IN_ROUND: u16 = 1 << 4;
    pub(super) const BW_PROBE_SAMPLE: u16 = 1 << 5;
    pub(super) const PREV_PROBE_TOO_HIGH: u16 = 1 << 6;
    pub(super) const PREV_PROBE_PRECAUTIONARY: u16 = 1 << 7;
    pub(super) const PROBE_RTT_ROUND_DONE: u16 = 1 << 8;
    pub(super) const PROBE_RTT_EXPIRED: u16 = 1 << 9;
    pub(super) const IDLE_RESTART: u16 = 1 << 10;
    pub(super) const IN_RECOVERY: u16 = 1 << 11;
}

/// What one acknowledgement brought, as the draft's RS; zeros where there is no sample.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// RS.delivery_rate.
    rate: u64,
    /// RS.delivered.
    delivered: u32,
    prior_delivered: Option<u64>,
    tx_in_flight: u32,
    lost: u32,
    app_limited: bool,
}

impl Sample {
    fn new(ack: &Ack) -> Self {
        let Some(rate) = &ack.rate else { return Self::default() };
        Self {
            rate: rate.delivered.saturating_mul(1_000_000) / u64::from(rate.interval.max(1)),
            delivered: rate.delivered.min(u64::from(u32::MAX)) as u32,
            prior_delivered: Some(rate.prior_delivered),
            tx_in_flight: rate.sent_in_flight,
            lost: rate.lost,
            app_limited: rate.app_limited,
        }
    }
}

/// The event that is being handled.
#[derive(Clone, Copy)]
struct Step<'a> {
    path: &'a Path,
    ack: &'a Ack,
    sample: Sample,
}

impl Bbr {
    #[inline]
    fn has(&self, facts: u16) -> bool {
        self.facts & facts != 0
    }

    #[inline]
    fn set(&mut self, facts: u16, value: bool) {
        self.facts = if value { self.facts | facts } else { self.facts & !facts };
    }

    /// Section 5.6.4.2, BDPMultiple: `gain` in percent.
    fn bdp_multiple(&self, path: &Path, gain: u64) -> u32 {
        if self.min_rtt == NO_BOUND {
            return super::initial_window(path.mss.min(u32::from(u16::MAX)) as u16);
        }
        let bdp = u128::from(self.bw()) * u128::from(self.min_rtt) / 1_000_000;
        (bdp * u128::from(gain) / 100).min(u128::from(MAX_CWND)) as u32
    }

    /// Section 5.6.4.2, QuantizationBudget: room for what waits in offloads at both ends.
    fn with_budget(&self, path: &Path, cap: u32, pacing: u64) -> u32 {
        let cap = cap.max(3 * send_quantum(pacing, path.mss)).max(MIN_PIPE * path.mss);
        if self.state() == State::ProbeBwUp { cap + 2 * path.mss } else { cap }
    }

    /// Inflight(gain).
    fn inflight(&self, path: &Path, gain: u64, pacing: u64) -> u32 {
        self.with_budget(path, self.bdp_multiple(path, gain), pacing)
    }

    /// Section 5.3.3.9: leaves room for others.
    fn inflight_with_headroom(&self, path: &Path) -> u32 {
        if self.inflight_longterm == NO_BOUND {
            return NO_BOUND;
        }
        let headroom = ((u64::from(self.inflight_longterm) * HEADROOM / 100) as u32).max(path.mss);
        self.inflight_longterm.saturating_sub(headroom).max(MIN_PIPE * path.mss)
    }

    fn probe_rtt_cwnd(&self, path: &Path) -> u32 {
        self.bdp_multiple(path, PROBE_RTT_CWND_GAIN).max(MIN_PIPE * path.mss)
    }

    /// Section 5.6.2, SetPacingRateWithGain: percent. Never slower than a segment in a round trip, which the least window of
    /// any controller lets go: an application that sends a few bytes makes rates at which a segment takes minutes.
    fn set_pacing(&self, path: &Path, gain: u64, window: &mut Window) {
        let rate = u128::from(self.bw()) * u128::from(gain) * u128::from(100 - PACING_MARGIN) / 10_000;
        let least = u64::from(path.mss) * 1_000_000 / u64::from(path.srtt.max(1_000));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(least);
        if self.has(fact::FULL_BW_REACHED) || rate > window.pacing {
            window.pacing = rate;
        }
    }

    /// Sections 5.6.4.6 and 5.6.4.7, SetCwnd and its bounds.
    fn set_cwnd(&mut self, step: &Step<'_>, window: &mut Window) {
        let path = step.path;
        let wanted = self.bdp_multiple(path, self.state().cwnd_gain()).saturating_add(self.extra_acked());
        let max_inflight = self.with_budget(path, wanted.min(MAX_CWND), window.pacing);
        let grown = window.cwnd.saturating_add(step.ack.delivered);
        let initial = u64::from(super::initial_window(path.mss.min(u32::from(u16::MAX)) as u16));
        if self.has(fact::FULL_BW_REACHED) {
            window.cwnd = grown.min(max_inflight);
        } else if window.cwnd < max_inflight || path.delivered < initial {
            window.cwnd = grown;
        }
        let least = MIN_PIPE * path.mss;
        window.cwnd = window.cwnd.clamp(least, MAX_CWND);
        if self.state() == State::ProbeRtt {
            window.cwnd = window.cwnd.min(self.probe_rtt_cwnd(path));
        }
        let cap = match self.state() {
            State::ProbeBwCruise | State::ProbeRtt => self.inflight_with_headroom(path),
            State::Startup => NO_BOUND,
            // The table in section 5.6.1 bounds Drain as well, BoundCwndForModel does not; the table is the safer one.
            _ => self.inflight_longterm,
        };
        window.cwnd = window.cwnd.min(cap.min(self.inflight_shortterm).max(least));
    }

    /// Section 5.6.4.4.
    fn save_cwnd(&mut self, window: &Window) {
        let modulated = self.has(fact::IN_RECOVERY) || self.state() == State::ProbeRtt;
        self.prior_cwnd = if modulated { self.prior_cwnd.max(window.cwnd) } else { window.cwnd };
    }

    fn restore_cwnd(&self, window: &mut Window) {
        window.cwnd = window.cwnd.max(self.prior_cwnd);
    }

    /// A number below `below`, which is at least 1. Xorshift: flows must not fall into step, nothing more.
    fn random(&mut self, below: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % below
    }
}

/// Section 5.6.3, C.send_quantum: what one millisecond carries.
fn send_quantum(pacing: u64, mss: u32) -> u32 {
    ((pacing / 1_000).min(65_536) as u32).max(2 * mss)
}

impl Controller for Bbr {
    fn details(&self) -> Details {
        let state = self.state();
        Details::Bbr {
            bandwidth: self.bw(),
            min_rtt: self.min_rtt,
            pacing_gain: state.pacing_gain() as u32,
            cwnd_gain: state.cwnd_gain() as u32,
        }
    }

    fn mode(&self, _window: &Window) -> u8 {
        self.state() as u8
    }

    fn modes(&self) -> &'static [&'static str] {
        &["startup", "drain", "probe_bw_down", "probe_bw_cruise", "probe_bw_refill", "probe_bw_up", "probe_rtt"]
    }

    /// Section 5.2.1, OnInit.
    fn start(&mut self, path: &Path, window: &mut Window) {
        let now = path.now.as_micros();
        self.random = path.seed | 1;
        self.min_rtt = if path.srtt == 0 { NO_BOUND } else { path.srtt };
        self.probe_rtt_min_delay = self.min_rtt;
        self.min_rtt_stamp = now;
        self.probe_rtt_min_stamp = now;
        self.extra_acked_interval_start = now;
        self.inflight_longterm = NO_BOUND;
        self.undo_inflight_longterm = NO_BOUND;
        self.undo_inflight_shortterm = NO_BOUND;
        self.undo_bw_shortterm = NO_RATE_BOUND;
        self.probe_up_acked_per_inc = NO_BOUND;
        self.lost_seen = path.lost as u32;
        self.start_round(path);
        self.reset_congestion_signals();
        self.reset_short_term_model();
        self.enter(State::Startup);
        // InitPacingRate. No ssthresh: nothing here is slow start.
        window.ssthresh = u32::MAX;
        let span = if path.srtt == 0 { 1_000 } else { u64::from(path.srtt) };
        let initial = super::initial_window(path.mss.min(u32::from(u16::MAX)) as u16).min(window.cwnd);
        window.pacing = (u64::from(initial) * 1_000_000 / span * State::Startup.pacing_gain() / 100).max(1);
    }

    /// Section 5.2.3, UpdateOnACK.
    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window) {
        let step = &Step { path, ack, sample: Sample::new(ack) };
        if self.has(fact::IN_RECOVERY) && !ack.in_recovery {
            self.restore_cwnd(window);
        }
        self.set(fact::IN_RECOVERY, ack.in_recovery);
        if path.lost as u32 != self.lost_seen {
            self.lost_seen = path.lost as u32;
            self.loss_events = self.loss_events.saturating_add(1);
            self.on_losses(step, window);
        }
        if ack.marked > 0 {
            self.note_loss(path, window);
        }
        self.update_latest_delivery_signals(step);
        self.update_congestion_signals(step, window);
        self.update_ack_aggregation(step, window);
        self.check_full_bw_reached(step);
        self.check_startup_done(step);
        self.check_drain_done(step, window);
        self.update_probe_bw_cycle_phase(step, window);
        self.update_min_rtt(step);
        self.check_probe_rtt(step, window);
        self.advance_latest_delivery_signals(step);
        self.set_pacing(path, self.state().pacing_gain(), window);
        self.set_cwnd(step, window);
    }

    /// Section 5.6.4.4, OnEnterRTO and OnEnterFastRecovery. The model reacts, not a threshold.
    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32 {
        if cause == Cause::Marked {
            // The draft leaves ECN open; RFC 3168 section 6.1.2 wants what a loss gets.
            self.note_loss(path, window);
            return window.ssthresh;
        }
        self.save_cwnd(window);
        self.save_state_upon_loss();
        self.set(fact::IN_RECOVERY, true);
        window.ssthresh
    }

    /// Section 5.4.1, HandleRestartFromIdle.
    fn on_idle(&mut self, path: &Path, window: &mut Window) {
        self.set(fact::IDLE_RESTART, true);
        self.extra_acked_interval_start = path.now.as_micros();
        if self.state().is_probe_bw() {
            self.set_pacing(path, 100, window);
        } else if self.state() == State::ProbeRtt {
            self.check_probe_rtt_done(path, window);
        }
    }

    /// Section 5.5.11.2, HandleSpuriousLossDetection.
    fn on_undo(&mut self, path: &Path, window: &mut Window) {
        self.restore_cwnd(window);
        self.set(fact::LOSS_IN_ROUND | fact::IN_RECOVERY, false);
        self.reset_full_bw();
        self.bw_shortterm = self.bw_shortterm.max(self.undo_bw_shortterm);
        self.inflight_shortterm = self.inflight_shortterm.max(self.undo_inflight_shortterm);
        self.inflight_longterm = self.inflight_longterm.max(self.undo_inflight_longterm);
        let (undo, state) = (self.undo(), self.state());
        self.undo_state = Undo::Nothing as u8;
        match undo {
            Undo::Startup if state != State::Startup => {
                self.set(fact::FULL_BW_REACHED, false);
                if state != State::ProbeRtt {
                    self.enter(State::Startup);
                }
            }
            Undo::ProbeBwUp if state != State::ProbeBwUp && state != State::ProbeRtt => self.start_refill(path),
            _ => {}
        }
    }

    fn on_clock(&mut self, from: Instant, to: Instant) {
        let (from, to) = (from.as_micros(), to.as_micros());
        let stamps = [
            &mut self.min_rtt_stamp,
            &mut self.probe_rtt_min_stamp,
            &mut self.extra_acked_interval_start,
            &mut self.cycle_stamp,
        ];
        for stamp in stamps {
            *stamp = to.saturating_sub(from.saturating_sub(*stamp));
        }
        if self.probe_rtt_done_stamp != 0 {
            let ahead = self.probe_rtt_done_stamp.saturating_sub(from);
            self.probe_rtt_done_stamp = to.saturating_add(ahead).max(1);
        }
    }
}
