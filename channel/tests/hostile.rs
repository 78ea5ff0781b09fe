//! An application that writes random bytes over all of its shared memory at random moments, while the engine's side of
//! every algorithm runs on it: nothing panics, each call ends, no address outside the session is touched, and another
//! session of the same engine transfers its bytes unharmed.
#![cfg(not(loom))]

mod common;

use common::{PARAMETERS, Random, gather};
use persona_channel::accept::{AcceptWriter, Accepted};
use persona_channel::attention::Marks;
use persona_channel::lane::{LaneReader, Next};
use persona_channel::layout::*;
use persona_channel::memory::*;
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::{Piece, SendReader};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Sessions with inaccessible memory between them: a stray access ends the test.
struct Guarded {
    base: *mut u8,
}

const GUARD: usize = 1 << 30;

impl Guarded {
    fn new() -> Self {
        let len = SESSION_SIZE + 2 * GUARD;
        // SAFETY: a new mapping where the kernel likes; its middle is made accessible.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "no address space for a session between guards");
            let base = map.cast::<u8>().add(GUARD);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(base.cast(), SESSION_SIZE, access), 0);
            let guarded = Self { base };
            guarded.session().initialise(&PARAMETERS);
            guarded
        }
    }

    fn session(&self) -> SessionRef<'_> {
        // SAFETY: the mapping is page-aligned, SESSION_SIZE long and lives as long as the borrow.
        unsafe { SessionRef::from_raw(self.base).expect("mappings are page-aligned") }
    }

    fn range(&self) -> Range<usize> {
        self.base as usize..self.base as usize + SESSION_SIZE
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping that `new` made.
        unsafe { libc::munmap(self.base.sub(GUARD).cast(), SESSION_SIZE + 2 * GUARD) };
    }
}

/// Sockets that the engine works with, so that the attack on their lines and maps hits.
const BUSY: usize = 8;

/// Where a blow is aimed: the whole session, and more often what the engine reads.
fn targets() -> Vec<Range<usize>> {
    let at = |offset: usize, len: usize| offset..offset + len;
    vec![
        at(0, SESSION_SIZE),
        at(offset_of!(Session, header), size_of::<Header>()),
        at(offset_of!(Session, attention), size_of::<Attention>()),
        at(offset_of!(Session, lanes), LANES * size_of::<Lane>()),
        at(offset_of!(Session, free_sockets), SOCKETS / 8),
        at(offset_of!(Session, free_chunks), CHUNKS / 8),
        at(offset_of!(Session, free_chunks), 64),
        at(offset_of!(Session, sockets), BUSY * size_of::<Socket>()),
        at(offset_of!(Session, sockets), BUSY * size_of::<Socket>()),
        at(offset_of!(Session, maps), BUSY * size_of::<Maps>()),
        at(offset_of!(Session, maps), BUSY * size_of::<Maps>()),
        at(offset_of!(Session, waitables), WAITABLES * size_of::<Waitable>()),
        at(offset_of!(Session, accept), SHARDS * size_of::<AcceptRing>()),
        at(offset_of!(Session, chunks), 64 * CHUNK_SIZE),
    ]
}

fn attack(session: SessionRef<'_>, random: &mut Random, stop: &AtomicBool) -> u64 {
    let targets = targets();
    let base = session.as_ptr() as usize;
    let mut blows = 0;
    while !stop.load(Ordering::Relaxed) {
        let target = &targets[random.below(targets.len())];
        let at = target.start + random.below(target.len());
        let value = match random.below(4) {
            0 => 0,
            1 => 0xff,
            _ => random.next(),
        };
        // One byte, or a run of up to 64; all ones and zeros are as likely as anything else.
        let run = if random.below(2) == 0 { 1 } else { 1 + random.below(64) };
        for index in 0..run.min(target.end - at) {
            let byte = (value >> (index % 8 * 8)) as u8;
            // SAFETY: inside the session, which everybody reaches by atomics or raw copies only.
            unsafe { AtomicU8::from_ptr((base + at + index) as *mut u8) }.store(byte, Ordering::Relaxed);
        }
        blows += 1;
    }
    blows
}

/// The engine's records of one socket.
#[derive(Clone, Copy, Default)]
struct Connection {
    send: SendReader,
    receive: ReceiveWriter,
}

struct Engine<'m> {
    session: SessionRef<'m>,
    memory: Range<usize>,
    connections: [Connection; BUSY],
    lanes: [LaneReader; LANES],
    accept: AcceptWriter,
    marks: Marks,
    outcomes: Outcomes,
}

