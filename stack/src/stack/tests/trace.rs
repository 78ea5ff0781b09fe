//! What the trace says of a connection that is looked at: why something was sent again, windows, timers, the end.

use super::bench::*;
use crate::wire::{SackBlock, SackBlocks, SeqNumber, TcpOptions};
use crate::*;
use std::vec::Vec;

const MSS: u32 = 1460;
const ROUND_TRIP: u64 = 20_000;

/// A sender that is looked at, with ten segments in flight.
fn watched(offer: TcpOptions) -> Script<'static> {
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    let mut script = script.accept(offer, &SocketOptions::default());
    script.stack.watch(script.at(), script.id.unwrap()).unwrap();
    script.write(1_000_000);
    for _ in 0..10 {
        script.next();
    }
    script.pass(ROUND_TRIP);
    script
}

fn happenings(script: &mut Script<'_>) -> Vec<Happening> {
    std::iter::from_fn(|| script.stack.poll_trace()).map(|traced| traced.what).collect()
}

/// Why segment `place`, counted from 0, was sent, each time.
fn reasons(happenings: &[Happening], place: u32) -> Vec<Why> {
    let first = u64::from(place * MSS) + 1;
    let reason = |what: &Happening| match what {
        Happening::Sent { seq, len, why, .. } if *len > 0 && (*seq..*seq + u64::from(*len)).contains(&first) => {
            Some(*why)
        }
        _ => None,
    };
    happenings.iter().filter_map(reason).collect()
}

fn sack(script: &mut Script<'_>, ack: u32, from: u32, to: u32) {
    let number = |at: u32| SeqNumber(script.iss.wrapping_add(1 + at * MSS));
    let mut list = SackBlocks::default();
    list.push(SackBlock { start: number(from), end: number(to) });
    script.inject_with(A, 1, 1 + ack * MSS, TcpOptions { sack: list, ..TcpOptions::default() }, &[]);
}

fn with_sack() -> TcpOptions {
    sack_only()
}

#[test]
fn a_repair_says_what_found_the_loss() {
    let mut script = watched(with_sack());
    for to in 2..=5 {
        sack(&mut script, 0, 1, to);
    }
    let seen = happenings(&mut script);
    assert_eq!(reasons(&seen, 0), [Why::New, Why::Rack], "{seen:?}");
    assert!(seen.contains(&Happening::Recovery { from: 1, to: 3 }), "{seen:?}");
    assert!(seen.iter().any(|what| matches!(what, Happening::Lost { why: Why::Rack, .. })));
    let block = Happening::Sacked { start: u64::from(MSS) + 1, end: u64::from(5 * MSS) + 1 };
    assert!(seen.contains(&block), "{seen:?}");
    assert!(seen.iter().any(|what| matches!(what, Happening::Reduction { .. })));
}

#[test]
fn silence_brings_a_probe_and_then_a_timeout() {
    let mut script = watched(with_sack());
    happenings(&mut script);
    script.pass(3_000_000);
    let seen = happenings(&mut script);
    assert!(seen.contains(&Happening::Fired { timer: Timer::TailProbe }), "{seen:?}");
    assert!(seen.contains(&Happening::Fired { timer: Timer::Retransmission }));
    let sent = |wanted: Why| seen.iter().any(|what| matches!(what, Happening::Sent { why, .. } if *why == wanted));
    assert!(sent(Why::TailProbe) && sent(Why::Timeout), "{seen:?}");
    assert!(seen.iter().any(|what| matches!(what, Happening::Recovery { to: 4, .. })));
    let counted = Happening::Counted { what: Counter::TcpExtTCPTimeouts, amount: 1 };
    assert!(seen.contains(&counted), "counters are part of the vocabulary");
}

#[test]
fn duplicates_tell_peers_without_sack() {
    let mut script = watched(plain());
    for _ in 0..3 {
        script.inject(A, 1, 1, &[]);
    }
    let seen = happenings(&mut script);
    assert_eq!(reasons(&seen, 0), [Why::New, Why::Duplicates], "{seen:?}");
}

#[test]
fn the_standing_comes_first_and_the_end_last() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    let id = script.id.unwrap();
    script.stack.watch(script.at(), id).unwrap();
    assert_eq!(script.stack.watch(script.at(), id), Err(Error::Invalid), "once is enough");
    script.inject(R, 1, 0, &[]);
    let seen = happenings(&mut script);
    assert!(matches!(seen[0], Happening::RoundTrip { .. }), "{seen:?}");
    assert!(seen.iter().any(|what| matches!(what, Happening::Window { .. })));
    assert!(seen.contains(&Happening::State { from: State::Established, to: State::Closed }), "{seen:?}");
    assert_eq!(seen.last(), Some(&Happening::Ended { reason: CloseReason::Reset }));
    assert_eq!(script.stack.watch(script.at(), id), Err(Error::Gone));
}

#[test]
fn nobody_else_is_traced() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(100);
    script.pass(300_000);
    assert_eq!(happenings(&mut script), []);
}

#[test]
fn every_mode_has_a_name() {
    let names = [(Congestion::Cubic, 2), (Congestion::Bbr, 7), (Congestion::Ledbat, 5)];
    for (kind, modes) in names {
        assert!((0..modes).all(|mode| kind.mode_name(mode) != "unknown"));
        assert_eq!(kind.mode_name(modes), "unknown");
    }
}
