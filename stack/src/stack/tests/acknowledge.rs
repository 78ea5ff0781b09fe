//! When ACKs go out: quick ones, delayed ones, trains, SACK compression.

use super::bench::*;
use crate::wire::TcpOptions;
use crate::*;
use std::vec;
use std::vec::Vec;

fn data(offset: u32, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| pattern(u64::from(offset) + at)).collect()
}

/// The peer sends stream bytes from `offset` on.
fn send(script: &mut Script<'_>, offset: u32, len: usize) {
    script.inject(A, 1 + offset, 1, &data(offset, len));
}

fn answers(script: &mut Script<'_>) -> Vec<u32> {
    core::iter::from_fn(|| script.try_next()).map(|seen| seen.ack).collect()
}

/// A connection whose round trip is `micros`, and which has left quickack mode with 16 segments of 1,000 bytes.
fn settled(micros: u64) -> Script<'static> {
    let mut script = Script::new();
    script.round_trip = micros;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    for part in 0..16 {
        send(&mut script, part * 1_000, 1_000);
        script.next();
    }
    send(&mut script, 16_000, 1_000);
    send(&mut script, 17_000, 1_000);
    assert_eq!(script.next().ack, 18_001);
    script.expect_nothing();
    script
}

/// RFC 5681 section 4.2 for the acknowledgements that a sender counts, Linux's tcp_comp_sack_delay_ns for the rest.
#[test]
fn beyond_a_gap_three_acks_go_at_once_and_the_rest_together() {
    let mut script = settled(100_000);
    for part in 0..3 {
        send(&mut script, 20_000 + part * 1_000, 1_000);
        assert_eq!(script.bench.sent.len(), 1, "at once, not with the batch");
        assert_eq!(script.next().ack, 18_001);
    }
    for part in 3..13 {
        send(&mut script, 20_000 + part * 1_000, 1_000);
    }
    script.expect_nothing();
    script.pass(2_100);
    let ack = script.next();
    assert_eq!(ack.options.sack.as_slice()[0].end.0.wrapping_sub(PEER_ISS), 33_001, "the latest");
    script.expect_nothing();
    assert_eq!(script.count(Counter::TcpExtTCPAckCompressed), 9, "ten came, one went");
    assert_eq!(script.count(Counter::TcpExtDelayedACKs), 0);
    // The gap is filled: at once, and the next gap is counted anew.
    script.inject(A, 18_001, 1, &data(18_000, 2_000));
    assert_eq!(script.bench.sent.len(), 1);
    assert_eq!(script.next().ack, 33_001);
    send(&mut script, 40_000, 1_000);
    assert_eq!(script.bench.sent.len(), 1);
}

/// Linux's tcp_comp_sack_nr.
#[test]
fn so_many_are_held_back_and_no_more() {
    let mut script = settled(100_000);
    let mut sysctls = *script.stack.sysctls();
    sysctls.comp_sack_nr = 4;
    script.stack.set_sysctls(&sysctls);
    let mut sent = vec![];
    for part in 0..13 {
        send(&mut script, 20_000 + part * 1_000, 1_000);
        if !answers(&mut script).is_empty() {
            sent.push(part);
        }
    }
    assert_eq!(sent, [0, 1, 2, 7, 12]);
    assert_eq!(script.count(Counter::TcpExtTCPAckCompressed), 8);
    sysctls.comp_sack_nr = 0;
    script.stack.set_sysctls(&sysctls);
    send(&mut script, 33_000, 1_000);
    assert_eq!(script.bench.sent.len(), 1, "0: none");
}

/// A twentieth of 2 ms is less than the timers tell apart: the batch is the time.
#[test]
fn over_a_short_path_the_batch_is_told_at_its_end() {
    let mut script = settled(2_000);
    for part in 0..3 {
        send(&mut script, 20_000 + part * 1_000, 1_000);
        script.next();
    }
    for part in 3..10 {
        send(&mut script, 20_000 + part * 1_000, 1_000);
    }
    assert!(script.bench.sent.is_empty());
    assert_eq!(answers(&mut script), [18_001]);
    assert_eq!(script.count(Counter::TcpExtTCPAckCompressed), 6);
}

