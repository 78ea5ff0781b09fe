//! Hierarchical timing wheel: arm, move, cancel and fire in constant time, for any number of timers.
//!
//! Four levels of 64 slots; a tick is 1,024 microseconds, so the wheel spans 4.7 hours; what lies beyond is put at its
//! end and, like everything here, looked at again when it comes up. Timers are nodes of intrusive lists, one for each
//! record that can have one; owners re-arm lazily: a node may fire early, never late by more than a tick, and the owner
//! compares its own deadlines then.

use super::NONE;
use crate::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const TICK_BITS: u32 = 10;
/// Not in the wheel. Zero, so that untouched memory needs no set-up: slots are stored plus one.
const UNARMED: u32 = 0;

/// One timer. Its owner is known by its index.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct TimerNode {
    /// In ticks.
    pub(crate) deadline: u64,
    next: u32,
    prev: u32,
    /// Level and slot plus one, or [`UNARMED`].
    slot: u32,
    _pad: u32,
}

/// Heads of the lists and the wheel's hand; lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct WheelState {
    /// Ticks before this one have been fired.
    hand: u64,
    /// Bit per slot: its list is not empty.
    occupied: [u64; LEVELS],
    heads: [[u32; SLOTS]; LEVELS],
}

impl WheelState {
    /// Starts the hand at `now` with nothing armed.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.hand = now.as_micros() >> TICK_BITS;
        self.occupied = [0; LEVELS];
        self.heads = [[NONE; SLOTS]; LEVELS];
    }

    fn next_tick(&self) -> Option<u64> {
        let mut earliest: Option<u64> = None;
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let position = self.hand >> shift;
            // Distance from the hand's slot to the next occupied one. On level 0 the hand's own slot is still to be
            // fired; above, it was spread when the hand entered it, so what it holds is a full turn away.
            let first = if level == 0 { position } else { position + 1 };
            let rotated = occupied.rotate_right((first % SLOTS as u64) as u32);
            let tick = (first + u64::from(rotated.trailing_zeros())) << shift;
            earliest = Some(earliest.map_or(tick, |other| other.min(tick)));
        }
        earliest
    }
}

pub(crate) struct Wheel<'a> {
    state: &'a mut WheelState,
    nodes: &'a mut [TimerNode],
}

impl<'a> Wheel<'a> {
    pub(crate) fn new(state: &'a mut WheelState, nodes: &'a mut [TimerNode]) -> Self {
        Self { state, nodes }
    }

    /// Makes `timer` fire at `deadline` or earlier: one that is armed for an earlier moment stays as it is.
    #[inline]
    pub(crate) fn arm_by(&mut self, timer: u32, deadline: Instant) {
        let tick = tick_of(deadline);
        let node = &self.nodes[timer as usize];
        if node.slot != UNARMED {
            if node.deadline <= tick {
                return;
            }
            self.cancel(timer);
        }
        self.place(timer, tick.max(self.state.hand));
    }

    /// Takes `timer` out if it is in.
    pub(crate) fn cancel(&mut self, timer: u32) {
        let node = self.nodes[timer as usize];
        if node.slot == UNARMED {
            return;
        }
        let (level, slot) = split(node.slot);
        if node.prev == NONE {
            self.state.heads[level][slot] = node.next;
            if node.next == NONE {
                self.state.occupied[level] &= !(1 << slot);
            }
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
        if node.next != NONE {
            self.nodes[node.next as usize].prev = node.prev;
        }
        self.nodes[timer as usize].slot = UNARMED;
    }

    /// Takes out one timer whose moment has come, or `None` when all have been. Call until `None`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let now = now.as_micros() >> TICK_BITS;
        while self.state.hand <= now {
            let slot = self.state.hand as usize % SLOTS;
            let head = self.state.heads[0][slot];
            if head != NONE {
                self.cancel(head);
                return Some(head);
            }
            match self.state.next_tick() {
                Some(tick) if tick <= now => self.advance(tick.max(self.state.hand + 1)),
                // Nothing until after `now`: the hand may jump, since no slot that it passes holds anything.
                _ => {
                    self.advance(now + 1);
                    return None;
                }
            }
        }
        None
    }

