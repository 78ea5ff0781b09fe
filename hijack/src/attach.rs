//! Joining an engine: the session socket, its memory and the descriptors that come with it.
//!
//! A process attaches when it makes its first TCP socket, never before. It can come to know several sessions: when an
//! engine has died, its session's sockets stay (they answer ECONNRESET) while new ones live in a new session. Each
//! session has a [`View`], all of it atomics in static memory, so that a forked child simply goes on with its copy.

use core::ffi::c_int;
use core::mem::{MaybeUninit, size_of};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use persona_channel::attach::{
    ANCHOR_BATCH, Answer, EXECUTABLE, Grant, Hello, LARGEST_MESSAGE, Request, Welcome, reason,
};
use persona_channel::layout::{EPOLL_SETS, SHARDS, WAITABLES};
use persona_channel::memory::{SESSION_SIZE, SessionRef, WaitableId};

use zerocopy::IntoBytes;

use crate::lock::Lock;
use crate::sys::{self, Errno};
use crate::table::{self, Entry};
use crate::{identity, place, report};

/// Sessions that one process can have sockets in.
pub const SESSIONS: usize = 8;
/// Pooled anchors of a process.
pub const POOL: usize = 32;
/// How long an engine may take to answer: long enough for the keeper to restart one.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// What this process knows of one session. Descriptors are stored plus one; 0 means none.
pub struct View {
    memory: AtomicPtr<u8>,
    id: AtomicU64,
    token: [AtomicU64; 2],
    shards: AtomicU32,
    /// 1 once a doorbell or the session socket said that nobody serves the session any more.
    lost: AtomicU32,
    connection: AtomicI32,
    eventfds: [AtomicI32; SHARDS],
    pub(crate) doorbells: [AtomicI32; WAITABLES],
    /// How many of them are known that serve blocked calls.
    bells: AtomicU32,
    /// Anchors nobody has yet: descriptor plus one in the high half, anchor id in the low.
    pub(crate) pool: [AtomicU64; POOL],
}

static VIEWS: [View; SESSIONS] = [const { View::new() }; SESSIONS];
/// The view new sockets go to, plus one.
static CURRENT: AtomicU32 = AtomicU32::new(0);
static SETUP: Lock = Lock::new();

/// Why a process has no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// [`reason`] code.
    pub reason: u32,
    pub errno: Errno,
}

impl Trouble {
    fn gone(errno: Errno) -> Self {
        Trouble { reason: reason::ENGINE_GONE, errno }
    }
}

impl View {
    const fn new() -> Self {
        View {
            memory: AtomicPtr::new(core::ptr::null_mut()),
            id: AtomicU64::new(0),
            token: [const { AtomicU64::new(0) }; 2],
            shards: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            connection: AtomicI32::new(0),
            eventfds: [const { AtomicI32::new(0) }; SHARDS],
            doorbells: [const { AtomicI32::new(0) }; WAITABLES],
            bells: AtomicU32::new(0),
            pool: [const { AtomicU64::new(0) }; POOL],
        }
    }

