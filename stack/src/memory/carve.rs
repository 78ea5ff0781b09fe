//! Cuts one block of bytes into typed slices, each on a cache line of its own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Alignment of the block and of each piece: a cache line.
pub(crate) const LINE: usize = 64;

/// Takes slices from the front of a block. Run without memory it only adds up sizes, so that size and layout cannot
/// disagree.
pub(crate) struct Carver<'m> {
    rest: Option<&'m mut [u8]>,
    used: usize,
}

impl<'m> Carver<'m> {
    /// Only counts.
    pub(crate) fn measure() -> Self {
        Self { rest: None, used: 0 }
    }

    pub(crate) fn new(memory: &'m mut [u8]) -> Self {
        Self { rest: Some(memory), used: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The next `count` records; empty while measuring or when the block is too short (the caller has compared sizes
    /// before).
    pub(crate) fn take<T>(&mut self, count: usize) -> &'m mut [T]
    where
        T: FromBytes + IntoBytes + KnownLayout + Immutable,
    {
        let bytes = (size_of::<T>() * count).next_multiple_of(LINE);
        self.used += bytes;
        let Some(rest) = self.rest.take() else { return &mut [] };
        let Some((piece, rest)) = rest.split_at_mut_checked(bytes) else { return &mut [] };
        self.rest = Some(rest);
        match <[T]>::mut_from_prefix_with_elems(piece, count) {
            Ok((records, _)) => records,
            Err(_) => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(64))]
    struct Block([u8; 1024]);

    #[test]
    fn pieces_are_apart_and_as_large_as_measured() {
        let mut measure = Carver::measure();
        measure.take::<u32>(3);
        measure.take::<u64>(9);
        assert_eq!(measure.used(), 64 + 128);

        let mut block = Block([0; 1024]);
        let mut carver = Carver::new(&mut block.0);
        let first = carver.take::<u32>(3);
        let second = carver.take::<u64>(9);
        first.fill(u32::MAX);
        assert_eq!(second, [0; 9]);
        second.fill(7);
        assert_eq!(first, [u32::MAX; 3]);
        assert_eq!(carver.used(), measure.used());
    }

    #[test]
    fn a_short_block_gives_nothing() {
        let mut block = Block([0; 1024]);
        let mut carver = Carver::new(&mut block.0);
        assert!(carver.take::<u64>(129).is_empty());
        assert!(carver.take::<u64>(1).is_empty());
    }
}
