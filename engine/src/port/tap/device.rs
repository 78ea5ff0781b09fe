//! Opening /dev/net/tun and /dev/tapN, and what there is to agree on with the kernel.

use super::{Params, Place};
use crate::port::error::PortError;
use crate::port::interface::Interface;
use crate::port::vnet;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;

/// An open device.
pub struct Device {
    pub fd: OwnedFd,
    pub name: String,
    /// Frames carry a virtio_net_hdr, so that the kernel cuts and sums; if not although asked for, why.
    pub vnet: Result<(), String>,
}

const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

impl Device {
    pub fn open(params: &Params) -> Result<Self, PortError> {
        let (path, name) = match &params.place {
            Place::Tap { name, create } => {
                check_tap(name, *create)?;
                ("/dev/net/tun", name.as_str())
            }
            Place::Macvtap { path } => (path.as_str(), ""),
        };
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| unopened(path, error.into()))?;

        let features = libc::IFF_TAP | libc::IFF_NO_PI | if params.multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
        let attach = |flags| attach(&fd, name, flags);
        let mut vnet = if params.vnet { Ok(()) } else { Err("not configured".to_owned()) };
        if vnet.is_ok()
            && let Err(error) = attach(features | libc::IFF_VNET_HDR)
        {
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(unattached(path, name, error));
            }
            vnet = Err("the kernel knows no IFF_VNET_HDR here".to_owned());
        }
        if vnet.is_err() {
            attach(features).map_err(|error| unattached(path, name, error))?;
        }
        if vnet.is_ok() {
            let size = vnet::LEN as i32;
            let argument: *const i32 = &raw const size;
            ioctl(&fd, libc::TUNSETVNETHDRSZ as libc::Ioctl, argument as usize)
                .map_err(PortError::io("setting the virtio header's size", path))?;
        }
        // Without virtio headers the kernel must be told, too, that nothing is taken off its hands.
        let offloads = if vnet.is_ok() { OFFLOADS } else { 0 };
        ioctl(&fd, libc::TUNSETOFFLOAD as libc::Ioctl, offloads as usize)
            .map_err(PortError::io("setting the offloads", path))?;
        let (name, _) = attached_as(&fd).map_err(PortError::io("asking for the interface's name", path))?;
        Ok(Self { fd, name, vnet })
    }

    /// An attached descriptor that another process has opened as above.
    pub fn reopen(params: &Params, fd: OwnedFd) -> Result<Self, PortError> {
        let place = match &params.place {
            Place::Tap { name, .. } => name,
            Place::Macvtap { path } => path,
        };
        let (name, flags) = attached_as(&fd).map_err(PortError::io("taking over the device", place))?;
        let vnet = match flags & libc::IFF_VNET_HDR {
            0 => Err("not when it was opened".to_owned()),
            _ => Ok(()),
        };
        Ok(Self { fd, name, vnet })
    }
}

/// An existing interface has to be a tap that is up; a missing one is made if the caller wants that.
fn check_tap(name: &str, create: bool) -> Result<(), PortError> {
    match Interface::find(name) {
        Ok(interface) if !interface.up => Err(PortError::Down(interface.name)),
        Ok(_) => Ok(()),
        Err(PortError::NoInterface(_)) if create && !name.is_empty() && name.len() < libc::IFNAMSIZ => Ok(()),
        Err(error) => Err(error),
    }
}

fn unopened(path: &str, error: io::Error) -> PortError {
    let reason = match error.raw_os_error() {
        Some(libc::ENOENT) => "there is no such device; load the module (tun, macvtap) or make the node".to_owned(),
        Some(libc::ENXIO | libc::ENODEV) => "no macvtap interface belongs to it".to_owned(),
        Some(libc::EBUSY) => return PortError::Attached(path.to_owned()),
        Some(libc::EPERM | libc::EACCES) => {
            let capability = "CAP_NET_ADMIN and access to the device";
            return PortError::Permission { operation: "opening the device", on: path.to_owned(), capability };
        }
        _ => error.to_string(),
    };
    PortError::Device { path: path.to_owned(), what: "a tap device", reason }
}

fn unattached(path: &str, name: &str, error: io::Error) -> PortError {
    let on = if name.is_empty() { path } else { name };
    match error.raw_os_error() {
        Some(libc::EBUSY) => PortError::Attached(on.to_owned()),
        Some(libc::EINVAL) => PortError::Device {
            path: on.to_owned(),
            what: "a tap",
            reason: "it is not a tap interface, or it was made with other queues (multi_queue)".to_owned(),
        },
        Some(libc::ENOTTY) => PortError::Device {
            path: path.to_owned(),
            what: "a tap device",
            reason: "it is another kind of device".to_owned(),
        },
        _ => PortError::io("attaching to the tap", on)(error),
    }
}

fn attach(fd: &OwnedFd, name: &str, flags: i32) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let argument: *const libc::ifreq = &raw const request;
    ioctl(fd, libc::TUNSETIFF as libc::Ioctl, argument as usize)
}

/// The interface's name and its IFF_ flags.
fn attached_as(fd: &OwnedFd) -> io::Result<(String, i32)> {
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let argument: *mut libc::ifreq = &raw mut request;
    ioctl(fd, libc::TUNGETIFF as libc::Ioctl, argument as usize)?;
    let name: Vec<u8> = request.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    // SAFETY: the kernel wrote this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((String::from_utf8_lossy(&name).into_owned(), flags.into()))
}

fn ioctl(fd: &OwnedFd, number: libc::Ioctl, argument: usize) -> io::Result<()> {
    // SAFETY: the callers pass what each request takes: a number, or the address of a structure that is alive.
    if unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
