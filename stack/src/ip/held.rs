//! Frames that wait for a neighbour.
//!
//! Only frames that consist of headers alone are held (SYN, SYN-ACK, RST, ACK), three for each next hop, so that
//! opening a connection does not lose its first segment to ARP. Data is not held: its sender is told
//! [`Busy`](crate::api::Busy) and tries again when the batch is flushed in which the answer came.

use super::packed::PackedIp;
use crate::frame::{MAX_HEADER, PortId, TxChecksum};
use core::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Frames held at a time, for all neighbours together.
pub const MAX_HELD: usize = 64;
/// Frames held for one neighbour; Linux's old unres_qlen.
const PER_NEIGHBOUR: usize = 3;

const ROOM: usize = MAX_HEADER.next_multiple_of(4);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Held {
    next_hop: PackedIp,
    /// Order of arrival. 0: free.
    ticket: u64,
    checksum_start: u16,
    checksum_offset: u16,
    len: u16,
    port: u8,
    partial: u8,
    bytes: [u8; ROOM],
    _pad: [u8; (8 - ROOM % 8) % 8],
}

/// The held frames, in the arena.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeldFrames {
    frames: [Held; MAX_HELD],
    last_ticket: u64,
    count: u64,
}

/// A frame that was held, its link addresses still to be written.
pub struct Released {
    bytes: [u8; ROOM],
    len: u16,
    pub checksum: TxChecksum,
}

impl Released {
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..usize::from(self.len)).unwrap_or_default()
    }
}

impl HeldFrames {
    /// Keeps `frame`. Returns how many older frames had to go: the oldest of the same neighbour beyond three, else the
    /// oldest of all when there is no room. `None`: the frame is too long to be held.
    pub fn hold(&mut self, port: PortId, next_hop: IpAddr, frame: &[u8], checksum: TxChecksum) -> Option<u64> {
        if frame.len() > ROOM {
            return None;
        }
        let next_hop = PackedIp::from(next_hop);
        let same = |held: &Held| held.ticket != 0 && held.port == port.0 && held.next_hop == next_hop;
        let crowded = self.frames.iter().filter(|held| same(held)).count() >= PER_NEIGHBOUR;
        // Free places have ticket 0 and come first.
        let candidates = self.frames.iter_mut().filter(|held| !crowded || same(held));
        let place = candidates.min_by_key(|held| held.ticket)?;
        let dropped = u64::from(place.ticket != 0);
        self.last_ticket += 1;
        self.count += 1 - dropped;
        let (partial, checksum_start, checksum_offset) = match checksum {
            TxChecksum::Complete => (0, 0, 0),
            TxChecksum::Partial { start, offset } => (1, start, offset),
        };
        let mut bytes = [0; ROOM];
        bytes[..frame.len()].copy_from_slice(frame);
        *place = Held {
            next_hop,
            ticket: self.last_ticket,
            checksum_start,
            checksum_offset,
            len: frame.len() as u16,
            port: port.0,
            partial,
            bytes,
            _pad: Default::default(),
        };
        Some(dropped)
    }

    /// The oldest frame that waits for this neighbour.
    pub fn release(&mut self, port: PortId, next_hop: IpAddr) -> Option<Released> {
        if self.count == 0 {
            return None;
        }
        let next_hop = PackedIp::from(next_hop);
        let same = |held: &&mut Held| held.ticket != 0 && held.port == port.0 && held.next_hop == next_hop;
        let held = self.frames.iter_mut().filter(same).min_by_key(|held| held.ticket)?;
        held.ticket = 0;
        self.count -= 1;
        let checksum = match held.partial {
            0 => TxChecksum::Complete,
            _ => TxChecksum::Partial { start: held.checksum_start, offset: held.checksum_offset },
        };
        Some(Released { bytes: held.bytes, len: held.len, checksum })
    }

    /// Drops what waits for a neighbour that does not answer; how many frames that were.
    pub fn give_up(&mut self, port: PortId, next_hop: IpAddr) -> u64 {
        let mut dropped = 0;
        while self.release(port, next_hop).is_some() {
            dropped += 1;
        }
        dropped
    }

    /// Frames held now.
    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::boxed::Box;
    use std::vec;

    const PORT: PortId = PortId(1);

    fn fresh() -> Box<HeldFrames> {
        Box::new(HeldFrames::read_from_bytes(&vec![0; size_of::<HeldFrames>()]).unwrap())
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn frames_come_out_in_order_and_only_the_newest_three() {
        let mut held = fresh();
        let partial = TxChecksum::Partial { start: 34, offset: 16 };
        for byte in 1..=5 {
            let dropped = held.hold(PORT, ip(1), &[byte; 54], partial);
            assert_eq!(dropped, Some(u64::from(byte > 3)));
        }
        assert_eq!(held.hold(PORT, ip(2), &[9; 60], TxChecksum::Complete), Some(0));
        assert_eq!(held.len(), 4);
        for byte in 3..=5 {
            let mut frame = held.release(PORT, ip(1)).unwrap();
            assert_eq!((frame.bytes_mut().to_vec(), frame.checksum), (vec![byte; 54], partial));
        }
        assert!(held.release(PORT, ip(1)).is_none() && held.release(PortId(2), ip(2)).is_none());
        assert_eq!((held.give_up(PORT, ip(2)), held.len()), (1, 0));
    }

    #[test]
    fn a_full_pool_drops_the_oldest_and_a_long_frame_is_not_held() {
        let mut held = fresh();
        for last in 0..MAX_HELD as u8 {
            assert_eq!(held.hold(PORT, ip(last), &[last], TxChecksum::Complete), Some(0));
        }
        assert_eq!(held.hold(PORT, ip(200), &[200], TxChecksum::Complete), Some(1));
        assert!(held.release(PORT, ip(0)).is_none() && held.release(PORT, ip(200)).is_some());
        assert_eq!(held.hold(PORT, ip(1), &[0; ROOM + 1], TxChecksum::Complete), None);
    }
}
