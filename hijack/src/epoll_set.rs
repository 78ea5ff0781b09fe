//! Epoll sets that hold sockets of ours: what this process knows of one.
//!
//! The descriptor is a real epoll instance, with the kernel's members in it. Sockets of ours are members in session
//! memory ([`Part`]), listed as ready in the set's waitable by the engine. The doorbell of that waitable is a hidden
//! member of the real instance, so one epoll_wait serves both worlds; a second hidden member, the *poke*, is an always
//! readable eventfd that is switched on for one event when a thread of the family has to wake another.
//!
//! A set takes its waitable when the first socket of ours is added. It can hold members of two sessions, for the time
//! after an engine has died, when old and new sockets live side by side.

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use persona_channel::memory::WaitableId;

use crate::attach::{self, View};
use crate::epoll_part::{Part, claim};
use crate::handle::Handle;
use crate::sys::{self, Errno, Result};
use crate::table::{self, Entry};
use crate::{identity, place, relisten, wait};

/// Epoll descriptors a process can have with sockets of ours in them; further ones hold the kernel's only.
pub const SETS: usize = 512;
/// Sessions a set can have members of.
const PARTS: usize = 2;
/// Data of the hidden members.
pub const DOORBELL: u64 = u64::from_ne_bytes(*b"PERSdoor");
pub const POKE: u64 = u64::from_ne_bytes(*b"PERSpoke");

static ALL: [Set; SETS] = [const { Set::new() }; SETS];
/// The poke, plus one.
static POKE_FD: AtomicI32 = AtomicI32::new(0);

/// What this process knows of an epoll descriptor.
pub struct Set {
    /// Descriptors of this process that refer to it; 0: free.
    holders: AtomicU32,
    /// Threads that wait for the set in the kernel, at least.
    sleepers: AtomicU32,
    /// Members that are the kernel's, as far as we have seen them added and deleted.
    pub kernel_members: AtomicU32,
    /// Session plus one in the low byte, waitable above it; 0: none.
    parts: [AtomicU64; PARTS],
    /// Parts of dead sessions that have no listener any more which could come back; as in `parts`.
    childless: [AtomicU64; PARTS],
    /// Other processes may wait on it: it was there when this one forked, or was forked.
    shared: AtomicU32,
    /// Bits of `parts` whose doorbell is no member of the real set, see [`Set::own_doorbells`].
    apart: AtomicU32,
    /// Rounds, to let kernel and session go first by turns.
    pub turns: AtomicU32,
    /// The slot with which the next round begins when the last one ran out of room.
    pub next_turn: AtomicU32,
    /// Epoll descriptors inside this one that have parts, plus one.
    pub nested: [AtomicI32; 4],
}

