//! Two ends over memory in one thread, and nothing else: what a stack alone costs. The same wire, the same sizes and the
//! same copies (application to stream, stream to frame, frame to stream, stream to application) for Persona's stack
//! and for smoltcp's, every checksum made and verified by each.

pub mod persona;
pub mod smoltcp;
pub mod way;

use std::collections::VecDeque;

/// Bytes of an IP packet.
pub const MTU: usize = 1500;
/// Bytes of each socket's buffers. A power of two.
pub const BUFFER: usize = 256 << 10;
/// Bytes of an application's writes and reads.
pub const WRITE: usize = 16 << 10;
/// Frames that a direction of the wire holds.
const DEPTH: usize = 64;

/// Both ends of one connection, and a transfer from the first to the second.
pub trait Ends {
    /// Moves `bytes` from one application to the other and returns the data segments that this took.
    fn transfer(&mut self, bytes: usize) -> u64;
}

/// One direction of the wire: a bounded queue of frames that are used again.
#[derive(Default)]
pub struct Wire {
    queue: VecDeque<Vec<u8>>,
    unused: Vec<Vec<u8>>,
    /// Frames longer than headers alone that went through.
    pub data_frames: u64,
}

/// Longest headers of IPv4 and TCP.
const HEADERS: usize = 120;

impl Wire {
    pub fn is_full(&self) -> bool {
        self.queue.len() >= DEPTH
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// An empty frame with room for a packet.
    pub fn blank(&mut self) -> Vec<u8> {
        let mut frame = self.unused.pop().unwrap_or_else(|| Vec::with_capacity(MTU));
        frame.clear();
        frame
    }

    pub fn push(&mut self, frame: Vec<u8>) {
        self.data_frames += u64::from(frame.len() > HEADERS);
        self.queue.push_back(frame);
    }

    /// The frame that was sent last, if it is still on its way.
    pub fn newest(&self) -> Option<&[u8]> {
        self.queue.back().map(Vec::as_slice)
    }

    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front()
    }

    pub fn recycle(&mut self, frame: Vec<u8>) {
        self.unused.push(frame);
    }
}
