//! Epoll sets that hold sockets of ours: what this process knows of one.
//!
//! The descriptor is a real epoll instance, with the kernel's members in it. Sockets of ours are members in session
//! memory ([`Interest`]), listed as ready in the set's waitable by the engine. The doorbell of that waitable is a hidden
//! member of the real instance, so one epoll_wait serves both worlds; a second hidden member, the *poke*, is an always
//! readable eventfd that is switched on for one event when a thread of the family has to wake another.
//!
//! A set takes its waitable when the first socket of ours is added. It can hold members of two sessions, for the time
//! after an engine has died, when old and new sockets live side by side.

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use persona_channel::layout::{EPOLL_SETS, Interest, SOCKET_WORDS, Waitable};
use persona_channel::memory::{SessionRef, Slot, WaitableId};
use persona_channel::poll::{self, Edges};

use crate::attach::{self, View};
use crate::handle::Handle;
use crate::sys::{self, Errno, Result};
use crate::table::{self, Entry, SocketId};
use crate::{identity, place, relisten, wait};

/// Epoll descriptors a process can have with sockets of ours in them; further ones hold the kernel's only.
pub const SETS: usize = 512;
/// Sessions a set can have members of.
const PARTS: usize = 2;
/// Data of the hidden members.
pub const DOORBELL: u64 = u64::from_ne_bytes(*b"PERSdoor");
pub const POKE: u64 = u64::from_ne_bytes(*b"PERSpoke");

/// Bits of an interest's events that are ours: the member was not reported since ADD or MOD; EPOLLONESHOT has fired.
const FRESH: u32 = 1 << 27;
const DISABLED: u32 = 1 << 26;
const PRIVATE: u32 = FRESH | DISABLED;
/// Bits of an epoll event that are flags and no poll bits.
const FLAGS: u32 = (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;

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
    next_turn: AtomicU32,
    /// Epoll descriptors inside this one that have parts, plus one.
    pub nested: [AtomicI32; 4],
}

/// A set's members in one session.
#[derive(Clone, Copy)]
pub struct Part {
    pub view: &'static View,
    pub session: SessionRef<'static>,
    pub id: WaitableId,
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

impl Part {
    pub fn waitable(&self) -> &'static Waitable {
        self.session.waitable(self.id)
    }

