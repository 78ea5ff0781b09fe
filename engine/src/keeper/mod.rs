//! The keeper: the process that holds what must outlive an engine, starts engines and restarts them. No packet code,
//! one thread.
//!
//! The engine is a clone(CLONE_FILES) child without exec, so both have one descriptor table; the [`Ledger`] says what is
//! in it. When the engine dies, the keeper holds the diversion (segments of live flows are dropped and repeated by their
//! senders), closes what nobody owns any more, and starts a successor that finds the rest. What an engine is, and how a
//! diversion is held, comes from outside ([`Charge`]): tests bring their own.

pub mod fork;
pub mod link;
mod notify;
pub mod place;
mod privileged;
pub mod start;
#[cfg(test)]
mod tests;

pub use link::EngineLink;
pub use place::Place;

use crate::config::Config;
use crate::ledger::{Kind, Ledger};
use anyhow::{Context, Result};
use link::{Answer, KeeperLink, Message};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};
use std::time::{Duration, Instant};

/// What the keeper keeps.
pub trait Charge {
    /// Runs an engine in the calling process until it is told to stop. On an error nothing of it stays behind but what
    /// the ledger names.
    fn run(&self, surroundings: &Surroundings<'_>) -> Result<()>;

    /// No engine runs: drops segments of live flows until `deadline` from now, and lets the host see them later.
    fn hold(&self, ledger: &Ledger, deadline: Duration);

    /// Has the kernel keep a neighbour's entry fresh.
    fn manage_neighbour(&self, interface: u32, address: std::net::IpAddr) -> std::io::Result<()>;
}

/// What an engine finds when it starts.
pub struct Surroundings<'a> {
    pub config: &'a Config,
    pub place: &'a Place,
    pub ledger: &'a Ledger,
    pub link: &'a EngineLink,
    /// Engines that ran before this one under the same keeper: other than 0, the ledger holds what they left.
    pub predecessors: u32,
}

/// An engine that lived shorter than this has not proved that it works.
const PROVED: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Beyond the configured linger, for what is left to do after the connections have ended.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// How the keeper's life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Asked to stop, and the engine ended in order.
    Stopped,
    /// Asked to stop, and the engine had to be killed.
    Killed,
    /// The first engine never became ready; why, in one sentence.
    NeverReady(String),
}

/// Supervises until it is told to stop. `report` is called once, when packets flow for the first time.
///
/// To be called on the only thread of a process, with SIGTERM, SIGINT, SIGHUP and SIGCHLD for itself.
pub fn keep(config: &Config, place: &Place, charge: &dyn Charge, report: impl FnOnce()) -> Result<Ending> {
    let ledger = Ledger::create().context("cannot make the ledger of descriptors")?;
    let signals = block_signals().context("cannot take signals over")?;
    // What is open so far (standard streams, lock, log, signals) is the keeper's.
    for number in crate::ledger::open_descriptors() {
        // SAFETY: borrowed for the call; fcntl tells whether the number is open (the listing's own is closed by now).
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(fd).is_ok() && ledger.get(number).is_none() {
            ledger.record(Kind::Keeper, 0, 0, fd, 0)?;
        }
    }
    let mut keeper = Keeper {
        config,
        place,
        charge,
        ledger,
        signals,
        report: Some(report),
        predecessors: 0,
        stop_by: None,
        killed: false,
        pause: FIRST_PAUSE,
    };
    let ending = keeper.supervise();
    let name_of = |place| config.interfaces.get(usize::try_from(place).ok()?).map(|interface| interface.param.clone());
    // An engine that ended in order took its programs away itself; this is for the others.
    // SAFETY: `supervise` returns when no engine runs.
    unsafe { crate::divert::detach_all(&keeper.ledger, name_of) };
    ending
}

struct Keeper<'a, R> {
    config: &'a Config,
    place: &'a Place,
    charge: &'a dyn Charge,
    ledger: Ledger,
    signals: SignalFd,
    report: Option<R>,
    predecessors: u32,
    /// Set once a stop was asked for: when the engine will be killed.
    stop_by: Option<Instant>,
    killed: bool,
    pause: Duration,
}

/// How one engine ended.
struct Death {
    status: WaitStatus,
    sentence: Option<String>,
}

