//! The fake engine's network: sockets, listeners, and bytes that go straight from one stream into the other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use persona_channel::accept::{AcceptWriter, Accepted};
use persona_channel::layout::{AddressLine, CHUNK_SIZE, Command, state_bits};
use persona_channel::memory::{ListenerIndex, Slot, SocketRef};
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::{Piece, SendReader};

use super::{SHARD, Session, descriptors};

/// Session and slot.
type Place = (usize, u32);

#[derive(Default)]
pub struct Network {
    pub sessions: Vec<Session>,
    sockets: HashMap<Place, Socket>,
    listeners: HashMap<u16, Place>,
    next_port: u16,
    touched: HashSet<Place>,
}

/// The address everything in this network has unless it says otherwise.
const HERE: [u8; 4] = [10, 99, 0, 1];

#[derive(Default)]
struct Socket {
    local: ([u8; 4], u16),
    remote: ([u8; 4], u16),
    peer: Option<Place>,
    send: SendReader,
    receive: ReceiveWriter,
    /// The application has said that it sends nothing more.
    shut: bool,
    /// The peer knows.
    end_told: bool,
    /// The last descriptor is closed.
    closed: bool,
    listener: Option<(ListenerIndex, AcceptWriter, u32)>,
    waiting: VecDeque<Place>,
    options: HashMap<(u64, u64), Vec<u8>>,
    anchor: Option<u32>,
    relay: Option<Relay>,
}

/// Bytes on the way between anchor and stream.
#[derive(Default)]
struct Relay {
    to_anchor: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    end_given: bool,
    end_taken: bool,
}

