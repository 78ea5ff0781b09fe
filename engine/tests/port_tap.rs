//! The tap and macvtap port against the kernel, with and without virtio headers.

mod port_support;

use persona_engine::port::Port;
use persona_engine::port::tap::{Params, Place, TapPort};
use port_support::exchange;
use port_support::*;
use std::ffi::CString;
use std::path::Path;

fn open(params: &Params) -> TapPort {
    TapPort::open(params).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a test on a tap, whose other end is the interface itself, and on a macvtap on one end of a veth pair.
fn each_kind(mtu: u32, test: impl Fn(&mut TapPort, bool) + Send + Copy + 'static) {
    for bits in 0..4 {
        let vnet = bits & 1 != 0;
        in_namespace(move || {
            if bits & 2 != 0 {
                let params = Params { vnet, ..Params::tap("peer") };
                ip("tuntap add dev peer mode tap");
                prepare_peer("peer", "peer", true);
                ip(&format!("link set peer mtu {mtu}"));
                let mut port = open(&params);
                wait_until_up(&["peer"]);
                test(&mut port, vnet);
            } else {
                let directory = tempfile::tempdir().unwrap();
                let params = Params { vnet, ..Params::macvtap(&macvtap(mtu, directory.path())) };
                let mut port = open(&params);
                test(&mut port, vnet);
            }
        });
    }
}

/// A macvtap on our end of a veth pair; returns its device node, made in `directory`.
fn macvtap(mtu: u32, directory: &Path) -> String {
    veth(mtu, 1, true);
    ip("link set ours address 02:91:00:00:00:77");
    ip("link add link ours name mv0 address 02:91:00:00:00:02 type macvtap mode bridge");
    std::fs::write("/proc/sys/net/ipv6/conf/mv0/disable_ipv6", "1").unwrap();
    ip("link set mv0 up");
    // sysfs shows the namespace in which it was mounted: mount one of our own, unseen by others.
    let sysfs = directory.join("sys");
    std::fs::create_dir(&sysfs).unwrap();
    // SAFETY: affects this thread only.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    run("mount", "--make-rprivate /");
    run("mount", &format!("-t sysfs none {}", sysfs.display()));
    let index = std::fs::read_to_string(sysfs.join("class/net/mv0/ifindex")).unwrap();
    let name = format!("tap{}", index.trim());
    let number = std::fs::read_to_string(sysfs.join("class/net/mv0/macvtap").join(&name).join("dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let node = directory.join(name).display().to_string();
    let path = CString::new(node.as_str()).unwrap();
    let device = libc::makedev(major.parse().unwrap(), minor.parse().unwrap());
    // SAFETY: a C string and numbers.
    assert_eq!(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, device) }, 0);
    run("umount", &sysfs.display().to_string());
    node
}

#[test]
fn frames_of_each_size_pass() {
    each_kind(9000, |port, vnet| {
        assert_eq!(port.describe().contains("IFF_VNET_HDR"), vnet, "{}", port.describe());
        exchange::carries_frames_of_each_size(port, "peer", &[60, 61, 64, 590, 1514, 4096, 9014]);
    });
}

#[test]
fn icmp_and_udp_pass() {
    each_kind(1500, |port, _| exchange::speaks_icmp_and_udp(port));
}

#[test]
fn super_segments_leave_in_order_and_summed() {
    each_kind(1500, |port, _| {
        exchange::super_segments_arrive_as_one_stream(port, "peer", 1460, &[65_000]);
        exchange::super_segments_arrive_as_one_stream(port, "peer", 1460, &[1461]);
    });
}

#[test]
fn payload_in_very_many_pieces_is_gathered() {
    each_kind(1500, |port, _| {
        let socket = PacketSocket::open("peer");
        let frame = raw_frame(1514, 5, true);
        let (header, rest) = frame.split_at(14);
        let payload: Vec<_> =
            rest.chunks(13).map(|part| persona_engine::port::Piece { start: part.as_ptr(), len: part.len() }).collect();
        let checksum = persona_stack::TxChecksum::Complete;
        port.transmit(&persona_engine::port::TxFrame { header, payload: &payload, checksum, gso: None }).unwrap();
        socket.expect(|seen| seen == frame);
    });
}

#[test]
fn the_kernels_tcp_gets_and_gives_every_byte() {
    for mtu in [1500, 9000] {
        each_kind(mtu, move |port, vnet| {
            let mss = mtu as u16 - 40;
            let seen = exchange::transfers_with_the_kernels_tcp(port, mss, 4 << 20);
            assert_eq!(seen.partial > 0, vnet, "partial checksums");
            assert!(seen.longest > usize::from(mss), "trains arrive whole");
        });
    }
}

#[test]
fn each_port_on_a_multi_queue_tap_is_one_queue() {
    in_namespace(|| {
        ip("tuntap add dev peer mode tap multi_queue");
        prepare_peer("peer", "peer", true);
        let params = Params { multi_queue: true, ..Params::tap("peer") };
        let mut ports = [open(&params), open(&params)];
        wait_until_up(&["peer"]);
        let socket = PacketSocket::open("peer");
        for (seed, port) in ports.iter_mut().enumerate() {
            exchange::transmit(port, &raw_frame(99, seed as u8, true));
            socket.expect(|frame| frame == raw_frame(99, seed as u8, true));
        }
    });
}

#[test]
fn what_cannot_be_opened_is_said_in_a_sentence() {
    in_namespace(|| {
        let error = |params: &Params| TapPort::open(params).err().expect("an error").to_string();
        let missing = error(&Params::tap("nosuch0"));
        assert_eq!(missing, "there is no interface nosuch0: create it or correct the name");
        let missing = error(&Params::macvtap("/dev/tap99999"));
        assert!(
            missing.starts_with("/dev/tap99999 cannot be used as a tap device: there is no such device"),
            "{missing}"
        );
        let other = error(&Params::macvtap("/dev/null"));
        assert!(other.starts_with("/dev/null cannot be used as a tap device: it is another kind"), "{other}");
        ip("tuntap add dev peer mode tap");
        assert_eq!(error(&Params::tap("peer")), "interface peer is down: bring it up with `ip link set peer up`");
        ip("link set peer up");
        let taken = open(&Params::tap("peer"));
        assert_eq!(
            error(&Params::tap("peer")),
            "peer is attached to another program: stop it or use another interface"
        );
        drop(taken);
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        assert!(error(&Params::tap("v0")).starts_with("v0 cannot be used as a tap: it is not a tap interface"));
        let made = Params { place: Place::Tap { name: "made0".to_owned(), create: true }, ..Params::tap("") };
        let port = open(&made);
        assert_eq!(port.interface(), "made0");
        ip("link show made0");
    });
}

#[test]
fn a_device_that_went_away_is_reported_by_flush() {
    in_namespace(|| {
        ip("tuntap add dev peer mode tap");
        prepare_peer("peer", "peer", true);
        let mut port = open(&Params::tap("peer"));
        ip("link del peer");
        let frame = raw_frame(99, 1, true);
        let frame = persona_engine::port::TxFrame {
            header: &frame,
            payload: &[],
            checksum: persona_stack::TxChecksum::Complete,
            gso: None,
        };
        port.transmit(&frame).unwrap();
        assert!(port.flush().is_err());
        assert_eq!(port.counters().tx_dropped, 1);
    });
}
