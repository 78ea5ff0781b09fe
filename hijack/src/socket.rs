//! Making sockets and naming them: socket, bind, listen, shutdown, getsockname, getpeername.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use libc::{sockaddr, socklen_t};
use persona_channel::attach::reason;
use persona_channel::layout::{op, state_bits};
use persona_channel::memory::SocketRef;
use persona_channel::policy::Side;

use crate::address::Address;
use crate::attach::{self, Trouble, View};
use crate::export::export;
use crate::handle::{Handle, private_flags};
use crate::rows::Row;
use crate::sys::{self, Errno, Result, answer};
use crate::table::{self, Entry, SocketId};
use crate::{anchors, command, host, identity, options, real, report};

export! {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        match accelerable(domain, kind, protocol) {
            Ok(()) => match open(kind) {
                Ok(fd) => fd,
                // Descriptors are used up: the host could not do better.
                Err(trouble) if matches!(trouble.errno, Errno(libc::EMFILE | libc::ENFILE)) => {
                    answer::<c_int>(Err(trouble.errno))
                }
                Err(trouble) => on_host(domain, kind, protocol, trouble.reason),
            },
            Err(code) => on_host(domain, kind, protocol, code),
        }
    }

    fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::bind(fd, address, length);
        };
        match bind_ours(&handle, address, length) {
            Ok(Where::Engine) => 0,
            Ok(Where::Host) => real::bind(fd, address, length),
            Err(errno) => answer::<()>(Err(errno)),
        }
    }

    fn listen(fd: c_int, backlog: c_int) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::listen(fd, backlog);
        };
        // Negative means "as many as possible", as the kernel's unsigned comparison has it.
        let backlog = if backlog < 0 { u32::MAX >> 1 } else { backlog as u32 };
        answer(listen_ours(&handle, backlog))
    }

    fn shutdown(fd: c_int, how: c_int) -> c_int {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::shutdown(fd, how);
        };
        if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
            return answer::<()>(Err(Errno(libc::EINVAL)));
        }
        answer(shutdown_ours(&handle, how))
    }

    fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::getsockname(fd, address, length);
        };
        if address.is_null() || length.is_null() {
            return answer::<()>(Err(Errno(libc::EFAULT)));
        }
        local_address(&handle).write(address, length);
        0
    }

    fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::getpeername(fd, address, length);
        };
        if address.is_null() || length.is_null() {
            return answer::<()>(Err(Errno(libc::EFAULT)));
        }
        let bits = handle.bits();
        if bits & state_bits::CONNECTED == 0 || bits & state_bits::ENDED != 0 {
            return answer::<()>(Err(Errno(libc::ENOTCONN)));
        }
        Address::remote(handle.socket.address).write(address, length);
        0
    }
}

/// Whether a socket of this kind could be ours, or the reason why not.
fn accelerable(domain: c_int, kind: c_int, protocol: c_int) -> core::result::Result<(), u32> {
    if domain != libc::AF_INET {
        return Err(reason::FAMILY);
    }
    if kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != libc::SOCK_STREAM {
        return Err(reason::TYPE);
    }
    if protocol == 0 || protocol == libc::IPPROTO_TCP { Ok(()) } else { Err(reason::TYPE) }
}

/// A socket of the host's kernel, with the reason noted; under PERSONA_STRICT a TCP socket is refused instead. Other
/// kinds (AF_UNIX, UDP for the resolver) are never the engine's to take.
unsafe fn on_host(domain: c_int, kind: c_int, protocol: c_int, code: u32) -> c_int {
    let is_tcp = matches!(domain, libc::AF_INET | libc::AF_INET6) && kind & 0xf == libc::SOCK_STREAM;
    if is_tcp && matches!(code, reason::FAMILY | reason::TYPE) {
        // A server that has nothing but such a socket is just who wants to know why, and the engine's own `strict` is
        // read from the session. Without an engine there is nobody to tell.
        let _ = attach::current();
    }
    if is_tcp && report::is_strict() {
        return answer::<c_int>(Err(Errno(match code {
            reason::NO_MEMORY => libc::ENOBUFS,
            reason::ENGINE_GONE => libc::ENETDOWN,
            reason::REFUSED => libc::EACCES,
            _ => libc::EPROTONOSUPPORT,
        })));
    }
    // SAFETY: integers only.
    let fd = unsafe { real::socket(domain, kind, protocol) };
    if fd >= 0 {
        table::set(fd, Entry::Foreign);
        if matches!(domain, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX) {
            let row = Row::claim();
            table::enter_row(fd, row.as_ref());
            report::on_host(fd, code, None, row.as_ref());
        }
    }
    fd
}

