//! BBR's states (draft-ietf-ccwg-bbr-06 section 5.3): Startup and Drain find the rate, ProbeBW asks for more from time to time
//! and gives room in between, ProbeRTT looks for the least round trip.

use super::{Bbr, NO_BOUND, Note, Path, Step, Window, fact};

/// BBRStartupFullLossCnt.
const STARTUP_FULL_LOSSES: u8 = 6;
/// BBR.ProbeRTTDuration, microseconds.
const PROBE_RTT_DURATION: u64 = 200_000;
/// T_reno_bound in round trips, T_bbr from and its chance, in microseconds.
const RENO_ROUNDS: u32 = 63;
const PROBE_WAIT: u32 = 2_000_000;
const PROBE_WAIT_CHANCE: u32 = 1_000_000;
/// Rounds after which Drain ends at the latest.
const DRAIN_ROUNDS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Startup,
    Drain,
    ProbeBwDown,
    ProbeBwCruise,
    ProbeBwRefill,
    ProbeBwUp,
    ProbeRtt,
}

impl State {
    const ALL: [State; 7] = [
        State::Startup,
        State::Drain,
        State::ProbeBwDown,
        State::ProbeBwCruise,
        State::ProbeBwRefill,
        State::ProbeBwUp,
        State::ProbeRtt,
    ];

    /// The table in section 5.6.1, percent.
    pub(super) const fn pacing_gain(self) -> u64 {
        match self {
            State::Startup => 277,
            State::Drain => 50,
            State::ProbeBwDown => 90,
            State::ProbeBwCruise | State::ProbeBwRefill | State::ProbeRtt => 100,
            State::ProbeBwUp => 125,
        }
    }

    pub(super) const fn cwnd_gain(self) -> u64 {
        match self {
            State::ProbeBwUp => 225,
            State::ProbeRtt => super::PROBE_RTT_CWND_GAIN,
            _ => 200,
        }
    }

    pub(super) const fn is_startup(self) -> bool {
        matches!(self, State::Startup)
    }

    pub(super) const fn is_probe_bw(self) -> bool {
        matches!(self, State::ProbeBwDown | State::ProbeBwCruise | State::ProbeBwRefill | State::ProbeBwUp)
    }

    /// IsProbingBW: where losses do not bring the short-term model down.
    pub(super) const fn is_probing_bw(self) -> bool {
        matches!(self, State::Startup | State::ProbeBwRefill | State::ProbeBwUp)
    }
}

/// BBR.ack_phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum AckPhase {
    Init,
    ProbeStarting,
    ProbeFeedback,
    ProbeStopping,
    Refilling,
}

/// BBR.undo_state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Undo {
    Nothing,
    Startup,
    ProbeBwUp,
}

impl Bbr {
    pub(super) fn state(&self) -> State {
        State::ALL.get(usize::from(self.state)).copied().unwrap_or(State::Startup)
    }

    pub(super) fn undo(&self) -> Undo {
        match self.undo_state {
            1 => Undo::Startup,
            2 => Undo::ProbeBwUp,
            _ => Undo::Nothing,
        }
    }

    pub(super) fn enter(&mut self, state: State) {
        self.state = state as u8;
    }

    fn in_phase(&self, phase: AckPhase) -> bool {
        self.ack_phase == phase as u8
    }

    /// Section 5.3.1.2, ResetFullBW.
    pub(super) fn reset_full_bw(&mut self) {
        self.full_bw = 0;
        self.full_bw_count = 0;
        self.set(fact::FULL_BW_NOW, false);
    }

    /// Section 5.3.1.2: three rounds in which the rate grew by less than a quarter fill the pipe.
    pub(super) fn check_full_bw_reached(&mut self, step: &Step<'_>) {
        if self.has(fact::FULL_BW_NOW) || !self.has(fact::ROUND_START) || step.sample.app_limited {
            return;
        }
        if step.sample.rate >= self.full_bw / 4 * 5 {
            self.reset_full_bw();
            self.full_bw = step.sample.rate;
            return;
        }
        self.full_bw_count += 1;
        if self.full_bw_count >= 3 {
            self.set(fact::FULL_BW_NOW | fact::FULL_BW_REACHED, true);
        }
    }

