//! What lies where in a session's memory. Sizes and offsets are asserted: they are an ABI ([`ABI_VERSION`]).
//!
//! Who writes a cache line is said at each; a line has one writer unless it says otherwise. All integers are in host
//! order. Absolute stream offsets (u64) count bytes since the beginning of a connection.

use crate::sync::{AtomicI32, AtomicU32, AtomicU64};

pub use geometry::*;

#[cfg(loom)]
mod fresh;

pub const MAGIC: u64 = u64::from_le_bytes(*b"PERSONA1");
pub const ABI_VERSION: u32 = 3;

/// How many there are of each thing.
#[cfg(not(loom))]
mod geometry {
    /// Socket slots of a session.
    pub const SOCKETS: usize = 16_384;
    /// Places to wait: the first [`EPOLL_SETS`] can be epoll sets, the others serve blocked calls.
    pub const WAITABLES: usize = 512;
    pub const EPOLL_SETS: usize = 128;
    /// Most shards of an engine.
    pub const SHARDS: usize = 8;
    /// Command lanes per shard.
    pub const LANES: usize = 16;
    pub const LANE_COMMANDS: usize = 32;
    /// Bytes of a reply: a struct tcp_info, the longest, has 280.
    pub const REPLY_SIZE: usize = 320;
    /// Listeners of a session, and completed connections that one can hold per shard.
    pub const LISTENERS: usize = 128;
    pub const ACCEPT_RING: usize = 1_024;
    /// Bytes of a chunk, the unit in which payload memory is given to a stream.
    pub const CHUNK_SIZE: usize = 16 * 1024;
    /// Chunks of a session (sparse: only what was touched takes memory). The engine may free fewer of them into the
    /// pool.
    pub const CHUNKS: usize = 16_384;
    /// Entries of a stream's chunk map; a stream holds at most this many chunks, 4 MiB.
    pub const MAP_ENTRIES: usize = 256;
}

/// The same algorithms in a world small enough for a model checker.
#[cfg(loom)]
mod geometry {
    pub const SOCKETS: usize = 64;
    pub const WAITABLES: usize = 4;
    pub const EPOLL_SETS: usize = 1;
    pub const SHARDS: usize = 1;
    pub const LANES: usize = 2;
    pub const LANE_COMMANDS: usize = 2;
    pub const REPLY_SIZE: usize = 8;
    pub const LISTENERS: usize = 64;
    pub const ACCEPT_RING: usize = 2;
    pub const CHUNK_SIZE: usize = 4;
    pub const CHUNKS: usize = 64;
    pub const MAP_ENTRIES: usize = 2;
}

/// Words of a bitmap over all sockets, and of its summary (one bit per word).
pub const SOCKET_WORDS: usize = SOCKETS / 64;
pub const SOCKET_SUMMARY: usize = SOCKET_WORDS.div_ceil(64);
pub const CHUNK_WORDS: usize = CHUNKS / 64;
pub const WAITABLE_WORDS: usize = WAITABLES.div_ceil(64);

/// First page. Written by the engine before the memory is handed out; afterwards only `dead` and `epoch` change.
#[repr(C, align(64))]
pub struct Header {
    pub magic: u64,
    pub abi: u32,
    /// Shards in use, 1..=SHARDS.
    pub shards: u32,
    pub session: u64,
    /// Secret of the family: a child joins the session by presenting it.
    pub token: [u64; 2],
    /// Send and receive buffer limits of a new socket, in bytes.
    pub send_buffer: u32,
    pub receive_buffer: u32,
    /// [`session_flags`].
    pub flags: u32,
    /// 1 once the engine that made this session is gone: every socket of it has ended with ECONNRESET, a new
    /// socket needs a new session.
    pub dead: AtomicU32,
    _reserved: [u64; 8],
    /// Bytes of policy ([`crate::policy`]) in [`Session::policy`].
    pub policy_len: u32,
    _reserved2: u32,
}

pub mod session_flags {
    /// A socket that cannot be accelerated is an error.
    pub const STRICT: u32 = 1;
}

