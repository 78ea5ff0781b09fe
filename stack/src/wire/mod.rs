//! Wire formats: what the bytes of a frame mean, and how our frames are written.
//!
//! Each format has a *view*, which accepts any bytes, checks their bounds once and then reads fields that cannot
//! panic, and a *repr*, plain values of which every combination can be sent. Nothing here decides anything: what a
//! field causes is said in `ip/` and `tcp/`. Multi-byte fields are in host order unless a name says otherwise.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod ipv4;
pub mod ipv6;
pub mod seq;
pub mod tcp;
pub mod tcp_options;

pub use arp::{ArpOperation, ArpRepr};
pub use ethernet::{EtherType, EthernetRepr, EthernetView, MacAddr};
pub use icmpv4::{Embedded, Icmpv4Repr};
pub use ipv4::{Ipv4Repr, Ipv4View};
pub use ipv6::{Ipv6Repr, Ipv6View};
pub use seq::SeqNumber;
pub use tcp::{TcpFlags, TcpRepr, TcpView};
pub use tcp_options::{EcnBytes, MAX_LEN as MAX_OPTIONS_LEN, SackBlock, SackBlocks, TcpOptions, Timestamps};

/// IP protocol numbers that the stack knows.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// Why bytes are not what their place in the frame says they are. Each is counted by its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than the fixed header, or than a length field claims.
    Truncated,
    /// The version nibble belongs to another protocol.
    Version,
    /// A header length below the minimum.
    HeaderLength,
    /// A total length below the header's length.
    TotalLength,
    /// A hardware or protocol type that the format does not carry here.
    Type,
    /// The checksum does not match.
    Checksum,
}

#[cfg(test)]
mod tests;
