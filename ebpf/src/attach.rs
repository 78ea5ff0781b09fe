//! Fastening the programs to an interface, and saying who is in the way.
//!
//! XDP and tcx attachments are bpf_links: a descriptor, whose last copy takes the program away when it closes. Only
//! kernels before 6.6 have no tcx; there a clsact filter stays behind its maker, and `persona_tc_alive` makes it inert.

use crate::error::{Error, chain};
use crate::netlink;
use crate::object::{Object, Program};
use crate::sys;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
/// Before all others on the hook: nobody may take the original further before we drop it.
const BPF_F_BEFORE: u32 = 1 << 3;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel makes an skb.
    Driver,
    /// In the kernel's generic path: works everywhere, costs an skb per frame.
    Generic,
}

impl XdpMode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }
}

/// A bpf_link. The program is attached as long as a descriptor of it is open anywhere.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Takes over a link that this process made or inherited.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A filter of the clsact qdisc, which no descriptor holds.
#[derive(Debug)]
pub struct ClsactFilter {
    /// As long as this socket is open anywhere, the filter acts.
    pub alive: OwnedFd,
    pub priority: u16,
    pub handle: u32,
}

impl Object {
    /// Attaches the XDP program: in the driver where that works, else in the generic path; the mode says which.
    /// `multi_buffer`: frames may span buffers (an MTU beyond a page less its headroom).
    pub fn attach_xdp(&mut self, interface: &str, multi_buffer: bool) -> Result<(Link, XdpMode), Error> {
        match self.attach_xdp_in(interface, multi_buffer, XdpMode::Driver) {
            Ok(link) => Ok((link, XdpMode::Driver)),
            // Drivers differ in how they say no: unsupported, no queues left, not with this offload.
            Err(refused @ Error::Attach { .. }) => {
                let generic = self.attach_xdp_in(interface, multi_buffer, XdpMode::Generic);
                generic.map(|link| (link, XdpMode::Generic)).map_err(|_| refused)
            }
            Err(other) => Err(other),
        }
    }

    /// Attaches the XDP program in this mode or not at all.
    pub fn attach_xdp_in(&mut self, interface: &str, multi_buffer: bool, mode: XdpMode) -> Result<Link, Error> {
        let queried = |cause| Error::Query { interface: interface.into(), cause };
        let device = netlink::link(interface).map_err(queried)?;
        if let Some(owner) = device.xdp_program {
            return Err(Error::XdpOccupied { interface: interface.into(), owner: describe_program(owner) });
        }
        let which = if multi_buffer { Program::XdpFrags } else { Program::Xdp };
        let program = self.program(which)?;
        let flags = match mode {
            XdpMode::Driver => XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        };
        match sys::link_create(program.as_fd(), device.index, BPF_XDP, flags) {
            Ok(fd) => Ok(Link(fd)),
            Err(error) => Err(match error.raw_os_error() {
                // Somebody was faster than our look.
                Some(libc::EBUSY | libc::EEXIST) => {
                    let owner = netlink::link(interface).map_err(queried)?.xdp_program;
                    let owner = owner.map_or_else(|| "one that has gone since".into(), describe_program);
                    Error::XdpOccupied { interface: interface.into(), owner }
                }
                Some(libc::ERANGE | libc::EINVAL) if device.mtu > 1500 => Error::XdpMtu {
                    interface: interface.into(),
                    mtu: device.mtu,
                    frags: if multi_buffer { " and does not split frames into buffers" } else { "" },
                },
                _ => Error::Attach { interface: interface.into(), program: which.name(), cause: error },
            }),
        }
    }

    /// Attaches the tc program to the ingress by a link; None where the kernel has no tcx (before 6.6).
    pub fn attach_tcx(&mut self, interface: &str) -> Result<Option<Link>, Error> {
        let queried = |cause| Error::Query { interface: interface.into(), cause };
        let device = netlink::link(interface).map_err(queried)?;
        let program = self.program(Program::Tc)?;
        match sys::link_create(program.as_fd(), device.index, BPF_TCX_INGRESS, BPF_F_BEFORE) {
            Ok(fd) => Ok(Some(Link(fd))),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(cause) => Err(Error::Attach { interface: interface.into(), program: Program::Tc.name(), cause }),
        }
    }

    /// Attaches the tc program to the ingress of the clsact qdisc, which is made when it is not there.
    pub fn attach_clsact(&mut self, interface: &str) -> Result<ClsactFilter, Error> {
        let failed = |reason: String| Error::Clsact { interface: interface.into(), reason };
        // A kind of socket that the map takes and that nobody can send to. Its other end is closed again below.
        let (alive, _other) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
        let map = self.map_fd("alive")?;
        sys::update(map.as_fd(), &0u32, &(alive.as_raw_fd() as u64), sys::ANY).map_err(|cause| Error::Map {
            action: "write",
            map: "alive",
            cause,
        })?;

        match tc::qdisc_add_clsact(interface) {
            Ok(()) => {}
            Err(error) if os_error(&error) == Some(libc::EEXIST) => {}
            Err(error) => return Err(failed(chain(&error))),
        }
        self.program(Program::TcAlive)?;
        let name = Program::TcAlive.name();
        let missing = || Error::Missing { what: "program", name };
        let program = self.ebpf.program_mut(name).ok_or_else(missing)?;
        let program: &mut SchedClassifier = program.try_into().map_err(|_| missing())?;
        let options = TcAttachOptions::Netlink(NlOptions::default());
        let link = program
            .attach_with_options(interface, TcAttachType::Ingress, options)
            .and_then(|id| program.take_link(id))
            .map_err(|error| failed(chain(&error)))?;
        let filter = ClsactFilter {
            priority: link.priority().map_err(|error| failed(chain(&error)))?,
            handle: link.handle().map_err(|error| failed(chain(&error)))?.into(),
            alive: alive.into(),
        };
        // Dropping aya's link would detach it; from now on the priority and handle name it.
        std::mem::forget(link);
        Ok(filter)
    }
}

/// Removes a clsact filter. Needs CAP_NET_ADMIN; without it, closing `alive` makes the filter inert.
pub fn detach_clsact(interface: &str, priority: u16, handle: u32) -> Result<(), Error> {
    let failed = |reason: String| Error::Clsact { interface: interface.into(), reason };
    let handle = TcHandle::from(handle);
    let link = SchedClassifierLink::attached(interface, TcAttachType::Ingress, priority, handle, None)
        .map_err(|error| failed(error.to_string()))?;
    aya::programs::links::Link::detach(link).map_err(|error| failed(chain(&error)))
}

/// Sets the socket filter (a descriptor of [`Program::Socket`]) on a packet socket. Frames that arrived before stay in
/// its ring.
pub fn attach_socket_filter(program: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<(), Error> {
    sys::attach_socket_filter(program, socket).map_err(Error::SocketFilter)
}

/// The XDP program that is attached to the interface, in words.
pub fn xdp_owner(interface: &str) -> Result<Option<String>, Error> {
    let device = netlink::link(interface).map_err(|cause| Error::Query { interface: interface.into(), cause })?;
    Ok(device.xdp_program.map(describe_program))
}

fn describe_program(id: u32) -> String {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned));
    match name {
        Some(name) if !name.is_empty() => format!("\"{name}\" (program id {id})"),
        _ => format!("program id {id}"),
    }
}

/// The errno at the end of an error's chain of sources.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}
