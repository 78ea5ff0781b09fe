//! The connection against a peer in memory that loses what it is told to lose.

use super::super::FILLER;
use super::*;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// A peer behind a ring: answers as a kernel would, but in one step, and checks what it gets.
struct Peer {
    ends: Ends,
    template: Template,
    /// On their way to the connection.
    out: VecDeque<Vec<u8>>,
    rcv_nxt: u32,
    snd_nxt: u32,
    window: u32,
    received: Vec<u8>,
    /// Data segments seen, and which of them are lost.
    seen: usize,
    lost: Vec<usize>,
    /// Bytes to be sent to the connection once its request is there.
    to_send: usize,
    finished: bool,
}

const FIRST: u32 = 0x7fff_f000;
const SHIFT: u32 = 3;

impl Peer {
    fn new(lost: &[usize], to_send: usize) -> Self {
        let ends = ends();
        let mirrored = Ends { our_mac: ends.peer_mac, peer_mac: ends.our_mac, ours: ends.peer, peer: ends.ours };
        Self {
            ends: mirrored,
            template: Template::new(&mirrored, false),
            out: VecDeque::new(),
            rcv_nxt: 0,
            snd_nxt: FIRST,
            window: 16 * SEGMENT as u32,
            received: Vec::new(),
            seen: 0,
            lost: lost.to_vec(),
            to_send,
            finished: false,
        }
    }

    fn answer(&mut self, flags: u8, options: &[u8], payload: &[u8]) {
        let window = if flags & SYN != 0 { self.window } else { self.window >> SHIFT } as u16;
        let fields = Fields { seq: self.snd_nxt, ack: self.rcv_nxt, flags, window };
        self.out.push_back(self.template.with(&fields, options, payload));
        self.snd_nxt = self.snd_nxt.wrapping_add(payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
    }

    fn on_frame(&mut self, frame: &[u8]) {
        let arrived = Arrived::parse(frame, &self.ends).expect("a segment of the connection");
        let Fields { seq, ack, flags, .. } = arrived.fields;
        if flags & SYN != 0 {
            self.rcv_nxt = seq.wrapping_add(1);
            return self.answer(SYN | ACK, &[1, 3, 3, SHIFT as u8], &[]);
        }
        if arrived.payload.is_empty() && flags & FIN == 0 {
            // A kernel repeats at the third duplicate; this peer does when nothing is under way any more.
            return self.repeat(ack);
        }
        self.seen += 1;
        assert!(seq.wrapping_sub(self.rcv_nxt) as i32 <= self.window as i32, "beyond the window");
        if self.lost.contains(&self.seen) {
            return;
        }
        if seq == self.rcv_nxt {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(arrived.payload.len() as u32);
            self.received.extend_from_slice(arrived.payload);
            if flags & FIN != 0 {
                self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
                self.on_end();
            }
        }
        if self.to_send > 0 && self.snd_nxt == FIRST.wrapping_add(1) {
            self.repeat(self.snd_nxt);
        } else {
            self.answer(ACK, &[], &[]);
        }
    }

    /// The count of `load serve`, and the end.
    fn on_end(&mut self) {
        if self.to_send == 0 && !self.finished {
            let count = (self.received.len() as u64 - 1).to_le_bytes();
            self.answer(ACK | PSH, &[], &count);
            self.answer(ACK | FIN, &[], &[]);
        }
        self.finished = true;
    }

    /// Sends everything from `from` on, once, losing what is to be lost.
    fn repeat(&mut self, from: u32) {
        let start = from.wrapping_sub(FIRST.wrapping_add(1)) as usize;
        if start > self.to_send || self.received.is_empty() || !self.out.is_empty() {
            return;
        }
        self.snd_nxt = from;
        for at in (start..self.to_send).step_by(SEGMENT) {
            self.answer(ACK, &[], &[7; SEGMENT][..SEGMENT.min(self.to_send - at)]);
            self.seen += 1;
            if self.lost.contains(&self.seen) {
                self.out.pop_back();
            }
        }
        self.answer(ACK | FIN, &[], &[]);
    }
}

/// The ring's other end is the peer itself.
struct Memory {
    peer: Peer,
    queued: Vec<Vec<u8>>,
    /// Anything readable, for poll().
    fd: std::fs::File,
}

impl Ring for Memory {
    fn longest(&self) -> usize {
        SEGMENT
    }

    fn completes_checksums(&self) -> bool {
        false
    }

    fn send(&mut self, header: &[u8], filler: usize) -> bool {
        if self.queued.len() == 8 {
            return false;
        }
        let mut frame = header.to_vec();
        frame.resize(header.len() + filler, FILLER);
        self.queued.push(frame);
        true
    }

    fn kick(&mut self) -> io::Result<()> {
        for frame in self.queued.drain(..) {
            self.peer.on_frame(&frame);
        }
        Ok(())
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let count = self.peer.out.len().min(64);
        let frames: Vec<_> = self.peer.out.drain(..count).collect();
        frames.iter().for_each(|frame| sink(frame));
        frames.len()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    fn dropped(&self) -> u64 {
        0
    }
}

fn ends() -> Ends {
    Ends {
        our_mac: [2, 0, 0, 0, 0, 2],
        peer_mac: [2, 0, 0, 0, 0, 1],
        ours: "10.9.0.2:40000".parse().unwrap(),
        peer: "10.9.0.1:5201".parse().unwrap(),
    }
}

fn connect(peer: Peer) -> Connection<Memory> {
    let fd = std::fs::File::open("/dev/zero").unwrap();
    Connection::open(Memory { peer, queued: Vec::new(), fd }, ends()).unwrap()
}

#[test]
fn what_is_lost_is_sent_again_and_all_is_counted() {
    // Segment 1 is the request; a lost one in the middle of the stream, and two of its repetition.
    for lost in [&[][..], &[40], &[40, 45, 46], &[2, 3, 4]] {
        let connection = connect(Peer::new(lost, 0));
        let moved = connection.send_for(Duration::from_millis(20)).unwrap();
        assert!(moved.bytes > 50 * SEGMENT as u64, "{lost:?}: {moved:?}");
        assert_eq!(moved.again > 0, !lost.is_empty(), "{lost:?}: {moved:?}");
    }
}

#[test]
fn what_arrives_is_counted_once() {
    let bytes = 100 * SEGMENT + 77;
    for lost in [&[][..], &[50], &[50, 150, 151]] {
        let moved = connect(Peer::new(lost, bytes)).receive_for(Duration::from_millis(1)).unwrap();
        assert_eq!(moved.bytes, bytes as u64, "{lost:?}");
    }
}

#[test]
fn a_reset_is_an_error() {
    let mut connection = connect(Peer::new(&[], 0));
    connection.ring.peer.answer(RST | ACK, &[], &[]);
    let error = connection.send_for(Duration::from_millis(1)).unwrap_err();
    assert!(format!("{error:#}").contains("reset the connection"), "{error:#}");
}
