//! The test bench: a host that keeps what the stack gives it, and a script in which the test plays the peer.

use crate::wire::{
    Ipv4Repr, Ipv4View, SeqNumber, TcpFlags, TcpOptions, TcpRepr, TcpView, Timestamps, checksum, protocol,
};
use crate::*;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::vec;
use std::vec::Vec;

pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const PORT: PortId = PortId(0);
pub(super) const OUR_PORT: u16 = 80;
pub(super) const PEER_PORT: u16 = 5000;
/// The peer's initial sequence number in scripts.
pub(super) const PEER_ISS: u32 = 0xffff_ff00;

pub(super) const S: TcpFlags = TcpFlags::SYN;
pub(super) const A: TcpFlags = TcpFlags::ACK;
pub(super) const F: TcpFlags = TcpFlags::FIN;
pub(super) const R: TcpFlags = TcpFlags::RST;
pub(super) const U: TcpFlags = TcpFlags::URG;

pub(super) fn config() -> Config {
    Config {
        connections: 64,
        listeners: 4,
        requests: 8,
        time_waits: 8,
        ranges: 256,
        flights: 512,
        neighbours: 8,
        routes: 4,
        reassembly: 128 * 1024,
        seed: [42; 32],
        shard: 0,
        shards: 1,
    }
}

/// The byte of every send stream at `offset`.
pub(super) fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Keeps frames and bytes.
pub(super) struct Bench {
    /// Whole IP packets, cut and summed as a device would.
    pub(super) sent: VecDeque<Vec<u8>>,
    pub(super) received: BTreeMap<u64, Vec<u8>>,
    pub(super) busy: bool,
    /// Stores no more than this beyond what it has, when given.
    pub(super) room: Option<usize>,
    pub(super) incoming: Incoming,
    /// Every super-segment's payload length, before cutting.
    pub(super) super_segments: Vec<usize>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            received: BTreeMap::new(),
            busy: false,
            room: None,
            incoming: Incoming::Adopt(Owner(7)),
            super_segments: Vec::new(),
        }
    }
}

impl Host for Bench {
    fn transmit(&mut self, _port: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        if self.busy {
            return Err(Busy);
        }
        let payload: Vec<u8> = match segment.payload {
            Payload::None => Vec::new(),
            Payload::Inline(bytes) => bytes.to_vec(),
            Payload::Stream { offset, len, .. } => (offset..offset + u64::from(len)).map(pattern).collect(),
        };
        if !payload.is_empty() {
            self.super_segments.push(payload.len());
        }
        let size = segment.gso.map_or(payload.len().max(1), |gso| usize::from(gso.size));
        let pieces = payload.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let pieces = if pieces.is_empty() { vec![Vec::new()] } else { pieces };
        let count = pieces.len();
        let mut at = 0u32;
        for (place, piece) in pieces.into_iter().enumerate() {
            let mut packet = segment.header.to_vec();
            packet.extend_from_slice(&piece);
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[10..12].fill(0);
            let sum = !checksum::sum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let seq = u32::from_be_bytes(packet[24..28].try_into().unwrap()).wrapping_add(at);
            packet[24..28].copy_from_slice(&seq.to_be_bytes());
            if place + 1 < count {
                packet[33] &= !(TcpFlags::FIN | TcpFlags::PSH).0 as u8;
            }
            if place > 0 && !segment.gso.is_some_and(|gso| gso.repeats_ecn) {
                packet[33] &= !TcpFlags::CWR.0 as u8;
            }
            if let TxChecksum::Partial { start, offset } = segment.checksum {
                assert_eq!((start, offset), (20, 16));
                // The pseudo header's sum in the field is for the super-segment: take it for this one.
                let pseudo = checksum::pseudo_v4(addr(&packet, 12), addr(&packet, 16), 6, u32::from(total) - 20);
                packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
                let sum = !checksum::sum(&packet[20..]);
                packet[36..38].copy_from_slice(&sum.to_be_bytes());
            }
            at += piece.len() as u32;
            self.sent.push_back(packet);
        }
        Ok(())
    }

