//! What a shard is to its stack: memory for payload, and the way out for frames.
//!
//! Frames to one of our own addresses do not leave: they go round through a bounded queue and are received again, by
//! whichever shard owns their flow.

use super::flows::Flows;
use super::record::{self, Phase, Record};
use super::routing::Routing;
use super::sessions::{Sessions, owner_of};
use crate::capture::ShardTap;
use crate::control::ports::PortUse;
use crate::hooks::Hooks;
use crate::mailbox::Parcel;
use crate::port::{Piece, Port, TxFrame};
use persona_channel::accept::Accepted;
use persona_channel::layout::{ACCEPT_RING, CHUNK_SIZE, state_bits};
use persona_channel::memory::{Slot, SocketRef};
use persona_channel::send::SendReader;
use persona_stack::{
    Busy, Host, Incoming, MAX_HEADER, Owner, PassiveOpen, Payload, PortId, RxChecksum, Segment, Stored, TxChecksum,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Pieces of the largest super-segment (64 KiB), begun in the middle of a chunk.
const PIECES: usize = 64 * 1024 / CHUNK_SIZE + 2;

/// Frames under way from us to ourselves.
const LOOP_FRAMES: usize = 256;

/// Header-only frames that wait while their port is receiving.
const DEFERRED: usize = 512;

/// One interface of the shard. More than one queue of an interface share its id; the first of them transmits.
pub struct Attachment {
    pub id: PortId,
    /// Absent while it receives.
    pub port: Option<Box<dyn Port>>,
    /// Bytes of the link header.
    pub link_header: usize,
    /// What was queued and not flushed.
    pub unflushed: bool,
}

/// Counts of what the shard itself dropped or saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardCounters {
    /// Frames carried to the shard that owns their flow, and those for which its mailbox was full.
    pub handed_over: u64,
    pub mailbox_full: u64,
    /// Frames from us to ourselves, and those for which the queue was full.
    pub looped: u64,
    pub loop_full: u64,
    /// Header-only frames lost because too many waited for their port.
    pub deferred_full: u64,
    /// Connections ended because their application damaged its send stream.
    pub damaged_streams: u64,
    /// Passive opens put off because the accept ring was full, or no slot was free.
    pub accept_full: u64,
    pub slots_exhausted: u64,
    /// Bytes not taken because the session had no chunk left.
    pub store_short: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// Times the shard slept.
    pub sleeps: u64,
}

/// A frame without stream payload that waits for its port, or for room in its ring.
struct Deferred {
    port: PortId,
    header: [u8; MAX_HEADER],
    header_len: usize,
    payload: Vec<u8>,
    checksum: TxChecksum,
}

pub struct ShardHost<'a> {
    pub shard: usize,
    pub sessions: Sessions,
    pub attachments: Vec<Attachment>,
    /// Our own addresses, and the sources of connections.
    pub routing: Routing,
    /// Connections that are diverted one by one.
    pub flows: Flows,
    pub looped: VecDeque<Parcel>,
    /// Parcels whose memory can be used again.
    spare: Vec<Parcel>,
    deferred: VecDeque<Deferred>,
    /// Memory of payloads that were deferred, for the next.
    spare_payloads: Vec<Vec<u8>>,
    /// Connections whose send stream has a hole: to be aborted.
    pub damaged: Vec<Owner>,
    /// Connections whose settings the stack has to be told.
    pub adopted: Vec<Owner>,
    /// A listener has [`news`](super::sessions::Listener::news).
    pub listener_news: bool,
    /// Counts connections to shared listeners, which take them by turns.
    turns: usize,
    /// A port had no room in this iteration: there will be some without anybody waking us.
    pub port_was_full: bool,
    pub counters: ShardCounters,
    pub tap: ShardTap,
    pub ports_used: Arc<PortUse>,
    pub hooks: &'a dyn Hooks,
}

impl<'a> ShardHost<'a> {
    pub fn new(
        shard: usize,
        attachments: Vec<Attachment>,
        routing: Routing,
        ports_used: Arc<PortUse>,
        hooks: &'a dyn Hooks,
    ) -> Self {
        Self {
            shard,
            sessions: Sessions::default(),
            attachments,
            routing,
            flows: Flows::default(),
            looped: VecDeque::new(),
            spare: Vec::new(),
            deferred: VecDeque::new(),
            spare_payloads: Vec::new(),
            damaged: Vec::new(),
            adopted: Vec::new(),
            listener_news: false,
            turns: 0,
            port_was_full: false,
            counters: ShardCounters::default(),
            tap: ShardTap::default(),
            ports_used,
            hooks,
        }
    }

