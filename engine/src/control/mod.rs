//! The control thread: everything that is slow or concerns all shards.
//!
//! - [`attach`]: processes, sessions, anchors and doorbells (session.sock).
//! - [`binding`]: bind and listen, over [`ports`].
//! - [`follow`]: the host's neighbours, addresses and routes, for shared addresses.
//! - [`admin`]: `persona sockets`, `stats`, `capture`, `sysctl` (admin.sock).
//! - [`trace`]: `persona trace`.
//!
//! It sleeps in epoll without a timeout; the shards wake it when they sent a message.

pub mod admin;
pub mod attach;
pub mod binding;
pub mod follow;
pub mod ports;
pub mod trace;

use crate::config::Config;
use crate::hooks::Hooks;
use crate::host;
use crate::ledger::Ledger;
use crate::mesh::ControlLinks;
use crate::message::{ControlMessage, ShardMessage};
use crate::session::Session;
use crate::session::estate::Estate;
use crate::sysctl::Tunables;
use anyhow::{Context, Result};
use persona_channel::attach::{LARGEST_MESSAGE, Refusal};
use persona_stack::PortId;
use rustix::event::epoll;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// What the control thread is made of.
pub struct Parts<'a> {
    pub config: &'a Config,
    /// What the shards have been told.
    pub tunables: Tunables,
    pub ledger: &'a Ledger,
    pub links: ControlLinks,
    pub session_socket: OwnedFd,
    pub admin_socket: OwnedFd,
    /// Readable once the engine has to stop.
    pub stop: BorrowedFd<'a>,
    pub hooks: &'a dyn Hooks,
    /// Changes of the host's neighbours, addresses and routes (shared mode).
    pub monitor: Option<host::Monitor>,
    /// Of sessions that ended with earlier engines.
    pub estates: Vec<Estate>,
    pub ports_used: Arc<ports::PortUse>,
    pub interfaces: Vec<admin::InterfaceFacts>,
    pub shards: Vec<crate::admin::ShardInfo>,
    pub restarts: u32,
}

/// A session and what only the control thread knows of it.
pub(crate) struct Entry {
    pub session: Arc<Session>,
    pub processes: u32,
    /// Shards that still have to answer Drain or Forget.
    pub draining: u32,
    pub forgetting: u32,
    /// Listener indexes in use, a bit each.
    pub listeners: u128,
}

/// A process that is gone while shards still empty its lanes.
pub(crate) struct Departed {
    pub process: u32,
    /// Shards that have not answered.
    pub shards: u32,
}

pub struct Control<'a> {
    pub(crate) config: &'a Config,
    pub(crate) tunables: Tunables,
    pub(crate) ledger: &'a Ledger,
    pub(crate) links: ControlLinks,
    pub(crate) epoll: OwnedFd,
    session_socket: OwnedFd,
    admin_socket: OwnedFd,
    pub(crate) hooks: &'a dyn Hooks,
    monitor: Option<host::Monitor>,
    estates: Vec<Estate>,
    pub(crate) ports: ports::PortTable,
    pub(crate) ports_used: Arc<ports::PortUse>,
    pub(crate) sessions: Vec<Option<Entry>>,
    pub(crate) processes: HashMap<u32, attach::Process>,
    /// Processes that are gone and whose lanes are being emptied, by ticket.
    pub(crate) departed: HashMap<u32, Departed>,
    next_serial: u32,
    pub(crate) next_ticket: u32,
    pub(crate) listening: HashMap<u32, binding::Opening>,
    pub(crate) unlistening: HashMap<u32, binding::Ending>,
    pub(crate) reserved_below: u16,
    pub(crate) administrators: HashMap<u32, admin::Administrator>,
    pub(crate) reports: HashMap<u32, admin::Pending>,
    pub(crate) captures: Vec<admin::Capture>,
    pub(crate) traces: Vec<trace::Trace>,
    pub(crate) interfaces: Vec<admin::InterfaceFacts>,
    pub(crate) shards: Vec<crate::admin::ShardInfo>,
    pub(crate) restarts: u32,
    pub(crate) started: std::time::Instant,
    stopped: usize,
    stopping: bool,
    spare: Option<OwnedFd>,
}

