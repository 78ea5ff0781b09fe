//! Poll bits of each state against what the kernel says of a loopback socket in that state.
#![cfg(not(loom))]

mod common;

use common::Memory;
use persona_channel::layout::state_bits::*;
use persona_channel::memory::SocketRef;
use persona_channel::poll::{Edges, events, poll_bits, report};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;

/// The kernel's answer. `settled` says when the state has been reached: bounded tries of a millisecond each.
fn kernel(fd: RawFd, settled: impl Fn(u32) -> bool) -> u32 {
    let all = events::IN | events::PRI | events::OUT | events::RDNORM | events::RDBAND;
    let mut poll =
        libc::pollfd { fd, events: (all | events::WRNORM | events::WRBAND | events::RDHUP) as i16, revents: 0 };
    for _ in 0..5000 {
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) };
        let bits = poll.revents as u16 as u32;
        if settled(bits) {
            return bits;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the kernel's socket never came to the state; last poll bits {:#x}", poll.revents);
}

fn always(_: u32) -> bool {
    true
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback listener");
    let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("a loopback connection");
    let (peer, _) = listener.accept().expect("accepted");
    peer.set_nodelay(true).expect("an option");
    (ours, peer)
}

fn option(fd: RawFd, level: i32, name: i32, value: &[i32]) {
    let len = size_of_val(value) as u32;
    // SAFETY: the value is readable for its length.
    assert_eq!(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) }, 0);
}

/// Our answer for a fresh slot brought into a state.
fn ours(accept_ready: bool, state: impl FnOnce(&SocketRef<'_>)) -> u32 {
    let memory = Memory::new();
    let socket = memory.session().claim_slot(1).expect("a free slot");
    socket.state.send_buffer.store(10_000, Relaxed);
    state(&socket);
    poll_bits(socket.state, socket.cursor, false, || accept_ready)
}

fn state(bits: u32, received: u64) -> impl FnOnce(&SocketRef<'_>) {
    move |socket| {
        socket.state.bits.store(BOUND | bits, Relaxed);
        socket.state.rcv_end.store(received, Relaxed);
    }
}

const ALL_CLOSED: u32 = CONNECTED | RCV_CLOSED | SND_CLOSED | ENDED;

#[test]
fn a_socket_that_was_never_connected() {
    // SAFETY: a new descriptor, owned from here on.
    let fresh = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
    assert_eq!(ours(false, |_| ()), kernel(fresh.as_raw_fd(), always));
}

#[test]
fn a_listener() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback listener");
    assert_eq!(ours(false, state(LISTENING, 0)), kernel(listener.as_raw_fd(), always));
    let _connection = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    assert_eq!(ours(true, state(LISTENING, 0)), kernel(listener.as_raw_fd(), |bits| bits != 0));
}

#[test]
fn a_connection_under_way_says_nothing() {
    // Of a kernel socket in SYN-SENT poll says 0 as well; getting one there needs a peer that does not answer.
    assert_eq!(ours(false, state(CONNECTING, 0)), 0);
}

#[test]
fn connected_with_and_without_data() {
    let (us, mut peer) = pair();
    assert_eq!(ours(false, state(CONNECTED, 0)), kernel(us.as_raw_fd(), always));
    peer.write_all(b"12345").expect("written");
    assert_eq!(ours(false, state(CONNECTED, 5)), kernel(us.as_raw_fd(), |bits| bits & events::IN != 0));
}

#[test]
fn fewer_bytes_than_the_low_water_mark() {
    let (us, mut peer) = pair();
    option(us.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, &[10]);
    peer.write_all(b"12345").expect("written");
    us.set_nonblocking(true).expect("an option");
    while us.peek(&mut [0; 8]).is_err() {}
    let low = |received| {
        move |socket: &SocketRef<'_>| {
            state(CONNECTED, received)(socket);
            socket.cursor.receive_low.store(10, Relaxed);
        }
    };
    assert_eq!(ours(false, low(5)), kernel(us.as_raw_fd(), always));
    peer.write_all(b"67890").expect("written");
    assert_eq!(ours(false, low(10)), kernel(us.as_raw_fd(), |bits| bits & events::IN != 0));
}

#[test]
fn the_peer_closed() {
    let (us, peer) = pair();
    drop(peer);
    let kernel = kernel(us.as_raw_fd(), |bits| bits & events::RDHUP != 0);
    assert_eq!(ours(false, state(CONNECTED | RCV_CLOSED, 0)), kernel);
}

#[test]
fn directions_shut_down_by_us() {
    let (us, _peer) = pair();
    us.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(ours(false, state(CONNECTED | SND_CLOSED, 0)), kernel(us.as_raw_fd(), always));
    us.shutdown(Shutdown::Read).expect("shut down");
    assert_eq!(ours(false, state(CONNECTED | SND_CLOSED | RCV_CLOSED, 0)), kernel(us.as_raw_fd(), always));

    let (us, _peer) = pair();
    us.shutdown(Shutdown::Read).expect("shut down");
    assert_eq!(ours(false, state(CONNECTED | RCV_CLOSED, 0)), kernel(us.as_raw_fd(), always));
}

