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

/// A connection that makes progress keeps its next hop's entry: no ARP request after the first, however long it lasts.
#[test]
fn progress_proves_the_next_hop() {
    let config = config();
    let mut stack = Stack::format(memory(&config), &config, Instant::from_micros(1_000_000)).unwrap();
    let link = Link::Ethernet { mac: [2, 0, 0, 0, 0, 1] };
    stack.add_interface(&InterfaceConfig { link, ..interface(1500, 1514) }).unwrap();
    stack.add_address(PORT, OURS.into(), 24).unwrap();
    let mut bench = Frames::default();
    let peer = [2, 0, 0, 0, 0, 2];
    let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
    let any = "0.0.0.0:0".parse().unwrap();
    let remote = std::net::SocketAddr::from((PEER, 80));
    // The neighbour answers, the handshake completes.
    let id = stack.connect(at(1), Owner(7), any, remote, &SocketOptions::default(), &mut bench).unwrap();
    assert_eq!(stack.ip_counters().arp_out_requests, 1);
    bench.reply_to_arp(&mut stack, at(1), peer);
    let mut script = Script::with_stack(stack);
    script.local_port = script.stack.local_address(id).unwrap().port();
    script.remote_port = 80;
    script.iss = bench.iss();
    let deliver = |script: &mut Script<'_>, seconds: u64, flags, ack: u32, options| {
        let seq = u32::from(flags == A);
        let mut frame = std::vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend_from_slice(&script.packet(flags, seq, ack, options, 0, &[]));
        script.stack.on_frame(at(seconds), PORT, &RxFrame::single(&frame), &mut Frames::default());
    };
    deliver(&mut script, 1, S | A, 1, plain());
    for round in 1..20u64 {
        let seconds = 1 + round * 20;
        script.stack.write(at(seconds), id, round * 10, &mut bench).unwrap();
        deliver(&mut script, seconds, A, 1 + round as u32 * 10, Default::default());
        script.stack.on_timeout(at(seconds), &mut bench);
    }
    assert_eq!(script.stack.info(at(400), id).unwrap().bytes_acked, 190);
    assert_eq!(script.stack.ip_counters().arp_out_requests, 1);
    // Idle for long, the entry is asked for again.
    script.stack.write(at(600), id, 200, &mut bench).unwrap();
    assert_eq!(script.stack.ip_counters().arp_out_requests, 2);
}

/// Keeps the headers of frames as they are.
#[derive(Default)]
struct Frames(std::vec::Vec<std::vec::Vec<u8>>);

impl Frames {
    fn reply_to_arp(&mut self, stack: &mut Stack<'_>, now: Instant, mac: [u8; 6]) {
        let request = self.0.iter().find(|frame| frame[12..14] == [8, 6]).unwrap().clone();
        let mut reply = request;
        let (ours, our_ip) =
            (<[u8; 6]>::try_from(&reply[22..28]).unwrap(), <[u8; 4]>::try_from(&reply[28..32]).unwrap());
        let their_ip = <[u8; 4]>::try_from(&reply[38..42]).unwrap();
        reply[..6].copy_from_slice(&ours);
        reply[6..12].copy_from_slice(&mac);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&mac);
        reply[28..32].copy_from_slice(&their_ip);
        reply[32..38].copy_from_slice(&ours);
        reply[38..42].copy_from_slice(&our_ip);
        stack.on_frame(now, PORT, &RxFrame::single(&reply), self);
    }

    /// Initial sequence number of the SYN that was sent.
    fn iss(&self) -> u32 {
        let syn = self.0.iter().find(|frame| frame[12..14] == [8, 0] && u16::from(frame[47]) == S.0).unwrap();
        u32::from_be_bytes(syn[38..42].try_into().unwrap())
    }
}

impl Host for Frames {
    fn transmit(&mut self, _port: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        self.0.push(segment.header.to_vec());
        Ok(())
    }

    fn store(&mut self, _owner: Owner, _offset: u64, _bytes: &[u8]) -> Stored {
        Stored { len: 0, sum: 0 }
    }
}
