//! An sshd and its client with keys of the test's own, without PAM and without the machine's configuration.

use crate::process::{Running, Side};
use crate::topology::Topology;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Keys of a host and of a user, removed when dropped.
pub struct Ssh {
    directory: tempfile::TempDir,
}

impl Ssh {
    pub fn new() -> Result<Self> {
        let ssh = Self { directory: tempfile::Builder::new().prefix("persona-ssh-").tempdir()? };
        for key in ["host", "user"] {
            let output = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &ssh.path(key)])
                .output()
                .context("cannot run ssh-keygen")?;
            if !output.status.success() {
                bail!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        std::fs::copy(ssh.path("user.pub"), ssh.path("authorized"))?;
        // The place that it separates its privileges in, which the package leaves to the system's start.
        std::fs::create_dir_all("/run/sshd").context("/run/sshd")?;
        Ok(ssh)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Starts sshd at `side` and waits until it listens.
    pub fn serve(&self, topology: &Topology, side: Side<'_>, address: &str, port: u16) -> Result<Running> {
        let options = [
            format!("ListenAddress={address}:{port}"),
            format!("HostKey={}", self.path("host")),
            format!("AuthorizedKeysFile={}", self.path("authorized")),
            format!("PidFile={}", self.path("sshd.pid")),
            "StrictModes=no".into(),
            "UsePAM=no".into(),
        ];
        let mut program = vec!["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null"];
        for option in &options {
            program.extend(["-o", option]);
        }
        let server = topology.spawn(side, &program)?;
        if let Err(error) = topology.wait_for_listener(side, port) {
            let said = server.finish(0).map_or_else(|error| error.to_string(), |end| end.stderr);
            return Err(error.context(said));
        }
        Ok(server)
    }

    /// The words of a client that has `command` run by the sshd at `address`, as root.
    pub fn client(&self, address: &str, port: u16, command: &str) -> [String; 14] {
        [
            "ssh",
            "-F",
            "/dev/null",
            "-p",
            &port.to_string(),
            "-i",
            &self.path("user"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            &format!("UserKnownHostsFile={}", self.path("known")),
            "-oBatchMode=yes",
            &format!("root@{address}"),
            command,
        ]
        .map(str::to_owned)
    }
}
