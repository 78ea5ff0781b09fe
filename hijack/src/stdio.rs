//! stdio on sockets. libc's streams read and write behind our back, by names that cannot be interposed, so a socket that
//! becomes a stream goes into relay first.

use core::ffi::{c_char, c_int, c_void};

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

    fn vdprintf(fd: c_int, format: *const c_char, arguments: *mut c_void) -> c_int {
        match relay::enter_if_ours(fd) {
            Ok(()) => real::vdprintf(fd, format, arguments),
            Err(errno) => answer::<c_int>(Err(errno)),
        }
    }

    fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, arguments: *mut c_void) -> c_int {
        match relay::enter_if_ours(fd) {
            Ok(()) => real::__vdprintf_chk(fd, flag, format, arguments),
            Err(errno) => answer::<c_int>(Err(errno)),
        }
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
            Entry::Internal => {}
            entry => descriptors::release(fd, entry),
        }
    }
}

/// dprintf takes any number of arguments, so its entry point leaves them as they are: it saves the registers, has the
/// socket relayed, and goes on in libc's function.
#[cfg(target_arch = "x86_64")]
mod formatted {
    use core::arch::naked_asm;
    use core::ffi::{CStr, c_int};
    use core::sync::atomic::{AtomicUsize, Ordering};

    use crate::{real, relay};

    macro_rules! entry {
        ($name:ident, $find:ident, $text:ident) => {
            /// # Safety
            /// As the function of libc with this name.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub unsafe extern "C" fn $name() {
                // Six integer registers, the number of vector registers in use, and those eight.
                naked_asm!(
                    "push rdi",
                    "push rsi",
                    "push rdx",
                    "push rcx",
                    "push r8",
                    "push r9",
                    "push rax",
                    "sub rsp, 128",
                    "movups [rsp], xmm0",
                    "movups [rsp + 16], xmm1",
                    "movups [rsp + 32], xmm2",
                    "movups [rsp + 48], xmm3",
                    "movups [rsp + 64], xmm4",
                    "movups [rsp + 80], xmm5",
                    "movups [rsp + 96], xmm6",
                    "movups [rsp + 112], xmm7",
                    "call {find}",
                    "mov r11, rax",
                    "movups xmm0, [rsp]",
                    "movups xmm1, [rsp + 16]",
                    "movups xmm2, [rsp + 32]",
                    "movups xmm3, [rsp + 48]",
                    "movups xmm4, [rsp + 64]",
                    "movups xmm5, [rsp + 80]",
                    "movups xmm6, [rsp + 96]",
                    "movups xmm7, [rsp + 112]",
                    "add rsp, 128",
                    "pop rax",
                    "pop r9",
                    "pop r8",
                    "pop rcx",
                    "pop rdx",
                    "pop rsi",
                    "pop rdi",
                    "jmp r11",
                    find = sym $find,
                )
            }

            /// Relays the socket and says where libc's function is.
            extern "C" fn $find(fd: c_int) -> usize {
                static NEXT: AtomicUsize = AtomicUsize::new(0);
                // A connection that cannot be relayed has lost its engine, and the write will fail by itself.
                let _ = relay::enter_if_ours(fd);
                match NEXT.load(Ordering::Relaxed) {
                    0 => real::resolve($text, &NEXT),
                    known => known,
                }
            }
        };
    }

    const DPRINTF: &CStr = c"dprintf";
    const DPRINTF_CHK: &CStr = c"__dprintf_chk";
    entry!(dprintf, find_dprintf, DPRINTF);
    entry!(__dprintf_chk, find_dprintf_chk, DPRINTF_CHK);
}
