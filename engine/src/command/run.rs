//! `persona run`: a program with the library in it, on an engine that is up or on one of its own.
//!
//! On an engine that is up this process becomes the program. With an engine of its own it stays: it passes signals on,
//! waits, and stops the engine afterwards; its exit status is the program's, a signal's death included.

use super::{library, program, up};
use crate::config::FILE_VARIABLE;
use crate::engine::Engine;
use crate::keeper::place::{NAME_VARIABLE, RUN_DIR_VARIABLE};
use crate::keeper::{Place, start};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub(super) struct Order {
    pub config: Option<PathBuf>,
    pub name: Option<String>,
    pub strict: bool,
    /// At least one word.
    pub command: Vec<OsString>,
}

/// Failure of `persona run` itself, as env(1) has it.
const OWN_FAILURE: u8 = 125;

pub(super) fn run(order: Order) -> ExitCode {
    match try_run(&order) {
        Ok(status) => status,
        Err(error) => {
            super::complain(&error);
            ExitCode::from(OWN_FAILURE)
        }
    }
}

fn try_run(order: &Order) -> Result<ExitCode> {
    let name = &order.command[0];
    let path = match program::resolve(name) {
        Ok(path) => path,
        Err(why) => {
            let words = if why == program::Unrunnable::NotFound { "not found" } else { "cannot be executed" };
            eprintln!("persona: {}: {words}", name.display());
            return Ok(ExitCode::from(why as u8));
        }
    };
    let library = library::find()?;
    admit(&path, order.strict)?;
    let place = Place::of(order.name.as_deref())?;
    if start::running(&place)?.is_some() {
        let mut command = injected(order, &path, &library, &place);
        // Returns only when it fails.
        let error = command.exec();
        return Err(error).with_context(|| format!("cannot run {}", path.display()));
    }
    if order.config.is_none() && std::env::var_os(FILE_VARIABLE).is_none() {
        bail!("no engine named `{}` is up: start one with `{}`, or give --config", place.name(), place.up());
    }
    let place = Place::new(format!("run-{}", std::process::id()), place.run_dir().to_owned())?;
    with_private_engine(order, &path, &library, &place)
}

/// Names a program that the library cannot enter, and refuses it under --strict.
fn admit(path: &Path, strict: bool) -> Result<()> {
    let obstacle = program::obstacle(path).with_context(|| format!("cannot read {}", path.display()))?;
    match obstacle {
        None => Ok(()),
        Some(obstacle) if strict => bail!("{} {}; refused because of --strict", path.display(), obstacle.reason()),
        Some(obstacle) => {
            eprintln!("persona: warning: {} {}: its sockets stay with the host", path.display(), obstacle.reason());
            Ok(())
        }
    }
}

/// The program's command with everything in its environment that the library needs.
fn injected(order: &Order, path: &Path, library: &Path, place: &Place) -> Command {
    let mut command = Command::new(path);
    command.arg0(&order.command[0]).args(&order.command[1..]);
    command.env("LD_PRELOAD", preload(library, std::env::var_os("LD_PRELOAD").as_deref()));
    command.env(NAME_VARIABLE, place.name()).env(RUN_DIR_VARIABLE, place.run_dir());
    if order.strict {
        command.env("PERSONA_STRICT", "1");
    }
    command
}

/// The library before whatever is preloaded already, and not twice.
fn preload(library: &Path, present: Option<&OsStr>) -> OsString {
    let mut value = library.as_os_str().to_owned();
    let Some(present) = present.and_then(OsStr::to_str) else { return value };
    for other in present.split([':', ' ']).filter(|other| !other.is_empty() && Path::new(other) != library) {
        value.push(":");
        value.push(other);
    }
    value
}

fn with_private_engine(order: &Order, path: &Path, library: &Path, place: &Place) -> Result<ExitCode> {
    let loaded = up::load(order.config.as_deref())?;
    up::print_warnings(&loaded);
    up::print_bypassed(&loaded.config);
    up::log_to_stderr(loaded.config.log);
    start::in_background(&loaded.config, place, &Engine, true)?;
    let outcome = supervise(injected(order, path, library, place), path);
    // The program's outcome counts for more than a quarrel over the engine's end.
    if let Err(error) = start::stop(place) {
        super::complain(&error.context("while stopping the private engine"));
    }
    match outcome? {
        WaitStatus::Signaled(_, signal, _) => die_of(signal),
        WaitStatus::Exited(_, status) => Ok(ExitCode::from(status as u8)),
        other => bail!("{} ended with {other:?}", path.display()),
    }
}

/// Signals that go on to the program. Those that a terminal sends reach it by themselves.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Runs the program, passes signals on and returns how it ended.
fn supervise(mut command: Command, path: &Path) -> Result<WaitStatus> {
    let awaited: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
    let mut before = SigSet::empty();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&awaited), Some(&mut before))?;
    // SAFETY: between fork and exec the child makes one async-signal-safe call.
    unsafe {
        command.pre_exec(move || {
            nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(Into::into)
        });
    }
    let child = command.spawn().with_context(|| format!("cannot run {}", path.display()))?;
    let child = Pid::from_raw(child.id() as i32);
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).context("cannot wait for the program")? {
            WaitStatus::StillAlive => {}
            status => return Ok(status),
        }
        let (signal, from_terminal) = wait_for_signal(&awaited)?;
        if signal != Signal::SIGCHLD && !from_terminal {
            // It may have ended meanwhile: the next round sees that.
            let _ = nix::sys::signal::kill(child, signal);
        }
    }
}

/// The next signal, and whether the kernel sent it to the whole foreground group.
fn wait_for_signal(awaited: &SigSet) -> Result<(Signal, bool)> {
    loop {
        // SAFETY: a zeroed siginfo_t is a valid place for the kernel to write to.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live objects of their types.
        let number = unsafe { libc::sigwaitinfo(awaited.as_ref(), &mut info) };
        if number >= 0 {
            return Ok((Signal::try_from(number)?, info.si_code == libc::SI_KERNEL));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for signals");
        }
    }
}

/// Ends as the program did, so that the caller sees the same.
fn die_of(signal: Signal) -> Result<ExitCode> {
    // No core file of ours beside the program's: it would hide that one.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    // SAFETY: the default action installs no handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    nix::sys::signal::raise(signal)?;
    // A signal whose default is not to end a process cannot have ended the program.
    Ok(ExitCode::from(128u8.saturating_add(signal as u8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_preloaded_first_and_once() {
        let library = Path::new("/usr/lib/persona/libpersona.so");
        let with = |present: Option<&str>| preload(library, present.map(OsStr::new)).into_string().unwrap();
        assert_eq!(with(None), "/usr/lib/persona/libpersona.so");
        assert_eq!(with(Some("")), "/usr/lib/persona/libpersona.so");
        assert_eq!(with(Some("/lib/a.so /lib/b.so")), "/usr/lib/persona/libpersona.so:/lib/a.so:/lib/b.so");
        assert_eq!(with(Some("/lib/a.so:/usr/lib/persona/libpersona.so")), "/usr/lib/persona/libpersona.so:/lib/a.so");
    }
}
