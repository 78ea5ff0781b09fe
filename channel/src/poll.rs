//! What poll() says of a socket, from its lines alone, as Linux's TCP says it; edges for EPOLLET.

use crate::layout::*;
use crate::sync::Ordering;

/// Poll bits, with Linux's values (EPOLL* and POLL* are the same).
pub mod events {
    pub const IN: u32 = 0x001;
    pub const PRI: u32 = 0x002;
    pub const OUT: u32 = 0x004;
    pub const ERR: u32 = 0x008;
    pub const HUP: u32 = 0x010;
    pub const RDNORM: u32 = 0x040;
    pub const RDBAND: u32 = 0x080;
    pub const WRNORM: u32 = 0x100;
    pub const WRBAND: u32 = 0x200;
    pub const RDHUP: u32 = 0x2000;
}

/// The poll bits of a socket. `accept_ready`: a connection waits in one of a listener's rings (asked for listeners
/// only). `inline_urgent`: SO_OOBINLINE.
pub fn poll_bits(
    state: &StateLine,
    cursor: &CursorLine,
    inline_urgent: bool,
    accept_ready: impl FnOnce() -> bool,
) -> u32 {
    use events::*;
    // The bits first: whoever sees RCV_CLOSED also sees the last rcv_end.
    let bits = state.bits.load(Ordering::Acquire);
    let has = |bit: u32| bits & bit != 0;
    if has(state_bits::LISTENING) {
        return if accept_ready() { IN | RDNORM } else { 0 };
    }
    let mut poll = 0;
    let fresh = !has(state_bits::CONNECTING | state_bits::CONNECTED);
    let both_closed = has(state_bits::RCV_CLOSED) && has(state_bits::SND_CLOSED);
    if both_closed || has(state_bits::ENDED) || fresh {
        poll |= HUP;
    }
    if has(state_bits::RCV_CLOSED) {
        poll |= IN | RDNORM | RDHUP;
    }
    let under_way = has(state_bits::CONNECTING) && !has(state_bits::CONNECTED | state_bits::ENDED);
    if !under_way {
        if readable(state, cursor, inline_urgent) {
            poll |= IN | RDNORM;
        }
        // A fresh socket's buffer is empty, whatever size the engine will give it.
        if has(state_bits::SND_CLOSED) || fresh || writable(state, cursor) {
            poll |= OUT | WRNORM;
        }
        // Until it was taken, or the reader has passed it.
        if state.urgent.load(Ordering::Relaxed) > cursor.rcv_read.load(Ordering::Relaxed)
            && !has(state_bits::URGENT_TAKEN)
        {
            poll |= PRI;
        }
    }
    if has(state_bits::ERROR) && state.error.load(Ordering::Relaxed) != 0 {
        poll |= ERR;
    }
    poll
}

/// At least SO_RCVLOWAT bytes lie there. The urgent byte at the cursor is not counted unless it is inline.
pub fn readable(state: &StateLine, cursor: &CursorLine, inline_urgent: bool) -> bool {
    let read = cursor.rcv_read.load(Ordering::Relaxed);
    let urgent = state.urgent.load(Ordering::Relaxed);
    let end = state.rcv_end.load(Ordering::Acquire);
    let mut low = cursor.receive_low.load(Ordering::Relaxed).max(1) as u64;
    if urgent != 0 && urgent == read.wrapping_add(1) && !inline_urgent {
        low += 1;
    }
    end.saturating_sub(read) >= low
}

/// A third of the send buffer is free.
pub fn writable(state: &StateLine, cursor: &CursorLine) -> bool {
    let acked = state.snd_acked.load(Ordering::Acquire);
    let queued = cursor.snd_end.load(Ordering::Relaxed).saturating_sub(acked);
    frees_enough(queued, state.send_buffer.load(Ordering::Relaxed))
}

/// As Linux's sk_stream_is_writeable: what is free is at least half of what is queued.
pub(crate) fn frees_enough(queued: u64, buffer: u32) -> bool {
    (buffer as u64).saturating_sub(queued) >= (queued / 2).max(1)
}

/// The edge counters of a socket: input in the low half, output in the high half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges(pub u32);

impl Edges {
    pub fn of(state: &StateLine) -> Self {
        Self(state.edges.load(Ordering::Acquire))
    }

    pub fn input(self) -> u16 {
        self.0 as u16
    }

    pub fn output(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The edges after news of the input (`IN`, `RDHUP`, `HUP`, `ERR`, `PRI`), of the output, or of both. The engine
    /// stores them in the state line, which only it writes.
    pub fn after(self, input: bool, output: bool) -> Self {
        let input = self.input().wrapping_add(input as u16) as u32;
        let output = self.output().wrapping_add(output as u16) as u32;
        Self(input | output << 16)
    }
}

impl StateLine {
    /// Engine: makes edges. The line has one writer, so this is no read-modify-write.
    pub fn make_edges(&self, input: bool, output: bool) {
        let edges = Edges(self.edges.load(Ordering::Relaxed)).after(input, output);
        self.edges.store(edges.0, Ordering::Release);
    }
}

/// What an epoll member reports: `wanted` are its EPOLL* bits without the flags, `seen` the edges at its last report
/// (`None` after EPOLL_CTL_ADD or MOD, or for a level-triggered member). 0: nothing. Read the edges before the poll
/// bits, and remember them with each report.
pub fn report(wanted: u32, seen: Option<Edges>, now: Edges, poll: u32) -> u32 {
    let due = poll & (wanted | events::ERR | events::HUP);
    match seen {
        Some(seen) if seen == now => 0,
        Some(seen) if seen.input() == now.input() && due & (events::OUT | events::WRNORM) == 0 => 0,
        Some(seen) if seen.output() == now.output() && due & !(events::OUT | events::WRNORM) == 0 => 0,
        _ => due,
    }
}
