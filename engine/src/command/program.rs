//! Whether the library can enter a program: the dynamic linker has to load it, and has to heed LD_PRELOAD.
//!
//! Told from the file alone, before it runs: the ELF header and program headers, the mode bits and file capabilities.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the library cannot enter a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// No PT_INTERP: no dynamic linker runs.
    Static,
    /// Go's runtime makes its own system calls.
    Go,
    /// Runs as another user or group: the dynamic linker ignores LD_PRELOAD.
    Setuid,
    /// Carries file capabilities, with the same effect.
    Capabilities,
    /// Of another word size or machine than the library.
    Foreign,
}

impl Obstacle {
    /// Completes the sentence "PROGRAM ...".
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Obstacle::Static => "is statically linked, so the library cannot enter it",
            Obstacle::Go => "is a Go program, which makes its system calls without the C library",
            Obstacle::Setuid => "runs as another user or group (setuid), so the dynamic linker ignores the library",
            Obstacle::Capabilities => "carries file capabilities, so the dynamic linker ignores the library",
            Obstacle::Foreign => "is built for another machine than the library",
        }
    }
}

/// Why a program cannot be run at all; the numbers are env(1)'s exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unrunnable {
    NotExecutable = 126,
    NotFound = 127,
}

/// Where `command` is, looked up in PATH as execvp does.
pub(super) fn resolve(command: &OsStr) -> Result<PathBuf, Unrunnable> {
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return if is_executable(&path) {
            Ok(path)
        } else if path.exists() {
            Err(Unrunnable::NotExecutable)
        } else {
            Err(Unrunnable::NotFound)
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut refused = Unrunnable::NotFound;
    for dir in std::env::split_paths(&path) {
        let candidate = dir.join(command);
        if is_executable(&candidate) {
            return Ok(candidate);
        }
        if candidate.is_file() {
            refused = Unrunnable::NotExecutable;
        }
    }
    Err(refused)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Interpreters that a script's script may have; the kernel follows no more than four.
const SCRIPT_DEPTH: usize = 4;

/// What keeps the library out of the program at `path`, if anything. A script is its interpreter.
pub(super) fn obstacle(path: &Path) -> std::io::Result<Option<Obstacle>> {
    let mut path = path.to_owned();
    for _ in 0..=SCRIPT_DEPTH {
        let file = File::open(&path)?;
        let mut head = [0; 256];
        let len = read_up_to(&file, &mut head)?;
        match interpreter(&head[..len]) {
            // Mode bits of a script mean nothing to Linux.
            Some(interpreter) => path = interpreter,
            None => {
                return Ok(privileged(&path)?.or(Elf::read(&file, &head[..len])?.and_then(|elf| elf.obstacle())));
            }
        }
    }
    Ok(None)
}

/// The interpreter of a script that begins with `#!`.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let word = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    // `#!/usr/bin/env python3` runs env, which runs what PATH says: that inherits LD_PRELOAD like any child.
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// What makes the kernel set AT_SECURE for this user.
fn privileged(path: &Path) -> std::io::Result<Option<Obstacle>> {
    let metadata = fs::metadata(path)?;
    let mode = metadata.permissions().mode();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let other_user = mode & libc::S_ISUID != 0 && metadata.uid() != uid;
    // Without group execution the bit once meant mandatory locking, not setgid.
    let other_group = mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 && metadata.gid() != gid;
    if other_user || other_group {
        return Ok(Some(Obstacle::Setuid));
    }
    let mut value = [0; 64];
    let has_capabilities = rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|len| len > 0);
    // Root gains nothing by them.
    Ok((has_capabilities && uid != 0).then_some(Obstacle::Capabilities))
}

/// What matters of an ELF executable.
struct Elf {
    native: bool,
    has_interpreter: bool,
    is_go: bool,
}

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// Notes longer than this are not looked at.
const NOTE_MAX: usize = 4096;

impl Elf {
    /// `None` when it is no ELF file: the kernel will say what it thinks of it.
    fn read(file: &File, head: &[u8]) -> std::io::Result<Option<Elf>> {
        if head.len() < 64 || !head.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let class = if cfg!(target_pointer_width = "64") { 2 } else { 1 };
        let data = if cfg!(target_endian = "little") { 1 } else { 2 };
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        if head[4] != class || head[5] != data || half(18) != MACHINE {
            return Ok(Some(Elf { native: false, has_interpreter: true, is_go: false }));
        }
        let mut elf = Elf { native: true, has_interpreter: false, is_go: false };
        let offset = u64::from_ne_bytes(*head[32..].first_chunk().expect("the header has 64 bytes"));
        let (size, count) = (usize::from(half(54)), half(56));
        let mut header = [0; 56];
        for index in 0..u64::from(count) {
            let at = offset.saturating_add(index * size as u64);
            if size < header.len() || file.read_exact_at(&mut header, at).is_err() {
                break;
            }
            let long = |at: usize| u64::from_ne_bytes(*header[at..].first_chunk().expect("the header has 56 bytes"));
            match u32::from_ne_bytes(*header.first_chunk().expect("the header has 56 bytes")) {
                PT_INTERP => elf.has_interpreter = true,
                PT_NOTE => {
                    let mut note = vec![0; usize::try_from(long(32)).unwrap_or(NOTE_MAX).min(NOTE_MAX)];
                    elf.is_go |= file.read_exact_at(&mut note, long(8)).is_ok() && names_go(&note);
                }
                _ => {}
            }
        }
        Ok(Some(elf))
    }

    fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Elf { native: false, .. } => Some(Obstacle::Foreign),
            Elf { is_go: true, .. } => Some(Obstacle::Go),
            Elf { has_interpreter: false, .. } => Some(Obstacle::Static),
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Whether a note segment has one by "Go" (its build id): name size 4, name "Go\0\0".
fn names_go(notes: &[u8]) -> bool {
    notes.windows(16).step_by(4).any(|note| note[..4] == 4u32.to_ne_bytes() && note[12..16] == *b"Go\0\0")
}

fn read_up_to(mut file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..])? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn compile(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
        let source = dir.join("main.c");
        fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let out = dir.join(name);
        let status = Command::new("cc").args(flags).arg("-o").arg(&out).arg(&source).status().expect("cc runs");
        assert!(status.success());
        out
    }

    #[test]
    fn dynamic_programs_can_be_entered_and_static_ones_not() {
        let dir = tempfile::tempdir().unwrap();
        let dynamic = compile(dir.path(), "dynamic", &[]);
        assert_eq!(obstacle(&dynamic).unwrap(), None);
        let static_one = compile(dir.path(), "static", &["-static"]);
        assert_eq!(obstacle(&static_one).unwrap(), Some(Obstacle::Static));
        let static_pie = compile(dir.path(), "static-pie", &["-static-pie"]);
        assert_eq!(obstacle(&static_pie).unwrap(), Some(Obstacle::Static));
    }

    #[test]
    fn a_script_is_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let static_one = compile(dir.path(), "static", &["-static"]);
        let script = dir.path().join("script");
        fs::write(&script, format!("#! {} -x\nwhatever\n", static_one.display())).unwrap();
        assert_eq!(obstacle(&script).unwrap(), Some(Obstacle::Static));
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(obstacle(&script).unwrap(), None);
        fs::write(&script, format!("#!{}\n", script.display())).unwrap();
        assert_eq!(obstacle(&script).unwrap(), None, "a script that runs itself ends");
    }

    #[test]
    fn setuid_counts_when_the_owner_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(dir.path(), "program", &[]);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(obstacle(&program).unwrap(), None, "it is our own");
        std::os::unix::fs::chown(&program, Some(65_534), None).expect("the test runs as root");
        // chown takes the bit away.
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(obstacle(&program).unwrap(), Some(Obstacle::Setuid));
    }

    #[test]
    fn another_machine_s_program_and_no_program_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(dir.path(), "program", &[]);
        let mut bytes = fs::read(&program).unwrap();
        bytes[18..20].copy_from_slice(&243u16.to_ne_bytes());
        fs::write(&program, &bytes).unwrap();
        assert_eq!(obstacle(&program).unwrap(), Some(Obstacle::Foreign));
        fs::write(&program, "text").unwrap();
        assert_eq!(obstacle(&program).unwrap(), None);
        fs::write(&program, &bytes[..40]).unwrap();
        assert_eq!(obstacle(&program).unwrap(), None);
    }

    #[test]
    fn a_note_by_go_is_recognised() {
        let mut note = Vec::new();
        note.extend_from_slice(&4u32.to_ne_bytes());
        note.extend_from_slice(&8u32.to_ne_bytes());
        note.extend_from_slice(&4u32.to_ne_bytes());
        note.extend_from_slice(b"Go\0\0buildid.");
        assert!(names_go(&note));
        note[12] = b'g';
        assert!(!names_go(&note));
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        assert_eq!(resolve(OsStr::new("no-such-program-here")), Err(Unrunnable::NotFound));
        assert_eq!(resolve(OsStr::new("/etc/passwd")), Err(Unrunnable::NotExecutable));
        assert_eq!(resolve(OsStr::new("/no/such/program")), Err(Unrunnable::NotFound));
        assert!(resolve(OsStr::new("sh")).is_ok());
    }
}
