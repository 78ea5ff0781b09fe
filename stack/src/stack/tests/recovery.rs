//! Loss: fast retransmit with and without SACK, limited transmit, timeouts, spurious ones, reneging.

use super::bench::*;
use crate::wire::{SackBlock, SackBlocks, SeqNumber, TcpOptions, Timestamps};
use crate::*;

const ROUND_TRIP: u64 = 20_000;

/// A sender whose first window of ten segments has been out for a round trip.
fn sending(offer: TcpOptions) -> Script<'static> {
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    let mut script = script.accept(offer, &SocketOptions::default());
    script.write(1_000_000);
    for _ in 0..10 {
        script.next();
    }
    script.pass(ROUND_TRIP);
    script.expect_nothing();
    script
}

const MSS: u32 = 1460;

/// An ACK of segment boundary `ack` that reports the segments `blocks` (from, to), counted from 0.
fn sack(script: &mut Script<'_>, ack: u32, blocks: &[(u32, u32)]) {
    let mut list = SackBlocks::default();
    for (from, to) in blocks {
        let number = |at: u32| SeqNumber(script.iss.wrapping_add(1 + at * MSS));
        list.push(SackBlock { start: number(*from), end: number(*to) });
    }
    script.inject_with(A, 1, 1 + ack * MSS, TcpOptions { sack: list, ..TcpOptions::default() }, &[]);
}

fn ack(script: &mut Script<'_>, ack: u32) {
    script.inject(A, 1, 1 + ack * MSS, &[]);
}

/// Place of the segment that was sent, counted from 0.
fn place(seen: &Seen) -> u32 {
    (seen.seq - 1) / MSS
}

#[test]
fn three_duplicates_bring_a_fast_retransmit() {
    let mut script = sending(plain());
    ack(&mut script, 1);
    assert_eq!(place(&script.next()), 10);
    assert_eq!(place(&script.next()), 11);
    // RFC 3042: two duplicates let two new segments out.
    ack(&mut script, 1);
    assert_eq!(place(&script.next()), 12);
    ack(&mut script, 1);
    assert_eq!(place(&script.next()), 13);
    ack(&mut script, 1);
    assert_eq!(place(&script.next()), 1, "the hole");
    assert_eq!(script.info().recovery, 3);
    assert_eq!(script.count(Counter::TcpExtTCPRenoRecovery), 1);
    // CUBIC's 0.7 of eleven segments.
    assert!(script.info().cwnd <= 11 * MSS);
    // A partial ACK: the next hole at once (RFC 6582).
    ack(&mut script, 4);
    assert_eq!(place(&script.next()), 4);
    ack(&mut script, 14);
    assert_eq!(script.info().recovery, 0);
    assert_eq!(script.count(Counter::TcpExtTCPTimeouts), 0);
}

#[test]
fn a_window_update_is_no_duplicate() {
    let mut script = sending(plain());
    for window in 0..10 {
        script.window = 60_000 + window;
        ack(&mut script, 0);
    }
    script.expect_nothing();
    // Nor is an ACK that comes with data.
    for part in 0..10 {
        script.inject(A, 1 + part, 1, b"x");
    }
    while let Some(seen) = script.try_next() {
        assert_eq!(seen.len(), 0);
    }
    assert_eq!(script.info().recovery, 0);
}

#[test]
fn sacked_segments_above_make_the_hole_lost_and_only_the_hole_is_repeated() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 2)]);
    assert_eq!(place(&script.next()), 10, "limited transmit");
    script.expect_nothing();
    sack(&mut script, 0, &[(1, 4)]);
    assert_eq!(place(&script.next()), 0);
    assert_eq!(script.info().recovery, 3);
    assert_eq!(script.info().sacked, 3 * MSS);
    sack(&mut script, 0, &[(5, 9), (1, 4)]);
    let repeated = script.next();
    assert_eq!(place(&repeated), 4);
    // The holes are filled: everything up to 9.
    sack(&mut script, 9, &[]);
    while let Some(seen) = script.try_next() {
        assert!(place(&seen) >= 9, "{}", place(&seen));
    }
    assert_eq!(script.count(Counter::TcpExtTCPSackRecovery), 1);
    assert_eq!(script.stack.usage().ranges, 0);
}

