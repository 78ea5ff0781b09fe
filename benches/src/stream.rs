//! One socket of a session in this process's memory: the way of a segment's payload between application and frame,
//! both sides on one thread.

use memmap2::MmapMut;
use persona_channel::copy;
use persona_channel::layout::{CHUNKS, SOCKETS};
use persona_channel::memory::{Parameters, SESSION_SIZE, SessionRef, Shard, SocketRef};
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::{Piece, SendReader};

/// Payload of a segment of 1,500 bytes with timestamps.
pub const SEGMENT: usize = 1448;

/// A session in anonymous memory, which stays until the process ends.
pub fn session() -> SessionRef<'static> {
    let map = Box::leak(Box::new(MmapMut::map_anon(SESSION_SIZE).expect("anonymous memory")));
    // SAFETY: page-aligned, SESSION_SIZE long, never unmapped.
    let session = unsafe { SessionRef::from_raw(map.as_mut_ptr()).expect("mappings are page-aligned") };
    session.initialise(&Parameters {
        shards: 1,
        session: 1,
        token: [0; 2],
        send_buffer: 1 << 20,
        receive_buffer: 1 << 20,
        flags: 0,
        sockets: SOCKETS as u32,
        chunks: CHUNKS as u32,
        policy: b"",
    });
    session
}

/// A socket of it that may write.
pub fn socket(session: SessionRef<'static>) -> SocketRef<'static> {
    let socket = session.claim_slot(1).expect("a free slot");
    socket.state.send_buffer.store(1 << 20, std::sync::atomic::Ordering::Relaxed);
    socket
}

pub struct Stream {
    session: SessionRef<'static>,
    socket: SocketRef<'static>,
    reader: SendReader,
    writer: ReceiveWriter,
    application: Vec<u8>,
    frame: Vec<u8>,
}

impl Stream {
    pub fn new() -> Self {
        let session = session();
        let socket = socket(session);
        let (application, frame) = (vec![7; SEGMENT], vec![0; SEGMENT]);
        Self { session, socket, reader: SendReader::new(), writer: ReceiveWriter::new(), application, frame }
    }

    /// write(), the mark, the shard's look, the copy with its sum into a frame, the acknowledgement.
    pub fn send(&mut self) {
        let attention = self.session.attention(Shard::new(0).expect("in range"));
        assert_eq!(self.socket.send_writer().write(&self.application).len, SEGMENT);
        assert!(!attention.mark_socket(self.socket.slot), "nobody sleeps");
        let mut marks = attention.collect();
        assert_eq!(marks.next_socket(attention), Some(self.socket.slot));
        let (start, end) = (self.reader.acked(), self.reader.poll_end(&self.socket));
        let mut pieces = [Piece { start: std::ptr::null(), len: 0 }; 2];
        let len = (end - start) as usize;
        let count = self.reader.resolve(&self.socket, start, len, &mut pieces).expect("published");
        let mut at = 0;
        for piece in &pieces[..count] {
            // SAFETY: the piece lies in the session, and the frame has room for all of them.
            std::hint::black_box(unsafe { copy::copy_and_sum(piece.start, self.frame[at..].as_mut_ptr(), piece.len) });
            at += piece.len;
        }
        self.reader.acknowledge(&self.socket, end);
    }

    /// A frame's payload stored and published, and read().
    pub fn receive(&mut self) {
        let stored = self.writer.store(&self.socket, self.writer.published(), &self.frame);
        self.writer.publish(&self.socket, self.writer.published() + stored.len as u64);
        std::hint::black_box((stored.sum, self.socket.receive_reader().read(&mut self.application)));
        self.writer.poll_read(&self.socket);
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_goes_there_and_back_for_as_long_as_one_likes() {
        let mut stream = Stream::new();
        // More than the pool of chunks holds.
        for _ in 0..2 * CHUNKS {
            stream.send();
            stream.receive();
        }
        assert!(stream.frame.iter().chain(&stream.application).all(|&byte| byte == 7));
    }
}
