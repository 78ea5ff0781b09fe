//! Round trips against etherparse, an independent implementation, and random bytes that must never panic.

use super::icmpv4::unreachable;
use super::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, TcpOptionElement};
use proptest::prelude::*;
extern crate std;
use std::vec;
use std::vec::Vec;

fn tcp_options() -> impl Strategy<Value = TcpOptions> {
    let block = (any::<u32>(), any::<u32>());
    (
        any::<Option<u16>>(),
        any::<Option<u8>>(),
        any::<bool>(),
        any::<Option<(u32, u32)>>(),
        prop::collection::vec(block, 0..5),
    )
        .prop_map(|(mss, window_scale, sack_permitted, timestamps, blocks)| {
            let mut sack = SackBlocks::default();
            for (start, end) in blocks {
                assert!(sack.push(SackBlock { start: SeqNumber(start), end: SeqNumber(end) }));
            }
            let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
            TcpOptions { mss, window_scale, sack_permitted, timestamps, sack, ecn_bytes: None }
        })
}

fn tcp_repr() -> impl Strategy<Value = TcpRepr> {
    (any::<(u16, u16, u32, u32, u16, u16, u16)>(), tcp_options()).prop_map(
        |((source_port, destination_port, seq, ack, flags, window, urgent), options)| TcpRepr {
            source_port,
            destination_port,
            seq: SeqNumber(seq),
            ack: SeqNumber(ack),
            flags: TcpFlags(flags & TcpFlags::ALL.0),
            window,
            urgent,
            options,
        },
    )
}

fn ipv4_repr() -> impl Strategy<Value = Ipv4Repr> {
    any::<(u32, u32, u8, u8, u8, u16, bool, bool, u16, u16)>().prop_map(|fields| {
        let (source, destination, protocol, ttl, tos, identification, dont_fragment, more_fragments, offset, len) =
            fields;
        Ipv4Repr {
            source: Ipv4Addr::from(source),
            destination: Ipv4Addr::from(destination),
            protocol,
            ttl,
            tos,
            identification,
            dont_fragment,
            more_fragments,
            fragment_offset: offset & !7,
            payload_len: len.min(Ipv4Repr::MAX_PAYLOAD),
        }
    })
}

/// The elements in the order in which they stand in the header.
fn elements(options: &TcpOptions) -> Vec<TcpOptionElement> {
    let mut elements = vec![];
    elements.extend(options.mss.map(TcpOptionElement::MaximumSegmentSize));
    if options.sack_permitted {
        elements.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
    }
    elements.extend(options.timestamps.map(|it| TcpOptionElement::Timestamp(it.value, it.echo)));
    elements.extend(options.window_scale.map(TcpOptionElement::WindowScale));
    elements
}

