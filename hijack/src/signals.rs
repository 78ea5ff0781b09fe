//! sigaction and signal: our handler stands in front of the application's, so that it can put a signal off while the
//! thread is in a critical stretch of ours (see [`critical`](crate::critical)). Applications see the handlers they set.
//!
//! Signals that report a fault of the instruction under way cannot be put off and are left alone.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr::null;
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{sighandler_t, siginfo_t};

use crate::export::export;
use crate::real::Function;
use crate::sys::{self, Errno, answer};
use crate::{critical, real};

const SIGNALS: usize = 65;

/// The application's handlers.
static HANDLERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];
/// The flags it gave them.
static FLAGS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

export! {
    fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
        if !is_deferrable(signal) {
            return real::sigaction(signal, new, old);
        }
        act(signal, new, old)
    }

    fn signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        install(number, handler, libc::SA_RESTART)
    }

    fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        install(number, handler, libc::SA_RESTART)
    }

    fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        install(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
    }

    fn __sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        install(number, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
    }
}

fn is_deferrable(signal: c_int) -> bool {
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];
    (1..SIGNALS as c_int).contains(&signal) && !faults.contains(&signal)
}

/// sigaction with our handler in front.
///
/// # Safety
/// As sigaction().
unsafe fn act(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let (handler, flags) = (&HANDLERS[signal as usize], &FLAGS[signal as usize]);
    let before = (handler.load(Ordering::Acquire), flags.load(Ordering::Acquire));
    let mut ours = MaybeUninit::<libc::sigaction>::uninit();
    let mut install: *const libc::sigaction = null();
    if !new.is_null() {
        // SAFETY: the caller vouches for the record.
        let mut action = unsafe { *new };
        if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN {
            // Set before the kernel can call it.
            handler.store(action.sa_sigaction, Ordering::Release);
            flags.store(action.sa_flags as usize, Ordering::Release);
            action.sa_sigaction = stand_in as *const () as usize;
            action.sa_flags |= libc::SA_SIGINFO;
            // A signal that is put off comes twice: the handler is reset when the application's is called.
            action.sa_flags &= !libc::SA_RESETHAND;
        }
        install = ours.write(action);
    }
    // SAFETY: the records are valid.
    let result = unsafe { real::sigaction(signal, install, old) };
    if result != 0 {
        handler.store(before.0, Ordering::Release);
        flags.store(before.1, Ordering::Release);
        return result;
    }
    if !old.is_null() {
        // SAFETY: the caller vouches for the record, which the kernel has filled.
        unsafe {
            if (*old).sa_sigaction == stand_in as *const () as usize {
                (*old).sa_sigaction = before.0;
                (*old).sa_flags = before.1 as c_int;
            }
        }
    }
    0
}

fn install(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    if handler == libc::SIG_ERR || !(1..SIGNALS as c_int).contains(&signal) {
        answer::<c_int>(Err(Errno(libc::EINVAL)));
        return libc::SIG_ERR;
    }
    // SAFETY: all zero is a valid action; the records live across the call.
    unsafe {
        let mut new: libc::sigaction = MaybeUninit::zeroed().assume_init();
        let mut old: libc::sigaction = MaybeUninit::zeroed().assume_init();
        new.sa_sigaction = handler;
        new.sa_flags = flags;
        if flags & libc::SA_NODEFER == 0 {
            libc::sigaddset(&mut new.sa_mask, signal);
        }
        match sigaction(signal, &new, &mut old) {
            0 => old.sa_sigaction,
            _ => libc::SIG_ERR,
        }
    }
}

/// The handler the kernel calls.
unsafe extern "C-unwind" fn stand_in(signal: c_int, info: *mut siginfo_t, context: *mut libc::c_void) {
    let index = signal as usize % SIGNALS;
    if critical::defer(signal) {
        // Blocked in the interrupted context, so that the copy sent here stays pending until the stretch's end.
        // SAFETY: with SA_SIGINFO the kernel passes a valid context and information.
        unsafe {
            let context = context.cast::<libc::ucontext_t>();
            libc::sigaddset(&raw mut (*context).uc_sigmask, signal);
            let arguments = [sys::getpid() as usize, sys::gettid() as usize, signal as usize, info as usize, 0, 0];
            sys::raw(libc::SYS_rt_tgsigqueueinfo, arguments);
        }
        return;
    }
    let handler = HANDLERS[index].load(Ordering::Acquire);
    let with_info = FLAGS[index].load(Ordering::Acquire) & libc::SA_SIGINFO as usize != 0;
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    if FLAGS[index].load(Ordering::Acquire) & libc::SA_RESETHAND as usize != 0 {
        // SAFETY: all zero is the default action.
        unsafe {
            let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
            real::sigaction(signal, &default, core::ptr::null_mut());
        }
    }
    // SAFETY: the application gave this handler for these arguments.
    unsafe {
        if with_info {
            let handler: Function!(c_int, *mut siginfo_t, *mut libc::c_void ; ()) = core::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: Function!(c_int ; ()) = core::mem::transmute(handler);
            handler(signal);
        }
    }
}
