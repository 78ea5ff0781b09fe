//! Descriptors as such: close, dup and its relatives, fcntl, ioctl, close_range.

use core::ffi::{c_int, c_uint, c_ulong};

use persona_channel::layout::{op, state_bits};

use crate::export::export;
use crate::handle::{Handle, private_flags};
use crate::sys::{self, Errno, Result, answer};
use crate::table::{self, Entry};
use crate::{command, epoll, real, relay, stream_io};

export! {
    fn close(fd: c_int) -> c_int {
        let entry = table::get(fd);
        let listener = listener(fd, entry);
        match entry {
            Entry::Foreign => table::leave_row(fd),
            // Programs that close every number they can think of must not cut us off.
            Entry::Internal => return answer::<()>(Err(Errno(libc::EBADF))),
            entry => release(fd, entry),
        }
        let result = real::close(fd);
        free_address(listener);
        result
    }

    fn dup(fd: c_int) -> c_int {
        let entry = table::get(fd);
        if entry == Entry::Internal {
            return answer::<()>(Err(Errno(libc::EBADF)));
        }
        copied_low(fd, copied(fd, entry, real::dup(fd)))
    }

    fn dup2(from: c_int, to: c_int) -> c_int {
        if from == to {
            return real::dup2(from, to);
        }
        let entry = table::get(from);
        if entry == Entry::Internal {
            return answer::<()>(Err(Errno(libc::EBADF)));
        }
        if let Err(errno) = make_way(to) {
            return answer::<()>(Err(errno));
        }
        ready_for_stdio(from, to);
        let replaced = listener(to, table::get(to));
        let copy = copied(from, entry, real::dup2(from, to));
        free_address(replaced);
        copy
    }

    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
        let entry = table::get(from);
        if entry == Entry::Internal {
            return answer::<()>(Err(Errno(libc::EBADF)));
        }
        if from != to && let Err(errno) = make_way(to) {
            return answer::<()>(Err(errno));
        }
        ready_for_stdio(from, to);
        let replaced = listener(to, table::get(to));
        let copy = copied(from, entry, real::dup3(from, to, flags));
        free_address(replaced);
        copy
    }

    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        let entry = table::get(fd);
        match (entry, command) {
            (Entry::Foreign, _) => copied_by(command, fd, real::fcntl(fd, command, argument)),
            (Entry::Internal, _) => answer::<()>(Err(Errno(libc::EBADF))),
            (_, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                copied_low(fd, copied(fd, entry, real::fcntl(fd, command, argument)))
            }
            (Entry::Socket(_), libc::F_GETFL | libc::F_SETFL) => match Handle::unrelayed(fd) {
                Some(handle) => flags(&handle, command, argument),
                None => real::fcntl(fd, command, argument),
            },
            _ => real::fcntl(fd, command, argument),
        }
    }

    fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
        fcntl(fd, command, argument)
    }

    fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::ioctl(fd, request, argument);
        };
        answer(control(&handle, request, argument))
    }

    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        const CLOEXEC: c_int = libc::CLOSE_RANGE_CLOEXEC as c_int;
        if flags & CLOEXEC != 0 {
            // Ours have close-on-exec anyway.
            return real::close_range(first, last, flags);
        }
        if flags == 0 {
            close_listeners(first, last);
        }
        table::leave_rows(first, last);
        between_ours(first, last, |first, last| real::close_range(first, last, flags))
    }

    fn closefrom(first: c_int) -> () {
        // libc's own would close ours as well.
        close_range(first.max(0) as c_uint, c_uint::MAX, 0);
    }

    fn isfdtype(fd: c_int, kind: c_int) -> c_int {
        // The descriptor is a socket, whoever's.
        real::isfdtype(fd, kind)
    }

    fn sockatmark(fd: c_int) -> c_int {
        match Handle::unrelayed(fd) {
            Some(handle) => c_int::from(is_at_mark(&handle)),
            None => real::sockatmark(fd),
        }
    }
}

/// The socket of a descriptor that listens on an engine that lives.
fn listener(fd: c_int, entry: Entry) -> Option<Handle> {
    let Entry::Socket(id) = entry else { return None };
    Handle::new(fd, id).filter(|handle| handle.has(state_bits::LISTENING) && !handle.is_lost())
}

/// A server that closes its listener and opens it anew (iperf3 does) must find the address free, as on Linux: the engine
/// is made to look before the call that closed it returns. A copy in this process keeps it; where one is left elsewhere the
/// engine finds nothing to do.
fn free_address(listener: Option<Handle>) {
    if let Some(listener) = listener.filter(|listener| !table::is_held(listener.id)) {
        let _ = command::ask(&listener, op::RELEASE, &[], &mut []);
    }
}

/// Closes the listeners among a range of numbers, each as close() does.
unsafe fn close_listeners(first: c_uint, last: c_uint) {
    for (fd, entry) in table::entries().filter(|(fd, _)| (first..=last).contains(&(*fd as c_uint))) {
        if listener(fd, entry).is_some() {
            // SAFETY: a number that the application has asked to be closed.
            unsafe { close(fd) };
        }
    }
}

