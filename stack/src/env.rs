//! What all connections of a stack share: secrets, counters, timers, range pool, work lists, and the IP layer. Everything is
//! a view of the arena; between calls nothing is remembered here.

use core::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::counters::{Counter, Counters};
use crate::flow::{Flow, Secrets};
use crate::frame::PortId;
use crate::ip::{Links, Path, TokenBucket};
use crate::memory::{NONE, Pool, PoolState, TimerNode, Wheel, WheelState};
use crate::sysctl::Sysctls;
use crate::tcp::block::{Link, Tcb};
use crate::tcp::{Flight, FlightPool, Range, RangePool, Sender};
use crate::time::Instant;
use crate::trace::{Happening, Trace};

/// Why a segment did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The port has no room, or the next hop's address is still being asked for.
    Busy,
    NoRoute,
}

/// A first-in first-out list through [`Link`]s.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Queue {
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE };

    fn append(&mut self, links: &mut [Link], index: u32, next: fn(&mut Link) -> &mut u32) {
        *next(&mut links[index as usize]) = NONE;
        if self.head == NONE {
            self.head = index;
        } else {
            *next(&mut links[self.tail as usize]) = index;
        }
        self.tail = index;
    }

    fn take(&mut self, links: &mut [Link], next: fn(&mut Link) -> &mut u32) -> Option<u32> {
        let index = self.head;
        if index == NONE {
            return None;
        }
        self.head = *next(&mut links[index as usize]);
        Some(index)
    }

    fn push_front(&mut self, links: &mut [Link], index: u32, next: fn(&mut Link) -> &mut u32) {
        *next(&mut links[index as usize]) = self.head;
        if self.head == NONE {
            self.tail = index;
        }
        self.head = index;
    }
}

fn event_next(link: &mut Link) -> &mut u32 {
    &mut link.event_next
}

fn flush_next(link: &mut Link) -> &mut u32 {
    &mut link.flush_next
}

/// The stack's own state beside the tables; one record in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Globals {
    pub(crate) secrets: Secrets,
    /// Beside the secrets and before the pools: with what follows, 32-bit words in an even number.
    pub(crate) sysctls: Sysctls,
    /// Connections that were closed and live on.
    pub(crate) orphans: u32,
    pub(crate) connections: PoolState,
    pub(crate) listeners: PoolState,
    pub(crate) requests: PoolState,
    pub(crate) time_waits: PoolState,
    pub(crate) ranges: PoolState,
    pub(crate) senders: PoolState,
    pub(crate) flights: PoolState,
    pub(crate) events: Queue,
    pub(crate) flushes: Queue,
    pub(crate) challenges: TokenBucket,
    /// Where the next search for an ephemeral port goes on (RFC 6056's next_ephemeral).
    pub(crate) next_port: u32,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
    pub(crate) shard: u8,
    pub(crate) shards: u8,
    /// 1: the last flush found a port without room.
    pub(crate) stuck: u8,
    pub(crate) _pad: u8,
    /// First and last of ranges that no ephemeral port is taken from; (0, 0): none.
    pub(crate) reserved_ports: [[u16; 2]; crate::stack::RESERVED_RANGES],
    /// Sent queues that hold a flight.
    pub(crate) flying: u32,
    pub(crate) counters: Counters,
}

impl Globals {
    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        self.reserved_ports.iter().any(|[first, last]| (*first..=*last).contains(&port))
    }

    /// Where the timestamps of `flow` begin (RFC 7323 section 5.4).
    pub(crate) fn stamp_offset(&self, flow: &Flow) -> u32 {
        /// Linux's tcp_timestamps: from the clock's zero.
        const BARE: u32 = 2;
        if self.sysctls.timestamps == BARE { 0 } else { self.secrets.stamp_offset(flow) }
    }
}