    pub fn interest(&self, slot: Slot) -> Option<&'static Interest> {
        self.session.interest(self.id, slot)
    }

    /// Adds the poke and, if wanted, the doorbell to the real set.
    fn hide_members_in(&self, epfd: c_int, doorbell_too: bool) -> Result<()> {
        match wait::doorbell(self.view, self.id) {
            Ok(_) if !doorbell_too => {}
            Ok(doorbell) => match sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, doorbell, libc::EPOLLIN as u32, DOORBELL) {
                Ok(()) | Err(Errno(libc::EEXIST)) => {}
                Err(errno) => return Err(errno),
            },
            // Nobody rings, and what the members have to say does not change.
            Err(_) if self.view.is_dead() => {}
            Err(trouble) => return Err(trouble.errno),
        }
        match sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, poke_fd()?, libc::EPOLLONESHOT as u32, POKE) {
            Ok(()) | Err(Errno(libc::EEXIST)) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Gives the waitable back. Members that are left are found stale by whoever uses it next.
    fn release(&self) {
        self.session.release_waitable(self.id);
    }

    /// Takes the doorbell's bytes. Its end means that nobody serves the session any more: every member has news then.
    pub fn drain(&self, epfd: c_int) {
        let Ok(fd) = wait::doorbell(self.view, self.id) else { return };
        if sys::drain(fd) != Ok(0) {
            return;
        }
        self.view.lose();
        let _ = sys::epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, 0, 0);
        for slot in Slot::all() {
            if self.interest(slot).is_some_and(|interest| interest.events.load(Ordering::Acquire) != 0) {
                // Whoever sleeps is awake already: the end of file does not go away.
                let _ = self.waitable().list(slot);
            }
        }
    }

    /// Lists a socket, and wakes a thread that sleeps in the set.
    pub fn list(&self, epfd: c_int, handle: &Handle) {
        if self.waitable().list(handle.socket.slot) {
            poke(epfd);
        }
    }

    /// Adds a member.
    pub fn add(&self, epfd: c_int, handle: &Handle, events: u32, data: u64) -> Result<()> {
        let interest = self.interest(handle.socket.slot).ok_or(Errno(libc::ENOMEM))?;
        if self.is_member(interest, handle.id) {
            return Err(Errno(libc::EEXIST));
        }
        interest.data.store(data, Ordering::Relaxed);
        interest.generation.store(handle.id.generation, Ordering::Relaxed);
        interest.descriptor.store(handle.fd, Ordering::Relaxed);
        interest.events.store(wanted(events), Ordering::Release);
        handle.socket.wait.subscribe(self.id);
        self.list(epfd, handle);
        Ok(())
    }

    pub fn modify(&self, epfd: c_int, handle: &Handle, events: u32, data: u64) -> Result<()> {
        let interest = self.member(handle)?;
        interest.data.store(data, Ordering::Relaxed);
        interest.events.store(wanted(events), Ordering::Release);
        self.list(epfd, handle);
        Ok(())
    }

    pub fn delete(&self, handle: &Handle) -> Result<()> {
        let interest = self.member(handle)?;
        interest.events.store(0, Ordering::Release);
        handle.socket.wait.unsubscribe(self.id);
        self.waitable().unlist(handle.socket.slot);
        Ok(())
    }

    fn member(&self, handle: &Handle) -> Result<&'static Interest> {
        let interest = self.interest(handle.socket.slot).ok_or(Errno(libc::ENOENT))?;
        if self.is_member(interest, handle.id) { Ok(interest) } else { Err(Errno(libc::ENOENT)) }
    }

    fn is_member(&self, interest: &Interest, id: SocketId) -> bool {
        interest.events.load(Ordering::Acquire) != 0 && interest.generation.load(Ordering::Relaxed) == id.generation
    }

    /// Takes a member out of our half, for the kernel's: its descriptor, events and data.
    pub fn withdraw(&self, handle: &Handle) -> Option<(c_int, u32, u64)> {
        let interest = self.member(handle).ok()?;
        let events = interest.events.swap(0, Ordering::AcqRel);
        handle.socket.wait.unsubscribe(self.id);
        Some((interest.descriptor.load(Ordering::Relaxed), public(events), interest.data.load(Ordering::Relaxed)))
    }

    /// Descriptor, events and data of a member, which stays one: relatives who share the set have to find it, too.
    pub fn registration(&self, handle: &Handle) -> Option<(c_int, u32, u64)> {
        let interest = self.member(handle).ok()?;
        let events = public(interest.events.load(Ordering::Acquire));
        Some((interest.descriptor.load(Ordering::Relaxed), events, interest.data.load(Ordering::Relaxed)))
    }

    /// Reports ready members into `events` and returns how many. A round that ran out of room is continued by the next
    /// one, so that members in high slots have their turn.
    pub fn harvest(&self, set: &Set, epfd: c_int, events: &mut [libc::epoll_event]) -> usize {
        if events.is_empty() {
            return 0;
        }
        let waitable = self.waitable();
        let first = set.next_turn.swap(0, Ordering::Relaxed);
        let mut found = 0;
        let mut report = |slot: Slot| match self.examine(epfd, slot, true) {
            Verdict::Report(event) => {
                events[found] = event;
                found += 1;
                if found == events.len() {
                    set.next_turn.store(slot.get() + 1, Ordering::Relaxed);
                }
                found == events.len()
            }
            Verdict::Kernel => {
                self.move_to_kernel(set, epfd, slot);
                false
            }
            Verdict::Nothing => false,
        };
        let mut news = waitable.take_news();
        let mut earlier = [0u64; SOCKET_WORDS];
        let mut full = false;
        while !full && let Some(slot) = news.next(waitable) {
            if slot.get() < first {
                earlier[slot.index() / 64] |= 1 << (slot.index() % 64);
            } else {
                full = report(slot);
            }
        }
        let mut wake = news.put_back(waitable);
        if first > 0 {
            for slot in Slot::all().filter(|slot| earlier[slot.index() / 64] >> (slot.index() % 64) & 1 != 0) {
                if full {
                    wake |= waitable.list(slot);
                } else {
                    full = report(slot);
                }
            }
        }
        if wake {
            poke(epfd);
        }
        found
    }

    /// True if some member would be reported; nothing is taken off the list.
    pub fn has_ready(&self, epfd: c_int) -> bool {
        let waitable = self.waitable();
        let mut news = waitable.take_news();
        let mut ready = false;
        while let Some(slot) = news.next(waitable) {
            if matches!(self.examine(epfd, slot, false), Verdict::Nothing) {
                continue;
            }
            ready = true;
            if waitable.list(slot) {
                poke(epfd);
            }
            break;
        }
        if news.put_back(waitable) {
            poke(epfd);
        }
        ready
    }

    /// What a listed socket has to say. `take`: the report is made, so edges are noted, EPOLLONESHOT fires and a
    /// level-triggered member stays listed.
    fn examine(&self, epfd: c_int, slot: Slot, take: bool) -> Verdict {
        let Some(interest) = self.interest(slot) else { return Verdict::Nothing };
        let wanted = interest.events.load(Ordering::Acquire);
        let generation = interest.generation.load(Ordering::Relaxed);
        let id = SocketId { session: self.view.index(), slot: slot.get(), generation };
        let other_life = self.session.socket(slot).generation() != generation;
        if wanted == 0 || other_life || !table::is_held(id) {
            self.strike(interest, slot, other_life.then_some(wanted));
            return Verdict::Nothing;
        }
        let Some(handle) = Handle::new(interest.descriptor.load(Ordering::Relaxed), id) else {
            return Verdict::Nothing;
        };
        if handle.is_relayed() {
            return Verdict::Kernel;
        }
        if wanted & DISABLED != 0 {
            return Verdict::Nothing;
        }
        let edges = Edges::of(handle.socket.state);
        let seen = (wanted & libc::EPOLLET as u32 != 0 && wanted & FRESH == 0 && !handle.is_lost())
            .then(|| Edges(interest.edges.load(Ordering::Relaxed)));
        let asked = wanted & !FLAGS & !PRIVATE;
        let due = poll::report(asked, seen, edges, handle.poll_bits_wanting(asked));
        if due == 0 {
            return Verdict::Nothing;
        }
        if take {
            interest.edges.store(edges.0, Ordering::Relaxed);
            let after = if wanted & libc::EPOLLONESHOT as u32 != 0 { wanted | DISABLED } else { wanted & !FRESH };
            // A MOD meanwhile has the last word.
            let _ = interest.events.compare_exchange(wanted, after, Ordering::AcqRel, Ordering::Relaxed);
            if wanted & (libc::EPOLLET | libc::EPOLLONESHOT) as u32 == 0 {
                self.list(epfd, &handle);
            }
        }
        Verdict::Report(libc::epoll_event { events: due, u64: interest.data.load(Ordering::Relaxed) })
    }

    /// A listed socket that is no member: not any more, or closed here. The engine need not name it again. `stale`: the
    /// events of a member whose slot has begun another life.
    fn strike(&self, interest: &Interest, slot: Slot, stale: Option<u32>) {
        if let Some(events) = stale {
            let _ = interest.events.compare_exchange(events, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        let wait = self.session.socket(slot).wait;
        wait.unsubscribe(self.id);
        // An ADD may have come in between.
        if interest.events.load(Ordering::Acquire) != 0 {
            wait.subscribe(self.id);
        }
    }

    /// A member's payload passes through its descriptor now, so the kernel watches it.
    pub fn move_to_kernel(&self, set: &Set, epfd: c_int, slot: Slot) {
        let Some(interest) = self.interest(slot) else { return };
        let generation = interest.generation.load(Ordering::Relaxed);
        let id = SocketId { session: self.view.index(), slot: slot.get(), generation };
        let Some(handle) = Handle::new(interest.descriptor.load(Ordering::Relaxed), id) else { return };
        if let Some((fd, events, data)) = self.withdraw(&handle) {
            set.kernel_members.fetch_add(1, Ordering::AcqRel);
            let _ = sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, events, data);
        }
    }
}

