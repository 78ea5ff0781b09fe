//! Two stacks back to back over a link in memory: bulk transfer, both ways, with and without super-segments.

use super::bench::*;
use crate::*;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::vec::Vec;

/// One end with its application.
pub(super) struct End {
    pub(super) stack: Stack<'static>,
    pub(super) bench: Bench,
    pub(super) id: Option<ConnectionId>,
    pub(super) rcv_end: u64,
    pub(super) acked: u64,
    pub(super) peer_closed: bool,
    pub(super) closed: Vec<CloseReason>,
}

impl End {
    pub(super) fn new(stack: Stack<'static>) -> Self {
        Self { stack, bench: Bench::new(), id: None, rcv_end: 0, acked: 0, peer_closed: false, closed: Vec::new() }
    }

    /// Takes events; the application reads all that there is.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Connection { connection, status, changes, .. } => {
                    self.id = Some(connection);
                    self.rcv_end = status.rcv_end;
                    self.acked = status.snd_acked;
                    self.peer_closed |= changes.peer_closed;
                    // A connection that has ended in the same batch is gone already: nothing is left to tell it.
                    let _ = self.stack.read(now, connection, status.rcv_end, &mut self.bench);
                }
                Event::Closed { reason, .. } => self.closed.push(reason),
                Event::Incoming { .. } | Event::NeighbourWanted { .. } => panic!("{event:?}"),
            }
        }
        self.stack.flush(now, &mut self.bench);
    }
}

/// Two ends and a link with a delay, driven by virtual time.
pub(super) struct Pair {
    pub(super) ends: [End; 2],
    /// Packets on their way to each end, with their time of arrival.
    wire: [VecDeque<(u64, Vec<u8>)>; 2],
    pub(super) now: u64,
    delay: u64,
    /// Least time between two packets on the wire, and when the next one may arrive.
    gap: u64,
    free: [u64; 2],
    /// Packets with data that the link lost.
    lost: u64,
    /// Decides whether a packet is lost.
    pub(super) lose: fn(u64) -> bool,
    sent: u64,
    quiet: bool,
}

impl Pair {
    pub(super) fn new(max_segment: u32, delay: u64) -> Self {
        let make =
            |address, seed| End::new(stack(&Config { seed: [seed; 32], ..config() }, address, 1500, max_segment));
        Self {
            ends: [make(OURS, 1), make(PEER, 2)],
            wire: Default::default(),
            now: 1_000_000,
            delay,
            gap: 0,
            free: [0; 2],
            lost: 0,
            lose: |_| false,
            sent: 0,
            quiet: false,
        }
    }

    pub(super) fn at(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    /// Opens a connection from the first end to the second.
    pub(super) fn open(&mut self, options: &SocketOptions) {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80);
        self.ends[1].stack.listen(Owner(1), any, 4, options).unwrap();
        let now = self.at();
        let client = &mut self.ends[0];
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let remote = SocketAddr::new(PEER.into(), 80);
        let id = client.stack.connect(now, Owner(7), local, remote, options, &mut client.bench).unwrap();
        client.id = Some(id);
        self.run(|pair| pair.ends[1].id.is_some());
    }

    /// Moves both connections to new stacks, whose clocks go on from the same time.
    pub(super) fn move_ends(&mut self) {
        let now = self.at();
        for (place, address) in [OURS, PEER].into_iter().enumerate() {
            let end = &mut self.ends[place];
            let mut bytes = [0; EXPORT_MAX];
            let len = end.stack.export(now, end.id.unwrap(), &mut bytes).unwrap();
            end.stack = stack(&config(), address, 1500, 1500);
            end.id = Some(end.stack.import(now, Owner(7), &bytes[..len]).unwrap());
        }
    }

    pub(super) fn write(&mut self, end: usize, to: u64) {
        let now = self.at();
        let end = &mut self.ends[end];
        end.stack.write(now, end.id.unwrap(), to, &mut end.bench).unwrap();
    }

    pub(super) fn shutdown(&mut self, end: usize) {
        let now = self.at();
        let end = &mut self.ends[end];
        end.stack.shutdown(now, end.id.unwrap(), &mut end.bench).unwrap();
    }

    /// Steps until `done`.
    pub(super) fn run(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..1_000_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("not done after a million steps, at {}", self.now);
    }

    pub(super) fn step(&mut self) {
        let now = self.at();
        for place in 0..2 {
            self.ends[place].settle(now);
            while let Some(packet) = self.ends[place].bench.sent.pop_front() {
                self.sent += 1;
                let to = 1 - place;
                if (self.lose)(self.sent) {
                    self.lost += u64::from(packet.len() > 100);
                    continue;
                }
                let at = self.free[to].max(self.now + self.delay);
                self.free[to] = at + self.gap;
                self.wire[to].push_back((at, packet));
            }
        }
        let arrivals = self.wire.iter().filter_map(|queue| queue.front().map(|(at, _)| *at));
        let timers = self.ends.iter().filter_map(|end| end.stack.next_timeout()).map(Instant::as_micros);
        let Some(next) = arrivals.chain(timers).min() else {
            // What the ends were told just now may be all that was waited for.
            if !core::mem::replace(&mut self.quiet, true) {
                return;
            }
            let states: Vec<_> =
                self.ends.iter().map(|end| (&end.closed, end.rcv_end, end.stack.connections(now).next())).collect();
            panic!("nothing will ever happen again: {states:#?}");
        };
        self.quiet = false;
        self.now = next.max(self.now);
        let now = self.at();
        let mut moved = false;
        for place in 0..2 {
            while self.wire[place].front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, packet) = self.wire[place].pop_front().unwrap();
                let end = &mut self.ends[place];
                end.stack.on_frame(now, PORT, &RxFrame::single(&packet), &mut end.bench);
                moved = true;
            }
        }
        if !moved {
            for end in &mut self.ends {
                if end.stack.next_timeout().is_some_and(|next| next <= now) {
                    end.stack.on_timeout(now, &mut end.bench);
                }
            }
            self.now += 1;
        }
    }

    /// What `end` received is the beginning of the pattern, `len` bytes long.
    pub(super) fn check(&self, end: usize, len: u64) {
        let received = &self.ends[end].bench.received[&7];
        assert_eq!(received.len() as u64, len);
        assert!(received.iter().zip(0..).all(|(byte, offset)| *byte == pattern(offset)), "bytes differ");
    }
}