    /// Section 5.3.1.3, CheckStartupHighLoss, and the end of Startup.
    pub(super) fn check_startup_done(&mut self, step: &Step<'_>) {
        if self.state() != State::Startup {
            return;
        }
        let in_recovery = step.ack.in_recovery;
        let many = self.has(fact::LOSS_ROUND_START) && in_recovery && self.loss_events >= STARTUP_FULL_LOSSES;
        let too_many = many && self.is_inflight_too_high(step);
        if too_many || (in_recovery && !step.path.sack && self.has(fact::LOSS_IN_ROUND)) {
            self.undo_state = Undo::Startup as u8;
            self.set(fact::FULL_BW_REACHED, true);
            self.inflight_longterm = self.bdp_multiple(step.path, 100).max(self.inflight_latest);
        }
        if self.has(fact::LOSS_ROUND_START) {
            self.set(fact::LOSS_IN_ROUND, false);
        }
        if self.has(fact::FULL_BW_REACHED) {
            self.enter(State::Drain);
            self.drain_start_round = self.round_count;
        }
    }

    /// Section 5.3.2.
    pub(super) fn check_drain_done(&mut self, step: &Step<'_>, window: &Window) {
        if self.state() != State::Drain {
            return;
        }
        let drained = step.path.in_flight <= self.inflight(step.path, 100, window.pacing);
        if drained || self.round_count.wrapping_sub(self.drain_start_round) > DRAIN_ROUNDS {
            self.start_down(step.path);
        }
    }

    /// Section 5.3.3.9, StartProbeBW_DOWN.
    pub(super) fn start_down(&mut self, path: &Path) {
        self.reset_congestion_signals();
        self.probe_up_acked_per_inc = NO_BOUND;
        // PickProbeWait.
        self.rounds_since_probe_up = self.random(2);
        self.bw_probe_wait = PROBE_WAIT + self.random(PROBE_WAIT_CHANCE);
        self.cycle_stamp = path.now.as_micros();
        self.ack_phase = AckPhase::ProbeStopping as u8;
        self.start_round(path);
        self.enter(State::ProbeBwDown);
    }

    /// Section 5.3.3.9, StartProbeBW_REFILL.
    pub(super) fn start_refill(&mut self, path: &Path) {
        self.reset_short_term_model();
        self.bw_probe_up_rounds = 0;
        self.bw_probe_up_acked = 0;
        self.set(fact::PREV_PROBE_PRECAUTIONARY, false);
        self.ack_phase = AckPhase::Refilling as u8;
        self.start_round(path);
        self.enter(State::ProbeBwRefill);
    }

    fn start_up(&mut self, step: &Step<'_>, window: &Window) {
        self.ack_phase = AckPhase::ProbeStarting as u8;
        self.start_round(step.path);
        self.reset_full_bw();
        self.full_bw = step.sample.rate;
        self.enter(State::ProbeBwUp);
        self.raise_inflight_longterm_slope(step.path, window);
    }

    /// Section 5.3.3.9, UpdateProbeBWCyclePhase.
    pub(super) fn update_probe_bw_cycle_phase(&mut self, step: &Step<'_>, window: &Window) {
        if !self.has(fact::FULL_BW_REACHED) || self.adapt_long_term_model(step, window) {
            return;
        }
        match self.state() {
            State::ProbeBwDown => {
                if !self.probes_now(step.path, window) && self.is_time_to_cruise(step.path, window) {
                    self.enter(State::ProbeBwCruise);
                }
            }
            State::ProbeBwCruise => {
                self.probes_now(step.path, window);
            }
            State::ProbeBwRefill => {
                if self.has(fact::ROUND_START) {
                    self.set(fact::BW_PROBE_SAMPLE, true);
                    self.start_up(step, window);
                }
            }
            State::ProbeBwUp => {
                if self.is_time_to_go_down(step, window) {
                    self.set(fact::PREV_PROBE_TOO_HIGH, false);
                    self.start_down(step.path);
                }
            }
            State::Startup | State::Drain | State::ProbeRtt => {}
        }
    }

    /// Section 5.3.3.8.3, IsTimeToProbeBW.
    fn probes_now(&mut self, path: &Path, window: &Window) -> bool {
        let waited = path.now.as_micros() > self.cycle_stamp + u64::from(self.bw_probe_wait);
        let reno_rounds = (self.target_inflight(path, window) / path.mss.max(1)).min(RENO_ROUNDS);
        let now = waited || self.rounds_since_probe_up >= reno_rounds;
        if now {
            self.start_refill(path);
        }
        now
    }

    fn is_time_to_cruise(&self, path: &Path, window: &Window) -> bool {
        path.in_flight <= self.inflight_with_headroom(path) && path.in_flight <= self.inflight(path, 100, window.pacing)
    }

    /// Section 5.3.3.9, IsTimeToGoDown.
    fn is_time_to_go_down(&mut self, step: &Step<'_>, window: &Window) -> bool {
        if self.has(fact::PREV_PROBE_TOO_HIGH) && step.path.in_flight >= self.inflight_longterm {
            self.set(fact::PREV_PROBE_PRECAUTIONARY, true);
            return true;
        }
        if step.ack.cwnd_limited && window.cwnd >= self.inflight_longterm {
            // The rate is held down by our own bound.
            self.reset_full_bw();
            self.full_bw = step.sample.rate;
            return false;
        }
        self.has(fact::FULL_BW_NOW)
    }

