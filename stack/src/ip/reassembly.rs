//! Reassembly of IPv4 fragments within a bound of memory (RFC 791 section 3.2, RFC 815's holes as a bitmap).
//!
//! Payload lies in blocks of 2 KiB; each block has a bit for every eight bytes that arrived, so that overlap is seen
//! exactly. A datagram whose fragments overlap is discarded with all that still comes of it (RFC 5722 says so for
//! IPv6, Linux does so for IPv4 too); an exact repetition is ignored. What is incomplete after 30 s goes. When memory
//! is short, a source that holds its share gives up its own oldest datagram, otherwise the oldest of all goes.

use super::interface::is_host_address;
use crate::time::{Duration, Instant};
use crate::wire::{Ipv4Repr, Ipv4View};
use core::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Linux: ipfrag_time. RFC 1122 section 3.3.2 asks for 60 s to 120 s, which nobody keeps any more.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// Longest payload of a datagram: 65,535 less the shortest header.
pub const MAX_PAYLOAD: usize = Ipv4Repr::MAX_PAYLOAD as usize;
/// Bytes of the caller's that a completed datagram is put together in.
pub const SCRATCH: usize = (MAX_PAYLOAD + 1).next_multiple_of(64);

const BLOCK: usize = 2_048;
const UNIT: usize = 8;
const BLOCKS_PER_DATAGRAM: usize = SCRATCH / BLOCK;
/// Datagrams in progress, at most.
const MAX_DATAGRAMS: usize = 256;
/// One source may hold this part of the places.
const SHARE: usize = 4;

const FREE: u8 = 0;
const LIVE: u8 = 1;
/// Discarded for overlap; what still arrives of it is discarded too.
const POISONED: u8 = 2;

/// Part of a datagram's payload, in the arena.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Block {
    /// A bit for each unit of eight bytes; the link of the free list while the block is free.
    received: [u64; BLOCK / UNIT / 64],
    bytes: [u8; BLOCK],
}

/// A datagram in progress, in the arena; all zeros: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Datagram {
    deadline: u64,
    source: u32,
    destination: u32,
    /// Payload length; 0 until the last fragment came.
    end: u32,
    /// Bytes that arrived.
    received: u32,
    /// Index plus one.
    blocks: [u32; BLOCKS_PER_DATAGRAM],
    identification: u16,
    protocol: u8,
    state: u8,
    /// Of the first fragment.
    tos: u8,
    ttl: u8,
    has_first: u8,
    /// A fragment met congestion (RFC 3168 section 5.3).
    congested: u8,
}

/// What reassembly remembers beside its records.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReassemblyState {
    /// No datagram expires earlier; 0: none is in progress.
    next_deadline: u64,
    /// Index plus one.
    free_head: u32,
    /// Blocks from here on were never used.
    untouched: u32,
    used: u32,
    /// Seconds that a datagram in progress is kept; 0: [`LIFETIME`].
    lifetime: u32,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More is to come.
    Incomplete,
    /// The datagram lies in the scratch buffer.
    Complete(Whole),
    /// The fragment, or the datagram with it, was discarded.
    Discarded,
}

/// Header of a completed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub tos: u8,
    pub ttl: u8,
    pub identification: u16,
    /// Payload bytes.
    pub len: usize,
}

/// A datagram that was given up, if its first fragment had come: its header, and the first bytes of its payload, for
/// the ICMP error (RFC 792: no error without fragment zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    pub first: Option<(Ipv4Repr, [u8; 8])>,
}

/// Reassembly over the arena.
pub struct Reassembly<'m> {
    pub(crate) blocks: &'m mut [Block],
    pub(crate) datagrams: &'m mut [Datagram],
    pub(crate) state: &'m mut ReassemblyState,
    pub(crate) scratch: &'m mut [u8],
}

