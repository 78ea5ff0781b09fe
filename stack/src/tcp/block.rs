//! The records of TCP: control block, half-open request, TIME-WAIT, listener. Plain bytes of fixed size without
//! padding, so that the arena can be copied, mapped again and serialised.
//!
//! Sequence numbers in the records are *extended*: 64 bits, counted from [`FIRST`](super::seq::FIRST) for the first byte
//! of the stream, so that they never wrap, compare as integers, and are the stream offset plus a constant.

use crate::flow::Flow;
use crate::ip::PackedIp;
use crate::memory::{NONE, Record};
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::settings::Settings;
use super::state::State;

/// Deadline that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// A connection. The first lines hold what an in-order segment or a pure ACK touches.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tcb {
    // Line 0: who, and how far.
    pub(crate) flow: Flow,
    pub(crate) generation: u32,
    /// RCV.NXT.
    pub(crate) rcv_nxt: u64,
    pub(crate) owner: u64,
    /// [`State`] as a byte; read with [`Tcb::state`].
    state: u8,
    /// RCV.WND scale that we offered, 0 when scaling is off.
    pub(crate) rcv_scale: u8,
    /// [`flag`] bits.
    pub(crate) flags: u16,
    /// Low half of the flow's hash.
    pub(crate) hash: u32,

    // Line 1: receiving.
    /// Right edge of the window that the peer was told (RCV.NXT + RCV.WND); never moves left.
    pub(crate) rcv_adv: u64,
    /// The application's read cursor.
    pub(crate) rcv_read: u64,
    /// RCV.NXT as last acknowledged.
    pub(crate) rcv_acked: u64,
    /// Urgent pointer received: the byte after the urgent byte; 0: none yet.
    pub(crate) rcv_up: u64,
    /// Bytes of the receive buffer.
    pub(crate) rcv_buffer: u32,
    pub(crate) irs: u32,
    /// TS.Recent.
    pub(crate) ts_recent: u32,
    /// Out-of-order ranges, ascending; head of a list in the range pool.
    pub(crate) ofo_head: u32,
    /// Segment size that the peer uses, estimated from what arrives.
    pub(crate) rcv_mss: u16,
    /// Full-sized segments received and not acknowledged.
    pub(crate) ack_segments: u8,
    /// Segments that are still acknowledged at once (quickack mode).
    pub(crate) quick: u8,
    /// Out-of-order ranges held.
    pub(crate) ofo_count: u16,
    /// [`timer`]: what `rtx_at` is for.
    pub(crate) rtx_kind: u8,
    /// [`ecn::bit`](super::ecn::bit): what was agreed on, and what is due.
    pub(crate) ecn: u8,
    /// When TS.Recent was last updated, in seconds.
    pub(crate) ts_recent_at: u32,
    /// The sending half ([`super::sender::Sender`]), or [`NONE`].
    pub(crate) sender: u32,

    // Line 2: sending.
    /// SND.UNA.
    pub(crate) snd_una: u64,
    /// SND.NXT.
    pub(crate) snd_nxt: u64,
    /// After the last byte that the application has written; the FIN's number.
    pub(crate) snd_end: u64,
    /// Low half of the number of the segment that last updated the window.
    pub(crate) snd_wl1: u32,
    /// When data last arrived, in milliseconds (wrapping).
    pub(crate) data_at: u32,
    /// SND.WND in bytes.
    pub(crate) snd_wnd: u32,
    /// Largest window that the peer has offered.
    pub(crate) max_wnd: u32,
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    /// Payload bytes of a segment that carries no other option than timestamps.
    pub(crate) mss: u16,
    pub(crate) snd_scale: u8,
    /// [`recovery`] state.
    pub(crate) recovery: u8,
    pub(crate) iss: u32,
    /// Urgent pointer to send: the byte after the urgent byte; 0: none.
    pub(crate) snd_up: u64,

    // Line 3: timers and round-trip time.
    /// Retransmission, tail loss probe or reordering by `rtx_kind`; window probe, or the end of the sending half, when nothing
    /// is in flight.
    pub(crate) rtx_at: u64,
    /// Delayed ACK.
    pub(crate) ack_at: u64,
    /// Keepalive, or end of FIN-WAIT-2 of an orphan.
    pub(crate) idle_at: u64,
    /// When pacing lets the next segment go.
    pub(crate) pace_at: u64,
    /// When the wheel's node fires; not later than the four above.
    pub(crate) armed_at: u64,
    /// Smoothed round-trip time and its variation, in microseconds (RFC 6298); 0: no sample yet.
    pub(crate) srtt: u32,
    pub(crate) rttvar: u32,
    pub(crate) rto: u32,
    pub(crate) min_rtt: u32,
    pub(crate) ts_offset: u32,
    /// Timeouts or probes in a row without an answer.
    pub(crate) retries: u8,
    pub(crate) keep_probes: u8,
    /// [`change`] bits not yet reported.
    pub(crate) changes: u8,
    /// [`accecn::bit`](super::accecn::bit): how AccECN's option is used, and what the last packet bore.
    pub(crate) accurate: u8,

    // Line 4: idle time, MSS, counters.
    /// Last moment at which something was sent, for the window's decay after idle time; the first SYN until established.
    pub(crate) sent_at: Instant,
    /// Last moment at which something arrived, for keepalive.
    pub(crate) heard_at: Instant,
    /// Low half of the end of the last segment that was smaller than the MSS (Nagle's test as Minshall changed it).
    pub(crate) snd_small: u32,
    /// Delay of ACKs in milliseconds (Linux's ato); 0: nothing has arrived.
    pub(crate) ato: u16,
    /// ACKs beyond a gap that are held back to be sent as one, and those that were sent one by one since RCV.NXT last moved.
    pub(crate) compressed: u8,
    pub(crate) gap_acks: u8,
    /// When the least round trip was measured, in seconds.
    pub(crate) min_rtt_at: u32,
    /// Path MTU as far as known, in bytes of an IP packet.
    pub(crate) pmtu: u16,
    /// MSS that the peer announced.
    pub(crate) peer_mss: u16,
    pub(crate) ip_id: u16,
    /// AccECN: packets that arrived with CE since the last ACK, and [`accecn::fail`](super::accecn::fail) bits.
    pub(crate) ce_pending: u8,
    pub(crate) ecn_fail: u8,
    /// AccECN: packets that arrived with CE (r.cep without its beginning).
    pub(crate) received_ce: u32,
    /// Receive-buffer tuning: when and where the interval began that is being measured (microseconds and wire numbers, wrapping),
    /// and the most that was read in one.
    pub(crate) tuned_at: u32,
    pub(crate) tuned_read: u32,
    pub(crate) tuned_space: u32,
    /// AccECN: bytes of payload that arrived with ECT(1), ECT(0) and CE (r.e1b, r.e0b, r.ceb without their beginnings).
    pub(crate) received_bytes: [u32; 3],

    // Line 5: blocks to report, settings.
    pub(crate) settings: Settings,
    /// SACK blocks to send, most recent first, as wire sequence numbers; (0, 0): none.
    pub(crate) sack_blocks: [[u32; 2]; 3],
    pub(crate) retransmits: u32,
    pub(crate) segs_in: u32,
    pub(crate) segs_out: u32,

    // Line 6: rarely touched.
    /// Number of the peer's FIN once it was seen, in order or not; 0: not yet.
    pub(crate) rcv_fin: u64,
    /// First timeout of the row of `retries`.
    pub(crate) stalled_at: Instant,
    /// Duplicate range to report once (RFC 2883), as wire sequence numbers.
    pub(crate) dsack: [u32; 2],
    /// Whom the frames are addressed to on the link.
    pub(crate) next_hop: PackedIp,
    /// Generation of the routes for which `next_hop` and `port` are right.
    pub(crate) path_generation: u32,
    pub(crate) port: u8,
    pub(crate) close_reason: u8,
    pub(crate) close_errno: u16,
    pub(crate) soft_error: u16,
    /// When AccECN's option was last sent, in units of 1,024 microseconds (wrapping).
    pub(crate) ecn_option_at: u16,
    /// Listener of a connection that nobody has adopted, or [`NONE`].
    pub(crate) listener: u32,
    /// Last answer to an unacceptable segment, in milliseconds (wrapping).
    pub(crate) oow_ms: u32,
    /// Segments of ours that arrived with a mark, as far as the peer has told.
    pub(crate) delivered_ce: u32,
}

