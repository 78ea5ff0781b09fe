//! ARP for IPv4 over Ethernet (RFC 826).

use super::Malformed;
use super::ethernet::MacAddr;
use core::net::Ipv4Addr;

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    Request,
    Reply,
}

/// An ARP packet. All of its fields are fixed, so that one type serves for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpRepr {
    pub operation: ArpOperation,
    pub sender_mac: MacAddr,
    pub sender_ip: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target_ip: Ipv4Addr,
}

/// Hardware type Ethernet, protocol type IPv4, their address lengths: the only combination there is.
const PREFIX: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

impl ArpRepr {
    pub const LEN: usize = 28;

    /// Reads a packet from the beginning of `bytes`; Ethernet's padding may follow.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let packet = bytes.first_chunk::<{ Self::LEN }>().ok_or(Malformed::Truncated)?;
        let [p0, p1, p2, p3, p4, p5, op_high, op_low, addresses @ ..] = *packet;
        if [p0, p1, p2, p3, p4, p5] != PREFIX {
            return Err(Malformed::Type);
        }
        let operation = match u16::from_be_bytes([op_high, op_low]) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return Err(Malformed::Type),
        };
        let [a0, a1, a2, a3, a4, a5, i0, i1, i2, i3, b0, b1, b2, b3, b4, b5, j0, j1, j2, j3] = addresses;
        Ok(Self {
            operation,
            sender_mac: MacAddr([a0, a1, a2, a3, a4, a5]),
            sender_ip: Ipv4Addr::new(i0, i1, i2, i3),
            target_mac: MacAddr([b0, b1, b2, b3, b4, b5]),
            target_ip: Ipv4Addr::new(j0, j1, j2, j3),
        })
    }

    /// Writes the packet to the beginning of `buffer` and returns its length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        let operation: u16 = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        buffer[..6].copy_from_slice(&PREFIX);
        buffer[6..8].copy_from_slice(&operation.to_be_bytes());
        buffer[8..14].copy_from_slice(&self.sender_mac.0);
        buffer[14..18].copy_from_slice(&self.sender_ip.octets());
        buffer[18..24].copy_from_slice(&self.target_mac.0);
        buffer[24..28].copy_from_slice(&self.target_ip.octets());
        Self::LEN
    }
}
