//! Starting and stopping a keeper: one at a time for each name, in the background or not, and nothing left behind when it
//! fails.

use super::{Charge, Ending, Place, fork, keep};
use crate::config::Config;
use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;
use rustix::process::{PidfdFlags, Signal};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// How long `persona up` waits for packets to flow.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long `persona down` waits; longer than any sensible linger.
const DOWN_WITHIN: Duration = Duration::from_secs(90);

/// Keeps in this process until it is told to stop.
pub fn in_foreground(config: &Config, place: &Place, charge: &dyn Charge) -> Result<()> {
    let lock = Lock::take(place)?;
    let ending = keep(config, place, charge, || {});
    lock.remove_files(place);
    finish(ending?)
}

/// Keeps in a process of its own and returns its number once packets flow. With `tied`, that process ends when the
/// calling one does.
pub fn in_background(config: &Config, place: &Place, charge: &dyn Charge, tied: bool) -> Result<Pid> {
    let lock = Lock::take(place)?;
    let started = start_in_background(&lock, config, place, charge, tied);
    if started.is_err() {
        lock.remove_files(place);
    }
    started
}

fn start_in_background(lock: &Lock, config: &Config, place: &Place, charge: &dyn Charge, tied: bool) -> Result<Pid> {
    let log_file = place.log_file();
    let log = OpenOptions::new().create(true).append(true).mode(0o644).open(&log_file);
    let log = log.with_context(|| format!("cannot write {}", log_file.display()))?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let parent = nix::unistd::getpid();
    let child = fork::copy(|| {
        let mut report = File::from(writer);
        let kept = daemonize(lock, &log, tied.then_some(parent)).and_then(|()| {
            keep(config, place, charge, || {
                // When nobody reads it any more, the engine runs all the same.
                let _ = report.write_all(READY);
            })
        });
        lock.remove_files(place);
        match kept.and_then(finish) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!("{error:#}");
                // As above. After "ready" the reader is gone.
                let _ = report.write_all(format!("{error:#}").as_bytes());
                1
            }
        }
    });
    let child = child.context("cannot start the keeper's process")?;
    wait_until_ready(File::from(reader), child)?;
    Ok(child)
}

/// Ends the keeper of `place` and waits until it is gone.
pub fn stop(place: &Place) -> Result<()> {
    let Some((pid, pidfd)) = running(place)? else {
        bail!("no engine named `{}` is up", place.name());
    };
    rustix::process::pidfd_send_signal(&pidfd, Signal::TERM)
        .with_context(|| format!("cannot stop the keeper, process {pid}: only root and who started it may"))?;
    if !ends_within(&pidfd, DOWN_WITHIN) {
        bail!("the keeper, process {pid}, did not end within {} seconds; its log may say why", DOWN_WITHIN.as_secs());
    }
    Ok(())
}

/// The keeper of `place`, if there is one.
pub fn running(place: &Place) -> Result<Option<(Pid, OwnedFd)>> {
    let path = place.pid_file();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot look at the keeper, process {pid}")),
    };
    // Only a keeper that lives holds the lock; otherwise the number belongs to somebody else by now.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some((Pid::from_raw(pid.as_raw_nonzero().get()), pidfd))),
        _ => Ok(None),
    }
}

/// What the parent reads when packets flow; anything else is the sentence of a failure.
const READY: &[u8] = b"\0";

fn wait_until_ready(mut report: File, child: Pid) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut text = Vec::new();
    loop {
        if !readable_until(&report, deadline) {
            // Its engine and all descriptors go with it.
            let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
            bail!("the engine was not ready within {} seconds", READY_WITHIN.as_secs());
        }
        let mut buffer = [0; 4096];
        match report.read(&mut buffer).context("cannot hear from the keeper")? {
            0 => break,
            len => text.extend_from_slice(&buffer[..len]),
        }
        if text == READY {
            return Ok(());
        }
    }
    // Reaped, so that "nothing left behind" includes the process.
    let _ = nix::sys::wait::waitpid(child, None);
    match text.is_empty() {
        true => bail!("the keeper ended before packets flowed"),
        false => bail!("{}", String::from_utf8_lossy(&text)),
    }
}

fn finish(ending: Ending) -> Result<()> {
    match ending {
        Ending::Stopped => Ok(()),
        Ending::Killed => bail!("the engine did not stop in time and was killed"),
        Ending::NeverReady(sentence) => bail!("{sentence}"),
    }
}

/// Leaves the terminal and the caller's directory, and writes to the log.
fn daemonize(lock: &Lock, log: &File, tied_to: Option<Pid>) -> Result<()> {
    nix::unistd::setsid().context("cannot leave the terminal's session")?;
    std::env::set_current_dir("/").context("cannot go to /")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(log)?;
    rustix::stdio::dup2_stderr(log)?;
    if let Some(parent) = tied_to {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        if nix::unistd::getppid() != parent {
            bail!("the process that started it is gone");
        }
    }
    lock.write_pid()
}

/// The right to be the keeper of a name: a lock on its pid file, which the kernel gives back when the keeper is gone.
struct Lock {
    file: File,
}

impl Lock {
    fn take(place: &Place) -> Result<Lock> {
        let dir = place.dir();
        let path = place.pid_file();
        loop {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).with_context(|| {
                format!("cannot make {}; root can, or set PERSONA_RUN_DIR to a directory of your own", dir.display())
            })?;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
            let file = match file {
                // The former keeper took the directory away just now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("cannot write {}", path.display()))?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let pid = fs::read_to_string(&path).unwrap_or_default();
                    let (name, pid) = (place.name(), pid.trim());
                    bail!(
                        "an engine named `{name}` is up already (keeper {pid}): stop it with `persona down --name {name}`, or give this one another --name"
                    );
                }
                Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
            // The former keeper may have removed the file between our open and our lock: then it is no longer the one
            // that others will find.
            let ours = file.metadata().ok().map(|metadata| metadata.ino());
            if ours.is_some() && ours == fs::metadata(&path).ok().map(|metadata| metadata.ino()) {
                let lock = Lock { file };
                lock.write_pid()?;
                return Ok(lock);
            }
        }
    }

    fn write_pid(&self) -> Result<()> {
        let pid = format!("{}\n", nix::unistd::getpid());
        let written =
            self.file.set_len(0).and_then(|()| rustix::io::pwrite(&self.file, pid.as_bytes(), 0).map_err(Into::into));
        written.map(drop).context("cannot write the keeper's pid file")
    }

    /// Takes the engine's files away, the lock's last; the lock itself goes with the descriptor.
    fn remove_files(&self, place: &Place) {
        for path in [place.session_socket(), place.admin_socket(), place.log_file(), place.pid_file()] {
            // Most of them need not be there.
            let _ = fs::remove_file(path);
        }
        // Stays when somebody put something else there.
        let _ = fs::remove_dir(place.dir());
    }
}

fn readable_until(file: &File, deadline: Instant) -> bool {
    poll_once(PollFd::new(file, PollFlags::IN), deadline)
}

/// Whether the process behind `pidfd` is gone within `span`.
pub fn ends_within(pidfd: &OwnedFd, span: Duration) -> bool {
    poll_once(PollFd::new(pidfd, PollFlags::IN), Instant::now() + span)
}

fn poll_once(fd: PollFd<'_>, deadline: Instant) -> bool {
    let mut fds = [fd];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = rustix::event::Timespec::try_from(left) else { return false };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