    fn store(&mut self, owner: Owner, offset: u64, bytes: &[u8]) -> Stored {
        let stream = self.received.entry(owner.0).or_default();
        let len = match self.room {
            Some(room) => bytes.len().min((room as u64).saturating_sub(offset) as usize),
            None => bytes.len(),
        };
        let end = offset as usize + len;
        if stream.len() < end {
            stream.resize(end, 0);
        }
        stream[offset as usize..end].copy_from_slice(&bytes[..len]);
        Stored { len, sum: checksum::sum(&bytes[..len]) }
    }

    fn incoming(&mut self, _open: &PassiveOpen) -> Incoming {
        self.incoming
    }
}

fn addr(packet: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap())
}

/// Memory for a stack, for the rest of the test run.
pub(super) fn memory(config: &Config) -> &'static mut [u8] {
    aligned(Box::leak(dirty(config).into_boxed_slice()), config)
}

/// Bytes enough for a stack wherever they begin, none of them zero.
pub(super) fn dirty(config: &Config) -> Vec<u8> {
    vec![0xa5; config.memory_size() + 64]
}

/// The part of [`dirty`] memory that a stack can lie in.
pub(super) fn aligned<'m>(block: &'m mut [u8], config: &Config) -> &'m mut [u8] {
    let skip = block.as_ptr().align_offset(64);
    &mut block[skip..skip + config.memory_size()]
}

pub(super) fn interface(mtu: u16, max_segment: u32) -> InterfaceConfig {
    InterfaceConfig {
        port: PORT,
        link: Link::Ip,
        mtu,
        offload: Offload { max_segment, tx_checksum: true },
        mode: AddressMode::Own,
    }
}

pub(super) fn stack(config: &Config, address: Ipv4Addr, mtu: u16, max_segment: u32) -> Stack<'static> {
    stack_in(memory(config), config, address, mtu, max_segment)
}

pub(super) fn stack_in<'m>(
    memory: &'m mut [u8],
    config: &Config,
    address: Ipv4Addr,
    mtu: u16,
    max_segment: u32,
) -> Stack<'m> {
    let mut stack = Stack::format(memory, config, Instant::from_micros(1_000_000)).unwrap();
    stack.add_interface(&interface(mtu, max_segment)).unwrap();
    stack.add_address(PORT, address.into(), 24).unwrap();
    stack
}

/// A segment that the stack sent, as the peer sees it. Numbers are relative to the initial ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) flags: TcpFlags,
    /// ECN field of the IP header.
    pub(super) ecn: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) urgent: u16,
    pub(super) options: TcpOptions,
    pub(super) payload: Vec<u8>,
}

impl Seen {
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }

    /// Flags without PSH, number, acknowledgement and length: what most scripts look at.
    pub(super) fn brief(&self) -> (TcpFlags, u32, u32, usize) {
        (self.flags.without(TcpFlags::PSH), self.seq, self.ack, self.len())
    }
}

/// One stack, and the test in the place of its peer.
pub(super) struct Script<'m> {
    pub(super) stack: Stack<'m>,
    pub(super) bench: Bench,
    pub(super) now: u64,
    /// The stack's initial sequence number, once it was seen.
    pub(super) iss: u32,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) window: u16,
    /// ECN field of the peer's packets.
    pub(super) ecn: u8,
    pub(super) id: Option<ConnectionId>,
    /// Whether the peer's segments carry timestamps.
    pub(super) stamps: bool,
    /// How long the peer's last segment of the handshake takes, in microseconds.
    pub(super) round_trip: u64,
    echo: u32,
}

/// Options of an ordinary peer.
pub(super) fn usual() -> TcpOptions {
    TcpOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 1, echo: 0 }),
        ..TcpOptions::default()
    }
}

/// Options of a peer that knows only the MSS.
pub(super) fn plain() -> TcpOptions {
    TcpOptions { mss: Some(1460), ..TcpOptions::default() }
}

/// SACK and nothing else.
pub(super) fn sack_only() -> TcpOptions {
    TcpOptions { sack_permitted: true, ..plain() }
}

