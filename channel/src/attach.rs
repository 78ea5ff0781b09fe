//! Messages of the session socket (SOCK_SEQPACKET, one message each, plain bytes in host order).
//!
//! A process connects, sends [`Hello`] and gets [`Welcome`] with descriptors, or [`Refusal`] with a sentence. The
//! connection then stays open: its end tells the engine that the process is gone. A forked child closes the inherited
//! connection at once and makes its own when it first needs one, joining with the session's token.

use crate::layout::{ABI_VERSION, MAGIC, Session, Socket};
use core::fmt::{self, Write};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First message of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Hello {
    pub magic: u64,
    pub abi: u32,
    /// size_of::<Session>() >> 12 and size_of::<Socket>() as the library has them.
    pub session_pages: u32,
    pub socket_size: u32,
    /// What the process signs slots with ([`CursorLine::claimant`](crate::layout::CursorLine::claimant)): its id in the
    /// low 22 bits, a number of the program image above. Who it is, the socket's credentials say.
    pub pid: u32,
    /// 0: a new session; else join this one.
    pub session: u64,
    /// That of the session to join. With a new session that of the family's last one, whose engine is dead, or 0: who proves
    /// to have been there may come back, and bind what its family might bind.
    pub token: [u64; 2],
    /// Program name, NUL padded (what `persona sockets` shows).
    pub program: [u8; 64],
    /// Path of the program's file, NUL padded; all NUL where it is unknown or longer. Only the process itself may read it
    /// whatever user it is, and rules by path are its own affair: who does not want the library does not load it.
    pub executable: [u8; EXECUTABLE],
}

/// Answer to [`Hello`]. Descriptors (SCM_RIGHTS): the session's memfd, then one eventfd per shard, for one who joins as
/// well (an image after exec has neither). Whoever presents the token joins, whatever user it has become meanwhile: the
/// policy is asked about new sessions. (A session socket whose mode lets only one user or group in is not even reached by
/// another.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Welcome {
    pub kind: u32,
    pub shards: u32,
    pub session: u64,
    pub token: [u64; 2],
}

/// Refused, with a sentence for the user.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Refusal {
    pub kind: u32,
    pub len: u32,
    pub sentence: [u8; SENTENCE],
}

/// Requests after the welcome. Each gets one [`Grant`] or [`Refusal`], but for REASON and GONE.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    pub kind: u32,
    /// ANCHORS: how many. DOORBELL: the waitable. REASON: a reason code. GONE: the row.
    pub value: u32,
    /// REASON: which of the process's rows the socket has, below [`ROWS`].
    pub row: u32,
    /// REASON: address and port the socket was for, as text, NUL padded.
    pub text: [u8; 52],
}

/// Answer with descriptors (SCM_RIGHTS, in the order of `ids`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Grant {
    pub kind: u32,
    pub count: u32,
    /// ANCHORS: anchor ids. DOORBELL: the waitable.
    pub ids: [u32; ANCHOR_BATCH],
}

impl Hello {
    /// Of this build. `join`: the session and token of the family, for a forked child; session 0: see `token`.
    pub fn new(pid: u32, program: &[u8], join: Option<(u64, [u64; 2])>) -> Self {
        let (session, token) = join.unwrap_or_default();
        Self {
            magic: MAGIC,
            abi: ABI_VERSION,
            session_pages: SESSION_PAGES,
            socket_size: size_of::<Socket>() as u32,
            pid,
            session,
            token,
            program: padded(program),
            executable: [0; EXECUTABLE],
        }
    }

    /// The same with the path of the program's file, unless it is too long to be told.
    pub fn with_executable(self, path: &[u8]) -> Self {
        if path.len() > EXECUTABLE {
            return self;
        }
        Self { executable: padded(path), ..self }
    }

