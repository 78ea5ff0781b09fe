//! Every branch of the programs: what is diverted, refused, held and passed, and that nothing is changed.

mod common;

use common::frames::*;
use common::*;
use persona_ebpf::{AddressMode, Hold, Program, Reason};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[test]
fn a_connected_flow_is_diverted_in_both_families() {
    let mut bench = Bench::with_flow();
    bench.expect("v4", &Ipv4::default().frame(&segment()), Reason::DivertedFlow);
    bench.expect("v6", &ipv6(TCP, &segment()), Reason::DivertedFlow);

    let flows = bench.maps.flows().unwrap();
    assert_eq!(flows.len(), 2);
    for flow in flows {
        // Two XDP programs and tc; the socket filter does not count.
        assert_eq!(flow.hits, 3, "{:?}", flow.key);
        assert_eq!(flow.value, u32::from(flow.key == flow6()));
    }
}

#[test]
fn each_part_of_the_tuple_counts() {
    let mut bench = Bench::with_flow();
    let other = Ipv4Addr::new(10, 9, 0, 9);
    let other6 = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);
    for (what, frame) in [
        ("remote address", Ipv4 { source: other, ..Default::default() }.frame(&segment())),
        ("local address", Ipv4 { destination: other, ..Default::default() }.frame(&segment())),
        ("remote port", Ipv4::default().frame(&tcp(PEER_PORT + 1, US_PORT, 0))),
        ("local port", Ipv4::default().frame(&tcp(PEER_PORT, US_PORT + 1, 0))),
        (
            "direction",
            Ipv4 { source: US4, destination: PEER4, ..Default::default() }.frame(&tcp(US_PORT, PEER_PORT, 0)),
        ),
        ("protocol", Ipv4 { protocol: UDP, ..Default::default() }.frame(&segment())),
        ("remote address v6", ethernet(IPV6, &ipv6_packet(other6, US6, TCP, &segment()))),
        ("local address v6", ethernet(IPV6, &ipv6_packet(PEER6, other6, TCP, &segment()))),
        ("protocol v6", ipv6(UDP, &segment())),
    ] {
        bench.expect(what, &frame, Reason::Passed);
    }
}

#[test]
fn options_extension_headers_and_tags_do_not_hide_a_flow() {
    let mut bench = Bench::with_flow();
    let plain = Ipv4::default().frame(&segment());
    let plain6 = ipv6(TCP, &segment());
    for length in (4..=40).step_by(4) {
        let options = vec![1; length];
        let frame = Ipv4 { options: &options, ..Default::default() }.frame(&segment());
        bench.expect(&format!("{length} bytes of options"), &frame, Reason::DivertedFlow);
    }
    for (what, frame) in [
        ("802.1Q", tagged(VLAN, &plain)),
        ("802.1ad", tagged(QINQ, &plain)),
        ("two tags", tagged(QINQ, &tagged(VLAN, &plain))),
        ("802.1Q v6", tagged(VLAN, &plain6)),
        ("two tags v6", tagged(QINQ, &tagged(VLAN, &plain6))),
        ("padding", concat(&[&plain, &[0; 40]])),
        ("hop-by-hop", ipv6(0, &concat(&[&extension(TCP, 0), &segment()]))),
        ("destination options", ipv6(60, &concat(&[&extension(TCP, 3), &segment()]))),
        ("authentication", ipv6(51, &concat(&[&[TCP, 4], &[0; 22], &segment()]))),
        (
            "hop-by-hop, routing, destination",
            ipv6(0, &concat(&[&extension(43, 0), &extension(60, 2), &extension(TCP, 1), &segment()])),
        ),
        ("a fragment that is the whole packet", ipv6(44, &concat(&[&fragment(TCP, 0), &segment()]))),
    ] {
        bench.expect(what, &frame, Reason::DivertedFlow);
    }
    bench.expect("three tags", &tagged(QINQ, &tagged(VLAN, &tagged(VLAN, &plain))), Reason::Passed);
}

