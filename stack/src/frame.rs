//! What crosses the border between the stack and a port: received frames and *super-segments*.
//!
//! A super-segment is a header template, a payload that may exceed the MTU, the state of its checksum and the size
//! at which it has to be cut. Whether the device, the kernel or the engine cuts and sums it is the port's affair;
//! TCP never knows.

/// Names one port (one queue pair of one interface) within a shard. Chosen by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u8);

/// The caller's tag of a connection: the engine keeps (session, socket) in it. Opaque to the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// How far the checksum of a received frame can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nobody looked: the stack verifies.
    #[default]
    Unverified,
    /// The port or the device verified it (all of them, where frames were merged).
    Verified,
    /// A local peer left only the pseudo-header sum in the field (CHECKSUM_PARTIAL): there is nothing to verify.
    Partial,
}

/// One received frame, or a train of TCP segments of one flow that the port merged.
///
/// `head` holds the link header, the IP and the transport header and the first payload bytes contiguously; `tail`
/// holds payload that continues it (multi-buffer descriptors, merged segments), possibly none.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    pub head: &'a [u8],
    pub tail: &'a [&'a [u8]],
    pub checksum: RxChecksum,
    /// Payload bytes of each wire segment in a merged train; 0 for a single frame. Units: bytes.
    pub gso_size: u16,
}

impl<'a> RxFrame<'a> {
    /// A single frame in one piece whose checksum nobody has verified.
    pub const fn single(head: &'a [u8]) -> Self {
        Self { head, tail: &[], checksum: RxChecksum::Unverified, gso_size: 0 }
    }

    /// Length of the whole frame, in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.iter().map(|piece| piece.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the payload of an outgoing segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The whole frame is in the header bytes (ACK, ARP, ICMP, RST).
    None,
    /// Bytes of the stack's own (an ICMP echo's payload).
    Inline(&'a [u8]),
    /// `len` bytes of the send stream of `owner` from stream offset `offset` on. The host resolves it to memory.
    Stream { owner: Owner, offset: u64, len: u32 },
}

impl Payload<'_> {
    /// Payload length in bytes.
    pub fn len(&self) -> usize {
        match *self {
            Payload::None => 0,
            Payload::Inline(bytes) => bytes.len(),
            Payload::Stream { len, .. } => len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is left to do for the transport checksum of an outgoing segment. The IPv4 header checksum is always complete
/// for an uncut segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxChecksum {
    /// Nothing: the bytes are complete.
    Complete,
    /// The field at `start + offset` holds the folded, not complemented pseudo-header sum (as virtio_net_hdr's
    /// NEEDS_CSUM demands). Sum from `start` to the end of the frame, complement, store. Units: bytes from the
    /// beginning of the frame.
    Partial { start: u16, offset: u16 },
}

/// How a super-segment has to be cut. Only TCP is cut; which IP version, the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Payload bytes of each segment on the wire; the last may be shorter.
    pub size: u16,
    /// Each segment bears the header's CWR: it is a part of AccECN's ACE field (RFC 9768 section 3.2.2.5), as Linux's
    /// SKB_GSO_TCP_ACCECN. Else only the first does (RFC 3168 section 6.1.2).
    pub repeats_ecn: bool,
}

/// One outgoing frame or super-segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Link, network and transport header with options. At most [`MAX_HEADER`] bytes.
    pub header: &'a [u8],
    pub payload: Payload<'a>,
    pub checksum: TxChecksum,
    /// `Some` when the payload exceeds one wire segment.
    pub gso: Option<Gso>,
}

/// Longest header template: Ethernet with two VLAN tags (22), IPv6 (40) with room for an extension (8), TCP (60).
pub const MAX_HEADER: usize = 130;

/// What a port can take off the stack's hands; the stack sizes its super-segments by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Largest super-segment (headers included) that the port accepts, cut by whomever. Bytes; at least the MTU.
    pub max_segment: u32,
    /// The transport checksum need not be complete.
    pub tx_checksum: bool,
}
