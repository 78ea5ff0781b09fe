//! Large super-segments, handed to the kernel from where their payload lies.
//!
//! A frame in the transmit ring is sent from the ring's own pages. A veth (and whatever else hands a frame on within the
//! host) must not keep them and copies the frame once more. Written to a socket without a ring, the payload is copied
//! once, from the send stream into pages of the kernel's, for the price of a syscall; for 64 KiB that is little.

use super::socket::{Socket, bind, set};
use crate::port::error::PortError;
use crate::port::interface::Interface;
use crate::port::{Piece, vnet};
use rustix::fd::OwnedFd;
use std::io::IoSlice;

/// Payload from which on a syscall is cheaper than the second copy. In bytes.
pub const WORTH: usize = 16 << 10;
/// Pieces of a payload that one call takes; a frame of more goes through the ring.
const MAX_PIECES: usize = 32;

/// A packet socket that only sends.
pub struct Direct {
    fd: OwnedFd,
}

impl Direct {
    /// A socket that takes virtio headers.
    pub fn open(interface: &Interface, send_buffer: i32) -> Result<Self, PortError> {
        let on = interface.name.as_str();
        // Protocol 0, and bound with it: nothing is received.
        let fd = Socket::unbound(on)?;
        set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)
            .map_err(PortError::io("asking for virtio headers", on))?;
        // An improvement only.
        let _ = set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &send_buffer);
        bind(&fd, interface, 0)?;
        Ok(Self { fd })
    }

    /// Sends one frame; `false`: not taken, nothing of it was sent. The payload is read once, by the kernel: what it
    /// sums later is its copy.
    pub fn send(&self, prefix: &[u8; vnet::LEN], header: &[u8], payload: &[Piece]) -> bool {
        if payload.len() > MAX_PIECES {
            return false;
        }
        let mut vectors = [IoSlice::new(&[]); MAX_PIECES + 2];
        vectors[0] = IoSlice::new(prefix);
        vectors[1] = IoSlice::new(header);
        for (vector, piece) in vectors[2..].iter_mut().zip(payload) {
            // SAFETY: the caller's pieces are readable during the call. Nobody here looks at the bytes, which another
            // process may be changing; they go to the kernel as an address and a length.
            *vector = IoSlice::new(unsafe { std::slice::from_raw_parts(piece.start, piece.len) });
        }
        rustix::io::writev(&self.fd, &vectors[..payload.len() + 2]).is_ok()
    }
}
