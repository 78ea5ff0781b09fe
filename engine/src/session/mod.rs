//! A session as the engine knows it: the memory that it shares with one fork family, and what the engine keeps to itself.
//!
//! Everything in the shared memory may be changed by a hostile process at any time; nothing here trusts it. What decides
//! (which shard has a slot, which descriptors belong to whom, which generation is current) lies in private tables.
//!
//! Shared by all threads of the engine: the control thread makes and ends sessions, the shards serve the slots that
//! they own.

pub mod anchors;
pub mod doorbells;
pub mod estate;

use anchors::Anchors;
use anyhow::{Context, Result};
use doorbells::Doorbells;
use memmap2::{MmapOptions, MmapRaw};
use persona_channel::layout::{SOCKETS, WAITABLES};
use persona_channel::memory::{Parameters, SESSION_SIZE, SessionRef, Slot};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Who made a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// CAP_NET_BIND_SERVICE was effective: may bind reserved ports.
    pub may_bind_reserved: bool,
    /// What the program calls itself.
    pub program: String,
}

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub shards: usize,
    pub send_buffer: u32,
    pub receive_buffer: u32,
    pub flags: u32,
    pub policy: Vec<u8>,
}

pub struct Session {
    /// Place in the engine's tables; used again after the session has ended on every shard.
    pub index: u32,
    pub token: [u64; 2],
    pub peer: Peer,
    pub anchors: Anchors,
    pub doorbells: Doorbells,
    memory: MmapRaw,
    descriptor: OwnedFd,
    /// By shard: rung by the family to wake it.
    events: Vec<OwnedFd>,
    /// By slot: 0 when the engine does not know it, else the shard that owns it plus one.
    homes: Box<[AtomicU8]>,
    /// By slot: the current generation, as published in the state line.
    generations: Box<[AtomicU32]>,
    /// Slots that the engine knows; the session lives until there are none.
    live: AtomicU32,
}

impl Session {
    /// Makes fresh session memory, sealed against a change of its size.
    pub fn new(index: u32, token: [u64; 2], peer: Peer, options: &SessionOptions) -> Result<Self> {
        let descriptor = memfd_create("persona-session", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .context("cannot make a session's memory")?;
        ftruncate(&descriptor, SESSION_SIZE as u64).context("cannot size a session's memory")?;
        fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .context("cannot seal a session's memory")?;
        let session = Self {
            index,
            token,
            peer,
            anchors: Anchors::default(),
            doorbells: Doorbells::default(),
            memory: map(&descriptor)?,
            descriptor,
            events: (0..options.shards)
                .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
                .collect::<Result<_, _>>()
                .context("cannot make a session's event descriptor")?,
            homes: (0..SOCKETS).map(|_| AtomicU8::new(0)).collect(),
            generations: (0..SOCKETS).map(|_| AtomicU32::new(0)).collect(),
            live: AtomicU32::new(0),
        };
        session.view().initialise(&Parameters {
            shards: options.shards as u32,
            session: u64::from(index),
            token,
            send_buffer: options.send_buffer,
            receive_buffer: options.receive_buffer,
            flags: options.flags,
            sockets: SOCKETS as u32,
            chunks: persona_channel::layout::CHUNKS as u32,
            policy: &options.policy,
        });
        Ok(session)
    }

    pub fn view(&self) -> SessionRef<'_> {
        // SAFETY: the mapping has SESSION_SIZE bytes, is page-aligned, lives as long as `self`, and its memfd is sealed
        // against shrinking.
        let view = unsafe { SessionRef::from_raw(self.memory.as_mut_ptr()) };
        view.expect("a mapping is page-aligned and not null")
    }

