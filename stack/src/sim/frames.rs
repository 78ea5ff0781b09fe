//! Frames on the simulated wire: what a port does to a super-segment on its way out, and to a train on its way in. An
//! implementation of its own, so that the engine's cutting and merging is not its own witness.

use super::rng::Rng;
use crate::frame::{Gso, RxChecksum, Segment, TxChecksum};
use crate::wire::{EtherType, EthernetView, Ipv4View, TcpFlags, TcpView, checksum, ethernet, protocol};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

/// A frame between two nodes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// Not zero: a super-segment that crosses the wire in one piece.
    pub gso_size: u16,
    /// The transport checksum is only the pseudo header's sum.
    pub partial: bool,
    /// A bit was turned over on the way.
    pub corrupt: bool,
    /// Of a fragment: what it was cut from.
    pub whole: Option<Rc<Frame>>,
}

/// Offsets of headers within a frame that carries TCP over IPv4.
#[derive(Clone, Copy, Debug)]
pub struct TcpPlace {
    pub ip: usize,
    pub tcp: usize,
    pub payload: usize,
    /// End of the IP packet.
    pub end: usize,
}

impl Frame {
    /// Where TCP's parts lie. `None`: not TCP, or a fragment.
    pub fn tcp_place(&self, link: usize) -> Option<TcpPlace> {
        if link != 0 && EthernetView::new(&self.bytes).ok()?.ether_type != EtherType::IPV4 {
            return None;
        }
        let header = Ipv4View::new(self.bytes.get(link..)?).ok()?;
        if header.protocol() != protocol::TCP || header.is_fragment() {
            return None;
        }
        let tcp = link + header.header_len();
        let end = if self.gso_size != 0 { self.bytes.len() } else { link + usize::from(header.total_len()) };
        let payload = tcp + TcpView::new(self.bytes.get(tcp..end)?).ok()?.header_len();
        Some(TcpPlace { ip: link, tcp, payload, end })
    }

    pub fn is_arp(&self, link: usize) -> bool {
        link != 0 && EthernetView::new(&self.bytes).is_ok_and(|view| view.ether_type == EtherType::ARP)
    }
}

/// How a port sends.
#[derive(Clone, Copy, Debug)]
pub struct SendMode {
    /// Super-segments cross the wire in one piece, as between two virtual devices.
    pub whole: bool,
    /// Checksums stay partial, as between two virtual devices.
    pub partial: bool,
}

/// The wire frames of `segment`, whose payload is `payload`.
pub fn send(segment: &Segment<'_>, payload: &[u8], link: usize, mode: SendMode) -> Vec<Frame> {
    let bytes = [segment.header, payload].concat();
    let super_segment = segment.gso.filter(|gso| payload.len() > usize::from(gso.size));
    let partial = matches!(segment.checksum, TxChecksum::Partial { .. });
    let mut frame =
        Frame { bytes, gso_size: super_segment.map_or(0, |gso| gso.size), partial, corrupt: false, whole: None };
    match (super_segment, segment.checksum) {
        (Some(gso), _) if !mode.whole || gso.repeats_ecn => cut(&frame, gso, link),
        (Some(_), _) => vec![frame],
        (None, TxChecksum::Partial { start, offset }) if !mode.partial => {
            complete(&mut frame.bytes, usize::from(start), usize::from(offset));
            frame.partial = false;
            vec![frame]
        }
        _ => vec![frame],
    }
}

/// Finishes a partial checksum.
fn complete(bytes: &mut [u8], start: usize, offset: usize) {
    let sum = checksum::sum(&bytes[start..]);
    bytes[start + offset..start + offset + 2].copy_from_slice(&(!sum).to_be_bytes());
}

