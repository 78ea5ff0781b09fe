//! [`Stack`]: the face of the crate. What each call does is in the modules it delegates to.

mod arena;
#[cfg(any(test, feature = "sim"))]
mod audit;
mod commands;
mod core;
mod dispatch;
mod inspect;
mod work;

use self::core::Core;
pub use self::inspect::Usage;
use crate::api::*;
use crate::frame::{Owner, PortId, RxFrame};
use crate::ip::{self, Reassembly, Received};
use crate::sysctl::Sysctls;
use crate::time::{Duration, Instant};
use ::core::net::{IpAddr, SocketAddr};

/// How many records of each kind the arena holds, and what seeds the secrets.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Synchronised connections and connections we open.
    pub connections: u32,
    pub listeners: u32,
    /// Half-open passive connections; beyond that, SYN cookies.
    pub requests: u32,
    pub time_waits: u32,
    /// Records of what arrived out of order, shared by all connections.
    pub ranges: u32,
    /// Records of what is in flight, beyond one for each connection: shared by all connections.
    pub flights: u32,
    pub neighbours: u32,
    pub routes: u32,
    /// Bytes for the reassembly of IP fragments.
    pub reassembly: u32,
    /// Secret; initial sequence numbers, cookies and hashes derive from it. Must be unpredictable in production.
    pub seed: [u8; 32],
    /// This stack is shard `shard` of `shards`; ephemeral ports are chosen so that
    /// [`flow_shard`](crate::flow_shard) is `shard`.
    pub shard: u8,
    pub shards: u8,
}

/// What [`Stack::classify`] says of a frame before it is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This shard processes it (ours, not a flow, or malformed).
    Here,
    /// Another shard owns the flow.
    Shard(u8),
    /// Every shard must see it (ARP, neighbour state, fragments).
    All,
}

/// One shard's network stack.
pub struct Stack<'m> {
    core: Core<'m>,
    reassembly: Reassembly<'m>,
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

impl<'m> Stack<'m> {
    /// Makes a fresh stack in `memory`.
    pub fn format(memory: &'m mut [u8], config: &Config, now: Instant) -> Result<Self, MemoryError> {
        arena::format(memory, config, now)
    }

    /// Goes on with the stack that lies in `memory` (a predecessor's, or a copy).
    pub fn attach(memory: &'m mut [u8]) -> Result<Self, MemoryError> {
        arena::attach(memory)
    }

    // Interfaces, addresses, routes.

    pub fn add_interface(&mut self, interface: &InterfaceConfig) -> Result<(), Error> {
        self.core.env.net.interfaces.add(interface)
    }

    pub fn add_address(&mut self, port: PortId, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        self.core.env.net.add_address(port, address, prefix_len)
    }

