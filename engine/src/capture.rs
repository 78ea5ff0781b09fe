//! Packet capture: copies of frames on their way from the shards to a pcapng stream.
//!
//! Direct transmission by-passes the host's packet taps, so the engine has its own. While nobody captures, a frame costs the
//! shard one test of an `Option`. While somebody does, each shard copies its frames into a bounded queue, which the
//! control thread empties; what does not fit is counted, never waited for.

use crate::mailbox::{self, Receiver, Sender};
use crate::port::TxFrame;
use persona_stack::{PortId, RxFrame};
use rustix::time::{ClockId, clock_gettime};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Frames of one shard that can wait for the control thread.
const QUEUE: usize = 4_096;
/// Longest copy of a frame.
pub const SNAP_LENGTH: usize = 262_144;

/// One captured frame.
pub struct Captured {
    /// Nanoseconds since 1970, the host's clock.
    pub time: u64,
    pub port: PortId,
    pub outbound: bool,
    /// Bytes of the frame; `bytes` may hold fewer.
    pub length: usize,
    pub bytes: Vec<u8>,
}

/// Which frames are wanted. What is absent matches everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Either end.
    pub host: Option<IpAddr>,
    /// Either end's port.
    pub port: Option<u16>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// ARP alone.
    pub arp: bool,
}

/// A shard's end of a capture.
pub struct Tap {
    sender: Sender<Captured>,
    filter: Filter,
    lost: Arc<AtomicU64>,
    /// By port: bytes of its link header.
    link_headers: Arc<[(PortId, usize)]>,
}

/// The control thread's end for one shard.
pub struct Source {
    pub frames: Receiver<Captured>,
    pub lost: Arc<AtomicU64>,
}

