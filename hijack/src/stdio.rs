//! stdio on sockets. libc's streams read and write behind our back, by names that cannot be interposed, so a socket that
//! becomes a stream goes into relay first.

use core::ffi::{c_char, c_int};

use libc::FILE;

use crate::export::export;
use crate::sys::answer;
use crate::table::{self, Entry};
use crate::{descriptors, real, relay};

export! {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        if let Err(errno) = relay::enter_if_ours(fd) {
            answer::<c_int>(Err(errno));
            return core::ptr::null_mut();
        }
        real::fdopen(fd, mode)
    }

    fn fclose(file: *mut FILE) -> c_int {
        forget(file);
        real::fclose(file)
    }

    fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        forget(file);
        real::freopen(path, mode, file)
    }

    fn freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        forget(file);
        real::freopen64(path, mode, file)
    }
}

/// A stream's descriptor is about to be closed by libc itself.
///
/// # Safety
/// `file` is null or an open stream.
unsafe fn forget(file: *mut FILE) {
    if file.is_null() {
        return;
    }
    // SAFETY: the caller vouches for the stream; a stream without descriptor says -1.
    let fd = unsafe { libc::fileno(file) };
    if fd >= 0 {
        match table::get(fd) {
            Entry::Foreign | Entry::Internal => {}
            entry => descriptors::release(fd, entry),
        }
    }
}
