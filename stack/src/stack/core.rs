//! The tables of connections, requests, TIME-WAITs and listeners, and how a record gets into them and out again.

use crate::api::{ConnectionId, Error};
use crate::counters::Counter;
use crate::env::Env;
use crate::flow::Flow;
use crate::ip::PackedIp;
use crate::memory::{FlowTable, NONE, Pool, Slot, Taken};
use crate::tcp::Conn;
use crate::tcp::block::{Listener, NEVER, Request, Tcb, TimeWait, flag};
use crate::tcp::state::State;
use crate::time::Instant;
use crate::trace::Happening;

/// Kind of a record in the flow table, in the two upper bits of its handle.
const KIND_SHIFT: u32 = 30;
const REQUEST: u32 = 1;
const TIME_WAIT: u32 = 2;

/// What a flow's handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Connection(u32),
    Request(u32),
    TimeWait(u32),
}

impl Found {
    #[inline]
    fn of(handle: u32) -> Self {
        let index = handle & ((1 << KIND_SHIFT) - 1);
        match handle >> KIND_SHIFT {
            REQUEST => Found::Request(index),
            TIME_WAIT => Found::TimeWait(index),
            _ => Found::Connection(index),
        }
    }

    pub(super) fn handle(self) -> u32 {
        match self {
            Found::Connection(index) => index,
            Found::Request(index) => REQUEST << KIND_SHIFT | index,
            Found::TimeWait(index) => TIME_WAIT << KIND_SHIFT | index,
        }
    }
}

/// The records and the two hash tables over them.
pub(super) struct Tables<'m> {
    pub(super) tcbs: &'m mut [Tcb],
    pub(super) requests: &'m mut [Request],
    pub(super) time_waits: &'m mut [TimeWait],
    pub(super) listeners: &'m mut [Listener],
    pub(super) slots: &'m mut [Slot],
    pub(super) listener_slots: &'m mut [Slot],
}

/// A stack without reassembly, which may hold the packet that is being processed.
pub(super) struct Core<'m> {
    pub(super) tables: Tables<'m>,
    pub(super) env: Env<'m>,
}

impl Tables<'_> {
    #[inline]
    pub(super) fn find(&mut self, hash: u32, flow: &Flow) -> Option<Found> {
        let Self { tcbs, requests, time_waits, slots, .. } = self;
        let handle = FlowTable::new(slots).find(hash, |handle| match Found::of(handle) {
            Found::Connection(index) => tcbs[index as usize].flow == *flow,
            Found::Request(index) => requests[index as usize].flow == *flow,
            Found::TimeWait(index) => time_waits[index as usize].flow == *flow,
        })?;
        Some(Found::of(handle))
    }

    pub(super) fn insert(&mut self, hash: u32, found: Found) {
        FlowTable::new(self.slots).insert(hash, found.handle());
    }

    pub(super) fn remove(&mut self, hash: u32, found: Found) {
        FlowTable::new(self.slots).remove(hash, found.handle());
    }

    pub(super) fn replace(&mut self, hash: u32, old: Found, new: Found) {
        FlowTable::new(self.slots).replace(hash, old.handle(), new.handle());
    }

    /// The listener for a destination: the exact address before the wildcard.
    pub(super) fn find_listener(&mut self, address: PackedIp, port: u16) -> Option<u32> {
        let Self { listeners, listener_slots, .. } = self;
        let table = FlowTable::new(listener_slots);
        let hash = listener_hash(port);
        let exact = table.find(hash, |index| {
            let listener = &listeners[index as usize];
            listener.port == port && listener.address == address
        });
        exact.or_else(|| {
            table.find(hash, |index| {
                let listener = &listeners[index as usize];
                listener.port == port && listener.address.is_none()
            })
        })
    }
}

/// Ports are few and every listener's is its own: spread them over the table.
pub(super) fn listener_hash(port: u16) -> u32 {
    u32::from(port).wrapping_mul(0x9e37_79b1) >> 8
}

impl<'m> Core<'m> {
    #[inline]
    pub(super) fn conn(&mut self, index: u32, now: Instant) -> Conn<'_, 'm> {
        Conn { tcb: &mut self.tables.tcbs[index as usize], index, env: &mut self.env, now }
    }

    /// Asks for the lines of a connection's records all at once: read one by one where they are needed, each would be waited for
    /// by itself, which is what a segment costs when nobody has looked at its connection lately.
    #[inline]
    fn fetch(&self, index: u32) {
        let place = index as usize;
        let tcb = &self.tables.tcbs[place];
        let sender = self.env.senders.get(tcb.sender as usize);
        let own =
            tcb.rcv_adv ^ tcb.snd_una ^ tcb.rtx_at ^ u64::from(tcb.snd_small) ^ u64::from(tcb.segs_in) ^ tcb.rcv_fin;
        let others = self.env.timers.get(place).map_or(0, |timer| timer.deadline)
            ^ self.env.chain.get(place).map_or(0, |link| u64::from(link.event_next));
        let sender = sender.map_or(0, |half| {
            half.delivered ^ half.rack_at ^ half.recover ^ half.rtt_round ^ half.history.bytes_retrans ^ half.control[0]
        });
        core::hint::black_box(own ^ others ^ sender);
    }

    /// Does something to a connection, and takes it out of the table if that was its end.
    #[inline]
    pub(super) fn with<R>(&mut self, index: u32, now: Instant, act: impl FnOnce(&mut Conn<'_, 'm>) -> R) -> R {
        self.fetch(index);
        let tcb = &self.tables.tcbs[index as usize];
        let before = tcb.has(flag::ENDED);
        let traced = self.env.trace.begin(now, index, tcb.generation);
        let glimpse = traced.then(|| self.conn(index, now).glimpse());
        let outcome = act(&mut self.conn(index, now));
        if let Some(glimpse) = glimpse {
            self.conn(index, now).trace_changes(&glimpse);
        }
        if !before && self.tables.tcbs[index as usize].has(flag::ENDED) {
            self.settle(index, now);
            if traced {
                self.trace_end(index);
            }
        }
        self.env.trace.end();
        outcome
    }

