//! Scenarios: families of circumstances, named by what the wire and the applications do. A seed draws everything else.

use super::app::{End, Plan};
use super::frames::{SendMode, link_len};
use super::host::{Adoption, SimHost};
use super::link::{Link, LinkParams, Narrow, NarrowKind};
use super::node::{Node, NodeParams, PORT, Setup, address, mac};
use super::rng::Rng;
use super::world::World;
use crate::api::{AddressMode, CloseReason, InterfaceConfig, SocketOptions};
use crate::congestion::Congestion;
use crate::frame::Offload;
use crate::stack::Config;
use crate::time::{Duration, Instant};
use core::net::{IpAddr, SocketAddr};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// What the circumstances have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    CleanLink,
    LossyLink,
    ReorderingLink,
    CorruptingLink,
    SlowReader,
    ShortMemory,
    ThinPipe,
    FailingLink,
    BusyPort,
    OldPeer,
    NarrowPath,
    ManyConnections,
    AbruptEnds,
    SimultaneousOpen,
    Everything,
}

impl Family {
    pub const ALL: [Family; 15] = [
        Family::CleanLink,
        Family::LossyLink,
        Family::ReorderingLink,
        Family::CorruptingLink,
        Family::SlowReader,
        Family::ShortMemory,
        Family::ThinPipe,
        Family::FailingLink,
        Family::BusyPort,
        Family::OldPeer,
        Family::NarrowPath,
        Family::ManyConnections,
        Family::AbruptEnds,
        Family::SimultaneousOpen,
        Family::Everything,
    ];

    /// A seed names its family: the remainder by the number of families.
    pub fn of_seed(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }
}

/// The circumstances of one run.
pub struct Scenario {
    pub family: Family,
    pub seed: u64,
    rng: Rng,
    /// Who uses ECN and what the links mark; drawn apart, so that what a seed meant without ECN it still means.
    ecn: Rng,
    mtu: u16,
    ethernet: bool,
    loss_scale: u32,
    /// Links may fail while connections are being opened; neighbours are known from the beginning then, since nobody
    /// resolves one over a link that is down.
    early_outages: bool,
    /// Options that the path does not know. The same both ways: an option that one side sees agreed upon and the other
    /// does not breaks any TCP.
    strip: Vec<u8>,
    /// Few half-open records and a short backlog: handshakes may end in a reset, as on Linux when a cookie's ACK finds
    /// the accept queue full or is lost while data follows.
    tight: bool,
}

