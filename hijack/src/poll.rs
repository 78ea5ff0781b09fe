//! poll() and ppoll() over descriptors of both worlds; select() comes here as well.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::mem::size_of;
use core::ptr::null;

use libc::{nfds_t, pollfd, sigset_t, timespec};

use crate::attach::SESSIONS;
use crate::epoll::{self, Until};
use crate::export::export;
use crate::handle::Handle;
use crate::sys::{self, Errno, Result, answer};
use crate::table::{self, Entry};
use crate::wait::Seat;
use crate::{attach, real, relisten, spin};

export! {
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        if !concerns_us(fds, count) {
            return real::poll(fds, count, timeout);
        }
        let fds = core::slice::from_raw_parts_mut(fds, count as usize);
        answer(wait(fds, Until::milliseconds(timeout), null()).map(|count| count as c_int))
    }

    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: usize) -> c_int {
        if room / size_of::<pollfd>() < count as usize {
            return real::__poll_chk(fds, count, timeout, room);
        }
        poll(fds, count, timeout)
    }

    fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        if !concerns_us(fds, count) {
            return real::ppoll(fds, count, timeout, mask);
        }
        let fds = core::slice::from_raw_parts_mut(fds, count as usize);
        match Until::timespec(timeout) {
            Ok(until) => answer(wait(fds, until, mask).map(|count| count as c_int)),
            Err(errno) => answer::<c_int>(Err(errno)),
        }
    }

    fn __ppoll_chk(
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: usize
    ) -> c_int {
        if room / size_of::<pollfd>() < count as usize {
            return real::__ppoll_chk(fds, count, timeout, mask, room);
        }
        ppoll(fds, count, timeout, mask)
    }
}

/// True if some descriptor is a socket of ours, or an epoll set with such in it.
///
/// # Safety
/// `fds` points to `count` records or nothing.
unsafe fn concerns_us(fds: *const pollfd, count: nfds_t) -> bool {
    if fds.is_null() {
        return false;
    }
    // SAFETY: the caller vouches for `count` records.
    let fds = unsafe { core::slice::from_raw_parts(fds, count as usize) };
    fds.iter().any(|entry| is_ours(entry.fd))
}

/// True for what the kernel alone cannot wait for.
pub fn is_ours(fd: c_int) -> bool {
    match table::get(fd) {
        Entry::Socket(_) => true,
        Entry::Epoll(_) => epoll::armable(fd).is_some(),
        _ => false,
    }
}

/// Waits until one of `fds` is ready: returns how many are, with their `revents` set.
///
/// # Safety
/// `mask` is null or valid.
pub unsafe extern "C-unwind" fn wait(fds: &mut [pollfd], until: Until, mask: *const sigset_t) -> Result<usize> {
    attach::check_process();
    loop {
        let orphans_wait = tend(fds);
        let ready = look(fds);
        if ready == 0 && !matches!(until, Until::Now) && spin::until(&|| glance(fds)) {
            continue;
        }
        if ready > 0 || matches!(until, Until::Now) {
            // SAFETY: nobody sleeps.
            return unsafe { with_kernel(fds, &[], Some(0), null()) }.map(|kernel| ready + kernel.ready);
        }
        let left = until.left();
        let left =
            if orphans_wait { Some(left.map_or(relisten::RETRY, |left| left.min(relisten::RETRY))) } else { left };
        let seats = Seats::take(fds)?;
        seats.subscribe(fds);
        let outcome = if glance(fds) {
            Ok(Kernel { ready: 0, over: false })
        } else {
            // SAFETY: passed on to the caller.
            unsafe { with_kernel(fds, &seats.list, left, mask) }
        };
        seats.leave(fds);
        match outcome {
            Err(errno) => return Err(errno),
            Ok(kernel) => {
                let ready = look(fds) + kernel.ready;
                if ready > 0 || (kernel.over && until.left() == Some(0)) {
                    return Ok(ready);
                }
            }
        }
    }
}

/// Brings back listeners whose engine is gone. True: some have to wait for another engine.
fn tend(fds: &[pollfd]) -> bool {
    fds.iter().fold(false, |waiting, entry| {
        let waits = match Handle::of(entry.fd) {
            Some(handle) => relisten::is_orphan(&handle) && !matches!(relisten::renew(&handle), Ok(Some(_))),
            None => epoll::armable(entry.fd).is_some_and(|set| epoll::tend(set, 0)),
        };
        waiting | waits
    })
}

/// Sets `revents` of the sockets of ours and returns how many are ready.
fn look(fds: &mut [pollfd]) -> usize {
    let mut ready = 0;
    for entry in fds {
        if let Some(handle) = Handle::unrelayed(entry.fd) {
            entry.revents = found(&handle, entry.events);
            ready += usize::from(entry.revents != 0);
        }
    }
    ready
}

/// True if some socket of ours is ready.
fn glance(fds: &[pollfd]) -> bool {
    fds.iter().any(|entry| match Handle::of(entry.fd) {
        // A socket that has just gone into relay is looked at again, by the kernel.
        Some(handle) if handle.is_relayed() => false,
        Some(handle) => found(&handle, entry.events) != 0,
        None => false,
    })
}

fn found(handle: &Handle, events: i16) -> i16 {
    let wanted = u32::from(events as u16);
    let always = (libc::POLLERR | libc::POLLHUP) as u32;
    (handle.poll_bits_wanting(wanted) & (wanted | always)) as i16
}

/// The seats of a waiting call: one for each session that its sockets belong to.
struct Seats {
    list: [Option<Seat>; SESSIONS],
}

