//! The caller's side of one stack: payload memory, a port of finite room, and who adopts incoming connections.
//!
//! The stack is not trusted: a range that was never written or is already freed, a byte stored beyond what the reader
//! can hold, and a call for a stream that does not exist are failures.

use super::content;
use super::frames::{self, Frame, SendMode};
use super::rng::Rng;
use crate::api::{Busy, ConnectionId, Host, Incoming, PassiveOpen, Stored};
use crate::frame::{Owner, Payload, PortId, Segment};
use crate::wire::checksum;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// Both directions of one connection's payload, as the owner of the memory sees them.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Contents of what is sent, and of what the peer sends.
    pub send_key: u64,
    pub receive_key: u64,
    /// Bytes written by the application, and freed because they were acknowledged.
    pub written: u64,
    pub freed: u64,
    /// Receive memory from `read` on.
    received: VecDeque<u8>,
    /// Read by the application.
    pub read: u64,
    /// In order and announced by the stack.
    pub rcv_end: u64,
    /// Bytes that the reader can hold beyond `read`.
    pub room: u64,
}

/// Never equal to a stream's content for long.
const UNWRITTEN: u8 = 0xee;

impl Streams {
    pub fn new(send_key: u64, receive_key: u64, room: u64) -> Self {
        Self { send_key, receive_key, room, ..Self::default() }
    }

    /// The stack says that bytes up to `end` are there; checks each of them.
    pub fn receive_to(&mut self, end: u64) {
        assert!(end >= self.rcv_end, "rcv_end went back from {} to {end}", self.rcv_end);
        let (from, to) = ((self.rcv_end - self.read) as usize, (end - self.read) as usize);
        assert!(to <= self.received.len(), "rcv_end {end} announces bytes that were never stored");
        let bytes = &self.received.make_contiguous()[from..to];
        if let Some(at) = content::first_difference(self.receive_key, self.rcv_end, bytes) {
            panic!("the byte at offset {at} of {}..{end} is not what the peer wrote", self.rcv_end);
        }
        self.rcv_end = end;
    }

    pub fn consume(&mut self, len: u64) {
        self.received.drain(..len as usize);
        self.read += len;
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset >= self.rcv_end, "stored at {offset}, below what was announced ({})", self.rcv_end);
        let (from, to) = ((offset - self.read) as usize, (offset - self.read) as usize + bytes.len());
        assert!(to as u64 <= self.room, "stored up to {to} bytes ahead of the reader, who holds {}", self.room);
        if self.received.len() < to {
            self.received.resize(to, UNWRITTEN);
        }
        self.received.make_contiguous()[from..to].copy_from_slice(bytes);
    }
}

/// What leaves a node, and which stream bytes it was made from.
#[derive(Debug)]
pub struct Departure {
    pub frame: Frame,
    /// Owner and offset of the first payload byte.
    pub source: Option<(Owner, u64)>,
}

/// The [`Host`] of one node.
pub struct SimHost {
    pub rng: Rng,
    pub link: usize,
    pub streams: Vec<Streams>,
    /// Frames that the port has taken, not yet on the wire.
    pub departures: Vec<Departure>,
    /// Frames that the port takes before it says [`Busy`], and how many it holds.
    pub port_room: usize,
    pub port_held: usize,
    pub mode: SendMode,
    /// Largest super-segment that was announced.
    pub max_segment: usize,
    pub mtu: usize,
    /// Parts in a million of calls of `store` that find memory short.
    pub short_memory: u32,
    /// Answers for incoming connections: owner by remote port, and how soon.
    pub owners: Vec<(u16, Owner)>,
    /// Cookies may bring a connection back that has ended: the ACK that opens it looks like the one that opened it.
    pub may_refuse: bool,
    /// Owners that have had their connection.
    pub served: Vec<Owner>,
    pub adoption: Adoption,
    /// Connections that were adopted at once.
    pub adopted: Vec<(Owner, ConnectionId)>,
    pub refusals: u32,
    /// [`Busy`] was said since the last flush.
    pub was_busy: bool,
}

