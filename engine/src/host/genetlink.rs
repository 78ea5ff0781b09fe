//! What a driver's XDP can do, from the kernel's generic netlink family "netdev" (Linux 6.3; Documentation/netlink/specs/netdev.yaml).

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::io;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XSK_FEATURES: u16 = 6;

const XDP_ACT_BASIC: u64 = 1 << 0;
const XDP_ACT_REDIRECT: u64 = 1 << 1;
const XDP_ACT_XSK_ZEROCOPY: u64 = 1 << 3;
const XDP_ACT_RX_SG: u64 = 1 << 5;
const XSK_TX_CHECKSUM: u64 = 1 << 1;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Bytes of nlmsghdr and genlmsghdr together.
const HEADERS: usize = 20;
const ALIGN: usize = 4;

/// What the driver of an interface offers to XDP and AF_XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// XDP programs run in the driver and may redirect to AF_XDP sockets.
    pub driver: bool,
    pub zero_copy: bool,
    /// Frames may span buffers.
    pub multi_buffer: bool,
    /// AF_XDP sockets can leave the transmit checksum to the device.
    pub tx_checksum: bool,
}

/// ENOENT where the kernel has no such family.
pub fn xdp_features(interface: u32) -> io::Result<XdpFeatures> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let answer = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0")?;
    let family = attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|value| value.first_chunk());
    let family = family.map(|id| u16::from_ne_bytes(*id)).ok_or(io::ErrorKind::InvalidData)?;

    let answer = ask(&socket, family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &interface.to_ne_bytes())?;
    let flags = |kind| {
        let value = attribute(&answer, kind).and_then(|value| value.first_chunk());
        value.map_or(0, |value| u64::from_ne_bytes(*value))
    };
    let xdp = flags(NETDEV_A_DEV_XDP_FEATURES);
    Ok(XdpFeatures {
        driver: xdp & (XDP_ACT_BASIC | XDP_ACT_REDIRECT) == XDP_ACT_BASIC | XDP_ACT_REDIRECT,
        zero_copy: xdp & XDP_ACT_XSK_ZEROCOPY != 0,
        multi_buffer: xdp & XDP_ACT_RX_SG != 0,
        tx_checksum: flags(NETDEV_A_DEV_XSK_FEATURES) & XSK_TX_CHECKSUM != 0,
    })
}

/// One request with one attribute; the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let attribute_length = 4 + value.len();
    let length = HEADERS + attribute_length.next_multiple_of(ALIGN);
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port id: the kernel fills in the latter, and there is one request at a time.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend((attribute_length as u16).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(length, 0);
    socket.send(&request, 0)?;

    let (answer, _) = socket.recv_from_full()?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let word = |at: usize| answer.get(at..).and_then(|rest| rest.first_chunk()).map(|word| i32::from_ne_bytes(*word));
    let answered = answer.get(4..).and_then(|rest| rest.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
    if answered == Some(NLMSG_ERROR) {
        let code = word(16).ok_or_else(invalid)?;
        return Err(io::Error::from_raw_os_error(-code));
    }
    answer.get(HEADERS..).map(<[u8]>::to_vec).ok_or_else(invalid)
}

/// The value of the first attribute of this kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let found = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(ALIGN)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Interface;
    use crate::host::fixture::in_namespace;

    #[test]
    fn veth_offers_its_driver_mode_and_no_zero_copy() {
        in_namespace(|| {
            let us = Interface::find("us").unwrap();
            let features = xdp_features(us.index).unwrap();
            assert!(features.driver && features.multi_buffer && !features.zero_copy, "{features:?}");
            let lo = Interface::find("lo").unwrap();
            assert!(!xdp_features(lo.index).unwrap().driver);
            assert!(xdp_features(u32::MAX / 2).is_err());
        });
    }

    #[test]
    fn attributes_that_do_not_fit_are_not_read() {
        let bytes = [8, 0, 1, 0, 1, 2, 3, 4, 6, 0, 2, 0, 9, 9, 0, 0];
        assert_eq!(attribute(&bytes, 1), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[9, 9][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&[200, 0, 3, 0], 3), None);
        assert_eq!(attribute(&[0, 0, 3, 0], 3), None);
        assert_eq!(attribute(&[3], 3), None);
    }
}
