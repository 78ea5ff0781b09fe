//! accept() and accept4(): claim a completed connection and give it an anchor, without asking the engine.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use libc::{sockaddr, socklen_t};
use persona_channel::accept::Accepted;
use persona_channel::layout::state_bits;

use crate::address::Address;
use crate::anchors::{self, Anchored};
use crate::export::export;
use crate::handle::{Handle, private_flags};
use crate::sys::{Errno, Result, answer};
use crate::wait::{self, Want};
use crate::{place, real, relisten, socket};

export! {
    fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        match Handle::of(fd) {
            Some(handle) => finish(accept_ours(handle, 0), address, length),
            None => real::accept(fd, address, length),
        }
    }

    fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
        match Handle::of(fd) {
            Some(handle) => finish(accept_ours(handle, flags), address, length),
            None => real::accept4(fd, address, length, flags),
        }
    }
}

/// # Safety
/// As accept().
unsafe fn finish(accepted: Result<Handle>, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
    match accepted {
        Ok(handle) => {
            // SAFETY: the application vouches for the address's room.
            unsafe { Address::remote(handle.socket.address).write(address, length) };
            handle.fd
        }
        Err(errno) => answer::<c_int>(Err(errno)),
    }
}

extern "C-unwind" fn accept_ours(mut listener: Handle, flags: c_int) -> Result<Handle> {
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut deadline = None;
    loop {
        let mut is_orphan = relisten::is_orphan(&listener);
        if is_orphan {
            match relisten::renew(&listener) {
                Ok(Some(renewed)) => (listener, is_orphan) = (renewed, false),
                Ok(None) => {}
                Err(errno) => return Err(errno),
            }
        }
        if !is_orphan {
            match claim(&listener, flags) {
                Ok(Some(handle)) => return Ok(handle),
                Ok(None) => {}
                // Its engine went away while we looked.
                Err(_) if relisten::is_orphan(&listener) => continue,
                Err(errno) => return Err(errno),
            }
        }
        if listener.is_nonblocking() {
            return Err(Errno(libc::EAGAIN));
        }
        if deadline.is_none() {
            deadline = wait::deadline(listener.socket.cursor.receive_timeout.load(Ordering::Relaxed));
        }
        let waited = match is_orphan {
            true => wait::nap(deadline, relisten::RETRY),
            false => wait::block(&listener, Want::Arrival, deadline),
        };
        match waited {
            Ok(()) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Takes the next connection, if there is one.
fn claim(listener: &Handle, flags: c_int) -> Result<Option<Handle>> {
    if listener.is_lost() {
        return Err(listener.take_error().unwrap_or(Errno(libc::ECONNABORTED)));
    }
    if !listener.has(state_bits::LISTENING) {
        return Err(Errno(libc::EINVAL));
    }
    if !listener.rings().any(|ring| ring.ready()) {
        return Ok(None);
    }
    // The descriptor comes first: without one the connection has to stay in the queue.
    let anchored = anchors::hand_out(listener.view, flags & libc::SOCK_CLOEXEC != 0);
    let anchored = anchored.map_err(|trouble| trouble.errno)?;
    let Some(accepted) = listener.rings().find_map(|ring| next(listener, ring)) else {
        take_back(listener, anchored);
        return Ok(None);
    };
    let new = listener.session.socket(accepted.slot);
    socket::begin(&new, flags);
    new.cursor.file_flags.fetch_or(listener.flags() & private_flags::INHERITED, Ordering::Relaxed);
    let (from, to) = (listener.socket.cursor, new.cursor);
    to.receive_timeout.store(from.receive_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
    to.send_timeout.store(from.send_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
    to.receive_low.store(from.receive_low.load(Ordering::Relaxed), Ordering::Relaxed);
    socket::enter(listener.view, &new, anchored.fd, anchored.id).map(Some)
}

/// The oldest connection of a ring whose slot still is the one that was put there.
fn next(listener: &Handle, ring: &persona_channel::layout::AcceptRing) -> Option<Accepted> {
    loop {
        let accepted = ring.pop()?;
        let generation = &listener.session.socket(accepted.slot).state.generation;
        if generation.load(Ordering::Acquire) == accepted.generation {
            return Some(accepted);
        }
    }
}

/// Puts an anchor for which there is no connection into the pool.
fn take_back(listener: &Handle, anchored: Anchored) {
    anchors::put(listener.view, place::keep(anchored.fd), anchored.id);
}
