//! Command lanes: from a thread of the family to a shard, in order, with a reply where one is asked for.
//!
//! A thread claims a lane for one push, or until it has read the reply ([`LaneGuard`]); a signal handler that interrupts
//! it takes another. The lane of a thread that died is taken over. The engine's side is [`LaneReader`], a record of
//! engine memory: it trusts its own counters and reads each command once.

use crate::layout::*;
use crate::memory::{LaneIndex, SessionRef, Shard, WaitableId};
use crate::sync::{AtomicU64, Ordering, fence};

/// A lane that belongs to this thread until it is dropped.
pub struct LaneGuard<'m> {
    lane: &'m Lane,
    attention: &'m Attention,
    index: LaneIndex,
}

/// A command was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Pushed {
    pub ticket: Ticket,
    /// Write the shard's eventfd: it sleeps.
    pub ring: bool,
}

/// Names a command of a lane: what the lane's tail was after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

impl Ticket {
    pub fn get(self) -> u32 {
        self.0
    }
}

/// The ring has no room now: let the engine run, try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFull;

impl<'m> SessionRef<'m> {
    /// Claims a lane of `shard` for thread `tid`. `alive` says whether another thread still exists; it is asked only
    /// when all lanes are taken. `None`: all are in use by living threads, try again.
    pub fn claim_lane(self, shard: Shard, tid: u32, alive: impl Fn(u32) -> bool) -> Option<LaneGuard<'m>> {
        claim(self.lanes(shard), self.attention(shard), tid, alive)
    }
}

/// [`SessionRef::claim_lane`] over its parts.
pub fn claim<'m>(
    lanes: &'m [Lane; LANES],
    attention: &'m Attention,
    tid: u32,
    alive: impl Fn(u32) -> bool,
) -> Option<LaneGuard<'m>> {
    let take = |index: LaneIndex, from: u32| {
        let lane = &lanes[index.index()];
        lane.owner.compare_exchange(from, tid, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        lane.waiter.store(0, Ordering::Relaxed);
        Some(LaneGuard { lane, attention, index })
    };
    if let Some(guard) = LaneIndex::all().find_map(|index| take(index, 0)) {
        return Some(guard);
    }
    LaneIndex::all().find_map(|index| {
        let owner = lanes[index.index()].owner.load(Ordering::Relaxed);
        // A lane of our own is one that we were interrupted in.
        (owner != tid && (owner == 0 || !alive(owner))).then(|| take(index, owner))?
    })
}

impl LaneGuard<'_> {
    /// Which lane it is: commands of one socket in different lanes can overtake each other.
    pub fn index(&self) -> LaneIndex {
        self.index
    }

    /// Queues a command and raises the shard's attention. For a reply set [`Command::reply`], call
    /// [`wait_on`](Self::wait_on) before if the thread is going to sleep, and keep the guard.
    pub fn push(&self, command: &Command) -> Result<Pushed, LaneFull> {
        let lane = self.lane;
        let tail = lane.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(lane.head.load(Ordering::Acquire)) >= LANE_COMMANDS as u32 {
            return Err(LaneFull);
        }
        for (word, value) in lane.commands[tail as usize % LANE_COMMANDS].iter().zip(words(command)) {
            word.store(value, Ordering::Relaxed);
        }
        let tail = tail.wrapping_add(1);
        lane.tail.store(tail, Ordering::Release);
        Ok(Pushed { ticket: Ticket(tail), ring: self.attention.mark_lane(self.index) })
    }

    /// Says on which waitable this thread will sleep for the reply.
    pub fn wait_on(&self, waitable: WaitableId) {
        self.lane.waiter.store(waitable.get() + 1, Ordering::SeqCst);
    }

    /// The result of a command once the engine has completed it.
    pub fn result(&self, ticket: Ticket) -> Option<i32> {
        let done = self.lane.done.load(Ordering::Acquire);
        let complete = done.wrapping_sub(ticket.0) as i32 >= 0;
        complete.then(|| self.lane.result.load(Ordering::Relaxed))
    }

    /// Copies the reply bytes of the completed command.
    pub fn reply(&self, to: &mut [u8]) {
        for (bytes, word) in to.chunks_mut(8).zip(&self.lane.reply) {
            let value = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&value[..bytes.len()]);
        }
    }
}

