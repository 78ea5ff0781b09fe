//! [`Stack`]: the face of the crate. What each call does is in the modules it delegates to.

use crate::api::*;
use crate::frame::{Owner, PortId, RxFrame};
use crate::time::{Duration, Instant};
use core::net::{IpAddr, SocketAddr};

/// How many records of each kind the arena holds, and what seeds the secrets.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Synchronised connections and connections we open.
    pub connections: u32,
    pub listeners: u32,
    /// Half-open passive connections; beyond that, SYN cookies.
    pub requests: u32,
    pub time_waits: u32,
    /// Records of out-of-order and SACK ranges, shared by all connections.
    pub ranges: u32,
    pub neighbours: u32,
    pub routes: u32,
    /// Bytes for the reassembly of IP fragments.
    pub reassembly: u32,
    /// Secret; initial sequence numbers, cookies and hashes derive from it. Must be unpredictable in production.
    pub seed: [u8; 32],
    /// This stack is shard `shard` of `shards`; ephemeral ports are chosen so that [`flow_shard`] is `shard`.
    pub shard: u8,
    pub shards: u8,
}

/// The shard that owns a flow: the same on every shard with the same seed, independent of direction's arrival queue.
pub fn flow_shard(_seed: &[u8; 32], _shards: u8, _local: SocketAddr, _remote: SocketAddr) -> u8 {
    todo!()
}

/// What [`Stack::classify`] says of a frame before it is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This shard processes it (ours, not a flow, or malformed).
    Here,
    /// Another shard owns the flow.
    Shard(u8),
    /// Every shard must see it (ARP, neighbour state).
    All,
}

/// One shard's network stack.
pub struct Stack<'m> {
    _memory: &'m mut [u8],
}

/// The memory is too small, misaligned (64 bytes), or holds something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    TooSmall {
        needed: usize,
    },
    Misaligned,
    /// Other magic or version than this build's.
    Foreign,
}

impl Config {
    /// Bytes of arena memory that this configuration needs.
    pub fn memory_size(&self) -> usize {
        todo!()
    }
}

#[allow(unused_variables)]
impl<'m> Stack<'m> {
    /// Makes a fresh stack in `memory`.
    pub fn format(memory: &'m mut [u8], config: &Config, now: Instant) -> Result<Self, MemoryError> {
        todo!()
    }

    /// Goes on with the stack that lies in `memory` (a predecessor's, or a copy).
    pub fn attach(memory: &'m mut [u8]) -> Result<Self, MemoryError> {
        todo!()
    }

    // Interfaces, addresses, routes.

    pub fn add_interface(&mut self, interface: &InterfaceConfig) -> Result<(), Error> {
        todo!()
    }

    pub fn add_address(&mut self, port: PortId, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        todo!()
    }

    pub fn remove_address(&mut self, port: PortId, address: IpAddr) -> Result<(), Error> {
        todo!()
    }

    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        todo!()
    }

    pub fn remove_route(&mut self, route: &Route) -> Result<(), Error> {
        todo!()
    }

    /// A neighbour known from elsewhere: static configuration, or the host's table in shared mode (`None`: it is
    /// gone or failed).
    pub fn set_neighbour(&mut self, port: PortId, address: IpAddr, mac: Option<[u8; 6]>) -> Result<(), Error> {
        todo!()
    }

    // Input, time, output.

    /// Who owns the flow of `frame`; looks at addresses and ports only.
    pub fn classify(&self, port: PortId, frame: &RxFrame<'_>) -> Ownership {
        todo!()
    }

    pub fn on_frame<H: Host>(&mut self, now: Instant, port: PortId, frame: &RxFrame<'_>, host: &mut H) {
        todo!()
    }

    pub fn on_timeout<H: Host>(&mut self, now: Instant, host: &mut H) {
        todo!()
    }

    /// When [`Stack::on_timeout`] has to be called at the latest; `None`: not before the next input.
    pub fn next_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Sends what the batch left pending.
    pub fn flush<H: Host>(&mut self, now: Instant, host: &mut H) {
        todo!()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    // Commands.

    /// `local.ip()` unspecified: any address; port 0 is refused (the caller assigns ports of listeners).
    pub fn listen(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> Result<ListenerId, Error> {
        todo!()
    }

    /// No new connections; those not yet adopted are aborted.
    pub fn unlisten<H: Host>(&mut self, now: Instant, listener: ListenerId, host: &mut H) -> Result<(), Error> {
        todo!()
    }

    /// Opens a connection. `local` port 0: an ephemeral port of this shard's from `ports`; unspecified address: by route.
    pub fn connect<H: Host>(
        &mut self,
        now: Instant,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        options: &SocketOptions,
        host: &mut H,
    ) -> Result<ConnectionId, Error> {
        todo!()
    }

    /// Gives an incoming connection its owner; bytes are stored from now on (before, they are not acknowledged).
    pub fn adopt<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        owner: Owner,
        host: &mut H,
    ) -> Result<(), Error> {
        todo!()
    }

    /// The application has written up to stream offset `end`. Sends what may be sent.
    pub fn write<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        end: u64,
        host: &mut H,
    ) -> Result<(), Error> {
        todo!()
    }

    /// The application has read up to stream offset `offset`. Sends a window update when one is due.
    pub fn read<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        offset: u64,
        host: &mut H,
    ) -> Result<(), Error> {
        todo!()
    }

    /// shutdown(SHUT_WR): FIN after the bytes written so far.
    pub fn shutdown<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        todo!()
    }

    /// close(): as Linux. RST when bytes were received and not read or linger is 0; else FIN after the bytes written, and the
    /// connection lives on without an owner reading it (the host keeps the send stream until `Closed`).
    pub fn close<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        todo!()
    }

    /// Ends with RST.
    pub fn abort<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        todo!()
    }

    /// The bytes up to stream offset `end` end with an urgent byte (MSG_OOB).
    pub fn urgent(&mut self, connection: ConnectionId, end: u64) -> Result<(), Error> {
        todo!()
    }

    pub fn set_options<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        options: &SocketOptions,
        host: &mut H,
    ) -> Result<(), Error> {
        todo!()
    }

    // Looking in.

    pub fn local_address(&self, connection: ConnectionId) -> Result<SocketAddr, Error> {
        todo!()
    }
}

/// Default bound on how long an orphan lives; here so that the engine can show it.
pub const ORPHAN_LIFETIME: Duration = Duration::from_secs(60);