    #[cold]
    fn trace_end(&mut self, index: u32) {
        let tcb = &self.tables.tcbs[index as usize];
        self.env.trace.push(Happening::Ended { reason: tcb.close_reason() });
        self.env.trace.unwatch(ConnectionId { index, generation: tcb.generation });
    }

    /// A connection has ended: its flow is free again, or TIME-WAIT's.
    pub(super) fn settle(&mut self, index: u32, now: Instant) {
        let tcb = &mut self.tables.tcbs[index as usize];
        let hash = tcb.hash;
        self.env.globals.orphans -= u32::from(tcb.has(flag::ORPHAN));
        let time_wait = (tcb.state() == State::TimeWait).then(|| TimeWait::of(tcb, now));
        tcb.set_state(State::Closed);
        self.env.ranges().clear(&mut tcb.ofo_head, &mut tcb.ofo_count);
        self.env.give_back_sender(tcb);
        tcb.armed_at = NEVER;
        if tcb.listener != NONE {
            self.tables.listeners[tcb.listener as usize].waiting -= 1;
            tcb.listener = NONE;
        }
        let queued = tcb.has(flag::IN_EVENTS);
        tcb.set(flag::IN_EVENTS);
        if !queued {
            self.env.queue_event(index);
        }
        self.env.wheel().cancel(index);
        let new = time_wait.and_then(|record| {
            let room = self.env.globals.time_waits.used() < self.env.globals.sysctls.max_tw_buckets;
            let taken = room
                .then(|| Pool { records: self.tables.time_waits, state: &mut self.env.globals.time_waits }.take())
                .flatten();
            let counter = if taken.is_some() { Counter::TcpExtTW } else { Counter::TcpExtTCPTimeWaitOverflow };
            self.env.count(counter);
            let Taken { index: place, .. } = taken?;
            self.tables.time_waits[place as usize] = record;
            let timer = self.time_wait_timer(place);
            self.env.arm(timer, Instant::from_micros(record.ends_at));
            Some(Found::TimeWait(place))
        });
        match new {
            Some(new) => self.tables.replace(hash, Found::Connection(index), new),
            None => self.tables.remove(hash, Found::Connection(index)),
        }
    }

    /// Gives a control block back once its end was reported and no list holds it.
    pub(super) fn release(&mut self, index: u32) {
        let tcb = &mut self.tables.tcbs[index as usize];
        let done = flag::ENDED | flag::REPORTED;
        if tcb.flags & (done | flag::IN_FLUSH | flag::IN_EVENTS) == done {
            self.give_back_connection(index);
        }
    }

    /// A control block and its generation; its content is the caller's to write.
    pub(super) fn take_connection(&mut self) -> Option<(u32, u32)> {
        let taken = Pool { records: self.tables.tcbs, state: &mut self.env.globals.connections }.take();
        let Some(Taken { index, fresh }) = taken else {
            self.env.count(Counter::PersonaConnectionsExhausted);
            return None;
        };
        let generation = if fresh { 0 } else { self.tables.tcbs[index as usize].generation };
        Some((index, generation))
    }

    pub(super) fn give_back_connection(&mut self, index: u32) {
        let tcb = &mut self.tables.tcbs[index as usize];
        tcb.generation = tcb.generation.wrapping_add(1);
        tcb.flags = 0;
        tcb.set_state(State::Closed);
        Pool { records: self.tables.tcbs, state: &mut self.env.globals.connections }.give_back(index);
    }

    pub(super) fn tcb(&self, connection: ConnectionId) -> Result<&Tcb, Error> {
        let ConnectionId { index, generation } = connection;
        self.tables
            .tcbs
            .get(index as usize)
            .filter(|_| index < self.env.globals.connections.bound())
            .filter(|tcb| tcb.generation == generation && !tcb.has(flag::ENDED) && tcb.state() != State::Closed)
            .ok_or(Error::Gone)
    }

    /// Takes a request out of the table and gives it back.
    pub(super) fn drop_request(&mut self, index: u32) {
        let hash = self.tables.requests[index as usize].hash;
        self.tables.remove(hash, Found::Request(index));
        self.free_request(index);
    }

    pub(super) fn free_request(&mut self, index: u32) {
        let timer = self.request_timer(index);
        self.env.wheel().cancel(timer);
        let request = &mut self.tables.requests[index as usize];
        self.tables.listeners[request.listener as usize].requests -= 1;
        request.flow = Flow::default();
        Pool { records: self.tables.requests, state: &mut self.env.globals.requests }.give_back(index);
    }

    pub(super) fn drop_time_wait(&mut self, index: u32) {
        let hash = self.tables.time_waits[index as usize].hash;
        self.tables.remove(hash, Found::TimeWait(index));
        let timer = self.time_wait_timer(index);
        self.env.wheel().cancel(timer);
        self.tables.time_waits[index as usize].flow = Flow::default();
        Pool { records: self.tables.time_waits, state: &mut self.env.globals.time_waits }.give_back(index);
    }

    pub(super) fn request_timer(&self, index: u32) -> u32 {
        self.tables.tcbs.len() as u32 + index
    }

    pub(super) fn time_wait_timer(&self, index: u32) -> u32 {
        (self.tables.tcbs.len() + self.tables.requests.len()) as u32 + index
    }
}