    /// The session's memory, once there is one.
    pub fn session(&self) -> Option<SessionRef<'static>> {
        // SAFETY: set from a successful mapping of the whole session (or null) and never unmapped: a thread may still
        // be inside a call on one of its sockets.
        unsafe { SessionRef::from_raw(self.memory.load(Ordering::Acquire)) }
    }

    /// Waitables of blocked calls whose doorbell this process has.
    pub fn known_doorbells(&self) -> impl Iterator<Item = WaitableId> {
        let known = self.bells.load(Ordering::Acquire) as usize;
        WaitableId::all()
            .skip(EPOLL_SETS)
            .filter(|id| self.doorbells[id.index()].load(Ordering::Acquire) > 0)
            .take(known)
    }

    fn is_used(&self) -> bool {
        !self.memory.load(Ordering::Acquire).is_null()
    }

    pub fn index(&self) -> u8 {
        VIEWS.iter().position(|view| core::ptr::eq(view, self)).unwrap_or(0) as u8
    }

    pub fn shards(&self) -> u32 {
        self.shards.load(Ordering::Acquire)
    }

    /// True once the engine of this session is gone.
    pub fn is_dead(&self) -> bool {
        self.lost.load(Ordering::Acquire) != 0 || self.session().is_none_or(SessionRef::dead)
    }

    /// Notes that nobody answers for the session any more.
    pub fn lose(&self) {
        self.lost.store(1, Ordering::Release);
    }

    /// Wakes a shard that sleeps.
    pub fn ring(&self, shard: u32) {
        if let Some(cell) = self.eventfds.get(shard as usize) {
            let fd = cell.load(Ordering::Acquire);
            if fd > 0 {
                sys::ring(fd - 1);
            }
        }
    }

    /// Sends a request on the session socket and takes the granted descriptors, moved out of the way of the
    /// application's numbers. The caller holds the set-up lock.
    fn request(&self, request: Request) -> Result<(Grant, Descriptors), Trouble> {
        let connection = self.connection()?;
        let answered = exchange(connection, request.as_bytes()).inspect_err(|_| self.disconnect());
        let (answer, mut descriptors) = answered.map_err(Trouble::gone)?;
        match answer {
            Answer::Grant(grant) => {
                for fd in descriptors.fds.iter_mut().take(descriptors.count) {
                    *fd = place::keep(*fd);
                }
                Ok((grant, descriptors))
            }
            other => {
                descriptors.close();
                // A session that is open is refused nothing but what there is too little of.
                Err(Trouble { reason: reason::NO_MEMORY, ..refusal(other, libc::ENOBUFS) })
            }
        }
    }

    /// The session socket of this process; a forked child makes its own when it first needs one.
    fn connection(&self) -> Result<c_int, Trouble> {
        match self.connection.load(Ordering::Acquire) {
            0 => {
                let fd = dial()?;
                let (_, descriptors) = greet(fd, Some(self.family())).inspect_err(|_| place::drop(fd))?;
                descriptors.close();
                self.connection.store(fd + 1, Ordering::Release);
                Ok(fd)
            }
            fd => Ok(fd - 1),
        }
    }

    /// What a relative needs to join: the session and its token.
    pub fn family(&self) -> (u64, [u64; 2]) {
        (self.id.load(Ordering::Acquire), self.token.each_ref().map(|word| word.load(Ordering::Acquire)))
    }

    fn disconnect(&self) {
        let fd = self.connection.swap(0, Ordering::AcqRel);
        if fd > 0 {
            place::drop(fd - 1);
        }
    }

    /// What a child must not keep: the parent's connection and its pooled anchors, whose ends the engine would
    /// otherwise never see closed.
    fn shed(&self) {
        self.disconnect();
        for cell in &self.pool {
            let anchor = cell.swap(0, Ordering::AcqRel);
            if anchor != 0 {
                place::drop((anchor >> 32) as c_int - 1);
            }
        }
    }
}

/// The session a table entry speaks of.
pub fn view(session: u8) -> &'static View {
    &VIEWS[session as usize % SESSIONS]
}

/// The session for new sockets, attaching if need be.
pub fn current() -> Result<&'static View, Trouble> {
    check_process();
    if let Some(view) = usable() {
        return Ok(view);
    }
    let _guard = SETUP.lock().ok_or(Trouble { reason: reason::ENGINE_GONE, errno: Errno(libc::EAGAIN) })?;
    match usable() {
        Some(view) => Ok(view),
        None => attach(None),
    }
}

/// Joins the session of a family whose sockets this image has inherited.
pub fn join(session: u64, token: [u64; 2]) -> Result<&'static View, Trouble> {
    let _guard = SETUP.lock().ok_or(Trouble { reason: reason::ENGINE_GONE, errno: Errno(libc::EAGAIN) })?;
    attach(Some((session, token)))
}

