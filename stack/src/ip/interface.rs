//! Interfaces and their addresses.
//!
//! Interfaces are few and found by port number in one step; addresses are few and scanned.

use super::packed::PackedIp;
use crate::api::{AddressMode, Error, InterfaceConfig, Link};
use crate::frame::{Offload, PortId};
use crate::wire::MacAddr;
use core::net::{IpAddr, Ipv4Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Port numbers are below this.
pub const MAX_INTERFACES: usize = 64;
/// Addresses of all interfaces together.
pub const MAX_ADDRESSES: usize = 128;
/// RFC 791 section 3.1: what every module must be able to take in one piece is 68 bytes; below that nothing works.
const MIN_MTU: u16 = 68;

const LINK_ETHERNET: u8 = 1;
const LINK_IP: u8 = 2;
const MODE_SHARED: u8 = 1;

/// An interface in the arena; all zeros: none.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InterfaceRecord {
    max_segment: u32,
    mtu: u16,
    mac: MacAddr,
    link: u8,
    mode: u8,
    tx_checksum: u8,
    port: u8,
}

impl InterfaceRecord {
    pub fn port(&self) -> PortId {
        PortId(self.port)
    }

    #[inline]
    pub fn link(&self) -> Link {
        if self.link == LINK_ETHERNET { Link::Ethernet { mac: self.mac.0 } } else { Link::Ip }
    }

    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    #[inline]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    #[inline]
    pub fn offload(&self) -> Offload {
        Offload { max_segment: self.max_segment, tx_checksum: self.tx_checksum != 0 }
    }

    pub fn mode(&self) -> AddressMode {
        if self.mode == MODE_SHARED { AddressMode::Shared } else { AddressMode::Own }
    }
}

/// An address in the arena.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressRecord {
    address: PackedIp,
    port: u8,
    prefix_len: u8,
    _pad: [u8; 2],
}

impl AddressRecord {
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    pub fn port(&self) -> PortId {
        PortId(self.port)
    }

    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }
}

/// Interfaces and addresses, in the arena.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Interfaces {
    interfaces: [InterfaceRecord; MAX_INTERFACES],
    addresses: [AddressRecord; MAX_ADDRESSES],
    address_count: u32,
}

impl Interfaces {
    /// Adds an interface, or changes the one of the same port.
    pub fn add(&mut self, config: &InterfaceConfig) -> Result<(), Error> {
        let place = self.interfaces.get_mut(usize::from(config.port.0)).ok_or(Error::Invalid)?;
        if config.mtu < MIN_MTU || config.offload.max_segment < u32::from(config.mtu) {
            return Err(Error::Invalid);
        }
        let (link, mac) = match config.link {
            Link::Ethernet { mac } => (LINK_ETHERNET, MacAddr(mac)),
            Link::Ip => (LINK_IP, MacAddr::default()),
        };
        *place = InterfaceRecord {
            max_segment: config.offload.max_segment,
            mtu: config.mtu,
            mac,
            link,
            mode: if config.mode == AddressMode::Shared { MODE_SHARED } else { 0 },
            tx_checksum: u8::from(config.offload.tx_checksum),
            port: config.port.0,
        };
        Ok(())
    }

