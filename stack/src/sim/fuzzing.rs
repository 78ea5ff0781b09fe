//! What `make fuzz` calls: bytes of a fuzzer's become frames, segments, ICMP errors and commands for one stack. Nothing may panic,
//! every invariant of [`Stack::audit`] holds after each step, what leaves is well-formed, and in the end every record is back.

use crate::api::*;
use crate::congestion::Congestion;
use crate::frame::*;
use crate::stack::{Config, Stack, Usage};
use crate::tcp::state::State;
use crate::time::{Duration, Instant};
use crate::wire::{
    ArpRepr, Embedded, EthernetView, Icmpv4Repr, Ipv4Repr, Ipv4View, Ipv6View, SeqNumber, TcpFlags, TcpOptions,
    TcpRepr, TcpView, Timestamps, checksum, protocol,
};
use core::net::{Ipv4Addr, SocketAddr};
use std::vec;
use std::vec::Vec;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: PortId = PortId(0);
const OUR_PORT: u16 = 80;
const PEER_PORT: u16 = 5_000;
const OWNER: Owner = Owner(7);
/// The peer's initial sequence number: wraps soon.
const PEER_ISS: u32 = 0xffff_f000;
const MOST_STEPS: usize = 400;

/// A fuzzer's bytes, taken from the front; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.word()) | u32::from(self.word()) << 16
    }

    /// A distance that is mostly small.
    fn distance(&mut self) -> i64 {
        match self.byte() {
            kind @ 0..=127 => i64::from(kind) - 64,
            128..=191 => i64::from(self.word() as i16),
            192..=223 => (i64::from(self.byte()) - 128) * 1_460,
            _ => i64::from(self.long() as i32),
        }
    }
}

/// Keeps nothing but what the next step needs to know.
struct Port {
    busy: bool,
    /// Sequence number of the last segment that left, and the initial one once a SYN did.
    last_seq: u32,
    iss: Option<u32>,
    local_port: u16,
    incoming: Incoming,
    room: usize,
}

impl Host for Port {
    fn transmit(&mut self, _port: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        if self.busy {
            return Err(Busy);
        }
        let packet = Ipv4View::new(segment.header).expect("an IPv4 header");
        if packet.protocol() == protocol::TCP {
            let tcp = TcpView::new(packet.rest()).expect("a TCP header");
            if tcp.destination_port() == PEER_PORT {
                self.last_seq = tcp.seq().0;
                self.local_port = tcp.source_port();
                if tcp.flags().syn() {
                    self.iss = Some(tcp.seq().0);
                }
            }
        }
        if let Payload::Stream { len, .. } = segment.payload {
            assert!(len > 0, "an empty payload");
            assert!(segment.gso.is_none_or(|gso| gso.size > 0 && u32::from(gso.size) < len));
        }
        Ok(())
    }

    fn store(&mut self, _owner: Owner, _offset: u64, bytes: &[u8]) -> Stored {
        let len = bytes.len().min(self.room);
        Stored { len, sum: checksum::sum(&bytes[..len]) }
    }

    fn incoming(&mut self, _open: &PassiveOpen) -> Incoming {
        self.incoming
    }
}

struct Fuzzed<'m> {
    stack: Stack<'m>,
    port: Port,
    now: u64,
    connection: Option<ConnectionId>,
    written: u64,
    timestamps: bool,
}

/// An IPv4 header in front of `len` bytes.
fn header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; Ipv4Repr::LEN];
    Ipv4Repr {
        source,
        destination,
        protocol,
        ttl: 64,
        tos: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len as u16,
    }
    .emit(&mut packet);
    packet
}

fn config() -> Config {
    Config {
        connections: 4,
        listeners: 2,
        requests: 2,
        time_waits: 2,
        ranges: 24,
        flights: 24,
        neighbours: 4,
        routes: 2,
        reassembly: 16_384,
        seed: [7; 32],
        shard: 0,
        shards: 1,
    }
}

