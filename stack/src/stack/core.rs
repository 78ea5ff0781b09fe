//! The tables of connections, requests, TIME-WAITs and listeners, and what moves between them: a frame finds its record
//! here, and a record that is over leaves here.

use super::Ownership;
use crate::api::{Changes, ConnectionId, Error, Event, Host, Incoming, ListenerId, PassiveOpen, Status};
use crate::counters::Counter;
use crate::env::Env;
use crate::flow::{Flow, shard_of};
use crate::frame::{Owner, PortId, RxChecksum, RxFrame};
use crate::ip::receive::peek;
use crate::ip::{PackedIp, Peek, TransportPacket};
use crate::memory::{FlowTable, NONE, Pool, Slot, Taken};
use crate::tcp::Conn;
use crate::tcp::block::{Listener, NEVER, Request, Tcb, TimeWait, change, flag};
use crate::tcp::listen::{self, Agreed};
use crate::tcp::segment::{Arrival, Bytes};
use crate::tcp::state::State;
use crate::tcp::{reply, seq, timers, timewait};
use crate::time::Instant;
use crate::wire::{TcpView, checksum, protocol};
use core::net::IpAddr;

/// Kind of a record in the flow table, in the two upper bits of its handle.
const KIND_SHIFT: u32 = 30;
const REQUEST: u32 = 1;
const TIME_WAIT: u32 = 2;

/// Ports that were refused in a row before a flush gives up until the next one.
const BUSY_IN_A_ROW: u32 = 16;

/// What a flow's handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Connection(u32),
    Request(u32),
    TimeWait(u32),
}

impl Found {
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

