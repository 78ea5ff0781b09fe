//! What passes the checks, and what each of them keeps out.

use super::super::interface::tests::{OUR_MAC, PORT, interfaces};
use super::*;
use crate::api::{AddressMode, InterfaceConfig};
use crate::frame::Offload;
use crate::wire::{EthernetRepr, Ipv4Repr, SeqNumber, TcpFlags, TcpOptions, TcpRepr};
use proptest::prelude::*;
extern crate std;
use std::vec::Vec;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const US: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

fn header() -> Ipv4Repr {
    Ipv4Repr {
        source: PEER,
        destination: US,
        protocol: protocol::TCP,
        ttl: 64,
        tos: 0,
        identification: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: 30,
    }
}

fn packet(repr: Ipv4Repr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![0; Ipv4Repr::LEN];
    repr.emit(&mut bytes);
    bytes.extend(payload);
    bytes
}

fn frame(destination: MacAddr, ether_type: EtherType, tags: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![0; EthernetRepr::LEN];
    EthernetRepr { destination, source: MacAddr([2; 6]), ether_type }.emit(&mut bytes);
    let ether_type = bytes.split_off(12);
    for tag in tags {
        bytes.extend([0x81, 0]);
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(ether_type);
    bytes.extend(payload);
    bytes
}

#[test]
fn the_link_header_says_whose_frame_it_is() {
    let interfaces = interfaces(AddressMode::Own);
    let interface = interfaces.get(PORT).unwrap();
    let other = MacAddr([2, 9, 9, 9, 9, 9]);
    let kind = |destination, ether_type, tags: &[u16]| {
        let bytes = frame(destination, ether_type, tags, b"payload");
        let payload = match link(interface, &bytes) {
            Ok(LinkPayload::Ipv4(payload) | LinkPayload::Ipv6(payload) | LinkPayload::Arp(payload)) => payload,
            Err(reason) => return Err(reason),
        };
        assert_eq!(payload, b"payload");
        Ok(())
    };
    assert_eq!(kind(OUR_MAC, EtherType::IPV4, &[]), Ok(()));
    assert_eq!(kind(OUR_MAC, EtherType::IPV6, &[]), Ok(()));
    assert_eq!(kind(OUR_MAC, EtherType::ARP, &[]), Ok(()));
    assert_eq!(kind(MacAddr::BROADCAST, EtherType::ARP, &[]), Ok(()));
    assert_eq!(kind(OUR_MAC, EtherType::IPV4, &[0xe000]), Ok(()), "a priority tag is no VLAN");
    assert_eq!(kind(OUR_MAC, EtherType::IPV4, &[0, 7]), Err(Discard::Link));
    assert_eq!(kind(other, EtherType::IPV4, &[]), Err(Discard::Link));
    assert_eq!(kind(other, EtherType::ARP, &[]), Err(Discard::Link));
    assert_eq!(kind(MacAddr::BROADCAST, EtherType::IPV4, &[]), Err(Discard::Link));
    assert_eq!(kind(OUR_MAC, EtherType(0x88cc), &[]), Err(Discard::Link));
    assert_eq!(link(interface, &[0; 13]), Err(Discard::Link));
}

#[test]
fn without_a_link_header_the_version_says_what_it_is() {
    let mut interfaces = interfaces(AddressMode::Own);
    let port = PortId(1);
    let offload = Offload { max_segment: 1_500, tx_checksum: false };
    let config = InterfaceConfig { port, link: Link::Ip, mtu: 1_500, offload, mode: AddressMode::Own };
    interfaces.add(&config).unwrap();
    let interface = interfaces.get(port).unwrap();
    assert_eq!(link(interface, &[0x45, 1]), Ok(LinkPayload::Ipv4(&[0x45, 1])));
    assert_eq!(link(interface, &[0x60, 1]), Ok(LinkPayload::Ipv6(&[0x60, 1])));
    assert_eq!(link(interface, &[0x10, 1]), Err(Discard::Link));
    assert_eq!(link(interface, &[]), Err(Discard::Link));
}

#[test]
fn each_check_of_the_ip_header_keeps_something_out() {
    let interfaces = interfaces(AddressMode::Own);
    let check = |bytes: &[u8]| ipv4(&interfaces, PORT, bytes, &RxFrame::single(bytes)).map(|it| it.payload().len());
    let good = packet(header(), &[7; 30]);
    assert_eq!(check(&good), Ok(30));
    let padded = [&good[..], &[0; 9]].concat();
    assert_eq!(check(&padded), Ok(30), "Ethernet's padding is not payload");
    assert_eq!(check(&good[..49]), Err(Discard::Header(Malformed::Truncated)));
    assert_eq!(check(&good[..19]), Err(Discard::Header(Malformed::Truncated)));
    let changed = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] = value;
        check(&bytes)
    };
    assert_eq!(changed(0, 0x55), Err(Discard::Header(Malformed::Version)));
    assert_eq!(changed(0, 0x44), Err(Discard::Header(Malformed::HeaderLength)));
    assert_eq!(changed(3, 19), Err(Discard::Header(Malformed::TotalLength)));
    assert_eq!(changed(8, 63), Err(Discard::Header(Malformed::Checksum)));
    let with = |repr| check(&packet(repr, &[7; 30]));
    for source in [[0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255], [10, 9, 0, 255]] {
        assert_eq!(with(Ipv4Repr { source: source.into(), ..header() }), Err(Discard::Source), "{source:?}");
    }
    for destination in [[10, 9, 0, 3], [255, 255, 255, 255], [10, 9, 0, 255], [224, 0, 0, 1]] {
        let repr = Ipv4Repr { destination: destination.into(), ..header() };
        assert_eq!(with(repr), Err(Discard::NotForUs), "{destination:?}");
    }
}