impl Fuzzed<'_> {
    fn at(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    fn deliver(&mut self, packet: &[u8]) {
        let frame = RxFrame { checksum: RxChecksum::Verified, ..RxFrame::single(packet) };
        let now = self.at();
        self.stack.on_frame(now, PORT, &frame, &mut self.port);
    }

    fn id(&self) -> Option<ConnectionId> {
        self.connection.filter(|id| self.stack.local_address(*id).is_ok())
    }

    /// A segment near where the two ends are.
    fn segment(&mut self, bytes: &mut Bytes<'_>) {
        let flags = TcpFlags(bytes.byte().into());
        let now = self.at();
        let (received, sent) = match self.id().and_then(|id| self.stack.info(now, id).ok()) {
            Some(info) if info.state == State::SynSent => (u64::from(!flags.syn()), 1),
            Some(info) => (1 + info.bytes_received, 1 + info.bytes_acked + info.unacked),
            None => (u64::from(!flags.syn()), 1),
        };
        let seq = (received as i64 + bytes.distance()) as u32;
        let ack = (sent as i64 + bytes.distance()) as u32;
        let iss = self.port.iss.unwrap_or(0);
        let mut options = TcpOptions::default();
        let wanted = bytes.byte();
        if flags.syn() {
            options.mss = (wanted & 1 != 0).then(|| bytes.word());
            options.window_scale = (wanted & 2 != 0).then(|| bytes.byte());
            options.sack_permitted = wanted & 4 != 0;
        }
        if self.timestamps || wanted & 8 != 0 {
            let clock = (self.now / 1_000) as u32;
            let drift = if wanted & 16 != 0 { bytes.distance() as u32 } else { 0 };
            options.timestamps = Some(Timestamps { value: clock.wrapping_add(drift), echo: clock });
        }
        for _ in 0..(wanted >> 6) {
            let start = SeqNumber(iss.wrapping_add((sent as i64 - 1 - bytes.distance().abs()) as u32));
            let end = start + (bytes.distance().unsigned_abs() as u32);
            options.sack.push(crate::wire::SackBlock { start, end });
        }
        let payload = vec![1; usize::from(bytes.byte()) * if wanted & 32 != 0 { 6 } else { 1 }];
        let repr = TcpRepr {
            source_port: PEER_PORT,
            destination_port: self.port.local_port,
            seq: SeqNumber(PEER_ISS.wrapping_add(seq)),
            ack: SeqNumber(iss.wrapping_add(ack)),
            flags,
            window: bytes.word(),
            urgent: if flags.urg() { bytes.word() } else { 0 },
            options,
        };
        let mut tcp = vec![0; TcpRepr::MAX_LEN];
        let len = repr.emit(&mut tcp, 0);
        tcp.truncate(len);
        tcp.extend_from_slice(&payload);
        self.packet(protocol::TCP, &tcp);
    }

    fn packet(&mut self, protocol: u8, body: &[u8]) {
        let mut packet = header(PEER, OURS, protocol, body.len());
        packet.extend_from_slice(body);
        self.deliver(&packet);
    }

    /// An ICMP message with bytes of the fuzzer's, about the last segment that left or about anything.
    fn icmp(&mut self, bytes: &mut Bytes<'_>) {
        let mut message = vec![0u8; 8];
        message[0] = bytes.byte();
        message[1] = bytes.byte();
        message[4..8].copy_from_slice(&bytes.long().to_be_bytes());
        if bytes.byte() & 1 == 0 {
            let mut inner = header(OURS, PEER, protocol::TCP, 40);
            inner.extend_from_slice(&self.port.local_port.to_be_bytes());
            inner.extend_from_slice(&PEER_PORT.to_be_bytes());
            let seq = self.port.last_seq.wrapping_add(bytes.distance() as u32);
            inner.extend_from_slice(&seq.to_be_bytes());
            message.extend_from_slice(&inner);
        } else {
            message.extend_from_slice(bytes.take(60));
        }
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.packet(protocol::ICMP, &message);
    }

    fn command(&mut self, bytes: &mut Bytes<'_>) {
        let now = self.at();
        let Some(id) = self.id() else { return };
        let (stack, port) = (&mut self.stack, &mut self.port);
        // The connection may end within any of them; all other errors are as good.
        let _ = match bytes.byte() % 8 {
            0..=2 => {
                self.written += u64::from(bytes.word());
                stack.write(now, id, self.written, port)
            }
            3 => {
                let end = stack.info(now, id).map_or(0, |info| info.bytes_received);
                stack.read(now, id, end, port)
            }
            4 => stack.shutdown(now, id, port),
            5 => match bytes.byte() % 8 {
                0 => stack.close(now, id, port),
                1 => stack.abort(now, id, port),
                _ => stack.urgent(id, self.written + u64::from(bytes.byte())),
            },
            6 => {
                let (bits, kind) = (bytes.byte(), usize::from(bytes.byte()));
                let options = SocketOptions {
                    nodelay: bits & 1 != 0,
                    cork: bits & 2 != 0,
                    keepalive: bits & 4 != 0,
                    keep_idle: Some(Duration::from_secs(1)),
                    user_timeout: (bits & 8 != 0).then_some(Duration::from_millis(700)),
                    max_segment: (bits & 16 != 0).then_some(u16::from(bits) * 5),
                    receive_buffer: (bits & 32 != 0).then_some(1 << (bits & 15)),
                    tune_receive: bits & 64 != 0,
                    congestion: Some(Congestion::ALL[kind % Congestion::ALL.len()]),
                    ..SocketOptions::default()
                };
                stack.set_options(now, id, &options, port)
            }
            _ => {
                let bits = bytes.byte();
                port.busy = bits & 3 == 3;
                port.room = if bits & 12 == 12 { usize::from(bits) } else { usize::MAX };
                Ok(())
            }
        };
    }

    fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        for _ in 0..10_000 {
            let Some(next) = self.stack.next_timeout().filter(|next| next.as_micros() <= end) else { break };
            self.now = self.now.max(next.as_micros()) + 1;
            let now = self.at();
            self.stack.on_timeout(now, &mut self.port);
            self.settle();
        }
        self.now = self.now.max(end);
    }

    /// What the caller's loop does after every batch, and what must hold then.
    fn settle(&mut self) {
        let now = self.at();
        self.stack.flush(now, &mut self.port);
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Incoming { connection, .. } => {
                    let _ = self.stack.adopt(now, connection, OWNER, &mut self.port);
                    self.connection = Some(connection);
                }
                Event::Connection { connection, .. } => self.connection = Some(connection),
                Event::Closed { .. } | Event::NeighbourWanted { .. } => {}
            }
        }
        if let Err(reason) = self.stack.audit(now) {
            panic!("{reason}");
        }
    }

    fn run(&mut self, bytes: &mut Bytes<'_>) {
        for _ in 0..MOST_STEPS {
            if bytes.0.is_empty() {
                break;
            }
            match bytes.byte() % 16 {
                0..=7 => self.segment(bytes),
                8..=10 => self.command(bytes),
                11 | 12 => {
                    let span = u64::from(bytes.word()) << (bytes.byte() % 14);
                    self.pass(span);
                }
                13 => self.icmp(bytes),
                14 => {
                    let len = usize::from(bytes.byte());
                    let body = bytes.take(len).to_vec();
                    self.packet(protocol::TCP, &body);
                }
                _ => {
                    let len = usize::from(bytes.byte());
                    let frame = bytes.take(len).to_vec();
                    self.deliver(&frame);
                }
            }
            self.settle();
        }
        self.end();
    }

    /// Whatever is left ends, and every record comes back.
    fn end(&mut self) {
        (self.port.busy, self.port.room) = (false, usize::MAX);
        let now = self.at();
        self.stack.abort_all(now, &mut self.port);
        self.settle();
        self.pass(400_000_000);
        let usage = self.stack.usage();
        assert_eq!(usage, Usage { listeners: usage.listeners, ..Usage::default() });
    }
}

