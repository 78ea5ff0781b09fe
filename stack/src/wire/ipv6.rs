//! The IPv6 header (RFC 8200). Extension headers are the consumer's affair.

use super::Malformed;
use core::net::Ipv6Addr;

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;

/// Header of a received packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6View<'a> {
    fixed: &'a [u8; HEADER_LEN],
    rest: &'a [u8],
}

impl<'a> Ipv6View<'a> {
    /// Reads a header from the beginning of `packet`, which may end before the packet does.
    pub fn new(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = packet.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if fixed[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        Ok(Self { fixed, rest })
    }

    pub fn traffic_class(&self) -> u8 {
        self.fixed[0] << 4 | self.fixed[1] >> 4
    }

    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.fixed[1] & 0x0f, self.fixed[2], self.fixed[3]])
    }

    /// Bytes after this header, as the header says.
    pub fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    pub fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    pub fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    pub fn source(&self) -> Ipv6Addr {
        address(self.fixed, 8)
    }

    pub fn destination(&self) -> Ipv6Addr {
        address(self.fixed, 24)
    }

    /// The bytes at hand that follow the header, padding after the packet included.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

fn address(fixed: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = core::array::from_fn(|index| fixed[at + index]);
    Ipv6Addr::from(octets)
}

/// Header of a packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Repr {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub next_header: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
    /// The low 20 bits are sent.
    pub flow_label: u32,
    pub payload_len: u16,
}

impl Ipv6Repr {
    pub const LEN: usize = HEADER_LEN;

    /// Writes the header to the beginning of `buffer` and returns its length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        buffer[..4].copy_from_slice(&first.to_be_bytes());
        buffer[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        buffer[6] = self.next_header;
        buffer[7] = self.hop_limit;
        buffer[8..24].copy_from_slice(&self.source.octets());
        buffer[24..40].copy_from_slice(&self.destination.octets());
        Self::LEN
    }
}
