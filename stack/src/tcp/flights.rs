//! The sent queue: what was sent and is not acknowledged, as runs of bytes that share one fate. A run (*flight*) was sent at
//! one moment and is in flight, sacked, or lost; SACK blocks, partial acknowledgements and retransmissions cut it.
//!
//! Two orders run through a queue: by sequence number, without gaps from SND.UNA to SND.NXT, and by time of the last
//! transmission, which holds only what is in flight and is what RACK looks at (RFC 8985 section 6.2).
//!
//! What is sent within a small part of a round trip joins one flight, so that a queue holds some hundred of them however
//! large its window is.

use crate::memory::{NONE, Pool, PoolState, Record, Taken};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A run of bytes. Sequence numbers are extended ones, times are microseconds.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Flight {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// When it was last sent.
    pub(crate) sent_at: u64,
    /// Bytes that the connection had delivered when this was last sent (P.delivered of delivery-rate estimation).
    pub(crate) delivered: u64,
    /// How long before `sent_at` the last delivery was (P.delivered_time), and the sending that began the sampling
    /// interval (P.first_sent_time).
    pub(crate) since_delivery: u32,
    pub(crate) since_first: u32,
    /// Bytes in flight with it, and low half of all bytes lost so far, when it was last sent.
    pub(crate) in_flight: u32,
    pub(crate) lost_before: u32,
    /// Next in the order of numbers.
    next: u32,
    /// Neighbours in the order of time.
    newer: u32,
    older: u32,
    /// [`bit`]s.
    pub(crate) bits: u32,
}

const _: () = assert!(size_of::<Flight>() == 64);

/// Bits of [`Flight::bits`].
pub(crate) mod bit {
    pub(crate) const SACKED: u32 = 1;
    /// Lost, and not sent again since.
    pub(crate) const LOST: u32 = 1 << 1;
    /// Sent more than once.
    pub(crate) const RESENT: u32 = 1 << 2;
    /// The application had nothing more to send when it was sent.
    pub(crate) const APP_LIMITED: u32 = 1 << 3;
    /// Bytes of different moments, for want of records: their times say nothing.
    pub(crate) const BLURRED: u32 = 1 << 4;
}

impl Flight {
    #[inline]
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.bits & bits != 0
    }

    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Index of what was sent after it and is in flight as well.
    #[inline]
    pub(crate) fn newer(&self) -> u32 {
        self.newer
    }
}

impl Record for Flight {
    fn set_free_link(&mut self, next: u32) {
        self.next = next;
    }
    fn free_link(&self) -> u32 {
        self.next
    }
}

/// Flights of one queue: bounds the walk per SACK block, and what one peer can take from the pool.
pub(crate) const MOST: u32 = 1_024;

/// A connection's queue; part of [`super::sender::Sender`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct SentQueue {
    head: u32,
    tail: u32,
    oldest: u32,
    newest: u32,
    /// No lost flight lies before this one; [`NONE`]: before the head.
    lost_hint: u32,
    /// Where the last SACK block began.
    sack_hint: u32,
    pub(crate) count: u32,
    /// Bytes sacked; lost and not sent again; in flight for the second time or more.
    pub(crate) sacked: u32,
    pub(crate) lost: u32,
    pub(crate) resent: u32,
}

impl SentQueue {
    pub(crate) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        oldest: NONE,
        newest: NONE,
        lost_hint: NONE,
        sack_hint: NONE,
        count: 0,
        sacked: 0,
        lost: 0,
        resent: 0,
    };

    /// Index of the flight that begins at SND.UNA.
    #[inline]
    pub(crate) fn head_index(&self) -> u32 {
        self.head
    }

    /// Index of what is in flight and was sent first; [`Flight::newer`] leads on.
    #[inline]
    pub(crate) fn oldest(&self) -> u32 {
        self.oldest
    }
}

/// What is noted of a transmission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Departure {
    pub(crate) at: u64,
    pub(crate) delivered: u64,
    pub(crate) since_delivery: u32,
    pub(crate) since_first: u32,
    pub(crate) in_flight: u32,
    pub(crate) lost_before: u32,
    pub(crate) app_limited: bool,
    /// What left within so many microseconds of the last flight joins it.
    pub(crate) grain: u64,
}

/// The flights of all connections. Each queue may always have one; more come from what is shared.
pub(crate) struct FlightPool<'a> {
    pub(crate) records: &'a mut [Flight],
    pub(crate) state: &'a mut PoolState,
    /// Queues that hold a flight, and queues that there may be.
    pub(crate) queues: &'a mut u32,
    pub(crate) reserved: u32,
    /// How often a record was wanted and not there.
    pub(crate) refusals: &'a mut u64,
}

