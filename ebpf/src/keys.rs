//! Records of the maps as the programs have them (`programs/maps.h`), made from Rust's addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv6 in network order, IPv4 as ::ffff:a.b.c.d.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct AddressKey([u8; 16]);

/// A connected 4-tuple, seen from the engine: `local` is where received packets are addressed to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowKey {
    local: AddressKey,
    remote: AddressKey,
    local_port: [u8; 2],
    remote_port: [u8; 2],
}

/// Address and port of a listener. The unspecified address of a family means each address of that family that is in
/// the address map; a dual-stack socket takes two entries.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ListenerKey {
    local: AddressKey,
    port: [u8; 2],
    reserved: [u8; 2],
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// The host's too: only flows and listeners are diverted. Wildcard listeners match on it.
    Shared,
    /// The engine's alone: everything to it is diverted, ARP, neighbour solicitations, ICMP and fragments included.
    Own,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct FlowValue {
    pub shard: u32,
    pub reserved: u32,
    pub hits: u64,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ListenerValue {
    pub hits: u64,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct AddressValue {
    pub mode: u32,
    pub reserved: u32,
    pub hits: u64,
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl AddressKey {
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl FlowKey {
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: local.ip().into(),
            remote: remote.ip().into(),
            local_port: local.port().to_be_bytes(),
            remote_port: remote.port().to_be_bytes(),
        }
    }

    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip(), u16::from_be_bytes(self.local_port))
    }

    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.ip(), u16::from_be_bytes(self.remote_port))
    }
}

impl ListenerKey {
    pub fn new(local: SocketAddr) -> Self {
        Self { local: local.ip().into(), port: local.port().to_be_bytes(), reserved: [0; 2] }
    }

    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip(), u16::from_be_bytes(self.port))
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} <- {}", self.local(), self.remote())
    }
}

impl std::fmt::Debug for ListenerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.local())
    }
}

impl AddressMode {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Shared => 1,
            Self::Own => 2,
        }
    }

    pub(crate) const fn from_code(code: u32) -> Self {
        if code == 2 { Self::Own } else { Self::Shared }
    }
}

// The programs were compiled for these sizes; the kernel refuses others at the first access, this says it earlier.
const _: () = {
    assert!(size_of::<FlowKey>() == 36);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<FlowValue>() == 16);
    assert!(size_of::<AddressValue>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_give_back_their_addresses(local: SocketAddr, remote: SocketAddr) {
            // Scope and flow label are no part of a key; a mapped IPv6 address is the IPv4 one.
            let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
            let flow = FlowKey::new(local, remote);
            prop_assert_eq!((flow.local(), flow.remote()), (plain(local), plain(remote)));
            prop_assert_eq!(ListenerKey::new(local).local(), plain(local));
        }
    }

    #[test]
    fn the_wildcards_of_the_families_differ() {
        let v4 = ListenerKey::new("0.0.0.0:80".parse().unwrap());
        let v6 = ListenerKey::new("[::]:80".parse().unwrap());
        assert_ne!(v4, v6);
        assert_eq!(v4.local(), "0.0.0.0:80".parse().unwrap());
        assert_eq!(v6.local(), "[::]:80".parse().unwrap());
    }
}