impl Script<'static> {
    pub(super) fn new() -> Self {
        Self::with_stack(stack(&config(), OURS, 1500, 1500))
    }

    /// A port that takes super-segments of 64 KiB.
    pub(super) fn with_gso() -> Self {
        Self::with_stack(stack(&config(), OURS, 1500, 65_535))
    }

    /// A connection that the peer opened with `offer`; its owner is 7.
    pub(super) fn accepted(offer: TcpOptions, options: &SocketOptions) -> Self {
        Self::new().accept(offer, options)
    }

    /// A connection that we opened and the peer accepted with `offer`.
    pub(super) fn connected(offer: TcpOptions, options: &SocketOptions) -> Self {
        let mut script = Self::new();
        script.stamps = offer.timestamps.is_some();
        script.connect(options);
        let syn = script.next();
        assert_eq!((syn.flags, syn.seq), (S, 0));
        script.inject_with(S | A, 0, 1, offer, &[]);
        assert_eq!(script.next().brief(), (A, 1, 1, 0));
        script.events();
        script
    }
}

impl<'m> Script<'m> {
    pub(super) fn with_stack(stack: Stack<'m>) -> Self {
        Self {
            stack,
            bench: Bench::new(),
            now: 1_000_000,
            iss: 0,
            local_port: OUR_PORT,
            remote_port: PEER_PORT,
            window: u16::MAX,
            ecn: 0,
            id: None,
            stamps: false,
            round_trip: 0,
            echo: 0,
        }
    }

