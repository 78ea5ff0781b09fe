//! Processes and sessions: who may attach, what they get, and what remains when they are gone.
//!
//! Nothing here waits for a process: a message that cannot be sent at once ends its connection.

use super::{Control, Entry, Token};
use crate::ledger::{Kind, MAY_BIND_RESERVED};
use crate::message::ShardMessage;
use crate::session::{Peer, Session, SessionOptions};
use crate::{clock, config};
use persona_channel::attach::{
    ANCHOR_BATCH, Grant, Hello, LARGEST_MESSAGE, ROWS, Refusal, Request, Welcome, kind, reason,
};
use persona_channel::layout::{SHARDS, session_flags};
use persona_channel::memory::Slot;
use persona_channel::stream::MAX_BUFFER;
use rustix::event::epoll;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

/// Anchors that one process may have in its pool.
const POOL: usize = 64;
/// Sessions of an engine.
const SESSIONS: usize = 4_096;
/// Messages taken from one process in one go.
const MESSAGES: usize = 32;

/// One attached process.
pub struct Process {
    socket: OwnedFd,
    pub pid: u32,
    /// What the process calls itself in the session's memory, which in another PID namespace is another number.
    own_pid: u32,
    pub uid: u32,
    gids: Vec<u32>,
    /// `None` until the hello.
    pub session: Option<u32>,
    pub program: String,
    anchors: Vec<u32>,
    /// Sockets of this process that the host serves, by row: reason, and what they were for.
    pub reasons: Vec<Option<(u32, String)>>,
}

fn refusal(sentence: std::fmt::Arguments<'_>) -> Option<Box<Refusal>> {
    Some(Box::new(Refusal::new(sentence)))
}

/// What to do with a process after a message: on an error it is refused with the sentence, if there is one, and goes.
type Verdict = Result<(), Option<Box<Refusal>>>;

