//! select() and pselect(), told in terms of poll() when a socket of ours is among the descriptors.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::mem::size_of;
use core::ptr::null;

use libc::{fd_set, pollfd, sigset_t, timespec, timeval};

use crate::epoll::Until;
use crate::export::export;
use crate::poll;
use crate::real;
use crate::sys::{self, Errno, Result, answer};

/// What poll() reports that makes a descriptor a member of each result set, as in the kernel's select.
const READ: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR;
const WRITE: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR;
const EXCEPT: i16 = libc::POLLPRI;

export! {
    fn select(
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval
    ) -> c_int {
        let sets = Sets { read, write, except };
        if !sets.concern_us(count) {
            return real::select(count, read, write, except, timeout);
        }
        let until = match length(timeout) {
            Ok(None) => Until::Never,
            Ok(Some(0)) => Until::Now,
            Ok(Some(length)) => Until::Moment(sys::now().saturating_add(length)),
            Err(errno) => return answer::<c_int>(Err(errno)),
        };
        let result = wait(count as usize, &sets, until, null());
        if !timeout.is_null() {
            // Linux tells what is left of the time.
            let left = until.left().unwrap_or(0);
            (*timeout).tv_sec = (left / 1_000_000_000) as _;
            (*timeout).tv_usec = (left % 1_000_000_000 / 1_000) as _;
        }
        answer(result.map(|count| count as c_int))
    }

    fn pselect(
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t
    ) -> c_int {
        let sets = Sets { read, write, except };
        if !sets.concern_us(count) {
            return real::pselect(count, read, write, except, timeout, mask);
        }
        match Until::timespec(timeout) {
            Ok(until) => answer(wait(count as usize, &sets, until, mask).map(|count| count as c_int)),
            Err(errno) => answer::<c_int>(Err(errno)),
        }
    }
}

/// A timeval in nanoseconds, None for none.
///
/// # Safety
/// `timeout` is null or valid.
unsafe fn length(timeout: *const timeval) -> Result<Option<u64>> {
    if timeout.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for it.
    let time = unsafe { *timeout };
    if time.tv_sec < 0 || time.tv_usec < 0 {
        return Err(Errno(libc::EINVAL));
    }
    Ok(Some(
        (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add((time.tv_usec as u64).saturating_mul(1_000)),
    ))
}

const WORD_BITS: usize = usize::BITS as usize;

/// The three sets. Applications may make them larger than `fd_set`, so they are read as words.
struct Sets {
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
}

impl Sets {
    /// What is asked of a descriptor, as poll() events.
    ///
    /// # Safety
    /// The sets hold `fd`.
    unsafe fn events(&self, fd: usize) -> i16 {
        let mut events = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            if contains(self.read, fd) {
                events |= libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND;
            }
            if contains(self.write, fd) {
                events |= libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND;
            }
            if contains(self.except, fd) {
                events |= libc::POLLPRI;
            }
        }
        events
    }

    /// # Safety
    /// The sets hold `count` descriptors.
    unsafe fn concern_us(&self, count: c_int) -> bool {
        // SAFETY: passed on to the caller.
        (0..count.max(0)).any(|fd| unsafe { self.events(fd as usize) } != 0 && poll::is_ours(fd))
    }
}

/// # Safety
/// `set` is null or holds `fd`.
unsafe fn contains(set: *const fd_set, fd: usize) -> bool {
    // SAFETY: the caller vouches for the word.
    !set.is_null() && unsafe { *set.cast::<usize>().add(fd / WORD_BITS) } >> (fd % WORD_BITS) & 1 != 0
}

/// # Safety
/// `set` is null or holds `count` descriptors.
unsafe fn clear(set: *mut fd_set, count: usize) {
    if !set.is_null() {
        // SAFETY: the caller vouches for so many words.
        unsafe { core::ptr::write_bytes(set.cast::<usize>(), 0, count.div_ceil(WORD_BITS)) };
    }
}

/// # Safety
/// `set` is null or holds `fd`.
unsafe fn insert(set: *mut fd_set, fd: usize) {
    // SAFETY: the caller vouches for the word.
    unsafe { *set.cast::<usize>().add(fd / WORD_BITS) |= 1 << (fd % WORD_BITS) };
}

/// # Safety
/// The sets hold `count` descriptors; `mask` is null or valid.
unsafe extern "C-unwind" fn wait(count: usize, sets: &Sets, until: Until, mask: *const sigset_t) -> Result<usize> {
    const ON_STACK: usize = 128;
    let mut stack = [pollfd { fd: -1, events: 0, revents: 0 }; ON_STACK];
    // SAFETY: the caller vouches for the sets.
    let wanted = (0..count).filter(|fd| unsafe { sets.events(*fd) } != 0).count();
    let bytes = wanted * size_of::<pollfd>();
    let mapped = wanted > ON_STACK;
    let fds: &mut [pollfd] = if mapped {
        match sys::map_private(bytes) {
            // SAFETY: a fresh mapping of so many bytes, aligned to a page, and zero is a valid record.
            Ok(memory) => unsafe { core::slice::from_raw_parts_mut(memory.cast(), wanted) },
            Err(errno) => return Err(errno),
        }
    } else {
        &mut stack[..wanted]
    };
    let mut places = fds.iter_mut();
    for fd in 0..count {
        // SAFETY: the caller vouches for the sets.
        let events = unsafe { sets.events(fd) };
        if events != 0
            && let Some(place) = places.next()
        {
            *place = pollfd { fd: fd as c_int, events, revents: 0 };
        }
    }
    // SAFETY: passed on to the caller.
    let waited = unsafe { poll::wait(fds, until, mask) };
    let result = match waited {
        // SAFETY: as above.
        Ok(_) => unsafe { tell(count, sets, fds) },
        Err(errno) => Err(errno),
    };
    if mapped {
        // SAFETY: mapped above and not used any more.
        unsafe { sys::unmap(fds.as_mut_ptr().cast(), bytes) };
    }
    result
}

/// Writes the result sets and counts their members.
///
/// # Safety
/// The sets hold `count` descriptors.
unsafe fn tell(count: usize, sets: &Sets, fds: &[pollfd]) -> Result<usize> {
    if fds.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
        return Err(Errno(libc::EBADF));
    }
    let mut members = 0;
    // SAFETY: passed on to the caller.
    unsafe {
        for set in [sets.read, sets.write, sets.except] {
            clear(set, count);
        }
        for entry in fds {
            let asked = |events: i16| entry.events & events != 0;
            let got = |events: i16| entry.revents & events != 0;
            if asked(libc::POLLIN) && got(READ) {
                insert(sets.read, entry.fd as usize);
                members += 1;
            }
            if asked(libc::POLLOUT) && got(WRITE) {
                insert(sets.write, entry.fd as usize);
                members += 1;
            }
            if asked(libc::POLLPRI) && got(EXCEPT) {
                insert(sets.except, entry.fd as usize);
                members += 1;
            }
        }
    }
    Ok(members)
}