#[test]
fn another_vlan_is_another_interface() {
    let plain = Ipv4::default().frame(&segment());
    let in_7 = tagged_with(VLAN, 0x6007, &plain);
    let in_7_of_9 = tagged_with(QINQ, 9, &in_7);
    let in_7_alone = tagged(QINQ, &in_7);
    let in_8 = tagged_with(VLAN, 8, &plain);

    let mut untagged = Bench::with_flow();
    let mut tagged = Bench::for_vlan(7);
    tagged.maps.insert_flow(flow4(), 0).unwrap();
    for (what, frame, ours_untagged, ours_tagged) in [
        ("no tag", &plain, true, false),
        ("vlan 7", &in_7, false, true),
        ("vlan 7 in 9", &in_7_of_9, false, true),
        ("vlan 7 under a priority tag", &in_7_alone, false, true),
        ("vlan 8", &in_8, false, false),
    ] {
        for (bench, ours) in [(&mut untagged, ours_untagged), (&mut tagged, ours_tagged)] {
            bench.expect(what, frame, if ours { Reason::DivertedFlow } else { Reason::Passed });
        }
    }
}

#[test]
fn extension_headers_are_walked_so_far_and_no_further() {
    let mut bench = Bench::with_flow();
    let chain = |headers: usize| {
        let mut payload = Vec::new();
        for left in (0..headers).rev() {
            payload.extend(extension(if left == 0 { TCP } else { 60 }, 0));
        }
        payload.extend(segment());
        ipv6(60, &payload)
    };
    bench.expect("8 headers", &chain(8), Reason::DivertedFlow);
    bench.expect("9 headers", &chain(9), Reason::PassedMalformed);
    let far = ipv6(60, &concat(&[&extension(TCP, 200), &segment()]));
    bench.expect("beyond the bytes that are looked at", &far, Reason::PassedTruncated);
}

#[test]
fn a_listener_matches_its_address_and_port() {
    let mut bench = Bench::new();
    bench.maps.insert_listener(listener(US4, 80)).unwrap();
    bench.maps.insert_listener(listener(US6, 80)).unwrap();
    bench.expect("v4", &Ipv4::default().frame(&tcp(5555, 80, 0)), Reason::DivertedListener);
    bench.expect("v6", &ipv6(TCP, &tcp(5555, 80, 0)), Reason::DivertedListener);
    bench.expect("other port", &Ipv4::default().frame(&tcp(5555, 81, 0)), Reason::Passed);
    let elsewhere = Ipv4 { destination: Ipv4Addr::new(10, 9, 0, 3), ..Default::default() };
    bench.expect("other address", &elsewhere.frame(&tcp(5555, 80, 0)), Reason::Passed);
    assert!(bench.maps.listeners().unwrap().iter().all(|entry| entry.hits == 3));
}

