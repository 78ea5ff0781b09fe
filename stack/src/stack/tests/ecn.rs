//! Explicit congestion notification as RFC 3168 has it: who agrees on it, what bears ECT, ECE and CWR, and what a mark does
//! to the window.

use super::bench::*;
use crate::tcp::ecn::codepoint::{CE, ECT0, ECT1, NOT_ECT};
use crate::wire::{TcpFlags, TcpOptions};
use crate::*;
use std::vec::Vec;

const E: TcpFlags = TcpFlags::ECE;
const W: TcpFlags = TcpFlags::CWR;

/// Values of net.ipv4.tcp_ecn.
const OFF: u32 = 0;
const ASK: u32 = 1;
const ACCEPT: u32 = 2;

fn set(script: &mut Script<'_>, ecn: u32) {
    script.stack.set_sysctls(&Sysctls { ecn, ..Sysctls::LINUX });
}

fn script(ecn: u32) -> Script<'static> {
    let mut script = Script::new();
    set(&mut script, ecn);
    script
}

/// A connection that we opened; both sides agreed on ECN.
fn asked(offer: TcpOptions) -> Script<'static> {
    let mut script = script(ASK);
    script.stamps = offer.timestamps.is_some();
    script.connect(&SocketOptions::default());
    let syn = script.next();
    assert_eq!((syn.flags, syn.ecn), (S | E | W, NOT_ECT));
    script.inject_with(S | A | E, 0, 1, offer, &[]);
    let ack = script.next();
    assert_eq!((ack.brief(), ack.ecn), ((A, 1, 1, 0), NOT_ECT), "a pure ACK is not ECN-capable");
    assert!(script.info().ecn);
    script.events();
    script
}

/// A connection that the peer opened with ECN; its owner is 7.
fn accepted(offer: TcpOptions) -> Script<'static> {
    let mut script = Script::new();
    script.listen(16, &SocketOptions::default());
    script.stamps = offer.timestamps.is_some();
    script.inject_with(S | E | W, 0, 0, offer, &[]);
    let answer = script.next();
    assert_eq!((answer.flags, answer.ecn), (S | A | E, NOT_ECT));
    script.inject(A, 1, 1, &[]);
    let id = script.events().iter().find_map(|event| match event {
        Event::Connection { connection, .. } => Some(*connection),
        _ => None,
    });
    script.id = id;
    assert!(script.info().ecn);
    script
}

/// Everything that was sent, acknowledged up to `ack` in segments of `size`; ACKs bear `flags`.
fn acknowledge(script: &mut Script<'_>, from: u32, to: u32, size: u32, flags: TcpFlags) {
    let mut at = from;
    while at < to {
        at = (at + size).min(to);
        script.inject(A | flags, 1, 1 + at, &[]);
    }
}

fn drain(script: &mut Script<'_>) -> Vec<Seen> {
    std::iter::from_fn(|| script.try_next()).collect()
}

#[test]
fn a_syn_asks_only_when_told_to() {
    for (mode, flags) in [(OFF, S), (ACCEPT, S), (ASK, S | E | W)] {
        let mut script = script(mode);
        script.connect(&SocketOptions::default());
        let syn = script.next();
        assert_eq!((syn.flags, syn.ecn), (flags, NOT_ECT), "{mode:?}");
    }
}

/// RFC 3168 section 6.1.1: only ECE without CWR agrees.
#[test]
fn the_answer_decides() {
    for (answer, agreed) in [(TcpFlags::default(), false), (E, true), (W, false), (E | W, false)] {
        let mut script = script(ASK);
        script.connect(&SocketOptions::default());
        script.next();
        script.inject_with(S | A | answer, 0, 1, plain(), &[]);
        assert_eq!(script.next().flags, A);
        assert_eq!(script.info().ecn, agreed, "{answer:?}");
        script.write(100);
        assert_eq!(script.next().ecn, if agreed { ECT0 } else { NOT_ECT }, "{answer:?}");
    }
}

#[test]
fn an_answer_nobody_asked_for_changes_nothing() {
    let mut script = script(ACCEPT);
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | A | E, 0, 1, plain(), &[]);
    script.next();
    assert!(!script.info().ecn);
}

#[test]
fn listeners_accept_what_their_mode_allows() {
    let cases = [
        (OFF, E | W, NOT_ECT, false),
        (ACCEPT, E | W, NOT_ECT, true),
        (ASK, E | W, NOT_ECT, true),
        (ACCEPT, E, NOT_ECT, false),
        (ACCEPT, W, NOT_ECT, false),
        (ACCEPT, TcpFlags::default(), NOT_ECT, false),
        // RFC 3168 section 6.1.1: a SYN must not be ECN-capable.
        (ACCEPT, E | W, ECT0, false),
        (ACCEPT, E | W, CE, false),
    ];
    for (mode, flags, ecn, agreed) in cases {
        let mut script = script(mode);
        script.listen(16, &SocketOptions::default());
        script.ecn = ecn;
        script.inject_with(S | flags, 0, 0, plain(), &[]);
        let expected = if agreed { S | A | E } else { S | A };
        assert_eq!(script.next().flags, expected, "{mode:?} {flags:?} {ecn}");
    }
}

