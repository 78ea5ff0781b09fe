//! A connection as bytes: so that another stack, with other tables and another clock, can go on with it.
//!
//! The record goes as it is, behind a head that says which build's record it is; what only means something within one
//! arena (indexes, list links, the path) is left out or made anew, and moments are moved to the new clock.

use super::block::{NEVER, Tcb, flag};
use super::flights::{self, Flight, SentQueue};
use super::ranges::{MOST, Range};
use super::sender::Sender;
use super::state::State;
use super::{Conn, RangePool, ranges, seq};
use crate::congestion;
use crate::memory::NONE;
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const MAGIC: u32 = u32::from_le_bytes(*b"PCON");
/// Changes whenever one of the records does.
const VERSION: u16 = 5;

/// Bytes that one connection takes at most.
pub const EXPORT_MAX: usize = size_of::<Head>()
    + size_of::<Tcb>()
    + size_of::<Sender>()
    + MOST as usize * size_of::<Extent>()
    + flights::MOST as usize * size_of::<Flight>();

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
    /// 1: the sending half follows, and its flights.
    sender: u16,
    flights: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Extent {
    start: u64,
    end: u64,
}

/// Writes a connection to `out`; `None`: there is no room ([`EXPORT_MAX`] is enough).
pub(crate) fn export(
    tcb: &Tcb,
    ranges: &[Range],
    sender: Option<&Sender>,
    flights: &[Flight],
    now: Instant,
    out: &mut [u8],
) -> Option<usize> {
    let head = Head {
        magic: MAGIC,
        version: VERSION,
        record: size_of::<Tcb>() as u16,
        at: now,
        ofo: tcb.ofo_count,
        sender: u16::from(sender.is_some()),
        flights: sender.map_or(0, |sender| sender.queue.count),
    };
    let mut at = 0;
    let mut put = |bytes: &[u8]| -> Option<()> {
        out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        at += bytes.len();
        Some(())
    };
    put(head.as_bytes())?;
    put(tcb.as_bytes())?;
    for range in ranges::walk(ranges, tcb.ofo_head) {
        put(Extent { start: range.start, end: range.end }.as_bytes())?;
    }
    if let Some(sender) = sender {
        put(sender.as_bytes())?;
        for flight in flights::walk(flights, &sender.queue) {
            put(flight.as_bytes())?;
        }
    }
    Some(at)
}

/// A connection that was read back and is in no table yet.
pub(crate) struct Imported<'a> {
    pub(crate) tcb: Tcb,
    extents: &'a [u8],
    sender: Option<Sender>,
    flights: &'a [u8],
    from: Instant,
}

/// Reads what [`export`] wrote.
pub(crate) fn import(bytes: &[u8], now: Instant) -> Result<Imported<'_>, ImportError> {
    let (head, rest) = Head::read_from_prefix(bytes).map_err(|_| ImportError::Damaged)?;
    let expected = (MAGIC, VERSION, size_of::<Tcb>() as u16);
    if (head.magic, head.version, head.record) != expected {
        return Err(ImportError::Foreign);
    }
    let (mut tcb, rest) = Tcb::read_from_prefix(rest).map_err(|_| ImportError::Damaged)?;
    let ofo = usize::from(head.ofo) * size_of::<Extent>();
    if head.ofo != tcb.ofo_count || head.ofo > MOST || rest.len() < ofo || !plausible(&tcb) {
        return Err(ImportError::Damaged);
    }
    let (extents, rest) = rest.split_at(ofo);
    let (sender, flights) = match head.sender {
        0 => (None, rest),
        _ => {
            let (sender, rest) = Sender::read_from_prefix(rest).map_err(|_| ImportError::Damaged)?;
            (Some(sender), rest)
        }
    };
    if !covers(flights, head.flights, tcb.snd_una.max(seq::FIRST), tcb.snd_nxt) {
        return Err(ImportError::Damaged);
    }
    move_clock(&mut tcb, head.at, now);
    tcb.flags &= !(flag::IN_FLUSH | flag::IN_EVENTS | flag::REPORTED);
    tcb.armed_at = NEVER;
    tcb.listener = NONE;
    (tcb.ofo_head, tcb.sender) = (NONE, NONE);
    Ok(Imported { tcb, extents, sender, flights, from: head.at })
}

