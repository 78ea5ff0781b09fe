//! Neighbours that connections of ours use, on an address shared with the host: the host sees no traffic to them that would
//! keep them fresh, so it is told to.

use super::Error;
use super::netlink::Netlink;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// Makes the host resolve a neighbour and keep it resolved (NTF_MANAGED, Linux 5.16). Idempotent. An entry that was made
/// permanent by hand stays as it is. Needs CAP_NET_ADMIN: the keeper does it for the engine.
pub fn manage(interface: u32, address: IpAddr) -> Result<(), Error> {
    let action = || format!("have the host keep neighbour {address} resolved");
    let mut netlink = Netlink::open().map_err(Error::netlink(action()))?;
    if is_permanent(&mut netlink, interface, address) {
        return Ok(());
    }
    // NTF_USE makes the kernel ask now; by itself, without MANAGED, only once.
    let mut message = entry(interface, address);
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    netlink
        .change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
        .map_err(Error::netlink(action()))
}

/// Lets the host forget a neighbour again; one that has gone is no error.
pub fn unmanage(interface: u32, address: IpAddr) -> Result<(), Error> {
    let action = || format!("let the host forget neighbour {address}");
    let mut netlink = Netlink::open().map_err(Error::netlink(action()))?;
    if is_permanent(&mut netlink, interface, address) {
        return Ok(());
    }
    let mut message = entry(interface, address);
    message.header.flags = NeighbourFlags::Use;
    match netlink.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::netlink(action())),
    }
}

fn entry(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    let destination = match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(v6)
        }
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

fn is_permanent(netlink: &mut Netlink, interface: u32, address: IpAddr) -> bool {
    match netlink.get(RouteNetlinkMessage::GetNeighbour(entry(interface, address))) {
        Ok(RouteNetlinkMessage::NewNeighbour(known)) => known.header.state == NeighbourState::Permanent,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, ip, run};
    use crate::host::{Interface, tables};

    /// The peer in a namespace of its own that answers ARP, as long as the process lives.
    fn answering_peer() -> std::process::Child {
        let peer = std::process::Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let namespace = format!("/proc/{}/ns/net", peer.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let apart = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            std::fs::read_link(&namespace).is_ok_and(|theirs| theirs != own)
        });
        assert!(apart, "unshare did not make a namespace");
        ip(&format!("link set peer netns {}", peer.id()));
        for command in ["addr add 10.9.0.1/24 dev peer", "link set peer up"] {
            run(&format!("nsenter -t {} -n ip {command}", peer.id()));
        }
        peer
    }

    #[test]
    fn a_neighbour_in_use_is_resolved_and_kept() {
        in_namespace(|| {
            ip("addr add 10.9.0.2/24 dev us");
            let mut peer = answering_peer();
            let us = Interface::find("us").unwrap().index;
            let address: IpAddr = "10.9.0.1".parse().unwrap();
            manage(us, address).unwrap();
            manage(us, address).unwrap();
            let resolved = (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                tables::neighbours().unwrap().iter().any(|known| known.address == address && known.mac.is_some())
            });
            let shown = run("ip neigh show dev us");
            unmanage(us, address).unwrap();
            let after = run("ip neigh show dev us");
            peer.kill().unwrap();
            peer.wait().unwrap();
            assert!(resolved, "{shown}");
            assert!(shown.contains("02:00:00:00:00:01") && shown.contains("managed"), "{shown}");
            assert!(!after.contains("managed"), "{after}");
        });
    }

    #[test]
    fn a_permanent_neighbour_stays_permanent() {
        in_namespace(|| {
            ip("addr add 10.9.0.2/24 dev us");
            ip("neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev us nud permanent");
            let us = Interface::find("us").unwrap().index;
            manage(us, "10.9.0.1".parse().unwrap()).unwrap();
            unmanage(us, "10.9.0.1".parse().unwrap()).unwrap();
            assert!(run("ip neigh show dev us").contains("PERMANENT"));
            unmanage(us, "10.9.0.77".parse().unwrap()).unwrap();
        });
    }
}
