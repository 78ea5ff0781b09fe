//! The layer as a whole: frames in, frames out, with a host that keeps what is sent.

use super::super::held::HeldFrames;
use super::super::interface::tests::{OUR_MAC, PORT, config, ip};
use super::super::links::LinksState;
use super::super::neighbour::{NeighbourRecord, Neighbours, NeighboursState};
use super::super::reassembly::{Block, Datagram, ReassemblyState, SCRATCH};
use super::super::route::{RouteRecord, Routes, RoutesState};
use super::super::{Interfaces, IpCounters};
use super::*;
use crate::api::{Busy, Route, Stored};
use crate::frame::{Owner, Segment};
use crate::time::Duration;
use crate::wire::{ArpOperation, ArpRepr, EtherType, EthernetRepr, EthernetView, MacAddr};
use proptest::prelude::*;
use zerocopy::FromZeros;
extern crate std;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const US: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

#[derive(Default)]
struct Sent {
    frames: Vec<Vec<u8>>,
    full: bool,
}

impl Host for Sent {
    fn transmit(&mut self, _: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        if self.full {
            return Err(Busy);
        }
        let mut frame = segment.header.to_vec();
        match segment.payload {
            Payload::None => {}
            Payload::Inline(bytes) => frame.extend(bytes),
            Payload::Stream { len, .. } => frame.extend(vec![0; len as usize]),
        }
        self.frames.push(frame);
        Ok(())
    }

    fn store(&mut self, _: Owner, _: u64, _: &[u8]) -> Stored {
        unreachable!("the IP layer stores nothing")
    }
}

/// A layer with one Ethernet interface, 10.9.0.2/24.
struct Layer {
    interfaces: Box<Interfaces>,
    routes: ([RouteRecord; 4], RoutesState),
    neighbours: (Vec<NeighbourRecord>, NeighboursState),
    held: Box<HeldFrames>,
    counters: IpCounters,
    state: LinksState,
    blocks: Vec<Block>,
    datagrams: Vec<Datagram>,
    reassembly: ReassemblyState,
    scratch: Vec<u8>,
    host: Sent,
    now: Instant,
}

impl Layer {
    fn new(mode: AddressMode) -> Self {
        let (blocks, datagrams) = Reassembly::sizes(200_000);
        let mut layer = Self {
            interfaces: Box::new(Interfaces::new_zeroed()),
            routes: Default::default(),
            neighbours: (vec![Default::default(); Neighbours::records_for(16)], NeighboursState::new(77)),
            held: Box::new(HeldFrames::new_zeroed()),
            counters: IpCounters::default(),
            state: LinksState::new(0, 0),
            blocks: vec![Block::new_zeroed(); blocks],
            datagrams: vec![Default::default(); datagrams],
            reassembly: ReassemblyState::default(),
            scratch: vec![0; SCRATCH],
            host: Sent::default(),
            now: Instant::from_micros(1_000_000),
        };
        layer.interfaces.add(&config(mode)).unwrap();
        layer.with(|links, _, _, _| links.add_address(PORT, US.into(), 24)).unwrap();
        layer
    }

    fn with<T>(&mut self, run: impl FnOnce(&mut Links<'_>, &mut Reassembly<'_>, &mut Sent, Instant) -> T) -> T {
        let mut links = Links {
            interfaces: &mut self.interfaces,
            routes: Routes { records: &mut self.routes.0, state: &mut self.routes.1 },
            neighbours: Neighbours { records: &mut self.neighbours.0, state: &mut self.neighbours.1 },
            held: &mut self.held,
            counters: &mut self.counters,
            state: &mut self.state,
        };
        let mut reassembly = Reassembly {
            blocks: &mut self.blocks,
            datagrams: &mut self.datagrams,
            state: &mut self.reassembly,
            scratch: &mut self.scratch,
        };
        run(&mut links, &mut reassembly, &mut self.host, self.now)
    }

    /// Feeds a frame in; the payload of a TCP segment, or the error, as text.
    fn receive(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.receive_pieces(frame, &[])
    }

