//! The tests that every port on a real interface has to pass, whatever is behind it.

use super::tcp::Connection;
use super::*;
use persona_engine::port::{Piece, Port, TxFrame};
use persona_stack::{Gso, RxChecksum, TxChecksum};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};

/// Bytes that differ everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9u32;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

/// Sends complete bytes; retries while the ring is full.
pub fn transmit(port: &mut dyn Port, frame: &[u8]) {
    let end = Instant::now() + PATIENCE;
    // The header must fit a port's first buffer, so only the beginning is header.
    let (header, rest) = frame.split_at(frame.len().min(54));
    let payload: Vec<Piece> = rest.chunks(1000).map(|part| Piece { start: part.as_ptr(), len: part.len() }).collect();
    let frame = TxFrame { header, payload: &payload, checksum: TxChecksum::Complete, gso: None };
    while port.transmit(&frame).is_err() {
        assert!(Instant::now() < end, "the port stays full");
        port.flush().unwrap();
    }
    port.flush().unwrap();
}

/// One received frame in one piece.
pub struct Arrived {
    pub frame: Vec<u8>,
    pub checksum: RxChecksum,
}

/// The next frame that `wanted` accepts; sleeps in poll() as a shard would.
pub fn expect(port: &mut dyn Port, mut wanted: impl FnMut(&[u8]) -> bool) -> Arrived {
    let end = Instant::now() + PATIENCE;
    let mut found = None;
    while Instant::now() < end {
        port.receive(1, &mut |frame| {
            let bytes: Vec<u8> =
                [frame.head].into_iter().chain(frame.tail.iter().copied()).flatten().copied().collect();
            if found.is_none() && wanted(&bytes) {
                found = Some(Arrived { frame: bytes, checksum: frame.checksum });
            }
        });
        port.flush().unwrap();
        if let Some(arrived) = found {
            return arrived;
        }
        if !port.pending()
            && let Some(fd) = port.poll_fd()
        {
            let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd.
            unsafe { libc::poll(&raw mut poll, 1, 200) };
        }
    }
    panic!("the frame did not arrive: {} {:?}", port.describe(), port.counters());
}

/// Frames of each size, bit for bit, in both directions.
pub fn carries_frames_of_each_size(port: &mut dyn Port, peer: &str, sizes: &[usize]) {
    let socket = PacketSocket::open(peer);
    let before = port.counters();
    for (seed, &size) in sizes.iter().enumerate() {
        // Twice, since a port with several frames in flight could mix them up.
        for seed in [seed as u8, seed as u8 + 128] {
            let frame = raw_frame(size, seed, true);
            transmit(port, &frame);
            let seen = socket.expect(|seen| seen.len() >= size && seen[12..14] == [0x88, 0xb5]);
            assert_eq!(seen.frame, frame, "{size} bytes out");
            let frame = raw_frame(size, seed, false);
            socket.send(&frame);
            let arrived = expect(port, |arrived| arrived[12..14] == [0x88, 0xb5]);
            assert_eq!(arrived.frame, frame, "{size} bytes in");
        }
    }
    let after = port.counters();
    assert_eq!(after.tx_frames - before.tx_frames, 2 * sizes.len() as u64);
    assert!(after.rx_frames - before.rx_frames >= 2 * sizes.len() as u64);
    assert_eq!((after.rx_dropped, after.tx_dropped), (0, 0));
    assert!(after.kicks > before.kicks);
}

/// An echo request to the kernel, and a datagram each way.
pub fn speaks_icmp_and_udp(port: &mut dyn Port) {
    let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4];
    echo.extend(pattern(1000));
    let mut check = sum::Sum::default();
    check.add(&echo);
    sum::store(&mut echo, 2, !check.fold());
    transmit(port, &ipv4(1, &echo));
    let reply = expect(port, |frame| Layout::of_ethernet(frame).is_some_and(|layout| layout.protocol == 1)).frame;
    assert_eq!(reply[34], 0, "echo reply");
    assert_eq!(reply[38..], echo[4..]);

    let server = UdpSocket::bind("10.91.0.1:7001").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut datagram = vec![0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, 0];
    datagram.extend(pattern(1201));
    let len = datagram.len() as u16;
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    let mut frame = ipv4(17, &datagram);
    complete_checksum(&mut frame);
    transmit(port, &frame);
    let mut buffer = [0; 2000];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..len], datagram[8..]);
    server.send_to(&buffer[..len], from).unwrap();
    let answer = expect(port, |frame| Layout::of_ethernet(frame).is_some_and(|layout| layout.protocol == 17));
    assert_eq!(answer.frame[42..], datagram[8..]);
    assert!(answer.checksum != RxChecksum::Unverified || checksum_holds(&answer.frame));
}

