//! Neighbours: link addresses of next hops, in a hash table over the arena.
//!
//! A simple form of neighbour unreachability detection (RFC 4861 section 7.3, as Linux applies it to ARP): an entry is
//! good for 30 s after the last proof that it is; when it is used after that it still serves, while up to three unicast
//! requests ask for a new proof. A next hop without an entry is asked for three times, a second apart, and then given
//! up. Proof is an ARP packet from the neighbour or progress of a connection ([`Neighbours::confirm`]).
//!
//! In shared mode nothing is asked on the link: what is missing is told to the caller, whose host resolves it, and
//! entries that come from outside are neither aged nor evicted.
//!
//! This module decides; frames are written by [`links`](super::links).

use super::packed::PackedIp;
use crate::api::Error;
use crate::frame::PortId;
use crate::time::{Duration, Instant};
use crate::wire::MacAddr;
use core::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Linux: base_reachable_time.
pub const REACHABLE: Duration = Duration::from_secs(30);
/// Between two requests; Linux: retrans_time.
pub const RETRY: Duration = Duration::from_secs(1);
/// Requests without an answer before the entry fails; Linux: mcast_solicit, ucast_solicit.
pub const REQUESTS: u8 = 3;

const EMPTY: u8 = 0;
/// Asked for by broadcast; no address yet.
const INCOMPLETE: u8 = 1;
/// Has an address; proven at `proven`.
const REACHABLE_STATE: u8 = 2;
/// Has an address that is being asked for again.
const PROBE: u8 = 3;
/// Given from outside.
const EXTERNAL: u8 = 4;

/// Deadline of what has none.
const NEVER: u64 = u64::MAX;

/// A neighbour in the arena; all zeros: none.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourRecord {
    address: PackedIp,
    /// Last proof of `mac`, or when the entry was made; microseconds.
    proven: u64,
    /// When the next request is due, in [`INCOMPLETE`] and [`PROBE`]; microseconds.
    deadline: u64,
    mac: MacAddr,
    port: u8,
    state: u8,
    /// Sent so far without an answer.
    requests: u8,
    /// The caller has to be told that this neighbour is wanted.
    wanted: u8,
    _pad: [u8; 6],
}

/// What the table remembers beside its records.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighboursState {
    /// No entry has an earlier deadline.
    next_deadline: u64,
    /// Multiplier of the hash: secret, so that nobody on the link can aim at one place of the table. Odd.
    secret: u64,
    used: u32,
    wanted: u32,
}

impl NeighboursState {
    pub fn new(secret: u64) -> Self {
        Self { next_deadline: NEVER, secret: secret | 1, used: 0, wanted: 0 }
    }
}

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Known(MacAddr),
    /// Known, and a unicast request has to go out.
    KnownProbe(MacAddr),
    /// Not known, and a broadcast request has to go out.
    Request,
    /// Not known; the request is on its way.
    Wait,
    /// Not known, and the table is full of neighbours that cannot be forgotten.
    NoRoom,
}

/// A neighbour whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask again: by unicast where there is an address.
    Request { port: PortId, address: IpAddr, mac: Option<MacAddr> },
    /// It does not answer; the entry is gone.
    Failed { port: PortId, address: IpAddr },
}

/// What an ARP packet of a neighbour's did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Somebody waited for it.
    Resolved,
    /// An entry was made, changed or proven.
    Updated,
    /// There is no entry, and none was wanted.
    Ignored,
}

/// The neighbour table: open addressing with linear probing. `records` should be a third larger than the number of
/// neighbours it shall hold ([`Neighbours::records_for`]).
pub struct Neighbours<'m> {
    pub(crate) records: &'m mut [NeighbourRecord],
    pub(crate) state: &'m mut NeighboursState,
}

