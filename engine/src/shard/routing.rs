//! Which of our addresses a connection to somewhere begins at: asked before the stack opens it, because the flow's owner
//! depends on it.
//!
//! A copy of the stack's addresses and routes, in the same order: longest prefix first.

use persona_stack::{PortId, Route};
use std::net::IpAddr;

#[derive(Clone, Debug, Default)]
pub struct Routing {
    addresses: Vec<(PortId, IpAddr, u8)>,
    routes: Vec<Route>,
}

impl Routing {
    pub fn add_address(&mut self, port: PortId, address: IpAddr, prefix_len: u8) {
        self.remove_address(port, address);
        self.addresses.push((port, address, prefix_len));
    }

    pub fn remove_address(&mut self, port: PortId, address: IpAddr) {
        self.addresses.retain(|(known, own, _)| (*known, *own) != (port, address));
    }

    /// The ports that have an address of ours.
    pub fn ports_of(&self, address: IpAddr) -> impl Iterator<Item = PortId> {
        self.addresses.iter().filter(move |(_, own, _)| *own == address).map(|(port, ..)| *port)
    }

    pub fn add_route(&mut self, route: Route) {
        self.routes.push(route);
    }

    pub fn remove_route(&mut self, route: &Route) {
        self.routes.retain(|known| known != route);
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, own, _)| *own == address)
    }

    /// The last address of a network of ours, which names all of its hosts (RFC 919).
    fn is_broadcast(&self, remote: IpAddr) -> bool {
        let IpAddr::V4(remote) = remote else { return false };
        self.addresses.iter().any(|&(_, own, prefix)| match own {
            IpAddr::V4(own) if prefix < 31 => remote.to_bits() == own.to_bits() | u32::MAX >> prefix,
            _ => false,
        })
    }

    /// The source of a connection to `remote`; `None` when no route leads there, or to more than one host.
    pub fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        if self.is_own(remote) {
            return Some(remote);
        }
        if self.is_broadcast(remote) {
            return None;
        }
        let direct = self.addresses.iter().filter(|(_, own, prefix)| same_network(*own, remote, *prefix));
        let direct = direct.map(|&(_, own, prefix)| (prefix, own));
        let routed = self.routes.iter().filter(|route| same_network(route.destination, remote, route.prefix_len));
        let routed = routed.filter_map(|route| Some((route.prefix_len, route.source.or_else(|| self.first(route))?)));
        // The first of equals: configuration lists the preferred one first.
        direct.chain(routed).reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, source)| source)
    }

    fn first(&self, route: &Route) -> Option<IpAddr> {
        let family = route.destination.is_ipv4();
        let mut addresses =
            self.addresses.iter().filter(|(port, own, _)| *port == route.port && own.is_ipv4() == family);
        addresses.next().map(|(_, own, _)| *own)
    }
}

fn same_network(one: IpAddr, other: IpAddr, prefix_len: u8) -> bool {
    let differ = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_chooses_the_source() {
        let mut routing = Routing::default();
        assert_eq!(routing.source_for(ip("10.9.0.1")), None);
        routing.add_address(PortId(0), ip("10.9.0.2"), 24);
        routing.add_address(PortId(1), ip("192.168.1.5"), 16);
        let route = |destination: &str, prefix_len, port, source: Option<&str>| Route {
            destination: ip(destination),
            prefix_len,
            gateway: Some(ip("10.9.0.1")),
            port: PortId(port),
            source: source.map(ip),
        };
        routing.add_route(route("0.0.0.0", 0, 0, None));
        routing.add_route(route("172.16.0.0", 12, 1, None));
        routing.add_route(route("172.16.5.0", 24, 0, Some("10.9.0.2")));
        for (remote, source) in [
            ("10.9.0.77", "10.9.0.2"),
            ("10.9.0.2", "10.9.0.2"),
            ("192.168.77.1", "192.168.1.5"),
            ("8.8.8.8", "10.9.0.2"),
            ("172.16.1.1", "192.168.1.5"),
            ("172.16.5.1", "10.9.0.2"),
        ] {
            assert_eq!(routing.source_for(ip(remote)), Some(ip(source)), "{remote}");
        }
        assert_eq!(routing.source_for(ip("2001:db8::1")), None);
        assert_eq!(routing.source_for(ip("10.9.0.255")), None);
        assert_eq!(routing.source_for(ip("192.168.255.255")), None);
        assert_eq!(routing.source_for(ip("192.168.1.255")), Some(ip("192.168.1.5")));
        routing.remove_address(PortId(0), ip("10.9.0.2"));
        routing.remove_route(&route("0.0.0.0", 0, 0, None));
        assert_eq!(routing.source_for(ip("8.8.8.8")), None);
    }
}
