//! Sessions, shards and the control thread, from an application's side: two engines joined in memory, and applications that
//! speak the channel by hand, without the preload library.

mod hostile;
mod rig;

use persona_channel::attach::{Answer, Hello, Refusal, Request};
use persona_channel::layout::{REPLY_SIZE, op, state_bits};
use rig::{App, LEFT, RIGHT, Sock, engines, exchange, pattern, readable, until};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn port(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Bytes both ways, half-close, close; everything that was used is free afterwards.
fn transfer(shards: usize) {
    let (left, right) = engines(shards);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (free_left, free_right) = (client.free_sockets(), server.free_sockets());
    let (listener, local) = server.listen(port(ANY, 0));
    let request = pattern(3 << 20, 1);
    let answer = pattern(1 << 20, 2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..6 {
                let connection = server.accept(&listener);
                let (got, errno) = server.read(&connection, usize::MAX);
                assert!(got == request && errno == 0, "{} of {} bytes, errno {errno}", got.len(), request.len());
                server.write(&connection, &answer);
            }
        });
        for _ in 0..6 {
            let connection = client.connected(port(RIGHT, local.port()));
            client.write(&connection, &request);
            client.shutdown_write(&connection);
            let (got, errno) = client.read(&connection, answer.len());
            assert!(got == answer && errno == 0, "{} of {} bytes, errno {errno}", got.len(), answer.len());
            let (rest, errno) = client.read(&connection, 1);
            assert_eq!((rest.len(), errno), (0, 0), "the end comes in order");
        }
    });
    drop(listener);
    until("the client's slots to be free", || (client.free_sockets() == free_left).then_some(()));
    until("the server's slots to be free", || (server.free_sockets() == free_right).then_some(()));
    for (name, app) in [("client", &client), ("server", &server)] {
        let chunks = persona_channel::layout::CHUNKS;
        until(name, || (app.view().pool().free.count() == chunks).then_some(()));
    }
    assert!(left.sockets().is_empty() && right.sockets().is_empty());
}

#[test]
fn bytes_cross_whole_and_in_order_and_everything_comes_back() {
    transfer(1);
}

#[test]
fn two_shards_do_the_same() {
    transfer(2);
}

#[test]
fn a_connection_to_nobody_is_refused_and_the_socket_can_try_again() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let sock = client.socket();
    assert_eq!(client.connect(&sock, port(RIGHT, 4_000)), libc::ECONNREFUSED);
    let (listener, _) = server.listen(port(RIGHT, 4_000));
    assert_eq!(client.connect(&sock, port(RIGHT, 4_000)), 0);
    client.write(&sock, b"again");
    let accepted = server.accept(&listener);
    assert_eq!(server.read(&accepted, 5).0, b"again");
    assert_eq!(client.connect(&sock, port(RIGHT, 4_000)), libc::EISCONN);
}

#[test]
fn a_socket_lives_until_the_last_copy_of_its_descriptor_is_closed() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let mut sock = client.connected(local);
    let accepted = server.accept(&listener);
    let copy = sock.anchor.as_ref().unwrap().try_clone().unwrap();
    drop(sock.anchor.take());
    client.write(&sock, b"still here");
    assert_eq!(server.read(&accepted, 10).0, b"still here");
    drop(copy);
    assert_eq!(server.read(&accepted, 1), (Vec::new(), 0), "FIN, no error");
}

#[test]
fn closing_with_bytes_unread_resets_the_peer() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    server.write(&accepted, b"nobody reads this");
    until("the bytes to arrive", || (client.of(&sock).state.rcv_end.load(Ordering::Acquire) == 17).then_some(()));
    drop(sock);
    let (bytes, errno) = server.read(&accepted, 1);
    assert_eq!((bytes.len(), errno), (0, libc::ECONNRESET));
    let bits = server.of(&accepted).state.bits.load(Ordering::Acquire);
    assert_ne!(bits & state_bits::ENDED, 0);
}

