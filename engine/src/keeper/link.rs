//! The line between keeper and engine: the engine says that it is ready or why it is not, asks for what needs
//! privilege, and hears when it has to stop.
//!
//! One SOCK_SEQPACKET pair carries JSON messages; requests are answered in order, one at a time. An eventfd says stop, so
//! that the engine can wait for it beside everything else. Both ends lie in the one descriptor table, so neither sees an
//! end of file when the other dies: the keeper learns it from SIGCHLD, the engine dies with its keeper.

use crate::ledger::{Kind, Ledger};
use rustix::event::EventfdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Longest message.
const MESSAGE_MAX: usize = 4096;

/// From the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Packets flow.
    Ready,
    /// The engine ends; the sentence is for the user.
    Failed(String),
    Request(Request),
}

/// What needs privilege after the engine gave up its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A bound kernel socket that keeps the port from being handed out; it appears in the shared descriptor table.
    Reserve(SocketAddr),
    /// Keep this neighbour's entry fresh although the kernel sees no traffic to it.
    ManageNeighbour { interface: u32, address: IpAddr },
}

/// The keeper's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// Number in the shared descriptor table, and the address it is bound to.
    Descriptor(RawFd, SocketAddr),
    /// errno.
    Failed(i32),
}

/// Makes both ends and records them.
pub fn pair(ledger: &Ledger) -> io::Result<(KeeperLink, EngineLink)> {
    let (keeper, engine) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    ledger.record(Kind::Keeper, 0, 0, &keeper, 0)?;
    ledger.record(Kind::EngineLink, 0, 0, &engine, 0)?;
    ledger.record(Kind::EngineLink, 0, 1, &stop, 0)?;
    let stop_for_keeper = stop.try_clone()?;
    ledger.record(Kind::Keeper, 0, 0, &stop_for_keeper, 0)?;
    Ok((KeeperLink { socket: keeper, stop: stop_for_keeper }, EngineLink { socket: Mutex::new(engine), stop }))
}

/// The engine's end. Safe to share between threads; requests wait for each other.
#[derive(Debug)]
pub struct EngineLink {
    socket: Mutex<OwnedFd>,
    stop: OwnedFd,
}

impl EngineLink {
    /// Packets flow: `persona up` returns.
    pub fn ready(&self) -> io::Result<()> {
        self.send(&Message::Ready)
    }

    /// Why the engine could not start or go on, in one sentence.
    pub fn failed(&self, sentence: &str) -> io::Result<()> {
        self.send(&Message::Failed(sentence.chars().take(MESSAGE_MAX / 8).collect()))
    }

    /// Readable once the engine has to stop gracefully. Never to be read.
    pub fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Whether the engine has to stop.
    pub fn must_stop(&self) -> bool {
        let mut polled = [rustix::event::PollFd::new(&self.stop, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Default::default())).is_ok_and(|ready| ready == 1)
    }

    /// Keeps `local`'s port (0: any) from the host. Returns the socket that does, which is not recorded yet, and the
    /// address it is bound to.
    pub fn reserve(&self, local: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
        match self.ask(Request::Reserve(local))? {
            // SAFETY: the keeper opened it in the table that we share, for us, and does not touch it any more.
            Answer::Descriptor(fd, bound) => Ok((unsafe { OwnedFd::from_raw_fd(fd) }, bound)),
            Answer::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Answer::Done => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has the kernel keep a neighbour's entry fresh.
    pub fn manage_neighbour(&self, interface: u32, address: IpAddr) -> io::Result<()> {
        match self.ask(Request::ManageNeighbour { interface, address })? {
            Answer::Done => Ok(()),
            Answer::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Answer::Descriptor(..) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask(&self, request: Request) -> io::Result<Answer> {
        let text = serde_json::to_vec(&Message::Request(request))?;
        let socket = self.socket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        send(&*socket, &text, SendFlags::NOSIGNAL)?;
        receive(&*socket, RecvFlags::empty())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let socket = self.socket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        send(&*socket, &text, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// The keeper's end.
#[derive(Debug)]
pub struct KeeperLink {
    socket: OwnedFd,
    stop: OwnedFd,
}

impl KeeperLink {
    /// The next message that is there, without waiting.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        match receive(&self.socket, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other,
        }
    }

    /// Answers the request that was received last. The engine waits, so there is room.
    pub fn answer(&self, answer: &Answer) -> io::Result<()> {
        send(&self.socket, &serde_json::to_vec(answer)?, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Asks the engine to end gracefully.
    pub fn stop(&self) -> io::Result<()> {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes())?;
        Ok(())
    }

    /// Takes the descriptors of a finished engine's link away, the engine's end included.
    pub fn close(self, ledger: &Ledger) {
        for entry in ledger.of_kind(Kind::EngineLink) {
            // SAFETY: the engine that owned this end is gone.
            ledger.close(unsafe { ledger.adopt(&entry) });
        }
        ledger.close(self.socket);
        ledger.close(self.stop);
    }
}

impl AsFd for KeeperLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive<T: for<'de> Deserialize<'de>>(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<T>> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        match recv(&socket, &mut buffer[..], flags) {
            Ok((0, _)) => return Ok(None),
            Ok((len, _)) => return Ok(Some(serde_json::from_slice(&buffer[..len])?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_requests_and_stop_pass() {
        let ledger = Ledger::create().unwrap();
        let (keeper, engine) = pair(&ledger).unwrap();
        assert_eq!(keeper.receive().unwrap(), None);
        engine.ready().unwrap();
        engine.failed("it is \"so\"").unwrap();
        assert_eq!(keeper.receive().unwrap(), Some(Message::Ready));
        assert_eq!(keeper.receive().unwrap(), Some(Message::Failed("it is \"so\"".into())));

        let local: SocketAddr = "127.0.0.1:80".parse().unwrap();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| engine.reserve(local));
            let request = loop {
                match keeper.receive().unwrap() {
                    Some(message) => break message,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(request, Message::Request(Request::Reserve(local)));
            keeper.answer(&Answer::Failed(libc::EADDRINUSE)).unwrap();
            assert_eq!(asking.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        });

        assert!(!engine.must_stop());
        keeper.stop().unwrap();
        assert!(engine.must_stop());
        assert!(engine.must_stop(), "looking does not take it away");
    }

    #[test]
    fn a_long_sentence_still_arrives() {
        let ledger = Ledger::create().unwrap();
        let (keeper, engine) = pair(&ledger).unwrap();
        engine.failed(&"\u{1}".repeat(100_000)).unwrap();
        assert!(matches!(keeper.receive().unwrap(), Some(Message::Failed(_))));
    }
}
