//! Blocking: a call that has to wait takes a seat (a waitable with its doorbell), subscribes, announces that it
//! sleeps, looks once more and then sleeps in a real system call on the doorbell.
//!
//! The kernel thereby gives EINTR, SA_RESTART, timeouts and cancellation the meaning they have for a socket: without a
//! timeout the sleep is a read(), which a handler with SA_RESTART does not end; with one it is a ppoll(), which every
//! handler ends, as signal(7) says of sockets with SO_RCVTIMEO. The functions on the way into that call have the
//! C-unwind ABI and keep nothing that needs dropping, so that a cancelled thread unwinds through them; the seat it leaves
//! is taken over once its thread is gone.
#![allow(improper_ctypes_definitions)]

use core::ffi::c_int;
use core::ptr::null;
use core::sync::atomic::{AtomicU64, Ordering};

use persona_channel::layout::{EPOLL_SETS, WAITABLES, Waitable, state_bits};
use persona_channel::memory::{SessionRef, WaitableId};
use persona_channel::sync::fence;

use crate::attach::{self, Trouble, View};
use crate::handle::Handle;
use crate::sys::{self, Errno, Result};
use crate::{identity, real};

/// The seat that a forked child keeps for itself, so that it can sleep where it may not ask for one: session plus one in
/// the high half, waitable in the low; 0: none, or taken.
static SPARE: AtomicU64 = AtomicU64::new(0);
/// Waitables that stay for others when children reserve theirs.
const UNRESERVED: usize = EPOLL_SETS + 64;

/// A waitable of a blocked call. Not dropped but given back, see [`leave`](Seat::leave).
#[derive(Clone, Copy)]
pub struct Seat {
    view: &'static View,
    session: SessionRef<'static>,
    id: WaitableId,
    doorbell: c_int,
    /// It is the spare one.
    spare: bool,
}

impl Seat {
    /// In a child: the parent's spare seat is the parent's.
    pub fn forget_spare() {
        SPARE.store(0, Ordering::Release);
    }

    /// Keeps a seat for this process, a fresh child.
    pub fn reserve(view: &'static View) {
        let Some(session) = view.session() else { return };
        if session.free_waitables().count() < UNRESERVED {
            recover(session);
        }
        if session.free_waitables().count() >= UNRESERVED
            && let Ok(seat) = Seat::take(view)
        {
            seat.keep();
        }
    }

    /// Makes it the spare seat, which lives as long as the process.
    fn keep(self) {
        self.line().owner.store(identity::pid(), Ordering::Release);
        let spare = (u64::from(self.view.index()) + 1) << 32 | u64::from(self.id.get());
        SPARE.store(spare, Ordering::Release);
    }

    /// The spare seat, if it is there and of this session.
    fn spare(view: &'static View, session: SessionRef<'static>) -> Option<Seat> {
        let spare = SPARE.load(Ordering::Acquire);
        if spare >> 32 != u64::from(view.index()) + 1 {
            return None;
        }
        let id = WaitableId::new(spare as u32)?;
        let doorbell = view.doorbells[id.index()].load(Ordering::Acquire) - 1;
        let taken = SPARE.compare_exchange(spare, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !taken || doorbell < 0 {
            return None;
        }
        session.waitable(id).clear();
        session.waitable(id).owner.store(identity::tid(), Ordering::Release);
        Some(Seat { view, session, id, doorbell, spare: true })
    }

    pub fn take(view: &'static View) -> core::result::Result<Seat, Trouble> {
        let full = Trouble { reason: persona_channel::attach::reason::NO_MEMORY, errno: Errno(libc::ENOBUFS) };
        let session = view.session().ok_or(full)?;
        if let Some(seat) = Seat::spare(view, session) {
            return Ok(seat);
        }
        let me = identity::tid();
        let known = view.known_doorbells().find(|id| session.free_waitables().claim_one(id.get()));
        if let Some(id) = known {
            // Where the bell hangs already nothing has to be asked.
            session.waitable(id).clear();
            session.waitable(id).owner.store(me, Ordering::Release);
        }
        let id = known.or_else(|| session.claim_waitable(me)).or_else(|| {
            recover(session);
            session.claim_waitable(me)
        });
        let id = id.ok_or(full)?;
        match doorbell(view, id) {
            Ok(doorbell) => Ok(Seat { view, session, id, doorbell, spare: false }),
            Err(trouble) => {
                session.release_waitable(id);
                Err(trouble)
            }
        }
    }

    pub fn waitable(&self) -> WaitableId {
        self.id
    }

    fn line(&self) -> &'static Waitable {
        self.session.waitable(self.id)
    }

    pub fn doorbell(&self) -> c_int {
        self.doorbell
    }

