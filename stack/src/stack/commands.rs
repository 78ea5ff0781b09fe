//! What the application wants: listen, connect, close, options; and what a router reports.

use super::core::{Core, Found, listener_hash};
use crate::api::{CloseReason, ConnectionId, Error, Host, ListenerId, SocketOptions};
use crate::counters::Counter;
use crate::flow::{Flow, shard_of};
use crate::frame::Owner;
use crate::ip::{IcmpError, PackedIp};
use crate::memory::{FlowTable, Pool, Taken};
use crate::tcp::Conn;
use crate::tcp::block::{Listener, Tcb, change, flag};
use crate::tcp::export::{self, ImportError};
use crate::tcp::settings::Settings;
use crate::tcp::state::State;
use crate::time::Instant;
use crate::wire::{Embedded, SeqNumber};
use core::net::{IpAddr, SocketAddr};
use zerocopy::FromZeros;

impl<'m> Core<'m> {
    pub(super) fn listen(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> Result<ListenerId, Error> {
        if !local.is_ipv4() {
            return Err(Error::FamilyNotSupported);
        }
        if local.port() == 0 {
            return Err(Error::Invalid);
        }
        let address = if local.ip().is_unspecified() { PackedIp::NONE } else { local.ip().into() };
        if !address.is_none() && !self.env.net.interfaces.is_local(local.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        let listeners = &self.tables.listeners;
        let table = FlowTable::new(self.tables.listener_slots);
        let hash = listener_hash(local.port());
        let same = |index: u32| {
            let known = &listeners[index as usize];
            known.port == local.port() && known.address == address
        };
        if table.find(hash, same).is_some() {
            return Err(Error::AddressInUse);
        }
        let taken = Pool { records: self.tables.listeners, state: &mut self.env.globals.listeners }.take();
        let Taken { index, fresh } = taken.ok_or(Error::NoMemory)?;
        let record = &mut self.tables.listeners[index as usize];
        let generation = if fresh { 0 } else { record.generation };
        record.zero();
        *record = Listener {
            settings: Settings::new(options),
            address,
            owner: owner.0,
            generation,
            hash,
            backlog,
            requests: 0,
            waiting: 0,
            port: local.port(),
            open: 1,
            defer_accept: options.defer_accept,
            _pad: [0; 51],
        };
        FlowTable::new(self.tables.listener_slots).insert(hash, index);
        Ok(ListenerId { index, generation })
    }

    pub(super) fn unlisten<H: Host>(&mut self, now: Instant, listener: ListenerId, host: &mut H) -> Result<(), Error> {
        let ListenerId { index, generation } = listener;
        let record = *self.listener(listener)?;
        // Rare, and bounded by what the listener still holds.
        let mut requests = record.requests;
        for request in 0..self.env.globals.requests.bound() {
            if requests == 0 {
                break;
            }
            let it = &self.tables.requests[request as usize];
            if it.flow != Flow::default() && (it.listener, it.listener_generation) == (index, generation) {
                self.drop_request(request);
                requests -= 1;
            }
        }
        let mut waiting = record.waiting;
        for connection in 0..self.env.globals.connections.bound() {
            if waiting == 0 {
                break;
            }
            let tcb = &self.tables.tcbs[connection as usize];
            if tcb.state() != State::Closed && tcb.listener == index && !tcb.has(flag::ADOPTED) {
                self.with(connection, now, |conn| conn.abort(host));
                waiting -= 1;
            }
        }
        FlowTable::new(self.tables.listener_slots).remove(record.hash, index);
        let record = &mut self.tables.listeners[index as usize];
        record.generation = generation.wrapping_add(1);
        record.open = 0;
        Pool { records: self.tables.listeners, state: &mut self.env.globals.listeners }.give_back(index);
        Ok(())
    }

    /// What a further listen() or setsockopt() changes; connections that are there keep what they have.
    pub(super) fn retune(
        &mut self,
        listener: ListenerId,
        backlog: Option<u32>,
        options: Option<&SocketOptions>,
    ) -> Result<(), Error> {
        self.listener(listener)?;
        let record = &mut self.tables.listeners[listener.index as usize];
        record.backlog = backlog.unwrap_or(record.backlog);
        record.settings = options.map_or(record.settings, Settings::new);
        record.defer_accept = options.map_or(record.defer_accept, |options| options.defer_accept);
        Ok(())
    }

    pub(super) fn listener(&self, listener: ListenerId) -> Result<&Listener, Error> {
        let ListenerId { index, generation } = listener;
        self.tables
            .listeners
            .get(index as usize)
            .filter(|_| index < self.env.globals.listeners.bound())
            .filter(|record| record.open != 0 && record.generation == generation)
            .ok_or(Error::Gone)
    }

    pub(super) fn connect<H: Host>(
        &mut self,
        now: Instant,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        options: &SocketOptions,
        host: &mut H,
    ) -> Result<ConnectionId, Error> {
        if !local.is_ipv4() || !remote.is_ipv4() {
            return Err(Error::FamilyNotSupported);
        }
        if remote.ip().is_unspecified() || is_multicast_or_broadcast(remote.ip()) {
            return Err(Error::Invalid);
        }
        let source = (!local.ip().is_unspecified()).then_some(local.ip());
        if source.is_some_and(|source| !self.env.net.interfaces.is_local(source)) {
            return Err(Error::AddressNotAvailable);
        }
        let path = self.env.route(remote.ip(), source).ok_or(Error::NoRoute)?;
        let mut flow = Flow::new(SocketAddr::new(path.source, local.port()), remote);
        if flow.local_port == 0 {
            self.choose_port(now, &mut flow)?;
        }
        let hash = self.env.globals.secrets.hash(&flow) as u32;
        let isn = match self.tables.find(hash, &flow) {
            None => None,
            Some(Found::TimeWait(index)) => {
                let sysctls = &self.env.globals.sysctls;
                let isn = self.tables.time_waits[index as usize].reusable(sysctls, now).ok_or(Error::AddressInUse)?;
                self.env.count(Counter::TcpExtTWRecycled);
                self.drop_time_wait(index);
                Some(isn)
            }
            Some(_) => return Err(Error::AddressInUse),
        };
        let (index, generation) = self.take_connection().ok_or(Error::NoMemory)?;
        let mut tcb = Tcb::new(flow, hash, generation, Settings::new(options), State::SynSent);
        tcb.owner = owner.0;
        tcb.iss = isn.unwrap_or_else(|| self.env.globals.secrets.isn(&flow, now));
        tcb.ts_offset = self.env.globals.stamp_offset(&flow);
        tcb.pmtu = self.env.mtu(path.port);
        tcb.peer_mss = u16::MAX;
        tcb.update_mss();
        tcb.set(flag::ADOPTED);
        self.tables.tcbs[index as usize] = tcb;
        self.tables.insert(hash, Found::Connection(index));
        self.env.count(Counter::TcpActiveOpens);
        self.with(index, now, |conn| conn.open(host));
        Ok(ConnectionId { index, generation })
    }

    /// RFC 6056 section 3.3.3, algorithm 3: from an offset that depends on the peer, the next free port whose flow is
    /// this shard's.
    fn choose_port(&mut self, now: Instant, flow: &mut Flow) -> Result<(), Error> {
        let globals = &*self.env.globals;
        let (first, count) = (globals.first_port, u32::from(globals.last_port - globals.first_port) + 1);
        let (shard, shards) = (globals.shard, globals.shards);
        let offset = globals.secrets.port_offset(flow);
        let start = globals.next_port;
        for step in 0..count {
            let port = first + (offset.wrapping_add(start).wrapping_add(step) % count) as u16;
            if self.env.globals.is_reserved(port) {
                continue;
            }
            flow.local_port = port;
            let hash = self.env.globals.secrets.hash(flow);
            if shard_of(hash, shards) != shard || self.tables.find_listener(flow.local, port).is_some() {
                continue;
            }
            let free = match self.tables.find(hash as u32, flow) {
                None => true,
                Some(Found::TimeWait(index)) => {
                    self.tables.time_waits[index as usize].reusable(&self.env.globals.sysctls, now).is_some()
                }
                Some(_) => false,
            };
            if free {
                self.env.globals.next_port = start.wrapping_add(step).wrapping_add(1);
                return Ok(());
            }
        }
        // EADDRNOTAVAIL, as connect() says when the range is used up.
        Err(Error::AddressNotAvailable)
    }

    pub(super) fn adopt<H: Host>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        owner: Owner,
        host: &mut H,
    ) -> Result<(), Error> {
        if self.tcb(connection)?.has(flag::ADOPTED) {
            return Err(Error::Invalid);
        }
        let index = connection.index;
        let tcb = &mut self.tables.tcbs[index as usize];
        let listener = core::mem::replace(&mut tcb.listener, crate::memory::NONE);
        tcb.owner = owner.0;
        tcb.set(flag::ADOPTED);
        self.tables.listeners[listener as usize].waiting -= 1;
        self.with(index, now, |conn| {
            // What happened before has to be told to the new owner.
            if conn.tcb.changes != 0 {
                conn.changed(0);
            }
            conn.push(host);
        });
        Ok(())
    }

    pub(super) fn import(&mut self, now: Instant, owner: Owner, bytes: &[u8]) -> Result<ConnectionId, ImportError> {
        let mut imported = export::import(bytes, now)?;
        let flow = imported.tcb.flow;
        if !self.env.net.interfaces.is_local(flow.local) {
            return Err(ImportError::Refused(Error::AddressNotAvailable));
        }
        let hash = self.env.globals.secrets.hash(&flow) as u32;
        if self.tables.find(hash, &flow).is_some() {
            return Err(ImportError::Refused(Error::AddressInUse));
        }
        let (index, generation) = self.take_connection().ok_or(ImportError::Refused(Error::NoMemory))?;
        imported.take_ranges(&mut self.env.ranges());
        let tcb = &mut imported.tcb;
        tcb.owner = owner.0;
        tcb.hash = hash;
        tcb.generation = generation;
        // Whatever the way was there, it is looked up here.
        tcb.path_generation = self.env.net.routes.generation().wrapping_sub(1);
        self.env.globals.orphans += u32::from(tcb.has(flag::ORPHAN));
        self.tables.tcbs[index as usize] = *tcb;
        self.tables.insert(hash, Found::Connection(index));
        self.with(index, now, |conn| {
            imported.take_sender(conn);
            conn.changed(change::READABLE | change::ACKED);
            if conn.tcb.has(flag::ACK_NOW | flag::BLOCKED) {
                conn.flush_later();
            }
            conn.rearm();
        });
        Ok(ConnectionId { index, generation })
    }

    /// Does something to a connection that the caller names.
    pub(super) fn command<R>(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        act: impl FnOnce(&mut Conn<'_, 'm>) -> R,
    ) -> Result<R, Error> {
        self.tcb(connection)?;
        Ok(self.with(connection.index, now, act))
    }

    /// Does something to every connection.
    pub(super) fn for_each(&mut self, now: Instant, mut act: impl FnMut(&mut Conn<'_, 'm>)) {
        for index in 0..self.env.globals.connections.bound() {
            let tcb = &self.tables.tcbs[index as usize];
            if tcb.state() != State::Closed && !tcb.has(flag::ENDED) {
                self.with(index, now, &mut act);
            }
        }
    }

    /// An ICMP error about a segment that we are said to have sent (RFC 5927).
    pub(super) fn on_icmp_error<H: Host>(&mut self, now: Instant, error: IcmpError, about: &Embedded, host: &mut H) {
        let flow = Flow::new(about.local.into(), about.remote.into());
        let hash = self.env.globals.secrets.hash(&flow);
        if shard_of(hash, self.env.globals.shards) != self.env.globals.shard {
            return;
        }
        match self.tables.find(hash as u32, &flow) {
            Some(Found::Connection(index)) => {
                self.with(index, now, |conn| conn.on_icmp_error(host, error, about.seq));
            }
            Some(Found::Request(index)) => {
                if SeqNumber(self.tables.requests[index as usize].iss) == about.seq && error.is_hard() {
                    self.env.count(Counter::TcpAttemptFails);
                    self.drop_request(index);
                } else {
                    self.env.count(Counter::TcpExtOutOfWindowIcmps);
                }
            }
            Some(Found::TimeWait(_)) | None => self.env.net.counters.icmp_in_errors += 1,
        }
    }
}

impl Conn<'_, '_> {
    /// close(): see [`crate::Stack::close`].
    pub(super) fn close<H: Host>(&mut self, host: &mut H) {
        use crate::tcp::settings::setting;
        if self.tcb.has(flag::ORPHAN) {
            return;
        }
        let unread = self.tcb.unread();
        if self.tcb.settings.has(setting::LINGER_RESET) || unread {
            // RFC 2525 section 2.17: the peer must know that its bytes were not read.
            let counter = if unread { Counter::TcpExtTCPAbortOnClose } else { Counter::TcpExtTCPAbortOnData };
            if self.tcb.state().synchronised() {
                self.env.count(counter);
            }
            self.abort(host);
            return;
        }
        self.tcb.set(flag::ORPHAN);
        self.env.globals.orphans += 1;
        if self.env.globals.orphans > self.env.globals.sysctls.max_orphans {
            // Linux's tcp_check_oom: nobody is left who could be told, but the peer.
            self.env.count(Counter::TcpExtTCPAbortOnMemory);
            self.abort(host);
            return;
        }
        if self.tcb.state() == State::FinWait2 && self.tcb.settings.linger2 < 0 {
            self.env.count(Counter::TcpExtTCPAbortOnLinger);
            self.abort(host);
            return;
        }
        self.finish(host);
        if !self.tcb.has(flag::ENDED) {
            self.start_idle_timer();
            self.rearm();
        }
    }

    /// Ends with RST where there is a peer that would notice (RFC 9293 section 3.10.5).
    pub(super) fn abort<H: Host>(&mut self, host: &mut H) {
        if !matches!(self.tcb.state(), State::SynSent | State::Closing | State::LastAck) {
            self.send_rst(host);
        }
        self.end(CloseReason::Aborted);
    }
}

fn is_multicast_or_broadcast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
