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
        // SAFETY: the slice is readable, and nothing is stored.
        unsafe { walk::<false>(bytes.as_ptr(), ptr::null_mut(), bytes.len()) }
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
    unsafe { walk::<true>(from, to, len) }
}

/// Loads, sums and (with `STORE`) stores.
///
/// # Safety
/// `len` bytes at `from` are readable, and with `STORE` at `to` writable.
#[inline]
unsafe fn walk<const STORE: bool>(from: *const u8, to: *mut u8, len: usize) -> Sum {
    #[cfg(target_arch = "x86_64")]
    {
        /// Below this the vector kernels gain nothing.
        const WORTH: usize = 64;
        if len >= WORTH {
            // SAFETY: the caller's promise; AVX2 was seen to be there.
            return unsafe {
                match x86::avx2() {
                    true => x86::walk_avx2::<STORE>(from, to, len),
                    false => x86::walk_sse2::<STORE>(from, to, len),
                }
            };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { scalar::walk::<STORE>(from, to, len, [0; 2]) }
}

/// Adds the halves of each accumulator's halves, down to 16 bits.
fn fold(sums: [u64; 2]) -> Sum {
    let mut sum = sums.iter().map(|sum| (sum & 0xffff_ffff) + (sum >> 32)).sum::<u64>();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Sum(sum as u16)
}

/// Word by word: every architecture, and the ends of the vector kernels.
mod scalar {
    use super::{Sum, fold};

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

    /// One word: loaded once, stored, returned.
    ///
    /// # Safety
    /// As [`walk`], for `size_of::<T>()` bytes at offset `at`.
    #[inline(always)]
    unsafe fn word<const STORE: bool, T: Copy>(from: *const u8, to: *mut u8, at: usize) -> T {
        // SAFETY: the caller's promise.
        unsafe {
            let value = load_once(from.add(at));
            if STORE {
                to.add(at).cast::<T>().write_unaligned(value);
            }
            value
        }
    }

    /// # Safety
    /// As [`super::walk`].
    #[inline(always)]
    pub(super) unsafe fn walk<const STORE: bool>(from: *const u8, to: *mut u8, len: usize, mut sums: [u64; 2]) -> Sum {
        let mut at = 0;
        // SAFETY: each access ends at or before `len`.
        unsafe {
            while at + 16 <= len {
                for (index, sum) in sums.iter_mut().enumerate() {
                    let value: u64 = word::<STORE, _>(from, to, at + index * 8);
                    // Halves cannot overflow 64 bits within any length that fits memory.
                    *sum += (value & 0xffff_ffff) + (value >> 32);
                }
                at += 16;
            }
            while at + 4 <= len {
                sums[0] += word::<STORE, u32>(from, to, at) as u64;
                at += 4;
            }
            if at + 2 <= len {
                sums[1] += word::<STORE, u16>(from, to, at) as u64;
                at += 2;
            }
            if at < len {
                sums[1] += u16::from_ne_bytes([word::<STORE, u8>(from, to, at), 0]) as u64;
            }
        }
        fold(sums)
    }
}

/// Vectors of 16 and 32 bytes. The load is an instruction of its own (asm), which the compiler neither repeats nor
/// splits; each 64-bit lane adds its two 32-bit halves to 64-bit sums, which no length overflows.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Sum, scalar};
    use core::arch::asm;
    use core::arch::x86_64::*;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// Whether processor and kernel support AVX2; asked once.
    #[inline]
    pub(super) fn avx2() -> bool {
        static KNOWN: AtomicU8 = AtomicU8::new(0);
        match KNOWN.load(Ordering::Relaxed) {
            0 => {
                let found = detect();
                KNOWN.store(1 + found as u8, Ordering::Relaxed);
                found
            }
            known => known == 2,
        }
    }

    #[cold]
    fn detect() -> bool {
        const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
        const AVX2: u32 = 1 << 5;
        // XMM and YMM registers are saved by the kernel.
        const XMM_AND_YMM: u32 = 0b110;
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE_AND_AVX != OSXSAVE_AND_AVX {
            return false;
        }
        let enabled: u32;
        // SAFETY: OSXSAVE says that xgetbv exists; register 0 always does.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        enabled & XMM_AND_YMM == XMM_AND_YMM && __cpuid_count(7, 0).ebx & AVX2 != 0
    }

    /// # Safety
    /// As [`super::walk`], and the processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn walk_avx2<const STORE: bool>(from: *const u8, to: *mut u8, len: usize) -> Sum {
        const UNROLL: usize = 4;
        let low = _mm256_set1_epi64x(0xffff_ffff);
        let mut sums = [_mm256_setzero_si256(); 2];
        let mut at = 0;
        // SAFETY: each access ends at or before `len`.
        let step = |at: usize, sums: &mut [__m256i; 2]| unsafe {
            let value: __m256i;
            asm!("vmovdqu {value}, [{from}]", value = lateout(ymm_reg) value, from = in(reg) from.add(at),
                options(readonly, nostack, preserves_flags));
            if STORE {
                _mm256_storeu_si256(to.add(at).cast(), value);
            }
            sums[0] = _mm256_add_epi64(sums[0], _mm256_and_si256(value, low));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_srli_epi64(value, 32));
        };
        while at + 32 * UNROLL <= len {
            for index in 0..UNROLL {
                step(at + index * 32, &mut sums);
            }
            at += 32 * UNROLL;
        }
        while at + 32 <= len {
            step(at, &mut sums);
            at += 32;
        }
        let sum = _mm256_add_epi64(sums[0], sums[1]);
        let sum = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        // SAFETY: what is left of the caller's ranges.
        unsafe { scalar::walk::<STORE>(from.add(at), to.wrapping_add(at), len - at, lanes(sum)) }
    }

    /// # Safety
    /// As [`super::walk`].
    pub(super) unsafe fn walk_sse2<const STORE: bool>(from: *const u8, to: *mut u8, len: usize) -> Sum {
        const UNROLL: usize = 4;
        // SAFETY: SSE2 belongs to x86-64; each access ends at or before `len`.
        unsafe {
            let low = _mm_set1_epi64x(0xffff_ffff);
            let mut sums = [_mm_setzero_si128(); 2];
            let mut at = 0;
            let step = |at: usize, sums: &mut [__m128i; 2]| {
                let value: __m128i;
                asm!("movdqu {value}, [{from}]", value = lateout(xmm_reg) value, from = in(reg) from.add(at),
                    options(readonly, nostack, preserves_flags));
                if STORE {
                    _mm_storeu_si128(to.add(at).cast(), value);
                }
                sums[0] = _mm_add_epi64(sums[0], _mm_and_si128(value, low));
                sums[1] = _mm_add_epi64(sums[1], _mm_srli_epi64(value, 32));
            };
            while at + 16 * UNROLL <= len {
                for index in 0..UNROLL {
                    step(at + index * 16, &mut sums);
                }
                at += 16 * UNROLL;
            }
            let sum = _mm_add_epi64(sums[0], sums[1]);
            scalar::walk::<STORE>(from.add(at), to.wrapping_add(at), len - at, lanes(sum))
        }
    }

    /// The two lanes, as sums.
    #[inline(always)]
    fn lanes(sum: __m128i) -> [u64; 2] {
        // SAFETY: two 64-bit lanes are two integers.
        let [low, high]: [u64; 2] = unsafe { core::mem::transmute(sum) };
        // Leave room for what is added afterwards.
        [(low & 0xffff_ffff) + (low >> 32), (high & 0xffff_ffff) + (high >> 32)]
    }

    #[cfg(all(test, not(loom)))]
    mod tests {
        use super::*;

        #[test]
        fn all_kernels_agree() {
            let source: [u8; 700] = core::array::from_fn(|index| (index * 151 + (index >> 3)) as u8);
            for len in 0..source.len() {
                let mut targets = [[0u8; 700]; 3];
                let [first, second, third] = &mut targets;
                // SAFETY: all arrays are at least `len` long; AVX2 only where it is.
                let sums = unsafe {
                    [
                        scalar::walk::<true>(source.as_ptr(), first.as_mut_ptr(), len, [0; 2]),
                        walk_sse2::<true>(source.as_ptr(), second.as_mut_ptr(), len),
                        match avx2() {
                            true => walk_avx2::<true>(source.as_ptr(), third.as_mut_ptr(), len),
                            false => scalar::walk::<true>(source.as_ptr(), third.as_mut_ptr(), len, [0; 2]),
                        },
                    ]
                };
                assert_eq!(sums, [sums[0]; 3], "length {len}");
                for target in targets {
                    assert_eq!(target[..len], source[..len]);
                    assert!(target[len..].iter().all(|&byte| byte == 0));
                }
            }
        }

        #[test]
        fn detection_agrees_with_the_standard_library() {
            extern crate std;
            assert_eq!(avx2(), std::is_x86_feature_detected!("avx2"));
            assert_eq!(avx2(), detect());
        }
    }
}
