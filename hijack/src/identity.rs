//! Who is calling: the thread's id without a system call each time, and whether this process is the one that attached
//! or a child that nobody told us about.
//!
//! Process-wide facts lie in a page that the kernel wipes in every forked child, however the child was made: a zero
//! there means "a child that has not been set up yet".

use core::cell::Cell;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::sys;

thread_local! {
    /// (process, thread) as last asked of the kernel.
    static SELF: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());
const PAGE_SIZE: usize = 4096;
/// The image's number, see [`claimant`]; 0: none yet.
static IMAGE: AtomicU32 = AtomicU32::new(0);

/// The id of the calling thread.
#[inline]
pub fn tid() -> u32 {
    let (process, thread) = SELF.get();
    if process != 0 && process == marked() { thread } else { ask() }
}

/// The id of this process.
pub fn pid() -> u32 {
    match marked() {
        0 => sys::getpid(),
        pid => pid,
    }
}

/// What this process signs the slots with that it claims, and its hello: its id, and above it a number that differs from
/// image to image. After exec the engine hears of the old image's end while the new one, with the same id, is at work.
pub fn claimant() -> u32 {
    const ID_BITS: u32 = 22;
    let mut image = IMAGE.load(Ordering::Acquire);
    if image == 0 {
        let fresh = (sys::now() / 1_000) as u32 % ((1 << (32 - ID_BITS)) - 1) + 1;
        image =
            IMAGE.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire).map_or_else(|known| known, |_| fresh);
    }
    pid() | image << ID_BITS
}

/// True in a child that was forked behind our back, until [`mark`].
pub fn is_unmarked_child() -> bool {
    is_attached() && marked() == 0
}

/// True once this process, or one it was forked from, has attached.
pub fn is_attached() -> bool {
    !PAGE.load(Ordering::Acquire).is_null()
}

/// Notes this process as set up. Called when it attaches first and in every child.
pub fn mark() -> sys::Result<()> {
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        let fresh = sys::map_private(PAGE_SIZE)?;
        // SAFETY: a whole private anonymous page of ours. Kernels before 4.14 refuse the advice; then only the
        // interposed fork functions notice a child.
        let _ = unsafe { sys::madvise(fresh, PAGE_SIZE, libc::MADV_WIPEONFORK) };
        let fresh = fresh.cast::<AtomicU32>();
        page = match PAGE.compare_exchange(core::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(earlier) => {
                // SAFETY: nobody else has seen the page that lost.
                unsafe { sys::unmap(fresh.cast(), PAGE_SIZE) };
                earlier
            }
        };
    }
    // SAFETY: the page stays mapped for the life of the process.
    unsafe { (*page).store(sys::getpid(), Ordering::Release) };
    ask();
    Ok(())
}

fn marked() -> u32 {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return 0;
    }
    // SAFETY: the page stays mapped for the life of the process.
    unsafe { (*page).load(Ordering::Acquire) }
}

#[cold]
fn ask() -> u32 {
    let thread = sys::gettid();
    SELF.set((marked(), thread));
    thread
}
