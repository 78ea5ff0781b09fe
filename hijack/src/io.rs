//! The names through which bytes go in and out: read, write, send, recv and all their relatives.

use core::ffi::{c_int, c_uint, c_void};
use core::mem::size_of;

use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use crate::export::export;
use crate::handle::Handle;
use crate::pieces::Pieces;
use crate::stream_io::{self, Outcome};
use crate::sys::{Errno, Result, answer};
use crate::{real, relay, sys};

/// The bytes of an outcome, or `$relayed`, the real call.
macro_rules! finish {
    ($outcome:expr, $relayed:expr) => {
        match $outcome {
            Ok(Outcome::Relayed) => $relayed,
            Ok(Outcome::Bytes(bytes)) => bytes as ssize_t,
            Err(errno) => answer::<usize>(Err(errno)),
        }
    };
}

export! {
    fn read(fd: c_int, buffer: *mut c_void, length: size_t) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::read(fd, buffer, length);
        };
        finish!(receive_one(&handle, buffer, length, 0), real::read(fd, buffer, length))
    }

    fn __read_chk(fd: c_int, buffer: *mut c_void, length: size_t, room: size_t) -> ssize_t {
        if length > room {
            return real::__read_chk(fd, buffer, length, room);
        }
        read(fd, buffer, length)
    }

    fn readv(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::readv(fd, vector, count);
        };
        let pieces = match Pieces::new(vector, count) {
            Ok(pieces) => pieces,
            Err(errno) => return answer::<usize>(Err(errno)),
        };
        finish!(stream_io::receive(&handle, pieces, 0), real::readv(fd, vector, count))
    }

    fn recv(fd: c_int, buffer: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::recv(fd, buffer, length, flags);
        };
        finish!(receive_one(&handle, buffer, length, flags), real::recv(fd, buffer, length, flags))
    }

    fn __recv_chk(fd: c_int, buffer: *mut c_void, length: size_t, room: size_t, flags: c_int) -> ssize_t {
        if length > room {
            return real::__recv_chk(fd, buffer, length, room, flags);
        }
        recv(fd, buffer, length, flags)
    }

    fn recvfrom(
        fd: c_int, buffer: *mut c_void, length: size_t, flags: c_int, address: *mut sockaddr,
        address_length: *mut socklen_t
    ) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::recvfrom(fd, buffer, length, flags, address, address_length);
        };
        let outcome = receive_one(&handle, buffer, length, flags);
        if !address.is_null() && !address_length.is_null() {
            // A TCP socket names no sender.
            *address_length = 0;
        }
        finish!(outcome, real::recv(fd, buffer, length, flags))
    }

    fn __recvfrom_chk(
        fd: c_int, buffer: *mut c_void, length: size_t, room: size_t, flags: c_int, address: *mut sockaddr,
        address_length: *mut socklen_t
    ) -> ssize_t {
        if length > room {
            return real::__recvfrom_chk(fd, buffer, length, room, flags, address, address_length);
        }
        recvfrom(fd, buffer, length, flags, address, address_length)
    }

    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::recvmsg(fd, message, flags);
        };
        finish!(receive_message(&handle, message, flags), real::recvmsg(fd, message, flags))
    }

    fn recvmmsg(
        fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec
    ) -> c_int {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::recvmmsg(fd, messages, count, flags, timeout);
        };
        let mut flags = flags;
        let end = if timeout.is_null() { None } else { Some(sys::now() + nanoseconds(&*timeout)) };
        for index in 0..count.min(c_int::MAX as c_uint) {
            let entry = messages.add(index as usize);
            let received = match receive_message(&handle, &raw mut (*entry).msg_hdr, flags & !libc::MSG_WAITFORONE) {
                Ok(Outcome::Bytes(bytes)) => bytes,
                Ok(Outcome::Relayed) if index == 0 => return real::recvmmsg(fd, messages, count, flags, timeout),
                Err(errno) if index == 0 => return answer::<c_int>(Err(errno)),
                _ => return index as c_int,
            };
            (*entry).msg_len = received as c_uint;
            if flags & libc::MSG_WAITFORONE != 0 {
                flags |= libc::MSG_DONTWAIT;
            }
            if received == 0 || end.is_some_and(|end| sys::now() >= end) {
                return index as c_int + 1;
            }
        }
        count as c_int
    }

    fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::write(fd, buffer, length);
        };
        finish!(send_one(&handle, buffer, length, 0), real::write(fd, buffer, length))
    }

    fn writev(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::writev(fd, vector, count);
        };
        let pieces = match Pieces::new(vector, count) {
            Ok(pieces) => pieces,
            Err(errno) => return answer::<usize>(Err(errno)),
        };
        finish!(stream_io::send(&handle, pieces, 0), real::writev(fd, vector, count))
    }

    fn send(fd: c_int, buffer: *const c_void, length: size_t, flags: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::send(fd, buffer, length, flags);
        };
        finish!(send_one(&handle, buffer, length, flags), real::send(fd, buffer, length, flags))
    }

    fn sendto(
        fd: c_int, buffer: *const c_void, length: size_t, flags: c_int, address: *const sockaddr,
        address_length: socklen_t
    ) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            return real::sendto(fd, buffer, length, flags, address, address_length);
        };
        // TCP ignores the destination of a connected socket.
        finish!(send_one(&handle, buffer, length, flags), real::send(fd, buffer, length, flags))
    }

    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        let Some(handle) = Handle::unrelayed(fd) else {
            if let Err(errno) = relay::before_passing(message) {
                return answer::<usize>(Err(errno));
            }
            return real::sendmsg(fd, message, flags);
        };
        finish!(send_message(&handle, message, flags), real::sendmsg(fd, message, flags))
    }

    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        let Some(handle) = Handle::unrelayed(fd) else {
            for index in 0..count as usize {
                if let Err(errno) = relay::before_passing(&raw const (*messages.add(index)).msg_hdr) {
                    return answer::<c_int>(Err(errno));
                }
            }
            return real::sendmmsg(fd, messages, count, flags);
        };
        for index in 0..count.min(c_int::MAX as c_uint) {
            let entry = messages.add(index as usize);
            let sent = match send_message(&handle, &raw const (*entry).msg_hdr, flags) {
                Ok(Outcome::Bytes(bytes)) => bytes,
                Ok(Outcome::Relayed) if index == 0 => return real::sendmmsg(fd, messages, count, flags),
                Err(errno) if index == 0 => return answer::<c_int>(Err(errno)),
                _ => return index as c_int,
            };
            (*entry).msg_len = sent as c_uint;
        }
        count as c_int
    }
}