/// State of a socket slot as the engine sees it. Written by the engine only: this line is the truth, all events are
/// hints.
#[repr(C, align(64))]
pub struct StateLine {
    /// In-order bytes stored in the receive stream (publish: release).
    pub rcv_end: AtomicU64,
    /// Bytes of the send stream acknowledged by the peer; chunks below are the pool's again.
    pub snd_acked: AtomicU64,
    /// The application rings (marks the socket dirty) once its read cursor passes this offset. The engine stores it by
    /// [`set_update_at`](crate::receive::ReceiveWriter::set_update_at), which sees a cursor that had passed it before.
    pub window_update_at: AtomicU64,
    /// Offset of the byte after the urgent byte, 0 when there is none.
    pub urgent: AtomicU64,
    /// [`state_bits`].
    pub bits: AtomicU32,
    /// errno to report once (SO_ERROR), 0 if none. The application takes it by swapping 0 in: the only field that
    /// both sides write.
    pub error: AtomicI32,
    /// Counts edges for EPOLLET, input in the low half, output in the high half.
    pub edges: AtomicU32,
    /// Bytes that may lie between `snd_acked` and `snd_end`.
    pub send_buffer: AtomicU32,
    /// Generation of the slot; incremented when the slot is freed.
    pub generation: AtomicU32,
    /// Shard that owns the connection; the engine writes it before it sets BOUND. Until BOUND a slot that the library
    /// claimed belongs to shard `slot % shards`, which gets its commands.
    pub shard: AtomicU32,
}

pub mod state_bits {
    /// The slot is bound to an anchor and known to the engine.
    pub const BOUND: u32 = 1;
    pub const CONNECTING: u32 = 1 << 1;
    /// Synchronised; stays set after either direction ended.
    pub const CONNECTED: u32 = 1 << 2;
    pub const LISTENING: u32 = 1 << 3;
    /// No byte will come after `rcv_end` (FIN, RST or shutdown(SHUT_RD)).
    pub const RCV_CLOSED: u32 = 1 << 4;
    /// Nothing more can be sent: shutdown(SHUT_WR) was done or the connection ended.
    pub const SND_CLOSED: u32 = 1 << 5;
    /// The connection is gone (EPOLLHUP with both above).
    pub const ENDED: u32 = 1 << 6;
    /// Payload passes through the anchor: every library uses the real calls on the descriptor.
    pub const RELAY: u32 = 1 << 7;
    /// `error` holds an errno that came from RST or a failed connect (EPOLLERR).
    pub const ERROR: u32 = 1 << 8;
    /// The urgent byte was taken with MSG_OOB: nothing urgent waits (no EPOLLPRI), while its place still is `urgent`.
    pub const URGENT_TAKEN: u32 = 1 << 9;
}

/// Cursors of the application. Written by processes of the family under the direction's ownership word.
#[repr(C, align(64))]
pub struct CursorLine {
    /// Bytes written to the send stream (publish: release).
    pub snd_end: AtomicU64,
    /// Bytes read from the receive stream.
    pub rcv_read: AtomicU64,
    /// Ownership words: 0 or the tid of the thread inside that direction; control covers the commands of a socket.
    pub own_send: AtomicU32,
    pub own_receive: AtomicU32,
    pub own_control: AtomicU32,
    /// 1 while a writer found the send buffer full: the engine makes an output edge when a third is free again.
    pub want_space: AtomicU32,
    /// O_NONBLOCK and other status flags of the open file description, shared by dup and fork.
    pub file_flags: AtomicU32,
    /// Domain, type and protocol as socket() had them: AF in bits 0..8, SOCK in 8..16, IPPROTO in 16..32 (low bits).
    pub kind: AtomicU32,
    /// Receive and send timeout in milliseconds, 0 for none.
    pub receive_timeout: AtomicU32,
    pub send_timeout: AtomicU32,
    /// Bytes that make a socket readable (SO_RCVLOWAT), 0 means 1.
    pub receive_low: AtomicU32,
    /// Process that claimed the slot; lets the engine free slots of one that died before it bound them.
    pub claimant: AtomicU32,
}

/// Which waitables want to hear of the socket. Set and cleared by the family, read by the engine. Second half of a
/// line pair with the addresses.
#[repr(C, align(64))]
pub struct WaitLine {
    pub waiters: [AtomicU64; WAITABLE_WORDS],
}

/// Addresses, written by the engine before CONNECTED or LISTENING is set and constant afterwards. Format: family
/// (AF_INET or AF_INET6) in `family`, ports in host order, IPv4 in the first 4 bytes.
#[repr(C, align(64))]
pub struct AddressLine {
    pub family: AtomicU32,
    pub local_port: AtomicU32,
    pub remote_port: AtomicU32,
    /// Index of the accept rings when LISTENING.
    pub listener: AtomicU32,
    pub local: [AtomicU64; 2],
    pub remote: [AtomicU64; 2],
    _reserved: [u64; 2],
}

