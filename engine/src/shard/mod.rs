//! A shard: one pinned thread that owns its ports' queues, its connections and its timers.
//!
//! The loop, in order: frames (ports, mailboxes, our own), messages, the sessions' attention, timers, the stack's flush and
//! events, one kick per port. What each part does is in its module:
//!
//! - [`host`]: the stack's way to payload and ports.
//! - [`commands`], [`connect`], [`listen`], [`options`], [`inspect`]: the lanes.
//! - [`events`]: what the stack reports, into state lines and doorbells.
//! - [`closing`], [`relay`]: anchors that hang up, and anchors that carry payload.
//! - [`trace`]: what happens to connections that somebody looks at.
//! - [`sleep`]: how long to look for work, and how to sleep without missing any.

pub mod closing;
pub mod commands;
pub mod connect;
pub mod events;
pub mod flows;
pub mod host;
pub mod inspect;
pub mod listen;
pub mod options;
pub mod record;
pub mod relay;
pub mod report;
pub mod routing;
pub mod sessions;
pub mod sleep;
pub mod tcp_info;
pub mod trace;

use crate::clock;
use crate::mesh::ShardLinks;
use crate::message::{ControlMessage, Origin, ShardMessage};
use crate::shard::host::ShardHost;
use crate::shard::sleep::Idle;
use options::Limits;
use persona_channel::layout::Command;
use persona_channel::memory::Slot;
use persona_stack::{Instant, Ownership, PortId, RxFrame, Stack};
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Frames taken from one port in one iteration.
const RECEIVE_BUDGET: usize = 64;

/// Sockets looked at in one session in one iteration.
const SOCKET_BUDGET: usize = 256;

/// Iterations without a mark after which a session is parked.
const PARK_AFTER: u64 = 4_096;

/// What a shard is made of.
pub struct Parts<'a> {
    pub stack: Stack<'static>,
    pub host: ShardHost<'a>,
    pub links: ShardLinks,
    pub limits: Limits,
    /// The stack's seed, by which flows find their shard.
    pub seed: [u8; 32],
    pub spin: Option<std::time::Duration>,
}

pub struct Shard<'a> {
    pub stack: Stack<'static>,
    pub host: ShardHost<'a>,
    pub links: ShardLinks,
    pub(crate) epoll: OwnedFd,
    pub(crate) now: Instant,
    pub(crate) iteration: u64,
    pub(crate) idle: Idle,
    /// What the kernel reported and nobody has dealt with yet.
    pub(crate) events: Vec<sleep::Token>,
    pub(crate) limits: Limits,
    pub(crate) seed: [u8; 32],
    /// Commands for slots that are on their way to us.
    pub(crate) early: Vec<(Command, Origin)>,
    /// Relays that have more to move than one visit takes.
    pub(crate) unfinished_relays: Vec<(u32, Slot)>,
    pub(crate) stopping: Option<Instant>,
    /// Connections that somebody looks at.
    pub(crate) traces: Vec<crate::trace::Tap>,
    /// Port failures already told.
    pub(crate) failed_ports: u64,
}

impl<'a> Shard<'a> {
    pub fn new(parts: Parts<'a>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, parts.links.waker().event(), sleep::Token::Waker.data(), edge)?;
        for (index, attachment) in parts.host.attachments.iter().enumerate() {
            if let Some(descriptor) = attachment.port.as_ref().and_then(|port| port.poll_fd()) {
                epoll::add(&epoll, descriptor, sleep::Token::Port(index as u32).data(), epoll::EventFlags::IN)?;
            }
        }
        Ok(Self {
            stack: parts.stack,
            host: parts.host,
            links: parts.links,
            epoll,
            now: clock::now(),
            iteration: 0,
            idle: Idle::new(parts.spin),
            events: Vec::new(),
            limits: parts.limits,
            seed: parts.seed,
            early: Vec::new(),
            unfinished_relays: Vec::new(),
            stopping: None,
            traces: Vec::new(),
            failed_ports: 0,
        })
    }

    /// Runs until the control thread says stop and everything has ended.
    pub fn run(mut self) {
        while self.step() {
            if !self.idle.is_busy() {
                self.rest();
            }
        }
    }

    /// One iteration; `false` once the shard has stopped.
    pub fn step(&mut self) -> bool {
        self.iteration += 1;
        self.now = clock::now();
        self.host.port_was_full = false;
        let mut busy = self.receive();
        busy |= self.messages();
        busy |= self.attend();
        busy |= self.time();
        self.stack.flush(self.now, &mut self.host);
        busy |= self.events();
        self.copy_traces();
        busy |= !self.host.looped.is_empty();
        self.kick();
        if self.links.wake() {
            busy = true;
        }
        self.glance(busy);
        self.idle.note(busy);
        !self.has_stopped()
    }

