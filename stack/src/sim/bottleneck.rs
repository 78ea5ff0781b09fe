//! One bottleneck, and flows that share it: what congestion controllers are for. No chance but the stacks' own seeds; what is
//! measured is virtual time, queue and bytes.

use super::app::{End, Plan};
use super::frames::{SendMode, link_len};
use super::host::{Adoption, SimHost};
use super::link::{Link, LinkParams};
use super::node::{Node, NodeParams, PORT, Setup, address, mac};
use super::rng::Rng;
use super::world::World;
use crate::api::{AddressMode, InterfaceConfig, SocketOptions};
use crate::congestion::Congestion;
use crate::frame::Offload;
use crate::stack::{Config, Stack};
use core::net::{IpAddr, SocketAddr};
use std::format;
use std::vec;
use std::vec::Vec;

/// The path. Bits per second, microseconds both ways together, bytes; losses in parts of a million.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub rate: u64,
    pub round_trip: u64,
    pub queue: u64,
    pub loss: u32,
    /// Bytes that wait above which each packet is marked (RFC 9332's L queue as a step); 0: none, and no ECN.
    pub mark_above: u64,
}

impl Path {
    /// Bytes that the path holds without a queue.
    pub fn capacity(&self) -> u64 {
        self.rate * self.round_trip / 8_000_000
    }
}

/// A flow that sends all the time.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub congestion: Congestion,
    /// Microseconds after the beginning.
    pub starts: u64,
}

/// What came of it, from a moment on.
#[derive(Clone, Debug)]
pub struct Result {
    /// Bits per second of payload for each flow.
    pub goodput: Vec<u64>,
    /// Microseconds that a frame waited at the bottleneck, on average and at most.
    pub queue_mean: u64,
    pub queue_most: u64,
    pub retransmitted: u64,
}

impl Result {
    pub fn total(&self) -> u64 {
        self.goodput.iter().sum()
    }

    /// Jain's index in thousandths: 1,000 when all have the same.
    pub fn fairness(&self) -> u64 {
        let square = u128::from(self.total()).pow(2);
        let squares: u128 = self.goodput.iter().map(|&it| u128::from(it).pow(2)).sum();
        (square * 1_000 / (squares * self.goodput.len() as u128).max(1)) as u64
    }
}

const PORT_OF_SERVER: u16 = 80;
const FIRST_PORT: u16 = 20_000;
/// How often the queue is looked at.
const GLANCE: u64 = 5_000;
/// Large enough for every path here.
const BUFFER: u64 = 4_000_000;

/// Runs `flows` over `path` for `lasts` microseconds; counts from `from` on.
pub fn run(path: Path, flows: &[Flow], from: u64, lasts: u64) -> Result {
    let start = 1_000_000;
    let mut world = World::new(start, 0, format!("bottleneck {path:?} {flows:?}"));
    let mut rng = Rng::new(0x0b07_713e);
    let bottleneck = LinkParams {
        rate: path.rate,
        delay: path.round_trip / 2,
        queue: path.queue,
        loss: path.loss,
        mark_above: path.mark_above,
        ..LinkParams::default()
    };
    let back = LinkParams { delay: path.round_trip / 2, ..LinkParams::default() };
    for (index, uplink) in [bottleneck, back].into_iter().enumerate() {
        let node = node(index, uplink, flows.len() as u32, start, path.mark_above > 0, &mut rng);
        world.nodes.push(node);
    }
    for (index, flow) in flows.iter().enumerate() {
        open(&mut world, index, flow, start + flow.starts);
    }
    let received = |world: &World| -> Vec<u64> { world.nodes[1].host.streams.iter().map(|it| it.rcv_end).collect() };
    let (mut before, mut glance, mut glances) = (vec![], start + from, 0);
    let mut result = Result { goodput: vec![], queue_mean: 0, queue_most: 0, retransmitted: 0 };
    while world.now < start + lasts {
        assert!(world.step(), "senders that have something to send come to rest");
        while world.now >= glance {
            if before.is_empty() {
                before = received(&world);
            }
            let waits = world.nodes[0].uplink.backlog(glance);
            result.queue_mean += waits;
            result.queue_most = result.queue_most.max(waits);
            glances += 1;
            glance += GLANCE;
        }
    }
    result.queue_mean /= glances;
    let bits = |(after, before): (&u64, &u64)| (after - before) * 8_000_000 / (lasts - from);
    result.goodput = received(&world).iter().zip(&before).map(bits).collect();
    let stack = Stack::attach(world.nodes[0].arena.bytes()).expect("the arena holds a stack");
    result.retransmitted = stack.counters().value(crate::counters::Counter::TcpRetransSegs);
    result
}

