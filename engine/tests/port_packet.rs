//! The packet_mmap port against the kernel over a veth pair, in blocks and in slots, with and without virtio headers.

mod port_support;

use persona_engine::port::Port;
use persona_engine::port::packet::{PacketPort, Params};
use port_support::exchange;
use port_support::*;

fn open(params: &Params) -> PacketPort {
    PacketPort::open(params).unwrap_or_else(|error| panic!("{error}"))
}

/// All combinations of ring and offload.
fn each_kind(test: impl Fn(Params) + Send + Copy + 'static) {
    for bits in 0..4 {
        let params = move || if bits & 1 != 0 { Params::blocks("ours") } else { Params::slots("ours") };
        in_namespace(move || test(Params { vnet: bits & 2 != 0, ..params() }));
    }
}

/// No slot leaked: everything leaves.
fn all_slots_return(port: &mut PacketPort) {
    let end = std::time::Instant::now() + PATIENCE;
    while port.outstanding() > 0 {
        assert!(std::time::Instant::now() < end, "{} slots never came back", port.outstanding());
        port.flush().unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn frames_of_each_size_pass() {
    each_kind(|params| {
        veth(9000, 1, true);
        let mut port = open(&params);
        exchange::carries_frames_of_each_size(&mut port, "peer", &[60, 61, 64, 590, 1514, 4096, 9014]);
        all_slots_return(&mut port);
    });
}

#[test]
fn icmp_and_udp_pass_with_complete_and_partial_checksums() {
    each_kind(|params| {
        veth(1500, 1, params.blocks);
        let mut port = open(&params);
        exchange::speaks_icmp_and_udp(&mut port);
        all_slots_return(&mut port);
    });
}

#[test]
fn super_segments_leave_in_order_and_summed() {
    each_kind(|params| {
        veth(1500, 1, true);
        for qdisc_bypass in [true, false] {
            let params = Params { qdisc_bypass, filter: None, interface: params.interface.clone(), ..params };
            let mut port = open(&params);
            exchange::super_segments_arrive_as_one_stream(&mut port, "peer", 1460, &[65_000]);
            exchange::super_segments_arrive_as_one_stream(&mut port, "peer", 1460, &[1461]);
            // Some of them past the ring.
            let mixed = [700, 40_000, 1_461, 300, 65_000, 16_384, 800];
            exchange::super_segments_arrive_as_one_stream(&mut port, "peer", 1460, &mixed);
            all_slots_return(&mut port);
        }
    });
}

#[test]
fn the_kernels_tcp_gets_and_gives_every_byte() {
    for (mtu, offloads) in [(1500, true), (1500, false), (9000, true)] {
        each_kind(move |params| {
            veth(mtu, 1, offloads);
            let mut port = open(&params);
            let mss = mtu as u16 - 40;
            let seen = exchange::transfers_with_the_kernels_tcp(&mut port, mss, 4 << 20);
            assert_eq!(seen.partial > 0, offloads, "partial checksums");
            assert!(seen.longest > usize::from(mss), "trains arrive whole");
            all_slots_return(&mut port);
        });
    }
}

#[test]
fn frames_lost_for_want_of_room_are_counted() {
    each_kind(|params| {
        veth(1500, 1, true);
        let params = Params { rx_bytes: 1 << 20, ..params };
        let mut port = open(&params);
        exchange::counts_what_it_could_not_receive(&mut port, "peer", 2000);
    });
}

#[test]
fn a_vlan_tag_that_the_kernel_took_out_is_put_back() {
    each_kind(|params| {
        veth(1500, 1, true);
        let mut port = open(&params);
        let mut frame = raw_frame(200, 3, false);
        frame.splice(12..12, [0x81, 0, 0x60, 5]);
        PacketSocket::open("peer").send(&frame);
        let arrived = exchange::expect(&mut port, |frame| frame[12..14] == [0x81, 0]);
        assert_eq!(arrived.frame, frame);
    });
}

#[test]
fn a_filter_is_in_force_from_the_first_frame() {
    each_kind(|params| {
        veth(1500, 1, true);
        let params = Params { filter: Some(program::refuse_all()), ..params };
        let mut port = open(&params);
        let socket = PacketSocket::open("peer");
        (0..50).for_each(|seed| socket.send(&raw_frame(100, seed, false)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(port.receive(100, &mut |_| panic!("a frame passed the filter")), 0);
        // Sending is not filtered.
        exchange::transmit(&mut port, &raw_frame(100, 9, true));
        socket.expect(|frame| frame == raw_frame(100, 9, true));
    });
}

#[test]
fn what_cannot_be_opened_is_said_in_a_sentence() {
    in_namespace(|| {
        veth(1500, 1, true);
        let error = |params: &Params| PacketPort::open(params).err().expect("an error").to_string();
        let missing = error(&Params::blocks("nosuch0"));
        assert_eq!(missing, "there is no interface nosuch0: create it or correct the name");
        let size = error(&Params { block_bytes: 5000, ..Params::blocks("ours") });
        assert!(size.starts_with("block size of ours: 5000 is not valid"), "{size}");
        let size = error(&Params { tx_bytes: 5, ..Params::blocks("ours") });
        assert!(size.starts_with("transmit ring of ours: 5 is not valid"), "{size}");
        ip("link set ours down");
        assert_eq!(error(&Params::blocks("ours")), "interface ours is down: bring it up with `ip link set ours up`");
    });
}
