//! listen(): on every shard at once, decided by the control thread.
//!
//! The slot's owner asks; the control thread settles the port, lets each shard listen and says when all do. Completed
//! connections lie in the accept ring of the shard that owns their flow (see `Host::incoming`).

use super::Shard;
use super::commands::{Outcome, errno};
use super::host::shard_index;
use super::options::Settings;
use super::record::{self, Phase, change_bits, set_bits};
use super::sessions::{Listener, owner_of, owner_of_listener};
use crate::message::{ControlMessage, ListenOrder, Origin, SlotKey};
use persona_channel::accept::AcceptWriter;
use persona_channel::layout::state_bits;
use persona_channel::memory::{ListenerIndex, Slot};
use persona_stack::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Shard<'_> {
    pub(crate) fn listen(&mut self, key: SlotKey, origin: Origin, backlog: u64) -> Outcome {
        let most = self.limits.backlog;
        let Some((record, _)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        // A negative backlog is a huge one, as on Linux.
        let backlog = (backlog as u32).min(most);
        match record.phase {
            Phase::Idle | Phase::Failed => {}
            Phase::Listening(_) => {
                self.retune_everywhere(key, Some(backlog), None);
                return Outcome::Done(0);
            }
            _ => return Outcome::Done(-libc::EINVAL),
        }
        record.phase = Phase::Opening;
        let settings = Box::new(record.settings);
        // A listener that was shut down keeps what bind() has named.
        let unspecified = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let mut local = record.bound.unwrap_or(unspecified);
        if !record.names_port {
            local.set_port(0);
        }
        self.links.send_control(ControlMessage::Listen { key, origin, local, backlog, settings });
        Outcome::Pending
    }

    /// Listens on this shard.
    pub(crate) fn listen_here(&mut self, order: &ListenOrder) {
        let result = self.add_listener(order);
        self.links.send_control(ControlMessage::Listening { ticket: order.ticket, result });
    }

    fn add_listener(&mut self, order: &ListenOrder) -> Result<(), i32> {
        let ListenOrder { key, local, backlog, listener: ring, settings, .. } = order;
        self.host.sessions.get(key.session).ok_or(libc::EBADF)?;
        let owner = owner_of_listener(key.session, key.slot);
        // The accept ring bounds what is accepted; the stack bounds what is half-open.
        let (id, shared) = match self.stack.listen(owner, *local, (*backlog).max(1), &settings.stack) {
            Ok(id) => (id, false),
            // The control thread has found that they may share the port.
            Err(Error::AddressInUse) if settings.reuse_port => {
                (self.host.sessions.listening(*local).ok_or(libc::EADDRINUSE)?, true)
            }
            Err(error) => return Err(errno(error)),
        };
        let attached = self.host.sessions.get(key.session).ok_or(libc::EBADF)?;
        let mut accept = AcceptWriter::new();
        accept.reset(attached.session.view().accept_ring(*ring, shard_index(self.links.index)));
        let listener = Listener {
            slot: key.slot,
            generation: key.generation,
            id,
            ring: *ring,
            accept,
            local: *local,
            backlog: *backlog,
            settings: *settings,
            // The stack gives connections the options of the first.
            retuned: shared,
            news: false,
        };
        if self.host.sessions.add_listener(key.session, listener) { Ok(()) } else { Err(libc::EBADF) }
    }

    /// Every shard listens, or none does.
    pub(crate) fn listened(&mut self, key: SlotKey, origin: Origin, result: Result<(SocketAddr, ListenerIndex), i32>) {
        let owner = owner_of(key.session, key.slot);
        let known = self.host.sessions.socket(owner).filter(|(record, _)| record.generation == key.generation);
        if let Some((record, socket)) = known {
            match result {
                Ok((_, listener)) if record.phase == Phase::Orphan => {
                    record.claims_port = true;
                    self.links.send_control(ControlMessage::Unlisten { key, listener });
                }
                Ok((local, ring)) => {
                    record.phase = Phase::Listening(ring);
                    record.bound = Some(local);
                    record.local = Some(local);
                    record.claims_port = true;
                    record::publish_addresses(&socket, record.local, None);
                    socket.address.listener.store(ring.get(), Ordering::Release);
                    set_bits(&socket, state_bits::LISTENING);
                }
                Err(_) => {
                    // listen() on an unbound socket may have bound it all the same.
                    record.claims_port = true;
                    if record.phase == Phase::Orphan {
                        self.free_slot(key.session, key.slot);
                    } else {
                        record.phase = Phase::Idle;
                    }
                }
            }
        }
        self.complete(origin, result.err().map_or(0, |errno| -errno), &[]);
    }

    /// Here at once, so that the next connection finds it; on the other shards by the control thread.
    pub(crate) fn retune_everywhere(&mut self, key: SlotKey, backlog: Option<u32>, settings: Option<Box<Settings>>) {
        let done = self.retune(key, backlog, settings.as_deref());
        self.links.send_control(ControlMessage::Retune { key, done, backlog, settings });
    }

    /// `false`: no such listener is here (yet).
    pub(crate) fn retune(&mut self, key: SlotKey, backlog: Option<u32>, settings: Option<&Settings>) -> bool {
        let listener = self.host.sessions.get(key.session).and_then(|attached| attached.listener(key.slot));
        let Some(listener) = listener.filter(|listener| listener.generation == key.generation) else { return false };
        listener.backlog = backlog.unwrap_or(listener.backlog);
        // Where several share the port the stack knows one listener, which has what was set last.
        let _ = self.stack.retune(
            listener.id,
            backlog.map(|backlog| backlog.max(1)),
            settings.map(|settings| &settings.stack),
        );
        if let Some(settings) = settings {
            listener.settings = *settings;
            listener.retuned = true;
        }
        true
    }

    /// shutdown(SHUT_RD) of a listener: it becomes an idle socket that keeps its address.
    pub(crate) fn stop_listening(&mut self, key: SlotKey) {
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else { return };
        let Phase::Listening(listener) = record.phase else { return };
        record.phase = Phase::Idle;
        change_bits(&socket, 0, state_bits::LISTENING);
        socket.state.make_edges(true, false);
        self.links.send_control(ControlMessage::Unlisten { key, listener });
        // A thread may be blocked in accept().
        self.tell(owner_of(key.session, key.slot));
    }

    /// Stops listening on this shard. Connections that nobody accepted are reset.
    pub(crate) fn unlisten_here(&mut self, key: SlotKey, ticket: u32) {
        if let Some(listener) = self.host.sessions.take_listener(key.session, key.slot, key.generation) {
            if self.host.sessions.sharers(listener.id).is_empty() {
                let _ = self.stack.unlisten(self.now, listener.id, &mut self.host);
            }
            self.reset_unaccepted(key.session, listener);
        }
        self.links.send_control(ControlMessage::Unlistened { ticket });
    }

    fn reset_unaccepted(&mut self, session: u32, listener: Listener) {
        let Some(attached) = self.host.sessions.get(session) else { return };
        let shared = Arc::clone(&attached.session);
        let ring = shared.view().accept_ring(listener.ring, shard_index(self.links.index));
        let mut unaccepted: Vec<Slot> = Vec::new();
        for accepted in listener.accept.take_back(ring) {
            let Some(record) = attached.record(accepted.slot) else { continue };
            // Entries lie in shared memory: only what nobody has bound, and is what it was, is taken back.
            if record.generation == accepted.generation && record.anchor.is_none() && record.has_application() {
                unaccepted.push(accepted.slot);
            }
        }
        for slot in unaccepted {
            let Some((record, _)) = self.host.sessions.socket(owner_of(session, slot)) else { continue };
            record.phase = Phase::Orphan;
            match record.connection {
                Some(connection) => drop(self.stack.abort(self.now, connection, &mut self.host)),
                None => self.free_slot(session, slot),
            }
        }
    }

    /// No shard listens any more: the slot of a closed listener is free.
    pub(crate) fn unlistened(&mut self, key: SlotKey) {
        let owner = owner_of(key.session, key.slot);
        let Some((record, _)) = self.host.sessions.socket(owner) else { return };
        if record.generation == key.generation && record.phase == Phase::Orphan {
            self.free_slot(key.session, key.slot);
        }
    }
}
