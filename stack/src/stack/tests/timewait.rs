//! TIME-WAIT: what it answers, whom it lets in, when it goes.

use super::bench::*;
use crate::wire::{TcpOptions, Timestamps};
use crate::*;

fn waiting(offer: TcpOptions) -> Script<'static> {
    let mut script = Script::accepted(offer, &SocketOptions::default());
    script.shutdown();
    script.next();
    script.inject(F | A, 1, 2, &[]);
    assert_eq!(script.next().brief(), (A, 2, 2, 0));
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    assert_eq!(script.stack.usage().time_waits, 1);
    script
}

#[test]
fn it_acknowledges_a_repeated_fin_and_waits_anew() {
    let mut script = waiting(plain());
    script.pass(50_000_000);
    script.inject(F | A, 1, 2, &[]);
    assert_eq!(script.next().brief(), (A, 2, 2, 0));
    script.pass(50_000_000);
    assert_eq!(script.stack.usage().time_waits, 1);
    script.pass(11_000_000);
    assert_eq!(script.stack.usage().time_waits, 0);
    assert_eq!(script.stack.next_timeout(), None);
}

#[test]
fn a_reset_does_not_assassinate_it() {
    let mut script = waiting(plain());
    script.stack.set_sysctls(&Sysctls { rfc1337: 1, ..Sysctls::LINUX });
    script.inject(R, 2, 0, &[]);
    assert_eq!(script.stack.usage().time_waits, 1);
    script.expect_nothing();
}

#[test]
fn a_new_syn_beyond_the_old_numbers_reopens() {
    let mut script = waiting(plain());
    let old = script.iss;
    script.inject_with(S, 50_000, 0, plain(), &[]);
    let answer = script.next();
    assert_eq!((answer.flags, answer.ack), (S | A, 50_001));
    assert_eq!(script.iss.wrapping_sub(old), 2 + 65_537);
    assert_eq!(script.stack.usage().time_waits, 0);
    assert_eq!(script.count(Counter::TcpExtTWRecycled), 1);
}

#[test]
fn an_old_syn_is_only_acknowledged() {
    let mut script = waiting(plain());
    script.inject_with(S, 0, 0, plain(), &[]);
    assert_eq!(script.next().brief(), (A, 2, 2, 0));
    assert_eq!(script.stack.usage().time_waits, 1);
}

#[test]
fn timestamps_decide_where_there_are_any() {
    let mut script = waiting(usual());
    let now = (script.now / 1_000) as u32;
    let with = |value| TcpOptions { timestamps: Some(Timestamps { value, echo: 0 }), ..usual() };
    // Older: refused, though the number would do.
    script.inject_with(S, 50_000, 0, with(now - 10), &[]);
    assert_eq!(script.next().brief(), (A, 2, 2, 0));
    assert_eq!(script.stack.usage().time_waits, 1);
    // Newer: taken, though the number lies before.
    script.inject_with(S, 0u32.wrapping_sub(500), 0, with(now + 10), &[]);
    assert_eq!(script.next().flags, S | A);
    assert_eq!(script.stack.usage().time_waits, 0);
}

#[test]
fn connect_takes_a_four_tuple_over_when_time_stamps_prove_it_new() {
    let mut script = waiting(usual());
    let local = std::net::SocketAddr::from((OURS, OUR_PORT));
    let remote = std::net::SocketAddr::from((PEER, PEER_PORT));
    let now = script.at();
    let options = SocketOptions::default();
    let early = script.stack.connect(now, Owner(7), local, remote, &options, &mut script.bench);
    assert_eq!(early, Err(Error::AddressInUse));
    script.pass(3_000_000);
    let now = script.at();
    assert!(script.stack.connect(now, Owner(7), local, remote, &options, &mut script.bench).is_ok());
    assert_eq!(script.stack.usage().time_waits, 0);
}

#[test]
fn with_no_room_for_it_the_connection_just_ends() {
    let config = Config { time_waits: 0, ..config() };
    let mut script = Script::with_stack(stack(&config, OURS, 1500, 1500)).accept(plain(), &SocketOptions::default());
    script.shutdown();
    script.next();
    script.inject(F | A, 1, 2, &[]);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
    assert_eq!(script.count(Counter::TcpExtTCPTimeWaitOverflow), 1);
}
