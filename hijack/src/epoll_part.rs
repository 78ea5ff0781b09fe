//! The members of an epoll set in one session: what is wanted of each, who is ready, and the waitable that the engine rings
//! for them. What a set is, and how the kernel's members lie beside ours: [`epoll_set`](crate::epoll_set).

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use persona_channel::layout::{EPOLL_SETS, Interest, SOCKET_WORDS, Waitable};
use persona_channel::memory::{SessionRef, Slot, WaitableId};
use persona_channel::poll::{self, Edges};

use crate::attach::View;
use crate::epoll_set::{DOORBELL, POKE, Set, poke, poke_fd};
use crate::handle::Handle;
use crate::sys::{self, Errno, Result};
use crate::table::{self, SocketId};
use crate::{identity, wait};

/// Bits of an interest's events that are ours: the member was not reported since ADD or MOD; EPOLLONESHOT has fired.
const FRESH: u32 = 1 << 27;
const DISABLED: u32 = 1 << 26;
const PRIVATE: u32 = FRESH | DISABLED;
/// Bits of an epoll event that are flags and no poll bits.
const FLAGS: u32 = (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;

/// A set's members in one session.
#[derive(Clone, Copy)]
pub struct Part {
    pub view: &'static View,
    pub session: SessionRef<'static>,
    pub id: WaitableId,
}

impl Part {
    pub fn waitable(&self) -> &'static Waitable {
        self.session.waitable(self.id)
    }

    pub fn interest(&self, slot: Slot) -> Option<&'static Interest> {
        self.session.interest(self.id, slot)
    }

    /// Adds the poke and, if wanted, the doorbell to the real set.
    pub fn hide_members_in(&self, epfd: c_int, doorbell_too: bool) -> Result<()> {
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
    pub fn release(&self) {
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

/// Claims an epoll set's waitable, with this process as its owner. When there is none left those whose owner died
/// without closing them are taken back.
pub fn claim(session: SessionRef<'static>) -> Option<WaitableId> {
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
