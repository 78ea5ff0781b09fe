//! Ends: anchors that hang up, sockets that become orphans, slots that become free, and the graceful stop.

use super::Shard;
use super::host::shard_index;
use super::record::Phase;
use super::sessions::owner_of;
use crate::message::{ControlMessage, SlotKey};
use persona_channel::layout::{ACCEPT_RING, LANES};
use persona_channel::memory::{LaneIndex, Slot};
use rustix::event::{PollFd, PollFlags};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether the last copy of the application's end of an anchor is gone.
pub fn has_hung_up(anchor: impl AsFd) -> bool {
    let mut poll = [PollFd::new(&anchor, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok() && poll[0].revents().contains(PollFlags::HUP)
}

impl Shard<'_> {
    /// The anchor reported something while it carries no payload, which can only be its end.
    pub(crate) fn anchor_event(&mut self, session: u32, slot: Slot) {
        let Some((record, _)) = self.host.sessions.socket(owner_of(session, slot)) else { return };
        if record.relay.is_some() {
            self.pump(session, slot);
        } else if record.anchor.as_ref().is_some_and(has_hung_up) {
            self.hang_up(session, slot);
        }
    }

    /// The last descriptor of a socket is closed: what Linux does then.
    pub(crate) fn hang_up(&mut self, session: u32, slot: Slot) {
        // The last bytes written and read count.
        self.look(session, slot);
        let Some((record, _)) = self.host.sessions.socket(owner_of(session, slot)) else { return };
        record.anchor = None;
        let key = SlotKey { session, slot, generation: record.generation };
        let phase = std::mem::replace(&mut record.phase, Phase::Orphan);
        match (phase, record.connection) {
            (Phase::Orphan, _) => {}
            (Phase::Listening(listener), _) => self.links.send_control(ControlMessage::Unlisten { key, listener }),
            // The decision is under way, and finds an orphan when it comes.
            (Phase::Opening, _) => {}
            (_, Some(connection)) => {
                // An error means that the connection has just ended: its event is waiting.
                let _ = self.stack.close(self.now, connection, &mut self.host);
            }
            (_, None) => self.free_slot(session, slot),
        }
    }

    /// Forgets a socket and frees its slot.
    pub(crate) fn free_slot(&mut self, session: u32, slot: Slot) {
        let Some(attached) = self.host.sessions.get(session) else { return };
        if let Some((record, socket)) = attached.socket(slot) {
            record.send.poll_end(&socket);
            record.send.release(&socket);
            record.receive.release(&socket);
        }
        let Some(record) = attached.remove(slot) else { return };
        if let Some(user) = record.uses_port {
            self.host.ports_used.end(user);
        }
        if record.claims_port {
            let key = SlotKey { session, slot, generation: record.generation };
            self.links.send_control(ControlMessage::Release { key });
        }
        self.vacate(session, slot);
    }

    /// Frees a slot that has no record (any more).
    pub(crate) fn vacate(&mut self, session: u32, slot: Slot) {
        let shards = self.links.shards();
        let Some(attached) = self.host.sessions.get(session) else { return };
        let ended = &attached.session;
        ended.unsettle(slot, slot.index() % shards);
        if ended.live() == 0 {
            self.links.send_control(ControlMessage::Freed { session });
        }
    }

    /// A process of the session is gone. What it queued is done first; then connections that it took from an accept
    /// ring and never bound to a descriptor are closed.
    pub(crate) fn drain(&mut self, session: u32, ticket: u32, process: u32, last: bool) {
        for lane in (0..LANES as u32).filter_map(LaneIndex::new) {
            self.drain_lane(session, lane);
        }
        let Some(attached) = self.host.sessions.get(session) else {
            self.links.send_control(ControlMessage::Drained { session, ticket });
            return;
        };
        let shared = Arc::clone(&attached.session);
        let view = shared.view();
        let shard = shard_index(self.links.index);
        // What lies in an accept ring waits for whoever shares the listener, attached or not.
        let mut waiting = HashSet::new();
        for listener in &attached.listeners {
            let ring = view.accept_ring(listener.ring, shard);
            let head = ring.head.load(Ordering::Relaxed);
            for offset in 0..listener.accept.len(ring).unwrap_or(0) {
                let place = head.wrapping_add(offset) as usize % ACCEPT_RING;
                waiting.insert(ring.entries[place].load(Ordering::Relaxed) as u32);
            }
        }
        let abandoned: Vec<Slot> = attached
            .records()
            .filter(|record| record.anchor.is_none() && record.has_application())
            .map(|record| record.slot)
            .filter(|slot| {
                let claimant = view.socket(*slot).cursor.claimant.load(Ordering::Relaxed);
                (last || claimant == process) && !waiting.contains(&slot.get())
            })
            .collect();
        for slot in abandoned {
            self.hang_up(session, slot);
        }
        self.links.send_control(ControlMessage::Drained { session, ticket });
    }

    /// Begins the graceful stop: every socket is closed as its process's exit would.
    pub(crate) fn stop(&mut self, linger: std::time::Duration) {
        let linger = persona_stack::Duration::from_micros(linger.as_micros() as u64);
        self.stopping = Some(self.now + linger);
        for session in 0..self.host.sessions.bound() {
            let Some(attached) = self.host.sessions.get(session) else { continue };
            let slots: Vec<Slot> =
                attached.records().filter(|record| record.has_application()).map(|record| record.slot).collect();
            for slot in slots {
                self.hang_up(session, slot);
            }
        }
    }

    fn abort_everything(&mut self) {
        let mut connections = Vec::new();
        for attached in self.host.sessions.iter() {
            connections.extend(attached.records().filter_map(|record| record.connection));
        }
        for connection in connections {
            let _ = self.stack.abort(self.now, connection, &mut self.host);
        }
    }

    /// After a stop: whether everything has ended or the time is over.
    pub(crate) fn has_stopped(&mut self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        let mut sessions = self.host.sessions.iter();
        let open = sessions.any(|attached| attached.records().any(|record| record.connection.is_some()));
        drop(sessions);
        if open && self.now < deadline {
            return false;
        }
        if open {
            self.abort_everything();
        }
        self.stack.flush(self.now, &mut self.host);
        self.kick();
        self.links.send_control(ControlMessage::Stopped);
        self.links.wake();
        true
    }
}