/// Whether the flights are one run from `una` to `nxt`.
fn covers(bytes: &[u8], count: u32, una: u64, nxt: u64) -> bool {
    let records = bytes.chunks_exact(size_of::<Flight>());
    if !records.remainder().is_empty() || records.len() != count as usize {
        return false;
    }
    let mut at = una;
    for record in records {
        let Ok(flight) = Flight::read_from_bytes(record) else { return false };
        if flight.start != at || flight.end <= at {
            return false;
        }
        at = flight.end;
    }
    at == nxt
}

impl Imported<'_> {
    /// Takes the ranges into this stack's pool. What finds no room is forgotten: it comes again.
    pub(crate) fn take_ranges(&mut self, pool: &mut RangePool<'_>) {
        let tcb = &mut self.tcb;
        tcb.ofo_count = 0;
        let mut complete = true;
        for bytes in self.extents.chunks_exact(size_of::<Extent>()) {
            let Ok(Extent { start, end }) = Extent::read_from_bytes(bytes) else { continue };
            let within = start < end && start > tcb.rcv_nxt && end <= tcb.rcv_adv + 1;
            let inserted = within.then(|| pool.insert(&mut tcb.ofo_head, &mut tcb.ofo_count, start, end));
            complete &= matches!(inserted, Some(ranges::Inserted::Covered { .. }));
        }
        if !complete && tcb.rcv_fin > tcb.rcv_nxt {
            tcb.rcv_fin = 0;
        }
    }

    /// Gives the connection, now in its table, the sending half that it had.
    pub(crate) fn take_sender(&self, conn: &mut Conn<'_, '_>) {
        let Some(imported) = self.sender else { return };
        let (from, to) = (self.from.as_micros(), conn.now.as_micros());
        let past = |at: u64| to.saturating_sub(from.saturating_sub(at));
        let kind = conn.tcb.settings.congestion;
        let (mut pool, sender) = conn.flights();
        *sender = Sender { queue: SentQueue::EMPTY, ..imported };
        for at in [&mut sender.delivered_at, &mut sender.first_sent_at, &mut sender.rack_at] {
            *at = past(*at);
        }
        sender.resent_at = if sender.resent_at == 0 { 0 } else { past(sender.resent_at).max(1) };
        sender.pace_next = to + sender.pace_next.saturating_sub(from);
        sender.history.on_clock(from, to);
        for record in self.flights.chunks_exact(size_of::<Flight>()) {
            if let Ok(mut flight) = Flight::read_from_bytes(record) {
                // Its own clock may have run for longer than this one.
                let age = from.saturating_sub(flight.sent_at).min(to);
                let since = |span: u32| u64::from(span).min(to - age) as u32;
                flight.sent_at = to - age;
                flight.since_delivery = since(flight.since_delivery);
                flight.since_first = since(flight.since_first);
                pool.adopt(&mut sender.queue, &flight);
            }
        }
        let (from, to) = (Instant::from_micros(from), Instant::from_micros(to));
        congestion::with(kind, &mut sender.control, |control| control.on_clock(from, to));
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
    tcb.pace_at = deadline(tcb.pace_at);
    tcb.sent_at = past(tcb.sent_at);
    tcb.heard_at = past(tcb.heard_at);
    tcb.stalled_at = past(tcb.stalled_at);
    tcb.oow_ms = 0;
    let seconds = |micros: u64| (micros / 1_000_000) as u32;
    tcb.ts_recent_at = tcb.ts_recent_at.wrapping_sub(seconds(from)).wrapping_add(seconds(to));
    let millis = |micros: u64| (micros / 1_000) as u32;
    tcb.data_at = tcb.data_at.wrapping_sub(millis(from)).wrapping_add(millis(to));
    // The peer's view of our timestamp clock goes on without a jump.
    tcb.ts_offset = tcb.ts_offset.wrapping_add(millis(from)).wrapping_sub(millis(to));
}
