//! The arena: which tables lie in the caller's memory, in which order, and how a stack is made on it or found in it.

use super::core::{Core, Tables};
use super::{Config, MemoryError, Stack};
use crate::env::{Env, Globals, Queue};
use crate::flow::Secrets;
use crate::ip::IpCounters;
use crate::ip::held::HeldFrames;
use crate::ip::interface::Interfaces;
use crate::ip::links::{Links, LinksState};
use crate::ip::neighbour::{NeighbourRecord, Neighbours, NeighboursState};
use crate::ip::reassembly::{Block, Datagram, Reassembly, ReassemblyState, SCRATCH};
use crate::ip::route::{RouteRecord, Routes, RoutesState};
use crate::memory::{Carver, FlowTable, PoolState, Slot, TimerNode, WheelState};
use crate::sysctl::Sysctls;
use crate::tcp::block::{Link, Listener, Request, Tcb, TimeWait};
use crate::tcp::{Flight, Range, Sender};
use crate::time::Instant;
use crate::trace::Trace;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: u64 = u64::from_le_bytes(*b"PERSTACK");
/// Changes whenever a record or the order of the tables does.
const VERSION: u32 = 3;
/// Bytes that decide how the rest lies; first in the arena.
const ALIGNMENT: usize = 64;

/// Linux's ip_local_port_range.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// First record of the arena: what it is, and the sizes of its tables.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct Preamble {
    magic: u64,
    version: u32,
    /// Size of all records together: catches a build whose records differ.
    record_bytes: u32,
    connections: u32,
    listeners: u32,
    requests: u32,
    time_waits: u32,
    ranges: u32,
    flights: u32,
    neighbours: u32,
    routes: u32,
    reassembly: u32,
    _pad: u32,
}

impl Preamble {
    fn new(config: &Config) -> Self {
        let record_bytes = size_of::<Globals>()
            + size_of::<Tcb>()
            + size_of::<Request>()
            + size_of::<TimeWait>()
            + size_of::<Listener>()
            + size_of::<Range>()
            + size_of::<Sender>()
            + size_of::<Flight>()
            + size_of::<Interfaces>()
            + size_of::<NeighbourRecord>()
            + size_of::<RouteRecord>()
            + size_of::<HeldFrames>()
            + size_of::<IpCounters>()
            + size_of::<Trace>()
            + size_of::<WheelState>();
        Self {
            magic: MAGIC,
            version: VERSION,
            record_bytes: record_bytes as u32,
            connections: config.connections,
            listeners: config.listeners,
            requests: config.requests,
            time_waits: config.time_waits,
            ranges: config.ranges,
            flights: config.flights,
            neighbours: config.neighbours,
            routes: config.routes,
            reassembly: config.reassembly,
            _pad: 0,
        }
    }
}

/// Every piece of the arena. Made by [`carve`] alone, so that measuring and cutting cannot differ.
struct Pieces<'m> {
    preamble: &'m mut [Preamble],
    globals: &'m mut [Globals],
    wheel: &'m mut [WheelState],
    interfaces: &'m mut [Interfaces],
    ip_counters: &'m mut [IpCounters],
    links_state: &'m mut [LinksState],
    routes_state: &'m mut [RoutesState],
    neighbours_state: &'m mut [NeighboursState],
    reassembly_state: &'m mut [ReassemblyState],
    held: &'m mut [HeldFrames],
    routes: &'m mut [RouteRecord],
    neighbours: &'m mut [NeighbourRecord],
    blocks: &'m mut [Block],
    datagrams: &'m mut [Datagram],
    scratch: &'m mut [u8],
    trace: &'m mut [Trace],
    listener_slots: &'m mut [Slot],
    listeners: &'m mut [Listener],
    slots: &'m mut [Slot],
    chain: &'m mut [Link],
    timers: &'m mut [TimerNode],
    ranges: &'m mut [Range],
    senders: &'m mut [Sender],
    flights: &'m mut [Flight],
    requests: &'m mut [Request],
    time_waits: &'m mut [TimeWait],
    tcbs: &'m mut [Tcb],
}