pub fn tap(filter: Filter, link_headers: Arc<[(PortId, usize)]>) -> (Tap, Source) {
    let (sender, frames) = mailbox::queue(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (Tap { sender, filter, lost: Arc::clone(&lost), link_headers }, Source { frames, lost })
}

/// The shard's place for a tap.
#[derive(Default)]
pub struct ShardTap {
    tap: Option<Box<Tap>>,
}

impl ShardTap {
    pub fn set(&mut self, tap: Option<Tap>) {
        self.tap = tap.map(Box::new);
    }

    #[inline]
    pub fn received(&mut self, port: PortId, frame: &RxFrame<'_>) {
        if let Some(tap) = &mut self.tap {
            tap.received(port, frame);
        }
    }

    #[inline]
    pub fn sent(&mut self, port: PortId, frame: &TxFrame<'_>) {
        if let Some(tap) = &mut self.tap {
            tap.sent(port, frame);
        }
    }
}

impl Tap {
    fn received(&mut self, port: PortId, frame: &RxFrame<'_>) {
        if !self.wants(port, frame.head) {
            return;
        }
        let mut bytes = Vec::with_capacity(frame.len().min(SNAP_LENGTH));
        for piece in std::iter::once(&frame.head).chain(frame.tail) {
            bytes.extend_from_slice(&piece[..piece.len().min(SNAP_LENGTH - bytes.len())]);
        }
        self.record(port, false, frame.len(), bytes);
    }

    fn sent(&mut self, port: PortId, frame: &TxFrame<'_>) {
        if !self.wants(port, frame.header) {
            return;
        }
        let length = frame.header.len() + frame.payload.iter().map(|piece| piece.len).sum::<usize>();
        let mut bytes = Vec::with_capacity(length.min(SNAP_LENGTH));
        bytes.extend_from_slice(frame.header);
        for piece in frame.payload {
            let len = piece.len.min(SNAP_LENGTH - bytes.len());
            // SAFETY: the piece is readable for its length while the frame is being transmitted, and the vector has
            // room for `len` more bytes, which are initialised by the copy.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.start, bytes.as_mut_ptr().add(bytes.len()), len);
                bytes.set_len(bytes.len() + len);
            }
        }
        self.record(port, true, length, bytes);
    }

    fn wants(&self, port: PortId, head: &[u8]) -> bool {
        self.filter == Filter::default() || {
            let link = self.link_headers.iter().find(|(id, _)| *id == port).map_or(0, |(_, length)| *length);
            self.filter.matches(head, link)
        }
    }

    fn record(&mut self, port: PortId, outbound: bool, length: usize, bytes: Vec<u8>) {
        let now = clock_gettime(ClockId::Realtime);
        let time = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        if self.sender.send(Captured { time, port, outbound, length, bytes }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Filter {
    /// Whether a frame with this beginning is wanted.
    pub fn matches(&self, head: &[u8], link_header: usize) -> bool {
        let kind = if link_header == 0 {
            None
        } else {
            head.get(link_header - 2..link_header).map(|kind| u16::from_be_bytes([kind[0], kind[1]]))
        };
        let is_arp = kind == Some(0x0806);
        if self.arp || is_arp {
            return self.arp && is_arp
                || !self.arp && *self == Filter { host: self.host, ..Filter::default() } && {
                    let ends =
                        [head.get(link_header + 14..link_header + 18), head.get(link_header + 24..link_header + 28)];
                    ends.into_iter().flatten().any(|end| Some(v4(end)) == self.host)
                };
        }
        let Some(packet) = head.get(link_header..) else { return false };
        let Some(found) = Ends::of(packet) else { return false };
        self.host.is_none_or(|host| found.source == host || found.destination == host)
            && self.protocol.is_none_or(|protocol| found.protocol == protocol)
            && self.port.is_none_or(|port| found.ports.is_some_and(|ports| ports.contains(&port)))
    }
}

struct Ends {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Option<[u16; 2]>,
}

impl Ends {
    fn of(packet: &[u8]) -> Option<Self> {
        let (source, destination, protocol, header) = match packet.first()? >> 4 {
            4 => (v4(packet.get(12..16)?), v4(packet.get(16..20)?), *packet.get(9)?, usize::from(packet[0] & 0xf) * 4),
            6 => (v6(packet.get(8..24)?), v6(packet.get(24..40)?), *packet.get(6)?, 40),
            _ => return None,
        };
        let has_ports = matches!(i32::from(protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP);
        let ports = packet
            .get(header..header + 4)
            .filter(|_| has_ports)
            .map(|bytes| [u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])]);
        Some(Self { source, destination, protocol, ports })
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    IpAddr::V4(bytes.first_chunk::<4>().map_or(Ipv4Addr::UNSPECIFIED, |bytes| Ipv4Addr::from(*bytes)))
}

fn v6(bytes: &[u8]) -> IpAddr {
    IpAddr::V6(bytes.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |bytes| Ipv6Addr::from(*bytes)))
}

/// The pcapng format (draft-ietf-opsawg-pcapng): blocks of a section.
pub mod pcapng {
    use super::{Captured, SNAP_LENGTH};

    const SECTION: u32 = 0x0a0d_0d0a;
    const INTERFACE: u32 = 1;
    const PACKET: u32 = 6;
    const STATISTICS: u32 = 5;
    const ETHERNET: u16 = 1;
    const RAW_IP: u16 = 101;

    /// An interface as the capture names it.
    pub struct Interface<'a> {
        pub name: &'a str,
        /// Frames begin with an Ethernet header.
        pub ethernet: bool,
    }

    /// Section header and one block for each interface, in the order of their numbers.
    pub fn header(interfaces: &[Interface<'_>]) -> Vec<u8> {
        let mut section = Vec::new();
        section.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        section.extend(1u16.to_ne_bytes());
        section.extend(0u16.to_ne_bytes());
        section.extend(u64::MAX.to_ne_bytes());
        option(&mut section, 4, b"Persona");
        end_options(&mut section);
        let mut bytes = block(SECTION, &section);
        for interface in interfaces {
            let mut body = Vec::new();
            body.extend(if interface.ethernet { ETHERNET } else { RAW_IP }.to_ne_bytes());
            body.extend(0u16.to_ne_bytes());
            body.extend((SNAP_LENGTH as u32).to_ne_bytes());
            option(&mut body, 2, interface.name.as_bytes());
            // if_tsresol: nanoseconds.
            option(&mut body, 9, &[9]);
            end_options(&mut body);
            bytes.extend(block(INTERFACE, &body));
        }
        bytes
    }

    /// One packet; `interface` is its number in the header.
    pub fn packet(interface: u32, captured: &Captured) -> Vec<u8> {
        let mut body = Vec::with_capacity(captured.bytes.len() + 48);
        body.extend(interface.to_ne_bytes());
        body.extend(((captured.time >> 32) as u32).to_ne_bytes());
        body.extend((captured.time as u32).to_ne_bytes());
        body.extend((captured.bytes.len() as u32).to_ne_bytes());
        body.extend((captured.length as u32).to_ne_bytes());
        body.extend(&captured.bytes);
        pad(&mut body);
        // epb_flags: the direction.
        option(&mut body, 2, &(if captured.outbound { 2u32 } else { 1 }).to_ne_bytes());
        end_options(&mut body);
        block(PACKET, &body)
    }

    /// How many packets were lost on the way to the capture.
    pub fn statistics(interface: u32, time: u64, lost: u64) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(interface.to_ne_bytes());
        body.extend(((time >> 32) as u32).to_ne_bytes());
        body.extend((time as u32).to_ne_bytes());
        // isb_osdrop
        option(&mut body, 7, &lost.to_ne_bytes());
        end_options(&mut body);
        block(STATISTICS, &body)
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = (body.len() + 12) as u32;
        let mut bytes = Vec::with_capacity(length as usize);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(body);
        bytes.extend(length.to_ne_bytes());
        bytes
    }

    fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
        body.extend(code.to_ne_bytes());
        body.extend((value.len() as u16).to_ne_bytes());
        body.extend(value);
        pad(body);
    }

    fn end_options(body: &mut Vec<u8>) {
        body.extend([0; 4]);
    }

    fn pad(body: &mut Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Piece;
    use persona_stack::TxChecksum;

    fn segment() -> Vec<u8> {
        let mut frame = vec![0u8; 14];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame.extend([0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x1f, 0x90, 0, 80]);
        frame.extend([0; 20]);
        frame
    }

    #[test]
    fn a_filter_looks_at_both_ends() {
        let frame = segment();
        let host = |text: &str| Filter { host: Some(text.parse().unwrap()), ..Filter::default() };
        let port = |port| Filter { port: Some(port), ..Filter::default() };
        assert!(host("10.0.0.1").matches(&frame, 14) && host("10.0.0.2").matches(&frame, 14));
        assert!(!host("10.0.0.3").matches(&frame, 14));
        assert!(port(8080).matches(&frame, 14) && port(80).matches(&frame, 14) && !port(81).matches(&frame, 14));
        assert!(!Filter { protocol: Some(17), ..Filter::default() }.matches(&frame, 14));
        assert!(!Filter { arp: true, ..Filter::default() }.matches(&frame, 14));
        assert!(!host("10.0.0.1").matches(&frame[..20], 14), "truncated");
    }

    #[test]
    fn both_directions_arrive_and_what_does_not_fit_is_counted() {
        let (tap, mut source) = tap(Filter::default(), Arc::new([(PortId(0), 14)]));
        let mut shard = ShardTap::default();
        shard.set(Some(tap));
        let frame = segment();
        shard.received(PortId(0), &RxFrame::single(&frame));
        let piece = Piece { start: b"payload".as_ptr(), len: 7 };
        let sent = TxFrame { header: &frame, payload: &[piece], checksum: TxChecksum::Complete, gso: None };
        for _ in 0..QUEUE {
            shard.sent(PortId(0), &sent);
        }
        let first = source.frames.receive().unwrap();
        assert!(!first.outbound && first.bytes == frame);
        let second = source.frames.receive().unwrap();
        assert!(second.outbound && second.bytes.ends_with(b"payload"));
        assert_eq!(source.lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn blocks_say_their_length_twice_and_are_aligned() {
        let interfaces = [pcapng::Interface { name: "veth0", ethernet: true }];
        let mut bytes = pcapng::header(&interfaces);
        let captured = Captured { time: 1 << 40, port: PortId(0), outbound: true, length: 61, bytes: vec![1; 61] };
        bytes.extend(pcapng::packet(0, &captured));
        bytes.extend(pcapng::statistics(0, 1 << 40, 3));
        let mut at = 0;
        let mut blocks = 0;
        while at < bytes.len() {
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let length = word(at + 4);
            assert_eq!(length % 4, 0);
            assert_eq!(word(at + length - 4), length);
            at += length;
            blocks += 1;
        }
        assert_eq!((at, blocks), (bytes.len(), 4));
    }
}
