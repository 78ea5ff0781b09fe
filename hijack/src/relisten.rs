//! Listeners outlive their engine. A listening socket of a dead session is an *orphan*: nothing comes to it, and it is not
//! readable. Whoever waits on it asks the next engine for a listener at the same address and puts that under the
//! same numbers, epoll memberships included. As long as there is no engine the caller looks again from time to time.
//!
//! Every process of a family does so for itself when it wants to accept, in a session of its own. The new listeners have
//! SO_REUSEPORT, so that relatives of one user share the address; getsockopt does not show it unless the application has
//! set it. A program of the same user that sets SO_REUSEPORT itself could share the address as well: it is one that could
//! also do as it likes with the family's processes. A process that only holds the descriptor does
//! nothing: connections would come to it that nobody accepts.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use persona_channel::layout::{op, state_bits};

use crate::address::Address;
use crate::handle::{Handle, private_flags};
use crate::lock::Lock;
use crate::sys::{self, Errno, Result};
use crate::table::{self, Entry};
use crate::{command, descriptors, epoll, options, report, socket};

/// How long after an attempt the next one is made, in nanoseconds.
pub const RETRY: u64 = 500_000_000;
/// What listen() is told where the backlog is not known, in an image that inherited the listener: as many as possible.
const LARGEST_BACKLOG: u32 = u32::MAX >> 1;

/// What relatives need to share an address, and how it is noted that the application did not ask for it.
const LENT: [(c_int, u32); 2] =
    [(libc::SO_REUSEADDR, private_flags::REUSE_ADDRESS_LENT), (libc::SO_REUSEPORT, private_flags::REUSE_PORT_LENT)];

/// Held by the thread that brings a listener back; others of the process go on waiting meanwhile.
static TURN: Lock = Lock::new();

/// In a child: the thread that held the turn does not exist there.
pub fn in_child() {
    TURN.reset();
}

/// True for a listener whose engine is gone.
pub fn is_orphan(handle: &Handle) -> bool {
    handle.view.is_dead() && station(handle).is_some()
}

/// The listener that has taken an orphan's place under its descriptor, made now if this is the time for it. None: it has to
/// wait on, and to be asked for again after [`RETRY`].
pub fn renew(orphan: &Handle) -> Result<Option<Handle>> {
    let Some(_turn) = TURN.try_lock() else { return Ok(None) };
    let now = Handle::of(orphan.fd).ok_or(Errno(libc::EBADF))?;
    if !is_orphan(&now) {
        return Ok(Some(now));
    }
    let next_attempt = options::next_attempt(&now);
    if sys::now() < next_attempt.load(Ordering::Relaxed) {
        return Ok(None);
    }
    match relisten(&now) {
        Ok(()) => Ok(Handle::of(orphan.fd)),
        Err(Errno(errno)) => {
            next_attempt.store(sys::now() + RETRY, Ordering::Relaxed);
            report::note(format_args!("descriptor {} cannot listen again yet: errno {errno}", now.fd));
            Ok(None)
        }
    }
}

/// Address and backlog of a listener of this process.
fn station(handle: &Handle) -> Option<(Address, u32)> {
    options::station(handle).or_else(|| {
        let same_life = handle.socket.generation() == handle.id.generation;
        (same_life && handle.has(state_bits::LISTENING))
            .then(|| (Address::local(handle.socket.address), LARGEST_BACKLOG))
    })
}

fn relisten(orphan: &Handle) -> Result<()> {
    let station = station(orphan).ok_or(Errno(libc::EINVAL))?;
    let fd = socket::open(libc::SOCK_STREAM | libc::SOCK_CLOEXEC).map_err(|trouble| trouble.errno)?;
    let outcome = match Handle::of(fd) {
        Some(fresh) => listen_as(orphan, &fresh, station).and_then(|()| take_place(orphan, &fresh)),
        None => Err(Errno(libc::EBADF)),
    };
    descriptors::release(fd, table::get(fd));
    let _ = sys::close(fd);
    outcome
}

/// Gives a fresh socket what the orphan had: flags, timeouts, options, address.
fn listen_as(orphan: &Handle, fresh: &Handle, (address, backlog): (Address, u32)) -> Result<()> {
    let (from, to) = (orphan.socket.cursor, fresh.socket.cursor);
    to.file_flags.store(orphan.flags(), Ordering::Release);
    for (from, to) in [
        (&from.receive_timeout, &to.receive_timeout),
        (&from.send_timeout, &to.send_timeout),
        (&from.receive_low, &to.receive_low),
    ] {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    options::repeat(orphan, fresh);
    for (name, lent) in LENT {
        if orphan.flags() & lent != 0 || !options::is_remembered_on(orphan, libc::SOL_SOCKET, name) {
            options::set(fresh, libc::SOL_SOCKET, name, &1i32.to_ne_bytes())?;
            fresh.set_flag(lent, true);
        }
    }
    command::ask(fresh, op::BIND, &address.arguments(), &mut [])?;
    socket::listen_ours(fresh, backlog)
}

/// Puts the fresh listener under every number of the orphan.
fn take_place(orphan: &Handle, fresh: &Handle) -> Result<()> {
    for (fd, entry) in table::entries() {
        if entry == Entry::Socket(orphan.id) {
            replace(fd, fresh)?;
        }
    }
    epoll::follow(orphan, fresh);
    Ok(())
}

fn replace(fd: c_int, fresh: &Handle) -> Result<()> {
    let cloexec = sys::fcntl(fd, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
    sys::dup3(fresh.fd, fd, if cloexec { libc::O_CLOEXEC } else { 0 })?;
    table::set(fd, Entry::Socket(fresh.id));
    Ok(())
}