#[allow(improper_ctypes_definitions)]
extern "C-unwind" fn receive_one(
    handle: &Handle,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
) -> Result<Outcome> {
    if buffer.is_null() && flags & libc::MSG_TRUNC != 0 {
        return stream_io::receive(handle, Pieces::nowhere(length), flags);
    }
    let vector = [iovec { iov_base: buffer, iov_len: length }];
    match Pieces::from_slice(&vector) {
        Ok(pieces) => stream_io::receive(handle, pieces, flags),
        Err(errno) => Err(errno),
    }
}

#[allow(improper_ctypes_definitions)]
extern "C-unwind" fn send_one(handle: &Handle, buffer: *const c_void, length: size_t, flags: c_int) -> Result<Outcome> {
    let vector = [iovec { iov_base: buffer.cast_mut(), iov_len: length }];
    match Pieces::from_slice(&vector) {
        Ok(pieces) => stream_io::send(handle, pieces, flags),
        Err(errno) => Err(errno),
    }
}

/// # Safety
/// `message` must be null or a valid message header.
#[allow(improper_ctypes_definitions)]
unsafe extern "C-unwind" fn receive_message(handle: &Handle, message: *mut msghdr, flags: c_int) -> Result<Outcome> {
    if message.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller vouches for the header and what it points to.
    let pieces = unsafe { Pieces::of_message(&*message) }?;
    let outcome = stream_io::receive(handle, pieces, flags);
    if let Ok(Outcome::Bytes(_)) = outcome {
        // SAFETY: as above. TCP names no sender and has no control messages.
        unsafe {
            (*message).msg_namelen = 0;
            (*message).msg_controllen = 0;
            (*message).msg_flags = flags & libc::MSG_OOB;
        }
    }
    outcome
}

/// # Safety
/// `message` must be null or a valid message header.
#[allow(improper_ctypes_definitions)]
unsafe extern "C-unwind" fn send_message(handle: &Handle, message: *const msghdr, flags: c_int) -> Result<Outcome> {
    if message.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: the caller vouches for the header and what it points to.
    match unsafe { Pieces::of_message(&*message) } {
        Ok(pieces) => stream_io::send(handle, pieces, flags),
        Err(errno) => Err(errno),
    }
}

fn nanoseconds(time: &timespec) -> u64 {
    (time.tv_sec.max(0) as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.max(0) as u64)
}

const _: () = assert!(size_of::<ssize_t>() == size_of::<usize>());
