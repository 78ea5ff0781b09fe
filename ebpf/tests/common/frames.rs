//! Frames made by hand, so that each header can be cut, contradicted and stretched.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const US4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const US6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
pub const US_PORT: u16 = 40_000;
pub const PEER_PORT: u16 = 443;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const QINQ: u16 = 0x88a8;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `frame` with a tag of priority alone before its EtherType.
pub fn tagged(tpid: u16, frame: &[u8]) -> Vec<u8> {
    tagged_with(tpid, 0x6000, frame)
}

/// `frame` with a tag of this type and control field before its EtherType.
pub fn tagged_with(tpid: u16, control: u16, frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(tpid.to_be_bytes());
    tagged.extend(control.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// What an IPv4 packet says of itself; `..Ipv4::default()` for what a case does not care about.
#[derive(Clone, Copy)]
pub struct Ipv4<'a> {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub options: &'a [u8],
    /// Flags and offset, as on the wire.
    pub fragment: u16,
    pub total_length: Option<u16>,
    pub version_ihl: Option<u8>,
}

impl Default for Ipv4<'_> {
    fn default() -> Self {
        Self {
            source: PEER4,
            destination: US4,
            protocol: TCP,
            options: &[],
            fragment: 0x4000,
            total_length: None,
            version_ihl: None,
        }
    }
}

impl Ipv4<'_> {
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = self.total_length.unwrap_or((header + payload.len()) as u16);
        let mut packet = vec![self.version_ihl.unwrap_or(0x40 | (header / 4) as u8), 0];
        packet.extend(total.to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(self.options);
        packet.extend(payload);
        packet
    }

    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(IPV4, &self.packet(payload))
    }
}

pub fn ipv6_packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A frame from the peer to us.
pub fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6_packet(PEER6, US6, next_header, payload))
}

/// A TCP segment with `payload` bytes.
pub fn tcp(source: u16, destination: u16, payload: usize) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend((0..payload).map(|i| i as u8));
    segment
}

/// From the peer to the flow of the tests.
pub fn segment() -> Vec<u8> {
    tcp(PEER_PORT, US_PORT, 32)
}

pub fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    message
}

/// An ICMPv4 error about the first bytes of a segment that we sent.
pub fn icmp_error(kind: u8) -> Vec<u8> {
    let sent = Ipv4 { source: US4, destination: PEER4, total_length: Some(1500), ..Default::default() };
    icmp(kind, &sent.packet(&tcp(US_PORT, PEER_PORT, 0)[..8]))
}

pub fn icmpv6_error(kind: u8) -> Vec<u8> {
    icmp(kind, &ipv6_packet(US6, PEER6, TCP, &tcp(US_PORT, PEER_PORT, 100)))
}

pub fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4];
    arp.extend(operation.to_be_bytes());
    arp.extend([2, 0, 0, 0, 0, 1]);
    arp.extend(sender.octets());
    arp.extend([0; 6]);
    arp.extend(target.octets());
    arp
}

pub fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let group = Ipv6Addr::from((0xff02_u128 << 112) | (0x1_ff00_0000) | (u128::from(target) & 0xff_ffff));
    ethernet(IPV6, &ipv6_packet(PEER6, group, ICMPV6, &icmp(135, &target.octets())))
}

/// An IPv6 extension header of `8 * (1 + more)` bytes.
pub fn extension(next_header: u8, more: u8) -> Vec<u8> {
    let mut header = vec![next_header, more];
    header.resize(8 * (1 + usize::from(more)), 0);
    header
}

/// An IPv6 fragment header; `offset` as on the wire (bit 0: more fragments).
pub fn fragment(next_header: u8, offset: u16) -> Vec<u8> {
    let mut header = vec![next_header, 0];
    header.extend(offset.to_be_bytes());
    header.extend([0, 0, 0, 9]);
    header
}

pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
