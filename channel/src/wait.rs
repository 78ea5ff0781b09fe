//! Waitables: places where the family waits for news of sockets, and how the engine gives them.
//!
//! The waiter subscribes (its bit in the socket's [`WaitLine`]), then looks at the socket; the engine publishes the
//! socket's state, then looks who subscribed, with a fence in between on both sides. Sleeping works the same way one
//! level up: the waiter announces `sleeping`, fences and looks once more; the engine sets the ready bit, fences and looks
//! at `sleeping`.
//!
//! **Several threads on one epoll set.** The doorbell's byte may be consumed only by a thread that has found no more
//! news, and a thread that leaves while others sleep announces `sleeping` again for them ([`Waitable::leave`]).

use crate::attention::take_lowest;
use crate::layout::*;
use crate::memory::{SessionRef, Slot, SocketRef, WaitableId};
use crate::sync::{AtomicU64, Ordering, fence};

impl WaitLine {
    /// Makes `waitable` hear of the socket. Look at the socket's state afterwards.
    pub fn subscribe(&self, waitable: WaitableId) {
        self.waiters[waitable.index() / 64].fetch_or(1 << (waitable.index() % 64), Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    pub fn unsubscribe(&self, waitable: WaitableId) {
        self.waiters[waitable.index() / 64].fetch_and(!(1 << (waitable.index() % 64)), Ordering::AcqRel);
    }
}

/// The engine's side: the socket's state line has changed (published before this call). Marks the socket ready in each
/// subscribed waitable and calls `ring` for each that sleeps. At most [`WAITABLES`] steps.
pub fn notify(waitables: &[Waitable; WAITABLES], socket: &SocketRef<'_>, mut ring: impl FnMut(WaitableId)) {
    fence(Ordering::SeqCst);
    for (word, waiters) in socket.wait.waiters.iter().enumerate() {
        let mut bits = waiters.load(Ordering::Relaxed);
        while let Some(bit) = take_lowest(&mut bits) {
            let Some(id) = WaitableId::new((word * 64) as u32 + bit) else { continue };
            let waitable = &waitables[id.index()];
            waitable.mark_ready(socket.slot);
            fence(Ordering::SeqCst);
            if waitable.wake() {
                ring(id);
            }
        }
    }
}

impl SessionRef<'_> {
    /// [`notify`] in this session.
    pub fn notify(self, socket: &SocketRef<'_>, ring: impl FnMut(WaitableId)) {
        notify(self.waitables(), socket, ring);
    }

    /// Claims a waitable for a blocked call of thread `tid`.
    pub fn claim_waitable(self, tid: u32) -> Option<WaitableId> {
        self.take_waitable(EPOLL_SETS..WAITABLES, tid)
    }

    /// Claims a waitable for an epoll set with one holder.
    pub fn claim_epoll_set(self) -> Option<WaitableId> {
        self.take_waitable(0..EPOLL_SETS, 1)
    }

    fn take_waitable(self, range: core::ops::Range<usize>, owner: u32) -> Option<WaitableId> {
        let id = WaitableId::new(self.free_waitables().claim_in(range)?)?;
        let waitable = self.waitable(id);
        waitable.clear();
        waitable.owner.store(owner, Ordering::Release);
        Some(id)
    }

    /// Gives a waitable back. The caller has unsubscribed it everywhere.
    pub fn release_waitable(self, id: WaitableId) {
        self.waitable(id).owner.store(0, Ordering::Release);
        self.free_waitables().free(id.get());
    }
}

impl Waitable {
    /// Lists a socket as ready: by the engine, and by the family for a level-triggered member that is still ready.
    pub fn mark_ready(&self, slot: Slot) {
        let word = slot.index() / 64;
        self.ready[word].fetch_or(1 << (slot.index() % 64), Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let summary = &self.summary[word / 64];
        let bit = 1 << (word % 64);
        if summary.load(Ordering::Relaxed) & bit == 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// True when the doorbell is to be rung: somebody sleeps, and this call is the one that wakes. A fence (or a
    /// publication with one) has gone before.
    #[must_use]
    pub fn wake(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed) != 0 && self.sleeping.swap(0, Ordering::AcqRel) != 0
    }

    /// The waiter is about to block. True: look at nothing more, block on the doorbell, then [`leave`](Self::leave).
    /// False: a socket was listed meanwhile. A blocked call looks at its socket as well, between this and blocking.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        self.announce()
    }

