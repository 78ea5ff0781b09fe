//! The types of the stack's public face. What they do is in the modules that use them.

use crate::congestion::Congestion;
use crate::frame::{Owner, PortId, Segment};
use crate::time::Duration;
use core::net::{IpAddr, SocketAddr};

/// What the stack asks of its caller while it runs: memory for payload and a way out for frames.
///
/// Both are called from within the stack's methods, never concurrently.
pub trait Host {
    /// Hands one frame or super-segment to `port`. [`Busy`] means that it was not taken: the stack keeps it as
    /// unsent and tries again at the next [`flush`](crate::Stack::flush). Frames without payload of a stream should
    /// be kept by the caller instead: nobody remembers a RST, a SYN,ACK or an ACK of TIME-WAIT before the peer asks again.
    fn transmit(&mut self, port: PortId, segment: &Segment<'_>) -> Result<(), Busy>;

    /// Copies `bytes` into the receive stream of `owner` at stream offset `offset` and sums them in the same pass.
    /// Bytes beyond the published end (out of order) are legal within the window the stack has offered. Stores a
    /// prefix when memory is short; the stack then acknowledges only that prefix.
    fn store(&mut self, owner: Owner, offset: u64, bytes: &[u8]) -> Stored;

    /// A passive open is about to complete: the segment in hand is the last of the handshake and may carry data or be
    /// followed by data in the same batch, so the answer is wanted now. See [`Incoming`].
    fn incoming(&mut self, open: &PassiveOpen) -> Incoming {
        let _ = open;
        Incoming::Later
    }
}

/// A passive open that is about to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveOpen {
    pub listener: ListenerId,
    pub listener_owner: Owner,
    pub connection: ConnectionId,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What becomes of a [`PassiveOpen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The connection is established and has this owner. There will be no [`Event::Incoming`]; bytes of the segment in
    /// hand are stored at once.
    Adopt(Owner),
    /// The connection is established and waits, within the listener's backlog, for
    /// [`adopt`](crate::Stack::adopt); [`Event::Incoming`] reports it. Its bytes are not acknowledged until then, so
    /// the peer repeats them.
    Later,
    /// The accept queue is full: the segment is dropped and the connection stays half-open (SYN-RECEIVED), as on Linux.
    /// The peer's next segment asks again.
    Refuse,
}

/// The port has no room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Outcome of [`Host::store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes stored, from the beginning of the slice.
    pub len: usize,
    /// One's complement sum (RFC 1071) of the bytes *as stored*, as if they began at an even offset; unfolded sums
    /// are folded to 16 bits, network order semantics as [`crate::wire::checksum`] defines.
    pub sum: u16,
}

/// Names a connection; stale after it closed (the generation no longer matches).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub index: u32,
    pub generation: u32,
}

/// Names a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    pub index: u32,
    pub generation: u32,
}

/// What happened to one connection or listener since the last poll; flags are coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A passive open completed and [`Host::incoming`] said [`Incoming::Later`]: `connection` waits to be adopted or
    /// aborted. Reported once per connection; when the peer has ended it meanwhile, adopting says [`Error::Gone`].
    Incoming {
        listener: ListenerId,
        listener_owner: Owner,
        connection: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// State of a connection that has an owner changed.
    Connection { connection: ConnectionId, owner: Owner, changes: Changes, status: Status },
    /// Shared mode: the link address of this next hop is not known. The caller's host resolves it, and
    /// [`set_neighbour`](crate::Stack::set_neighbour) tells; frames wait meanwhile.
    NeighbourWanted { port: PortId, address: IpAddr },
    /// The connection's record is gone; `connection` is stale after this.
    Closed { owner: Owner, connection: ConnectionId, reason: CloseReason },
}

/// Which parts of [`Status`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub established: bool,
    /// `rcv_end` moved: there is more to read.
    pub readable: bool,
    /// `snd_acked` moved: send stream bytes below it can be freed.
    pub acked: bool,
    /// The peer's FIN arrived in order.
    pub peer_closed: bool,
    /// The urgent pointer moved.
    pub urgent: bool,
    /// A soft error (ICMP) to report once through SO_ERROR; the connection goes on.
    pub soft_error: bool,
}

