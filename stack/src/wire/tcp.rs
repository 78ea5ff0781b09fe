//! The TCP header (RFC 9293 section 3.1). Options are in [`tcp_options`](super::tcp_options).

use super::tcp_options::TcpOptions;
use super::{Malformed, SeqNumber, checksum};
use core::fmt;
use core::ops::{BitOr, BitOrAssign};

/// Header bytes without options.
pub const MIN_HEADER_LEN: usize = 20;
/// Place of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// Control bits: the low nine bits of the header's words 12 and 13.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const URG: Self = Self(0x20);
    pub const ECE: Self = Self(0x40);
    pub const CWR: Self = Self(0x80);
    /// RFC 9768: the third bit of the ACE field.
    pub const AE: Self = Self(0x100);
    /// AE, CWR and ECE: all bits that ECN has in the TCP header.
    pub const ECN: Self = Self(0x1c0);
    /// All that are defined.
    pub const ALL: Self = Self(0x1ff);

    /// Whether all bits of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any bit of `flags` is set.
    #[inline]
    pub const fn intersects(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    pub const fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    pub const fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    pub const fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    pub const fn ack(self) -> bool {
        self.contains(Self::ACK)
    }

    pub const fn psh(self) -> bool {
        self.contains(Self::PSH)
    }

    pub const fn urg(self) -> bool {
        self.contains(Self::URG)
    }

    /// AE, CWR and ECE as a number of three bits: the ACE field of RFC 9768 section 3.2.2.
    #[inline]
    pub const fn ace(self) -> u8 {
        (self.0 >> 6) as u8 & 7
    }

    /// The flags that say `ace`, of which three bits count.
    #[inline]
    pub const fn from_ace(ace: u8) -> Self {
        Self((ace as u16 & 7) << 6)
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for TcpFlags {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The letters that packet captures use: `SA`, `A`, `FPA`.
impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x10, 'A'), (0x20, 'U'), (0x40, 'E')];
        for (bit, letter) in letters.into_iter().chain([(0x80, 'C'), (0x100, 'N')]) {
            if self.0 & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Header of a received segment. Its bounds were checked, its checksum was not.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Reads a header from the beginning of `segment`, which ends where the packet (or its first piece) ends.
    #[inline]
    pub fn new(segment: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = segment.split_first_chunk::<MIN_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        let options_len = header_len.checked_sub(MIN_HEADER_LEN).ok_or(Malformed::HeaderLength)?;
        let (options, payload) = rest.split_at_checked(options_len).ok_or(Malformed::Truncated)?;
        Ok(Self { fixed, options, payload })
    }

    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    #[inline]
    pub fn seq(&self) -> SeqNumber {
        SeqNumber(u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]]))
    }

    /// Without the ACK flag the field means nothing.
    #[inline]
    pub fn ack(&self) -> SeqNumber {
        SeqNumber(u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]]))
    }

    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(u16::from_be_bytes([self.fixed[12], self.fixed[13]]) & TcpFlags::ALL.0)
    }

    /// As on the wire, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.fixed[14], self.fixed[15]])
    }

    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[16], self.fixed[17]])
    }

    /// Offset from the sequence number; without the URG flag the field means nothing.
    #[inline]
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes([self.fixed[18], self.fixed[19]])
    }

    #[inline]
    pub fn header_len(&self) -> usize {
        MIN_HEADER_LEN + self.options.len()
    }

    pub fn raw_options(&self) -> &'a [u8] {
        self.options
    }

    #[inline]
    pub fn options(&self) -> TcpOptions {
        TcpOptions::parse(self.options)
    }

    /// Payload bytes in this piece.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Sum of header and options. Their length is even: the payload's sum adds without a swap.
    #[inline]
    pub fn header_sum(&self) -> u16 {
        checksum::add(checksum::sum(self.fixed), checksum::sum(self.options))
    }
}

/// Header of a segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRepr {
    pub source_port: u16,
    pub destination_port: u16,
    pub seq: SeqNumber,
    /// Sent as 0 when the ACK flag is not set.
    pub ack: SeqNumber,
    pub flags: TcpFlags,
    /// As on the wire, already scaled.
    pub window: u16,
    /// Sent as 0 when the URG flag is not set.
    pub urgent: u16,
    pub options: TcpOptions,
}

impl TcpRepr {
    /// Longest header.
    pub const MAX_LEN: usize = 60;

    pub fn header_len(&self) -> usize {
        MIN_HEADER_LEN + self.options.len()
    }

    /// Writes header and options with a checksum field of `checksum` to the beginning of `buffer` and returns their
    /// length. With the folded pseudo-header sum in the field the segment is what
    /// [`TxChecksum::Partial`](crate::frame::TxChecksum) asks for.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::header_len`].
    #[inline]
    pub fn emit(&self, buffer: &mut [u8], checksum: u16) -> usize {
        let options_len = self.options.emit(&mut buffer[MIN_HEADER_LEN..]);
        let header_len = MIN_HEADER_LEN + options_len;
        let when = |flag, value| if self.flags.contains(flag) { value } else { 0 };
        let header: &mut [u8] = &mut buffer[..MIN_HEADER_LEN];
        header[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        header[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        header[8..12].copy_from_slice(&when(TcpFlags::ACK, self.ack.0).to_be_bytes());
        let [reserved, flags] = self.flags.0.to_be_bytes();
        header[12] = ((header_len / 4) as u8 * 16) | (reserved & 1);
        header[13] = flags;
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
        header[18..20].copy_from_slice(&(when(TcpFlags::URG, u32::from(self.urgent)) as u16).to_be_bytes());
        header_len
    }

    /// Writes a segment without payload, its checksum complete. `pseudo`: the pseudo header's sum over
    /// [`Self::header_len`] bytes.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::header_len`].
    pub fn emit_complete(&self, buffer: &mut [u8], pseudo: u16) -> usize {
        let len = self.emit(buffer, pseudo);
        let sum = checksum::sum(&buffer[..len]);
        buffer[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&(!sum).to_be_bytes());
        len
    }
}
