//! Extended sequence numbers: 64 bits, so that they never wrap within a connection's life and compare as integers.
//!
//! The SYN has the number [`SYN`], the first byte of the stream [`FIRST`]; both directions alike. Numbers lower than SYN
//! name what lies before the connection (garbage, or old segments) and are still positive.

use crate::wire::SeqNumber;

/// Number of the SYN. 2^32, so that any wire number that lies "before" it is still representable.
pub(crate) const SYN: u64 = 1 << 32;
/// Number of the first byte of the stream.
pub(crate) const FIRST: u64 = SYN + 1;

/// The stream offset of a number.
#[inline]
pub(crate) fn offset(seq: u64) -> u64 {
    seq.saturating_sub(FIRST)
}

/// What stands in the header for `seq`, in a direction that began with `initial` (ISS or IRS).
#[inline]
pub(crate) fn to_wire(initial: u32, seq: u64) -> SeqNumber {
    SeqNumber(initial.wrapping_add(seq.wrapping_sub(SYN) as u32))
}

/// The number nearest to `near` whose wire form is `wire`.
#[inline]
pub(crate) fn from_wire(initial: u32, near: u64, wire: SeqNumber) -> u64 {
    let distance = wire.offset_from(to_wire(initial, near));
    near.wrapping_add(distance as i64 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(initial: u32, near in SYN..SYN << 8, distance in -0x7fff_ffffi64..0x7fff_ffff) {
            let seq = near.wrapping_add(distance as u64);
            prop_assert_eq!(from_wire(initial, near, to_wire(initial, seq)), seq);
        }
    }

    #[test]
    fn offsets_begin_after_the_syn() {
        assert_eq!(offset(SYN), 0);
        assert_eq!(offset(FIRST), 0);
        assert_eq!(offset(FIRST + 10), 10);
        assert_eq!(to_wire(5, FIRST), SeqNumber(6));
    }
}