impl Network {
    fn line(&self, place: Place) -> SocketRef<'static> {
        self.sessions[place.0].memory.socket(Slot::new(place.1).expect("a legal slot"))
    }

    fn socket(&mut self, place: Place) -> &mut Socket {
        let session = &self.sessions[place.0];
        self.sockets.entry(place).or_insert_with(|| {
            let line = session.memory.socket(Slot::new(place.1).expect("a legal slot"));
            line.state.send_buffer.store(session.memory.header().send_buffer, Ordering::Release);
            line.state.shard.store(0, Ordering::Release);
            Socket::default()
        })
    }

    fn set_bits(&self, place: Place, bits: u32) {
        self.line(place).state.bits.fetch_or(bits, Ordering::AcqRel);
    }

    fn news(&self, place: Place, input: bool, output: bool) {
        let line = self.line(place);
        line.state.make_edges(input, output);
        self.sessions[place.0].notify(line.slot);
    }

    fn fail(&self, place: Place, errno: i32) {
        let line = self.line(place);
        line.state.error.store(errno, Ordering::Release);
        let ended = state_bits::ERROR | state_bits::ENDED | state_bits::RCV_CLOSED | state_bits::SND_CLOSED;
        line.state.bits.fetch_or(ended, Ordering::AcqRel);
        self.news(place, true, true);
    }

    pub fn touch(&mut self, session: usize, slot: Slot) {
        self.touched.insert((session, slot.get()));
    }

    pub fn bind_anchor(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        let id = command.args[0] as u32;
        self.socket(place).anchor = Some(id);
        let generation = self.line(place).generation();
        let Some(anchor) = self.sessions[session].anchors.get_mut(&id) else {
            // The descriptor was closed before its command came: the socket begins and ends here.
            let socket = self.socket(place);
            (socket.closed, socket.shut) = (true, true);
            self.touched.insert(place);
            return 0;
        };
        anchor.slot = Some((command.socket, generation));
        self.set_bits(place, state_bits::BOUND);
        0
    }

    pub fn bind(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        let (octets, port) = address(command);
        let port = if port == 0 { self.free_port() } else { port };
        if self.listeners.contains_key(&port) {
            return -libc::EADDRINUSE;
        }
        self.socket(place).local = (octets, port);
        store(self.line(place).address, Some((octets, port)), None);
        0
    }

    pub fn listen(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        if self.socket(place).local.1 == 0 {
            let port = self.free_port();
            self.socket(place).local = ([0; 4], port);
            store(self.line(place).address, Some(([0; 4], port)), None);
        }
        let port = self.socket(place).local.1;
        if self.socket(place).listener.is_none() {
            let index = self.sessions[session].memory.free_listeners().claim().and_then(ListenerIndex::new);
            let Some(index) = index else { return -libc::ENOBUFS };
            self.line(place).address.listener.store(index.get(), Ordering::Release);
            let ring = self.sessions[session].memory.accept_ring(index, SHARD);
            let mut writer = AcceptWriter::new();
            writer.reset(ring);
            self.socket(place).listener = Some((index, writer, command.args[0] as u32));
        }
        self.listeners.insert(port, place);
        self.set_bits(place, state_bits::LISTENING);
        0
    }

    pub fn connect(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        let remote = address(command);
        let port = match self.socket(place).local.1 {
            0 => self.free_port(),
            bound => bound,
        };
        let local = (HERE, port);
        self.socket(place).local = local;
        self.socket(place).remote = remote;
        store(self.line(place).address, Some(local), Some(remote));
        self.set_bits(place, state_bits::CONNECTING);
        // Port 9 never answers, any other without listener refuses.
        if remote.1 == 9 {
            return 0;
        }
        let Some(listener) = self.listeners.get(&remote.1).copied() else {
            self.line(place).state.bits.fetch_and(!state_bits::CONNECTING, Ordering::AcqRel);
            self.fail(place, libc::ECONNREFUSED);
            return 0;
        };
        let claimed = self.sessions[listener.0].memory.claim_slot(0);
        let Some(line) = claimed else { return -libc::ENOBUFS };
        let other = (listener.0, line.slot.get());
        self.sockets.remove(&other);
        let socket = self.socket(other);
        (socket.local, socket.remote, socket.peer) = (remote, local, Some(place));
        store(line.address, Some(remote), Some(local));
        self.set_bits(other, state_bits::CONNECTED);
        self.socket(place).peer = Some(other);
        let bits = &self.line(place).state.bits;
        bits.fetch_or(state_bits::CONNECTED, Ordering::AcqRel);
        bits.fetch_and(!state_bits::CONNECTING, Ordering::AcqRel);
        self.socket(listener).waiting.push_back(other);
        self.touched.insert(listener);
        self.news(place, false, true);
        0
    }

    pub fn shutdown(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        if command.args[0] != 1 {
            self.set_bits(place, state_bits::RCV_CLOSED);
        }
        if command.args[0] != 0 {
            self.set_bits(place, state_bits::SND_CLOSED);
            self.socket(place).shut = true;
        }
        self.touched.insert(place);
        self.news(place, true, true);
        0
    }

    pub fn set_option(&mut self, session: usize, command: &Command) -> i32 {
        let [level, name, length, words @ ..] = command.args;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take(length as usize).collect();
        self.socket((session, command.socket)).options.insert((level, name), bytes);
        0
    }

    pub fn get_option(&mut self, session: usize, command: &Command, reply: &mut Vec<u8>) -> i32 {
        let [level, name, room, ..] = command.args;
        let value = self.socket((session, command.socket)).options.get(&(level, name)).cloned().unwrap_or(vec![0; 4]);
        reply.extend(value.iter().take(room as usize));
        reply.len() as i32
    }

    pub fn relay(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        self.pump_one(place, usize::MAX);
        let line = self.line(place);
        let socket = self.socket(place);
        let mut relay = Relay::default();
        let mut bytes = vec![0; 256 * 1024];
        socket.receive.poll_read(&line);
        loop {
            let taken = line.receive_reader().read(&mut bytes).len;
            if taken == 0 {
                break;
            }
            socket.receive.poll_read(&line);
            relay.to_anchor.extend(&bytes[..taken]);
        }
        socket.relay = Some(relay);
        self.set_bits(place, state_bits::RELAY);
        self.touched.insert(place);
        self.news(place, true, true);
        0
    }

    /// The library has closed a listener and waits until this is seen.
    pub fn release(&mut self, session: usize, command: &Command) -> i32 {
        let place = (session, command.socket);
        let anchor = self.socket(place).anchor.and_then(|id| self.sessions[session].anchors.get(&id));
        if let Some(end) = anchor.map(|anchor| anchor.end.as_raw_fd()) {
            self.anchor_ready(end);
        }
        self.finish(place);
        0
    }

    /// An anchor's end is readable: it was closed, or a relayed socket was written to.
    pub fn anchor_ready(&mut self, fd: RawFd) {
        for session in 0..self.sessions.len() {
            let found = self.sessions[session].anchors.iter().find(|(_, anchor)| anchor.end.as_raw_fd() == fd);
            let Some((&id, anchor)) = found else { continue };
            let slot = anchor.slot;
            let mut bytes = vec![0; 64 * 1024];
            let taken = descriptors::take(&anchor.end, &mut bytes);
            let Some((slot, _)) = slot else {
                if taken.is_none() {
                    self.sessions[session].anchors.remove(&id);
                }
                return;
            };
            let place = (session, slot);
            match taken {
                Some(count) => {
                    if let Some(relay) = &mut self.socket(place).relay {
                        relay.to_peer.extend(&bytes[..count]);
                    } else {
                        assert_eq!(count, 0, "bytes in the anchor of a socket that is not in relay");
                    }
                }
                None => {
                    self.sessions[session].anchors.remove(&id);
                    self.socket(place).closed = true;
                    self.socket(place).shut = true;
                }
            }
            self.touched.insert(place);
            return;
        }
    }

    /// Moves what can be moved, at most `step` bytes for each connection. True if something did.
    pub fn pump(&mut self, step: usize) -> bool {
        let touched: Vec<Place> = self.touched.drain().collect();
        let mut moved = false;
        for place in touched {
            if self.sockets.contains_key(&place) {
                moved |= self.pump_one(place, step);
                // What one has read makes room for what the other has sent.
                if let Some(peer) = self.sockets.get(&place).and_then(|socket| socket.peer) {
                    moved |= self.pump_one(peer, step);
                }
                self.finish(place);
            }
        }
        moved
    }

    fn pump_one(&mut self, place: Place, step: usize) -> bool {
        self.fill_accept_ring(place);
        self.feed_from_anchor(place);
        let moved = self.move_bytes(place, step);
        self.feed_to_anchor(place);
        moved
    }

    fn move_bytes(&mut self, place: Place, step: usize) -> bool {
        let line = self.line(place);
        let Some(socket) = self.sockets.get_mut(&place) else { return false };
        let end = if socket.relay.is_some() { socket.send.end() } else { socket.send.poll_end(&line) };
        let (acked, peer) = (socket.send.acked(), socket.peer);
        let Some(peer) = peer.filter(|peer| self.sockets.contains_key(peer)) else {
            // Nobody there: what was sent is gone.
            if end > acked && self.sockets.get_mut(&place).is_some_and(|socket| socket.send.acknowledge(&line, end)) {
                self.news(place, false, true);
            }
            return end > acked;
        };
        let peer_line = self.line(peer);
        let buffer = u64::from(self.sessions[peer.0].memory.header().receive_buffer);
        let other = self.sockets.get_mut(&peer).expect("looked up above");
        let read = if other.relay.is_some() { other.receive.read() } else { other.receive.poll_read(&peer_line) };
        let published = other.receive.published();
        let room = (read + buffer).saturating_sub(published);
        other.receive.set_update_at(&peer_line, published.max(read + 1));
        let length = (end - acked).min(room).min(step as u64).min(256 * 1024) as usize;
        let mut moved = false;
        if length > 0 {
            let bytes = gather(&self.sockets[&place].send, &line, acked, length);
            let other = self.sockets.get_mut(&peer).expect("looked up above");
            let stored = if let Some(relay) = &mut other.relay {
                relay.to_anchor.extend(&bytes);
                length
            } else {
                let stored = other.receive.store(&peer_line, published, &bytes).len;
                other.receive.publish(&peer_line, published + stored as u64);
                other.receive.set_update_at(&peer_line, published + stored as u64);
                stored
            };
            let socket = self.sockets.get_mut(&place).expect("looked up above");
            let space = socket.send.acknowledge(&line, acked + stored as u64);
            if space {
                self.news(place, false, true);
            }
            self.news(peer, true, false);
            self.touched.insert(place);
            self.touched.insert(peer);
            moved = stored > 0;
        }
        let socket = self.sockets.get_mut(&place).expect("looked up above");
        if socket.shut && !socket.end_told && socket.send.acked() == socket.send.end() {
            socket.end_told = true;
            let closed = socket.closed;
            let unread = socket.receive.published() > socket.receive.poll_read(&line);
            if closed && unread {
                self.fail(peer, libc::ECONNRESET);
            } else {
                let both = self.sockets[&peer].shut;
                self.set_bits(peer, state_bits::RCV_CLOSED | if both { state_bits::ENDED } else { 0 });
                if both {
                    self.set_bits(place, state_bits::ENDED);
                    self.news(place, true, true);
                }
                self.news(peer, true, both);
            }
            self.touched.insert(peer);
            moved = true;
        }
        moved
    }

    fn feed_from_anchor(&mut self, place: Place) {
        let line = self.line(place);
        let Some(socket) = self.sockets.get_mut(&place) else { return };
        let Some(relay) = &mut socket.relay else { return };
        while !relay.to_peer.is_empty() {
            let bytes = relay.to_peer.make_contiguous();
            // The application's part of the stream: it writes to the anchor now.
            let taken = line.send_writer().write(bytes).len;
            socket.send.poll_end(&line);
            relay.to_peer.drain(..taken);
            if taken == 0 {
                break;
            }
        }
        if relay.to_peer.is_empty() && relay.end_taken {
            socket.shut = true;
        }
    }

    fn feed_to_anchor(&mut self, place: Place) {
        let line = self.line(place);
        let ended = line.state.bits.load(Ordering::Acquire) & state_bits::RCV_CLOSED != 0;
        let Some(socket) = self.sockets.get_mut(&place) else { return };
        let (Some(relay), Some(id)) = (&mut socket.relay, socket.anchor) else { return };
        let Some(anchor) = self.sessions[place.0].anchors.get(&id) else { return };
        while !relay.to_anchor.is_empty() {
            let given = descriptors::give(&anchor.end, relay.to_anchor.make_contiguous());
            relay.to_anchor.drain(..given);
            if given == 0 {
                self.touched.insert(place);
                return;
            }
        }
        if ended && !relay.end_given {
            relay.end_given = true;
            descriptors::end_sending(&anchor.end);
        }
    }

    fn fill_accept_ring(&mut self, place: Place) {
        let session = &self.sessions[place.0];
        let Some(socket) = self.sockets.get_mut(&place) else { return };
        let Some((index, writer, backlog)) = &mut socket.listener else { return };
        let ring = session.memory.accept_ring(*index, SHARD);
        let mut pushed = false;
        while let Some(&(_, slot)) = socket.waiting.front() {
            let slot = Slot::new(slot).expect("a legal slot");
            let accepted = Accepted { slot, generation: session.memory.socket(slot).generation() };
            if writer.push(ring, (*backlog).max(1), accepted).is_err() {
                break;
            }
            socket.waiting.pop_front();
            pushed = true;
        }
        let more = !socket.waiting.is_empty();
        if pushed {
            self.news(place, true, false);
        }
        if more {
            self.touched.insert(place);
        }
    }

    /// Frees a closed socket whose bytes are all delivered.
    fn finish(&mut self, place: Place) {
        let line = self.line(place);
        let Some(socket) = self.sockets.get_mut(&place) else { return };
        let delivered = socket.peer.is_none() || socket.end_told;
        if !socket.closed || !delivered {
            return;
        }
        let mut socket = self.sockets.remove(&place).expect("looked up above");
        if let Some((index, ..)) = socket.listener {
            self.listeners.retain(|_, listener| *listener != place);
            self.sessions[place.0].memory.free_listeners().free(index.get());
        }
        if let Some(peer) = socket.peer
            && let Some(other) = self.sockets.get_mut(&peer)
        {
            other.peer = None;
            if !other.shut {
                // Whoever writes to it from now on gets a reset; for simplicity at once when it has read everything.
                self.touched.insert(peer);
            }
        }
        socket.send.release(&line);
        socket.receive.poll_read(&line);
        socket.receive.release(&line);
        self.sessions[place.0].memory.recycle_slot(line.slot);
    }

    fn free_port(&mut self) -> u16 {
        self.next_port = if self.next_port < 40_000 { 40_000 } else { self.next_port + 1 };
        self.next_port
    }
}