proptest! {
    #[test]
    fn tcp_headers_mean_to_etherparse_what_they_mean_to_us(repr in tcp_repr(), checksum: u16) {
        let mut buffer = [0xaa; TcpRepr::MAX_LEN];
        let len = repr.emit(&mut buffer, checksum);
        prop_assert_eq!(len, repr.header_len());
        let theirs = TcpHeaderSlice::from_slice(&buffer[..len]).unwrap().to_header();
        prop_assert_eq!(theirs.header_len(), len);
        prop_assert_eq!((theirs.source_port, theirs.destination_port), (repr.source_port, repr.destination_port));
        prop_assert_eq!(theirs.sequence_number, repr.seq.0);
        prop_assert_eq!(theirs.acknowledgment_number, if repr.flags.ack() { repr.ack.0 } else { 0 });
        prop_assert_eq!(theirs.urgent_pointer, if repr.flags.urg() { repr.urgent } else { 0 });
        prop_assert_eq!((theirs.window_size, theirs.checksum), (repr.window, checksum));
        let theirs_flags = [theirs.fin, theirs.syn, theirs.rst, theirs.psh, theirs.ack, theirs.urg, theirs.ece, theirs.cwr];
        let flags = theirs_flags.into_iter().chain([theirs.ns]);
        let bits = flags.enumerate().fold(0, |bits, (place, set)| bits | u16::from(set) << place);
        prop_assert_eq!(bits, repr.flags.0);
        let theirs: Vec<_> =
            theirs.options.elements_iter().map(|element| element.unwrap())
                .filter(|element| !matches!(element, TcpOptionElement::Noop)).collect();
        let mut ours = elements(&repr.options);
        if theirs.len() > ours.len() {
            // The SACK blocks that fitted, which etherparse holds as one and up to three more.
            let view = TcpView::new(&buffer[..len]).unwrap().options();
            let blocks: Vec<_> = view.sack.as_slice().iter().map(|block| (block.start.0, block.end.0)).collect();
            prop_assert!(!blocks.is_empty() && repr.options.sack.as_slice().starts_with(view.sack.as_slice()));
            let more: [_; 3] = core::array::from_fn(|place| blocks.get(place + 1).copied());
            ours.push(TcpOptionElement::SelectiveAcknowledgement(blocks[0], more));
        }
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn tcp_headers_round_trip(repr in tcp_repr(), payload in prop::collection::vec(any::<u8>(), 0..50)) {
        let mut buffer = vec![0; TcpRepr::MAX_LEN];
        let len = repr.emit(&mut buffer, 0);
        buffer.truncate(len);
        buffer.extend(&payload);
        let view = TcpView::new(&buffer).unwrap();
        prop_assert_eq!((view.source_port(), view.destination_port()), (repr.source_port, repr.destination_port));
        prop_assert_eq!((view.seq(), view.flags(), view.window()), (repr.seq, repr.flags, repr.window));
        let mut options = view.options();
        prop_assert!(repr.options.sack.as_slice().starts_with(options.sack.as_slice()));
        options.sack = repr.options.sack;
        prop_assert_eq!(options, repr.options);
        prop_assert_eq!((view.payload(), view.header_len()), (&payload[..], len));
        prop_assert_eq!(view.header_sum(), checksum::sum(&buffer[..len]));
    }

    #[test]
    fn a_complete_tcp_checksum_satisfies_etherparse(repr in tcp_repr(), source: u32, destination: u32) {
        let (source, destination) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
        let mut buffer = [0; TcpRepr::MAX_LEN];
        let pseudo = checksum::pseudo_v4(source, destination, protocol::TCP, repr.header_len() as u32);
        let len = repr.emit_complete(&mut buffer, pseudo);
        let theirs = TcpHeaderSlice::from_slice(&buffer[..len]).unwrap().to_header();
        let expected = theirs.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &[]).unwrap();
        prop_assert_eq!(theirs.checksum, expected);
        prop_assert_eq!(checksum::add(pseudo, checksum::sum(&buffer[..len])), checksum::VALID);
    }

    #[test]
    fn the_ipv6_pseudo_header_satisfies_etherparse(repr in tcp_repr(), source: u128, destination: u128) {
        let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
        let mut buffer = [0; TcpRepr::MAX_LEN];
        let pseudo = checksum::pseudo_v6(source, destination, protocol::TCP, repr.header_len() as u32);
        let len = repr.emit_complete(&mut buffer, pseudo);
        let theirs = TcpHeaderSlice::from_slice(&buffer[..len]).unwrap().to_header();
        let expected = theirs.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &[]).unwrap();
        prop_assert_eq!(theirs.checksum, expected);
    }

    #[test]
    fn ipv4_headers_mean_to_etherparse_what_they_mean_to_us(repr in ipv4_repr()) {
        let mut buffer = [0xaa; Ipv4Repr::LEN];
        prop_assert_eq!(repr.emit(&mut buffer), Ipv4Repr::LEN);
        let theirs = Ipv4HeaderSlice::from_slice(&buffer).unwrap().to_header();
        prop_assert_eq!((theirs.source, theirs.destination), (repr.source.octets(), repr.destination.octets()));
        prop_assert_eq!((theirs.protocol.0, theirs.time_to_live), (repr.protocol, repr.ttl));
        prop_assert_eq!(theirs.dscp.value() << 2 | theirs.ecn.value(), repr.tos);
        prop_assert_eq!((theirs.identification, theirs.dont_fragment), (repr.identification, repr.dont_fragment));
        prop_assert_eq!(theirs.fragment_offset.value() << 3, repr.fragment_offset);
        prop_assert_eq!((theirs.more_fragments, theirs.payload_len().unwrap()), (repr.more_fragments, repr.payload_len));
        prop_assert_eq!(theirs.header_checksum, theirs.calc_header_checksum());
        let view = Ipv4View::new(&buffer).unwrap();
        prop_assert!(view.checksum_holds());
        prop_assert_eq!(view.payload_len(), usize::from(repr.payload_len));
        prop_assert_eq!((view.source(), view.destination()), (repr.source, repr.destination));
        prop_assert_eq!((view.tos(), view.ttl(), view.protocol()), (repr.tos, repr.ttl, repr.protocol));
        prop_assert_eq!((view.identification(), view.dont_fragment()), (repr.identification, repr.dont_fragment));
        prop_assert_eq!((view.fragment_offset(), view.more_fragments()), (repr.fragment_offset, repr.more_fragments));
        prop_assert_eq!(view.is_fragment(), repr.more_fragments || repr.fragment_offset != 0);
    }

    #[test]
    fn ipv4_options_are_stepped_over(repr in ipv4_repr(), options in prop::collection::vec(any::<u8>(), 0..=40)) {
        let options = &options[..options.len() & !3];
        let mut theirs = Ipv4HeaderSlice::from_slice(&{
            let mut buffer = [0; Ipv4Repr::LEN];
            Ipv4Repr { payload_len: 4, ..repr }.emit(&mut buffer);
            buffer
        }).unwrap().to_header();
        theirs.options = options.try_into().unwrap();
        theirs.set_payload_len(4).unwrap();
        theirs.header_checksum = theirs.calc_header_checksum();
        let mut packet = vec![];
        theirs.write(&mut packet).unwrap();
        packet.extend(b"rest");
        let view = Ipv4View::new(&packet).unwrap();
        prop_assert!(view.checksum_holds());
        prop_assert_eq!((view.options(), view.rest(), view.payload_len()), (options, &b"rest"[..], 4));
        packet[15] ^= 1;
        prop_assert!(!Ipv4View::new(&packet).unwrap().checksum_holds());
    }

    #[test]
    fn ipv6_headers_mean_to_etherparse_what_they_mean_to_us(
        source: u128, destination: u128, next_header: u8, hop_limit: u8, traffic_class: u8,
        flow_label in 0u32..1 << 20, payload_len: u16,
    ) {
        let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
        let repr = Ipv6Repr { source, destination, next_header, hop_limit, traffic_class, flow_label, payload_len };
        let mut buffer = [0xaa; Ipv6Repr::LEN];
        repr.emit(&mut buffer);
        let theirs = Ipv6HeaderSlice::from_slice(&buffer).unwrap().to_header();
        prop_assert_eq!((theirs.source, theirs.destination), (source.octets(), destination.octets()));
        prop_assert_eq!((theirs.next_header.0, theirs.hop_limit), (next_header, hop_limit));
        prop_assert_eq!((theirs.traffic_class, theirs.flow_label.value()), (traffic_class, flow_label));
        prop_assert_eq!(theirs.payload_length, payload_len);
        let view = Ipv6View::new(&buffer).unwrap();
        prop_assert_eq!((view.source(), view.destination()), (source, destination));
        prop_assert_eq!((view.next_header(), view.hop_limit()), (next_header, hop_limit));
        prop_assert_eq!((view.traffic_class(), view.flow_label()), (traffic_class, flow_label));
        prop_assert_eq!((view.payload_len(), view.rest()), (payload_len, &[][..]));
    }

    #[test]
    fn icmp_messages_round_trip_and_satisfy_etherparse(
        kind in 0usize..6, code: u8, first: u16, second: u16, body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let body = &body[..];
        let (identifier, sequence) = (first, second);
        let code_but_fragmentation = if code == unreachable::FRAGMENTATION_NEEDED { unreachable::PORT } else { code };
        let repr = [
            Icmpv4Repr::EchoRequest { identifier, sequence, payload: body },
            Icmpv4Repr::EchoReply { identifier, sequence, payload: body },
            Icmpv4Repr::Unreachable { code: code_but_fragmentation, embedded: body },
            Icmpv4Repr::FragmentationNeeded { mtu: second, embedded: body },
            Icmpv4Repr::TimeExceeded { code, embedded: body },
            // Only code 0 has a pointer: etherparse sums the codes 1 and 2 as if the field were zero.
            Icmpv4Repr::ParameterProblem { code, pointer: if code == 0 { first as u8 } else { 0 }, embedded: body },
        ][kind];
        let mut buffer = vec![0xaa; repr.len()];
        prop_assert_eq!(repr.emit(&mut buffer), buffer.len());
        prop_assert!(icmpv4::checksum_holds(&buffer));
        prop_assert_eq!(Icmpv4Repr::parse(&buffer), Ok(Some(repr)));
        let theirs = Icmpv4Slice::from_slice(&buffer).unwrap();
        prop_assert_eq!(theirs.checksum(), theirs.icmp_type().calc_checksum(theirs.payload()));
        if let Icmpv4Repr::FragmentationNeeded { mtu, .. } = repr {
            let etherparse::Icmpv4Type::DestinationUnreachable(header) = theirs.icmp_type() else {
                return Err(TestCaseError::fail("another type"));
            };
            let expected = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            prop_assert_eq!(header, expected);
        }
    }

    #[test]
    fn an_icmp_error_names_the_segment_it_is_about(ip in ipv4_repr(), tcp in tcp_repr()) {
        let ip = Ipv4Repr { protocol: protocol::TCP, fragment_offset: 0, payload_len: 1_000, ..ip };
        let mut packet = [0; 80];
        ip.emit(&mut packet);
        tcp.emit(&mut packet[Ipv4Repr::LEN..], 0);
        // A router may cut the packet after eight bytes of TCP (RFC 792).
        let embedded = Embedded::tcp(&packet[..28]).unwrap();
        prop_assert_eq!((*embedded.local.ip(), embedded.local.port()), (ip.source, tcp.source_port));
        prop_assert_eq!((*embedded.remote.ip(), embedded.remote.port()), (ip.destination, tcp.destination_port));
        prop_assert_eq!(embedded.seq, tcp.seq);
        prop_assert_eq!(Embedded::tcp(&packet[..27]), None);
        Ipv4Repr { protocol: protocol::UDP, ..ip }.emit(&mut packet);
        prop_assert_eq!(Embedded::tcp(&packet), None);
        Ipv4Repr { fragment_offset: 8, ..ip }.emit(&mut packet);
        prop_assert_eq!(Embedded::tcp(&packet), None);
    }

    #[test]
    fn ethernet_frames_mean_to_etherparse_what_they_mean_to_us(
        destination: [u8; 6], source: [u8; 6], tags in prop::collection::vec(any::<u16>(), 0..=2), payload: [u8; 7],
    ) {
        let mut frame = vec![0; EthernetRepr::LEN];
        let (destination, source) = (MacAddr(destination), MacAddr(source));
        EthernetRepr { destination, source, ether_type: EtherType::IPV4 }.emit(&mut frame);
        let (addresses, ether_type) = (frame[..12].to_vec(), frame[12..].to_vec());
        frame = addresses;
        for (place, tag) in tags.iter().enumerate() {
            frame.extend(if place == 0 && tags.len() == 2 { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(ether_type);
        frame.extend(payload);
        let view = EthernetView::new(&frame).unwrap();
        prop_assert_eq!((view.destination, view.source, view.ether_type), (destination, source, EtherType::IPV4));
        prop_assert_eq!((view.tags(), view.payload()), (&tags[..], &payload[..]));
        prop_assert_eq!(view.header_len(), frame.len() - payload.len());
        let theirs = etherparse::LaxSlicedPacket::from_ethernet(&frame).unwrap();
        let vlan = theirs.vlan_ids().last().map_or(0, |id| id.value());
        prop_assert_eq!(view.vlan(), vlan);
        for len in 0..view.header_len() {
            prop_assert_eq!(EthernetView::new(&frame[..len]).err(), Some(Malformed::Truncated));
        }
    }

    #[test]
    fn arp_packets_mean_to_etherparse_what_they_mean_to_us(
        reply: bool, sender_mac: [u8; 6], sender_ip: u32, target_mac: [u8; 6], target_ip: u32,
    ) {
        let operation = if reply { ArpOperation::Reply } else { ArpOperation::Request };
        let (sender_mac, target_mac) = (MacAddr(sender_mac), MacAddr(target_mac));
        let (sender_ip, target_ip) = (Ipv4Addr::from(sender_ip), Ipv4Addr::from(target_ip));
        let repr = ArpRepr { operation, sender_mac, sender_ip, target_mac, target_ip };
        let mut buffer = [0; 46];
        let len = repr.emit(&mut buffer);
        prop_assert_eq!(ArpRepr::parse(&buffer), Ok(repr));
        let theirs = etherparse::ArpPacketSlice::from_slice(&buffer[..len]).unwrap().to_packet();
        prop_assert_eq!(theirs.operation.0, if reply { 2 } else { 1 });
        let theirs = theirs.try_eth_ipv4().unwrap();
        prop_assert_eq!((theirs.sender_mac, theirs.target_mac), (sender_mac.0, target_mac.0));
        prop_assert_eq!((theirs.sender_ipv4, theirs.target_ipv4), (sender_ip.octets(), target_ip.octets()));
        for place in 0..7 {
            let mut other = buffer;
            other[place] ^= 0x40;
            prop_assert_eq!(ArpRepr::parse(&other), Err(Malformed::Type));
        }
    }

    /// Whatever arrives: an error or a view, never a panic, and an accepted header lies within the bytes.
    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), steer in any::<[u8; 3]>()) {
        // Plain random bytes rarely pass the first check.
        if let [first, .., last] = &mut bytes[..] {
            match steer[0] % 4 {
                0 => (*first, *last) = (0x45 | steer[1] & 0x0f, steer[2]),
                1 => *first = 0x60,
                _ => {}
            }
        }
        if let (Some(offset), true) = (bytes.get_mut(12), steer[0] & 4 != 0) {
            *offset = 0x50 | steer[1];
        }
        if let Ok(view) = EthernetView::new(&bytes) {
            prop_assert_eq!(view.header_len() + view.payload().len(), bytes.len());
            let _ = (view.tags(), view.vlan());
        }
        let _ = ArpRepr::parse(&bytes);
        if let Ok(view) = Ipv4View::new(&bytes) {
            prop_assert_eq!(view.header_len() + view.rest().len(), bytes.len());
            prop_assert_eq!(view.header_len() + view.payload_len(), usize::from(view.total_len()));
            let _ = (view.checksum_holds(), view.is_fragment(), view.fragment_offset());
        }
        if let Ok(view) = Ipv6View::new(&bytes) {
            let _ = (view.source(), view.destination(), view.flow_label());
        }
        if let Ok(view) = TcpView::new(&bytes) {
            prop_assert_eq!(view.header_len() + view.payload().len(), bytes.len());
            let _ = (view.options(), view.flags(), view.header_sum());
        }
        if let Ok(Some(message)) = Icmpv4Repr::parse(&bytes) {
            prop_assert_eq!(message.len(), bytes.len());
            let _ = (Embedded::tcp(message.body()), Embedded::addresses(message.body()));
        }
        let _ = TcpOptions::parse(&bytes);
    }
}