    /// A looped frame was received: keeps its memory for the next. There are never more than were under way at once.
    pub fn recycle(&mut self, parcel: Parcel) {
        self.spare.push(parcel);
    }

    /// Sends what waited for a port that is back from receiving, or for room in one. What finds none waits again, in the
    /// same order.
    pub fn send_deferred(&mut self) {
        for _ in 0..self.deferred.len() {
            let Some(frame) = self.deferred.pop_front() else { return };
            let segment = Segment {
                header: &frame.header[..frame.header_len],
                payload: if frame.payload.is_empty() { Payload::None } else { Payload::Inline(&frame.payload) },
                checksum: frame.checksum,
                gso: None,
            };
            // Never Busy: there is no payload of a stream.
            let _ = self.transmit(frame.port, &segment);
            if frame.payload.capacity() > 0 {
                self.spare_payloads.push(frame.payload);
            }
        }
    }

    /// One kick for each port that has something queued. Returns whether some port failed and how.
    pub fn flush_ports(&mut self) -> Result<(), (PortId, std::io::Error)> {
        let mut outcome = Ok(());
        for attachment in &mut self.attachments {
            if std::mem::take(&mut attachment.unflushed)
                && let Some(port) = &mut attachment.port
                && let Err(error) = port.flush()
            {
                outcome = Err((attachment.id, error));
            }
        }
        outcome
    }

    fn defer(&mut self, port: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        let inline = match segment.payload {
            Payload::None => &[],
            Payload::Inline(bytes) => bytes,
            // Payload of a stream stays where it is: the stack sends it when it flushes.
            Payload::Stream { .. } => return Err(Busy),
        };
        if self.deferred.len() >= DEFERRED || segment.header.len() > MAX_HEADER {
            self.counters.deferred_full += 1;
            return Ok(());
        }
        let mut payload = Vec::new();
        if !inline.is_empty() {
            payload = self.spare_payloads.pop().unwrap_or_default();
            payload.clear();
            payload.extend_from_slice(inline);
        }
        let mut header = [0; MAX_HEADER];
        header[..segment.header.len()].copy_from_slice(segment.header);
        self.deferred.push_back(Deferred {
            port,
            header,
            header_len: segment.header.len(),
            payload,
            checksum: segment.checksum,
        });
        Ok(())
    }

    fn loop_back(&mut self, port: PortId, frame: &TxFrame<'_>) -> Result<(), Busy> {
        if self.looped.len() >= LOOP_FRAMES {
            self.counters.loop_full += 1;
            return Err(Busy);
        }
        self.counters.looped += 1;
        let mut parcel = self.spare.pop().unwrap_or_default();
        parcel.port = port;
        // Nothing was on a wire: a sum that is not complete need not be.
        parcel.checksum = match frame.checksum {
            TxChecksum::Complete => RxChecksum::Unverified,
            TxChecksum::Partial { .. } => RxChecksum::Partial,
        };
        parcel.gso_size = frame.gso.map_or(0, |gso| gso.size);
        parcel.bytes.clear();
        parcel.bytes.extend_from_slice(frame.header);
        for piece in frame.payload {
            append(&mut parcel.bytes, piece);
        }
        self.looped.push_back(parcel);
        Ok(())
    }

    fn is_own(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.routing.is_own(address))
    }
}

/// Copies memory that another process may be changing.
fn append(bytes: &mut Vec<u8>, piece: &Piece) {
    bytes.reserve(piece.len);
    // SAFETY: the piece is readable for its length while the frame is being transmitted, the reserved memory is
    // writable, and `set_len` covers what was copied.
    unsafe {
        std::ptr::copy_nonoverlapping(piece.start, bytes.as_mut_ptr().add(bytes.len()), piece.len);
        bytes.set_len(bytes.len() + piece.len);
    }
}

/// Where a packet of ours goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