/// The session for new sockets if there is one already.
pub fn usable() -> Option<&'static View> {
    last().filter(|view| !view.is_dead())
}

/// The session that new sockets went to last, dead or alive.
fn last() -> Option<&'static View> {
    let current = CURRENT.load(Ordering::Acquire);
    VIEWS.get((current as usize).wrapping_sub(1))
}

/// Sets a child up that was forked without our knowing.
#[inline]
pub fn check_process() {
    if identity::is_unmarked_child() {
        in_child();
    }
}

/// Run in every child before it does anything else with our sockets.
pub fn in_child() {
    SETUP.reset();
    crate::wait::Seat::forget_spare();
    crate::relisten::in_child();
    crate::rows::in_child();
    if !identity::is_attached() {
        return;
    }
    for view in &VIEWS {
        if view.is_used() {
            view.shed();
        }
    }
    let _ = identity::mark();
}

/// Makes the child's own connection, and keeps it a place to sleep, while it still may: it could be about to change user or
/// enter a sandbox.
pub fn reconnect() {
    for view in VIEWS.iter().filter(|view| view.is_used()) {
        if view.is_dead() || !table::session_is_held(view.index()) {
            continue;
        }
        if let Some(_guard) = SETUP.lock() {
            let _ = view.connection();
        }
        crate::wait::Seat::reserve(view);
    }
}

/// Fetches a batch of anchors into the view's pool and returns one of them.
pub fn fetch_anchors(view: &View) -> Result<(c_int, u32), Trouble> {
    check_process();
    let _guard = SETUP.lock().ok_or(Trouble { reason: reason::NO_MEMORY, errno: Errno(libc::ENOBUFS) })?;
    let (grant, descriptors) = view.request(Request::anchors(ANCHOR_BATCH as u32))?;
    let mut granted = descriptors.as_slice().iter().copied().zip(grant.ids().iter().copied());
    let first = granted.next().ok_or(Trouble { reason: reason::NO_MEMORY, errno: Errno(libc::EMFILE) })?;
    for (fd, id) in granted {
        crate::anchors::put(view, fd, id);
    }
    Ok(first)
}

/// Fetches the doorbell of a waitable.
pub fn fetch_doorbell(view: &View, waitable: u32) -> Result<c_int, Trouble> {
    check_process();
    let _guard = SETUP.lock().ok_or(Trouble { reason: reason::NO_MEMORY, errno: Errno(libc::ENOBUFS) })?;
    let cell = &view.doorbells[waitable as usize];
    let known = cell.load(Ordering::Acquire);
    if known > 0 {
        return Ok(known - 1);
    }
    let (_, descriptors) = view.request(Request::doorbell(waitable))?;
    let fd =
        *descriptors.as_slice().first().ok_or(Trouble { reason: reason::NO_MEMORY, errno: Errno(libc::EMFILE) })?;
    cell.store(fd + 1, Ordering::Release);
    if waitable as usize >= EPOLL_SETS {
        view.bells.fetch_add(1, Ordering::AcqRel);
    }
    Ok(fd)
}

/// Tells the engine of a socket that stays on the host. Nothing is sent when no session exists.
pub fn send_reason(row: u32, code: u32, text: &[u8]) {
    let Some(view) = usable() else { return };
    let Some(_guard) = SETUP.lock() else { return };
    let Ok(connection) = view.connection() else { return };
    let _ = send(connection, Request::reason(row, code, text).as_bytes());
}

/// Tells the engine that the socket of a row is closed. Only an engine that this process talks to already: close() makes no
/// connection.
pub fn send_gone(row: u32) {
    let Some(view) = usable() else { return };
    let Some(_guard) = SETUP.lock() else { return };
    let connection = view.connection.load(Ordering::Acquire) - 1;
    if connection >= 0 {
        let _ = send(connection, Request::gone(row).as_bytes());
    }
}