#[test]
fn tcp_options_stand_in_the_order_of_linux() {
    let timestamps = Some(Timestamps { value: 1, echo: 2 });
    let syn = TcpOptions {
        mss: Some(1_460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps,
        sack: SackBlocks::default(),
        ecn_bytes: None,
    };
    let mut buffer = [0; MAX_OPTIONS];
    let len = syn.emit(&mut buffer);
    assert_eq!(buffer[..len], [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]);
    let len = TcpOptions { timestamps: None, ..syn }.emit(&mut buffer);
    assert_eq!(buffer[..len], [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7]);
    let mut sack = SackBlocks::default();
    for start in 1..=4 {
        assert!(sack.push(SackBlock { start: SeqNumber(start), end: SeqNumber(start + 1) }));
    }
    assert!(!sack.push(SackBlock::default()), "four blocks are all that a header holds");
    let ack = TcpOptions { timestamps, sack, ..TcpOptions::default() };
    let len = ack.emit(&mut buffer);
    assert_eq!((len, ack.len()), (40, 40), "three blocks beside timestamps");
    assert_eq!(buffer[..4], [1, 1, 8, 10]);
    assert_eq!(buffer[12..24], [1, 1, 5, 26, 0, 0, 0, 1, 0, 0, 0, 2]);
}

const MAX_OPTIONS: usize = tcp_options::MAX_LEN;

#[test]
fn unknown_options_are_skipped_and_impossible_ones_end_the_parsing() {
    let mss = TcpOptions { mss: Some(1_000), ..TcpOptions::default() };
    assert_eq!(TcpOptions::parse(&[254, 4, 9, 9, 2, 4, 3, 0xe8]), mss);
    assert_eq!(TcpOptions::parse(&[1, 1, 1, 1, 2, 4, 3, 0xe8]), mss);
    // Known kinds with another length than theirs.
    assert_eq!(TcpOptions::parse(&[3, 4, 9, 9, 4, 3, 0, 8, 4, 0, 0, 2, 4, 3, 0xe8]), mss);
    assert_eq!(TcpOptions::parse(&[5, 9, 0, 0, 0, 0, 0, 0, 0, 2, 4, 3, 0xe8]), mss);
    for end in [&[0, 2, 4, 5, 0xb4][..], &[254, 0, 2, 4, 5, 0xb4], &[254, 1, 2, 4], &[254], &[254, 3]] {
        let bytes = [&[2, 4, 3, 0xe8], end].concat();
        assert_eq!(TcpOptions::parse(&bytes), mss, "{bytes:?}");
    }
}

/// RFC 9768 section 3.2.3, figures 6 and 7: order by kind, trailing fields left out, padding before it.
#[test]
fn accurate_ecn_options_have_two_orders_and_four_lengths() {
    let cases: [(bool, u8, &[u8]); 5] = [
        (false, 3, &[1, 172, 11, 0, 0, 5, 0x12, 0x34, 0x56, 0xff, 0xff, 0xff]),
        (true, 3, &[1, 174, 11, 0xff, 0xff, 0xff, 0x12, 0x34, 0x56, 0, 0, 5]),
        (false, 2, &[172, 8, 0, 0, 5, 0x12, 0x34, 0x56]),
        (true, 1, &[1, 1, 1, 174, 5, 0xff, 0xff, 0xff]),
        (false, 0, &[1, 1, 172, 2]),
    ];
    for (ect1_first, count, wire) in cases {
        let bytes = EcnBytes::new(ect1_first, 5, 0x12_3456, 0xffff_ffff, count);
        let options = TcpOptions { ecn_bytes: Some(bytes), ..TcpOptions::default() };
        let mut buffer = [0; 40];
        let len = options.emit(&mut buffer);
        assert_eq!((&buffer[..len], options.len()), (wire, len));
        let read = TcpOptions::parse(&buffer[..len]);
        assert_eq!(read, options);
        let read = read.ecn_bytes.unwrap();
        let (first, last) = if ect1_first { (read.ect1(), read.ect0()) } else { (read.ect0(), read.ect1()) };
        assert_eq!((first.is_some(), read.ce().is_some(), last.is_some()), (count > 0, count > 1, count > 2));
    }
    // Of another length, the whole fields that fit.
    let odd: [(&[u8], u8); 3] =
        [(&[172, 3, 9], 0), (&[172, 6, 0, 0, 7, 9], 1), (&[172, 14, 0, 0, 7, 0, 0, 8, 0, 0, 9, 1, 1, 1], 3)];
    for (wire, count) in odd {
        assert_eq!(TcpOptions::parse(wire).ecn_bytes, Some(EcnBytes::new(false, 7, 8, 9, count)), "{wire:?}");
    }
}

#[test]
fn accurate_ecn_options_give_way_to_sack() {
    let mut sack = SackBlocks::default();
    for at in [10, 20, 30] {
        sack.push(SackBlock { start: SeqNumber(at), end: SeqNumber(at + 5) });
    }
    let ecn_bytes = Some(EcnBytes::new(false, 1, 0, 1, 3));
    let full = TcpOptions { timestamps: Some(Timestamps::default()), sack, ecn_bytes, ..TcpOptions::default() };
    let mut buffer = [0; 40];
    let len = full.emit(&mut buffer);
    let read = TcpOptions::parse(&buffer[..len]);
    assert_eq!((len, full.len(), read.sack, read.ecn_bytes), (40, 40, sack, None));
}