fn carve<'m>(carver: &mut Carver<'m>, sizes: &Preamble) -> Pieces<'m> {
    let [connections, listeners, requests, time_waits] =
        [sizes.connections, sizes.listeners, sizes.requests, sizes.time_waits].map(|count| count as usize);
    let flows = connections + requests + time_waits;
    let (blocks, datagrams) = Reassembly::sizes(sizes.reassembly);
    Pieces {
        preamble: carver.take(1),
        globals: carver.take(1),
        wheel: carver.take(1),
        interfaces: carver.take(1),
        ip_counters: carver.take(1),
        links_state: carver.take(1),
        routes_state: carver.take(1),
        neighbours_state: carver.take(1),
        reassembly_state: carver.take(1),
        held: carver.take(1),
        routes: carver.take(sizes.routes as usize),
        neighbours: carver.take(Neighbours::records_for(sizes.neighbours)),
        blocks: carver.take(blocks),
        datagrams: carver.take(datagrams),
        scratch: carver.take(SCRATCH),
        trace: carver.take(1),
        listener_slots: carver.take(FlowTable::slots_for(listeners)),
        listeners: carver.take(listeners),
        slots: carver.take(FlowTable::slots_for(flows)),
        chain: carver.take(connections),
        timers: carver.take(flows),
        ranges: carver.take(sizes.ranges as usize),
        // A connection's first flight is always there.
        senders: carver.take(connections),
        flights: carver.take(connections + sizes.flights as usize),
        requests: carver.take(requests),
        time_waits: carver.take(time_waits),
        tcbs: carver.take(connections),
    }
}

impl Config {
    /// Bytes of arena memory that this configuration needs.
    pub fn memory_size(&self) -> usize {
        size_for(&Preamble::new(self))
    }
}

fn size_for(sizes: &Preamble) -> usize {
    let mut measure = Carver::measure();
    carve(&mut measure, sizes);
    measure.used()
}

pub(super) fn format<'m>(memory: &'m mut [u8], config: &Config, now: Instant) -> Result<Stack<'m>, MemoryError> {
    let preamble = Preamble::new(config);
    check(memory, &preamble)?;
    // Tables of records are left as they are: a record is written when it is first taken.
    let pieces = carve(&mut Carver::new(memory), &preamble);
    pieces.preamble[0] = preamble;
    let secrets = Secrets::new(&config.seed);
    let mut globals = Globals::new_zeroed();
    globals.secrets = secrets;
    globals.sysctls = Sysctls::LINUX;
    globals.connections = PoolState::EMPTY;
    globals.listeners = PoolState::EMPTY;
    globals.requests = PoolState::EMPTY;
    globals.time_waits = PoolState::EMPTY;
    globals.ranges = PoolState::EMPTY;
    globals.senders = PoolState::EMPTY;
    globals.flights = PoolState::EMPTY;
    globals.events = Queue::EMPTY;
    globals.flushes = Queue::EMPTY;
    globals.shard = config.shard;
    globals.shards = config.shards.max(1);
    (globals.first_port, globals.last_port) = EPHEMERAL;
    pieces.globals[0] = globals;
    pieces.wheel[0].reset(now);
    pieces.interfaces[0].zero();
    pieces.ip_counters[0].zero();
    pieces.links_state[0] = LinksState::new(config.shard, secrets.word(b"ipid") as u32);
    pieces.routes_state[0].zero();
    pieces.neighbours_state[0] = NeighboursState::new(secrets.word(b"neig"));
    pieces.reassembly_state[0].zero();
    pieces.held[0].zero();
    pieces.trace[0].reset();
    pieces.neighbours.zero();
    pieces.datagrams.zero();
    pieces.listener_slots.zero();
    pieces.slots.zero();
    pieces.timers.zero();
    Ok(join(pieces))
}

pub(super) fn attach(memory: &mut [u8]) -> Result<Stack<'_>, MemoryError> {
    if !(memory.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
        return Err(MemoryError::Misaligned);
    }
    let (found, _) =
        Preamble::read_from_prefix(memory).map_err(|_| MemoryError::TooSmall { needed: size_of::<Preamble>() })?;
    let sizes = Config {
        connections: found.connections,
        listeners: found.listeners,
        requests: found.requests,
        time_waits: found.time_waits,
        ranges: found.ranges,
        flights: found.flights,
        neighbours: found.neighbours,
        routes: found.routes,
        reassembly: found.reassembly,
        seed: [0; 32],
        shard: 0,
        shards: 1,
    };
    // Magic, version and the size of all records have to be this build's.
    if found != Preamble::new(&sizes) {
        return Err(MemoryError::Foreign);
    }
    check(memory, &found)?;
    Ok(join(carve(&mut Carver::new(memory), &found)))
}