    pub(super) fn at(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    /// A listener on [`OUR_PORT`].
    pub(super) fn listen(&mut self, backlog: u32, options: &SocketOptions) -> ListenerId {
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), OUR_PORT);
        self.stack.listen(Owner(1), local, backlog, options).unwrap()
    }

    pub(super) fn accept(mut self, offer: TcpOptions, options: &SocketOptions) -> Self {
        self.listen(16, options);
        self.stamps = offer.timestamps.is_some();
        self.peer_opens(offer);
        let events = self.events();
        let id = events.iter().find_map(|event| match event {
            Event::Connection { connection, changes, .. } if changes.established => Some(*connection),
            _ => None,
        });
        self.id = Some(id.expect("established"));
        self.flush();
        self.bench.sent.clear();
        self
    }

    /// The peer's handshake with the listener.
    pub(super) fn peer_opens(&mut self, offer: TcpOptions) {
        self.inject_with(S, 0, 0, offer, &[]);
        let answer = self.next();
        assert_eq!(answer.flags, S | A);
        assert_eq!(answer.ack, 1);
        self.now += self.round_trip;
        self.inject(A, 1, 1, &[]);
    }

    pub(super) fn connect(&mut self, options: &SocketOptions) {
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let remote = SocketAddr::new(PEER.into(), PEER_PORT);
        let id = self.stack.connect(self.at(), Owner(7), local, remote, options, &mut self.bench).unwrap();
        self.local_port = self.stack.local_address(id).unwrap().port();
        self.id = Some(id);
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id.unwrap()
    }

    /// A segment of the peer's.
    pub(super) fn inject(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) {
        self.inject_with(flags, seq, ack, TcpOptions::default(), payload);
    }

    pub(super) fn inject_with(&mut self, flags: TcpFlags, seq: u32, ack: u32, mut options: TcpOptions, payload: &[u8]) {
        if self.stamps && options.timestamps.is_none_or(|stamps| stamps.value == 1) {
            let value = (self.now / 1_000) as u32;
            options.timestamps = Some(Timestamps { value, echo: self.echo });
        }
        let packet = self.packet(flags, seq, ack, options, 0, payload);
        self.deliver(&packet);
    }

    pub(super) fn packet(
        &self,
        flags: TcpFlags,
        seq: u32,
        ack: u32,
        options: TcpOptions,
        urgent: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let repr = TcpRepr {
            source_port: self.remote_port,
            destination_port: self.local_port,
            seq: SeqNumber(PEER_ISS.wrapping_add(seq)),
            ack: SeqNumber(self.iss.wrapping_add(ack)),
            flags,
            window: self.window,
            urgent,
            options,
        };
        let mut packet = build(PEER, OURS, &repr, payload);
        packet[1] |= self.ecn;
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    pub(super) fn deliver(&mut self, packet: &[u8]) {
        let now = self.at();
        self.stack.on_frame(now, PORT, &RxFrame::single(packet), &mut self.bench);
    }

    pub(super) fn flush(&mut self) {
        let now = self.at();
        self.stack.flush(now, &mut self.bench);
    }

    /// What the stack sent next; flushes when nothing is there yet.
    pub(super) fn next(&mut self) -> Seen {
        self.try_next().expect("a segment")
    }

    pub(super) fn try_next(&mut self) -> Option<Seen> {
        if self.bench.sent.is_empty() {
            self.flush();
        }
        let packet = self.bench.sent.pop_front()?;
        Some(self.read(&packet))
    }

    fn read(&mut self, packet: &[u8]) -> Seen {
        let ip = Ipv4View::new(packet).unwrap();
        assert!(ip.checksum_holds());
        assert_eq!((ip.source(), ip.destination()), (OURS, PEER));
        assert!(ip.dont_fragment());
        assert!(packet.len() <= 1500);
        let pseudo = checksum::pseudo_v4(OURS, PEER, protocol::TCP, packet.len() as u32 - 20);
        assert_eq!(checksum::add(pseudo, checksum::sum(&packet[20..])), checksum::VALID, "checksum");
        let tcp = TcpView::new(ip.rest()).unwrap();
        let options = tcp.options();
        if tcp.flags().syn() {
            self.iss = tcp.seq().0;
        }
        if let Some(stamps) = options.timestamps {
            self.echo = stamps.value;
        }
        Seen {
            flags: tcp.flags(),
            ecn: packet[1] & 3,
            seq: tcp.seq().0.wrapping_sub(self.iss),
            ack: if tcp.flags().ack() { tcp.ack().0.wrapping_sub(PEER_ISS) } else { 0 },
            window: tcp.window(),
            urgent: tcp.urgent(),
            options,
            payload: tcp.payload().to_vec(),
        }
    }

    #[track_caller]
    pub(super) fn expect_nothing(&mut self) {
        let seen = self.try_next();
        assert!(seen.is_none(), "unexpected {seen:?}");
    }

    /// Time passes, timers fire.
    pub(super) fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        while let Some(next) = self.stack.next_timeout().filter(|next| next.as_micros() <= end) {
            self.now = self.now.max(next.as_micros());
            let now = self.at();
            self.stack.on_timeout(now, &mut self.bench);
            if self.stack.next_timeout() == Some(next) {
                self.now += 1;
            }
        }
        self.now = end;
    }

    pub(super) fn write(&mut self, end: u64) {
        let now = self.at();
        let id = self.id();
        self.stack.write(now, id, end, &mut self.bench).unwrap();
    }

    pub(super) fn read_to(&mut self, offset: u64) {
        let now = self.at();
        let id = self.id();
        self.stack.read(now, id, offset, &mut self.bench).unwrap();
    }

    pub(super) fn shutdown(&mut self) {
        let now = self.at();
        let id = self.id();
        self.stack.shutdown(now, id, &mut self.bench).unwrap();
    }

    pub(super) fn close(&mut self) {
        let now = self.at();
        let id = self.id();
        self.stack.close(now, id, &mut self.bench).unwrap();
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.stack.poll_event()).collect()
    }

    /// Why the connection ended, if it has.
    pub(super) fn closed(&mut self) -> Option<CloseReason> {
        let reasons: Vec<CloseReason> = self
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Closed { reason, .. } => Some(reason),
                _ => None,
            })
            .collect();
        assert!(reasons.len() <= 1, "reported once");
        reasons.first().copied()
    }

    pub(super) fn info(&self) -> Info {
        self.stack.info(self.at(), self.id()).unwrap()
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.stack.counters().value(counter)
    }

    /// Bytes that the application received.
    pub(super) fn received(&self) -> &[u8] {
        self.bench.received.get(&7).map_or(&[], |stream| stream)
    }
}

/// An IPv4 packet with a TCP segment, both complete.
pub(super) fn build(source: Ipv4Addr, destination: Ipv4Addr, repr: &TcpRepr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20 + 60];
    let tcp_len = repr.emit(&mut packet[20..], 0) + payload.len();
    packet.truncate(20 + tcp_len - payload.len());
    packet.extend_from_slice(payload);
    Ipv4Repr {
        source,
        destination,
        protocol: protocol::TCP,
        ttl: 64,
        tos: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: tcp_len as u16,
    }
    .emit(&mut packet);
    let pseudo = checksum::pseudo_v4(source, destination, protocol::TCP, tcp_len as u32);
    let sum = !checksum::add(pseudo, checksum::sum(&packet[20..]));
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}
