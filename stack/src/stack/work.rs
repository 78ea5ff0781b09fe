//! What the caller's loop makes the stack do: timers, the flush at the end of a batch, and the events.

use super::core::Core;
use crate::api::{Changes, ConnectionId, Event, Host, ListenerId, Status};
use crate::counters::Counter;
use crate::frame::{Owner, PortId};
use crate::memory::NONE;
use crate::tcp::block::{Listener, Tcb, change, flag};
use crate::tcp::seq;
use crate::tcp::state::State;
use crate::time::Instant;
use core::net::IpAddr;

/// Connections without room in a row before a flush leaves the rest to the next one.
const BUSY_IN_A_ROW: u32 = 16;

impl<'m> Core<'m> {
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
        let Listener { settings, defer_accept, .. } = self.tables.listeners[request.listener as usize];
        let sysctls = &self.env.globals.sysctls;
        let (over, again) = request.timeout(defer_accept, sysctls.synack_retries);
        if over {
            self.env.count(Counter::TcpAttemptFails);
            self.drop_request(index);
            return;
        }
        request.retries += 1;
        let wait = crate::tcp::backed_off_syn(settings.rto(sysctls), request.retries);
        request.retry_at = now.as_micros() + wait;
        let request = *request;
        self.env.arm(timer, Instant::from_micros(request.retry_at));
        if !again {
            return;
        }
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
}

impl Tcb {
    fn status(&self) -> Status {
        Status {
            rcv_end: self.rcv_end(),
            snd_acked: seq::offset(self.snd_una.min(self.snd_end)),
            urgent: (self.rcv_up != 0).then(|| seq::offset(self.rcv_up)),
            soft_error: self.soft_error,
            send_room: self.send_room(),
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
