//! Relay: a connection's payload passes through the descriptor itself, for holders who do not know this library.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use persona_channel::layout::{op, state_bits};

use crate::command;
use crate::handle::Handle;
use crate::sys::{self, Errno, Result};

/// Puts a connection into relay. Ok for a socket that is no connection (yet): there is nothing to relay.
pub fn enter(handle: &Handle) -> Result<()> {
    if handle.is_relayed() || handle.bits() & (state_bits::CONNECTED | state_bits::CONNECTING) == 0 {
        return Ok(());
    }
    // Strangers find the blocking mode and the timeouts in the descriptor itself.
    let nonblocking = if handle.is_nonblocking() { libc::O_NONBLOCK } else { 0 };
    let _ = sys::fcntl(handle.fd, libc::F_SETFL, nonblocking as usize);
    set_timeouts(handle);
    command::ask(handle, op::RELAY, &[], &mut []).map(drop)
}

/// Gives the descriptor itself the socket's timeouts.
pub fn set_timeouts(handle: &Handle) {
    let cursor = handle.socket.cursor;
    for (name, time) in [(libc::SO_RCVTIMEO, &cursor.receive_timeout), (libc::SO_SNDTIMEO, &cursor.send_timeout)] {
        let milliseconds = time.load(Ordering::Acquire);
        let time =
            libc::timeval { tv_sec: i64::from(milliseconds / 1000), tv_usec: i64::from(milliseconds % 1000 * 1000) };
        let length = size_of::<libc::timeval>() as u32;
        // SAFETY: the record lives across the call and is as long as said.
        let _ = unsafe { sys::setsockopt(handle.fd, libc::SOL_SOCKET, name, (&raw const time).cast(), length) };
    }
}

/// As [`enter`], for a descriptor that may be anybody's.
pub fn enter_if_ours(fd: c_int) -> Result<()> {
    Handle::of(fd).map_or(Ok(()), |handle| enter(&handle))
}

/// Relays the sockets of ours that a message is about to pass to another process (SCM_RIGHTS).
///
/// # Safety
/// `message` is null or a valid message header.
pub unsafe fn before_passing(message: *const libc::msghdr) -> Result<()> {
    if message.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller vouches for the header and its control buffer.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*control).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                for position in 0..bytes / size_of::<c_int>() {
                    enter_if_ours(libc::CMSG_DATA(control).cast::<c_int>().add(position).read_unaligned())?;
                }
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
    Ok(())
}
