//! A mapped session: typed ways to its parts, and its bitmaps.
//!
//! Engine and library both look at a session through [`SessionRef`]. Indexes that came from outside are parsed once
//! into [`Slot`], [`Shard`], [`WaitableId`], [`ListenerIndex`] or [`LaneIndex`], which cannot be out of range; nothing
//! behind them checks again. Only atomics are handed out as references: payload is reached by [`ChunkPool`] alone.

use crate::chunk::ChunkPool;
use crate::layout::*;
use crate::sync::{AtomicU64, Ordering};
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{self, NonNull};

/// Bytes of a session, the length of its memfd.
pub const SESSION_SIZE: usize = size_of::<Session>();

/// A session in this process's memory. Copying it copies a pointer.
#[derive(Clone, Copy)]
pub struct SessionRef<'m> {
    base: NonNull<Session>,
    _mapping: PhantomData<&'m Session>,
}

// SAFETY: all shared words are atomics, and payload bytes are reached through raw copies that expect a concurrent
// writer, so the pointer may be used from any thread.
unsafe impl Send for SessionRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for SessionRef<'_> {}

/// What the engine decides when it makes a session.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    pub shards: u32,
    pub session: u64,
    pub token: [u64; 2],
    /// Limits of a new socket's streams in bytes, at most [`MAX_BUFFER`](crate::stream::MAX_BUFFER).
    pub send_buffer: u32,
    pub receive_buffer: u32,
    /// [`session_flags`].
    pub flags: u32,
    /// Socket slots and chunks given to the pools, at most [`SOCKETS`] and [`CHUNKS`].
    pub sockets: u32,
    pub chunks: u32,
    /// JSON, at most [`POLICY_SIZE`] bytes (longer is cut: check before).
    pub policy: &'a [u8],
}

/// The header as it was when it was read. In the library; the engine keeps its own [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderCopy {
    pub magic: u64,
    pub abi: u32,
    pub shards: u32,
    pub session: u64,
    pub token: [u64; 2],
    pub send_buffer: u32,
    pub receive_buffer: u32,
    pub flags: u32,
    pub policy_len: u32,
}

/// A reference to a part of a session that consists of atomics.
macro_rules! part {
    ($session:ident, $($field:tt)+) => {
        // SAFETY: the session is mapped for the lifetime that the reference gets; indexes are in range by their types.
        // The part holds atomics only (and padding that nobody reads), so other processes may write to it.
        unsafe { &(*$session.base.as_ptr()).$($field)+ }
    };
}

impl<'m> SessionRef<'m> {
    /// # Safety
    /// `base` is page-aligned, and [`SESSION_SIZE`] bytes from it stay mapped readable and writable for `'m`. The file
    /// behind the mapping cannot shrink (sealed).
    pub unsafe fn from_raw(base: *mut u8) -> Option<Self> {
        if !(base as usize).is_multiple_of(align_of::<Session>()) {
            return None;
        }
        Some(Self { base: NonNull::new(base.cast())?, _mapping: PhantomData })
    }

    pub fn as_ptr(self) -> *mut u8 {
        self.base.as_ptr().cast()
    }

    /// Makes fresh (all zero) memory a session. The engine calls this once, before anybody else has the memory.
    pub fn initialise(self, parameters: &Parameters<'_>) {
        let policy_len = parameters.policy.len().min(POLICY_SIZE);
        let session = self.base.as_ptr();
        // SAFETY: the memory is mapped and nobody else has it yet; field pointers stay inside it.
        unsafe {
            let header = &raw mut (*session).header;
            (&raw mut (*header).magic).write(MAGIC);
            (&raw mut (*header).abi).write(ABI_VERSION);
            (&raw mut (*header).shards).write(parameters.shards);
            (&raw mut (*header).session).write(parameters.session);
            (&raw mut (*header).token).write(parameters.token);
            (&raw mut (*header).send_buffer).write(parameters.send_buffer);
            (&raw mut (*header).receive_buffer).write(parameters.receive_buffer);
            (&raw mut (*header).flags).write(parameters.flags);
            (&raw mut (*header).policy_len).write(policy_len as u32);
            ptr::copy_nonoverlapping(parameters.policy.as_ptr(), (&raw mut (*session).policy).cast(), policy_len);
        }
        self.free_sockets().fill(parameters.sockets as usize);
        self.pool().free.fill(parameters.chunks as usize);
        self.free_waitables().fill(WAITABLES);
        self.free_listeners().fill(LISTENERS);
    }