    fn receive_pieces(&mut self, head: &[u8], tail: &[&[u8]]) -> Option<Vec<u8>> {
        self.with(|links, reassembly, host, now| {
            // Copied so that the frame lives as long as the reassembly buffer, which a result may borrow.
            let frame = RxFrame { tail, ..RxFrame::single(head) };
            match receive(now, PORT, &frame, links, reassembly, host) {
                Received::Tcp(packet) => Some(packet.bytes.iter().collect::<Vec<_>>().concat()),
                Received::Error { error, about } => Some(std::format!("{error:?} {about:?}").into_bytes()),
                Received::Done => None,
            }
        })
    }

    /// ARP from the peer, so that answers find their way.
    fn introduce_peer(&mut self) {
        self.receive(&arp(ArpOperation::Request, PEER, PEER_MAC, US));
        self.host.frames.clear();
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.host.frames)
    }
}

fn ethernet(destination: MacAddr, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; EthernetRepr::LEN];
    EthernetRepr { destination, source: PEER_MAC, ether_type }.emit(&mut frame);
    frame.extend(payload);
    frame
}

fn arp(operation: ArpOperation, from: Ipv4Addr, mac: MacAddr, about: Ipv4Addr) -> Vec<u8> {
    let mut packet = [0; ArpRepr::LEN];
    let target_mac = MacAddr::default();
    ArpRepr { operation, sender_mac: mac, sender_ip: from, target_mac, target_ip: about }.emit(&mut packet);
    ethernet(MacAddr::BROADCAST, EtherType::ARP, &packet)
}

fn ip_header(protocol: u8, len: usize) -> Ipv4Repr {
    Ipv4Repr {
        source: PEER,
        destination: US,
        protocol,
        ttl: 64,
        tos: 0x10,
        identification: 9,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len as u16,
    }
}

fn ip_frame(header: Ipv4Repr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; Ipv4Repr::LEN];
    header.emit(&mut packet);
    packet.extend(payload);
    ethernet(OUR_MAC, EtherType::IPV4, &packet)
}

/// In pieces of 1,480 bytes of payload.
fn fragments(header: Ipv4Repr, payload: &[u8]) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(1_480);
    let cut = |(place, chunk): (usize, &[u8])| {
        let (fragment_offset, more_fragments) = ((place * 1_480) as u16, place + 1 < count);
        ip_frame(Ipv4Repr { fragment_offset, more_fragments, payload_len: chunk.len() as u16, ..header }, chunk)
    };
    payload.chunks(1_480).enumerate().map(cut).collect()
}

fn icmp_message(message: Icmpv4Repr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.len()];
    message.emit(&mut bytes);
    bytes
}

fn echo(payload: &[u8]) -> Vec<u8> {
    icmp_message(Icmpv4Repr::EchoRequest { identifier: 5, sequence: 6, payload })
}

/// A sent IPv4 frame's header and payload, checked.
fn open(frame: &[u8]) -> (EthernetView<'_>, Ipv4View<'_>, &[u8]) {
    let link = EthernetView::new(frame).unwrap();
    let header = Ipv4View::new(link.payload()).unwrap();
    assert!(header.checksum_holds() && header.rest().len() == header.payload_len());
    (link, header, header.rest())
}

#[test]
fn a_request_for_our_address_is_answered_and_teaches_us_the_peer() {
    let mut layer = Layer::new(AddressMode::Own);
    assert_eq!(layer.receive(&arp(ArpOperation::Request, PEER, PEER_MAC, US)), None);
    let sent = layer.sent();
    let link = EthernetView::new(&sent[0]).unwrap();
    assert_eq!((sent.len(), link.destination, link.source), (1, PEER_MAC, OUR_MAC));
    let expected = ArpRepr {
        operation: ArpOperation::Reply,
        sender_mac: OUR_MAC,
        sender_ip: US,
        target_mac: PEER_MAC,
        target_ip: PEER,
    };
    assert_eq!(ArpRepr::parse(link.payload()), Ok(expected));
    // Known now: an answer needs no request.
    layer.receive(&ip_frame(ip_header(protocol::ICMP, 8), &echo(b"")));
    let sent = layer.sent();
    assert_eq!((sent.len(), open(&sent[0]).0.destination), (1, PEER_MAC));
}