/// When incoming connections get their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    AtOnce,
    Later,
    /// Refused a few times first, as with a full accept queue.
    AfterRefusals(u32),
}

impl SimHost {
    /// The owner of an incoming connection from `remote_port`.
    pub fn owner_of(&self, remote_port: u16) -> Owner {
        let found = self.owners.iter().find(|(port, _)| *port == remote_port);
        found.unwrap_or_else(|| panic!("a connection from port {remote_port}, which nobody opened")).1
    }

    fn streams(&mut self, owner: Owner) -> &mut Streams {
        let count = self.streams.len();
        let found = self.streams.get_mut(owner.0 as usize);
        found.unwrap_or_else(|| panic!("{owner:?} is none of the {count} owners"))
    }
}

/// Frames without stream payload that wait for room beside the port.
const SPARE: usize = 64;

impl Host for SimHost {
    fn transmit(&mut self, _: PortId, segment: &Segment<'_>) -> Result<(), Busy> {
        // As the engine does, which keeps frames without stream payload until its ring has room.
        let spare = if matches!(segment.payload, Payload::Stream { .. }) { 0 } else { SPARE };
        if self.port_held >= self.port_room.saturating_add(spare) {
            self.was_busy = true;
            return Err(Busy);
        }
        let (payload, source) = match segment.payload {
            Payload::None => (vec![], None),
            Payload::Inline(bytes) => (bytes.to_vec(), None),
            Payload::Stream { owner, offset, len } => {
                let streams = self.streams(owner);
                let end = offset + u64::from(len);
                assert!(
                    offset >= streams.freed && end <= streams.written,
                    "sends {offset}..{end} of {owner:?}, whose memory holds {}..{}",
                    streams.freed,
                    streams.written
                );
                let mut bytes = vec![0; len as usize];
                content::fill(streams.send_key, offset, &mut bytes);
                (bytes, Some((owner, offset)))
            }
        };
        let len = segment.header.len() + payload.len();
        assert!(len <= self.max_segment + self.link, "{len} bytes in a segment, {} announced", self.max_segment);
        let limit = self.mtu + self.link;
        match segment.gso {
            Some(gso) => {
                let wire = segment.header.len() + usize::from(gso.size);
                assert!(wire <= limit, "{wire} bytes in each cut frame, the link carries {limit}");
                assert!(gso.size > 0 && payload.len() > usize::from(gso.size), "nothing to cut");
            }
            None => assert!(len <= limit, "{len} bytes in a frame, the link carries {limit}"),
        }
        let mut source = source;
        for frame in frames::send(segment, &payload, self.link, self.mode) {
            let len = frame.bytes.len() - segment.header.len();
            self.departures.push(Departure { frame, source });
            source = source.map(|(owner, offset)| (owner, offset + len as u64));
            self.port_held += 1;
        }
        Ok(())
    }

    fn store(&mut self, owner: Owner, offset: u64, bytes: &[u8]) -> Stored {
        let mut len = bytes.len();
        if self.rng.chance(self.short_memory) {
            len = self.rng.below(len as u64 + 1) as usize;
        }
        let bytes = &bytes[..len];
        self.streams(owner).store(offset, bytes);
        Stored { len, sum: checksum::sum(bytes) }
    }

    fn incoming(&mut self, open: &PassiveOpen) -> Incoming {
        let owner = self.owner_of(open.remote.port());
        if self.may_refuse && self.served.contains(&owner) {
            return Incoming::Refuse;
        }
        match &mut self.adoption {
            Adoption::Later => Incoming::Later,
            Adoption::AfterRefusals(left) if *left > 0 => {
                *left -= 1;
                self.refusals += 1;
                Incoming::Refuse
            }
            Adoption::AtOnce | Adoption::AfterRefusals(_) => {
                self.adopted.push((owner, open.connection));
                Incoming::Adopt(owner)
            }
        }
    }
}
