//! The way in: what becomes of a received frame before a transport sees it. ARP, echo, fragments and packets that nobody
//! wants end here; what is left is a TCP segment or an ICMP error about one.

use super::icmp::{self, IcmpAction, IcmpError};
use super::links::{LINK_ROOM, Links, Outgoing};
use super::reassembly::{Outcome, Reassembly, Whole};
use super::receive::{self, Discard, Ipv4Packet, LinkPayload, Pieces, TransportPacket};
use crate::api::{AddressMode, Host};
use crate::frame::{Payload, PortId, RxChecksum, RxFrame, TxChecksum};
use crate::time::Instant;
use crate::wire::icmpv4::{self, unreachable};
use crate::wire::{Embedded, Icmpv4Repr, Ipv4Repr, Ipv4View, Malformed, protocol};
use core::net::{IpAddr, Ipv4Addr};

/// What is left to do about a frame.
#[derive(Debug)]
pub enum Received<'a> {
    /// A TCP segment, its checksum not looked at.
    Tcp(TransportPacket<'a>),
    /// An ICMP error about a TCP segment of ours.
    Error { error: IcmpError, about: Embedded },
    /// Nothing.
    Done,
}

/// Takes a frame. Answers go out through `host`; their loss for want of room is a packet loss like any other.
#[inline]
pub fn receive<'a, H: Host>(
    now: Instant,
    port: PortId,
    frame: &RxFrame<'a>,
    links: &mut Links<'_>,
    reassembly: &'a mut Reassembly<'_>,
    host: &mut H,
) -> Received<'a> {
    let Some(interface) = links.interfaces.get(port) else { return Received::Done };
    let packet = match receive::link(interface, frame.head) {
        Ok(LinkPayload::Ipv4(packet)) => packet,
        Ok(LinkPayload::Arp(packet)) => {
            links.on_arp(now, port, packet, host);
            return Received::Done;
        }
        // The stack does not speak IPv6 yet, and no address of that family can be configured.
        Ok(LinkPayload::Ipv6(_)) | Err(_) => {
            links.counters.link_in_discards += 1;
            return Received::Done;
        }
    };
    links.counters.ip_in_receives += 1;
    let packet = match receive::ipv4(links.interfaces, port, packet, frame) {
        Ok(packet) => packet,
        Err(reason) => {
            count_discard(links, reason);
            return Received::Done;
        }
    };
    let header = packet.header;
    count_codepoint(links, &packet, frame.gso_size);
    if header.is_fragment() {
        return on_fragment(now, port, &packet, links, reassembly, host);
    }
    let transport = || TransportPacket {
        port,
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: header.protocol(),
        tos: header.tos(),
        ttl: header.ttl(),
        bytes: packet.payload(),
        checksum: frame.checksum,
        gso_size: frame.gso_size,
        reassembled: false,
    };
    match header.protocol() {
        protocol::TCP => {
            links.counters.ip_in_delivers += 1;
            Received::Tcp(transport())
        }
        protocol::ICMP => {
            links.counters.ip_in_delivers += 1;
            let transport = transport();
            // An echo's payload may lie in several buffers, and its answer is sent from one.
            let message = match transport.bytes.contiguous() {
                Some(message) => message,
                None => {
                    let len = reassembly.gather(transport.bytes.iter());
                    reassembly.scratch().get(..len).unwrap_or_default()
                }
            };
            on_icmp(now, &transport, message, links, host)
        }
        other => {
            links.counters.ip_in_unknown_protos += 1;
            if icmp::may_answer(links.interfaces, port, &header) {
                let embedded = packet.original.get(..usize::from(header.total_len())).unwrap_or(packet.original);
                send_unreachable(now, port, other, &header, embedded, links, host);
            }
            Received::Done
        }
    }
}

/// Gives up datagrams that stayed incomplete.
pub fn on_timeout<H: Host>(now: Instant, links: &mut Links<'_>, reassembly: &mut Reassembly<'_>, host: &mut H) {
    while let Some(expired) = reassembly.pop_expired(now) {
        links.counters.ip_reasm_timeout += 1;
        links.counters.ip_reasm_fails += 1;
        let Some((header, first)) = expired.first else { continue };
        let Some(own) = links.interfaces.find(IpAddr::V4(header.destination)) else { continue };
        let mut embedded = [0; Ipv4Repr::LEN + 8];
        header.emit(&mut embedded);
        embedded[Ipv4Repr::LEN..].copy_from_slice(&first);
        let port = own.port();
        let may = Ipv4View::new(&embedded).is_ok_and(|view| icmp::may_answer(links.interfaces, port, &view));
        if may && answers(links, port) && links.state.answers_all() {
            // RFC 792: code 1, fragment reassembly time exceeded.
            let error = Icmpv4Repr::TimeExceeded { code: 1, embedded: &embedded };
            if send_error(now, header.destination, header.source, &error, links, host) {
                links.counters.icmp_out_time_excds += 1;
            }
        }
    }
}

