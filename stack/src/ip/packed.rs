//! An IP address of either family as sixteen bytes of a record.
//!
//! Four words and not bytes: what is made of words stays in registers on its way through the calls for a segment, where
//! bytes would be written one by one and read back at once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv4 lies in it as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2), which never stands in an IPv6 header, so that no
/// two addresses share a form. All zeros: none. Words lie in memory as the address does on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PackedIp([u32; 4]);

/// The third word of every IPv4 address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl PackedIp {
    pub const NONE: Self = Self([0; 4]);

    #[inline]
    pub const fn v4(address: Ipv4Addr) -> Self {
        Self([0, 0, MAPPED, address.to_bits().to_be()])
    }

    /// The address, if it is one of IPv4.
    #[inline]
    pub const fn to_v4(self) -> Option<Ipv4Addr> {
        match self.0 {
            [0, 0, MAPPED, address] => Some(Ipv4Addr::from_bits(u32::from_be(address))),
            _ => None,
        }
    }

    fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }

    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The address as an option.
    pub fn option(self) -> Option<IpAddr> {
        if self.is_none() { None } else { Some(self.into()) }
    }

    /// The last eight bytes, which tell most addresses apart.
    #[inline]
    pub(crate) fn low(&self) -> u64 {
        pair(self.0[2], self.0[3])
    }

    /// The first eight bytes.
    #[inline]
    pub(crate) fn high(&self) -> u64 {
        pair(self.0[0], self.0[1])
    }
}

/// Two words that lie one after the other on the wire, as a number.
#[inline]
fn pair(first: u32, second: u32) -> u64 {
    u64::from(u32::from_be(first)) << 32 | u64::from(u32::from_be(second))
}

impl From<Ipv4Addr> for PackedIp {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address)
    }
}

impl From<IpAddr> for PackedIp {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address),
            IpAddr::V6(address) => Self(zerocopy::transmute!(address.octets())),
        }
    }
}

impl From<Option<IpAddr>> for PackedIp {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::NONE, Self::from)
    }
}

impl From<PackedIp> for IpAddr {
    #[inline]
    fn from(packed: PackedIp) -> Self {
        packed.to_v4().map_or_else(|| IpAddr::V6(Ipv6Addr::from(packed.octets())), IpAddr::V4)
    }
}

#[cfg(test)]
mod tests {
    use super::PackedIp;
    use core::net::IpAddr;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_come_back_as_they_went_in(v4: u32, v6: u128) {
            for address in [IpAddr::from(v4.to_be_bytes()), IpAddr::from((v6 | 1 << 127).to_be_bytes())] {
                prop_assert_eq!(PackedIp::from(address).option(), Some(address));
            }
        }
    }

    #[test]
    fn none_is_no_ipv4_address() {
        assert_eq!(PackedIp::NONE.option(), None);
        assert!(!PackedIp::from(IpAddr::from([0, 0, 0, 0])).is_none());
    }
}