fn with_stack(merged: bool, run: impl FnOnce(Fuzzed<'_>)) {
    let config = config();
    let mut block = vec![0xa5u8; config.memory_size() + 64];
    let skip = block.as_ptr().align_offset(64);
    let memory = &mut block[skip..skip + config.memory_size()];
    let now = 1_000_000;
    let mut stack = Stack::format(memory, &config, Instant::from_micros(now)).expect("enough memory");
    let max_segment = if merged { 65_535 } else { 1_500 };
    let interface = InterfaceConfig {
        port: PORT,
        link: Link::Ip,
        mtu: 1_500,
        offload: Offload { max_segment, tx_checksum: true },
        mode: AddressMode::Own,
    };
    stack.add_interface(&interface).expect("room for an interface");
    stack.add_address(PORT, OURS.into(), 24).expect("room for an address");
    let port = Port {
        busy: false,
        last_seq: 0,
        iss: None,
        local_port: OUR_PORT,
        incoming: Incoming::Adopt(OWNER),
        room: usize::MAX,
    };
    run(Fuzzed { stack, port, now, connection: None, written: 0, timestamps: false });
}

/// Segments, ICMP errors, commands and time for a connection: established with the options of the first byte, or still
/// being opened by either side.
pub fn segments(data: &[u8]) {
    play(data, |_| {});
}

fn play(data: &[u8], look: impl FnOnce(&Stack<'_>)) {
    let mut bytes = Bytes(data);
    let kind = bytes.byte();
    with_stack(kind & 1 != 0, |mut fuzzed| {
        fuzzed.timestamps = kind & 2 != 0;
        if kind & 4 != 0 {
            fuzzed.port.incoming = if kind & 8 != 0 { Incoming::Later } else { Incoming::Refuse };
        }
        let options = SocketOptions { nodelay: kind & 16 != 0, ..SocketOptions::default() };
        let (any, peer) = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((PEER, PEER_PORT)));
        let now = fuzzed.at();
        if kind & 32 != 0 {
            let id = fuzzed.stack.connect(now, OWNER, any, peer, &options, &mut fuzzed.port);
            fuzzed.connection = id.ok();
        } else {
            let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, OUR_PORT));
            let _ = fuzzed.stack.listen(Owner(1), local, 2, &options);
        }
        if kind & 64 != 0 {
            // Open already: only what comes afterwards is the fuzzer's.
            let (syn, scale) = (if kind & 32 != 0 { 0x12 } else { 0x02 }, 7);
            fuzzed.segment(&mut Bytes(&[syn, 64, 64, 7, 0xb4, 0x05, scale, 0, 0xff, 0xff]));
            fuzzed.settle();
            fuzzed.segment(&mut Bytes(&[0x10, 64, 64, 0, 0, 0xff, 0xff]));
            fuzzed.settle();
        }
        fuzzed.run(&mut bytes);
        look(&fuzzed.stack);
    });
}

