//! The way of a TCP segment to its record: connection, half-open request, TIME-WAIT, listener, or nobody; and how one
//! becomes the other.

use super::Ownership;
use super::core::{Core, Found};
use crate::api::{ConnectionId, Host, Incoming, ListenerId, PassiveOpen};
use crate::counters::Counter;
use crate::flow::{Flow, shard_of};
use crate::frame::{Owner, PortId, RxChecksum, RxFrame};
use crate::ip::receive::peek;
use crate::ip::{Peek, TransportPacket};
use crate::memory::{NONE, Pool, Taken};
use crate::sysctl::Sysctls;
use crate::tcp::block::{Listener, Request, Tcb, change, flag};
use crate::tcp::listen::{self, Agreed};
use crate::tcp::segment::{Arrival, Bytes};
use crate::tcp::{ecn, reply, seq, timewait};
use crate::time::Instant;
use crate::wire::{TcpView, checksum, protocol};
use core::net::IpAddr;

/// Values of [`Sysctls::syncookies`].
const NO_COOKIES: u32 = 0;
const COOKIES_ALWAYS: u32 = 2;

/// What became of a handshake that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completion {
    /// It is a connection.
    Done,
    /// The accept queue is full.
    Overflow,
    /// Nothing else was left for it.
    Dropped,
}

impl<'m> Core<'m> {
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
            local: packet.destination,
            remote: packet.source,
            local_port: view.destination_port(),
            remote_port: view.source_port(),
        };
        let hash = self.env.globals.secrets.hash(&flow);
        if packet.reassembled && shard_of(hash, self.env.globals.shards) != self.env.globals.shard {
            // Every shard has put the datagram together; its owner goes on.
            return;
        }
        let hash = hash as u32;
        let options = view.options();
        let arrival = Arrival {
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            ecn: packet.tos & ecn::codepoint::MASK,
            ttl: packet.ttl,
            window: view.window(),
            urgent: view.urgent(),
            options: &options,
            payload: Bytes::new(view.payload(), tail, packet.bytes.len() - view.header_len()),
            train: packet.gso_size,
        };
        let found = self.tables.find(hash, &flow);
        if let Some(Found::Connection(index)) = found
            && self.too_far(&arrival, self.tables.tcbs[index as usize].settings.min_ttl)
        {
            return;
        }
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

    /// RFC 5082 section 3, IP_MINTTL: the segment has come further than the socket allows, and is dropped. As on Linux, half-open
    /// requests are not asked, whose SYN was.
    #[inline]
    fn too_far(&mut self, arrival: &Arrival<'_>, least: u8) -> bool {
        let far = arrival.ttl < least;
        if far {
            self.env.count(Counter::TcpExtTCPMinTTLDrop);
        }
        far
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
        if self.too_far(arrival, self.tables.listeners[index as usize].settings.min_ttl) {
            return;
        }
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
        let Sysctls { syncookies, max_syn_backlog, .. } = self.env.globals.sysctls;
        // Linux's tcp_conn_request: without cookies the last quarter is for peers that are known, of whom none is here.
        let left = max_syn_backlog.saturating_sub(self.env.globals.requests.used());
        let scarce = syncookies == NO_COOKIES && left < max_syn_backlog / 4;
        let room = listener.requests < listener.backlog.max(1) && syncookies != COOKIES_ALWAYS && !scarce;
        let taken = room
            .then(|| Pool { records: self.tables.requests, state: &mut self.env.globals.requests }.take())
            .flatten();
        let Some(Taken { index: request, .. }) = taken else {
            if syncookies == NO_COOKIES {
                self.env.count(Counter::TcpExtTCPReqQFullDrop);
                self.env.count(Counter::TcpExtListenDrops);
                return;
            }
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
        let Listener { settings, defer_accept, .. } = self.tables.listeners[request.listener as usize];
        match request.on_segment(&mut self.env, host, now, arrival, &settings, defer_accept) {
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
                match self.complete(now, &flow, hash, listener, port, &agreed, rtt, old, arrival, host) {
                    Completion::Done => self.free_request(index),
                    Completion::Overflow if self.env.globals.sysctls.abort_on_overflow != 0 => {
                        self.env.count(Counter::TcpExtEmbryonicRsts);
                        reply::reset(&mut self.env, host, now, &flow, port.0, arrival);
                        self.drop_request(index);
                    }
                    // The segment was never there: the request stays, and the peer's next one asks again.
                    Completion::Overflow | Completion::Dropped => {}
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
        if self.env.globals.sysctls.syncookies == NO_COOKIES {
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

    /// The handshake of a passive open is complete: asks the host what becomes of the connection.
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
    ) -> Completion {
        let listener = self.tables.listeners[listener_index as usize];
        if listener.waiting > listener.backlog {
            self.env.count(Counter::TcpExtListenOverflows);
            self.env.count(Counter::TcpExtListenDrops);
            return Completion::Overflow;
        }
        let Some((index, generation)) = self.take_connection() else {
            self.env.count(Counter::TcpExtListenDrops);
            return Completion::Dropped;
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
        let mut tcb = Tcb::passive(
            *flow,
            hash,
            generation,
            &listener,
            listener_index,
            agreed,
            mtu,
            &self.env.globals.sysctls,
            now,
        );
        match answer {
            Incoming::Refuse => {
                self.env.count(Counter::TcpExtListenOverflows);
                self.env.count(Counter::TcpExtListenDrops);
                self.env.count(Counter::PersonaIncomingRefused);
                self.tables.tcbs[index as usize] = tcb;
                self.give_back_connection(index);
                return Completion::Overflow;
            }
            Incoming::Adopt(owner) => {
                tcb.owner = owner.0;
                tcb.listener = NONE;
                tcb.set(flag::ADOPTED);
            }
            Incoming::Later => self.tables.listeners[listener_index as usize].waiting += 1,
        }
        match rtt {
            Some(rtt) => tcb.sample_first_rtt(&self.env.globals.sysctls, now, rtt),
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
        Completion::Done
    }

    fn on_time_wait<H: Host>(&mut self, now: Instant, index: u32, port: PortId, arrival: &Arrival<'_>, host: &mut H) {
        let record = &mut self.tables.time_waits[index as usize];
        let (flow, hash) = (record.flow, record.hash);
        match record.on_segment(&mut self.env, host, now, arrival) {
            // A later end: the wheel's node fires at the old one and is armed again.
            timewait::Verdict::Stays => {}
            timewait::Verdict::Ends => self.drop_time_wait(index),
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
}

#[inline]
fn pseudo(packet: &TransportPacket<'_>) -> u16 {
    let len = packet.bytes.len() as u32;
    if let (Some(source), Some(destination)) = (packet.source.to_v4(), packet.destination.to_v4()) {
        return checksum::pseudo_v4(source, destination, protocol::TCP, len);
    }
    match (packet.source.into(), packet.destination.into()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => checksum::pseudo_v6(source, destination, protocol::TCP, len),
        // No packet has addresses of two families.
        _ => 0,
    }
}
