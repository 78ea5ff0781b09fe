//! Copy and sum against RFC 1071 taken literally.
#![cfg(not(loom))]

mod common;

use common::Random;
use persona_channel::copy::{Sum, copy_and_sum};

/// RFC 1071 word by word, in network order.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]) as u64;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// 0 and 0xffff are the same number in one's complement.
fn same(left: u16, right: u16) -> bool {
    left % 0xffff == right % 0xffff
}

#[test]
fn every_length_and_alignment_is_copied_and_summed() {
    let mut random = Random::new("every_length_and_alignment_is_copied_and_summed");
    let source = random.bytes(4200);
    for len in (0..300).chain([1447, 1448, 1460, 4095, 4096, 4097]) {
        for _ in 0..8 {
            let (from, to) = (random.below(64), random.below(64));
            let bytes = &source[from..from + len];
            let mut target = vec![0xa5; len + 128];
            // SAFETY: both ranges lie in their vectors.
            let sum = unsafe { copy_and_sum(bytes.as_ptr(), target[to..].as_mut_ptr(), len) };
            assert_eq!(&target[to..to + len], bytes);
            assert!(target[..to].iter().chain(&target[to + len..]).all(|&byte| byte == 0xa5), "nothing beside it");
            assert!(same(sum.network(), reference(bytes)), "length {len}");
            assert_eq!(Sum::of(bytes), sum);
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    for len in [1, 2, 3, 1460, 65_535, 1 << 20] {
        let ones = vec![0xff; len];
        assert!(same(Sum::of(&ones).network(), reference(&ones)), "length {len}");
    }
    assert_eq!(Sum::of(&[0; 100]), Sum::ZERO);
}

#[test]
fn sums_of_parts_join() {
    let mut random = Random::new("sums_of_parts_join");
    for _ in 0..2000 {
        let size = random.below(3000);
        let bytes = random.bytes(size);
        let mut joined = Sum::ZERO;
        let mut at = 0;
        while at < bytes.len() {
            let len = (1 + random.below(700)).min(bytes.len() - at);
            joined = joined.then(at, Sum::of(&bytes[at..at + len]));
            at += len;
        }
        assert!(same(joined.network(), reference(&bytes)));
    }
}