/// RFC 3168 section 6.1.1.1: somebody may drop SYNs that ask.
#[test]
fn a_repeated_syn_asks_no_more() {
    let mut script = script(ASK);
    script.connect(&SocketOptions::default());
    assert_eq!(script.next().flags, S | E | W);
    script.pass(1_100_000);
    assert_eq!(script.next().flags, S);
    script.inject_with(S | A | E, 0, 1, plain(), &[]);
    script.next();
    assert!(!script.info().ecn, "what is answered may be the second SYN");
}

#[test]
fn a_simultaneous_open_goes_without() {
    let mut script = script(ASK);
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | E | W, 0, 0, plain(), &[]);
    assert_eq!(script.next().flags, S | A);
    script.inject(A, 1, 1, &[]);
    assert!(!script.info().ecn);
}

#[test]
fn a_cookie_remembers_ecn_with_timestamps_alone() {
    for (offer, agreed) in [(usual(), true), (sack_only(), false)] {
        let mut script = Script::new();
        script.listen(1, &SocketOptions::default());
        script.stamps = offer.timestamps.is_some();
        // The backlog of one half-open connection is full.
        script.remote_port = 4_000;
        script.inject_with(S, 0, 0, offer, &[]);
        script.next();
        script.remote_port = 5_000;
        script.inject_with(S | E | W, 0, 0, offer, &[]);
        let answer = script.next();
        assert_eq!(answer.flags, if agreed { S | A | E } else { S | A });
        assert_eq!(script.count(Counter::TcpExtSyncookiesSent), 1);
        script.inject(A, 1, 1, &[]);
        assert_eq!(script.count(Counter::TcpExtSyncookiesRecv), 1);
        let events = script.events();
        script.id = events.iter().find_map(|event| match event {
            Event::Connection { connection, .. } => Some(*connection),
            _ => None,
        });
        assert_eq!(script.info().ecn, agreed);
    }
}

#[test]
fn new_data_is_ecn_capable_and_nothing_else() {
    for mut script in [asked(usual()), accepted(usual())] {
        script.write(1_000);
        let data = script.next();
        assert_eq!((data.len(), data.ecn), (1_000, ECT0));
        // Nobody answers: probe and timeout send it again.
        let mut repeated = 0;
        for _ in 0..3 {
            script.pass(1_500_000);
            for segment in drain(&mut script) {
                assert_eq!((segment.seq, segment.ecn), (1, NOT_ECT), "{segment:?}");
                repeated += 1;
            }
        }
        assert!(repeated >= 2);
        script.inject(A, 1, 1_001, &[]);
        script.inject(A, 1, 1_001, &[7; 100]);
        script.pass(50_000);
        let ack = script.next();
        assert_eq!((ack.len(), ack.ecn), (0, NOT_ECT));
        script.shutdown();
        let fin = script.next();
        assert_eq!((fin.flags, fin.len(), fin.ecn), (F | A, 0, NOT_ECT), "a FIN without data");
        let (now, id) = (script.at(), script.id());
        script.stack.abort(now, id, &mut script.bench).unwrap();
        let reset = script.next();
        assert_eq!((reset.flags.rst(), reset.ecn), (true, NOT_ECT));
    }
}

/// The application's type of service keeps its six bits; the other two are not its own.
#[test]
fn the_type_of_service_does_not_reach_the_ecn_field() {
    let mut script = Script::connected(usual(), &SocketOptions { tos: Some(0xb7), ..SocketOptions::default() });
    script.write(10);
    let packet = script.bench.sent.pop_front().unwrap();
    assert_eq!(packet[1], 0xb4);
}

/// RFC 3168 section 6.1.3: from CE to CWR, every acknowledgement says so.
#[test]
fn a_mark_is_echoed_until_cwr() {
    let mut script = accepted(usual());
    script.ecn = CE;
    script.inject(A, 1, 1, &[7; 100]);
    script.ecn = ECT0;
    assert_eq!(script.next().flags, A | E);
    assert!(script.info().ecn_seen);
    script.inject(A, 101, 1, &[7; 100]);
    assert_eq!(script.next().flags, A | E);
    script.write(10);
    let data = script.next();
    assert_eq!((data.flags.without(TcpFlags::PSH), data.ecn), (A | E, ECT0), "data echoes too");
    script.inject(A | W, 201, 11, &[7; 100]);
    assert_eq!(script.next().flags, A, "acknowledged at once, without the echo");
    // CWR and a new mark on one segment: the mark is younger.
    script.ecn = CE;
    script.inject(A | W, 301, 11, &[7; 100]);
    assert_eq!(script.next().flags, A | E);
    assert_eq!(script.received().len(), 400);
}