    /// Frames: of the ports, of the other shards, of our own.
    fn receive(&mut self) -> bool {
        let mut taken = 0;
        for index in 0..self.host.attachments.len() {
            let Some(mut port) = self.host.attachments[index].port.take() else { continue };
            let id = self.host.attachments[index].id;
            taken += port.receive(RECEIVE_BUDGET, &mut |frame| {
                self.host.tap.received(id, &frame);
                self.route(id, &frame);
            });
            self.host.attachments[index].port = Some(port);
        }
        // Before anything else is sent: nobody else repeats some of it.
        self.host.send_deferred();
        taken += self.receive_from_shards();
        for _ in 0..RECEIVE_BUDGET {
            let Some(parcel) = self.host.looped.pop_front() else { break };
            self.route(parcel.port, &parcel.frame());
            self.host.recycle(parcel);
            taken += 1;
        }
        taken > 0
    }

    fn receive_from_shards(&mut self) -> usize {
        let mut taken = 0;
        let mut mailboxes = std::mem::take(&mut self.links.frames_from);
        for mailbox in &mut mailboxes {
            for _ in 0..RECEIVE_BUDGET {
                let got = mailbox.receive(|parcel| {
                    self.stack.on_frame(self.now, parcel.port, &parcel.frame(), &mut self.host);
                });
                if !got {
                    break;
                }
                taken += 1;
            }
        }
        self.links.frames_from = mailboxes;
        taken
    }

    /// To the stack, or to the shard that owns the flow.
    fn route(&mut self, port: PortId, frame: &RxFrame<'_>) {
        if self.links.shards() > 1 {
            match self.stack.classify(port, frame) {
                Ownership::Here => {}
                Ownership::Shard(shard) => return self.hand_over(shard.into(), port, frame),
                Ownership::All => {
                    for shard in 0..self.links.shards() {
                        if shard != self.links.index {
                            self.hand_over(shard, port, frame);
                        }
                    }
                }
            }
        }
        self.stack.on_frame(self.now, port, frame, &mut self.host);
    }

    fn hand_over(&mut self, shard: usize, port: PortId, frame: &RxFrame<'_>) {
        if self.links.send_frame(shard, port, frame) {
            self.host.counters.handed_over += 1;
        } else {
            self.host.counters.mailbox_full += 1;
        }
    }

    fn messages(&mut self) -> bool {
        let mut taken = false;
        for place in 0..self.links.messages_from.len() {
            while let Some(message) = self.links.messages_from[place].receive() {
                self.message(message);
                taken = true;
            }
        }
        if !self.early.is_empty() {
            for (command, origin) in std::mem::take(&mut self.early) {
                self.command(command, origin);
            }
        }
        taken
    }