/// Moves a descriptor of ours to another number; its old one is about to be replaced.
pub fn relocate(fd: c_int) -> sys::Result<()> {
    let fresh = place::copy(fd)?;
    let old = fd + 1;
    let moved = |cell: &AtomicI32| cell.compare_exchange(old, fresh + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let pooled = |cell: &AtomicU64| {
        let anchor = cell.load(Ordering::Acquire);
        let new = (fresh as u64 + 1) << 32 | anchor & u64::from(u32::MAX);
        (anchor >> 32) as c_int == old
            && cell.compare_exchange(anchor, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let known = VIEWS.iter().any(|view| {
        moved(&view.connection)
            || view.eventfds.iter().any(moved)
            || view.doorbells.iter().any(moved)
            || view.pool.iter().any(pooled)
    }) || crate::epoll::relocate_poke(fd, fresh);
    table::forget(fd, Entry::Internal);
    if !known {
        place::drop(fresh);
    }
    Ok(())
}

fn attach(family: Option<(u64, [u64; 2])>) -> Result<&'static View, Trouble> {
    let no_memory = |errno| Trouble { reason: reason::NO_MEMORY, errno };
    let (index, view) = VIEWS
        .iter()
        .enumerate()
        .find(|(index, view)| !view.is_used() || (view.is_dead() && !table::session_is_held(*index as u8)))
        .ok_or(no_memory(Errno(libc::ENOMEM)))?;
    let connection = dial()?;
    // A new session follows the one whose engine has died: what we might do there we may do here.
    let introduction = family.or_else(|| last().map(|last| (0, last.family().1)));
    let welcomed = greet(connection, introduction).inspect_err(|_| place::drop(connection));
    let (welcome, descriptors) = welcomed?;
    let fds = descriptors.as_slice();
    let give_up = |trouble| {
        place::drop(connection);
        descriptors.close();
        trouble
    };
    let shards = welcome.shards as usize;
    if shards == 0 || shards > SHARDS || fds.len() != shards + 1 {
        return Err(give_up(no_memory(Errno(libc::EMFILE))));
    }
    let memory = sys::map_shared(fds[0], SESSION_SIZE);
    let memory = memory.map_err(|errno| give_up(no_memory(errno)))?;
    identity::mark().map_err(|errno| give_up(no_memory(errno)))?;

    view.shed();
    if view.is_used() {
        // What is kept by the view's number is not the new session's.
        crate::epoll_set::forget_session(index as u8);
        crate::command::forget_session(index as u8);
        crate::options::forget_session(index as u8);
    }
    for cell in &view.doorbells {
        let fd = cell.swap(0, Ordering::AcqRel);
        if fd > 0 {
            place::drop(fd - 1);
        }
    }
    view.bells.store(0, Ordering::Release);
    let _ = sys::close(fds[0]);
    for (cell, fd) in view.eventfds.iter().zip(&fds[1..]) {
        let old = cell.swap(place::keep(*fd) + 1, Ordering::AcqRel);
        if old > 0 {
            place::drop(old - 1);
        }
    }
    view.memory.store(memory, Ordering::Release);
    view.id.store(welcome.session, Ordering::Release);
    view.token[0].store(welcome.token[0], Ordering::Release);
    view.token[1].store(welcome.token[1], Ordering::Release);
    view.shards.store(welcome.shards, Ordering::Release);
    view.connection.store(connection + 1, Ordering::Release);
    view.lost.store(0, Ordering::Release);
    CURRENT.store(index as u32 + 1, Ordering::Release);
    Ok(view)
}

/// Connects to the engine's session socket; the descriptor is one of our internal ones.
fn dial() -> Result<c_int, Trouble> {
    let path = place::session_socket().ok_or(Trouble::gone(Errno(libc::ENAMETOOLONG)))?;
    let fd = sys::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
    let fd = place::keep(fd.map_err(|errno| Trouble { reason: reason::NO_MEMORY, errno })?);
    let timeout = &raw const PATIENCE;
    // SAFETY: both records are as long as said and live across the calls.
    let connected = unsafe {
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            let _ = sys::setsockopt(fd, libc::SOL_SOCKET, option, timeout.cast(), size_of::<libc::timeval>() as u32);
        }
        sys::connect(fd, (&raw const path).cast(), size_of::<libc::sockaddr_un>() as u32)
    };
    connected.map_err(|errno| {
        place::drop(fd);
        report::unreachable(&path, errno);
        Trouble::gone(errno)
    })?;
    place::keep_session_socket(&path);
    Ok(fd)
}

/// Says hello and takes the welcome with its descriptors.
fn greet(connection: c_int, join: Option<(u64, [u64; 2])>) -> Result<(Welcome, Descriptors), Trouble> {
    let (mut name, mut path) = ([0; 64], [0; EXECUTABLE]);
    let hello = Hello::new(identity::claimant(), place::program(&mut name), join);
    let hello = hello.with_executable(place::executable(&mut path));
    let (answer, descriptors) = exchange(connection, hello.as_bytes()).map_err(Trouble::gone)?;
    match answer {
        Answer::Welcome(welcome) => Ok((welcome, descriptors)),
        other => {
            descriptors.close();
            Err(refusal(other, libc::EACCES))
        }
    }
}

/// What an answer that is not the one hoped for means.
fn refusal(answer: Answer, errno: c_int) -> Trouble {
    if let Answer::Refusal(refusal) = answer {
        report::refused(refusal.sentence());
    }
    Trouble { reason: reason::REFUSED, errno: Errno(errno) }
}

/// Descriptors that came with a message.
struct Descriptors {
    fds: [c_int; ANCHOR_BATCH],
    count: usize,
}

impl Descriptors {
    fn as_slice(&self) -> &[c_int] {
        &self.fds[..self.count]
    }

    fn close(&self) {
        for fd in self.as_slice() {
            let _ = sys::close(*fd);
        }
    }
}

/// Sends `question` and receives the answer.
fn exchange(connection: c_int, question: &[u8]) -> sys::Result<(Answer, Descriptors)> {
    send(connection, question)?;
    let mut body = [0; LARGEST_MESSAGE];
    let mut control = [0u64; 16];
    let mut part = libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() };
    // SAFETY: an all-zero message header is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let length = loop {
        // SAFETY: header, part and both buffers live across the call and are as long as said.
        match unsafe { sys::recvmsg(connection, &mut header, libc::MSG_CMSG_CLOEXEC) } {
            Err(Errno(libc::EINTR)) => continue,
            Err(errno) => return Err(errno),
            Ok(length) => break length,
        }
    };
    let descriptors = take_descriptors(&header);
    match Answer::decode(&body[..length]) {
        Some(answer) => Ok((answer, descriptors)),
        None => {
            descriptors.close();
            Err(Errno(if length == 0 { libc::ECONNRESET } else { libc::EPROTO }))
        }
    }
}

fn take_descriptors(header: &libc::msghdr) -> Descriptors {
    let mut taken = Descriptors { fds: [-1; ANCHOR_BATCH], count: 0 };
    // SAFETY: the kernel filled the control buffer of `header`, which the CMSG functions walk.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*control).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for position in 0..bytes / size_of::<c_int>() {
                    let fd = libc::CMSG_DATA(control).cast::<c_int>().add(position).read_unaligned();
                    match taken.fds.get_mut(taken.count) {
                        Some(place) => {
                            *place = fd;
                            taken.count += 1;
                        }
                        None => {
                            let _ = sys::close(fd);
                        }
                    }
                }
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    taken
}

fn send(connection: c_int, bytes: &[u8]) -> sys::Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero message header is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    loop {
        // SAFETY: header and bytes live across the call.
        match unsafe { sys::sendmsg(connection, &header, libc::MSG_NOSIGNAL) } {
            Err(Errno(libc::EINTR)) => continue,
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

/// Marks a descriptor as ours.
pub(crate) fn mark_internal(fd: c_int) {
    table::set(fd, Entry::Internal);
}