#[test]
fn marks_out_of_order_are_echoed_and_those_of_nobody_are_not() {
    let mut script = accepted(usual());
    script.ecn = CE;
    // A pure ACK, and a segment outside the window: not from the peer's data.
    script.inject(A, 1, 1, &[]);
    script.inject(A, 1u32.wrapping_sub(5_000), 1, &[7; 100]);
    assert_eq!(script.next().flags, A);
    script.inject(A, 201, 1, &[7; 100]);
    assert_eq!(script.next().flags, A | E);

    let mut script = Script::accepted(usual(), &SocketOptions::default());
    script.ecn = CE;
    script.inject(A, 1, 1, &[7; 100]);
    assert_eq!(script.next().flags, A, "ECN was not agreed on");
}

/// RFC 3168 section 6.1.2: once in a round trip, and CWR on the next new data.
#[test]
fn an_echo_reduces_the_window_once_in_a_round_trip() {
    let mut script = asked(usual());
    let mss = u32::from(script.info().snd_mss);
    script.write(u64::from(10 * mss));
    assert!(drain(&mut script).iter().all(|segment| segment.ecn == ECT0 && segment.flags.without(TcpFlags::PSH) == A));
    let before = script.info();
    assert_eq!(before.cwnd, 10 * mss);
    script.now += 50_000;
    script.write(u64::from(40 * mss));
    acknowledge(&mut script, 0, 10 * mss, mss, E);
    let after = script.info();
    assert_eq!(after.recovery, 2, "Linux's TCP_CA_CWR");
    assert!(after.ssthresh < before.cwnd && after.ssthresh >= before.cwnd / 2, "{after:?}");
    assert_eq!(after.delivered_ce, 10);
    assert_eq!(script.count(Counter::TcpExtTCPDeliveredCE), 10);
    let sent = drain(&mut script);
    let with_cwr: Vec<_> = sent.iter().filter(|segment| segment.flags.contains(W)).map(|segment| segment.seq).collect();
    assert_eq!(with_cwr, [1 + 10 * mss], "on the first new segment alone");
    assert!(sent.iter().all(|segment| segment.ecn == ECT0));
    // What was sent since is acknowledged without an echo: the round is over.
    let end = sent.last().map(|segment| segment.seq - 1 + segment.len() as u32).unwrap();
    acknowledge(&mut script, 10 * mss, end, mss, TcpFlags::default());
    let over = script.info();
    assert_eq!((over.recovery, over.ssthresh), (0, after.ssthresh));
    assert_eq!(script.count(Counter::TcpRetransSegs), 0, "nothing was lost");
    // The next round may reduce again.
    drain(&mut script);
    script.inject(A | E, 1, 1 + end + mss, &[]);
    assert!(script.info().ssthresh < after.ssthresh);
}

/// A port that cuts gets one super-segment, whose first segment alone bears CWR.
#[test]
fn cwr_survives_cutting_once() {
    let mut script = Script::with_gso();
    set(&mut script, ASK);
    script.stamps = true;
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | A | E, 0, 1, usual(), &[]);
    script.next();
    let mss = u32::from(script.info().snd_mss);
    script.write(u64::from(10 * mss));
    drain(&mut script);
    script.inject(A | E, 1, 1 + 10 * mss, &[]);
    script.bench.super_segments.clear();
    script.write(u64::from(14 * mss));
    let sent = drain(&mut script);
    assert_eq!(script.bench.super_segments.len(), 1);
    let cwr: Vec<bool> = sent.iter().map(|segment| segment.flags.contains(W)).collect();
    assert_eq!((cwr[0], cwr.iter().filter(|cwr| **cwr).count()), (true, 1), "{cwr:?}");
    assert!(cwr.len() > 2);
}

#[test]
fn losses_are_answered_with_cwr_too() {
    let mut script = asked(plain());
    script.write(14_600);
    drain(&mut script);
    script.pass(2_000_000);
    let again = script.next();
    assert_eq!((again.seq, again.ecn, again.flags.contains(W)), (1, NOT_ECT, false), "not on the retransmission");
    drain(&mut script);
    script.inject(A, 1, 14_601, &[]);
    script.write(16_060);
    let data = script.next();
    assert_eq!((data.seq, data.flags.contains(W), data.ecn), (14_601, true, ECT0));
}

#[test]
fn echoes_without_agreement_mean_nothing() {
    let mut script = Script::connected(usual(), &SocketOptions::default());
    let mss = u32::from(script.info().snd_mss);
    script.write(u64::from(2 * mss));
    assert!(drain(&mut script).iter().all(|segment| segment.ecn == NOT_ECT));
    script.inject(A | E, 1, 1 + mss, &[]);
    assert_eq!((script.info().recovery, script.info().delivered_ce), (0, 0));
}

#[test]
fn packets_count_by_codepoint() {
    let mut script = accepted(usual());
    let before = *script.stack.ip_counters();
    for ecn in [ECT0, ECT0, ECT0, ECT1, ECT1, CE] {
        script.ecn = ecn;
        script.inject(A, 1, 1, &[]);
    }
    let after = script.stack.ip_counters();
    assert_eq!(
        [after.ip_in_no_ect - before.ip_in_no_ect, after.ip_in_ect1, after.ip_in_ect0, after.ip_in_ce],
        [0, 2, 3, 1]
    );
}
