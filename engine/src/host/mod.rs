//! The host kernel around the engine: its interfaces, addresses, routes, neighbours and firewall; its ports; what it
//! can do and what it lacks.
//!
//! Questions are asked over rtnetlink and ethtool, no daemon and no tool is needed (the firewall's rules are the exception).
//! Everything here is control plane: it allocates, and it may wait for the kernel.

pub mod ethtool;
pub mod firewall;
#[cfg(test)]
pub mod fixture;
mod genetlink;
pub mod interface;
pub mod monitor;
pub mod neighbour;
mod netlink;
pub mod occupant;
pub mod probe;
pub mod reserve;
pub mod tables;

pub use interface::Interface;
pub use monitor::{Change, Monitor};
pub use reserve::{Reservation, reserve};
pub use tables::{HostAddress, HostNeighbour, HostRoute};

use std::io;

/// What the host refuses; each variant is one sentence for the user, cause included (it is no `source`, so that a chain
/// of contexts does not say it twice).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("interface {name} does not exist{hint}")]
    NoInterface { name: String, hint: String },

    #[error("interface {name} is down: bring it up (ip link set dev {name} up)")]
    InterfaceDown { name: String },

    #[error("interface {name} is no Ethernet interface: its frames have no Ethernet header")]
    NotEthernet { name: String },

    #[error("cannot {action}: {cause}")]
    Netlink { action: String, cause: io::Error },

    #[error(
        "port {port} of {address} is in use by the host{owner}: stop the program that has it or choose another port"
    )]
    PortInUse { address: std::net::IpAddr, port: u16, owner: String },

    #[error(
        "the engine `{}` has it (keeper {}), and an interface has one engine: stop that one (persona down --name {}), or use another interface",
        .0.name, .0.keeper, .0.name
    )]
    Occupied(occupant::Occupant),

    #[error("cannot keep port {port} of {address} from the host: {cause}")]
    Reserve { address: std::net::IpAddr, port: u16, cause: io::Error },
}

impl Error {
    fn netlink(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Netlink { action: action.into(), cause }
    }
}
