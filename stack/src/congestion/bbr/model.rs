//! What BBR knows of the path (draft-ietf-ccwg-bbr-06 section 5.5): rounds, largest rate, least round trip, aggregation of
//! acknowledgements, and what losses say.

use super::states::Undo;
use super::{Bbr, NO_BOUND, NO_RATE_BOUND, Path, Sample, Step, Window, fact};

/// BBR.LossThresh in percent.
const LOSS_THRESH: u64 = 2;
/// BBR.Beta in tenths.
const BETA: u64 = 7;
/// BBR.MinRTTFilterLen and BBR.ProbeRTTInterval, microseconds.
const MIN_RTT_FILTER: u64 = 10_000_000;
const PROBE_RTT_INTERVAL: u64 = 5_000_000;
/// Half of BBR.ExtraAckedFilterLen: the filter remembers two spans of so many rounds.
const EXTRA_ACKED_SPAN: u32 = 5;

impl Bbr {
    /// BBR.max_bw.
    pub(super) fn max_bw(&self) -> u64 {
        self.max_bw[0].max(self.max_bw[1])
    }

    /// BBR.bw (BoundBWForModel).
    pub(super) fn bw(&self) -> u64 {
        self.max_bw().min(self.bw_shortterm)
    }

    pub(super) fn extra_acked(&self) -> u32 {
        self.extra_acked[0].max(self.extra_acked[1])
    }

    /// Section 5.5.1, StartRound.
    pub(super) fn start_round(&mut self, path: &Path) {
        self.next_round_delivered = path.delivered;
    }

    /// Section 5.5.1, UpdateRound.
    fn update_round(&mut self, step: &Step<'_>) {
        let starts = step.sample.prior_delivered.is_some_and(|prior| prior >= self.next_round_delivered);
        self.set(fact::ROUND_START, starts);
        if starts {
            self.start_round(step.path);
            self.round_count = self.round_count.wrapping_add(1);
            self.rounds_since_probe_up = self.rounds_since_probe_up.saturating_add(1);
        }
    }

    /// Section 5.5.5, UpdateMaxBw: samples that the application limited count where they are larger all the same.
    fn update_max_bw(&mut self, step: &Step<'_>) {
        self.update_round(step);
        let Sample { rate, app_limited, .. } = step.sample;
        if rate > 0 && (rate >= self.max_bw() || !app_limited) {
            self.max_bw[0] = self.max_bw[0].max(rate);
        }
    }

    /// Section 5.5.6. A cycle without samples forgets nothing.
    pub(super) fn advance_max_bw_filter(&mut self) {
        if self.max_bw[0] > 0 {
            self.max_bw = [0, self.max_bw[0]];
        }
    }

    /// Section 5.3.4.3, UpdateMinRTT.
    pub(super) fn update_min_rtt(&mut self, step: &Step<'_>) {
        let now = step.path.now.as_micros();
        let expired = now > self.probe_rtt_min_stamp + PROBE_RTT_INTERVAL;
        self.set(fact::PROBE_RTT_EXPIRED, expired);
        if let Some(rtt) = step.ack.rtt
            && (rtt < self.probe_rtt_min_delay || expired)
        {
            self.probe_rtt_min_delay = rtt;
            self.probe_rtt_min_stamp = now;
        }
        if self.probe_rtt_min_delay < self.min_rtt || now > self.min_rtt_stamp + MIN_RTT_FILTER {
            self.min_rtt = self.probe_rtt_min_delay;
            self.min_rtt_stamp = self.probe_rtt_min_stamp;
        }
    }

    /// Section 5.5.9: how much more is acknowledged at a time than the rate explains.
    pub(super) fn update_ack_aggregation(&mut self, step: &Step<'_>, window: &Window) {
        let now = step.path.now.as_micros();
        let span = now.saturating_sub(self.extra_acked_interval_start);
        let mut expected = u128::from(self.bw()) * u128::from(span) / 1_000_000;
        if u128::from(self.extra_acked_delivered) <= expected {
            self.extra_acked_delivered = 0;
            self.extra_acked_interval_start = now;
            expected = 0;
        }
        self.extra_acked_delivered = self.extra_acked_delivered.saturating_add(step.ack.delivered);
        let extra = u128::from(self.extra_acked_delivered).saturating_sub(expected);
        let extra = extra.min(u128::from(window.cwnd)) as u32;
        let span = if self.has(fact::FULL_BW_REACHED) { EXTRA_ACKED_SPAN } else { 1 };
        if self.has(fact::ROUND_START) && self.round_count.wrapping_sub(self.extra_acked_round) >= span {
            self.extra_acked_round = self.round_count;
            self.extra_acked = [0, self.extra_acked[0]];
            if !self.has(fact::FULL_BW_REACHED) {
                // In Startup one round is remembered.
                self.extra_acked[1] = 0;
            }
        }
        self.extra_acked[0] = self.extra_acked[0].max(extra);
    }