/// Super-segments, queued one after the other and kicked once, as an AF_PACKET reader at the other end sees them: cut,
/// or whole where the device cuts. `payloads`: bytes of each.
pub fn super_segments_arrive_as_one_stream(port: &mut dyn Port, peer: &str, mss: u16, payloads: &[usize]) {
    let socket = PacketSocket::open(peer);
    let sent = pattern(payloads.iter().sum());
    let mut ends = Vec::new();
    for &len in payloads {
        let start = ends.last().copied().unwrap_or(0);
        queue_super_segment(port, start as u32, &sent[start..start + len], mss);
        ends.push(start + len);
    }
    port.flush().unwrap();
    let mut stream = vec![0u8; 0];
    while stream.len() < sent.len() {
        let seen = socket
            .expect(|frame| Layout::of_ethernet(frame).is_some_and(|layout| layout.protocol == 6 && frame[37] == 9));
        let layout = Layout::of_ethernet(&seen.frame).unwrap();
        assert_eq!(layout.end, seen.frame.len());
        assert!(layout.network_checksum_holds(&seen.frame));
        assert!(seen.partial || checksum_holds(&seen.frame), "checksum at {}", stream.len());
        assert_eq!(u32::from_be_bytes(seen.frame[38..42].try_into().unwrap()) as usize, stream.len());
        stream.extend_from_slice(&seen.frame[54..]);
        // PSH on the last of each only.
        assert_eq!(seen.frame[47] & 8 != 0, ends.contains(&stream.len()));
    }
    assert_eq!(stream, sent);
}

fn queue_super_segment(port: &mut dyn Port, sequence: u32, payload: &[u8], mss: u16) {
    let mut header = ipv4(6, &[0x0f, 0xa0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    header[38..42].copy_from_slice(&sequence.to_be_bytes());
    let layout = Layout::of_ethernet(&header).unwrap();
    layout.set_end(&mut header, 54 + payload.len());
    let pseudo = layout.pseudo_header(&header, 20 + payload.len()).fold();
    sum::store(&mut header, 50, pseudo);
    let pieces: Vec<Piece> =
        payload.chunks(7_001).map(|part| Piece { start: part.as_ptr(), len: part.len() }).collect();
    let frame = TxFrame {
        header: &header,
        payload: &pieces,
        checksum: TxChecksum::Partial { start: 34, offset: 16 },
        gso: (payload.len() > usize::from(mss)).then_some(Gso { size: mss, repeats_ecn: false }),
    };
    port.transmit(&frame).unwrap();
}

/// What a real transfer with the kernel's TCP showed.
pub struct Transfer {
    pub longest: usize,
    pub merged: usize,
    pub partial: usize,
}

/// Both directions of a connection to the kernel, `bytes` each way, byte for byte.
pub fn transfers_with_the_kernels_tcp(port: &mut dyn Port, mss: u16, bytes: usize) -> Transfer {
    let listener = TcpListener::bind("10.91.0.1:9000").unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut upload = vec![0; bytes];
        stream.read_exact(&mut upload).unwrap();
        stream.write_all(&upload).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
    let sent = pattern(bytes);
    let max = port.offload().max_segment as usize - 54;
    let mut connection = Connection::open(port, 4001, 9000, mss);
    connection.write(&sent, max, mss);
    connection.read_to_end();
    assert_eq!(connection.received.len(), sent.len());
    assert!(connection.received == sent, "the echo differs from what was sent");
    connection.close();
    let transfer = Transfer { longest: connection.longest, merged: connection.merged, partial: connection.partial };
    server.join().unwrap();
    transfer
}

/// A receiver that does not read loses frames, and says so.
pub fn counts_what_it_could_not_receive(port: &mut dyn Port, peer: &str, frames: usize) {
    let socket = PacketSocket::open(peer);
    for seed in 0..frames {
        socket.send(&raw_frame(1000, seed as u8, false));
    }
    let mut taken = 0;
    let end = Instant::now() + PATIENCE;
    let mut idle = 0;
    while idle < 50 && Instant::now() < end {
        let now = port.receive(64, &mut |_| {});
        taken += now;
        idle = if now == 0 { idle + 1 } else { 0 };
        port.flush().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let counters = port.counters();
    assert!(taken < frames && taken > 0, "{taken} of {frames}");
    assert_eq!(counters.rx_frames, taken as u64);
    assert_eq!(counters.rx_frames + counters.rx_dropped, frames as u64, "{counters:?}");
}
