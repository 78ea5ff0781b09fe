//! Accurate ECN feedback (RFC 9768): who agrees on it and what else is agreed on instead, what is fed back and when, and
//! what feedback does to the window.

use super::bench::*;
use crate::tcp::ecn::codepoint::{CE, ECT0, ECT1, NOT_ECT};
use crate::wire::{EcnBytes, TcpFlags, TcpOptions};
use crate::*;
use std::vec;
use std::vec::Vec;

const E: TcpFlags = TcpFlags::ECE;
const W: TcpFlags = TcpFlags::CWR;

/// Values of net.ipv4.tcp_ecn.
const ASK: u32 = 3;
const ASK_CLASSIC: u32 = 4;
const ACCEPT: u32 = 5;
/// What a SYN that asks for AccECN bears, and how Not-ECT is reflected.
const ASKING: TcpFlags = TcpFlags::ECN;
const NOTHING_ODD: TcpFlags = TcpFlags::CWR;

fn ace(number: u32) -> TcpFlags {
    TcpFlags::from_ace((number & 7) as u8)
}

fn set(script: &mut Script<'_>, ecn: u32, ecn_option: u32) {
    script.stack.set_sysctls(&Sysctls { ecn, ecn_option, ..Sysctls::LINUX });
}

fn script(ecn: u32) -> Script<'static> {
    let mut script = Script::new();
    set(&mut script, ecn, 2);
    script
}

fn with(offer: TcpOptions, bytes: Option<EcnBytes>) -> TcpOptions {
    TcpOptions { ecn_bytes: bytes, ..offer }
}

/// An option with all fields: ECT(0), CE, ECT(1).
fn bytes(ect0: u32, ce: u32, ect1: u32) -> Option<EcnBytes> {
    Some(EcnBytes::new(false, ect0, ce, ect1, 3))
}

/// A connection that we opened; both sides agreed on AccECN, and the peer sends its option if it sent `first` with its SYN,ACK.
fn asked(first: Option<EcnBytes>) -> Script<'static> {
    let mut script = script(ASK);
    script.stamps = true;
    script.connect(&SocketOptions::default());
    let syn = script.next();
    assert_eq!((syn.flags, syn.ecn, syn.options.ecn_bytes), (S | ASKING, NOT_ECT, None));
    script.inject_with(S | A | NOTHING_ODD, 0, 1, with(usual(), first), &[]);
    let ack = script.next();
    assert_eq!((ack.flags, ack.ecn, ack.options.ecn_bytes), (A | NOTHING_ODD, NOT_ECT, first.and(bytes(1, 0, 1))));
    script.events();
    assert!(script.info().ecn);
    script
}

/// A connection that the peer opened with AccECN; its owner is 7. The peer's option is seen.
fn accepted(ecn_option: u32) -> Script<'static> {
    let mut script = script(ACCEPT);
    set(&mut script, ACCEPT, ecn_option);
    script.listen(16, &SocketOptions::default());
    script.stamps = true;
    script.inject_with(S | ASKING, 0, 0, usual(), &[]);
    let answer = script.next();
    assert_eq!((answer.flags, answer.ecn), (S | A | NOTHING_ODD, NOT_ECT));
    assert_eq!(answer.options.ecn_bytes, if ecn_option == 0 { None } else { bytes(1, 0, 1) });
    script.inject_with(A | NOTHING_ODD, 1, 1, with(TcpOptions::default(), bytes(1, 0, 1)), &[]);
    adopt(&mut script);
    script
}

fn adopt(script: &mut Script<'_>) {
    script.id = script.events().iter().find_map(|event| match event {
        Event::Connection { connection, .. } => Some(*connection),
        _ => None,
    });
}

fn drain(script: &mut Script<'_>) -> Vec<Seen> {
    std::iter::from_fn(|| script.try_next()).collect()
}

