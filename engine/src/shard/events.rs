//! What the stack reports: published in state lines, then told to whoever waits.
//!
//! Order within a socket: data, then bits, then edges, then the doorbell. Whoever sees RCV_CLOSED also sees the last byte
//! before it.

use super::Shard;
use super::record::{self, Phase, set_bits};
use super::sessions::{owner_of_listener, parse};
use crate::message::ControlMessage;
use persona_channel::layout::state_bits;
use persona_channel::memory::SocketRef;
use persona_stack::{Changes, CloseReason, ConnectionId, Event, Owner, Status};
use std::sync::atomic::Ordering;

/// How long an ended flow stays diverted (shared mode): TIME_WAIT as Linux has it, and a little.
const FLOW_LINGERS: persona_stack::Duration = persona_stack::Duration::from_secs(61);

/// The way to the peer works again: what nobody was told of is no news any more.
fn forget_soft_error(socket: &SocketRef<'_>) {
    let state = socket.state;
    if state.error.load(Ordering::Relaxed) != 0 && state.bits.load(Ordering::Relaxed) & state_bits::ERROR == 0 {
        state.error.store(0, Ordering::Relaxed);
    }
}

impl Shard<'_> {
    /// Takes all events; `true` when there was one.
    pub(crate) fn events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.stack.poll_event() {
            any = true;
            match event {
                // Every passive open was decided in `Host::incoming`: what is reported here has no listener any more.
                Event::Incoming { connection, .. } => {
                    let _ = self.stack.abort(self.now, connection, &mut self.host);
                }
                Event::Connection { connection, owner, changes, status } => {
                    self.changed(connection, owner, &changes, &status);
                }
                Event::NeighbourWanted { port, address } => {
                    self.links.send_control(ControlMessage::NeighbourWanted { port, address });
                }
                Event::Closed { owner, connection, reason } => self.closed(connection, owner, reason),
            }
        }
        for owner in std::mem::take(&mut self.host.damaged) {
            any = true;
            if let Some(connection) = self.host.sessions.socket(owner).and_then(|(record, _)| record.connection) {
                let _ = self.stack.abort(self.now, connection, &mut self.host);
            }
        }
        for owner in std::mem::take(&mut self.host.adopted) {
            any = true;
            let Some((record, _)) = self.host.sessions.socket(owner) else { continue };
            let settings = record.settings;
            if let Some(connection) = record.connection {
                let _ = self.stack.set_options(self.now, connection, &settings.stack, &mut self.host);
            }
        }
        self.tell_listeners();
        any
    }

    fn changed(&mut self, connection: ConnectionId, owner: Owner, changes: &Changes, status: &Status) {
        let Some((record, socket)) = self.host.sessions.socket(owner) else { return };
        if record.connection != Some(connection) {
            return;
        }
        let Changes { established, readable, acked, peer_closed, urgent, soft_error } = *changes;
        let mut input = false;
        let mut output = false;
        if readable {
            record.receive.publish(&socket, status.rcv_end);
            input = true;
        }
        if urgent && let Some(end) = status.urgent {
            if record.urgent != Some(end) {
                record.urgent = Some(end);
                record.urgent_taken = false;
                record::change_bits(&socket, 0, state_bits::URGENT_TAKEN);
            }
            socket.state.urgent.store(end, Ordering::Release);
            input = true;
        }
        // The engine wants to hear when the urgent byte was passed as well.
        let update_at = record.urgent.map_or(status.window_update_at, |end| end.min(status.window_update_at));
        // The reader may have passed it before it was told: then nobody rings any more.
        let has_passed = record.receive.set_update_at(&socket, update_at);
        if acked
            && status.send_room > socket.state.send_buffer.load(Ordering::Relaxed)
            && record.settings.stack.tune_send
        {
            // Before the acknowledgement, which decides whether there is room enough to wake a writer.
            socket.state.send_buffer.store(status.send_room, Ordering::Relaxed);
        }
        if acked {
            forget_soft_error(&socket);
            output |= match &mut record.relay {
                Some(relay) => {
                    relay.acknowledge(status.snd_acked);
                    record.send.acknowledge(&socket, status.snd_acked);
                    false
                }
                None => record.send.acknowledge(&socket, status.snd_acked),
            };
        }
        if peer_closed {
            record.peer_closed = true;
            set_bits(&socket, state_bits::RCV_CLOSED);
            input = true;
        }
        if soft_error && status.soft_error != 0 {
            socket.state.error.store(status.soft_error.into(), Ordering::Relaxed);
            // SO_ERROR finds it, as on Linux; who wants to be told asks by IP_RECVERR.
            if record.phase != Phase::Connected || record.settings.reports_errors() {
                set_bits(&socket, state_bits::ERROR);
                input = true;
            }
        }
        if established && record.phase == Phase::Connecting {
            record.phase = Phase::Connected;
            record::change_bits(&socket, state_bits::CONNECTED, state_bits::CONNECTING);
            output = true;
        }
        let relays = record.relay.is_some();
        if input || output {
            socket.state.make_edges(input, output);
            self.tell(owner);
        }
        if let Some((session, slot)) = parse(owner) {
            if relays {
                self.pump(session, slot);
            } else if established || has_passed {
                self.look(session, slot);
            }
        }
    }

    fn closed(&mut self, connection: ConnectionId, owner: Owner, reason: CloseReason) {
        let Some((session, slot)) = parse(owner) else { return };
        let Some((record, socket)) = self.host.sessions.socket(owner) else { return };
        if record.connection != Some(connection) {
            return;
        }
        record.connection = None;
        if let Some(user) = record.uses_port.take() {
            self.host.ports_used.end(user);
        }
        if let (Some(local), Some(remote)) = (record.local, record.remote) {
            self.host.flows.linger(self.now + FLOW_LINGERS, local, remote);
        }
        if record.phase == Phase::Orphan {
            self.free_slot(session, slot);
            return;
        }
        let errno = match reason {
            CloseReason::Finished | CloseReason::Aborted => 0,
            // A RST after the peer's FIN tells the writer (tcp(7): EPIPE).
            CloseReason::Reset if record.peer_closed => libc::EPIPE,
            CloseReason::Reset => libc::ECONNRESET,
            CloseReason::Refused => libc::ECONNREFUSED,
            CloseReason::TimedOut => libc::ETIMEDOUT,
            CloseReason::Unreachable(errno) => errno.into(),
        };
        record.phase = if record.phase == Phase::Connecting { Phase::Failed } else { Phase::Ended };
        if record.relay.is_none() {
            record.send.release(&socket);
        }
        Self::fail(&socket, errno, record::ENDED, state_bits::CONNECTING);
        let relays = record.relay.is_some();
        self.tell(owner);
        if relays {
            self.relay_ended(session, slot, reason);
        }
    }

    /// Listeners whose accept rings got something.
    fn tell_listeners(&mut self) {
        if !std::mem::take(&mut self.host.listener_news) {
            return;
        }
        for session in 0..self.host.sessions.bound() {
            let Some(attached) = self.host.sessions.get(session) else { continue };
            for place in 0..attached.listeners.len() {
                let Some(attached) = self.host.sessions.get(session) else { break };
                let listener = &mut attached.listeners[place];
                if std::mem::take(&mut listener.news) {
                    let slot = listener.slot;
                    attached.session.view().socket(slot).state.make_edges(true, false);
                    self.tell(owner_of_listener(session, slot));
                }
            }
        }
    }
}
