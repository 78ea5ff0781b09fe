//! The epoll names: epoll_create, epoll_ctl, epoll_wait and relatives, for sets with members of both worlds.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::ptr::null;
use core::sync::atomic::Ordering;

use libc::{epoll_event, pollfd, sigset_t, timespec};

use crate::epoll_part;
use crate::epoll_set::{self, DOORBELL, POKE, Set};
use crate::export::export;
use crate::handle::Handle;
use crate::sys::{self, Errno, Result, answer};
use crate::table::{self, Entry};
use crate::{attach, poll, real, relisten, report, spin};

pub use crate::epoll_set::{release, relocate_poke, retain, share_all};

/// How long to wait: a moment of CLOCK_MONOTONIC, or for ever.
#[derive(Clone, Copy)]
pub enum Until {
    Now,
    Moment(u64),
    Never,
}

impl Until {
    pub fn milliseconds(timeout: c_int) -> Until {
        match timeout {
            0 => Until::Now,
            ..0 => Until::Never,
            _ => Until::Moment(sys::now() + timeout as u64 * 1_000_000),
        }
    }

    /// # Safety
    /// `timeout` is null or valid.
    pub unsafe fn timespec(timeout: *const timespec) -> Result<Until> {
        if timeout.is_null() {
            return Ok(Until::Never);
        }
        // SAFETY: the caller vouches for it.
        let time = unsafe { *timeout };
        if time.tv_sec < 0 || !(0..1_000_000_000).contains(&time.tv_nsec) {
            return Err(Errno(libc::EINVAL));
        }
        match (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64) {
            0 => Ok(Until::Now),
            length => Ok(Until::Moment(sys::now().saturating_add(length))),
        }
    }

    /// Nanoseconds left, None for ever.
    pub fn left(self) -> Option<u64> {
        match self {
            Until::Now => Some(0),
            Until::Moment(moment) => Some(moment.saturating_sub(sys::now())),
            Until::Never => None,
        }
    }
}

export! {
    fn epoll_create(size: c_int) -> c_int {
        if size <= 0 {
            return answer::<c_int>(Err(Errno(libc::EINVAL)));
        }
        epoll_create1(0)
    }

    fn epoll_create1(flags: c_int) -> c_int {
        let created = sys::call(libc::SYS_epoll_create1, [flags as usize, 0, 0, 0, 0, 0]);
        if let Ok(epfd) = created
            && table::covers(epfd as c_int)
        {
            let entry = epoll_set::allocate(0).map_or(Entry::Foreign, Entry::Epoll);
            table::set(epfd as c_int, entry);
        }
        answer(created.map(|epfd| epfd as c_int))
    }

    fn epoll_ctl(epfd: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        let Some(handle) = Handle::unrelayed(fd) else {
            if let Some(relayed) = Handle::of(fd) {
                catch_up(epfd, &relayed);
            }
            let result = real::epoll_ctl(epfd, operation, fd, event);
            if result == 0 {
                note_foreign(epfd, operation, fd);
            }
            return result;
        };
        answer(control(epfd, operation, &handle, event))
    }

    fn epoll_wait(epfd: c_int, events: *mut epoll_event, room: c_int, timeout: c_int) -> c_int {
        match ours(epfd, room) {
            Some(set) => finish(wait(set, epfd, events, room, Until::milliseconds(timeout), null(), false)),
            None => real::epoll_wait(epfd, events, room, timeout),
        }
    }

    fn epoll_pwait(
        epfd: c_int, events: *mut epoll_event, room: c_int, timeout: c_int, mask: *const sigset_t
    ) -> c_int {
        match ours(epfd, room) {
            Some(set) => finish(wait(set, epfd, events, room, Until::milliseconds(timeout), mask, false)),
            None => real::epoll_pwait(epfd, events, room, timeout, mask),
        }
    }

    fn epoll_pwait2(
        epfd: c_int, events: *mut epoll_event, room: c_int, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int {
        let Some(set) = ours(epfd, room) else {
            return real::epoll_pwait2(epfd, events, room, timeout, mask);
        };
        match Until::timespec(timeout) {
            Ok(until) => finish(wait(set, epfd, events, room, until, mask, true)),
            Err(errno) => answer::<c_int>(Err(errno)),
        }
    }
}

fn finish(result: Result<usize>) -> c_int {
    answer(result.map(|count| count as c_int))
}

/// The set behind a descriptor. One without members of ours, too: another thread may add the first while we wait.
fn ours(epfd: c_int, room: c_int) -> Option<&'static Set> {
    let Entry::Epoll(index) = table::get(epfd) else { return None };
    attach::check_process();
    (room > 0).then(|| epoll_set::set(index))
}

