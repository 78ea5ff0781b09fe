//! Memory shared with the kernel: a ring or a memfd, unmapped when dropped.

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;

/// A readable and writable shared mapping.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may access which part of it is the affair of its users.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on, with its pages present.
    pub fn new(file: impl AsFd, len: usize, offset: u64) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel chooses a free address range.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset)?
        };
        Ok(Self { start: start.cast(), len })
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`; nothing borrowed from it outlives its owner.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}
