//! The programs on a real interface: a veth pair in a namespace of the test's own. Needs root.

mod common;

use aya::programs::loaded_links;
use common::frames::*;
use common::*;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt};
use persona_ebpf::attach::{attach_socket_filter, detach_clsact, xdp_owner};
use persona_ebpf::{AddressMode, Error, Hold, Link, Object, Program, Reason, XdpMode};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

#[test]
fn a_link_attaches_in_the_driver_and_vanishes_with_its_descriptor() {
    in_namespace(|| {
        let mut object = Object::load(&sizes()).unwrap();
        let (link, mode) = object.attach_xdp("us", false).unwrap();
        assert_eq!(mode, XdpMode::Driver);
        drop(object);
        assert!(xdp_owner("us").unwrap().unwrap().contains("persona_xdp"));

        // As the keeper does: a second descriptor keeps it.
        let kept = Link::from_fd(link.as_fd().try_clone_to_owned().unwrap());
        drop(link);
        assert!(xdp_owner("us").unwrap().is_some());
        drop(kept);
        assert!(eventually(|| xdp_owner("us").unwrap().is_none()));
    });
}

#[test]
fn an_interface_without_driver_support_gets_the_generic_mode() {
    in_namespace(|| {
        ip("link add dull type ifb");
        let mut object = Object::load(&sizes()).unwrap();
        let (_link, mode) = object.attach_xdp("dull", false).unwrap();
        assert_eq!(mode, XdpMode::Generic);
    });
}