const _: () = assert!(size_of::<Tcb>() == 448);
const _: () = assert!(core::mem::offset_of!(Tcb, rcv_adv) == 64);
const _: () = assert!(core::mem::offset_of!(Tcb, snd_una) == 128);
const _: () = assert!(core::mem::offset_of!(Tcb, rtx_at) == 192);

/// Bits of [`Tcb::flags`].
pub(crate) mod flag {
    /// Both sides sent timestamps.
    pub(crate) const TIMESTAMPS: u16 = 1;
    /// Both sides permit SACK.
    pub(crate) const SACK: u16 = 1 << 1;
    /// The application has closed its sending side: a FIN follows the last byte.
    pub(crate) const FIN_WANTED: u16 = 1 << 2;
    /// Our FIN has been sent (SND.NXT is beyond it, unless a timeout pulled it back).
    pub(crate) const FIN_SENT: u16 = 1 << 3;
    /// An ACK goes out with the next flush.
    pub(crate) const ACK_NOW: u16 = 1 << 4;
    /// close() was called: nobody will read.
    pub(crate) const ORPHAN: u16 = 1 << 5;
    /// Data flows both ways: acknowledgements wait for data to travel with.
    pub(crate) const PINGPONG: u16 = 1 << 6;
    /// In the list of connections whose output waits.
    pub(crate) const IN_FLUSH: u16 = 1 << 7;
    /// In the list of connections with something to report.
    pub(crate) const IN_EVENTS: u16 = 1 << 8;
    /// The record waits only for its end to be reported.
    pub(crate) const ENDED: u16 = 1 << 9;
    /// The application has adopted it.
    pub(crate) const ADOPTED: u16 = 1 << 11;
    /// The peer was told a window of zero.
    pub(crate) const ZERO_WINDOW: u16 = 1 << 12;
    /// Output waits for a neighbour or for room in the port.
    pub(crate) const BLOCKED: u16 = 1 << 13;
    /// Its end was reported, or nobody is there to hear of it: the record goes once no list holds it.
    pub(crate) const REPORTED: u16 = 1 << 15;
}

