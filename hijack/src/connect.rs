//! connect(): to the engine's peer, or, where policy or loopback say so, to the host after a swap of the descriptor.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use libc::{sockaddr, socklen_t};
use persona_channel::layout::{op, state_bits};
use persona_channel::policy::Side;

use crate::address::Address;
use crate::export::export;
use crate::handle::{Handle, private_flags};
use crate::socket::Where;
use crate::sys::{Errno, Result, answer};
use crate::wait::{self, Want};
use crate::{command, host, real};

export! {
    fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::connect(fd, address, length);
        };
        let outcome = match Address::read(address, length) {
            Ok(address) => connect_ours(&handle, &address),
            Err(errno) => Err(errno),
        };
        match outcome {
            Ok(Where::Engine) => 0,
            Ok(Where::Host) => real::connect(fd, address, length),
            Err(errno) => answer::<()>(Err(errno)),
        }
    }
}

extern "C-unwind" fn connect_ours(handle: &Handle, address: &Address) -> Result<Where> {
    let pending = handle.flags() & private_flags::CONNECT_PENDING != 0;
    if !pending {
        match begin(handle, address) {
            Ok(Where::Engine) => {}
            other => return other,
        }
    }
    if handle.is_nonblocking() && !pending {
        // The first call only says that it has begun, as on Linux, even if the answer is there already.
        return Err(Errno(libc::EINPROGRESS));
    }
    if let Some(outcome) = outcome(handle, pending) {
        return outcome;
    }
    if handle.is_nonblocking() {
        return Err(Errno(libc::EALREADY));
    }
    let deadline = wait::deadline(handle.socket.cursor.send_timeout.load(Ordering::Relaxed));
    loop {
        match wait::block(handle, Want::Connection, deadline) {
            Ok(()) => {}
            // Whoever was told already that it is under way hears that it still is.
            Err(Errno(libc::EAGAIN)) => return Err(Errno(if pending { libc::EALREADY } else { libc::EINPROGRESS })),
            Err(errno) => return Err(errno),
        }
        if let Some(outcome) = outcome(handle, true) {
            return outcome;
        }
    }
}

/// How often the engine is asked anew while it still ends an earlier attempt; once is what it takes.
const LAST_ATTEMPT_ENDS: usize = 1000;

/// Starts the handshake.
fn begin(handle: &Handle, address: &Address) -> Result<Where> {
    let bits = handle.bits();
    if bits & (state_bits::CONNECTED | state_bits::LISTENING) != 0 && bits & state_bits::ENDED == 0 {
        return Err(Errno(libc::EISCONN));
    }
    if handle.is_lost() {
        return Err(Errno(libc::ENETDOWN));
    }
    if address.is_to_many() {
        return Err(Errno(libc::ENETUNREACH));
    }
    if let Some(code) = host::decide(handle, Side::Remote, address) {
        host::swap(handle, code, address)?;
        return Ok(Where::Host);
    }
    // A destination of 0.0.0.0 is this host, which decide() has sent there; an old error is no news of this attempt.
    handle.take_error();
    let ask = || command::ask(handle, op::CONNECT, &address.arguments(), &mut []);
    let mut asked = ask();
    for _ in 0..LAST_ATTEMPT_ENDS {
        match asked {
            // The engine has not come to the end of the attempt that was given up.
            Err(Errno(libc::EALREADY)) if handle.is_disconnected() => asked = ask(),
            _ => break,
        }
    }
    asked?;
    handle.set_flag(private_flags::DISCONNECTED, false);
    handle.set_flag(private_flags::CONNECT_PENDING, true);
    Ok(Where::Engine)
}

/// How the handshake ended, None while it is under way. `told`: an earlier call has begun it.
fn outcome(handle: &Handle, told: bool) -> Option<Result<Where>> {
    let bits = handle.bits();
    if (bits & state_bits::ERROR != 0 || handle.is_lost())
        && let Some(errno) = handle.take_error()
    {
        return Some(failed(handle, errno));
    }
    if bits & state_bits::CONNECTED != 0 {
        handle.set_flag(private_flags::CONNECT_PENDING, false);
        return Some(Ok(Where::Engine));
    }
    if told && bits & state_bits::CONNECTING == 0 {
        // Given up by shutdown(), or it has failed and SO_ERROR was asked for already.
        return Some(failed(handle, handle.take_error().unwrap_or(Errno(libc::ECONNABORTED))));
    }
    None
}

/// The caller hears that the attempt has failed, and the socket is as before it.
fn failed(handle: &Handle, errno: Errno) -> Result<Where> {
    if handle.has(state_bits::CONNECTING) {
        // What a router said is final for Linux, while the engine would go on trying.
        let _ = command::ask(handle, op::SHUTDOWN, &[libc::SHUT_RDWR as u64], &mut []);
    }
    handle.set_flag(private_flags::DISCONNECTED, !handle.is_lost());
    handle.set_flag(private_flags::CONNECT_PENDING, false);
    Err(errno)
}
