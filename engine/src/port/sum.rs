//! The Internet checksum (RFC 1071) in the form that ports need it: summed while bytes are copied.
//!
//! Sums are kept in memory order: 16-bit words as the machine loads them. RFC 1071 section 2 (B) shows that the folded
//! result, stored as it was loaded, is right on either byte order.

use persona_channel::copy::copy_and_sum;

/// A running one's-complement sum over a sequence of pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    words: u64,
    /// The next byte is the second one of its word.
    odd: bool,
}

impl Sum {
    /// A sum that begins with an already folded one in memory order, such as a checksum field.
    pub fn starting_with(word: u16) -> Self {
        Self { words: u64::from(word), odd: false }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.join(words(bytes), bytes.len());
    }

    /// Adds a number as the wire carries it. Only at an even position.
    pub fn add_u16(&mut self, value: u16) {
        debug_assert!(!self.odd);
        self.words += u64::from(value.to_be());
    }

    /// Adds a folded sum in memory order that covers whole words.
    pub fn add_folded(&mut self, word: u16) {
        debug_assert!(!self.odd);
        self.words += u64::from(word);
    }

    /// Adds the folded sum (memory order, beginning at an even position of its own) of `len` bytes.
    pub fn add_piece(&mut self, word: u16, len: usize) {
        self.join(u64::from(word), len);
    }

    /// Copies `to.len()` bytes from memory that somebody else may be writing, and adds what arrived.
    ///
    /// Each byte is read once, so that checksum and copy always agree.
    ///
    /// # Safety
    ///
    /// `from` must be readable for `to.len()` bytes and must not overlap `to`.
    pub unsafe fn copy(&mut self, from: *const u8, to: &mut [u8]) {
        // SAFETY: the caller vouches for the source; `to` is writable for its length.
        let copied = unsafe { copy_and_sum(from, to.as_mut_ptr(), to.len()) };
        self.join(u64::from(copied.native()), to.len());
    }

    /// The sum folded to 16 bits, in memory order, not complemented.
    pub fn fold(self) -> u16 {
        fold(self.words)
    }

    fn join(&mut self, words: u64, len: usize) {
        let folded = fold(words);
        self.words += u64::from(if self.odd { folded.swap_bytes() } else { folded });
        self.odd ^= len % 2 == 1;
    }
}

/// The value of a checksum field (memory order) for a folded sum. Zero is written as all ones, which means the same to
/// every transport and is required by UDP.
pub fn field(folded: u16) -> u16 {
    match !folded {
        0 => 0xffff,
        value => value,
    }
}

/// Reads a checksum field in memory order.
pub fn load(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// Stores a checksum field that is in memory order.
pub fn store(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
}

/// Unfolded sum of `bytes` as native 32-bit words; an odd last byte is padded with zero. Independent accumulators let
/// the compiler use vector registers.
fn words(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let mut pairs = chunks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = *pairs.remainder() {
        sum += u64::from(u16::from_ne_bytes([last, 0]));
    }
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, byte by byte in network order.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_sum_like_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(0usize..5000, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut sum = Sum::default();
            let mut by_fold = Sum::default();
            let mut copy = vec![0u8; bytes.len()];
            for pair in cuts.windows(2) {
                let piece = &bytes[pair[0]..pair[1]];
                // SAFETY: the source is a slice of its own.
                unsafe { sum.copy(piece.as_ptr(), &mut copy[pair[0]..pair[1]]) };
                let mut alone = Sum::default();
                alone.add(piece);
                by_fold.add_piece(alone.fold(), piece.len());
            }
            prop_assert_eq!(&copy, &bytes);
            prop_assert_eq!(sum.fold().to_be(), reference(&bytes));
            prop_assert_eq!(by_fold.fold().to_be(), reference(&bytes));
        }
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_all_ones() {
        assert_eq!(field(0xffff), 0xffff);
        assert_eq!(field(0), 0xffff);
        assert_eq!(field(0x1234), 0xedcb);
    }
}
