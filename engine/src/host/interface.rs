//! An interface of the host: what the engine has to know before it uses it.

use super::netlink::Netlink;
use super::{Error, ethtool};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp};
use std::io;

/// Read once; [`Monitor`](super::Monitor) tells what changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// `None`: no Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Switched on (IFF_UP).
    pub up: bool,
    /// The other end is there (IFF_LOWER_UP).
    pub carrier: bool,
    pub loopback: bool,
    /// Kind of virtual device: "veth", "tun", "macvtap", "bridge"...; absent for hardware.
    pub kind: Option<String>,
    /// Receive and transmit queues in use.
    pub rx_queues: u32,
    pub tx_queues: u32,
    /// Index of the bridge, bond or the like that has it.
    pub controller: Option<u32>,
    /// Index of the veth peer or lower device (in whichever namespace).
    pub link: Option<u32>,
    /// Id of the XDP program on it.
    pub xdp_program: Option<u32>,
}

impl Interface {
    /// The interface of this name; when there is none, the error names those that there are.
    pub fn find(name: &str) -> Result<Self, Error> {
        let mut netlink = Netlink::open().map_err(Error::netlink("ask the kernel for its interfaces"))?;
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.into()));
        match netlink.get(RouteNetlinkMessage::GetLink(question)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => {
                let mut interface = Self::from_message(&link);
                interface.count_queues();
                Ok(interface)
            }
            Ok(_) => Err(Error::netlink(format!("read interface {name}"))(io::ErrorKind::InvalidData.into())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => {
                let others: Vec<String> =
                    Self::all()?.into_iter().filter(|other| !other.loopback).map(|other| other.name).collect();
                let hint = match others.is_empty() {
                    true => ": this network namespace has no interface but the loopback".into(),
                    false => format!(": there are {}", others.join(", ")),
                };
                Err(Error::NoInterface { name: name.into(), hint })
            }
            Err(error) => Err(Error::netlink(format!("read interface {name}"))(error)),
        }
    }

    /// An Ethernet interface of this name that is up.
    pub fn find_usable(name: &str) -> Result<Self, Error> {
        let interface = Self::find(name)?;
        if !interface.up {
            return Err(Error::InterfaceDown { name: name.into() });
        }
        if interface.mac.is_none() || interface.loopback {
            return Err(Error::NotEthernet { name: name.into() });
        }
        Ok(interface)
    }

    /// All interfaces of this network namespace.
    pub fn all() -> Result<Vec<Self>, Error> {
        let action = "list the interfaces";
        let mut netlink = Netlink::open().map_err(Error::netlink(action))?;
        let links =
            netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(Error::netlink(action))?;
        Ok(links
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Self::from_message(link)),
                _ => None,
            })
            .collect())
    }

    /// The message counts the queues that were allocated; channels say how many are in use.
    fn count_queues(&mut self) {
        if let Ok(channels) = ethtool::channels(&self.name) {
            self.rx_queues = channels.receive.max(1);
            self.tx_queues = channels.transmit.max(1);
        }
    }

    pub(super) fn from_message(link: &LinkMessage) -> Self {
        let flags = link.header.flags;
        let mut interface = Self {
            index: link.header.index,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            rx_queues: 1,
            tx_queues: 1,
            ..Self::default()
        };
        let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Address(address) if ethernet => interface.mac = address.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::NumRxQueues(queues) => interface.rx_queues = *queues,
                LinkAttribute::NumTxQueues(queues) => interface.tx_queues = *queues,
                LinkAttribute::Controller(index) => interface.controller = Some(*index),
                LinkAttribute::Link(index) => interface.link = Some(*index),
                LinkAttribute::LinkInfo(parts) => interface.kind = parts.iter().find_map(kind),
                LinkAttribute::Xdp(parts) => interface.xdp_program = parts.iter().find_map(program),
                _ => {}
            }
        }
        interface
    }
}

fn kind(part: &LinkInfo) -> Option<String> {
    match part {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn program(part: &LinkXdp) -> Option<u32> {
    match part {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id).filter(|id| *id != 0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, ip};

    #[test]
    fn an_interface_is_found_with_what_matters() {
        in_namespace(|| {
            ip("link set us mtu 1400");
            let us = Interface::find_usable("us").unwrap();
            assert_eq!((us.mac, us.mtu, us.up, us.carrier), (Some([2, 0, 0, 0, 0, 2]), 1400, true, true));
            assert_eq!((us.kind.as_deref(), us.rx_queues, us.xdp_program), (Some("veth"), 1, None));
            assert_eq!(us.link, Some(Interface::find("peer").unwrap().index));

            ip("link add wide numrxqueues 4 numtxqueues 4 type veth peer name wide2");
            let all = Interface::all().unwrap();
            assert!(all.iter().any(|interface| interface.name == "wide2"));
            assert!(all.iter().any(|interface| interface.loopback && interface.mac.is_none()));
            assert_eq!(Interface::find("wide").unwrap().rx_queues, 4);
        });
    }

    #[test]
    fn what_cannot_be_used_is_said_in_one_sentence() {
        in_namespace(|| {
            let missing = Interface::find("nonesuch").unwrap_err().to_string();
            assert!(missing.starts_with("interface nonesuch does not exist: there are ") && missing.contains("us"));
            assert!(Interface::find("a-name-that-is-far-too-long").unwrap_err().to_string().contains("does not exist"));

            ip("link set us down");
            let down = Interface::find_usable("us").unwrap_err().to_string();
            assert_eq!(down, "interface us is down: bring it up (ip link set dev us up)");
            assert!(matches!(Interface::find_usable("lo"), Err(Error::NotEthernet { .. })));
        });
    }
}