#[repr(C, align(64))]
pub struct Socket {
    pub state: StateLine,
    pub cursor: CursorLine,
    pub wait: WaitLine,
    pub address: AddressLine,
}

/// Chunk maps of one socket: the chunk of stream offset `o` is `map[(o / CHUNK_SIZE) % MAP_ENTRIES]`. The form of an
/// entry is [`map_entry`]. The stream's writer fills entries; its reader empties them (a chunk wholly below its cursor,
/// and the last one when it has read everything and the chunk is not held).
#[repr(C, align(64))]
pub struct Maps {
    pub send: [AtomicU32; MAP_ENTRIES],
    pub receive: [AtomicU32; MAP_ENTRIES],
}

/// Form of a chunk map entry: chunk index plus one in the low half (0: no chunk, so that fresh memory is right as it
/// is), in the upper half the bytes of the chunk that the writer has published, and [`HELD`](map_entry::HELD).
///
/// The fill makes "take the last chunk away" a single compare-and-swap that only succeeds when the reader has read
/// all there is: each publication inside a chunk changes the entry.
pub mod map_entry {
    pub const EMPTY: u32 = 0;
    pub const CHUNK_MASK: u32 = 0xffff;
    pub const FILL_SHIFT: u32 = 16;
    pub const FILL_MASK: u32 = 0x7fff;
    /// The writer is in the chunk (or holds out-of-order bytes there): the reader must not take it away.
    pub const HELD: u32 = 1 << 31;
}

/// One command of a lane: fixed size, no pointers.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// [`op`].
    pub op: u16,
    /// 1: the pusher waits for the reply.
    pub reply: u16,
    pub socket: u32,
    pub generation: u32,
    pub _pad: u32,
    pub args: [u64; 6],
}

pub mod op {
    /// Binds a claimed slot to an anchor. args: anchor id.
    pub const BIND_ANCHOR: u16 = 1;
    /// Sets the local address. args: family, port, address (2 words). Reply: 0 or -errno.
    pub const BIND: u16 = 2;
    /// args: backlog. Reply: 0 or -errno; on success LISTENING is set on every shard.
    pub const LISTEN: u16 = 3;
    /// args: family, port, address (2 words). Reply: 0 once SYN is under way (CONNECTING set), or -errno.
    pub const CONNECT: u16 = 4;
    /// args: 0 SHUT_RD, 1 SHUT_WR, 2 both. The send cursor is read after the command. Reply: 0 or -errno.
    pub const SHUTDOWN: u16 = 5;
    /// args: level, name, length, value bytes (up to 24). Reply: 0 or -errno.
    pub const SET_OPTION: u16 = 6;
    /// args: level, name, room. Reply: length or -errno, value in the lane's reply bytes.
    pub const GET_OPTION: u16 = 7;
    /// Puts the socket into relay. Reply: 0 or -errno once the unread bytes are in the anchor.
    pub const RELAY: u16 = 8;
    /// Reads the urgent byte. Reply: byte or -errno.
    pub const URGENT: u16 = 9;
    /// The byte before a stream offset is urgent; asked before it is written, since afterwards it may have left without
    /// the pointer. args: the offset. Reply: 0 or -errno.
    pub const SEND_URGENT: u16 = 10;
    /// The slot was claimed and given up before BIND_ANCHOR, or the last descriptor known here was closed: look. Reply: once
    /// a bind() of any socket finds the address free, if this was the last descriptor.
    pub const RELEASE: u16 = 11;
}

/// A single-producer ring of commands. A thread claims the lane by setting `owner` from 0 to its tid (for one push,
/// or until the reply was read), so lanes belong to no thread and nested use from a signal handler takes another one.
#[repr(C, align(64))]
pub struct Lane {
    /// Written by the family.
    pub owner: AtomicU32,
    pub tail: AtomicU32,
    /// Waitable on which the owner sleeps for the reply, plus one; 0: none.
    pub waiter: AtomicU32,
    _pad0: [u32; 13],
    /// Written by the engine: commands consumed, commands completed, result of the last completed one.
    pub head: AtomicU32,
    pub done: AtomicU32,
    pub result: AtomicI32,
    _pad1: [u32; 13],
    pub reply: [AtomicU64; REPLY_SIZE / 8],
    pub commands: [[AtomicU64; 8]; LANE_COMMANDS],
}

