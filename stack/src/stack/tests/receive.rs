//! Receiving: acceptability, trimming, out-of-order data and SACK, acknowledgement policy, window, PAWS, urgent data.

use super::bench::*;
use crate::wire::{SackBlock, TcpOptions, Timestamps};
use crate::*;
use std::vec;
use std::vec::Vec;

fn data(offset: u32, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| pattern(u64::from(offset) + at)).collect()
}

fn sacks(seen: &Seen) -> Vec<(u32, u32)> {
    let relative = |block: &SackBlock| (block.start.0.wrapping_sub(PEER_ISS), block.end.0.wrapping_sub(PEER_ISS));
    seen.options.sack.as_slice().iter().map(relative).collect()
}

/// The peer sends stream bytes from `offset` on.
fn send(script: &mut Script<'_>, offset: u32, len: usize) {
    script.inject(A, 1 + offset, 1, &data(offset, len));
}

#[test]
fn numbers_wrap_in_mid_stream() {
    // PEER_ISS lies 256 below the wrap.
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    for part in 0..10 {
        send(&mut script, part * 100, 100);
    }
    assert_eq!(script.received(), data(0, 1000));
    assert_eq!(script.next().brief(), (A, 1, 1001, 0));
}

#[test]
fn out_of_order_data_is_kept_and_reported_latest_first() {
    let mut script = Script::accepted(sack_only(), &SocketOptions::default());
    send(&mut script, 100, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (1, vec![(101, 201)]));
    send(&mut script, 300, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (1, vec![(301, 401), (101, 201)]));
    send(&mut script, 500, 100);
    let ack = script.next();
    assert_eq!(sacks(&ack), [(501, 601), (301, 401), (101, 201)]);
    send(&mut script, 200, 100);
    let ack = script.next();
    assert_eq!(sacks(&ack), [(101, 401), (501, 601)], "joined");
    assert_eq!(script.stack.usage().ranges, 2);
    send(&mut script, 0, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (401, vec![(501, 601)]));
    send(&mut script, 400, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (601, vec![]));
    assert_eq!(script.received(), data(0, 600));
    assert_eq!(script.stack.usage().ranges, 0);
}

#[test]
fn a_duplicate_is_reported_as_such() {
    let mut script = Script::accepted(sack_only(), &SocketOptions::default());
    send(&mut script, 0, 100);
    script.next();
    send(&mut script, 0, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (101, vec![(1, 101)]), "RFC 2883, below the ACK");
    send(&mut script, 50, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (151, vec![(51, 101)]), "half of it");
    send(&mut script, 300, 100);
    script.next();
    send(&mut script, 300, 100);
    let ack = script.next();
    assert_eq!(sacks(&ack), [(301, 401), (301, 401)], "RFC 2883, above the ACK");
    send(&mut script, 600, 100);
    assert_eq!(sacks(&script.next()), [(601, 701), (301, 401)], "reported once");
    assert_eq!(script.count(Counter::TcpExtTCPDSACKOldSent), 2);
    assert_eq!(script.count(Counter::TcpExtTCPDSACKOfoSent), 1);
}

#[test]
fn without_sack_nothing_is_reported_but_all_is_kept() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    send(&mut script, 100, 100);
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (1, vec![]));
    send(&mut script, 0, 100);
    assert_eq!(script.next().ack, 201);
}

#[test]
fn a_fin_out_of_order_waits_for_its_turn() {
    let mut script = Script::accepted(sack_only(), &SocketOptions::default());
    script.inject(F | A, 101, 1, &data(100, 50));
    let ack = script.next();
    assert_eq!((ack.ack, sacks(&ack)), (1, vec![(101, 152)]), "the FIN has a number");
    assert_eq!(script.info().state, State::Established);
    send(&mut script, 0, 100);
    assert_eq!(script.next().ack, 152);
    assert_eq!(script.info().state, State::CloseWait);
    assert_eq!(script.received(), data(0, 150));
    let events = script.events();
    let status = events.iter().find_map(|event| match event {
        Event::Connection { changes, status, .. } if changes.peer_closed => Some(*status),
        _ => None,
    });
    assert_eq!(status.map(|status| status.rcv_end), Some(150), "the FIN is no byte");
}

