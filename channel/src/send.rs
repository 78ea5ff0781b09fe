//! The send stream: [`SendWriter`] in the application, [`SendReader`] in the engine.

use crate::memory::SocketRef;
use crate::stream::{Chunks, MAP_SPAN, chunk_start};
use crate::sync::{Ordering, fence, store_and_fence};

impl<'m> SocketRef<'m> {
    pub fn send_chunks(&self) -> Chunks<'m> {
        Chunks { map: &self.maps.send, pool: self.pool }
    }

    /// The application's side; the caller owns `own_send`.
    pub fn send_writer(&self) -> SendWriter<'m> {
        SendWriter { socket: *self }
    }
}

/// The application's side of the send stream.
#[derive(Clone, Copy)]
pub struct SendWriter<'m> {
    socket: SocketRef<'m>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes accepted, from the beginning.
    pub len: usize,
    pub end: WriteEnd,
}

/// Why a write ended where it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEnd {
    /// Everything was accepted.
    All,
    /// The send buffer is full: [`SendWriter::want_space`], then wait.
    Full,
    /// The session has no chunk left (ENOBUFS when nothing was accepted).
    NoChunk,
}

impl<'m> SendWriter<'m> {
    /// Bytes that may be written now.
    pub fn space(&self) -> usize {
        let acked = self.socket.state.snd_acked.load(Ordering::Acquire);
        self.space_after(acked, self.socket.cursor.snd_end.load(Ordering::Relaxed))
    }

    fn space_after(&self, acked: u64, end: u64) -> usize {
        let buffer = acked.saturating_add(self.socket.state.send_buffer.load(Ordering::Relaxed) as u64);
        let map = chunk_start(acked).saturating_add(MAP_SPAN);
        buffer.min(map).saturating_sub(end) as usize
    }

    /// Copies as much as there is room for and publishes it. Then raise the shard's attention
    /// ([`Attention::mark_socket`]).
    pub fn write(&self, bytes: &[u8]) -> Written {
        self.write_vectored(core::iter::once(bytes))
    }

    /// [`write`](Self::write) of several pieces in one publication.
    pub fn write_vectored<'b>(&self, pieces: impl Iterator<Item = &'b [u8]>) -> Written {
        let chunks = self.socket.send_chunks();
        let acked = self.socket.state.snd_acked.load(Ordering::Acquire);
        let start = self.socket.cursor.snd_end.load(Ordering::Relaxed);
        let limit = start.saturating_add(self.space_after(acked, start) as u64);
        let mut end = start;
        let mut outcome = WriteEnd::All;
        'pieces: for mut piece in pieces {
            while !piece.is_empty() {
                let room = (limit - end) as usize;
                if room == 0 {
                    outcome = WriteEnd::Full;
                    break 'pieces;
                }
                let Ok(span) = chunks.hold(end) else {
                    outcome = WriteEnd::NoChunk;
                    break 'pieces;
                };
                let (now, later) = piece.split_at(piece.len().min(span.len).min(room));
                chunks.pool.store(span.chunk, span.at, now);
                end += now.len() as u64;
                piece = later;
            }
        }
        if end != start {
            self.socket.cursor.snd_end.store(end, Ordering::Release);
            chunks.let_go(end);
        }
        Written { len: (end - start) as usize, end: outcome }
    }

    /// Says that somebody waits for space, and looks once more: true when there is space now. The engine notifies all who
    /// have subscribed, once a third of the buffer is free, as Linux does. The wish stays even if there is space: it may
    /// be another waiter's as well, and only the engine, which then wakes all of them, takes it back.
    pub fn want_space(&self) -> bool {
        self.socket.cursor.want_space.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        crate::poll::writable(self.socket.state, self.socket.cursor)
    }
}

/// The engine's side of the send stream: a record of its own memory, one for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReader {
    acked: u64,
    end: u64,
    /// The last chunk still lies in the map although everything was acknowledged, or more is to come.
    holding: bool,
}

/// A range of the send stream that is not there: the application has damaged its session, end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole;

/// Some bytes of the send stream, which the application may be changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub start: *const u8,
    pub len: usize,
}

impl SendReader {
    pub const fn new() -> Self {
        Self { acked: 0, end: 0, holding: false }
    }

    /// What the application has written, bounded: never less than before and never more than a map can hold. To be
    /// called on each visit to a socket that raised attention; it also takes the last chunk of an idle stream away
    /// that the writer still held when the acknowledgement came.
    pub fn poll_end(&mut self, socket: &SocketRef<'_>) -> u64 {
        let end = socket.cursor.snd_end.load(Ordering::Acquire);
        let bounded = end.clamp(self.end, chunk_start(self.acked) + MAP_SPAN);
        self.holding |= bounded != self.end;
        self.end = bounded;
        self.settle(socket);
        bounded
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Where the bytes `offset..offset + len` lie: fills `pieces` from the front and returns how many. The range must
    /// lie in what was published and not yet acknowledged, and fit the pieces; a range of `n` bytes needs at most
    /// `n / CHUNK_SIZE + 2`.
    pub fn resolve(
        &self,
        socket: &SocketRef<'_>,
        offset: u64,
        len: usize,
        pieces: &mut [Piece],
    ) -> Result<usize, Hole> {
        let end = offset.checked_add(len as u64).ok_or(Hole)?;
        if offset < self.acked || end > self.end {
            return Err(Hole);
        }
        let chunks = socket.send_chunks();
        let mut at = offset;
        let mut count = 0;
        while at < end {
            let span = chunks.span(at).ok_or(Hole)?;
            let piece = pieces.get_mut(count).ok_or(Hole)?;
            let len = span.len.min((end - at) as usize);
            *piece = Piece { start: chunks.pool.address(span.chunk, span.at), len };
            at += len as u64;
            count += 1;
        }
        Ok(count)
    }

    /// The peer has acknowledged everything below `acked`: gives the chunks back and tells the application. True when
    /// a waiter for space is to be notified (make an output edge, then [`notify`](crate::wait::notify)).
    pub fn acknowledge(&mut self, socket: &SocketRef<'_>, acked: u64) -> bool {
        let acked = acked.clamp(self.acked, self.end);
        if acked == self.acked {
            return false;
        }
        socket.send_chunks().empty_below(self.acked, acked);
        self.acked = acked;
        store_and_fence(&socket.state.snd_acked, acked);
        self.settle(socket);
        socket.cursor.want_space.load(Ordering::Relaxed) != 0
            && crate::poll::frees_enough(self.end - acked, socket.state.send_buffer.load(Ordering::Relaxed))
            && socket.cursor.want_space.swap(0, Ordering::AcqRel) != 0
    }

    /// Takes the last chunk away when all was acknowledged. When the writer holds it, its next mark of attention comes
    /// after it let go.
    fn settle(&mut self, socket: &SocketRef<'_>) {
        if self.holding && self.acked == self.end && socket.send_chunks().take_last(self.acked) {
            self.holding = false;
        }
    }

    /// Gives back all chunks of a stream that nobody sends from any more.
    pub fn release(&mut self, socket: &SocketRef<'_>) {
        socket.send_chunks().drain(self.acked, self.end);
        self.acked = self.end;
        self.holding = false;
    }
}
