//! The simulation itself: nodes on a switch, an event queue, virtual time. One thread, no clock; a seed is a run.
//!
//! Whenever a node does something, everything that must hold is looked at. When the queue runs empty before every
//! connection has ended, something was forgotten: a timer, a window update, an event.

use super::app::App;
use super::frames::{self, Frame, Train};
use super::host::SimHost;
use super::node::{Arena, Node, NodeParams, PORT};
use super::oracle::Oracle;
use super::trace::Trace;
use crate::EXPORT_MAX;
use crate::frame::{Owner, RxFrame};
use crate::stack::Stack;
use crate::time::Instant;
use core::net::SocketAddr;
use std::collections::BinaryHeap;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// Something that happens at a moment.
#[derive(Debug)]
enum Happening {
    /// The node's loop comes round.
    Poll,
    Arrival(Frame),
    /// An application acts again.
    Act,
    /// An application opens a connection.
    Connect {
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The port has room for one more frame.
    Departed,
}

struct Entry {
    at: u64,
    /// Order among things of one moment.
    order: u64,
    node: usize,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A simulation.
pub struct World {
    pub now: u64,
    pub nodes: Vec<Node>,
    pub oracle: Oracle,
    pub trace: Trace,
    /// The command that repeats this run; written when it fails.
    pub repeat: String,
    /// A handshake may end in a reset without the listener's side having heard of it.
    pub may_refuse: bool,
    queue: BinaryHeap<Entry>,
    order: u64,
    pub steps: u64,
}

/// Bounds that no run comes near unless it goes in circles.
const MAX_STEPS: u64 = 500_000;
const MAX_TIME: u64 = 48 * 3_600 * 1_000_000;

impl World {
    pub fn new(now: u64, keep_trace: usize, repeat: String) -> Self {
        Self {
            now,
            nodes: vec![],
            oracle: Oracle::default(),
            trace: Trace::new(keep_trace, now),
            repeat,
            may_refuse: false,
            queue: BinaryHeap::new(),
            order: 0,
            steps: 0,
        }
    }

    fn schedule(&mut self, at: u64, node: usize, what: Happening) {
        self.order += 1;
        self.queue.push(Entry { at: at.max(self.now), order: self.order, node, what });
    }

    /// An application of `node` opens a connection at `at`.
    pub fn connect_at(&mut self, at: u64, node: usize, owner: Owner, local: SocketAddr, remote: SocketAddr) {
        self.schedule(at, node, Happening::Connect { owner, local, remote });
    }

    /// Runs until every application's connection has ended. `between` is called between any two steps.
    pub fn run(&mut self, mut between: impl FnMut(&mut World)) {
        let start = self.now;
        while !self.finished() {
            between(self);
            assert!(self.step(), "nothing more will happen, and {}", self.unfinished());
            assert!(self.steps < MAX_STEPS, "{} steps, and {}", self.steps, self.unfinished());
            assert!(self.now - start < MAX_TIME, "two days, and {}", self.unfinished());
        }
    }

    /// Lets everything that is still under way come to rest: TIME-WAIT ends, last frames arrive.
    pub fn settle(&mut self) {
        let start = self.now;
        while self.step() {
            assert!(self.steps < MAX_STEPS, "does not come to rest: {} steps", self.steps);
            assert!(self.now - start < MAX_TIME, "does not come to rest within two days");
        }
    }

    fn finished(&self) -> bool {
        let apps = || self.nodes.iter().flat_map(|node| &node.apps);
        // Whoever opened it and gave it up at once may never have been heard of.
        let given_up = |app: &App| {
            let opener = apps().find(|other| other.flow == app.flow && other.opened);
            app.connection.is_none()
                && !app.opened
                && opener
                    .is_some_and(|other| other.closed.is_some() && (self.may_refuse || !other.plan.end.is_orderly()))
        };
        apps().all(|app| app.closed.is_some() || given_up(app))
    }

    fn unfinished(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for app in &node.apps {
                if let Some(reason) = app.closed {
                    text += &std::format!("node {index} {:?} (flow {}) ended: {reason:?}; ", app.owner, app.flow);
                    continue;
                }
                let streams = &node.host.streams[app.owner.0 as usize];
                text += &std::format!(
                    "node {index} {:?} (flow {}, {:?}) is not done: written {} of {}, acked {}, received {}, read {}, \
                     established {}, peer closed {}, shut {}, ended {}; ",
                    app.owner,
                    app.flow,
                    app.connection,
                    streams.written,
                    app.plan.total,
                    streams.freed,
                    streams.rcv_end,
                    streams.read,
                    app.established,
                    app.peer_closed,
                    app.shut,
                    app.ended
                );
            }
        }
        text
    }

