//! Checks of a received frame, link and IPv4 header, before anything is done about it. Pure functions of the frame and
//! the interface.

use super::interface::{InterfaceRecord, Interfaces, is_host_address};
use super::packed::PackedIp;
use crate::api::Link;
use crate::frame::{PortId, RxChecksum, RxFrame};
use crate::wire::{EtherType, EthernetView, Ipv4View, MacAddr, Malformed, protocol};
use core::net::{Ipv4Addr, SocketAddr};

/// What lies behind the link header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPayload<'a> {
    /// A packet from its IPv4 header on, as far as the frame's first piece reaches.
    Ipv4(&'a [u8]),
    Ipv6(&'a [u8]),
    Arp(&'a [u8]),
}

/// Why a frame or packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// For another station or VLAN, of a type that nobody speaks here, or cut short.
    Link,
    Header(Malformed),
    /// Addressed to somebody else, or to everybody.
    NotForUs,
    /// From an address that no host can have.
    Source,
    /// With a source route, which Linux refuses unless told otherwise.
    SourceRoute,
}

/// Steps over the link header.
#[inline]
pub fn link<'a>(interface: &InterfaceRecord, head: &'a [u8]) -> Result<LinkPayload<'a>, Discard> {
    let Link::Ethernet { mac } = interface.link() else {
        return match head.first().map(|first| first >> 4) {
            Some(4) => Ok(LinkPayload::Ipv4(head)),
            Some(6) => Ok(LinkPayload::Ipv6(head)),
            _ => Err(Discard::Link),
        };
    };
    let frame = EthernetView::new(head).map_err(|_| Discard::Link)?;
    // A VLAN is another interface; a priority tag alone (VLAN 0) is none.
    if frame.vlan() != 0 {
        return Err(Discard::Link);
    }
    let to_us = frame.destination == MacAddr(mac);
    match frame.ether_type {
        EtherType::ARP if to_us || frame.destination.is_group() => Ok(LinkPayload::Arp(frame.payload())),
        // A unicast packet in a group frame is somebody's mistake or trick (RFC 1122 section 3.3.6).
        EtherType::IPV4 if to_us => Ok(LinkPayload::Ipv4(frame.payload())),
        EtherType::IPV6 if to_us => Ok(LinkPayload::Ipv6(frame.payload())),
        _ => Err(Discard::Link),
    }
}

/// A packet whose header is right and which is for us.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Packet<'a> {
    /// From the header on, within the first piece.
    pub original: &'a [u8],
    pub header: Ipv4View<'a>,
    tail: &'a [&'a [u8]],
    payload_len: usize,
}

impl<'a> Ipv4Packet<'a> {
    #[inline]
    pub fn payload(&self) -> Pieces<'a> {
        Pieces::new(self.header.rest(), self.tail, self.payload_len)
    }
}

/// A payload in pieces: the rest of the frame's first piece, and what continues it.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a> {
    head: &'a [u8],
    tail: &'a [&'a [u8]],
    len: usize,
}

impl<'a> Pieces<'a> {
    /// The first `len` bytes of `head` and `tail` together, which hold at least so many.
    #[inline]
    pub(crate) fn new(head: &'a [u8], tail: &'a [&'a [u8]], len: usize) -> Self {
        Self { head: head.get(..len).unwrap_or(head), tail, len }
    }

    /// A payload in one piece.
    #[inline]
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { head: bytes, tail: &[], len: bytes.len() }
    }

    /// The first piece and those that continue it; what lies beyond [`Pieces::len`] is padding.
    #[inline]
    pub(crate) fn parts(&self) -> (&'a [u8], &'a [&'a [u8]]) {
        (self.head, self.tail)
    }

    /// Bytes of all pieces together.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first piece; it holds the transport header of any sane packet.
    #[inline]
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// All bytes, when they lie in one piece.
    #[inline]
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        (self.head.len() == self.len).then_some(self.head)
    }

    /// The pieces in order, `len` bytes in all.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = self.len;
        core::iter::once(self.head).chain(self.tail.iter().copied()).map_while(move |piece| {
            if left == 0 {
                return None;
            }
            let piece = piece.get(..left).unwrap_or(piece);
            left -= piece.len();
            Some(piece)
        })
    }

    /// What follows the first `len` bytes, which the first piece holds.
    #[inline]
    pub fn skip(&self, len: usize) -> Self {
        let head = self.head.get(len..).unwrap_or_default();
        Self { head, tail: self.tail, len: self.len.saturating_sub(len) }
    }
}