    /// Section 5.5.10.3, UpdateLatestDeliverySignals.
    pub(super) fn update_latest_delivery_signals(&mut self, step: &Step<'_>) {
        let sample = &step.sample;
        self.bw_latest = self.bw_latest.max(sample.rate);
        self.inflight_latest = self.inflight_latest.max(sample.delivered);
        let starts = sample.prior_delivered.is_some_and(|prior| prior >= self.loss_round_delivered);
        self.set(fact::LOSS_ROUND_START, starts);
        if starts {
            self.loss_round_delivered = step.path.delivered;
        }
    }

    /// Section 5.5.10.3, AdvanceLatestDeliverySignals.
    pub(super) fn advance_latest_delivery_signals(&mut self, step: &Step<'_>) {
        if self.has(fact::LOSS_ROUND_START) {
            self.bw_latest = step.sample.rate;
            self.inflight_latest = step.sample.delivered;
            self.loss_events = 0;
        }
    }

    pub(super) fn reset_congestion_signals(&mut self) {
        self.set(fact::LOSS_IN_ROUND, false);
        self.bw_latest = 0;
        self.inflight_latest = 0;
    }

    pub(super) fn reset_short_term_model(&mut self) {
        self.bw_shortterm = NO_RATE_BOUND;
        self.inflight_shortterm = NO_BOUND;
    }

    /// Section 5.5.10.3, UpdateCongestionSignals: once per round the short-term model adapts to what was lost.
    pub(super) fn update_congestion_signals(&mut self, step: &Step<'_>, window: &Window) {
        self.update_max_bw(step);
        if !self.has(fact::LOSS_ROUND_START) {
            return;
        }
        if self.has(fact::LOSS_IN_ROUND) && !self.state().is_probing_bw() {
            if self.bw_shortterm == NO_RATE_BOUND {
                self.bw_shortterm = self.max_bw();
            }
            if self.inflight_shortterm == NO_BOUND {
                self.inflight_shortterm = window.cwnd;
            }
            self.bw_shortterm = self.bw_latest.max(self.bw_shortterm / 10 * BETA);
            let reduced = (u64::from(self.inflight_shortterm) * BETA / 10) as u32;
            self.inflight_shortterm = self.inflight_latest.max(reduced);
        }
        if !self.state().is_startup() {
            self.set(fact::LOSS_IN_ROUND, false);
        }
    }

    /// Section 5.5.10.2, IsInflightTooHigh.
    pub(super) fn is_inflight_too_high(&self, step: &Step<'_>) -> bool {
        let Sample { lost, tx_in_flight, .. } = step.sample;
        u64::from(lost) * 100 > u64::from(tx_in_flight) * LOSS_THRESH || (lost > 0 && !step.path.sack)
    }

    /// Section 5.5.10.2, NoteLoss.
    pub(super) fn note_loss(&mut self, path: &Path, window: &Window) {
        if !self.has(fact::LOSS_IN_ROUND) {
            self.loss_round_delivered = path.delivered;
            self.save_cwnd(window);
            self.save_state_upon_loss();
        }
        self.set(fact::LOSS_IN_ROUND, true);
    }

    /// Section 5.5.10.2, HandleLostPacket, for all that this acknowledgement brought to light.
    pub(super) fn on_losses(&mut self, step: &Step<'_>, window: &Window) {
        self.note_loss(step.path, window);
        if self.has(fact::BW_PROBE_SAMPLE) && self.is_inflight_too_high(step) {
            self.on_inflight_too_high(step, window);
        }
    }

    /// Section 5.5.10.2, HandleInflightTooHigh.
    fn on_inflight_too_high(&mut self, step: &Step<'_>, window: &Window) {
        self.set(fact::PREV_PROBE_TOO_HIGH, true);
        self.set(fact::BW_PROBE_SAMPLE, false);
        if !step.sample.app_limited {
            let target = (u64::from(self.target_inflight(step.path, window)) * BETA / 10) as u32;
            self.inflight_longterm = step.sample.tx_in_flight.max(target);
        }
        if self.state() == super::State::ProbeBwUp {
            self.undo_state = Undo::ProbeBwUp as u8;
            self.start_down(step.path);
        }
    }

    /// Section 5.3.3.8.3, TargetInflight.
    pub(super) fn target_inflight(&self, path: &Path, window: &Window) -> u32 {
        self.bdp_multiple(path, 100).min(window.cwnd)
    }

    /// Section 5.5.11.1, SaveStateUponLoss.
    pub(super) fn save_state_upon_loss(&mut self) {
        self.undo_state = Undo::Nothing as u8;
        self.undo_bw_shortterm = self.bw_shortterm;
        self.undo_inflight_shortterm = self.inflight_shortterm;
        self.undo_inflight_longterm = self.inflight_longterm;
    }
}
