//! Persona's two ends. [`Persona::send`] and [`Persona::receive`] are the halves of a transfer, for benches that time
//! them apart.

use super::way::{Way, copy_and_sum, place};
use super::{BUFFER, Ends, MTU, WRITE, Wire};
use persona_stack::{
    AddressMode, Busy, Config, ConnectionId, Event, Host, Incoming, Instant, InterfaceConfig, Owner, PassiveOpen,
    PortId, RxFrame, Segment, SocketOptions, Stack, Stored,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PORT: PortId = PortId(0);
const TCP_PORT: u16 = 5201;
/// Of every connection: there is one per end that moves bytes.
const OWNER: Owner = Owner(0);

/// The caller's side of one end: stream memory and the way out.
struct Memory<W> {
    send: Vec<u8>,
    receive: Vec<u8>,
    way: W,
    connection: Option<ConnectionId>,
    written: u64,
    acked: u64,
    rcv_end: u64,
    read: u64,
}

impl<W> Memory<W> {
    fn new(way: W) -> Self {
        let (send, receive) = (vec![0; BUFFER], vec![0; BUFFER]);
        Self { send, receive, way, connection: None, written: 0, acked: 0, rcv_end: 0, read: 0 }
    }
}

impl<W: Way> Host for Memory<W> {
    fn transmit(&mut self, _: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        self.way.transmit(segment, &self.send)
    }

    fn store(&mut self, _: Owner, offset: u64, bytes: &[u8]) -> Stored {
        let (start, first) = place(offset, bytes.len());
        let head = copy_and_sum(&mut self.receive[start..start + first], &bytes[..first]);
        let rest = copy_and_sum(&mut self.receive[..bytes.len() - first], &bytes[first..]);
        Stored { len: bytes.len(), sum: head.then(first, rest).network() }
    }

    fn incoming(&mut self, open: &PassiveOpen) -> Incoming {
        self.connection = Some(open.connection);
        Incoming::Adopt(OWNER)
    }
}

/// One stack and its caller.
struct End<W> {
    stack: Stack<'static>,
    memory: Memory<W>,
    // Below the stack, which borrows from it: dropped after it.
    _arena: Arena,
}

pub struct Persona<W> {
    ends: [End<W>; 2],
    now: Instant,
    application: Vec<u8>,
    /// The last acknowledgement of each idle connection's handshake, as the second end got it.
    acknowledgements: Vec<Vec<u8>>,
}

impl<W: Way> Persona<W> {
    /// A connection that is established, beside `others` established connections that are idle.
    pub fn connect(others: u16) -> Self {
        let [first, second] = W::pair();
        let mut pair = Self {
            ends: [End::new(1, 2, first), End::new(2, 1, second)],
            now: START,
            application: vec![0x5a; WRITE],
            acknowledgements: Vec::new(),
        };
        let listening = SocketAddr::new(address(2), TCP_PORT);
        let options = SocketOptions {
            nodelay: true,
            send_buffer: Some(BUFFER as u32),
            receive_buffer: Some(BUFFER as u32),
            ..SocketOptions::default()
        };
        pair.ends[1].stack.listen(OWNER, listening, 128, &options).expect("the port is free");
        for index in 0..=others {
            let local = SocketAddr::new(address(1), 10_000 + index);
            let End { stack, memory, .. } = &mut pair.ends[0];
            let connection =
                stack.connect(pair.now, OWNER, local, listening, &options, memory).expect("there is room to connect");
            memory.connection = Some(connection);
            let mut acknowledgement = Vec::new();
            // A port needs some for ARP, too.
            for _ in 0..8 {
                pair.send();
                if let Some(frame) = pair.ends[0].memory.way.newest() {
                    acknowledgement = frame.to_vec();
                }
                pair.receive();
            }
            // The last one made is not idle.
            if index < others {
                pair.acknowledgements.push(acknowledgement);
            }
        }
        assert_eq!(pair.ends[1].stack.usage().connections, u32::from(others) + 1, "all handshakes are over");
        pair
    }

    /// The application may write `bytes` in all: copies what there is room for, and lets the first end send.
    pub fn write(&mut self, limit: u64) {
        let End { stack, memory, .. } = &mut self.ends[0];
        let connection = memory.connection.expect("connected");
        while memory.written < limit && memory.written - memory.acked < BUFFER as u64 {
            let room = BUFFER as u64 - (memory.written - memory.acked);
            let len = (limit - memory.written).min(room).min(WRITE as u64) as usize;
            let (start, first) = place(memory.written, len);
            memory.send[start..start + first].copy_from_slice(&self.application[..first]);
            memory.send[..len - first].copy_from_slice(&self.application[first..len]);
            memory.written += len as u64;
            stack.write(self.now, connection, memory.written, memory).expect("the connection is open");
        }
    }

    /// The first end takes what came back and sends what it may.
    pub fn send(&mut self) {
        self.now = self.now + persona_stack::Duration::from_micros(10);
        let [first, second] = &mut self.ends;
        first.turn(self.now, &mut second.memory.way);
    }

    /// The second end takes what came and answers.
    pub fn receive(&mut self) {
        let [first, second] = &mut self.ends;
        second.turn(self.now, &mut first.memory.way);
    }

    /// The second application reads everything there is.
    pub fn read(&mut self) {
        let End { stack, memory, .. } = &mut self.ends[1];
        while memory.read < memory.rcv_end {
            let len = ((memory.rcv_end - memory.read) as usize).min(WRITE);
            let (start, first) = place(memory.read, len);
            self.application[..first].copy_from_slice(&memory.receive[start..start + first]);
            self.application[first..len].copy_from_slice(&memory.receive[..len - first]);
            memory.read += len as u64;
        }
        if let Some(connection) = memory.connection {
            stack.read(self.now, connection, memory.read, memory).expect("the connection is open");
        }
    }

    /// Data segments sent so far.
    pub fn segments(&self) -> u64 {
        self.ends[0].memory.way.data_frames()
    }

    /// Stream offset up to which the second application has read.
    pub fn offset(&self) -> u64 {
        self.ends[1].memory.read
    }

    /// When nothing is due: what asking and being told costs.
    pub fn timers(&mut self) -> Option<Instant> {
        let End { stack, memory, .. } = &mut self.ends[0];
        stack.on_timeout(self.now, memory);
        stack.next_timeout()
    }
}

impl Persona<Wire> {
    /// The second end gets an acknowledgement that says nothing new, of the idle connection `index`: checked, found by
    /// its addresses and ports, and done with. Nothing leaves for it.
    pub fn find(&mut self, index: usize) {
        let End { stack, memory, .. } = &mut self.ends[1];
        stack.on_frame(self.now, PORT, &RxFrame::single(&self.acknowledgements[index]), memory);
    }

    /// Whether frames of the second end are on their way.
    pub fn has_answered(&self) -> bool {
        !self.ends[1].memory.way.is_empty()
    }
}

impl<W: Way> Ends for Persona<W> {
    fn transfer(&mut self, bytes: usize) -> u64 {
        let (before, limit) = (self.segments(), self.offset() + bytes as u64);
        while self.offset() < limit {
            self.write(limit);
            self.send();
            self.receive();
            self.read();
        }
        self.segments() - before
    }
}

const START: Instant = Instant::from_micros(1_000_000);

fn address(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, host))
}