/// So that the test can tell that it tested something.
#[derive(Default, Debug)]
struct Outcomes {
    pieces: u64,
    holes: u64,
    stored: u64,
    short: u64,
    commands: u64,
    damaged: u64,
    rung: u64,
    accepted: u64,
    full: u64,
}

impl<'m> Engine<'m> {
    fn socket(&self, index: usize) -> SocketRef<'m> {
        self.session.socket(Slot::new(index as u32).expect("in range"))
    }

    fn step(&mut self, random: &mut Random) {
        let shard = Shard::new(0).expect("in range");
        let index = random.below(BUSY);
        match random.below(8) {
            0 => self.transmit(index, random),
            1 => self.acknowledge(index, random),
            2 => self.receive(index, random),
            3 => self.look_around(shard),
            4 => self.commands(shard, random),
            5 => self.notify(index),
            6 => self.accept(shard, random),
            _ => self.recycle(index, random),
        }
    }

    fn transmit(&mut self, index: usize, random: &mut Random) {
        let socket = self.socket(index);
        let send = &mut self.connections[index].send;
        let end = send.poll_end(&socket);
        assert!(end >= send.acked() && end - send.acked() <= (MAP_ENTRIES * CHUNK_SIZE) as u64);
        let len = random.below((end - send.acked()) as usize + 1).min(65_536);
        let mut pieces = [Piece { start: std::ptr::null(), len: 0 }; 65_536 / CHUNK_SIZE + 2];
        let Ok(count) = send.resolve(&socket, send.acked(), len, &mut pieces) else {
            self.outcomes.holes += 1;
            return;
        };
        let mut copy = vec![0u8; len];
        let mut at = 0;
        for piece in &pieces[..count] {
            let start = piece.start as usize;
            assert!(self.memory.contains(&start) && start + piece.len <= self.memory.end);
            // SAFETY: just seen to lie in the session.
            unsafe { persona_channel::copy::copy_and_sum(piece.start, copy[at..].as_mut_ptr(), piece.len) };
            at += piece.len;
        }
        assert_eq!(at, len);
        self.outcomes.pieces += count as u64;
    }

    fn acknowledge(&mut self, index: usize, random: &mut Random) {
        let socket = self.socket(index);
        let send = &mut self.connections[index].send;
        let flight = (send.end() - send.acked()) as usize;
        send.acknowledge(&socket, send.acked() + random.below(flight + 1) as u64);
    }

    fn receive(&mut self, index: usize, random: &mut Random) {
        let socket = self.socket(index);
        let receive = &mut self.connections[index].receive;
        let read = receive.poll_read(&socket);
        assert!(read <= receive.published());
        let size = random.below(4000);
        let bytes = random.bytes(size);
        let stored = receive.store(&socket, receive.published() + random.below(3) as u64 * 1448, &bytes);
        assert!(stored.len <= bytes.len());
        self.outcomes.stored += stored.len as u64;
        self.outcomes.short += (stored.len < bytes.len()) as u64;
        receive.publish(&socket, receive.published() + stored.len as u64);
        receive.set_update_at(&socket, receive.published());
    }

    /// A round of attention yields each socket at most once for each word that it takes.
    fn look_around(&mut self, shard: Shard) {
        let attention = self.session.attention(shard);
        let fresh = attention.collect();
        self.marks.merge(fresh);
        let mut seen = 0;
        while self.marks.next_socket(attention).is_some() {
            seen += 1;
            assert!(seen <= SOCKETS);
        }
        if attention.park() {
            attention.wake_up();
        }
    }

    fn commands(&mut self, shard: Shard, random: &mut Random) {
        for index in LaneIndex::all() {
            let lane = self.session.lane(shard, index);
            let reader = &mut self.lanes[index.index()];
            let mut taken = 0;
            loop {
                match reader.next(lane) {
                    Next::Command(_) => self.outcomes.commands += 1,
                    Next::Nothing => break,
                    Next::Damaged => self.outcomes.damaged += 1,
                }
                taken += 1;
                // The attacker may go on moving the tail: the engine has a budget for each visit.
                if taken == LANE_COMMANDS {
                    break;
                }
                let reply = [1; REPLY_SIZE + 8];
                let len = random.below(reply.len());
                let ring = reader.complete(lane, self.session.waitables(), -22, &reply[..len]);
                self.outcomes.rung += ring.is_some() as u64;
            }
            reader.complete(lane, self.session.waitables(), -22, &[]);
        }
    }

    fn notify(&mut self, index: usize) {
        let socket = self.socket(index);
        socket.state.make_edges(true, true);
        let mut rung = 0;
        self.session.notify(&socket, |_| rung += 1);
        assert!(rung <= WAITABLES);
        self.outcomes.rung += rung as u64;
    }

    fn accept(&mut self, shard: Shard, random: &mut Random) {
        let ring = self.session.accept_ring(ListenerIndex::new(0).expect("in range"), shard);
        let accepted = Accepted { slot: Slot::new(random.below(SOCKETS) as u32).expect("in range"), generation: 3 };
        match self.accept.push(ring, random.below(2 * ACCEPT_RING) as u32, accepted) {
            Ok(()) => self.outcomes.accepted += 1,
            Err(_) => self.outcomes.full += 1,
        }
        if random.below(8) == 0 {
            let back = self.accept.take_back(ring).count();
            assert!(back <= ACCEPT_RING);
            self.accept.reset(ring);
        }
    }

    fn recycle(&mut self, index: usize, random: &mut Random) {
        let socket = self.socket(index);
        if random.below(4) == 0 {
            let connection = &mut self.connections[index];
            connection.send.release(&socket);
            connection.receive.release(&socket);
            *connection = Connection::default();
            self.session.recycle_slot(socket.slot);
            socket.state.send_buffer.store(200_000, Ordering::Relaxed);
        }
        // Its claims may be answered with anything, and end.
        if let Some(claimed) = self.session.claim_slot(0) {
            self.session.free_sockets().free(claimed.slot.get());
        }
    }
}

