//! What the engine's threads tell each other. Commands under way, sessions and administration; frames travel apart
//! (see `mailbox.rs`).

use crate::session::Session;
use crate::shard::options::Settings;
use crate::shard::record::Record;
use crate::shard::report::{ShardReport, SocketReport};
use persona_channel::layout::Command;
use persona_channel::memory::{LaneIndex, ListenerIndex, Slot};
use persona_stack::{Info, Instant, PortId};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a command came from, and so who has to complete it: the lane's consumer waits until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub session: u32,
    pub shard: u8,
    pub lane: LaneIndex,
    /// The pusher waits for the reply.
    pub reply: bool,
}

/// A slot at one time of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    pub session: u32,
    pub slot: Slot,
    pub generation: u32,
}

/// To a shard.
pub enum ShardMessage {
    /// A session begins.
    Open(Arc<Session>),
    /// A session has ended: forget it and answer [`ControlMessage::Forgotten`].
    Forget {
        session: u32,
    },
    /// A process is gone (`last`: the session's last): consume what it left in the lanes, end what it accepted and never
    /// bound, and answer [`ControlMessage::Drained`].
    Drain {
        session: u32,
        ticket: u32,
        process: u32,
        last: bool,
    },
    /// A command for a slot that this shard owns arrived elsewhere.
    Forward {
        command: Command,
        origin: Origin,
    },
    /// A slot changes its owner, together with the command that made it move.
    Move {
        session: u32,
        record: Box<Record>,
        then: Option<(Command, Origin)>,
    },
    /// Look at the socket: its attention was raised elsewhere.
    Nudge {
        session: u32,
        slot: Slot,
    },
    /// A command that was forwarded is done.
    Complete {
        origin: Origin,
        result: i32,
        reply: Option<Box<[u8]>>,
    },
    /// bind() was decided.
    Bound {
        key: SlotKey,
        origin: Origin,
        result: Result<SocketAddr, i32>,
    },
    /// Listen as the other shards do, and answer [`ControlMessage::Listening`].
    Listen(Box<ListenOrder>),
    /// listen() was decided: tells the slot's owner.
    Listened {
        key: SlotKey,
        origin: Origin,
        result: Result<(SocketAddr, ListenerIndex), i32>,
    },
    /// A listener's backlog or settings changed.
    Retune {
        key: SlotKey,
        backlog: Option<u32>,
        settings: Option<Box<Settings>>,
    },
    /// Stop listening, and answer [`ControlMessage::Unlistened`].
    Unlisten {
        key: SlotKey,
        ticket: u32,
    },
    /// Every shard has stopped listening for this slot.
    Unlistened {
        key: SlotKey,
    },
    /// The host's view of a neighbour changed (shared mode).
    Neighbour {
        port: PortId,
        address: IpAddr,
        mac: Option<[u8; 6]>,
    },
    /// The host's addresses or routes changed (shared mode).
    Address {
        port: PortId,
        address: IpAddr,
        prefix_len: u8,
        present: bool,
    },
    Route {
        route: persona_stack::Route,
        present: bool,
    },
    /// Says how it stands, and answers [`ControlMessage::Report`].
    Report {
        ticket: u32,
        sockets: bool,
    },
    /// Other settings than before.
    Tune(Box<crate::sysctl::Tunables>),
    /// Copies frames to the capture from now on, or no longer.
    Capture(Option<crate::capture::Tap>),
    /// Looks at a connection if it is this shard's, and answers [`ControlMessage::Traced`].
    Trace {
        tap: crate::trace::Tap,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// Looks at it no longer.
    Untrace {
        ticket: u32,
    },
    /// Ends all connections as Linux does when a process exits, and answers [`ControlMessage::Stopped`].
    Stop {
        linger: std::time::Duration,
    },
}

/// What a shard needs to listen for a socket.
#[derive(Clone)]
pub struct ListenOrder {
    pub key: SlotKey,
    pub ticket: u32,
    pub local: SocketAddr,
    pub backlog: u32,
    pub listener: ListenerIndex,
    pub settings: Settings,
}

/// To the control thread.
pub enum ControlMessage {
    Forgotten {
        session: u32,
    },
    Drained {
        session: u32,
        ticket: u32,
    },
    /// A slot became free: perhaps the session's last.
    Freed {
        session: u32,
    },
    Bind {
        key: SlotKey,
        origin: Origin,
        local: SocketAddr,
        reuse_address: bool,
        reuse_port: bool,
    },
    Listen {
        key: SlotKey,
        origin: Origin,
        /// What a socket without a claim binds.
        local: SocketAddr,
        backlog: u32,
        settings: Box<Settings>,
    },
    Listening {
        ticket: u32,
        result: Result<(), i32>,
    },
    /// A listener was closed.
    Unlisten {
        key: SlotKey,
        listener: ListenerIndex,
    },
    /// A listener's backlog or settings changed.
    Retune {
        key: SlotKey,
        /// The sender has changed its own.
        done: bool,
        backlog: Option<u32>,
        settings: Option<Box<Settings>>,
    },
    Unlistened {
        ticket: u32,
    },
    /// A bound socket that does not listen is gone.
    Release {
        key: SlotKey,
    },
    /// Everything that this shard said before has been heard: the command is done.
    Fence {
        origin: Origin,
    },
    /// The host has to resolve a next hop (shared mode).
    NeighbourWanted {
        port: PortId,
        address: IpAddr,
    },
    Report {
        ticket: u32,
        shard: u8,
        report: Box<ShardReport>,
        sockets: Vec<SocketReport>,
    },
    Traced {
        ticket: u32,
        shard: u8,
        answer: TraceAnswer,
    },
    Stopped,
}

/// What a shard says of a connection that is to be traced.
pub enum TraceAnswer {
    Begun {
        info: Box<Info>,
        now: Instant,
    },
    /// Another shard's, or nobody's.
    NotHere,
    /// Somebody looks at it already.
    Twice,
    /// At as many as a stack can be looked at.
    TooMany,
}
