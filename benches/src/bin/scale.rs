//! How the stack fares with many connections: `scale [COUNT...]` (100, 10,000 and 1,000,000). Two stacks in one thread, joined by
//! memory; checksums are taken for verified and payload is not copied, so that what is left is what depends on the count.
//!
//! For each count: opens so many connections from one end, says what an idle one takes, makes round trips of 64 bytes on
//! connections picked at random, lets every connection's keepalive timer fire once, closes them all, and sees that every
//! record is back. The last columns compare with the first count.

use anyhow::{Context, Result, bail, ensure};
use memmap2::MmapMut;
use persona_stack::{
    AddressMode, Busy, Config, ConnectionId, Duration, Event, Host, Incoming, Instant, InterfaceConfig, Link, Offload,
    Owner, PassiveOpen, Payload, PortId, RxChecksum, RxFrame, Segment, SocketOptions, Stack, Stored, Usage,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PORT: PortId = PortId(0);
const COUNTS: [usize; 3] = [100, 10_000, 1_000_000];
/// Connections to one server port: the search for an ephemeral port finds one at once.
const PER_PORT: usize = 25_000;
const FIRST_PORT: u16 = 100;
/// Connections that are opened or closed together: what a batch of a ring brings.
const BATCH: usize = 32;
const MESSAGE: u64 = 64;
const ROUND_TRIPS: usize = 200_000;
const KEEP_IDLE: Duration = Duration::from_secs(600);

/// One application's end of a connection.
#[derive(Clone, Copy)]
struct Socket {
    id: ConnectionId,
    written: u64,
    received: u64,
}

/// The caller of one stack.
#[derive(Default)]
struct Caller {
    out: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// By owner.
    sockets: Vec<Socket>,
}

impl Host for Caller {
    fn transmit(&mut self, _: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(segment.header);
        if let Payload::Stream { len, .. } = segment.payload {
            frame.resize(frame.len() + len as usize, 0);
        }
        self.out.push_back(frame);
        Ok(())
    }

    fn store(&mut self, _: Owner, _: u64, bytes: &[u8]) -> Stored {
        Stored { len: bytes.len(), sum: 0 }
    }

    fn incoming(&mut self, open: &PassiveOpen) -> Incoming {
        self.sockets.push(Socket { id: open.connection, written: 0, received: 0 });
        Incoming::Adopt(Owner(self.sockets.len() as u64 - 1))
    }
}

struct End {
    stack: Stack<'static>,
    caller: Caller,
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

impl End {
    fn new(last: u8, count: usize) -> Result<Self> {
        let count = count as u32;
        let config = Config {
            connections: count + 8,
            listeners: 64,
            requests: 1_024,
            time_waits: count + 8,
            ranges: 4_096,
            flights: 4_096,
            neighbours: 4,
            routes: 4,
            reassembly: 16_384,
            seed: [last; 32],
            shard: 0,
            shards: 1,
        };
        // Pages that are never touched cost nothing. It lives as long as the process.
        let memory = Box::leak(Box::new(MmapMut::map_anon(config.memory_size()).context("memory for a stack")?));
        let mut stack = Stack::format(&mut memory[..], &config, Instant::from_micros(1)).expect("enough memory");
        let interface = InterfaceConfig {
            port: PORT,
            link: Link::Ip,
            mtu: 1_500,
            offload: Offload { max_segment: 1_500, tx_checksum: true },
            mode: AddressMode::Own,
        };
        stack.add_interface(&interface).expect("room for an interface");
        stack.add_address(PORT, address(last), 24).expect("room for an address");
        stack.set_port_range(1_024, 65_535).expect("a range");
        Ok(Self { stack, caller: Caller::default() })
    }

    /// Takes what the other end has sent, and what it leads to.
    fn take(&mut self, now: Instant, frames: &mut VecDeque<Vec<u8>>, spare: &mut Vec<Vec<u8>>) {
        for frame in frames.drain(..) {
            let received = RxFrame { checksum: RxChecksum::Verified, ..RxFrame::single(&frame) };
            self.stack.on_frame(now, PORT, &received, &mut self.caller);
            spare.push(frame);
        }
        self.stack.flush(now, &mut self.caller);
    }
}

/// Client and server.
struct Pair {
    client: End,
    server: End,
    now: u64,
    /// Messages that have come back to the client.
    answered: usize,
}

impl Pair {
    fn now(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    /// Lets both ends talk until neither has anything to say. The server answers each message with one of its own and
    /// closes when its peer does.
    fn settle(&mut self) {
        loop {
            self.now += 5;
            let now = self.now();
            let Self { client, server, .. } = self;
            let mut frames = std::mem::take(&mut client.caller.out);
            server.take(now, &mut frames, &mut client.caller.spare);
            client.caller.out = frames;
            while let Some(event) = server.stack.poll_event() {
                if let Event::Connection { connection, owner, changes, status } = event {
                    let socket = &mut server.caller.sockets[owner.0 as usize];
                    if changes.readable && status.rcv_end > socket.received {
                        socket.written += status.rcv_end - socket.received;
                        socket.received = status.rcv_end;
                        let (written, received) = (socket.written, socket.received);
                        let _ = server.stack.read(now, connection, received, &mut server.caller);
                        let _ = server.stack.write(now, connection, written, &mut server.caller);
                    }
                    if changes.peer_closed {
                        let _ = server.stack.close(now, connection, &mut server.caller);
                    }
                }
            }
            let mut frames = std::mem::take(&mut server.caller.out);
            client.take(now, &mut frames, &mut server.caller.spare);
            server.caller.out = frames;
            while let Some(event) = client.stack.poll_event() {
                if let Event::Connection { connection, owner, changes, status } = event
                    && changes.readable
                {
                    client.caller.sockets[owner.0 as usize].received = status.rcv_end;
                    self.answered += 1;
                    let _ = client.stack.read(now, connection, status.rcv_end, &mut client.caller);
                }
            }
            if client.caller.out.is_empty() && server.caller.out.is_empty() {
                return;
            }
        }
    }

    fn open(&mut self, count: usize) -> Result<()> {
        let options = SocketOptions { keepalive: true, keep_idle: Some(KEEP_IDLE), ..SocketOptions::default() };
        for first in (0..count).step_by(BATCH) {
            for index in first..(first + BATCH).min(count) {
                let port = FIRST_PORT + (index / PER_PORT) as u16;
                let (from, to) = (SocketAddr::new(address(1), 0), SocketAddr::new(address(2), port));
                let now = self.now();
                let End { stack, caller } = &mut self.client;
                let id = stack.connect(now, Owner(index as u64), from, to, &options, caller);
                let Ok(id) = id else { bail!("connection {index} of {count}: {id:?}") };
                caller.sockets.push(Socket { id, written: 0, received: 0 });
            }
            self.settle();
        }
        ensure!(self.server.caller.sockets.len() == count, "{} were accepted", self.server.caller.sockets.len());
        Ok(())
    }

    /// 64 bytes there and back on a connection.
    fn round_trip(&mut self, index: usize) {
        let now = self.now();
        let End { stack, caller } = &mut self.client;
        let socket = &mut caller.sockets[index];
        socket.written += MESSAGE;
        let (id, written) = (socket.id, socket.written);
        let _ = stack.write(now, id, written, caller);
        self.settle();
    }

    /// Time passes; timers fire on the way. Returns how often.
    fn pass(&mut self, span: Duration) -> u64 {
        let (end, mut fired) = (self.now + span.as_micros(), 0);
        loop {
            let next = [self.client.stack.next_timeout(), self.server.stack.next_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| next.as_micros() <= end) else { break };
            self.now = self.now.max(next.as_micros());
            let now = self.now();
            for End { stack, caller } in [&mut self.client, &mut self.server] {
                stack.on_timeout(now, caller);
                fired += 1;
            }
            self.settle();
        }
        self.now = self.now.max(end);
        fired
    }

    fn close(&mut self, count: usize) {
        for first in (0..count).step_by(BATCH) {
            let now = self.now();
            for index in first..(first + BATCH).min(count) {
                let End { stack, caller } = &mut self.client;
                let _ = stack.close(now, caller.sockets[index].id, caller);
            }
            self.settle();
        }
    }
}

/// Bytes of memory that are this process's at the moment.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages = text.split_whitespace().nth(1).and_then(|word| word.parse::<usize>().ok());
    Ok(pages.context("/proc/self/statm has no second number")? * 4_096)
}

struct Row {
    count: usize,
    /// Bytes of the arena's tables that an idle connection has touched, of both ends' halves the mean.
    idle: f64,
    /// Nanoseconds, both ends: to open, for a round trip on connections at random, for a keepalive, to close.
    times: [f64; 4],
}

fn measure(count: usize) -> Result<Row> {
    let timed = |what: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let before = persona_benches::machine::thread_time();
        what()?;
        Ok((persona_benches::machine::thread_time() - before).as_nanos() as f64)
    };
    let mut pair = Pair { client: End::new(1, count)?, server: End::new(2, count)?, now: 1_000, answered: 0 };
    for port in 0..count.div_ceil(PER_PORT) as u16 {
        let local = SocketAddr::new(address(2), FIRST_PORT + port);
        pair.server.stack.listen(Owner(0), local, 1_024, &SocketOptions::default()).expect("room for a listener");
    }
    // The callers' own lists are not the stack's.
    pair.client.caller.sockets.reserve_exact(count);
    pair.server.caller.sockets.reserve_exact(count);
    let before = resident()?;
    let opened = timed(&mut || pair.open(count))?;
    let lists = 2 * count * size_of::<Socket>();
    let idle = (resident()? - before).saturating_sub(lists) as f64 / (2 * count) as f64;

    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut pick = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % count as u64) as usize
    };
    for _ in 0..ROUND_TRIPS.min(10 * count) {
        pair.round_trip(pick());
    }
    pair.answered = 0;
    let trips = timed(&mut || {
        (0..ROUND_TRIPS).for_each(|_| pair.round_trip(pick()));
        Ok(())
    })?;
    ensure!(pair.answered == ROUND_TRIPS, "{} of {ROUND_TRIPS} messages came back", pair.answered);

    let probes = |pair: &Pair| {
        pair.client
            .stack
            .counters()
            .iter()
            .find(|(name, _)| *name == "TcpExtTCPKeepAlive")
            .map_or(0, |(_, value)| value)
    };
    let alive = timed(&mut || {
        pair.pass(Duration::from_secs(700));
        Ok(())
    })?;
    let probes = probes(&pair);
    ensure!(probes as usize >= count, "{probes} keepalive probes for {count} connections");

    let closed = timed(&mut || {
        pair.close(count);
        Ok(())
    })?;
    pair.pass(Duration::from_secs(130));
    for (name, end) in [("client", &pair.client), ("server", &pair.server)] {
        let usage = end.stack.usage();
        let clean = Usage { listeners: usage.listeners, ..Usage::default() };
        ensure!(usage == clean, "the {name} keeps records: {usage:?}");
    }
    let per = |time: f64, times: usize| time / times as f64;
    let times = [per(opened, count), per(trips, ROUND_TRIPS), per(alive, probes as usize), per(closed, count)];
    Ok(Row { count, idle, times })
}

fn main() -> Result<()> {
    let counts: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let counts = if counts.is_empty() { COUNTS.to_vec() } else { counts };
    println!(
        "{:>12}{:>12}{:>12}{:>14}{:>12}{:>12}",
        "connections", "idle, B", "open, ns", "64 B trip, ns", "alive, ns", "close, ns"
    );
    let mut first: Option<[f64; 4]> = None;
    for count in counts {
        let Row { count, idle, times: [open, trip, alive, close] } = measure(count)?;
        print!("{count:>12}{idle:>12.0}{open:>12.0}{trip:>14.0}{alive:>12.0}{close:>12.0}");
        match first {
            None => println!(),
            Some(base) => {
                let ratio = |at: usize, time: f64| time / base[at];
                let (open, trip, alive, close) = (ratio(0, open), ratio(1, trip), ratio(2, alive), ratio(3, close));
                println!("   x{open:.2} x{trip:.2} x{alive:.2} x{close:.2}");
            }
        }
        first.get_or_insert([open, trip, alive, close]);
    }
    Ok(())
}