    fn message(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Open(session) => self.open_session(session),
            ShardMessage::Forget { session } => self.forget_session(session),
            ShardMessage::Drain { session, ticket, process, last } => self.drain(session, ticket, process, last),
            ShardMessage::Forward { command, origin } => self.command(command, origin),
            ShardMessage::Move { session, record, then } => self.arrive(session, *record, then),
            ShardMessage::Nudge { session, slot } => self.look(session, slot),
            ShardMessage::Complete { origin, result, reply } => {
                self.complete(origin, result, reply.as_deref().unwrap_or(&[]));
            }
            ShardMessage::Bound { key, origin, result } => self.bound(key, origin, result),
            ShardMessage::Listen(order) => self.listen_here(&order),
            ShardMessage::Listened { key, origin, result } => self.listened(key, origin, result),
            ShardMessage::Retune { key, backlog, settings } => {
                self.retune(key, backlog, settings.as_deref());
            }
            ShardMessage::Unlisten { key, ticket } => self.unlisten_here(key, ticket),
            ShardMessage::Unlistened { key } => self.unlistened(key),
            ShardMessage::Neighbour { port, address, mac } => {
                if let Err(error) = self.stack.set_neighbour(port, address, mac, &mut self.host) {
                    tracing::warn!("neighbour {address} cannot be entered: {error:?}");
                }
            }
            ShardMessage::Address { port, address, prefix_len, present } => {
                let outcome = if present {
                    self.host.routing.add_address(port, address, prefix_len);
                    self.stack.add_address(port, address, prefix_len)
                } else {
                    self.host.routing.remove_address(port, address);
                    self.stack.remove_address(port, address)
                };
                if let Err(error) = outcome {
                    tracing::warn!("address {address} cannot be changed: {error:?}");
                }
            }
            ShardMessage::Route { route, present } => {
                let outcome = if present {
                    self.host.routing.add_route(route);
                    self.stack.add_route(&route)
                } else {
                    self.host.routing.remove_route(&route);
                    self.stack.remove_route(&route)
                };
                if let Err(error) = outcome {
                    tracing::warn!("route to {}/{} cannot be changed: {error:?}", route.destination, route.prefix_len);
                }
            }
            ShardMessage::Report { ticket, sockets } => self.report(ticket, sockets),
            ShardMessage::Tune(tunables) => {
                tunables.apply(&mut self.stack);
                self.limits = Limits::of(&tunables);
            }
            ShardMessage::Capture(tap) => self.host.tap.set(tap),
            ShardMessage::Trace { tap, local, remote } => self.trace(tap, local, remote),
            ShardMessage::Untrace { ticket } => self.untrace(ticket),
            ShardMessage::Stop { linger } => self.stop(linger),
        }
    }

    fn open_session(&mut self, session: Arc<crate::session::Session>) {
        let token = sleep::Token::Session(session.index).data();
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let index = session.index;
        let watched = epoll::add(&self.epoll, session.event(self.links.index), token, edge);
        self.host.sessions.insert(session);
        if let Err(error) = watched {
            // Without the event the session is served by looking at it, and the shard stays awake for it.
            tracing::error!(
                "session {index}: its event cannot be watched, the shard does not sleep while it lives: {error}"
            );
            self.host.sessions.cannot_watch(index);
        }
    }

    fn forget_session(&mut self, session: u32) {
        if let Some(attached) = self.host.sessions.remove(session) {
            let _ = epoll::delete(&self.epoll, attached.session.event(self.links.index));
        }
        self.links.send_control(ControlMessage::Forgotten { session });
    }

    /// The sessions' attention: commands first, since they may be what makes a socket's cursors mean something.
    fn attend(&mut self) -> bool {
        let mut found = false;
        for (session, slot) in std::mem::take(&mut self.unfinished_relays) {
            found = true;
            self.pump(session, slot);
        }
        let shard = host::shard_index(self.links.index);
        let mut place = 0;
        while let Some(&index) = self.host.sessions.active().get(place) {
            let iteration = self.iteration;
            let Some(attached) = self.host.sessions.get(index) else { break };
            if let Some(marks) = attached.collect(shard) {
                attached.last_active = iteration;
                found = true;
                self.serve(index, marks);
            } else if iteration - attached.last_active > PARK_AFTER
                && !attached.unwatched
                && attached.session.view().attention(shard).park()
            {
                // Another one has taken its place in the list.
                self.host.sessions.park(index);
                continue;
            }
            place += 1;
        }
        found
    }

    fn serve(&mut self, index: u32, mut marks: persona_channel::attention::Marks) {
        while let Some(lane) = marks.next_lane() {
            if self.links.is_congested() {
                self.mark_lane(index, lane);
            } else {
                self.drain_lane(index, lane);
            }
        }
        let Some(attached) = self.host.sessions.get(index) else { return };
        let session = Arc::clone(&attached.session);
        let attention = session.view().attention(host::shard_index(self.links.index));
        for _ in 0..SOCKET_BUDGET {
            let Some(slot) = marks.next_socket(attention) else { return };
            self.look(index, slot);
        }
        if !marks.is_empty()
            && let Some(attached) = self.host.sessions.get(index)
        {
            attached.put_off(marks);
        }
    }

    /// Reads a socket's cursors and tells the stack what moved.
    pub(crate) fn look(&mut self, session: u32, slot: Slot) {
        let Some(attached) = self.host.sessions.get(session) else { return };
        let home = attached.session.home(slot);
        let Some((record, socket)) = attached.socket(slot) else {
            // It went to another shard while the family still marked it here.
            match home.filter(|&shard| shard != self.links.index) {
                Some(_) if self.links.is_congested() => self.mark_socket(session, slot),
                Some(shard) => self.links.send(shard, ShardMessage::Nudge { session, slot }),
                None => {}
            }
            return;
        };
        let Some(connection) = record.connection else { return };
        if record.relay.is_some() || record.phase == record::Phase::Connecting {
            return;
        }
        let end = if record.write_shut { record.told_written } else { record.send.poll_end(&socket) };
        let read = record.receive.poll_read(&socket);
        let wrote = std::mem::replace(&mut record.told_written, end) != end;
        let has_read = std::mem::replace(&mut record.told_read, read) != read;
        if has_read && record.urgent.is_some_and(|urgent| urgent <= read) {
            record.urgent = None;
            socket.state.urgent.store(0, std::sync::atomic::Ordering::Release);
        }
        // A connection that ended this moment is reported by an event of its own.
        if wrote {
            let _ = self.stack.write(self.now, connection, end, &mut self.host);
        }
        if has_read {
            let _ = self.stack.read(self.now, connection, read, &mut self.host);
        }
    }

    fn time(&mut self) -> bool {
        self.host.flows.expire(self.host.hooks, self.now);
        if self.stack.next_timeout().is_some_and(|due| due <= self.now) {
            self.stack.on_timeout(self.now, &mut self.host);
            return true;
        }
        false
    }

    fn kick(&mut self) {
        if let Err((port, error)) = self.host.flush_ports() {
            // A port that fails goes on failing: powers of two of its failures are enough to know.
            self.failed_ports += 1;
            if self.failed_ports.is_power_of_two() {
                tracing::error!("port {}: frames cannot be sent ({} times): {error}", port.0, self.failed_ports);
            }
        }
    }
}