    pub fn header(self) -> HeaderCopy {
        // SAFETY: inside the mapping; the reads are volatile because another process may write there.
        unsafe {
            let header = &raw const (*self.base.as_ptr()).header;
            HeaderCopy {
                magic: (&raw const (*header).magic).read_volatile(),
                abi: (&raw const (*header).abi).read_volatile(),
                shards: (&raw const (*header).shards).read_volatile(),
                session: (&raw const (*header).session).read_volatile(),
                token: (&raw const (*header).token).read_volatile(),
                send_buffer: (&raw const (*header).send_buffer).read_volatile(),
                receive_buffer: (&raw const (*header).receive_buffer).read_volatile(),
                flags: (&raw const (*header).flags).read_volatile(),
                policy_len: (&raw const (*header).policy_len).read_volatile().min(POLICY_SIZE as u32),
            }
        }
    }

    /// Copies the policy out and returns its length; a buffer of [`POLICY_SIZE`] bytes holds every policy.
    pub fn policy(self, buffer: &mut [u8]) -> usize {
        let len = (self.header().policy_len as usize).min(buffer.len());
        // SAFETY: `len` is at most POLICY_SIZE and the buffer's length; the policy lies inside the mapping.
        unsafe {
            let policy = &raw const (*self.base.as_ptr()).policy;
            ptr::copy_nonoverlapping(policy.cast(), buffer.as_mut_ptr(), len);
        }
        len
    }

    /// True once the engine that made this session is gone.
    pub fn dead(self) -> bool {
        part!(self, header.dead).load(Ordering::Acquire) != 0
    }

    /// The successor's engine says that this session's connections are gone. Ring every doorbell afterwards.
    pub fn set_dead(self) {
        part!(self, header.dead).store(1, Ordering::SeqCst);
    }

    pub fn attention(self, shard: Shard) -> &'m Attention {
        part!(self, attention[shard.index()])
    }

    pub fn lane(self, shard: Shard, lane: LaneIndex) -> &'m Lane {
        part!(self, lanes[shard.index()][lane.index()])
    }

    pub fn lanes(self, shard: Shard) -> &'m [Lane; LANES] {
        part!(self, lanes[shard.index()])
    }

    pub fn waitable(self, id: WaitableId) -> &'m Waitable {
        part!(self, waitables[id.index()])
    }

    pub fn waitables(self) -> &'m [Waitable; WAITABLES] {
        part!(self, waitables)
    }

    pub fn accept_ring(self, listener: ListenerIndex, shard: Shard) -> &'m AcceptRing {
        part!(self, accept[listener.index()][shard.index()])
    }

    /// The member `slot` of the epoll set that waits on `set`; `None` when that waitable is no epoll set's.
    pub fn interest(self, set: WaitableId, slot: Slot) -> Option<&'m Interest> {
        let set = set.index();
        (set < EPOLL_SETS).then(|| part!(self, interests[set][slot.index()]))
    }

    /// Everything of one socket.
    pub fn socket(self, slot: Slot) -> SocketRef<'m> {
        let socket: &'m Socket = part!(self, sockets[slot.index()]);
        let maps: &'m Maps = part!(self, maps[slot.index()]);
        SocketRef {
            slot,
            state: &socket.state,
            cursor: &socket.cursor,
            wait: &socket.wait,
            address: &socket.address,
            maps,
            pool: self.pool(),
        }
    }

    pub fn free_sockets(self) -> Bitmap<'m> {
        Bitmap { words: part!(self, free_sockets) }
    }

    pub fn free_waitables(self) -> Bitmap<'m> {
        Bitmap { words: part!(self, free_waitables) }
    }

    pub fn free_listeners(self) -> Bitmap<'m> {
        Bitmap { words: part!(self, free_listeners) }
    }

    pub fn pool(self) -> ChunkPool<'m> {
        let free = Bitmap { words: part!(self, free_chunks) };
        // SAFETY: the pointer is to the session's CHUNKS chunks, mapped for 'm.
        unsafe {
            let chunks = NonNull::new_unchecked(&raw mut (*self.base.as_ptr()).chunks);
            ChunkPool::new(free, chunks.cast())
        }
    }
}

