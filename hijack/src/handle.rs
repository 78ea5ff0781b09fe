//! A socket of ours as one call sees it: found by its descriptor once, then used without the table.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use persona_channel::layout::state_bits;
use persona_channel::memory::{ListenerIndex, SessionRef, Shard, Slot, SocketRef};
use persona_channel::poll::{self, events};

use crate::attach::{self, View};
use crate::critical::{self, Owned};
use crate::relisten;
use crate::sys::{Errno, Result};
use crate::table::{self, SocketId};

/// Bits that the library keeps in the socket's file flags beside the O_ flags.
pub mod private_flags {
    /// SO_OOBINLINE.
    pub const INLINE_URGENT: u32 = 1 << 31;
    /// connect() has said EINPROGRESS; the next one tells the outcome.
    pub const CONNECT_PENDING: u32 = 1 << 30;
    /// connect() has told that the attempt failed, or shutdown() has given it up: as if there had been none.
    pub const DISCONNECTED: u32 = 1 << 29;
    /// bind() has named an address, which outlives failed attempts.
    pub const ADDRESS_BOUND: u32 = 1 << 28;
    /// A listener that was brought back has SO_REUSEADDR or SO_REUSEPORT for its relatives' sake: the application did not set
    /// it, and does not see it.
    pub const REUSE_ADDRESS_LENT: u32 = 1 << 27;
    pub const REUSE_PORT_LENT: u32 = 1 << 26;
    /// What an accepted connection has from its listener.
    pub const INHERITED: u32 = INLINE_URGENT | REUSE_ADDRESS_LENT | REUSE_PORT_LENT;
    pub const ALL: u32 =
        INLINE_URGENT | CONNECT_PENDING | DISCONNECTED | ADDRESS_BOUND | REUSE_ADDRESS_LENT | REUSE_PORT_LENT;
}

#[derive(Clone, Copy)]
pub struct Handle {
    pub fd: c_int,
    pub id: SocketId,
    pub view: &'static View,
    pub session: SessionRef<'static>,
    pub socket: SocketRef<'static>,
}

impl Handle {
    /// The socket behind a descriptor; None if it is not ours.
    #[inline]
    pub fn of(fd: c_int) -> Option<Handle> {
        let id = table::socket(fd)?;
        attach::check_process();
        Handle::new(fd, id)
    }

    /// As [`of`](Self::of), unless the payload passes through the descriptor itself: then the real calls do it.
    #[inline]
    pub fn unrelayed(fd: c_int) -> Option<Handle> {
        Handle::of(fd).filter(|handle| !handle.is_relayed())
    }

    pub fn new(fd: c_int, id: SocketId) -> Option<Handle> {
        let view = attach::view(id.session);
        let session = view.session()?;
        let socket = session.socket(Slot::new(id.slot)?);
        Some(Handle { fd, id, view, session, socket })
    }

    /// State bits as the engine last published them, without what a failed attempt to connect has left there once that was
    /// told.
    #[inline]
    pub fn bits(&self) -> u32 {
        let bits = self.socket.state.bits.load(Ordering::Acquire);
        if bits & ATTEMPT != 0 && self.is_disconnected() {
            let error = self.socket.state.error.load(Ordering::Acquire) != 0;
            return bits & !ATTEMPT | if error { state_bits::ERROR } else { 0 };
        }
        bits
    }

    /// True between an attempt to connect that is known to have failed and the next one.
    pub fn is_disconnected(&self) -> bool {
        self.flags() & private_flags::DISCONNECTED != 0
    }

    pub fn has(&self, bit: u32) -> bool {
        self.bits() & bit != 0
    }

    pub fn is_relayed(&self) -> bool {
        self.has(state_bits::RELAY)
    }

    /// Nobody serves this socket any more: its engine is gone, or the slot has begun another life.
    pub fn is_lost(&self) -> bool {
        self.view.is_dead() || self.socket.state.generation.load(Ordering::Acquire) != self.id.generation
    }

    /// The shard that gets this socket's commands: what the engine says once it knows the slot.
    pub fn shard(&self) -> Shard {
        let shard = match self.bits() {
            0 => self.id.slot % self.view.shards().max(1),
            _ => self.socket.state.shard.load(Ordering::Acquire),
        };
        Shard::new(shard).unwrap_or(FIRST_SHARD)
    }

