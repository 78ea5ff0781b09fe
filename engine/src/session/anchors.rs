//! Anchors: the real descriptors behind sockets, as the engine holds them.
//!
//! An anchor is an AF_UNIX stream pair. One end goes to a process, pooled there until a socket needs a descriptor;
//! ours waits in this table under the anchor's id until `BIND_ANCHOR` joins it to a slot, and then belongs to the
//! shard. When the last copy of the application's end is gone in any process, ours reports a hang-up: that is the last
//! close of the socket.
//!
//! The control thread grants and reaps, the shards take; whoever swaps an entry out owns the descriptor.

use persona_channel::layout::SOCKETS;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Anchors of a session: one for each slot, and what processes hold in their pools.
const ANCHORS: usize = SOCKETS + 2_048;

/// Entries: 0 is free; else the process that was granted the anchor in the high half, descriptor + 1 in the low one.
pub struct Anchors {
    entries: Box<[AtomicU64]>,
    /// Where the next search for a free entry begins.
    next: AtomicUsize,
}

/// A granted anchor: its id, and the end that goes to the process.
pub struct Granted {
    pub id: u32,
    pub application: OwnedFd,
}

impl Default for Anchors {
    fn default() -> Self {
        Self { entries: (0..ANCHORS).map(|_| AtomicU64::new(0)).collect(), next: AtomicUsize::new(0) }
    }
}

impl Anchors {
    /// Makes an anchor for `process` (its serial within the engine). Control thread only.
    pub fn grant(&self, process: u32) -> io::Result<Granted> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (engine, application) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // O_NONBLOCK belongs to an open file: the application's end starts blocking, as a fresh socket does.
        rustix::fs::fcntl_setfl(&application, rustix::fs::OFlags::empty())?;
        let start = self.next.load(Ordering::Relaxed);
        let id = (0..ANCHORS)
            .map(|step| (start + step) % ANCHORS)
            .find(|&id| self.entries[id].load(Ordering::Relaxed) == 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOBUFS))?;
        self.next.store((id + 1) % ANCHORS, Ordering::Relaxed);
        self.entries[id].store(word(process, engine.into_raw_fd()), Ordering::Release);
        Ok(Granted { id: id as u32, application })
    }

    /// Takes the engine's end of anchor `id`, which came from an application; `None` when there is no such anchor.
    pub fn take(&self, id: u64) -> Option<OwnedFd> {
        let entry = self.entries.get(usize::try_from(id).ok()?)?;
        owned(entry.swap(0, Ordering::AcqRel))
    }

    /// Closes anchor `id` when `process` was granted it and it is still in nobody's socket.
    pub fn reap(&self, id: u32, process: u32) {
        let Some(entry) = self.entries.get(id as usize) else { return };
        let seen = entry.load(Ordering::Acquire);
        if holds(seen, process) && entry.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            drop(owned(seen));
        }
    }

    /// Closes anchor `id` as [`Anchors::reap`] does, provided that its other end is closed: it never arrived, because the
    /// process had no descriptor left, or its socket was closed before the shard heard of it.
    pub fn reap_lost(&self, id: u32, process: u32) {
        let Some(entry) = self.entries.get(id as usize) else { return };
        let seen = entry.load(Ordering::Acquire);
        let Some(descriptor) = (seen as u32).checked_sub(1).filter(|_| holds(seen, process)) else { return };
        // SAFETY: the number is only polled. A shard that takes the anchor meanwhile may close it, and then whatever the
        // poll said counts for nothing, since the entry has changed.
        let lost = crate::shard::closing::has_hung_up(unsafe { BorrowedFd::borrow_raw(descriptor as RawFd) });
        if lost && entry.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            drop(owned(seen));
        }
    }

    /// Whether anchor `id` still lies in the pool of `process`.
    pub fn is_pooled(&self, id: u32, process: u32) -> bool {
        self.entries.get(id as usize).is_some_and(|entry| holds(entry.load(Ordering::Relaxed), process))
    }
}

impl Drop for Anchors {
    fn drop(&mut self) {
        for entry in &self.entries {
            drop(owned(entry.swap(0, Ordering::AcqRel)));
        }
    }
}

fn word(process: u32, descriptor: RawFd) -> u64 {
    u64::from(process) << 32 | u64::from(descriptor as u32 + 1)
}

fn holds(word: u64, process: u32) -> bool {
    word != 0 && (word >> 32) as u32 == process
}

fn owned(word: u64) -> Option<OwnedFd> {
    let descriptor = (word as u32).checked_sub(1)?;
    // SAFETY: a nonzero word is a descriptor that `grant` released into the table; the caller swapped the word out and
    // is therefore the only one to own it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_taken_once_and_its_closing_is_a_hang_up() {
        let anchors = Anchors::default();
        let granted = anchors.grant(7).unwrap();
        assert!(anchors.is_pooled(granted.id, 7) && !anchors.is_pooled(granted.id, 8));
        let ours = anchors.take(u64::from(granted.id)).expect("the anchor was granted");
        assert!(anchors.take(u64::from(granted.id)).is_none());
        drop(granted.application);
        let mut byte = [0u8];
        assert_eq!(rustix::io::read(&ours, &mut byte).unwrap(), 0);
    }

    #[test]
    fn reaping_spares_what_another_process_holds_and_ids_from_nowhere_are_refused() {
        let anchors = Anchors::default();
        let granted = anchors.grant(1).unwrap();
        anchors.reap(granted.id, 2);
        assert!(anchors.is_pooled(granted.id, 1));
        anchors.reap(granted.id, 1);
        assert!(!anchors.is_pooled(granted.id, 1));
        assert!(anchors.take(u64::from(granted.id)).is_none());
        assert!(anchors.take(u64::MAX).is_none());
        let mut byte = [0u8];
        assert_eq!(rustix::io::read(&granted.application, &mut byte).unwrap(), 0, "our end is closed");
    }

    #[test]
    fn what_never_arrived_is_told_from_what_lies_in_a_pool() {
        let anchors = Anchors::default();
        let (pooled, lost) = (anchors.grant(1).unwrap(), anchors.grant(1).unwrap());
        drop(lost.application);
        for process in [2, 1] {
            assert!(anchors.is_pooled(lost.id, 1));
            anchors.reap_lost(pooled.id, process);
            anchors.reap_lost(lost.id, process);
        }
        assert!(anchors.is_pooled(pooled.id, 1) && !anchors.is_pooled(lost.id, 1));
    }
}