impl Drop for LaneGuard<'_> {
    fn drop(&mut self) {
        self.lane.waiter.store(0, Ordering::Relaxed);
        self.lane.owner.store(0, Ordering::Release);
    }
}

/// The engine's place in one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneReader {
    taken: u32,
    done: u32,
    /// Whether the command under way wants a reply.
    reply: bool,
}

/// What a lane has for the engine.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    Command(Command),
    /// Nothing, or a command is under way: call again after [`LaneReader::complete`].
    Nothing,
    /// The counters make no sense; what was queued is dropped and the lane starts afresh.
    Damaged,
}

impl LaneReader {
    pub const fn new() -> Self {
        Self { taken: 0, done: 0, reply: false }
    }

    /// Takes the next command. Commands of a lane are completed one after the other.
    pub fn next(&mut self, lane: &Lane) -> Next {
        if self.taken != self.done {
            return Next::Nothing;
        }
        let tail = lane.tail.load(Ordering::Acquire);
        match tail.wrapping_sub(self.taken) {
            0 => Next::Nothing,
            queued if queued as usize > LANE_COMMANDS => {
                self.taken = tail;
                self.done = tail;
                lane.head.store(tail, Ordering::Release);
                lane.done.store(tail, Ordering::Release);
                Next::Damaged
            }
            _ => {
                let command = command(&lane.commands[self.taken as usize % LANE_COMMANDS]);
                self.taken = self.taken.wrapping_add(1);
                self.reply = command.reply != 0;
                lane.head.store(self.taken, Ordering::Release);
                Next::Command(command)
            }
        }
    }

    /// Completes the command under way; `reply` (at most [`REPLY_SIZE`] bytes) goes to the pusher with `result`. Returns
    /// a waitable whose doorbell to ring. Then call [`next`](Self::next) again.
    pub fn complete(
        &mut self,
        lane: &Lane,
        waitables: &[Waitable; WAITABLES],
        result: i32,
        reply: &[u8],
    ) -> Option<WaitableId> {
        if self.taken == self.done {
            return None;
        }
        for (word, bytes) in lane.reply.iter().zip(reply.chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        lane.result.store(result, Ordering::Relaxed);
        self.done = self.done.wrapping_add(1);
        lane.done.store(self.done, Ordering::Release);
        if !self.reply {
            return None;
        }
        fence(Ordering::SeqCst);
        let waiter = WaitableId::new(lane.waiter.load(Ordering::Relaxed).wrapping_sub(1))?;
        waitables[waiter.index()].wake().then_some(waiter)
    }

    /// True while a command was taken and not completed.
    pub fn busy(&self) -> bool {
        self.taken != self.done
    }
}

fn words(command: &Command) -> [u64; 8] {
    let args = &command.args;
    [
        command.op as u64 | (command.reply as u64) << 16 | (command.socket as u64) << 32,
        command.generation as u64,
        args[0],
        args[1],
        args[2],
        args[3],
        args[4],
        args[5],
    ]
}

/// Reads each word once.
fn command(words: &[AtomicU64; 8]) -> Command {
    let word = |index: usize| words[index].load(Ordering::Relaxed);
    let head = word(0);
    Command {
        op: head as u16,
        reply: (head >> 16) as u16,
        socket: (head >> 32) as u32,
        generation: word(1) as u32,
        _pad: 0,
        args: [word(2), word(3), word(4), word(5), word(6), word(7)],
    }
}

impl Command {
    pub fn new(op: u16, socket: u32, generation: u32, args: [u64; 6]) -> Self {
        Self { op, reply: 0, socket, generation, _pad: 0, args }
    }

    pub fn with_reply(mut self) -> Self {
        self.reply = 1;
        self
    }
}