/// RFC 9768 section 3.1.2, table 2, and 3.1.3 for the combination that is reserved.
#[test]
fn the_answer_decides_which_ecn_it_is() {
    let accurate = |number| (ace(number), true, ECT0);
    let cases = [
        (0b000, (TcpFlags::default(), false, NOT_ECT)),
        (0b001, (TcpFlags::default(), true, ECT0)),
        (0b010, accurate(0b010)),
        (0b101, accurate(0b010)),
        (0b111, (TcpFlags::default(), false, NOT_ECT)),
        // The SYN was not ECN-capable; who says that it was is not to be trusted: AccECN, and nothing ECN-capable.
        (0b011, (ace(0b010), true, NOT_ECT)),
        (0b100, (ace(0b010), true, NOT_ECT)),
        (0b110, (ace(0b010), true, NOT_ECT)),
    ];
    for (answer, (ack, agreed, codepoint)) in cases {
        let mut script = script(ASK);
        script.connect(&SocketOptions::default());
        script.next();
        script.inject_with(S | A | ace(answer), 0, 1, plain(), &[]);
        assert_eq!(script.next().flags, A | ack, "{answer:03b}");
        assert_eq!(script.info().ecn, agreed, "{answer:03b}");
        script.write(100);
        assert_eq!(script.next().ecn, codepoint, "{answer:03b}");
    }
}

/// RFC 9768 section 3.2.2.1, table 3: the first ACK tells how the SYN,ACK arrived, all later ones count from 5.
#[test]
fn the_first_ack_reflects_the_syn_ack() {
    for (codepoint, reflected, counted) in [(NOT_ECT, 0b010, 5), (ECT1, 0b011, 5), (ECT0, 0b100, 5), (CE, 0b110, 6)] {
        let mut script = script(ASK);
        script.connect(&SocketOptions::default());
        script.next();
        script.ecn = codepoint;
        script.inject_with(S | A | NOTHING_ODD, 0, 1, plain(), &[]);
        assert_eq!(script.next().flags, A | ace(reflected));
        script.write(10);
        assert_eq!(script.next().flags.without(TcpFlags::PSH), A | ace(counted));
    }
}

/// RFC 9768 section 3.1.1, table 2: the SYN,ACK tells how the SYN arrived; what else a SYN may ask for.
#[test]
fn listeners_answer_what_was_asked() {
    let cases = [
        (ACCEPT, 0b111, NOT_ECT, 0b010),
        (ACCEPT, 0b111, ECT1, 0b011),
        (ACCEPT, 0b111, ECT0, 0b100),
        (ASK, 0b111, CE, 0b110),
        (ASK_CLASSIC, 0b111, NOT_ECT, 0b010),
        // Section 3.1.3: what is reserved may come to mean more than AccECN, so that AccECN is the answer.
        (ACCEPT, 0b100, NOT_ECT, 0b010),
        (ACCEPT, 0b001, NOT_ECT, 0b010),
        (ACCEPT, 0b011, NOT_ECT, 0b001),
        (ACCEPT, 0b000, NOT_ECT, 0b000),
        // Without AccECN the third flag is nobody's.
        (2, 0b111, NOT_ECT, 0b001),
        (0, 0b111, NOT_ECT, 0b000),
    ];
    for (mode, asked, codepoint, answer) in cases {
        let mut script = script(mode);
        script.listen(16, &SocketOptions::default());
        script.ecn = codepoint;
        script.inject_with(S | ace(asked), 0, 0, plain(), &[]);
        assert_eq!(script.next().flags, S | A | ace(answer), "{mode} {asked:03b} {codepoint}");
    }
}

#[test]
fn what_is_asked_for_follows_the_mode() {
    for (mode, flags) in [(ASK, ASKING), (ASK_CLASSIC, E | W), (ACCEPT, TcpFlags::default())] {
        let mut script = script(mode);
        script.connect(&SocketOptions::default());
        assert_eq!(script.next().flags, S | flags, "{mode}");
    }
}

/// RFC 9768 sections 3.1.4.1 and 3.1.5: asked once more, then no longer; an answer that comes for the first SYN holds all the same.
#[test]
fn a_syn_asks_twice() {
    let mut script = script(ASK);
    script.connect(&SocketOptions::default());
    assert_eq!(script.next().flags, S | ASKING);
    script.pass(1_100_000);
    assert_eq!(script.next().flags, S | ASKING);
    script.pass(1_100_000);
    assert_eq!(script.next().flags, S);
    script.inject_with(S | A | NOTHING_ODD, 0, 1, plain(), &[]);
    assert_eq!(script.next().flags, A | NOTHING_ODD);
    script.write(100);
    let data = script.next();
    assert_eq!((data.flags.without(TcpFlags::PSH), data.ecn), (A | ace(5), NOT_ECT));
}

