//! getsockopt and setsockopt: what concerns blocking is kept in the socket's own lines, what concerns the connection is
//! the engine's; and what was set before connect() or bind() is remembered, in case the socket turns out to be the
//! host's.

use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{socklen_t, timeval};
use persona_channel::layout::{REPLY_SIZE, SOCKETS, op, state_bits};

use crate::address::Address;
use crate::attach::SESSIONS;
use crate::export::export;
use crate::handle::{Handle, private_flags};
use crate::sys::{self, Errno, Result, answer};
use crate::{command, real, relay};

/// Bytes of a value that a command can carry.
const LONGEST_VALUE: usize = 24;

/// The timeouts' names since Linux 5.1, whose form is the same where a time_t has 64 bits.
const SO_RCVTIMEO_NEW: c_int = 66;
const SO_SNDTIMEO_NEW: c_int = 67;

export! {
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::setsockopt(fd, level, name, value, length);
        };
        if length > c_int::MAX as socklen_t {
            return answer::<()>(Err(Errno(libc::EINVAL)));
        }
        if value.is_null() && length > 0 {
            return answer::<()>(Err(Errno(libc::EFAULT)));
        }
        let value: &[u8] = if length == 0 { &[] } else { slice::from_raw_parts(value.cast(), length as usize) };
        answer(set(&handle, level, name, value))
    }

    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int {
        let Some(handle) = Handle::of(fd) else {
            return real::getsockopt(fd, level, name, value, length);
        };
        if value.is_null() || length.is_null() {
            return answer::<()>(Err(Errno(libc::EFAULT)));
        }
        let is_known = matches!(level, libc::SOL_SOCKET | libc::IPPROTO_TCP | libc::IPPROTO_IP);
        if is_known && *length > c_int::MAX as socklen_t {
            return answer::<()>(Err(Errno(libc::EINVAL)));
        }
        let mut bytes = [0; REPLY_SIZE];
        match get(&handle, level, name, (*length as usize).min(REPLY_SIZE), &mut bytes) {
            Ok(found) => {
                let found = found.min(*length as usize);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), found);
                *length = found as socklen_t;
                0
            }
            Err(errno) => answer::<()>(Err(errno)),
        }
    }
}

pub fn set(handle: &Handle, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
    let cursor = handle.socket.cursor;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            cursor.receive_timeout.store(milliseconds(value)?, Ordering::Release);
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            cursor.send_timeout.store(milliseconds(value)?, Ordering::Release);
        }
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => {
            let low = integer(value)?;
            cursor.receive_low.store(if low < 0 { i32::MAX as u32 } else { low as u32 }, Ordering::Release);
        }
        (libc::SOL_SOCKET, libc::SO_OOBINLINE) => {
            handle.set_flag(private_flags::INLINE_URGENT, integer(value)? != 0);
        }
        _ if is_switch(level, name) => {
            // Cannot fail, so nobody has to wait for the answer.
            integer(value)?;
            command::post(handle, op::SET_OPTION, &arguments(level, name, value))?;
        }
        _ => {
            // What does not fit is beyond any value that is taken, as Linux looks at no more than it needs.
            command::ask(handle, op::SET_OPTION, &arguments(level, name, value), &mut [])?;
        }
    }
    if level == libc::SOL_SOCKET {
        // From now on it is what the application wants.
        handle.set_flag(lent(name), false);
    }
    if handle.is_relayed() && level == libc::SOL_SOCKET && is_timeout(name) {
        relay::set_timeouts(handle);
    }
    if handle.bits() & (state_bits::CONNECTED | state_bits::LISTENING) == 0 {
        remember(handle, level, name, value);
    }
    Ok(())
}

fn is_timeout(name: c_int) -> bool {
    matches!(name, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW)
}

/// The flag that says of an option of SOL_SOCKET that only a listener's return has set it.
fn lent(name: c_int) -> u32 {
    match name {
        libc::SO_REUSEADDR => private_flags::REUSE_ADDRESS_LENT,
        libc::SO_REUSEPORT => private_flags::REUSE_PORT_LENT,
        _ => 0,
    }
}

/// Options that any integer sets, whatever state the socket is in.
fn is_switch(level: c_int, name: c_int) -> bool {
    matches!(
        (level, name),
        (libc::SOL_SOCKET, libc::SO_REUSEADDR | libc::SO_KEEPALIVE)
            | (libc::IPPROTO_TCP, libc::TCP_NODELAY | libc::TCP_CORK | libc::TCP_QUICKACK)
    )
}

fn arguments(level: c_int, name: c_int, value: &[u8]) -> [u64; 6] {
    let mut bytes = [0; LONGEST_VALUE];
    let length = value.len().min(LONGEST_VALUE);
    bytes[..length].copy_from_slice(&value[..length]);
    let word = |index: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_ne_bytes(word)
    };
    [level as u64, name as u64, length as u64, word(0), word(1), word(2)]
}