fn address(command: &Command) -> ([u8; 4], u16) {
    let octets = command.args[2].to_ne_bytes();
    ([octets[0], octets[1], octets[2], octets[3]], command.args[1] as u16)
}

fn store(line: &AddressLine, local: Option<([u8; 4], u16)>, remote: Option<([u8; 4], u16)>) {
    let word = |octets: [u8; 4]| u64::from_ne_bytes([octets[0], octets[1], octets[2], octets[3], 0, 0, 0, 0]);
    line.family.store(libc::AF_INET as u32, Ordering::Release);
    if let Some((octets, port)) = local {
        line.local[0].store(word(octets), Ordering::Release);
        line.local_port.store(u32::from(port), Ordering::Release);
    }
    if let Some((octets, port)) = remote {
        line.remote[0].store(word(octets), Ordering::Release);
        line.remote_port.store(u32::from(port), Ordering::Release);
    }
}

/// Bytes of a send stream.
fn gather(reader: &SendReader, line: &SocketRef<'_>, offset: u64, length: usize) -> Vec<u8> {
    let mut pieces = vec![Piece { start: std::ptr::null(), len: 0 }; length / CHUNK_SIZE + 2];
    let count = reader.resolve(line, offset, length, &mut pieces).expect("published bytes have chunks");
    let mut bytes = vec![0; length];
    let mut at = 0;
    for piece in &pieces[..count] {
        // SAFETY: the piece lies in the session, and the rest of the buffer has room for it. The program may be changing it.
        unsafe { persona_channel::copy::copy(piece.start, bytes[at..at + piece.len].as_mut_ptr(), piece.len) };
        at += piece.len;
    }
    bytes
}