    fn announce(&self) -> bool {
        self.sleeping.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.has_news()
    }

    /// The waiter blocks no longer (or found after [`enter`](Self::enter) that it need not). The outcome says what
    /// becomes of a byte in the doorbell.
    pub fn leave(&self) -> Leave {
        let before = self.sleepers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| count.checked_sub(1));
        if before.unwrap_or(0) > 1 {
            return Leave::OthersSleep;
        }
        self.sleeping.store(0, Ordering::Relaxed);
        Leave::Alone
    }

    /// Several sleep on this waitable, and this thread, awake, has taken all the news and the doorbell's byte: announces
    /// for those who still sleep. True: done. False: there is news again; take it, or, if that cannot be, leave the
    /// doorbell readable for them.
    #[must_use]
    pub fn announce_for_others(&self) -> bool {
        self.announce()
    }

    /// True when sockets are listed.
    pub fn has_news(&self) -> bool {
        self.summary.iter().any(|summary| summary.load(Ordering::Acquire) != 0)
    }

    /// Starts a round over the listed sockets. Those not taken from the result must be listed again
    /// ([`News::put_back`]).
    pub fn take_news(&self) -> News {
        let mut news = News::default();
        for (taken, summary) in news.summary.iter_mut().zip(&self.summary) {
            if summary.load(Ordering::Relaxed) != 0 {
                *taken = summary.swap(0, Ordering::AcqRel);
            }
        }
        fence(Ordering::SeqCst);
        news
    }

    /// Takes one socket off the list (a blocked call that knows what it waits for, EPOLL_CTL_DEL). True if listed.
    pub fn unlist(&self, slot: Slot) -> bool {
        let bit = 1 << (slot.index() % 64);
        self.ready[slot.index() / 64].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// As new.
    pub fn clear(&self) {
        let clear = |word: &AtomicU64| {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        };
        self.ready.iter().for_each(clear);
        self.summary.iter().for_each(clear);
        self.sleepers.store(0, Ordering::Relaxed);
        self.sleeping.store(0, Ordering::Release);
    }
}

/// What to do after waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nobody else sleeps here: take the doorbell's byte if there is one.
    Alone,
    /// Others sleep here. Take the byte only after all the news, and then [`Waitable::announce_for_others`].
    OthersSleep,
}

/// A round over a waitable's listed sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    summary: [u64; SOCKET_SUMMARY],
    word: usize,
    bits: u64,
}

impl News {
    /// The next listed socket. It is off the list now.
    pub fn next(&mut self, waitable: &Waitable) -> Option<Slot> {
        loop {
            if let Some(bit) = take_lowest(&mut self.bits) {
                return Slot::new((self.word * 64) as u32 + bit);
            }
            let (index, summary) = self.summary.iter_mut().enumerate().find(|(_, summary)| **summary != 0)?;
            self.word = index * 64 + take_lowest(summary)? as usize;
            self.bits = waitable.ready.get(self.word)?.swap(0, Ordering::AcqRel);
        }
    }

    /// Lists again what this round has not come to.
    pub fn put_back(self, waitable: &Waitable) {
        if self.bits != 0 {
            waitable.ready[self.word].fetch_or(self.bits, Ordering::AcqRel);
            waitable.summary[self.word / 64].fetch_or(1 << (self.word % 64), Ordering::AcqRel);
        }
        for (left, summary) in self.summary.iter().zip(&waitable.summary) {
            if *left != 0 {
                summary.fetch_or(*left, Ordering::AcqRel);
            }
        }
    }
}