/// ICMP messages about a connection in mid-transfer.
pub fn icmp(data: &[u8]) {
    with_stack(false, |mut fuzzed| {
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, OUR_PORT));
        let _ = fuzzed.stack.listen(Owner(1), local, 2, &SocketOptions::default());
        fuzzed.segment(&mut Bytes(&[0x02, 64, 64, 7, 0xb4, 0x05, 7, 0, 0xff, 0xff]));
        fuzzed.settle();
        fuzzed.segment(&mut Bytes(&[0x10, 64, 64, 0, 0, 0xff, 0xff]));
        fuzzed.settle();
        fuzzed.command(&mut Bytes(&[0, 0xff, 0xff]));
        let mut bytes = Bytes(data);
        for _ in 0..MOST_STEPS {
            if bytes.0.is_empty() {
                break;
            }
            fuzzed.icmp(&mut bytes);
            fuzzed.settle();
        }
        fuzzed.end();
    });
}

/// Every parser, on the same bytes; what a view of them says can be asked for.
pub fn wire(data: &[u8]) {
    if let Ok(frame) = EthernetView::new(data) {
        let _ = (frame.tags().len(), frame.vlan(), frame.header_len(), frame.payload().len());
    }
    if let Ok(packet) = Ipv4View::new(data) {
        let _ = (packet.header_len(), packet.options().len(), packet.rest().len(), packet.payload_len());
        let _ = (packet.checksum_holds(), packet.is_fragment(), packet.fragment_offset());
    }
    if let Ok(packet) = Ipv6View::new(data) {
        let _ = (packet.rest().len(), packet.payload_len(), packet.next_header());
    }
    if let Ok(segment) = TcpView::new(data) {
        let _ = (segment.options(), segment.flags(), segment.header_len());
    }
    let _ = Icmpv4Repr::parse(data);
    let _ = ArpRepr::parse(data);
    let _ = (Embedded::tcp(data), Embedded::addresses(data));
    // As frames of an interface with and without a link header.
    with_stack(false, |mut fuzzed| {
        fuzzed.deliver(data);
        fuzzed.settle();
    });
}

