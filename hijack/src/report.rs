//! What the library says: reason codes to the engine, and lines on stderr.
//!
//! A line costs a write to descriptor 2, so it is only made when PERSONA_DEBUG asks for it, or once per process when
//! the engine that the user counted on cannot be reached.

use core::ffi::{CStr, c_int};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use persona_channel::attach::reason;

use crate::rows::Row;
use crate::sys::{self, Errno};
use crate::{address::Address, attach, environment};

/// 0 unknown, 1 off, 2 on.
static DEBUG: AtomicU32 = AtomicU32::new(0);
static STRICT: AtomicU32 = AtomicU32::new(0);
/// 1 once the line about the engine was written.
static SAID: AtomicU32 = AtomicU32::new(0);

/// A socket that cannot be accelerated is to be an error.
pub fn is_strict() -> bool {
    let by_engine = || {
        attach::usable()
            .and_then(|view| view.session())
            .is_some_and(|session| session.header().flags & persona_channel::layout::session_flags::STRICT != 0)
    };
    switch(&STRICT, c"PERSONA_STRICT") || by_engine()
}

fn is_debug() -> bool {
    switch(&DEBUG, c"PERSONA_DEBUG")
}

fn switch(cell: &AtomicU32, name: &CStr) -> bool {
    match cell.load(Ordering::Relaxed) {
        0 => {
            let mut value = [0; 16];
            let on = environment::ours(name, &mut value).is_some_and(|value| !matches!(value, b"" | b"0"));
            cell.store(if on { 2 } else { 1 }, Ordering::Relaxed);
            on
        }
        state => state == 2,
    }
}

/// Notes that a socket stays on the host: for `persona sockets`, if there is a row for it, and on stderr when debugging.
pub fn on_host(fd: c_int, code: u32, remote: Option<&Address>, row: Option<&Row>) {
    let mut text = Line::new();
    if let Some(remote) = remote {
        let _ = write!(text, "{remote}");
    }
    if let Some(row) = row {
        attach::send_reason(row.id().row, code, text.bytes());
    }
    if is_debug() {
        let mut line = Line::new();
        let _ = write!(line, "persona: descriptor {fd} ");
        if let Some(remote) = remote {
            let _ = write!(line, "to {remote} ");
        }
        let _ = writeln!(line, "stays on the host: {}", sentence(code));
        line.print();
    }
}

/// A line about a decision, when debugging.
pub fn note(arguments: fmt::Arguments) {
    if is_debug() {
        let mut line = Line::new();
        let _ = writeln!(line, "persona: {arguments}");
        line.print();
    }
}

/// The engine does not answer at `path`.
pub fn unreachable(path: &libc::sockaddr_un, Errno(errno): Errno) {
    if SAID.swap(1, Ordering::Relaxed) != 0 && !is_debug() {
        return;
    }
    let mut line = Line::new();
    let _ = line.write_str("persona: no engine at ");
    for byte in path.sun_path.iter().take_while(|byte| **byte != 0) {
        line.push(*byte as u8);
    }
    let _ = writeln!(line, " ({}): {}; start one with `persona up`", name_of(errno), outcome());
    line.print();
}

/// The engine sent a refusal with this sentence.
pub fn refused(sentence: &str) {
    if SAID.swap(1, Ordering::Relaxed) != 0 && !is_debug() {
        return;
    }
    let mut line = Line::new();
    let _ = writeln!(line, "persona: the engine refuses: {sentence}; {}", outcome());
    line.print();
}

/// What becomes of a program that is not served.
fn outcome() -> &'static str {
    if is_strict() { "TCP sockets are refused" } else { "TCP sockets stay on the host" }
}

fn sentence(code: u32) -> &'static str {
    match code {
        reason::FAMILY => "the address family is not accelerated",
        reason::TYPE => "the socket type is not accelerated",
        reason::POLICY => "a rule of the policy keeps it there",
        reason::LOOPBACK => "the destination is this host itself",
        reason::ENGINE_GONE => "no engine answers",
        reason::NO_MEMORY => "session memory or descriptors are used up",
        reason::REFUSED => "the engine refused this process",
        reason::INHERITED => "it was inherited from a program without the library",
        _ => "for a reason this version does not know",
    }
}

fn name_of(errno: c_int) -> &'static str {
    match errno {
        libc::ENOENT => "no such file",
        libc::ECONNREFUSED => "connection refused",
        libc::EACCES => "permission denied",
        libc::ENAMETOOLONG => "the path is too long for a socket",
        libc::EAGAIN => "no answer in time",
        libc::ENOTDIR => "not a directory",
        _ => "cannot be reached",
    }
}

/// A line of bounded length; what does not fit is cut.
pub struct Line {
    bytes: [u8; 400],
    length: usize,
}

impl Line {
    pub fn new() -> Self {
        Line { bytes: [0; 400], length: 0 }
    }

    pub fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn print(&self) {
        let _ = sys::write(libc::STDERR_FILENO, self.bytes());
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}