enum Verdict {
    Report(libc::epoll_event),
    Kernel,
    Nothing,
}

/// Events as a member stores them: never 0, since errors and hang-ups are always reported.
fn wanted(events: u32) -> u32 {
    events & !PRIVATE | FRESH | libc::EPOLLERR as u32 | libc::EPOLLHUP as u32
}

/// A member's events as the application or the kernel's half would have them.
fn public(events: u32) -> u32 {
    if events & DISABLED != 0 { events & FLAGS } else { events & !PRIVATE }
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
fn poke_fd() -> Result<c_int> {
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

/// Claims an epoll set's waitable, with this process as its owner. When there is none left those whose owner died
/// without closing them are taken back.
fn claim(session: SessionRef<'static>) -> Option<WaitableId> {
    let id = session.claim_epoll_set().or_else(|| {
        for id in WaitableId::all().take(EPOLL_SETS) {
            let owner = &session.waitable(id).owner;
            let pid = owner.load(Ordering::Acquire);
            let dead = pid != 0 && !sys::is_alive(pid);
            if dead && owner.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                session.release_waitable(id);
            }
        }
        session.claim_epoll_set()
    })?;
    session.waitable(id).owner.store(identity::pid(), Ordering::Release);
    clear_members(session, id);
    Some(id)
}

/// Empties the member table of a set that was used before. It is one stretch of shared memory, whose pages go back to
/// the kernel and come again as zeroes.
fn clear_members(session: SessionRef<'static>, id: WaitableId) {
    let (Some(first), Some(last)) = (Slot::new(0), Slot::all().last()) else { return };
    let (Some(first), Some(last)) = (session.interest(id, first), session.interest(id, last)) else { return };
    let start = core::ptr::from_ref(first) as usize;
    let end = core::ptr::from_ref(last) as usize + size_of::<Interest>();
    const PAGE: usize = 4096;
    let (inner_start, inner_end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    // SAFETY: whole pages of this set's member table, whose content nobody needs.
    let punched = unsafe { sys::madvise(inner_start as *mut u8, inner_end - inner_start, libc::MADV_REMOVE) }.is_ok();
    for slot in Slot::all() {
        let Some(interest) = session.interest(id, slot) else { continue };
        let address = core::ptr::from_ref(interest) as usize;
        let inside = address >= inner_start && address + size_of::<Interest>() <= inner_end;
        if !(punched && inside) {
            interest.events.store(0, Ordering::Relaxed);
        }
    }
}

/// Takes over sets whose owner died while this process goes on using them (it was forked after they were made).
pub fn adopt(part: &Part) {
    let owner = &part.waitable().owner;
    let (pid, me) = (owner.load(Ordering::Relaxed), identity::pid());
    if pid != me && (pid == 0 || !sys::is_alive(pid)) {
        let _ = owner.compare_exchange(pid, me, Ordering::AcqRel, Ordering::Relaxed);
    }
}