/// Who has no SACK has nothing but the count of duplicates.
#[test]
fn without_sack_nothing_is_held_back() {
    let mut script = Script::new();
    script.round_trip = 100_000;
    let mut script = script.accept(plain(), &SocketOptions::default());
    for part in 0..30 {
        send(&mut script, 2_000 + part * 1_000, 1_000);
        assert_eq!(script.bench.sent.len(), 1);
        script.next();
    }
}

/// Linux's tcp_delack_timer_handler and tcp_send_delayed_ack: an ACK that waited in vain waits longer, up to the round trip.
#[test]
fn the_delay_follows_the_rhythm_within_the_round_trip() {
    let mut script = settled(120_000);
    let mut waits = vec![];
    let mut offset = 18_000;
    for _ in 0..3 {
        send(&mut script, offset, 100);
        offset += 100;
        let start = script.now;
        while script.try_next().is_none() {
            script.pass(1_000);
            assert!(script.now < start + 1_000_000, "an ACK within a second");
        }
        waits.push((script.now - start) / 10_000);
    }
    assert_eq!(waits, [4, 8, 12], "tens of milliseconds");
    assert_eq!(script.count(Counter::TcpExtDelayedACKs), 3);
    // Segments that come close together bring it back to 40 ms, one by one.
    for _ in 0..12 {
        script.pass(10_000);
        send(&mut script, offset, 10);
        offset += 10;
    }
    while script.try_next().is_some() {}
    script.pass(300_000);
    while script.try_next().is_some() {}
    let start = script.now;
    send(&mut script, offset, 10);
    let before = script.count(Counter::TcpExtDelayedACKs);
    script.pass(130_000);
    assert_eq!(script.count(Counter::TcpExtDelayedACKs), before + 1, "since {start}");
}

/// Linux's tcp_event_data_recv: a sender that was silent for longer than a timeout begins anew.
#[test]
fn after_a_silence_acks_are_quick_again() {
    let mut script = settled(10_000);
    send(&mut script, 18_000, 1_000);
    script.expect_nothing();
    script.pass(100_000);
    assert_eq!(answers(&mut script), [19_001]);
    script.pass(3_000_000);
    for part in 0..16 {
        send(&mut script, 19_000 + part * 1_000, 1_000);
        assert_eq!(script.next().ack, 20_001 + part * 1_000);
    }
    send(&mut script, 35_000, 1_000);
    script.expect_nothing();
}

/// What is repeated although it was acknowledged says that the ACK was lost.
#[test]
fn a_repetition_makes_acks_quick_again() {
    let mut script = settled(10_000);
    send(&mut script, 17_000, 1_000);
    assert_eq!(script.next().ack, 18_001);
    assert_eq!(script.count(Counter::TcpExtDelayedACKLost), 1);
    for part in 0..10 {
        send(&mut script, 18_000 + part * 1_000, 1_000);
        assert_eq!(script.next().ack, 19_001 + part * 1_000);
    }
}

/// RFC 9293 section 3.8.6.3 for merged trains: one ACK for each, as Linux's GRO has it; a window that is half a train is no reason for
/// more.
#[test]
fn a_train_is_acknowledged_once() {
    let mut script = settled(10_000);
    for train in 0..4u32 {
        let offset = 18_000 + train * 10_000;
        let packet = script.packet(A, 1 + offset, 1, TcpOptions::default(), 0, &data(offset, 10_000));
        let frame = RxFrame { gso_size: 1_000, checksum: RxChecksum::Verified, ..RxFrame::single(&packet) };
        let now = script.at();
        script.stack.on_frame(now, PORT, &frame, &mut script.bench);
        assert_eq!(answers(&mut script), [offset + 10_001]);
    }
}