#[test]
fn a_syn_that_no_longer_asks_leaves_the_answer_but_nothing_ecn_capable() {
    let mut script = script(ACCEPT);
    script.listen(16, &SocketOptions::default());
    script.inject_with(S | ASKING, 0, 0, plain(), &[]);
    assert_eq!(script.next().flags, S | A | NOTHING_ODD);
    script.now += 600_000;
    script.inject_with(S, 0, 0, plain(), &[]);
    assert_eq!(script.next().flags, S | A | NOTHING_ODD);
    script.inject(A | NOTHING_ODD, 1, 1, &[]);
    adopt(&mut script);
    script.write(100);
    assert_eq!(script.next().ecn, NOT_ECT);
}

/// RFC 9768 section 3.2.3.2.2: the option may be what somebody drops.
#[test]
fn a_repeated_syn_ack_goes_without_the_option() {
    let mut script = script(ACCEPT);
    script.listen(16, &SocketOptions::default());
    script.inject_with(S | ASKING, 0, 0, plain(), &[]);
    assert!(script.next().options.ecn_bytes.is_some());
    // For a SYN that comes again, marked this time, and for a timeout.
    script.now += 100_000;
    script.ecn = CE;
    script.inject_with(S | ASKING, 0, 0, plain(), &[]);
    script.ecn = NOT_ECT;
    let again = script.next();
    assert_eq!((again.flags, again.options.ecn_bytes), (S | A | ace(0b110), None));
    script.inject_with(S | ASKING, 0, 0, plain(), &[]);
    script.expect_nothing();
    script.pass(1_100_000);
    let again = script.next();
    assert_eq!((again.flags, again.options.ecn_bytes), (S | A | NOTHING_ODD, None));
    // Then not even the flags; feedback goes on if the peer believes in it, with nothing ECN-capable.
    script.pass(2_100_000);
    assert_eq!(script.next().flags, S | A);
    script.inject(A | NOTHING_ODD, 1, 1, &[]);
    adopt(&mut script);
    script.write(10);
    let data = script.next();
    assert_eq!((data.flags.without(TcpFlags::PSH), data.ecn), (A | ace(5), NOT_ECT));
}

#[test]
fn a_cookie_tells_accurate_from_classic_by_the_ack() {
    for (asks, acks, codepoint, echo) in [(ASKING, NOTHING_ODD, ECT0, ace(5)), (E | W, ace(0), ECT0, ace(0))] {
        let mut script = script(ACCEPT);
        script.listen(1, &SocketOptions::default());
        script.stamps = true;
        script.remote_port = 4_000;
        script.inject_with(S, 0, 0, usual(), &[]);
        script.next();
        script.remote_port = 5_000;
        script.inject_with(S | asks, 0, 0, usual(), &[]);
        script.next();
        assert_eq!(script.count(Counter::TcpExtSyncookiesSent), 1);
        script.inject(A | acks, 1, 1, &[]);
        assert_eq!(script.count(Counter::TcpExtSyncookiesRecv), 1);
        adopt(&mut script);
        script.write(10);
        let data = script.next();
        assert_eq!((data.flags.without(TcpFlags::PSH), data.ecn), (A | echo, codepoint), "{asks:?}");
    }
}

/// RFC 9768 section 3.2.2.4: a first ACE field of zero was zeroed.
#[test]
fn a_zeroed_field_ends_ecn_capable_packets() {
    let mut script = script(ACCEPT);
    script.listen(16, &SocketOptions::default());
    script.inject_with(S | ASKING, 0, 0, plain(), &[]);
    script.next();
    script.inject(A, 1, 1, &[]);
    adopt(&mut script);
    script.ecn = CE;
    script.inject(A | ace(5), 1, 1, &[7; 100]);
    assert_eq!(script.next().flags, A | ace(6), "the peer hears of its marks all the same");
    script.write(100);
    assert_eq!(script.next().ecn, NOT_ECT);

    let mut script = asked(None);
    script.inject(A, 1, 1, &[7; 100]);
    script.write(100);
    assert!(drain(&mut script).iter().all(|segment| segment.ecn == NOT_ECT));
}

