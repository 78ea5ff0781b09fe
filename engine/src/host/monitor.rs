//! What changes in the host while we run: a descriptor to poll, and the changes behind it.

use super::netlink::messages;
use super::tables::{HostAddress, HostNeighbour, HostRoute};
use super::{Error, Interface};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const RTMGRP_LINK: u32 = 1 << 0;
const RTMGRP_NEIGH: u32 = 1 << 2;
const RTMGRP_IPV4_IFADDR: u32 = 1 << 4;
const RTMGRP_IPV4_ROUTE: u32 = 1 << 6;
const RTMGRP_IPV6_IFADDR: u32 = 1 << 8;
const RTMGRP_IPV6_ROUTE: u32 = 1 << 10;
/// Room for a burst of route changes before the kernel has to drop some (bytes).
const RECEIVE_BUFFER: i32 = 1 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New, or something of it changed.
    Interface(Interface),
    InterfaceGone {
        index: u32,
    },
    Address(HostAddress),
    AddressGone(HostAddress),
    Route(HostRoute),
    RouteGone(HostRoute),
    /// `mac: None` when it failed or is gone.
    Neighbour(HostNeighbour),
    /// Changes were lost: read all tables again.
    Overrun,
}

/// A subscription to interfaces, addresses, routes and neighbours. Needs no privilege. Subscribe first, then read the
/// tables: what changes in between is told.
#[derive(Debug)]
pub struct Monitor(Socket);

impl Monitor {
    pub fn open() -> Result<Self, Error> {
        Self::subscribe().map_err(Error::netlink("subscribe to the host's routes and neighbours"))
    }

    fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = RTMGRP_LINK
            | RTMGRP_NEIGH
            | RTMGRP_IPV4_IFADDR
            | RTMGRP_IPV4_ROUTE
            | RTMGRP_IPV6_IFADDR
            | RTMGRP_IPV6_ROUTE;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        Ok(Self(socket))
    }

    /// Hands over what has changed; never blocks. At most `budget` datagrams, so that a storm cannot keep the caller.
    pub fn read(&self, budget: usize, mut sink: impl FnMut(Change)) -> Result<(), Error> {
        for _ in 0..budget {
            match self.0.recv_from_full() {
                Ok((bytes, sender)) if sender.port_number() == 0 => {
                    for message in messages(&bytes) {
                        if let NetlinkPayload::InnerMessage(message) = message.payload {
                            changes(message, &mut sink);
                        }
                    }
                }
                // Only the kernel's word counts.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => sink(Change::Overrun),
                Err(error) => return Err(Error::netlink("read changes of the host's routes and neighbours")(error)),
            }
        }
        Ok(())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn changes(message: RouteNetlinkMessage, sink: &mut impl FnMut(Change)) {
    match message {
        RouteNetlinkMessage::NewLink(link) => sink(Change::Interface(Interface::from_message(&link))),
        RouteNetlinkMessage::DelLink(link) => sink(Change::InterfaceGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(address) => {
            HostAddress::from_message(&address).map(Change::Address).into_iter().for_each(sink);
        }
        RouteNetlinkMessage::DelAddress(address) => {
            HostAddress::from_message(&address).map(Change::AddressGone).into_iter().for_each(sink);
        }
        RouteNetlinkMessage::NewRoute(route) => {
            HostRoute::from_message(&route).into_iter().map(Change::Route).for_each(sink);
        }
        RouteNetlinkMessage::DelRoute(route) => {
            HostRoute::from_message(&route).into_iter().map(Change::RouteGone).for_each(sink);
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            HostNeighbour::from_message(&neighbour).map(Change::Neighbour).into_iter().for_each(sink);
        }
        RouteNetlinkMessage::DelNeighbour(neighbour) => {
            let gone = HostNeighbour::from_message(&neighbour).map(|known| HostNeighbour { mac: None, ..known });
            gone.map(Change::Neighbour).into_iter().for_each(sink);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, ip};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Waits until a change passes `wanted`.
    #[track_caller]
    fn wait_for(monitor: &Monitor, what: &str, wanted: impl Fn(&Change) -> bool) {
        let mut seen = Vec::new();
        for _ in 0..100 {
            let mut fds = [PollFd::new(monitor, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
            monitor.read(16, |change| seen.push(change)).unwrap();
            if seen.iter().any(&wanted) {
                return;
            }
        }
        panic!("{what} was not told: {seen:?}");
    }

    #[test]
    fn changes_are_told() {
        in_namespace(|| {
            let monitor = Monitor::open().unwrap();
            let us = Interface::find("us").unwrap().index;
            let ours = HostAddress { interface: us, address: "10.9.0.2".parse().unwrap(), prefix_len: 24 };
            ip("addr add 10.9.0.2/24 dev us");
            wait_for(&monitor, "address", |change| *change == Change::Address(ours));

            let route = HostRoute {
                interface: us,
                destination: "192.0.2.0".parse().unwrap(),
                prefix_len: 24,
                gateway: Some("10.9.0.1".parse().unwrap()),
                source: None,
                metric: 0,
            };
            ip("route add 192.0.2.0/24 via 10.9.0.1");
            wait_for(&monitor, "route", |change| *change == Change::Route(route));
            ip("route del 192.0.2.0/24");
            wait_for(&monitor, "route's end", |change| *change == Change::RouteGone(route));

            let known =
                HostNeighbour { interface: us, address: "10.9.0.1".parse().unwrap(), mac: Some([2, 0, 0, 0, 0, 1]) };
            ip("neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev us");
            wait_for(&monitor, "neighbour", |change| *change == Change::Neighbour(known));
            ip("neigh del 10.9.0.1 dev us");
            let gone = HostNeighbour { mac: None, ..known };
            wait_for(&monitor, "neighbour's end", |change| *change == Change::Neighbour(gone));

            ip("link set us mtu 1400");
            let changed = |change: &Change| matches!(change, Change::Interface(link) if link.mtu == 1400);
            wait_for(&monitor, "interface", changed);
            ip("addr del 10.9.0.2/24 dev us");
            wait_for(&monitor, "address's end", |change| *change == Change::AddressGone(ours));
            ip("link del us");
            wait_for(&monitor, "interface's end", |change| *change == Change::InterfaceGone { index: us });
        });
    }

    #[test]
    fn lost_changes_are_told_as_such() {
        in_namespace(|| {
            let monitor = Monitor::open().unwrap();
            monitor.0.set_rx_buf_sz(1).unwrap();
            for port in 0..64 {
                ip(&format!("addr add 10.9.1.{port}/32 dev us"));
            }
            wait_for(&monitor, "overrun", |change| *change == Change::Overrun);
        });
    }
}
