//! Bounded single-producer single-consumer queues: how shards, and shards and the control thread, talk.
//!
//! Two uses of one ring: [`frames`] carries copies of frames to the shard that owns their flow (the entries' memory
//! is kept and reused, so that a warm mailbox does not allocate), [`queue`] carries messages. Neither blocks: a full
//! ring refuses, and its user counts the drop (frames) or keeps the message until there is room (messages).

use crossbeam_utils::CachePadded;
use persona_stack::{PortId, RxChecksum, RxFrame};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Ring<T> {
    entries: Box<[UnsafeCell<T>]>,
    /// Written by the producer.
    tail: CachePadded<AtomicUsize>,
    /// Written by the consumer.
    head: CachePadded<AtomicUsize>,
}

// SAFETY: an entry is touched by the producer alone while it is outside head..tail and by the consumer alone while
// it is inside; the acquire and release accesses of `head` and `tail` hand it over.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn new(capacity: usize, make: impl Fn() -> T) -> Self {
        assert!(capacity.is_power_of_two(), "a mailbox's capacity is a power of two");
        Self {
            entries: (0..capacity).map(|_| UnsafeCell::new(make())).collect(),
            tail: CachePadded::new(AtomicUsize::new(0)),
            head: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    fn entry(&self, position: usize) -> *mut T {
        self.entries[position & (self.entries.len() - 1)].get()
    }

    fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == self.tail.load(Ordering::Acquire)
    }

    /// Lets the producer fill the next entry in place; `false` when the ring is full.
    fn produce(&self, fill: impl FnOnce(*mut T)) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(self.head.load(Ordering::Acquire)) >= self.entries.len() {
            return false;
        }
        fill(self.entry(tail));
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    /// Lets the consumer take from the oldest entry; `None` when there is none.
    fn consume<R>(&self, take: impl FnOnce(*mut T) -> R) -> Option<R> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let taken = take(self.entry(head));
        self.head.store(head.wrapping_add(1), Ordering::Release);
        Some(taken)
    }
}

/// A frame on its way to another shard, or back to ourselves.
#[derive(Debug, Default)]
pub struct Parcel {
    pub port: PortId,
    pub checksum: RxChecksum,
    pub gso_size: u16,
    pub bytes: Vec<u8>,
}

impl Parcel {
    /// Becomes a copy of `frame`, in the memory it already has.
    pub fn copy_from(&mut self, port: PortId, frame: &RxFrame<'_>) {
        self.port = port;
        self.checksum = frame.checksum;
        self.gso_size = frame.gso_size;
        self.bytes.clear();
        self.bytes.extend_from_slice(frame.head);
        for piece in frame.tail {
            self.bytes.extend_from_slice(piece);
        }
    }

    pub fn frame(&self) -> RxFrame<'_> {
        RxFrame { head: &self.bytes, tail: &[], checksum: self.checksum, gso_size: self.gso_size }
    }
}

/// Sends frames to one other shard.
pub struct FrameSender(Arc<Ring<Parcel>>);

/// Receives the frames of one other shard.
pub struct FrameReceiver(Arc<Ring<Parcel>>);

/// A mailbox for `capacity` frames (a power of two).
pub fn frames(capacity: usize) -> (FrameSender, FrameReceiver) {
    let ring = Arc::new(Ring::new(capacity, Parcel::default));
    (FrameSender(Arc::clone(&ring)), FrameReceiver(ring))
}

impl FrameSender {
    /// Copies `frame` into the mailbox; `false` when it is full.
    pub fn send(&mut self, port: PortId, frame: &RxFrame<'_>) -> bool {
        self.0.produce(|parcel| {
            // SAFETY: the ring gave this entry to the producer; there is one producer, `&mut self`.
            unsafe { &mut *parcel }.copy_from(port, frame);
        })
    }
}

