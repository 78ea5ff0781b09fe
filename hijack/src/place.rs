//! Where things are: the engine's socket in the file system, the library's own descriptors at high numbers, the
//! program's name.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::attach::mark_internal;
use crate::table::{self, DESCRIPTORS, Entry};
use crate::{environment, sys};

const DEFAULT_RUN_DIR: &[u8] = b"/run/persona";
const DEFAULT_NAME: &[u8] = b"default";

/// The path by which this image, or the one it was forked from, first reached an engine: eight bytes a word, all zero as
/// long as there is none.
static REACHED: [AtomicU64; 14] = [const { AtomicU64::new(0) }; 14];

/// Address of the session socket of the engine that PERSONA_NAME and PERSONA_RUN_DIR name. A program that only has
/// LKL_HIJACK_CONFIG_FILE set meets the engine with the default name. Once an engine was reached its successors are
/// looked for at the same place: servers like nginx clear the environment of their workers. None: the path does not
/// fit an address.
pub fn session_socket() -> Option<libc::sockaddr_un> {
    match REACHED[0].load(Ordering::Acquire) {
        0 => by_environment(),
        _ => Some(reached()),
    }
}

/// Keeps the address of an engine that answered.
pub fn keep_session_socket(address: &libc::sockaddr_un) {
    // The first word says that the others are there.
    for (index, cell) in REACHED.iter().enumerate().rev() {
        let mut word = [0; 8];
        for (byte, from) in word.iter_mut().zip(address.sun_path.iter().skip(index * 8)) {
            *byte = *from as u8;
        }
        cell.store(u64::from_ne_bytes(word), Ordering::Release);
    }
}

fn reached() -> libc::sockaddr_un {
    // SAFETY: all zero is a valid address record.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = REACHED.iter().flat_map(|cell| cell.load(Ordering::Acquire).to_ne_bytes());
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte as _;
    }
    address
}

fn by_environment() -> Option<libc::sockaddr_un> {
    let (mut directory, mut name) = ([0; 108], [0; 108]);
    let directory = environment::ours(c"PERSONA_RUN_DIR", &mut directory).filter(|value| !value.is_empty());
    let name = environment::ours(c"PERSONA_NAME", &mut name).filter(|value| !value.is_empty());
    // SAFETY: all zero is a valid address record.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let mut free = address.sun_path.iter_mut();
    let parts = [directory.unwrap_or(DEFAULT_RUN_DIR), b"/", name.unwrap_or(DEFAULT_NAME), b"/session.sock\0"];
    for byte in parts.into_iter().flatten() {
        *free.next()? = *byte as _;
    }
    Some(address)
}

/// Moves a descriptor of ours to a high number, close-on-exec, and enters it as internal. When no high number is free
/// it stays where it is.
pub fn keep(fd: c_int) -> c_int {
    let fd = match sys::duplicate_above(fd, lowest(), true) {
        Ok(high) => {
            let _ = sys::close(fd);
            high
        }
        Err(_) => {
            let _ = sys::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC as usize);
            fd
        }
    };
    mark_internal(fd);
    fd
}

/// Another descriptor of ours for the same file.
pub fn copy(fd: c_int) -> sys::Result<c_int> {
    let fresh = sys::duplicate_above(fd, lowest(), true)?;
    mark_internal(fresh);
    Ok(fresh)
}

/// Closes a descriptor of ours.
pub fn drop(fd: c_int) {
    if table::forget(fd, Entry::Internal) {
        let _ = sys::close(fd);
    }
}

/// Our numbers end about here, whatever the limit.
const HIGHEST: u64 = 32 * 1024;
const _: () = assert!(HIGHEST < DESCRIPTORS as u64);

/// Our numbers begin here: well above what an application that counts from 0 reaches, below its limit.
fn lowest() -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let arguments = [0, libc::RLIMIT_NOFILE as usize, 0, &raw mut limit as usize, 0, 0];
    // SAFETY: prlimit64 writes one rlimit record.
    if unsafe { sys::call(libc::SYS_prlimit64, arguments) }.is_err() {
        return 0;
    }
    // Not higher than need be: the kernel's table of a process is as long as its highest number, and so is ours.
    let soft = limit.rlim_cur.min(HIGHEST);
    // Half a kilobyte of numbers is more than pools, doorbells and eventfds of several sessions need.
    (if soft > 2048 { soft - 512 } else { soft / 4 * 3 }) as c_int
}

/// The calling program's name, as `ps` shows it.
pub fn program(name: &mut [u8; 64]) -> &[u8] {
    const COMM: &[u8] = b"/proc/self/comm\0";
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let arguments = [libc::AT_FDCWD as usize, COMM.as_ptr() as usize, flags as usize, 0, 0, 0];
    // SAFETY: the path is NUL-terminated.
    let Ok(fd) = (unsafe { sys::call(libc::SYS_openat, arguments) }) else { return b"" };
    // SAFETY: the buffer is as long as said.
    let read = unsafe { sys::call(libc::SYS_read, [fd, name.as_mut_ptr() as usize, name.len(), 0, 0, 0]) };
    let _ = sys::close(fd as c_int);
    let name = &name[..read.unwrap_or(0)];
    name.strip_suffix(b"\n").unwrap_or(name)
}

/// The path of the program's file; empty where it cannot be had whole.
pub fn executable(path: &mut [u8]) -> &[u8] {
    const EXE: &[u8] = b"/proc/self/exe\0";
    let arguments = [libc::AT_FDCWD as usize, EXE.as_ptr() as usize, path.as_mut_ptr() as usize, path.len(), 0, 0];
    // SAFETY: the path is NUL-terminated, and the buffer as long as said.
    let read = unsafe { sys::call(libc::SYS_readlinkat, arguments) }.unwrap_or(0);
    // A full buffer may hold half of it.
    if read < path.len() { &path[..read] } else { b"" }
}