#[test]
fn requests_for_others_and_in_shared_mode_are_not_answered() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.receive(&arp(ArpOperation::Request, PEER, PEER_MAC, Ipv4Addr::new(10, 9, 0, 3)));
    assert!(layer.sent().is_empty());
    assert_eq!(layer.with(|links, _, _, _| links.neighbours.len()), 0, "nothing is learnt from strangers' talk");
    let mut layer = Layer::new(AddressMode::Shared);
    layer.receive(&arp(ArpOperation::Request, PEER, PEER_MAC, US));
    layer.receive(&ip_frame(ip_header(protocol::ICMP, 8), &echo(b"")));
    layer.receive(&ip_frame(ip_header(protocol::UDP, 8), &[0; 8]));
    layer.with(|links, _, host, _| links.flush(host));
    assert!(layer.sent().is_empty());
}

#[test]
fn only_shard_zero_answers_what_every_shard_sees() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.state = LinksState::new(1, 0);
    layer.receive(&arp(ArpOperation::Request, PEER, PEER_MAC, US));
    for fragment in fragments(ip_header(protocol::ICMP, 3_008), &echo(&[1; 3_000])) {
        layer.receive(&fragment);
    }
    assert!(layer.sent().is_empty());
    assert_eq!(layer.with(|links, _, _, _| links.neighbours.len()), 1, "but it learns");
    let segment = vec![3; 3_000];
    let whole: Vec<_> = fragments(ip_header(protocol::TCP, 3_000), &segment);
    assert_eq!(layer.receive(&whole[0]), None);
    assert_eq!(layer.receive(&whole[2]), None);
    assert_eq!(layer.receive(&whole[1]), Some(segment));
}

#[test]
fn an_address_is_announced_and_defended() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.host.full = true;
    layer.with(|links, _, host, _| links.flush(host));
    layer.host.full = false;
    layer.with(|links, _, host, _| links.flush(host));
    let sent = layer.sent();
    let view = EthernetView::new(&sent[0]).unwrap();
    let announcement = ArpRepr::parse(view.payload()).unwrap();
    assert_eq!((sent.len(), view.destination), (1, MacAddr::BROADCAST));
    assert_eq!((announcement.sender_ip, announcement.target_ip, announcement.sender_mac), (US, US, OUR_MAC));
    layer.with(|links, _, host, _| links.flush(host));
    assert!(layer.sent().is_empty(), "once");
    // Somebody else claims it: said again, but not more often than every ten seconds.
    let claim = arp(ArpOperation::Request, US, PEER_MAC, US);
    for _ in 0..3 {
        layer.receive(&claim);
    }
    assert_eq!((layer.sent().len(), layer.counters.arp_conflicts), (1, 3));
    layer.now = layer.now + Duration::from_secs(11);
    layer.receive(&claim);
    assert_eq!(layer.sent().len(), 1);
}

