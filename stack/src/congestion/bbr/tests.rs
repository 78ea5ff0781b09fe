//! Figures by hand: segments of 1,000 bytes, a round trip of 100 ms, a path of 1,000,000 bytes per second, which holds 100,000.

use super::super::testing::{ack, path};
use super::super::{RateSample, initial_window};
use super::*;
use std::boxed::Box;
use zerocopy::FromZeros;

const BDP: u32 = 100_000;

/// A controller on a path that delivers a round at a time.
struct Flow {
    bbr: Box<Bbr>,
    window: Window,
    millis: u64,
    delivered: u64,
    lost: u64,
    rtt: u32,
    in_flight: u32,
}

impl Flow {
    fn new() -> Self {
        let mut bbr = Box::new(Bbr::new_zeroed());
        let mut window = Window { cwnd: initial_window(1_000), ssthresh: 7, pacing: 0, note: Note::None };
        bbr.start(&path(0), &mut window);
        Self { bbr, window, millis: 0, delivered: 0, lost: 0, rtt: 100_000, in_flight: BDP }
    }

    fn path(&self) -> Path {
        Path { in_flight: self.in_flight, delivered: self.delivered, lost: self.lost, ..path(self.millis) }
    }

    /// 100 ms go by, in which `rate` bytes per second arrive and `lost` bytes do not, and are acknowledged in one.
    fn round_with(&mut self, rate: u32, lost: u32, app_limited: bool) {
        let arrived = rate / 10;
        let prior_delivered = self.delivered;
        self.millis += 100;
        self.delivered += u64::from(arrived);
        self.lost += u64::from(lost);
        let rate = RateSample {
            delivered: u64::from(arrived),
            interval: 100_000,
            prior_delivered,
            sent_in_flight: self.in_flight,
            lost,
            app_limited,
        };
        let ack =
            Ack { lost, in_recovery: lost > 0, round: true, rtt: Some(self.rtt), rate: Some(rate), ..ack(arrived) };
        self.window.note = Note::None;
        let path = self.path();
        self.bbr.on_ack(&path, &ack, &mut self.window);
    }

    fn round(&mut self, rate: u32) {
        self.round_with(rate, 0, false);
    }

    /// Until `state`, at most `rounds` rounds.
    fn until(&mut self, state: State, rounds: u32) {
        for _ in 0..rounds {
            if self.bbr.state() == state {
                return;
            }
            self.round(1_000_000);
        }
        assert_eq!(self.bbr.state(), state, "after {rounds} rounds");
    }

    /// The pipe is full, and nothing is asked for.
    fn cruising() -> Self {
        let mut flow = Self::new();
        flow.until(State::ProbeBwCruise, 10);
        flow
    }
}

/// Ten segments of 1,000 bytes in 100 ms, 2.77 times as fast.
#[test]
fn begins_at_the_initial_window_per_round_trip() {
    let flow = Flow::new();
    assert_eq!((flow.window.pacing, flow.window.ssthresh, flow.window.cwnd), (277_000, u32::MAX, 10_000));
    assert_eq!(flow.bbr.state(), State::Startup);
}

#[test]
fn startup_ends_after_three_rounds_without_a_quarter_more() {
    let mut flow = Flow::new();
    flow.round(100_000);
    // 2.77 * 100,000 * 0.99
    assert_eq!(flow.window.pacing, 277_000, "not slower than it began");
    flow.round(125_000);
    assert_eq!(flow.window.pacing, 342_787);
    flow.round(1_000_000);
    flow.round(1_100_000);
    flow.round(1_240_000);
    assert_eq!(flow.bbr.state(), State::Startup);
    flow.in_flight = 2 * BDP;
    flow.round(1_000_000);
    // The largest rate counts: 1,240,000 * 0.5 * 0.99.
    assert_eq!((flow.bbr.state(), flow.window.pacing), (State::Drain, 613_800));
}

