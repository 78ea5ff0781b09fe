//! Just enough of TCP to talk to the kernel's through a port: connects, sends super-segments, acknowledges what comes,
//! closes. A thread that is kept from running loses frames to full queues, on a busy machine often: what came out of
//! order is kept, and what stays unacknowledged is sent again from there, so that only the bytes decide.

use super::{OUR_MAC, OURS, PATIENCE, PEER, PEER_MAC};
use persona_engine::port::headers::{Layout, be32, put_be16};
use persona_engine::port::{Piece, Port, TxFrame, sum};
use persona_stack::{Gso, RxChecksum, RxFrame, TxChecksum};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Data that nobody acknowledged for so long is sent again.
const REPEAT: Duration = Duration::from_millis(300);

pub struct Connection<'a> {
    pub port: &'a mut dyn Port,
    local: u16,
    remote: u16,
    snd_nxt: u32,
    snd_una: u32,
    rcv_nxt: u32,
    window: u32,
    scale: u32,
    pub received: Vec<u8>,
    /// What came before its turn: payload and whether a FIN follows it, by position in the stream.
    early: BTreeMap<usize, (Vec<u8>, bool)>,
    finished: bool,
    /// Largest payload of a received frame or train, and how many were merged, partial.
    pub longest: usize,
    pub merged: usize,
    pub partial: usize,
}

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 0x10;
const PSH: u8 = 8;
/// Window scale that we announce: a window of 512 KiB, less than what the ring of any port holds.
const OUR_SCALE: u8 = 4;

impl<'a> Connection<'a> {
    pub fn open(port: &'a mut dyn Port, local: u16, remote: u16, mss: u16) -> Self {
        let mut connection = Self {
            port,
            local,
            remote,
            snd_nxt: 0xffff_f000,
            snd_una: 0xffff_f000,
            rcv_nxt: 0,
            window: 0,
            scale: 0,
            received: Vec::new(),
            early: BTreeMap::new(),
            finished: false,
            longest: 0,
            merged: 0,
            partial: 0,
        };
        let [high, low] = mss.to_be_bytes();
        connection.send(SYN, &[2, 4, high, low, 3, 3, OUR_SCALE, 1], &[], None);
        connection.snd_nxt = connection.snd_nxt.wrapping_add(1);
        connection.wait(|connection| connection.snd_una == connection.snd_nxt, "SYN-ACK");
        connection
    }

    /// Sends everything as super-segments of up to `chunk` bytes, within the peer's window.
    pub fn write(&mut self, bytes: &[u8], chunk: usize, mss: u16) {
        let first = self.snd_nxt;
        let end = Instant::now() + PATIENCE;
        let mut moved = Instant::now();
        loop {
            assert!(Instant::now() < end, "{} of {} bytes acknowledged", self.snd_una.wrapping_sub(first), bytes.len());
            let una = self.snd_una;
            let rest = &bytes[self.snd_nxt.wrapping_sub(first) as usize..];
            let room = self.window.saturating_sub(self.snd_nxt.wrapping_sub(una)) as usize;
            let len = rest.len().min(chunk).min(room);
            if len > 0 && self.send(ACK | PSH, &[], &rest[..len], Some(mss)) {
                self.snd_nxt = self.snd_nxt.wrapping_add(len as u32);
            }
            self.poll();
            if self.snd_una.wrapping_sub(first) as usize == bytes.len() {
                self.snd_nxt = self.snd_una;
                return;
            }
            if self.snd_una != una {
                moved = Instant::now();
            } else if moved.elapsed() > REPEAT {
                self.snd_nxt = una;
                moved = Instant::now();
            }
        }
    }

    /// Receives until the peer closes.
    pub fn read_to_end(&mut self) {
        self.wait(|connection| connection.finished, "FIN of the peer");
    }

    pub fn close(&mut self) {
        self.send(ACK | FIN, &[], &[], None);
        self.snd_nxt = self.snd_nxt.wrapping_add(1);
        self.wait(|connection| connection.snd_una == connection.snd_nxt, "acknowledgement of FIN");
    }

