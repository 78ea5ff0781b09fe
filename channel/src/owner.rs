//! Ownership words: which thread is inside one direction of one socket.
//!
//! A word is held for the length of a copy, never while blocking, so whoever finds it taken yields and tries again. A
//! thread that died inside is found out by its tid and the word is taken over; what it left is a valid stream (see
//! [`stream`](crate::stream)).

use crate::sync::{AtomicU32, Ordering};

/// An ownership word that this thread holds until it is dropped.
#[derive(Debug)]
pub struct Owned<'m> {
    word: &'m AtomicU32,
    /// The previous owner died inside.
    pub recovered: bool,
}

/// Why a word could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// By another thread that lives: yield and try again.
    By(u32),
    /// By this very thread: we are in a signal handler that interrupted it, or a handler jumped out of it.
    Ourselves,
}

/// Takes an ownership word for thread `tid` (not 0). `alive` says whether another thread still exists; it is asked
/// only when the word is taken.
pub fn acquire<'m>(word: &'m AtomicU32, tid: u32, alive: impl Fn(u32) -> bool) -> Result<Owned<'m>, Taken> {
    match word.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Ok(Owned { word, recovered: false }),
        Err(owner) if owner == tid => Err(Taken::Ourselves),
        Err(owner) if alive(owner) => Err(Taken::By(owner)),
        Err(owner) => match word.compare_exchange(owner, tid, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Owned { word, recovered: true }),
            Err(other) => Err(Taken::By(other)),
        },
    }
}

/// Takes a word that [`Taken::Ourselves`] reported, where the caller knows that the frame which held it is gone
/// (a signal handler left it by longjmp).
pub fn take_over(word: &AtomicU32) -> Owned<'_> {
    Owned { word, recovered: true }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.word.store(0, Ordering::Release);
    }
}
