//! An engine in a topology's namespace: `persona up` before the test, `persona down` after it.

use crate::topology::{INTERFACE, OUR_ADDRESS, Topology};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A running engine with a run directory of its own; brought down when dropped.
pub struct Engine {
    pub name: String,
    namespace: String,
    directory: tempfile::TempDir,
}

/// A configuration of one interface.
pub fn one(kind: &str, topology: &Topology) -> Value {
    json!({ "interfaces": [interface(kind, topology)] })
}

/// The configuration of one xdp or packet interface at the usual address.
pub fn interface(kind: &str, topology: &Topology) -> Value {
    json!({
        "type": kind,
        "param": INTERFACE,
        "ip": OUR_ADDRESS,
        "masklen": 24,
        "mtu": topology.link.mtu,
        "address": if topology.link.shared { "shared" } else { "own" },
    })
}

impl Engine {
    /// `persona up` with one interface of `kind` ("xdp", "packet").
    pub fn start(topology: &Topology, kind: &str) -> Result<Self> {
        Self::start_with(topology, &json!({ "interfaces": [interface(kind, topology)] }))
    }

    pub fn start_with(topology: &Topology, config: &Value) -> Result<Self> {
        Self::start_as(topology, "test", &config.to_string())
    }

    /// Under a name of the test's choice.
    pub fn start_named(topology: &Topology, kind: &str, name: &str) -> Result<Self> {
        Self::start_as(topology, name, &json!({ "interfaces": [interface(kind, topology)] }).to_string())
    }

    /// On a configuration file as it is.
    pub fn start_file(topology: &Topology, file: &Path) -> Result<Self> {
        Self::start_text(topology, &std::fs::read_to_string(file)?)
    }

    /// On the text of a configuration file.
    pub fn start_text(topology: &Topology, text: &str) -> Result<Self> {
        Self::start_as(topology, "test", text)
    }

    fn start_as(topology: &Topology, name: &str, config: &str) -> Result<Self> {
        let engine = Self {
            name: name.into(),
            namespace: topology.ours.clone(),
            directory: tempfile::Builder::new().prefix("persona-test-").tempdir().context("temporary directory")?,
        };
        // Programs of ordinary users reach the session socket through this directory.
        std::fs::set_permissions(engine.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let file = engine.directory.path().join("config.json");
        std::fs::write(&file, config)?;
        let output =
            engine.persona(&["up", "--name", &engine.name, "--config", file.to_str().context("path")?]).output()?;
        if !output.status.success() {
            bail!("persona up: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(engine)
    }

    pub fn run_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The `persona` command in the engine's namespace.
    pub fn persona(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(crate::binary("persona")).args(arguments);
        command.env("PERSONA_RUN_DIR", self.directory.path());
        command
    }

    /// Standard output of a `persona` subcommand that takes `--name`, parsed as JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.persona(arguments).args(["--name", &self.name, "--json"]).output()?;
        if !output.status.success() {
            bail!("persona {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// PID of the keeper.
    pub fn keeper(&self) -> Result<i32> {
        let path = self.directory.path().join(&self.name).join("keeper.pid");
        Ok(std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?.trim().parse()?)
    }

    /// PID of the engine process: the keeper's only child.
    pub fn engine_pid(&self) -> Result<i32> {
        let keeper = self.keeper()?;
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))?;
        children.split_whitespace().next().context("the keeper has no engine")?.parse().context("pid")
    }

    /// What the descriptors of the table that keeper and engine share lead to, kind by kind.
    pub fn descriptors(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.keeper().unwrap())).unwrap() {
            // One that the engine closes this moment cannot be read any more.
            let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            *kinds.entry(target.split(":[").next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        kinds
    }

    /// What a Python program under Persona prints; its errors too.
    pub fn told(&self, topology: &Topology, program: &str) -> String {
        let running = topology.spawn(crate::Side::Persona(self), &["python3", "-c", program]).unwrap();
        let finished = running.finish(60).unwrap();
        finished.stdout + &finished.stderr
    }

    /// Waits until a program under Persona listens on `port`.
    pub fn wait_for_listener(&self, port: u16) -> Result<()> {
        for _ in 0..200 {
            let sockets = self.json(&["sockets"])?.to_string();
            if sockets.contains("LISTEN") && sockets.contains(&format!(":{port}\"")) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        bail!("nothing listens on port {port} of the engine after 5 s: {}", self.json(&["sockets"])?)
    }

    /// `persona down`, demanding success.
    pub fn down(&self) -> Result<()> {
        let output = self.persona(&["down", "--name", &self.name]).output()?;
        if !output.status.success() {
            bail!("persona down: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.directory.path().join(&self.name).join("log");
            if let Ok(text) = std::fs::read_to_string(log) {
                let tail: Vec<_> = text.lines().rev().take(40).collect();
                eprintln!("the engine's log, last lines first:\n{}", tail.join("\n"));
            }
        }
        let keeper = self.keeper().ok();
        let _ = self.persona(&["down", "--name", &self.name]).output();
        // A keeper that did not go by itself would hold the namespace's devices.
        if let Some(pid) = keeper {
            let pid = nix::unistd::Pid::from_raw(pid);
            for _ in 0..50 {
                if nix::sys::signal::kill(pid, None).is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}