fn open(world: &mut World, index: usize, flow: &Flow, at: u64) {
    let options = SocketOptions {
        congestion: Some(flow.congestion),
        receive_buffer: Some(BUFFER as u32),
        ..SocketOptions::default()
    };
    let plan = |total| Plan {
        total,
        write: (100_000, 100_000),
        read: (1_000_000, 1_000_000),
        write_pause: (0, 1),
        read_pause: (0, 1),
        send_buffer: BUFFER,
        receive_buffer: BUFFER,
        end: End::HalfClose,
        waits_for_acks: false,
        lazy_reader: false,
        fiddle: 0,
        options,
    };
    let keys = (index as u64 * 2, index as u64 * 2 + 1);
    let port = FIRST_PORT + index as u16;
    let first = world.nodes[0].add_app(index, plan(u64::MAX / 2), keys.0, keys.1);
    let second = world.nodes[1].add_app(index, Plan { end: End::AfterPeer, ..plan(0) }, keys.1, keys.0);
    world.nodes[1].host.owners.push((port, second));
    let (from, to) =
        (SocketAddr::new(IpAddr::V4(address(0)), port), SocketAddr::new(IpAddr::V4(address(1)), PORT_OF_SERVER));
    world.connect_at(at, 0, first, from, to);
}

fn node(index: usize, uplink: LinkParams, flows: u32, start: u64, ecn: bool, rng: &mut Rng) -> Node {
    let config = Config {
        connections: flows + 1,
        listeners: 1,
        requests: 16,
        time_waits: 16,
        ranges: 4_096,
        flights: 8_192,
        neighbours: 8,
        routes: 4,
        reassembly: 64 * 1_024,
        seed: core::array::from_fn(|place| (place + index) as u8),
        shard: 0,
        shards: 1,
    };
    let offload = Offload { max_segment: 65_535, tx_checksum: true };
    let link = crate::api::Link::Ethernet { mac: mac(index) };
    let interface = InterfaceConfig { port: PORT, link, mtu: 1_500, offload, mode: AddressMode::Own };
    let options = SocketOptions { receive_buffer: Some(BUFFER as u32), ..SocketOptions::default() };
    let setup = Setup {
        config,
        interface,
        address: address(index),
        neighbours: vec![(address(1 - index), mac(1 - index))],
        listener: (index == 1).then_some((PORT_OF_SERVER, 64, options)),
        // AccECN, asked for and accepted.
        ecn: if ecn { 3 } else { 0 },
    };
    let host = SimHost {
        rng: rng.fork(),
        link: link_len(true),
        streams: vec![],
        departures: vec![],
        port_room: usize::MAX,
        port_held: 0,
        // Cut by the port, so that the bottleneck sees segments; merged where they arrive together.
        mode: SendMode { whole: false, partial: true },
        max_segment: 65_535,
        mtu: 1_500,
        short_memory: 0,
        owners: vec![],
        may_refuse: false,
        served: vec![],
        adoption: Adoption::AtOnce,
        adopted: vec![],
        refusals: 0,
        was_busy: false,
    };
    let params = NodeParams { ethernet: true, merge: true, verify: true, split: false, lateness: 0 };
    let wires = (Link::new(uplink, rng.fork()), Link::new(LinkParams::default(), rng.fork()));
    Node::new(setup, host, start, mac(index), params, wires, rng.fork())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::println;

    /// Ten megabits per second, 40 ms, and a queue that holds as much again.
    const BROADBAND: Path = Path { rate: 10_000_000, round_trip: 40_000, queue: 50_000, loss: 0, mark_above: 0 };
    const BLOATED: Path = Path { queue: 400_000, ..BROADBAND };
    const SECOND: u64 = 1_000_000;

    fn flows(congestion: Congestion, count: u64) -> Vec<Flow> {
        (0..count).map(|index| Flow { congestion, starts: index * SECOND }).collect()
    }

    /// Nine tenths of what the wire carries is payload's by far: headers are 66 bytes of 1,514.
    #[test]
    fn each_controller_fills_a_link_with_a_queue_as_large_as_the_path() {
        for &congestion in Congestion::ALL {
            let result = run(BROADBAND, &flows(congestion, 1), 5 * SECOND, 20 * SECOND);
            // A tenth of its time LEDBAT++ is out of the way.
            let percent = if congestion == Congestion::Ledbat { 80 } else { 90 };
            assert!(result.total() * 100 > BROADBAND.rate * percent, "{congestion:?}: {result:?}");
        }
    }

    #[test]
    fn two_flows_of_one_kind_share_a_link() {
        for &congestion in Congestion::ALL {
            // LEDBAT++ comes to its share by slowing down now and then: 0.85 after 30 s, 0.97 after 45.
            let lasts = if congestion == Congestion::Ledbat { 45 } else { 30 };
            let result = run(BROADBAND, &flows(congestion, 2), 10 * SECOND, lasts * SECOND);
            assert!(result.fairness() > 900, "{congestion:?}: {result:?}");
            assert!(result.total() * 10 > BROADBAND.rate * 9, "{congestion:?}: {result:?}");
        }
    }

    /// Where there is a queue of a third of a second: CUBIC fills it, BBR does not.
    #[test]
    fn bbr_leaves_a_deep_queue_empty() {
        let loss_based = run(BLOATED, &flows(Congestion::Cubic, 1), 5 * SECOND, 20 * SECOND);
        let bbr = run(BLOATED, &flows(Congestion::Bbr, 1), 5 * SECOND, 20 * SECOND);
        assert!(loss_based.queue_mean > 150_000, "{loss_based:?}");
        assert!(bbr.queue_mean < 20_000 && bbr.retransmitted == 0, "{bbr:?}");
        assert!(bbr.total() * 10 > BLOATED.rate * 9, "{bbr:?}");
    }

    /// Sixty milliseconds of waiting is what LEDBAT++ aims at; beside CUBIC it all but stops.
    #[test]
    fn ledbat_waits_little_and_gives_way() {
        let alone = run(BLOATED, &flows(Congestion::Ledbat, 1), 5 * SECOND, 20 * SECOND);
        assert!(alone.queue_most < 100_000 && alone.total() * 10 > BLOATED.rate * 8, "{alone:?}");
        let both = [Congestion::Ledbat, Congestion::Cubic].map(|congestion| Flow { congestion, starts: 0 });
        let both = run(BLOATED, &both, 10 * SECOND, 30 * SECOND);
        assert!(both.goodput[0] * 10 < both.goodput[1], "{both:?}");
    }

    /// Marks from a millisecond of queue on, and room for forty: what L4S asks of a network (RFC 9332).
    #[test]
    fn prague_keeps_a_queue_that_marks_early_short() {
        for round_trip in [5_000, 20_000] {
            let path = Path { rate: 40_000_000, round_trip, queue: 200_000, loss: 0, mark_above: 5_000 };
            let alone = run(path, &flows(Congestion::Prague, 1), 5 * SECOND, 20 * SECOND);
            assert!(alone.total() * 100 > path.rate * 85, "{alone:?}");
            assert!(alone.queue_mean < 2_500 && alone.retransmitted == 0, "{alone:?}");
            let both = run(path, &flows(Congestion::Prague, 2), 10 * SECOND, 30 * SECOND);
            assert!(both.fairness() > 900 && both.total() * 100 > path.rate * 85, "{both:?}");
            assert!(both.queue_mean < 2_500 && both.retransmitted == 0, "{both:?}");
        }
    }

    /// One percent of loss that has nothing to do with congestion.
    #[test]
    fn bbr_keeps_a_lossy_link_filled() {
        let path = Path { loss: 10_000, ..BROADBAND };
        let result = run(path, &flows(Congestion::Bbr, 1), 5 * SECOND, 20 * SECOND);
        assert!(result.total() * 10 > path.rate * 8, "{result:?}");
    }

    #[test]
    #[ignore = "a table for people, see docs/congestion-control.md"]
    fn table() {
        println!(
            "{:10} {:>30} {:>9} {:>7} {:>9} {:>9} {:>7}",
            "", "path", "Mbit/s", "Jain", "queue ms", "most ms", "resent"
        );
        let shallow = Path { queue: 10_000, ..BROADBAND };
        let lossy = Path { loss: 10_000, ..BROADBAND };
        let far = Path { rate: 50_000_000, round_trip: 100_000, queue: 625_000, loss: 0, mark_above: 0 };
        for (name, path) in
            [("broadband", BROADBAND), ("bloated", BLOATED), ("shallow", shallow), ("lossy 1 %", lossy), ("far", far)]
        {
            for &congestion in Congestion::ALL {
                for flows in [
                    vec![Flow { congestion, starts: 0 }],
                    vec![Flow { congestion, starts: 0 }, Flow { congestion, starts: 2 * SECOND }],
                ] {
                    let result = run(path, &flows, 5 * SECOND, 20 * SECOND);
                    println!(
                        "{:10} {:>30} {:>9.2} {:>7.3} {:>9.1} {:>9.1} {:>7}",
                        congestion.name(),
                        format!("{name}, {} flows", flows.len()),
                        result.total() as f64 / 1e6,
                        result.fairness() as f64 / 1e3,
                        result.queue_mean as f64 / 1e3,
                        result.queue_most as f64 / 1e3,
                        result.retransmitted
                    );
                }
            }
        }
    }
}
