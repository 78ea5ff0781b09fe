//! sendfile() and splice() with a socket of ours at one end: a read and a write through a buffer on the stack.
#![allow(improper_ctypes_definitions)]

use core::ffi::{c_int, c_uint, c_void};

use libc::{iovec, loff_t, off_t, size_t, ssize_t};

use crate::export::export;
use crate::handle::Handle;
use crate::pieces::Pieces;
use crate::real;
use crate::stream_io::{self, Outcome};
use crate::sys::{self, Errno, Result, answer};

/// Bytes moved at a time: a thread's stack may be small.
const BUFFER: usize = 32 * 1024;
/// Most bytes of one call, as in the kernel.
const MOST: usize = 0x7fff_f000;

export! {
    fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        let handle = Handle::unrelayed(out);
        if Handle::unrelayed(from).is_some() {
            // The source has to be something that can be mapped.
            return answer::<usize>(Err(Errno(libc::EINVAL)));
        }
        match handle {
            Some(handle) => answer(send_file(&handle, from, offset, count)),
            None => real::sendfile(out, from, offset, count),
        }
    }

    fn sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        sendfile(out, from, offset, count)
    }

    fn splice(
        from: c_int, from_offset: *mut loff_t, to: c_int, to_offset: *mut loff_t, count: size_t, flags: c_uint
    ) -> ssize_t {
        match (Handle::unrelayed(from), Handle::unrelayed(to)) {
            (None, None) => real::splice(from, from_offset, to, to_offset, count, flags),
            // One end is always a pipe.
            (Some(_), Some(_)) => answer::<usize>(Err(Errno(libc::EINVAL))),
            (Some(_), None) if !from_offset.is_null() => answer::<usize>(Err(Errno(libc::ESPIPE))),
            (None, Some(_)) if !to_offset.is_null() => answer::<usize>(Err(Errno(libc::ESPIPE))),
            (Some(socket), None) => answer(socket_to_pipe(&socket, to, count, flags)),
            (None, Some(socket)) => answer(pipe_to_socket(from, &socket, count, flags)),
        }
    }
}

/// # Safety
/// `offset` is null or valid.
unsafe extern "C-unwind" fn send_file(handle: &Handle, from: c_int, offset: *mut off_t, count: usize) -> Result<usize> {
    let mut buffer = [0u8; BUFFER];
    let own_position = offset.is_null();
    let start = if own_position {
        match seek(from, 0, libc::SEEK_CUR) {
            Ok(position) => position,
            Err(_) => return Err(Errno(libc::EINVAL)),
        }
    } else {
        // SAFETY: the caller vouches for it.
        unsafe { *offset }
    };
    if start < 0 {
        return Err(Errno(libc::EINVAL));
    }
    let count = count.min(MOST);
    let mut done = 0;
    let outcome = loop {
        if done == count {
            break Ok(());
        }
        let wanted = BUFFER.min(count - done);
        let read = match pread(from, &mut buffer[..wanted], start + done as off_t) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(errno) => break Err(errno),
        };
        let vector = [iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: read }];
        let pieces = match Pieces::from_slice(&vector) {
            Ok(pieces) => pieces,
            Err(errno) => break Err(errno),
        };
        match stream_io::send(handle, pieces, 0) {
            Ok(Outcome::Bytes(sent)) => {
                done += sent;
                if sent < read {
                    break Ok(());
                }
            }
            Ok(Outcome::Relayed) => {
                // SAFETY: the buffer is as long as said.
                let sent = unsafe { real::write(handle.fd, buffer.as_ptr().cast::<c_void>(), read) };
                if sent < 0 {
                    break Err(Errno(sys::errno()));
                }
                done += sent as usize;
                if (sent as usize) < read {
                    break Ok(());
                }
            }
            Err(errno) => break Err(errno),
        }
    };
    if own_position {
        let _ = seek(from, start + done as off_t, libc::SEEK_SET);
    } else {
        // SAFETY: the caller vouches for it.
        unsafe { *offset = start + done as off_t };
    }
    match outcome {
        Err(errno) if done == 0 => Err(errno),
        _ => Ok(done),
    }
}

fn seek(fd: c_int, offset: off_t, whence: c_int) -> Result<off_t> {
    // SAFETY: no memory is involved.
    unsafe { sys::call(libc::SYS_lseek, [fd as usize, offset as usize, whence as usize, 0, 0, 0]) }
        .map(|position| position as off_t)
}

fn pread(fd: c_int, buffer: &mut [u8], offset: off_t) -> Result<usize> {
    let arguments = [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), offset as usize, 0, 0];
    loop {
        // SAFETY: the buffer is as long as said.
        match unsafe { sys::call(libc::SYS_pread64, arguments) } {
            Err(Errno(libc::EINTR)) => continue,
            other => return other,
        }
    }
}

/// What the pipe takes is taken from the socket, and no byte more.
extern "C-unwind" fn socket_to_pipe(socket: &Handle, pipe: c_int, count: usize, flags: c_uint) -> Result<usize> {
    let mut buffer = [0u8; BUFFER];
    let wanted = BUFFER.min(count);
    let wait = if flags & libc::SPLICE_F_NONBLOCK != 0 { libc::MSG_DONTWAIT } else { 0 };
    let vector = [iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: wanted }];
    let pieces = Pieces::from_slice(&vector)?;
    let peeked = match stream_io::receive(socket, pieces, libc::MSG_PEEK | wait) {
        Ok(Outcome::Bytes(bytes)) => bytes,
        Ok(Outcome::Relayed) => return Err(Errno(libc::EAGAIN)),
        Err(errno) => return Err(errno),
    };
    if peeked == 0 {
        return Ok(0);
    }
    // SAFETY: the buffer holds so many bytes.
    let written = unsafe { real::write(pipe, buffer.as_ptr().cast::<c_void>(), peeked) };
    if written < 0 {
        return Err(Errno(sys::errno()));
    }
    let vector = [iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: written as usize }];
    let pieces = Pieces::from_slice(&vector)?;
    match stream_io::receive(socket, pieces, libc::MSG_DONTWAIT) {
        Ok(_) => Ok(written as usize),
        Err(errno) => Err(errno),
    }
}

/// What was read from the pipe is sent, whatever it takes: it cannot be put back.
extern "C-unwind" fn pipe_to_socket(pipe: c_int, socket: &Handle, count: usize, flags: c_uint) -> Result<usize> {
    let mut buffer = [0u8; BUFFER];
    let space = socket.socket.send_writer().space();
    if space == 0 && (flags & libc::SPLICE_F_NONBLOCK != 0 || socket.is_nonblocking()) {
        socket.poll_bits_wanting(libc::POLLOUT as u32);
        return Err(Errno(libc::EAGAIN));
    }
    let wanted = BUFFER.min(count).min(space.max(1));
    // SAFETY: the buffer is as long as said.
    let read = unsafe { real::read(pipe, buffer.as_mut_ptr().cast(), wanted) };
    if read <= 0 {
        return if read == 0 { Ok(0) } else { Err(Errno(sys::errno())) };
    }
    let vector = [iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: read as usize }];
    let pieces = Pieces::from_slice(&vector)?;
    match stream_io::send(socket, pieces, 0) {
        Ok(Outcome::Bytes(sent)) => Ok(sent),
        Ok(Outcome::Relayed) => Err(Errno(libc::EAGAIN)),
        Err(errno) => Err(errno),
    }
}
