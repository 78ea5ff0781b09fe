//! The way to a destination: longest prefix over the routes and the addresses' own prefixes.
//!
//! The table is scanned: a flow is routed when it begins and whenever [`Routes::generation`] has moved, not per packet.

use super::interface::{Interfaces, prefix_holds};
use super::packed::PackedIp;
use crate::api::{Error, Route};
use crate::frame::PortId;
use core::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A route in the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteRecord {
    destination: PackedIp,
    gateway: PackedIp,
    source: PackedIp,
    port: u8,
    prefix_len: u8,
    _pad: [u8; 2],
}

/// What the table remembers beside its records.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RoutesState {
    count: u32,
    generation: u32,
}

/// How a flow leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub port: PortId,
    /// Whose link address the frames carry: the gateway, or the destination itself.
    pub next_hop: IpAddr,
    pub source: IpAddr,
}

/// The routing table over the arena.
pub struct Routes<'m> {
    pub(crate) records: &'m mut [RouteRecord],
    pub(crate) state: &'m mut RoutesState,
}

impl Routes<'_> {
    /// Adds a route, or replaces the one with the same prefix and port.
    pub fn add(&mut self, interfaces: &Interfaces, route: &Route) -> Result<(), Error> {
        let (IpAddr::V4(destination), Some(_)) = (route.destination, interfaces.get(route.port)) else {
            return Err(if route.destination.is_ipv6() { Error::FamilyNotSupported } else { Error::Invalid });
        };
        if route.prefix_len > 32 || [route.gateway, route.source].iter().flatten().any(IpAddr::is_ipv6) {
            return Err(Error::Invalid);
        }
        if route.source.is_some_and(|source| !interfaces.is_local(source)) {
            return Err(Error::AddressNotAvailable);
        }
        // Linux: a gateway has to be reachable without another gateway.
        if route.gateway.is_some_and(|gateway| !self.on_link(interfaces, route.port, gateway)) {
            return Err(Error::NoRoute);
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix_len)).unwrap_or(0);
        let record = RouteRecord {
            destination: IpAddr::from((destination.to_bits() & mask).to_be_bytes()).into(),
            gateway: route.gateway.into(),
            source: route.source.into(),
            port: route.port.0,
            prefix_len: route.prefix_len,
            _pad: [0; 2],
        };
        self.state.generation = self.state.generation.wrapping_add(1);
        if let Some(known) = self.position(&record) {
            self.records[known] = record;
            return Ok(());
        }
        let place = self.records.get_mut(self.state.count as usize).ok_or(Error::NoMemory)?;
        *place = record;
        self.state.count += 1;
        Ok(())
    }

    /// Removes the route with this prefix and port. Its gateway, when given, has to agree.
    pub fn remove(&mut self, route: &Route) -> Result<(), Error> {
        let IpAddr::V4(destination) = route.destination else { return Err(Error::FamilyNotSupported) };
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix_len.min(32))).unwrap_or(0);
        let key = RouteRecord {
            destination: IpAddr::from((destination.to_bits() & mask).to_be_bytes()).into(),
            port: route.port.0,
            prefix_len: route.prefix_len,
            ..RouteRecord::default()
        };
        let place = self.position(&key).ok_or(Error::NoRoute)?;
        if route.gateway.is_some_and(|gateway| self.records[place].gateway.option() != Some(gateway)) {
            return Err(Error::NoRoute);
        }
        let count = self.state.count as usize;
        self.records[place..count].rotate_left(1);
        self.state.count -= 1;
        self.state.generation = self.state.generation.wrapping_add(1);
        Ok(())
    }

    /// Moves with every change of routes, and of addresses (see [`Routes::changed`]): a cached path of an older
    /// generation has to be looked up again.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.state.generation
    }

    /// Addresses changed.
    pub(crate) fn changed(&mut self) {
        self.state.generation = self.state.generation.wrapping_add(1);
    }

    /// The way to `destination`, from `source` if that is given. Among routes of one length the first that was added
    /// wins, and an address's own prefix wins over a route.
    pub fn lookup(&self, interfaces: &Interfaces, destination: IpAddr, source: Option<IpAddr>) -> Option<Path> {
        // One of our own addresses: the frame goes to that interface's port, and the caller's host loops it back.
        if let Some(own) = interfaces.find(destination) {
            let source = source.unwrap_or(destination);
            return Some(Path { port: own.port(), next_hop: destination, source });
        }
        let mut best: Option<(u8, PortId, Option<IpAddr>, Option<IpAddr>)> = None;
        let mut consider = |len, port, gateway, preferred| {
            if best.is_none_or(|(best_len, ..)| best_len < len) {
                best = Some((len, port, gateway, preferred));
            }
        };
        for own in interfaces.addresses() {
            if prefix_holds(own.address(), own.prefix_len(), destination) {
                consider(own.prefix_len(), own.port(), None, Some(own.address()));
            }
        }
        for route in self.iter() {
            if prefix_holds(route.destination, route.prefix_len, destination) {
                consider(route.prefix_len, route.port, route.gateway, route.source);
            }
        }
        let (_, port, gateway, preferred) = best?;
        let next_hop = gateway.unwrap_or(destination);
        let source = source.or(preferred).or_else(|| interfaces.source_for(port, next_hop))?;
        Some(Path { port, next_hop, source })
    }

    /// The routes in the order in which they were added, without the addresses' own prefixes.
    pub fn iter(&self) -> impl Iterator<Item = Route> + '_ {
        self.live().iter().map(|record| Route {
            destination: record.destination.into(),
            prefix_len: record.prefix_len,
            gateway: record.gateway.option(),
            port: PortId(record.port),
            source: record.source.option(),
        })
    }

    fn on_link(&self, interfaces: &Interfaces, port: PortId, gateway: IpAddr) -> bool {
        let of_port = |own: &&super::interface::AddressRecord| own.port() == port;
        interfaces.addresses().iter().filter(of_port).any(|own| prefix_holds(own.address(), own.prefix_len(), gateway))
            || self
                .iter()
                .filter(|route| route.port == port && route.gateway.is_none())
                .any(|route| prefix_holds(route.destination, route.prefix_len, gateway))
    }

    fn position(&self, key: &RouteRecord) -> Option<usize> {
        self.live().iter().position(|known| {
            (known.destination, known.prefix_len, known.port) == (key.destination, key.prefix_len, key.port)
        })
    }

    fn live(&self) -> &[RouteRecord] {
        self.records.get(..self.state.count as usize).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::interface::tests::{PORT, interfaces, ip};
    use super::*;
    use crate::api::AddressMode;

    fn route(destination: [u8; 4], prefix_len: u8, gateway: Option<[u8; 4]>) -> Route {
        Route { destination: ip(destination), prefix_len, gateway: gateway.map(ip), port: PORT, source: None }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let interfaces = interfaces(AddressMode::Own);
        let (mut records, mut state) = ([RouteRecord::default(); 4], RoutesState::default());
        let mut routes = Routes { records: &mut records, state: &mut state };
        let generation = routes.generation();
        routes.add(&interfaces, &route([0, 0, 0, 0], 0, Some([10, 9, 0, 1]))).unwrap();
        routes.add(&interfaces, &route([10, 20, 7, 7], 16, Some([10, 9, 0, 3]))).unwrap();
        routes.add(&interfaces, &route([10, 20, 30, 0], 24, None)).unwrap();
        assert_ne!(routes.generation(), generation);
        let next_hop = |to| routes.lookup(&interfaces, ip(to), None).unwrap().next_hop;
        assert_eq!(next_hop([8, 8, 8, 8]), ip([10, 9, 0, 1]));
        assert_eq!(next_hop([10, 20, 1, 1]), ip([10, 9, 0, 3]));
        assert_eq!(next_hop([10, 20, 30, 40]), ip([10, 20, 30, 40]));
        assert_eq!(next_hop([10, 9, 0, 77]), ip([10, 9, 0, 77]));
        assert_eq!(next_hop([10, 9, 0, 2]), ip([10, 9, 0, 2]), "our own address");
        let path = routes.lookup(&interfaces, ip([8, 8, 8, 8]), None).unwrap();
        assert_eq!((path.port, path.source), (PORT, ip([10, 9, 0, 2])));
    }

    #[test]
    fn a_removed_route_is_gone_and_without_routes_only_the_link_is_reached() {
        let interfaces = interfaces(AddressMode::Own);
        let (mut records, mut state) = ([RouteRecord::default(); 2], RoutesState::default());
        let mut routes = Routes { records: &mut records, state: &mut state };
        let default = route([0, 0, 0, 0], 0, Some([10, 9, 0, 1]));
        assert_eq!(routes.lookup(&interfaces, ip([8, 8, 8, 8]), None), None);
        routes.add(&interfaces, &default).unwrap();
        let other = Route { gateway: Some(ip([10, 9, 0, 9])), ..default };
        assert_eq!(routes.remove(&other), Err(Error::NoRoute));
        routes.add(&interfaces, &other).unwrap();
        assert_eq!(routes.iter().count(), 1, "same prefix: replaced");
        routes.remove(&route([0, 0, 0, 0], 0, None)).unwrap();
        assert_eq!(routes.lookup(&interfaces, ip([8, 8, 8, 8]), None), None);
        assert!(routes.lookup(&interfaces, ip([10, 9, 0, 8]), None).is_some());
    }

    #[test]
    fn wrong_routes_are_refused() {
        let interfaces = interfaces(AddressMode::Own);
        let (mut records, mut state) = ([RouteRecord::default(); 1], RoutesState::default());
        let mut routes = Routes { records: &mut records, state: &mut state };
        let good = route([0, 0, 0, 0], 0, Some([10, 9, 0, 1]));
        let far = Route { gateway: Some(ip([10, 10, 0, 1])), ..good };
        assert_eq!(routes.add(&interfaces, &far), Err(Error::NoRoute));
        assert_eq!(routes.add(&interfaces, &Route { port: PortId(9), ..good }), Err(Error::Invalid));
        assert_eq!(routes.add(&interfaces, &Route { prefix_len: 33, ..good }), Err(Error::Invalid));
        let foreign = Route { source: Some(ip([10, 9, 0, 44])), ..good };
        assert_eq!(routes.add(&interfaces, &foreign), Err(Error::AddressNotAvailable));
        let v6 = Route { destination: "::".parse().unwrap(), ..good };
        assert_eq!(routes.add(&interfaces, &v6), Err(Error::FamilyNotSupported));
        routes.add(&interfaces, &good).unwrap();
        assert_eq!(routes.add(&interfaces, &route([1, 0, 0, 0], 8, None)), Err(Error::NoMemory));
    }
}