#[test]
fn a_wildcard_listener_means_the_addresses_of_this_host() {
    let mut bench = Bench::with_addresses(AddressMode::Shared);
    bench.maps.insert_listener(listener(Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    bench.expect("v4", &Ipv4::default().frame(&tcp(5555, 80, 0)), Reason::DivertedListener);
    bench.expect("the other family", &ipv6(TCP, &tcp(5555, 80, 0)), Reason::Passed);
    let forwarded = Ipv4 { destination: Ipv4Addr::new(192, 0, 2, 1), ..Default::default() };
    bench.expect("to another host", &forwarded.frame(&tcp(5555, 80, 0)), Reason::Passed);

    bench.maps.insert_listener(listener(Ipv6Addr::UNSPECIFIED, 80)).unwrap();
    bench.expect("v6", &ipv6(TCP, &tcp(5555, 80, 0)), Reason::DivertedListener);
}

#[test]
fn a_flow_comes_before_a_listener_and_a_listener_before_an_address() {
    let mut bench = Bench::with_addresses(AddressMode::Own);
    let frame = Ipv4::default().frame(&segment());
    bench.expect("address", &frame, Reason::DivertedAddress);
    bench.maps.insert_listener(listener(US4, US_PORT)).unwrap();
    bench.expect("listener", &frame, Reason::DivertedListener);
    bench.maps.insert_flow(flow4(), 0).unwrap();
    bench.expect("flow", &frame, Reason::DivertedFlow);

    assert!(bench.maps.remove_flow(flow4()).unwrap());
    assert!(!bench.maps.remove_flow(flow4()).unwrap());
    assert!(bench.maps.remove_listener(listener(US4, US_PORT)).unwrap());
    assert!(bench.maps.remove_address(US4.into()).unwrap());
    bench.expect("nothing left", &frame, Reason::Passed);
}

#[test]
fn everything_to_an_own_address_is_diverted() {
    let mut bench = Bench::with_addresses(AddressMode::Own);
    let short = Ipv4 { total_length: Some(30), ..Default::default() };
    for (what, frame) in [
        ("udp", Ipv4 { protocol: UDP, ..Default::default() }.frame(&[0; 30])),
        ("echo request", Ipv4 { protocol: ICMP, ..Default::default() }.frame(&icmp(8, &[0; 8]))),
        ("error of nobody's", Ipv4 { protocol: ICMP, ..Default::default() }.frame(&icmp_error(3))),
        ("first fragment", Ipv4 { fragment: 0x2000, ..Default::default() }.frame(&segment())),
        ("later fragment", Ipv4 { fragment: 0x00b9, ..Default::default() }.frame(&[0; 64])),
        ("unknown protocol", Ipv4 { protocol: 250, ..Default::default() }.frame(&[0; 4])),
        ("short TCP header", short.frame(&segment()[..10])),
        ("udp v6", ipv6(UDP, &[0; 30])),
        ("echo request v6", ipv6(ICMPV6, &icmp(128, &[0; 8]))),
        ("later fragment v6", ipv6(44, &concat(&[&fragment(TCP, 0x00b8), &[0; 64]]))),
        ("too many extension headers", ipv6(60, &extension(60, 0).repeat(9))),
    ] {
        bench.expect(what, &frame, Reason::DivertedAddress);
    }
    bench.expect("arp request", &ethernet(ARP, &arp(1, PEER4, US4)), Reason::DivertedNeighbour);
    bench.expect("arp reply", &ethernet(ARP, &arp(2, PEER4, US4)), Reason::DivertedNeighbour);
    bench.expect("tagged arp", &tagged(VLAN, &ethernet(ARP, &arp(1, PEER4, US4))), Reason::DivertedNeighbour);
    bench.expect("solicitation", &solicitation(US6), Reason::DivertedNeighbour);

    bench.expect("arp for another", &ethernet(ARP, &arp(1, US4, PEER4)), Reason::Passed);
    bench.expect("solicitation of another", &solicitation(PEER6), Reason::Passed);
    let advertisement = ipv6_packet(PEER6, "ff02::1".parse().unwrap(), ICMPV6, &icmp(134, &[0; 8]));
    bench.expect("router advertisement", &ethernet(IPV6, &advertisement), Reason::Passed);
    assert!(bench.maps.addresses().unwrap().iter().all(|entry| entry.hits > 0 && entry.value == AddressMode::Own));
}

#[test]
fn a_shared_address_keeps_what_is_not_tcp_of_ours() {
    let mut bench = Bench::with_addresses(AddressMode::Shared);
    bench.maps.insert_flow(flow4(), 0).unwrap();
    for (what, frame) in [
        ("arp", ethernet(ARP, &arp(1, PEER4, US4))),
        ("solicitation", solicitation(US6)),
        ("echo request", Ipv4 { protocol: ICMP, ..Default::default() }.frame(&icmp(8, &[0; 8]))),
        ("udp with the flow's ports", Ipv4 { protocol: UDP, ..Default::default() }.frame(&segment())),
        ("somebody else's segment", Ipv4::default().frame(&tcp(PEER_PORT, 22, 0))),
        ("somebody else's fragment", Ipv4 { fragment: 0x2000, ..Default::default() }.frame(&tcp(PEER_PORT, 22, 0))),
        ("later fragment", Ipv4 { fragment: 0x00b9, ..Default::default() }.frame(&segment())),
        ("redirect", Ipv4 { protocol: ICMP, ..Default::default() }.frame(&icmp_error(5))),
    ] {
        bench.expect(what, &frame, Reason::Passed);
    }
    bench.expect("the flow", &Ipv4::default().frame(&segment()), Reason::DivertedFlow);
    let modes: Vec<_> = bench.maps.addresses().unwrap().iter().map(|entry| entry.value).collect();
    assert_eq!(modes, [AddressMode::Shared; 2]);
}

#[test]
fn a_shared_flow_refuses_first_fragments() {
    let mut bench = Bench::with_addresses(AddressMode::Shared);
    bench.maps.insert_flow(flow4(), 0).unwrap();
    bench.maps.insert_listener(listener(US6, US_PORT)).unwrap();
    let first = Ipv4 { fragment: 0x2000, ..Default::default() };
    bench.expect("v4 flow", &first.frame(&segment()), Reason::DroppedFragment);
    let first6 = ipv6(44, &concat(&[&fragment(TCP, 1), &segment()]));
    bench.expect("v6 listener", &first6, Reason::DroppedFragment);
    bench.expect("v4 udp", &Ipv4 { protocol: UDP, ..first }.frame(&segment()), Reason::Passed);
    bench.expect("v4 ports cut off", &first.frame(&segment()[..2]), Reason::Passed);
}

#[test]
fn an_icmp_error_follows_the_packet_in_it() {
    let mut bench = Bench::with_flow();
    let error = Ipv4 { protocol: ICMP, source: Ipv4Addr::new(192, 0, 2, 254), ..Default::default() };
    for kind in [3, 11, 12] {
        bench.expect(&format!("type {kind}"), &error.frame(&icmp_error(kind)), Reason::DivertedIcmpError);
    }
    for kind in 1..=4 {
        bench.expect(&format!("v6 type {kind}"), &ipv6(ICMPV6, &icmpv6_error(kind)), Reason::DivertedIcmpError);
    }
    for kind in [0, 4, 5, 8, 13] {
        bench.expect(&format!("type {kind}"), &error.frame(&icmp_error(kind)), Reason::Passed);
    }

    // As a listener's, whose connections have no entries of their own.
    bench.maps.remove_flow(flow4()).unwrap();
    bench.expect("nobody's", &error.frame(&icmp_error(3)), Reason::Passed);
    bench.maps.insert_listener(listener(US4, US_PORT)).unwrap();
    bench.expect("a listener's", &error.frame(&icmp_error(3)), Reason::DivertedIcmpError);
}

#[test]
fn an_icmp_error_about_something_else_passes() {
    let mut bench = Bench::with_flow();
    let error = Ipv4 { protocol: ICMP, ..Default::default() };
    let sent = Ipv4 { source: US4, destination: PEER4, ..Default::default() };
    let ours = tcp(US_PORT, PEER_PORT, 0);
    for (what, embedded) in [
        ("received, not sent", Ipv4 { source: PEER4, destination: US4, ..sent }.packet(&segment())),
        ("udp", Ipv4 { protocol: UDP, ..sent }.packet(&ours)),
        ("later fragment", Ipv4 { fragment: 0x00b9, ..sent }.packet(&ours)),
        ("another flow", sent.packet(&tcp(US_PORT, PEER_PORT + 1, 0))),
        ("from another address", Ipv4 { source: Ipv4Addr::new(10, 9, 0, 9), ..sent }.packet(&ours)),
    ] {
        bench.expect(what, &error.frame(&icmp(3, &embedded)), Reason::Passed);
    }
    let options = Ipv4 { options: &[1; 12], ..sent };
    bench.expect("options in it", &error.frame(&icmp(3, &options.packet(&ours[..8]))), Reason::DivertedIcmpError);

    for (what, embedded, reason) in [
        ("version 5", Ipv4 { version_ihl: Some(0x55), ..sent }.packet(&ours), Reason::PassedMalformed),
        ("header of 16 bytes", Ipv4 { version_ihl: Some(0x44), ..sent }.packet(&ours), Reason::PassedMalformed),
        ("cut in the header", sent.packet(&[])[..19].to_vec(), Reason::PassedTruncated),
        ("cut in the ports", sent.packet(&ours[..3]), Reason::PassedTruncated),
    ] {
        bench.expect(what, &error.frame(&icmp(3, &embedded)), reason);
    }
    let embedded = ipv6_packet(US6, PEER6, TCP, &ours);
    let mut version4 = embedded.clone();
    version4[0] = 0x45;
    for (what, embedded, reason) in [
        ("v6 version 4", version4, Reason::PassedMalformed),
        ("v6 cut in the header", embedded[..39].to_vec(), Reason::PassedTruncated),
        ("v6 cut in the ports", embedded[..43].to_vec(), Reason::PassedTruncated),
        ("v6 udp", ipv6_packet(US6, PEER6, UDP, &ours), Reason::Passed),
        ("v6 received", ipv6_packet(PEER6, US6, TCP, &ours), Reason::Passed),
    ] {
        bench.expect(what, &ipv6(ICMPV6, &icmp(1, &embedded)), reason);
    }
}

#[test]
fn malformed_headers_pass() {
    let mut bench = Bench::with_flow();
    let v4 = Ipv4::default();
    let mut version4 = ipv6(TCP, &segment());
    version4[14] = 0x40;
    let mut short6 = ipv6(TCP, &segment());
    short6[18..20].copy_from_slice(&12u16.to_be_bytes());
    let mut token_ring = ethernet(ARP, &arp(1, PEER4, US4));
    token_ring[15] = 6;
    let mut long_address = ethernet(ARP, &arp(1, PEER4, US4));
    long_address[18] = 8;
    for (what, frame) in [
        ("version 6 in IPv4", Ipv4 { version_ihl: Some(0x65), ..v4 }.frame(&segment())),
        ("header of 16 bytes", Ipv4 { version_ihl: Some(0x44), ..v4 }.frame(&segment())),
        ("header of 0 bytes", Ipv4 { version_ihl: Some(0x40), ..v4 }.frame(&segment())),
        ("total length within the header", Ipv4 { total_length: Some(19), ..v4 }.frame(&segment())),
        ("total length within TCP", Ipv4 { total_length: Some(39), ..v4 }.frame(&segment())),
        ("version 4 in IPv6", version4),
        ("payload length within TCP", short6),
        ("arp of another hardware", token_ring),
        ("arp with long addresses", long_address),
    ] {
        bench.expect(what, &frame, Reason::PassedMalformed);
    }
}

#[test]
fn a_frame_cut_anywhere_passes_or_matches_and_never_breaks() {
    let mut bench = Bench::with_flow();
    // Behind a tag, because the kernel's test harness makes no skb of an IP packet with less than its header.
    let v4 = tagged(VLAN, &Ipv4::default().frame(&segment()));
    let v6 = tagged(VLAN, &ipv6(60, &concat(&[&extension(TCP, 0), &segment()])));
    let icmp = tagged(VLAN, &Ipv4 { protocol: ICMP, ..Default::default() }.frame(&icmp_error(3)));
    for (what, frame, ports_end, whole) in [
        ("v4", v4, 18 + 20 + 4, Reason::DivertedFlow),
        ("v6", v6, 18 + 40 + 8 + 4, Reason::DivertedFlow),
        ("icmp", icmp, 18 + 20 + 8 + 20 + 4, Reason::DivertedIcmpError),
    ] {
        for length in 15..frame.len() {
            let reason = if length < ports_end { Reason::PassedTruncated } else { whole };
            bench.expect(&format!("{what} cut at {length}"), &frame[..length], reason);
        }
    }
    let fragmented = tagged(VLAN, &ipv6(44, &concat(&[&fragment(TCP, 0), &segment()])));
    for (what, frame) in [
        ("arp", &ethernet(ARP, &arp(1, PEER4, US4))[..]),
        ("solicitation", &tagged(VLAN, &solicitation(US6))[..]),
        ("fragment header", &fragmented[..18 + 40 + 8]),
    ] {
        for length in 15..frame.len() {
            bench.expect(&format!("{what} cut at {length}"), &frame[..length], Reason::PassedTruncated);
        }
    }
    // Without the tag, down to the bare link header: an XDP frame at least.
    let untagged = Ipv4::default().frame(&segment());
    for program in [Program::Xdp, Program::XdpFrags] {
        for length in 14..38 {
            let before = bench.counters();
            assert_eq!(bench.run(program, &untagged[..length]).0, XDP_PASS, "{program:?} cut at {length}");
            assert_eq!(bench.counters().since(&before).frames(Reason::PassedTruncated), 1);
        }
    }
}

#[test]
fn other_link_protocols_pass() {
    let mut bench = Bench::with_addresses(AddressMode::Own);
    for ethertype in [0x88cc, 0x0026, 0x8847, 0x8864, 0] {
        let frame = ethernet(ethertype, &Ipv4::default().packet(&segment()));
        bench.expect(&format!("{ethertype:#06x}"), &frame, Reason::Passed);
    }
}

#[test]
fn without_an_engine_ours_is_dropped_until_the_deadline_and_then_passed() {
    let mut bench = Bench::with_flow();
    let ours = Ipv4::default().frame(&segment());
    let others = Ipv4::default().frame(&tcp(PEER_PORT, 22, 0));
    assert_eq!(bench.maps.hold().unwrap(), Hold::Run);

    bench.maps.hold_for(Duration::from_secs(3600)).unwrap();
    assert!(matches!(bench.maps.hold().unwrap(), Hold::Until(_)));
    bench.expect("held", &ours, Reason::DroppedHeld);
    bench.expect("others while held", &others, Reason::Passed);

    bench.maps.set_hold(Hold::Until(Duration::from_nanos(7))).unwrap();
    bench.expect("after the deadline", &ours, Reason::PassedReleased);
    bench.maps.set_hold(Hold::Pass).unwrap();
    assert_eq!(bench.maps.hold().unwrap(), Hold::Pass);
    bench.expect("passed", &ours, Reason::PassedReleased);
    bench.expect("others", &others, Reason::Passed);

    bench.maps.set_hold(Hold::Run).unwrap();
    bench.expect("again", &ours, Reason::DivertedFlow);
}

#[test]
fn frames_in_several_buffers_are_matched() {
    let mut bench = Bench::with_flow();
    let jumbo = Ipv4::default().frame(&tcp(PEER_PORT, US_PORT, 8_900));
    let before = bench.counters();
    let (action, after) = bench.run(Program::XdpFrags, &jumbo);
    assert_eq!(action, XDP_DROP);
    assert_eq!(after, jumbo);
    assert_eq!(bench.counters().since(&before).frames(Reason::DroppedNoSocket), 1);

    let others = Ipv4::default().frame(&tcp(PEER_PORT, 22, 8_900));
    let (action, after) = bench.run(Program::XdpFrags, &others);
    assert_eq!(action, XDP_PASS);
    assert_eq!(after, others);
}

#[test]
fn headers_that_reach_into_the_second_buffer_are_read() {
    let mut bench = Bench::with_flow();
    let ours = ipv6(60, &concat(&[&extension(TCP, 0), &segment()]));
    let others = ipv6(60, &concat(&[&extension(TCP, 0), &tcp(PEER_PORT, 22, 32)]));
    for linear in 14..ours.len() as u32 {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, linear, 0, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let (action, after) = bench.run_with(Program::XdpFrags, &ours, Some(&context));
        assert_eq!((action, after), (XDP_DROP, ours.clone()), "{linear} bytes in the first buffer");
        let (action, after) = bench.run_with(Program::XdpFrags, &others, Some(&context));
        assert_eq!((action, after), (XDP_PASS, others.clone()), "{linear} bytes in the first buffer");
    }
}
