//! Doorbells: how the engine wakes whoever blocks on a waitable.
//!
//! One AF_UNIX stream pair per waitable, made when first asked for and kept for the session's life. The application's end
//! is handed to every process that asks. We write one byte and never wait: a doorbell whose buffer is full has woken
//! its sleeper long ago.

use persona_channel::layout::WAITABLES;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

pub struct Doorbells {
    pairs: Box<[OnceLock<Pair>]>,
}

struct Pair {
    engine: OwnedFd,
    application: OwnedFd,
}

impl Default for Doorbells {
    fn default() -> Self {
        Self { pairs: (0..WAITABLES).map(|_| OnceLock::new()).collect() }
    }
}

impl Doorbells {
    /// The application's end of `waitable`'s doorbell. Control thread only.
    pub fn application_end(&self, waitable: u32) -> io::Result<BorrowedFd<'_>> {
        let cell = self.pairs.get(waitable as usize).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        if cell.get().is_none() {
            let (engine, application) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Only the control thread sets the cell, so that it cannot be set in between.
            let _ = cell.set(Pair { engine, application });
        }
        Ok(cell.get().expect("the doorbell was made above").application.as_fd())
    }

    /// Wakes the sleeper of `waitable`. Never blocks; a waitable that never asked for its doorbell has nobody asleep.
    pub fn ring(&self, waitable: usize) {
        if let Some(pair) = self.pairs.get(waitable).and_then(OnceLock::get) {
            // MSG_DONTWAIT and not O_NONBLOCK: file flags of our end are ours, but this says it at the call.
            // A full buffer means that a byte is there to wake up to; a closed far end has nobody to wake.
            let _ = rustix::net::send(&pair.engine, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Our end of `waitable`'s doorbell, if it was made.
    pub fn engine_end(&self, waitable: u32) -> Option<BorrowedFd<'_>> {
        Some(self.pairs.get(waitable as usize)?.get()?.engine.as_fd())
    }

    pub fn engine_ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pairs.iter().filter_map(|cell| cell.get().map(|pair| pair.engine.as_fd()))
    }

    pub fn ring_all(&self) {
        for waitable in 0..self.pairs.len() {
            self.ring(waitable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::RecvFlags;

    #[test]
    fn a_full_doorbell_neither_blocks_nor_loses_the_wake_up() {
        let doorbells = Doorbells::default();
        doorbells.ring(5);
        let end = doorbells.application_end(5).unwrap().try_clone_to_owned().unwrap();
        for _ in 0..10_000 {
            doorbells.ring(5);
        }
        let mut bytes = vec![0; 1 << 16];
        let (count, _) = rustix::net::recv(&end, &mut bytes, RecvFlags::DONTWAIT).unwrap();
        assert!(count > 0, "a byte was there to wake up to");
        assert!(doorbells.application_end(WAITABLES as u32).is_err());
    }
}