/// A connection's position, in stream offsets (bytes since its beginning, both directions start at 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// In-order bytes stored in the receive stream.
    pub rcv_end: u64,
    /// Bytes of the send stream that the peer has acknowledged.
    pub snd_acked: u64,
    /// Stream offset of the byte after the urgent byte, when urgent data is pending.
    pub urgent: Option<u64>,
    /// errno of a soft error.
    pub soft_error: u16,
    /// Bytes that the application may have written and the peer not acknowledged: what keeps the window filled.
    pub send_room: u32,
    /// When the application's read cursor reaches this offset, a window update is due: call
    /// [`read`](crate::Stack::read) then at the latest.
    pub window_update_at: u64,
}

/// Why a connection's record went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both directions ended in order.
    Finished,
    /// The peer sent RST (ECONNRESET; in SYN-SENT: ECONNREFUSED).
    Reset,
    Refused,
    /// No answer within the retries or TCP_USER_TIMEOUT (ETIMEDOUT).
    TimedOut,
    /// ICMP hard error or no route; the errno (EHOSTUNREACH, ENETUNREACH, EPROTO...).
    Unreachable(u16),
    /// We ended it: abort, linger 0, or unread data at close.
    Aborted,
}

/// How an interface is seen by the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    pub port: PortId,
    pub link: Link,
    /// IP packet bytes that fit into one frame.
    pub mtu: u16,
    pub offload: crate::frame::Offload,
    /// Who answers ARP and ICMP echo, who resolves neighbours.
    pub mode: AddressMode,
}

/// Link layer of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet with our hardware address.
    Ethernet { mac: [u8; 6] },
    /// No link header (tun, raw IP).
    Ip,
}

/// The two address modes of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// The address is the engine's alone: the stack resolves neighbours, answers ARP, ICMP echo, and unknown ports
    /// with RST.
    Own,
    /// Host and engine use one address: neighbours come from the caller; only frames of known flows and listeners
    /// arrive, and nothing else is answered.
    Shared,
}

/// Why a command was refused. Each has one errno on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// EADDRINUSE
    AddressInUse,
    /// EADDRNOTAVAIL
    AddressNotAvailable,
    /// ENETUNREACH
    NoRoute,
    /// ENOBUFS
    NoMemory,
    /// EAFNOSUPPORT
    FamilyNotSupported,
    /// ENOTCONN
    NotConnected,
    /// EINVAL
    Invalid,
    /// The id is stale.
    Gone,
}

/// Per-connection settings, with Linux's meaning. Absent (`None`) fields keep the stack's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    pub nodelay: bool,
    pub cork: bool,
    pub keepalive: bool,
    pub keep_idle: Option<Duration>,
    pub keep_interval: Option<Duration>,
    pub keep_count: Option<u8>,
    pub user_timeout: Option<Duration>,
    /// SO_LINGER with a timeout of zero: close sends RST.
    pub linger_reset: bool,
    /// TCP_MAXSEG.
    pub max_segment: Option<u16>,
    pub congestion: Option<Congestion>,
    /// Receive buffer in bytes (SO_RCVBUF); bounds the offered window.
    pub receive_buffer: Option<u32>,
    /// The receive buffer begins small and grows up to that with what the application reads per round trip.
    pub tune_receive: bool,
    /// Send buffer in bytes (SO_SNDBUF).
    pub send_buffer: Option<u32>,
    /// The send buffer begins small and grows up to that with the congestion window.
    pub tune_send: bool,
    pub quickack: bool,
    /// IP_TTL.
    pub ttl: Option<u8>,
    /// IP_TOS.
    pub tos: Option<u8>,
    /// TCP_SYNCNT.
    pub syn_retries: Option<u8>,
    /// SO_OOBINLINE.
    pub oob_inline: bool,
    /// TCP_LINGER2: seconds that FIN-WAIT-2 lasts after close(); negative: it ends with RST at once.
    pub linger2: Option<i16>,
    /// TCP_RTO_MIN_US: the shortest retransmission timeout, in whole milliseconds up to 255.
    pub rto_min: Option<Duration>,
    /// TCP_THIN_LINEAR_TIMEOUTS.
    pub thin_linear_timeouts: bool,
    /// IP_MINTTL: what arrives with less is dropped (RFC 5082).
    pub min_ttl: u8,
    /// TCP_DEFER_ACCEPT, of listeners: so many times the SYN,ACK's timer fires before a connection without data is given out.
    pub defer_accept: u8,
}

/// A destination and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix_len: u8,
    /// `None`: on link.
    pub gateway: Option<IpAddr>,
    pub port: PortId,
    /// Source address to prefer; `None`: the interface's first of that family.
    pub source: Option<IpAddr>,
}
