//! Where the headers of a frame lie, as far as ports have to know it: Ethernet with up to two VLAN tags, IPv4 with
//! options, IPv6 without extension headers.
//!
//! This is not the stack's parser: it says "not for me" (`None`) to everything that a port never cuts or merges.

use super::sum::{self, Sum};

pub const ETHERNET: usize = 14;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Offset of the TCP flags byte from the beginning of the TCP header.
pub const TCP_FLAGS: usize = 13;
/// Offset of the checksum field from the beginning of the TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum field from the beginning of the UDP header.
pub const UDP_CHECKSUM: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

/// Offsets are bytes from the beginning of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub version: Version,
    /// Beginning of the IP header.
    pub l3: usize,
    /// Beginning of the transport header.
    pub l4: usize,
    /// End of the IP packet by its own length field; may lie beyond the bytes at hand.
    pub end: usize,
    /// Transport protocol (IANA number).
    pub protocol: u8,
}

impl Layout {
    /// Finds the headers of an Ethernet frame. `None` for anything but an unfragmented IP packet whose transport
    /// header follows directly.
    pub fn of_ethernet(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        let mut ether_type = be16(frame, at)?;
        for _tag in 0..2 {
            if !matches!(ether_type, 0x8100 | 0x88a8) {
                break;
            }
            at += 4;
            ether_type = be16(frame, at)?;
        }
        match ether_type {
            0x0800 | 0x86dd => Self::of_ip(frame, at + 2),
            _ => None,
        }
    }

    /// Finds the headers of a frame whose IP header begins at `l3` (0 for interfaces without a link header).
    pub fn of_ip(frame: &[u8], l3: usize) -> Option<Self> {
        match *frame.get(l3)? >> 4 {
            4 => {
                let header = usize::from(frame[l3] & 0x0f) * 4;
                let total = usize::from(be16(frame, l3 + 2)?);
                let fragment = be16(frame, l3 + 6)? & 0x3fff;
                if header < 20 || total < header || fragment != 0 || frame.len() < l3 + header {
                    return None;
                }
                let protocol = frame[l3 + 9];
                Some(Self { version: Version::V4, l3, l4: l3 + header, end: l3 + total, protocol })
            }
            6 => {
                let payload = usize::from(be16(frame, l3 + 4)?);
                if frame.len() < l3 + 40 {
                    return None;
                }
                let protocol = frame[l3 + 6];
                Some(Self { version: Version::V6, l3, l4: l3 + 40, end: l3 + 40 + payload, protocol })
            }
            _ => None,
        }
    }

    /// Length of the TCP header with options, if all of it is in `frame`.
    pub fn tcp_header(&self, frame: &[u8]) -> Option<usize> {
        let length = usize::from(*frame.get(self.l4 + 12)? >> 4) * 4;
        (self.protocol == TCP && length >= 20 && frame.len() >= self.l4 + length).then_some(length)
    }

    /// Both addresses.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match self.version {
            Version::V4 => &frame[self.l3 + 12..self.l3 + 20],
            Version::V6 => &frame[self.l3 + 8..self.l3 + 40],
        }
    }

    /// Sum of the pseudo-header for a transport segment of `length` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub fn pseudo_header(&self, frame: &[u8], length: usize) -> Sum {
        let mut sum = Sum::default();
        sum.add(self.addresses(frame));
        sum.add_u16(u16::from(self.protocol));
        sum.add_u16(length as u16);
        sum
    }

    /// Writes length (and for IPv4 the header checksum) for a packet that ends at `end`.
    pub fn set_end(&self, frame: &mut [u8], end: usize) {
        match self.version {
            Version::V4 => {
                put_be16(frame, self.l3 + 2, (end - self.l3) as u16);
                self.sum_ipv4(frame);
            }
            Version::V6 => put_be16(frame, self.l3 + 4, (end - self.l3 - 40) as u16),
        }
    }

    /// Computes the IPv4 header checksum anew.
    pub fn sum_ipv4(&self, frame: &mut [u8]) {
        sum::store(frame, self.l3 + 10, 0);
        let mut header = Sum::default();
        header.add(&frame[self.l3..self.l4]);
        sum::store(frame, self.l3 + 10, !header.fold());
    }

    /// Whether the IPv4 header checksum holds; IPv6 has none.
    pub fn network_checksum_holds(&self, frame: &[u8]) -> bool {
        if self.version == Version::V6 {
            return true;
        }
        let mut header = Sum::default();
        header.add(&frame[self.l3..self.l4]);
        header.fold() == 0xffff
    }

    /// Whether the transport checksum field holds exactly the folded pseudo-header sum, as the kernel leaves it for a
    /// device to complete (CHECKSUM_PARTIAL).
    ///
    /// A veth peer hands such frames over without a mark. On a complete frame the field equals that sum by chance
    /// once in 65,536 times, and then a corrupted frame would pass, which is also how often the checksum itself misses a
    /// random corruption; nobody gains by forging it, since whoever can send the frame can also sum it. Ports look
    /// for it only where a local peer is possible (see `xdp::Params::local_peer`).
    pub fn checksum_is_partial(&self, frame: &[u8]) -> bool {
        let at = match self.protocol {
            TCP => self.l4 + TCP_CHECKSUM,
            UDP => self.l4 + UDP_CHECKSUM,
            _ => return false,
        };
        if frame.len() < at + 2 || self.end < self.l4 {
            return false;
        }
        sum::load(frame, at) == self.pseudo_header(frame, self.end - self.l4).fold()
    }
}

pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

pub fn put_be16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Reads a 32-bit number; the caller has checked the bounds.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..4) {
            let mut frame = frame;
            if frame.len() > 14 {
                let ether_type: [u8; 2] = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]][usize::from(kind)];
                frame[12..14].copy_from_slice(&ether_type);
            }
            if let Some(layout) = Layout::of_ethernet(&frame) {
                layout.checksum_is_partial(&frame);
                layout.network_checksum_holds(&frame);
                layout.tcp_header(&frame);
            }
        }
    }
}