    /// One message's bytes as a hello that [`check`](Self::check) finds in order. The version is looked at before the
    /// length, which another version may have changed.
    #[allow(clippy::result_large_err)] // As below.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if let (Some(magic), Some(abi)) = (bytes.first_chunk(), bytes.get(8..).and_then(<[u8]>::first_chunk)) {
            check_version(u64::from_ne_bytes(*magic), u32::from_ne_bytes(*abi))?;
        }
        let hello = Self::decode(bytes).ok_or_else(|| {
            Refusal::new(format_args!(
                "the first message is not a hello of this version: install libpersona.so from the engine's build"
            ))
        })?;
        hello.check().map(|()| hello)
    }

    /// Exactly one message's bytes, or `None`. Says nothing about its content: [`check`](Self::check) does.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok()
    }

    /// Whether library and engine agree about the session's memory; the refusal says which side to update.
    #[allow(clippy::result_large_err)] // Once in a process's life, and it goes to the wire as it is.
    pub fn check(&self) -> Result<(), Refusal> {
        check_version(self.magic, self.abi)?;
        let socket_size = size_of::<Socket>() as u32;
        if self.session_pages != SESSION_PAGES || self.socket_size != socket_size {
            return Err(Refusal::new(format_args!(
                "libpersona.so and engine are different builds of channel version {ABI_VERSION} (session {} and {SESSION_PAGES} \
                 pages, socket {} and {socket_size} bytes): install libpersona.so from the engine's build",
                self.session_pages, self.socket_size,
            )));
        }
        Ok(())
    }

    pub fn program(&self) -> &str {
        text(&self.program)
    }

    /// Empty where it is unknown.
    pub fn executable(&self) -> &str {
        text(&self.executable)
    }
}

#[allow(clippy::result_large_err)] // As in `Hello::check`.
fn check_version(magic: u64, abi: u32) -> Result<(), Refusal> {
    if magic != MAGIC {
        return Err(Refusal::new(format_args!(
            "the first message does not come from libpersona.so: connect with the preload library only"
        )));
    }
    if abi != ABI_VERSION {
        let (side, other) = if abi < ABI_VERSION { ("libpersona.so", "engine") } else { ("engine", "libpersona.so") };
        return Err(Refusal::new(format_args!(
            "libpersona.so speaks channel version {abi}, the engine version {ABI_VERSION}: update {side} to the version of {other}{}",
            if side == "engine" { " and restart it" } else { " and restart the program" },
        )));
    }
    Ok(())
}

impl Welcome {
    pub fn new(shards: u32, session: u64, token: [u64; 2]) -> Self {
        Self { kind: kind::WELCOME, shards, session, token }
    }
}

impl Refusal {
    /// With a sentence, cut at the message's size.
    pub fn new(sentence: fmt::Arguments<'_>) -> Self {
        let mut refusal = Self { kind: kind::REFUSAL, len: 0, sentence: [0; SENTENCE] };
        // The writer cuts and does not fail.
        let _ = refusal.write_fmt(sentence);
        refusal
    }

    pub fn sentence(&self) -> &str {
        valid_prefix(&self.sentence[..(self.len as usize).min(SENTENCE)])
    }
}

impl Write for Refusal {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let at = (self.len as usize).min(SENTENCE);
        let len = part.len().min(SENTENCE - at);
        self.sentence[at..at + len].copy_from_slice(&part.as_bytes()[..len]);
        self.len = (at + len) as u32;
        Ok(())
    }
}

impl Request {
    pub fn anchors(count: u32) -> Self {
        Self { kind: kind::ANCHORS, value: count, row: 0, text: [0; 52] }
    }

    pub fn doorbell(waitable: u32) -> Self {
        Self { kind: kind::DOORBELL, value: waitable, row: 0, text: [0; 52] }
    }

    /// A socket stays on the host; `address` is what it was for.
    pub fn reason(row: u32, reason: u32, address: &[u8]) -> Self {
        Self { kind: kind::REASON, value: reason, row, text: padded(address) }
    }