impl FrameReceiver {
    /// Hands the oldest frame to `sink`; `false` when there is none.
    pub fn receive(&mut self, sink: impl FnOnce(&Parcel)) -> bool {
        // SAFETY: the ring gave this entry to the consumer; there is one consumer, `&mut self`.
        self.0.consume(|parcel| sink(unsafe { &*parcel })).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sends messages to one other thread.
pub struct Sender<T>(Arc<Queue<T>>);

/// Receives the messages of one other thread.
pub struct Receiver<T>(Arc<Queue<T>>);

struct Queue<T>(Ring<MaybeUninit<T>>);

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        // SAFETY: entries inside head..tail are initialised, and nobody else has the ring any more.
        while self.0.consume(|entry| unsafe { (*entry).assume_init_drop() }).is_some() {}
    }
}

/// A queue of `capacity` messages (a power of two).
pub fn queue<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue(Ring::new(capacity, MaybeUninit::uninit)));
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Sender<T> {
    /// Gives the message back when the queue is full.
    pub fn send(&mut self, message: T) -> Result<(), T> {
        let mut message = Some(message);
        self.0.0.produce(|entry| {
            let message = message.take().expect("an entry is filled once");
            // SAFETY: the ring gave this entry to the producer, and it is uninitialised.
            unsafe { (*entry).write(message) };
        });
        message.map_or(Ok(()), Err)
    }
}

impl<T> Receiver<T> {
    pub fn receive(&mut self) -> Option<T> {
        // SAFETY: entries inside head..tail are initialised; moving `head` makes this one uninitialised again.
        self.0.0.consume(|entry| unsafe { (*entry).assume_init_read() })
    }

    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }
}

/// A [`Sender`] that keeps what did not fit, in order. For messages that must not be lost; who causes them without end is
/// to be put off while something [waits](Outbox::is_waiting).
pub struct Outbox<T> {
    sender: Sender<T>,
    waiting: std::collections::VecDeque<T>,
}

impl<T> Outbox<T> {
    pub fn new(sender: Sender<T>) -> Self {
        Self { sender, waiting: std::collections::VecDeque::new() }
    }

    pub fn send(&mut self, message: T) {
        self.waiting.push_back(message);
        self.push();
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what waits as far as there is room; `true` when something still waits.
    pub fn push(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.sender.send(message) {
                self.waiting.push_front(message);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_message_back_and_an_outbox_keeps_the_order() {
        let (sender, mut receiver) = queue(2);
        let mut outbox = Outbox::new(sender);
        for number in 0..5 {
            outbox.send(number);
        }
        assert!(outbox.push() && outbox.is_waiting(), "three of five messages cannot have found room");
        let mut seen = Vec::new();
        while let Some(number) = receiver.receive() {
            seen.push(number);
            outbox.push();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert!(receiver.is_empty() && !outbox.is_waiting());
    }

    #[test]
    fn unreceived_messages_are_dropped_with_the_queue() {
        let shared = Arc::new(());
        let (mut sender, receiver) = queue(4);
        sender.send(Arc::clone(&shared)).unwrap();
        sender.send(Arc::clone(&shared)).unwrap();
        drop((sender, receiver));
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn frames_arrive_whole_and_in_order_from_another_thread() {
        const FRAMES: u32 = 20_000;
        let (mut sender, mut receiver) = frames(64);
        let producer = std::thread::spawn(move || {
            for number in 0..FRAMES {
                let tail = number.to_be_bytes();
                let pieces = [&tail[..2], &tail[2..]];
                let frame =
                    RxFrame { head: b"head", tail: &pieces, checksum: RxChecksum::Verified, gso_size: number as u16 };
                while !sender.send(PortId(3), &frame) {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0u32;
        while next < FRAMES {
            let took = receiver.receive(|parcel| {
                assert_eq!(&parcel.bytes[..4], b"head");
                assert_eq!(parcel.bytes[4..], next.to_be_bytes());
                assert_eq!((parcel.port, parcel.gso_size), (PortId(3), next as u16));
            });
            if took {
                next += 1;
            } else {
                std::thread::yield_now();
            }
        }
        producer.join().unwrap();
        assert!(receiver.is_empty());
    }
}