/// Checks the IPv4 header of `frame`, which begins with `packet`.
#[inline]
pub fn ipv4<'a>(
    interfaces: &Interfaces,
    port: PortId,
    packet: &'a [u8],
    frame: &RxFrame<'a>,
) -> Result<Ipv4Packet<'a>, Discard> {
    let header = Ipv4View::new(packet).map_err(Discard::Header)?;
    if !header.checksum_holds() {
        return Err(Discard::Header(Malformed::Checksum));
    }
    let tail_len: usize = frame.tail.iter().map(|piece| piece.len()).sum();
    let at_hand = header.rest().len() + tail_len;
    // A merged train bears the header of its first segment; its end is the frame's.
    let len = if frame.gso_size != 0 { at_hand } else { header.payload_len() };
    if len > at_hand {
        return Err(Discard::Header(Malformed::Truncated));
    }
    let source = header.source();
    if !is_host_address(source) || source.is_loopback() || interfaces.is_broadcast(port, source) {
        return Err(Discard::Source);
    }
    if has_source_route(header.options()) {
        return Err(Discard::SourceRoute);
    }
    if !interfaces.is_local(header.destination()) {
        return Err(Discard::NotForUs);
    }
    Ok(Ipv4Packet { original: packet, header, tail: frame.tail, payload_len: len })
}

/// Whether loose or strict source routing is asked for (RFC 791 section 3.1).
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return false,
            1 => options = rest,
            131 | 137 => return true,
            _ => {
                let len = rest.first().map_or(0, |&len| usize::from(len));
                // A length that does not hold itself ends the options.
                let Some(after) = options.get(len..).filter(|_| len >= 2) else { return false };
                options = after;
            }
        }
    }
    false
}

/// A received transport segment or datagram, its IP header checked; its own checksum is the transport's affair.
#[derive(Clone, Copy, Debug)]
pub struct TransportPacket<'a> {
    pub port: PortId,
    pub source: PackedIp,
    pub destination: PackedIp,
    pub protocol: u8,
    pub tos: u8,
    pub ttl: u8,
    /// Transport header and payload.
    pub bytes: Pieces<'a>,
    pub checksum: RxChecksum,
    /// As in [`RxFrame::gso_size`].
    pub gso_size: u16,
    /// Put together from fragments, which every shard does: only the flow's owner goes on with it.
    pub reassembled: bool,
}

/// Whose frame it is, as far as that can be said without checking anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// A TCP segment, or an ICMP error about one; from our point of view.
    Flow {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// A fragment: it may have no ports, so that each shard puts the datagram together and the owner goes on.
    Fragment,
    Arp,
    /// Anything else, or malformed.
    Other,
}

/// Looks at addresses and ports only; for the choice of a shard.
pub fn peek(interface: &InterfaceRecord, head: &[u8]) -> Peek {
    let packet = match link(interface, head) {
        Ok(LinkPayload::Ipv4(packet)) => packet,
        Ok(LinkPayload::Arp(_)) => return Peek::Arp,
        Ok(LinkPayload::Ipv6(_)) | Err(_) => return Peek::Other,
    };
    let Ok(header) = Ipv4View::new(packet) else { return Peek::Other };
    if header.is_fragment() {
        return Peek::Fragment;
    }
    let flow = |local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)| Peek::Flow {
        local: SocketAddr::from(local),
        remote: SocketAddr::from(remote),
    };
    match (header.protocol(), header.rest()) {
        (protocol::TCP, &[s0, s1, d0, d1, ..]) => {
            let [source, destination] = [[s0, s1], [d0, d1]].map(u16::from_be_bytes);
            flow((header.destination(), destination), (header.source(), source))
        }
        (protocol::ICMP, message) => match crate::wire::Icmpv4Repr::parse(message) {
            Ok(Some(message)) => match crate::wire::Embedded::tcp(message.body()) {
                Some(it) => flow((*it.local.ip(), it.local.port()), (*it.remote.ip(), it.remote.port())),
                None => Peek::Other,
            },
            _ => Peek::Other,
        },
        _ => Peek::Other,
    }
}

#[cfg(test)]
mod tests;
