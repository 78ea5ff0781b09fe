//! What the tests of the ports share: a network namespace per test, a veth pair, a raw reader at the other end, and the
//! frames that both ends exchange.
//!
//! Each test runs on a thread that moved to a network namespace of its own, which the kernel removes with everything in
//! it when the thread and its sockets are gone, also after a failure.

#![allow(dead_code)]

pub mod exchange;
pub mod program;
pub mod tcp;

use persona_engine::port::headers::{Layout, put_be16};
use persona_engine::port::sum;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel's end and ours.
pub const PEER: [u8; 4] = [10, 91, 0, 1];
pub const OURS: [u8; 4] = [10, 91, 0, 2];
pub const OUR_MAC: [u8; 6] = [2, 0x91, 0, 0, 0, 2];
pub const PEER_MAC: [u8; 6] = [2, 0x91, 0, 0, 0, 1];

/// Runs `test` in a network namespace of its own.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: affects this thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "these tests need root: unshare: {}", io::Error::last_os_error());
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these arguments in the thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect(program);
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A veth pair: `ours` for the port, `peer` with an address of the kernel's. Offloads of the peer on or off.
pub fn veth(mtu: u32, queues: u32, offloads: bool) {
    ip(&format!(
        "link add ours mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth peer name peer mtu {mtu} \
         numrxqueues {queues} numtxqueues {queues}"
    ));
    prepare_peer("ours", "peer", offloads);
    ip("link set ours address 02:91:00:00:00:02");
    ip("link set ours up");
    wait_until_up(&["ours", "peer"]);
}

/// Waits for the kernel to have given the interfaces their queues: before, it drops what is sent.
pub fn wait_until_up(names: &[&str]) {
    let end = Instant::now() + PATIENCE;
    for name in names {
        loop {
            let output = Command::new("ip").args(["-o", "link", "show", name]).output().expect("ip");
            let line = String::from_utf8_lossy(&output.stdout).into_owned();
            if line.contains("LOWER_UP") && (line.contains("state UP") || line.contains("state UNKNOWN")) {
                break;
            }
            assert!(Instant::now() < end, "{name} does not come up: {line}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Gives the kernel's end its address and a neighbour that is us.
pub fn prepare_peer(ours: &str, peer: &str, offloads: bool) {
    for name in [ours, peer] {
        // No router solicitations or multicast reports among the frames of the tests.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").expect("IPv6 switch");
    }
    ip(&format!("link set {peer} address 02:91:00:00:00:01"));
    ip(&format!("addr add 10.91.0.1/24 dev {peer}"));
    ip(&format!("link set {peer} up"));
    ip(&format!("neigh replace 10.91.0.2 lladdr 02:91:00:00:00:02 dev {peer} nud permanent"));
    if !offloads {
        run("ethtool", &format!("-K {peer} tx off tso off gso off gro off"));
    }
}

/// An AF_PACKET socket: sees and sends whole frames.
pub struct PacketSocket {
    fd: OwnedFd,
}

/// A frame as AF_PACKET shows it.
pub struct Seen {
    pub frame: Vec<u8>,
    /// The checksum was left to a device (TP_STATUS_CSUMNOTREADY).
    pub partial: bool,
}

impl PacketSocket {
    pub fn open(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain syscalls; the address is a complete sockaddr_ll.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
            assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let one = 1i32;
            for (level, option) in
                [(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING), (libc::SOL_PACKET, libc::PACKET_AUXDATA)]
            {
                assert_eq!(libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const one).cast(), 4), 0);
            }
            let buffer = 32 << 20;
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const buffer).cast(), 4);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            let name = std::ffi::CString::new(interface).unwrap();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            assert_ne!(address.sll_ifindex, 0, "{interface}");
            let size = std::mem::size_of_val(&address) as u32;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size), 0);
            Self { fd }
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a plain send of a slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame, if one comes in time.
    pub fn receive(&self, wait: Duration) -> Option<Seen> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut frame = vec![0u8; 70_000];
        let mut control = [0u64; 16];
        // SAFETY: the buffers outlive the calls that are told of them; the control message is read within its length.
        unsafe {
            if libc::poll(&raw mut poll, 1, wait.as_millis() as i32) <= 0 {
                return None;
            }
            let mut vector = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut vector;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = std::mem::size_of_val(&control);
            let len = libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
            if len < 0 {
                return None;
            }
            frame.truncate(len as usize);
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            let status = if header.is_null() { 0 } else { libc::CMSG_DATA(header).cast::<u32>().read_unaligned() };
            Some(Seen { frame, partial: status & libc::TP_STATUS_CSUMNOTREADY != 0 })
        }
    }

    /// The next frame that `wanted` accepts.
    pub fn expect(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> Seen {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(seen) = self.receive(Duration::from_millis(200))
                && wanted(&seen.frame)
            {
                return seen;
            }
        }
        panic!("the frame did not arrive");
    }
}

/// An Ethernet frame from us to the peer with an EtherType that no kernel answers; `len` bytes, numbered content.
pub fn raw_frame(len: usize, seed: u8, to_peer: bool) -> Vec<u8> {
    let (to, from) = if to_peer { (PEER_MAC, OUR_MAC) } else { (OUR_MAC, PEER_MAC) };
    let mut frame: Vec<u8> = to.into_iter().chain(from).chain([0x88, 0xb5]).collect();
    frame.extend((frame.len()..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)));
    frame
}

/// An IPv4 packet from us to the peer around `transport`, with right header checksum.
pub fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame: Vec<u8> = PEER_MAC.into_iter().chain(OUR_MAC).chain([8, 0]).collect();
    frame.extend([0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(OURS);
    frame.extend(PEER);
    frame.extend(transport);
    let end = frame.len();
    put_be16(&mut frame, 16, (end - 14) as u16);
    Layout::of_ethernet(&frame).unwrap().sum_ipv4(&mut frame);
    frame
}

/// Completes the TCP or UDP checksum of an IPv4 frame.
pub fn complete_checksum(frame: &mut [u8]) {
    let layout = Layout::of_ethernet(frame).unwrap();
    let at = layout.l4 + if layout.protocol == 6 { 16 } else { 6 };
    sum::store(frame, at, 0);
    let mut sum = layout.pseudo_header(frame, layout.end - layout.l4);
    sum.add(&frame[layout.l4..layout.end]);
    sum::store(frame, at, sum::field(sum.fold()));
}

/// Whether the transport checksum of a TCP or UDP frame holds.
pub fn checksum_holds(frame: &[u8]) -> bool {
    let layout = Layout::of_ethernet(frame).unwrap();
    let mut sum = layout.pseudo_header(frame, layout.end - layout.l4);
    sum.add(&frame[layout.l4..layout.end]);
    sum.fold() == 0xffff
}