impl Host for ShardHost<'_> {
    fn transmit(&mut self, port: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        let Some(place) = self.attachments.iter().position(|attachment| attachment.id == port) else {
            // The stack knows only ports that we gave it; one that is gone takes everything and delivers nothing.
            return Ok(());
        };
        let link_header = self.attachments[place].link_header;
        let own = is_ip(segment.header, link_header)
            && self.is_own(destination(segment.header.get(link_header..).unwrap_or(&[])));
        if !own && self.attachments[place].port.is_none() {
            return self.defer(port, segment);
        }
        let mut pieces = [Piece { start: std::ptr::null(), len: 0 }; PIECES];
        let count = match segment.payload {
            Payload::None => 0,
            Payload::Inline(bytes) => {
                pieces[0] = Piece { start: bytes.as_ptr(), len: bytes.len() };
                1
            }
            Payload::Stream { owner, offset, len } => {
                match resolve(&mut self.sessions, owner, offset, len as usize, &mut pieces) {
                    Some(count) => count,
                    None => {
                        // The application damaged its stream: its connection ends, nobody else's.
                        self.counters.damaged_streams += 1;
                        self.damaged.push(owner);
                        return Ok(());
                    }
                }
            }
        };
        let frame =
            TxFrame { header: segment.header, payload: &pieces[..count], checksum: segment.checksum, gso: segment.gso };
        if own {
            return self.loop_back(port, &frame);
        }
        let attachment = &mut self.attachments[place];
        let Some(device) = &mut attachment.port else { return Err(Busy) };
        if device.transmit(&frame).is_err() {
            self.port_was_full = true;
            // What lies in the ring has to leave before there is room.
            attachment.unflushed = true;
            // Bulk that keeps the ring full must not keep a SYN,ACK or a RST from ever leaving.
            return self.defer(port, segment);
        }
        attachment.unflushed = true;
        self.tap.sent(port, &frame);
        Ok(())
    }

    fn store(&mut self, owner: Owner, offset: u64, bytes: &[u8]) -> Stored {
        let Some((record, socket)) = self.sessions.socket(owner) else {
            // Nobody will read it: taken, so that the stack goes on to end the connection.
            return Stored { len: bytes.len(), sum: persona_stack::wire::checksum::sum(bytes) };
        };
        let stored = record.receive.store(&socket, offset, bytes);
        if stored.len < bytes.len() {
            self.counters.store_short += (bytes.len() - stored.len) as u64;
        }
        Stored { len: stored.len, sum: stored.sum.network() }
    }

    fn incoming(&mut self, open: &PassiveOpen) -> Incoming {
        let Some((session_index, listener_slot)) = self.receiver(open) else { return Incoming::Refuse };
        let shard = self.shard;
        let Some(attached) = self.sessions.get(session_index) else { return Incoming::Refuse };
        let session = Arc::clone(&attached.session);
        let Some(listener) = attached.listener(listener_slot) else { return Incoming::Refuse };
        let view = session.view();
        let ring = view.accept_ring(listener.ring, shard_index(shard));
        // As Linux: one more than the backlog says.
        let backlog = listener.backlog.saturating_add(1);
        if listener.accept.len(ring).is_none_or(|len| len >= backlog.min(ACCEPT_RING as u32)) {
            self.counters.accept_full += 1;
            return Incoming::Refuse;
        }
        let Some(slot) = claim_slot(&session, shard) else {
            self.counters.slots_exhausted += 1;
            return Incoming::Refuse;
        };
        let mut record = Record::new(slot, session.generation(slot), listener.settings.inherited());
        record.phase = Phase::Connected;
        record.connection = Some(open.connection);
        record.local = Some(open.local);
        record.remote = Some(open.remote);
        let user = record.settings.port_user(open.local.port());
        record.uses_port = Some(user);
        self.ports_used.begin(user);
        let socket = view.socket(slot);
        socket.state.shard.store(shard as u32, Ordering::Relaxed);
        socket.state.send_buffer.store(record.settings.send_buffer(), Ordering::Relaxed);
        record::publish_addresses(&socket, record.local, record.remote);
        record::set_bits(&socket, state_bits::BOUND | state_bits::CONNECTED);
        let accepted = Accepted { slot, generation: record.generation };
        if listener.accept.push(ring, backlog, accepted).is_err() {
            // The family damaged the ring since we looked: its own loss.
            self.counters.accept_full += 1;
            self.ports_used.end(user);
            session.unsettle(slot, shard);
            return Incoming::Refuse;
        }
        listener.news = true;
        self.listener_news = true;
        let retuned = listener.retuned;
        attached.insert(record);
        let owner = owner_of(session_index, slot);
        if retuned {
            self.adopted.push(owner);
        }
        self.flows.begin(self.hooks, &self.routing, shard, open.local, open.remote);
        Incoming::Adopt(owner)
    }
}

impl ShardHost<'_> {
    /// The listener that a connection goes to: session and slot. Sharers of an address have their turns; one whose
    /// accept ring is full refuses in its turn, and the client's next segment meets another.
    fn receiver(&mut self, open: &PassiveOpen) -> Option<(u32, Slot)> {
        let sharers = self.sessions.sharers(open.listener);
        self.turns = self.turns.wrapping_add(1);
        sharers.get(self.turns.checked_rem(sharers.len())?).copied()
    }
}

