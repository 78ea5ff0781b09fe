//! The minimal loop on a port of the engine, to compare one port with another and a port with the bare rings.

use super::{FILLER, Ring, SEGMENT};
use persona_engine::port::{Piece, Port, TxFrame};
use persona_stack::TxChecksum;
use std::io;
use std::os::fd::BorrowedFd;

/// Frames of one visit to the receive ring.
const BATCH: usize = 64;

pub struct PortRing<P> {
    port: P,
    filler: Vec<u8>,
}

impl<P: Port> PortRing<P> {
    pub fn new(port: P) -> Self {
        Self { port, filler: vec![FILLER; SEGMENT] }
    }
}

impl<P: Port> Ring for PortRing<P> {
    fn longest(&self) -> usize {
        SEGMENT
    }

    fn completes_checksums(&self) -> bool {
        false
    }

    fn send(&mut self, header: &[u8], filler: usize) -> bool {
        let payload = [Piece { start: self.filler.as_ptr(), len: filler }];
        let payload = &payload[..usize::from(filler > 0)];
        self.port.transmit(&TxFrame { header, payload, checksum: TxChecksum::Complete, gso: None }).is_ok()
    }

    fn kick(&mut self) -> io::Result<()> {
        self.port.flush()
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.port.receive(BATCH, &mut |frame| sink(frame.head))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.port.poll_fd().expect("a port on an interface has a descriptor")
    }

    fn dropped(&self) -> u64 {
        self.port.counters().rx_dropped
    }
}
