//! Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use super::Malformed;
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Header bytes without tags.
pub const HEADER_LEN: usize = 14;
const TAG_LEN: usize = 4;

/// A hardware address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Group bit set: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// An address that a single station can have.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EtherType(pub u16);

impl EtherType {
    pub const IPV4: Self = Self(0x0800);
    pub const ARP: Self = Self(0x0806);
    pub const IPV6: Self = Self(0x86dd);
    const VLAN: Self = Self(0x8100);
    const SERVICE_VLAN: Self = Self(0x88a8);

    const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// Header of a received frame.
#[derive(Clone, Copy, Debug)]
pub struct EthernetView<'a> {
    pub destination: MacAddr,
    pub source: MacAddr,
    /// After the tags. Three tags leave a tag's type here, which no consumer accepts.
    pub ether_type: EtherType,
    tags: [u16; 2],
    tag_count: u8,
    payload: &'a [u8],
}

impl<'a> EthernetView<'a> {
    pub fn new(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, mut payload) = frame.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, type_high, type_low] = *header;
        let mut ether_type = EtherType(u16::from_be_bytes([type_high, type_low]));
        let (mut tags, mut tag_count) = ([0; 2], 0);
        for tag in &mut tags {
            if !ether_type.is_tag() {
                break;
            }
            let (&[tag_high, tag_low, type_high, type_low], rest) =
                payload.split_first_chunk::<TAG_LEN>().ok_or(Malformed::Truncated)?;
            *tag = u16::from_be_bytes([tag_high, tag_low]);
            ether_type = EtherType(u16::from_be_bytes([type_high, type_low]));
            payload = rest;
            tag_count += 1;
        }
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        let source = MacAddr([s0, s1, s2, s3, s4, s5]);
        Ok(Self { destination, source, ether_type, tags, tag_count, payload })
    }

    /// Tag control information of each tag (priority, drop eligible, VLAN id), outermost first.
    pub fn tags(&self) -> &[u16] {
        self.tags.get(..usize::from(self.tag_count)).unwrap_or_default()
    }

    /// VLAN id of the innermost tag; 0 without one (a priority tag, id 0, means the same: IEEE 802.1Q section 9.6).
    pub fn vlan(&self) -> u16 {
        self.tags().last().map_or(0, |tag| tag & 0x0fff)
    }

    pub fn header_len(&self) -> usize {
        HEADER_LEN + TAG_LEN * usize::from(self.tag_count)
    }

    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Header of a frame to send. Tags are written by the host's VLAN device, not by the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetRepr {
    pub destination: MacAddr,
    pub source: MacAddr,
    pub ether_type: EtherType,
}

impl EthernetRepr {
    pub const LEN: usize = HEADER_LEN;

    /// Writes the header to the beginning of `buffer` and returns its length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        buffer[..6].copy_from_slice(&self.destination.0);
        buffer[6..12].copy_from_slice(&self.source.0);
        buffer[12..14].copy_from_slice(&self.ether_type.0.to_be_bytes());
        HEADER_LEN
    }
}