/// The three counters of bytes and the one of packets, as data, trains and pure ACKs arrive.
#[test]
fn what_arrives_is_counted_by_codepoint() {
    let mut script = accepted(2);
    let mut at = 1;
    for (codepoint, len, ace_after, told) in [
        (ECT0, 100, 5, bytes(101, 0, 1)),
        (ECT0, 50, 5, bytes(151, 0, 1)),
        (NOT_ECT, 10, 5, bytes(151, 0, 1)),
        (CE, 100, 6, bytes(151, 100, 1)),
        (CE, 1, 7, bytes(151, 101, 1)),
        (CE, 1, 8, bytes(151, 102, 1)),
        (ECT1, 200, 8, Some(EcnBytes::new(true, 151, 102, 201, 3))),
    ] {
        script.ecn = codepoint;
        script.inject(A | ace(5), at, 1, &vec![7; len]);
        at += len as u32;
        script.pass(50_000);
        let ack = drain(&mut script).pop().expect("an acknowledgement");
        assert_eq!((ack.flags, ack.options.ecn_bytes), (A | ace(ace_after), told), "{codepoint} {len}");
        assert_eq!(ack.ecn, NOT_ECT, "a pure ACK");
    }
    assert!(script.info().ecn_seen);
    // Pure ACKs are packets without bytes; the third without an ACK of ours demands one.
    script.ecn = CE;
    for _ in 0..2 {
        script.inject(A | ace(5), at, 1, &[]);
        script.expect_nothing();
    }
    script.inject(A | ace(5), at, 1, &[]);
    let ack = script.next();
    assert_eq!((ack.flags, ack.options.ecn_bytes.unwrap().ce()), (A | ace(11), Some(102)));
}

/// RFC 9768 section 3.2.2.5.1: the first mark in a row is told at once, and so is every second; the rest waits as ever.
#[test]
fn changes_and_marks_are_acknowledged_at_once() {
    let mut script = accepted(2);
    let mut at = 1;
    // The quick ACKs of a young connection, and the first change.
    for _ in 0..20 {
        script.ecn = ECT0;
        script.inject(A | ace(5), at, 1, &[7; 600]);
        at += 600;
        script.pass(50_000);
        drain(&mut script);
    }
    let mut at_once = |script: &mut Script<'_>, codepoint| {
        script.ecn = codepoint;
        script.inject(A | ace(5), at, 1, &[7; 10]);
        at += 10;
        let answered = script.try_next().is_some();
        script.pass(50_000);
        drain(script);
        answered
    };
    assert!(!at_once(&mut script, ECT0));
    assert!(at_once(&mut script, CE), "the first mark");
    assert!(!at_once(&mut script, CE));
    assert!(!at_once(&mut script, ECT0), "the end of the row can wait");
    assert!(!at_once(&mut script, NOT_ECT), "a retransmission counts nowhere");
    // Two in one delay.
    script.ecn = CE;
    let start = script.info().bytes_received as u32 + 1;
    script.inject(A | ace(5), start, 1, &[7; 10]);
    script.next();
    script.inject(A | ace(5), start + 10, 1, &[7; 10]);
    script.expect_nothing();
    script.inject(A | ace(5), start + 20, 1, &[7; 10]);
    script.next();
}

#[test]
fn the_option_follows_its_setting_and_the_peer() {
    // Off: nothing, though the peer sends it.
    let mut script = accepted(0);
    script.write(10);
    assert_eq!(script.next().options.ecn_bytes, None);
    // Sparingly: twice after a change, then when a third of a round trip has passed.
    let mut script = accepted(1);
    let beacon = |script: &mut Script<'_>, ecn_option_beacon| {
        script.stack.set_sysctls(&Sysctls { ecn: ACCEPT, ecn_option: 1, ecn_option_beacon, ..Sysctls::LINUX });
    };
    let mut at = 1;
    let mut told = |script: &mut Script<'_>, codepoint| {
        script.ecn = codepoint;
        script.inject(A | ace(5), at, 1, &[7; 10]);
        at += 10;
        script.pass(50_000);
        drain(script).pop().unwrap().options.ecn_bytes.is_some()
    };
    beacon(&mut script, 0);
    let seen: Vec<bool> = [ECT0, ECT0, ECT0, ECT0, CE, CE, CE].into_iter().map(|it| told(&mut script, it)).collect();
    assert_eq!(seen, [true, true, false, false, true, true, false]);
    beacon(&mut script, 3);
    assert!(told(&mut script, CE));
    // A peer whose option never came gets none either.
    let mut script = asked(None);
    script.write(10);
    assert_eq!(script.next().options.ecn_bytes, None);
    let mut script = asked(bytes(1, 0, 1));
    script.write(10);
    assert_eq!(script.next().options.ecn_bytes, bytes(1, 0, 1));
}

