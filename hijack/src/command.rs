//! Commands to the shard that owns a socket.

use core::sync::atomic::{AtomicU64, Ordering};

use persona_channel::lane::{LaneGuard, Ticket};
use persona_channel::layout::{Command, SOCKETS};
use persona_channel::memory::{LaneIndex, Shard};

use crate::attach::SESSIONS;
use crate::critical::Critical;
use crate::handle::Handle;
use crate::identity;
use crate::sys::{self, Errno, Result};
use crate::wait::Seat;

/// How often a pusher looks for the reply before it goes to sleep: about as long as an awake shard takes.
const GLANCES: usize = 200;

/// Where the last command without a reply of each socket went ([`Unanswered`], 0: nowhere). A command through another
/// lane must not overtake it.
static UNANSWERED: [[AtomicU64; SOCKETS]; SESSIONS] = [const { [const { AtomicU64::new(0) }; SOCKETS] }; SESSIONS];

/// A command without a reply: lane plus one in the low byte, then shard (8 bits), generation of the slot (16) and
/// ticket (32). Lanes of another shard count for themselves, and what an earlier life of the slot sent is long done.
#[derive(Clone, Copy)]
struct Unanswered(u64);

impl Unanswered {
    fn new(handle: &Handle, shard: Shard, lane: LaneIndex, ticket: Ticket) -> Self {
        let generation = u64::from(handle.id.generation & 0xffff) << 16;
        let shard = u64::from(shard.get()) << 8;
        Self(u64::from(lane.get() + 1) | shard | generation | u64::from(ticket.get()) << 32)
    }

    /// The lane and the ticket, if the command went to `shard` in this life of the slot.
    fn pending(self, handle: &Handle, shard: Shard) -> Option<(LaneIndex, u32)> {
        let lane = LaneIndex::new((self.0 as u32 & 0xff).checked_sub(1)?)?;
        let same_shard = (self.0 >> 8) as u32 & 0xff == shard.get();
        let same_life = (self.0 >> 16) as u32 & 0xffff == handle.id.generation & 0xffff;
        (same_shard && same_life).then_some((lane, (self.0 >> 32) as u32))
    }
}

/// Sends a command that needs no answer.
pub fn post(handle: &Handle, op: u16, arguments: &[u64]) -> Result<()> {
    let _critical = Critical::enter();
    let shard = handle.shard();
    let lane = lane(handle, shard)?;
    let ticket = push(handle, shard, &lane, &command(handle, op, arguments))?;
    unanswered(handle).store(Unanswered::new(handle, shard, lane.index(), ticket).0, Ordering::Release);
    Ok(())
}

/// Sends a command and waits for its result (not negative) and reply bytes.
pub fn ask(handle: &Handle, op: u16, arguments: &[u64], reply: &mut [u8]) -> Result<i32> {
    let _critical = Critical::enter();
    let shard = handle.shard();
    let lane = lane(handle, shard)?;
    let ticket = push(handle, shard, &lane, &command(handle, op, arguments).with_reply())?;
    let result = await_result(handle, &lane, ticket)?;
    if result < 0 {
        return Err(Errno(-result));
    }
    lane.reply(reply);
    Ok(result)
}

fn command(handle: &Handle, op: u16, arguments: &[u64]) -> Command {
    let mut words = [0; 6];
    words[..arguments.len()].copy_from_slice(arguments);
    Command::new(op, handle.id.slot, handle.id.generation, words)
}

/// A lane in which no earlier command of the socket can be overtaken.
fn lane(handle: &Handle, shard: Shard) -> Result<LaneGuard<'static>> {
    let lane = loop {
        if handle.view.is_dead() {
            return Err(Errno(libc::ECONNRESET));
        }
        match handle.session.claim_lane(shard, identity::tid(), sys::is_alive) {
            Some(lane) => break lane,
            None => sys::sched_yield(),
        }
    };
    let earlier = Unanswered(unanswered(handle).swap(0, Ordering::AcqRel)).pending(handle, shard);
    if let Some((other, ticket)) = earlier.filter(|(other, _)| *other != lane.index()) {
        while !is_taken(handle, shard, other, ticket) {
            if handle.view.is_dead() {
                return Err(Errno(libc::ECONNRESET));
            }
            sys::sched_yield();
        }
    }
    Ok(lane)
}

fn push(handle: &Handle, shard: Shard, lane: &LaneGuard, command: &Command) -> Result<Ticket> {
    loop {
        if let Ok(pushed) = lane.push(command) {
            if pushed.ring {
                handle.view.ring(shard.get());
            }
            return Ok(pushed.ticket);
        }
        if handle.view.is_dead() {
            return Err(Errno(libc::ECONNRESET));
        }
        sys::sched_yield();
    }
}

fn await_result(handle: &Handle, lane: &LaneGuard, ticket: Ticket) -> Result<i32> {
    for _ in 0..GLANCES {
        if let Some(result) = lane.result(ticket) {
            return Ok(result);
        }
        core::hint::spin_loop();
    }
    let Ok(seat) = Seat::take(handle.view) else {
        return await_awake(handle, lane, ticket);
    };
    lane.wait_on(seat.waitable());
    let result = loop {
        seat.announce();
        if let Some(result) = lane.result(ticket) {
            break Ok(result);
        }
        if handle.view.is_dead() {
            break Err(Errno(libc::ECONNRESET));
        }
        seat.sleep_uninterrupted();
    };
    seat.leave();
    result
}

/// Without a place to sleep the pusher yields until the reply is there.
fn await_awake(handle: &Handle, lane: &LaneGuard, ticket: Ticket) -> Result<i32> {
    loop {
        if let Some(result) = lane.result(ticket) {
            return Ok(result);
        }
        if handle.view.is_dead() {
            return Err(Errno(libc::ECONNRESET));
        }
        sys::sched_yield();
    }
}

/// True once the shard has taken an earlier command.
fn is_taken(handle: &Handle, shard: Shard, lane: LaneIndex, ticket: u32) -> bool {
    let head = handle.session.lane(shard, lane).head.load(Ordering::Acquire);
    head.wrapping_sub(ticket) as i32 >= 0
}

/// Forgets what was sent in a session whose place another one takes.
pub fn forget_session(session: u8) {
    for word in &UNANSWERED[session as usize % SESSIONS] {
        if word.load(Ordering::Relaxed) != 0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

fn unanswered(handle: &Handle) -> &'static AtomicU64 {
    &UNANSWERED[handle.id.session as usize % SESSIONS][handle.id.slot as usize % SOCKETS]
}
