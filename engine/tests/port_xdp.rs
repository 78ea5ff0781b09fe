//! The AF_XDP port against the kernel over a veth pair. With the feature `xsk-rs` the same tests run on the port that
//! is built on that crate, and the two ports talk to each other.

mod port_support;

use persona_engine::port::Port;
use persona_engine::port::error::PortError;
use persona_engine::port::xdp::{Params, XdpPort};
use port_support::exchange;
use port_support::program::{Attach, Redirect};
use port_support::*;
use std::os::fd::BorrowedFd;

/// What the tests need of either implementation.
trait AfXdp: Port + Sized {
    fn open(params: &Params) -> Result<Self, PortError>;
    fn socket(&self) -> BorrowedFd<'_>;
    fn outstanding(&self) -> u32;
}

macro_rules! implement {
    ($port:ty) => {
        impl AfXdp for $port {
            fn open(params: &Params) -> Result<Self, PortError> {
                <$port>::open(params)
            }

            fn socket(&self) -> BorrowedFd<'_> {
                <$port>::socket(self)
            }

            fn outstanding(&self) -> u32 {
                <$port>::outstanding(self)
            }
        }
    };
}

implement!(XdpPort);
#[cfg(feature = "xsk-rs")]
implement!(persona_engine::port::xsk_rs::XskRsPort);

/// Makes a test of each named function for each implementation.
macro_rules! for_each_port {
    ($($test:ident),* $(,)?) => {
        mod own {
            $(#[test]
            fn $test() {
                super::$test::<super::XdpPort>();
            })*
        }

        #[cfg(feature = "xsk-rs")]
        mod xsk_rs {
            $(#[test]
            fn $test() {
                super::$test::<persona_engine::port::xsk_rs::XskRsPort>();
            })*
        }
    };
}

for_each_port!(
    frames_of_each_size_pass_in_driver_and_generic_mode,
    jumbo_frames_pass_in_several_buffers,
    icmp_and_udp_pass_with_complete_and_partial_checksums,
    super_segments_are_cut_and_summed,
    the_kernels_tcp_gets_and_gives_every_byte,
    frames_lost_for_want_of_room_are_counted,
    each_queue_has_a_port_of_its_own,
);

fn open<P: AfXdp>(params: &Params, mode: Attach) -> (P, Redirect) {
    let program = Redirect::attach(&params.interface, mode);
    let port = P::open(params).unwrap_or_else(|error| panic!("{error}"));
    program.insert(params.queue, port.socket());
    (port, program)
}

/// No frame leaked: every transmit frame comes back.
fn all_frames_return(port: &mut impl AfXdp) {
    let end = std::time::Instant::now() + PATIENCE;
    while port.outstanding() > 0 {
        assert!(std::time::Instant::now() < end, "{} frames never came back", port.outstanding());
        port.flush().unwrap();
        std::thread::yield_now();
    }
}

fn frames_of_each_size_pass_in_driver_and_generic_mode<P: AfXdp>() {
    for mode in [Attach::Driver, Attach::Generic] {
        in_namespace(move || {
            veth(1500, 1, true);
            let (mut port, _program) = open::<P>(&Params::new("ours", 0), mode);
            exchange::carries_frames_of_each_size(&mut port, "peer", &[60, 61, 64, 128, 590, 1024, 1513, 1514]);
            all_frames_return(&mut port);
        });
    }
}

fn jumbo_frames_pass_in_several_buffers<P: AfXdp>() {
    in_namespace(|| {
        veth(9000, 1, true);
        let (mut port, _program) = open::<P>(&Params::new("ours", 0), Attach::Driver);
        assert!(port.describe().contains("multi-buffer"), "{}", port.describe());
        exchange::carries_frames_of_each_size(&mut port, "peer", &[60, 3839, 3840, 3841, 4081, 8000, 9014]);
        all_frames_return(&mut port);
    });
}

fn icmp_and_udp_pass_with_complete_and_partial_checksums<P: AfXdp>() {
    for offloads in [true, false] {
        in_namespace(move || {
            veth(1500, 1, offloads);
            let (mut port, _program) = open::<P>(&Params::new("ours", 0), Attach::Driver);
            exchange::speaks_icmp_and_udp(&mut port);
            all_frames_return(&mut port);
        });
    }
}

fn super_segments_are_cut_and_summed<P: AfXdp>() {
    for (mtu, checksum_offload) in [(1500, true), (1500, false), (9000, true), (9000, false)] {
        in_namespace(move || {
            veth(mtu, 1, true);
            let params = Params { checksum_offload, ..Params::new("ours", 0) };
            let (mut port, _program) = open::<P>(&params, Attach::Driver);
            let mss = mtu as u16 - 40;
            exchange::super_segments_arrive_as_one_stream(&mut port, "peer", mss, &[65_000]);
            exchange::super_segments_arrive_as_one_stream(&mut port, "peer", mss, &[usize::from(mss) + 1]);
            all_frames_return(&mut port);
        });
    }
}

fn the_kernels_tcp_gets_and_gives_every_byte<P: AfXdp>() {
    for (mtu, offloads) in [(1500, true), (1500, false), (9000, true), (9000, false)] {
        in_namespace(move || {
            veth(mtu, 1, offloads);
            let (mut port, _program) = open::<P>(&Params::new("ours", 0), Attach::Driver);
            let mss = mtu as u16 - 40;
            let seen = exchange::transfers_with_the_kernels_tcp(&mut port, mss, 4 << 20);
            // One complete checksum in 65,536 is the pseudo header's sum by chance, and looks as if it were partial.
            let by_chance = 8;
            assert_eq!(seen.partial > by_chance, offloads, "{} partial checksums", seen.partial);
            assert!(seen.merged > 0 && seen.longest > usize::from(mss), "trains are merged");
            all_frames_return(&mut port);
        });
    }
}