#[test]
fn source_routes_are_refused_and_other_options_are_not() {
    for (options, refused) in [
        (&[131, 3, 4, 0][..], true),
        (&[1, 1, 137, 3, 4, 0, 0, 0], true),
        (&[148, 4, 0, 0, 131, 3, 4, 0], true),
        (&[148, 4, 0, 0], false),
        (&[7, 7, 4, 0, 0, 0, 0, 0], false),
        (&[0, 131, 3, 4], false),
        (&[148, 0, 131, 3], false),
        (&[148, 1, 131, 3], false),
        (&[148], false),
        (&[], false),
    ] {
        assert_eq!(has_source_route(options), refused, "{options:?}");
    }
}

#[test]
fn a_merged_train_ends_with_its_frame() {
    let interfaces = interfaces(AddressMode::Own);
    let head = packet(header(), &[7; 30]);
    let tail: [&[u8]; 2] = [&[8; 20], &[9; 15]];
    let train = RxFrame { head: &head, tail: &tail, checksum: RxChecksum::Verified, gso_size: 10 };
    let payload = ipv4(&interfaces, PORT, &head, &train).unwrap().payload();
    assert_eq!((payload.len(), payload.contiguous()), (65, None));
    assert_eq!(payload.iter().map(<[u8]>::len).collect::<Vec<_>>(), [30, 20, 15]);
    let single = RxFrame { gso_size: 0, ..train };
    let payload = ipv4(&interfaces, PORT, &head, &single).unwrap().payload();
    assert_eq!(payload.contiguous(), Some(&[7; 30][..]));
}

proptest! {
    #[test]
    fn pieces_are_the_first_bytes_of_what_they_were_made_of(
        head in prop::collection::vec(any::<u8>(), 0..50),
        tail in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..4),
        cut in any::<prop::sample::Index>(), skip in any::<prop::sample::Index>(),
    ) {
        let all: Vec<u8> = [head.clone(), tail.concat()].concat();
        let len = cut.index(all.len() + 1);
        let slices: Vec<&[u8]> = tail.iter().map(|piece| &piece[..]).collect();
        let pieces = Pieces::new(&head, &slices, len);
        prop_assert_eq!(pieces.iter().collect::<Vec<_>>().concat(), &all[..len]);
        let skip = skip.index(pieces.head().len() + 1);
        let rest = pieces.skip(skip);
        prop_assert_eq!(rest.iter().collect::<Vec<_>>().concat(), &all[skip..len]);
        prop_assert_eq!(rest.len(), len - skip);
    }

    #[test]
    fn random_frames_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), fix: bool) {
        let interfaces = interfaces(AddressMode::Own);
        let interface = interfaces.get(PORT).unwrap();
        let mut bytes = bytes;
        if fix && bytes.len() > 34 {
            bytes[..6].copy_from_slice(&OUR_MAC.0);
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[30..34].copy_from_slice(&US.octets());
        }
        let _ = peek(interface, &bytes);
        if let Ok(LinkPayload::Ipv4(packet)) = link(interface, &bytes)
            && let Ok(packet) = ipv4(&interfaces, PORT, packet, &RxFrame::single(&bytes))
        {
            prop_assert!(packet.payload().iter().map(<[u8]>::len).sum::<usize>() == packet.payload().len());
        }
    }
}

#[test]
fn a_peek_names_the_flow_from_our_point_of_view() {
    let interfaces = interfaces(AddressMode::Own);
    let interface = interfaces.get(PORT).unwrap();
    let look = |ip: &[u8]| peek(interface, &frame(OUR_MAC, EtherType::IPV4, &[], ip));
    let segment = |source_port, destination_port| {
        let repr = TcpRepr {
            source_port,
            destination_port,
            seq: SeqNumber(1),
            ack: SeqNumber(2),
            flags: TcpFlags::ACK,
            window: 100,
            urgent: 0,
            options: TcpOptions::default(),
        };
        let mut bytes = std::vec![0; repr.header_len()];
        repr.emit(&mut bytes, 0);
        bytes
    };
    let (local, remote) = (SocketAddr::from((US, 80)), SocketAddr::from((PEER, 4_000)));
    let flow = Peek::Flow { local, remote };
    assert_eq!(look(&packet(header(), &segment(4_000, 80))), flow);
    assert_eq!(look(&packet(Ipv4Repr { more_fragments: true, ..header() }, &segment(1, 2))), Peek::Fragment);
    assert_eq!(look(&packet(Ipv4Repr { fragment_offset: 8, ..header() }, &segment(1, 2))), Peek::Fragment);
    // An ICMP error from a router about what we sent belongs to the same flow.
    let ours = packet(Ipv4Repr { source: US, destination: PEER, ..header() }, &segment(80, 4_000));
    let error = crate::wire::Icmpv4Repr::Unreachable { code: 1, embedded: &ours };
    let mut message = std::vec![0; error.len()];
    error.emit(&mut message);
    let router = Ipv4Repr { source: Ipv4Addr::new(192, 0, 2, 1), protocol: protocol::ICMP, ..header() };
    assert_eq!(look(&packet(router, &message)), flow);
    assert_eq!(look(&packet(Ipv4Repr { protocol: protocol::UDP, ..header() }, &[0; 30])), Peek::Other);
    assert_eq!(look(&packet(header(), &[0; 3])), Peek::Other);
    assert_eq!(peek(interface, &frame(MacAddr::BROADCAST, EtherType::ARP, &[], &[0; 28])), Peek::Arp);
    assert_eq!(peek(interface, &[]), Peek::Other);
}