    fn wait(&mut self, done: impl Fn(&Self) -> bool, what: &str) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < end,
                "no {what}: una {} nxt {} received {} counters {:?}",
                self.snd_una,
                self.snd_nxt,
                self.received.len(),
                self.port.counters()
            );
            self.poll();
        }
    }

    fn poll(&mut self) {
        let mut frames: Vec<(Vec<u8>, RxChecksum, u16)> = Vec::new();
        self.port.receive(64, &mut |frame: RxFrame<'_>| {
            let bytes = [frame.head].into_iter().chain(frame.tail.iter().copied()).flatten().copied().collect();
            frames.push((bytes, frame.checksum, frame.gso_size));
        });
        if frames.is_empty() {
            self.port.flush().unwrap();
            std::thread::yield_now();
        }
        for (frame, checksum, gso_size) in frames {
            self.on_frame(&frame, checksum, gso_size);
        }
        self.port.flush().unwrap();
    }

    fn on_frame(&mut self, frame: &[u8], checksum: RxChecksum, gso_size: u16) {
        let Some(layout) = Layout::of_ethernet(frame).filter(|layout| layout.protocol == 6) else { return };
        assert!(layout.network_checksum_holds(frame));
        match checksum {
            RxChecksum::Partial => self.partial += 1,
            RxChecksum::Verified => {}
            RxChecksum::Unverified => assert!(super::checksum_holds(frame), "checksum of a received frame"),
        }
        let flags = frame[layout.l4 + 13];
        assert_eq!(flags & 4, 0, "the peer reset the connection");
        let header = layout.tcp_header(frame).unwrap();
        let payload = &frame[layout.l4 + header..layout.end];
        let sequence = be32(frame, layout.l4 + 4);
        let ack = be32(frame, layout.l4 + 8);
        if ack.wrapping_sub(self.snd_una) as i32 > 0 {
            self.snd_una = ack;
        }
        let window = u32::from(u16::from_be_bytes([frame[layout.l4 + 14], frame[layout.l4 + 15]]));
        if flags & SYN != 0 {
            self.rcv_nxt = sequence.wrapping_add(1);
            self.scale = scale_of(&frame[layout.l4 + 20..layout.l4 + header]);
            self.window = window;
            self.send(ACK, &[], &[], None);
            return;
        }
        self.window = window << self.scale;
        if payload.is_empty() && flags & FIN == 0 {
            return;
        }
        self.longest = self.longest.max(payload.len());
        self.merged += usize::from(gso_size != 0);
        // Anything but what is awaited next makes a duplicate ACK, which makes the peer repeat what is missing.
        let ahead = sequence.wrapping_sub(self.rcv_nxt) as i32;
        if ahead >= 0 {
            self.early.insert(self.received.len() + ahead as usize, (payload.to_vec(), flags & FIN != 0));
        }
        while let Some(next) = self.early.first_entry().filter(|entry| *entry.key() <= self.received.len()) {
            let (start, (payload, fin)) = next.remove_entry();
            let known = self.received.len() - start;
            if known <= payload.len() {
                self.received.extend_from_slice(&payload[known..]);
                self.rcv_nxt = self.rcv_nxt.wrapping_add((payload.len() - known) as u32);
                self.rcv_nxt = self.rcv_nxt.wrapping_add(u32::from(fin && !self.finished));
                self.finished |= fin;
            }
        }
        self.send(ACK, &[], &[], None);
    }

    /// Whether the port took it.
    fn send(&mut self, flags: u8, options: &[u8], payload: &[u8], mss: Option<u16>) -> bool {
        let mut header: Vec<u8> = PEER_MAC.into_iter().chain(OUR_MAC).chain([8, 0]).collect();
        header.extend([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0]);
        header.extend(OURS);
        header.extend(PEER);
        header.extend(self.local.to_be_bytes());
        header.extend(self.remote.to_be_bytes());
        header.extend(self.snd_nxt.to_be_bytes());
        header.extend(if flags & ACK != 0 { self.rcv_nxt } else { 0 }.to_be_bytes());
        header.extend([((5 + options.len() / 4) << 4) as u8, flags]);
        header.extend(0x8000u16.to_be_bytes());
        header.extend([0; 4]);
        header.extend(options);
        let end = header.len() + payload.len();
        put_be16(&mut header, 16, (end - 14) as u16);
        let layout = Layout::of_ethernet(&header).unwrap();
        layout.sum_ipv4(&mut header);
        let pseudo = layout.pseudo_header(&header, end - layout.l4).fold();
        sum::store(&mut header, layout.l4 + 16, pseudo);
        let pieces: Vec<Piece> =
            payload.chunks(10_007).map(|part| Piece { start: part.as_ptr(), len: part.len() }).collect();
        let frame = TxFrame {
            header: &header,
            payload: &pieces,
            checksum: TxChecksum::Partial { start: 34, offset: 16 },
            gso: mss.filter(|&mss| payload.len() > usize::from(mss)).map(|size| Gso { size, repeats_ecn: false }),
        };
        self.port.transmit(&frame).is_ok()
    }
}

fn scale_of(options: &[u8]) -> u32 {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => break,
            1 => at += 1,
            3 => return u32::from(options[at + 2]),
            _ => at += usize::from(options[at + 1]).max(2),
        }
    }
    0
}
