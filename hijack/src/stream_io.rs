//! Sending and receiving on a socket of ours: what write, send, read, recv and their relatives have in common.
//!
//! The functions that can sleep have the C-unwind ABI (see [`wait`](crate::wait)).
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use persona_channel::layout::{op, state_bits};
use persona_channel::send::WriteEnd;

use crate::command;
use crate::handle::Handle;
use crate::pieces::Pieces;
use crate::sys::{self, Errno, Result};
use crate::wait::{self, Want};

/// What became of a call.
pub enum Outcome {
    Bytes(usize),
    /// The payload passes through the descriptor now: make the real call.
    Relayed,
}

/// Sends the pieces. Blocks unless the socket or MSG_DONTWAIT says not to.
pub extern "C-unwind" fn send(handle: &Handle, pieces: Pieces, flags: c_int) -> Result<Outcome> {
    let mut done = 0;
    let mut deadline = None;
    let nonblocking = handle.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    if flags & libc::MSG_OOB != 0
        && handle.bits() & (state_bits::CONNECTED | state_bits::RELAY) == state_bits::CONNECTED
    {
        // Before the bytes: once they are published, a segment may leave without the urgent pointer.
        let end = handle.socket.cursor.snd_end.load(Ordering::Acquire) + pieces.total() as u64;
        command::ask(handle, op::SEND_URGENT, &[end], &mut [])?;
    }
    loop {
        if done > 0 && (handle.has(state_bits::ERROR) || handle.is_lost()) {
            // The error is the next call's.
            return Ok(Outcome::Bytes(done));
        }
        let mut connecting = false;
        match send_some(handle, &pieces, done) {
            Ok(Step::Relayed) if done == 0 => return Ok(Outcome::Relayed),
            Ok(Step::Relayed) => return Ok(Outcome::Bytes(done)),
            Ok(Step::Moved(bytes)) => done += bytes,
            Ok(Step::Nothing) => {}
            Ok(Step::Connecting) => connecting = true,
            Err(_) if done > 0 => return Ok(Outcome::Bytes(done)),
            Err(Errno(libc::EPIPE)) => {
                if flags & libc::MSG_NOSIGNAL == 0 {
                    sys::raise(libc::SIGPIPE);
                }
                return Err(Errno(libc::EPIPE));
            }
            Err(errno) => return Err(errno),
        }
        if done >= pieces.total() && !connecting {
            return Ok(Outcome::Bytes(done));
        }
        if nonblocking {
            return if done > 0 { Ok(Outcome::Bytes(done)) } else { Err(Errno(libc::EAGAIN)) };
        }
        if deadline.is_none() {
            deadline = wait::deadline(handle.socket.cursor.send_timeout.load(Ordering::Relaxed));
        }
        let want = if connecting { Want::Connection } else { Want::Output };
        match wait::block(handle, want, deadline) {
            Ok(()) => {}
            Err(_) if done > 0 => return Ok(Outcome::Bytes(done)),
            Err(errno) => return Err(errno),
        }
    }
}

enum Step {
    Moved(usize),
    Nothing,
    /// The handshake is under way: everything waits for its end, even nothing.
    Connecting,
    Relayed,
}

/// Puts as much into the send stream as there is room for.
fn send_some(handle: &Handle, pieces: &Pieces, done: usize) -> Result<Step> {
    let bits = handle.bits();
    if bits & state_bits::RELAY != 0 {
        return Ok(Step::Relayed);
    }
    if bits & state_bits::ERROR != 0 || handle.is_lost() {
        handle.check_error()?;
    }
    if bits & (state_bits::SND_CLOSED | state_bits::ENDED) != 0 || handle.is_lost() {
        return Err(Errno(libc::EPIPE));
    }
    if bits & state_bits::CONNECTED == 0 {
        // Linux: data waits for the end of the handshake, on any other unconnected socket it is a broken pipe.
        return if bits & state_bits::CONNECTING != 0 { Ok(Step::Connecting) } else { Err(Errno(libc::EPIPE)) };
    }
    let written = {
        let _owned = handle.own_send();
        handle.socket.send_writer().write_vectored(pieces.bytes(done))
    };
    if written.len > 0 {
        handle.mark();
        return Ok(Step::Moved(written.len));
    }
    match written.end {
        WriteEnd::NoChunk => Err(Errno(libc::ENOBUFS)),
        WriteEnd::Full => {
            // Also for those who will not wait here but in epoll: the engine makes an edge when there is space.
            handle.poll_bits_wanting(libc::POLLOUT as u32);
            Ok(Step::Nothing)
        }
        WriteEnd::All => Ok(Step::Nothing),
    }
}