    /// The next thing happens. `false`: there is none.
    pub fn step(&mut self) -> bool {
        let Some(Entry { at, node, what, .. }) = self.queue.pop() else { return false };
        self.now = at;
        self.steps += 1;
        match what {
            Happening::Arrival(frame) => {
                let link = self.nodes[node].host.link;
                self.trace.arrived(at, node, &frame, link);
                if !frame.corrupt {
                    self.oracle.on_arrival(&frame, link);
                }
                self.nodes[node].arrived.push(frame);
                let late = self.lateness(node);
                self.poll_by(node, at + late);
            }
            Happening::Poll => {
                // An earlier visit may have replaced this one.
                if self.nodes[node].poll_at == Some(at) {
                    self.nodes[node].poll_at = None;
                    self.visit(node, |_, _, _| {});
                }
            }
            Happening::Departed => {
                let host = &mut self.nodes[node].host;
                host.port_held -= 1;
                if core::mem::take(&mut host.was_busy) {
                    self.poll_by(node, at);
                }
            }
            // Applications act in every round.
            Happening::Act => self.visit(node, |_, _, _| {}),
            Happening::Connect { owner, local, remote } => self.visit(node, |node, stack, now| {
                let app = &mut node.apps[owner.0 as usize];
                let connection = stack.connect(now, owner, local, remote, &app.plan.options, &mut node.host);
                app.opened = true;
                app.connection = Some(connection.unwrap_or_else(|error| panic!("connect refused with {error:?}")));
            }),
        }
        true
    }

    fn lateness(&mut self, node: usize) -> u64 {
        let node = &mut self.nodes[node];
        node.rng.below(node.params.lateness + 1)
    }

    /// Makes the node's loop come round at `at` or before.
    fn poll_by(&mut self, node: usize, at: u64) {
        if self.nodes[node].poll_at.is_none_or(|known| known > at) {
            self.nodes[node].poll_at = Some(at);
            self.schedule(at, node, Happening::Poll);
        }
    }