/// Everything of one socket slot.
#[derive(Clone, Copy)]
pub struct SocketRef<'m> {
    pub slot: Slot,
    pub state: &'m StateLine,
    pub cursor: &'m CursorLine,
    pub wait: &'m WaitLine,
    pub address: &'m AddressLine,
    pub maps: &'m Maps,
    pub pool: ChunkPool<'m>,
}

/// One bits are free. Lowest first, so that memory that was used before, and is warm, is used again.
#[derive(Clone, Copy)]
pub struct Bitmap<'m> {
    pub(crate) words: &'m [AtomicU64],
}

/// How often a claim tries again inside one word that others claim from as well, before it goes on to the next word.
const CLAIM_ATTEMPTS: usize = 4;

impl Bitmap<'_> {
    /// Claims a free bit: at most `words * CLAIM_ATTEMPTS` steps, whatever others do.
    pub fn claim(self) -> Option<u32> {
        self.claim_in(0..self.words.len() * 64)
    }

    /// Claims a free bit of a range (multiples of 64).
    pub fn claim_in(self, range: Range<usize>) -> Option<u32> {
        let words = self.words.get(range.start / 64..range.end / 64)?;
        for (index, word) in words.iter().enumerate() {
            for _ in 0..CLAIM_ATTEMPTS {
                let free = word.load(Ordering::Relaxed);
                if free == 0 {
                    break;
                }
                let bit = free & free.wrapping_neg();
                if word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
                    return Some((range.start + index * 64) as u32 + bit.trailing_zeros());
                }
            }
        }
        None
    }

    /// Claims this very bit; false if it is taken.
    pub fn claim_one(self, index: u32) -> bool {
        let bit = 1 << (index % 64);
        self.words.get(index as usize / 64).is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// Gives a bit back; nothing happens when it is free or does not exist.
    pub fn free(self, index: u32) {
        if let Some(word) = self.words.get(index as usize / 64) {
            word.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }

    pub fn is_free(self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|word| word.load(Ordering::Acquire) >> (index % 64) & 1 != 0)
    }

    /// How many are free, as a snapshot.
    pub fn count(self) -> usize {
        self.words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Frees the first `count` bits.
    pub(crate) fn fill(self, count: usize) {
        for (index, word) in self.words.iter().enumerate() {
            let bits = count.saturating_sub(index * 64).min(64);
            let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            word.store(mask, Ordering::Release);
        }
    }
}

/// An index that is in range.
macro_rules! index {
    ($(#[$doc:meta])* $name:ident < $bound:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u32);

        impl $name {
            /// `None` when it is out of range.
            pub const fn new(index: u32) -> Option<Self> {
                if (index as usize) < $bound { Some(Self(index)) } else { None }
            }

            pub const fn get(self) -> u32 {
                self.0
            }

            pub const fn index(self) -> usize {
                self.0 as usize
            }

            pub fn all() -> impl Iterator<Item = Self> {
                (0..$bound as u32).map(Self)
            }
        }
    };
}

index!(
    /// A socket's place.
    Slot < SOCKETS
);
index!(
    /// A shard of the engine.
    Shard < SHARDS
);
index!(
    /// A place to wait.
    WaitableId < WAITABLES
);
index!(
    /// A listener's accept rings.
    ListenerIndex < LISTENERS
);
index!(
    /// A lane of one shard.
    LaneIndex < LANES
);
