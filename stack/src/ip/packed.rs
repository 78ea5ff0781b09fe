//! An IP address of either family as sixteen bytes of a record.

use core::net::{IpAddr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv4 lies in it as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2), which never stands in an IPv6 header, so that no
/// two addresses share a form. All zeros: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PackedIp([u8; 16]);

impl PackedIp {
    pub const NONE: Self = Self([0; 16]);

    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The address as an option.
    pub fn option(self) -> Option<IpAddr> {
        if self.is_none() { None } else { Some(self.into()) }
    }

    /// The last eight bytes, which tell most addresses apart.
    pub(crate) fn low(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The first eight bytes.
    pub(crate) fn high(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl From<IpAddr> for PackedIp {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Self(address.octets()),
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
        let address = Ipv6Addr::from(packed.0);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
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