impl<W: Way> End<W> {
    fn new(host: u8, seed: u8, way: W) -> Self {
        let config = Config {
            connections: 16_384,
            listeners: 4,
            requests: 64,
            time_waits: 64,
            ranges: 1024,
            flights: 4096,
            neighbours: 16,
            routes: 16,
            reassembly: 64 << 10,
            seed: [seed; 32],
            shard: 0,
            shards: 1,
        };
        let mut arena = Arena::new(config.memory_size());
        // SAFETY: the arena lives as long as the stack, which is dropped first, and nobody else looks at it.
        let block = unsafe { std::slice::from_raw_parts_mut(arena.start(), config.memory_size()) };
        let mut stack = Stack::format(block, &config, START).expect("memory fits");
        let memory = Memory::new(way);
        let interface = InterfaceConfig {
            port: PORT,
            link: W::link(host),
            mtu: MTU as u16,
            offload: memory.way.offload(),
            mode: AddressMode::Own,
        };
        stack.add_interface(&interface).expect("the interface is sane");
        stack.add_address(PORT, address(host), 24).expect("the address is sane");
        Self { stack, memory, _arena: arena }
    }

    fn turn(&mut self, now: Instant, peer: &mut W) {
        let Self { stack, memory, .. } = self;
        W::receive(peer, memory, |memory| &mut memory.way, |memory, frame| stack.on_frame(now, PORT, frame, memory));
        if stack.next_timeout().is_some_and(|due| due <= now) {
            stack.on_timeout(now, memory);
        }
        stack.flush(now, memory);
        while let Some(event) = stack.poll_event() {
            if let Event::Connection { connection, status, .. } = event
                && memory.connection == Some(connection)
            {
                memory.acked = status.snd_acked;
                memory.rcv_end = status.rcv_end;
            }
        }
    }
}

/// Memory on a cache line's border.
struct Arena(Vec<Line>);

#[derive(Clone)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; 64],
}

impl Arena {
    fn new(len: usize) -> Self {
        Self(vec![Line { _bytes: [0; 64] }; len.div_ceil(64)])
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::super::way::Ported;
    use super::*;

    #[test]
    fn a_transfer_takes_as_many_full_segments_as_it_has_to() {
        let mut pair = Persona::<Wire>::connect(0);
        let segments = pair.transfer(1 << 20);
        let least = (1u64 << 20).div_ceil(MTU as u64 - 40);
        assert!((least..least + least / 5).contains(&segments), "{segments} segments, {least} would be full");
        assert_eq!(pair.offset(), 1 << 20);
        assert!(pair.ends[1].memory.receive.iter().all(|&byte| byte == 0x5a));
    }

    #[test]
    fn trains_are_cut_and_merged_again() {
        let mut pair = Persona::<Ported>::connect(0);
        let before = pair.ends[1].stack.counters().value(persona_stack::Counter::TcpInSegs);
        let segments = pair.transfer(1 << 20);
        let least = (1u64 << 20).div_ceil(MTU as u64 - 40);
        assert!((least..least + least / 5).contains(&segments), "{segments} frames, {least} would be full");
        let seen = pair.ends[1].stack.counters().value(persona_stack::Counter::TcpInSegs) - before;
        assert!(seen < segments / 8, "{seen} trains of {segments} frames");
        assert_eq!(pair.offset(), 1 << 20);
        assert!(pair.ends[1].memory.receive.iter().all(|&byte| byte == 0x5a));
    }

    #[test]
    fn an_acknowledgement_without_news_is_found_and_not_answered() {
        let mut pair = Persona::<Wire>::connect(3);
        let before = pair.ends[1].stack.counters().value(persona_stack::Counter::TcpInSegs);
        (0..3).for_each(|index| pair.find(index));
        assert_eq!(pair.ends[1].stack.counters().value(persona_stack::Counter::TcpInSegs), before + 3);
        pair.receive();
        assert!(!pair.has_answered());
        assert_eq!(pair.ends[1].stack.usage().connections, 4);
    }
}
