//! exec and posix_spawn: what becomes of our sockets in a new image.
//!
//! A descriptor with close-on-exec is none of the new image's business. Another one carries a connection into a program
//! that may know nothing of us, so the connection goes into relay first: the new image, with the library or without,
//! then finds a kernel stream with the right bytes under that number.

use core::ffi::{c_char, c_int, c_void};

use crate::export::export;
use crate::handle::Handle;
use crate::sys;
use crate::table::{self, Entry};
use crate::{real, relay};

unsafe extern "C" {
    static environ: *const *const c_char;
}

type Strings = *const *const c_char;

export! {
    fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
        before_exec();
        real::execve(path, argv, envp)
    }

    fn execv(path: *const c_char, argv: Strings) -> c_int {
        execve(path, argv, environ)
    }

    fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
        before_exec();
        real::execvpe(file, argv, envp)
    }

    fn execvp(file: *const c_char, argv: Strings) -> c_int {
        execvpe(file, argv, environ)
    }

    fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
        before_exec();
        real::fexecve(fd, argv, envp)
    }

    fn posix_spawn_file_actions_adddup2(actions: *mut c_void, from: c_int, to: c_int) -> c_int {
        // The copy has no close-on-exec: a connection that is given away like this goes to a stranger.
        if let Err(errno) = relay::enter_if_ours(from) {
            return errno.0;
        }
        real::posix_spawn_file_actions_adddup2(actions, from, to)
    }
}

/// Relays the connections that the new image will find open.
fn before_exec() {
    for (fd, entry) in table::entries() {
        if !matches!(entry, Entry::Socket(_)) {
            continue;
        }
        let stays = sys::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0);
        if stays && let Some(handle) = Handle::of(fd) {
            // A connection whose engine is gone has nothing to relay.
            let _ = relay::enter(&handle);
        }
    }
}

/// execl, execlp and execle take their arguments one by one. The entry points below put the registers that hold
/// arguments next to where the others lie, and the strings are then gathered into an array.
#[cfg(target_arch = "x86_64")]
mod listed {
    use core::arch::naked_asm;
    use core::ffi::{c_char, c_int};

    use super::{Strings, environ, execve, execvp};
    use crate::sys::{self, Errno, answer};

    /// Registers that hold arguments after the path.
    const REGISTERS: usize = 5;

    macro_rules! entry {
        ($name:ident, $gather:ident) => {
            /// # Safety
            /// As the function of libc with this name.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub unsafe extern "C" fn $name(path: *const c_char, first: *const c_char) -> c_int {
                // After the five pushes, which also align the stack, its own arguments lie behind the return address.
                naked_asm!(
                    "push r9",
                    "push r8",
                    "push rcx",
                    "push rdx",
                    "push rsi",
                    "mov rsi, rsp",
                    "lea rdx, [rsp + 48]",
                    "call {gather}",
                    "add rsp, 40",
                    "ret",
                    gather = sym $gather,
                )
            }
        };
    }

    entry!(execl, gather_execl);
    entry!(execlp, gather_execlp);
    entry!(execle, gather_execle);

    unsafe extern "C" fn gather_execl(path: *const c_char, registers: Strings, stack: Strings) -> c_int {
        // SAFETY: the entry point passes where the arguments lie; the list ends with a null pointer.
        unsafe { gather(registers, stack, |argv, _| execve(path, argv, environ)) }
    }

    unsafe extern "C" fn gather_execlp(file: *const c_char, registers: Strings, stack: Strings) -> c_int {
        // SAFETY: as above.
        unsafe { gather(registers, stack, |argv, _| execvp(file, argv)) }
    }

    unsafe extern "C" fn gather_execle(path: *const c_char, registers: Strings, stack: Strings) -> c_int {
        // SAFETY: as above; the environment follows the null pointer.
        unsafe { gather(registers, stack, |argv, after| execve(path, argv, after().cast())) }
    }

    /// Calls `exec` with the listed strings as an array and a way to the argument after their end.
    ///
    /// # Safety
    /// The lists hold strings up to a null pointer, and one argument more where `exec` uses it.
    unsafe fn gather(
        registers: Strings,
        stack: Strings,
        exec: impl FnOnce(Strings, &dyn Fn() -> *const c_char) -> c_int,
    ) -> c_int {
        let argument = |index: usize| {
            // SAFETY: the caller vouches for arguments up to the end that is looked for here.
            unsafe { if index < REGISTERS { *registers.add(index) } else { *stack.add(index - REGISTERS) } }
        };
        let mut count = 0;
        while !argument(count).is_null() {
            count += 1;
        }
        let Ok(memory) = sys::map_private((count + 1) * size_of::<*const c_char>()) else {
            return answer::<c_int>(Err(Errno(libc::ENOMEM)));
        };
        let argv = memory.cast::<*const c_char>();
        for index in 0..=count {
            // SAFETY: the mapping has room for `count + 1` pointers.
            unsafe { argv.add(index).write(argument(index)) };
        }
        let result = exec(argv, &|| argument(count + 1));
        // SAFETY: mapped above; exec has failed and nobody uses it.
        unsafe { sys::unmap(memory, (count + 1) * size_of::<*const c_char>()) };
        result
    }
}
