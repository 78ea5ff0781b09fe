//! Addresses, routes and neighbours as the host has them, read whole. [`Monitor`](super::Monitor) tells what changes.

use super::Error;
use super::netlink::Netlink;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use persona_stack::{PortId, Route};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    pub interface: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
}

/// A unicast route of the main table; one with several next hops counts once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    pub interface: u32,
    pub destination: IpAddr,
    pub prefix_len: u8,
    /// `None`: on link.
    pub gateway: Option<IpAddr>,
    /// Source address that the host prefers.
    pub source: Option<IpAddr>,
    /// The lower, the better.
    pub metric: u32,
}

/// What the host knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNeighbour {
    pub interface: u32,
    pub address: IpAddr,
    /// `None`: not resolved yet, or nobody answers.
    pub mac: Option<[u8; 6]>,
}

/// Addresses of all interfaces.
pub fn addresses() -> Result<Vec<HostAddress>, Error> {
    let action = "list the host's addresses";
    let answers = dump(action, RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(answers
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => HostAddress::from_message(address),
            _ => None,
        })
        .collect())
}

/// Routes of the main table, both families, best metric first.
pub fn routes() -> Result<Vec<HostRoute>, Error> {
    let mut routes = Vec::new();
    for message in dump("list the host's routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            routes.extend(HostRoute::from_message(&route));
        }
    }
    routes.sort_by_key(|route: &HostRoute| route.metric);
    Ok(routes)
}

/// Neighbours of all interfaces, both families.
pub fn neighbours() -> Result<Vec<HostNeighbour>, Error> {
    let action = "list the host's neighbours";
    let answers = dump(action, RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    Ok(answers
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => HostNeighbour::from_message(neighbour),
            _ => None,
        })
        .collect())
}

fn dump(action: &str, question: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
    Netlink::open().and_then(|mut netlink| netlink.dump(question)).map_err(Error::netlink(action))
}

impl HostAddress {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut peer = None;
        let mut local = None;
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link ADDRESS is the other end and LOCAL is ours.
                AddressAttribute::Address(address) => peer = Some(*address),
                AddressAttribute::Local(address) => local = Some(*address),
                _ => {}
            }
        }
        let address = local.or(peer)?;
        Some(Self { interface: message.header.index, address, prefix_len: message.header.prefix_len })
    }
}

impl HostRoute {
    pub(super) fn from_message(message: &RouteMessage) -> Vec<Self> {
        let header = &message.header;
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return Vec::new(),
        };
        let mut table = u32::from(header.table);
        let mut route = Self {
            interface: 0,
            destination: any,
            prefix_len: header.destination_prefix_length,
            gateway: None,
            source: None,
            metric: 0,
        };
        let mut hops = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => route.interface = *index,
                RouteAttribute::Destination(address) => route.destination = ip(address).unwrap_or(any),
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::Via(via) => route.gateway = ip_via(via),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::MultiPath(next) => hops.extend(next.iter().map(|hop| {
                    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip(address),
                        RouteAttribute::Via(via) => ip_via(via),
                        _ => None,
                    });
                    (hop.interface_index, gateway)
                })),
                _ => {}
            }
        }
        if header.kind != RouteType::Unicast || table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return Vec::new();
        }
        if hops.is_empty() {
            hops.push((route.interface, route.gateway));
        }
        hops.into_iter().map(|(interface, gateway)| Self { interface, gateway, ..route }).collect()
    }

    /// The same route for the stack, by the port of its interface.
    pub fn for_port(&self, port: PortId) -> Route {
        Route {
            destination: self.destination,
            prefix_len: self.prefix_len,
            gateway: self.gateway,
            port,
            source: self.source,
        }
    }
}

impl HostNeighbour {
    pub(super) fn from_message(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        // A stale address is still the best that is known: the host uses it, too, while it asks again.
        let known = !matches!(
            message.header.state,
            NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None | NeighbourState::Noarp
        );
        Some(Self { interface: message.header.ifindex, address: address?, mac: mac.filter(|_| known) })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// A next hop of the other family (RFC 5549).
fn ip_via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteVia::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Interface;
    use crate::host::fixture::{in_namespace, ip};

    #[test]
    fn the_tables_are_those_of_the_host() {
        in_namespace(|| {
            ip("addr add 10.9.0.2/24 dev us");
            ip("-6 addr add fd00:9::2/64 dev us nodad");
            ip("route add default via 10.9.0.1 metric 50");
            ip("route add 192.0.2.0/24 via 10.9.0.7 src 10.9.0.2");
            ip("route add 198.51.100.0/24 nexthop via 10.9.0.8 nexthop via 10.9.0.9");
            ip("route add 203.0.113.0/24 via 10.9.0.1 table 77");
            ip("route add blackhole 203.0.113.0/25");
            ip("neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev us nud permanent");
            ip("neigh add 10.9.0.5 dev us nud incomplete");
            let us = Interface::find("us").unwrap().index;

            let found = addresses().unwrap();
            let address =
                |text: &str, prefix_len| HostAddress { interface: us, address: text.parse().unwrap(), prefix_len };
            assert!(found.contains(&address("10.9.0.2", 24)) && found.contains(&address("fd00:9::2", 64)), "{found:?}");

            let found = routes().unwrap();
            let on = |destination: &str, prefix_len, gateway: &str, source: Option<&str>, metric| HostRoute {
                interface: us,
                destination: destination.parse().unwrap(),
                prefix_len,
                gateway: gateway.parse().ok(),
                source: source.map(|source| source.parse().unwrap()),
                metric,
            };
            for route in [
                on("0.0.0.0", 0, "10.9.0.1", None, 50),
                on("10.9.0.0", 24, "", Some("10.9.0.2"), 0),
                on("192.0.2.0", 24, "10.9.0.7", Some("10.9.0.2"), 0),
                on("198.51.100.0", 24, "10.9.0.8", None, 0),
                on("198.51.100.0", 24, "10.9.0.9", None, 0),
            ] {
                assert!(found.contains(&route), "{route:?} in {found:?}");
            }
            let foreign = |route: &HostRoute| route.destination.to_string().starts_with("203.0.113");
            assert!(!found.iter().any(foreign), "other tables and kinds are left out: {found:?}");
            assert!(found.iter().any(|route| route.destination.is_ipv6() && route.prefix_len == 64));

            let found = neighbours().unwrap();
            let neighbour = |text: &str, mac| HostNeighbour { interface: us, address: text.parse().unwrap(), mac };
            assert!(found.contains(&neighbour("10.9.0.1", Some([2, 0, 0, 0, 0, 1]))), "{found:?}");
            assert!(found.contains(&neighbour("10.9.0.5", None)), "{found:?}");
        });
    }
}
