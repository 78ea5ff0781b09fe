//! What a port has to know of the interface it sits on, asked by ioctl (sysfs shows the namespace of its mount, not
//! of the caller).

use super::error::PortError;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    pub up: bool,
    pub mac: [u8; 6],
    /// ARPHRD_* number.
    pub link_type: u16,
    /// Name of the kernel driver; empty when it does not say.
    pub driver: String,
    /// Completes transport checksums (or passes them on to a peer that does not look). Otherwise the kernel does it in
    /// a pass of its own, which costs more than summing while copying.
    pub sums: bool,
}

const ARPHRD_ETHER: u16 = 1;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GTXCSUM: u32 = 0x16;
/// struct ethtool_drvinfo: command, then names of 32 bytes.
const DRIVER_INFO: usize = 196;

impl Interface {
    pub fn find(name: &str) -> Result<Self, PortError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
            return Err(PortError::NoInterface(name.to_owned()));
        }
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(PortError::io("opening a socket", name))?;
        let missing = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => PortError::NoInterface(name.to_owned()),
            _ => PortError::Io { operation: "asking for the interface", on: name.to_owned(), source: error },
        };
        let ask = |request| ioctl(&socket, request, name).map_err(missing);
        let number = ask(libc::SIOCGIFINDEX as u32)?;
        let flags = ask(libc::SIOCGIFFLAGS as u32)?;
        let mtu = ask(libc::SIOCGIFMTU as u32)?;
        let address = ask(libc::SIOCGIFHWADDR as u32)?;
        // SAFETY: each request fills the member of the union that is read here; all of them are plain numbers.
        let (index, up, mtu, hardware) = unsafe {
            (
                number.ifr_ifru.ifru_ifindex as u32,
                i32::from(flags.ifr_ifru.ifru_flags) & libc::IFF_UP != 0,
                mtu.ifr_ifru.ifru_mtu as u32,
                address.ifr_ifru.ifru_hwaddr,
            )
        };
        let mut mac = [0; 6];
        mac.iter_mut().zip(hardware.sa_data).for_each(|(byte, from)| *byte = from as u8);
        let (driver, sums) = (driver(&socket, name), sums(&socket, name));
        Ok(Self { name: name.to_owned(), index, mtu, up, mac, link_type: hardware.sa_family, driver, sums })
    }

    /// The interface, if frames can be sent on it with an Ethernet header.
    pub fn ready(name: &str) -> Result<Self, PortError> {
        let interface = Self::find(name)?;
        if !interface.up {
            return Err(PortError::Down(interface.name));
        }
        if interface.link_type != ARPHRD_ETHER {
            return Err(PortError::NotEthernet(interface.name, interface.link_type));
        }
        Ok(interface)
    }

    /// Whether the sender of a received frame may be this host (or its hypervisor), which leaves checksums to a
    /// device that does not exist.
    pub fn has_local_peer(&self) -> bool {
        matches!(
            self.driver.as_str(),
            "veth" | "virtio_net" | "tun" | "bridge" | "macvlan" | "netkit" | "xen_netfront" | "netvsc" | ""
        )
    }
}

/// How the XDP program of an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAttachment {
    None,
    /// In the driver: frames are seen before they become socket buffers.
    Driver,
    /// After the driver, on socket buffers: works everywhere, and is slower.
    Generic,
    /// In the device, or several at once.
    Other,
}

/// Asks rtnetlink (RTM_GETLINK, attribute IFLA_XDP). `None`: the kernel did not say.
pub fn xdp_attachment(index: u32) -> Option<XdpAttachment> {
    const IFINFO: usize = 32;
    const IFLA_XDP_ATTACHED: u16 = 2;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    let mut question = [0u8; IFINFO];
    question[..4].copy_from_slice(&(IFINFO as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    question[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    question[20..24].copy_from_slice(&index.to_ne_bytes());
    rustix::net::send(&socket, &question, rustix::net::SendFlags::empty()).ok()?;
    let mut answer = vec![0u8; 32 << 10];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty()).ok()?;
    let message = answer.get(..len)?;
    if message.get(4..6)? != libc::RTM_NEWLINK.to_ne_bytes() {
        return None;
    }
    let xdp = attribute(message.get(IFINFO..)?, libc::IFLA_XDP)?;
    Some(match attribute(xdp, IFLA_XDP_ATTACHED)?.first()? {
        0 => XdpAttachment::None,
        1 => XdpAttachment::Driver,
        2 => XdpAttachment::Generic,
        _ => XdpAttachment::Other,
    })
}

/// The content of a netlink attribute.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & !(libc::NLA_F_NESTED as u16);
        if kind == wanted {
            return rest.get(4..len);
        }
        // A length below that of its own header would not move on.
        rest = rest.get(len.max(4).next_multiple_of(4)..)?;
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    request
}

fn ioctl(socket: &OwnedFd, number: u32, name: &str) -> io::Result<libc::ifreq> {
    let mut request = request(name);
    // SAFETY: the SIOCGIF* requests read the name and write within the ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
}

fn driver(socket: &OwnedFd, name: &str) -> String {
    let Some(answer) = ethtool::<DRIVER_INFO>(socket, name, ETHTOOL_GDRVINFO) else { return String::new() };
    let text: Vec<u8> = answer[4..36].iter().copied().take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

fn sums(socket: &OwnedFd, name: &str) -> bool {
    // struct ethtool_value: command, value.
    ethtool::<8>(socket, name, ETHTOOL_GTXCSUM).is_some_and(|answer| answer[4..] != [0; 4])
}

/// Asks a question of ethtool(8)'s whose answer has `SIZE` bytes, its command included.
fn ethtool<const SIZE: usize>(socket: &OwnedFd, name: &str, command: u32) -> Option<[u8; SIZE]> {
    let mut answer = [0u8; SIZE];
    answer[..4].copy_from_slice(&command.to_ne_bytes());
    let mut request = request(name);
    request.ifr_ifru.ifru_data = answer.as_mut_ptr().cast();
    // SAFETY: the caller's command writes a struct of `SIZE` bytes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request) };
    (result == 0).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_is_no_place_for_ethernet() {
        let interface = Interface::find("lo").unwrap();
        assert_eq!((interface.index, interface.link_type), (1, 772));
        assert!(interface.mtu >= 1500);
        let error = Interface::ready("lo").unwrap_err();
        assert!(matches!(error, PortError::NotEthernet(..) | PortError::Down(_)), "{error}");
        assert_eq!(xdp_attachment(interface.index), Some(XdpAttachment::None));
        assert_eq!(xdp_attachment(u32::MAX >> 1), None);
    }

    #[test]
    fn a_missing_interface_is_named() {
        for name in ["nosuch0", "", "a-name-that-is-too-long", "a/b"] {
            let error = Interface::find(name).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no interface {name}: create it or correct the name"));
        }
    }
}
