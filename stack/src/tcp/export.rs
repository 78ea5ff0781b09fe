//! A connection as bytes: so that another stack, with other tables and another clock, can go on with it.
//!
//! The record goes as it is, behind a head that says which build's record it is; what only means something within one
//! arena (indexes, list links, the path) is left out or made anew, and moments are moved to the new clock.

use super::block::{NEVER, Tcb, flag};
use super::ranges::{MOST, Range};
use super::state::State;
use super::{RangePool, ranges};
use crate::congestion;
use crate::memory::NONE;
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: u32 = u32::from_le_bytes(*b"PCON");
/// Changes whenever [`Tcb`] does.
const VERSION: u16 = 1;

/// Bytes that one connection takes at most.
pub const EXPORT_MAX: usize = size_of::<Head>() + size_of::<Tcb>() + 2 * MOST as usize * size_of::<Extent>();

/// Why bytes do not make a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportError {
    /// Not an exported connection, or one of another build.
    Foreign,
    /// Cut short or inconsistent.
    Damaged,
    /// The 4-tuple is in use here, no record is free, or the local address is not ours.
    Refused(crate::api::Error),
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Head {
    magic: u32,
    version: u16,
    record: u16,
    at: Instant,
    ofo: u16,
    sacked: u16,
    _pad: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Extent {
    start: u64,
    end: u64,
}

/// Writes a connection to `out`; `None`: there is no room ([`EXPORT_MAX`] is enough).
pub(crate) fn export(tcb: &Tcb, ranges: &[Range], now: Instant, out: &mut [u8]) -> Option<usize> {
    let head = Head {
        magic: MAGIC,
        version: VERSION,
        record: size_of::<Tcb>() as u16,
        at: now,
        ofo: tcb.ofo_count,
        sacked: tcb.sack_count,
        _pad: 0,
    };
    let mut at = 0;
    let mut put = |bytes: &[u8]| -> Option<()> {
        out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        at += bytes.len();
        Some(())
    };
    put(head.as_bytes())?;
    put(tcb.as_bytes())?;
    for list in [tcb.ofo_head, tcb.sack_head] {
        for range in ranges::walk(ranges, list) {
            put(Extent { start: range.start, end: range.end }.as_bytes())?;
        }
    }
    Some(at)
}

/// A connection that was read back and is in no table yet.
pub(crate) struct Imported<'a> {
    pub(crate) tcb: Tcb,
    extents: &'a [u8],
}

/// Reads what [`export`] wrote.
pub(crate) fn import(bytes: &[u8], now: Instant) -> Result<Imported<'_>, ImportError> {
    let (head, rest) = Head::read_from_prefix(bytes).map_err(|_| ImportError::Damaged)?;
    let expected = (MAGIC, VERSION, size_of::<Tcb>() as u16);
    if (head.magic, head.version, head.record) != expected {
        return Err(ImportError::Foreign);
    }
    let (mut tcb, extents) = Tcb::read_from_prefix(rest).map_err(|_| ImportError::Damaged)?;
    let count = usize::from(head.ofo) + usize::from(head.sacked);
    let counts_agree = (head.ofo, head.sacked) == (tcb.ofo_count, tcb.sack_count);
    if !counts_agree || head.ofo.max(head.sacked) > MOST || extents.len() != count * size_of::<Extent>() {
        return Err(ImportError::Damaged);
    }
    if !plausible(&tcb) {
        return Err(ImportError::Damaged);
    }
    move_clock(&mut tcb, head.at, now);
    tcb.flags &= !(flag::IN_FLUSH | flag::IN_EVENTS | flag::REPORTED);
    tcb.armed_at = NEVER;
    tcb.listener = NONE;
    (tcb.ofo_head, tcb.sack_head) = (NONE, NONE);
    Ok(Imported { tcb, extents })
}