/// Cuts a super-segment into what the wire carries.
fn cut(frame: &Frame, gso: Gso, link: usize) -> Vec<Frame> {
    let size = usize::from(gso.size);
    let Some(TcpPlace { ip, tcp, payload: start, end }) = frame.tcp_place(link) else {
        panic!("a super-segment that is not TCP: {:02x?}", &frame.bytes[..frame.bytes.len().min(60)])
    };
    let header = &frame.bytes[..start];
    let (seq, flags) = {
        let view = TcpView::new(&frame.bytes[tcp..]).expect("a place has a header");
        (view.seq(), view.flags())
    };
    let identification = u16::from_be_bytes([header[ip + 4], header[ip + 5]]);
    let chunks = frame.bytes[start..end].chunks(size);
    let last = chunks.len() - 1;
    let piece = |(place, chunk): (usize, &[u8])| {
        let mut bytes = [header, chunk].concat();
        let total = (bytes.len() - ip) as u16;
        bytes[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
        bytes[ip + 4..ip + 6].copy_from_slice(&identification.wrapping_add(place as u16).to_be_bytes());
        bytes[ip + 10..ip + 12].fill(0);
        let sum = checksum::sum(&bytes[ip..tcp]);
        bytes[ip + 10..ip + 12].copy_from_slice(&(!sum).to_be_bytes());
        bytes[tcp + 4..tcp + 8].copy_from_slice(&(seq + (place * size) as u32).0.to_be_bytes());
        let mut kept = flags;
        if place != last {
            kept = kept.without(TcpFlags::FIN | TcpFlags::PSH);
        }
        if place != 0 && !gso.repeats_ecn {
            kept = kept.without(TcpFlags::CWR);
        }
        bytes[tcp + 13] = kept.0 as u8;
        seal(&mut bytes, ip, tcp);
        Frame { bytes, gso_size: 0, partial: false, corrupt: false, whole: None }
    };
    chunks.enumerate().map(piece).collect()
}

/// Writes the whole TCP checksum of a frame without padding.
pub fn seal(bytes: &mut [u8], ip: usize, tcp: usize) {
    let view = Ipv4View::new(&bytes[ip..]).expect("the frame carries IPv4");
    let len = (bytes.len() - tcp) as u32;
    let pseudo = checksum::pseudo_v4(view.source(), view.destination(), protocol::TCP, len);
    bytes[tcp + 16..tcp + 18].fill(0);
    let sum = checksum::add(pseudo, checksum::sum(&bytes[tcp..]));
    bytes[tcp + 16..tcp + 18].copy_from_slice(&(!sum).to_be_bytes());
}

fn checksum_holds(bytes: &[u8], place: TcpPlace) -> bool {
    let Ok(view) = Ipv4View::new(&bytes[place.ip..]) else { return false };
    let len = (place.end - place.tcp) as u32;
    let pseudo = checksum::pseudo_v4(view.source(), view.destination(), protocol::TCP, len);
    view.checksum_holds() && checksum::add(pseudo, checksum::sum(&bytes[place.tcp..place.end])) == checksum::VALID
}

/// What a port hands to the stack: one frame, or several merged.
#[derive(Debug)]
pub struct Train {
    pub head: Vec<u8>,
    pub tail: Vec<Vec<u8>>,
    pub checksum: RxChecksum,
    pub gso_size: u16,
}

/// Merges what arrived together, where a port would. `merge`: the port merges at all. `verify`: it verifies checksums.
/// `split`: it delivers long frames in several buffers.
pub fn receive(frames: Vec<Frame>, link: usize, merge: bool, verify: bool, split: bool, rng: &mut Rng) -> Vec<Train> {
    let mut trains: Vec<(Train, Option<Mergeable>)> = vec![];
    for frame in frames {
        let place = frame.tcp_place(link);
        let holds = place.is_some_and(|place| frame.partial || checksum_holds(&frame.bytes, place));
        let mergeable = place.filter(|_| merge && holds && frame.gso_size == 0);
        let mergeable = mergeable.and_then(|place| Mergeable::new(&frame.bytes, place));
        if let (Some((train, Some(last))), Some(next)) = (trains.last_mut(), &mergeable)
            && last.continues(next)
        {
            train.tail.push(frame.bytes[next.place.payload..next.place.end].to_vec());
            train.gso_size = last.size as u16;
            train.head[last.place.tcp + 13] |= (next.flags.0 & TcpFlags::PSH.0) as u8;
            last.extend(next);
            continue;
        }
        let checksum = match (frame.partial, verify && holds && place.is_some()) {
            (true, _) => RxChecksum::Partial,
            (false, true) => RxChecksum::Verified,
            (false, false) => RxChecksum::Unverified,
        };
        // What is merged must have been verified; alone it may go unverified.
        let mergeable = mergeable.filter(|_| checksum != RxChecksum::Unverified);
        let mut bytes = frame.bytes;
        if let Some(place) = mergeable.as_ref().map(|it| it.place) {
            bytes.truncate(place.end);
        }
        let train = Train { head: bytes, tail: vec![], checksum, gso_size: frame.gso_size };
        trains.push((train, mergeable));
    }
    let mut trains: Vec<Train> = trains.into_iter().map(|(train, _)| train).collect();
    for train in trains.iter_mut().filter(|train| split && train.tail.is_empty() && train.head.len() > 400) {
        let at = rng.between(150, train.head.len() as u64 - 1) as usize;
        let mut rest = train.head.split_off(at);
        let second = rest.split_off(rest.len() / 2);
        train.tail = vec![rest, second];
    }
    trains
}

/// What decides whether two segments may be merged.
#[derive(Debug)]
struct Mergeable {
    place: TcpPlace,
    flags: TcpFlags,
    /// Everything that has to be the same: addresses, ports, ACK, window, options, TOS, TTL.
    same: Vec<u8>,
    next_seq: crate::wire::SeqNumber,
    seq: crate::wire::SeqNumber,
    size: usize,
    total: usize,
    /// A shorter segment or PSH ends a train.
    closed: bool,
}

impl Mergeable {
    fn new(bytes: &[u8], place: TcpPlace) -> Option<Self> {
        let tcp = TcpView::new(&bytes[place.tcp..place.end]).ok()?;
        let (flags, size) = (tcp.flags(), place.end - place.payload);
        if size == 0 || flags.without(TcpFlags::PSH | TcpFlags::ECN) != TcpFlags::ACK {
            return None;
        }
        let mut same = bytes[..place.payload].to_vec();
        // Length, identification, checksums, sequence number and PSH may differ.
        for range in [place.ip + 2..place.ip + 6, place.ip + 10..place.ip + 12, place.tcp + 4..place.tcp + 8] {
            same[range].fill(0);
        }
        same[place.tcp + 13] &= !(TcpFlags::PSH.0 as u8);
        same[place.tcp + 16..place.tcp + 18].fill(0);
        let seq = tcp.seq();
        let next_seq = seq + size as u32;
        Some(Self { place, flags, same, next_seq, seq, size, total: bytes.len(), closed: flags.psh() })
    }

    fn continues(&self, next: &Self) -> bool {
        let fits = self.total + next.size <= 65_535 && next.size <= self.size;
        !self.closed && fits && next.seq == self.next_seq && next.same == self.same
    }

    fn extend(&mut self, next: &Self) {
        self.closed = next.closed || next.size < self.size;
        self.next_seq = next.next_seq;
        self.total += next.size;
    }
}

/// Cuts an IPv4 frame into fragments of at most `mtu` bytes, as a router does (whatever DF says).
pub fn fragment(frame: &Frame, link: usize, mtu: usize) -> Vec<Frame> {
    let Ok(header) = Ipv4View::new(&frame.bytes[link..]) else { return vec![frame.clone()] };
    let (header_len, total) = (header.header_len(), usize::from(header.total_len()));
    if total <= mtu || frame.gso_size != 0 || header.is_fragment() {
        return vec![frame.clone()];
    }
    // A router has whole checksums before it.
    let mut frame = frame.clone();
    if let (true, Some(place)) = (frame.partial, frame.tcp_place(link)) {
        frame.bytes.truncate(place.end);
        seal(&mut frame.bytes, place.ip, place.tcp);
        frame.partial = false;
    }
    let whole = Rc::new(frame.clone());
    let payload = &frame.bytes[link + header_len..link + total];
    let size = (mtu - header_len) & !7;
    let count = payload.len().div_ceil(size);
    let piece = |(place, chunk): (usize, &[u8])| {
        let mut bytes = [&frame.bytes[..link + header_len], chunk].concat();
        let more = if place + 1 < count { 0x2000 } else { 0 };
        let total = (header_len + chunk.len()) as u16;
        bytes[link + 2..link + 4].copy_from_slice(&total.to_be_bytes());
        bytes[link + 6..link + 8].copy_from_slice(&(more | (place * size / 8) as u16).to_be_bytes());
        bytes[link + 10..link + 12].fill(0);
        let sum = checksum::sum(&bytes[link..link + header_len]);
        bytes[link + 10..link + 12].copy_from_slice(&(!sum).to_be_bytes());
        Frame { bytes, whole: Some(whole.clone()), gso_size: 0, partial: false, corrupt: false }
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// Marks a packet that is ECN-capable with CE, as a router does (RFC 3168 section 5).
pub fn mark(frame: &mut Frame, link: usize) {
    let Some(place) = frame.tcp_place(link) else { return };
    if frame.corrupt || frame.bytes[place.ip + 1] & 3 == 0 {
        return;
    }
    frame.bytes[place.ip + 1] |= 3;
    frame.bytes[place.ip + 10..place.ip + 12].fill(0);
    let sum = !checksum::sum(&frame.bytes[place.ip..place.tcp]);
    frame.bytes[place.ip + 10..place.ip + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Takes options off a SYN, as middleboxes do: those that `drop` names are overwritten with NOP.
pub fn strip_options(frame: &mut Frame, link: usize, drop: impl Fn(u8) -> bool) {
    let Some(place) = frame.tcp_place(link) else { return };
    if frame.corrupt || frame.bytes[place.tcp + 13] & TcpFlags::SYN.0 as u8 == 0 {
        return;
    }
    let options = &mut frame.bytes[place.tcp + 20..place.payload];
    let (mut at, mut dropped) = (0, false);
    while at < options.len() {
        let len = match options[at] {
            0 => break,
            1 => 1,
            _ => usize::from(options[at + 1]),
        };
        if options[at] > 1 && drop(options[at]) {
            options[at..at + len].fill(1);
            dropped = true;
        }
        at += len;
    }
    if dropped && !frame.partial {
        seal(&mut frame.bytes[..place.end], place.ip, place.tcp);
    }
}

/// Length of the link header on the simulated wire.
pub const fn link_len(ethernet: bool) -> usize {
    if ethernet { ethernet::HEADER_LEN } else { 0 }
}