/// All of it lies at or beyond `start`, which is what callers of [`FlightPool::acked`] see of a flight cut by SND.UNA.
fn clipped(flight: &Flight, start: u64, end: u64) -> Flight {
    Flight { start: flight.start.max(start), end: flight.end.min(end), ..*flight }
}

impl FlightPool<'_> {
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Flight> {
        self.records.get(index as usize)
    }

    #[inline]
    fn at(&mut self, index: u32) -> &mut Flight {
        &mut self.records[index as usize]
    }

    fn take(&mut self, queue: &mut SentQueue) -> Option<u32> {
        if !self.spare(queue) {
            *self.refusals += 1;
            return None;
        }
        let Taken { index, .. } = Pool { records: &mut *self.records, state: &mut *self.state }.take()?;
        *self.queues += u32::from(queue.count == 0);
        queue.count += 1;
        Some(index)
    }

    fn give_back(&mut self, queue: &mut SentQueue, index: u32) {
        if queue.lost_hint == index {
            queue.lost_hint = NONE;
        }
        if queue.sack_hint == index {
            queue.sack_hint = NONE;
        }
        queue.count -= 1;
        *self.queues -= u32::from(queue.count == 0);
        Pool { records: &mut *self.records, state: &mut *self.state }.give_back(index);
    }

    fn spare(&self, queue: &SentQueue) -> bool {
        let shared = self.records.len() as u32 - self.reserved.min(self.records.len() as u32);
        queue.count == 0 || (queue.count < MOST && self.state.used() - *self.queues < shared)
    }

    /// Whether new bytes can be noted. Where not, a later acknowledgement makes room.
    pub(crate) fn can_grow(&self, queue: &SentQueue) -> bool {
        self.spare(queue) || self.get(queue.tail).is_some_and(|tail| !tail.has(bit::SACKED | bit::LOST))
    }

    /// Notes that `start .. end` was sent for the first time; [`Self::can_grow`] said that there is room.
    pub(crate) fn sent(&mut self, queue: &mut SentQueue, start: u64, end: u64, departure: &Departure) {
        let Departure { at, delivered, since_delivery, since_first, in_flight, lost_before, app_limited, grain } =
            *departure;
        let tail = queue.tail;
        if tail != NONE {
            let last = queue.newest == tail;
            let flight = self.at(tail);
            debug_assert!(flight.end == start);
            // Nothing was sent in between: RACK goes by the order in which things left.
            let fresh = !flight.has(bit::SACKED | bit::LOST | bit::RESENT) && last;
            if fresh && at - flight.sent_at <= grain && flight.has(bit::APP_LIMITED) == app_limited {
                flight.end = end;
                flight.in_flight = in_flight;
                return;
            }
        }
        let Some(index) = self.take(queue) else {
            debug_assert!(tail != NONE && !self.at(tail).has(bit::SACKED | bit::LOST));
            let flight = self.at(tail);
            flight.end = end;
            flight.sent_at = at;
            flight.bits |= bit::BLURRED;
            let resent = if flight.has(bit::RESENT) { (end - start) as u32 } else { 0 };
            queue.resent += resent;
            // Last sent now, for some of it.
            self.unlink_time(queue, tail);
            self.append_time(queue, tail);
            return;
        };
        *self.at(index) = Flight {
            start,
            end,
            sent_at: at,
            delivered,
            since_delivery,
            since_first,
            in_flight,
            lost_before,
            next: NONE,
            newer: NONE,
            older: NONE,
            bits: if app_limited { bit::APP_LIMITED } else { 0 },
        };
        if tail == NONE {
            queue.head = index;
        } else {
            self.at(tail).next = index;
        }
        queue.tail = index;
        self.append_time(queue, index);
    }

    /// Takes a flight of another stack's queue to the end of this one. For want of a record it joins the last one, in flight.
    pub(crate) fn adopt(&mut self, queue: &mut SentQueue, flight: &Flight) {
        let tail = queue.tail;
        let Some(index) = self.take(queue) else {
            let last = *self.at(tail);
            self.uncount(queue, &last);
            self.unlink_time(queue, tail);
            let last = self.at(tail);
            last.end = flight.end;
            last.sent_at = last.sent_at.max(flight.sent_at);
            last.bits = (last.bits & !(bit::SACKED | bit::LOST)) | bit::RESENT | bit::BLURRED;
            queue.resent += last.len() as u32;
            return self.sort_in(queue, tail);
        };
        *self.at(index) = Flight { next: NONE, newer: NONE, older: NONE, ..*flight };
        match tail {
            NONE => queue.head = index,
            _ => self.at(tail).next = index,
        }
        queue.tail = index;
        let len = flight.len() as u32;
        if flight.has(bit::SACKED) {
            queue.sacked += len;
        } else if flight.has(bit::LOST) {
            queue.lost += len;
        } else {
            queue.resent += if flight.has(bit::RESENT) { len } else { 0 };
            self.sort_in(queue, index);
        }
    }

    /// SND.UNA moves to `una`: takes out what lies below. `each` sees what of it was not known to have arrived.
    pub(crate) fn acked(&mut self, queue: &mut SentQueue, una: u64, mut each: impl FnMut(&Flight)) {
        while queue.head != NONE {
            let index = queue.head;
            let flight = *self.at(index);
            if flight.start >= una {
                break;
            }
            let gone = clipped(&flight, flight.start, una);
            self.uncount(queue, &gone);
            if !flight.has(bit::SACKED) {
                each(&gone);
            }
            if flight.end > una {
                self.at(index).start = una;
                break;
            }
            self.unlink_time(queue, index);
            queue.head = flight.next;
            if queue.head == NONE {
                queue.tail = NONE;
            }
            self.give_back(queue, index);
        }
    }

    /// Marks what of `start .. end` is not sacked yet; `each` sees it. Returns how many bytes that were.
    pub(crate) fn sacked(&mut self, queue: &mut SentQueue, start: u64, end: u64, mut each: impl FnMut(&Flight)) -> u64 {
        let hint = queue.sack_hint;
        let mut index = match self.get(hint) {
            Some(flight) if flight.start <= start => hint,
            _ => queue.head,
        };
        let mut before = NONE;
        let mut added = 0;
        while index != NONE {
            let flight = *self.at(index);
            if flight.start >= end {
                break;
            }
            if flight.end <= start || flight.has(bit::SACKED) {
                before = index;
                index = flight.next;
                continue;
            }
            if flight.start < start {
                // What cannot be cut stays unsacked: RFC 2018 section 8 lets the sender not know.
                if self.cut(queue, index, start).is_none() {
                    before = index;
                    index = self.at(index).next;
                    continue;
                }
                before = index;
                index = self.at(index).next;
                continue;
            }
            if flight.end > end && self.cut(queue, index, end).is_none() {
                break;
            }
            let flight = *self.at(index);
            self.uncount(queue, &flight);
            self.unlink_time(queue, index);
            let marked = self.at(index);
            marked.bits = (marked.bits & !bit::LOST) | bit::SACKED;
            queue.sacked += flight.len() as u32;
            added += flight.len();
            each(&flight);
            index = self.join_sacked(queue, before, index);
            queue.sack_hint = index;
            before = index;
            index = self.at(index).next;
        }
        added
    }

    /// Joins a sacked flight with sacked neighbours; returns the one that holds it now.
    fn join_sacked(&mut self, queue: &mut SentQueue, before: u32, index: u32) -> u32 {
        let mut index = index;
        if before != NONE && self.at(before).has(bit::SACKED) {
            self.swallow(queue, before, index);
            index = before;
        }
        let next = self.at(index).next;
        if next != NONE && self.at(next).has(bit::SACKED) {
            self.swallow(queue, index, next);
        }
        index
    }

    /// `next`, which follows `index`, becomes part of it.
    fn swallow(&mut self, queue: &mut SentQueue, index: u32, next: u32) {
        let gone = *self.at(next);
        let keeper = self.at(index);
        keeper.end = gone.end;
        keeper.next = gone.next;
        // Should the peer renege, the younger time is the safer one.
        keeper.sent_at = keeper.sent_at.max(gone.sent_at);
        keeper.bits |= gone.bits & bit::RESENT;
        if queue.tail == next {
            queue.tail = index;
        }
        self.give_back(queue, next);
    }

    /// Cuts a flight at `at`, strictly inside; the upper part follows it in both orders. `None`: no record is free.
    fn cut(&mut self, queue: &mut SentQueue, index: u32, at: u64) -> Option<u32> {
        let upper = self.take(queue)?;
        let flight = *self.at(index);
        debug_assert!(flight.start < at && at < flight.end);
        *self.at(upper) = Flight { start: at, newer: NONE, older: NONE, ..flight };
        let lower = self.at(index);
        lower.end = at;
        lower.next = upper;
        if queue.tail == index {
            queue.tail = upper;
        }
        if !flight.has(bit::SACKED | bit::LOST) {
            self.insert_time(queue, index, upper);
        }
        Some(upper)
    }

    /// Takes a flight's bytes (or a part's) out of the sums.
    fn uncount(&mut self, queue: &mut SentQueue, part: &Flight) {
        let len = part.len() as u32;
        if part.has(bit::SACKED) {
            queue.sacked -= len;
        } else if part.has(bit::LOST) {
            queue.lost -= len;
        } else if part.has(bit::RESENT) {
            queue.resent -= len;
        }
    }

    /// A flight that is in flight counts as lost from now on. Returns its bytes.
    pub(crate) fn lose(&mut self, queue: &mut SentQueue, index: u32) -> u64 {
        let flight = *self.at(index);
        debug_assert!(!flight.has(bit::SACKED | bit::LOST));
        self.uncount(queue, &flight);
        self.unlink_time(queue, index);
        self.at(index).bits |= bit::LOST;
        queue.lost += flight.len() as u32;
        queue.lost_hint = NONE;
        flight.len()
    }

    /// The first `most` bytes from SND.UNA on count as lost. Returns how many of them were in flight.
    pub(crate) fn lose_head(&mut self, queue: &mut SentQueue, most: u64) -> u64 {
        let index = queue.head;
        let Some(flight) = self.get(index).copied() else { return 0 };
        if flight.has(bit::SACKED | bit::LOST) {
            return 0;
        }
        if flight.len() > most {
            // Without a record all of it is lost.
            let _ = self.cut(queue, index, flight.start + most);
        }
        self.lose(queue, index)
    }

    /// Everything in flight of which `lost` says so counts as lost. Returns how many bytes that are.
    pub(crate) fn lose_where(&mut self, queue: &mut SentQueue, mut lost: impl FnMut(&Flight) -> bool) -> u64 {
        let mut index = queue.oldest;
        let mut sum = 0;
        while index != NONE {
            let flight = *self.at(index);
            if lost(&flight) {
                sum += self.lose(queue, index);
            }
            index = flight.newer;
        }
        sum
    }

    /// The first lost flight: index, start, end.
    pub(crate) fn first_lost(&self, queue: &mut SentQueue) -> Option<(u32, u64, u64)> {
        if queue.lost == 0 {
            return None;
        }
        let mut index = if queue.lost_hint == NONE { queue.head } else { queue.lost_hint };
        while let Some(flight) = self.get(index) {
            if flight.has(bit::LOST) {
                queue.lost_hint = index;
                return Some((index, flight.start, flight.end));
            }
            index = flight.next;
        }
        None
    }

    /// The last flight: index, start, end; `None` when it is sacked, too.
    pub(crate) fn last(&self, queue: &SentQueue) -> Option<(u32, u64, u64)> {
        let flight = self.get(queue.tail)?;
        (!flight.has(bit::SACKED)).then_some((queue.tail, flight.start, flight.end))
    }

    /// Cuts a flight so that it begins at `from`; what begins there. `None`: no record is free.
    pub(crate) fn split_before(&mut self, queue: &mut SentQueue, index: u32, from: u64) -> Option<u32> {
        if self.at(index).start == from { Some(index) } else { self.cut(queue, index, from) }
    }

    /// The first `len` bytes of a flight were sent again.
    pub(crate) fn resent(&mut self, queue: &mut SentQueue, index: u32, len: u64, departure: &Departure) {
        if len < self.at(index).len() {
            // Without a record the rest passes for sent: a later loss detection finds it.
            let from = self.at(index).start + len;
            let _ = self.cut(queue, index, from);
        }
        let flight = *self.at(index);
        self.uncount(queue, &flight);
        if !flight.has(bit::SACKED | bit::LOST) {
            self.unlink_time(queue, index);
        }
        let sent = self.at(index);
        sent.bits = (sent.bits & !(bit::LOST | bit::APP_LIMITED)) | bit::RESENT;
        if departure.app_limited {
            sent.bits |= bit::APP_LIMITED;
        }
        sent.sent_at = departure.at;
        sent.delivered = departure.delivered;
        sent.since_delivery = departure.since_delivery;
        sent.since_first = departure.since_first;
        sent.in_flight = departure.in_flight;
        sent.lost_before = departure.lost_before;
        queue.resent += flight.len() as u32;
        if queue.lost_hint == index {
            queue.lost_hint = flight.next;
        }
        self.append_time(queue, index);
    }

    /// The flight at the head, which begins at SND.UNA.
    pub(crate) fn head(&self, queue: &SentQueue) -> Option<&Flight> {
        self.get(queue.head)
    }

    /// Gives the whole queue back.
    pub(crate) fn clear(&mut self, queue: &mut SentQueue) {
        while queue.head != NONE {
            let index = queue.head;
            queue.head = self.at(index).next;
            self.give_back(queue, index);
        }
        *queue = SentQueue::EMPTY;
    }
}

/// The flights of a queue, by number.
pub(crate) fn walk<'a>(records: &'a [Flight], queue: &SentQueue) -> impl Iterator<Item = Flight> + 'a {
    let mut at = queue.head;
    core::iter::from_fn(move || {
        let flight = *records.get(at as usize)?;
        at = flight.next;
        Some(flight)
    })
}

#[cfg(test)]
mod tests;
mod time;
