//! The order of time: what is in flight, by its last transmission. Sacked and lost flights are not in it.

use super::{Flight, FlightPool, SentQueue, bit};
use crate::memory::NONE;

impl FlightPool<'_> {
    /// What was thought to be lost is in flight after all.
    pub(crate) fn find_again(&mut self, queue: &mut SentQueue) {
        let mut index = queue.head;
        while index != NONE {
            let flight = *self.at(index);
            if flight.has(bit::LOST) {
                self.uncount(queue, &flight);
                let found = self.at(index);
                found.bits &= !bit::LOST;
                if found.has(bit::RESENT) {
                    queue.resent += flight.len() as u32;
                }
                self.sort_in(queue, index);
            }
            index = flight.next;
        }
    }

    /// The peer has reneged (RFC 2018 section 8): nothing is sacked any more, what was is in flight again.
    pub(crate) fn forget_sacks(&mut self, queue: &mut SentQueue) {
        let mut index = queue.head;
        while index != NONE {
            let flight = *self.at(index);
            if flight.has(bit::SACKED) {
                self.uncount(queue, &flight);
                let found = self.at(index);
                found.bits &= !bit::SACKED;
                if found.has(bit::RESENT) {
                    queue.resent += flight.len() as u32;
                }
                self.sort_in(queue, index);
            }
            index = flight.next;
        }
    }

    pub(super) fn append_time(&mut self, queue: &mut SentQueue, index: u32) {
        let newest = queue.newest;
        let flight = self.at(index);
        (flight.older, flight.newer) = (newest, NONE);
        queue.newest = index;
        match newest {
            NONE => queue.oldest = index,
            _ => self.at(newest).newer = index,
        }
    }

    /// Puts `index` behind `place` in the order of time.
    pub(super) fn insert_time(&mut self, queue: &mut SentQueue, place: u32, index: u32) {
        let newer = self.at(place).newer;
        let flight = self.at(index);
        (flight.older, flight.newer) = (place, newer);
        self.at(place).newer = index;
        match newer {
            NONE => queue.newest = index,
            _ => self.at(newer).older = index,
        }
    }

    /// Puts `index` where its time belongs; rare.
    pub(super) fn sort_in(&mut self, queue: &mut SentQueue, index: u32) {
        let key = |flight: &Flight| (flight.sent_at, flight.end);
        let own = key(self.at(index));
        let mut place = queue.newest;
        while place != NONE && key(self.at(place)) > own {
            place = self.at(place).older;
        }
        if place != NONE {
            return self.insert_time(queue, place, index);
        }
        let oldest = queue.oldest;
        let flight = self.at(index);
        (flight.older, flight.newer) = (NONE, oldest);
        queue.oldest = index;
        match oldest {
            NONE => queue.newest = index,
            _ => self.at(oldest).older = index,
        }
    }

    /// Takes a flight out of the order of time, if it is in it.
    pub(super) fn unlink_time(&mut self, queue: &mut SentQueue, index: u32) {
        let Flight { newer, older, bits, .. } = *self.at(index);
        if bits & (bit::SACKED | bit::LOST) != 0 {
            return;
        }
        match older {
            NONE => queue.oldest = newer,
            _ => self.at(older).newer = newer,
        }
        match newer {
            NONE => queue.newest = older,
            _ => self.at(newer).older = older,
        }
    }
}