const SERVER_PORT: u16 = 80;
const FIRST_CLIENT_PORT: u16 = 20_000;

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mtu = rng.pick(&[1_500, 1_500, 1_500, 1_400, 576, 9_000]);
        let ethernet = rng.chance(800_000);
        let loss_scale = rng.magnitude(1, 64) as u32;
        let early_outages = rng.chance(500_000);
        let mut scenario = Self {
            family: Family::of_seed(seed),
            seed,
            rng,
            ecn: Rng::new(super::rng::mix(seed)),
            mtu,
            ethernet,
            loss_scale,
            early_outages,
            strip: vec![],
            tight: false,
        };
        scenario.tight = scenario.is(&[Family::ManyConnections, Family::Everything]) && scenario.rng.chance(500_000);
        if scenario.also(Family::OldPeer) {
            // Window scale, SACK permitted, timestamps; one or two of them.
            scenario.strip = vec![3, 4, 8];
            scenario.strip.remove(scenario.rng.below(3) as usize);
            if scenario.rng.chance(500_000) {
                scenario.strip.remove(scenario.rng.below(2) as usize);
            }
        }
        scenario
    }

    fn is(&self, families: &[Family]) -> bool {
        families.contains(&self.family)
    }

    /// One thing in three where everything may happen.
    fn also(&mut self, family: Family) -> bool {
        self.family == family || (self.family == Family::Everything && self.rng.chance(333_333))
    }

    /// Builds nodes, wires, applications. `keep_trace`: lines of the packet trace.
    pub fn build(mut self, keep_trace: usize) -> World {
        let start = self.rng.magnitude(1, 1 << 45);
        let repeat = format!("PERSONA_SEED={} cargo test -p persona-stack --lib one_seed -- --nocapture", self.seed);
        let mut world = World::new(start, keep_trace, repeat);
        let nodes = if self.is(&[Family::ManyConnections]) { self.rng.between(2, 5) as usize } else { 2 };
        let flows = match self.family {
            Family::ManyConnections => self.rng.between(5, 25),
            _ => self.rng.magnitude(1, 4),
        } as usize;
        for index in 0..nodes {
            let node = self.node(index, nodes, flows, start);
            world.nodes.push(node);
        }
        let least = if self.tight { 1 } else { flows as u64 };
        let backlog = self.rng.between(least, 30) as u32;
        world.may_refuse = self.tight;
        for flow in 0..flows {
            let client = self.rng.below(nodes as u64) as usize;
            let server = (client + 1 + self.rng.below(nodes as u64 - 1) as usize) % nodes;
            self.flow(&mut world, flow, client, server, start, backlog);
        }
        world
    }

    fn flow(&mut self, world: &mut World, flow: usize, client: usize, server: usize, start: u64, backlog: u32) {
        let keys = (self.rng.next(), self.rng.next());
        let size = self.size();
        let mut plans = (self.plan(size), {
            let size = self.size();
            self.plan(size)
        });
        // Two ends that wait for each other's end wait for ever.
        if plans.0.end == End::AfterPeer && plans.1.end == End::AfterPeer {
            plans.1.end = End::HalfClose;
        }
        let slow = plans.0.waits_for_acks || plans.1.waits_for_acks;
        (plans.0.waits_for_acks, plans.1.waits_for_acks) = (slow, slow);
        let client_port = FIRST_CLIENT_PORT + flow as u16;
        let from = SocketAddr::new(IpAddr::V4(address(client)), client_port);
        let spread = if self.rng.chance(500_000) { 1 } else { 300_000 };
        let begin = start + self.rng.below(spread);
        if self.also(Family::SimultaneousOpen) {
            // Both ends connect; their SYNs cross if the wire is slow enough.
            let to = SocketAddr::new(IpAddr::V4(address(server)), 30_000 + flow as u16);
            let first = world.nodes[client].add_app(flow, plans.0, keys.0, keys.1);
            let second = world.nodes[server].add_app(flow, plans.1, keys.1, keys.0);
            world.connect_at(begin, client, first, from, to);
            let apart = self.rng.below(self.least_delay(world, client, server) + 1);
            world.connect_at(begin + apart, server, second, to, from);
            return;
        }
        // The listener's buffer is what connections begin with.
        let node = &mut world.nodes[server];
        if node.setup.listener.is_none() {
            let options = SocketOptions { receive_buffer: Some(LISTENER_BUFFER), ..plans.1.options };
            node.setup.listener = Some((SERVER_PORT, backlog, options));
            node.arena = node.setup.build(Instant::from_micros(start), &mut node.host);
        }
        let mut second = plans.1;
        second.receive_buffer = u64::from(LISTENER_BUFFER);
        second.options.receive_buffer = Some(LISTENER_BUFFER);
        let to = SocketAddr::new(IpAddr::V4(address(server)), SERVER_PORT);
        let owner = world.nodes[client].add_app(flow, plans.0, keys.0, keys.1);
        let other = world.nodes[server].add_app(flow, second, keys.1, keys.0);
        world.nodes[server].host.owners.push((client_port, other));
        world.connect_at(begin, client, owner, from, to);
    }

    /// The shortest time that a frame takes from one node to the other: SYNs that leave closer together than this cross.
    fn least_delay(&self, world: &World, a: usize, b: usize) -> u64 {
        let delay = |node: usize| world.nodes[node].uplink.params.delay;
        delay(a).min(delay(b)).saturating_sub(1)
    }

    fn node(&mut self, index: usize, nodes: usize, flows: usize, start: u64) -> Node {
        let tight = self.tight;
        let requests = if tight { self.rng.between(1, 4) as u32 } else { 16 };
        let ranges = if tight { self.rng.between(4, 60) as u32 } else { 512 };
        let config = Config {
            connections: flows as u32 + 1,
            listeners: 2,
            requests,
            time_waits: 64,
            ranges,
            flights: if tight { ranges / 4 } else { 2_048 },
            neighbours: 8,
            routes: 4,
            reassembly: 64 * 1_024,
            seed: core::array::from_fn(|_| self.rng.next() as u8),
            shard: 0,
            shards: 1,
        };
        let big = self.rng.chance(500_000);
        let max_segment = if big { self.rng.between(u64::from(self.mtu), 65_535) as u32 } else { u32::from(self.mtu) };
        let offload = Offload { max_segment, tx_checksum: self.rng.chance(500_000) };
        let link = if self.ethernet { crate::api::Link::Ethernet { mac: mac(index) } } else { crate::api::Link::Ip };
        let interface = InterfaceConfig { port: PORT, link, mtu: self.mtu, offload, mode: AddressMode::Own };
        let short_memory = if self.also(Family::ShortMemory) { self.rng.between(1_000, 300_000) as u32 } else { 0 };
        let busy = self.also(Family::BusyPort);
        // A refused handshake is lost, as on Linux, when its half-open record runs out before it is asked for again: when
        // a link is down that long, or when there is no record but a cookie.
        let patient = !tight && !self.is(&[Family::FailingLink, Family::Everything]);
        let mut host = SimHost {
            rng: self.rng.fork(),
            link: link_len(self.ethernet),
            streams: vec![],
            departures: vec![],
            port_room: if busy { self.rng.magnitude(1, 64) as usize } else { usize::MAX },
            port_held: 0,
            mode: SendMode { whole: self.rng.chance(400_000), partial: self.rng.chance(400_000) },
            max_segment: max_segment as usize,
            mtu: usize::from(self.mtu),
            short_memory,
            owners: vec![],
            may_refuse: tight,
            served: vec![],
            adoption: self.rng.pick(if patient { &ADOPTIONS } else { &ADOPTIONS[..2] }),
            adopted: vec![],
            refusals: 0,
            was_busy: false,
        };
        // A router that reports has to see wire frames: what it lets through in one piece it could not report.
        if self.is(&[Family::NarrowPath]) {
            host.mode.whole = false;
        }
        let may_fail = self.is(&[Family::FailingLink, Family::Everything]);
        let resolves = self.rng.chance(500_000) && !(may_fail && self.early_outages);
        let others = (0..nodes).filter(|&other| other != index && !resolves);
        let neighbours = others.map(|other| (address(other), mac(other))).collect();
        let setup = Setup {
            config,
            interface,
            address: address(index),
            neighbours,
            listener: None,
            ecn: self.ecn.below(6) as u32,
        };
        let params = NodeParams {
            ethernet: self.ethernet,
            merge: self.rng.chance(500_000),
            verify: self.rng.chance(700_000),
            split: self.rng.chance(200_000),
            lateness: self.rng.pick(&[0, 0, 20, 200, 2_000]),
        };
        let uplink = self.link(start);
        let wires = (Link::new(uplink, self.rng.fork()), Link::new(LinkParams::default(), self.rng.fork()));
        Node::new(setup, host, start, mac(index), params, wires, self.rng.fork())
    }

    fn link(&mut self, start: u64) -> LinkParams {
        let scale = self.loss_scale;
        let mut params = LinkParams { delay: self.rng.magnitude(5, 100_000), ..LinkParams::default() };
        if self.rng.chance(300_000) {
            params.rate = self.rng.magnitude(10_000_000, 10_000_000_000);
        }
        if self.also(Family::LossyLink)
            || self.is(&[
                Family::SlowReader,
                Family::CorruptingLink,
                Family::OldPeer,
                Family::ManyConnections,
                Family::SimultaneousOpen,
                Family::AbruptEnds,
                Family::NarrowPath,
            ])
        {
            params.loss = self.rng.between(0, u64::from(scale) * 1_500) as u32;
            if self.rng.chance(300_000) {
                params.burst = self.rng.below(4_000) as u32;
                params.burst_length = self.rng.magnitude(100, 300_000);
            }
        }
        if self.also(Family::ReorderingLink) {
            params.jitter = self.rng.magnitude(1, 30_000);
            params.reorder = self.rng.below(200_000) as u32;
            params.reorder_delay = self.rng.magnitude(10, 200_000);
            params.duplicate = self.rng.below(100_000) as u32;
        }
        if self.also(Family::CorruptingLink) {
            params.corrupt = self.rng.between(1_000, u64::from(scale) * 1_500 + 1_000) as u32;
        }
        if self.also(Family::ThinPipe) {
            params.rate = self.rng.magnitude(200_000, 20_000_000);
            params.queue = self.rng.magnitude(4_000, 200_000);
            params.mark_above = if self.ecn.chance(600_000) { params.queue / 3 } else { 0 };
        }
        if self.also(Family::FailingLink) {
            // A handshake is given up after a minute without a link, and a SYN,ACK that was repeated makes a long timeout.
            let (most, longest) = if self.early_outages { (1, 8_000_000) } else { (3, 20_000_000) };
            for _ in 0..self.rng.between(1, most) {
                let earliest = if self.early_outages { 0 } else { 1_000_000 };
                let from = start + earliest + self.rng.magnitude(1_000, 20_000_000);
                params.outages.push((from, from + self.rng.magnitude(10_000, longest)));
            }
        }
        if self.is(&[Family::BusyPort]) && params.rate == 0 {
            params.rate = self.rng.magnitude(5_000_000, 2_000_000_000);
        }
        if self.ecn.chance(200_000) {
            params.mark = self.ecn.magnitude(1_000, 300_000) as u32;
        }
        params.strip = self.strip.clone();
        if self.also(Family::NarrowPath) && self.mtu > 600 {
            let mtu = self.rng.between(600, u64::from(self.mtu) - 1) as usize;
            let kind = self.rng.pick(&[NarrowKind::Fragments, NarrowKind::Reports]);
            params.narrow = Some(Narrow { mtu, kind });
        }
        params
    }

    fn size(&mut self) -> u64 {
        let most = match self.family {
            Family::ManyConnections => 60_000,
            Family::ThinPipe => 150_000,
            _ if self.rng.chance(100_000) => 4_000_000,
            _ => 500_000,
        };
        if self.rng.chance(100_000) { 0 } else { self.rng.magnitude(1, most) }
    }

    fn plan(&mut self, total: u64) -> Plan {
        let slow = self.also(Family::SlowReader);
        let receive_buffer =
            if slow { self.rng.magnitude(2_400, 40_000) } else { self.rng.magnitude(8_000, 1_000_000) };
        let end = match self.rng.below(4) {
            0 if self.also(Family::AbruptEnds) => End::CloseEarly,
            1 if self.also(Family::AbruptEnds) => End::AbortAt(self.rng.below(total + 1)),
            2 => End::AfterPeer,
            _ => End::HalfClose,
        };
        let read_pause = match slow {
            true => (self.rng.between(10_000, 500_000) as u32, self.rng.magnitude(1_000, 20_000_000)),
            false => (self.rng.below(100_000) as u32, self.rng.magnitude(1, 100_000)),
        };
        let abrupt = self.tight || self.is(&[Family::AbruptEnds, Family::Everything]);
        let options = SocketOptions {
            nodelay: self.rng.chance(300_000),
            // Whoever waits for a peer that vanished has to notice.
            keepalive: abrupt,
            keep_idle: Some(Duration::from_secs(10)),
            keep_interval: Some(Duration::from_secs(5)),
            // Longer than any link is down.
            keep_count: Some(20),
            max_segment: self.rng.chance(150_000).then(|| self.rng.between(536, 1_460) as u16),
            congestion: Some(self.rng.pick(Congestion::ALL)),
            receive_buffer: Some(receive_buffer as u32),
            tune_receive: self.seed & 16 != 0,
            ..SocketOptions::default()
        };
        let longest = self.rng.magnitude(1, 100_000);
        Plan {
            total,
            write: (1 + total / 8_000, longest.max(total / 400)),
            read: (self.rng.magnitude(1, 4_000), self.rng.magnitude(4_000, 200_000)),
            write_pause: (self.rng.below(200_000) as u32, self.rng.magnitude(1, 300_000)),
            read_pause,
            send_buffer: self.rng.magnitude(2_000, 1_000_000),
            receive_buffer,
            end,
            waits_for_acks: slow || self.is(&[Family::ShortMemory, Family::Everything]),
            lazy_reader: self.rng.chance(500_000),
            fiddle: if self.rng.chance(200_000) { 100_000 } else { 0 },
            options,
        }
    }
}

