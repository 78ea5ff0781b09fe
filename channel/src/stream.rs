//! Streams: bytes in chunks, one algorithm for both directions.
//!
//! A stream has one writer and one reader. The writer *holds* the chunk it writes to, publishes an end offset and
//! lets the chunk go with its fill noted in the map entry. The reader empties the entries of chunks wholly below its
//! cursor, and takes the last chunk away when it has read everything and the writer does not hold it, so that an idle
//! connection holds none. The rules of the map entry (see [`map_entry`]):
//!
//! - The writer sets HELD by compare-and-swap, since the reader may be taking the chunk away; an empty entry gets a
//!   fresh chunk. It stores the fill and clears HELD *after* the end was published.
//! - The reader takes the last chunk away by compare-and-swap from "this chunk, filled up to my cursor, not held". A
//!   publication in between changes the fill and makes it fail.
//! - Emptying comes before publishing the reader's cursor, so a writer that sees the cursor finds the entries of the
//!   next lap empty.
//! - Whoever dies in the middle leaves a held chunk or an emptied entry below the published end. The next writer goes
//!   on in the held chunk; the next reader skips a hole to the chunk's end, as what was there had been read.
//!
//! The application's sides are [`SendWriter`] and [`ReceiveReader`], to be used under the direction's ownership word. The
//! engine's are [`SendReader`] and [`ReceiveWriter`]: plain records in engine memory with the cursors that it trusts.
//!
//! [`SendWriter`]: crate::send::SendWriter
//! [`SendReader`]: crate::send::SendReader
//! [`ReceiveReader`]: crate::receive::ReceiveReader
//! [`ReceiveWriter`]: crate::receive::ReceiveWriter

use crate::chunk::{ChunkIndex, ChunkPool};
use crate::layout::*;
use crate::sync::{AtomicU32, Ordering};

/// Bytes that the map of a stream spans.
pub const MAP_SPAN: u64 = (MAP_ENTRIES * CHUNK_SIZE) as u64;

/// Largest buffer a stream can have: the chunk under the reader's cursor may be used up to its last byte only.
pub const MAX_BUFFER: u32 = ((MAP_ENTRIES - 1) * CHUNK_SIZE) as u32;

/// The pool has no chunk left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoChunk;

/// A stretch of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub chunk: ChunkIndex,
    /// Offset inside the chunk.
    pub at: usize,
    /// Bytes from there, at most to the chunk's end.
    pub len: usize,
}

/// The map and the pool of one stream.
#[derive(Clone, Copy)]
pub struct Chunks<'m> {
    pub(crate) map: &'m [AtomicU32; MAP_ENTRIES],
    pub(crate) pool: ChunkPool<'m>,
}

/// Offset inside a chunk.
fn within(offset: u64) -> usize {
    offset as usize % CHUNK_SIZE
}

/// First offset of the chunk of `offset`.
pub(crate) fn chunk_start(offset: u64) -> u64 {
    offset - within(offset) as u64
}

/// The entry of a chunk that is filled up to `offset` and let go.
fn filled(chunk: ChunkIndex, offset: u64) -> u32 {
    chunk.entry() | (within(offset) as u32) << map_entry::FILL_SHIFT
}

impl<'m> Chunks<'m> {
    fn entry(self, offset: u64) -> &'m AtomicU32 {
        &self.map[(offset / CHUNK_SIZE as u64) as usize % MAP_ENTRIES]
    }

    /// Writer: holds the chunk of `offset` and gives the room from there to its end. The caller has made sure that
    /// `offset` is less than [`MAP_SPAN`] beyond the start of the reader's chunk.
    pub fn hold(self, offset: u64) -> Result<Span, NoChunk> {
        let entry = self.entry(offset);
        let at = within(offset);
        let current = entry.load(Ordering::Acquire);
        if let Some(chunk) = ChunkIndex::from_entry(current) {
            let held = current | map_entry::HELD;
            if current == held || entry.compare_exchange(current, held, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Ok(Span { chunk, at, len: CHUNK_SIZE - at });
            }
            // The reader took the chunk away this moment: the entry is empty.
        }
        let chunk = self.pool.claim().ok_or(NoChunk)?;
        entry.store(chunk.entry() | map_entry::HELD, Ordering::Release);
        Ok(Span { chunk, at, len: CHUNK_SIZE - at })
    }

    /// Writer: lets go of the chunk of the published `end`. Chunks that are full stay held: they are given back whole.
    pub fn let_go(self, end: u64) {
        if within(end) == 0 {
            return;
        }
        let entry = self.entry(end);
        if let Some(chunk) = ChunkIndex::from_entry(entry.load(Ordering::Relaxed)) {
            entry.store(filled(chunk, end), Ordering::Release);
        }
    }

    /// Reader: the bytes from `offset` to the end of its chunk; `None` for a hole.
    pub fn span(self, offset: u64) -> Option<Span> {
        let chunk = ChunkIndex::from_entry(self.entry(offset).load(Ordering::Acquire))?;
        let at = within(offset);
        Some(Span { chunk, at, len: CHUNK_SIZE - at })
    }

    /// Reader: empties the entries of chunks that lie wholly in `from..to`, counted from the start of `from`'s chunk.
    /// At most [`MAP_ENTRIES`] steps.
    pub fn empty_below(self, from: u64, to: u64) {
        let first = from / CHUNK_SIZE as u64;
        let count = (to / CHUNK_SIZE as u64).saturating_sub(first).min(MAP_ENTRIES as u64);
        for index in first..first + count {
            self.empty(index * CHUNK_SIZE as u64);
        }
    }

    /// Either side: takes away the chunk at `cursor` if the stream has been read up to there, nothing follows, and
    /// the writer is not in it. True when there is no chunk (any more).
    pub fn take_last(self, cursor: u64) -> bool {
        let entry = self.entry(cursor);
        let current = entry.load(Ordering::Acquire);
        if within(cursor) == 0 {
            // The chunk before was emptied whole; one that is here already belongs to the writer.
            return current == map_entry::EMPTY;
        }
        let Some(chunk) = ChunkIndex::from_entry(current) else { return true };
        if current != filled(chunk, cursor) {
            return false;
        }
        let taken = entry.compare_exchange(current, map_entry::EMPTY, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if taken {
            self.pool.give_back(chunk);
        }
        taken
    }

    /// Gives everything back that the stream holds from `cursor` on, when both sides are done with it. The entries up
    /// to `end` are looked at, and on until the first empty one. At most [`MAP_ENTRIES`] steps.
    pub fn drain(self, cursor: u64, end: u64) {
        let first = cursor / CHUNK_SIZE as u64;
        let last = end / CHUNK_SIZE as u64;
        for index in first..first + MAP_ENTRIES as u64 {
            if !self.empty(index * CHUNK_SIZE as u64) && index > last {
                break;
            }
        }
    }

    /// Empties the entry of the chunk of `offset`. True when there was something in it.
    fn empty(self, offset: u64) -> bool {
        let entry = self.entry(offset);
        if entry.load(Ordering::Acquire) == map_entry::EMPTY {
            return false;
        }
        let old = entry.swap(map_entry::EMPTY, Ordering::AcqRel);
        if let Some(chunk) = ChunkIndex::from_entry(old) {
            self.pool.give_back(chunk);
        }
        old != map_entry::EMPTY
    }
}