    #[inline]
    pub fn get(&self, port: PortId) -> Option<&InterfaceRecord> {
        self.interfaces.get(usize::from(port.0)).filter(|interface| interface.link != 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &InterfaceRecord> {
        self.interfaces.iter().filter(|interface| interface.link != 0)
    }

    /// Gives `port` an address. IPv6 is refused: the stack speaks IPv4.
    pub fn add_address(&mut self, port: PortId, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        let IpAddr::V4(v4) = address else { return Err(Error::FamilyNotSupported) };
        if self.get(port).is_none() || prefix_len > 32 || !is_host_address(v4) {
            return Err(Error::Invalid);
        }
        let packed = PackedIp::from(address);
        if let Some(known) = self.addresses_mut().iter_mut().find(|known| known.address == packed) {
            // Moving it to another interface would leave connections on the old one.
            if known.port != port.0 {
                return Err(Error::AddressInUse);
            }
            known.prefix_len = prefix_len;
            return Ok(());
        }
        let place = self.addresses.get_mut(self.address_count as usize).ok_or(Error::NoMemory)?;
        *place = AddressRecord { address: packed, port: port.0, prefix_len, _pad: [0; 2] };
        self.address_count += 1;
        Ok(())
    }

    pub fn remove_address(&mut self, port: PortId, address: IpAddr) -> Result<(), Error> {
        let packed = PackedIp::from(address);
        let is_it = |known: &AddressRecord| known.address == packed && known.port == port.0;
        let place = self.addresses().iter().position(is_it).ok_or(Error::AddressNotAvailable)?;
        // The order is kept: the first address of an interface is its preferred source.
        self.addresses_mut()[place..].rotate_left(1);
        self.address_count -= 1;
        Ok(())
    }

    /// The addresses in the order in which they were added.
    #[inline]
    pub fn addresses(&self) -> &[AddressRecord] {
        self.addresses.get(..self.address_count as usize).unwrap_or_default()
    }

    /// Whether `address` is one of ours, on whichever interface.
    #[inline]
    pub fn is_local(&self, address: impl Into<PackedIp>) -> bool {
        self.find(address).is_some()
    }

    /// The record of one of our addresses.
    #[inline]
    pub fn find(&self, address: impl Into<PackedIp>) -> Option<&AddressRecord> {
        let packed = address.into();
        self.addresses().iter().find(|known| known.address == packed)
    }

    /// Address to send from over `port`: the one whose prefix holds `destination`, else the first.
    pub fn source_for(&self, port: PortId, destination: IpAddr) -> Option<IpAddr> {
        let of_port = || self.addresses().iter().filter(|known| known.port == port.0);
        let near = of_port().find(|known| prefix_holds(known.address(), known.prefix_len, destination));
        near.or_else(|| of_port().find(|known| known.address().is_ipv4() == destination.is_ipv4()))
            .map(AddressRecord::address)
    }

    /// Whether `address` is a broadcast address on `port`: limited, or of one of its prefixes.
    #[inline]
    pub fn is_broadcast(&self, port: PortId, address: Ipv4Addr) -> bool {
        address.is_broadcast()
            || self.addresses().iter().any(|known| {
                // A /31 or /32 has no broadcast address (RFC 3021).
                let Some(ours) = known.address.to_v4() else { return false };
                let host_bits = u32::MAX.checked_shr(u32::from(known.prefix_len)).unwrap_or(0);
                known.port == port.0 && host_bits > 1 && ours.to_bits() | host_bits == address.to_bits()
            })
    }

    fn addresses_mut(&mut self) -> &mut [AddressRecord] {
        self.addresses.get_mut(..self.address_count as usize).unwrap_or_default()
    }
}

/// Whether the first `len` bits of both addresses agree; never across families.
#[inline]
pub(crate) fn prefix_holds(network: IpAddr, len: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(32 - u32::from(len.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(128 - u32::from(len.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// An address that one host can have and send from.
#[inline]
pub(crate) fn is_host_address(address: Ipv4Addr) -> bool {
    // RFC 1122 section 3.2.1.3: 0/8 is "this network"; 240/4 is reserved.
    let [first, ..] = address.octets();
    first != 0 && first < 224
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    extern crate std;
    use std::boxed::Box;
    use std::net::Ipv6Addr;
    use zerocopy::FromZeros;

    pub(crate) const PORT: PortId = PortId(3);
    pub(crate) const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    pub(crate) fn config(mode: AddressMode) -> InterfaceConfig {
        InterfaceConfig {
            port: PORT,
            link: Link::Ethernet { mac: OUR_MAC.0 },
            mtu: 1_500,
            offload: Offload { max_segment: 1_500, tx_checksum: false },
            mode,
        }
    }

    pub(crate) fn interfaces(mode: AddressMode) -> Box<Interfaces> {
        let mut interfaces: Box<Interfaces> = Box::new(Interfaces::new_zeroed());
        interfaces.add(&config(mode)).unwrap();
        interfaces.add_address(PORT, ip([10, 9, 0, 2]), 24).unwrap();
        interfaces
    }

    pub(crate) fn ip(octets: [u8; 4]) -> IpAddr {
        IpAddr::from(octets)
    }

    #[test]
    fn an_interface_comes_back_as_it_was_configured() {
        let interfaces = interfaces(AddressMode::Shared);
        let interface = interfaces.get(PORT).unwrap();
        assert_eq!(interface.link(), Link::Ethernet { mac: OUR_MAC.0 });
        assert_eq!((interface.mtu(), interface.mode(), interface.port()), (1_500, AddressMode::Shared, PORT));
        assert_eq!(interface.offload(), config(AddressMode::Shared).offload);
        assert!(interfaces.get(PortId(2)).is_none() && interfaces.get(PortId(200)).is_none());
        assert_eq!(interfaces.iter().count(), 1);
    }

    #[test]
    fn wrong_interfaces_and_addresses_are_refused() {
        let mut interfaces = interfaces(AddressMode::Own);
        let good = config(AddressMode::Own);
        assert_eq!(interfaces.add(&InterfaceConfig { port: PortId(64), ..good }), Err(Error::Invalid));
        assert_eq!(interfaces.add(&InterfaceConfig { mtu: 67, ..good }), Err(Error::Invalid));
        let offload = Offload { max_segment: 1_499, tx_checksum: true };
        assert_eq!(interfaces.add(&InterfaceConfig { offload, ..good }), Err(Error::Invalid));
        for wrong in [[0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(interfaces.add_address(PORT, ip(wrong), 24), Err(Error::Invalid));
        }
        assert_eq!(interfaces.add_address(PORT, ip([10, 0, 0, 1]), 33), Err(Error::Invalid));
        assert_eq!(interfaces.add_address(PortId(4), ip([10, 0, 0, 1]), 8), Err(Error::Invalid));
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(interfaces.add_address(PORT, v6, 64), Err(Error::FamilyNotSupported));
        for last in 3..=129 {
            interfaces.add_address(PORT, ip([10, 9, 0, last]), 24).unwrap();
        }
        assert_eq!(interfaces.add_address(PORT, ip([10, 9, 0, 130]), 24), Err(Error::NoMemory));
        assert_eq!(interfaces.remove_address(PORT, ip([10, 9, 0, 200])), Err(Error::AddressNotAvailable));
    }

    #[test]
    fn the_source_is_the_nearest_address_and_else_the_first() {
        let mut interfaces = interfaces(AddressMode::Own);
        interfaces.add_address(PORT, ip([192, 168, 7, 1]), 24).unwrap();
        assert_eq!(interfaces.source_for(PORT, ip([192, 168, 7, 9])), Some(ip([192, 168, 7, 1])));
        assert_eq!(interfaces.source_for(PORT, ip([8, 8, 8, 8])), Some(ip([10, 9, 0, 2])));
        interfaces.remove_address(PORT, ip([10, 9, 0, 2])).unwrap();
        assert_eq!(interfaces.source_for(PORT, ip([8, 8, 8, 8])), Some(ip([192, 168, 7, 1])));
        assert!(!interfaces.is_local(ip([10, 9, 0, 2])) && interfaces.is_local(ip([192, 168, 7, 1])));
        assert_eq!(interfaces.source_for(PortId(9), ip([8, 8, 8, 8])), None);
    }

    #[test]
    fn broadcast_is_limited_or_of_a_prefix() {
        let mut interfaces = interfaces(AddressMode::Own);
        interfaces.add_address(PORT, ip([10, 8, 0, 0]), 31).unwrap();
        assert!(interfaces.is_broadcast(PORT, Ipv4Addr::BROADCAST));
        assert!(interfaces.is_broadcast(PORT, Ipv4Addr::new(10, 9, 0, 255)));
        assert!(!interfaces.is_broadcast(PORT, Ipv4Addr::new(10, 9, 1, 255)));
        assert!(!interfaces.is_broadcast(PORT, Ipv4Addr::new(10, 8, 0, 1)));
        assert!(!interfaces.is_broadcast(PortId(1), Ipv4Addr::new(10, 9, 0, 255)));
    }

    #[test]
    fn prefixes_hold_by_their_first_bits() {
        assert!(prefix_holds(ip([10, 9, 0, 0]), 16, ip([10, 9, 255, 1])));
        assert!(!prefix_holds(ip([10, 9, 0, 0]), 17, ip([10, 9, 255, 1])));
        assert!(prefix_holds(ip([0, 0, 0, 0]), 0, ip([255, 1, 1, 1])));
        assert!(prefix_holds(ip([1, 2, 3, 4]), 32, ip([1, 2, 3, 4])));
        assert!(!prefix_holds(ip([1, 2, 3, 4]), 32, ip([1, 2, 3, 5])));
        assert!(!prefix_holds(ip([0, 0, 0, 0]), 0, IpAddr::from(Ipv6Addr::LOCALHOST)));
        assert!(prefix_holds(Ipv6Addr::LOCALHOST.into(), 0, Ipv6Addr::UNSPECIFIED.into()));
    }
}
