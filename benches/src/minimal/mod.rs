//! The least that moves bytes over a ring to and from a kernel's TCP: what any stack over that ring could reach at best.
//!
//! One connection, no stack. The payload is constant and lies in the ring's frames from the beginning, so that it is
//! neither copied nor summed; a segment costs the fields of its header that change, and the ring. The peer's window
//! is respected, what is lost is sent again from there on, and what arrives is counted and acknowledged. There is no
//! congestion control, no payload check and no other protocol: the peer's neighbour entry has to be permanent.
//!
//! The rings here are written anew on the kernel's interface and share no code with the engine's, so that what is
//! done to those does not move the baseline. [`port`] puts the same loop on any port of the engine.

pub mod mapping;
pub mod packet;
pub mod port;
pub mod redirect;
pub mod segment;
pub mod tcp;
pub mod xdp;

use std::io;
use std::os::fd::BorrowedFd;

/// Each byte of the payload that is sent.
pub const FILLER: u8 = 0x5a;
/// Bytes of Ethernet, IPv4 and TCP headers without options.
pub const HEADERS: usize = 54;
/// Payload of a segment at an MTU of 1,500 bytes.
pub const SEGMENT: usize = 1460;

/// Where frames go out and come in.
pub trait Ring {
    /// Most payload bytes of one frame: a segment, or a super-segment where the kernel cuts.
    fn longest(&self) -> usize;

    /// The kernel completes TCP checksums; the field holds the sum of the pseudo-header.
    fn completes_checksums(&self) -> bool;

    /// Queues `header` and `filler` bytes of [`FILLER`] behind it. False: there is no room at the moment.
    fn send(&mut self, header: &[u8], filler: usize) -> bool;

    /// Makes the kernel take what was queued.
    fn kick(&mut self) -> io::Result<()>;

    /// Shows the frames that have arrived, a bounded number of them, and gives them back. Returns how many.
    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize;

    /// Readable when frames have arrived.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Frames that the kernel could not hand over for want of room.
    fn dropped(&self) -> u64;
}

impl<R: Ring + ?Sized> Ring for Box<R> {
    fn longest(&self) -> usize {
        (**self).longest()
    }

    fn completes_checksums(&self) -> bool {
        (**self).completes_checksums()
    }

    fn send(&mut self, header: &[u8], filler: usize) -> bool {
        (**self).send(header, filler)
    }

    fn kick(&mut self) -> io::Result<()> {
        (**self).kick()
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        (**self).receive(sink)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        (**self).fd()
    }

    fn dropped(&self) -> u64 {
        (**self).dropped()
    }
}
