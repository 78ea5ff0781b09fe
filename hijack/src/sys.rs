//! System calls made directly, for the library's own business: they change no errno, are no cancellation points, and
//! cannot recurse into the interposed names. Each returns the kernel's result or an [`Errno`].

use core::ffi::{c_int, c_void};

/// An errno value, always positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub c_int);

pub type Result<T> = core::result::Result<T, Errno>;

/// What an interposed function returns for `result`: its value, or -1 with errno set.
pub fn answer<T: Answer>(result: Result<T>) -> T::C {
    match result {
        Ok(value) => value.into_c(),
        Err(Errno(errno)) => {
            set_errno(errno);
            T::FAILED
        }
    }
}

pub trait Answer {
    type C;
    const FAILED: Self::C;
    fn into_c(self) -> Self::C;
}

impl Answer for c_int {
    type C = c_int;
    const FAILED: c_int = -1;
    fn into_c(self) -> c_int {
        self
    }
}

impl Answer for () {
    type C = c_int;
    const FAILED: c_int = -1;
    fn into_c(self) -> c_int {
        0
    }
}

impl Answer for usize {
    type C = isize;
    const FAILED: isize = -1;
    fn into_c(self) -> isize {
        self as isize
    }
}

pub fn errno() -> c_int {
    // SAFETY: the address is this thread's errno, valid for the thread's life.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(value: c_int) {
    // SAFETY: as in errno().
    unsafe { *libc::__errno_location() = value }
}

/// # Safety
/// The arguments must be what the system call `number` demands.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn raw(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// # Safety
/// The arguments must be what the system call `number` demands.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn raw(number: libc::c_long, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") arguments[0] as isize => result,
            in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3],
            in("x4") arguments[4], in("x5") arguments[5],
            options(nostack)
        );
    }
    result
}

/// # Safety
/// As [`raw`].
#[inline]
pub unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize> {
    // SAFETY: passed on to the caller.
    let result = unsafe { raw(number, arguments) };
    if (-4095..0).contains(&result) { Err(Errno(-result as c_int)) } else { Ok(result as usize) }
}

pub fn close(fd: c_int) -> Result<()> {
    // SAFETY: closing a number touches no memory.
    unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// The lowest free number that is at least `minimum`, close-on-exec or not.
pub fn duplicate_above(fd: c_int, minimum: c_int, cloexec: bool) -> Result<c_int> {
    let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    fcntl(fd, command, minimum as usize)
}

/// `fcntl` for commands whose argument is a number.
pub fn fcntl(fd: c_int, command: c_int, argument: usize) -> Result<c_int> {
    // SAFETY: the callers here use commands without pointers.
    unsafe { call(libc::SYS_fcntl, [fd as usize, command as usize, argument, 0, 0, 0]) }.map(|value| value as c_int)
}

pub fn dup3(from: c_int, to: c_int, flags: c_int) -> Result<c_int> {
    // SAFETY: no memory is involved.
    unsafe { call(libc::SYS_dup3, [from as usize, to as usize, flags as usize, 0, 0, 0]) }.map(|value| value as c_int)
}

pub fn getpid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { raw(libc::SYS_getpid, [0; 6]) as u32 }
}

pub fn gettid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { raw(libc::SYS_gettid, [0; 6]) as u32 }
}

pub fn sched_yield() {
    // SAFETY: no arguments.
    unsafe { raw(libc::SYS_sched_yield, [0; 6]) };
}

/// True unless the kernel says that no such thread (or process) exists.
pub fn is_alive(tid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { raw(libc::SYS_kill, [tid as usize, 0, 0, 0, 0, 0]) != -(libc::ESRCH as isize) }
}

/// Sends `signal` to the calling thread.
pub fn raise(signal: c_int) {
    // SAFETY: signals oneself, as raise() does.
    unsafe { raw(libc::SYS_tgkill, [getpid() as usize, gettid() as usize, signal as usize, 0, 0, 0]) };
}

pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int> {
    // SAFETY: no memory is involved.
    unsafe { call(libc::SYS_socket, [domain as usize, kind as usize, protocol as usize, 0, 0, 0]) }
        .map(|fd| fd as c_int)
}

/// # Safety
/// `address` must be readable for `length` bytes.
pub unsafe fn connect(fd: c_int, address: *const c_void, length: u32) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { call(libc::SYS_connect, [fd as usize, address as usize, length as usize, 0, 0, 0]) }.map(drop)
}