/// RFC 9768 section 3.2.3.3: beside two SACK blocks there is room for two fields, and none for less than has changed.
#[test]
fn the_option_is_cut_where_space_is_short_and_left_out_where_it_would_say_too_little() {
    let mut script = accepted(2);
    // One block, then two, the second of which grows.
    for (codepoint, first, blocks, told) in [
        (ECT0, 101, 1, Some(EcnBytes::new(false, 11, 0, 1, 3))),
        (CE, 201, 2, Some(EcnBytes::new(false, 11, 10, 1, 2))),
        (ECT1, 211, 2, None),
    ] {
        script.ecn = codepoint;
        script.inject(A | ace(5), first, 1, &[7; 10]);
        let ack = drain(&mut script).pop().unwrap();
        assert_eq!((ack.options.sack.as_slice().len(), ack.options.ecn_bytes), (blocks, told), "{first}");
    }
}

/// Segments are smaller by the option, so that they fit into the path.
#[test]
fn the_option_takes_its_room_from_the_payload() {
    let mut script = asked(bytes(1, 0, 1));
    script.write(5_000);
    let sent = drain(&mut script);
    assert_eq!(sent[0].len(), 1448 - 12);
    assert!(sent.iter().all(|segment| segment.options.ecn_bytes.is_some() && segment.ecn == ECT0));
}

/// A window of marks, told exactly: one reduction, counted segment by segment.
#[test]
fn feedback_reduces_the_window_once_in_a_round_trip() {
    for option in [false, true] {
        let mut script = asked(bytes(1, 0, 1).filter(|_| option));
        let size = if option { 1436 } else { 1448 };
        script.write(u64::from(10 * size));
        assert_eq!(drain(&mut script).len(), 10);
        script.now += 50_000;
        let before = script.info();
        let acknowledge = |script: &mut Script<'_>, segments: u32, marks: u32| {
            let told = bytes(1 + (segments - marks) * size, marks * size, 1).filter(|_| option);
            script.inject_with(A | ace(5 + marks), 1, 1 + segments * size, with(TcpOptions::default(), told), &[]);
        };
        acknowledge(&mut script, 2, 0);
        assert_eq!((script.info().recovery, script.info().delivered_ce), (0, 0));
        acknowledge(&mut script, 4, 1);
        let reduced = script.info();
        assert_eq!((reduced.recovery, reduced.delivered_ce), (2, 1));
        assert!(reduced.ssthresh < before.cwnd);
        acknowledge(&mut script, 6, 3);
        // An older acknowledgement says nothing.
        acknowledge(&mut script, 5, 2);
        acknowledge(&mut script, 10, 4);
        let after = script.info();
        assert_eq!((after.delivered_ce, after.ssthresh), (4, reduced.ssthresh));
        assert_eq!(script.count(Counter::TcpExtTCPDeliveredCE), 4);
        assert!(drain(&mut script).iter().all(|segment| segment.flags.ace() == 5), "no CWR");
    }
}

/// RFC 9768 section 3.2.2.5.2: more than seven segments leave it open how often the field went around.
#[test]
fn a_field_that_went_around_is_read_with_care() {
    // (CE bytes in segments as the option says, marks counted)
    for (told, marks) in [(None, 10), (Some(2), 2), (Some(10), 10), (Some(0), 2)] {
        let mut script = asked(bytes(1, 0, 1).filter(|_| told.is_some()));
        let size = if told.is_some() { 1436 } else { 1448 };
        script.write(u64::from(10 * size));
        drain(&mut script);
        let option = told.and_then(|ce: u32| bytes(1 + (10 - ce) * size, ce * size, 1));
        script.inject_with(A | ace(5 + 2), 1, 1 + 10 * size, with(TcpOptions::default(), option), &[]);
        assert_eq!(script.info().delivered_ce, marks, "{told:?}");
    }
}

/// RFC 9768 section 3.2.3.2.4: fields that cannot have been sent are not believed, the ACE field still is.
#[test]
fn a_zeroed_option_is_not_believed() {
    let mut script = asked(bytes(0, 0, 0));
    script.write(14_360);
    drain(&mut script);
    let zeroed = with(TcpOptions::default(), bytes(0, 0, 0));
    script.inject_with(A | ace(5 + 2), 1, 1 + 10 * 1436, zeroed, &[]);
    assert_eq!(script.info().delivered_ce, 10, "the safest case, not the option's");
}

/// RFC 9768 section 3.2.3.2.5: bytes that were marked in no packet.
#[test]
fn feedback_that_contradicts_itself_ends_ecn_capable_packets() {
    let mut script = asked(bytes(1, 0, 1));
    script.write(1436);
    assert_eq!(script.next().ecn, ECT0);
    script.inject_with(A | ace(5), 1, 1437, with(TcpOptions::default(), bytes(1, 1436, 1)), &[]);
    assert_eq!(script.info().delivered_ce, 0);
    script.write(2_000);
    assert_eq!(script.next().ecn, NOT_ECT);
}

