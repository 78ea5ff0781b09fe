//! A machine of the simulation: the stack's memory, its host, its applications, its wires; how it is set up, and what
//! it makes of the stack's events.

use super::app::{App, Plan};
use super::frames::Frame;
use super::host::{SimHost, Streams};
use super::link::Link;
use super::rng::Rng;
use crate::api::{ConnectionId, Event, InterfaceConfig, SocketOptions};
use crate::frame::{Owner, PortId};
use crate::stack::{Config, Stack};
use crate::sysctl::Sysctls;
use crate::time::Instant;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::vec;
use std::vec::Vec;

/// The only port of each node.
pub const PORT: PortId = PortId(0);

/// Memory of one stack, aligned as it has to be, and copied as it lies.
pub struct Arena {
    bytes: Vec<u8>,
    len: usize,
}

impl Arena {
    const ALIGN: usize = 64;

    pub fn new(len: usize) -> Self {
        Self { bytes: vec![0; len + Self::ALIGN], len }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.bytes.as_ptr().align_offset(Self::ALIGN);
        &mut self.bytes[start..start + self.len]
    }
}

impl Clone for Arena {
    fn clone(&self) -> Self {
        let start = self.bytes.as_ptr().align_offset(Self::ALIGN);
        let mut copy = Self::new(self.len);
        copy.bytes().copy_from_slice(&self.bytes[start..start + self.len]);
        copy
    }
}

/// How a node's port receives, and how punctual its loop is.
#[derive(Clone, Copy, Debug)]
pub struct NodeParams {
    pub ethernet: bool,
    /// Merges trains.
    pub merge: bool,
    /// Verifies checksums.
    pub verify: bool,
    /// Delivers long frames in several buffers.
    pub split: bool,
    /// Frames and timers wait up to this long until the loop comes round, in microseconds.
    pub lateness: u64,
}

/// What a stack is made with, so that another one can take its place.
pub struct Setup {
    pub config: Config,
    pub interface: InterfaceConfig,
    pub address: Ipv4Addr,
    pub neighbours: Vec<(Ipv4Addr, [u8; 6])>,
    /// Port, backlog, options of new connections.
    pub listener: Option<(u16, u32, SocketOptions)>,
    /// net.ipv4.tcp_ecn.
    pub ecn: u32,
}

impl Setup {
    /// A stack of this kind without connections.
    pub fn build(&self, now: Instant, host: &mut SimHost) -> Arena {
        let mut arena = Arena::new(self.config.memory_size());
        let mut stack = Stack::format(arena.bytes(), &self.config, now).expect("memory fits");
        stack.set_sysctls(&Sysctls { ecn: self.ecn, ..Sysctls::LINUX });
        stack.add_interface(&self.interface).expect("the interface is sane");
        stack.add_address(PORT, IpAddr::V4(self.address), 24).expect("the address is sane");
        for &(address, mac) in &self.neighbours {
            stack.set_neighbour(PORT, IpAddr::V4(address), Some(mac), host).expect("there is room for neighbours");
        }
        if let Some((port, backlog, options)) = &self.listener {
            let local = SocketAddr::new(IpAddr::V4(self.address), *port);
            // Listeners of a simulation have no use for an owner of their own.
            stack.listen(Owner(u64::MAX), local, *backlog, options).expect("the port is free");
        }
        arena
    }
}

/// A machine with a stack.
pub struct Node {
    pub setup: Setup,
    pub arena: Arena,
    pub host: SimHost,
    pub apps: Vec<App>,
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
    pub params: NodeParams,
    pub uplink: Link,
    pub downlink: Link,
    /// Frames that the next round of its loop takes.
    pub(super) arrived: Vec<Frame>,
    /// When the next round is scheduled.
    pub(super) poll_at: Option<u64>,
    pub(super) rng: Rng,
}

impl Node {
    pub fn new(
        setup: Setup,
        mut host: SimHost,
        now: u64,
        mac: [u8; 6],
        params: NodeParams,
        (uplink, downlink): (Link, Link),
        rng: Rng,
    ) -> Self {
        let arena = setup.build(Instant::from_micros(now), &mut host);
        let address = setup.address;
        Self {
            setup,
            arena,
            host,
            apps: vec![],
            address,
            mac,
            params,
            uplink,
            downlink,
            arrived: vec![],
            poll_at: None,
            rng,
        }
    }

    /// Adds an application; the next owner is its.
    pub fn add_app(&mut self, flow: usize, plan: Plan, send_key: u64, receive_key: u64) -> Owner {
        let owner = Owner(self.apps.len() as u64);
        let room = plan.receive_buffer;
        self.host.streams.push(Streams::new(send_key, receive_key, room));
        let rng = self.rng.fork();
        self.apps.push(App::new(owner, flow, plan, rng));
        owner
    }
}

impl Node {
    /// Tells the applications what the stack reports.
    pub(super) fn on_event(&mut self, now: Instant, event: &Event, stack: &mut Stack<'_>) {
        self.take_over_adopted();
        match *event {
            Event::Incoming { connection, remote, .. } => {
                let owner = self.host.owner_of(remote.port());
                if self.host.may_refuse && self.host.served.contains(&owner) {
                    stack.abort(now, connection, &mut self.host).expect("an incoming connection can be refused");
                    return;
                }
                self.take_over(owner, connection);
                stack.adopt(now, connection, owner, &mut self.host).expect("an incoming connection can be adopted");
            }
            Event::Connection { connection, owner, changes, status } => {
                let app = &mut self.apps[owner.0 as usize];
                assert_eq!(app.connection, Some(connection), "an event of another connection's");
                assert_eq!(app.closed, None, "an event after the connection's end");
                app.established |= changes.established;
                app.peer_closed |= changes.peer_closed;
                app.on_status(&status, &mut self.host);
            }
            Event::NeighbourWanted { .. } => panic!("no node is in shared mode"),
            Event::Closed { owner, connection, reason } => {
                let app = &mut self.apps[owner.0 as usize];
                assert_eq!(app.connection, Some(connection), "the end of another connection");
                assert_eq!(app.closed, None, "the end twice");
                app.closed = Some(reason);
            }
        }
    }

    /// Connections that were adopted in the middle of a segment.
    pub(super) fn take_over_adopted(&mut self) {
        for (owner, connection) in core::mem::take(&mut self.host.adopted) {
            self.take_over(owner, connection);
        }
    }

    fn take_over(&mut self, owner: Owner, connection: ConnectionId) {
        let app = &mut self.apps[owner.0 as usize];
        assert_eq!(app.connection, None, "one connection twice");
        app.connection = Some(connection);
        app.established = true;
        self.host.served.push(owner);
    }
}

/// Address of node `index`.
pub fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 1 + index as u8)
}

/// Hardware address of node `index`.
pub fn mac(index: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, 1 + index as u8]
}