#[test]
fn rounds_that_the_application_limited_do_not_end_startup() {
    let mut flow = Flow::new();
    for _ in 0..20 {
        flow.round_with(50_000, 0, true);
    }
    assert_eq!(flow.bbr.state(), State::Startup);
    assert!(!flow.bbr.has(fact::FULL_BW_REACHED));
}

#[test]
fn drain_lasts_until_the_queue_is_gone_and_three_rounds_at_most() {
    let mut flow = Flow::new();
    flow.in_flight = 2 * BDP;
    flow.until(State::Drain, 5);
    flow.round(1_000_000);
    assert_eq!(flow.bbr.state(), State::Drain);
    flow.in_flight = BDP;
    flow.round(1_000_000);
    // ProbeBW_DOWN has nothing left to drain either.
    assert_eq!((flow.bbr.state(), flow.window.pacing), (State::ProbeBwCruise, 990_000));
    let mut flow = Flow::new();
    flow.in_flight = 2 * BDP;
    flow.until(State::Drain, 5);
    flow.until(State::ProbeBwDown, 4);
    // 1,000,000 * 0.9 * 0.99
    assert_eq!(flow.window.pacing, 891_000);
}

/// A Reno flow with a window of 100 segments needs longer than 2 to 3 seconds between losses; of 20 ms round trips it would
/// be the 63 rounds.
#[test]
fn probes_after_two_to_three_seconds() {
    let mut flow = Flow::cruising();
    assert_eq!(flow.window.pacing, 990_000);
    let began = flow.millis;
    flow.until(State::ProbeBwRefill, 32);
    assert!((1_900..=3_100).contains(&(flow.millis - began)), "{}", flow.millis - began);
    flow.round(1_000_000);
    assert_eq!((flow.bbr.state(), flow.window.pacing), (State::ProbeBwUp, 1_237_500));
    assert_eq!(flow.bbr.bdp_multiple(&flow.path(), 225), 225_000);
    flow.until(State::ProbeBwDown, 4);
    flow.until(State::ProbeBwCruise, 2);
}

/// More than 2 % of the 125,000 in flight are lost.
#[test]
fn a_loss_while_probing_bounds_what_is_in_flight() {
    let mut flow = Flow::cruising();
    flow.until(State::ProbeBwRefill, 32);
    flow.round(1_000_000);
    flow.in_flight = 125_000;
    flow.round_with(1_000_000, 2_500, false);
    assert_eq!((flow.bbr.state(), flow.bbr.inflight_longterm), (State::ProbeBwUp, NO_BOUND), "2 % are not too much");
    flow.round_with(1_000_000, 2_501, false);
    assert_eq!((flow.bbr.state(), flow.bbr.inflight_longterm), (State::ProbeBwDown, 125_000));
    assert_eq!(flow.window.cwnd, 125_000);
    // 125,000 without 15 %.
    assert_eq!(flow.bbr.inflight_with_headroom(&flow.path()), 106_250);
    flow.in_flight = 106_251;
    flow.round(1_000_000);
    assert_eq!(flow.bbr.state(), State::ProbeBwDown);
    flow.in_flight = BDP;
    flow.round(1_000_000);
    assert_eq!((flow.bbr.state(), flow.window.cwnd), (State::ProbeBwCruise, 106_250));
}

#[test]
fn what_was_no_loss_is_taken_back_and_probed_again() {
    let mut flow = Flow::cruising();
    flow.until(State::ProbeBwRefill, 32);
    flow.round(1_000_000);
    flow.round_with(1_000_000, 10_000, false);
    assert_eq!((flow.bbr.state(), flow.bbr.inflight_longterm), (State::ProbeBwDown, 100_000));
    let path = flow.path();
    flow.bbr.on_undo(&path, &mut flow.window);
    assert_eq!((flow.bbr.state(), flow.bbr.inflight_longterm), (State::ProbeBwRefill, NO_BOUND));
}

