//! Ordered lists of disjoint sequence ranges, taken from one pool that all connections share: what arrived out of order,
//! and what the peer has sacked.

use crate::memory::{NONE, Pool, PoolState, Record, Taken};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `start .. end` in extended sequence numbers.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) next: u32,
    pub(crate) _pad: u32,
}

impl Record for Range {
    fn set_free_link(&mut self, next: u32) {
        self.next = next;
    }
    fn free_link(&self) -> u32 {
        self.next
    }
}

/// Ranges that one list may hold: bounds the walk per segment, and what one peer can take from the pool.
pub(crate) const MOST: u16 = 128;

/// What became of [`RangePool::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// The list's range that now covers it, and how many bytes of it were new.
    Covered { start: u64, end: u64, added: u64 },
    /// The pool or the list is full.
    Full,
}

/// The ranges of a list, ascending.
pub(crate) fn walk(records: &[Range], head: u32) -> impl Iterator<Item = Range> + '_ {
    let mut at = head;
    core::iter::from_fn(move || {
        let range = *records.get(at as usize)?;
        at = range.next;
        Some(range)
    })
}

/// The shared pool.
pub(crate) struct RangePool<'m> {
    pub(crate) records: &'m mut [Range],
    pub(crate) state: &'m mut PoolState,
}

impl RangePool<'_> {
    fn pool(&mut self) -> Pool<'_, Range> {
        Pool { records: self.records, state: self.state }
    }

    /// The ranges of a list, ascending.
    pub(crate) fn iter(&self, head: u32) -> impl Iterator<Item = Range> + '_ {
        walk(self.records, head)
    }

    /// Adds `start .. end` to a list, joining what it touches.
    pub(crate) fn insert(&mut self, head: &mut u32, count: &mut u16, start: u64, end: u64) -> Inserted {
        debug_assert!(start < end);
        // The last range that begins before `start`, and the first that can touch.
        let mut before = NONE;
        let mut at = *head;
        while at != NONE && self.records[at as usize].end < start {
            before = at;
            at = self.records[at as usize].next;
        }
        if at == NONE || self.records[at as usize].start > end {
            if *count >= MOST {
                return Inserted::Full;
            }
            let Some(Taken { index: new, .. }) = self.pool().take() else { return Inserted::Full };
            self.records[new as usize] = Range { start, end, next: at, _pad: 0 };
            self.link(head, before, new);
            *count += 1;
            return Inserted::Covered { start, end, added: end - start };
        }
        let mut joined = self.records[at as usize];
        let mut held = joined.end - joined.start;
        joined.start = joined.start.min(start);
        joined.end = joined.end.max(end);
        while let Some(next) = self.records.get(joined.next as usize).copied().filter(|next| next.start <= joined.end) {
            let gone = joined.next;
            held += next.end - next.start;
            joined.end = joined.end.max(next.end);
            joined.next = next.next;
            self.pool().give_back(gone);
            *count -= 1;
        }
        self.records[at as usize] = joined;
        Inserted::Covered { start: joined.start, end: joined.end, added: joined.end - joined.start - held }
    }

    /// Removes everything below `floor`; returns how many bytes that were.
    pub(crate) fn remove_below(&mut self, head: &mut u32, count: &mut u16, floor: u64) -> u64 {
        let mut removed = 0;
        while *head != NONE {
            let range = self.records[*head as usize];
            if range.end <= floor {
                removed += range.end - range.start;
                let gone = *head;
                *head = range.next;
                self.pool().give_back(gone);
                *count -= 1;
            } else {
                if range.start < floor {
                    removed += floor - range.start;
                    self.records[*head as usize].start = floor;
                }
                break;
            }
        }
        removed
    }

    /// Gives a whole list back.
    pub(crate) fn clear(&mut self, head: &mut u32, count: &mut u16) {
        self.remove_below(head, count, u64::MAX);
    }

    fn link(&mut self, head: &mut u32, before: u32, new: u32) {
        if before == NONE {
            *head = new;
        } else {
            self.records[before as usize].next = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;
    use zerocopy::FromZeros;

    proptest! {
        /// Against a bitmap of positions.
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..200, 1u64..30), 1..200)) {
            let mut records = vec![Range::new_zeroed(); 64];
            let mut state = PoolState::EMPTY;
            let mut pool = RangePool { records: &mut records, state: &mut state };
            let (mut head, mut count) = (NONE, 0u16);
            let mut model = [false; 256];
            for (insert, start, len) in steps {
                if insert {
                    let before = model.iter().filter(|held| **held).count() as u64;
                    model[start as usize..(start + len) as usize].fill(true);
                    let after = model.iter().filter(|held| **held).count() as u64;
                    match pool.insert(&mut head, &mut count, start, start + len) {
                        Inserted::Covered { start: from, end, added } => {
                            prop_assert_eq!(added, after - before);
                            prop_assert!(from <= start && end >= start + len);
                        }
                        Inserted::Full => prop_assert!(false, "64 ranges are enough here"),
                    }
                } else {
                    let gone = model[..start as usize].iter().filter(|held| **held).count() as u64;
                    model[..start as usize].fill(false);
                    prop_assert_eq!(pool.remove_below(&mut head, &mut count, start), gone);
                }
                let ranges: Vec<Range> = pool.iter(head).collect();
                prop_assert_eq!(ranges.len(), usize::from(count));
                prop_assert_eq!(pool.state.used(), u32::from(count));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
                let mut held = [false; 256];
                for range in ranges {
                    held[range.start as usize..range.end as usize].fill(true);
                }
                prop_assert!(held == model);
            }
        }
    }

    #[test]
    fn a_full_pool_says_so_and_still_joins() {
        let mut records = vec![Range::new_zeroed(); 2];
        let mut state = PoolState::EMPTY;
        let mut pool = RangePool { records: &mut records, state: &mut state };
        let (mut head, mut count) = (NONE, 0);
        pool.insert(&mut head, &mut count, 10, 20);
        pool.insert(&mut head, &mut count, 30, 40);
        assert_eq!(pool.insert(&mut head, &mut count, 50, 60), Inserted::Full);
        let joined = pool.insert(&mut head, &mut count, 20, 30);
        assert_eq!(joined, Inserted::Covered { start: 10, end: 40, added: 10 });
        assert_eq!(count, 1);
    }
}