fn frames_lost_for_want_of_room_are_counted<P: AfXdp>() {
    in_namespace(|| {
        veth(1500, 1, true);
        let params = Params { rx_frames: 64, ..Params::new("ours", 0) };
        let (mut port, _program) = open::<P>(&params, Attach::Driver);
        exchange::counts_what_it_could_not_receive(&mut port, "peer", 300);
    });
}

fn each_queue_has_a_port_of_its_own<P: AfXdp>() {
    in_namespace(|| {
        veth(1500, 2, true);
        let (first, program) = open::<P>(&Params::new("ours", 0), Attach::Driver);
        let second = P::open(&Params::new("ours", 1)).unwrap();
        program.insert(1, second.socket());
        for mut port in [first, second] {
            let before = port.counters().tx_frames;
            exchange::transmit(&mut port, &raw_frame(99, 7, true));
            assert_eq!(port.counters().tx_frames, before + 1);
            all_frames_return(&mut port);
        }
    });
}

#[test]
fn a_successor_goes_on_where_the_port_stopped() {
    in_namespace(|| {
        veth(1500, 1, true);
        let params = Params { tx_frames: 64, rx_frames: 64, ..Params::new("ours", 0) };
        let (mut port, _program) = open::<XdpPort>(&params, Attach::Driver);
        exchange::carries_frames_of_each_size(&mut port, "peer", &[60, 1514]);
        // Leave a frame unread, then go without a word, as a killed process does.
        PacketSocket::open("peer").send(&raw_frame(777, 1, false));
        let descriptors: Vec<_> = port.descriptors().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        std::mem::forget(port);
        let [socket, memfd] = descriptors.try_into().unwrap();
        let mut port = XdpPort::reopen(&params, socket, memfd).unwrap();
        let unread = exchange::expect(&mut port, |frame| frame[12..14] == [0x88, 0xb5]);
        assert_eq!(unread.frame, raw_frame(777, 1, false));
        // More than all frames of either kind, so that a lost one would be missed.
        for _round in 0..5 {
            exchange::carries_frames_of_each_size(&mut port, "peer", &[60, 100, 200, 300, 400, 500, 600, 1514]);
        }
        exchange::super_segments_arrive_as_one_stream(&mut port, "peer", 1460, &[60 * 1460]);
        all_frames_return(&mut port);
    });
}

#[test]
fn what_cannot_be_opened_is_said_in_a_sentence() {
    in_namespace(|| {
        veth(1500, 1, true);
        let error = |params: Params| XdpPort::open(&params).err().expect("an error").to_string();
        let missing = error(Params::new("nosuch0", 0));
        assert_eq!(missing, "there is no interface nosuch0: create it or correct the name");
        assert!(error(Params::new("ours", 9)).starts_with("interface ours has no queue 9"));
        let frames = error(Params { rx_frames: 100, ..Params::new("ours", 0) });
        assert!(frames.contains("receive frames of ours: 100 is not valid"), "{frames}");
        let taken = XdpPort::open(&Params::new("ours", 0)).unwrap();
        assert!(error(Params::new("ours", 0)).contains("is taken by another AF_XDP socket"));
        drop(taken);
        assert!(error(Params::new("lo", 0)).contains("no Ethernet header"));
        ip("link set ours down");
        assert_eq!(error(Params::new("ours", 0)), "interface ours is down: bring it up with `ip link set ours up`");
    });
}

#[cfg(feature = "xsk-rs")]
#[test]
fn our_rings_and_those_of_xsk_rs_understand_each_other() {
    use persona_engine::port::xsk_rs::XskRsPort;
    for mtu in [1500, 9000] {
        in_namespace(move || {
            veth(mtu, 1, true);
            // Checksums in software: a frame that no kernel touches again has to be complete.
            let params = Params { checksum_offload: false, merge: false, ..Params::new("ours", 0) };
            let (mut own, _program) = open::<XdpPort>(&params, Attach::Driver);
            let (mut other, _other) =
                open::<XskRsPort>(&Params { merge: false, ..Params::new("peer", 0) }, Attach::Driver);
            for size in [60, 1000, mtu as usize + 14] {
                let frame = raw_frame(size, 1, true);
                exchange::transmit(&mut own, &frame);
                assert!(exchange::expect(&mut other, |seen| seen[12..14] == [0x88, 0xb5]).frame == frame, "{size}");
                let frame = raw_frame(size, 2, false);
                exchange::transmit(&mut other, &frame);
                assert!(exchange::expect(&mut own, |seen| seen[12..14] == [0x88, 0xb5]).frame == frame, "{size}");
            }
            all_frames_return(&mut own);
            all_frames_return(&mut other);
        });
    }
}

#[test]
fn the_description_tells_what_was_chosen() {
    for (mode, program) in [(Attach::Driver, "program in the driver"), (Attach::Generic, "generic program")] {
        in_namespace(move || {
            veth(1500, 1, true);
            let (port, _program) = open::<XdpPort>(&Params::new("ours", 0), mode);
            let text = port.describe();
            assert!(text.starts_with("AF_XDP on ours queue 0: copying (zero-copy: "), "{text}");
            assert!(text.contains(program), "{text}");
            assert!(text.contains("single buffer"), "{text}");
        });
    }
}