#[test]
fn what_exceeds_the_window_is_cut_off() {
    let options = SocketOptions { receive_buffer: Some(4000), ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    send(&mut script, 0, 1000);
    send(&mut script, 1000, 1000);
    send(&mut script, 2000, 1000);
    script.next();
    send(&mut script, 3000, 1460);
    let ack = script.next();
    assert_eq!((ack.ack, ack.window), (4001, 0));
    assert_eq!(script.received(), data(0, 4000));
    // RFC 9293: a probe is answered, its byte not taken.
    send(&mut script, 4000, 1);
    let ack = script.next();
    assert_eq!((ack.ack, ack.window), (4001, 0));
    assert_eq!(script.received().len(), 4000);
    // And what such a segment acknowledges counts.
    script.write(10);
    assert_eq!(script.next().len(), 10);
    script.inject(A, 4001, 11, &data(4000, 1));
    assert_eq!(script.info().unacked, 0);
    // A little room is no reason to tell: silly window avoidance.
    script.next();
    script.read_to(500);
    script.expect_nothing();
    script.read_to(2000);
    let update = script.next();
    assert_eq!((update.ack, update.window), (4001, 2000));
    assert_eq!(script.count(Counter::TcpExtTCPToZeroWindowAdv), 1);
    assert_eq!(script.count(Counter::TcpExtTCPFromZeroWindowAdv), 1);
}

#[test]
fn the_application_is_told_when_to_report_its_reading() {
    let options = SocketOptions { receive_buffer: Some(40_000), ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    for part in 0..20 {
        send(&mut script, part * 1000, 1000);
    }
    script.next();
    let at = script
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Connection { status, .. } => Some(status.window_update_at),
            _ => None,
        })
        .next_back()
        .unwrap();
    script.read_to(at - 1);
    script.expect_nothing();
    script.read_to(at);
    let update = script.next();
    assert_eq!(u64::from(update.window), 40_000 - 20_000 + at);
}

#[test]
fn memory_that_is_short_acknowledges_only_what_was_stored() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.bench.room = Some(250);
    send(&mut script, 0, 200);
    script.next();
    send(&mut script, 200, 200);
    assert_eq!(script.next().ack, 251);
    script.bench.room = None;
    send(&mut script, 200, 200);
    assert_eq!(script.next().ack, 401);
    assert_eq!(script.received(), data(0, 400));
}

#[test]
fn a_bad_checksum_changes_nothing() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    for (flags, seq) in [(A, 1), (A, 50), (R, 1), (F | A, 1)] {
        let mut packet = script.packet(flags, seq, 1, TcpOptions::default(), 0, b"payload");
        *packet.last_mut().unwrap() ^= 0x40;
        script.deliver(&packet);
    }
    script.expect_nothing();
    assert!(script.events().is_empty());
    assert_eq!(script.info().bytes_received, 0);
    assert_eq!(script.count(Counter::TcpInCsumErrors), 4);
    send(&mut script, 0, 100);
    assert_eq!(script.received(), data(0, 100));
}

#[test]
fn a_corrupt_segment_does_not_spoil_what_lies_out_of_order() {
    let mut script = Script::accepted(sack_only(), &SocketOptions::default());
    send(&mut script, 100, 100);
    let mut packet = script.packet(A, 1, 1, TcpOptions::default(), 0, &data(0, 200));
    let last = packet.len() - 1;
    packet[last] ^= 1;
    script.deliver(&packet);
    send(&mut script, 0, 100);
    assert_eq!(script.received(), data(0, 200));
}

#[test]
fn sums_that_a_port_vouches_for_are_not_checked() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    for (place, trust) in [RxChecksum::Verified, RxChecksum::Partial].into_iter().enumerate() {
        let offset = place as u32 * 50;
        let mut packet = script.packet(A, 1 + offset, 1, TcpOptions::default(), 0, &data(offset, 50));
        packet[36] ^= 0xff;
        let frame = RxFrame { checksum: trust, ..RxFrame::single(&packet) };
        let now = script.at();
        script.stack.on_frame(now, PORT, &frame, &mut script.bench);
    }
    assert_eq!(script.received(), data(0, 100));
}

#[test]
fn a_train_in_pieces_counts_its_segments() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    let packet = script.packet(A, 1, 1, TcpOptions::default(), 0, &data(0, 1000));
    let (second, third) = (data(1000, 1000), data(2000, 333));
    let tail: [&[u8]; 2] = [&second, &third];
    let frame = RxFrame { tail: &tail, checksum: RxChecksum::Verified, gso_size: 1000, head: &packet };
    let now = script.at();
    script.stack.on_frame(now, PORT, &frame, &mut script.bench);
    assert_eq!(script.received(), data(0, 2333));
    assert_eq!(script.next().ack, 2334);
    assert_eq!(script.info().rcv_mss, 1000);
}

#[test]
fn a_train_that_does_not_say_so_is_not_taken_for_a_segment() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    let mut offset = 0;
    for _ in 0..20 {
        let packet = script.packet(A, 1 + offset, 1, TcpOptions::default(), 0, &data(offset, 20_000));
        script.deliver(&packet);
        offset += 20_000;
        assert_eq!(script.next().ack, 1 + offset);
        script.read_to(u64::from(offset));
        while script.try_next().is_some() {}
    }
    assert_eq!(script.info().rcv_mss, 1460);
}

