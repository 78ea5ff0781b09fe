//! Looking in from outside: connections, listeners, counters, trace; and connections as bytes.

use super::Stack;
use super::core::Found;
use crate::api::{ConnectionId, Error, ListenerId, SocketOptions};
use crate::counters::Counters;
use crate::flow::Flow;
use crate::frame::Owner;
use crate::ip::IpCounters;
use crate::tcp::block::flag;
use crate::tcp::export::{self, ImportError};
use crate::tcp::info::{Info, Listening};
use crate::tcp::state::State;
use crate::time::Instant;
use crate::trace::Traced;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

impl Stack<'_> {
    /// What TCP_INFO tells of a connection.
    pub fn info(&self, now: Instant, connection: ConnectionId) -> Result<Info, Error> {
        let tcb = self.core.tcb(connection)?;
        Ok(tcb.info(self.core.env.senders.get(tcb.sender as usize), connection.index, now))
    }

    pub fn remote_address(&self, connection: ConnectionId) -> Result<SocketAddr, Error> {
        Ok(self.core.tcb(connection)?.flow.remote_socket())
    }

    /// The settings in force.
    pub fn options(&self, connection: ConnectionId) -> Result<SocketOptions, Error> {
        Ok(self.core.tcb(connection)?.settings.options())
    }

    /// The connection with these ends.
    pub fn connection(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<ConnectionId> {
        let flow = Flow::new(local, remote);
        let hash = self.core.env.globals.secrets.hash(&flow) as u32;
        let Found::Connection(index) = self.core.tables.find(hash, &flow)? else { return None };
        Some(ConnectionId { index, generation: self.core.tables.tcbs[index as usize].generation })
    }

    /// All connections, orphans included, in no particular order.
    pub fn connections(&self, now: Instant) -> impl Iterator<Item = Info> + '_ {
        let bound = self.core.env.globals.connections.bound();
        self.core.tables.tcbs.iter().zip(0..bound).filter_map(move |(tcb, index)| {
            let live = tcb.state() != State::Closed && !tcb.has(flag::ENDED);
            live.then(|| tcb.info(self.core.env.senders.get(tcb.sender as usize), index, now))
        })
    }

    pub fn listeners(&self) -> impl Iterator<Item = Listening> + '_ {
        let bound = self.core.env.globals.listeners.bound();
        self.core.tables.listeners.iter().zip(0..bound).filter(|(listener, _)| listener.open != 0).map(
            |(listener, index)| Listening {
                listener: ListenerId { index, generation: listener.generation },
                owner: Owner(listener.owner),
                local: SocketAddr::new(
                    listener.address.option().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                    listener.port,
                ),
                backlog: listener.backlog,
                requests: listener.requests,
                waiting: listener.waiting,
            },
        )
    }

    /// The 4-tuples in TIME-WAIT, local first.
    pub fn time_waits(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + '_ {
        let bound = self.core.env.globals.time_waits.bound() as usize;
        let live = self.core.tables.time_waits.iter().take(bound);
        live.filter(|record| record.flow != Flow::default())
            .map(|record| (record.flow.local_socket(), record.flow.remote_socket()))
    }

    /// Records in use: what a test compares with zero when everything is over.
    pub fn usage(&self) -> Usage {
        let globals = &self.core.env.globals;
        Usage {
            connections: globals.connections.used(),
            listeners: globals.listeners.used(),
            requests: globals.requests.used(),
            time_waits: globals.time_waits.used(),
            ranges: globals.ranges.used(),
            senders: globals.senders.used(),
            flights: globals.flights.used(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.core.env.globals.counters
    }

    pub fn ip_counters(&self) -> &IpCounters {
        self.core.env.net.counters
    }
}

impl Stack<'_> {
    /// Records from now on what is counted, and of whom; or stops to.
    pub fn set_tracing(&mut self, on: bool) {
        self.core.env.trace.switch(on);
    }

    /// Looks at one connection from now on; how it stands comes first. It ends with the connection.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Invalid`] when it is looked at already; [`Error::NoMemory`] when
    /// [`WATCHES`](crate::WATCHES) others are.
    pub fn watch(&mut self, now: Instant, connection: ConnectionId) -> Result<(), Error> {
        self.core.tcb(connection)?;
        let trace = &mut self.core.env.trace;
        if !trace.watch(connection) {
            let twice = trace.watches(connection);
            return Err(if twice { Error::Invalid } else { Error::NoMemory });
        }
        self.core.with(connection.index, now, |conn| conn.trace_standing());
        Ok(())
    }

    /// Looks at it no longer.
    pub fn unwatch(&mut self, connection: ConnectionId) {
        self.core.env.trace.unwatch(connection);
    }

    /// How many things were traced and pushed out before [`Stack::poll_trace`] could take them, since the last call.
    pub fn take_trace_dropped(&mut self) -> u64 {
        self.core.env.trace.take_dropped()
    }

    /// The oldest thing that was traced. The ring holds two thousand.
    pub fn poll_trace(&mut self) -> Option<Traced> {
        self.core.env.trace.pop()
    }

    /// Writes a connection as bytes ([`EXPORT_MAX`](crate::EXPORT_MAX) at most), for [`Stack::import`] into another
    /// stack. It stays as it is here: whoever moves it must not use both. Versioned: another build refuses it.
    pub fn export(&self, now: Instant, connection: ConnectionId, out: &mut [u8]) -> Result<usize, Error> {
        let tcb = self.core.tcb(connection)?;
        if !tcb.has(flag::ADOPTED) {
            return Err(Error::Invalid);
        }
        let env = &self.core.env;
        let sender = env.senders.get(tcb.sender as usize);
        export::export(tcb, env.ranges, sender, env.flights, now, out).ok_or(Error::NoMemory)
    }

    /// Goes on with a connection that another stack exported, whose payload `owner` has at the same offsets. What changed
    /// last is reported again.
    pub fn import(&mut self, now: Instant, owner: Owner, bytes: &[u8]) -> Result<ConnectionId, ImportError> {
        self.core.import(now, owner, bytes)
    }
}

/// How many records of each pool are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub connections: u32,
    pub listeners: u32,
    pub requests: u32,
    pub time_waits: u32,
    pub ranges: u32,
    /// Connections that send or have lately, and what they have in flight.
    pub senders: u32,
    pub flights: u32,
}
