//! Whether the library can enter a program: dynamically linked, of our architecture, and run with no more privileges
//! than its caller. A script is as good as its interpreter.

use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;

use crate::{environment, sys};

/// Bytes of a file that are looked at: the ELF header and its program headers lie in them, or it is unusual.
const HEAD: usize = 4096;
/// Longest path.
const LONGEST_PATH: usize = 4096;

/// A path in a buffer of its own.
pub struct Path {
    bytes: [u8; LONGEST_PATH],
}

impl Path {
    pub fn of(path: *const c_char) -> Option<Path> {
        if path.is_null() {
            return None;
        }
        // SAFETY: the caller of exec passes a NUL-terminated string.
        Path::joined(&[unsafe { CStr::from_ptr(path) }.to_bytes()])
    }

    fn joined(parts: &[&[u8]]) -> Option<Path> {
        let mut bytes = [0; LONGEST_PATH];
        let mut free = bytes.iter_mut();
        for byte in parts.iter().flat_map(|part| part.iter()) {
            *free.next()? = *byte;
        }
        // Room for the end.
        free.next()?;
        Some(Path { bytes })
    }

    /// What execvp() would run for `file`.
    pub fn found(file: *const c_char) -> Option<Path> {
        if file.is_null() {
            return None;
        }
        // SAFETY: as in `of`.
        let name = unsafe { CStr::from_ptr(file) }.to_bytes();
        if name.contains(&b'/') {
            return Path::of(file);
        }
        let mut buffer = [0; LONGEST_PATH];
        let directories = environment::current(c"PATH", &mut buffer).unwrap_or(b"/bin:/usr/bin");
        directories.split(|byte| *byte == b':').find_map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            Path::joined(&[directory, b"/", name]).filter(Path::is_executable)
        })
    }

    /// The program behind a descriptor.
    pub fn of_descriptor(fd: c_int) -> Option<Path> {
        let mut digits = [0; 10];
        let mut rest = u32::try_from(fd).ok()?;
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        Path::joined(&[b"/proc/self/fd/", &digits[start..]])
    }

    fn pointer(&self) -> usize {
        self.bytes.as_ptr() as usize
    }

    pub fn is_executable(&self) -> bool {
        let arguments = [libc::AT_FDCWD as usize, self.pointer(), libc::X_OK as usize, 0, 0, 0];
        // SAFETY: the path is NUL-terminated.
        unsafe { sys::call(libc::SYS_faccessat, arguments) }.is_ok()
    }

    /// True if a program started from this path would have the library in it, were it preloaded.
    pub fn is_enterable(&self) -> bool {
        self.is_enterable_by(1)
    }

    fn is_enterable_by(&self, interpreters: u32) -> bool {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let arguments = [libc::AT_FDCWD as usize, self.pointer(), flags as usize, 0, 0, 0];
        // SAFETY: the path is NUL-terminated.
        let Ok(fd) = (unsafe { sys::call(libc::SYS_openat, arguments) }) else { return false };
        let fd = fd as c_int;
        let mut head = [0; HEAD];
        let length = if is_privileged(fd) { 0 } else { read(fd, &mut head) };
        let _ = sys::close(fd);
        let head = &head[..length];
        match head.strip_prefix(b"#!") {
            Some(line) if interpreters > 0 => interpreter(line).is_some_and(|path| path.is_enterable_by(0)),
            Some(_) => false,
            None => is_dynamic(head),
        }
    }
}

fn read(fd: c_int, buffer: &mut [u8]) -> usize {
    let arguments = [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
    // SAFETY: the buffer is as long as said.
    unsafe { sys::call(libc::SYS_pread64, arguments) }.unwrap_or(0)
}

/// The kernel would run it as somebody else, and the loader then preloads nothing.
fn is_privileged(fd: c_int) -> bool {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat writes one record; the name of the attribute is NUL-terminated, and its value is only measured.
    unsafe {
        if sys::call(libc::SYS_fstat, [fd as usize, found.as_mut_ptr() as usize, 0, 0, 0, 0]).is_err() {
            return true;
        }
        let name = c"security.capability".as_ptr() as usize;
        let capable = sys::call(libc::SYS_fgetxattr, [fd as usize, name, 0, 0, 0, 0]).is_ok_and(|length| length > 0);
        capable || found.assume_init().st_mode & (libc::S_ISUID | libc::S_ISGID) != 0
    }
}

/// The program of a script's first line.
fn interpreter(line: &[u8]) -> Option<Path> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
    Path::joined(&[word])
}

/// An ELF file of our kind that names a loader.
fn is_dynamic(head: &[u8]) -> bool {
    const CLASS_64: u8 = 2;
    const PT_INTERP: u32 = 3;
    let half = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let word =
        |at: usize| head.get(at..at + 4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let machine = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    if !head.starts_with(b"\x7fELF") || head.get(4) != Some(&CLASS_64) || half(18) != Some(machine) {
        return false;
    }
    let (Some(start), Some(size), Some(count)) = (word(32), half(54), half(56)) else { return false };
    (0..usize::from(count)).any(|index| word(start as usize + index * usize::from(size)) == Some(PT_INTERP))
}