fn check(memory: &[u8], sizes: &Preamble) -> Result<(), MemoryError> {
    if !(memory.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
        return Err(MemoryError::Misaligned);
    }
    let needed = size_for(sizes);
    if memory.len() < needed { Err(MemoryError::TooSmall { needed }) } else { Ok(()) }
}

/// The views over the pieces.
fn join(pieces: Pieces<'_>) -> Stack<'_> {
    let Pieces {
        preamble: _,
        globals,
        wheel,
        interfaces,
        ip_counters,
        links_state,
        routes_state,
        neighbours_state,
        reassembly_state,
        held,
        routes,
        neighbours,
        blocks,
        datagrams,
        scratch,
        trace,
        listener_slots,
        listeners,
        slots,
        chain,
        timers,
        ranges,
        senders,
        flights,
        requests,
        time_waits,
        tcbs,
    } = pieces;
    let net = Links {
        interfaces: &mut interfaces[0],
        routes: Routes { records: routes, state: &mut routes_state[0] },
        neighbours: Neighbours { records: neighbours, state: &mut neighbours_state[0] },
        held: &mut held[0],
        counters: &mut ip_counters[0],
        state: &mut links_state[0],
    };
    let env = Env {
        globals: &mut globals[0],
        chain,
        wheel: &mut wheel[0],
        timers,
        ranges,
        senders,
        flights,
        trace: &mut trace[0],
        net,
    };
    let tables = Tables { tcbs, requests, time_waits, listeners, slots, listener_slots };
    let reassembly = Reassembly { blocks, datagrams, state: &mut reassembly_state[0], scratch };
    Stack { core: Core { tables, env }, reassembly }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn config() -> Config {
        Config {
            connections: 10,
            listeners: 3,
            requests: 4,
            time_waits: 5,
            ranges: 20,
            flights: 40,
            neighbours: 4,
            routes: 4,
            reassembly: 100_000,
            seed: [9; 32],
            shard: 0,
            shards: 1,
        }
    }

    fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
        let skip = bytes.as_ptr().align_offset(ALIGNMENT);
        &mut bytes[skip..skip + len]
    }

    #[test]
    fn memory_is_checked() {
        let config = config();
        let size = config.memory_size();
        let mut block = vec![0xa5; size + 128];
        let memory = aligned(&mut block, size);
        let now = Instant::from_micros(5);
        assert_eq!(
            Stack::format(&mut memory[..size - 64], &config, now).err(),
            Some(MemoryError::TooSmall { needed: size })
        );
        assert_eq!(Stack::format(&mut memory[1..], &config, now).err(), Some(MemoryError::Misaligned));
        assert_eq!(Stack::attach(memory).err(), Some(MemoryError::Foreign));
        assert!(Stack::format(memory, &config, now).is_ok());
        assert!(Stack::attach(memory).is_ok());
        assert_eq!(Stack::attach(&mut memory[..size - 64]).err(), Some(MemoryError::TooSmall { needed: size }));
        memory[8] ^= 1;
        assert_eq!(Stack::attach(memory).err(), Some(MemoryError::Foreign), "another version");
    }

    /// What a connection that is idle takes of the arena's tables: the sending half and its flight lie in memory that nobody
    /// touches until something is sent. The 4-tuple's slot is one of two.
    #[test]
    fn an_idle_connection_takes_512_bytes() {
        let each = size_of::<Tcb>() + 2 * size_of::<Slot>() + size_of::<Link>() + size_of::<TimerNode>();
        assert!(each <= 512, "{each}");
        let config = Config { connections: 1_000_000, ..config() };
        let bare = Config { connections: 0, ..config }.memory_size();
        let active = size_of::<Sender>() + size_of::<crate::tcp::Flight>();
        let whole = (config.memory_size() - bare) / 1_000_000;
        assert!(whole <= each + active, "{whole}");
    }
}
