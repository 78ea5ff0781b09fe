//! Command lanes: taking commands, finding the slot's owner, completing.
//!
//! A lane's commands are completed one after the other. One that cannot be completed at once (bind and listen are decided
//! by the control thread, a slot may belong to another shard) leaves its lane busy until [`Shard::complete`].

use super::Shard;
use super::host::shard_index;
use super::options::{Effect, LONGEST_VALUE, Stage};
use super::record::{Phase, Record, change_bits, set_bits};
use super::sessions::owner_of;
use super::sleep::Token;
use crate::message::{ControlMessage, Origin, ShardMessage, SlotKey};
use persona_channel::lane::Next;
use persona_channel::layout::{Attention, CHUNK_SIZE, Command, LANE_COMMANDS, MAP_ENTRIES, op, state_bits};
use persona_channel::memory::{LaneIndex, Slot};
use rustix::event::epoll;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What became of a command.
pub enum Outcome {
    Done(i32),
    /// With bytes for the reply.
    Bytes(Box<[u8]>),
    /// Somebody completes it later.
    Pending,
}

impl From<Result<(), i32>> for Outcome {
    fn from(result: Result<(), i32>) -> Self {
        Outcome::Done(result.err().map_or(0, |errno| -errno))
    }
}

impl Shard<'_> {
    /// Takes what a lane has, as far as it can be completed.
    pub(crate) fn drain_lane(&mut self, session: u32, lane: LaneIndex) {
        for _ in 0..LANE_COMMANDS {
            let Some(attached) = self.host.sessions.get(session) else { return };
            let shared = attached.session.view().lane(shard_index(self.links.index), lane);
            let command = match attached.lanes[lane.index()].next(shared) {
                Next::Command(command) => command,
                Next::Nothing | Next::Damaged => return,
            };
            let origin = Origin { session, shard: self.links.index as u8, lane, reply: command.reply != 0 };
            self.command(command, origin);
        }
        // More may have come meanwhile.
        self.mark_lane(session, lane);
    }

    /// The lane is taken again in the next round.
    pub(crate) fn mark_lane(&mut self, session: u32, lane: LaneIndex) {
        self.mark(session, |attention| attention.mark_lane(lane));
    }

    /// The socket is looked at again in the next round.
    pub(crate) fn mark_socket(&mut self, session: u32, slot: Slot) {
        self.mark(session, |attention| attention.mark_socket(slot));
    }

    fn mark(&mut self, session: u32, mark: impl FnOnce(&Attention) -> bool) {
        let Some(attached) = self.host.sessions.get(session) else { return };
        if mark(attached.session.view().attention(shard_index(self.links.index))) {
            // The session was parked, and this mark has taken its wish to ring the event.
            self.host.sessions.unpark(session, self.iteration);
        }
    }

    /// Executes a command here, or sends it to the shard that owns its slot.
    pub(crate) fn command(&mut self, command: Command, origin: Origin) {
        let outcome = self.execute(&command, origin);
        match outcome {
            Outcome::Done(result) => self.complete(origin, result, &[]),
            Outcome::Bytes(bytes) => self.complete(origin, bytes.len() as i32, &bytes),
            Outcome::Pending => {}
        }
    }

    fn execute(&mut self, command: &Command, origin: Origin) -> Outcome {
        let index = self.links.index;
        let Some(attached) = self.host.sessions.get(origin.session) else { return Outcome::Done(-libc::EBADF) };
        let Some(slot) = Slot::new(command.socket) else { return Outcome::Done(-libc::EBADF) };
        match attached.session.home(slot) {
            Some(home) if home != index => {
                self.links.send(home, ShardMessage::Forward { command: *command, origin });
                return Outcome::Pending;
            }
            Some(_) if attached.record(slot).is_none() => {
                // Its record is under way to us.
                self.early.push((*command, origin));
                return Outcome::Pending;
            }
            Some(_) => {}
            None => return self.on_unknown_slot(slot, command, origin),
        }
        let Some(record) = attached.record(slot) else { return Outcome::Done(-libc::EBADF) };
        if record.generation != command.generation {
            return Outcome::Done(-libc::EBADF);
        }
        if !record.has_application() {
            // Its hang-up was seen before; what followed from that may still be under way.
            return if command.op == op::RELEASE { self.fence(origin) } else { Outcome::Done(-libc::EBADF) };
        }
        let key = SlotKey { session: origin.session, slot, generation: record.generation };
        let args = &command.args;
        match command.op {
            op::BIND_ANCHOR => self.bind_anchor(key, args[0]),
            op::BIND => self.bind(key, origin, args),
            op::LISTEN => self.listen(key, origin, args[0]),
            op::CONNECT => self.connect(key, command, origin),
            op::SHUTDOWN => self.shutdown(key, args[0]).into(),
            op::SET_OPTION => self.set_option(key, args),
            op::GET_OPTION => self.get_option(key, args),
            op::RELAY => self.enter_relay(key).into(),
            op::URGENT => self.read_urgent(key, args[0] != 0),
            op::SEND_URGENT => self.send_urgent(key, args[0]).into(),
            op::RELEASE => self.release(key, origin),
            _ => Outcome::Done(-libc::ENOSYS),
        }
    }

    /// A slot that the library claimed and that the engine hears of for the first time.
    fn on_unknown_slot(&mut self, slot: Slot, command: &Command, origin: Origin) -> Outcome {
        let index = self.links.index;
        let limits = self.limits;
        let Some(attached) = self.host.sessions.get(origin.session) else { return Outcome::Done(-libc::EBADF) };
        let session = Arc::clone(&attached.session);
        if session.generation(slot) != command.generation || session.view().free_sockets().is_free(slot.get()) {
            return Outcome::Done(-libc::EBADF);
        }
        match command.op {
            op::RELEASE => {
                if session.settle(slot, index) {
                    self.vacate(origin.session, slot);
                }
                Outcome::Done(0)
            }
            op::BIND_ANCHOR => {
                if self.stopping.is_some() {
                    return Outcome::Done(-libc::ENETDOWN);
                }
                if !session.settle(slot, index) {
                    return Outcome::Done(-libc::EBADF);
                }
                let record = Record::new(slot, command.generation, super::options::Settings::new(limits));
                let socket = session.view().socket(slot);
                socket.state.shard.store(index as u32, Ordering::Relaxed);
                socket.state.send_buffer.store(record.settings.send_buffer(), Ordering::Relaxed);
                let key = SlotKey { session: origin.session, slot, generation: record.generation };
                attached.insert(record);
                let outcome = self.bind_anchor(key, command.args[0]);
                if !matches!(outcome, Outcome::Done(0)) {
                    self.free_slot(origin.session, slot);
                }
                outcome
            }
            _ => Outcome::Done(-libc::EBADF),
        }
    }

    /// Joins a slot and an anchor: from now on the descriptor's last close is the socket's.
    fn bind_anchor(&mut self, key: SlotKey, anchor: u64) -> Outcome {
        let Some(attached) = self.host.sessions.get(key.session) else { return Outcome::Done(-libc::EBADF) };
        let anchor = attached.session.anchors.take(anchor);
        let Some((record, socket)) = attached.socket(key.slot) else { return Outcome::Done(-libc::EBADF) };
        if record.anchor.is_some() {
            return Outcome::Done(-libc::EINVAL);
        }
        let Some(anchor) = anchor else {
            // It hung up before it came here, and was reaped as one that had never arrived.
            self.hang_up(key.session, key.slot);
            return Outcome::Done(-libc::EINVAL);
        };
        // Hang-up is reported whether asked for or not.
        let token = Token::Anchor { session: key.session, slot: key.slot }.data();
        if let Err(error) = epoll::add(&self.epoll, anchor.as_fd(), token, epoll::EventFlags::empty()) {
            tracing::warn!("session {}: an anchor cannot be watched: {error}", key.session);
            return Outcome::Done(-libc::ENOBUFS);
        }
        record.anchor = Some(anchor);
        set_bits(&socket, state_bits::BOUND);
        Outcome::Done(0)
    }

    fn bind(&mut self, key: SlotKey, origin: Origin, args: &[u64; 6]) -> Outcome {
        let local = match address(args) {
            Ok(local) => local,
            Err(errno) => return Outcome::Done(-errno),
        };
        let Some((record, _)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        if record.phase != Phase::Idle || record.bound.is_some() {
            return Outcome::Done(-libc::EINVAL);
        }
        if !local.ip().is_unspecified() && !self.host.routing.is_own(local.ip()) {
            return Outcome::Done(-libc::EADDRNOTAVAIL);
        }
        record.names_port = local.port() != 0;
        self.links.send_control(ControlMessage::Bind {
            key,
            origin,
            local,
            reuse_address: record.settings.reuse_address,
            reuse_port: record.settings.reuse_port,
        });
        Outcome::Pending
    }

    /// The control thread has decided a bind().
    pub(crate) fn bound(&mut self, key: SlotKey, origin: Origin, result: Result<SocketAddr, i32>) {
        let owner = owner_of(key.session, key.slot);
        let known = self.host.sessions.socket(owner).filter(|(record, _)| record.generation == key.generation);
        match (known, result) {
            (Some((record, socket)), Ok(local)) if record.has_application() => {
                record.bound = Some(local);
                record.claims_port = true;
                record.local = Some(local);
                super::record::publish_addresses(&socket, record.local, None);
            }
            // Closed meanwhile.
            (_, Ok(_)) => self.links.send_control(ControlMessage::Release { key }),
            (_, Err(_)) => {}
        }
        self.complete(origin, result.err().map_or(0, |errno| -errno), &[]);
    }

    fn shutdown(&mut self, key: SlotKey, how: u64) -> Result<(), i32> {
        let (read, write) = match how {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            _ => return Err(libc::EINVAL),
        };
        // What was written before goes out before the FIN.
        self.look(key.session, key.slot);
        let owner = owner_of(key.session, key.slot);
        let Some((record, socket)) = self.host.sessions.socket(owner) else { return Err(libc::EBADF) };
        match record.phase {
            Phase::Listening(_) if read => {
                self.stop_listening(key);
                return Ok(());
            }
            Phase::Connecting => {
                // Linux gives the attempt up.
                if let Some(connection) = record.connection {
                    let _ = self.stack.abort(self.now, connection, &mut self.host);
                }
                return Ok(());
            }
            Phase::Connected => {}
            _ => return Err(libc::ENOTCONN),
        }
        let connection = record.connection.ok_or(libc::ENOTCONN)?;
        if read {
            set_bits(&socket, state_bits::RCV_CLOSED);
        }
        let send_fin = write && !std::mem::replace(&mut record.write_shut, true);
        if write {
            set_bits(&socket, state_bits::SND_CLOSED);
        }
        socket.state.make_edges(true, write);
        if send_fin {
            let _ = self.stack.shutdown(self.now, connection, &mut self.host);
        }
        self.tell(owner);
        Ok(())
    }

    fn set_option(&mut self, key: SlotKey, args: &[u64; 6]) -> Outcome {
        let (level, name) = (args[0] as i32, args[1] as i32);
        let mut bytes = [0u8; LONGEST_VALUE];
        for (place, word) in bytes.chunks_mut(8).zip(&args[3..]) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let value = &bytes[..(args[2] as usize).min(bytes.len())];
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        let stage = match record.phase {
            Phase::Idle | Phase::Failed | Phase::Ended => Stage::Idle,
            Phase::Listening(_) | Phase::Opening => Stage::Listening,
            Phase::Connecting | Phase::Connected | Phase::Orphan => Stage::Connection,
        };
        let effect = match record.settings.set(level, name, value, stage) {
            Ok(effect) => effect,
            Err(errno) => return Outcome::Done(-errno),
        };
        if let Effect::SendBuffer(size) = effect {
            socket.state.send_buffer.store(size, Ordering::Release);
        }
        if effect != Effect::Remembered {
            let (settings, connection, phase) = (record.settings, record.connection, record.phase);
            if let Some(connection) = connection {
                let _ = self.stack.set_options(self.now, connection, &settings.stack, &mut self.host);
            }
            if matches!(phase, Phase::Listening(_) | Phase::Opening) {
                let settings = Some(Box::new(settings));
                self.retune_everywhere(key, None, settings);
            }
        }
        Outcome::Done(0)
    }

    /// `peek`: the byte stays to be taken.
    fn read_urgent(&mut self, key: SlotKey, peek: bool) -> Outcome {
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        let Some(offset) = record.urgent.and_then(|end| end.checked_sub(1)).filter(|_| !record.urgent_taken) else {
            return Outcome::Done(-libc::EINVAL);
        };
        if offset >= record.receive.published() || offset < record.receive.poll_read(&socket) {
            return Outcome::Done(-libc::EAGAIN);
        }
        let chunks = socket.receive_chunks();
        let Some(span) = chunks.span(offset) else { return Outcome::Done(-libc::EINVAL) };
        let mut byte = 0u8;
        // SAFETY: one byte at `byte` is writable.
        unsafe { socket.pool.load(span.chunk, span.at, &raw mut byte, 1) };
        if !peek {
            record.urgent_taken = true;
            set_bits(&socket, state_bits::URGENT_TAKEN);
        }
        Outcome::Done(byte.into())
    }

    fn send_urgent(&mut self, key: SlotKey, end: u64) -> Result<(), i32> {
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Err(libc::EBADF);
        };
        let connection = record.connection.filter(|_| record.phase == Phase::Connected).ok_or(libc::ENOTCONN)?;
        // The library asks before it writes the byte, so that no segment leaves without the pointer.
        if end == 0 || end > record.send.poll_end(&socket) + (MAP_ENTRIES * CHUNK_SIZE) as u64 {
            return Err(libc::EINVAL);
        }
        self.stack.urgent(connection, end).map_err(errno)?;
        self.look(key.session, key.slot);
        Ok(())
    }

    /// The library believes that the last descriptor is closed: looks at once instead of waiting for the hang-up.
    fn release(&mut self, key: SlotKey, origin: Origin) -> Outcome {
        let Some((record, _)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        if record.anchor.as_ref().is_none_or(super::closing::has_hung_up) {
            self.hang_up(key.session, key.slot);
        }
        self.fence(origin)
    }

    /// The command is done when the control thread has heard what we have told it so far: a bind() that follows may come to
    /// it by another shard's queue, and must not overtake the end of the listener.
    fn fence(&mut self, origin: Origin) -> Outcome {
        self.links.send_control(ControlMessage::Fence { origin });
        Outcome::Pending
    }

    /// A command is done: the pusher gets its result, wherever its lane is.
    pub(crate) fn complete(&mut self, origin: Origin, result: i32, reply: &[u8]) {
        if usize::from(origin.shard) != self.links.index {
            let reply = (!reply.is_empty()).then(|| reply.into());
            self.links.send(origin.shard.into(), ShardMessage::Complete { origin, result, reply });
            return;
        }
        let Some(attached) = self.host.sessions.get(origin.session) else { return };
        let view = attached.session.view();
        let shared = view.lane(shard_index(self.links.index), origin.lane);
        let reader = &mut attached.lanes[origin.lane.index()];
        let waiter = reader.complete(shared, view.waitables(), result, reply);
        if let Some(waitable) = waiter {
            attached.session.doorbells.ring(waitable.index());
            self.host.counters.doorbells += 1;
        }
        // What waited behind it in the lane comes next.
        self.mark_lane(origin.session, origin.lane);
    }

    /// Tells whoever waits for news of a socket. Its state line was published before.
    pub(crate) fn tell(&mut self, owner: persona_stack::Owner) {
        let iteration = self.iteration;
        let Some((session, slot)) = super::sessions::parse(owner) else { return };
        let Some(attached) = self.host.sessions.get(session) else { return };
        attached.last_active = iteration;
        let view = attached.session.view();
        let doorbells = &attached.session.doorbells;
        let mut rung = 0;
        view.notify(&view.socket(slot), |waitable| {
            doorbells.ring(waitable.index());
            rung += 1;
        });
        self.host.counters.doorbells += rung;
    }

    /// The socket's error is reported once.
    pub(crate) fn fail(socket: &persona_channel::memory::SocketRef<'_>, errno: i32, set: u32, clear: u32) {
        if errno != 0 {
            socket.state.error.store(errno, Ordering::Relaxed);
        }
        change_bits(socket, if errno != 0 { set | state_bits::ERROR } else { set }, clear);
        socket.state.make_edges(true, true);
    }
}

/// An address of a command: family, port, two words.
pub fn address(args: &[u64; 6]) -> Result<SocketAddr, i32> {
    if args[0] != libc::AF_INET as u64 {
        return Err(libc::EAFNOSUPPORT);
    }
    let port = u16::try_from(args[1]).map_err(|_| libc::EINVAL)?;
    let [a, b, c, d, ..] = args[2].to_ne_bytes();
    Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port))
}

/// The stack's refusals as Linux's errors.
pub fn errno(error: persona_stack::Error) -> i32 {
    use persona_stack::Error;
    match error {
        Error::AddressInUse => libc::EADDRINUSE,
        Error::AddressNotAvailable => libc::EADDRNOTAVAIL,
        Error::NoRoute => libc::ENETUNREACH,
        Error::NoMemory => libc::ENOBUFS,
        Error::FamilyNotSupported => libc::EAFNOSUPPORT,
        Error::NotConnected | Error::Gone => libc::ENOTCONN,
        Error::Invalid => libc::EINVAL,
    }
}