/// # Safety
/// `value` must be readable for `length` bytes.
pub unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> Result<()> {
    let arguments = [fd as usize, level as usize, name as usize, value as usize, length as usize, 0];
    // SAFETY: passed on to the caller.
    unsafe { call(libc::SYS_setsockopt, arguments) }.map(drop)
}

/// # Safety
/// `message` must be a valid message header.
pub unsafe fn sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> Result<usize> {
    // SAFETY: passed on to the caller.
    unsafe { call(libc::SYS_sendmsg, [fd as usize, message as usize, flags as usize, 0, 0, 0]) }
}

/// # Safety
/// `message` must be a valid message header whose buffers are writable.
pub unsafe fn recvmsg(fd: c_int, message: *mut libc::msghdr, flags: c_int) -> Result<usize> {
    // SAFETY: passed on to the caller.
    unsafe { call(libc::SYS_recvmsg, [fd as usize, message as usize, flags as usize, 0, 0, 0]) }
}

/// Takes what lies in a doorbell, without waiting. Ok(0) means that its other end is gone.
pub fn drain(fd: c_int) -> Result<usize> {
    let mut bytes = [0u8; 64];
    let arguments = [
        fd as usize,
        bytes.as_mut_ptr() as usize,
        bytes.len(),
        (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as usize,
        0,
        0,
    ];
    // SAFETY: the buffer is ours and as long as said.
    unsafe { call(libc::SYS_recvfrom, arguments) }
}

/// Takes what lies in a doorbell that was found readable, with a call that sandboxes leave to their inmates.
pub fn read(fd: c_int) -> Result<usize> {
    let mut bytes = [0u8; 64];
    // SAFETY: the buffer is ours and as long as said.
    unsafe { call(libc::SYS_read, [fd as usize, bytes.as_mut_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

pub fn write(fd: c_int, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the slice is readable for its length.
    unsafe { call(libc::SYS_write, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

/// Adds one to an eventfd.
pub fn ring(eventfd: c_int) {
    let _ = write(eventfd, &1u64.to_ne_bytes());
}

/// The inode number behind a descriptor.
pub fn inode(fd: c_int) -> Result<u64> {
    let mut found = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat writes one stat record, which `found` has room for.
    unsafe {
        call(libc::SYS_fstat, [fd as usize, found.as_mut_ptr() as usize, 0, 0, 0, 0])?;
        Ok(found.assume_init().st_ino)
    }
}

/// Private anonymous memory, zeroed and lazily committed.
pub fn map_private(length: usize) -> Result<*mut u8> {
    let arguments = [
        0,
        length,
        (libc::PROT_READ | libc::PROT_WRITE) as usize,
        (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize,
        usize::MAX,
        0,
    ];
    // SAFETY: a fresh mapping where the kernel chooses.
    unsafe { call(libc::SYS_mmap, arguments) }.map(|address| address as *mut u8)
}

/// The shared memory behind `fd`.
pub fn map_shared(fd: c_int, length: usize) -> Result<*mut u8> {
    let arguments =
        [0, length, (libc::PROT_READ | libc::PROT_WRITE) as usize, libc::MAP_SHARED as usize, fd as usize, 0];
    // SAFETY: a fresh mapping where the kernel chooses.
    unsafe { call(libc::SYS_mmap, arguments) }.map(|address| address as *mut u8)
}

/// # Safety
/// Nothing may use the mapping afterwards.
pub unsafe fn unmap(address: *mut u8, length: usize) {
    // SAFETY: passed on to the caller.
    unsafe { raw(libc::SYS_munmap, [address as usize, length, 0, 0, 0, 0]) };
}

/// # Safety
/// `address` and `length` must be page-aligned memory of ours that may receive the advice.
pub unsafe fn madvise(address: *mut u8, length: usize, advice: c_int) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { call(libc::SYS_madvise, [address as usize, length, advice as usize, 0, 0, 0]) }.map(drop)
}

pub fn eventfd(count: u32, flags: c_int) -> Result<c_int> {
    // SAFETY: no memory is involved.
    unsafe { call(libc::SYS_eventfd2, [count as usize, flags as usize, 0, 0, 0, 0]) }.map(|fd| fd as c_int)
}

pub fn epoll_ctl(epfd: c_int, operation: c_int, fd: c_int, events: u32, data: u64) -> Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    let arguments = [epfd as usize, operation as usize, fd as usize, &raw mut event as usize, 0, 0];
    // SAFETY: the event lives across the call.
    unsafe { call(libc::SYS_epoll_ctl, arguments) }.map(drop)
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes the record it is given (and is async-signal-safe).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
