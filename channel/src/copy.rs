//! Copying payload, with the Internet checksum (RFC 1071) folded into the same pass.
//!
//! One side of a copy may be memory that a hostile process is changing. Each source byte is loaded exactly once, and
//! what is stored and what is summed come from that one load: the sum is of the bytes as copied.

use core::ptr;

/// A one's complement sum over 16-bit words *in memory order*, folded. The words are loaded as the processor does;
/// by RFC 1071 section 2(B) the sum may be swapped once at the end ([`Sum::network`]) instead of each word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u16);

impl Sum {
    pub const ZERO: Sum = Sum(0);

    /// Sum of bytes that nobody else changes. An odd last byte is padded with a zero byte.
    pub fn of(bytes: &[u8]) -> Sum {
        // SAFETY: the slice is readable; the sink stores nothing.
        unsafe { walk(bytes.as_ptr(), bytes.len(), Discard) }
    }

    /// The sum of this range followed by `next`; `len` is the length of this range (an odd one swaps what follows).
    pub fn then(self, len: usize, next: Sum) -> Sum {
        let next = if len.is_multiple_of(2) { next.0 } else { next.0.swap_bytes() };
        let (sum, carry) = self.0.overflowing_add(next);
        Sum(sum + carry as u16)
    }

    /// As a number over big-endian words: what a checksum computation in network order adds up.
    pub fn network(self) -> u16 {
        u16::from_be(self.0)
    }

    /// As words were loaded: what a checksum computation in memory order adds up.
    pub fn native(self) -> u16 {
        self.0
    }
}

/// Copies `len` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap. Either may be changed by another
/// process meanwhile: the copy is then of some mixture.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from, to, len) }
}

/// Copies `len` bytes and sums what it copied, as if it began at an even offset.
///
/// # Safety
/// As [`copy`].
#[inline]
pub unsafe fn copy_and_sum(from: *const u8, to: *mut u8, len: usize) -> Sum {
    // SAFETY: the caller's promise.
    unsafe { walk(from, len, Store(to)) }
}

/// What happens to a loaded word besides being summed.
trait Sink {
    /// # Safety
    /// `at + size_of::<T>()` is within the length of the walk.
    unsafe fn put<T: Copy>(&self, at: usize, value: T);
}

struct Discard;
struct Store(*mut u8);

impl Sink for Discard {
    #[inline(always)]
    unsafe fn put<T: Copy>(&self, _: usize, _: T) {}
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn put<T: Copy>(&self, at: usize, value: T) {
        // SAFETY: inside the destination by the caller's promise.
        unsafe { self.0.add(at).cast::<T>().write_unaligned(value) }
    }
}

/// Loads a value of plain bytes once.
///
/// # Safety
/// `size_of::<T>()` bytes at `from` are readable.
#[inline(always)]
unsafe fn load_once<T: Copy>(from: *const u8) -> T {
    #[repr(C, packed)]
    struct Unaligned<T>(T);
    // SAFETY: readable by the caller's promise; packed, hence without alignment.
    unsafe { from.cast::<Unaligned<T>>().read_volatile().0 }
}

/// # Safety
/// `len` bytes at `from` are readable, and the sink accepts `len` bytes.
#[inline(always)]
unsafe fn walk<S: Sink>(from: *const u8, len: usize, sink: S) -> Sum {
    let mut sums = [0u64; 4];
    let mut at = 0;
    // SAFETY: each access ends at or before `len`.
    unsafe {
        while at + 32 <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let word: u64 = load_once(from.add(at + lane * 8));
                sink.put(at + lane * 8, word);
                // Halves cannot overflow 64 bits within any length that fits memory.
                *sum += (word & 0xffff_ffff) + (word >> 32);
            }
            at += 32;
        }
        while at + 4 <= len {
            let word: u32 = load_once(from.add(at));
            sink.put(at, word);
            sums[0] += word as u64;
            at += 4;
        }
        if at + 2 <= len {
            let word: u16 = load_once(from.add(at));
            sink.put(at, word);
            sums[1] += word as u64;
            at += 2;
        }
        if at < len {
            let byte: u8 = load_once(from.add(at));
            sink.put(at, byte);
            sums[2] += u16::from_ne_bytes([byte, 0]) as u64;
        }
    }
    fold(sums)
}

fn fold(sums: [u64; 4]) -> Sum {
    let mut sum = 0u64;
    for part in sums {
        sum += (part & 0xffff_ffff) + (part >> 32);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Sum(sum as u16)
}
