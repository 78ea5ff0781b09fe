//! Memory shared with the kernel, and socket options.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU32;

/// A shared mapping; gone when dropped.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    /// `len` bytes at `offset` of the descriptor, or fresh memory without one. Present from the beginning.
    pub fn new(fd: Option<BorrowedFd<'_>>, len: usize, offset: u64) -> io::Result<Self> {
        let anonymous = if fd.is_none() { libc::MAP_ANONYMOUS } else { 0 };
        let number = fd.map_or(-1, |fd| fd.as_raw_fd());
        // SAFETY: a mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE | anonymous,
                number,
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start: start.cast(), len }) }
    }

    /// The byte at `offset`. Writing through it is right when the kernel does not own the place.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "within the mapping");
        self.start.wrapping_add(offset)
    }

    /// `len` bytes from `offset` on.
    ///
    /// # Safety
    ///
    /// They must be the caller's, and not the kernel's, for as long as the slice is used, and used by no other slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len, "within the mapping");
        // SAFETY: in bounds; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(offset), len) }
    }

    /// The word at `offset`, which the kernel may change.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.len && offset.is_multiple_of(4), "a word of the mapping");
        // SAFETY: in bounds and aligned, for the mapping begins on a page; alive as long as the mapping.
        unsafe { &*self.start.wrapping_add(offset).cast::<AtomicU32>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody can refer to it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

pub fn set_option<T>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is readable for its size, which is what the kernel is told.
    let outcome = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The index of an interface in this namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    // SAFETY: reads a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// send() of nothing: the kernel looks at the transmit ring. False: it is busy, or has no memory at the moment.
pub fn kick(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: no bytes are read.
    if unsafe { libc::send(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT) } >= 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM)) => {
            Ok(false)
        }
        error => Err(error),
    }
}
