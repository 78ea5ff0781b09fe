//! Sending: windows, Nagle, cork, silly windows, super-segments, a port without room, urgent data.

use super::bench::*;
use crate::*;

fn nodelay() -> SocketOptions {
    SocketOptions { nodelay: true, ..SocketOptions::default() }
}

#[test]
fn the_initial_window_is_ten_segments() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(100_000);
    for part in 0..10 {
        assert_eq!(script.next().brief(), (A, 1 + part * 1460, 1, 1460));
    }
    script.expect_nothing();
    // Slow start: two for one.
    script.inject(A, 1, 1461, &[]);
    assert_eq!(script.next().seq, 14_601);
    assert_eq!(script.next().seq, 16_061);
    script.expect_nothing();
}

#[test]
fn bytes_come_from_the_stream_and_the_last_segment_pushes() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(2000);
    let (first, last) = (script.next(), script.next());
    assert!(!first.flags.psh() && last.flags.psh());
    let sent: std::vec::Vec<u8> = first.payload.into_iter().chain(last.payload).collect();
    assert!(sent.iter().zip(0..).all(|(byte, offset)| *byte == pattern(offset)));
}

#[test]
fn the_peers_window_is_obeyed_to_the_byte() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.window = 2000;
    script.inject(A, 1, 1, &[]);
    script.write(10_000);
    assert_eq!(script.next().brief(), (A, 1, 1, 1460));
    // 540 bytes of room: neither a segment nor half of the largest window (65,535).
    script.expect_nothing();
    script.window = 3000;
    script.inject(A, 1, 1461, &[]);
    assert_eq!(script.next().brief(), (A, 1461, 1, 1460));
    assert_eq!(script.next().brief(), (A, 2921, 1, 1460));
    script.expect_nothing();
}

#[test]
fn half_of_the_largest_window_is_worth_a_segment() {
    let mut script = Script::new();
    script.window = 800;
    let mut script = script.accept(plain(), &SocketOptions::default());
    script.write(10_000);
    assert_eq!(script.next().len(), 800);
    script.window = 300;
    script.inject(A, 1, 801, &[]);
    script.expect_nothing();
    script.window = 400;
    script.inject(A, 1, 801, &[]);
    assert_eq!(script.next().len(), 400);
}

#[test]
fn nagle_holds_a_second_small_segment() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(10);
    assert_eq!(script.next().len(), 10);
    script.write(20);
    script.expect_nothing();
    script.write(30);
    script.expect_nothing();
    script.inject(A, 1, 11, &[]);
    assert_eq!(script.next().brief(), (A, 11, 1, 20));
    // Minshall: a small segment waits for small ones only.
    script.inject(A, 1, 31, &[]);
    script.write(30 + 1460 + 5);
    assert_eq!(script.next().len(), 1460);
    assert_eq!(script.next().len(), 5);
}

#[test]
fn nodelay_sends_at_once() {
    let mut script = Script::accepted(plain(), &nodelay());
    for end in 1..5 {
        script.write(end);
        assert_eq!(script.next().len(), 1);
    }
}

#[test]
fn cork_holds_for_two_hundred_milliseconds_and_uncorking_sends() {
    let corked = SocketOptions { cork: true, nodelay: true, ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &corked);
    script.write(100);
    script.expect_nothing();
    script.pass(150_000);
    script.expect_nothing();
    script.pass(100_000);
    assert_eq!(script.next().len(), 100);
    script.inject(A, 1, 101, &[]);
    script.write(200);
    script.expect_nothing();
    let (now, id) = (script.at(), script.id());
    script.stack.set_options(now, id, &nodelay(), &mut script.bench).unwrap();
    assert_eq!(script.next().len(), 100);
    // A FIN takes what is corked along.
    script.stack.set_options(now, id, &corked, &mut script.bench).unwrap();
    script.write(250);
    script.expect_nothing();
    script.shutdown();
    assert_eq!(script.next().brief(), (F | A, 201, 1, 50));
}

#[test]
fn super_segments_are_whole_multiples_unless_they_end_the_stream() {
    let mut script = Script::with_gso().accept(plain(), &SocketOptions::default());
    script.write(100_000);
    assert_eq!(script.bench.super_segments, [14_600]);
    script.inject(A, 1, 14_601, &[]);
    assert_eq!(script.bench.super_segments, [14_600, 29_200]);
    let mut seq = 1;
    while let Some(seen) = script.try_next() {
        assert_eq!((seen.seq, seen.len()), (seq, 1460));
        seq += 1460;
    }
    script.bench.super_segments.clear();
    script.inject(A, 1, 43_801, &[]);
    script.flush();
    assert!(script.bench.super_segments.iter().all(|len| *len <= 65_535 - 94));
    assert_eq!(script.bench.super_segments.iter().sum::<usize>(), 100_000 - 43_800);
}

#[test]
fn a_full_port_delays_and_loses_nothing() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.bench.busy = true;
    script.write(3000);
    script.inject(A, 1, 1, b"x");
    script.flush();
    assert!(script.stack.output_pending());
    assert!(script.bench.sent.is_empty());
    script.bench.busy = false;
    assert_eq!(script.next().brief(), (A, 1, 2, 1460));
    assert_eq!(script.next().len(), 1460);
    assert_eq!(script.next().len(), 80);
    script.expect_nothing();
    assert!(!script.stack.output_pending());
    assert_eq!(script.count(Counter::TcpRetransSegs), 0);
}

#[test]
fn a_full_port_delays_the_syn_too() {
    let mut script = Script::new();
    script.bench.busy = true;
    script.connect(&SocketOptions::default());
    script.flush();
    script.bench.busy = false;
    assert_eq!(script.next().flags, S);
    assert_eq!(script.count(Counter::TcpRetransSegs), 0);
}

#[test]
fn urgent_data_travels_in_segments_that_say_so() {
    let mut script = Script::with_gso().accept(plain(), &SocketOptions::default());
    let id = script.id();
    script.stack.urgent(id, 2000).unwrap();
    script.write(2000);
    let first = script.next();
    assert_eq!((first.flags.urg(), first.urgent, first.len()), (true, 2000, 1460));
    let second = script.next();
    assert_eq!((second.flags.urg(), second.urgent, second.len()), (true, 540, 540));
    script.write(2010);
    script.inject(A, 1, 2001, &[]);
    assert!(!script.next().flags.urg());
}

#[test]
fn an_idle_connection_starts_again_from_its_initial_window() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    let mut acked = 0;
    script.write(200_000);
    while acked < 200_000 {
        while let Some(seen) = script.try_next() {
            acked = seen.seq - 1 + seen.len() as u32;
        }
        script.now += 10_000;
        script.inject(A, 1, 1 + acked, &[]);
    }
    let grown = script.info().cwnd;
    assert!(grown > 40_000, "{grown}");
    script.pass(10_000_000);
    script.write(400_000);
    assert_eq!(script.info().cwnd, 14_600);
    assert!(script.info().ssthresh >= grown / 4 * 3);
}

#[test]
fn an_idle_application_does_not_grow_the_window() {
    let mut script = Script::accepted(plain(), &nodelay());
    let mut end = 0;
    for _ in 0..100 {
        end += 100;
        script.write(end);
        script.next();
        script.inject(A, 1, 1 + end as u32, &[]);
    }
    assert_eq!(script.info().cwnd, 14_600);
}