/// The application's side of the attacked session goes on as well, so that there is something to damage.
fn write_some(session: SessionRef<'_>, random: &mut Random) {
    let socket = session.socket(Slot::new(random.below(BUSY) as u32).expect("in range"));
    let size = random.below(20_000);
    let bytes = random.bytes(size);
    socket.send_writer().write(&bytes);
    let shard = Shard::new(0).expect("in range");
    let _ = session.attention(shard).mark_socket(socket.slot);
    if let Some(lane) = session.claim_lane(shard, 9, |_| false) {
        let _ = lane.push(&Command::new(op::GET_OPTION, random.next() as u32, 0, [random.next(); 6]).with_reply());
    }
    let mut buffer = [0; 5000];
    socket.receive_reader().read(&mut buffer);
}

#[test]
fn a_hostile_application_harms_nobody_else() {
    let mut random = Random::new("a_hostile_application_harms_nobody_else");
    let attacked = Guarded::new();
    let peaceful = Guarded::new();
    let stop = AtomicBool::new(false);
    let mut engine = Engine {
        session: attacked.session(),
        memory: attacked.range(),
        connections: Default::default(),
        lanes: Default::default(),
        accept: AcceptWriter::new(),
        marks: Marks::default(),
        outcomes: Outcomes::default(),
    };
    let other = peaceful.session();
    let socket = other.claim_slot(1).expect("a free slot");
    socket.state.send_buffer.store(200_000, Ordering::Relaxed);
    let (mut send, mut sent, mut arrived) = (SendReader::new(), Vec::new(), Vec::new());

    std::thread::scope(|scope| {
        let (mut blows, mut writes) = (random.fork(), random.fork());
        let attacker = scope.spawn({
            let (session, stop) = (engine.session, &stop);
            move || attack(session, &mut blows, stop)
        });
        // When a check fails the attacker must end too, or the scope would wait for it.
        let guard = StopOnDrop(&stop);
        for step in 0..60_000 {
            engine.step(&mut random);
            if step % 4 == 0 {
                write_some(engine.session, &mut writes);
            }
            if step % 16 == 0 {
                let bytes = writes.bytes(1000);
                let written = socket.send_writer().write(&bytes);
                sent.extend_from_slice(&bytes[..written.len]);
                let end = send.poll_end(&socket);
                // Nobody damages this session.
                arrived.extend(gather(&send, &socket, send.acked(), (end - send.acked()) as usize));
                send.acknowledge(&socket, end);
            }
        }
        drop(guard);
        println!("{} blows, {:?}", attacker.join().expect("the attacker ends"), engine.outcomes);
    });
    assert!(sent == arrived, "the other session's bytes arrived as they were sent");
    let outcomes = &engine.outcomes;
    for count in [outcomes.pieces, outcomes.holes, outcomes.stored, outcomes.commands, outcomes.rung] {
        assert!(count > 0, "the attack reached everything: {outcomes:?}");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