/// Bits of [`Tcb::changes`].
pub(crate) mod change {
    pub(crate) const ESTABLISHED: u8 = 1;
    pub(crate) const READABLE: u8 = 1 << 1;
    pub(crate) const ACKED: u8 = 1 << 2;
    pub(crate) const PEER_CLOSED: u8 = 1 << 3;
    pub(crate) const URGENT: u8 = 1 << 4;
    pub(crate) const SOFT_ERROR: u8 = 1 << 5;
    pub(crate) const INCOMING: u8 = 1 << 6;
}

/// Values of [`Tcb::recovery`]: Linux's TCP_CA_*.
pub(crate) mod recovery {
    /// Nothing is known to be lost.
    pub(crate) const OPEN: u8 = 0;
    /// Something arrived out of order; nothing counts as lost yet.
    pub(crate) const DISORDER: u8 = 1;
    /// The window is being reduced for another reason than loss that has to be repaired.
    pub(crate) const REDUCING: u8 = 2;
    /// Fast recovery (RFC 6675, RFC 6582 without SACK).
    pub(crate) const FAST: u8 = 3;
    /// After a retransmission timeout.
    pub(crate) const LOSS: u8 = 4;
}

/// Values of [`Tcb::rtx_kind`].
pub(crate) mod timer {
    pub(crate) const RETRANSMISSION: u8 = 0;
    /// Tail loss probe (RFC 8985 section 7).
    pub(crate) const PROBE: u8 = 1;
    /// RACK waits for what may be reordered (RFC 8985 section 6.3).
    pub(crate) const REORDERING: u8 = 2;
}

impl Tcb {
    #[inline]
    pub(crate) fn state(&self) -> State {
        State::from_byte(self.state)
    }

    #[inline]
    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    #[inline]
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: u16) {
        // Stored only when it changes: the compiler stores the one byte, and the next load of the word would wait for it.
        if self.flags & flags != flags {
            self.flags |= flags;
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self, flags: u16) {
        if self.flags & flags != 0 {
            self.flags &= !flags;
        }
    }

    /// Bytes (and a FIN) sent and not acknowledged.
    #[inline]
    pub(crate) fn in_flight(&self) -> u64 {
        self.snd_nxt - self.snd_una
    }

    /// A segment smaller than the MSS is in flight. Half a number says it, since what is in flight is less than its range.
    #[inline]
    pub(crate) fn small_in_flight(&self) -> bool {
        let (small, una, nxt) = (self.snd_small, self.snd_una as u32, self.snd_nxt as u32);
        small.wrapping_sub(una) as i32 > 0 && nxt.wrapping_sub(small) as i32 >= 0
    }

    /// A connection of `flow` in `state` with nothing sent or received.
    pub(crate) fn new(flow: Flow, hash: u32, generation: u32, settings: Settings, state: State) -> Self {
        use super::seq::{FIRST, SYN};
        use zerocopy::FromZeros;
        let mut tcb = Self::new_zeroed();
        tcb.flow = flow;
        tcb.hash = hash;
        tcb.generation = generation;
        tcb.settings = settings;
        tcb.set_state(state);
        tcb.rcv_nxt = SYN;
        tcb.rcv_adv = FIRST;
        tcb.rcv_read = FIRST;
        tcb.rcv_acked = SYN;
        tcb.rcv_buffer = settings.first_receive_buffer();
        tcb.ofo_head = NONE;
        tcb.sender = NONE;
        tcb.snd_una = SYN;
        tcb.snd_nxt = SYN;
        tcb.snd_end = FIRST;
        tcb.rtx_at = NEVER;
        tcb.ack_at = NEVER;
        tcb.idle_at = NEVER;
        tcb.pace_at = NEVER;
        tcb.armed_at = NEVER;
        tcb.rto = super::rtt::INITIAL_RTO;
        tcb.listener = NONE;
        tcb.ssthresh = u32::MAX;
        tcb
    }
}

