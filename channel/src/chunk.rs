//! The chunk pool: payload memory in pieces of [`CHUNK_SIZE`], and the only ways into it.
//!
//! Another process may write to any chunk at any time. Bytes are therefore copied by [`copy`](crate::copy), never
//! borrowed, and an index is bounded before it becomes an address.

use crate::copy::Sum;
use crate::layout::*;
use crate::memory::Bitmap;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Chunks and the bitmap that says which are free.
#[derive(Clone, Copy)]
pub struct ChunkPool<'m> {
    pub free: Bitmap<'m>,
    #[cfg(not(loom))]
    memory: NonNull<u8>,
    #[cfg(loom)]
    memory: &'m [loom::cell::UnsafeCell<u8>],
    _mapping: PhantomData<&'m Chunk>,
}

// SAFETY: payload is reached through raw copies that expect a concurrent writer, everything else through atomics, so a pool
// may be used from any thread.
#[cfg(not(loom))]
unsafe impl Send for ChunkPool<'_> {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl Sync for ChunkPool<'_> {}

/// A chunk of the pool; in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkIndex(u16);

impl ChunkIndex {
    /// From a map entry; `None` when the entry is empty or names no chunk.
    pub fn from_entry(entry: u32) -> Option<Self> {
        let index = (entry & map_entry::CHUNK_MASK).checked_sub(1)?;
        ((index as usize) < CHUNKS).then_some(Self(index as u16))
    }

    /// The chunk's part of a map entry.
    pub fn entry(self) -> u32 {
        self.0 as u32 + 1
    }
}

impl<'m> ChunkPool<'m> {
    /// Takes a free chunk; a bounded number of steps.
    pub fn claim(self) -> Option<ChunkIndex> {
        let index = self.free.claim()?;
        ((index as usize) < CHUNKS).then_some(ChunkIndex(index as u16))
    }

    pub fn give_back(self, chunk: ChunkIndex) {
        self.free.free(chunk.0 as u32);
    }
}

#[cfg(not(loom))]
impl<'m> ChunkPool<'m> {
    /// # Safety
    /// [`CHUNKS`] chunks lie at `memory` and stay mapped readable and writable for `'m`; they are reached as bytes
    /// that others may change, never through references.
    pub unsafe fn new(free: Bitmap<'m>, memory: NonNull<u8>) -> Self {
        Self { free, memory, _mapping: PhantomData }
    }

    /// Address of a byte of a chunk. `at` beyond the end gives the end.
    pub fn address(self, chunk: ChunkIndex, at: usize) -> *mut u8 {
        let offset = chunk.0 as usize * CHUNK_SIZE + at.min(CHUNK_SIZE);
        // SAFETY: the index is below CHUNKS and `at` at most CHUNK_SIZE, so the address lies in the pool or one past.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    /// Copies bytes in; cut at the chunk's end.
    pub fn store(self, chunk: ChunkIndex, at: usize, bytes: &[u8]) {
        let len = bytes.len().min(CHUNK_SIZE - at.min(CHUNK_SIZE));
        // SAFETY: the destination has `len` bytes inside the chunk, the source is borrowed; they do not overlap since
        // nobody holds a reference into the pool.
        unsafe { crate::copy::copy(bytes.as_ptr(), self.address(chunk, at), len) }
    }

    /// [`store`](Self::store), and the sum of what was stored.
    pub fn store_and_sum(self, chunk: ChunkIndex, at: usize, bytes: &[u8]) -> Sum {
        let len = bytes.len().min(CHUNK_SIZE - at.min(CHUNK_SIZE));
        // SAFETY: as in `store`.
        unsafe { crate::copy::copy_and_sum(bytes.as_ptr(), self.address(chunk, at), len) }
    }

    /// Copies bytes out; cut at the chunk's end.
    ///
    /// # Safety
    /// `len` bytes at `to` are writable.
    pub unsafe fn load(self, chunk: ChunkIndex, at: usize, to: *mut u8, len: usize) {
        let len = len.min(CHUNK_SIZE - at.min(CHUNK_SIZE));
        // SAFETY: the source has `len` bytes inside the chunk; the caller vouches for the destination.
        unsafe { crate::copy::copy(self.address(chunk, at), to, len) }
    }
}

/// Under the model checker each byte is a cell that reports unordered access.
#[cfg(loom)]
impl<'m> ChunkPool<'m> {
    pub unsafe fn new(_: Bitmap<'m>, _: NonNull<u8>) -> Self {
        unreachable!("models bring their own memory")
    }

    pub fn model(free: Bitmap<'m>, memory: &'m [loom::cell::UnsafeCell<u8>]) -> Self {
        Self { free, memory, _mapping: PhantomData }
    }

    fn cells(self, chunk: ChunkIndex, at: usize, len: usize) -> &'m [loom::cell::UnsafeCell<u8>] {
        let start = chunk.0 as usize * CHUNK_SIZE;
        &self.memory[start + at..start + (at + len).min(CHUNK_SIZE)]
    }

    pub fn address(self, _: ChunkIndex, _: usize) -> *mut u8 {
        unreachable!("models copy")
    }

    pub fn store(self, chunk: ChunkIndex, at: usize, bytes: &[u8]) {
        for (cell, &byte) in self.cells(chunk, at, bytes.len()).iter().zip(bytes) {
            // SAFETY: loom checks that nobody else is in the cell.
            cell.with_mut(|cell| unsafe { *cell = byte });
        }
    }

    pub fn store_and_sum(self, chunk: ChunkIndex, at: usize, bytes: &[u8]) -> Sum {
        self.store(chunk, at, bytes);
        Sum::of(bytes)
    }

    /// # Safety
    /// `len` bytes at `to` are writable.
    pub unsafe fn load(self, chunk: ChunkIndex, at: usize, to: *mut u8, len: usize) {
        for (index, cell) in self.cells(chunk, at, len).iter().enumerate() {
            // SAFETY: loom checks that nobody writes the cell; the caller vouches for the destination.
            cell.with(|cell| unsafe { *to.add(index) = *cell });
        }
    }
}