    /// The memfd, for the processes of the family.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The event by which the family wakes `shard`. Watched edge-triggered and never read: its counter and its flags
    /// belong to a possibly hostile peer as well.
    pub fn event(&self, shard: usize) -> BorrowedFd<'_> {
        self.events[shard].as_fd()
    }

    pub fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd)
    }

    /// Shard that owns the slot, if the engine knows it.
    pub fn home(&self, slot: Slot) -> Option<usize> {
        self.homes[slot.index()].load(Ordering::Acquire).checked_sub(1).map(usize::from)
    }

    /// Makes `shard` the owner of a slot that nobody owns.
    pub fn settle(&self, slot: Slot, shard: usize) -> bool {
        let settled = self.homes[slot.index()].compare_exchange(0, home(shard), Ordering::AcqRel, Ordering::Acquire);
        if settled.is_ok() {
            self.live.fetch_add(1, Ordering::AcqRel);
        }
        settled.is_ok()
    }

    /// The owner hands the slot to `shard`.
    pub fn resettle(&self, slot: Slot, shard: usize) {
        self.homes[slot.index()].store(home(shard), Ordering::Release);
    }

    pub fn generation(&self, slot: Slot) -> u32 {
        self.generations[slot.index()].load(Ordering::Relaxed)
    }

    /// The owner (or, for a slot without one, whoever settled it) ends the slot's life: wipes its lines, publishes the
    /// next generation and frees it. The chunks of its streams must have been given back.
    pub fn unsettle(&self, slot: Slot, next_shard: usize) {
        let view = self.view();
        let socket = view.socket(slot);
        let generation = self.generations[slot.index()].fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        socket.begin_life(generation);
        socket.state.shard.store(next_shard as u32, Ordering::Relaxed);
        self.homes[slot.index()].store(0, Ordering::Release);
        view.free_sockets().free(slot.get());
        self.live.fetch_sub(1, Ordering::AcqRel);
    }

    /// Slots that the engine knows.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Acquire)
    }

    /// Wakes all who wait, whatever for.
    pub fn ring_everybody(&self) {
        for waitable in self.view().waitables().iter().take(WAITABLES) {
            waitable.sleeping.store(0, Ordering::Relaxed);
        }
        self.doorbells.ring_all();
    }
}

/// Maps a session's memory; also a predecessor's.
pub fn map(descriptor: &OwnedFd) -> Result<MmapRaw> {
    MmapOptions::new().len(SESSION_SIZE).map_raw(descriptor).context("cannot map a session's memory")
}

fn home(shard: usize) -> u8 {
    shard as u8 + 1
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn session(shards: usize) -> Session {
        let peer = Peer { pid: 1, uid: 1000, gid: 1000, may_bind_reserved: false, program: "test".into() };
        let options =
            SessionOptions { shards, send_buffer: 1 << 20, receive_buffer: 1 << 20, flags: 0, policy: b"{}".to_vec() };
        Session::new(3, [7, 8], peer, &options).unwrap()
    }

    #[test]
    fn a_slot_has_one_owner_and_comes_back_with_a_new_generation() {
        let session = session(2);
        let slot = Slot::new(session.view().free_sockets().claim().unwrap()).unwrap();
        assert_eq!(session.home(slot), None);
        assert!(session.settle(slot, 1));
        assert!(!session.settle(slot, 0), "a settled slot has an owner");
        session.resettle(slot, 0);
        assert_eq!((session.home(slot), session.live()), (Some(0), 1));
        session.view().socket(slot).cursor.snd_end.store(99, Ordering::Relaxed);
        session.view().socket(slot).maps.receive[3].store(7, Ordering::Relaxed);
        session.unsettle(slot, 1);
        let socket = session.view().socket(slot);
        assert_eq!(socket.cursor.snd_end.load(Ordering::Relaxed), 0);
        assert_eq!(socket.maps.receive[3].load(Ordering::Relaxed), 0);
        assert_eq!(socket.state.generation.load(Ordering::Relaxed), 1);
        assert_eq!(socket.state.shard.load(Ordering::Relaxed), 1);
        assert!(session.view().free_sockets().is_free(slot.get()));
        assert_eq!(session.live(), 0);
    }

    #[test]
    fn the_memory_cannot_shrink() {
        let session = session(1);
        let copy = session.descriptor().try_clone_to_owned().unwrap();
        assert_eq!(ftruncate(&copy, 4096), Err(rustix::io::Errno::PERM));
        assert_eq!(session.view().header().shards, 1);
    }
}
