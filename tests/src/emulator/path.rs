//! One direction of the link under virtual time: says of each frame when it leaves, or that it does not. Reads no clock,
//! holds no frame, allocates nothing.
//!
//! The bottleneck is a number: the time at which it will have sent all that entered. What waits is the time until then,
//! times the rate. Behind it come loss, duplication, propagation, jitter and reordering. Whatever is drawn is a function
//! of seed, frame index and question, so that one decision does not depend on which others were asked for.

use super::conditions::Conditions;
use super::counters::Counters;
use std::time::Duration;

/// Preamble, frame check sequence and gap: what Ethernet adds to a frame.
pub const OVERHEAD: u64 = 24;
const PICOSECONDS: u64 = 1_000_000_000_000;
const ETHERNET: usize = 14;

/// When a frame leaves, in nanoseconds since the beginning, and whether a copy follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub due: u64,
    pub twice: bool,
}

/// What is drawn for a frame.
#[derive(Clone, Copy)]
enum Question {
    Loss,
    BurstBegins,
    BurstEnds,
    Reorder,
    Duplicate,
    Jitter,
}

pub struct Path {
    conditions: Conditions,
    seed: u64,
    /// Of the next IP frame.
    index: u64,
    /// In picoseconds, so that no rate loses a part of a frame's time; a u64 lasts for 213 days.
    free_at: u64,
    /// Due time of the last frame that kept its place.
    last_due: u64,
    in_burst: bool,
    pub counters: Counters,
}

impl Path {
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self { conditions, seed, index: 0, free_at: 0, last_due: 0, in_burst: false, counters: Counters::default() }
    }

    /// A frame that came at `now` (nanoseconds since the beginning). May mark it.
    pub fn offer(&mut self, now: u64, frame: &mut [u8]) -> Option<Delivery> {
        let delay = nanoseconds(self.conditions.delay);
        if ip_version(frame).is_none() {
            // Address resolution repeats itself after a second at the earliest: losing it would measure that.
            self.counters.other += 1;
            return Some(Delivery { due: now + delay, twice: false });
        }
        self.counters.frames += 1;
        let index = self.index;
        self.index += 1;
        if self.in_outage(now) {
            self.counters.lost_outage += 1;
            return None;
        }
        let left = self.through_bottleneck(now, frame)?;
        if self.is_lost(index) {
            return None;
        }
        let mut due = left + delay + self.jitter(index);
        let Conditions { reorder, duplicate, reorder_by, .. } = self.conditions;
        if self.happens(index, Question::Reorder, reorder) {
            self.counters.reordered += 1;
            due += nanoseconds(reorder_by);
        } else {
            due = due.max(self.last_due);
            self.last_due = due;
        }
        let twice = self.happens(index, Question::Duplicate, duplicate);
        self.counters.duplicated += u64::from(twice);
        Some(Delivery { due, twice })
    }

    fn in_outage(&self, now: u64) -> bool {
        let now = Duration::from_nanos(now);
        self.conditions.outages.iter().any(|&(from, long)| from <= now && now < from + long)
    }

    /// When the last bit is on the wire; drop-tail and marks.
    fn through_bottleneck(&mut self, now: u64, frame: &mut [u8]) -> Option<u64> {
        let Conditions { rate, queue, mark, .. } = self.conditions;
        if rate == 0 {
            return Some(now);
        }
        let (bytes, start) = (frame.len() as u64 + OVERHEAD, self.free_at.max(now * 1000));
        let wait = start - now * 1000;
        let before = (u128::from(wait) * u128::from(rate) / (8 * u128::from(PICOSECONDS))) as u64;
        if queue > 0 && before > 0 && before + bytes > queue {
            self.counters.dropped_queue += 1;
            return None;
        }
        if mark > 0 && before >= mark && mark_congestion(frame) {
            self.counters.marked += 1;
        }
        self.counters.longest_queue = self.counters.longest_queue.max(before);
        self.counters.longest_wait = self.counters.longest_wait.max(wait / 1000);
        self.free_at = start + (u128::from(bytes) * 8 * u128::from(PICOSECONDS) / u128::from(rate)) as u64;
        Some(self.free_at.div_ceil(1000))
    }

    fn is_lost(&mut self, index: u64) -> bool {
        let Conditions { loss, burst_begins, burst_ends, .. } = self.conditions;
        if self.in_burst || self.happens(index, Question::BurstBegins, burst_begins) {
            self.in_burst = !self.happens(index, Question::BurstEnds, burst_ends);
            self.counters.lost_burst += 1;
            return true;
        }
        let lost = self.happens(index, Question::Loss, loss);
        self.counters.lost_alone += u64::from(lost);
        lost
    }

    fn jitter(&self, index: u64) -> u64 {
        let most = nanoseconds(self.conditions.jitter);
        // The upper half of a product is uniform without a division.
        ((u128::from(self.draw(index, Question::Jitter)) * u128::from(most)) >> 64) as u64
    }

    fn happens(&self, index: u64, question: Question, per_million: u32) -> bool {
        per_million > 0 && self.draw(index, question) % 1_000_000 < u64::from(per_million)
    }

    /// Uniform over 64 bits: SplitMix64's mixing of a counter (Steele, Lea, Flood 2014).
    fn draw(&self, index: u64, question: Question) -> u64 {
        let mut word = self.seed.wrapping_add((index * 8 + question as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// 4 or 6; nothing else can be lost.
fn ip_version(frame: &[u8]) -> Option<u8> {
    match frame.get(12..ETHERNET + 1)? {
        [0x08, 0x00, first] if first >> 4 == 4 => Some(4),
        [0x86, 0xdd, first] if first >> 4 == 6 => Some(6),
        _ => None,
    }
}

/// Puts CE into an ECN-capable packet (RFC 3168 section 5). False for one that is not, and that stays as it is.
fn mark_congestion(frame: &mut [u8]) -> bool {
    let (version, packet) = (ip_version(frame), &mut frame[ETHERNET..]);
    match version {
        Some(4) if packet.len() >= 20 && packet[1] & 3 != 0 => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            let new = old | 3;
            packet[1] |= 3;
            // RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
            let sum = u32::from(!u16::from_be_bytes([packet[10], packet[11]])) + u32::from(!old) + u32::from(new);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            true
        }
        // The traffic class straddles the first two bytes; its last two bits are in the second.
        Some(6) if packet.len() >= 40 && packet[1] & 0x30 != 0 => {
            packet[1] |= 0x30;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