/// Makes a socket of ours.
pub fn open(kind: c_int) -> core::result::Result<c_int, Trouble> {
    let view = attach::current()?;
    let no_memory = Trouble { reason: reason::NO_MEMORY, errno: Errno(libc::ENOBUFS) };
    let session = view.session().ok_or(no_memory)?;
    let socket = session.claim_slot(identity::claimant()).ok_or(no_memory)?;
    begin(&socket, kind);
    let anchored = anchors::hand_out(view, kind & libc::SOCK_CLOEXEC != 0);
    // The engine has not heard of the slot yet, so it goes back as it came.
    let anchored = anchored.inspect_err(|_| session.free_sockets().free(socket.slot.get()))?;
    match enter(view, &socket, anchored.fd, anchored.id) {
        Ok(handle) => {
            options::forget(&handle);
            Ok(anchored.fd)
        }
        Err(errno) => {
            let _ = sys::close(anchored.fd);
            Err(Trouble { reason: reason::ENGINE_GONE, errno })
        }
    }
}

/// Sets the family's part of a socket's lines for a new descriptor.
pub fn begin(socket: &SocketRef, kind: c_int) {
    let flags = if kind & libc::SOCK_NONBLOCK != 0 { libc::O_NONBLOCK } else { 0 };
    let cursor = socket.cursor;
    cursor.claimant.store(identity::claimant(), Ordering::Relaxed);
    cursor.file_flags.store((libc::O_RDWR | flags) as u32, Ordering::Relaxed);
    let kind = libc::AF_INET as u32 | (libc::SOCK_STREAM as u32) << 8 | (libc::IPPROTO_TCP as u32) << 16;
    cursor.kind.store(kind, Ordering::Relaxed);
    for word in [
        &cursor.own_send,
        &cursor.own_receive,
        &cursor.own_control,
        &cursor.want_space,
        &cursor.receive_timeout,
        &cursor.send_timeout,
        &cursor.receive_low,
    ] {
        word.store(0, Ordering::Relaxed);
    }
}

/// Joins a slot with its anchor and enters the descriptor.
pub fn enter(view: &'static View, socket: &SocketRef, fd: c_int, anchor: u32) -> Result<Handle> {
    let generation = socket.state.generation.load(Ordering::Acquire);
    let id = SocketId { session: view.index(), slot: socket.slot.get(), generation };
    let handle = Handle::new(fd, id).ok_or(Errno(libc::ENOBUFS))?;
    command::post(&handle, op::BIND_ANCHOR, &[u64::from(anchor)])?;
    table::set(fd, Entry::Socket(id));
    Ok(handle)
}

/// Listens, and remembers where, in case the listener has to come back in another engine.
pub fn listen_ours(handle: &Handle, backlog: u32) -> Result<()> {
    command::ask(handle, op::LISTEN, &[u64::from(backlog)], &mut [])?;
    options::remember_station(handle, Address::local(handle.socket.address), backlog);
    Ok(())
}

fn shutdown_ours(handle: &Handle, how: c_int) -> Result<()> {
    let bits = handle.bits();
    if bits & (state_bits::CONNECTED | state_bits::CONNECTING | state_bits::LISTENING) == 0 {
        return Err(Errno(libc::ENOTCONN));
    }
    if bits & state_bits::LISTENING != 0 {
        if how == libc::SHUT_WR {
            // Nothing is written there.
            return Ok(());
        }
        options::forget_station(handle);
    }
    let ask = || command::ask(handle, op::SHUTDOWN, &[how as u64], &mut []).map(drop);
    if bits & state_bits::CONNECTED != 0 || bits & state_bits::CONNECTING == 0 {
        return ask();
    }
    // The attempt is given up. Whoever waits for it is woken by the engine and has to find the reason by then.
    let error = &handle.socket.state.error;
    let _ = error.compare_exchange(0, libc::ECONNRESET, Ordering::AcqRel, Ordering::Relaxed);
    let asked = ask();
    if asked.is_err() || handle.has(state_bits::CONNECTED) {
        // It has just succeeded, and this was the shutdown of a connection.
        let _ = error.compare_exchange(libc::ECONNRESET, 0, Ordering::AcqRel, Ordering::Relaxed);
    } else {
        handle.set_flag(private_flags::DISCONNECTED, true);
        handle.set_flag(private_flags::CONNECT_PENDING, false);
    }
    asked
}

/// What getsockname() says: a failed attempt to connect leaves the port and, unless bind() named it, no address.
fn local_address(handle: &Handle) -> Address {
    let mut local = Address::local(handle.socket.address);
    if handle.is_disconnected() && handle.flags() & private_flags::ADDRESS_BOUND == 0 {
        local.octets = Address::ANY.octets;
    }
    local
}

/// Where a call is to be made.
pub enum Where {
    Engine,
    /// The descriptor is a socket of the host now.
    Host,
}

unsafe fn bind_ours(handle: &Handle, address: *const sockaddr, length: socklen_t) -> Result<Where> {
    // SAFETY: the application vouches for `length` bytes.
    let address = unsafe { Address::read(address, length) }?;
    match host::decide(handle, Side::Local, &address) {
        Some(code) => {
            host::swap(handle, code, &address)?;
            Ok(Where::Host)
        }
        None => {
            command::ask(handle, op::BIND, &address.arguments(), &mut [])?;
            handle.set_flag(private_flags::ADDRESS_BOUND, address.octets != Address::ANY.octets);
            Ok(Where::Engine)
        }
    }
}
