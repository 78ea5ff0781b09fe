//! exec and posix_spawn: what becomes of our sockets in a new image.
//!
//! A descriptor with close-on-exec is none of the new image's business. The others go on as sockets of ours if the
//! library will be in the new image ([`inherit`]); otherwise the connections among them go into relay, and the new image
//! finds kernel streams with the right bytes under their numbers. A listener has nothing to relay: for its sake the
//! library is put back into an environment that dropped it (as programs that replace themselves do). A program that
//! cannot be entered gets a dead listener, which PERSONA_DEBUG tells.

use core::ffi::{c_char, c_int, c_void};

use crate::export::export;
use crate::image::Path;
use crate::inherit::{self, Environment, Strings};
use crate::{real, relay, report};

unsafe extern "C" {
    static environ: Strings;
}

export! {
    fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
        replacing(|| Path::of(path), envp, |envp| real::execve(path, argv, envp))
    }

    fn execv(path: *const c_char, argv: Strings) -> c_int {
        execve(path, argv, environ)
    }

    fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
        replacing(|| Path::found(file), envp, |envp| real::execvpe(file, argv, envp))
    }

    fn execvp(file: *const c_char, argv: Strings) -> c_int {
        execvpe(file, argv, environ)
    }

    fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
        replacing(|| Path::of_descriptor(fd), envp, |envp| real::fexecve(fd, argv, envp))
    }

    fn posix_spawn(
        pid: *mut libc::pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void, argv: Strings,
        envp: Strings
    ) -> c_int {
        replacing(|| Path::of(path), envp, |envp| real::posix_spawn(pid, path, actions, attributes, argv, envp))
    }

    fn posix_spawnp(
        pid: *mut libc::pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void, argv: Strings,
        envp: Strings
    ) -> c_int {
        replacing(|| Path::found(file), envp, |envp| real::posix_spawnp(pid, file, actions, attributes, argv, envp))
    }

    fn posix_spawn_file_actions_adddup2(actions: *mut c_void, from: c_int, to: c_int) -> c_int {
        // The copy appears in the child alone, where nobody could name it: a connection that goes this way is relayed.
        if let Err(errno) = relay::enter_if_ours(from) {
            return errno.0;
        }
        real::posix_spawn_file_actions_adddup2(actions, from, to)
    }
}

/// Readies our sockets for a new image and calls `exec` with the environment for it.
///
/// # Safety
/// `envp` is null or a list of strings up to a null pointer.
unsafe fn replacing(image: impl FnOnce() -> Option<Path>, envp: Strings, exec: impl FnOnce(Strings) -> c_int) -> c_int {
    inherit::settle();
    if inherit::carried().next().is_none() {
        return exec(envp);
    }
    let Some(path) = image().filter(Path::is_executable) else {
        // It will fail, and nothing is to change then.
        return exec(envp);
    };
    // SAFETY: passed on to the caller.
    let wanted = unsafe { inherit::preloads(envp) } || inherit::carries_listener();
    if wanted && path.is_enterable() {
        // SAFETY: as above.
        if let Some(environment) = unsafe { Environment::naming_sockets(envp) } {
            return exec(environment.strings());
        }
    }
    for handle in inherit::carried() {
        if let Err(errno) = relay::enter(&handle) {
            // Its engine is gone, so there is nothing that could be relayed.
            report::note(format_args!("descriptor {} goes into a new image without relay: {errno:?}", handle.fd));
        }
    }
    exec(envp)
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