#[test]
fn a_lost_retransmission_is_noticed_without_a_timeout() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 10)]);
    assert_eq!(place(&script.next()), 0);
    let mut highest = 9;
    while let Some(seen) = script.try_next() {
        highest = highest.max(place(&seen));
    }
    assert!(highest >= 13, "room for new segments: {highest}");
    // What was sent after the retransmission arrives; the retransmission does not.
    sack(&mut script, 0, &[(1, highest + 1)]);
    let again = script.next();
    assert_eq!(place(&again), 0);
    assert_eq!(script.count(Counter::TcpExtTCPLostRetransmit), 1);
    assert_eq!(script.count(Counter::TcpExtTCPTimeouts), 0);
}

#[test]
fn duplicates_of_what_is_acknowledged_do_not_start_recovery() {
    let mut script = sending(sack_only());
    ack(&mut script, 5);
    while script.try_next().is_some() {}
    // RFC 2883: D-SACKs below the ACK.
    for _ in 0..5 {
        sack(&mut script, 5, &[(2, 3)]);
    }
    script.expect_nothing();
    assert_eq!(script.info().recovery, 0);
    assert_eq!(script.count(Counter::TcpExtTCPDSACKRecv), 5);
}

#[test]
fn blocks_of_what_was_never_sent_are_ignored() {
    let mut script = sending(sack_only());
    for _ in 0..5 {
        sack(&mut script, 0, &[(20, 30)]);
    }
    script.expect_nothing();
    assert_eq!(script.info().sacked, 0);
    assert_eq!(script.count(Counter::TcpExtTCPSACKDiscard), 5);
}

#[test]
fn the_timer_repeats_the_first_segment_and_backs_off() {
    let mut script = sending(plain());
    let rto = script.info().rto.as_micros();
    assert_eq!(rto, 200_000 + script.info().rtt.as_micros());
    script.pass(rto - ROUND_TRIP + 2_000);
    let seen = script.next();
    assert_eq!((place(&seen), seen.len()), (0, 1460));
    script.expect_nothing();
    assert_eq!((script.info().cwnd, script.info().recovery), (1460, 4));
    script.pass(2 * rto - 4_000);
    script.expect_nothing();
    script.pass(8_000);
    assert_eq!(place(&script.next()), 0);
    assert_eq!(script.count(Counter::TcpExtTCPTimeouts), 2);
    // Slow start through what counts as lost.
    ack(&mut script, 1);
    assert_eq!(place(&script.next()), 1);
    assert_eq!(place(&script.next()), 2);
    script.expect_nothing();
    // The rest had arrived.
    ack(&mut script, 10);
    assert_eq!(script.info().recovery, 0);
    assert_eq!(place(&script.next()), 10);
    assert_eq!(script.info().retries, 0);
}

#[test]
fn after_a_timeout_what_is_sacked_is_not_repeated() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 2)]);
    script.next();
    // RACK: a quarter of a round trip later than what has arrived, it is lost; and so is the retransmission.
    script.pass(10_000);
    assert_eq!(place(&script.next()), 0);
    script.pass(300_000);
    assert_eq!(place(&script.next()), 0);
    // RFC 5682: was it all lost? New data finds out.
    ack(&mut script, 2);
    assert_eq!(place(&script.next()), 11);
    assert_eq!(place(&script.next()), 12);
    script.expect_nothing();
    // Only the new data arrives: it was.
    sack(&mut script, 2, &[(11, 12)]);
    assert_eq!(place(&script.next()), 2);
    script.expect_nothing();
}

#[test]
fn a_peer_that_forgets_what_it_sacked_is_believed() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 2)]);
    script.next();
    // It acknowledges up to 1, although it said that it has 1..2.
    sack(&mut script, 1, &[]);
    assert_eq!(script.count(Counter::TcpExtTCPSACKReneging), 1);
    assert_eq!(script.info().sacked, 0);
}

#[test]
fn a_spurious_timeout_is_undone() {
    let mut script = Script::accepted(usual(), &SocketOptions::default());
    script.now += 50_000;
    script.write(1_000_000);
    let mut first = None;
    while let Some(seen) = script.try_next() {
        first = first.or(seen.options.timestamps);
    }
    let (cwnd, before) = (script.info().cwnd, first.unwrap().value);
    script.pass(400_000);
    assert_eq!(script.info().recovery, 4);
    script.next();
    // The original arrives after all: its timestamp comes back.
    let stamps = Timestamps { value: (script.now / 1_000) as u32, echo: before };
    let options = TcpOptions { timestamps: Some(stamps), ..TcpOptions::default() };
    let packet = script.packet(A, 1, 1 + 1448, options, 0, &[]);
    script.deliver(&packet);
    assert_eq!(script.info().recovery, 0);
    assert!(script.info().cwnd >= cwnd);
    assert_eq!(script.count(Counter::TcpExtTCPSpuriousRTOs), 1);
}

