//! Messages of the session socket (SOCK_SEQPACKET, one message each, plain bytes in host order).
//!
//! A process connects, sends [`Hello`] and gets [`Welcome`] with descriptors, or [`Refusal`] with a sentence. The
//! connection then stays open: its end tells the engine that the process is gone. A forked child closes the inherited
//! connection at once and makes its own when it first needs one, joining with the session's token.

/// First message of a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hello {
    pub magic: u64,
    pub abi: u32,
    /// size_of::<Session>() >> 12 and size_of::<Socket>() as the library has them.
    pub session_pages: u32,
    pub socket_size: u32,
    pub pid: u32,
    /// 0: a new session; else join this one.
    pub session: u64,
    pub token: [u64; 2],
    /// Program name, NUL padded (what `persona sockets` shows).
    pub program: [u8; 64],
}

/// Answer to [`Hello`]. Descriptors (SCM_RIGHTS): the session's memfd, then one eventfd per shard, for one who joins as
/// well (an image after exec has neither). Whoever presents the token joins, whatever user it has become meanwhile.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Welcome {
    pub kind: u32,
    pub shards: u32,
    pub session: u64,
    pub token: [u64; 2],
}

/// Refused, with a sentence for the user.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Refusal {
    pub kind: u32,
    pub len: u32,
    pub sentence: [u8; 248],
}

/// Requests after the welcome. Each gets one [`Grant`] or [`Refusal`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    pub kind: u32,
    /// ANCHORS: how many. DOORBELL: the waitable. REASON: a reason code. TAKE: unused.
    pub value: u32,
    /// REASON: address and port the socket was for, as text, NUL padded.
    pub text: [u8; 56],
}

/// Answer with descriptors (SCM_RIGHTS, in the order of `ids`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Grant {
    pub kind: u32,
    pub count: u32,
    /// ANCHORS: anchor ids. DOORBELL: the waitable.
    pub ids: [u32; ANCHOR_BATCH],
}

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