    /// Moves the hand to `tick`, spreading the upper slots that it enters. No occupied slot of level 0 lies between.
    fn advance(&mut self, tick: u64) {
        let before = self.state.hand;
        self.state.hand = tick;
        for level in (1..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if before >> shift == tick >> shift {
                continue;
            }
            let slot = (tick >> shift) as usize % SLOTS;
            let mut timer = core::mem::replace(&mut self.state.heads[level][slot], NONE);
            self.state.occupied[level] &= !(1 << slot);
            while timer != NONE {
                let TimerNode { next, deadline, .. } = self.nodes[timer as usize];
                self.place(timer, deadline.max(tick));
                timer = next;
            }
        }
    }

    fn place(&mut self, timer: u32, tick: u64) {
        let distance = tick - self.state.hand;
        let level = (0..LEVELS).find(|level| distance >> (SLOT_BITS * (*level as u32 + 1)) == 0);
        let (level, position) = match level {
            Some(level) => (level, tick >> (SLOT_BITS * level as u32)),
            None => {
                let level = LEVELS - 1;
                (level, (self.state.hand >> (SLOT_BITS * level as u32)) + SLOTS as u64 - 1)
            }
        };
        let slot = position as usize % SLOTS;
        let head = core::mem::replace(&mut self.state.heads[level][slot], timer);
        self.state.occupied[level] |= 1 << slot;
        if head != NONE {
            self.nodes[head as usize].prev = timer;
        }
        self.nodes[timer as usize] =
            TimerNode { deadline: tick, next: head, prev: NONE, slot: (level * SLOTS + slot + 1) as u32, _pad: 0 };
    }
}

/// When [`Wheel::pop_due`] has something to do at the earliest: a timer's moment, or that of a slot which has to be
/// spread over the level below.
pub(crate) fn next_deadline(state: &WheelState) -> Option<Instant> {
    state.next_tick().map(|tick| Instant::from_micros(tick << TICK_BITS))
}

/// The tick at or after `deadline`: a timer never fires before its moment by the wheel's own doing.
fn tick_of(deadline: Instant) -> u64 {
    deadline.as_micros().div_ceil(1 << TICK_BITS)
}

fn split(slot: u32) -> (usize, usize) {
    let slot = slot as usize - 1;
    (slot / SLOTS, slot % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    fn fresh(timers: usize, now: u64) -> (Box<WheelState>, Vec<TimerNode>) {
        let mut state: Box<WheelState> = Box::new(WheelState { hand: 0, occupied: [0; 4], heads: [[0; SLOTS]; 4] });
        state.reset(Instant::from_micros(now));
        (state, vec![TimerNode { deadline: 0, next: 0, prev: 0, slot: UNARMED, _pad: 0 }; timers])
    }

    proptest! {
        /// Against a sorted map: what is armed fires within one tick of its moment, once, and never early; and
        /// `next_deadline` never sleeps past a moment.
        #[test]
        fn fires_on_time(
            start in 0u64..1 << 40,
            steps in prop::collection::vec((0u8..3, 0u32..24, 0u64..20_000_000_000), 1..200),
        ) {
            let (mut state, mut nodes) = fresh(24, start);
            let mut wheel = Wheel::new(&mut state, &mut nodes);
            let mut armed: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = start;
            for (what, timer, span) in steps {
                // Mostly short spans, sometimes hours.
                let span = if span % 3 == 0 { span } else { span % 3_000_000 };
                match what {
                    0 => {
                        let deadline = now + span;
                        wheel.arm_by(timer, Instant::from_micros(deadline));
                        let entry = armed.entry(timer).or_insert(deadline);
                        *entry = (*entry).min(deadline);
                    }
                    1 => {
                        wheel.cancel(timer);
                        armed.remove(&timer);
                    }
                    _ => {
                        now += span;
                        let span_limit = 64u64 << (10 + 18);
                        while let Some(timer) = wheel.pop_due(Instant::from_micros(now)) {
                            let deadline = armed.remove(&timer);
                            prop_assert!(deadline.is_some(), "fired without being armed");
                            let deadline = deadline.unwrap();
                            if deadline > now {
                                // Beyond the wheel's span: early is allowed, the owner arms it again.
                                prop_assert!(deadline + (span_limit >> 1) > now);
                                wheel.arm_by(timer, Instant::from_micros(deadline));
                                armed.insert(timer, deadline);
                            }
                        }
                        for deadline in armed.values() {
                            prop_assert!(*deadline + 1024 > now, "{deadline} was due at {now}");
                        }
                    }
                }
                if let Some(first) = armed.values().min() {
                    let next = next_deadline(wheel.state);
                    prop_assert!(next.is_some_and(|next| next.as_micros() < first + 1024));
                } else {
                    prop_assert_eq!(next_deadline(wheel.state), None);
                }
            }
        }
    }
}