#[test]
fn a_lost_fin_is_repeated() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(10);
    script.next();
    script.shutdown();
    assert_eq!(script.next().brief(), (F | A, 11, 1, 0));
    script.inject(A, 1, 11, &[]);
    script.pass(1_500_000);
    assert_eq!(script.next().brief(), (F | A, 11, 1, 0));
    // With the bytes before it, when these are lost too.
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(10);
    script.next();
    script.shutdown();
    script.next();
    script.pass(1_500_000);
    assert_eq!(script.next().brief(), (F | A, 1, 1, 10));
}

#[test]
fn silence_for_a_quarter_of_an_hour_ends_it() {
    let mut script = sending(plain());
    script.pass(800_000_000);
    assert_eq!(script.closed(), None);
    script.pass(400_000_000);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
    assert_eq!(script.stack.next_timeout(), None);
    assert_eq!(script.count(Counter::TcpExtTCPAbortOnTimeout), 1);
}

#[test]
fn an_orphan_is_given_up_sooner() {
    let mut script = sending(plain());
    script.close();
    script.pass(250_000_000);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
}

/// An ACK of `ack` that reports segments `twice` as received twice (RFC 2883).
fn dsack(script: &mut Script<'_>, ack: u32, twice: (u32, u32)) {
    sack(script, ack, &[twice]);
}

#[test]
fn what_is_only_reordered_is_waited_for_and_then_not_repeated() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 2)]);
    assert_eq!(place(&script.next()), 10, "limited transmit");
    // It comes late, within a quarter of a round trip.
    script.pass(3_000);
    ack(&mut script, 2);
    assert_eq!(script.count(Counter::TcpExtTCPSACKReorder), 1);
    while script.try_next().is_some() {}
    // From now on three that overtake do not mean a loss: RFC 8985 section 6.2 step 4.
    script.pass(ROUND_TRIP);
    sack(&mut script, 2, &[(3, 7)]);
    assert_eq!(script.info().recovery, 1);
    while let Some(seen) = script.try_next() {
        assert!(place(&seen) > 10, "{}", place(&seen));
    }
    script.pass(4_000);
    assert_eq!(script.info().lost, 0);
    script.pass(4_000);
    assert_eq!(place(&script.next()), 2);
    assert_eq!(script.info().recovery, 3);
}

#[test]
fn the_end_of_a_flight_is_probed() {
    // All but the last one arrive, and there is nothing more to send.
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    script.write(3 * u64::from(MSS));
    for _ in 0..3 {
        script.next();
    }
    script.pass(ROUND_TRIP);
    ack(&mut script, 2);
    // RFC 8985 section 7.2: a single segment allows for the worst delayed ACK, but not longer than the timeout.
    script.pass(190_000);
    script.expect_nothing();
    script.pass(20_000);
    assert_eq!(place(&script.next()), 2);
    assert_eq!((script.count(Counter::TcpExtTCPLossProbes), script.count(Counter::TcpExtTCPTimeouts)), (1, 0));
    assert_eq!(script.info().recovery, 0);
    // The probe arrives: whether the original did is not known yet, so nothing happens to the window.
    ack(&mut script, 3);
    assert_eq!(script.info().recovery, 0);
    // Beyond the probe's end without a D-SACK: the original was lost (section 7.4.2).
    let before = script.info().cwnd;
    script.write(4 * u64::from(MSS));
    script.next();
    script.pass(ROUND_TRIP);
    ack(&mut script, 4);
    assert_eq!(script.count(Counter::TcpExtTCPLossProbeRecovery), 1);
    assert!(script.info().cwnd < before, "{} {before}", script.info().cwnd);
}

#[test]
fn a_probe_brings_new_data_where_there_is_some() {
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    script.window = 3 * MSS as u16;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    script.write(6 * u64::from(MSS));
    for _ in 0..3 {
        script.next();
    }
    script.expect_nothing();
    // The window opens with an acknowledgement that is lost; the probe finds only old data, then.
    script.pass(2 * ROUND_TRIP + 10_000);
    assert_eq!(place(&script.next()), 2);
    // Everything arrived twice at its end: a D-SACK says so, and the window stays.
    let before = script.info().cwnd;
    dsack(&mut script, 3, (2, 3));
    assert!(script.info().cwnd >= before);
    assert_eq!(script.count(Counter::TcpExtTCPLossProbeRecovery), 0);
}