impl Reassembly<'_> {
    /// Blocks and datagrams that fit into `bytes` of memory.
    pub const fn sizes(bytes: u32) -> (usize, usize) {
        let blocks = bytes as usize / size_of::<Block>();
        (blocks, if blocks < MAX_DATAGRAMS { blocks } else { MAX_DATAGRAMS })
    }

    /// Takes a fragment's payload, which lies in `pieces` and is as long as the header says.
    pub fn add<'p>(&mut self, now: Instant, header: &Ipv4View<'_>, pieces: impl Iterator<Item = &'p [u8]>) -> Outcome {
        let (offset, len) = (usize::from(header.fragment_offset()), header.payload_len());
        let end = offset + len;
        // Only the last fragment may end beside a unit, none may be empty or reach beyond what a datagram can hold.
        if len == 0 || end > MAX_PAYLOAD || (header.more_fragments() && len % UNIT != 0) {
            return Outcome::Discarded;
        }
        let Some(place) = self.find(header).or_else(|| self.begin(now, header)) else { return Outcome::Discarded };
        let datagram = &mut self.datagrams[place];
        if datagram.state == POISONED {
            return Outcome::Discarded;
        }
        if !header.more_fragments() {
            // Two different ends, or bytes beyond the end: no honest sender does that.
            if datagram.end != 0 && datagram.end as usize != end {
                return self.poison(place);
            }
            datagram.end = end as u32;
        }
        if datagram.end != 0 && (end > datagram.end as usize || self.reaches_beyond(place)) {
            return self.poison(place);
        }
        match self.overlap(place, offset, len) {
            Overlap::None => {}
            Overlap::Repeated => return Outcome::Incomplete,
            Overlap::Partial => return self.poison(place),
        }
        if !self.claim_blocks(place, offset, len) {
            self.free(place);
            return Outcome::Discarded;
        }
        self.copy_in(place, offset, len, pieces);
        let datagram = &mut self.datagrams[place];
        datagram.received += len as u32;
        datagram.congested |= u8::from(header.tos() & 3 == 3);
        if offset == 0 {
            datagram.has_first = 1;
            (datagram.tos, datagram.ttl) = (header.tos(), header.ttl());
        }
        if datagram.end != 0 && datagram.received == datagram.end {
            return Outcome::Complete(self.complete(place));
        }
        Outcome::Incomplete
    }

    /// Puts a packet that lies in pieces into the scratch buffer; how many bytes that were. What does not fit, which no
    /// IPv4 packet is long enough for, is left out.
    pub fn gather<'p>(&mut self, pieces: impl Iterator<Item = &'p [u8]>) -> usize {
        let mut at = 0;
        for piece in pieces {
            let piece = &piece[..piece.len().min(self.scratch.len() - at)];
            self.scratch[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        at
    }

    /// The scratch buffer: what [`Outcome::Complete`] or [`Reassembly::gather`] left there.
    pub fn scratch(&self) -> &[u8] {
        self.scratch
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        (self.state.next_deadline != 0).then(|| Instant::from_micros(self.state.next_deadline))
    }

    /// Gives up one datagram whose time is over; call until `None`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Expired> {
        if self.state.next_deadline == 0 || self.state.next_deadline > now.as_micros() {
            return None;
        }
        let over = |datagram: &Datagram| datagram.state != FREE && datagram.deadline <= now.as_micros();
        let Some(place) = self.datagrams.iter().position(over) else {
            let live = self.datagrams.iter().filter(|datagram| datagram.state != FREE);
            self.state.next_deadline = live.map(|datagram| datagram.deadline).min().unwrap_or(0);
            return None;
        };
        let first = self.first_bytes(place);
        self.free(place);
        Some(Expired { first })
    }

    /// Blocks in use: what the memory bound is about.
    pub fn blocks_in_use(&self) -> u32 {
        self.state.used
    }

    fn find(&self, header: &Ipv4View<'_>) -> Option<usize> {
        let key = (header.source().to_bits(), header.destination().to_bits(), header.identification());
        self.datagrams.iter().position(|datagram| {
            datagram.state != FREE
                && (datagram.source, datagram.destination, datagram.identification) == key
                && datagram.protocol == header.protocol()
        })
    }

    /// A place for a new datagram.
    /// How long the datagrams that begin from now on may take, in whole seconds.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.state.lifetime = u32::try_from(lifetime.as_millis() / 1_000).unwrap_or(u32::MAX);
    }

    fn lifetime(&self) -> Duration {
        match self.state.lifetime {
            0 => LIFETIME,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    fn begin(&mut self, now: Instant, header: &Ipv4View<'_>) -> Option<usize> {
        debug_assert!(is_host_address(header.source()));
        let source = header.source().to_bits();
        let share = (self.datagrams.len() / SHARE).max(1);
        let of_source = |datagram: &&Datagram| datagram.state != FREE && datagram.source == source;
        let hogs = self.datagrams.iter().filter(of_source).count() >= share;
        let free = self.datagrams.iter().position(|datagram| datagram.state == FREE);
        let place = match free {
            Some(place) if !hogs => place,
            _ => {
                let oldest = self.oldest(|datagram| !hogs || datagram.source == source)?;
                self.free(oldest);
                oldest
            }
        };
        let deadline = (now + self.lifetime()).as_micros();
        self.datagrams[place] = Datagram {
            deadline,
            source,
            destination: header.destination().to_bits(),
            identification: header.identification(),
            protocol: header.protocol(),
            state: LIVE,
            ..Datagram::default()
        };
        if self.state.next_deadline == 0 {
            self.state.next_deadline = deadline;
        }
        Some(place)
    }

    fn oldest(&self, among: impl Fn(&Datagram) -> bool) -> Option<usize> {
        let live = self.datagrams.iter().enumerate().filter(|(_, it)| it.state != FREE && among(it));
        live.min_by_key(|(_, datagram)| datagram.deadline).map(|(place, _)| place)
    }

    /// Whether anything lies beyond the end that is now known.
    fn reaches_beyond(&self, place: usize) -> bool {
        let end_unit = (self.datagrams[place].end as usize).div_ceil(UNIT);
        let beyond = end_unit..BLOCKS_PER_DATAGRAM * BLOCK / UNIT;
        self.count_units(place, beyond) != 0
    }

    fn overlap(&self, place: usize, offset: usize, len: usize) -> Overlap {
        let units = offset / UNIT..(offset + len).div_ceil(UNIT);
        match self.count_units(place, units.clone()) {
            0 => Overlap::None,
            all if all == units.len() => Overlap::Repeated,
            _ => Overlap::Partial,
        }
    }

    /// How many of these units have arrived.
    fn count_units(&self, place: usize, units: core::ops::Range<usize>) -> usize {
        let datagram = &self.datagrams[place];
        let mut count = 0;
        let mut at = units.start;
        while at < units.end {
            // A word of the bitmap at a time.
            let word_end = (at / 64 + 1) * 64;
            let (from, to) = (at % 64, units.end.min(word_end) - (word_end - 64));
            let block = datagram.blocks[at / (BLOCK / UNIT)];
            if block != 0 {
                let word = self.blocks[block as usize - 1].received[at % (BLOCK / UNIT) / 64];
                count += (word & mask(from, to)).count_ones() as usize;
            }
            at = word_end;
        }
        count
    }

    fn claim_blocks(&mut self, place: usize, offset: usize, len: usize) -> bool {
        for index in offset / BLOCK..=(offset + len - 1) / BLOCK {
            if self.datagrams[place].blocks[index] != 0 {
                continue;
            }
            let block = loop {
                if let Some(block) = self.take_block() {
                    break block;
                }
                let current = self.datagrams[place];
                let Some(oldest) = self.oldest(|it| *it != current && it.state == LIVE) else { return false };
                self.free(oldest);
            };
            self.blocks[block as usize].received = Default::default();
            self.datagrams[place].blocks[index] = block + 1;
        }
        true
    }

    fn copy_in<'p>(&mut self, place: usize, offset: usize, len: usize, pieces: impl Iterator<Item = &'p [u8]>) {
        let mut at = offset;
        for mut piece in pieces {
            while !piece.is_empty() {
                let block = self.datagrams[place].blocks[at / BLOCK] as usize - 1;
                let within = at % BLOCK;
                let (now, later) = piece.split_at(piece.len().min(BLOCK - within));
                self.blocks[block].bytes[within..within + now.len()].copy_from_slice(now);
                at += now.len();
                piece = later;
            }
        }
        debug_assert_eq!(at, offset + len, "pieces are as long as the header says");
        let units = offset / UNIT..(offset + len).div_ceil(UNIT);
        let mut at = units.start;
        while at < units.end {
            let word_end = (at / 64 + 1) * 64;
            let (from, to) = (at % 64, units.end.min(word_end) - (word_end - 64));
            let block = self.datagrams[place].blocks[at / (BLOCK / UNIT)] as usize - 1;
            self.blocks[block].received[at % (BLOCK / UNIT) / 64] |= mask(from, to);
            at = word_end;
        }
    }

    fn complete(&mut self, place: usize) -> Whole {
        let datagram = self.datagrams[place];
        let len = datagram.end as usize;
        for (index, chunk) in self.scratch[..len].chunks_mut(BLOCK).enumerate() {
            let block = datagram.blocks[index] as usize - 1;
            chunk.copy_from_slice(&self.blocks[block].bytes[..chunk.len()]);
        }
        self.free(place);
        // RFC 3168 section 5.3: congestion that one fragment met is the datagram's.
        let tos = if datagram.congested != 0 && datagram.tos & 3 != 0 { datagram.tos | 3 } else { datagram.tos };
        Whole {
            source: Ipv4Addr::from_bits(datagram.source),
            destination: Ipv4Addr::from_bits(datagram.destination),
            protocol: datagram.protocol,
            tos,
            ttl: datagram.ttl,
            identification: datagram.identification,
            len,
        }
    }

    fn first_bytes(&self, place: usize) -> Option<(Ipv4Repr, [u8; 8])> {
        let datagram = &self.datagrams[place];
        if datagram.state != LIVE || datagram.has_first == 0 {
            return None;
        }
        let block = datagram.blocks[0].checked_sub(1)?;
        let bytes = self.blocks[block as usize].bytes.first_chunk::<8>()?;
        let header = Ipv4Repr {
            source: Ipv4Addr::from_bits(datagram.source),
            destination: Ipv4Addr::from_bits(datagram.destination),
            protocol: datagram.protocol,
            ttl: datagram.ttl,
            tos: datagram.tos,
            identification: datagram.identification,
            dont_fragment: false,
            more_fragments: true,
            fragment_offset: 0,
            payload_len: datagram.received as u16,
        };
        Some((header, *bytes))
    }

    /// Gives the blocks back and keeps the record, so that nothing that still comes of the datagram begins a new one.
    fn poison(&mut self, place: usize) -> Outcome {
        self.free_blocks(place);
        self.datagrams[place].state = POISONED;
        Outcome::Discarded
    }

    fn free(&mut self, place: usize) {
        self.free_blocks(place);
        self.datagrams[place].state = FREE;
    }

    fn free_blocks(&mut self, place: usize) {
        for block in &mut self.datagrams[place].blocks {
            if *block != 0 {
                self.blocks[*block as usize - 1].received[0] = u64::from(self.state.free_head);
                self.state.free_head = *block;
                self.state.used -= 1;
                *block = 0;
            }
        }
    }

    fn take_block(&mut self) -> Option<u32> {
        let block = if self.state.free_head != 0 {
            let block = self.state.free_head - 1;
            self.state.free_head = self.blocks[block as usize].received[0] as u32;
            block
        } else if (self.state.untouched as usize) < self.blocks.len() {
            self.state.untouched += 1;
            self.state.untouched - 1
        } else {
            return None;
        };
        self.state.used += 1;
        Some(block)
    }
}

enum Overlap {
    None,
    Repeated,
    Partial,
}

/// Bits `from .. to` of a word.
fn mask(from: usize, to: usize) -> u64 {
    (u64::MAX >> (64 - (to - from))) << from
}

#[cfg(test)]
mod tests;