#[test]
fn every_second_segment_is_acknowledged_and_a_lone_one_after_forty_milliseconds() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    // Quickack mode at the beginning.
    for part in 0..16 {
        send(&mut script, part * 1000, 1000);
        script.next();
    }
    send(&mut script, 16_000, 1000);
    script.expect_nothing();
    script.pass(39_000);
    script.expect_nothing();
    script.pass(3_000);
    assert_eq!(script.next().ack, 17_001);
    assert_eq!(script.count(Counter::TcpExtDelayedACKs), 1);
    send(&mut script, 17_000, 1000);
    send(&mut script, 18_000, 1000);
    assert_eq!(script.next().ack, 19_001);
    script.pass(200_000);
    script.expect_nothing();
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    send(&mut script, 0, 100);
    script.write(50);
    assert_eq!(script.next().brief(), (A, 1, 101, 50));
    script.expect_nothing();
    // Now that data goes both ways, acknowledgements wait for it.
    script.inject(A, 101, 51, &data(100, 100));
    script.expect_nothing();
    script.write(100);
    assert_eq!(script.next().brief(), (A, 51, 201, 50));
    script.pass(100_000);
    script.expect_nothing();
}

#[test]
fn quickack_asks_for_every_ack_at_once() {
    let options = SocketOptions { quickack: true, ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    for part in 0..30 {
        send(&mut script, part * 10, 10);
        assert_eq!(script.next().ack, part * 10 + 11);
    }
}

#[test]
fn an_old_timestamp_is_refused() {
    let mut script = Script::accepted(usual(), &SocketOptions::default());
    script.now += 1_000_000;
    send(&mut script, 0, 100);
    script.next();
    let stale = TcpOptions {
        timestamps: Some(Timestamps { value: (script.now / 1_000) as u32 - 500, echo: 0 }),
        ..TcpOptions::default()
    };
    let packet = script.packet(A, 101, 1, stale, 0, &data(100, 100));
    script.deliver(&packet);
    assert_eq!(script.next().ack, 101);
    assert_eq!(script.info().bytes_received, 100);
    assert_eq!(script.count(Counter::TcpExtPAWSEstab), 1);
    // RFC 7323 section 5.5: after 24 days nothing is known any more.
    script.now += 25 * 86_400 * 1_000_000;
    let packet = script.packet(A, 101, 1, stale, 0, &data(100, 100));
    script.deliver(&packet);
    assert_eq!(script.info().bytes_received, 200);
}

#[test]
fn the_echo_is_that_of_the_segment_that_advanced_the_window() {
    let mut script = Script::accepted(usual(), &SocketOptions::default());
    let with = |value| TcpOptions { timestamps: Some(Timestamps { value, echo: 0 }), ..TcpOptions::default() };
    let base = (script.now / 1_000) as u32;
    let echo = |seen: Seen| seen.options.timestamps.unwrap().echo - base;
    let deliver = |script: &mut Script<'_>, offset: u32, value: u32| {
        let packet = script.packet(A, 1 + offset, 1, with(base + value), 0, &data(offset, 100));
        script.deliver(&packet);
    };
    deliver(&mut script, 0, 10);
    assert_eq!(echo(script.next()), 10);
    // A gap: what comes out of order does not count.
    deliver(&mut script, 200, 20);
    assert_eq!(echo(script.next()), 10);
    deliver(&mut script, 100, 15);
    assert_eq!(echo(script.next()), 15);
}

#[test]
fn urgent_data_is_announced_where_it_ends() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    let packet = script.packet(A | U, 1, 1, TcpOptions::default(), 3, b"abc");
    script.deliver(&packet);
    let events = script.events();
    assert!(
        matches!(
            events[..],
            [Event::Connection {
                changes: Changes { urgent: true, readable: true, .. },
                status: Status { urgent: Some(3), rcv_end: 3, .. },
                ..
            }]
        ),
        "{events:?}"
    );
    // The same pointer again says nothing new.
    script.read_to(3);
    let packet = script.packet(A | U, 4, 1, TcpOptions::default(), 0, b"d");
    script.deliver(&packet);
    assert!(script.events().iter().all(|event| !matches!(event, Event::Connection { changes, .. } if changes.urgent)));
}

#[test]
fn acks_of_the_future_and_the_far_past_are_challenged() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(A, 1, 5000, b"x");
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
    assert_eq!(script.info().bytes_received, 0);
    script.pass(600_000);
    script.inject(A, 1, 1u32.wrapping_sub(100_000), b"x");
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
    assert_eq!(script.info().bytes_received, 0);
    assert_eq!(script.count(Counter::TcpExtTCPChallengeACK), 2);
}

#[test]
fn one_peer_cannot_take_all_ranges() {
    let mut script = Script::accepted(sack_only(), &SocketOptions::default());
    for part in 0..200 {
        send(&mut script, 2 + 2 * part, 1);
        script.next();
    }
    assert_eq!(script.stack.usage().ranges, 128);
    assert_eq!(script.count(Counter::TcpExtTCPOFODrop), 72);
    script.stack.abort(script.at(), script.id(), &mut script.bench).unwrap();
    assert_eq!(script.stack.usage().ranges, 0);
}