    fn raise_inflight_longterm_slope(&mut self, path: &Path, window: &Window) {
        let growth = 1u32 << self.bw_probe_up_rounds;
        self.bw_probe_up_rounds = (self.bw_probe_up_rounds + 1).min(30);
        self.probe_up_acked_per_inc = (window.cwnd / growth).max(path.mss);
    }

    /// Section 5.3.3.9, ProbeInflightLongtermUpward.
    fn probe_inflight_longterm_upward(&mut self, step: &Step<'_>, window: &Window) {
        if !step.ack.cwnd_limited || window.cwnd < self.inflight_longterm {
            return;
        }
        self.bw_probe_up_acked = self.bw_probe_up_acked.saturating_add(step.ack.delivered);
        let delta = self.bw_probe_up_acked / self.probe_up_acked_per_inc;
        self.bw_probe_up_acked -= delta * self.probe_up_acked_per_inc;
        self.inflight_longterm = self.inflight_longterm.saturating_add(delta.saturating_mul(step.path.mss));
        if self.has(fact::ROUND_START) {
            self.raise_inflight_longterm_slope(step.path, window);
        }
    }

    /// Section 5.3.3.9, AdaptLongTermModel. Whether it has changed the state.
    fn adapt_long_term_model(&mut self, step: &Step<'_>, window: &Window) -> bool {
        let round = self.has(fact::ROUND_START);
        if self.in_phase(AckPhase::ProbeStarting) && round {
            self.ack_phase = AckPhase::ProbeFeedback as u8;
        }
        if self.in_phase(AckPhase::ProbeStopping) && round {
            self.set(fact::BW_PROBE_SAMPLE, false);
            self.ack_phase = AckPhase::Init as u8;
            if self.state().is_probe_bw() {
                if !step.sample.app_limited {
                    self.advance_max_bw_filter();
                }
                if self.has(fact::PREV_PROBE_PRECAUTIONARY) && !self.has(fact::PREV_PROBE_TOO_HIGH) {
                    self.start_refill(step.path);
                    return true;
                }
            }
        }
        if self.is_inflight_too_high(step) || self.inflight_longterm == NO_BOUND {
            return false;
        }
        self.inflight_longterm = self.inflight_longterm.max(step.sample.tx_in_flight);
        if self.state() == State::ProbeBwUp {
            self.probe_inflight_longterm_upward(step, window);
        }
        false
    }

    /// Section 5.3.4.3, CheckProbeRTT and HandleProbeRTT.
    pub(super) fn check_probe_rtt(&mut self, step: &Step<'_>, window: &mut Window) {
        let path = step.path;
        if self.state() != State::ProbeRtt && self.has(fact::PROBE_RTT_EXPIRED) && !self.has(fact::IDLE_RESTART) {
            self.save_cwnd(window);
            self.enter(State::ProbeRtt);
            self.probe_rtt_done_stamp = 0;
            self.ack_phase = AckPhase::ProbeStopping as u8;
            self.start_round(path);
        }
        if self.state() == State::ProbeRtt {
            window.note = Note::AppLimited;
            if self.probe_rtt_done_stamp == 0 {
                if path.in_flight <= self.probe_rtt_cwnd(path) {
                    self.probe_rtt_done_stamp = path.now.as_micros() + PROBE_RTT_DURATION;
                    self.set(fact::PROBE_RTT_ROUND_DONE, false);
                    self.start_round(path);
                }
            } else {
                if self.has(fact::ROUND_START) {
                    self.set(fact::PROBE_RTT_ROUND_DONE, true);
                }
                if self.has(fact::PROBE_RTT_ROUND_DONE) {
                    self.check_probe_rtt_done(path, window);
                }
            }
        }
        if step.sample.delivered > 0 {
            self.set(fact::IDLE_RESTART, false);
        }
    }

    /// Section 5.3.4.3, CheckProbeRTTDone and ExitProbeRTT.
    pub(super) fn check_probe_rtt_done(&mut self, path: &Path, window: &mut Window) {
        let now = path.now.as_micros();
        if self.probe_rtt_done_stamp == 0 || now <= self.probe_rtt_done_stamp {
            return;
        }
        self.probe_rtt_min_stamp = now;
        self.restore_cwnd(window);
        self.reset_short_term_model();
        if self.has(fact::FULL_BW_REACHED) {
            self.start_down(path);
            self.enter(State::ProbeBwCruise);
        } else {
            self.enter(State::Startup);
        }
    }
}