/// RFC 9768 section 3.2.2.3: a path that marks everything from the start marks without a queue.
#[test]
fn a_path_that_marks_everything_gets_nothing_ecn_capable() {
    for unmarked in [None, Some(2)] {
        let mut script = asked(None);
        let mut marks = 0;
        for round in 0..6 {
            script.write((round + 1) * 1448);
            let data = script.next();
            let expected = if round > 4 && unmarked.is_none() { NOT_ECT } else { ECT0 };
            assert_eq!((data.len(), data.ecn), (1448, expected), "{unmarked:?} {round}");
            script.now += 50_000;
            marks += u32::from(unmarked != Some(round));
            script.inject(A | ace(5 + marks), 1, 1 + (round as u32 + 1) * 1448, &[]);
        }
    }
}

/// Every segment of a super-segment bears the whole field.
#[test]
fn the_field_survives_cutting() {
    let mut script = Script::with_gso();
    set(&mut script, ASK, 2);
    script.stamps = true;
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | A | NOTHING_ODD, 0, 1, with(usual(), bytes(1, 0, 1)), &[]);
    script.next();
    script.ecn = CE;
    script.inject(A | ace(5), 1, 1, &[7; 100]);
    script.write(10_000);
    let sent: Vec<_> = drain(&mut script).into_iter().filter(|segment| segment.len() > 0).collect();
    assert!(sent.len() > 5 && script.bench.super_segments.len() == 1);
    let told = bytes(1, 100, 1);
    assert!(sent.iter().all(|segment| segment.flags.ace() == 6 && segment.options.ecn_bytes == told), "{sent:?}");
}

/// RFC 9331 section 4.1: ECT(1) for who answers marks in proportion, and only where they are told exactly.
#[test]
fn prague_is_ect1_where_feedback_is_exact() {
    let prague = SocketOptions { congestion: Some(Congestion::Prague), ..SocketOptions::default() };
    for (mode, answer, codepoint) in [(ASK, NOTHING_ODD, ECT1), (ASK, E, ECT0), (1, E, ECT0), (ASK, ace(0), NOT_ECT)] {
        let mut script = script(mode);
        script.connect(&prague);
        script.next();
        script.inject_with(S | A | answer, 0, 1, plain(), &[]);
        script.next();
        script.write(1_000);
        assert_eq!(script.next().ecn, codepoint, "{mode} {answer:?}");
        let l4s = u64::from(codepoint == ECT1);
        assert_eq!(script.count(Counter::PersonaOutECT1Segs), l4s);
        assert_eq!(script.count(Counter::PersonaOutECT0Segs), u64::from(codepoint == ECT0));
        if l4s > 0 {
            assert!(script.info().accurate_ecn.unwrap().l4s);
            script.inject(A | ace(5 + 1), 1, 1_001, &[]);
            assert_eq!((script.count(Counter::PersonaDeliveredCEECT1), script.count(Counter::PersonaAccECN)), (1, 1));
        }
    }
}

/// A share of marks costs half of itself, where one mark costs CUBIC a fifth or more whatever the share.
#[test]
fn prague_answers_by_the_share() {
    let mut script = script(ASK);
    script.connect(&SocketOptions { congestion: Some(Congestion::Prague), ..SocketOptions::default() });
    script.next();
    script.inject_with(S | A | NOTHING_ODD, 0, 1, plain(), &[]);
    script.next();
    let (mut at, mut marks) = (0, 1);
    // The first mark counts in full and ends slow start.
    for round in 0..60 {
        script.write(u64::from(at + 1) * 1460);
        drain(&mut script);
        at += 1;
        script.pass(50_000);
        marks += u32::from(round == 40);
        script.inject(A | ace(5 + marks), 1, 1 + at * 1460, &[]);
        if round == 0 {
            let first = script.info();
            assert_eq!(first.cwnd, first.ssthresh);
            assert!(first.cwnd <= 5 * 1460 + 1460, "{first:?}");
        }
        if round == 40 {
            // Alpha has gone down to 15/16 to the power of forty, which is 7.6 %.
            let info = script.info();
            assert!(info.ssthresh > 5 * 1460 * 9 / 10, "{info:?}");
        }
    }
}