#[test]
fn a_program_that_is_there_is_an_error_that_names_it() {
    in_namespace(|| {
        let mut first = Object::load(&sizes()).unwrap();
        let (_link, _) = first.attach_xdp("us", true).unwrap();
        let mut second = Object::load(&sizes()).unwrap();
        let error = second.attach_xdp("us", false).unwrap_err();
        assert!(matches!(error, Error::XdpOccupied { .. }), "{error}");
        let sentence = error.to_string();
        assert!(sentence.contains("interface us already has") && sentence.contains("\"persona_xdp_fra"), "{sentence}");
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    in_namespace(|| {
        let mut object = Object::load(&sizes()).unwrap();
        let sentence = object.attach_xdp("nonesuch0", false).unwrap_err().to_string();
        assert!(sentence.contains("nonesuch0") && sentence.contains("No such device"), "{sentence}");
    });
}

#[test]
fn an_mtu_that_the_driver_refuses_is_named() {
    in_namespace(|| {
        ip("link set us mtu 9000");
        ip("link set peer mtu 9000");
        let mut object = Object::load(&sizes()).unwrap();
        let error = object.attach_xdp("us", false).unwrap_err();
        assert!(matches!(&error, Error::XdpMtu { mtu: 9000, .. }), "{error}");
        object.attach_xdp("us", true).unwrap();
    });
}

#[test]
fn a_frame_for_us_reaches_the_afxdp_socket_of_its_queue() {
    let mut bench = Bench::with_flow();
    let socket = xsk();
    bench.maps.set_xsk(0, socket.as_fd()).unwrap();
    let ours = Ipv4::default().frame(&segment());

    let before = bench.counters();
    for program in [Program::Xdp, Program::XdpFrags] {
        assert_eq!(bench.run(program, &ours), (XDP_REDIRECT, ours.clone()));
    }
    assert_eq!(bench.counters().since(&before).frames(Reason::DivertedFlow), 2);

    bench.maps.unset_xsk(0).unwrap();
    assert_eq!(bench.run(Program::Xdp, &ours).0, XDP_DROP);
    bench.maps.set_xsk(0, socket.as_fd()).unwrap();
    drop(socket);
    // The kernel takes the socket down after an RCU grace period.
    assert!(eventually(|| bench.run(Program::Xdp, &ours).0 == XDP_DROP), "the entry of a closed socket stays");
    let beyond = bench.maps.set_xsk(4, xsk().as_fd()).unwrap_err();
    assert!(matches!(beyond, Error::Full { max: 4, .. }), "{beyond}");
}

#[test]
fn with_xdp_attached_the_host_keeps_its_traffic_and_loses_ours() {
    in_namespace(|| {
        ip("addr add 10.9.0.2/24 dev us");
        let mut object = Object::load(&sizes()).unwrap();
        let (_link, _) = object.attach_xdp("us", false).unwrap();
        let maps = object.maps().unwrap();
        maps.insert_flow(flow4(), 0).unwrap();
        let host = host_socket();
        host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = packet_socket("peer");
        let before = maps.counters().unwrap();
        for frame in [Ipv4::default().frame(&segment()), for_host()] {
            send(sender.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        }
        let mut buffer = [0; 64];
        let length = host.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"host");
        let counted = maps.counters().unwrap().since(&before);
        assert_eq!(counted.frames(Reason::DroppedNoSocket), 1);
        assert!(host_saw_no_tcp());
    });
}

/// The ring has its copy, the host sees nothing, and frames of others go the other way.
#[test]
fn with_tcx_the_packet_socket_gets_ours_and_the_host_the_rest() {
    in_namespace(|| {
        let mut object = Object::load(&sizes()).unwrap();
        let link = object.attach_tcx("us").unwrap().expect("this kernel has tcx");
        packet_road(&mut object);
        drop(link);
        // Links of other tests' namespaces are there, too; ours was to this object's program.
        let program = object.aya().program(Program::Tc.name()).unwrap().info().unwrap().id();
        let left = || loaded_links().filter_map(Result::ok).any(|link| link.program_id() == program);
        assert!(eventually(|| !left()));
    });
}

/// The host's socket. A command that another test's thread has just forked may hold the last one for a moment.
fn host_socket() -> UdpSocket {
    for _ in 0..500 {
        if let Ok(socket) = UdpSocket::bind("10.9.0.2:9") {
            return socket;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    UdpSocket::bind("10.9.0.2:9").unwrap()
}

#[test]
fn with_clsact_the_filter_is_inert_once_its_keeper_is_gone() {
    in_namespace(|| {
        let mut object = Object::load(&sizes()).unwrap();
        let filter = object.attach_clsact("us").unwrap();
        packet_road(&mut object);

        // The keeper dies: the filter is still there and does nothing.
        let maps = object.maps().unwrap();
        drop(filter.alive);
        maps.insert_address(US4.into(), AddressMode::Own).unwrap();
        let host = host_socket();
        host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let sender = packet_socket("peer");
        let mut arrives = || {
            send(sender.as_raw_fd(), &for_host(), MsgFlags::empty()).unwrap();
            host.recv(&mut [0; 64]).is_ok()
        };
        assert!(eventually(&mut arrives));
        let counted = maps.counters().unwrap();
        assert!(eventually(&mut arrives));
        assert_eq!(maps.counters().unwrap(), counted);

        assert!(listed("tc filter show dev us ingress").contains("persona_tc_aliv"));
        detach_clsact("us", filter.priority, filter.handle).unwrap();
        assert_eq!(listed("tc filter show dev us ingress"), "");
    });
}

/// Sends a frame for us and one for the host from `peer`, and looks at the packet socket and the host's socket on `us`.
fn packet_road(object: &mut Object) {
    ip("addr add 10.9.0.2/24 dev us");
    let maps = object.maps().unwrap();
    let receiver = packet_socket("us");
    let filter = object.program(Program::Socket).unwrap();
    attach_socket_filter(filter.as_fd(), receiver.as_fd()).unwrap();
    drain(&receiver);
    let host = host_socket();
    host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = packet_socket("peer");
    let mut buffer = [0; 2048];

    // Nothing is ours: the host has it, bit for bit, and the packet socket nothing.
    send(sender.as_raw_fd(), &for_host(), MsgFlags::empty()).unwrap();
    let length = host.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"host");

    // A flow is ours: the packet socket has it.
    maps.insert_flow(flow4(), 0).unwrap();
    let ours = Ipv4::default().frame(&segment());
    let before = maps.counters().unwrap();
    send(sender.as_raw_fd(), &ours, MsgFlags::empty()).unwrap();
    let length = recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert_eq!(&buffer[..length], ours);
    let diverted = eventually(|| maps.counters().unwrap().since(&before).frames(Reason::DivertedFlow) == 1);
    assert!(diverted, "{:?}", maps.counters().unwrap());
    assert!(host_saw_no_tcp());

    // The kernel takes the tag out before anybody looks; the frame is another interface's all the same.
    let before = maps.counters().unwrap();
    for control in [5, 0x6000] {
        send(sender.as_raw_fd(), &tagged_with(VLAN, control, &ours), MsgFlags::empty()).unwrap();
    }
    let length = recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert_eq!(&buffer[..length], ours);
    let once = eventually(|| maps.counters().unwrap().since(&before).frames(Reason::DivertedFlow) == 1);
    assert!(once, "{:?}", maps.counters().unwrap());

    // What the host sends itself is not received, although it asks for an address of ours.
    maps.insert_address(PEER4.into(), AddressMode::Own).unwrap();
    let outgoing = packet_socket("us");
    send(outgoing.as_raw_fd(), &ethernet(ARP, &arp(1, US4, PEER4)), MsgFlags::empty()).unwrap();
    maps.set_hold(Hold::Run).unwrap();
    send(sender.as_raw_fd(), &ours, MsgFlags::empty()).unwrap();
    let length = recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert_eq!(&buffer[..length], ours);
    maps.remove_address(PEER4.into()).unwrap();
    maps.remove_flow(flow4()).unwrap();
}

/// Had the host seen the segment, which belongs to no socket of its own, it would have answered with a reset.
fn host_saw_no_tcp() -> bool {
    let shown = listed("nstat -asz TcpInSegs TcpOutRsts");
    let counters: Vec<&str> = shown.lines().filter(|line| line.starts_with("Tcp")).collect();
    counters.len() == 2 && counters.iter().all(|line| line.split_whitespace().nth(1) == Some("0"))
}

/// UDP to the host's port 9 with a payload of 4 bytes (a checksum of zero: none).
fn for_host() -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39, 0, 9, 0, 12, 0, 0];
    datagram.extend(b"host");
    let mut packet = Ipv4 { protocol: UDP, ..Default::default() }.packet(&datagram);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    let mut frame = ethernet(IPV4, &packet);
    frame[..6].copy_from_slice(&mac("us"));
    frame
}

fn mac(interface: &str) -> [u8; 6] {
    let shown = listed(&format!("ip -o link show dev {interface}"));
    let address = shown.split("link/ether ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let mut octets = address.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap());
    std::array::from_fn(|_| octets.next().unwrap())
}

fn listed(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A raw packet socket for all protocols, bound to the interface.
fn packet_socket(interface: &str) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex(interface).unwrap() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll that lives through the call.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0)).unwrap();
    socket
}

