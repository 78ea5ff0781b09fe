//! No wake-up is lost: shards that sleep, waiters that sleep, several waiters on one set.

use super::{Doorbell, World, check};
use crate::layout::*;
use crate::memory::{Slot, WaitableId};
use crate::receive::ReceiveWriter;
use crate::sync::Ordering;
use crate::wait::notify;
use core::array::from_fn;
use loom::sync::Arc;
use loom::thread;

fn slot(index: u32) -> Slot {
    Slot::new(index).expect("in range")
}

fn waitables() -> Arc<[Waitable; WAITABLES]> {
    Arc::new(from_fn(|_| Waitable::fresh()))
}

const SET: usize = 3;

fn set() -> WaitableId {
    WaitableId::new(SET as u32).expect("in range")
}

/// Two threads mark two sockets of one word; the shard sleeps whenever it finds nothing. It must come to see both.
#[test]
fn loom_shard_sleep_handshake() {
    check(3, || {
        let attention = Arc::new(Attention::fresh());
        let cursors = Arc::new([AtomicCursor::new(0), AtomicCursor::new(0)]);
        let doorbell = Doorbell::new();
        let markers: Vec<_> = (0..2)
            .map(|index| {
                let (attention, cursors, doorbell) = (attention.clone(), cursors.clone(), doorbell.clone());
                thread::spawn(move || {
                    cursors[index].store(1, Ordering::Relaxed);
                    if attention.mark_socket(slot(index as u32 + 8)) {
                        doorbell.ring();
                    }
                })
            })
            .collect();
        let mut seen = [false; 2];
        while seen != [true; 2] {
            let mut marks = attention.collect();
            let mut found = false;
            while let Some(slot) = marks.next_socket(&attention) {
                found = true;
                let index = slot.index() - 8;
                assert_eq!(cursors[index].load(Ordering::Relaxed), 1, "the cursor is visible with the mark");
                seen[index] = true;
            }
            if !found && seen != [true; 2] && attention.park() {
                doorbell.sleep();
            }
        }
        markers.into_iter().for_each(|marker| marker.join().expect("ends"));
    });
}

type AtomicCursor = crate::sync::AtomicU64;

/// A blocked read: subscribes, looks, announces, looks, sleeps.
#[test]
fn loom_blocked_call() {
    check(3, || {
        let world = Arc::new(World::new(2, 0));
        let waitables = waitables();
        let doorbell = Doorbell::new();
        let application = {
            let (world, waitables, doorbell) = (world.clone(), waitables.clone(), doorbell.clone());
            thread::spawn(move || {
                let socket = world.socket();
                let waitable = &waitables[SET];
                socket.wait.subscribe(set());
                let mut byte = [0];
                while socket.receive_reader().read(&mut byte).len == 0 {
                    waitable.unlist(socket.slot);
                    let mut news = waitable.take_news();
                    while news.next(waitable).is_some() {}
                    if waitable.enter() && socket.receive_reader().available() == 0 {
                        doorbell.sleep();
                    }
                    assert!(!waitable.leave(), "nobody else sleeps here");
                }
                socket.wait.unsubscribe(set());
                byte[0]
            })
        };
        let mut writer = ReceiveWriter::new();
        writer.store(&world.socket(), 0, &[42]);
        writer.publish(&world.socket(), 1);
        notify(&waitables, &world.socket(), |id| {
            assert_eq!(id, set());
            doorbell.ring();
        });
        assert_eq!(application.join().expect("ends"), 42);
    });
}

/// An epoll set: the waiter knows of news only by the list. Two publications on two sockets.
#[test]
fn loom_epoll_set() {
    check(3, || {
        let waitables = waitables();
        let doorbell = Doorbell::new();
        let engine = {
            let (waitables, doorbell) = (waitables.clone(), doorbell.clone());
            thread::spawn(move || {
                for index in [4, 5] {
                    if waitables[SET].list(slot(index)) {
                        doorbell.ring();
                    }
                }
            })
        };
        let waitable = &waitables[SET];
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let mut news = waitable.take_news();
            let before = seen.len();
            while let Some(slot) = news.next(waitable) {
                seen.push(slot.get());
            }
            if seen.len() == before {
                if waitable.enter() {
                    doorbell.sleep();
                }
                assert!(!waitable.leave(), "nobody else sleeps here");
            }
        }
        seen.sort();
        assert_eq!(seen, [4, 5], "each socket is listed once");
        engine.join().expect("ends");
    });
}

/// Two threads sleep on one set. News for both come one after the other; each takes one piece of news and ends. The
/// doorbell's byte stays until somebody has found no more news.
#[test]
fn loom_epoll_set_with_two_sleepers() {
    check(2, || {
        let waitables = waitables();
        let doorbell = Pipe::new();
        let sleepers: Vec<_> = (0..2)
            .map(|_| {
                let (waitables, doorbell) = (waitables.clone(), doorbell.clone());
                thread::spawn(move || take_one(&waitables[SET], &doorbell))
            })
            .collect();
        for index in [4, 5] {
            if waitables[SET].list(slot(index)) {
                doorbell.write();
            }
        }
        let mut seen: Vec<_> = sleepers.into_iter().map(|sleeper| sleeper.join().expect("ends")).collect();
        seen.sort();
        assert_eq!(seen, [4, 5]);
    });
}

/// What an epoll_wait with room for one event does.
fn take_one(waitable: &Waitable, doorbell: &Pipe) -> u32 {
    let take = || {
        let mut news = waitable.take_news();
        let first = news.next(waitable);
        wake_if(news.put_back(waitable), doorbell);
        first
    };
    loop {
        if let Some(slot) = take() {
            return slot.get();
        }
        if waitable.enter() {
            doorbell.wait_readable();
        }
        let first = take();
        if !waitable.has_news() {
            doorbell.drain();
        }
        wake_if(waitable.leave(), doorbell);
        if let Some(slot) = first {
            return slot.get();
        }
    }
}

/// Sleepers look at one pipe here, the doorbell.
fn wake_if(wake: bool, doorbell: &Pipe) {
    if wake {
        doorbell.write();
    }
}

/// A socket pair: readable, for everybody who waits, until somebody drains it.
#[derive(Clone)]
struct Pipe(Arc<(loom::sync::Mutex<bool>, loom::sync::Condvar)>);

impl Pipe {
    fn new() -> Self {
        Self(Arc::new((loom::sync::Mutex::new(false), loom::sync::Condvar::new())))
    }

    fn write(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }

    fn wait_readable(&self) {
        let mut readable = self.0.0.lock().expect("not poisoned");
        while !*readable {
            readable = self.0.1.wait(readable).expect("not poisoned");
        }
    }

    fn drain(&self) {
        *self.0.0.lock().expect("not poisoned") = false;
    }
}
