//! Zero-window probes, keepalive, user timeout.

use super::bench::*;
use crate::*;

#[test]
fn a_closed_window_is_probed_and_a_peer_that_answers_is_never_given_up() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.window = 0;
    script.inject(A, 1, 1, &[]);
    script.write(5000);
    script.expect_nothing();
    let mut probes = 0;
    for _ in 0..2_000 {
        script.pass(1_000_000);
        while let Some(seen) = script.try_next() {
            // Linux's probe: nothing, one before what the peer has.
            assert_eq!((seen.seq, seen.len()), (0, 0));
            probes += 1;
            script.inject(A, 1, 1, &[]);
        }
    }
    assert!((20..40).contains(&probes), "{probes}: backs off to two minutes");
    assert_eq!(script.count(Counter::TcpExtTCPWinProbe), probes);
    assert_eq!(script.closed(), None);
    script.window = 2000;
    script.inject(A, 1, 1, &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 1460));
}

#[test]
fn a_silent_peer_with_a_closed_window_is_given_up() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.window = 0;
    script.inject(A, 1, 1, &[]);
    script.write(5000);
    script.pass(1_200_000_000);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
}

#[test]
fn a_silly_window_is_used_when_the_timer_says_so() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.window = 100;
    script.inject(A, 1, 1, &[]);
    script.write(5000);
    script.expect_nothing();
    script.pass(500_000);
    assert_eq!(script.next().brief(), (A, 1, 1, 100));
}

fn keepalive() -> SocketOptions {
    SocketOptions {
        keepalive: true,
        keep_idle: Some(Duration::from_secs(10)),
        keep_interval: Some(Duration::from_secs(2)),
        keep_count: Some(3),
        ..SocketOptions::default()
    }
}

#[test]
fn keepalive_asks_and_an_answer_satisfies_it() {
    let mut script = Script::accepted(plain(), &keepalive());
    script.pass(9_900_000);
    script.expect_nothing();
    for _ in 0..5 {
        script.pass(200_000);
        assert_eq!(script.next().brief(), (A, 0, 1, 0));
        script.inject(A, 1, 1, &[]);
        script.pass(9_900_000);
        script.expect_nothing();
    }
    assert_eq!(script.closed(), None);
}

#[test]
fn keepalive_without_an_answer_ends_the_connection() {
    let mut script = Script::accepted(plain(), &keepalive());
    script.pass(20_000_000);
    for _ in 0..3 {
        assert_eq!(script.next().brief(), (A, 0, 1, 0));
    }
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
}

#[test]
fn keepalive_can_be_switched_on_later() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.pass(5_000_000);
    let (now, id) = (script.at(), script.id());
    script.stack.set_options(now, id, &keepalive(), &mut script.bench).unwrap();
    assert_eq!(script.stack.options(id).unwrap().keep_idle, Some(Duration::from_secs(10)));
    script.pass(6_000_000);
    assert_eq!(script.next().brief(), (A, 0, 1, 0));
}

#[test]
fn the_probe_of_a_peers_keepalive_is_answered() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(A, 0, 1, &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
}

#[test]
fn user_timeout_ends_it_in_time() {
    let options = SocketOptions { user_timeout: Some(Duration::from_secs(3)), ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    script.write(100);
    script.pass(2_900_000);
    assert_eq!(script.closed(), None);
    script.pass(600_000);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
}

#[test]
fn an_idle_connection_has_no_timer() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(100);
    script.next();
    script.inject(A, 1, 101, b"x");
    script.pass(50_000);
    assert_eq!(script.next().ack, 2);
    assert_eq!((script.stack.usage().senders, script.stack.usage().flights), (1, 0));
    // Once more, to give the sending half back.
    script.pass(31_000_000);
    assert_eq!(script.stack.next_timeout(), None);
    assert_eq!(script.stack.usage().senders, 0);
}
