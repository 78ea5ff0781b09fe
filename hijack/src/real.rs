//! The functions of libc behind the names we interpose, found by dlsym(RTLD_NEXT) when first needed.
//!
//! Whatever is not ours goes through here untouched, so that cancellation points, errno and whatever another preloaded
//! library does stay as they were. The variadic `fcntl` and `ioctl` are called with one word-sized argument, which the
//! ABIs of Linux pass in the same register whether it is declared or not.

use core::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{
    FILE, epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, off_t, pid_t, pollfd, sigset_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec, timeval,
};

/// Looks a name up behind this library; a libc that lacks it makes the call fail with ENOSYS.
#[cold]
pub fn resolve(name: &CStr, cell: &AtomicUsize) -> usize {
    let errno = crate::sys::errno();
    // SAFETY: name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    crate::sys::set_errno(errno);
    cell.store(found, Ordering::Relaxed);
    found
}

/// The type of a function of libc. A cancelled thread unwinds through our frames on the way out of a blocking call.
/// Where panics unwind, the ABI says so. Where they abort, the compiler would meet that with an abort of its own; a
/// plain C call leaves no landing pad in our frames, and the unwinder passes through them.
#[cfg(panic = "unwind")]
macro_rules! Function {
    ($($kind:ty),* ; $result:ty) => { unsafe extern "C-unwind" fn($($kind),*) -> $result };
}
#[cfg(panic = "abort")]
macro_rules! Function {
    ($($kind:ty),* ; $result:ty) => { unsafe extern "C" fn($($kind),*) -> $result };
}

pub(crate) use Function;

macro_rules! functions {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty, $missing:expr;)*) => {
        $(
            /// # Safety
            /// As the function of libc with this name.
            #[inline(always)]
            #[allow(non_snake_case)]
            pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
                static NEXT: AtomicUsize = AtomicUsize::new(0);
                let mut next = NEXT.load(Ordering::Relaxed);
                if next == 0 {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a function name holds no NUL"),
                    };
                    next = resolve(NAME, &NEXT);
                    if next == 0 {
                        crate::sys::set_errno(libc::ENOSYS);
                        return $missing;
                    }
                }
                // SAFETY: dlsym gave the address of the function with this name, whose C signature this is.
                let function = unsafe { core::mem::transmute::<usize, Function!($($kind),* ; $result)>(next) };
                // SAFETY: passed on to the caller.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

functions! {
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int, -1;
    bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int, -1;
    listen(fd: c_int, backlog: c_int) -> c_int, -1;
    accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, -1;
    accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int, -1;
    connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int, -1;
    shutdown(fd: c_int, how: c_int) -> c_int, -1;
    getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, -1;
    getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, -1;
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int, -1;
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int, -1;
    read(fd: c_int, buffer: *mut c_void, length: size_t) -> ssize_t, -1;
    write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t, -1;
    readv(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t, -1;
    writev(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t, -1;
    recv(fd: c_int, buffer: *mut c_void, length: size_t, flags: c_int) -> ssize_t, -1;
    send(fd: c_int, buffer: *const c_void, length: size_t, flags: c_int) -> ssize_t, -1;
    recvfrom(fd: c_int, buffer: *mut c_void, length: size_t, flags: c_int, address: *mut sockaddr,
             address_length: *mut socklen_t) -> ssize_t, -1;
    sendto(fd: c_int, buffer: *const c_void, length: size_t, flags: c_int, address: *const sockaddr,
           address_length: socklen_t) -> ssize_t, -1;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, -1;
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t, -1;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int, -1;
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, -1;
    sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t, -1;
    splice(from: c_int, from_offset: *mut libc::loff_t, to: c_int, to_offset: *mut libc::loff_t, count: size_t,
           flags: c_uint) -> ssize_t, -1;
    __read_chk(fd: c_int, buffer: *mut c_void, length: size_t, room: size_t) -> ssize_t, -1;
    __recv_chk(fd: c_int, buffer: *mut c_void, length: size_t, room: size_t, flags: c_int) -> ssize_t, -1;
    __recvfrom_chk(fd: c_int, buffer: *mut c_void, length: size_t, room: size_t, flags: c_int, address: *mut sockaddr,
                   address_length: *mut socklen_t) -> ssize_t, -1;
    close(fd: c_int) -> c_int, -1;
    dup(fd: c_int) -> c_int, -1;
    dup2(from: c_int, to: c_int) -> c_int, -1;
    dup3(from: c_int, to: c_int, flags: c_int) -> c_int, -1;
    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int, -1;
    ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int, -1;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int, -1;
    poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int, -1;
    ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int, -1;
    __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int, -1;
    __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: size_t)
        -> c_int, -1;
    select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval)
        -> c_int, -1;
    pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
            mask: *const sigset_t) -> c_int, -1;
    epoll_ctl(epfd: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int, -1;
    epoll_wait(epfd: c_int, events: *mut epoll_event, room: c_int, timeout: c_int) -> c_int, -1;
    epoll_pwait(epfd: c_int, events: *mut epoll_event, room: c_int, timeout: c_int, mask: *const sigset_t)
        -> c_int, -1;
    epoll_pwait2(epfd: c_int, events: *mut epoll_event, room: c_int, timeout: *const timespec, mask: *const sigset_t)
        -> c_int, -1;
    fork() -> pid_t, -1;
    _Fork() -> pid_t, -1;
    execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int, -1;
    execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int, -1;
    fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int, -1;
    posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
                argv: *const *const c_char, envp: *const *const c_char) -> c_int, libc::ENOSYS;
    posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
                 argv: *const *const c_char, envp: *const *const c_char) -> c_int, libc::ENOSYS;
    posix_spawn_file_actions_adddup2(actions: *mut c_void, from: c_int, to: c_int) -> c_int, libc::ENOSYS;
    fdopen(fd: c_int, mode: *const c_char) -> *mut FILE, core::ptr::null_mut();
    vdprintf(fd: c_int, format: *const c_char, arguments: *mut c_void) -> c_int, -1;
    __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, arguments: *mut c_void) -> c_int, -1;
    fclose(file: *mut FILE) -> c_int, -1;
    freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE, core::ptr::null_mut();
    freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE, core::ptr::null_mut();
    daemon(keep_directory: c_int, keep_streams: c_int) -> c_int, -1;
    sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int, -1;
    sockatmark(fd: c_int) -> c_int, -1;
    isfdtype(fd: c_int, kind: c_int) -> c_int, -1;
}