#[test]
fn a_header_waits_for_its_neighbour_and_data_is_refused_meanwhile() {
    let mut layer = Layer::new(AddressMode::Own);
    let send = |layer: &mut Layer, payload: Payload<'_>| {
        layer.with(|links, _, host, now| {
            let mut header = [0xcc; LINK_ROOM + 40];
            let checksum = TxChecksum::Partial { start: 20, offset: 16 };
            let frame = Outgoing { header: &mut header, payload, checksum, gso: None };
            links.output(now, PORT, PEER.into(), frame, host)
        })
    };
    let stream = Payload::Stream { owner: Owner(1), offset: 0, len: 10 };
    assert_eq!(send(&mut layer, Payload::None), Ok(()));
    assert_eq!(send(&mut layer, stream), Err(Busy));
    let sent = layer.sent();
    let view = EthernetView::new(&sent[0]).unwrap();
    let request = ArpRepr::parse(view.payload()).unwrap();
    assert_eq!((sent.len(), view.destination), (1, MacAddr::BROADCAST), "one request");
    assert_eq!((request.operation, request.target_ip, request.sender_ip), (ArpOperation::Request, PEER, US));
    layer.receive(&arp(ArpOperation::Reply, PEER, PEER_MAC, US));
    let sent = layer.sent();
    assert_eq!((sent.len(), &sent[0][..6], &sent[0][6..12]), (1, &PEER_MAC.0[..], &OUR_MAC.0[..]));
    assert_eq!(sent[0][14..], [0xcc; 40]);
    assert_eq!(send(&mut layer, stream), Ok(()));
    assert_eq!(layer.sent()[0].len(), 64);
    layer.host.full = true;
    assert_eq!(send(&mut layer, stream), Err(Busy));
}

#[test]
fn a_silent_neighbour_is_given_up_with_what_waited_for_it() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.with(|links, _, host, now| {
        let mut header = [0; LINK_ROOM + 40];
        let checksum = TxChecksum::Complete;
        let frame = Outgoing { header: &mut header, payload: Payload::None, checksum, gso: None };
        links.output(now, PORT, PEER.into(), frame, host).unwrap();
    });
    let mut failed = vec![];
    for _ in 0..5 {
        layer.now = layer.now + Duration::from_secs(1);
        layer.with(|links, _, host, now| links.on_timeout(now, host, |port, address| failed.push((port, address))));
    }
    assert_eq!(failed, [(PORT, PEER.into())]);
    assert_eq!((layer.counters.held_drops, layer.counters.neighbour_failures), (1, 1));
    assert_eq!((layer.sent().len(), layer.held.len()), (3, 0), "three requests");
    assert_eq!(layer.with(|links, _, _, _| links.next_timeout()), None);
}

#[test]
fn in_shared_mode_the_host_is_asked_for_a_neighbour() {
    let mut layer = Layer::new(AddressMode::Shared);
    layer.with(|links, _, host, now| {
        let mut header = [0xcc; LINK_ROOM + 40];
        let checksum = TxChecksum::Complete;
        let frame = Outgoing { header: &mut header, payload: Payload::None, checksum, gso: None };
        links.output(now, PORT, PEER.into(), frame, host).unwrap();
        assert_eq!(links.pop_wanted(), Some((PORT, PEER.into())));
        assert_eq!(links.pop_wanted(), None);
        assert!(host.frames.is_empty(), "the stack does not ask on the link");
        links.set_neighbour(PORT, PEER.into(), Some(PEER_MAC.0), host).unwrap();
    });
    assert_eq!(layer.sent()[0][..6], PEER_MAC.0);
}

#[test]
fn an_echo_of_any_size_and_shape_comes_back() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.introduce_peer();
    for len in [0, 1, 56, 1_472, 1_473, 9_000, 65_000] {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let request = echo(&data);
        for fragment in fragments(ip_header(protocol::ICMP, request.len()), &request) {
            assert!(layer.sent().is_empty());
            layer.receive(&fragment);
        }
        let mut whole = vec![];
        let sent = layer.sent();
        for (place, frame) in sent.iter().enumerate() {
            let (link, header, payload) = open(frame);
            assert_eq!((link.destination, header.source(), header.destination()), (PEER_MAC, US, PEER));
            assert_eq!((header.tos(), header.protocol()), (0x10, protocol::ICMP));
            assert!(frame.len() <= 1_514 && usize::from(header.fragment_offset()) == whole.len());
            assert_eq!(header.more_fragments(), place + 1 < sent.len());
            whole.extend(payload);
        }
        let reply = Icmpv4Repr::EchoReply { identifier: 5, sequence: 6, payload: &data };
        assert!(icmpv4::checksum_holds(&whole));
        assert_eq!(Icmpv4Repr::parse(&whole), Ok(Some(reply)), "{len}");
    }
    assert_eq!((layer.counters.icmp_in_echos, layer.counters.icmp_out_echo_reps), (7, 7));
    // The same in several buffers instead of fragments, as a jumbo frame arrives.
    let request = echo(&[9; 4_000]);
    let frame = ip_frame(ip_header(protocol::ICMP, request.len()), &request);
    layer.receive_pieces(&frame[..2_000], &[&frame[2_000..3_001], &frame[3_001..]]);
    assert_eq!(layer.sent().len(), 3);
    // And one whose checksum is wrong.
    let mut broken = echo(&[9; 40]);
    broken[20] ^= 1;
    layer.receive(&ip_frame(ip_header(protocol::ICMP, broken.len()), &broken));
    assert!(layer.sent().is_empty() && layer.counters.icmp_in_csum_errors == 1);
}