impl Control<'_> {
    /// A process has connected.
    pub(crate) fn greet(&mut self, socket: OwnedFd) {
        let Ok(credentials) = rustix::net::sockopt::socket_peercred(&socket) else { return };
        let uid = credentials.uid.as_raw();
        let mut gids = supplementary_groups(&socket);
        gids.push(credentials.gid.as_raw());
        let serial = self.serial();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if let Err(error) = epoll::add(&self.epoll, &socket, Token::Process(serial).data(), flags) {
            tracing::error!("a process cannot be watched: {error}");
            return;
        }
        let pid = credentials.pid.as_raw_nonzero().get() as u32;
        self.processes.insert(
            serial,
            Process {
                socket,
                pid,
                own_pid: pid,
                uid,
                gids,
                session: None,
                program: String::new(),
                anchors: Vec::new(),
                reasons: Vec::new(),
            },
        );
    }

    /// A process has sent something, or is gone.
    pub(crate) fn hear_process(&mut self, serial: u32) {
        for _ in 0..MESSAGES {
            let Some(process) = self.processes.get(&serial) else { return };
            let mut buffer = [0u8; LARGEST_MESSAGE];
            match rustix::net::recv(&process.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return self.part(serial),
                Ok((length, _)) => {
                    if let Err(refusal) = self.answer(serial, &buffer[..length]) {
                        if let Some(refusal) = refusal {
                            self.refuse(serial, &refusal);
                        }
                        return self.part(serial);
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                Err(_) => return self.part(serial),
            }
        }
    }

    fn answer(&mut self, serial: u32, message: &[u8]) -> Verdict {
        let Some(process) = self.processes.get(&serial) else { return Err(None) };
        if process.session.is_none() {
            let hello = Hello::read(message).map_err(|refusal| Some(Box::new(refusal)))?;
            return self.attach(serial, &hello);
        }
        let Some(request) = Request::decode(message) else {
            return Err(refusal(format_args!("the engine does not know this request: update the engine")));
        };
        match request.kind {
            kind::ANCHORS => self.grant_anchors(serial, request.value),
            kind::DOORBELL => self.grant_doorbell(serial, request.value),
            kind::REASON => {
                let row = request.row as usize;
                if let Some(process) = self.processes.get_mut(&serial).filter(|_| row < ROWS) {
                    if process.reasons.len() <= row {
                        process.reasons.resize(row + 1, None);
                    }
                    process.reasons[row] = Some((request.value, request.text().to_owned()));
                }
                Ok(())
            }
            kind::GONE => {
                let process = self.processes.get_mut(&serial);
                if let Some(row) = process.and_then(|process| process.reasons.get_mut(request.value as usize)) {
                    *row = None;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn attach(&mut self, serial: u32, hello: &Hello) -> Verdict {
        let Some(process) = self.processes.get_mut(&serial) else { return Err(None) };
        process.program = hello.program().to_owned();
        process.own_pid = hello.pid;
        let index = if hello.session == 0 { self.open_session(serial, hello)? } else { self.join(hello)? };
        let Some(entry) = self.entry(index) else { return Err(None) };
        entry.processes += 1;
        let session = Arc::clone(&entry.session);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.session = Some(index);
        }
        // Sessions are counted from 1 towards processes, where 0 asks for a new one.
        let welcome = Welcome::new(self.links.shards() as u32, u64::from(index) + 1, session.token);
        let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(session.descriptor()).chain(session.events()).collect();
        self.send(serial, welcome.as_bytes(), &descriptors)
    }

    fn open_session(&mut self, serial: u32, hello: &Hello) -> Result<u32, Option<Box<Refusal>>> {
        let Some(process) = self.processes.get(&serial) else { return Err(None) };
        // Who was here before the last engine died is here again, as whatever user it has become.
        let now = clock::seconds();
        let estate = self.estates.iter().find(|estate| estate.is_claimed_by(hello.token, now));
        if estate.is_none() && !self.config.access.allows(process.uid, &process.gids) {
            return Err(refusal(format_args!(
                "user {} may not use this engine: add it to `access` in the engine's configuration",
                process.uid
            )));
        }
        let free = self.sessions.iter().position(Option::is_none).unwrap_or(self.sessions.len());
        if free >= SESSIONS {
            return Err(refusal(format_args!(
                "the engine has {SESSIONS} sessions, the most it can: end some programs"
            )));
        }
        let mut token = [0u8; 16];
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| refusal(format_args!("the engine gets no random numbers: {error}")))?;
        let token = [0, 8].map(|at| u64::from_ne_bytes(token[at..at + 8].try_into().unwrap_or_default()));
        let sockets = self.tunables.options();
        let bytes = |buffer: Option<u32>| buffer.map_or(MAX_BUFFER, |bytes| bytes.min(MAX_BUFFER));
        let policy = config::policy(&self.config.rules, hello.program(), hello.executable());
        let options = SessionOptions {
            shards: self.links.shards(),
            send_buffer: bytes(sockets.send_buffer),
            receive_buffer: bytes(sockets.receive_buffer),
            flags: if self.config.strict { session_flags::STRICT } else { 0 },
            policy: policy.iter().flat_map(|rule| rule.encode()).collect(),
        };
        let peer = Peer {
            pid: process.pid,
            uid: process.uid,
            gid: process.gids.last().copied().unwrap_or(u32::MAX),
            may_bind_reserved: process.uid == 0
                || may_bind_reserved(process.pid)
                || estate.is_some_and(|estate| estate.may_bind_reserved),
            program: hello.program().to_owned(),
        };
        let place = free as u64 | if peer.may_bind_reserved { MAY_BIND_RESERVED } else { 0 };
        let session = Session::new(free as u32, token, peer, &options).map_err(|error| match error.downcast_ref() {
            Some(&rustix::io::Errno::MFILE | &rustix::io::Errno::NFILE) => {
                refusal(format_args!("{}", super::OUT_OF_DESCRIPTORS))
            }
            _ => refusal(format_args!("the engine cannot make a session: {error:#}")),
        })?;
        if let Err(error) = self.ledger.record(Kind::SessionMemory, place, token[0], session.descriptor(), token[1]) {
            return Err(refusal(format_args!("the engine cannot record the session: {error}")));
        }
        let session = Arc::new(session);
        if free == self.sessions.len() {
            self.sessions.push(None);
        }
        self.sessions[free] =
            Some(Entry { session: Arc::clone(&session), processes: 0, draining: 0, forgetting: 0, listeners: 0 });
        for shard in 0..self.links.shards() {
            self.links.send(shard, ShardMessage::Open(Arc::clone(&session)));
        }
        Ok(free as u32)
    }

    /// The token is the right: who has it is of the family, and goes on with its sockets as any user, as on Linux.
    fn join(&mut self, hello: &Hello) -> Result<u32, Option<Box<Refusal>>> {
        let index = u32::try_from(hello.session - 1).ok();
        index
            .filter(|&index| {
                self.entry(index).is_some_and(|entry| entry.session.token == hello.token && entry.forgetting == 0)
            })
            .ok_or_else(|| refusal(format_args!("the session has ended: attach as a new one")))
    }

    fn grant_anchors(&mut self, serial: u32, count: u32) -> Verdict {
        let Some(process) = self.processes.get_mut(&serial) else { return Err(None) };
        let Some(session) = process.session.and_then(|index| self.sessions.get(index as usize)?.as_ref()) else {
            return Err(None);
        };
        let session = Arc::clone(&session.session);
        process.anchors.retain(|&id| session.anchors.is_pooled(id, serial));
        if process.anchors.len() + ANCHOR_BATCH > POOL {
            process.anchors.iter().for_each(|&id| session.anchors.reap_lost(id, serial));
            process.anchors.retain(|&id| session.anchors.is_pooled(id, serial));
        }
        let room = POOL.saturating_sub(process.anchors.len()).min(ANCHOR_BATCH);
        let mut granted = Vec::new();
        let mut shortage = None;
        for _ in 0..room.min(count as usize) {
            match session.anchors.grant(serial) {
                Ok(anchor) => granted.push(anchor),
                Err(error) => {
                    shortage = Some(error);
                    break;
                }
            }
        }
        process.anchors.extend(granted.iter().map(|anchor| anchor.id));
        if granted.is_empty() {
            let refusal = match shortage {
                Some(error) => Refusal::new(format_args!(
                    "the engine has no descriptor for a socket ({error}): raise its RLIMIT_NOFILE or close sockets"
                )),
                None => Refusal::new(format_args!("a process may have {POOL} sockets in reserve, and this one has")),
            };
            // The process goes on: it has no socket this time.
            return self.send(serial, refusal.as_bytes(), &[]);
        }
        let ids: Vec<u32> = granted.iter().map(|anchor| anchor.id).collect();
        let descriptors: Vec<BorrowedFd<'_>> = granted.iter().map(|anchor| anchor.application.as_fd()).collect();
        self.send(serial, Grant::new(&ids).as_bytes(), &descriptors)
    }

    fn grant_doorbell(&mut self, serial: u32, waitable: u32) -> Verdict {
        let Some(index) = self.processes.get(&serial).and_then(|process| process.session) else { return Err(None) };
        let Some(entry) = self.entry(index) else { return Err(None) };
        let session = Arc::clone(&entry.session);
        match session.doorbells.application_end(waitable) {
            Ok(end) => {
                if let Some(engine) = session.doorbells.engine_end(waitable)
                    && let Err(error) = self.ledger.record(Kind::Doorbell, index.into(), waitable.into(), engine, 0)
                {
                    tracing::warn!("a doorbell cannot be recorded for a successor: {error}");
                }
                self.send(serial, Grant::new(&[waitable]).as_bytes(), &[end])
            }
            Err(error) => {
                let refusal = Refusal::new(format_args!("the engine has no doorbell for waitable {waitable}: {error}"));
                self.send(serial, refusal.as_bytes(), &[])
            }
        }
    }

    fn refuse(&mut self, serial: u32, refusal: &Refusal) {
        if let Some(process) = self.processes.get(&serial) {
            tracing::info!("process {} is refused: {}", process.pid, refusal.sentence());
        }
        let _ = self.send(serial, refusal.as_bytes(), &[]);
    }

    /// Sends one message at once, or ends the process's connection.
    fn send(&mut self, serial: u32, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Verdict {
        const MOST: usize = if ANCHOR_BATCH > SHARDS + 1 { ANCHOR_BATCH } else { SHARDS + 1 };
        let Some(process) = self.processes.get(&serial) else { return Err(None) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(None);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&process.socket, &[IoSlice::new(message)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(_) => Err(None),
        }
    }

    /// A process is gone (or has lost the right to stay).
    fn part(&mut self, serial: u32) {
        let Some(process) = self.processes.remove(&serial) else { return };
        let Some(index) = process.session else { return };
        let ticket = self.ticket();
        let shards = self.links.shards();
        let Some(entry) = self.entry(index) else { return };
        for &anchor in &process.anchors {
            entry.session.anchors.reap(anchor, serial);
        }
        entry.processes -= 1;
        entry.draining += shards as u32;
        let last = entry.processes == 0;
        for shard in 0..shards {
            self.links.send(shard, ShardMessage::Drain { session: index, ticket, process: process.own_pid, last });
        }
        self.departed.insert(ticket, super::Departed { process: process.own_pid, shards: shards as u32 });
    }

    /// A shard has done what a gone process had queued.
    pub(crate) fn drained(&mut self, index: u32, ticket: u32) {
        let Some(departed) = self.departed.get_mut(&ticket) else { return };
        departed.shards -= 1;
        let done = departed.shards == 0;
        let Some(entry) = self.entry(index) else { return };
        entry.draining -= 1;
        if !done {
            return;
        }
        let Some(departed) = self.departed.remove(&ticket) else { return };
        if let Some(entry) = self.entry(index) {
            free_unbound(&entry.session, departed.process);
        }
        self.end_if_unused(index);
    }

    /// Ends a session that has neither processes nor sockets.
    pub(crate) fn end_if_unused(&mut self, index: u32) {
        let shards = self.links.shards();
        let Some(entry) = self.entry(index) else { return };
        if entry.processes > 0 || entry.draining > 0 || entry.forgetting > 0 || entry.session.live() > 0 {
            return;
        }
        entry.forgetting = shards as u32;
        entry.session.view().set_dead();
        for shard in 0..shards {
            self.links.send(shard, ShardMessage::Forget { session: index });
        }
    }

    /// A shard has forgotten a session.
    pub(crate) fn forgotten(&mut self, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        entry.forgetting -= 1;
        if entry.forgetting > 0 {
            return;
        }
        let Some(entry) = self.sessions.get_mut(index as usize).and_then(Option::take) else { return };
        for holder in self.ports.holders_of(index) {
            self.give_up_port(holder);
        }
        self.ledger.forget(entry.session.descriptor().as_raw_fd());
        for end in entry.session.doorbells.engine_ends() {
            self.ledger.forget(end.as_raw_fd());
        }
    }
}

/// Slots that a gone process had claimed and never bound to an anchor are free again.
fn free_unbound(session: &Session, process: u32) {
    let view = session.view();
    for slot in Slot::all() {
        if view.free_sockets().is_free(slot.get()) || session.home(slot).is_some() {
            continue;
        }
        let claimant = view.socket(slot).cursor.claimant.load(Ordering::Relaxed);
        if claimant == process && session.settle(slot, 0) {
            session.unsettle(slot, 0);
        }
    }
}

/// Whether the process has CAP_NET_BIND_SERVICE effective, in our user namespace.
fn may_bind_reserved(pid: u32) -> bool {
    const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    // Capabilities of another user namespace say nothing here. Its map can be read by anybody, its link cannot.
    let map = |who: &str| std::fs::read_to_string(format!("/proc/{who}/uid_map")).ok();
    effective & CAP_NET_BIND_SERVICE != 0 && map("self").is_some_and(|ours| map(&pid.to_string()) == Some(ours))
}

/// Supplementary groups of the peer (SO_PEERGROUPS).
fn supplementary_groups(socket: &OwnedFd) -> Vec<u32> {
    const SO_PEERGROUPS: i32 = 59;
    let mut groups = vec![0u32; 1_024];
    let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the buffer holds `length` bytes, and the kernel writes at most as many.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Vec::new();
    }
    groups.truncate(length as usize / size_of::<u32>());
    groups
}

/// A reason code in words.
pub fn reason_text(code: u32) -> &'static str {
    match code {
        reason::FAMILY => "address family is not accelerated",
        reason::TYPE => "socket type is not accelerated",
        reason::POLICY => "a rule of the configuration leaves it to the host",
        reason::LOOPBACK => "loopback",
        reason::ENGINE_GONE => "no engine was there",
        reason::NO_MEMORY => "session memory or descriptors were used up",
        reason::REFUSED => "the engine refused the process",
        reason::INHERITED => "the descriptor was made before the library was there",
        _ => "unknown reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_gone_process_come_back_and_those_of_others_stay() {
        let session = crate::session::tests::session(1);
        let view = session.view();
        let claim = |pid| {
            let slot = Slot::new(view.free_sockets().claim().unwrap()).unwrap();
            view.socket(slot).cursor.claimant.store(pid, Ordering::Relaxed);
            slot
        };
        let (gone, living, bound) = (claim(11), claim(12), claim(11));
        assert!(session.settle(bound, 0));
        free_unbound(&session, 11);
        assert!(view.free_sockets().is_free(gone.get()));
        assert!(!view.free_sockets().is_free(living.get()) && !view.free_sockets().is_free(bound.get()));
        free_unbound(&session, 12);
        assert!(view.free_sockets().is_free(living.get()) && !view.free_sockets().is_free(bound.get()));
    }

    #[test]
    fn capabilities_are_read_from_the_process() {
        let ours = rustix::thread::capabilities(None).unwrap().effective;
        let expected = ours.contains(rustix::thread::CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(may_bind_reserved(std::process::id()), expected);
        assert!(!may_bind_reserved(u32::MAX));
    }
}