/// Takes away what arrived before the filter was set.
fn drain(socket: &OwnedFd) {
    let mut buffer = [0; 2048];
    for _ in 0..10_000 {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(std::io::Error::from(error).kind(), ErrorKind::WouldBlock);
                return;
            }
        }
    }
    panic!("the packet socket never runs dry");
}

/// An AF_XDP socket with as much as the map asks of it: UMEM, fill ring and receive ring.
fn xsk() -> OwnedFd {
    const FRAMES: usize = 64;
    #[repr(C)]
    struct Umem {
        address: u64,
        length: u64,
        chunk: u32,
        headroom: u32,
        flags: u32,
        metadata: u32,
    }
    let set = |fd: i32, option: i32, value: *const libc::c_void, length: usize| {
        // SAFETY: `value` points to `length` bytes that live through the call.
        let result = unsafe { libc::setsockopt(fd, libc::SOL_XDP, option, value, length as libc::socklen_t) };
        assert_eq!(result, 0, "option {option}: {}", std::io::Error::last_os_error());
    };
    // SAFETY: plain system calls; the mapping is never unmapped, and the kernel holds its pages as long as it wants.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let length = FRAMES * 4096;
        let memory = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(memory, libc::MAP_FAILED);
        let umem =
            Umem { address: memory as u64, length: length as u64, chunk: 4096, headroom: 0, flags: 0, metadata: 0 };
        set(fd, libc::XDP_UMEM_REG, std::ptr::from_ref(&umem).cast(), size_of::<Umem>());
        let entries = FRAMES as u32;
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
            set(fd, ring, std::ptr::from_ref(&entries).cast(), 4);
        }
        OwnedFd::from_raw_fd(fd)
    }
}