/// Whether the frame's payload is IP, by the link header (which holds up to two VLAN tags).
fn is_ip(header: &[u8], link_header: usize) -> bool {
    if link_header == 0 {
        return true;
    }
    match header.get(link_header - 2..link_header) {
        Some(kind) => matches!(u16::from_be_bytes([kind[0], kind[1]]), 0x0800 | 0x86dd),
        None => false,
    }
}

/// A free slot that nobody in the engine knows. A hostile family may mark slots as free that are not: those are
/// skipped.
fn claim_slot(session: &crate::session::Session, shard: usize) -> Option<Slot> {
    const ATTEMPTS: usize = 8;
    (0..ATTEMPTS).find_map(|_| {
        let slot = Slot::new(session.view().free_sockets().claim()?)?;
        session.settle(slot, shard).then_some(slot)
    })
}

/// Where the bytes of a send stream lie; `None` when the application has damaged the stream.
fn resolve(sessions: &mut Sessions, owner: Owner, offset: u64, len: usize, pieces: &mut [Piece]) -> Option<usize> {
    let (record, socket) = sessions.socket(owner)?;
    if let Some(relay) = &record.relay {
        return relay.resolve(&record.send, &socket, offset, len, pieces);
    }
    resolve_stream(&record.send, &socket, offset, len, pieces)
}

/// As [`resolve`], in the chunks alone. At most [`PIECES`].
pub fn resolve_stream(
    stream: &SendReader,
    socket: &SocketRef<'_>,
    offset: u64,
    len: usize,
    pieces: &mut [Piece],
) -> Option<usize> {
    let mut found = [persona_channel::send::Piece { start: std::ptr::null(), len: 0 }; PIECES];
    let most = pieces.len().min(PIECES);
    let count = stream.resolve(socket, offset, len, &mut found[..most]).ok()?;
    for (piece, found) in pieces.iter_mut().zip(&found[..count]) {
        *piece = Piece { start: found.start, len: found.len };
    }
    Some(count)
}

pub fn shard_index(shard: usize) -> persona_channel::memory::Shard {
    persona_channel::memory::Shard::new(shard as u32).expect("an engine has at most SHARDS shards")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::memory::{self, pair};

    struct NoHooks;
    impl Hooks for NoHooks {}

    /// A ring that bulk keeps full: what is headers alone is neither lost nor reordered, and goes before what comes later.
    #[test]
    fn headers_alone_wait_for_room_and_go_first() {
        let params = memory::Params { slots: 4, ..memory::Params::default() };
        let (port, mut peer) = pair(params, params);
        let attachment = Attachment { id: PortId(0), port: Some(Box::new(port)), link_header: 14, unflushed: false };
        let mut host = ShardHost::new(0, vec![attachment], Routing::default(), Arc::new(PortUse::default()), &NoHooks);
        let send = |host: &mut ShardHost<'_>, number: u8| {
            let header = [number; 60];
            let segment =
                Segment { header: &header, payload: Payload::None, checksum: TxChecksum::Complete, gso: None };
            assert_eq!(host.transmit(PortId(0), &segment), Ok(()));
        };
        (0..10).for_each(|number| send(&mut host, number));
        assert!(host.port_was_full, "the shard must not sleep");
        let mut seen = Vec::new();
        for round in 0..4 {
            peer.receive(64, &mut |frame| seen.push(frame.head[0]));
            host.send_deferred();
            if round == 0 {
                send(&mut host, 10);
            }
            host.flush_ports().unwrap();
        }
        assert_eq!(seen, (0..=10).collect::<Vec<_>>());
        assert_eq!(host.counters.deferred_full, 0);

        let stream = Payload::Stream { owner: Owner(0), offset: 0, len: 1 };
        (0..4).for_each(|number| send(&mut host, number));
        let header = [0; 60];
        let segment = Segment { header: &header, payload: stream, checksum: TxChecksum::Complete, gso: None };
        // Its socket is gone: nothing to send, and nothing is kept for it.
        assert_eq!(host.transmit(PortId(0), &segment), Ok(()));
        assert_eq!(host.damaged, [Owner(0)]);
        (0..DEFERRED + 2).for_each(|_| send(&mut host, 7));
        assert_eq!(host.counters.deferred_full, 2, "bounded, and counted");
    }
}