    /// Says that this thread is about to sleep; look at what is waited for afterwards. A seat serves one thread, which
    /// looks at its sockets and not at the list of ready ones.
    pub fn announce(&self) {
        self.line().sleeping.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the doorbell's bytes after somebody else's poll found it readable. End of file: nobody rings any more.
    pub fn drain(&self) {
        // Nobody else reads this doorbell, so the byte is still there.
        if sys::read(self.doorbell) == Ok(0) {
            self.view.lose();
        }
    }

    /// Sleeps whatever signals come, for the answers of the engine that are never long in coming.
    pub fn sleep_uninterrupted(&self) {
        let mut fds = libc::pollfd { fd: self.doorbell, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, no timeout, no mask.
        let ready = unsafe { sys::call(libc::SYS_ppoll, [&raw mut fds as usize, 1, 0, 0, 8, 0]) };
        if ready.is_ok() {
            self.drain();
        }
    }

    /// Gives the seat back. Subscriptions were undone before.
    pub fn leave(self) {
        self.line().sleeping.store(0, Ordering::Relaxed);
        if self.spare {
            self.keep();
        } else {
            self.session.release_waitable(self.id);
        }
    }
}

/// The doorbell of a waitable, fetched from the engine when this process has not seen it yet.
pub fn doorbell(view: &View, id: WaitableId) -> core::result::Result<c_int, Trouble> {
    match view.doorbells[id.index()].load(Ordering::Acquire) {
        0 => attach::fetch_doorbell(view, id.get()),
        fd => Ok(fd - 1),
    }
}

/// Gives back the seats of threads that died in them.
fn recover(session: SessionRef<'static>) {
    for id in WaitableId::all().take(WAITABLES).skip(EPOLL_SETS) {
        let owner = &session.waitable(id).owner;
        let tid = owner.load(Ordering::Acquire);
        let dead = tid != 0 && !sys::is_alive(tid);
        if dead && owner.compare_exchange(tid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            session.free_waitables().free(id.get());
        }
    }
}

/// What a blocked call waits for.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// Bytes after this offset of the receive stream, or its end.
    Input { beyond: u64 },
    /// Space to send, or the end of sending.
    Output,
    /// The outcome of connect().
    Connection,
    /// An entry of the accept rings.
    Arrival,
}

impl Want {
    fn is_met(self, handle: &Handle) -> bool {
        let state = handle.socket.state;
        let bits = handle.bits();
        // A socket in relay or without engine is somebody else's business: the call looks again and finds out.
        if bits & (state_bits::ENDED | state_bits::RELAY | state_bits::ERROR) != 0 || handle.is_lost() {
            return true;
        }
        match self {
            Want::Input { beyond } => {
                bits & state_bits::RCV_CLOSED != 0 || state.rcv_end.load(Ordering::Acquire) > beyond
            }
            Want::Output => bits & state_bits::SND_CLOSED != 0 || handle.socket.send_writer().want_space(),
            Want::Connection => bits & state_bits::CONNECTED != 0 || bits & state_bits::CONNECTING == 0,
            Want::Arrival => bits & state_bits::LISTENING == 0 || handle.rings().any(|ring| ring.ready()),
        }
    }
}

/// The moment a timeout in milliseconds from now is over; 0 means never.
pub fn deadline(milliseconds: u32) -> Option<u64> {
    (milliseconds != 0).then(|| sys::now() + u64::from(milliseconds) * 1_000_000)
}

/// Blocks until `want` may be met. Ok: look again. EINTR: a signal handler ran. EAGAIN: the deadline is over.
pub extern "C-unwind" fn block(handle: &Handle, want: Want, deadline: Option<u64>) -> Result<()> {
    if crate::spin::until(&|| want.is_met(handle)) {
        return Ok(());
    }
    let seat = match Seat::take(handle.view) {
        Ok(seat) => seat,
        Err(_) if handle.is_lost() => return Ok(()),
        Err(_) => return nap(deadline, CROWDED),
    };
    handle.socket.wait.subscribe(seat.id);
    let outcome = loop {
        seat.announce();
        if want.is_met(handle) {
            break Ok(());
        }
        let outcome = sleep(&seat, deadline);
        if outcome.is_err() || want.is_met(handle) {
            break outcome;
        }
    };
    handle.socket.wait.unsubscribe(seat.id);
    seat.leave();
    outcome
}

extern "C-unwind" fn sleep(seat: &Seat, deadline: Option<u64>) -> Result<()> {
    match deadline {
        None => {
            let mut bytes = [0u8; 64];
            // SAFETY: the buffer is as long as said.
            let received = unsafe { real::read(seat.doorbell, bytes.as_mut_ptr().cast(), bytes.len()) };
            match received {
                0 => seat.view.lose(),
                -1 => return Err(Errno(sys::errno())),
                _ => {}
            }
        }
        Some(deadline) => {
            let mut fds = libc::pollfd { fd: seat.doorbell, events: libc::POLLIN, revents: 0 };
            let left = remaining(deadline).ok_or(Errno(libc::EAGAIN))?;
            // SAFETY: one pollfd and one timespec, both alive across the call.
            match unsafe { real::ppoll(&mut fds, 1, &left, null()) } {
                0 => return Err(Errno(libc::EAGAIN)),
                -1 => return Err(Errno(sys::errno())),
                _ => seat.drain(),
            }
        }
    }
    Ok(())
}

/// Time until the deadline, None once it is over.
pub fn remaining(deadline: u64) -> Option<libc::timespec> {
    let left = deadline.checked_sub(sys::now()).filter(|left| *left > 0)?;
    Some(libc::timespec { tv_sec: (left / 1_000_000_000) as _, tv_nsec: (left % 1_000_000_000) as _ })
}

/// Nanoseconds between two looks when every seat of the session is taken, which means that hundreds of its threads are
/// blocked.
const CROWDED: u64 = 1_000_000;

/// A sleep of at most `longest` nanoseconds, before another look at what nobody will announce.
pub extern "C-unwind" fn nap(deadline: Option<u64>, longest: u64) -> Result<()> {
    let longest = sys::now() + longest;
    let end = deadline.map_or(longest, |deadline| deadline.min(longest));
    let time = match remaining(end) {
        Some(time) => time,
        None if deadline == Some(end) => return Err(Errno(libc::EAGAIN)),
        None => return Ok(()),
    };
    // SAFETY: no descriptors, one timespec.
    match unsafe { real::ppoll(core::ptr::null_mut(), 0, &time, null()) } {
        -1 => Err(Errno(sys::errno())),
        _ => Ok(()),
    }
}