/// Options that are understood are written as they were read, but for their order and padding.
pub fn options(data: &[u8]) {
    let options = &data[..data.len().min(40)];
    let padded = options.len().div_ceil(4) * 4;
    let mut segment = vec![0u8; 20 + padded];
    segment[12] = ((5 + padded / 4) as u8) << 4;
    segment[13] = 0x10;
    segment[20..20 + options.len()].copy_from_slice(options);
    let read = TcpView::new(&segment).expect("a whole header").options();
    if read.len() > 40 {
        return;
    }
    let repr = TcpRepr {
        source_port: 1,
        destination_port: 2,
        seq: SeqNumber(3),
        ack: SeqNumber(4),
        flags: TcpFlags::ACK,
        window: 5,
        urgent: 0,
        options: read,
    };
    let mut written: Vec<u8> = vec![0; TcpRepr::MAX_LEN];
    let len = repr.emit(&mut written, 0);
    assert_eq!(TcpView::new(&written[..len]).expect("a whole header").options(), read);
}

#[cfg(test)]
mod tests {
    use crate::counters::Counter;
    use std::path::Path;
    use std::vec::Vec;

    fn counted(name: &str, counter: Counter) -> u64 {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/segments").join(name);
        let mut value = 0;
        super::play(&std::fs::read(path).unwrap(), |stack| value = stack.counters().value(counter));
        value
    }

    /// A fuzzer that never gets beyond the handshake finds nothing.
    #[test]
    fn the_corpus_reaches_open_connections() {
        assert_eq!(counted("transfer", Counter::TcpPassiveOpens), 1);
        assert!(counted("transfer", Counter::TcpExtTCPOrigDataSent) > 0);
        assert_eq!(counted("open-passive", Counter::TcpPassiveOpens), 1);
        assert!(counted("open-active", Counter::TcpExtTCPOrigDataSent) > 0);
        assert!(counted("sack", Counter::TcpExtTCPSackRecovery) > 0);
    }

    /// What fuzzing has found before, and what it starts from, in every test run.
    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 4] =
            [("segments", super::segments), ("icmp", super::icmp), ("wire", super::wire), ("options", super::options)];
        for (name, target) in targets {
            let mut inputs: Vec<_> =
                std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            inputs.sort();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                std::eprintln!("{}", input.display());
                target(&std::fs::read(&input).unwrap());
            }
        }
    }
}
