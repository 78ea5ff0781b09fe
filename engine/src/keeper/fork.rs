//! Making processes without exec: the engine, which shares its keeper's descriptor table, and children of their own.

use nix::unistd::{ForkResult, Pid};
use std::io;

/// Starts a child that shares this process's descriptor table, runs `body` in it and ends it with the status that `body`
/// returns (101 when it panics). Memory is copied on write as with fork.
///
/// To be called while this process has one thread: another thread's locks would stay locked in the child for ever.
pub fn share_files(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: without CLONE_VM and with a null stack, clone is fork: the child goes on at the same place with its own
    // copy of the memory. The C library's wrapper refuses a null stack, hence the bare call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        0 => finish(body),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// Starts a child with a copy of everything, descriptors too.
pub fn copy(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the callers have one thread, so that nobody else holds a lock; tests see to that with `alone`.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => finish(body),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Nothing may unwind into the parent's frames, of which the child has a copy.
fn finish(body: impl FnOnce() -> i32) -> ! {
    let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
    std::process::exit(status)
}