    /// The socket of a row is closed.
    pub fn gone(row: u32) -> Self {
        Self { kind: kind::GONE, value: row, row: 0, text: [0; 52] }
    }

    /// One message's bytes of a known kind, or `None`.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let request = Self::read_from_bytes(bytes).ok()?;
        matches!(request.kind, kind::ANCHORS | kind::DOORBELL | kind::REASON | kind::GONE).then_some(request)
    }

    pub fn text(&self) -> &str {
        text(&self.text)
    }
}

impl Grant {
    /// Ids beyond a batch are cut.
    pub fn new(granted: &[u32]) -> Self {
        let count = granted.len().min(ANCHOR_BATCH);
        let mut ids = [0; ANCHOR_BATCH];
        ids[..count].copy_from_slice(&granted[..count]);
        Self { kind: kind::GRANT, count: count as u32, ids }
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids[..(self.count as usize).min(ANCHOR_BATCH)]
    }
}

/// What the engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Welcome(Welcome),
    Refusal(Refusal),
    Grant(Grant),
}

impl Answer {
    /// One message's bytes, or `None` when they are no answer of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match u32::from_ne_bytes(*bytes.first_chunk()?) {
            kind::WELCOME => Some(Self::Welcome(Welcome::read_from_bytes(bytes).ok()?)),
            kind::REFUSAL => Some(Self::Refusal(Refusal::read_from_bytes(bytes).ok()?)),
            kind::GRANT => Some(Self::Grant(Grant::read_from_bytes(bytes).ok()?)),
            _ => None,
        }
    }
}

/// `size_of::<Session>() >> 12`.
pub const SESSION_PAGES: u32 = (size_of::<Session>() >> 12) as u32;
/// Bytes of a refusal's sentence.
pub const SENTENCE: usize = 248;
/// Bytes of the longest path of a program that is told.
pub const EXECUTABLE: usize = 400;
/// A buffer that holds any message.
pub const LARGEST_MESSAGE: usize = size_of::<Hello>();

const _: () = {
    assert!(size_of::<Hello>() == 512 && size_of::<Welcome>() == 32 && size_of::<Refusal>() == 256);
    assert!(size_of::<Request>() == 64 && size_of::<Grant>() == 72);
};

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let len = bytes.len().min(N);
    field[..len].copy_from_slice(&bytes[..len]);
    field
}

/// The text of a NUL padded field; what is not UTF-8 is cut off.
fn text(field: &[u8]) -> &str {
    let len = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    valid_prefix(&field[..len])
}

fn valid_prefix(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// Sockets on the host of one process that are listed at once.
pub const ROWS: usize = 256;
/// Most anchors of one batch.
pub const ANCHOR_BATCH: usize = 16;

pub mod kind {
    pub const WELCOME: u32 = 1;
    pub const REFUSAL: u32 = 2;
    pub const GRANT: u32 = 3;
    /// Wants pooled anchors: application ends of AF_UNIX stream pairs.
    pub const ANCHORS: u32 = 16;
    /// Wants the doorbell of a waitable: the application end of an AF_UNIX stream pair, into which the engine writes
    /// one byte per wake-up. The engine keeps one pair per waitable and hands out the same application end each time.
    pub const DOORBELL: u32 = 17;
    /// Reports a socket that stays on the host, for `persona sockets` (no answer).
    pub const REASON: u32 = 18;
    /// Takes a reported socket away again (no answer).
    pub const GONE: u32 = 19;
}

/// Why a socket stays on the host.
pub mod reason {
    pub const FAMILY: u32 = 1;
    pub const TYPE: u32 = 2;
    pub const POLICY: u32 = 3;
    pub const LOOPBACK: u32 = 4;
    pub const ENGINE_GONE: u32 = 5;
    pub const NO_MEMORY: u32 = 6;
    pub const REFUSED: u32 = 7;
    pub const INHERITED: u32 = 8;
}