/// The shared state, in hand for the length of a call.
pub(crate) struct Env<'m> {
    pub(crate) globals: &'m mut Globals,
    pub(crate) chain: &'m mut [Link],
    pub(crate) wheel: &'m mut WheelState,
    pub(crate) timers: &'m mut [TimerNode],
    pub(crate) ranges: &'m mut [Range],
    pub(crate) senders: &'m mut [Sender],
    pub(crate) flights: &'m mut [Flight],
    pub(crate) trace: &'m mut Trace,
    pub(crate) net: Links<'m>,
}

impl<'m> Env<'m> {
    /// Counts one, and traces it.
    #[inline]
    pub(crate) fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    #[inline]
    pub(crate) fn count_many(&mut self, counter: Counter, amount: u64) {
        self.globals.counters.add(counter, amount);
        if self.trace.is_on() {
            self.trace.push(Happening::Counted { what: counter, amount });
        }
    }

    #[inline]
    pub(crate) fn ranges(&mut self) -> RangePool<'_> {
        RangePool { records: self.ranges, state: &mut self.globals.ranges }
    }

    /// The sent queue of sending half `index`, and the pool of its flights.
    #[inline]
    pub(crate) fn flights(&mut self, index: u32) -> (FlightPool<'_>, &mut Sender) {
        let Globals { flights: state, flying: queues, counters, .. } = &mut *self.globals;
        let refusals = counters.slot(Counter::PersonaFlightsExhausted);
        let reserved = self.senders.len() as u32;
        let pool = FlightPool { records: &mut *self.flights, state, queues, reserved, refusals };
        (pool, &mut self.senders[index as usize])
    }

    /// A connection's sending half ends, and what its sent queue holds.
    pub(crate) fn give_back_sender(&mut self, tcb: &mut Tcb) {
        if tcb.sender == NONE {
            return;
        }
        let (mut pool, sender) = self.flights(tcb.sender);
        pool.clear(&mut sender.queue);
        Pool { records: &mut *self.senders, state: &mut self.globals.senders }.give_back(tcb.sender);
        tcb.sender = NONE;
    }

    /// The ranges of a list, ascending.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn ranges_iter(&self, head: u32) -> impl Iterator<Item = Range> + '_ {
        crate::tcp::walk(self.ranges, head)
    }

    /// Whether a range can be noted.
    pub(crate) fn ranges_free(&self) -> bool {
        (self.globals.ranges.used() as usize) < self.ranges.len()
    }

    /// Makes `timer` fire at `deadline` or before.
    pub(crate) fn arm(&mut self, timer: u32, deadline: Instant) {
        self.wheel().arm_by(timer, deadline);
    }

    pub(crate) fn wheel(&mut self) -> Wheel<'_> {
        Wheel::new(self.wheel, self.timers)
    }

    pub(crate) fn queue_event(&mut self, index: u32) {
        self.globals.events.append(self.chain, index, event_next);
    }

    /// Puts it back to the front: there is more to report.
    pub(crate) fn requeue_event(&mut self, index: u32) {
        self.globals.events.push_front(self.chain, index, event_next);
    }

    pub(crate) fn next_event(&mut self) -> Option<u32> {
        self.globals.events.take(self.chain, event_next)
    }

    pub(crate) fn queue_flush(&mut self, index: u32) {
        self.globals.flushes.append(self.chain, index, flush_next);
    }

    pub(crate) fn next_flush(&mut self) -> Option<u32> {
        self.globals.flushes.take(self.chain, flush_next)
    }

    pub(crate) fn challenge_allowed(&mut self, now: Instant) -> bool {
        let rate = self.globals.sysctls.challenge_rate();
        rate.is_none_or(|rate| self.globals.challenges.take(now, rate))
    }

    pub(crate) fn route(&self, destination: IpAddr, source: Option<IpAddr>) -> Option<Path> {
        self.net.routes.lookup(self.net.interfaces, destination, source)
    }

    #[inline]
    pub(crate) fn max_segment(&self, port: u8) -> u32 {
        self.net.interfaces.get(PortId(port)).map_or(0, |interface| interface.offload().max_segment)
    }

    pub(crate) fn mtu(&self, port: PortId) -> u16 {
        self.net.interfaces.get(port).map_or(crate::tcp::LEAST_MTU, |interface| interface.mtu())
    }
}