#[test]
fn what_nobody_speaks_here_is_refused_within_a_rate() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.introduce_peer();
    let datagram = ip_frame(ip_header(protocol::UDP, 1_000), &[5; 1_000]);
    layer.receive(&datagram);
    let sent = layer.sent();
    let (_, header, payload) = open(&sent[0]);
    assert_eq!((header.destination(), header.tos(), header.payload_len()), (PEER, 0xc0, 556));
    let expected = Icmpv4Repr::Unreachable { code: unreachable::PORT, embedded: &datagram[14..14 + 548] };
    assert_eq!(Icmpv4Repr::parse(payload), Ok(Some(expected)));
    layer.receive(&ip_frame(ip_header(132, 12), &[5; 12]));
    let sent = layer.sent();
    let Ok(Some(Icmpv4Repr::Unreachable { code, .. })) = Icmpv4Repr::parse(open(&sent[0]).2) else { panic!() };
    assert_eq!(code, unreachable::PROTOCOL);
    for fragment in fragments(ip_header(protocol::UDP, 3_000), &[6; 3_000]) {
        layer.receive(&fragment);
    }
    assert_eq!(layer.sent().len(), 1, "a reassembled datagram is refused as well");
    for _ in 0..200 {
        layer.receive(&datagram);
    }
    assert_eq!(layer.sent().len() as u32, icmp::ERROR_RATE.burst - 3);
    assert_eq!(layer.counters.icmp_out_rate_limited, 200 - 47);
}

#[test]
fn an_error_about_our_segment_reaches_tcp() {
    let mut layer = Layer::new(AddressMode::Own);
    let ours = Ipv4Repr { source: US, destination: PEER, ..ip_header(protocol::TCP, 100) };
    let mut embedded = [7; 28];
    ours.emit(&mut embedded);
    let message = icmp_message(Icmpv4Repr::FragmentationNeeded { mtu: 1_300, embedded: &embedded });
    let router = Ipv4Repr { source: Ipv4Addr::new(192, 0, 2, 1), ..ip_header(protocol::ICMP, message.len()) };
    let told = std::string::String::from_utf8(layer.receive(&ip_frame(router, &message)).unwrap()).unwrap();
    let about = Embedded::tcp(&embedded).unwrap();
    assert_eq!(told, std::format!("{:?} {about:?}", IcmpError::FragmentationNeeded { mtu: 1_300 }));
    ours.emit(&mut embedded);
    Ipv4Repr { protocol: protocol::UDP, ..ours }.emit(&mut embedded);
    let message = icmp_message(Icmpv4Repr::Unreachable { code: 3, embedded: &embedded });
    assert_eq!(layer.receive(&ip_frame(router, &message)), None, "not about TCP");
}

#[test]
fn an_incomplete_datagram_is_reported_to_its_sender() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.introduce_peer();
    let parts = fragments(ip_header(protocol::TCP, 3_000), &[6; 3_000]);
    layer.receive(&parts[0]);
    layer.now = layer.now + Duration::from_secs(29);
    layer.with(|links, reassembly, host, now| on_timeout(now, links, reassembly, host));
    assert!(layer.sent().is_empty());
    layer.now = layer.now + Duration::from_secs(1);
    layer.with(|links, reassembly, host, now| on_timeout(now, links, reassembly, host));
    let sent = layer.sent();
    let (_, header, payload) = open(&sent[0]);
    assert_eq!((sent.len(), header.destination()), (1, PEER));
    let Ok(Some(Icmpv4Repr::TimeExceeded { code: 1, embedded })) = Icmpv4Repr::parse(payload) else { panic!() };
    assert_eq!((embedded.len(), Embedded::addresses(embedded)), (28, Some((PEER, US))));
    assert_eq!(layer.counters.ip_reasm_timeout, 1);
}