impl Record for Tcb {
    fn set_free_link(&mut self, next: u32) {
        self.hash = next;
    }
    fn free_link(&self) -> u32 {
        self.hash
    }
}

/// A connection that a peer has asked for and not completed (SYN-RECEIVED of a passive open).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Request {
    pub(crate) flow: Flow,
    pub(crate) hash: u32,
    pub(crate) irs: u32,
    pub(crate) iss: u32,
    pub(crate) ts_recent: u32,
    pub(crate) ts_offset: u32,
    pub(crate) listener: u32,
    pub(crate) listener_generation: u32,
    /// When the SYN,ACK is sent again.
    pub(crate) retry_at: u64,
    /// When the SYN,ACK was first sent, for the first round-trip sample.
    pub(crate) sent_at: Instant,
    pub(crate) peer_mss: u16,
    /// Scale that the peer offered; [`Request::NO_SCALE`]: none.
    pub(crate) snd_scale: u8,
    pub(crate) retries: u8,
    /// [`flag::TIMESTAMPS`], [`flag::SACK`].
    pub(crate) flags: u8,
    pub(crate) port: u8,
    /// As in [`Tcb::ecn`].
    pub(crate) ecn: u8,
    /// ECN codepoint of the SYN.
    pub(crate) syn_codepoint: u8,
    /// Last answer to an unacceptable segment, in milliseconds (wrapping).
    pub(crate) oow_ms: u32,
    /// 1: the ACK came, and data is waited for (TCP_DEFER_ACCEPT).
    pub(crate) acked: u8,
    pub(crate) _pad1: [u8; 35],
}

impl Request {
    pub(crate) const NO_SCALE: u8 = 0xff;
}

impl Record for Request {
    fn set_free_link(&mut self, next: u32) {
        self.hash = next;
    }
    fn free_link(&self) -> u32 {
        self.hash
    }
}

/// What is left of a connection in TIME-WAIT.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TimeWait {
    pub(crate) flow: Flow,
    /// Wire sequence numbers of what we would send and expect next.
    pub(crate) snd_nxt: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) hash: u32,
    pub(crate) ends_at: u64,
    pub(crate) ts_recent: u32,
    pub(crate) ts_offset: u32,
    /// When TS.Recent was last updated, in seconds.
    pub(crate) ts_recent_at: u32,
    /// Last answer to an unacceptable segment, in milliseconds (wrapping).
    pub(crate) oow_ms: u32,
    /// Window as on the wire.
    pub(crate) window: u16,
    pub(crate) timestamps: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) _pad: [u8; 51],
}

impl Record for TimeWait {
    fn set_free_link(&mut self, next: u32) {
        self.hash = next;
    }
    fn free_link(&self) -> u32 {
        self.hash
    }
}

/// A listening address.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Listener {
    pub(crate) owner: u64,
    /// [`PackedIp::NONE`]: any.
    pub(crate) address: PackedIp,
    pub(crate) settings: Settings,
    pub(crate) generation: u32,
    pub(crate) hash: u32,
    pub(crate) backlog: u32,
    /// Requests that name this listener.
    pub(crate) requests: u32,
    /// Connections that are established and not adopted.
    pub(crate) waiting: u32,
    pub(crate) port: u16,
    /// 1 while it listens.
    pub(crate) open: u16,
    pub(crate) defer_accept: u8,
    pub(crate) _pad: [u8; 51],
}

impl Record for Listener {
    fn set_free_link(&mut self, next: u32) {
        self.hash = next;
    }
    fn free_link(&self) -> u32 {
        self.hash
    }
}

/// Neighbours of one connection in the lists that run through all of them; apart from the control blocks so that
/// appending to a list does not touch another connection's lines.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Link {
    pub(crate) event_next: u32,
    pub(crate) flush_next: u32,
}
