//! Hash table from flow to record: open addressing with linear probing over 8-byte slots that carry the hash, so
//! that a miss touches one cache line and a hit one more (the record, which holds the key).
//!
//! Removal shifts the run back instead of leaving tombstones: the table stays as fast as on its first day. The hash
//! is keyed (SipHash-1-3), so a peer cannot aim at one bucket.

use super::NONE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One place of the table. Never used memory is all zeros, so the handle is stored plus one.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Slot {
    hash: u32,
    /// Handle plus one; 0: empty.
    tagged: u32,
}

/// The table's slots: a power of two, at most half of them in use.
pub(crate) struct FlowTable<'a> {
    slots: &'a mut [Slot],
}

impl<'a> FlowTable<'a> {
    /// Slots for `records` entries.
    pub(crate) fn slots_for(records: usize) -> usize {
        (records * 2).next_power_of_two().max(16)
    }

    pub(crate) fn new(slots: &'a mut [Slot]) -> Self {
        debug_assert!(slots.len().is_power_of_two());
        Self { slots }
    }

    /// The handle with this hash for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        // Bounded by the empty slots that the load limit guarantees.
        while self.slots[at].tagged != 0 {
            let slot = self.slots[at];
            if slot.hash == hash && is_it(slot.tagged - 1) {
                return Some(slot.tagged - 1);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Adds a handle; the caller knows that the flow is not in the table, and that records run out before slots do.
    pub(crate) fn insert(&mut self, hash: u32, handle: u32) {
        debug_assert!(handle != NONE);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].tagged != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { hash, tagged: handle + 1 };
    }

    /// Puts `new` in the place of `old`, which has the same flow.
    pub(crate) fn replace(&mut self, hash: u32, old: u32, new: u32) {
        if let Some(at) = self.position(hash, old) {
            self.slots[at].tagged = new + 1;
        }
    }

    pub(crate) fn remove(&mut self, hash: u32, handle: u32) {
        let mask = self.slots.len() - 1;
        let Some(mut hole) = self.position(hash, handle) else {
            debug_assert!(false, "removing a flow that is not in the table");
            return;
        };
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if self.slots[at].tagged == 0 {
                break;
            }
            // An entry may move back into the hole unless that would put it before its home.
            let home = self.slots[at].hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }

    fn position(&self, hash: u32, handle: u32) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].tagged != 0 {
            if self.slots[at].tagged == handle + 1 {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec;

    proptest! {
        /// Against a HashMap, with hashes that collide on purpose and wrap around the end of the table.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec(any::<(u8, u8)>(), 1..600)) {
            let mut slots = vec![Slot::default(); FlowTable::slots_for(32)];
            let mut table = FlowTable::new(&mut slots);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (what, key) in steps {
                let handle = u32::from(key % 32);
                let hash = [0, 1, 62, 63, 0x8000_003f, 5][handle as usize % 6];
                match (what % 3, model.contains_key(&handle)) {
                    (0, false) => {
                        table.insert(hash, handle);
                        model.insert(handle, hash);
                    }
                    (1, true) => {
                        table.remove(hash, handle);
                        model.remove(&handle);
                    }
                    _ => {}
                }
                for handle in 0..32 {
                    let hash = [0, 1, 62, 63, 0x8000_003f, 5][handle as usize % 6];
                    let found = table.find(hash, |candidate| candidate == handle);
                    prop_assert_eq!(found.is_some(), model.contains_key(&handle));
                }
            }
        }
    }

    #[test]
    fn replace_keeps_the_place() {
        let mut slots = vec![Slot::default(); 16];
        let mut table = FlowTable::new(&mut slots);
        table.insert(3, 10);
        table.insert(3, 11);
        table.replace(3, 10, 12);
        assert_eq!(table.find(3, |_| true), Some(12));
        assert_eq!(table.find(3, |handle| handle == 11), Some(11));
    }
}