/// Forgets what a descriptor meant before it is closed: the number may be somebody else's right after.
pub fn release(fd: c_int, entry: Entry) {
    match entry {
        Entry::Foreign => table::leave_row(fd),
        Entry::Epoll(set) => {
            if table::forget(fd, entry) {
                epoll::release(set);
            }
        }
        _ => drop(table::forget(fd, entry)),
    }
}

/// Enters the copy of a descriptor.
fn copied(from: c_int, entry: Entry, copy: c_int) -> c_int {
    if copy < 0 {
        return copy;
    }
    if let Entry::Epoll(set) = entry {
        epoll::retain(set);
    }
    if let Entry::Epoll(set) = table::set(copy, entry) {
        epoll::release(set);
    }
    if entry == Entry::Foreign {
        table::share_row(from, copy);
    }
    copy
}

/// Behind the numbers 0 to 2 lie streams of libc's, which read and write without our knowing: a connection that is put
/// there goes into relay. One that cannot has lost its engine, and its end shows on any road.
fn ready_for_stdio(from: c_int, to: c_int) {
    if (libc::STDIN_FILENO..=libc::STDERR_FILENO).contains(&to) {
        let _ = relay::enter_if_ours(from);
    }
}

/// As [`ready_for_stdio`] for a copy whose number the kernel has chosen, as in `close(0); dup(fd)`.
fn copied_low(from: c_int, copy: c_int) -> c_int {
    ready_for_stdio(from, copy);
    copy
}

/// A foreign descriptor's copy may take a number we have an old entry for.
fn copied_by(command: c_int, from: c_int, result: c_int) -> c_int {
    let copies = matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
    if copies { copied(from, Entry::Foreign, result) } else { result }
}

/// Moves a descriptor of ours away from a number that the application wants.
fn make_way(fd: c_int) -> Result<()> {
    if table::get(fd) != Entry::Internal {
        return Ok(());
    }
    crate::attach::relocate(fd)
}

unsafe fn flags(handle: &Handle, command: c_int, argument: usize) -> c_int {
    const SETTABLE: u32 = (libc::O_NONBLOCK | libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME) as u32;
    if command == libc::F_GETFL {
        return (handle.flags() & !private_flags::ALL) as c_int;
    }
    let wanted = argument as u32 & SETTABLE;
    handle.set_flag(SETTABLE & !wanted, false);
    handle.set_flag(wanted, true);
    0
}

/// ioctl on a socket of ours.
///
/// # Safety
/// `argument` is what `request` demands.
unsafe fn control(handle: &Handle, request: c_ulong, argument: usize) -> Result<c_int> {
    const SIOCATMARK: c_ulong = 0x8905;
    let number = |value: usize| {
        if argument == 0 {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: the request writes one int there.
        unsafe { (argument as *mut c_int).write_unaligned(value.min(c_int::MAX as usize) as c_int) };
        Ok(0)
    };
    match request {
        libc::FIONBIO => {
            if argument == 0 {
                return Err(Errno(libc::EFAULT));
            }
            // SAFETY: the request reads one int there.
            let on = unsafe { (argument as *const c_int).read_unaligned() } != 0;
            handle.set_flag(libc::O_NONBLOCK as u32, on);
            Ok(0)
        }
        libc::FIONREAD | libc::TIOCOUTQ if handle.has(state_bits::LISTENING) => Err(Errno(libc::EINVAL)),
        libc::FIONREAD => number(stream_io::readable_bytes(handle)),
        libc::TIOCOUTQ => number(stream_io::unacknowledged_bytes(handle)),
        SIOCATMARK => number(usize::from(is_at_mark(handle))),
        // Questions about interfaces, routes and neighbours are the host's to answer, through any inet socket.
        0x890b..=0x89ff => {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
            // SAFETY: the application vouches for the argument.
            let result = unsafe { sys::call(libc::SYS_ioctl, [fd as usize, request as usize, argument, 0, 0, 0]) };
            let _ = sys::close(fd);
            result.map(|value| value as c_int)
        }
        // What concerns the descriptor (FIOCLEX, FIOASYNC, FIOSETOWN) is the anchor's; the rest is refused there.
        _ => {
            let arguments = [handle.fd as usize, request as usize, argument, 0, 0, 0];
            // SAFETY: the application vouches for the argument.
            unsafe { sys::call(libc::SYS_ioctl, arguments) }.map(|value| value as c_int)
        }
    }
}

fn is_at_mark(handle: &Handle) -> bool {
    let after = handle.socket.state.urgent.load(core::sync::atomic::Ordering::Acquire);
    after != 0 && handle.socket.receive_reader().position() + 1 == after
}

/// Calls `close` for each stretch of numbers between those that we keep, after forgetting what lies in it.
fn between_ours(first: c_uint, last: c_uint, mut close: impl FnMut(c_uint, c_uint) -> c_int) -> c_int {
    if first > last {
        return answer::<()>(Err(Errno(libc::EINVAL)));
    }
    let mut from = first;
    for (fd, entry) in table::entries().filter(|(fd, _)| (first..=last).contains(&(*fd as c_uint))) {
        let number = fd as c_uint;
        if entry != Entry::Internal {
            release(fd, entry);
            continue;
        }
        if number > from && close(from, number - 1) != 0 {
            return -1;
        }
        from = number + 1;
    }
    if from <= last { close(from, last) } else { 0 }
}
