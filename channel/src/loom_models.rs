//! Models of the channel for the loom checker: every interleaving of small scenarios, with the algorithms as they are and
//! the geometry of [`layout`](crate::layout) made small.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p persona-channel --release loom`

mod lane;
mod readiness;
mod stream;

use crate::chunk::ChunkPool;
use crate::layout::*;
use crate::memory::{Bitmap, Slot, SocketRef};
use crate::sync::AtomicU64;
use core::array::from_fn;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};

/// Runs a model with all interleavings of at most `preemptions` (or `LOOM_MAX_PREEMPTIONS`) preemptions.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// A socket with a pool of its own, as new memory is.
struct World {
    state: StateLine,
    cursor: CursorLine,
    wait: WaitLine,
    address: AddressLine,
    maps: Maps,
    free: [AtomicU64; CHUNK_WORDS],
    payload: Vec<UnsafeCell<u8>>,
}

impl World {
    fn new(chunks: usize, send_buffer: u32) -> Self {
        let world = Self {
            state: StateLine::fresh(),
            cursor: CursorLine::fresh(),
            wait: WaitLine::fresh(),
            address: AddressLine::fresh(),
            maps: Maps::fresh(),
            free: from_fn(|_| AtomicU64::new(0)),
            payload: (0..chunks * CHUNK_SIZE).map(|_| UnsafeCell::new(0)).collect(),
        };
        world.bitmap().fill(chunks);
        world.state.send_buffer.store(send_buffer, crate::sync::Ordering::Relaxed);
        world
    }

    fn bitmap(&self) -> Bitmap<'_> {
        Bitmap { words: &self.free }
    }

    fn socket(&self) -> SocketRef<'_> {
        SocketRef {
            slot: Slot::new(5).expect("in range"),
            state: &self.state,
            cursor: &self.cursor,
            wait: &self.wait,
            address: &self.address,
            maps: &self.maps,
            pool: ChunkPool::model(self.bitmap(), &self.payload),
        }
    }
}

/// A descriptor that becomes readable: rung once, it wakes one sleep. A sleep that nobody ends is a deadlock, which
/// loom reports.
#[derive(Clone)]
struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Doorbell {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn ring(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.0.0.lock().expect("not poisoned");
        while !*rung {
            rung = self.0.1.wait(rung).expect("not poisoned");
        }
        *rung = false;
    }
}