impl Imported<'_> {
    /// Takes the ranges into this stack's pool. What finds no room is forgotten: out-of-order bytes come again, sacked ones
    /// are sent again.
    pub(crate) fn take_ranges(&mut self, pool: &mut RangePool<'_>) {
        let tcb = &mut self.tcb;
        let ofo = usize::from(tcb.ofo_count);
        (tcb.ofo_count, tcb.sack_count, tcb.sacked) = (0, 0, 0);
        let mut complete = true;
        for (place, bytes) in self.extents.chunks_exact(size_of::<Extent>()).enumerate() {
            let Ok(Extent { start, end }) = Extent::read_from_bytes(bytes) else { continue };
            if start >= end {
                continue;
            }
            if place < ofo {
                let within = start > tcb.rcv_nxt && end <= tcb.rcv_adv + 1;
                let inserted = within.then(|| pool.insert(&mut tcb.ofo_head, &mut tcb.ofo_count, start, end));
                complete &= matches!(inserted, Some(ranges::Inserted::Covered { .. }));
            } else if start >= tcb.snd_una && end <= tcb.snd_nxt {
                let inserted = pool.insert(&mut tcb.sack_head, &mut tcb.sack_count, start, end);
                if let ranges::Inserted::Covered { added, .. } = inserted {
                    tcb.sacked += added as u32;
                }
            }
        }
        if !complete && tcb.rcv_fin > tcb.rcv_nxt {
            tcb.rcv_fin = 0;
        }
    }
}

/// The order of numbers that everything else relies on.
fn plausible(tcb: &Tcb) -> bool {
    let states = !matches!(tcb.state(), State::Closed | State::TimeWait | State::Listen);
    let sent = super::seq::SYN <= tcb.snd_una && tcb.snd_una <= tcb.snd_nxt && tcb.snd_nxt <= tcb.snd_end + 1;
    let received = super::seq::SYN <= tcb.rcv_nxt && tcb.rcv_acked <= tcb.rcv_nxt && tcb.rcv_nxt <= tcb.rcv_adv + 1;
    let read = tcb.rcv_read >= super::seq::FIRST && tcb.rcv_read <= tcb.rcv_nxt.max(super::seq::FIRST);
    states
        && sent
        && received
        && read
        && !tcb.has(flag::ENDED)
        && tcb.has(flag::ADOPTED)
        && tcb.mss > 0
        && tcb.snd_scale <= super::window::MAX_SCALE
        && tcb.rcv_scale <= super::window::MAX_SCALE
}

/// Moves every moment from a clock that read `from` to one that reads `to`.
fn move_clock(tcb: &mut Tcb, from: Instant, to: Instant) {
    let (from, to) = (from.as_micros(), to.as_micros());
    let deadline = |at: u64| if at == NEVER { NEVER } else { to + at.saturating_sub(from) };
    let past = |at: Instant| Instant::from_micros(to.saturating_sub(from.saturating_sub(at.as_micros())));
    tcb.rtx_at = deadline(tcb.rtx_at);
    tcb.ack_at = deadline(tcb.ack_at);
    tcb.idle_at = deadline(tcb.idle_at);
    tcb.rtt_sent = past(tcb.rtt_sent);
    tcb.sent_at = past(tcb.sent_at);
    tcb.heard_at = past(tcb.heard_at);
    tcb.stalled_at = past(tcb.stalled_at);
    tcb.oow_ms = 0;
    let seconds = |micros: u64| (micros / 1_000_000) as u32;
    tcb.ts_recent_at = tcb.ts_recent_at.wrapping_sub(seconds(from)).wrapping_add(seconds(to));
    // The peer's view of our timestamp clock goes on without a jump.
    let millis = |micros: u64| (micros / 1_000) as u32;
    tcb.ts_offset = tcb.ts_offset.wrapping_add(millis(from)).wrapping_sub(millis(to));
    let (from, to) = (Instant::from_micros(from), Instant::from_micros(to));
    congestion::with(tcb.settings.congestion, &mut tcb.control, |control| control.on_clock(from, to));
}
