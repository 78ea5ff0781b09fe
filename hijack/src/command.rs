//! Commands to the shard that owns a socket.

use core::sync::atomic::{AtomicU32, Ordering};

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

/// Where the last command without a reply of each socket went: lane plus one in the low byte, ticket above it. A
/// command through another lane must not overtake it.
static UNANSWERED: [[AtomicU32; SOCKETS]; SESSIONS] = [const { [const { AtomicU32::new(0) }; SOCKETS] }; SESSIONS];

/// Sends a command that needs no answer.
pub fn post(handle: &Handle, op: u16, arguments: &[u64]) -> Result<()> {
    let _critical = Critical::enter();
    let shard = handle.shard();
    let lane = lane(handle, shard)?;
    let ticket = push(handle, shard, &lane, &command(handle, op, arguments))?;
    unanswered(handle).store((lane.index().get() + 1) | ticket.get() << 8, Ordering::Release);
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
    let earlier = unanswered(handle).swap(0, Ordering::AcqRel);
    if earlier != 0 && earlier & 0xff != lane.index().get() + 1 {
        while !is_taken(handle, shard, earlier) {
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

/// True once the shard has taken an earlier command, as [`UNANSWERED`] names it.
fn is_taken(handle: &Handle, shard: Shard, earlier: u32) -> bool {
    let Some(lane) = LaneIndex::new((earlier & 0xff) - 1) else { return true };
    let head = handle.session.lane(shard, lane).head.load(Ordering::Acquire);
    // Tickets are compared by their low 24 bits; a lane holds far fewer commands.
    (head << 8).wrapping_sub(earlier & !0xff) as i32 >= 0
}

fn unanswered(handle: &Handle) -> &'static AtomicU32 {
    &UNANSWERED[handle.id.session as usize % SESSIONS][handle.id.slot as usize % SOCKETS]
}
