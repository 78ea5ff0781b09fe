//! How the frames of Persona's two ends get across: segment by segment over the same wire as smoltcp's, or as super-segments
//! through the engine's own port in memory, which cuts them to the MTU, sums what it copies, and merges trains again.

use super::{BUFFER, MTU, Wire};
use persona_channel::copy::{self, Sum};
use persona_engine::port::memory::{self, MemoryPort, Params};
use persona_engine::port::{Piece, Port, TxFrame};
use persona_stack::wire::checksum;
use persona_stack::{Busy, Link, Offload, Payload, RxFrame, Segment, TxChecksum};

/// One end of the way. `send` is a ring of [`BUFFER`] bytes, which the stream's offsets point into.
pub trait Way: Sized {
    /// Both ends, joined.
    fn pair() -> [Self; 2];

    fn link(host: u8) -> Link;

    fn offload(&self) -> Offload;

    fn transmit(&mut self, segment: &Segment<'_>, send: &[u8]) -> Result<(), Busy>;

    /// Gives what `peer` has sent to `take`, frame by frame. `own` finds this end in the state that `take` works on.
    fn receive<S>(
        peer: &mut Self,
        state: &mut S,
        own: impl Fn(&mut S) -> &mut Self,
        take: impl FnMut(&mut S, &RxFrame<'_>),
    );

    /// Frames with data sent so far.
    fn data_frames(&self) -> u64;

    /// The frame that was sent last, if it is still on its way and can be looked at.
    fn newest(&self) -> Option<&[u8]> {
        None
    }
}

/// The copy with its sum that the engine's ports and sessions make.
pub fn copy_and_sum(to: &mut [u8], from: &[u8]) -> Sum {
    assert_eq!(to.len(), from.len());
    // SAFETY: two slices of one length, one of them borrowed exclusively.
    unsafe { copy::copy_and_sum(from.as_ptr(), to.as_mut_ptr(), from.len()) }
}

/// The parts of a ring that `len` bytes from stream offset `offset` on lie in: where the first begins, and how long it is.
pub fn place(offset: u64, len: usize) -> (usize, usize) {
    let start = offset as usize & (BUFFER - 1);
    (start, len.min(BUFFER - start))
}

impl Way for Wire {
    fn pair() -> [Self; 2] {
        [Self::default(), Self::default()]
    }

    fn link(_: u8) -> Link {
        Link::Ip
    }

    fn offload(&self) -> Offload {
        Offload { max_segment: MTU as u32, tx_checksum: true }
    }

    fn transmit(&mut self, segment: &Segment<'_>, send: &[u8]) -> Result<(), Busy> {
        if self.is_full() {
            return Err(Busy);
        }
        assert!(segment.gso.is_none(), "no super-segment was announced");
        let mut frame = self.blank();
        frame.extend_from_slice(segment.header);
        let mut sum = 0;
        match segment.payload {
            Payload::None => {}
            Payload::Inline(bytes) => {
                frame.extend_from_slice(bytes);
                sum = checksum::sum(bytes);
            }
            Payload::Stream { offset, len, .. } => {
                let (header, len) = (frame.len(), len as usize);
                frame.resize(header + len, 0);
                let (start, first) = place(offset, len);
                let head = copy_and_sum(&mut frame[header..header + first], &send[start..start + first]);
                let rest = copy_and_sum(&mut frame[header + first..], &send[..len - first]);
                sum = head.then(first, rest).network();
            }
        }
        if let TxChecksum::Partial { start, offset } = segment.checksum {
            let (start, field) = (usize::from(start), usize::from(start + offset));
            let header = checksum::sum(&frame[start..segment.header.len()]);
            let sum = checksum::combine(header, segment.header.len() - start, sum);
            frame[field..field + 2].copy_from_slice(&(!sum).to_be_bytes());
        }
        self.push(frame);
        Ok(())
    }

    fn receive<S>(
        peer: &mut Self,
        state: &mut S,
        _: impl Fn(&mut S) -> &mut Self,
        mut take: impl FnMut(&mut S, &RxFrame<'_>),
    ) {
        while let Some(frame) = peer.pop() {
            take(state, &RxFrame::single(&frame));
            peer.recycle(frame);
        }
    }

    fn data_frames(&self) -> u64 {
        self.data_frames
    }

    fn newest(&self) -> Option<&[u8]> {
        Wire::newest(self)
    }
}

/// Frames that a direction of the port holds, as many as the other wire's.
const SLOTS: usize = 64;
/// The largest super-segment: half of the ring, so that one is read while the other is written.
const LARGEST: u32 = (SLOTS as u32 / 2) * MTU as u32;

/// An end over the engine's memory port.
pub struct Ported {
    /// Away while it receives, as in a shard: its ring is read then and cannot be written.
    port: Option<MemoryPort>,
    /// Frames of headers alone that were to go meanwhile, one behind the other, and their lengths.
    held: Vec<u8>,
    held_lens: Vec<usize>,
}

impl Ported {
    fn port(&self) -> &MemoryPort {
        self.port.as_ref().expect("the port is away only while it receives")
    }
}

impl Way for Ported {
    fn pair() -> [Self; 2] {
        let params = Params { mtu: MTU, slots: SLOTS, merge: true, ..Params::default() };
        let (first, second) = memory::pair(params, params);
        [first, second].map(|port| Self { port: Some(port), held: Vec::new(), held_lens: Vec::new() })
    }

    fn link(host: u8) -> Link {
        Link::Ethernet { mac: [2, 0, 0, 0, 0, host] }
    }

    fn offload(&self) -> Offload {
        Offload { max_segment: LARGEST, ..self.port().offload() }
    }

    fn transmit(&mut self, segment: &Segment<'_>, send: &[u8]) -> Result<(), Busy> {
        let Some(port) = &mut self.port else {
            if segment.payload != Payload::None {
                return Err(Busy);
            }
            self.held.extend_from_slice(segment.header);
            self.held_lens.push(segment.header.len());
            return Ok(());
        };
        let piece = |bytes: &[u8]| Piece { start: bytes.as_ptr(), len: bytes.len() };
        let pieces = match segment.payload {
            Payload::None => [piece(&[]); 2],
            Payload::Inline(bytes) => [piece(bytes), piece(&[])],
            Payload::Stream { offset, len, .. } => {
                let (start, first) = place(offset, len as usize);
                [piece(&send[start..start + first]), piece(&send[..len as usize - first])]
            }
        };
        let used = pieces.iter().take_while(|piece| piece.len > 0).count();
        let Segment { header, checksum, gso, .. } = *segment;
        port.transmit(&TxFrame { header, payload: &pieces[..used], checksum, gso }).map_err(|_| Busy)
    }

    fn receive<S>(
        _: &mut Self,
        state: &mut S,
        own: impl Fn(&mut S) -> &mut Self,
        mut take: impl FnMut(&mut S, &RxFrame<'_>),
    ) {
        let mut port = own(state).port.take().expect("nobody receives twice at once");
        port.receive(usize::MAX, &mut |frame| take(state, &frame));
        let own = own(state);
        let mut rest = own.held.as_slice();
        for len in own.held_lens.drain(..) {
            let (header, others) = rest.split_at(len);
            let frame = TxFrame { header, payload: &[], checksum: TxChecksum::Complete, gso: None };
            port.transmit(&frame).expect("a ring that was just read has room for answers");
            rest = others;
        }
        own.held.clear();
        own.port = Some(port);
    }

    fn data_frames(&self) -> u64 {
        // The first end sends no acknowledgements while it transfers.
        self.port().counters().tx_frames
    }
}