impl Seats {
    fn take(fds: &[pollfd]) -> Result<Seats> {
        let mut seats = Seats { list: [None; SESSIONS] };
        for entry in fds {
            let Some(handle) = Handle::unrelayed(entry.fd) else { continue };
            let place = &mut seats.list[handle.id.session as usize % SESSIONS];
            // Nobody rings for a dead session: its sockets are ready with an error, or wait for another engine.
            if place.is_some() || handle.view.is_dead() {
                continue;
            }
            match Seat::take(handle.view) {
                Ok(seat) => *place = Some(seat),
                Err(_) if handle.view.is_dead() => {}
                Err(trouble) => {
                    seats.give_back();
                    return Err(trouble.errno);
                }
            }
        }
        Ok(seats)
    }

    fn subscribe(&self, fds: &[pollfd]) {
        for entry in fds {
            if let Some(handle) = Handle::unrelayed(entry.fd) {
                if let Some(seat) = &self.list[handle.id.session as usize % SESSIONS] {
                    handle.socket.wait.subscribe(seat.waitable());
                }
            } else if let Some(set) = epoll::armable(entry.fd) {
                epoll::arm(set, entry.fd, 0);
            }
        }
        for seat in self.list.iter().flatten() {
            seat.announce();
        }
    }

    fn leave(&self, fds: &[pollfd]) {
        for entry in fds {
            if let Some(handle) = Handle::of(entry.fd) {
                if let Some(seat) = &self.list[handle.id.session as usize % SESSIONS] {
                    handle.socket.wait.unsubscribe(seat.waitable());
                }
            } else if let Some(set) = epoll::armable(entry.fd) {
                epoll::disarm(set, entry.fd, 0);
            }
        }
        self.give_back();
    }

    fn give_back(&self) {
        for seat in self.list.iter().flatten() {
            seat.leave();
        }
    }
}

/// What the kernel's poll said.
struct Kernel {
    /// Descriptors of the kernel that are ready.
    ready: usize,
    /// The time is over.
    over: bool,
}

/// Records that fit on the stack; more are mapped for the call.
const ON_STACK: usize = 64;

/// Polls what is the kernel's together with the doorbells, and sets `revents` of the kernel's.
///
/// # Safety
/// `mask` is null or valid.
unsafe extern "C-unwind" fn with_kernel(
    fds: &mut [pollfd],
    seats: &[Option<Seat>],
    left: Option<u64>,
    mask: *const sigset_t,
) -> Result<Kernel> {
    let needed = fds.len() + seats.len();
    let mut stack = [pollfd { fd: -1, events: 0, revents: 0 }; ON_STACK];
    let bytes = needed * size_of::<pollfd>();
    let mapped = needed > ON_STACK;
    let copy: &mut [pollfd] = if mapped {
        match sys::map_private(bytes) {
            // SAFETY: a fresh mapping of so many bytes, aligned to a page, and zero is a valid record.
            Ok(memory) => unsafe { core::slice::from_raw_parts_mut(memory.cast(), needed) },
            Err(errno) => return Err(errno),
        }
    } else {
        &mut stack[..needed]
    };
    // Only what there is to wait for: the kernel refuses more records than a process may have descriptors.
    let mut kernels = 0;
    for entry in fds.iter().filter(|entry| entry.fd >= 0 && Handle::unrelayed(entry.fd).is_none()) {
        copy[kernels] = pollfd { fd: entry.fd, events: entry.events, revents: 0 };
        kernels += 1;
    }
    let mut used = kernels;
    for seat in seats.iter().flatten() {
        copy[used] = pollfd { fd: seat.doorbell(), events: libc::POLLIN, revents: 0 };
        used += 1;
    }
    let outcome = match (used, left) {
        (0, Some(0)) => Ok(0),
        // SAFETY: the records are ours; the caller vouches for the mask.
        _ => unsafe { sleep(&mut copy[..used], left, mask) },
    };
    let mut ready = 0;
    if outcome.is_ok() {
        let (found, bells) = copy[..used].split_at(kernels);
        let mut found = found.iter().peekable();
        for entry in fds.iter_mut() {
            if let Some(kernel) = found.next_if(|kernel| kernel.fd == entry.fd) {
                entry.revents = kernel.revents;
                ready += usize::from(kernel.revents != 0);
            } else if entry.fd < 0 {
                entry.revents = 0;
            }
        }
        for (bell, seat) in bells.iter().zip(seats.iter().flatten()) {
            if bell.revents != 0 {
                seat.drain();
            }
        }
    }
    if mapped {
        // SAFETY: mapped above, and `copy` is not used any more.
        unsafe { sys::unmap(copy.as_mut_ptr().cast(), bytes) };
    }
    match outcome {
        Ok(count) => Ok(Kernel { ready, over: count == 0 }),
        Err(errno) => Err(errno),
    }
}

/// Blocks in the kernel's poll.
///
/// # Safety
/// `mask` is null or valid.
pub unsafe extern "C-unwind" fn sleep(fds: &mut [pollfd], left: Option<u64>, mask: *const sigset_t) -> Result<usize> {
    let time = left.map(|left| timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ });
    let time = time.as_ref().map_or(null(), |time| time as *const timespec);
    // SAFETY: the slice and the time live across the call; the caller vouches for the mask.
    let count = unsafe { real::ppoll(fds.as_mut_ptr(), fds.len() as nfds_t, time, mask) };
    if count < 0 { Err(Errno(sys::errno())) } else { Ok(count as usize) }
}
