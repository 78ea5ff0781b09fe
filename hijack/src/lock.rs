//! The library's lock, for setting up: attaching, fetching anchors and doorbells, listening again. Never on the data path.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::{identity, sys};

/// Holds the tid of its owner, so that a signal handler that interrupts the owner can tell.
pub struct Lock(AtomicU32);

pub struct Guard<'a>(&'a Lock);

impl Lock {
    pub const fn new() -> Self {
        Lock(AtomicU32::new(0))
    }

    /// None if the calling thread already holds it, which means: we are in a signal handler on top of the set-up.
    pub fn lock(&self) -> Option<Guard<'_>> {
        let me = identity::tid();
        loop {
            match self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Guard(self)),
                Err(owner) if owner == me => return None,
                Err(_) => sys::sched_yield(),
            }
        }
    }

    /// None if anybody holds it.
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        let taken = self.0.compare_exchange(0, identity::tid(), Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then_some(Guard(self))
    }

    /// Frees the lock in a forked child, where the thread that held it does not exist.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}