impl Set {
    const fn new() -> Set {
        Set {
            holders: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            kernel_members: AtomicU32::new(0),
            parts: [const { AtomicU64::new(0) }; PARTS],
            childless: [const { AtomicU64::new(0) }; PARTS],
            shared: AtomicU32::new(0),
            apart: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            next_turn: AtomicU32::new(0),
            nested: [const { AtomicI32::new(0) }; 4],
        }
    }

    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.parts.iter().filter_map(|cell| {
            let word = cell.load(Ordering::Acquire);
            let session = (word as u8).checked_sub(1)?;
            let view = attach::view(session);
            Some(Part { view, session: view.session()?, id: WaitableId::new((word >> 8) as u32)? })
        })
    }

    /// Brings back the listeners among the members whose engine is gone. True: some have to wait, and to be looked at
    /// again after [`relisten::RETRY`].
    pub fn tend(&self) -> bool {
        let mut waiting = false;
        for (cell, childless) in self.parts.iter().zip(&self.childless) {
            let word = cell.load(Ordering::Acquire);
            let Some(session) = (word as u8).checked_sub(1) else { continue };
            if !attach::view(session).is_dead() || childless.load(Ordering::Acquire) == word {
                continue;
            }
            let Some(part) = self.part_of(session) else { continue };
            let mut orphans = table::entries().filter_map(|(fd, entry)| match entry {
                Entry::Socket(id) if id.session == session => Handle::new(fd, id)
                    .filter(|handle| relisten::is_orphan(handle) && part.registration(handle).is_some()),
                _ => None,
            });
            let mut count = 0;
            for orphan in orphans.by_ref() {
                count += 1;
                waiting |= !matches!(relisten::renew(&orphan), Ok(Some(_)));
            }
            if count == 0 {
                childless.store(word, Ordering::Release);
            }
        }
        waiting
    }

    /// A listener may have come to a part of a dead session.
    pub fn look_again(&self) {
        self.childless.iter().for_each(|cell| cell.store(0, Ordering::Release));
    }

    pub fn has_parts(&self) -> bool {
        self.parts.iter().any(|part| part.load(Ordering::Acquire) != 0)
    }

    /// Doorbells that a thread has to wait for beside the set. In a set that other processes wait on, too, a doorbell of a
    /// session that they do not know would wake them, and stay readable, until this process came to take its byte.
    pub fn own_doorbells(&self) -> impl Iterator<Item = c_int> {
        let apart = self.apart.load(Ordering::Acquire);
        let cells = self.parts.iter().enumerate().filter(move |(index, _)| apart >> index & 1 != 0);
        cells.filter_map(|(_, cell)| {
            let word = cell.load(Ordering::Acquire);
            let view = attach::view((word as u8).checked_sub(1)?);
            let doorbell = wait::doorbell(view, WaitableId::new((word >> 8) as u32)?).ok()?;
            (!view.is_dead()).then_some(doorbell)
        })
    }

    /// A thread is about to wait in the kernel. Before it announces itself in the parts that there are: one that comes
    /// later is told of it by [`Set::make_part`].
    pub fn enter(&self) {
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    pub fn leave(&self) {
        // A thread that was cancelled or jumped away is counted for ever, which costs needless bells and no more.
        let _ = self.sleepers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    pub fn part_of(&self, session: u8) -> Option<Part> {
        self.parts().find(|part| part.view.index() == session)
    }

    /// The part for a socket's session, made if need be.
    pub fn make_part(&self, epfd: c_int, view: &'static View) -> Result<Part> {
        if let Some(part) = self.part_of(view.index()) {
            return Ok(part);
        }
        let session = view.session().ok_or(Errno(libc::ENOMEM))?;
        // A free place, or that of a session whose engine is gone: first of one that has no sockets here any more.
        let is_dead = |word: u64| attach::view((word as u8).wrapping_sub(1)).is_dead();
        let is_done = |word: u64| is_dead(word) && !table::session_is_held((word as u8).wrapping_sub(1));
        let place = |fits: &dyn Fn(u64) -> bool| self.parts.iter().find(|cell| fits(cell.load(Ordering::Acquire)));
        let place = place(&|word| word == 0).or_else(|| place(&is_done)).or_else(|| place(&is_dead));
        let place = place.ok_or(Errno(libc::ENOMEM))?;
        let id = claim(session).ok_or(Errno(libc::ENOMEM))?;
        let part = Part { view, session, id };
        let apart = self.shared.load(Ordering::Acquire) != 0;
        let added = part.hide_members_in(epfd, !apart);
        if added.is_err() {
            part.release();
        }
        added?;
        let bit = self.parts.iter().position(|cell| core::ptr::eq(cell, place)).map_or(0, |index| 1 << index);
        if apart {
            self.apart.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.apart.fetch_and(!bit, Ordering::AcqRel);
        }
        place.store((u64::from(view.index()) + 1) | (u64::from(id.get()) << 8), Ordering::Release);
        fence(Ordering::SeqCst);
        for _ in 0..self.sleepers.load(Ordering::Acquire) {
            // Nothing is listed yet; from now on news rings the doorbell, which those who sleep have among the members.
            let _ = part.waitable().enter();
        }
        Ok(part)
    }
}

/// Takes the parts of a session out of every set: its view is another session's from now on.
pub fn forget_session(session: u8) {
    for cell in ALL.iter().flat_map(|set| &set.parts) {
        let word = cell.load(Ordering::Acquire);
        if word as u8 == session + 1 {
            let _ = cell.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// A set of this process by its index.
pub fn set(index: u16) -> &'static Set {
    &ALL[index as usize % SETS]
}

/// A record for a new epoll descriptor.
pub fn allocate(kernel_members: u32) -> Option<u16> {
    let index =
        ALL.iter().position(|set| set.holders.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    ALL[index].kernel_members.store(kernel_members, Ordering::Release);
    ALL[index].shared.store(0, Ordering::Release);
    ALL[index].sleepers.store(0, Ordering::Release);
    Some(index as u16)
}

/// This process is about to fork, or was forked: what sets there are have another process waiting on them.
pub fn share_all() {
    for set in ALL.iter().filter(|set| set.holders.load(Ordering::Acquire) > 0) {
        set.shared.store(1, Ordering::Release);
    }
}

pub fn retain(index: u16) {
    set(index).holders.fetch_add(1, Ordering::AcqRel);
}

/// One descriptor fewer. With the last of this process the waitables go back, unless another process holds the set.
pub fn release(index: u16) {
    let set = set(index);
    if set.holders.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    for cell in &set.nested {
        cell.store(0, Ordering::Relaxed);
    }
    for part in set.parts() {
        let owner = &part.waitable().owner;
        if owner.compare_exchange(identity::pid(), 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            part.release();
        }
    }
    for cell in set.parts.iter().chain(&set.childless) {
        cell.store(0, Ordering::Release);
    }
}

/// Wakes one thread that sleeps in the set.
pub fn poke(epfd: c_int) {
    if let Ok(fd) = poke_fd() {
        let _ = sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, (libc::EPOLLIN | libc::EPOLLONESHOT) as u32, POKE);
    }
}

/// Takes back a poke that woke nobody.
pub fn unpoke(epfd: c_int) {
    if let Ok(fd) = poke_fd() {
        let _ = sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, libc::EPOLLONESHOT as u32, POKE);
    }
}

/// An eventfd that is always readable.
pub fn poke_fd() -> Result<c_int> {
    match POKE_FD.load(Ordering::Acquire) {
        0 => {
            let fd = place::keep(sys::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?);
            match POKE_FD.compare_exchange(0, fd + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => Ok(fd),
                Err(earlier) => {
                    place::drop(fd);
                    Ok(earlier - 1)
                }
            }
        }
        fd => Ok(fd - 1),
    }
}

/// The poke has moved to another number.
pub fn relocate_poke(from: c_int, to: c_int) -> bool {
    POKE_FD.compare_exchange(from + 1, to + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