/// Fills `bytes` and returns the value's length.
fn get(handle: &Handle, level: c_int, name: c_int, room: usize, bytes: &mut [u8; REPLY_SIZE]) -> Result<usize> {
    let cursor = handle.socket.cursor;
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_INET,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => c_int::from(handle.has(state_bits::LISTENING)),
        (libc::SOL_SOCKET, libc::SO_ERROR) => handle.take_error().map_or(0, |Errno(errno)| errno),
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => cursor.receive_low.load(Ordering::Acquire).max(1) as c_int,
        (libc::SOL_SOCKET, libc::SO_OOBINLINE) => c_int::from(handle.has_inline_urgent()),
        (libc::SOL_SOCKET, _) if handle.flags() & lent(name) != 0 => 0,
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            return put_time(bytes, cursor.receive_timeout.load(Ordering::Acquire));
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            return put_time(bytes, cursor.send_timeout.load(Ordering::Acquire));
        }
        (libc::IPPROTO_IP, _) => {
            let length = ask_for(handle, level, name, room.max(size_of::<c_int>()), bytes)?;
            // As ip(7): a number that fits a byte, in room that is too small for an int, is a byte.
            let is_byte = bytes[..size_of::<c_int>()] == [bytes[0], 0, 0, 0]
                && cfg!(target_endian = "little")
                && name != libc::IP_MULTICAST_IF;
            return Ok(if room < size_of::<c_int>() && is_byte { length.min(room).min(1) } else { length.min(room) });
        }
        (libc::SOL_SOCKET | libc::IPPROTO_TCP, _) => return ask_for(handle, level, name, room, bytes),
        _ => return Err(Errno(libc::EOPNOTSUPP)),
    };
    bytes[..size_of::<c_int>()].copy_from_slice(&number.to_ne_bytes());
    Ok(size_of::<c_int>())
}

fn ask_for(handle: &Handle, level: c_int, name: c_int, room: usize, bytes: &mut [u8; REPLY_SIZE]) -> Result<usize> {
    let words = [level as u64, name as u64, room as u64];
    let length = command::ask(handle, op::GET_OPTION, &words, bytes)?;
    Ok((length as usize).min(room))
}

fn put_time(bytes: &mut [u8; REPLY_SIZE], milliseconds: u32) -> Result<usize> {
    let seconds = i64::from(milliseconds / 1000);
    let microseconds = i64::from(milliseconds % 1000 * 1000);
    bytes[..8].copy_from_slice(&seconds.to_ne_bytes());
    bytes[8..16].copy_from_slice(&microseconds.to_ne_bytes());
    Ok(size_of::<timeval>())
}

fn integer(value: &[u8]) -> Result<c_int> {
    value.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes)).ok_or(Errno(libc::EINVAL))
}

/// A timeval as milliseconds, rounded up; 0 is no timeout.
fn milliseconds(value: &[u8]) -> Result<u32> {
    if value.len() < size_of::<timeval>() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: as long as a timeval, which is valid for any bytes.
    let time = unsafe { value.as_ptr().cast::<timeval>().read_unaligned() };
    if !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno(libc::EDOM));
    }
    if time.tv_sec < 0 {
        // The kernel takes a negative time as "do not wait"; a millisecond is as short as we wait.
        return Ok(1);
    }
    let total = (time.tv_sec as u64).saturating_mul(1000).saturating_add((time.tv_usec as u64).div_ceil(1000));
    // What does not fit is "for ever", as for the kernel.
    Ok(u32::try_from(total).unwrap_or(0))
}

/// Options of one socket that are remembered.
const REMEMBERED: usize = 12;

/// One remembered option: level, name and length packed, plus the value. `key` 0 is free.
struct Remembered {
    key: AtomicU64,
    value: [AtomicU64; 3],
}

impl Remembered {
    const fn free() -> Self {
        Remembered { key: AtomicU64::new(0), value: [const { AtomicU64::new(0) }; 3] }
    }
}

struct Memory {
    generation: AtomicU32,
    /// Backlog of a listener, and 1 in the highest bit; 0: it does not listen.
    backlog: AtomicU32,
    /// Its address: the octets above the port.
    address: AtomicU64,
    /// When it may next try to listen again.
    next_attempt: AtomicU64,
    options: [Remembered; REMEMBERED],
}

/// Lazily committed like the descriptor table.
static MEMORIES: [[Memory; SOCKETS]; SESSIONS] = [const { [const { Memory::new() }; SOCKETS] }; SESSIONS];

impl Memory {
    const fn new() -> Self {
        Memory {
            generation: AtomicU32::new(0),
            backlog: AtomicU32::new(0),
            address: AtomicU64::new(0),
            next_attempt: AtomicU64::new(0),
            options: [const { Remembered::free() }; REMEMBERED],
        }
    }
}

fn memory(handle: &Handle) -> &'static Memory {
    &MEMORIES[handle.id.session as usize % SESSIONS][handle.id.slot as usize % SOCKETS]
}