impl<R: FnOnce()> Keeper<'_, R> {
    fn supervise(&mut self) -> Result<Ending> {
        loop {
            let begin = Instant::now();
            let death = self.one_engine()?;
            let in_order = matches!(death.status, WaitStatus::Exited(_, 0));
            if self.stop_by.is_some() {
                return Ok(if in_order && !self.killed { Ending::Stopped } else { Ending::Killed });
            }
            let sentence = death.sentence.unwrap_or_else(|| describe(death.status));
            if self.report.is_some() {
                return Ok(Ending::NeverReady(sentence));
            }
            self.charge.hold(&self.ledger, self.config.hold);
            // SAFETY: the engine is reaped, and all that the keeper owns is recorded.
            let strays = unsafe { self.ledger.sweep() };
            self.predecessors += 1;
            self.pause = if begin.elapsed() >= PROVED { Duration::ZERO } else { (self.pause * 2).min(LONGEST_PAUSE) };
            tracing::error!("the engine ended: {sentence}; {strays} descriptors closed, restart in {:?}", self.pause);
            notify::notify("STATUS=restarting the engine");
            self.rest();
            self.pause = self.pause.max(FIRST_PAUSE);
            if self.stop_by.is_some() {
                return Ok(Ending::Stopped);
            }
        }
    }

    /// Starts an engine and serves it until it is reaped.
    fn one_engine(&mut self) -> Result<Death> {
        let (link, engine_link) = link::pair(&self.ledger).context("cannot make the link to the engine")?;
        let engine =
            fork::share_files(|| self.become_engine(&engine_link)).context("cannot start the engine's process")?;
        // The engine owns it now: dropping our copy would close the descriptor in the table that we share.
        std::mem::forget(engine_link);
        tracing::debug!("engine {engine} started");
        let mut sentence = None;
        let status = loop {
            self.wait(&link);
            // Messages before the death, since a dying engine's last words are in the socket.
            while let Some(message) = link.receive().unwrap_or_else(|error| {
                tracing::error!("a message of the engine's is unreadable: {error}");
                None
            }) {
                self.on_message(&link, message, &mut sentence);
            }
            self.take_signals(Some(&link));
            if self.stop_by.is_some_and(|deadline| Instant::now() >= deadline) && !self.killed {
                tracing::warn!("the engine did not stop in time and is killed");
                self.killed = true;
                // It can only be gone already, which the next wait shows.
                let _ = nix::sys::signal::kill(engine, Signal::SIGKILL);
            }
            match waitpid(engine, Some(WaitPidFlag::WNOHANG)).context("cannot wait for the engine")? {
                WaitStatus::StillAlive => {}
                status => break status,
            }
        };
        // One that failed while it started has closed what it had recorded: before any of these numbers is used again.
        self.ledger.forget_closed();
        while let Ok(Some(message)) = link.receive() {
            if let Message::Failed(words) = message {
                sentence = Some(words);
            }
        }
        link.close(&self.ledger);
        Ok(Death { status, sentence })
    }

    /// The rest of the child's life.
    fn become_engine(&self, link: &EngineLink) -> i32 {
        if let Err(error) = prepare_engine_process() {
            // No way to tell but this one; the keeper reads the status.
            let _ = link.failed(&format!("cannot prepare the engine's process: {error}"));
            return 1;
        }
        let surroundings = Surroundings {
            config: self.config,
            place: self.place,
            ledger: &self.ledger,
            link,
            predecessors: self.predecessors,
        };
        match self.charge.run(&surroundings) {
            Ok(()) => 0,
            Err(error) => {
                // When even that fails the keeper is gone, and with it whoever would read it.
                let _ = link.failed(&format!("{error:#}"));
                1
            }
        }
    }

    fn on_message(&mut self, link: &KeeperLink, message: Message, sentence: &mut Option<String>) {
        match message {
            Message::Ready => {
                notify::notify("READY=1\nSTATUS=packets flow");
                tracing::info!("engine `{}` is ready", self.place.name());
                if let Some(report) = self.report.take() {
                    report();
                }
            }
            Message::Failed(words) => *sentence = Some(words),
            Message::Request(request) => {
                let answer = privileged::serve(&request, self.charge).unwrap_or_else(|error| {
                    tracing::warn!("{request:?}: {error}");
                    Answer::Failed(error.raw_os_error().unwrap_or(libc::EIO))
                });
                if let Err(error) = link.answer(&answer) {
                    tracing::error!("the engine did not take an answer: {error}");
                }
            }
        }
    }

    /// Sleeps until the engine speaks, a signal comes or the stop's deadline passes.
    fn wait(&self, link: &KeeperLink) {
        let mut fds = [PollFd::new(link, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        poll_until(&mut fds, self.stop_by.filter(|_| !self.killed));
    }

    /// The pause before a restart; a signal to stop ends it.
    fn rest(&mut self) {
        let deadline = Instant::now() + self.pause;
        while self.stop_by.is_none() && Instant::now() < deadline {
            poll_until(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(deadline));
            self.take_signals(None);
        }
    }

    fn take_signals(&mut self, link: Option<&KeeperLink>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 || self.stop_by.is_some() {
                continue;
            }
            notify::notify("STOPPING=1");
            self.stop_by = Some(Instant::now() + self.config.linger + STOP_MARGIN);
            if let Some(Err(error)) = link.map(KeeperLink::stop) {
                tracing::error!("the engine cannot be told to stop: {error}");
            }
        }
    }
}

/// Signals that the keeper reads from a descriptor.
fn keeper_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

fn block_signals() -> Result<SignalFd> {
    let signals = keeper_signals();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Makes the engine's process one that only its keeper ends: a terminal's Ctrl-C reaches the whole group, and the engine
/// has to hear of it from the keeper.
fn prepare_engine_process() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&keeper_signals()), None)?;
    die_with_keeper()
}

/// The engine dies with its keeper, so that the diversion never outlives the process that answers for it. To be called
/// again after a change of user, which the kernel takes as a reason to forget it.
pub fn die_with_keeper() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
    // An interruption is as good a reason to look as any.
    let _ = rustix::event::poll(fds, timeout.as_ref());
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, 0) => "it ended without being asked to".to_owned(),
        WaitStatus::Exited(_, 101) => "it panicked; its log says where".to_owned(),
        WaitStatus::Exited(_, status) => format!("it ended with status {status}"),
        WaitStatus::Signaled(_, signal, _) => format!("it was ended by {signal}"),
        other => format!("{other:?}"),
    }
}