#[test]
fn addresses_are_bound_by_linux_rules() {
    let (left, _right) = engines(1);
    let mut app = left.attach();
    let (_listener, local) = app.listen(port(LEFT, 0));
    assert!((32_768..=60_999).contains(&local.port()) || local.port() > 1_024);
    let second = app.socket();
    assert_eq!(app.bind(&second, local), -libc::EADDRINUSE);
    assert_eq!(app.bind(&second, port(ANY, local.port())), -libc::EADDRINUSE);
    assert_eq!(app.bind(&second, port(RIGHT, 0)), -libc::EADDRNOTAVAIL);
    assert_eq!(app.set(&second, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1), 0);
    assert_eq!(app.bind(&second, local), -libc::EADDRINUSE, "the other one listens");
    assert_eq!(app.bind(&second, port(LEFT, 0)), 0);
    assert_eq!(app.bind(&second, port(LEFT, 0)), -libc::EINVAL, "bound already");
    assert_eq!(app.connect(&second, "192.0.2.1:80".parse().unwrap()), libc::ENETUNREACH);
    let stranger = app.socket();
    let six = [libc::AF_INET6 as u64, 80, 0, 0];
    assert_eq!(app.command(&stranger, op::CONNECT, &six), -libc::EAFNOSUPPORT);
}

#[test]
fn a_port_is_free_again_when_its_listener_is_closed() {
    let (left, _right) = engines(2);
    let mut app = left.attach();
    for _ in 0..20 {
        let (listener, _) = app.listen(port(LEFT, 8_080));
        drop(listener);
        until("the port to be free", || {
            let probe = app.socket();
            let bound = app.bind(&probe, port(LEFT, 8_080));
            drop(probe);
            (bound == 0).then_some(())
        });
        until("the probe's port to be free", || (left.sockets().is_empty()).then_some(()));
    }
}

#[test]
fn a_released_listener_has_freed_its_address_whatever_shard_binds_it_next() {
    let (left, _right) = engines(2);
    let mut app = left.attach();
    let (local, taken) = (port(LEFT, 4_500), port(LEFT, 4_501));
    let (_holder, _) = app.listen(taken);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Keeps the control thread at what one shard sends, so that the other shard's news come late.
        for _ in 0..3 {
            let mut noisy = left.attach();
            let done = &done;
            scope.spawn(move || {
                let sock = on_shard(&mut noisy, 1);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(noisy.bind(&sock, taken), -libc::EADDRINUSE);
                }
            });
        }
        let outcome = (0..500).try_for_each(|round| {
            for shard in [0, 1] {
                let (mut listener, mut heir) = (on_shard(&mut app, shard), on_shard(&mut app, 1 - shard));
                for sock in [&mut listener, &mut heir] {
                    let (bound, listens) = (app.bind(sock, local), app.command(sock, op::LISTEN, &[64]));
                    if (bound, listens) != (0, 0) {
                        return Err(format!("round {round} from shard {shard}: {bound}, {listens}"));
                    }
                    // close(), as the library does it.
                    drop(sock.anchor.take());
                    app.command(sock, op::RELEASE, &[]);
                }
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

/// A socket that lies on this shard of two.
fn on_shard(app: &mut App, shard: u32) -> Sock {
    let sock = app.socket();
    if sock.slot % 2 == shard { sock } else { app.socket() }
}

#[test]
fn a_bound_port_takes_the_slot_to_the_shard_that_owns_the_flow() {
    let (left, right) = engines(2);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let mut shards = [0; 2];
    for number in 0..16 {
        let sock = client.socket();
        let before = client.of(&sock).state.shard.load(Ordering::Relaxed);
        assert_eq!(client.bind(&sock, port(LEFT, 20_000 + number)), 0);
        assert_eq!(client.connect(&sock, local), 0);
        let after = client.of(&sock).state.shard.load(Ordering::Relaxed);
        shards[usize::from(before != after)] += 1;
        client.write(&sock, &pattern(20_000, number.into()));
        let accepted = server.accept(&listener);
        assert_eq!(server.read(&accepted, 20_000).0, pattern(20_000, number.into()));
    }
    assert!(shards[0] > 0 && shards[1] > 0, "of 16 flows some stay and some move: {shards:?}");
}

#[test]
fn an_engine_talks_to_itself() {
    for shards in [1, 2] {
        let (left, _right) = engines(shards);
        let mut app = left.attach();
        let (listener, local) = app.listen(port(ANY, 0));
        let sock = app.connected(port(LEFT, local.port()));
        let accepted = app.accept(&listener);
        let bytes = pattern(500_000, 9);
        std::thread::scope(|scope| {
            scope.spawn(|| app.write(&sock, &bytes));
            assert_eq!(app.read(&accepted, bytes.len()).0, bytes);
        });
    }
}

#[test]
fn relay_moves_unread_and_unsent_bytes_through_the_anchor_in_order() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    // What nobody reads yet has to fit into a receive buffer that has not grown.
    let (early, late) = (pattern(100_000, 3), pattern(700_000, 4));
    server.write(&accepted, &early);
    until("bytes to arrive", || {
        (client.of(&sock).state.rcv_end.load(Ordering::Acquire) == early.len() as u64).then_some(())
    });
    assert_eq!(client.read(&sock, 1_000).0, early[..1_000]);
    client.write(&sock, b"through the stream, ");
    assert_eq!(client.command(&sock, op::RELAY, &[]), 0);
    assert_ne!(client.of(&sock).state.bits.load(Ordering::Acquire) & state_bits::RELAY, 0);

    // From here on the descriptor is an ordinary one.
    let anchor = std::fs::File::from(sock.anchor.unwrap());
    use std::io::{Read, Write};
    (&anchor).write_all(b"through the anchor").unwrap();
    server.write(&accepted, &late);
    server.shutdown_write(&accepted);
    let mut got = Vec::new();
    (&anchor).read_to_end(&mut got).unwrap();
    assert!(got == [&early[1_000..], &late[..]].concat(), "{} bytes", got.len());
    rustix::net::shutdown(&anchor, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(server.read(&accepted, usize::MAX), (b"through the stream, through the anchor".to_vec(), 0));
}

#[test]
fn a_closed_relay_still_delivers_what_was_written() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    assert_eq!(client.command(&sock, op::RELAY, &[]), 0);
    let bytes = pattern(1 << 20, 5);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let mut anchor = std::fs::File::from(sock.anchor.unwrap());
            anchor.write_all(&bytes).unwrap();
        });
        let (got, errno) = server.read(&accepted, usize::MAX);
        assert!(got == bytes && errno == 0, "{} bytes, errno {errno}", got.len());
    });
}

