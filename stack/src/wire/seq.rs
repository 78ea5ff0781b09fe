//! TCP sequence numbers: arithmetic modulo 2^32 (RFC 9293 section 3.4).
//!
//! Comparison is only meaningful for numbers less than 2^31 apart, and it is not transitive; therefore these are
//! methods and not `Ord`.

use core::ops::{Add, AddAssign, Sub};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A position in one direction's sequence space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Bytes from `earlier` to `self`, modulo 2^32; the caller knows that `self` is not before `earlier`.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Signed distance from `other` to `self`.
    #[inline]
    pub const fn offset_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    #[inline]
    pub const fn before(self, other: Self) -> bool {
        self.offset_from(other) < 0
    }

    #[inline]
    pub const fn at_or_before(self, other: Self) -> bool {
        self.offset_from(other) <= 0
    }

    #[inline]
    pub const fn after(self, other: Self) -> bool {
        self.offset_from(other) > 0
    }

    #[inline]
    pub const fn at_or_after(self, other: Self) -> bool {
        self.offset_from(other) >= 0
    }

    /// Whether `self` lies in `start .. start + len`.
    #[inline]
    pub const fn within(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The later of the two.
    #[inline]
    pub const fn later(self, other: Self) -> Self {
        if self.after(other) { self } else { other }
    }

    /// The earlier of the two.
    #[inline]
    pub const fn earlier(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

impl Add<u32> for SeqNumber {
    type Output = Self;

    #[inline]
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for SeqNumber {
    #[inline]
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for SeqNumber {
    type Output = Self;

    #[inline]
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::SeqNumber;

    #[test]
    fn comparison_wraps_around_the_end_of_the_space() {
        let before = SeqNumber(u32::MAX - 9);
        let after = before + 20;
        assert_eq!(after, SeqNumber(10));
        assert!(before.before(after) && before.at_or_before(after) && !before.after(after));
        assert!(after.after(before) && after.at_or_after(before) && !after.before(before));
        assert!(before.at_or_before(before) && before.at_or_after(before) && !before.before(before));
        assert_eq!(after.since(before), 20);
        assert_eq!(before.offset_from(after), -20);
        assert_eq!((before.later(after), before.earlier(after)), (after, before));
        assert_eq!(after - 20, before);
    }

    #[test]
    fn a_window_holds_its_first_byte_and_not_the_one_after_its_last() {
        let start = SeqNumber(u32::MAX - 3);
        assert!(start.within(start, 1) && (start + 7).within(start, 8));
        assert!(!(start + 8).within(start, 8) && !(start - 1).within(start, 8) && !start.within(start, 0));
    }
}