#[test]
fn reset_by_the_peer() {
    let (us, peer) = pair();
    option(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0]);
    drop(peer);
    let before = kernel(us.as_raw_fd(), |bits| bits & events::ERR != 0);
    let reset = |error| {
        move |socket: &SocketRef<'_>| {
            state(ALL_CLOSED | ERROR, 0)(socket);
            socket.state.error.store(error, Relaxed);
        }
    };
    assert_eq!(ours(false, reset(libc::ECONNRESET)), before);
    assert_eq!(us.take_error().expect("SO_ERROR").and_then(|error| error.raw_os_error()), Some(libc::ECONNRESET));
    assert_eq!(ours(false, reset(0)), kernel(us.as_raw_fd(), always), "the error is reported once");
}

#[test]
fn a_refused_connect() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback listener");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    // SAFETY: a new descriptor, owned from here on; the address is a whole sockaddr_in.
    let fd = unsafe {
        let fd = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0));
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = port.to_be();
        address.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        libc::connect(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32);
        fd
    };
    let kernel = kernel(fd.as_raw_fd(), |bits| bits & events::ERR != 0);
    let refused = |socket: &SocketRef<'_>| {
        socket.state.bits.store(BOUND | CONNECTING | RCV_CLOSED | SND_CLOSED | ENDED | ERROR, Relaxed);
        socket.state.error.store(libc::ECONNREFUSED, Relaxed);
    };
    assert_eq!(ours(false, refused), kernel);
}

#[test]
fn urgent_bytes() {
    let (us, peer) = pair();
    let urgent = |received, read| {
        move |socket: &SocketRef<'_>| {
            state(CONNECTED, received)(socket);
            socket.state.urgent.store(received, Relaxed);
            socket.cursor.rcv_read.store(read, Relaxed);
        }
    };
    // SAFETY: the bytes are readable.
    let sent = unsafe { libc::send(peer.as_raw_fd(), b"abc".as_ptr().cast(), 3, libc::MSG_OOB) };
    assert_eq!(sent, 3);
    assert_eq!(ours(false, urgent(3, 0)), kernel(us.as_raw_fd(), |bits| bits & events::PRI != 0));
    assert_eq!((&us).read(&mut [0; 8]).expect("two bytes before the mark"), 2);
    assert_eq!(ours(false, urgent(3, 2)), kernel(us.as_raw_fd(), always), "only the urgent byte is left");
}

#[test]
fn a_full_send_buffer() {
    let (mut us, _peer) = pair();
    us.set_nonblocking(true).expect("an option");
    let mut written = 0;
    loop {
        match us.write(&[0; 65_536]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(written < 1 << 30, "the kernel's buffer has an end");
    }
    let full = |socket: &SocketRef<'_>| {
        state(CONNECTED, 0)(socket);
        socket.cursor.snd_end.store(10_000, Relaxed);
    };
    assert_eq!(ours(false, full), kernel(us.as_raw_fd(), always));
}

/// Output comes back once a third is free: what is free is half of what is queued.
#[test]
fn a_third_of_the_buffer_makes_writable() {
    let queued = |queued| {
        move |socket: &SocketRef<'_>| {
            socket.state.send_buffer.store(9_000, Relaxed);
            state(CONNECTED, 0)(socket);
            socket.cursor.snd_end.store(queued, Relaxed);
        }
    };
    assert_eq!(ours(false, queued(6_001)) & events::OUT, 0);
    assert_eq!(ours(false, queued(6_000)) & events::OUT, events::OUT);
}

#[test]
fn edge_triggered_members_report_each_edge_once() {
    let start = Edges::default();
    let both = events::IN | events::OUT;
    assert_eq!(report(both, None, start, both), both, "after EPOLL_CTL_ADD");
    assert_eq!(report(both, Some(start), start, both), 0, "nothing happened since");
    let input = start.after(true, false);
    assert_eq!(report(both, Some(start), input, both), both, "an edge reports all that holds");
    assert_eq!(report(events::OUT, Some(start), input, both), 0, "an input edge is no news of output");
    assert_eq!(report(events::IN, Some(start), input, events::OUT), 0, "read empty meanwhile");
    assert_eq!(report(events::IN, Some(start), input, events::IN | events::HUP), events::IN | events::HUP);
    let output = input.after(false, true);
    assert_eq!(report(events::IN, Some(input), output, both), 0);
    assert_eq!(report(events::OUT, Some(input), output, both), events::OUT);
    let mut many = start;
    for _ in 0..1 << 16 {
        many = many.after(true, false);
    }
    assert_eq!(many, start, "the halves do not run into each other");
}