const ADOPTIONS: [Adoption; 3] = [Adoption::AtOnce, Adoption::Later, Adoption::AfterRefusals(2)];

/// Receive buffer of connections that a listener made.
const LISTENER_BUFFER: u32 = 65_536;

/// Whether every connection ended as it had to; called when all have.
pub fn judge(world: &World) -> Result<(), String> {
    let ends: Vec<_> = world.nodes.iter().flat_map(|node| node.apps.iter().map(move |app| (node, app))).collect();
    for (node, app) in &ends {
        let streams = &node.host.streams[app.owner.0 as usize];
        // The other end is the one with the same contents, the other way round.
        let peer =
            ends.iter().find(|(node, app)| node.host.streams[app.owner.0 as usize].send_key == streams.receive_key);
        let Some((peer_node, peer)) = peer else { return Err("a connection with one end".into()) };
        let orderly = app.plan.end.is_orderly() && peer.plan.end.is_orderly();
        let reason = app.closed;
        if !orderly {
            if let (End::AbortAt(_), true, true) = (app.plan.end, app.ended, reason != Some(CloseReason::Aborted)) {
                return Err(format!("aborted, and it ended with {reason:?}"));
            }
            continue;
        }
        let sent = &peer_node.host.streams[peer.owner.0 as usize];
        if world.may_refuse && [app, peer].iter().any(|app| app.connection.is_none() && !app.opened) {
            continue;
        }
        if reason != Some(CloseReason::Finished) {
            return Err(format!("both ends are orderly, and one ended with {reason:?}"));
        }
        // What arrived may still wait to be read: the memory is the application's.
        if streams.rcv_end != peer.plan.total || sent.written != peer.plan.total {
            return Err(format!("{} of {} bytes arrived", streams.rcv_end, peer.plan.total));
        }
    }
    Ok(())
}