/// 0.7 of the largest rate, or what arrived in the round if that was more, and the same for the window: the first round still
/// holds what arrived before the loss, at the full rate.
#[test]
fn a_loss_while_cruising_slows_it_down_for_the_cycle() {
    let mut flow = Flow::cruising();
    let cwnd = flow.window.cwnd;
    flow.round_with(500_000, 1_000, false);
    flow.round(500_000);
    assert_eq!((flow.bbr.bw_shortterm, flow.window.pacing), (1_000_000, 990_000));
    assert_eq!(flow.bbr.inflight_shortterm, (u64::from(cwnd) * 7 / 10) as u32);
    flow.round_with(500_000, 1_000, false);
    flow.round(500_000);
    assert_eq!((flow.bbr.bw_shortterm, flow.window.pacing), (700_000, 693_000));
    flow.until(State::ProbeBwRefill, 32);
    assert_eq!((flow.bbr.bw(), flow.bbr.inflight_shortterm), (1_000_000, NO_BOUND));
}

#[test]
fn a_mark_counts_as_a_loss() {
    let mut flow = Flow::cruising();
    for _ in 0..2 {
        let path = flow.path();
        assert_eq!(flow.bbr.on_congestion(&path, Cause::Marked, &flow.window), u32::MAX);
        flow.round(500_000);
    }
    flow.round(500_000);
    assert_eq!(flow.bbr.bw_shortterm, 700_000);
}

/// After five seconds without a shorter round trip; half of what the path holds, for 200 ms and a round.
#[test]
fn looks_for_the_least_round_trip_every_five_seconds() {
    let mut flow = Flow::new();
    flow.rtt = 110_000;
    flow.until(State::ProbeRtt, 60);
    assert!((5_000..=5_200).contains(&flow.millis), "{}", flow.millis);
    // The estimate before is the handshake's 100 ms.
    assert_eq!((flow.window.cwnd, flow.window.note, flow.window.pacing), (50_000, Note::AppLimited, 990_000));
    flow.in_flight = 50_000;
    let began = flow.millis;
    flow.round(500_000);
    flow.round(500_000);
    flow.round(500_000);
    assert_eq!(flow.bbr.state(), State::ProbeRtt);
    flow.round(500_000);
    assert_eq!((flow.bbr.state(), flow.millis - began), (State::ProbeBwCruise, 400));
    assert!(flow.window.cwnd > 2 * BDP, "{}", flow.window.cwnd);
}

#[test]
fn without_sack_the_first_loss_ends_startup() {
    let mut flow = Flow::new();
    flow.round(1_000_000);
    let path = Path { sack: false, lost: 1_000, in_flight: 3 * BDP, ..flow.path() };
    let ack = Ack { lost: 1_000, in_recovery: true, ..ack(1_000) };
    flow.bbr.on_ack(&path, &ack, &mut flow.window);
    assert_eq!((flow.bbr.state(), flow.bbr.inflight_longterm), (State::Drain, 100_000));
}

/// A few bytes each 100 ms are a rate at which a segment would take minutes.
#[test]
fn never_slower_than_a_segment_in_a_round_trip() {
    let mut flow = Flow::new();
    for _ in 0..5 {
        flow.round(20);
    }
    assert_ne!(flow.bbr.state(), State::Startup);
    assert_eq!(flow.window.pacing, 10_000);
}

#[test]
fn another_clock_changes_nothing() {
    let mut flow = Flow::cruising();
    let before = (flow.bbr.cycle_stamp, flow.bbr.probe_rtt_min_stamp);
    let now = flow.path().now.as_micros();
    flow.bbr.on_clock(Instant::from_micros(now), Instant::from_micros(now + 9_000_000));
    assert_eq!((flow.bbr.cycle_stamp, flow.bbr.probe_rtt_min_stamp), (before.0 + 9_000_000, before.1 + 9_000_000));
}
