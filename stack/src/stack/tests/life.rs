//! What options and settings say of a connection's birth and death: IP_MINTTL, TCP_DEFER_ACCEPT, TCP_LINGER2, bounds of timeouts
//! and of orphans.

use super::bench::*;
use crate::*;

/// A packet of the peer's that has come so far that `ttl` is left.
fn deliver_with_ttl(script: &mut Script<'_>, ttl: u8, flags: wire::TcpFlags, seq: u32, ack: u32, payload: &[u8]) {
    let mut packet = script.packet(flags, seq, ack, plain(), 0, payload);
    packet[8] = ttl;
    packet[10..12].fill(0);
    let sum = !wire::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    script.deliver(&packet);
}

#[test]
fn what_has_come_too_far_is_dropped() {
    let options = SocketOptions { min_ttl: 255, ..SocketOptions::default() };
    let mut script = Script::new();
    script.listen(4, &options);
    deliver_with_ttl(&mut script, 254, S, 0, 0, &[]);
    script.expect_nothing();
    assert_eq!(script.stack.usage().requests, 0);
    deliver_with_ttl(&mut script, 255, S, 0, 0, &[]);
    assert_eq!(script.next().flags, S | A);
    deliver_with_ttl(&mut script, 255, A, 1, 1, &[]);
    script.events();
    deliver_with_ttl(&mut script, 254, A, 1, 1, b"far");
    deliver_with_ttl(&mut script, 254, R, 1, 0, &[]);
    assert_eq!(script.received(), b"");
    assert_eq!(script.stack.usage().connections, 1, "not even a RST is believed");
    deliver_with_ttl(&mut script, 255, A, 1, 1, b"near");
    assert_eq!(script.received(), b"near");
    assert_eq!(script.count(Counter::TcpExtTCPMinTTLDrop), 3);
}

#[test]
fn a_deferred_connection_is_given_out_with_its_first_data() {
    let mut script = Script::new();
    script.listen(4, &SocketOptions { defer_accept: 2, ..SocketOptions::default() });
    script.peer_opens(plain());
    assert!(script.events().is_empty(), "an ACK alone is not enough");
    assert_eq!(script.count(Counter::TcpExtTCPDeferAcceptDrop), 1);
    assert_eq!(script.stack.usage(), Usage { listeners: 1, requests: 1, ..Usage::default() });
    script.inject(A, 1, 1, b"GET");
    assert_eq!(script.received(), b"GET");
    assert_eq!(script.stack.usage(), Usage { listeners: 1, connections: 1, ..Usage::default() });
}

#[test]
fn a_silent_peer_is_asked_once_more_and_then_given_out() {
    let mut script = Script::new();
    script.listen(4, &SocketOptions { defer_accept: 2, ..SocketOptions::default() });
    script.peer_opens(plain());
    script.pass(1_010_000);
    script.expect_nothing();
    script.inject(A, 1, 1, &[]);
    assert!(script.events().is_empty(), "one timeout of two");
    // The last timeout brings the last chance: Linux's syn_ack_recalc.
    script.pass(2_010_000);
    assert_eq!(script.next().flags, S | A);
    script.inject(A, 1, 1, &[]);
    assert_eq!(script.stack.usage(), Usage { listeners: 1, connections: 1, ..Usage::default() });
}

#[test]
fn who_never_answers_the_last_chance_is_forgotten() {
    let mut script = Script::new();
    script.stack.set_sysctls(&Sysctls { synack_retries: 2, ..Sysctls::LINUX });
    script.listen(4, &SocketOptions { defer_accept: 4, ..SocketOptions::default() });
    script.peer_opens(plain());
    script.pass(8_000_000);
    assert_eq!(script.stack.usage().requests, 1, "three timeouts: longer than without the option");
    script.pass(24_000_000);
    assert_eq!(script.stack.usage().requests, 0);
}

/// Closed by us, and the FIN is acknowledged.
fn closed(options: SocketOptions) -> Script<'static> {
    let mut script = Script::accepted(plain(), &options);
    script.close();
    assert_eq!(script.next().brief(), (F | A, 1, 1, 0));
    script.inject(A, 1, 2, &[]);
    script
}

#[test]
fn fin_wait_2_lasts_as_long_as_the_socket_says() {
    let mut script = closed(SocketOptions { linger2: Some(3), ..SocketOptions::default() });
    script.pass(2_900_000);
    assert_eq!(script.closed(), None);
    script.pass(200_000);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    script.expect_nothing();
}

#[test]
fn without_fin_wait_2_the_peer_is_reset() {
    let none = SocketOptions { linger2: Some(-1), ..SocketOptions::default() };
    let mut script = closed(none);
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
    assert_eq!(script.count(Counter::TcpExtTCPAbortOnData), 1);
    // The same when FIN-WAIT-2 is reached before close().
    let mut script = Script::accepted(plain(), &none);
    script.shutdown();
    script.next();
    script.inject(A, 1, 2, &[]);
    assert_eq!(script.info().state, State::FinWait2);
    script.close();
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.count(Counter::TcpExtTCPAbortOnLinger), 1);
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
    assert_eq!(script.stack.usage().connections, 0);
}

#[test]
fn one_orphan_more_than_allowed_is_reset() {
    for (most, flags) in [(1, F | A), (0, R | A)] {
        let mut script = Script::new();
        script.stack.set_sysctls(&Sysctls { max_orphans: most, ..Sysctls::LINUX });
        let mut script = script.accept(plain(), &SocketOptions::default());
        script.close();
        assert_eq!(script.next().flags, flags, "{most} allowed");
        assert_eq!(script.count(Counter::TcpExtTCPAbortOnMemory), u64::from(most == 0));
        let now = script.at();
        script.stack.audit(now).unwrap();
    }
}

#[test]
fn a_socket_has_bounds_of_its_own_for_timeouts() {
    let quick = SocketOptions { rto_min: Some(Duration::from_millis(20)), ..SocketOptions::default() };
    for (options, before, after) in [(quick, 15_000, 40_000), (SocketOptions::default(), 190_000, 260_000)] {
        let mut script = Script::new();
        script.round_trip = 1_000;
        let mut script = script.accept(plain(), &options);
        script.stack.set_sysctls(&Sysctls { early_retrans: 0, ..Sysctls::LINUX });
        script.write(100);
        script.next();
        script.pass(before);
        script.expect_nothing();
        script.pass(after - before);
        assert_eq!(script.next().brief(), (A, 1, 1, 100));
    }
}