fn count_codepoint(links: &mut Links<'_>, packet: &Ipv4Packet<'_>, gso_size: u16) {
    let packets = match gso_size {
        0 => 1,
        size => {
            let payload = packet.payload();
            let header = payload.head().get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
            payload.len().saturating_sub(header).div_ceil(usize::from(size)).max(1) as u64
        }
    };
    let counters = &mut *links.counters;
    let counter = match packet.header.tos() & 3 {
        0 => &mut counters.ip_in_no_ect,
        1 => &mut counters.ip_in_ect1,
        2 => &mut counters.ip_in_ect0,
        _ => &mut counters.ip_in_ce,
    };
    *counter += packets;
}

fn count_discard(links: &mut Links<'_>, reason: Discard) {
    let counters = &mut *links.counters;
    match reason {
        Discard::Link => counters.link_in_discards += 1,
        Discard::NotForUs | Discard::Source => counters.ip_in_addr_errors += 1,
        Discard::Header(Malformed::Truncated) => {
            counters.ip_in_truncated += 1;
        }
        Discard::Header(Malformed::Checksum) => {
            counters.ip_in_csum_errors += 1;
            counters.ip_in_hdr_errors += 1;
        }
        Discard::Header(_) | Discard::SourceRoute => counters.ip_in_hdr_errors += 1,
    }
}

fn on_fragment<'a, H: Host>(
    now: Instant,
    port: PortId,
    packet: &Ipv4Packet<'_>,
    links: &mut Links<'_>,
    reassembly: &'a mut Reassembly<'_>,
    host: &mut H,
) -> Received<'a> {
    links.counters.ip_reasm_reqds += 1;
    let whole = match reassembly.add(now, &packet.header, packet.payload().iter()) {
        Outcome::Incomplete => return Received::Done,
        Outcome::Discarded => {
            links.counters.ip_reasm_fails += 1;
            return Received::Done;
        }
        Outcome::Complete(whole) => whole,
    };
    links.counters.ip_reasm_oks += 1;
    let bytes = reassembly.scratch().get(..whole.len).unwrap_or_default();
    let transport = TransportPacket {
        port,
        source: whole.source.into(),
        destination: whole.destination.into(),
        protocol: whole.protocol,
        tos: whole.tos,
        ttl: whole.ttl,
        bytes: Pieces::whole(bytes),
        checksum: RxChecksum::Unverified,
        gso_size: 0,
        reassembled: true,
    };
    match whole.protocol {
        protocol::TCP => {
            links.counters.ip_in_delivers += 1;
            Received::Tcp(transport)
        }
        // Each shard has put it together; one of them answers.
        protocol::ICMP if links.state.answers_all() => {
            links.counters.ip_in_delivers += 1;
            on_icmp(now, &transport, bytes, links, host)
        }
        protocol::ICMP => Received::Done,
        other => {
            links.counters.ip_in_unknown_protos += 1;
            if links.state.answers_all() {
                refuse_reassembled(now, port, other, &whole, bytes, links, host);
            }
            Received::Done
        }
    }
}

fn on_icmp<'a, H: Host>(
    now: Instant,
    packet: &TransportPacket<'_>,
    message: &[u8],
    links: &mut Links<'_>,
    host: &mut H,
) -> Received<'a> {
    links.counters.icmp_in_msgs += 1;
    if !icmpv4::checksum_holds(message) {
        links.counters.icmp_in_csum_errors += 1;
        links.counters.icmp_in_errors += 1;
        return Received::Done;
    }
    let parsed = match Icmpv4Repr::parse(message) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Received::Done,
        Err(_) => {
            links.counters.icmp_in_errors += 1;
            return Received::Done;
        }
    };
    match parsed {
        Icmpv4Repr::EchoRequest { .. } => links.counters.icmp_in_echos += 1,
        Icmpv4Repr::EchoReply { .. } => links.counters.icmp_in_echo_reps += 1,
        Icmpv4Repr::Unreachable { .. } | Icmpv4Repr::FragmentationNeeded { .. } => {
            links.counters.icmp_in_dest_unreachs += 1;
        }
        Icmpv4Repr::TimeExceeded { .. } => links.counters.icmp_in_time_excds += 1,
        Icmpv4Repr::ParameterProblem { .. } => links.counters.icmp_in_parm_probs += 1,
    }
    match icmp::act_on(parsed) {
        IcmpAction::Ignore => Received::Done,
        IcmpAction::Error { error, embedded } => match Embedded::tcp(embedded) {
            Some(about) => Received::Error { error, about },
            None => Received::Done,
        },
        IcmpAction::Reply(reply) => {
            if let (true, Some(from), Some(to)) =
                (answers(links, packet.port), packet.destination.to_v4(), packet.source.to_v4())
                && send_message(now, from, to, packet.tos, &reply, links, host)
            {
                links.counters.icmp_out_echo_reps += 1;
            }
            Received::Done
        }
    }
}

/// In shared mode the host answers.
fn answers(links: &Links<'_>, port: PortId) -> bool {
    links.interfaces.get(port).is_some_and(|interface| interface.mode() == AddressMode::Own)
}