/// The sets with members of ours that are members of this one.
fn nested(set: &'static Set) -> impl Iterator<Item = (c_int, &'static Set)> {
    set.nested.iter().filter_map(|cell| {
        let fd = cell.load(Ordering::Acquire) - 1;
        match table::get(fd) {
            Entry::Epoll(index) if fd >= 0 => Some((fd, epoll_set::set(index))),
            _ => None,
        }
    })
}

/// A socket has gone into relay: if it still is a member of ours it becomes one of the kernel's, which is asked next.
fn catch_up(epfd: c_int, relayed: &Handle) {
    let Entry::Epoll(index) = table::get(epfd) else { return };
    let set = epoll_set::set(index);
    if let Some(part) = set.part_of(relayed.id.session) {
        part.move_to_kernel(set, epfd, relayed.socket.slot);
    }
}

/// Keeps count of a set's kernel members, and of sets inside sets.
fn note_foreign(epfd: c_int, operation: c_int, fd: c_int) {
    let Entry::Epoll(index) = table::get(epfd) else { return };
    let set = epoll_set::set(index);
    let is_set = matches!(table::get(fd), Entry::Epoll(_));
    match operation {
        libc::EPOLL_CTL_ADD => {
            set.kernel_members.fetch_add(1, Ordering::AcqRel);
            if is_set {
                let _ = set
                    .nested
                    .iter()
                    .any(|cell| cell.compare_exchange(0, fd + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok());
            }
        }
        libc::EPOLL_CTL_DEL => {
            // A descriptor that was closed without DEL leaves the count too high, which costs a system call and no more.
            let _ = set.kernel_members.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| count.checked_sub(1));
            for cell in &set.nested {
                let _ = cell.compare_exchange(fd + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        _ => {}
    }
}

/// epoll_ctl for a socket of ours.
///
/// # Safety
/// `event` is null or valid.
unsafe fn control(epfd: c_int, operation: c_int, handle: &Handle, event: *mut epoll_event) -> Result<()> {
    let index = match table::get(epfd) {
        Entry::Epoll(index) => index,
        Entry::Internal => return Err(Errno(libc::EBADF)),
        Entry::Socket(_) => return Err(Errno(libc::EINVAL)),
        Entry::Foreign => take_up(epfd)?,
    };
    let set = epoll_set::set(index);
    let renewed = if relisten::is_orphan(handle) { relisten::renew(handle)? } else { None };
    let handle = renewed.as_ref().unwrap_or(handle);
    if handle.view.is_dead() {
        set.look_again();
    }
    if operation == libc::EPOLL_CTL_DEL {
        let part = set.part_of(handle.id.session).ok_or(Errno(libc::ENOENT))?;
        return part.delete(handle);
    }
    if event.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller vouches for it; the record is packed.
    let (events, data) = unsafe { ((*event).events, (*event).u64) };
    match operation {
        libc::EPOLL_CTL_ADD => set.make_part(epfd, handle.view)?.add(epfd, handle, events, data),
        libc::EPOLL_CTL_MOD if events & libc::EPOLLEXCLUSIVE as u32 != 0 => Err(Errno(libc::EINVAL)),
        libc::EPOLL_CTL_MOD => {
            let part = set.part_of(handle.id.session).ok_or(Errno(libc::ENOENT))?;
            part.modify(epfd, handle, events, data)
        }
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// Makes a set of an epoll descriptor that we have not seen created.
fn take_up(epfd: c_int) -> Result<u16> {
    // What is no epoll descriptor is told by the kernel: nothing can be deleted from it.
    match sys::epoll_ctl(epfd, libc::EPOLL_CTL_DEL, epfd, 0, 0) {
        Err(Errno(libc::EBADF)) => return Err(Errno(libc::EBADF)),
        Err(Errno(libc::EINVAL)) if !is_epoll(epfd) => return Err(Errno(libc::EINVAL)),
        _ => {}
    }
    let index = epoll_set::allocate(1).ok_or(Errno(libc::ENOMEM))?;
    table::set(epfd, Entry::Epoll(index));
    Ok(index)
}

fn is_epoll(fd: c_int) -> bool {
    let mut event = epoll_event { events: 0, u64: 0 };
    let arguments = [fd as usize, &raw mut event as usize, 1, 0, 0, 8];
    // SAFETY: room for one event, no waiting.
    let waited = unsafe { sys::raw(libc::SYS_epoll_pwait, arguments) };
    waited != -(libc::EINVAL as isize) && waited != -(libc::EBADF as isize)
}

/// Waits for members of both worlds. `fine`: the timeout is in nanoseconds.
///
/// # Safety
/// `events` has room for `room` events; `mask` is null or valid.
unsafe extern "C-unwind" fn wait(
    set: &'static Set,
    epfd: c_int,
    events: *mut epoll_event,
    room: c_int,
    until: Until,
    mask: *const sigset_t,
    fine: bool,
) -> Result<usize> {
    if events.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    let room = room as usize;
    loop {
        let orphans_wait = tend(set, 0);
        // Either world goes first in its turn: one that always has something to say must not keep the other waiting.
        let has_kernel = set.kernel_members.load(Ordering::Acquire) > 0;
        let kernel_first = has_kernel && set.has_parts() && set.turns.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        // SAFETY: the caller vouches for the room.
        let mut found = if kernel_first { unsafe { look(set, epfd, events, room) }? } else { 0 };
        // SAFETY: the rest of the room.
        found += unsafe { harvest(set, epfd, events.add(found), room - found) };
        if found == 0 && !matches!(until, Until::Now) && set.has_parts() && spin::until(&|| has_news(set)) {
            continue;
        }
        if found > 0 || matches!(until, Until::Now) {
            let kernel_too = !kernel_first && (found == 0 || has_kernel);
            if kernel_too && found < room {
                // SAFETY: the rest of the room.
                found += unsafe { look(set, epfd, events.add(found), room - found) }?;
            }
            return Ok(found);
        }
        if !enter(set, epfd) {
            leave(set, epfd, false);
            continue;
        }
        let left = until.left();
        let left =
            if orphans_wait { Some(left.map_or(relisten::RETRY, |left| left.min(relisten::RETRY))) } else { left };
        // SAFETY: as above.
        let (outcome, own_rung) = unsafe { sleep(set, epfd, events, room, left, mask, fine) };
        let (count, rung) = match &outcome {
            // SAFETY: the kernel filled so many events.
            Ok(filled) => unsafe { without_hidden(events, *filled) },
            Err(_) => (0, false),
        };
        let rung = rung || own_rung;
        leave(set, epfd, rung);
        outcome?;
        // SAFETY: the rest of the room.
        let count = count + unsafe { harvest(set, epfd, events.add(count), room - count) };
        if count > 0 || (outcome == Ok(0) && until.left() == Some(0)) {
            return Ok(count);
        }
    }
}

/// Brings back listeners of dead engines in the set and in those inside it. True: some have to wait for an engine.
pub fn tend(set: &'static Set, depth: u32) -> bool {
    let mut waiting = set.tend();
    if depth < MOST_NESTED {
        for (_, inner) in nested(set) {
            waiting |= tend(inner, depth + 1);
        }
    }
    waiting
}

/// Members of ours that are ready.
unsafe fn harvest(set: &Set, epfd: c_int, events: *mut epoll_event, room: usize) -> usize {
    let mut found = 0;
    for part in set.parts() {
        // SAFETY: the caller vouches for the room.
        let rest = unsafe { core::slice::from_raw_parts_mut(events.add(found), room - found) };
        found += part.harvest(set, epfd, rest);
    }
    found
}

fn has_news(set: &Set) -> bool {
    set.parts().any(|part| part.waitable().has_news())
}

/// Announces that this thread sleeps in the set. False: there is news.
fn enter(set: &'static Set, epfd: c_int) -> bool {
    set.enter();
    let mut idle = true;
    for part in set.parts() {
        epoll_part::adopt(&part);
        idle &= part.waitable().enter() || !part.has_ready(epfd);
    }
    for (fd, inner) in nested(set) {
        arm(inner, fd, 0);
    }
    idle
}

/// The thread sleeps no more. `rung`: the doorbell was readable. Its byte is taken before others who sleep are
/// announced again, else it could be the one that was meant for them.
fn leave(set: &'static Set, epfd: c_int, rung: bool) {
    set.leave();
    for part in set.parts() {
        if rung {
            part.drain(epfd);
        }
        if part.waitable().leave() {
            epoll_set::poke(epfd);
        }
    }
    for (fd, inner) in nested(set) {
        disarm(inner, fd, 0);
    }
}

/// Sets inside sets that are looked into, as many as the kernel allows.
const MOST_NESTED: u32 = 4;

/// Somebody is about to wait for a set's descriptor in the kernel (poll on it, or a set it is inside of): from now on
/// its doorbell rings, and if members of ours are ready already the descriptor is made readable.
pub fn arm(set: &'static Set, epfd: c_int, depth: u32) {
    set.enter();
    for part in set.parts() {
        // What woke an earlier wait is no news any more: the descriptor would stay readable for nothing.
        if !part.has_ready(epfd) {
            part.drain(epfd);
            epoll_set::unpoke(epfd);
        }
        // Whom that byte was meant for is woken anew: the news is still listed.
        let idle = part.waitable().enter();
        if !idle && part.has_ready(epfd) {
            epoll_set::poke(epfd);
        }
    }
    if depth < MOST_NESTED {
        for (fd, inner) in nested(set) {
            arm(inner, fd, depth + 1);
        }
    }
}

/// Undoes [`arm`]. The doorbell's byte stays for whoever waits in the set itself.
pub fn disarm(set: &'static Set, epfd: c_int, depth: u32) {
    set.leave();
    for part in set.parts() {
        if part.waitable().leave() {
            epoll_set::poke(epfd);
        }
    }
    if depth < MOST_NESTED {
        for (fd, inner) in nested(set) {
            disarm(inner, fd, depth + 1);
        }
    }
}

/// The set behind a descriptor, if somebody who polls the descriptor has to [`arm`] it.
pub fn armable(fd: c_int) -> Option<&'static Set> {
    ours(fd, 1)
}

/// A look at the kernel's members without waiting.
unsafe fn look(set: &'static Set, epfd: c_int, events: *mut epoll_event, room: usize) -> Result<usize> {
    for (fd, inner) in nested(set) {
        arm(inner, fd, 0);
        disarm(inner, fd, 0);
    }
    let arguments = [epfd as usize, events as usize, room, 0, 0, 8];
    // SAFETY: the caller vouches for the room.
    let filled = unsafe { sys::call(libc::SYS_epoll_pwait, arguments) }?;
    // SAFETY: the kernel filled so many events.
    let (count, rung) = unsafe { without_hidden(events, filled) };
    if rung {
        for part in set.parts() {
            part.drain(epfd);
        }
    }
    Ok(count)
}

/// Blocks in the kernel. Also returns whether a doorbell was rung that is no member of the set.
unsafe extern "C-unwind" fn sleep(
    set: &'static Set,
    epfd: c_int,
    events: *mut epoll_event,
    room: usize,
    left: Option<u64>,
    mask: *const sigset_t,
    fine: bool,
) -> (Result<usize>, bool) {
    let closed = pollfd { fd: -1, events: libc::POLLIN, revents: 0 };
    let mut beside = [pollfd { fd: epfd, ..closed }, closed, closed];
    for (place, doorbell) in beside[1..].iter_mut().zip(set.own_doorbells()) {
        place.fd = doorbell;
    }
    if beside[1].fd >= 0 {
        // SAFETY: the caller vouches for the mask.
        if let Err(errno) = unsafe { poll::sleep(&mut beside, left, mask) } {
            return (Err(errno), false);
        }
        let arguments = [epfd as usize, events as usize, room, 0, 0, 8];
        // SAFETY: the caller vouches for the room.
        let filled = unsafe { sys::call(libc::SYS_epoll_pwait, arguments) };
        return (filled, beside[1..].iter().any(|bell| bell.revents != 0));
    }
    let filled = match (fine, left) {
        (true, Some(left)) => {
            let time = timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ };
            // SAFETY: the caller vouches for the room and the mask.
            unsafe { real::epoll_pwait2(epfd, events, room as c_int, &time, mask) }
        }
        (_, left) => {
            let time = left.map_or(-1, |left| left.div_ceil(1_000_000).min(c_int::MAX as u64) as c_int);
            // SAFETY: as above.
            unsafe { real::epoll_pwait(epfd, events, room as c_int, time, mask) }
        }
    };
    (if filled < 0 { Err(Errno(sys::errno())) } else { Ok(filled as usize) }, false)
}

/// Takes the hidden members out of what the kernel reported: how many are left, and whether the doorbell was there.
unsafe fn without_hidden(events: *mut epoll_event, count: usize) -> (usize, bool) {
    // SAFETY: the caller vouches for `count` filled events.
    let events = unsafe { core::slice::from_raw_parts_mut(events, count) };
    let (mut kept, mut rung) = (0, false);
    for index in 0..count {
        match events[index].u64 {
            DOORBELL => rung = true,
            POKE => {}
            _ => {
                events[kept] = events[index];
                kept += 1;
            }
        }
    }
    (kept, rung)
}

/// A socket of ours has become one of the kernel's, `kernel` for now: moves its memberships there. The registrations
/// are made under the socket's own number once it refers to the kernel's socket, which is what EPOLL_CTL_DEL will name.
pub fn hand_to_kernel(handle: &Handle, memberships: &mut Memberships) {
    for (epfd, entry) in table::entries() {
        let Entry::Epoll(index) = entry else { continue };
        let set = epoll_set::set(index);
        let Some(part) = set.part_of(handle.id.session) else { continue };
        if let Some((fd, events, data)) = part.withdraw(handle) {
            set.kernel_members.fetch_add(1, Ordering::AcqRel);
            memberships.push(Membership { epfd, fd, events, data });
        }
    }
}

/// A listener has come back in another session: makes it a member wherever it was one.
pub fn follow(orphan: &Handle, fresh: &Handle) {
    for (epfd, entry) in table::entries() {
        let Entry::Epoll(index) = entry else { continue };
        let set = epoll_set::set(index);
        let registration = set.part_of(orphan.id.session).and_then(|part| part.registration(orphan));
        let Some((fd, events, data)) = registration else { continue };
        let Some(member) = Handle::new(fd, fresh.id) else { continue };
        if let Err(Errno(errno)) =
            set.make_part(epfd, fresh.view).and_then(|part| part.add(epfd, &member, events, data))
            && errno != libc::EEXIST
        {
            report::note(format_args!("listener {fd} is no member of epoll set {epfd} any more: errno {errno}"));
        }
    }
}

/// A registration to be made in a real epoll set.
#[derive(Clone, Copy)]
pub struct Membership {
    pub epfd: c_int,
    pub fd: c_int,
    pub events: u32,
    pub data: u64,
}

/// The registrations of one socket; more than a handful of sets for one socket are not met.
pub struct Memberships {
    list: [Option<Membership>; 16],
    count: usize,
}

impl Memberships {
    pub fn new() -> Memberships {
        Memberships { list: [None; 16], count: 0 }
    }

    fn push(&mut self, membership: Membership) {
        if let Some(place) = self.list.get_mut(self.count) {
            *place = Some(membership);
            self.count += 1;
        }
    }

    pub fn register(&self) {
        for membership in self.list.iter().flatten() {
            let Membership { epfd, fd, events, data } = *membership;
            let _ = sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, events, data);
        }
    }
}
