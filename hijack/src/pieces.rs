//! The memory an application passes to a call: one buffer or an iovec array, walked from any offset.

use core::ffi::c_int;
use core::slice;

use libc::iovec;

use crate::sys::{Errno, Result};

/// Most elements of an iovec array, as the kernel has it (UIO_MAXIOV).
const MOST_PIECES: usize = 1024;

/// Buffers of the application.
#[derive(Clone, Copy)]
pub struct Pieces<'a> {
    vector: &'a [iovec],
    total: usize,
}

impl<'a> Pieces<'a> {
    /// # Safety
    /// `vector` must point to `count` elements that stay valid for `'a`, and so must what they point to.
    pub unsafe fn new(vector: *const iovec, count: c_int) -> Result<Pieces<'a>> {
        let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: passed on to the caller.
        unsafe { Pieces::of_length(vector, count, libc::EINVAL) }
    }

    /// The buffers of a message header.
    ///
    /// # Safety
    /// As [`new`](Self::new), for the header's iovec array.
    pub unsafe fn of_message(message: &libc::msghdr) -> Result<Pieces<'a>> {
        // SAFETY: passed on to the caller.
        unsafe { Pieces::of_length(message.msg_iov, message.msg_iovlen, libc::EMSGSIZE) }
    }

    unsafe fn of_length(vector: *const iovec, count: usize, too_many: c_int) -> Result<Pieces<'a>> {
        if count > MOST_PIECES {
            return Err(Errno(too_many));
        }
        if count == 0 {
            return Ok(Pieces { vector: &[], total: 0 });
        }
        if vector.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: the caller vouches for `count` elements.
        Pieces::from_slice(unsafe { slice::from_raw_parts(vector, count) })
    }

    pub fn from_slice(vector: &'a [iovec]) -> Result<Pieces<'a>> {
        let mut total = 0usize;
        for piece in vector {
            if piece.iov_base.is_null() && piece.iov_len > 0 {
                return Err(Errno(libc::EFAULT));
            }
            total = total
                .checked_add(piece.iov_len)
                .filter(|sum| *sum <= isize::MAX as usize)
                .ok_or(Errno(libc::EINVAL))?;
        }
        Ok(Pieces { vector, total })
    }

    /// No memory, for bytes that are thrown away.
    pub fn nowhere(total: usize) -> Pieces<'static> {
        Pieces { vector: &[], total }
    }

    /// Bytes in all pieces together.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The bytes from `skip` on.
    pub fn bytes(&self, skip: usize) -> impl Iterator<Item = &'a [u8]> {
        // SAFETY: the application passed memory that may be read; a null piece is empty and left out.
        self.parts(skip, usize::MAX).map(|(start, length)| unsafe { slice::from_raw_parts(start, length) })
    }

    /// Room for `most` bytes from `skip` on.
    pub fn room(&self, skip: usize, most: usize) -> impl Iterator<Item = &'a mut [u8]> {
        // SAFETY: the application passed memory that may be written; pieces are visited one after the other.
        self.parts(skip, most).map(|(start, length)| unsafe { slice::from_raw_parts_mut(start, length) })
    }

    fn parts(&self, mut skip: usize, mut most: usize) -> impl Iterator<Item = (*mut u8, usize)> {
        self.vector.iter().filter_map(move |piece| {
            let over = skip.min(piece.iov_len);
            skip -= over;
            let length = (piece.iov_len - over).min(most);
            most -= length;
            (length > 0).then(|| (piece.iov_base.cast::<u8>().wrapping_add(over), length))
        })
    }
}