fn refuse_reassembled<H: Host>(
    now: Instant,
    port: PortId,
    protocol: u8,
    whole: &Whole,
    bytes: &[u8],
    links: &mut Links<'_>,
    host: &mut H,
) {
    let Some(first) = bytes.first_chunk::<8>() else { return };
    let mut embedded = [0; Ipv4Repr::LEN + 8];
    let header = Ipv4Repr {
        source: whole.source,
        destination: whole.destination,
        protocol,
        ttl: whole.ttl,
        tos: whole.tos,
        identification: whole.identification,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: whole.len as u16,
    };
    header.emit(&mut embedded);
    embedded[Ipv4Repr::LEN..].copy_from_slice(first);
    if let Ok(view) = Ipv4View::new(&embedded)
        && icmp::may_answer(links.interfaces, port, &view)
    {
        send_unreachable(now, port, protocol, &view, &embedded, links, host);
    }
}

/// Nobody speaks `protocol` here: port unreachable for UDP, whose ports nobody has, protocol unreachable for others.
fn send_unreachable<H: Host>(
    now: Instant,
    port: PortId,
    protocol: u8,
    header: &Ipv4View<'_>,
    embedded: &[u8],
    links: &mut Links<'_>,
    host: &mut H,
) {
    if !answers(links, port) {
        return;
    }
    let code = if protocol == protocol::UDP { unreachable::PORT } else { unreachable::PROTOCOL };
    let embedded = embedded.get(..icmp::MAX_EMBEDDED).unwrap_or(embedded);
    let error = Icmpv4Repr::Unreachable { code, embedded };
    if send_error(now, header.destination(), header.source(), &error, links, host) {
        links.counters.icmp_out_dest_unreachs += 1;
    }
}

fn send_error<H: Host>(
    now: Instant,
    from: Ipv4Addr,
    to: Ipv4Addr,
    error: &Icmpv4Repr<'_>,
    links: &mut Links<'_>,
    host: &mut H,
) -> bool {
    if !links.state.icmp_errors.take(now, icmp::ERROR_RATE) {
        links.counters.icmp_out_rate_limited += 1;
        return false;
    }
    // Linux: precedence "internet control" for errors (RFC 1812 section 4.3.2.5).
    const INTERNET_CONTROL: u8 = 0xc0;
    send_message(now, from, to, INTERNET_CONTROL, error, links, host)
}

/// Sends an ICMP message, in fragments when it is longer than the link allows.
fn send_message<H: Host>(
    now: Instant,
    from: Ipv4Addr,
    to: Ipv4Addr,
    tos: u8,
    message: &Icmpv4Repr<'_>,
    links: &mut Links<'_>,
    host: &mut H,
) -> bool {
    let Some(path) = links.routes.lookup(links.interfaces, IpAddr::V4(to), Some(IpAddr::V4(from))) else {
        links.counters.ip_out_no_routes += 1;
        return false;
    };
    let Some(interface) = links.interfaces.get(path.port) else { return false };
    let room = usize::from(interface.mtu()) - Ipv4Repr::LEN;
    let total = message.len();
    let per_fragment = if total <= room { total } else { room & !7 };
    let identification = links.next_identification();
    let mut offset = 0;
    while offset < total {
        let len = per_fragment.min(total - offset);
        let more_fragments = offset + len < total;
        let mut frame = [0; LINK_ROOM + Ipv4Repr::LEN + icmpv4::HEADER_LEN];
        let header = Ipv4Repr {
            source: from,
            destination: to,
            protocol: protocol::ICMP,
            ttl: DEFAULT_TTL,
            tos,
            identification,
            dont_fragment: false,
            more_fragments,
            fragment_offset: offset as u16,
            payload_len: len as u16,
        };
        header.emit(&mut frame[LINK_ROOM..]);
        // The first fragment bears the message's header; body offsets count without it.
        let (header_len, body) = if offset == 0 {
            message.emit_header(&mut frame[LINK_ROOM + Ipv4Repr::LEN..]);
            (frame.len(), 0..len - icmpv4::HEADER_LEN)
        } else {
            let start = offset - icmpv4::HEADER_LEN;
            (LINK_ROOM + Ipv4Repr::LEN, start..start + len)
        };
        let payload = Payload::Inline(message.body().get(body).unwrap_or_default());
        let outgoing =
            Outgoing { header: &mut frame[..header_len], payload, checksum: TxChecksum::Complete, gso: None };
        if links.output(now, path.port, path.next_hop.into(), outgoing, host).is_err() {
            links.counters.ip_out_discards += 1;
            return false;
        }
        if more_fragments || offset != 0 {
            links.counters.ip_frag_creates += 1;
        }
        offset += len;
    }
    if per_fragment < total {
        links.counters.ip_frag_oks += 1;
    }
    links.counters.icmp_out_msgs += 1;
    true
}

/// RFC 1700's recommendation, and Linux's.
pub const DEFAULT_TTL: u8 = 64;

#[cfg(test)]
mod tests;
