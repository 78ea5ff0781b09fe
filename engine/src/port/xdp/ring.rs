//! The four rings of an AF_XDP socket as memory: a producer and a consumer side, no syscalls.
//!
//! A ring is two free-running 32-bit counters and a power of two of entries. Each side keeps its own counter in a local
//! variable, publishes it with release and reads the other's with acquire only when its cached copy does not suffice.
//! The tests put a fake kernel on the other side.

use std::sync::atomic::{AtomicU32, Ordering};

/// Where a ring lies.
#[derive(Clone, Copy, Debug)]
pub struct Raw<T> {
    pub producer: *const AtomicU32,
    pub consumer: *const AtomicU32,
    /// Null on kernels before 5.4.
    pub flags: *const AtomicU32,
    pub entries: *mut T,
    /// Entries; a power of two.
    pub size: u32,
}

const NEED_WAKEUP: u32 = 1;

impl<T: Copy> Raw<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `Producer::new` and `Consumer::new` demand valid pointers for the ring's life.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.consumer }
    }

    fn entry(&self, at: u32) -> *mut T {
        self.entries.wrapping_add((at & (self.size - 1)) as usize)
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above; null is not followed.
        !self.flags.is_null() && unsafe { &*self.flags }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// Our side of the fill and the transmit ring.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Raw<T>,
    /// Entries ever written, published or not.
    next: u32,
    /// Entries that the kernel had taken when we last looked.
    taken: u32,
}

/// Our side of the receive and the completion ring.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Raw<T>,
    /// Entries ever taken.
    next: u32,
    /// Entries that the kernel had written when we last looked.
    written: u32,
}

// SAFETY: each side is used by one thread at a time (`&mut self`), and the memory is not bound to a thread.
unsafe impl<T> Send for Producer<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Consumer<T> {}

impl<T: Copy> Producer<T> {
    /// # Safety
    ///
    /// The pointers must be valid for the life of the producer, and nobody else may produce.
    pub unsafe fn new(ring: Raw<T>) -> Self {
        let (next, taken) = (ring.producer().load(Ordering::Relaxed), ring.consumer().load(Ordering::Acquire));
        Self { ring, next, taken }
    }

    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Whether `count` more entries fit.
    pub fn has_room(&mut self, count: u32) -> bool {
        if self.ring.size - self.next.wrapping_sub(self.taken) < count {
            self.taken = self.ring.consumer().load(Ordering::Acquire);
        }
        self.ring.size - self.next.wrapping_sub(self.taken) >= count
    }

    /// Writes an entry; the caller has made sure of room. Seen by the kernel after [`Producer::publish`].
    pub fn push(&mut self, entry: T) {
        debug_assert!(self.has_room(1));
        // SAFETY: the entries between `taken + size` and `next` are ours to write.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    pub fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet, published or not.
    pub fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    /// The entries that the kernel has not taken yet, oldest first.
    pub fn untaken(&mut self) -> impl Iterator<Item = T> + '_ {
        let waiting = self.waiting();
        // SAFETY: written by us (or by the process before us) and not taken.
        (0..waiting).map(|offset| unsafe { self.ring.entry(self.taken.wrapping_add(offset)).read() })
    }

    /// Entries ever taken by the kernel, modulo 2^32.
    pub fn taken(&self) -> u32 {
        self.ring.consumer().load(Ordering::Acquire)
    }

    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    ///
    /// The pointers must be valid for the life of the consumer, and nobody else may consume.
    pub unsafe fn new(ring: Raw<T>) -> Self {
        let (next, written) = (ring.consumer().load(Ordering::Relaxed), ring.producer().load(Ordering::Acquire));
        Self { ring, next, written }
    }

    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Entries to read. Looks at the kernel's counter only when there are none left.
    pub fn available(&mut self) -> u32 {
        if self.written == self.next {
            self.written = self.ring.producer().load(Ordering::Acquire);
        }
        self.written.wrapping_sub(self.next)
    }

    /// The entry `offset` places behind the oldest; the caller has made sure that it is available.
    pub fn peek(&self, offset: u32) -> T {
        debug_assert!(offset < self.written.wrapping_sub(self.next));
        // SAFETY: the entries between `next` and `written` are ours to read.
        unsafe { self.ring.entry(self.next.wrapping_add(offset)).read() }
    }

    /// Gives `count` entries back to the kernel.
    pub fn release(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
        self.ring.consumer().store(self.next, Ordering::Release);
    }

    /// Entries ever written by the kernel, modulo 2^32.
    pub fn written(&self) -> u32 {
        self.ring.producer().load(Ordering::Acquire)
    }
}
