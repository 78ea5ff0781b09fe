//! ICMP for IPv4 (RFC 792, RFC 1191): echo, and the errors that concern a transport.

use super::{Ipv4View, Malformed, SeqNumber, checksum, protocol};
use core::net::{Ipv4Addr, SocketAddrV4};

/// Bytes before an echo's data or an error's embedded packet.
pub const HEADER_LEN: usize = 8;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Codes of [`Icmpv4Repr::Unreachable`] (RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1).
pub mod unreachable {
    pub const NET: u8 = 0;
    pub const HOST: u8 = 1;
    pub const PROTOCOL: u8 = 2;
    pub const PORT: u8 = 3;
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    pub const NET_UNKNOWN: u8 = 6;
    pub const HOST_UNKNOWN: u8 = 7;
    pub const HOST_ISOLATED: u8 = 8;
    pub const NET_PROHIBITED: u8 = 9;
    pub const HOST_PROHIBITED: u8 = 10;
    pub const NET_FOR_TOS: u8 = 11;
    pub const HOST_FOR_TOS: u8 = 12;
    pub const FILTERED: u8 = 13;
    pub const PRECEDENCE_VIOLATION: u8 = 14;
    pub const PRECEDENCE_CUTOFF: u8 = 15;
}

/// An ICMP message; `embedded` is the packet that an error is about, from its IP header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmpv4Repr<'a> {
    EchoRequest {
        identifier: u16,
        sequence: u16,
        payload: &'a [u8],
    },
    EchoReply {
        identifier: u16,
        sequence: u16,
        payload: &'a [u8],
    },
    /// Any code of [`unreachable`] but [`unreachable::FRAGMENTATION_NEEDED`].
    Unreachable {
        code: u8,
        embedded: &'a [u8],
    },
    /// Code 4. `mtu` is 0 when a router older than RFC 1191 sent it.
    FragmentationNeeded {
        mtu: u16,
        embedded: &'a [u8],
    },
    /// Code 0: the TTL ran out; code 1: reassembly timed out.
    TimeExceeded {
        code: u8,
        embedded: &'a [u8],
    },
    ParameterProblem {
        code: u8,
        pointer: u8,
        embedded: &'a [u8],
    },
}

impl<'a> Icmpv4Repr<'a> {
    /// Reads a message. `None`: a type that the stack has no use for. The checksum is verified by
    /// [`checksum_holds`].
    pub fn parse(message: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let (header, body) = message.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let [kind, code, _, _, r0, r1, r2, r3] = *header;
        let (first, second) = (u16::from_be_bytes([r0, r1]), u16::from_be_bytes([r2, r3]));
        Ok(Some(match (kind, code) {
            (ECHO_REQUEST, 0) => Self::EchoRequest { identifier: first, sequence: second, payload: body },
            (ECHO_REPLY, 0) => Self::EchoReply { identifier: first, sequence: second, payload: body },
            (UNREACHABLE, unreachable::FRAGMENTATION_NEEDED) => {
                Self::FragmentationNeeded { mtu: second, embedded: body }
            }
            (UNREACHABLE, code) => Self::Unreachable { code, embedded: body },
            (TIME_EXCEEDED, code) => Self::TimeExceeded { code, embedded: body },
            (PARAMETER_PROBLEM, code) => Self::ParameterProblem { code, pointer: r0, embedded: body },
            _ => return Ok(None),
        }))
    }

    /// Whole message, in bytes.
    pub fn len(&self) -> usize {
        HEADER_LEN + self.body().len()
    }

    /// Never: a message has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What follows the header: an echo's data or an error's embedded packet.
    pub fn body(&self) -> &'a [u8] {
        match *self {
            Self::EchoRequest { payload, .. } | Self::EchoReply { payload, .. } => payload,
            Self::Unreachable { embedded, .. }
            | Self::FragmentationNeeded { embedded, .. }
            | Self::TimeExceeded { embedded, .. }
            | Self::ParameterProblem { embedded, .. } => embedded,
        }
    }

    /// Writes the eight bytes before the body, with the checksum of the whole message, and returns their length. The
    /// body follows from wherever it lies.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`HEADER_LEN`].
    pub fn emit_header(&self, buffer: &mut [u8]) -> usize {
        let (kind, code, first, second) = match *self {
            Self::EchoRequest { identifier, sequence, .. } => (ECHO_REQUEST, 0, identifier, sequence),
            Self::EchoReply { identifier, sequence, .. } => (ECHO_REPLY, 0, identifier, sequence),
            Self::Unreachable { code, .. } => (UNREACHABLE, code, 0, 0),
            Self::FragmentationNeeded { mtu, .. } => (UNREACHABLE, unreachable::FRAGMENTATION_NEEDED, 0, mtu),
            Self::TimeExceeded { code, .. } => (TIME_EXCEEDED, code, 0, 0),
            Self::ParameterProblem { code, pointer, .. } => (PARAMETER_PROBLEM, code, u16::from(pointer) << 8, 0),
        };
        let header = &mut buffer[..HEADER_LEN];
        header[0] = kind;
        header[1] = code;
        header[2..4].fill(0);
        header[4..6].copy_from_slice(&first.to_be_bytes());
        header[6..8].copy_from_slice(&second.to_be_bytes());
        let sum = checksum::add(checksum::sum(header), checksum::sum(self.body()));
        header[2..4].copy_from_slice(&(!sum).to_be_bytes());
        HEADER_LEN
    }

    /// Writes the whole message and returns its length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::len`].
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        self.emit_header(buffer);
        buffer[HEADER_LEN..self.len()].copy_from_slice(self.body());
        self.len()
    }
}

/// Whether the checksum of a whole message holds.
pub fn checksum_holds(message: &[u8]) -> bool {
    checksum::sum(message) == checksum::VALID
}

/// The TCP segment that an ICMP error is about, as far as eight bytes of it tell. From our point of view: `local` sent
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    pub local: SocketAddrV4,
    pub remote: SocketAddrV4,
    pub seq: SeqNumber,
}

impl Embedded {
    /// Reads the embedded packet. `None`: not a first fragment of TCP, or too short to say.
    pub fn tcp(embedded: &[u8]) -> Option<Self> {
        let ip = Ipv4View::new(embedded).ok()?;
        if ip.protocol() != protocol::TCP || ip.fragment_offset() != 0 {
            return None;
        }
        let &[s0, s1, d0, d1, q0, q1, q2, q3] = ip.rest().first_chunk::<8>()?;
        Some(Self {
            local: SocketAddrV4::new(ip.source(), u16::from_be_bytes([s0, s1])),
            remote: SocketAddrV4::new(ip.destination(), u16::from_be_bytes([d0, d1])),
            seq: SeqNumber(u32::from_be_bytes([q0, q1, q2, q3])),
        })
    }

    /// Source and destination of the embedded packet, whatever it carries.
    pub fn addresses(embedded: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let ip = Ipv4View::new(embedded).ok()?;
        Some((ip.source(), ip.destination()))
    }
}