/// What one shard looks at in one session.
#[repr(C, align(64))]
pub struct Attention {
    /// 1 when any bit below was set since the shard last swapped it to 0. Written by both.
    pub raised: AtomicU32,
    _pad0: [u32; 15],
    /// 1 while the shard sleeps or has parked the session: the next to raise attention swaps it to 0 and writes the
    /// shard's eventfd.
    pub sleeping: AtomicU32,
    _pad1: [u32; 15],
    /// Lanes with commands.
    pub lanes: AtomicU64,
    /// Words of `sockets` that are not zero.
    pub summary: [AtomicU64; SOCKET_SUMMARY],
    _pad2: [u64; 3],
    /// Sockets whose cursors moved.
    pub sockets: [AtomicU64; SOCKET_WORDS],
}

/// A place to wait: an epoll set or a blocked call.
#[repr(C, align(64))]
pub struct Waitable {
    /// 1 while somebody blocks on the doorbell: the engine swaps it to 0 and writes one byte.
    pub sleeping: AtomicU32,
    /// Owner tid of a blocked call's waitable, or number of holders of an epoll set; 0: free.
    pub owner: AtomicU32,
    /// Threads that block on the doorbell (an epoll set can have several). Family only.
    pub sleepers: AtomicU32,
    _pad0: [u32; 13],
    pub summary: [AtomicU64; SOCKET_SUMMARY],
    _pad1: [u64; 4],
    /// Sockets with news. Bits set by the engine (and by the family, to keep level-triggered members listed).
    pub ready: [AtomicU64; SOCKET_WORDS],
}

/// One member of an epoll set, indexed by socket. The engine never reads it.
#[repr(C)]
pub struct Interest {
    pub data: AtomicU64,
    /// EPOLL* bits; 0: not a member.
    pub events: AtomicU32,
    pub generation: AtomicU32,
    /// The descriptor that was registered.
    pub descriptor: AtomicI32,
    /// Edge counters last reported (EPOLLET).
    pub edges: AtomicU32,
    _reserved: u64,
}

/// Completed connections of one listener on one shard. The engine writes `tail` and entries; the family claims an
/// entry by moving `head` with compare-and-swap. An entry: socket slot in the low half, its generation in the high.
#[repr(C, align(64))]
pub struct AcceptRing {
    pub tail: AtomicU32,
    _pad0: [u32; 15],
    pub head: AtomicU32,
    _pad1: [u32; 15],
    pub entries: [AtomicU64; ACCEPT_RING],
}

#[repr(C, align(4096))]
pub struct Chunk(pub [u8; CHUNK_SIZE]);

/// Bytes for the policy: header and policy fill 64 KiB.
pub const POLICY_SIZE: usize = 64 * 1024 - size_of::<Header>();

/// The whole of a session's memory. All zero is the start state of everything but the header, the policy and the
/// `free_` bitmaps, so making a session touches a handful of pages.
#[repr(C, align(4096))]
pub struct Session {
    pub header: Header,
    pub policy: [u8; POLICY_SIZE],
    pub attention: [Attention; SHARDS],
    pub lanes: [[Lane; LANES]; SHARDS],
    /// 1 bits: free slots. Claimed with fetch_and by the family (socket) and by the engine (incoming), freed by the
    /// engine with fetch_or.
    pub free_sockets: [AtomicU64; SOCKET_WORDS],
    /// 1 bits: free chunks. Claimed by a stream's writer, freed by its reader.
    pub free_chunks: [AtomicU64; CHUNK_WORDS],
    /// 1 bits: waitables nobody uses.
    pub free_waitables: [AtomicU64; WAITABLE_WORDS],
    /// 1 bits: listener indexes nobody uses (engine only).
    pub free_listeners: [AtomicU64; LISTENERS / 64],
    pub sockets: [Socket; SOCKETS],
    pub maps: [Maps; SOCKETS],
    pub waitables: [Waitable; WAITABLES],
    pub accept: [[AcceptRing; SHARDS]; LISTENERS],
    pub interests: [[Interest; SOCKETS]; EPOLL_SETS],
    pub chunks: [Chunk; CHUNKS],
}
