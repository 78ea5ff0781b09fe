//! A received segment, parsed and not yet judged, and its payload, which may lie in several pieces.

use crate::api::{Host, Stored};
use crate::frame::Owner;
use crate::wire::{SeqNumber, TcpFlags, TcpOptions, checksum};

/// Payload bytes in order: a first piece and those that follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a> {
    first: &'a [u8],
    rest: &'a [&'a [u8]],
    len: usize,
}

impl<'a> Bytes<'a> {
    /// The first `len` bytes of `first` and `rest`; fewer when there are not as many.
    pub(crate) fn new(first: &'a [u8], rest: &'a [&'a [u8]], len: usize) -> Self {
        let held = first.len() + rest.iter().map(|piece| piece.len()).sum::<usize>();
        Self { first, rest, len: len.min(held) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Without the first `count` bytes.
    pub(crate) fn skip(mut self, count: usize) -> Self {
        let mut left = count.min(self.len);
        self.len -= left;
        while left > self.first.len() {
            left -= self.first.len();
            let Some((next, rest)) = self.rest.split_first() else { return self };
            self.first = next;
            self.rest = rest;
        }
        self.first = &self.first[left..];
        self
    }

    /// Without what lies beyond `len`.
    pub(crate) fn truncate(mut self, len: usize) -> Self {
        self.len = self.len.min(len);
        self
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = self.len;
        core::iter::once(self.first).chain(self.rest.iter().copied()).map_while(move |piece| {
            if left == 0 {
                return None;
            }
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            Some(piece)
        })
    }

    /// The checksum's sum over all bytes.
    pub(crate) fn sum(&self) -> u16 {
        let mut sum = 0;
        let mut before = 0;
        for piece in self.pieces() {
            sum = checksum::combine(sum, before, checksum::sum(piece));
            before += piece.len();
        }
        sum
    }

    /// Stores as much as the host takes; the sum is of all bytes, stored or not.
    pub(crate) fn store<H: Host>(&self, host: &mut H, owner: Owner, offset: u64) -> Stored {
        let mut stored = 0;
        let mut sum = 0;
        let mut before = 0;
        for piece in self.pieces() {
            if stored < before {
                // The host was short of memory: only the sum goes on.
                sum = checksum::combine(sum, before, checksum::sum(piece));
                before += piece.len();
                continue;
            }
            let Stored { len, sum: piece_sum } = host.store(owner, offset + stored as u64, piece);
            let len = len.min(piece.len());
            sum = checksum::combine(sum, before, piece_sum);
            if len < piece.len() {
                sum = checksum::combine(sum, before + len, checksum::sum(&piece[len..]));
            }
            stored += len;
            before += piece.len();
        }
        Stored { len: stored, sum }
    }
}

/// A received segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) seq: SeqNumber,
    pub(crate) ack: SeqNumber,
    pub(crate) flags: TcpFlags,
    /// [`codepoint`](super::ecn::codepoint) of the IP header.
    pub(crate) ecn: u8,
    /// Time to live of the IP header.
    pub(crate) ttl: u8,
    /// As on the wire.
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: &'a TcpOptions,
    pub(crate) payload: Bytes<'a>,
    /// Payload bytes of each wire segment of a merged train; 0: a single segment.
    pub(crate) train: u16,
}

impl Arrival<'_> {
    /// SEG.LEN: payload and the two flags that take a number.
    pub(crate) fn sequence_len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }

    /// Size of a full wire segment of this arrival.
    pub(crate) fn wire_size(&self) -> usize {
        if self.train == 0 { self.payload.len() } else { usize::from(self.train) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    struct Memory {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Host for Memory {
        fn transmit(&mut self, _: crate::PortId, _: &crate::Segment<'_>) -> Result<(), crate::Busy> {
            Err(crate::Busy)
        }
        fn store(&mut self, _: Owner, offset: u64, bytes: &[u8]) -> Stored {
            assert_eq!(offset, 7 + self.bytes.len() as u64);
            let len = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..len]);
            Stored { len, sum: checksum::sum(&bytes[..len]) }
        }
    }

    proptest! {
        #[test]
        fn pieces_are_one_string(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..6),
            skip in 0usize..60, keep in 0usize..60, room in 0usize..60,
        ) {
            let whole: Vec<u8> = pieces.concat();
            let rest: Vec<&[u8]> = pieces[1..].iter().map(|piece| &piece[..]).collect();
            let bytes = Bytes::new(&pieces[0], &rest, usize::MAX).skip(skip).truncate(keep);
            let expected: Vec<u8> = whole.iter().copied().skip(skip).take(keep).collect();
            prop_assert_eq!(bytes.len(), expected.len());
            prop_assert_eq!(bytes.pieces().collect::<Vec<_>>().concat(), expected.clone());
            prop_assert_eq!(bytes.sum(), checksum::sum(&expected));
            let mut memory = Memory { bytes: Vec::new(), room };
            let stored = bytes.store(&mut memory, Owner(1), 7);
            prop_assert_eq!(stored.len, room.min(expected.len()));
            prop_assert_eq!(stored.sum, checksum::sum(&expected));
            prop_assert_eq!(&memory.bytes[..], &expected[..stored.len]);
        }
    }
}