/// Begins the memory of a fresh socket.
pub fn forget(handle: &Handle) {
    let memory = memory(handle);
    if memory.options[0].key.load(Ordering::Relaxed) != 0 {
        for option in &memory.options {
            option.key.store(0, Ordering::Relaxed);
        }
    }
    memory.backlog.store(0, Ordering::Relaxed);
    memory.next_attempt.store(0, Ordering::Relaxed);
    memory.generation.store(handle.id.generation, Ordering::Release);
}

/// Forgets the listeners of a session whose place another one takes.
pub fn forget_session(session: u8) {
    for memory in &MEMORIES[session as usize % SESSIONS] {
        if memory.backlog.load(Ordering::Relaxed) != 0 {
            memory.backlog.store(0, Ordering::Relaxed);
        }
    }
}

const LISTENS: u32 = 1 << 31;

/// Notes where a socket listens.
pub fn remember_station(handle: &Handle, address: Address, backlog: u32) {
    let memory = memory(handle);
    if memory.generation.load(Ordering::Acquire) != handle.id.generation {
        // Inherited by this image: its options are not known, its address is from now on.
        forget(handle);
    }
    let octets = u64::from(u32::from_be_bytes(address.octets));
    memory.address.store(octets << 16 | u64::from(address.port), Ordering::Relaxed);
    memory.backlog.store(backlog | LISTENS, Ordering::Release);
}

/// The socket listens no more, by the application's own will.
pub fn forget_station(handle: &Handle) {
    memory(handle).backlog.store(0, Ordering::Release);
}

/// Address and backlog of a socket that this image has seen listen.
pub fn station(handle: &Handle) -> Option<(Address, u32)> {
    let memory = memory(handle);
    let backlog = memory.backlog.load(Ordering::Acquire);
    if backlog & LISTENS == 0 || memory.generation.load(Ordering::Acquire) != handle.id.generation {
        return None;
    }
    let address = memory.address.load(Ordering::Relaxed);
    let octets = ((address >> 16) as u32).to_be_bytes();
    Some((Address { octets, port: address as u16 }, backlog & !LISTENS))
}

/// When an orphan may next try to listen again, a moment of CLOCK_MONOTONIC.
pub fn next_attempt(handle: &Handle) -> &'static AtomicU64 {
    &memory(handle).next_attempt
}

fn key(level: c_int, name: c_int, length: usize) -> u64 {
    1 << 63 | (level as u64 & 0xffff) << 40 | (name as u64 & 0xffff) << 16 | length as u64
}

fn remember(handle: &Handle, level: c_int, name: c_int, value: &[u8]) {
    let memory = memory(handle);
    if value.len() > LONGEST_VALUE || memory.generation.load(Ordering::Acquire) != handle.id.generation {
        return;
    }
    let same = |key: u64| key >> 16 == self::key(level, name, 0) >> 16;
    let place = memory.options.iter().find(|option| {
        let key = option.key.load(Ordering::Relaxed);
        key == 0 || same(key)
    });
    let Some(place) = place else {
        crate::report::note(format_args!(
            "more than {REMEMBERED} options before connect(): option {name} would not follow the socket to the host"
        ));
        return;
    };
    for (cell, word) in place.value.iter().zip(&arguments(level, name, value)[3..]) {
        cell.store(*word, Ordering::Relaxed);
    }
    place.key.store(key(level, name, value.len()), Ordering::Release);
}

/// Sets on a socket of the kernel what was set on one of ours. An option that the kernel refuses was refused by the
/// engine as well, or has no meaning there.
pub fn replay(handle: &Handle, kernel: c_int) {
    for_each_remembered(handle, |level, name, value| {
        // SAFETY: the value is as long as said.
        let _ = unsafe { sys::setsockopt(kernel, level, name, value.as_ptr().cast::<c_void>(), value.len() as u32) };
    });
}

/// Sets on one socket of ours what was set on another. What a new engine refuses stays at its default.
pub fn repeat(from: &Handle, to: &Handle) {
    for_each_remembered(from, |level, name, value| {
        let _ = set(to, level, name, value);
    });
}

/// True if the application has switched an option on before the socket listened.
pub fn is_remembered_on(handle: &Handle, wanted_level: c_int, wanted_name: c_int) -> bool {
    let mut on = false;
    for_each_remembered(handle, |level, name, value| {
        if (level, name) == (wanted_level, wanted_name) {
            on = integer(value).is_ok_and(|number| number != 0);
        }
    });
    on
}

fn for_each_remembered(handle: &Handle, mut act: impl FnMut(c_int, c_int, &[u8])) {
    let memory = memory(handle);
    if memory.generation.load(Ordering::Acquire) != handle.id.generation {
        return;
    }
    for option in &memory.options {
        let key = option.key.load(Ordering::Acquire);
        if key == 0 {
            continue;
        }
        let mut value = [0; LONGEST_VALUE];
        for (bytes, word) in value.chunks_exact_mut(8).zip(&option.value) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let (level, name, length) = (key >> 40 & 0xffff, key >> 16 & 0xffff, (key & 0xffff) as usize);
        act(level as c_int, name as c_int, &value[..length.min(LONGEST_VALUE)]);
    }
}
