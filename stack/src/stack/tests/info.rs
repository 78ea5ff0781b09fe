//! What is told of sending (TCP_INFO): each figure moves when its cause comes, and not before.

use super::bench::*;
use crate::wire::{SackBlock, SackBlocks, SeqNumber, TcpOptions};
use crate::*;

const MSS: u32 = 1460;
const ROUND_TRIP: u64 = 20_000;

fn sending() -> Script<'static> {
    let mut script = Script::new();
    script.round_trip = ROUND_TRIP;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    assert_eq!(script.info().sending, Sending::default(), "nothing was sent");
    script.write(1_000_000);
    for _ in 0..10 {
        script.next();
    }
    script.pass(ROUND_TRIP);
    script
}

fn sack(script: &mut Script<'_>, ack: u32, from: u32, to: u32) {
    let number = |at: u32| SeqNumber(script.iss.wrapping_add(1 + at * MSS));
    let mut list = SackBlocks::default();
    list.push(SackBlock { start: number(from), end: number(to) });
    script.inject_with(A, 1, 1 + ack * MSS, TcpOptions { sack: list, ..TcpOptions::default() }, &[]);
}

#[test]
fn what_is_sent_again_counts_in_bytes_and_is_under_way() {
    let mut script = sending();
    for to in 2..=5 {
        sack(&mut script, 0, 1, to);
    }
    let told = script.info().sending;
    assert_eq!((told.bytes_retrans, told.resent), (u64::from(MSS), MSS));
    script.inject(A, 1, 1 + 5 * MSS, &[]);
    let told = script.info().sending;
    assert_eq!((told.bytes_retrans, told.resent), (u64::from(MSS), 0));
}

#[test]
fn rows_of_timeouts_are_counted_and_timed() {
    let mut script = sending();
    script.pass(3_000_000);
    let told = script.info().sending;
    assert!(told.total_rto >= 2, "{told:?}");
    assert_eq!((told.total_rto_recoveries, told.total_rto_time), (1, 0), "the row is not over: {told:?}");
    let nxt = script.info().unacked as u32;
    script.inject(A, 1, 1 + nxt, &[]);
    let told = script.info().sending;
    assert_eq!(told.total_rto_recoveries, 1);
    assert!((500..3_500).contains(&told.total_rto_time), "{told:?}");
}

#[test]
fn duplicates_and_reordering_are_counted() {
    let mut script = sending();
    sack(&mut script, 0, 3, 4);
    sack(&mut script, 0, 2, 4);
    assert_eq!(script.info().sending.reord_seen, 1, "the third came after the fourth");
    script.inject(A, 1, 1 + 4 * MSS, &[]);
    assert_eq!(script.info().sending.dsack_dups, 0);
    sack(&mut script, 4, 1, 3);
    assert_eq!(script.info().sending.dsack_dups, 2);
}

#[test]
fn busy_and_kept_back_by_the_peers_window() {
    let mut script = sending();
    let busy = script.info().sending.busy.as_micros();
    assert!(busy >= ROUND_TRIP, "{busy}");
    assert_eq!(script.info().sending.rwnd_limited.as_micros(), 0, "it is the congestion window that is full");
    script.window = 0;
    script.inject(A, 1, 1 + 10 * MSS, &[]);
    script.pass(50_000);
    let told = script.info().sending;
    assert!(told.rwnd_limited.as_micros() >= 50_000, "{told:?}");
    assert!(told.busy.as_micros() >= busy + 50_000);
}

#[test]
fn the_rate_is_what_was_delivered_in_a_round_trip() {
    let mut script = sending();
    script.inject(A, 1, 1 + 10 * MSS, &[]);
    let told = script.info().sending;
    // Ten segments in twenty milliseconds or a little more.
    let rate = u64::from(10 * MSS) * 1_000_000 / ROUND_TRIP;
    assert!((rate / 2..=rate).contains(&told.delivery_rate), "{told:?}");
    assert!(!told.app_limited);
}