    fn replace(&mut self, hash: u32, old: Found, new: Found) {
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
    // Input.

    pub(super) fn classify(&self, port: PortId, frame: &RxFrame<'_>) -> Ownership {
        let Some(interface) = self.env.net.interfaces.get(port) else { return Ownership::Here };
        match peek(interface, frame.head) {
            Peek::Flow { local, remote } => {
                let globals = &self.env.globals;
                let shard = shard_of(globals.secrets.hash(&Flow::new(local, remote)), globals.shards);
                if shard == globals.shard { Ownership::Here } else { Ownership::Shard(shard) }
            }
            Peek::Arp | Peek::Fragment => Ownership::All,
            Peek::Other => Ownership::Here,
        }
    }

    pub(super) fn on_tcp<H: Host>(&mut self, now: Instant, packet: &TransportPacket<'_>, host: &mut H) {
        self.env.count(Counter::TcpInSegs);
        let (head, tail) = packet.bytes.parts();
        let Ok(view) = TcpView::new(head) else {
            self.env.count(Counter::TcpInErrs);
            return;
        };
        let flow = Flow {
            local: packet.destination.into(),
            remote: packet.source.into(),
            local_port: view.destination_port(),
            remote_port: view.source_port(),
        };
        let hash = self.env.globals.secrets.hash(&flow);
        if packet.reassembled && shard_of(hash, self.env.globals.shards) != self.env.globals.shard {
            // Every shard has put the datagram together; its owner goes on.
            return;
        }
        let hash = hash as u32;
        let arrival = Arrival {
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
            urgent: view.urgent(),
            options: view.options(),
            payload: Bytes::new(view.payload(), tail, packet.bytes.len() - view.header_len()),
            train: packet.gso_size,
        };
        let found = self.tables.find(hash, &flow);
        let mut stored = None;
        if packet.checksum == RxChecksum::Unverified {
            let header = checksum::add(pseudo(packet), view.header_sum());
            let payload = match found {
                Some(Found::Connection(index)) if self.conn(index, now).predicts(&arrival) => {
                    let tcb = &self.tables.tcbs[index as usize];
                    let (owner, offset) = (Owner(tcb.owner), seq::offset(tcb.rcv_nxt));
                    let outcome = arrival.payload.store(host, owner, offset);
                    stored = Some(outcome.len);
                    outcome.sum
                }
                _ => arrival.payload.sum(),
            };
            if checksum::add(header, payload) != checksum::VALID {
                self.env.count(Counter::TcpInErrs);
                self.env.count(Counter::TcpInCsumErrors);
                return;
            }
        }
        match found {
            Some(Found::Connection(index)) => self.with(index, now, |conn| conn.on_segment(host, &arrival, stored)),
            Some(Found::Request(index)) => self.on_request(now, index, packet.port, &arrival, host),
            Some(Found::TimeWait(index)) => self.on_time_wait(now, index, packet.port, &arrival, host),
            None => self.on_stranger(now, &flow, hash, packet.port, &arrival, None, host),
        }
    }

    /// A segment of a flow that has no record: for a listener, or for nobody.
    #[allow(clippy::too_many_arguments)] // What was found out about the segment on its way here.
    fn on_stranger<H: Host>(
        &mut self,
        now: Instant,
        flow: &Flow,
        hash: u32,
        port: PortId,
        arrival: &Arrival<'_>,
        isn: Option<u32>,
        host: &mut H,
    ) {
        let flags = arrival.flags;
        let Some(index) = self.tables.find_listener(flow.local, flow.local_port) else {
            reply::reset(&mut self.env, host, now, flow, port.0, arrival);
            return;
        };
        // RFC 9293 section 3.10.7.2.
        if flags.rst() {
            return;
        }
        if flags.ack() {
            if !flags.syn() && self.complete_cookie(now, flow, hash, index, port, arrival, host) {
                return;
            }
            reply::reset(&mut self.env, host, now, flow, port.0, arrival);
            return;
        }
        if flags.syn() && !flags.fin() {
            self.on_syn(now, flow, hash, index, port, arrival, isn, host);
        }
    }

    #[allow(clippy::too_many_arguments)] // As above.
    fn on_syn<H: Host>(
        &mut self,
        now: Instant,
        flow: &Flow,
        hash: u32,
        index: u32,
        port: PortId,
        arrival: &Arrival<'_>,
        isn: Option<u32>,
        host: &mut H,
    ) {
        let listener = &self.tables.listeners[index as usize];
        let settings = listener.settings;
        if listener.waiting > listener.backlog {
            // Linux's sk_acceptq_is_full: a backlog of n holds n + 1.
            self.env.count(Counter::TcpExtListenOverflows);
            self.env.count(Counter::TcpExtListenDrops);
            return;
        }
        let taken = if listener.requests < listener.backlog.max(1) {
            Pool { records: self.tables.requests, state: &mut self.env.globals.requests }.take()
        } else {
            None
        };
        let Some(Taken { index: request, .. }) = taken else {
            listen::answer_with_cookie(&mut self.env, host, now, flow, port.0, &settings, arrival);
            return;
        };
        let mut record = Request::new(&self.env, flow, hash, port.0, arrival, now);
        record.listener = index;
        record.listener_generation = listener.generation;
        record.iss = isn.unwrap_or(record.iss);
        self.tables.listeners[index as usize].requests += 1;
        self.tables.requests[request as usize] = record;
        self.tables.insert(hash, Found::Request(request));
        let timer = self.request_timer(request);
        self.env.arm(timer, Instant::from_micros(record.retry_at));
        record.answer(&mut self.env, host, now, &settings);
    }

    fn on_request<H: Host>(&mut self, now: Instant, index: u32, port: PortId, arrival: &Arrival<'_>, host: &mut H) {
        let request = &mut self.tables.requests[index as usize];
        let settings = self.tables.listeners[request.listener as usize].settings;
        match request.on_segment(&mut self.env, host, now, arrival, &settings) {
            listen::Verdict::Stays => {}
            listen::Verdict::Gone => self.drop_request(index),
            listen::Verdict::Unacceptable => {
                let flow = request.flow;
                reply::reset(&mut self.env, host, now, &flow, port.0, arrival);
            }
            listen::Verdict::Completes => {
                let Request { flow, hash, listener, sent_at, retries, .. } = *request;
                let agreed = request.agreed();
                let rtt = (retries == 0).then(|| now.since(sent_at).as_micros());
                let old = Some(Found::Request(index));
                if self.complete(now, &flow, hash, listener, port, &agreed, rtt, old, arrival, host) {
                    self.free_request(index);
                } else {
                    self.tables.requests[index as usize].refused = 1;
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // As above.
    fn complete_cookie<H: Host>(
        &mut self,
        now: Instant,
        flow: &Flow,
        hash: u32,
        listener: u32,
        port: PortId,
        arrival: &Arrival<'_>,
        host: &mut H,
    ) -> bool {
        if arrival.flags.fin() && arrival.payload.is_empty() {
            return false;
        }
        let Some(agreed) = listen::read_cookie(&self.env, flow, arrival, now) else {
            self.env.count(Counter::TcpExtSyncookiesFailed);
            return false;
        };
        self.env.count(Counter::TcpExtSyncookiesRecv);
        // Refused or not, the ACK was the right one: no RST.
        self.complete(now, flow, hash, listener, port, &agreed, None, None, arrival, host);
        true
    }

    /// The handshake of a passive open is complete: asks the host what becomes of the connection. `false`: dropped.
    #[allow(clippy::too_many_arguments)] // Everything a handshake has brought together.
    fn complete<H: Host>(
        &mut self,
        now: Instant,
        flow: &Flow,
        hash: u32,
        listener_index: u32,
        port: PortId,
        agreed: &Agreed,
        rtt: Option<u64>,
        old: Option<Found>,
        arrival: &Arrival<'_>,
        host: &mut H,
    ) -> bool {
        let listener = self.tables.listeners[listener_index as usize];
        if listener.waiting > listener.backlog {
            self.env.count(Counter::TcpExtListenOverflows);
            self.env.count(Counter::TcpExtListenDrops);
            return false;
        }
        let Some((index, generation)) = self.take_connection() else {
            self.env.count(Counter::TcpExtListenDrops);
            return false;
        };
        let connection = ConnectionId { index, generation };
        let open = PassiveOpen {
            listener: ListenerId { index: listener_index, generation: listener.generation },
            listener_owner: Owner(listener.owner),
            connection,
            local: flow.local_socket(),
            remote: flow.remote_socket(),
        };
        let answer = host.incoming(&open);
        let mtu = self.env.mtu(port);
        let mut tcb = Tcb::passive(*flow, hash, generation, &listener, listener_index, agreed, mtu, now);
        match answer {
            Incoming::Refuse => {
                self.env.count(Counter::TcpExtListenOverflows);
                self.env.count(Counter::TcpExtListenDrops);
                self.env.count(Counter::PersonaIncomingRefused);
                self.tables.tcbs[index as usize] = tcb;
                self.give_back_connection(index);
                return false;
            }
            Incoming::Adopt(owner) => {
                tcb.owner = owner.0;
                tcb.listener = NONE;
                tcb.set(flag::ADOPTED);
            }
            Incoming::Later => self.tables.listeners[listener_index as usize].waiting += 1,
        }
        match rtt {
            Some(rtt) => tcb.sample_rtt(rtt),
            None => tcb.retries = 1,
        }
        self.env.count(Counter::TcpPassiveOpens);
        self.tables.tcbs[index as usize] = tcb;
        match old {
            Some(old) => self.tables.replace(hash, old, Found::Connection(index)),
            None => self.tables.insert(hash, Found::Connection(index)),
        }
        self.with(index, now, |conn| {
            if !conn.tcb.has(flag::ADOPTED) {
                conn.changed(change::INCOMING);
            }
            conn.on_segment(host, arrival, None);
        });
        true
    }

    fn on_time_wait<H: Host>(&mut self, now: Instant, index: u32, port: PortId, arrival: &Arrival<'_>, host: &mut H) {
        let record = &mut self.tables.time_waits[index as usize];
        let (flow, hash) = (record.flow, record.hash);
        match record.on_segment(&mut self.env, host, now, arrival) {
            // A later end: the wheel's node fires at the old one and is armed again.
            timewait::Verdict::Stays => {}
            timewait::Verdict::Reopens { isn } => {
                if self.tables.find_listener(flow.local, flow.local_port).is_none() {
                    reply::reset(&mut self.env, host, now, &flow, port.0, arrival);
                    return;
                }
                self.env.count(Counter::TcpExtTWRecycled);
                self.drop_time_wait(index);
                self.on_stranger(now, &flow, hash, port, arrival, Some(isn), host);
            }
        }
    }

    // Time and output.

    pub(super) fn next_timer(&self) -> Option<Instant> {
        crate::memory::next_deadline(self.env.wheel)
    }

    pub(super) fn on_timeout<H: Host>(&mut self, now: Instant, host: &mut H) {
        let connections = self.tables.tcbs.len() as u32;
        let requests = self.tables.requests.len() as u32;
        while let Some(timer) = self.env.wheel().pop_due(now) {
            if timer < connections {
                self.with(timer, now, |conn| conn.on_timer(host));
            } else if timer < connections + requests {
                self.on_request_timer(now, timer - connections, host);
            } else {
                let index = timer - connections - requests;
                let ends_at = self.tables.time_waits[index as usize].ends_at;
                if ends_at > now.as_micros() {
                    self.env.arm(timer, Instant::from_micros(ends_at));
                } else {
                    self.drop_time_wait(index);
                }
            }
        }
        self.on_neighbour_timeout(now, host);
    }

    /// Next hops that do not answer end the connections that are being opened over them.
    fn on_neighbour_timeout<H: Host>(&mut self, now: Instant, host: &mut H) {
        const EHOSTUNREACH: u16 = 113;
        /// So many failures of one call are told to the connections; the others find out by their own timers.
        const MOST: usize = 8;
        let mut failed = [None; MOST];
        let mut count = 0;
        self.env.net.on_timeout(now, host, |port, address| {
            if let Some(place) = failed.get_mut(count) {
                *place = Some((port, address));
                count += 1;
            }
        });
        if count == 0 {
            return;
        }
        for index in 0..self.env.globals.connections.bound() {
            let tcb = &self.tables.tcbs[index as usize];
            let over = Some((PortId(tcb.port), IpAddr::from(tcb.next_hop)));
            if tcb.state() == State::SynSent && failed.contains(&over) {
                self.with(index, now, |conn| conn.unreachable(EHOSTUNREACH));
            }
        }
    }

    fn on_request_timer<H: Host>(&mut self, now: Instant, index: u32, host: &mut H) {
        let timer = self.request_timer(index);
        let request = &mut self.tables.requests[index as usize];
        if request.retries >= timers::SYN_ACK_RETRIES {
            self.env.count(Counter::TcpAttemptFails);
            self.drop_request(index);
            return;
        }
        request.retries += 1;
        let wait = crate::tcp::backed_off_syn(request.retries);
        request.retry_at = now.as_micros() + wait;
        let request = *request;
        let settings = self.tables.listeners[request.listener as usize].settings;
        self.env.arm(timer, Instant::from_micros(request.retry_at));
        self.env.count(Counter::TcpExtTCPTimeouts);
        self.env.count(Counter::TcpRetransSegs);
        request.answer(&mut self.env, host, now, &settings);
    }

    pub(super) fn flush<H: Host>(&mut self, now: Instant, host: &mut H) {
        self.env.globals.stuck = 0;
        let last = self.env.globals.flushes;
        if last.head == NONE {
            return;
        }
        let mut busy = 0;
        // Who is put back on the list during the walk comes after `last.tail`.
        while let Some(index) = self.env.next_flush() {
            self.with(index, now, |conn| conn.flush(host));
            self.release(index);
            if self.tables.tcbs[index as usize].has(flag::BLOCKED) {
                self.env.globals.stuck = 1;
                busy += 1;
                if busy >= BUSY_IN_A_ROW {
                    return;
                }
            } else {
                busy = 0;
            }
            if index == last.tail {
                return;
            }
        }
    }

    pub(super) fn output_pending(&self) -> bool {
        self.env.globals.stuck != 0
    }

    // Events.

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        while let Some(index) = self.env.next_event() {
            let tcb = &mut self.tables.tcbs[index as usize];
            tcb.clear(flag::IN_EVENTS);
            let connection = ConnectionId { index, generation: tcb.generation };
            let changes = core::mem::take(&mut tcb.changes);
            let ended = tcb.has(flag::ENDED);
            if !tcb.has(flag::ADOPTED) {
                if ended {
                    // Nobody has ever heard of it.
                    tcb.set(flag::REPORTED);
                    self.release(index);
                    continue;
                }
                if changes & change::INCOMING != 0 {
                    // What else there is to say waits for the owner.
                    tcb.changes = changes & !change::INCOMING;
                    let listener = &self.tables.listeners[tcb.listener as usize];
                    return Some(Event::Incoming {
                        listener: ListenerId { index: tcb.listener, generation: listener.generation },
                        listener_owner: Owner(listener.owner),
                        connection,
                        local: tcb.flow.local_socket(),
                        remote: tcb.flow.remote_socket(),
                    });
                }
                tcb.changes = changes;
                continue;
            }
            let owner = Owner(tcb.owner);
            if changes & !change::INCOMING != 0 {
                let event = Event::Connection { connection, owner, changes: unpack(changes), status: tcb.status() };
                tcb.soft_error = if changes & change::SOFT_ERROR != 0 { 0 } else { tcb.soft_error };
                if ended {
                    tcb.set(flag::IN_EVENTS);
                    self.env.requeue_event(index);
                }
                return Some(event);
            }
            if ended {
                let reason = tcb.close_reason();
                tcb.set(flag::REPORTED);
                self.release(index);
                return Some(Event::Closed { owner, connection, reason });
            }
        }
        None
    }

    // Records.

    #[inline]
    fn conn(&mut self, index: u32, now: Instant) -> Conn<'_, 'm> {
        Conn { tcb: &mut self.tables.tcbs[index as usize], index, env: &mut self.env, now }
    }

    /// Does something to a connection, and takes it out of the table if that was its end.
    #[inline]
    pub(super) fn with<R>(&mut self, index: u32, now: Instant, act: impl FnOnce(&mut Conn<'_, 'm>) -> R) -> R {
        let tcb = &self.tables.tcbs[index as usize];
        let before = tcb.has(flag::ENDED);
        let trace = &mut self.env.trace;
        (trace.now, trace.index, trace.generation) = (now, index, tcb.generation);
        let outcome = act(&mut self.conn(index, now));
        if !before && self.tables.tcbs[index as usize].has(flag::ENDED) {
            self.settle(index, now);
        }
        self.env.trace.index = NONE;
        outcome
    }

    /// A connection has ended: its flow is free again, or TIME-WAIT's.
    fn settle(&mut self, index: u32, now: Instant) {
        let tcb = &mut self.tables.tcbs[index as usize];
        let hash = tcb.hash;
        let time_wait = (tcb.state() == State::TimeWait).then(|| TimeWait::of(tcb, now));
        tcb.set_state(State::Closed);
        self.env.ranges().clear(&mut tcb.ofo_head, &mut tcb.ofo_count);
        self.env.ranges().clear(&mut tcb.sack_head, &mut tcb.sack_count);
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
            let taken = Pool { records: self.tables.time_waits, state: &mut self.env.globals.time_waits }.take();
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
    fn release(&mut self, index: u32) {
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

    fn free_request(&mut self, index: u32) {
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

    fn request_timer(&self, index: u32) -> u32 {
        self.tables.tcbs.len() as u32 + index
    }

    fn time_wait_timer(&self, index: u32) -> u32 {
        (self.tables.tcbs.len() + self.tables.requests.len()) as u32 + index
    }
}

impl Tcb {
    fn status(&self) -> Status {
        Status {
            rcv_end: self.rcv_end(),
            snd_acked: seq::offset(self.snd_una.min(self.snd_end)),
            urgent: (self.rcv_up != 0).then(|| seq::offset(self.rcv_up)),
            soft_error: self.soft_error,
            window_update_at: self.window_update_at(),
        }
    }
}

fn unpack(changes: u8) -> Changes {
    Changes {
        established: changes & change::ESTABLISHED != 0,
        readable: changes & change::READABLE != 0,
        acked: changes & change::ACKED != 0,
        peer_closed: changes & change::PEER_CLOSED != 0,
        urgent: changes & change::URGENT != 0,
        soft_error: changes & change::SOFT_ERROR != 0,
    }
}

fn pseudo(packet: &TransportPacket<'_>) -> u16 {
    let len = packet.bytes.len() as u32;
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => checksum::pseudo_v4(source, destination, protocol::TCP, len),
        (IpAddr::V6(source), IpAddr::V6(destination)) => checksum::pseudo_v6(source, destination, protocol::TCP, len),
        // No packet has addresses of two families.
        _ => 0,
    }
}
