//! `persona up` that may fail: its sentence, and what it leaves behind; also on a kernel that lacks something.

use crate::Topology;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// `persona up` in the engine's namespace, through `wrapper`, with a run directory of its own.
pub struct Attempt {
    pub directory: tempfile::TempDir,
    pub output: Output,
    namespace: String,
}

impl Attempt {
    pub fn new(topology: &Topology, wrapper: &[&str], config: &Value) -> Self {
        Self::with(topology, wrapper, config, |command| command.output().unwrap())
    }

    fn with(
        topology: &Topology,
        wrapper: &[&str],
        config: &Value,
        finish: impl FnOnce(&mut Command) -> Output,
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("persona-errors-").tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &topology.ours]).args(wrapper).arg(crate::binary("persona"));
        command.args(["up", "--config"]).arg(&file).env("PERSONA_RUN_DIR", directory.path().join("run"));
        Self { output: finish(&mut command), directory, namespace: topology.ours.clone() }
    }

    /// The same on a kernel that answers a system call (with this first argument) as one does that has not got it.
    pub fn on_kernel_without(lack: &Lack, topology: &Topology, config: &Value) -> Self {
        Self::with(topology, &[], config, |command| {
            let filter = lack.filter();
            // SAFETY: one system call on memory that the closure owns.
            unsafe { command.pre_exec(move || install(&filter)).output() }.unwrap()
        })
    }

    pub fn words(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The one sentence of a refusal that left nothing behind.
    pub fn refused(&self) -> String {
        let words = self.words();
        assert_eq!(self.output.status.code(), Some(1), "{words}");
        assert!(words.starts_with("persona: ") && words.lines().count() == 1, "{words}");
        assert!(!self.directory.path().join("run/default").exists(), "files of the engine are still there: {words}");
        words
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.output.status.success() {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.namespace]).arg(crate::binary("persona")).arg("down");
            let _ = command.env("PERSONA_RUN_DIR", self.directory.path().join("run")).output();
        }
    }
}

/// A system call that this kernel knows and an older one does not.
pub struct Lack {
    pub call: i64,
    pub first_argument: Option<u32>,
    pub errno: i32,
}

impl Lack {
    fn filter(&self) -> Vec<libc::sock_filter> {
        const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
        let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let argument: Vec<_> = self
            .first_argument
            .into_iter()
            .flat_map(|argument| {
                [step(LOAD, 0, std::mem::offset_of!(libc::seccomp_data, args) as u32), step(EQUAL, 1, argument)]
            })
            .collect();
        let mut filter = vec![
            step(LOAD, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
            step(EQUAL, argument.len() as u8 + 1, self.call as u32),
        ];
        filter.extend(argument);
        filter.push(step(ANSWER, 0, libc::SECCOMP_RET_ERRNO | self.errno as u32));
        filter.push(step(ANSWER, 0, libc::SECCOMP_RET_ALLOW));
        filter
    }
}

fn install(filter: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program lives across the call and is as long as said.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