#[test]
fn a_frame_beyond_the_link_goes_to_the_gateway() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.introduce_peer();
    layer.with(|links, _, _, _| {
        let gateway = Some(IpAddr::V4(PEER));
        let default = Route { destination: ip([0, 0, 0, 0]), prefix_len: 0, gateway, port: PORT, source: None };
        links.routes.add(links.interfaces, &default).unwrap();
    });
    let request = echo(b"far");
    let far = Ipv4Repr { source: Ipv4Addr::new(198, 51, 100, 7), ..ip_header(protocol::ICMP, request.len()) };
    layer.receive(&ip_frame(far, &request));
    let sent = layer.sent();
    let (link, header, _) = open(&sent[0]);
    assert_eq!((link.destination, header.destination()), (PEER_MAC, far.source));
}

#[test]
fn a_frame_to_ourselves_needs_no_neighbour() {
    let mut layer = Layer::new(AddressMode::Own);
    layer.with(|links, _, host, now| {
        let path = links.routes.lookup(links.interfaces, US.into(), None).unwrap();
        let mut header = [0; LINK_ROOM + 40];
        let checksum = TxChecksum::Complete;
        let frame = Outgoing { header: &mut header, payload: Payload::None, checksum, gso: None };
        links.output(now, path.port, path.next_hop.into(), frame, host).unwrap();
        links.on_timeout(now + Duration::from_secs(100), host, |_, _| panic!("it does not age"));
    });
    let sent = layer.sent();
    assert_eq!((sent.len(), &sent[0][..6]), (1, &OUR_MAC.0[..]));
}

proptest! {
    /// Valid enough to get deep, random beyond that: nothing panics, and no answer is longer than the link allows.
    #[test]
    fn random_packets_never_panic(
        packets in prop::collection::vec(
            (any::<[u8; 20]>(), prop::collection::vec(any::<u8>(), 0..200), 0u8..8), 1..40,
        ),
    ) {
        let mut layer = Layer::new(AddressMode::Own);
        layer.introduce_peer();
        for (random, payload, steer) in packets {
            let mut header = ip_header([1, 6, 17, 99][usize::from(steer % 4)], payload.len());
            if steer & 4 != 0 {
                header.more_fragments = random[0] & 1 == 1;
                header.fragment_offset = u16::from(random[1]) * 8;
                header.identification = u16::from(random[2] & 1);
            }
            let mut payload = payload;
            if let (true, [kind, code, rest @ ..]) = (steer % 4 == 0, &mut payload[..]) {
                (*kind, *code) = ([0, 3, 8, 11, 12][usize::from(random[3]) % 5], random[4] % 16);
                if let Some(checksum) = rest.first_chunk_mut::<2>() {
                    *checksum = [0; 2];
                }
                let sum = crate::wire::checksum::sum(&payload);
                if let Some(place) = payload.get_mut(2..4) {
                    place.copy_from_slice(&(!sum).to_be_bytes());
                }
            }
            layer.receive(&ip_frame(header, &payload));
            layer.receive(&ethernet(OUR_MAC, EtherType::IPV4, &random));
            layer.receive(&ethernet(MacAddr::BROADCAST, EtherType::ARP, &payload));
            layer.now = layer.now + Duration::from_millis(u64::from(random[5]) * 20);
            layer.with(|links, reassembly, host, now| on_timeout(now, links, reassembly, host));
            for frame in layer.sent() {
                prop_assert!(frame.len() <= 1_514);
            }
        }
    }
}