/// What somebody hears for whom the engine has no descriptor left.
pub(crate) const OUT_OF_DESCRIPTORS: &str =
    "the engine has no descriptor left: raise its RLIMIT_NOFILE (LimitNOFILE= of the service) or close sockets";

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Waker,
    Stop,
    SessionSocket,
    AdminSocket,
    Monitor,
    Process(u32),
    Administrator(u32),
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Token::Waker => (0, 0),
            Token::Stop => (1, 0),
            Token::SessionSocket => (2, 0),
            Token::AdminSocket => (3, 0),
            Token::Process(serial) => (4, serial),
            Token::Administrator(serial) => (5, serial),
            Token::Monitor => (6, 0),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(number))
    }

    fn parse(data: epoll::EventData) -> Option<Self> {
        let number = data.u64() as u32;
        Some(match data.u64() >> 32 {
            0 => Token::Waker,
            1 => Token::Stop,
            2 => Token::SessionSocket,
            3 => Token::AdminSocket,
            4 => Token::Process(number),
            5 => Token::Administrator(number),
            6 => Token::Monitor,
            _ => return None,
        })
    }
}

impl<'a> Control<'a> {
    pub fn new(parts: Parts<'a>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make the control thread's epoll")?;
        let watch = |descriptor: BorrowedFd<'_>, token: Token, flags| {
            epoll::add(&epoll, descriptor, token.data(), flags)
                .context("cannot watch a descriptor of the control thread")
        };
        let level = epoll::EventFlags::IN;
        watch(parts.links.waker().event(), Token::Waker, level | epoll::EventFlags::ET)?;
        watch(parts.stop, Token::Stop, level | epoll::EventFlags::ET)?;
        watch(parts.session_socket.as_fd(), Token::SessionSocket, level)?;
        watch(parts.admin_socket.as_fd(), Token::AdminSocket, level)?;
        if let Some(monitor) = &parts.monitor {
            watch(monitor.as_fd(), Token::Monitor, level)?;
        }
        let ephemeral = parts.tunables.ports.map_or_else(binding::ephemeral_range, |(first, last)| first..=last);
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
        let mut ports = ports::PortTable::new(ephemeral, u64::from_ne_bytes(seed));
        ports.reserve(&parts.tunables.reserved_ports);
        Ok(Self {
            config: parts.config,
            tunables: parts.tunables,
            ledger: parts.ledger,
            links: parts.links,
            epoll,
            session_socket: parts.session_socket,
            admin_socket: parts.admin_socket,
            hooks: parts.hooks,
            monitor: parts.monitor,
            estates: parts.estates,
            ports,
            ports_used: parts.ports_used,
            sessions: Vec::new(),
            processes: HashMap::new(),
            departed: HashMap::new(),
            next_serial: 1,
            next_ticket: 1,
            listening: HashMap::new(),
            unlistening: HashMap::new(),
            reserved_below: binding::reserved_below(),
            administrators: HashMap::new(),
            reports: HashMap::new(),
            captures: Vec::new(),
            traces: Vec::new(),
            interfaces: parts.interfaces,
            shards: parts.shards,
            restarts: parts.restarts,
            started: std::time::Instant::now(),
            stopped: 0,
            stopping: false,
            spare: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok(),
        })
    }

    /// Runs until every shard has stopped.
    pub fn run(mut self) {
        self.read_host();
        while self.stopped < self.links.shards() {
            let mut busy = false;
            for shard in 0..self.links.shards() {
                while let Some(message) = self.links.from_shards[shard].receive() {
                    busy = true;
                    self.message(shard, message);
                }
            }
            busy |= self.copy_captures();
            busy |= self.copy_traces();
            busy |= self.links.push();
            self.links.waker().announce();
            let asleep = !busy && self.links.is_empty();
            let events = self.wait(asleep);
            self.links.waker().cancel();
            for event in events {
                self.event(event);
            }
        }
        for entry in self.sessions.iter().flatten() {
            // Nobody serves what is still there.
            entry.session.view().set_dead();
            entry.session.ring_everybody();
        }
    }

    fn wait(&mut self, asleep: bool) -> Vec<Token> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 64];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // Captures and traces are looked at now and then, since the shards wake nobody for a frame.
        let soon = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let timeout = match (asleep, self.captures.is_empty() && self.traces.is_empty()) {
            (false, _) => Some(&now),
            (true, true) => None,
            (true, false) => Some(&soon),
        };
        match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok((events, _)) => events.iter().filter_map(|event| Token::parse(event.data)).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn event(&mut self, event: Token) {
        match event {
            Token::Waker => {}
            Token::Stop => self.stop(),
            Token::SessionSocket => self.accept_process(),
            Token::AdminSocket => self.accept_administrator(),
            Token::Monitor => self.follow_host(),
            Token::Process(serial) => self.hear_process(serial),
            Token::Administrator(serial) => self.hear_administrator(serial),
        }
    }

    fn message(&mut self, shard: usize, message: ControlMessage) {
        match message {
            ControlMessage::Forgotten { session } => self.forgotten(session),
            ControlMessage::Drained { session, ticket } => self.drained(session, ticket),
            ControlMessage::Freed { session } => self.end_if_unused(session),
            ControlMessage::Bind { key, origin, local, reuse_address, reuse_port } => {
                let result = self.bind(key, local, reuse_address, reuse_port);
                self.links.send(shard, ShardMessage::Bound { key, origin, result });
            }
            ControlMessage::Listen { key, origin, local, backlog, settings } => {
                self.open_listener(shard, key, origin, local, backlog, &settings);
            }
            ControlMessage::Listening { ticket, result } => self.shard_listens(ticket, result),
            ControlMessage::Unlisten { key, listener } => self.close_listener(shard, key, listener),
            ControlMessage::Retune { key, done, backlog, settings } => {
                for shard in (0..self.links.shards()).filter(|other| !done || *other != shard) {
                    self.links.send(shard, ShardMessage::Retune { key, backlog, settings: settings.clone() });
                }
            }
            ControlMessage::Unlistened { ticket } => self.shard_listens_no_more(ticket),
            ControlMessage::Release { key } => self.release(key),
            ControlMessage::Fence { origin } => {
                let done = ShardMessage::Complete { origin, result: 0, reply: None };
                self.links.send(origin.shard.into(), done);
            }
            ControlMessage::NeighbourWanted { port, address } => self.hooks.neighbour_wanted(port, address),
            ControlMessage::Report { ticket, shard, report, sockets } => {
                self.report_came(ticket, shard.into(), *report, sockets);
            }
            ControlMessage::Traced { ticket, shard, answer } => self.traced(ticket, shard.into(), answer),
            ControlMessage::Stopped => self.stopped += 1,
        }
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let _ = epoll::delete(&self.epoll, &self.session_socket);
        for shard in 0..self.links.shards() {
            self.links.send(shard, ShardMessage::Stop { linger: self.config.linger });
        }
    }

    pub(crate) fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        serial
    }

    pub(crate) fn ticket(&mut self) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }

    pub(crate) fn entry(&mut self, session: u32) -> Option<&mut Entry> {
        self.sessions.get_mut(session as usize)?.as_mut()
    }

    /// A connection, and whether it can stay: one that came when no descriptor was left takes the spare one, to be told so.
    fn accept(&mut self, listener: impl Fn(&Self) -> BorrowedFd<'_>) -> Option<(OwnedFd, bool)> {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        match rustix::net::accept_with(listener(self), flags) {
            Ok(socket) => Some((socket, true)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => None,
            Err(error) => {
                tracing::error!("a connection to the engine cannot be accepted: {error}");
                let had_spare = self.spare.take().is_some();
                let socket = rustix::net::accept_with(listener(self), flags);
                if !had_spare || socket.is_err() {
                    // It stays pending, and a pause keeps this thread from spinning.
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                socket.ok().map(|socket| (socket, false))
            }
        }
    }

    fn accept_process(&mut self) {
        match self.accept(|control| control.session_socket.as_fd()) {
            Some((socket, true)) => self.greet(socket),
            Some((socket, false)) => {
                let refusal = Refusal::new(format_args!("{OUT_OF_DESCRIPTORS}"));
                self.turn_away(socket, refusal.as_bytes());
            }
            None => {}
        }
        self.keep_spare();
    }

    fn accept_administrator(&mut self) {
        match self.accept(|control| control.admin_socket.as_fd()) {
            Some((socket, true)) => self.admit(socket),
            Some((socket, false)) => {
                let reply = serde_json::json!({ "error": OUT_OF_DESCRIPTORS }).to_string() + "\n";
                self.turn_away(socket, reply.as_bytes());
            }
            None => {}
        }
        self.keep_spare();
    }

    /// The last words to somebody who cannot stay.
    fn turn_away(&mut self, socket: OwnedFd, words: &[u8]) {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        // Who does not hear them sees the end.
        let _ = rustix::net::send(&socket, words, flags);
        // What was said to us is read, or the end would take the words away with it.
        let _ = rustix::net::recv(&socket, &mut [0u8; LARGEST_MESSAGE][..], rustix::net::RecvFlags::DONTWAIT);
    }

    /// A descriptor that is used for nothing but to be given up.
    fn keep_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok();
        }
    }

    /// Interface of a port, for people.
    pub(crate) fn interface_of(&self, port: PortId) -> &str {
        self.interfaces.get(usize::from(port.0)).map_or("?", |facts| facts.name.as_str())
    }
}
