//! SYN cookies on the wire.

use super::bench::*;
use crate::wire::{TcpOptions, Timestamps};
use crate::*;

/// A script whose half-open records are all taken.
fn flooded() -> Script<'static> {
    let mut script = Script::new();
    script.listen(100, &SocketOptions::default());
    for port in 100..108 {
        script.remote_port = port;
        script.inject_with(S, 0, 0, plain(), &[]);
        script.next();
    }
    script.remote_port = PEER_PORT;
    script
}

#[test]
fn a_flooded_listener_still_serves_and_keeps_options_in_the_timestamp() {
    let mut script = flooded();
    script.stamps = true;
    script.inject_with(S, 0, 0, TcpOptions { window_scale: Some(9), ..usual() }, &[]);
    let answer = script.next();
    assert_eq!(answer.brief(), (S | A, 0, 1, 0));
    assert_eq!(script.count(Counter::TcpExtSyncookiesSent), 1);
    assert_eq!(script.stack.usage().requests, 8, "nothing is remembered");
    script.now += 10_000;
    script.inject(A, 1, 1, b"data");
    let events = script.events();
    let connection = events.iter().find_map(|event| match event {
        Event::Connection { connection, .. } => Some(*connection),
        _ => None,
    });
    script.id = connection;
    let info = script.info();
    assert_eq!((info.state, info.sack, info.timestamps), (State::Established, true, true));
    assert_eq!((info.snd_scale, info.snd_mss), (9, 1448));
    assert_eq!(script.received(), b"data");
    assert_eq!(script.next().brief(), (A, 1, 5, 0));
    // The clock goes on from the marked timestamp.
    script.write(10);
    assert_eq!(script.next().brief(), (A, 1, 5, 10));
}

#[test]
fn without_timestamps_only_the_mss_survives() {
    let mut script = flooded();
    script.inject_with(S, 0, 0, TcpOptions { mss: Some(1200), ..sack_only() }, &[]);
    let answer = script.next();
    assert!(!answer.options.sack_permitted && answer.options.window_scale.is_none());
    script.inject(A, 1, 1, &[]);
    script.id = script.events().iter().find_map(|event| match event {
        Event::Connection { connection, .. } => Some(*connection),
        _ => None,
    });
    assert_eq!((script.info().sack, script.info().snd_mss), (false, 1024));
}

#[test]
fn a_forged_or_stale_cookie_is_reset() {
    let mut script = flooded();
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.inject(A, 1, 9, &[]);
    assert_eq!(script.next().flags, R);
    script.pass(200_000_000);
    while script.try_next().is_some() {}
    script.inject(A, 1, 1, &[]);
    assert_eq!(script.next().flags, R);
    assert_eq!(script.count(Counter::TcpExtSyncookiesFailed), 2);
    assert_eq!(script.stack.usage().connections, 0);
}

#[test]
fn stamps_of_cookies_are_never_ahead() {
    let mut script = flooded();
    let offer = TcpOptions { timestamps: Some(Timestamps { value: 1, echo: 0 }), ..usual() };
    script.stamps = true;
    script.inject_with(S, 0, 0, offer, &[]);
    let marked = script.next().options.timestamps.unwrap().value;
    script.now += 1_000;
    script.inject(A, 1, 1, &[]);
    script.id = script.events().iter().find_map(|event| match event {
        Event::Connection { connection, .. } => Some(*connection),
        _ => None,
    });
    script.write(1);
    let after = script.next().options.timestamps.unwrap().value;
    assert!(after.wrapping_sub(marked) < 200, "{marked} {after}");
}