    /// Tells the shard that a cursor moved.
    #[inline]
    pub fn mark(&self) {
        let shard = self.shard();
        if self.session.attention(shard).mark_socket(self.socket.slot) {
            self.view.ring(shard.get());
        }
    }

    pub fn flags(&self) -> u32 {
        self.socket.cursor.file_flags.load(Ordering::Acquire)
    }

    pub fn set_flag(&self, flag: u32, on: bool) {
        let flags = &self.socket.cursor.file_flags;
        if on {
            flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }

    pub fn is_nonblocking(&self) -> bool {
        self.flags() & libc::O_NONBLOCK as u32 != 0
    }

    pub fn has_inline_urgent(&self) -> bool {
        self.flags() & private_flags::INLINE_URGENT != 0
    }

    pub fn own_send(&self) -> Owned {
        critical::own(&self.socket.cursor.own_send)
    }

    pub fn own_receive(&self) -> Owned {
        critical::own(&self.socket.cursor.own_receive)
    }

    /// What poll() says of the socket now.
    pub fn poll_bits(&self) -> u32 {
        if self.is_lost() {
            if relisten::is_orphan(self) {
                return 0;
            }
            return events::IN
                | events::OUT
                | events::RDNORM
                | events::WRNORM
                | events::RDHUP
                | events::HUP
                | events::ERR;
        }
        let (state, cursor) = (self.socket.state, self.socket.cursor);
        if self.is_disconnected() {
            let error = if state.error.load(Ordering::Acquire) != 0 { events::ERR } else { 0 };
            return events::OUT | events::WRNORM | events::HUP | error;
        }
        poll::poll_bits(state, cursor, self.has_inline_urgent(), || self.rings().any(|ring| ring.ready()))
    }

    /// As [`poll_bits`](Self::poll_bits), for somebody who goes to sleep if `wanted` is not among them: a full send
    /// buffer is told to make an edge when there is space.
    pub fn poll_bits_wanting(&self, wanted: u32) -> u32 {
        let found = self.poll_bits();
        if wanted & (events::OUT | events::WRNORM) == 0 || found & events::OUT != 0 {
            return found;
        }
        self.socket.send_writer().want_space();
        self.poll_bits()
    }

    /// The accept rings of a listener, one per shard; nothing for other sockets.
    pub fn rings(&self) -> impl Iterator<Item = &'static persona_channel::layout::AcceptRing> {
        let session = self.session;
        let listener = self
            .has(state_bits::LISTENING)
            .then(|| ListenerIndex::new(self.socket.address.listener.load(Ordering::Acquire)))
            .flatten();
        let shards = self.view.shards();
        Shard::all()
            .take(shards as usize)
            .filter_map(move |shard| listener.map(|listener| session.accept_ring(listener, shard)))
    }

    /// Takes the pending error, as SO_ERROR and failing calls do.
    pub fn take_error(&self) -> Option<Errno> {
        if self.view.is_dead() && self.socket.state.error.load(Ordering::Acquire) == 0 {
            let ended = self.has(state_bits::ENDED);
            return (!ended && !relisten::is_orphan(self)).then_some(Errno(libc::ECONNRESET));
        }
        if self.socket.state.error.load(Ordering::Relaxed) == 0 {
            return None;
        }
        match self.socket.state.error.swap(0, Ordering::AcqRel) {
            0 => None,
            errno => Some(Errno(errno.abs())),
        }
    }

    /// Fails with the pending error if there is one.
    pub fn check_error(&self) -> Result<()> {
        self.take_error().map_or(Ok(()), Err)
    }
}

/// Bits that speak of an attempt to connect and its end.
const ATTEMPT: u32 = state_bits::CONNECTING
    | state_bits::CONNECTED
    | state_bits::ENDED
    | state_bits::ERROR
    | state_bits::RCV_CLOSED
    | state_bits::SND_CLOSED;

const FIRST_SHARD: Shard = match Shard::new(0) {
    Some(shard) => shard,
    None => panic!("there is a first shard"),
};
