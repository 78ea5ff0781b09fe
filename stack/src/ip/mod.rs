//! The IP layer: interfaces, routes, neighbours, reassembly, ICMP. IPv4; types carry both families.
//!
//! Frames come in through [`input::receive`], which deals with everything but TCP, and go out through
//! [`links::Links::output`], which writes the link header and knows who waits for a neighbour. All state lies in
//! records of the arena: [`links::Links`] and [`reassembly::Reassembly`] are views of it, apart from each other so that a
//! segment may still lie in the reassembly buffer while its answer goes out.

pub mod counters;
pub mod held;
pub mod icmp;
pub mod input;
pub mod interface;
pub mod limit;
pub mod links;
pub mod neighbour;
pub mod packed;
pub mod reassembly;
pub mod receive;
pub mod route;

pub use counters::IpCounters;
pub use icmp::IcmpError;
pub use input::{DEFAULT_TTL, Received};
pub use interface::Interfaces;
pub use limit::{Rate, TokenBucket};
pub use links::{LINK_ROOM, Links, LinksState, Outgoing};
pub use neighbour::Neighbours;
pub use packed::PackedIp;
pub use reassembly::Reassembly;
pub use receive::{Peek, Pieces, TransportPacket};
pub use route::{Path, Routes};
