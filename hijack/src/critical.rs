//! Short stretches in which a signal handler must not run: while a direction of a socket is owned, or a lane.
//!
//! A handler that did would find the socket's word taken by its own thread and could neither wait nor go on. So a
//! signal that arrives inside is sent on to the same thread with itself blocked, and unblocked at the stretch's end:
//! the kernel then delivers it for good, with the information it had. See [`signals`](crate::signals) for the handler
//! that stands in front of the application's.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use persona_channel::owner::{self, Taken};

use crate::{identity, sys};

thread_local! {
    /// Stretches this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Signals put off until the outermost ends, one bit each.
    static DEFERRED: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread is in a critical stretch until this is dropped.
pub struct Critical(());

impl Critical {
    #[inline]
    pub fn enter() -> Critical {
        DEPTH.set(DEPTH.get() + 1);
        compiler_fence(Ordering::SeqCst);
        Critical(())
    }
}

impl Drop for Critical {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        compiler_fence(Ordering::SeqCst);
        if depth == 0 && DEFERRED.get() != 0 {
            deliver();
        }
    }
}

/// Called by our signal handler: true if the signal has to wait. The caller then blocks it in the interrupted context.
pub fn defer(signal: i32) -> bool {
    if DEPTH.get() == 0 {
        return false;
    }
    DEFERRED.set(DEFERRED.get() | 1 << (signal - 1));
    true
}

/// Lets the kernel deliver what was put off.
#[cold]
fn deliver() {
    let signals = DEFERRED.replace(0);
    let arguments = [libc::SIG_UNBLOCK as usize, &raw const signals as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: the kernel's signal set is one 64-bit word, which lives across the call.
    unsafe { sys::raw(libc::SYS_rt_sigprocmask, arguments) };
}

/// An ownership word that this thread holds; signals wait meanwhile.
pub struct Owned {
    // Dropped in this order: the word is free before a handler can run.
    _word: owner::Owned<'static>,
    _critical: Critical,
}

/// Takes an ownership word. Its holder is in a copy, never in a wait, so the turn comes soon.
#[inline]
pub fn own(word: &'static AtomicU32) -> Owned {
    let critical = Critical::enter();
    let me = identity::tid();
    loop {
        match owner::acquire(word, me, sys::is_alive) {
            Ok(word) => return Owned { _word: word, _critical: critical },
            // No handler runs inside a stretch, so the frame that held it has been jumped out of.
            Err(Taken::Ourselves) => return Owned { _word: owner::take_over(word), _critical: critical },
            Err(Taken::By(_)) => sys::sched_yield(),
        }
    }
}
