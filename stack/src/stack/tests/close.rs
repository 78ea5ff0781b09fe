//! Closing: half-close, simultaneous close, reset, unread data, linger, orphans.

use super::bench::*;
use crate::*;

#[test]
fn half_close_goes_on_receiving() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(3);
    assert_eq!(script.next().brief(), (A, 1, 1, 3));
    script.shutdown();
    assert_eq!(script.next().brief(), (F | A, 4, 1, 0));
    assert_eq!(script.info().state, State::FinWait1);
    script.inject(A, 1, 5, &[]);
    assert_eq!(script.info().state, State::FinWait2);
    script.inject(A, 1, 5, b"late");
    assert_eq!(script.received(), b"late");
    // The first data of a connection is acknowledged without delay.
    assert_eq!(script.next().brief(), (A, 5, 5, 0));
    // Not an orphan: no timeout, as long as the application holds it.
    script.pass(200_000_000);
    script.inject(F | A, 5, 5, &[]);
    assert_eq!(script.next().brief(), (A, 5, 6, 0));
    script.flush();
    let events = script.events();
    assert!(events.iter().any(|event| matches!(event, Event::Connection { changes, .. } if changes.peer_closed)));
    assert!(matches!(events.last(), Some(Event::Closed { reason: CloseReason::Finished, .. })));
    assert_eq!(script.stack.usage(), Usage { listeners: 1, time_waits: 1, ..Usage::default() });
}

#[test]
fn fin_travels_with_the_last_bytes() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.window = 0;
    script.inject(A, 1, 1, &[]);
    script.write(10);
    script.shutdown();
    script.expect_nothing();
    script.window = 1000;
    script.inject(A, 1, 1, &[]);
    assert_eq!(script.next().brief(), (F | A, 1, 1, 10));
}

#[test]
fn passive_close_ends_with_the_last_ack() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(F | A, 1, 1, b"bye");
    assert_eq!(script.next().brief(), (A, 1, 5, 0));
    assert_eq!(script.info().state, State::CloseWait);
    script.read_to(3);
    script.write(2);
    assert_eq!(script.next().brief(), (A, 1, 5, 2));
    script.close();
    assert_eq!(script.next().brief(), (F | A, 3, 5, 0));
    assert_eq!(script.info().state, State::LastAck);
    script.inject(A, 5, 4, &[]);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    assert_eq!(script.stack.usage().time_waits, 0, "TIME-WAIT is the other side's");
}

#[test]
fn simultaneous_close_goes_through_closing() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.shutdown();
    script.next();
    script.inject(F | A, 1, 1, &[]);
    assert_eq!(script.info().state, State::Closing);
    assert_eq!(script.next().brief(), (A, 2, 2, 0));
    script.inject(A, 2, 2, &[]);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    assert_eq!(script.stack.usage().time_waits, 1);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(A, 1, 1, b"never read");
    script.next();
    script.close();
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
    assert_eq!(script.count(Counter::TcpExtTCPAbortOnClose), 1);
}

#[test]
fn linger_zero_resets() {
    let options = SocketOptions { linger_reset: true, ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    script.close();
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
}

#[test]
fn data_for_an_orphan_is_reset() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.close();
    assert_eq!(script.next().brief(), (F | A, 1, 1, 0));
    script.inject(A, 1, 2, b"too late");
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
    assert_eq!(script.count(Counter::TcpExtTCPAbortOnData), 1);
}

#[test]
fn an_orphan_does_not_wait_for_ever() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.close();
    script.next();
    script.inject(A, 1, 2, &[]);
    assert_eq!(script.info().state, State::FinWait2);
    script.pass(59_000_000);
    assert_eq!(script.closed(), None);
    script.pass(2_000_000);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    script.inject(A, 1, 2, b"x");
    assert_eq!(script.next().flags, R);
}

#[test]
fn a_reset_ends_at_once_and_is_reported_once() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(A, 1, 1, b"abc");
    script.inject(R, 4, 0, &[]);
    let events = script.events();
    assert!(
        matches!(
            events[..],
            [
                Event::Connection { status: Status { rcv_end: 3, .. }, .. },
                Event::Closed { owner: Owner(7), reason: CloseReason::Reset, .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(script.count(Counter::TcpEstabResets), 1);
    script.flush();
    script.expect_nothing();
    assert_eq!(script.stack.usage().connections, 0);
}

#[test]
fn a_reset_beside_the_mark_is_challenged() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.inject(R, 100, 0, &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
    // RFC 5961 section 7: not for every one of them.
    script.inject(R, 100, 0, &[]);
    script.expect_nothing();
    script.pass(600_000);
    script.inject(S, 100, 0, &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
    script.pass(600_000);
    // Far outside: not even that.
    script.inject(R, 10_000_000, 0, &[]);
    script.expect_nothing();
    assert_eq!(script.info().state, State::Established);
    assert_eq!(script.count(Counter::TcpExtTCPChallengeACK), 2);
    assert_eq!(script.count(Counter::TcpExtTCPACKSkippedChallenge), 1);
}

#[test]
fn abort_all_and_shutdown_all_leave_nothing() {
    for abort in [true, false] {
        let mut script = Script::accepted(plain(), &SocketOptions::default());
        script.remote_port += 1;
        script.peer_opens(plain());
        let now = script.at();
        if abort {
            script.stack.abort_all(now, &mut script.bench);
        } else {
            script.stack.shutdown_all(now, &mut script.bench);
        }
        let flags = if abort { R | A } else { F | A };
        let mut told = 0;
        while let Some(seen) = script.try_next() {
            told += u32::from(seen.flags == flags);
        }
        assert_eq!(told, 2);
    }
}

#[test]
fn closing_while_connecting_tells_nobody() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    script.close();
    script.expect_nothing();
    assert_eq!(script.closed(), Some(CloseReason::Aborted));
    script.inject_with(S | A, 0, 1, plain(), &[]);
    assert_eq!(script.next().flags, R);
}
