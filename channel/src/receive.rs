//! The receive stream: [`ReceiveWriter`] in the engine, [`ReceiveReader`] in the application.

use crate::copy::Sum;
use crate::layout::*;
use crate::memory::SocketRef;
use crate::stream::{Chunks, MAP_SPAN, chunk_start};
use crate::sync::{Ordering, fence, store_and_fence};

impl<'m> SocketRef<'m> {
    pub fn receive_chunks(&self) -> Chunks<'m> {
        Chunks { map: &self.maps.receive, pool: self.pool }
    }

    /// The application's side; the caller owns `own_receive`.
    pub fn receive_reader(&self) -> ReceiveReader<'m> {
        ReceiveReader { socket: *self }
    }
}

/// The engine's side of the receive stream: a record of its own memory, one for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveWriter {
    published: u64,
    /// End of the highest byte stored.
    high: u64,
    /// The application's cursor, bounded.
    read: u64,
}

/// What was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes, from the beginning.
    pub len: usize,
    /// Sum of those bytes as stored.
    pub sum: Sum,
}

impl ReceiveWriter {
    pub const fn new() -> Self {
        Self { published: 0, high: 0, read: 0 }
    }

    /// Copies `bytes` to stream offset `offset`, in order or beyond a gap, and sums them in the same pass. Stores a
    /// prefix when the pool or the map has no more room. What lies below the published end is the application's
    /// already: it is summed and not stored again.
    pub fn store(&mut self, socket: &SocketRef<'_>, offset: u64, bytes: &[u8]) -> Stored {
        let limit = chunk_start(self.read) + MAP_SPAN;
        let old = self.published.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let mut sum = Sum::of(&bytes[..old]);
        let mut done = old;
        let chunks = socket.receive_chunks();
        while done < bytes.len() {
            let at = offset.saturating_add(done as u64);
            let room = limit.saturating_sub(at) as usize;
            if room == 0 {
                break;
            }
            let Ok(span) = chunks.hold(at) else { break };
            let len = (bytes.len() - done).min(span.len).min(room);
            let part = chunks.pool.store_and_sum(span.chunk, span.at, &bytes[done..done + len]);
            sum = sum.then(done, part);
            done += len;
            self.high = self.high.max(at + len as u64);
        }
        Stored { len: done, sum }
    }

    /// Makes everything below `end` the application's. Afterwards notify the waiters.
    pub fn publish(&mut self, socket: &SocketRef<'_>, end: u64) {
        let end = end.clamp(self.published, self.high.max(self.published));
        if end == self.published {
            return;
        }
        self.published = end;
        socket.state.rcv_end.store(end, Ordering::Release);
        if self.high > end {
            // Bytes beyond a gap lie in this chunk or a later one: it stays held.
            return;
        }
        let chunks = socket.receive_chunks();
        chunks.let_go(end);
        // The reader may have read everything before we let go, and then left the chunk to us.
        fence(Ordering::SeqCst);
        if socket.cursor.rcv_read.load(Ordering::Acquire) == end {
            chunks.take_last(end);
        }
    }

    /// What the application has read, bounded: never less than before and never more than was published.
    pub fn poll_read(&mut self, socket: &SocketRef<'_>) -> u64 {
        let read = socket.cursor.rcv_read.load(Ordering::Acquire).clamp(self.read, self.published);
        self.read = read;
        read
    }

    /// Says at which offset of its cursor the application is to mark the socket. True: it is there already and may not
    /// do so; treat it as marked ([`poll_read`](Self::poll_read) has the cursor).
    pub fn set_update_at(&mut self, socket: &SocketRef<'_>, offset: u64) -> bool {
        store_and_fence(&socket.state.window_update_at, offset);
        self.poll_read(socket) >= offset
    }

    pub fn published(&self) -> u64 {
        self.published
    }

    pub fn read(&self) -> u64 {
        self.read
    }

    /// Gives back all chunks when the application is gone.
    pub fn release(&mut self, socket: &SocketRef<'_>) {
        socket.receive_chunks().drain(self.read, self.high);
        self.read = self.published;
    }
}