    pub fn remove_address(&mut self, port: PortId, address: IpAddr) -> Result<(), Error> {
        self.core.env.net.remove_address(port, address)
    }

    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        let net = &mut self.core.env.net;
        net.routes.add(net.interfaces, route)
    }

    pub fn remove_route(&mut self, route: &Route) -> Result<(), Error> {
        self.core.env.net.routes.remove(route)
    }

    /// A neighbour known from elsewhere: static configuration, or the host's table in shared mode (`None`: it is
    /// gone or failed). Frames that waited for it leave at once, what was refused with the next flush.
    pub fn set_neighbour<H: Host>(
        &mut self,
        port: PortId,
        address: IpAddr,
        mac: Option<[u8; 6]>,
        host: &mut H,
    ) -> Result<(), Error> {
        self.core.env.net.set_neighbour(port, address, mac, host)
    }

    /// The range that ephemeral ports are taken from; Linux's ip_local_port_range by default.
    pub fn set_port_range(&mut self, first: u16, last: u16) -> Result<(), Error> {
        if first == 0 || first > last {
            return Err(Error::Invalid);
        }
        self.core.env.globals.first_port = first;
        self.core.env.globals.last_port = last;
        Ok(())
    }

    /// Ranges, both ends included, that ephemeral ports are not taken from (Linux's ip_local_reserved_ports); at most
    /// [`RESERVED_RANGES`]. They replace the earlier ones.
    pub fn reserve_ports(&mut self, ranges: &[(u16, u16)]) -> Result<(), Error> {
        if ranges.iter().any(|&(first, last)| first == 0 || first > last) {
            return Err(Error::Invalid);
        }
        let mut reserved = [[0; 2]; RESERVED_RANGES];
        let places = reserved.get_mut(..ranges.len()).ok_or(Error::NoMemory)?;
        for (place, &(first, last)) in places.iter_mut().zip(ranges) {
            *place = [first, last];
        }
        self.core.env.globals.reserved_ports = reserved;
        Ok(())
    }

    /// The settings that are in force.
    pub fn sysctls(&self) -> &Sysctls {
        &self.core.env.globals.sysctls
    }

    /// What is decided from now on is decided by these, of connections that are there, too. The caller has checked the
    /// ranges (see [`Sysctls`]).
    pub fn set_sysctls(&mut self, sysctls: &Sysctls) {
        self.core.env.globals.sysctls = *sysctls;
        self.reassembly.set_lifetime(Duration::from_secs(sysctls.ipfrag_time.into()));
    }

    // Input, time, output.

    /// Who owns the flow of `frame`; looks at addresses and ports only.
    pub fn classify(&self, port: PortId, frame: &RxFrame<'_>) -> Ownership {
        self.core.classify(port, frame)
    }

    pub fn on_frame<H: Host>(&mut self, now: Instant, port: PortId, frame: &RxFrame<'_>, host: &mut H) {
        let Self { core, reassembly } = self;
        match ip::input::receive(now, port, frame, &mut core.env.net, reassembly, host) {
            Received::Tcp(ref packet) => core.on_tcp(now, packet, host),
            Received::Error { error, about } => core.on_icmp_error(now, error, &about, host),
            Received::Done => {}
        }
    }

    pub fn on_timeout<H: Host>(&mut self, now: Instant, host: &mut H) {
        self.core.on_timeout(now, host);
        ip::input::on_timeout(now, &mut self.core.env.net, &mut self.reassembly, host);
    }

    /// When [`Stack::on_timeout`] has to be called at the latest; `None`: not before the next input.
    pub fn next_timeout(&self) -> Option<Instant> {
        let deadlines = [self.core.next_timer(), self.core.env.net.next_timeout(), self.reassembly.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Sends what the batch left pending.
    pub fn flush<H: Host>(&mut self, now: Instant, host: &mut H) {
        self.core.env.net.flush(host);
        self.core.flush(now, host);
    }

    /// Output waits for room in a port or for a neighbour: call [`Stack::flush`] again when either may have come.
    pub fn output_pending(&self) -> bool {
        self.core.output_pending()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.core.poll_event() {
            return Some(event);
        }
        let (port, address) = self.core.env.net.pop_wanted()?;
        Some(Event::NeighbourWanted { port, address })
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
        self.core.listen(owner, local, backlog, options)
    }

    /// Changes backlog or options of a listener; `None`: as it is.
    pub fn retune(
        &mut self,
        listener: ListenerId,
        backlog: Option<u32>,
        options: Option<&SocketOptions>,
    ) -> Result<(), Error> {
        self.core.retune(listener, backlog, options)
    }

    /// No new connections; those not yet adopted are aborted.
    pub fn unlisten<H: Host>(&mut self, now: Instant, listener: ListenerId, host: &mut H) -> Result<(), Error> {
        self.core.unlisten(now, listener, host)
    }

    /// Opens a connection. `local` port 0: an ephemeral port of this shard's; unspecified address: by route.
    pub fn connect<H: Host>(
        &mut self,
        now: Instant,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        options: &SocketOptions,
        host: &mut H,
    ) -> Result<ConnectionId, Error> {
        self.core.connect(now, owner, local, remote, options, host)
    }

    /// Gives an incoming connection its owner; bytes are stored from now on (before, they are not acknowledged).
    pub fn adopt<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        owner: Owner,
        host: &mut H,
    ) -> Result<(), Error> {
        self.core.adopt(now, connection, owner, host)
    }

    /// The application has written up to stream offset `end`. Sends what may be sent.
    pub fn write<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        end: u64,
        host: &mut H,
    ) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.write(host, end))
    }

    /// The application has read up to stream offset `offset`. Sends a window update when one is due.
    pub fn read<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        offset: u64,
        host: &mut H,
    ) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.read(host, offset))
    }

    /// shutdown(SHUT_WR): FIN after the bytes written so far.
    pub fn shutdown<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.finish(host))
    }

    /// close(): as Linux. RST when bytes were received and not read (tell [`Stack::read`] first) or linger is 0; else
    /// FIN after the bytes written, and the connection lives on without an owner reading it (the host keeps the send
    /// stream until `Closed`).
    pub fn close<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.close(host))
    }

    /// Ends with RST.
    pub fn abort<H: Host>(&mut self, now: Instant, connection: ConnectionId, host: &mut H) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.abort(host))
    }

    /// The bytes up to stream offset `end` end with an urgent byte (MSG_OOB). Call before the [`Stack::write`] that
    /// brings them.
    pub fn urgent(&mut self, connection: ConnectionId, end: u64) -> Result<(), Error> {
        self.core.command(Instant::default(), connection, |conn| conn.urgent(end))
    }

    pub fn set_options<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        options: &SocketOptions,
        host: &mut H,
    ) -> Result<(), Error> {
        self.core.command(now, connection, |conn| conn.set_options(host, options))
    }

    /// RST for every connection that has a peer: what a successor does with a dead engine's arena.
    pub fn abort_all<H: Host>(&mut self, now: Instant, host: &mut H) {
        self.core.for_each(now, |conn| conn.abort(host));
    }

    /// What a process's exit does to all of its sockets at once: see [`Stack::close`].
    pub fn shutdown_all<H: Host>(&mut self, now: Instant, host: &mut H) {
        self.core.for_each(now, |conn| conn.close(host));
    }

    // Looking in: more in `inspect`.

    pub fn local_address(&self, connection: ConnectionId) -> Result<SocketAddr, Error> {
        Ok(self.core.tcb(connection)?.flow.local_socket())
    }
}

/// Most ranges for [`Stack::reserve_ports`].
pub const RESERVED_RANGES: usize = 32;

/// Default bound on how long an orphan lives; here so that the engine can show it.
pub const ORPHAN_LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
