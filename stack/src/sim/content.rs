//! What the bytes of a stream are: a function of the stream's key and the offset, so that a byte in a wrong place, a
//! repeated and a missing one all show.

use super::rng::mix;

/// Writes the stream's bytes from `offset` on into `into`.
pub fn fill(key: u64, offset: u64, into: &mut [u8]) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let word = mix(key ^ (at / 8)).to_le_bytes();
        let from = (at % 8) as usize;
        let len = rest.len().min(8 - from);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&word[from..from + len]);
        at += len as u64;
        rest = later;
    }
}

/// The first offset from `offset` on at which `bytes` differ from the stream.
pub fn first_difference(key: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = [0; 256];
    for (index, chunk) in bytes.chunks(256).enumerate() {
        let at = offset + index as u64 * 256;
        let expected = &mut expected[..chunk.len()];
        fill(key, at, expected);
        if let Some(place) = chunk.iter().zip(expected).position(|(is, should)| is != should) {
            return Some(at + place as u64);
        }
    }
    None
}