#[test]
fn a_lost_segment_in_the_middle_is_found_by_the_probe() {
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    script.write(4 * u64::from(MSS));
    for _ in 0..4 {
        script.next();
    }
    // Everything from segment 1 on is lost.
    script.pass(ROUND_TRIP);
    ack(&mut script, 1);
    script.pass(2 * ROUND_TRIP + 10_000);
    assert_eq!(place(&script.next()), 3, "the probe");
    script.pass(ROUND_TRIP);
    sack(&mut script, 1, &[(3, 4)]);
    assert_eq!(script.info().recovery, 3);
    assert_eq!(place(&script.next()), 1);
    ack(&mut script, 2);
    assert_eq!(place(&script.next()), 2);
    assert_eq!(script.count(Counter::TcpExtTCPTimeouts), 0);
}

#[test]
fn a_window_comes_down_in_proportion_to_what_arrives() {
    let mut script = sending(sack_only());
    sack(&mut script, 0, &[(1, 4)]);
    assert_eq!(place(&script.next()), 0);
    // RFC 9937: seven segments may leave for ten that arrive; three have arrived, one has left.
    let mut sent = 1;
    while script.try_next().is_some() {
        sent += 1;
    }
    for arrived in 4..10 {
        sack(&mut script, 0, &[(1, arrived + 1)]);
        while script.try_next().is_some() {
            sent += 1;
        }
        let due = (7 * arrived).div_ceil(10) + 1;
        assert!(sent <= due, "{sent} segments were sent for {arrived}");
    }
    assert!(sent >= 6, "{sent}");
    ack(&mut script, 10);
    assert_eq!(script.info().recovery, 0);
    let cwnd = script.info().cwnd;
    assert!((7 * MSS..8 * MSS).contains(&cwnd), "ssthresh, and what the last ACK lets it grow: {cwnd}");
}

#[test]
fn retransmissions_that_were_all_in_vain_are_undone() {
    let mut script = sending(sack_only());
    let (cwnd, ssthresh) = (script.info().cwnd, script.info().ssthresh);
    sack(&mut script, 0, &[(1, 4)]);
    assert_eq!(place(&script.next()), 0);
    assert!(script.info().ssthresh < ssthresh);
    while script.try_next().is_some() {}
    // The original comes, then the repetition: RFC 2883, RFC 3708.
    ack(&mut script, 4);
    dsack(&mut script, 4, (0, 1));
    assert_eq!(script.info().recovery, 0);
    assert!(script.info().cwnd >= cwnd, "{} {cwnd}", script.info().cwnd);
    assert_eq!(script.count(Counter::TcpExtTCPDSACKUndo), 1);
}

#[test]
fn a_timeout_that_originals_disprove_is_undone() {
    let mut script = sending(sack_only());
    let cwnd = script.info().cwnd;
    script.pass(300_000);
    assert_eq!(script.info().recovery, 4);
    while script.try_next().is_some() {}
    // RFC 5682 section 3.1: the first acknowledgement brings new data out, the second is about what was sent once.
    ack(&mut script, 1);
    let first = script.next();
    assert!(place(&first) >= 10, "{}", place(&first));
    ack(&mut script, 2);
    assert_eq!(script.count(Counter::TcpExtTCPSpuriousRTOs), 1);
    assert_eq!((script.info().recovery, script.info().lost), (0, 0));
    assert!(script.info().cwnd >= cwnd);
}

#[test]
fn repeated_duplicates_widen_the_reordering_window() {
    let mut script = sending(sack_only());
    // Reordering is known, and the peer reports that a repetition was needless.
    sack(&mut script, 0, &[(1, 2)]);
    script.pass(3_000);
    ack(&mut script, 2);
    while script.try_next().is_some() {}
    dsack(&mut script, 2, (0, 1));
    script.pass(ROUND_TRIP);
    sack(&mut script, 2, &[(3, 4)]);
    while script.try_next().is_some() {}
    // Half of a round trip instead of a quarter.
    script.pass(8_000);
    assert_eq!(script.info().lost, 0);
    assert_eq!(script.info().retransmits, 0);
    script.pass(8_000);
    assert_eq!(place(&script.next()), 2);
}