/// Receives into the pieces. Blocks unless the socket or MSG_DONTWAIT says not to.
pub extern "C-unwind" fn receive(handle: &Handle, pieces: Pieces, flags: c_int) -> Result<Outcome> {
    if flags & libc::MSG_OOB != 0 {
        return receive_urgent(handle, &pieces, flags);
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno(libc::EAGAIN));
    }
    let peek = flags & libc::MSG_PEEK != 0;
    let nonblocking = handle.is_nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    let low = handle.socket.cursor.receive_low.load(Ordering::Relaxed).max(1) as usize;
    let target = if flags & libc::MSG_WAITALL != 0 { pieces.total() } else { low.min(pieces.total()) };
    let mut done = 0;
    let mut deadline = None;
    loop {
        // Bits before bytes: whoever sees the end also sees the last byte.
        let bits = handle.bits();
        if bits & state_bits::RELAY != 0 {
            return Ok(if done > 0 { Outcome::Bytes(done) } else { Outcome::Relayed });
        }
        let beyond = handle.socket.state.rcv_end.load(Ordering::Acquire);
        let taken = take(handle, &pieces, if peek { 0 } else { done }, flags);
        done = if peek { taken } else { done + taken };
        if done >= target && (done > 0 || target == 0) {
            return Ok(Outcome::Bytes(done));
        }
        if let Some(end) = ended(handle, bits, done) {
            return end;
        }
        if nonblocking {
            return if done > 0 { Ok(Outcome::Bytes(done)) } else { Err(Errno(libc::EAGAIN)) };
        }
        if deadline.is_none() {
            deadline = wait::deadline(handle.socket.cursor.receive_timeout.load(Ordering::Relaxed));
        }
        match wait::block(handle, Want::Input { beyond }, deadline) {
            Ok(()) => {}
            Err(_) if done > 0 => return Ok(Outcome::Bytes(done)),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether nothing more will come, and what the call says then.
fn ended(handle: &Handle, bits: u32, done: usize) -> Option<Result<Outcome>> {
    let over = bits & (state_bits::RCV_CLOSED | state_bits::ENDED) != 0 || handle.is_lost();
    if done > 0 {
        return (over || bits & state_bits::ERROR != 0).then_some(Ok(Outcome::Bytes(done)));
    }
    // EPIPE means that a reset came after the peer's end of stream: a reader still finds the end, as on Linux.
    let after_end =
        bits & state_bits::RCV_CLOSED != 0 && handle.socket.state.error.load(Ordering::Relaxed) == libc::EPIPE;
    if (bits & state_bits::ERROR != 0 || handle.is_lost())
        && !after_end
        && let Some(errno) = handle.take_error()
    {
        return Some(Err(errno));
    }
    if over {
        return Some(Ok(Outcome::Bytes(0)));
    }
    (bits & (state_bits::CONNECTED | state_bits::CONNECTING) == 0).then_some(Err(Errno(libc::ENOTCONN)))
}

/// Takes (or peeks at, or throws away) what lies in the receive stream.
fn take(handle: &Handle, pieces: &Pieces, skip: usize, flags: c_int) -> usize {
    let reader = handle.socket.receive_reader();
    let (taken, mark) = {
        let _owned = handle.own_receive();
        let most = match before_urgent(handle, flags & libc::MSG_PEEK != 0) {
            Some(most) => most.min(pieces.total() - skip),
            None => pieces.total() - skip,
        };
        if flags & libc::MSG_PEEK != 0 {
            (reader.peek(0, pieces.room(skip, most)), false)
        } else {
            let read = if flags & libc::MSG_TRUNC != 0 {
                reader.discard(most)
            } else {
                reader.read_vectored(pieces.room(skip, most))
            };
            (read.len, read.mark)
        }
    };
    if mark {
        handle.mark();
    }
    taken
}

/// How many bytes may be read before the urgent one, which is not part of the stream unless SO_OOBINLINE says so. A
/// reader that stands on it steps over it.
fn before_urgent(handle: &Handle, peek: bool) -> Option<usize> {
    let after = handle.socket.state.urgent.load(Ordering::Acquire);
    if after == 0 {
        return None;
    }
    let reader = handle.socket.receive_reader();
    let before = (after - 1).checked_sub(reader.position())?;
    if handle.has_inline_urgent() {
        // The mark still ends a read.
        return (before > 0).then_some(before as usize);
    }
    if before == 0 && !peek {
        reader.discard(1);
        return None;
    }
    Some(before as usize)
}

fn receive_urgent(handle: &Handle, pieces: &Pieces, flags: c_int) -> Result<Outcome> {
    if handle.has(state_bits::LISTENING) {
        return Err(Errno(libc::ENOTCONN));
    }
    if handle.has_inline_urgent() || handle.socket.state.urgent.load(Ordering::Acquire) == 0 {
        return Err(Errno(libc::EINVAL));
    }
    let peek = u64::from(flags & libc::MSG_PEEK != 0);
    let byte = command::ask(handle, op::URGENT, &[peek], &mut [])?;
    match pieces.room(0, 1).next() {
        Some(room) => {
            room[0] = byte as u8;
            Ok(Outcome::Bytes(1))
        }
        None => Ok(Outcome::Bytes(0)),
    }
}

/// Bytes that a read would get now (FIONREAD).
pub fn readable_bytes(handle: &Handle) -> usize {
    let available = handle.socket.receive_reader().available();
    let after = handle.socket.state.urgent.load(Ordering::Acquire);
    match (after.wrapping_sub(1)).checked_sub(handle.socket.receive_reader().position()) {
        Some(before) if after != 0 && !handle.has_inline_urgent() => available.min(before as usize),
        _ => available,
    }
}

/// Bytes sent and not yet acknowledged (TIOCOUTQ).
pub fn unacknowledged_bytes(handle: &Handle) -> usize {
    let end = handle.socket.cursor.snd_end.load(Ordering::Acquire);
    end.saturating_sub(handle.socket.state.snd_acked.load(Ordering::Acquire)) as usize
}
