//! The links between the engine's threads: mailboxes for each ordered pair, and a way to wake who sleeps.
//!
//! Threads 0..shards are the shards, the last one is the control thread. A producer publishes, fences, tests the
//! consumer's `sleeping` flag and only then makes the wake syscall; a consumer announces, fences, looks once more and
//! then blocks.

use crate::mailbox::{self, FrameReceiver, FrameSender, Outbox, Receiver};
use crate::message::{ControlMessage, ShardMessage};
use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Frames that one shard can have under way to another.
const FRAMES: usize = 512;
/// Messages that fit into a queue before they wait with their sender.
const MESSAGES: usize = 256;

/// Wakes one thread.
pub struct Waker {
    sleeping: CachePadded<AtomicBool>,
    event: OwnedFd,
}

impl Waker {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { sleeping: CachePadded::new(AtomicBool::new(false)), event })
    }

    /// Called by the sleeper before it looks at its inboxes for the last time.
    pub fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the sleeper when it is up again.
    pub fn cancel(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Called by a producer after it published.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // Fails only when the counter is at its end: then the event is there.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Becomes readable when the thread was woken. Watched edge-triggered and never read.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A shard's ends.
pub struct ShardLinks {
    pub index: usize,
    wakers: Arc<[Waker]>,
    /// By target shard; `None` at our own place.
    messages_to: Vec<Option<Outbox<ShardMessage>>>,
    frames_to: Vec<Option<FrameSender>>,
    pub frames_from: Vec<FrameReceiver>,
    pub messages_from: Vec<Receiver<ShardMessage>>,
    to_control: Outbox<ControlMessage>,
    /// Threads that got something since the last [`ShardLinks::wake`], a bit each.
    touched: u32,
}

/// The control thread's ends.
pub struct ControlLinks {
    wakers: Arc<[Waker]>,
    to_shards: Vec<Outbox<ShardMessage>>,
    pub from_shards: Vec<Receiver<ControlMessage>>,
}

/// Links for `shards` shards and the control thread.
pub fn links(shards: usize) -> io::Result<(Vec<ShardLinks>, ControlLinks)> {
    let wakers: Arc<[Waker]> = (0..=shards).map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?.into();
    let mut to_shards = Vec::new();
    let mut from_shards = Vec::new();
    let mut ends: Vec<ShardLinks> = (0..shards)
        .map(|index| {
            let (control_sender, receiver) = mailbox::queue(MESSAGES);
            from_shards.push(receiver);
            let (sender, messages) = mailbox::queue(MESSAGES);
            to_shards.push(Outbox::new(sender));
            ShardLinks {
                index,
                wakers: Arc::clone(&wakers),
                messages_to: Vec::new(),
                frames_to: Vec::new(),
                frames_from: Vec::new(),
                messages_from: vec![messages],
                to_control: Outbox::new(control_sender),
                touched: 0,
            }
        })
        .collect();
    for from in 0..shards {
        for to in 0..shards {
            if from == to {
                ends[from].messages_to.push(None);
                ends[from].frames_to.push(None);
                continue;
            }
            let (sender, receiver) = mailbox::queue(MESSAGES);
            ends[from].messages_to.push(Some(Outbox::new(sender)));
            ends[to].messages_from.push(receiver);
            let (sender, receiver) = mailbox::frames(FRAMES);
            ends[from].frames_to.push(Some(sender));
            ends[to].frames_from.push(receiver);
        }
    }
    Ok((ends, ControlLinks { wakers, to_shards, from_shards }))
}

impl ShardLinks {
    pub fn shards(&self) -> usize {
        self.messages_to.len()
    }

    pub fn waker(&self) -> &Waker {
        &self.wakers[self.index]
    }

    /// Sends to another shard. A message to ourselves is a mistake of the caller.
    pub fn send(&mut self, shard: usize, message: ShardMessage) {
        if let Some(outbox) = &mut self.messages_to[shard] {
            outbox.send(message);
            self.touched |= 1 << shard;
        } else {
            debug_assert!(false, "a shard sends itself no message");
        }
    }

    pub fn send_control(&mut self, message: ControlMessage) {
        self.to_control.send(message);
        self.touched |= 1 << self.shards();
    }

    /// Whether some other thread is behind with what we told it: then what applications ask of it is left in their memory,
    /// which bounds it, and not taken into ours.
    pub fn is_congested(&self) -> bool {
        self.to_control.is_waiting() || self.messages_to.iter().flatten().any(Outbox::is_waiting)
    }

    /// Copies a frame to the shard that owns its flow; `false` when its mailbox is full.
    pub fn send_frame(
        &mut self,
        shard: usize,
        port: persona_stack::PortId,
        frame: &persona_stack::RxFrame<'_>,
    ) -> bool {
        self.touched |= 1 << shard;
        self.frames_to[shard].as_mut().is_some_and(|sender| sender.send(port, frame))
    }

    /// Pushes what waited and wakes the threads that got something; once per iteration. `true` when something still
    /// waits for room.
    pub fn wake(&mut self) -> bool {
        let mut waits = self.to_control.push();
        for outbox in self.messages_to.iter_mut().flatten() {
            waits |= outbox.push();
        }
        let mut touched = std::mem::take(&mut self.touched);
        while touched != 0 {
            self.wakers[touched.trailing_zeros() as usize].wake();
            touched &= touched - 1;
        }
        waits
    }

    /// Whether nothing waits for us.
    pub fn is_empty(&self) -> bool {
        self.frames_from.iter().all(FrameReceiver::is_empty) && self.messages_from.iter().all(Receiver::is_empty)
    }
}

impl ControlLinks {
    pub fn shards(&self) -> usize {
        self.to_shards.len()
    }

    pub fn waker(&self) -> &Waker {
        &self.wakers[self.to_shards.len()]
    }

    pub fn send(&mut self, shard: usize, message: ShardMessage) {
        self.to_shards[shard].send(message);
        self.wakers[shard].wake();
    }

    /// Pushes what waited; `true` when something still waits for room.
    pub fn push(&mut self) -> bool {
        let mut waits = false;
        for (shard, outbox) in self.to_shards.iter_mut().enumerate() {
            waits |= outbox.push();
            self.wakers[shard].wake();
        }
        waits
    }

    pub fn is_empty(&self) -> bool {
        self.from_shards.iter().all(Receiver::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persona_channel::memory::Slot;

    #[test]
    fn a_shard_whose_messages_wait_for_room_says_so_until_they_have_left() {
        let (mut shards, control) = links(2).unwrap();
        let message = || ShardMessage::Nudge { session: 0, slot: Slot::new(1).unwrap() };
        for _ in 0..MESSAGES {
            shards[0].send(1, message());
        }
        assert!(!shards[0].is_congested());
        shards[0].send(1, message());
        assert!(shards[0].is_congested() && !shards[1].is_congested());
        assert!(shards[0].wake(), "one message waits");
        let taken = shards[1].messages_from.iter_mut().find_map(Receiver::receive);
        assert!(taken.is_some() && !shards[0].wake() && !shards[0].is_congested());
        for _ in 0..=MESSAGES {
            shards[1].send_control(ControlMessage::Stopped);
        }
        assert!(shards[1].is_congested(), "the control thread is behind");
        drop(control);
    }
}