#[test]
fn a_sleeping_reader_is_rung_and_a_sleeping_engine_too() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    let waitable = server.view().claim_waitable(1).unwrap();
    let doorbell = server.doorbell(waitable);
    for round in 0..50u8 {
        let line = server.of(&accepted);
        line.wait.subscribe(waitable);
        let place = server.view().waitable(waitable);
        let mut news = place.take_news();
        while news.next(place).is_some() {}
        assert!(place.enter(), "nothing has come yet");
        // Long enough for the engines to fall asleep in some rounds, and not in others.
        if round % 5 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        client.write(&sock, &[round]);
        assert!(readable(&doorbell), "round {round}");
        let mut bytes = [0; 64];
        rustix::io::read(&doorbell, &mut bytes).unwrap();
        // Nobody else sleeps there.
        let _ = place.leave();
        assert_eq!(server.read(&accepted, 1).0, [round]);
    }
}

#[test]
fn what_a_dead_process_held_is_given_up() {
    let (left, right) = engines(2);
    let (mut client, server) = (left.attach(), right.attach());
    let mut parent = server;
    let (listener, local) = parent.listen(port(RIGHT, 0));
    let free = parent.free_sockets();
    let child = parent.fork();
    // The child claims a slot and accepts a connection, and is gone before it binds either.
    let sock = client.connected(local);
    let claimed = child.view().claim_slot(std::process::id()).unwrap();
    let unbound = child.accept_unbound(&listener);
    assert!(claimed.slot.get() != unbound.slot);
    child.of(&unbound).cursor.claimant.store(std::process::id(), Ordering::Relaxed);
    drop(child);
    assert_eq!(client.read(&sock, 1).0.len(), 0, "the accepted connection ends");
    drop(sock);
    until("both slots to be free", || (parent.free_sockets() == free).then_some(()));
}

#[test]
fn a_session_ends_with_its_last_process_and_its_last_descriptor() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    let sessions = || left.ask(r#"{"request": "info"}"#)["ok"]["sessions"].as_u64().unwrap();
    assert_eq!(sessions(), 1);
    let memory = client.fork();
    let anchor = sock.anchor.as_ref().unwrap().try_clone().unwrap();
    drop((client, sock));
    server.write(&accepted, b"x");
    until("the byte", || (memory.view().pool().free.count() < persona_channel::layout::CHUNKS).then_some(()));
    assert_eq!(sessions(), 1, "a process is left");
    drop(memory);
    assert_eq!(sessions(), 1, "a descriptor is left");
    drop(anchor);
    until("the session to end", || (sessions() == 0).then_some(()));
}

