//! The IPv4 header (RFC 791).

use super::{Malformed, checksum};
use core::net::Ipv4Addr;

/// Header bytes without options.
pub const MIN_HEADER_LEN: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Header of a received packet. Its bounds were checked against the bytes at hand, its checksum was not.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    options: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Reads a header from the beginning of `packet`, which may end before the packet does (the rest lies in other
    /// pieces, or was cut off by an ICMP error).
    #[inline]
    pub fn new(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = packet.split_first_chunk::<MIN_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        if fixed[0] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let options_len = header_len.checked_sub(MIN_HEADER_LEN).ok_or(Malformed::HeaderLength)?;
        let (options, rest) = rest.split_at_checked(options_len).ok_or(Malformed::Truncated)?;
        let view = Self { fixed, options, rest };
        if usize::from(view.total_len()) < header_len {
            return Err(Malformed::TotalLength);
        }
        Ok(view)
    }

    #[inline]
    pub fn header_len(&self) -> usize {
        MIN_HEADER_LEN + self.options.len()
    }

    /// Header and payload in bytes, as the header says.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// Differentiated services and ECN.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.fixed[1]
    }

    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Bytes, a multiple of eight.
    pub fn fragment_offset(&self) -> u16 {
        (self.flags_and_offset() & OFFSET_MASK) << 3
    }

    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    #[inline]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    #[inline]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[12], self.fixed[13], self.fixed[14], self.fixed[15])
    }

    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[16], self.fixed[17], self.fixed[18], self.fixed[19])
    }

    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Whether the header's own checksum holds.
    #[inline]
    pub fn checksum_holds(&self) -> bool {
        // The fixed part has an even length, so that the two sums add without a swap.
        checksum::add(checksum::sum(self.fixed), checksum::sum(self.options)) == checksum::VALID
    }

    /// The bytes at hand that follow the header, padding after the packet included.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Payload bytes as the header says.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len()).saturating_sub(self.header_len())
    }

    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.fixed[6], self.fixed[7]])
    }
}

/// Header of a packet to send. Sent without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Repr {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub identification: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// Bytes; rounded down to a multiple of eight.
    pub fragment_offset: u16,
    /// Transport header and payload in bytes. At most [`Ipv4Repr::MAX_PAYLOAD`]; a longer one is written as that.
    pub payload_len: u16,
}

impl Ipv4Repr {
    pub const LEN: usize = MIN_HEADER_LEN;
    pub const MAX_PAYLOAD: u16 = u16::MAX - MIN_HEADER_LEN as u16;

    /// Writes the header with its checksum to the beginning of `buffer` and returns its length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::LEN`].
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        let total_len = self.payload_len.min(Self::MAX_PAYLOAD) + Self::LEN as u16;
        let flag = |set, bit| if set { bit } else { 0 };
        let flags = flag(self.dont_fragment, DONT_FRAGMENT) | flag(self.more_fragments, MORE_FRAGMENTS);
        let high = |first: u8, second: u8| u32::from(u16::from_be_bytes([first, second])) << 16;
        let mut words = [
            high(4 << 4 | (Self::LEN / 4) as u8, self.tos) | u32::from(total_len),
            u32::from(self.identification) << 16 | u32::from(flags | self.fragment_offset >> 3),
            high(self.ttl, self.protocol),
            self.source.to_bits(),
            self.destination.to_bits(),
        ];
        // Summed as numbers: bytes just written would have to be waited for.
        words[2] |= u32::from(!checksum::sum_words(&words));
        for (place, word) in buffer[..Self::LEN].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
        }
        Self::LEN
    }
}