    /// One round of a node's loop, in the order of the stack's contract.
    fn visit(&mut self, index: usize, command: impl FnOnce(&mut Node, &mut Stack<'_>, Instant)) {
        let now = self.now;
        let at = Instant::from_micros(now);
        let node = &mut self.nodes[index];
        let mut arena = core::mem::replace(&mut node.arena, Arena::new(0));
        let mut stack = Stack::attach(arena.bytes()).expect("the arena holds a stack");
        let NodeParams { merge, verify, split, .. } = node.params;
        let arrived = core::mem::take(&mut node.arrived);
        for train in frames::receive(arrived, node.host.link, merge, verify, split, &mut node.rng) {
            feed(&mut stack, at, &train, &mut node.host);
        }
        command(node, &mut stack, at);
        if stack.next_timeout().is_some_and(|timeout| timeout <= at) {
            stack.on_timeout(at, &mut node.host);
        }
        let mut wakes = vec![];
        // Events make applications act, which may cause events.
        for round in 0.. {
            assert!(round < 10_000, "applications and stack go in circles");
            stack.flush(at, &mut node.host);
            let mut any = false;
            while let Some(event) = stack.poll_event() {
                any = true;
                node.on_event(at, &event, &mut stack);
            }
            node.take_over_adopted();
            for app in 0..node.apps.len() {
                let wake = node.apps[app].act(now, &mut stack, &mut node.host);
                // One wake-up each: a round comes for other reasons too, and finds the application still asleep.
                if let Some(wake) = wake.filter(|&wake| node.apps[app].wakes_at != wake) {
                    node.apps[app].wakes_at = wake;
                    wakes.push(wake);
                }
            }
            if !any {
                break;
            }
        }
        super::invariants::check(&stack, at);
        for app in &mut node.apps {
            let turn = (app.established, app.peer_closed, app.shut, app.ended, app.closed);
            if turn != app.noted {
                app.noted = turn;
                let (established, peer_closed, shut, ended, closed) = turn;
                let text = std::format!(
                    "flow {}: established {established}, peer closed {peer_closed}, shut {shut}, ended {ended}, \
                     closed {closed:?}",
                    app.flow
                );
                self.trace.note(now, index, text);
            }
        }
        let timeout = stack.next_timeout();
        node.arena = arena;
        for wake in wakes {
            self.schedule(wake, index, Happening::Act);
        }
        self.depart(index);
        if let Some(timeout) = timeout {
            let late = self.lateness(index);
            self.poll_by(index, timeout.as_micros().max(now + 1) + late);
        }
    }

    /// Puts what the port has taken on the wire.
    fn depart(&mut self, index: usize) {
        let now = self.now;
        let departures = core::mem::take(&mut self.nodes[index].host.departures);
        let finite = self.nodes[index].host.port_room != usize::MAX;
        if !finite {
            self.nodes[index].host.port_held = 0;
        }
        let link = self.nodes[index].host.link;
        for departure in departures {
            if let Err(reason) = self.oracle.on_departure(&departure.frame, link, departure.source) {
                self.trace.sent(now, index, &departure.frame, link, None);
                panic!("node {index}: {reason}");
            }
            let copy = departure.frame.clone();
            let passage = self.nodes[index].uplink.send(now, departure.frame, link);
            self.trace.sent(now, index, &copy, link, passage.lost);
            if finite {
                self.schedule(passage.departed_at, index, Happening::Departed);
            }
            if let Some(returned) = passage.returned {
                self.schedule(passage.departed_at, index, Happening::Arrival(returned));
            }
            for (at, frame) in passage.arrivals {
                for target in self.targets(index, &frame, link) {
                    let passage = self.nodes[target].downlink.send(at, frame.clone(), link);
                    for (at, frame) in passage.arrivals {
                        self.schedule(at, target, Happening::Arrival(frame));
                    }
                }
            }
        }
    }

    /// Whom the switch gives a frame to.
    fn targets(&self, from: usize, frame: &Frame, link: usize) -> Vec<usize> {
        let others = (0..self.nodes.len()).filter(|&node| node != from);
        if link == 0 {
            let to = frame.bytes.get(16..20);
            return others.filter(|&node| to == Some(&self.nodes[node].address.octets())).collect();
        }
        let to = &frame.bytes[..6];
        let group = to[0] & 1 == 1;
        others.filter(|&node| group || self.nodes[node].mac == to).collect()
    }

    /// Replaces a node's stack by a copy of its memory elsewhere; the old memory is spoilt.
    pub fn move_arena(&mut self, node: usize) {
        let arena = &mut self.nodes[node].arena;
        let copy = arena.clone();
        arena.bytes().fill(0x5a);
        *arena = copy;
        self.trace.note(self.now, node, "arena copied".into());
    }

    /// Whether all connections of a node are ones that can be serialised: no handshake is half-way.
    pub fn can_rebuild(&mut self, node: usize) -> bool {
        let stack = Stack::attach(self.nodes[node].arena.bytes()).expect("the arena holds a stack");
        let usage = stack.usage();
        let apps = &self.nodes[node].apps;
        let live = apps.iter().filter(|app| app.connection.is_some() && app.closed.is_none()).count();
        usage.requests == 0 && usage.connections as usize == live
    }

    /// Replaces a node's stack by a new one, into which each connection goes as bytes.
    pub fn rebuild(&mut self, node: usize) {
        let now = Instant::from_micros(self.now);
        let Node { setup, arena, host, apps, .. } = &mut self.nodes[node];
        let mut fresh = setup.build(now, host);
        let old = Stack::attach(arena.bytes()).expect("the arena holds a stack");
        let mut new = Stack::attach(fresh.bytes()).expect("the arena holds a stack");
        for app in apps.iter_mut().filter(|app| app.closed.is_none()) {
            let Some(connection) = app.connection else { continue };
            let mut bytes = [0; EXPORT_MAX];
            let len = old.export(now, connection, &mut bytes).expect("an open connection can be exported");
            let imported = new.import(now, app.owner, &bytes[..len]);
            app.connection = Some(imported.expect("what was exported can be imported"));
        }
        *arena = fresh;
        self.trace.note(self.now, node, "stack rebuilt".into());
        // The new stack has timers, and things to report.
        self.poll_by(node, self.now);
    }
}

fn feed(stack: &mut Stack<'_>, now: Instant, train: &Train, host: &mut SimHost) {
    let tail: Vec<&[u8]> = train.tail.iter().map(|piece| &piece[..]).collect();
    let frame = RxFrame { head: &train.head, tail: &tail, checksum: train.checksum, gso_size: train.gso_size };
    stack.on_frame(now, PORT, &frame, host);
}

/// A failing run says how to repeat it and what was on the wire.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("{}\nto repeat: {}\n", self.trace.write(), self.repeat);
        }
    }
}
