//! Atomics of the whole crate: the processor's, or loom's when the interleavings are model-checked
//! (`RUSTFLAGS="--cfg loom"`).

#[cfg(loom)]
pub use self::model::{AtomicI32, AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{Ordering, fence};

/// A full fence behind a read-modify-write of this thread. On x86-64 that instruction was one itself.
#[inline(always)]
pub fn fence_after_rmw() {
    if cfg!(all(target_arch = "x86_64", not(loom))) {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Stores, and fences. On x86-64 an exchange does both and is cheaper.
#[inline(always)]
pub fn store_and_fence(word: &AtomicU64, value: u64) {
    if cfg!(all(target_arch = "x86_64", not(loom))) {
        word.swap(value, Ordering::AcqRel);
        fence_after_rmw();
    } else {
        word.store(value, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

/// Loom's atomics, each with a gate.
///
/// Loom decides where to switch threads by the *last* access to an atomic alone: a thread that loads a word before it
/// stores to it hides the other thread's load, and orders are left out. A relaxed read-modify-write on a gate of the
/// word before each access brings them all back. It orders nothing by itself, and with fences (which here are all
/// SeqCst) no more than those do.
#[cfg(loom)]
mod model {
    use loom::sync::atomic::Ordering::{self, Relaxed};

    macro_rules! gated {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub struct $name {
                word: loom::sync::atomic::$name,
                gate: loom::sync::atomic::AtomicUsize,
            }

            impl $name {
                pub fn new(value: $value) -> Self {
                    let gate = loom::sync::atomic::AtomicUsize::new(0);
                    Self { word: loom::sync::atomic::$name::new(value), gate }
                }

                fn gated(&self) -> &loom::sync::atomic::$name {
                    self.gate.fetch_add(1, Relaxed);
                    &self.word
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.gated().load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.gated().store(value, order)
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.gated().swap(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.gated().fetch_or(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    self.gated().fetch_and(value, order)
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.gated().fetch_add(value, order)
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.gated().compare_exchange(current, new, success, failure)
                }

                pub fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.gated().fetch_update(success, failure, update)
                }
            }
        };
    }

    gated!(AtomicI32, i32);
    gated!(AtomicU32, u32);
    gated!(AtomicU64, u64);
}