/// The application's side of the receive stream.
#[derive(Clone, Copy)]
pub struct ReceiveReader<'m> {
    socket: SocketRef<'m>,
}

/// What a read did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub len: usize,
    /// The cursor passed the offset at which the engine wants to hear of it: raise the shard's attention
    /// ([`Attention::mark_socket`]).
    pub mark: bool,
}

impl<'m> ReceiveReader<'m> {
    /// Bytes that can be read now. Look at the socket's state bits *before* calling this when 0 is to mean the end.
    pub fn available(&self) -> usize {
        let end = self.socket.state.rcv_end.load(Ordering::Acquire);
        end.saturating_sub(self.socket.cursor.rcv_read.load(Ordering::Relaxed)) as usize
    }

    /// Offset of the next byte to read.
    pub fn position(&self) -> u64 {
        self.socket.cursor.rcv_read.load(Ordering::Relaxed)
    }

    pub fn read(&self, to: &mut [u8]) -> Read {
        self.read_vectored(core::iter::once(to))
    }

    /// Reads into several pieces, and moves the cursor once.
    pub fn read_vectored<'b>(&self, pieces: impl Iterator<Item = &'b mut [u8]>) -> Read {
        let start = self.position();
        let (len, at) = self.copy_out(start, pieces);
        Read { len, mark: self.advance(start, at) }
    }

    /// Copies without moving the cursor (MSG_PEEK), from `skip` bytes after it.
    pub fn peek<'b>(&self, skip: u64, pieces: impl Iterator<Item = &'b mut [u8]>) -> usize {
        self.copy_out(self.position().saturating_add(skip), pieces).0
    }

    /// Drops up to `len` bytes (MSG_TRUNC).
    pub fn discard(&self, len: usize) -> Read {
        let start = self.position();
        let len = len.min(self.available());
        Read { len, mark: self.advance(start, start + len as u64) }
    }

    /// Copies from `from` on. Returns the bytes copied and the offset after them; holes (see
    /// [`stream`](crate::stream)) count in the offset alone. Ends for any offsets, since a piece is filled or a chunk passed
    /// with each step, and a map's span is never exceeded.
    fn copy_out<'b>(&self, from: u64, pieces: impl Iterator<Item = &'b mut [u8]>) -> (usize, u64) {
        let end = self.socket.state.rcv_end.load(Ordering::Acquire);
        let end = end.min(chunk_start(from).saturating_add(MAP_SPAN));
        let chunks = self.socket.receive_chunks();
        let mut at = from;
        let mut copied = 0;
        for piece in pieces {
            let mut filled = 0;
            while filled < piece.len() && at < end {
                let rest = (end - at) as usize;
                let Some(span) = chunks.span(at) else {
                    at += (CHUNK_SIZE - at as usize % CHUNK_SIZE).min(rest) as u64;
                    continue;
                };
                let len = span.len.min(rest).min(piece.len() - filled);
                let to = &mut piece[filled..filled + len];
                // SAFETY: `to` is writable for its length.
                unsafe { chunks.pool.load(span.chunk, span.at, to.as_mut_ptr(), len) };
                filled += len;
                copied += len;
                at += len as u64;
            }
        }
        (copied, at)
    }

    /// Gives back what was read and publishes the cursor. True when the engine wants to hear of it.
    fn advance(&self, from: u64, to: u64) -> bool {
        if to == from {
            return false;
        }
        let chunks = self.socket.receive_chunks();
        chunks.empty_below(from, to);
        // The fence pairs with the engine's after it let go of a chunk, and after it stored `window_update_at`: one of us
        // sees the other.
        store_and_fence(&self.socket.cursor.rcv_read, to);
        if self.socket.state.rcv_end.load(Ordering::Relaxed) == to {
            chunks.take_last(to);
        }
        let due = self.socket.state.window_update_at.load(Ordering::Relaxed);
        from < due && due <= to
    }
}