#[test]
fn options_are_set_read_and_inherited() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    assert_eq!(server.set(&listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1), 0);
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    let get = |app: &App, sock: &rig::Sock, level: i32, name: i32| {
        let mut reply = [0u8; REPLY_SIZE];
        let room = reply.len() as u64;
        let length = app.command_with_reply(sock, op::GET_OPTION, &[level as u64, name as u64, room], &mut reply);
        (length, reply)
    };
    let (length, reply) = get(&server, &accepted, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    assert_eq!((length, reply[0]), (4, 1));
    let (length, reply) = get(&client, &sock, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    assert_eq!((length, reply[0]), (4, 0));
    let (length, reply) = get(&client, &sock, libc::IPPROTO_TCP, libc::TCP_INFO);
    assert_eq!((length, reply[0]), (280, 1), "Linux 6.18's layout, TCP_ESTABLISHED");
    assert_eq!(u32::from_ne_bytes(reply[16..20].try_into().unwrap()), 1_448, "the MSS with timestamps");
    let (length, _) = get(&client, &sock, libc::IPPROTO_TCP, 4_711);
    assert_eq!(length, -libc::ENOPROTOOPT);
    assert_eq!(client.set(&sock, libc::SOL_SOCKET, libc::SO_SNDBUF, 50_000), 0);
    assert_eq!(client.of(&sock).state.send_buffer.load(Ordering::Acquire), 100_000);
}

#[test]
fn urgent_bytes_are_found_and_taken_once() {
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    assert_eq!(server.command(&accepted, op::URGENT, &[]), -libc::EINVAL);
    // Before the bytes, as the library does it: afterwards they may have left without the pointer.
    assert_eq!(client.command(&sock, op::SEND_URGENT, &[4]), 0);
    client.write(&sock, b"abc!");
    until("the urgent pointer", || (server.of(&accepted).state.urgent.load(Ordering::Acquire) == 4).then_some(()));
    until("the urgent byte", || (server.command(&accepted, op::URGENT, &[]) == i32::from(b'!')).then_some(()));
    assert_eq!(server.command(&accepted, op::URGENT, &[]), -libc::EINVAL, "it was taken");
}

#[test]
fn a_graceful_stop_ends_connections_as_an_exit_does() {
    let (mut left, right) = engines(2);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let quiet = client.connected(local);
    let of_quiet = server.accept(&listener);
    let unread = client.connected(local);
    let of_unread = server.accept(&listener);
    server.write(&of_unread, b"unread");
    until("the bytes", || (client.of(&unread).state.rcv_end.load(Ordering::Acquire) == 6).then_some(()));
    client.write(&quiet, b"last words");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(server.read(&of_quiet, usize::MAX), (b"last words".to_vec(), 0), "FIN after the bytes");
            drop(of_quiet);
            assert_eq!(server.read(&of_unread, 1), (Vec::new(), libc::ECONNRESET), "RST");
        });
        left.stop();
    });
    assert!(client.view().dead(), "the library hears of it");
}

