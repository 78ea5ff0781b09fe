//! The Internet checksum (RFC 1071, RFC 1624). Payload is summed by whoever copies it, see [`Host`](crate::Host).
//!
//! A *sum* is the one's complement sum of 16-bit big-endian words, folded to 16 bits and held as a host integer; an
//! odd last byte counts as the high half of a word. The *checksum* in a header is the complement of a sum. A range
//! that verifies sums up to 0xffff, its checksum field included.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A range whose checksum holds has this sum.
pub const VALID: u16 = 0xffff;

/// Bytes that one round of the inner loop takes: eight accumulators of 64 bits, each fed with 32 bits, which every
/// vector unit from SSE2 and NEON on turns into a few instructions.
const ROUND: usize = 32;

/// The sum of `bytes`.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    if bytes.len() < 2 * ROUND {
        // Headers: adding up eight lanes would cost more than they save.
        return finish_sum(0, bytes);
    }
    let (rounds, rest) = bytes.as_chunks::<ROUND>();
    let mut lanes = [0u64; 8];
    for round in rounds {
        accumulate(&mut lanes, round);
    }
    finish_sum(add_up(lanes), rest)
}

/// One's complement addition of two sums.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// The sum of two ranges of which the second follows the first, which is `first_len` bytes long. After an odd length
/// the second range's bytes have changed their halves of the word (RFC 1071 section 2, byte order independence).
#[inline]
pub const fn combine(first: u16, first_len: usize, second: u16) -> u16 {
    add(first, if first_len % 2 == 1 { second.swap_bytes() } else { second })
}

/// The sum of the bytes that `words` are in big-endian order.
#[inline]
pub fn sum_words(words: &[u32]) -> u16 {
    fold(words.iter().map(|&word| u64::from(word)).sum())
}

/// The sum of the pseudo header of TCP or UDP over IPv4. `len`: bytes of transport header and payload.
#[inline]
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u32) -> u16 {
    let [source, destination] = [source.to_bits(), destination.to_bits()].map(u64::from);
    fold(source + destination + u64::from(protocol) + u64::from(len))
}

/// The sum of the pseudo header over IPv6 (RFC 8200 section 8.1).
#[inline]
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> u16 {
    let words = source.segments().into_iter().chain(destination.segments());
    fold(words.map(u64::from).sum::<u64>() + u64::from(protocol) + u64::from(len))
}

/// The checksum that stands in the header when a `word` it covers changes from `old` to `new`.
// RFC 1624 section 3, equation 3: HC' = ~(~HC + ~m + m')
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

#[inline]
fn accumulate(lanes: &mut [u64; 8], round: &[u8; ROUND]) {
    let (words, _) = round.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

#[inline]
fn add_up(lanes: [u64; 8]) -> u64 {
    // 2^32 rounds would be needed to fill a lane; folding once keeps eight of them far from overflow.
    lanes.iter().map(|lane| (lane & 0xffff_ffff) + (lane >> 32)).sum()
}

/// Adds the bytes that did not fill a round to the lanes' `total`. Words were summed in the machine's order; the sum of
/// swapped words is the swapped sum (RFC 1071 section 2), so that one swap at the end is enough.
#[inline]
fn finish_sum(mut total: u64, rest: &[u8]) -> u16 {
    let (words, tail) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

#[inline]
const fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::vec::Vec;

    /// The definition, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
    }

    #[test]
    fn all_ones_at_the_largest_length_do_not_overflow() {
        let bytes = std::vec![0xff; 65_535];
        assert_eq!(sum(&bytes), slow_sum(&bytes));
    }

    proptest! {
        #[test]
        fn sum_is_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
            prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
        }

        #[test]
        fn sums_of_any_length_are_those_of_the_definition(
            bytes in prop::collection::vec(any::<u8>(), 0..3_000), words in prop::collection::vec(any::<u32>(), 0..20),
        ) {
            prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
            let as_bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            prop_assert_eq!(sum_words(&words), slow_sum(&as_bytes));
        }

        #[test]
        fn pieces_combine_at_any_offset(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
        ) {
            let whole: Vec<u8> = pieces.concat();
            let (mut total, mut len) = (0, 0);
            for piece in &pieces {
                total = combine(total, len, sum(piece));
                len += piece.len();
            }
            prop_assert_eq!(total, slow_sum(&whole));
        }

        #[test]
        fn update_is_a_new_sum(mut words in prop::collection::vec(any::<u16>(), 2..20), new: u16) {
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let before = !sum(&bytes(&words));
            let old = core::mem::replace(&mut words[0], new);
            let after = !sum(&bytes(&words));
            let updated = update(before, old, new);
            // Zero has two representations, which differ only where every word is zero.
            prop_assert!(updated == after || (updated ^ after == 0xffff && (after == 0 || after == 0xffff)));
        }
    }
}
