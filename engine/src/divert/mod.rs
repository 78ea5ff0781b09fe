//! The diversion of one interface: the eBPF programs of `persona-ebpf`, attached for the kind of port that the interface
//! has, with their maps. One face for AF_XDP and packet ports; tap and macvtap need none.
//!
//! Made by the engine while it is privileged. Afterwards everything here goes through descriptors, from any thread,
//! without privilege. All of them are in the keeper's ledger ([`Diversion::record`]): the programs stay attached when the
//! engine dies, the keeper holds what is ours back meanwhile ([`hold_all`]), and a successor goes on with
//! [`Diversion::resume`].

mod inherit;
mod report;
#[cfg(test)]
mod tests;

pub use inherit::{detach_all, discard, hold_all, pass_all, was_xdp};
pub use persona_ebpf::{AddressMode, Counters, Error, Hold, Reason, XdpMode};

use persona_ebpf::{ClsactFilter, FlowKey, Link, ListenerKey, Maps, Object, Program, Sizes};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// What kind of port the interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// AF_XDP sockets on the receive queues. `multi_buffer`: they are bound with XDP_USE_SG. `mode`: this or none;
    /// absent: the driver's where it has one, else the generic.
    Xdp { multi_buffer: bool, mode: Option<XdpMode> },
    /// Packet sockets: each has to be given the filter ([`Diversion::socket_filter`]).
    Packet,
}

/// Capacities of one interface's diversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub queues: u32,
    /// Connections that may be entered one by one (shared addresses).
    pub flows: u32,
    pub listeners: u32,
}

/// Attached programs and their maps.
#[derive(Debug)]
pub struct Diversion {
    interface: String,
    attachment: Attachment,
    /// The socket filter, for packet sockets made later.
    socket_filter: Option<OwnedFd>,
    maps: Maps,
}

#[derive(Debug)]
enum Attachment {
    Xdp { link: Link, mode: XdpMode, multi_buffer: bool },
    Tcx { link: Link },
    Clsact(ClsactFilter),
}

impl Diversion {
    /// Loads and attaches the programs. Nothing is diverted until something is entered. Needs CAP_BPF,
    /// CAP_PERFMON and CAP_NET_ADMIN. Attaching an XDP program may reset a hardware NIC's link for a moment.
    pub fn attach(interface: &str, kind: PortKind, capacity: Capacity) -> Result<Self, Error> {
        let sizes = Sizes {
            flows: capacity.flows.max(1),
            listeners: capacity.listeners.max(1),
            queues: capacity.queues.max(1),
            ..Sizes::default()
        };
        let mut object = Object::load(&sizes)?;
        let maps = object.maps()?;
        let (attachment, socket_filter) = match kind {
            PortKind::Xdp { multi_buffer, mode } => {
                let (link, mode) = match mode {
                    Some(mode) => (object.attach_xdp_in(interface, multi_buffer, mode)?, mode),
                    None => object.attach_xdp(interface, multi_buffer)?,
                };
                (Attachment::Xdp { link, mode, multi_buffer }, None)
            }
            PortKind::Packet => {
                let filter = object.program(Program::Socket)?;
                let attachment = match object.attach_tcx(interface)? {
                    Some(link) => Attachment::Tcx { link },
                    None => Attachment::Clsact(object.attach_clsact(interface)?),
                };
                (attachment, Some(filter))
            }
        };
        Ok(Self { interface: interface.into(), attachment, socket_filter, maps })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How it is attached, in words: "xdp driver", "xdp generic, multi-buffer", "tcx", "clsact".
    pub fn attached(&self) -> String {
        match &self.attachment {
            Attachment::Xdp { mode, multi_buffer, .. } => {
                format!("xdp {}{}", mode.name(), if *multi_buffer { ", multi-buffer" } else { "" })
            }
            Attachment::Tcx { .. } => "tcx".into(),
            Attachment::Clsact(_) => "clsact".into(),
        }
    }

    /// Where the XDP program runs; `None` with a packet port.
    pub fn xdp_mode(&self) -> Option<XdpMode> {
        match &self.attachment {
            Attachment::Xdp { mode, .. } => Some(*mode),
            _ => None,
        }
    }

    // Sockets.

    /// What arrives on `queue` and is ours goes to this AF_XDP socket, which has its rings and UMEM already.
    pub fn set_xsk(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.maps.set_xsk(queue, socket)
    }

    /// The program that lets only what is ours into a packet socket's ring, to be attached before the socket is bound.
    pub fn socket_filter(&self) -> io::Result<OwnedFd> {
        match &self.socket_filter {
            Some(filter) => filter.try_clone(),
            None => Err(io::Error::other("this diversion was attached for AF_XDP and has no socket filter")),
        }
    }

    // What is ours.

    /// Diverts a connection that no listener's entry covers. `shard` is for display.
    pub fn add_flow(&self, local: SocketAddr, remote: SocketAddr, shard: u8) -> Result<(), Error> {
        self.maps.insert_flow(FlowKey::new(local, remote), shard.into())
    }

    pub fn remove_flow(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), Error> {
        self.maps.remove_flow(FlowKey::new(local, remote)).map(drop)
    }

    /// Diverts what comes to `local`, and with it the connections that were accepted there. The unspecified address means
    /// all addresses of its family that were entered ([`Diversion::add_address`]), in either mode.
    pub fn add_listener(&self, local: SocketAddr) -> Result<(), Error> {
        self.maps.insert_listener(ListenerKey::new(local))
    }

    pub fn remove_listener(&self, local: SocketAddr) -> Result<(), Error> {
        self.maps.remove_listener(ListenerKey::new(local)).map(drop)
    }

    /// Says whose an address of this interface is.
    pub fn add_address(&self, address: IpAddr, mode: AddressMode) -> Result<(), Error> {
        self.maps.insert_address(address, mode)
    }

    pub fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        self.maps.remove_address(address).map(drop)
    }

    /// Forgets all flows, listeners and addresses: a successor starts afresh.
    pub fn clear(&self) -> Result<(), Error> {
        for entry in self.maps.flows()? {
            self.maps.remove_flow(entry.key)?;
        }
        for entry in self.maps.listeners()? {
            self.maps.remove_listener(entry.key)?;
        }
        for entry in self.maps.addresses()? {
            self.maps.remove_address(entry.key)?;
        }
        Ok(())
    }

    // While no engine runs.

    /// An engine runs: what is ours is diverted.
    pub fn run(&self) -> Result<(), Error> {
        self.maps.set_hold(Hold::Run)
    }

    /// Drops what is ours for `span`, then passes it to the host.
    pub fn hold(&self, span: Duration) -> Result<(), Error> {
        self.maps.hold_for(span)
    }

    /// Passes what is ours to the host from now on.
    pub fn pass(&self) -> Result<(), Error> {
        self.maps.set_hold(Hold::Pass)
    }

    /// Frames by what became of them, since the attachment.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.maps.counters()
    }
}
