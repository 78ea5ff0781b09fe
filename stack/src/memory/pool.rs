//! Records that are taken and given back by index. Memory that was never taken is never touched, so a large arena
//! costs only what is in use.

use super::NONE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A record that can lie on a free list: it lends one word for the link while it is free.
pub(crate) trait Record {
    fn set_free_link(&mut self, next: u32);
    fn free_link(&self) -> u32;
}

/// What a pool has to remember between calls; lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PoolState {
    free_head: u32,
    /// Records at and above this index were never taken.
    untouched: u32,
    used: u32,
    peak: u32,
}

impl PoolState {
    pub(crate) const EMPTY: Self = Self { free_head: NONE, untouched: 0, used: 0, peak: 0 };

    /// Records in use now.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Indexes that may be in use: all are below this.
    pub(crate) fn bound(&self) -> u32 {
        self.untouched
    }
}

/// A record that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) index: u32,
    /// Never taken before: its content means nothing. Otherwise it is what the record held last, but for the link.
    pub(crate) fresh: bool,
}

/// A pool's records and its state.
pub(crate) struct Pool<'a, R> {
    pub(crate) records: &'a mut [R],
    pub(crate) state: &'a mut PoolState,
}

impl<R: Record> Pool<'_, R> {
    /// A record, or `None` when all are in use.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let taken = if self.state.free_head != NONE {
            let index = self.state.free_head;
            self.state.free_head = self.records[index as usize].free_link();
            Taken { index, fresh: false }
        } else if (self.state.untouched as usize) < self.records.len() {
            self.state.untouched += 1;
            Taken { index: self.state.untouched - 1, fresh: true }
        } else {
            return None;
        };
        self.state.used += 1;
        self.state.peak = self.state.peak.max(self.state.used);
        Some(taken)
    }

    pub(crate) fn give_back(&mut self, index: u32) {
        debug_assert!(self.state.used > 0);
        self.records[index as usize].set_free_link(self.state.free_head);
        self.state.free_head = index;
        self.state.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    struct Cell(u32);

    impl Record for Cell {
        fn set_free_link(&mut self, next: u32) {
            self.0 = next;
        }
        fn free_link(&self) -> u32 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn never_gives_an_index_twice(steps in prop::collection::vec(any::<(bool, u8)>(), 1..400)) {
            let mut records: Vec<Cell> = (0..32).map(|_| Cell(0xdead)).collect();
            let mut state = PoolState::EMPTY;
            let (mut held, mut ever) = (BTreeSet::new(), BTreeSet::new());
            for (take, pick) in steps {
                let mut pool = Pool { records: &mut records, state: &mut state };
                if take {
                    match pool.take() {
                        Some(taken) => {
                            prop_assert_eq!(taken.fresh, ever.insert(taken.index));
                            prop_assert!(held.insert(taken.index));
                        }
                        None => prop_assert_eq!(held.len(), 32),
                    }
                } else if !held.is_empty() {
                    let index = *held.iter().nth(pick as usize % held.len()).unwrap();
                    held.remove(&index);
                    pool.give_back(index);
                }
                prop_assert_eq!(state.used() as usize, held.len());
                prop_assert!(held.iter().all(|index| *index < state.bound()));
            }
        }
    }
}