fn bulk(max_segment: u32, delay: u64, lose: fn(u64) -> bool, options: &SocketOptions, len: u64) -> Pair {
    let mut pair = Pair::new(max_segment, delay);
    pair.open(options);
    pair.lose = lose;
    pair.write(0, len);
    pair.write(1, len / 2);
    pair.run(|pair| pair.ends[1].rcv_end == len && pair.ends[0].rcv_end == len / 2);
    pair.shutdown(0);
    pair.run(|pair| pair.ends[1].peer_closed);
    pair.shutdown(1);
    pair.run(|pair| !pair.ends[0].closed.is_empty() && !pair.ends[1].closed.is_empty());
    pair.check(1, len);
    pair.check(0, len / 2);
    for end in &pair.ends {
        assert_eq!(end.closed, [CloseReason::Finished]);
        let usage = end.stack.usage();
        assert_eq!((usage.connections, usage.requests, usage.ranges), (0, 0, 0));
    }
    assert_eq!(pair.ends[0].stack.usage().time_waits, 1);
    pair
}

#[test]
fn a_clean_link_carries_every_byte_without_a_retransmission() {
    let pair = bulk(1500, 100, |_| false, &SocketOptions::default(), 5_000_000);
    for end in &pair.ends {
        assert_eq!(end.stack.counters().value(Counter::TcpRetransSegs), 0);
        assert_eq!(end.stack.counters().value(Counter::TcpInErrs), 0);
    }
}

#[test]
fn super_segments_carry_the_same_bytes() {
    let pair = bulk(65_535, 100, |_| false, &SocketOptions::default(), 5_000_000);
    assert!(pair.ends[0].bench.super_segments.iter().any(|len| *len > 20_000));
    assert_eq!(pair.ends[0].stack.counters().value(Counter::TcpRetransSegs), 0);
}

#[test]
fn loss_is_repaired_by_sack() {
    let pair = bulk(1500, 5_000, |sent| sent % 97 == 0, &SocketOptions::default(), 2_000_000);
    let counters = pair.ends[0].stack.counters();
    assert!(counters.value(Counter::TcpExtTCPSackRecovery) > 0);
    assert!(counters.value(Counter::TcpExtTCPFastRetrans) > 0);
}

#[test]
fn loss_is_repaired_under_newreno_and_with_large_buffers() {
    let options = SocketOptions {
        congestion: Some(Congestion::NewReno),
        receive_buffer: Some(4_000_000),
        ..SocketOptions::default()
    };
    bulk(65_535, 20_000, |sent| sent % 31 == 0, &options, 3_000_000);
}

#[test]
fn heavy_loss_only_takes_longer() {
    bulk(1500, 2_000, |sent| (sent * 2_654_435_761) >> 8 & 7 == 0, &SocketOptions::default(), 200_000);
}

/// A long path that keeps the order: what is sent again was lost, but for a probe here and there.
#[test]
fn only_what_was_lost_is_sent_again() {
    let options = SocketOptions {
        congestion: Some(Congestion::NewReno),
        receive_buffer: Some(4_000_000),
        ..SocketOptions::default()
    };
    let len = 6_000_000;
    let mut pair = Pair::new(1500, 300_000);
    // 20 Mbit/s, and a hundredth of all packets lost, acknowledgements among them.
    pair.gap = 600;
    pair.open(&options);
    pair.lose = |sent| (sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 100 == 0;
    pair.write(0, len);
    pair.run(|pair| pair.ends[1].rcv_end == len);
    let counters = pair.ends[0].stack.counters();
    let (again, lost) = (counters.value(Counter::TcpRetransSegs), pair.lost);
    let probes = counters.value(Counter::TcpExtTCPLossProbes);
    assert!(again <= lost + probes, "{again} segments were sent again, {lost} packets were lost, {probes} probes");
    assert_eq!(counters.value(Counter::TcpExtTCPTimeouts), 0);
}

/// What Linux's header prediction would have taken is counted under its names.
#[test]
fn a_smooth_transfer_is_predicted() {
    let len = 1 << 20;
    let mut pair = Pair::new(1500, 100);
    pair.open(&SocketOptions::default());
    pair.write(0, len);
    pair.run(|pair| pair.ends[1].rcv_end == len && pair.ends[0].acked == len);
    let [hits, acks] = [(1, Counter::TcpExtTCPHPHits), (0, Counter::TcpExtTCPHPAcks)]
        .map(|(end, counter)| pair.ends[end].stack.counters().value(counter));
    let segments = len / 1460;
    assert!((segments * 9 / 10..segments * 2).contains(&hits), "{hits} of {segments} segments");
    // Most acknowledgements tell of another window, as the reader goes along.
    assert!((1..segments * 2).contains(&acks), "{acks} acknowledgements of {segments} segments");
}