#[test]
fn the_command_is_answered() {
    let (left, right) = engines(2);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    client.write(&sock, &pattern(100_000, 1));
    server.read(&accepted, 100_000);
    client.request_reason(7, 2, "203.0.113.1:53");
    client.request_reason(u32::MAX, 2, "no such row");

    let sockets = left.sockets();
    let connection = sockets.iter().find(|socket| socket["state"] == "ESTAB").expect("the connection is listed");
    assert_eq!(connection["remote"], local.to_string());
    assert_eq!(connection["program"], "rig");
    assert_eq!(connection["tcp"]["mss"], 1_448);
    let host = until("the host's socket", || left.sockets().into_iter().find(|socket| socket["state"] == "HOST"));
    assert!(host["reason"].as_str().unwrap().contains("type"), "{host}");
    client.request_gone(u32::MAX);
    client.request_gone(7);
    until("its end", || left.sockets().iter().all(|socket| socket["state"] != "HOST").then_some(()));
    let listeners = right.sockets();
    assert_eq!(listeners.iter().filter(|socket| socket["state"] == "LISTEN").count(), 1, "once, not per shard");
    assert!(listeners.iter().any(|socket| socket["local"] == local.to_string()));

    let stats = left.ask(r#"{"request": "stats"}"#);
    assert_eq!(stats["ok"]["stack"]["TcpActiveOpens"], 1);
    assert!(stats["ok"]["ports"][0]["counters"]["TxFrames"].as_u64().is_some());
    assert_eq!(stats["ok"]["shards"].as_array().unwrap().len(), 2);
    assert!(left.ask(r#"{"request": "dance"}"#)["error"].as_str().unwrap().contains("not understood"));
    assert!(left.ask("no json at all")["error"].is_string());
}

#[test]
fn a_capture_has_both_directions_and_ends_with_its_reader() {
    use std::io::{BufRead, BufReader, Read, Write};
    let (left, right) = engines(1);
    let (mut client, mut server) = (left.attach(), right.attach());
    let (listener, local) = server.listen(port(RIGHT, 0));
    let mut stream = std::os::unix::net::UnixStream::connect(left.place.admin_socket()).unwrap();
    stream.set_read_timeout(Some(rig::PATIENCE)).unwrap();
    stream.write_all(b"{\"request\": \"capture\", \"filter\": {\"protocol\": 6}}\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"ok\":null}\n");
    assert!(left.ask(r#"{"request": "capture"}"#)["error"].as_str().unwrap().contains("already"));
    let sock = client.connected(local);
    let accepted = server.accept(&listener);
    client.write(&sock, b"a needle in the capture");
    server.read(&accepted, 23);

    // Blocks until there were the payload and frames of both directions.
    let (mut needle, mut inbound, mut outbound) = (false, 0, 0);
    while !(needle && inbound > 0 && outbound > 0) {
        let mut head = [0; 8];
        reader.read_exact(&mut head).unwrap();
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        let (kind, length) = (word(&head[..4]), word(&head[4..]) as usize);
        let mut body = vec![0; length - 8];
        reader.read_exact(&mut body).unwrap();
        assert_eq!(word(&body[length - 12..]) as usize, length);
        if kind == 6 {
            needle |= body.windows(8).any(|window| window == b"a needle");
            let flags = word(&body[length - 20..length - 16]);
            inbound += u32::from(flags == 1);
            outbound += u32::from(flags == 2);
        }
    }
    drop((reader, stream));
    until("another capture to be possible", || left.ask(r#"{"request": "capture"}"#)["ok"].is_null().then_some(()));
}

#[test]
fn who_does_not_fit_is_refused_with_a_sentence() {
    let (left, _right) = engines(1);
    let connect = || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(left.place.session_socket()).unwrap()).unwrap();
        socket
    };
    let refused = |message: &[u8]| -> Refusal {
        match exchange(&connect(), message).0 {
            Answer::Refusal(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    };
    let bytes = |hello: &Hello| zerocopy::IntoBytes::as_bytes(hello).to_vec();
    let hello = Hello::new(1, b"old", None);
    assert!(refused(&bytes(&Hello { abi: 0, ..hello })).sentence().contains("update libpersona.so"));
    assert!(refused(&bytes(&Hello { abi: 999, ..hello })).sentence().contains("update engine"));
    assert!(refused(&bytes(&Hello { session: 77, token: [1, 2], ..hello })).sentence().contains("ended"));
    assert!(refused(b"hello?").sentence().contains("libpersona.so"));
    // A wrong token of a session that exists.
    let app = left.attach();
    assert!(refused(&bytes(&Hello { session: 1, token: [1, 2], ..hello })).sentence().contains("ended"));
    // The pool of one process is bounded; the process goes on.
    let mut anchors = Vec::new();
    let refusal = loop {
        match app.request(&Request::anchors(16)) {
            (Answer::Grant(_), descriptors) => anchors.extend(descriptors),
            (Answer::Refusal(refusal), _) => break refusal,
            other => panic!("{other:?}"),
        }
        assert!(anchors.len() < 1_000);
    };
    assert!(refusal.sentence().contains("in reserve"), "{}", refusal.sentence());
    assert!(matches!(app.request(&Request::doorbell(3)).0, Answer::Grant(_)));
    assert!(matches!(app.request(&Request::doorbell(9_999)).0, Answer::Refusal(_)));
}