impl Neighbours<'_> {
    /// Records for `count` neighbours: at least a quarter stays empty, so that probing ends soon.
    pub const fn records_for(count: u32) -> usize {
        let count = count as usize;
        let records = count + count / 3 + 1;
        if records < 4 { 4 } else { records }
    }

    /// Link address of `address` on `port`, and what has to be done about it.
    #[inline]
    pub fn resolve(&mut self, now: Instant, port: PortId, address: impl Into<PackedIp>) -> Resolution {
        let key = address.into();
        let Some(place) = self.find(port, key) else { return self.begin(now, port, key) };
        let record = &mut self.records[place];
        match record.state {
            EXTERNAL | PROBE => Resolution::Known(record.mac),
            REACHABLE_STATE if now.since(Instant::from_micros(record.proven)) <= REACHABLE => {
                Resolution::Known(record.mac)
            }
            REACHABLE_STATE => {
                record.state = PROBE;
                record.requests = 1;
                let mac = record.mac;
                self.set_deadline(place, now + RETRY);
                Resolution::KnownProbe(mac)
            }
            _ => Resolution::Wait,
        }
    }

    /// A connection over `address` makes progress: the neighbour is there, no request needed.
    #[inline]
    pub fn confirm(&mut self, now: Instant, port: PortId, address: impl Into<PackedIp>) {
        if let Some(place) = self.find(port, address.into()) {
            let record = &mut self.records[place];
            if matches!(record.state, REACHABLE_STATE | PROBE) {
                record.state = REACHABLE_STATE;
                record.proven = now.as_micros();
            }
        }
    }

    /// `address` has said that it is at `mac`. `create`: it talks to us, so that an answer will be due (RFC 826's
    /// merge flag and target check).
    pub fn learn(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr, create: bool) -> Learned {
        let key = PackedIp::from(address);
        let place = match self.find(port, key) {
            Some(place) => place,
            None if create => match self.insert(port, key) {
                Some(place) => place,
                None => return Learned::Ignored,
            },
            None => return Learned::Ignored,
        };
        let record = &mut self.records[place];
        let outcome = match record.state {
            // What the caller has said is not changed by a stranger.
            EXTERNAL => return Learned::Ignored,
            INCOMPLETE => Learned::Resolved,
            _ => Learned::Updated,
        };
        record.mac = mac;
        record.state = REACHABLE_STATE;
        record.proven = now.as_micros();
        self.clear_wanted(place);
        outcome
    }

    /// An entry from outside. The answer is [`Learned::Resolved`] when somebody waited.
    pub fn set(&mut self, port: PortId, address: IpAddr, mac: MacAddr) -> Result<Learned, Error> {
        let key = PackedIp::from(address);
        if !mac.is_station() {
            return Err(Error::Invalid);
        }
        let place = self.find(port, key).or_else(|| self.insert(port, key)).ok_or(Error::NoMemory)?;
        let record = &mut self.records[place];
        let outcome = if record.state == INCOMPLETE { Learned::Resolved } else { Learned::Updated };
        record.mac = mac;
        record.state = EXTERNAL;
        self.clear_wanted(place);
        Ok(outcome)
    }

    /// Takes an entry away, whoever made it.
    pub fn forget(&mut self, port: PortId, address: IpAddr) {
        if let Some(place) = self.find(port, address.into()) {
            self.remove(place);
        }
    }

    /// When [`Neighbours::pop_due`] has something to do at the earliest.
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.state.next_deadline != NEVER).then(|| Instant::from_micros(self.state.next_deadline))
    }

    /// One neighbour whose time has come, or `None` when there is none left; call until `None`. Looks at each record
    /// when a deadline has passed, at most a few times a second.
    pub fn pop_due(&mut self, now: Instant) -> Option<Due> {
        if self.state.next_deadline > now.as_micros() {
            return None;
        }
        let is_due =
            |record: &NeighbourRecord| matches!(record.state, INCOMPLETE | PROBE) && record.deadline <= now.as_micros();
        let Some(place) = self.records.iter().position(is_due) else {
            let waiting = self.records.iter().filter(|record| matches!(record.state, INCOMPLETE | PROBE));
            self.state.next_deadline = waiting.map(|record| record.deadline).min().unwrap_or(NEVER);
            return None;
        };
        let record = &mut self.records[place];
        let (port, address) = (PortId(record.port), record.address.into());
        if record.requests >= REQUESTS {
            self.remove(place);
            return Some(Due::Failed { port, address });
        }
        record.requests += 1;
        let mac = (record.state == PROBE).then_some(record.mac);
        self.set_deadline(place, now + RETRY);
        Some(Due::Request { port, address, mac })
    }

    /// The caller's host has to be asked for this neighbour.
    pub(crate) fn mark_wanted(&mut self, port: PortId, address: IpAddr) {
        if let Some(place) = self.find(port, address.into())
            && self.records[place].wanted == 0
        {
            self.records[place].wanted = 1;
            self.state.wanted += 1;
        }
    }

    /// One neighbour that the caller's host has to be asked for.
    pub(crate) fn pop_wanted(&mut self) -> Option<(PortId, IpAddr)> {
        if self.state.wanted == 0 {
            return None;
        }
        let place = self.records.iter().position(|record| record.wanted != 0)?;
        self.clear_wanted(place);
        Some((PortId(self.records[place].port), self.records[place].address.into()))
    }

    /// Entries of all kinds.
    pub fn len(&self) -> u32 {
        self.state.used
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn begin(&mut self, now: Instant, port: PortId, key: PackedIp) -> Resolution {
        let Some(place) = self.insert(port, key) else { return Resolution::NoRoom };
        let record = &mut self.records[place];
        record.state = INCOMPLETE;
        record.proven = now.as_micros();
        record.requests = 1;
        self.set_deadline(place, now + RETRY);
        Resolution::Request
    }

    fn set_deadline(&mut self, place: usize, deadline: Instant) {
        self.records[place].deadline = deadline.as_micros();
        self.state.next_deadline = self.state.next_deadline.min(deadline.as_micros());
    }

    fn clear_wanted(&mut self, place: usize) {
        if core::mem::take(&mut self.records[place].wanted) != 0 {
            self.state.wanted -= 1;
        }
    }

    #[inline]
    fn find(&self, port: PortId, key: PackedIp) -> Option<usize> {
        let mut place = self.home(port, key);
        // Bounded by the empty records that `insert` leaves.
        loop {
            let record = &self.records[place];
            if record.state == EMPTY {
                return None;
            }
            if record.address == key && record.port == port.0 {
                return Some(place);
            }
            place = self.after(place);
        }
    }

    /// A fresh record, found from now on; its state is for the caller to set.
    fn insert(&mut self, port: PortId, key: PackedIp) -> Option<usize> {
        if self.state.used as usize + 1 > self.records.len() * 3 / 4 {
            self.evict()?;
        }
        let mut place = self.home(port, key);
        while self.records[place].state != EMPTY {
            place = self.after(place);
        }
        self.records[place] =
            NeighbourRecord { address: key, port: port.0, state: REACHABLE_STATE, ..NeighbourRecord::default() };
        self.state.used += 1;
        Some(place)
    }

    /// Forgets the entry whose proof is oldest.
    fn evict(&mut self) -> Option<()> {
        let evictable = |record: &NeighbourRecord| record.state != EMPTY && record.state != EXTERNAL;
        let oldest = self.records.iter().enumerate().filter(|(_, record)| evictable(record));
        let (place, _) = oldest.min_by_key(|(_, record)| record.proven)?;
        self.remove(place);
        Some(())
    }

    /// Empties a record and moves those back that had to step over it, so that no tombstone is needed.
    fn remove(&mut self, place: usize) {
        self.clear_wanted(place);
        self.state.used -= 1;
        let (mut hole, mut place) = (place, self.after(place));
        while self.records[place].state != EMPTY {
            let home = self.home(PortId(self.records[place].port), self.records[place].address);
            if self.steps(home, place) >= self.steps(hole, place) {
                self.records[hole] = self.records[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.records[hole] = NeighbourRecord::default();
    }

    #[inline]
    fn home(&self, port: PortId, key: PackedIp) -> usize {
        let mixed = (key.low() ^ key.high().rotate_left(29) ^ u64::from(port.0) << 56).wrapping_mul(self.state.secret);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(self.state.secret);
        // Multiply and shift instead of a remainder: the high half is a uniform place.
        (((mixed >> 32) * self.records.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        if place + 1 == self.records.len() { 0 } else { place + 1 }
    }

    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.records.len() - from }
    }
}

#[cfg(test)]
mod tests;
