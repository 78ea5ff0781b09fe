//! One question to the kernel: an interface's index, MTU and XDP program. The engine's own view of the host is wider.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub index: u32,
    /// Bytes.
    pub mtu: u32,
    /// Id of the XDP program that is attached, in whichever mode.
    pub xdp_program: Option<u32>,
}

pub(crate) fn link(interface: &str) -> io::Result<Device> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(interface.into()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let (reply, _) = socket.recv_from_full()?;
    let reply: NetlinkMessage<RouteNetlinkMessage> =
        NetlinkMessage::deserialize(&reply).map_err(|error| io::Error::other(error.to_string()))?;
    match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(device(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected netlink reply {other:?}"))),
    }
}

fn device(link: &LinkMessage) -> Device {
    let mut device = Device { index: link.header.index, mtu: 0, xdp_program: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Xdp(xdp) => {
                for part in xdp {
                    if let LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id) = part
                    {
                        device.xdp_program = device.xdp_program.or(Some(*id).filter(|id| *id != 0));
                    }
                }
            }
            _ => {}
        }
    }
    device
}
