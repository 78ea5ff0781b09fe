//! Programs in a namespace: under Persona or on the host kernel, started in the background or waited for, always with
//! an end: every wait has a bound, and what is still running when its handle drops is killed.

use crate::engine::Engine;
use crate::topology::Topology;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a program runs.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    /// In the engine's namespace, under `persona run`.
    Persona(&'a Engine),
    /// In the engine's namespace, on its host kernel.
    Host,
    /// In the peer's namespace, on the host kernel.
    Peer,
    /// In the namespace between, of a topology that has one.
    Middle,
}

/// A program in the background.
pub struct Running {
    child: Child,
    what: String,
}

/// A program that ended.
pub struct Finished {
    pub status: std::process::ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Topology {
    /// The command that runs `program` at `side`, for tests that need to set more of it.
    pub fn command(&self, side: Side<'_>, program: &[&str]) -> Command {
        let namespace = self.namespace(side);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        if let Side::Persona(engine) = side {
            command.arg(crate::binary("persona")).args(["run", "--name", &engine.name, "--strict", "--"]);
            command.env("PERSONA_RUN_DIR", engine.run_dir());
        }
        command.args(program).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn namespace(&self, side: Side<'_>) -> &str {
        match side {
            Side::Persona(_) | Side::Host => &self.ours,
            Side::Peer => &self.peer,
            Side::Middle => self.middle.as_deref().expect("a topology with a namespace between"),
        }
    }

    /// Starts `program` in the background.
    pub fn spawn(&self, side: Side<'_>, program: &[&str]) -> Result<Running> {
        let child = self.command(side, program).spawn().with_context(|| format!("cannot start {program:?}"))?;
        Ok(Running { child, what: program.join(" ") })
    }

    /// Runs `program` to its end, at most `seconds`, and demands exit status 0.
    pub fn succeed(&self, side: Side<'_>, program: &[&str], seconds: u64) -> Result<Finished> {
        let finished = self.spawn(side, program)?.finish(seconds)?;
        if !finished.status.success() {
            bail!("{program:?}: {}\nstdout: {}\nstderr: {}", finished.status, finished.stdout, finished.stderr);
        }
        Ok(finished)
    }

    /// Moves 5 MB each way at once between a server at `address` and a client; both check every byte.
    pub fn exchange(&self, server: Side<'_>, client: Side<'_>, address: &str, port: u16) -> Result<()> {
        let transfer = crate::binary("transfer").display().to_string();
        let place = format!("{address}:{port}");
        let listening = self.spawn(server, &[&transfer, "listen", "both", "5000000", &place])?;
        self.wait_for_listener(server, port)?;
        self.succeed(client, &[&transfer, "connect", "both", "5000000", &place], 30)?;
        let end = listening.finish(20)?;
        if !end.status.success() {
            bail!("the server at {place}: {}{}", end.stdout, end.stderr);
        }
        Ok(())
    }

    /// Waits until something listens on `port` at `side`.
    pub fn wait_for_listener(&self, side: Side<'_>, port: u16) -> Result<()> {
        if let Side::Persona(engine) = side {
            return engine.wait_for_listener(port);
        }
        let namespace = self.namespace(side);
        let needle = format!(":{port:04X} 00000000:0000 0A");
        for _ in 0..200 {
            if self.run(namespace, &["cat", "/proc/net/tcp"])?.contains(&needle) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        bail!("nothing listens on port {port} of the kernel in {namespace} after 5 s")
    }

    /// Waits until something listens on `port` of the peer's kernel (for servers on the host side).
    pub fn wait_for_peer_listener(&self, port: u16) -> Result<()> {
        self.wait_for_listener(Side::Peer, port)
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal)?;
        Ok(())
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the end, at most `seconds`; then kills and fails.
    pub fn finish(mut self, seconds: u64) -> Result<Finished> {
        let mut stdout = self.child.stdout.take().context("stdout")?;
        let mut stderr = self.child.stderr.take().context("stderr")?;
        let out = std::thread::spawn(move || read_all(&mut stdout));
        let err = std::thread::spawn(move || read_all(&mut stderr));
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                // Its own children may hold the pipes: what they print is not waited for.
                self.end();
                bail!("{} did not end within {seconds} s", self.what);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let join = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
        Ok(Finished { status, stdout: join(out), stderr: join(err) })
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // TERM first: `persona run` passes it on to the program; KILL would orphan it.
            let _ = self.signal(nix::sys::signal::Signal::SIGTERM);
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_all(source: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = source.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
