//! Waitables: places where the family waits for news of sockets, and how the engine gives them.
//!
//! The waiter subscribes (its bit in the socket's [`WaitLine`]), then looks at the socket; the engine publishes the
//! socket's state, then looks who subscribed, with a fence in between on both sides. Sleeping works the same way one
//! level up: the waiter announces `sleeping`, fences and looks once more; the engine sets the ready bit, fences and looks
//! at `sleeping`.
//!
//! **Several threads on one epoll set.** The doorbell is readable for all of them until its byte is taken. A thread takes
//! it only after it has found no more news, and before it calls [`Waitable::leave`], which announces again for those who
//! still sleep. Whoever lists news wakes a sleeper: the engine by writing the doorbell, a thread of the family (a
//! level-triggered member that stays ready, news that did not fit its array) by making something else readable that the
//! sleepers of that set look at.

use crate::attention::take_lowest;
use crate::layout::*;
use crate::memory::{SessionRef, Slot, SocketRef, WaitableId};
use crate::sync::{AtomicU64, Ordering, fence, fence_after_rmw};

impl WaitLine {
    /// Makes `waitable` hear of the socket. Look at the socket's state afterwards.
    pub fn subscribe(&self, waitable: WaitableId) {
        self.waiters[waitable.index() / 64].fetch_or(1 << (waitable.index() % 64), Ordering::AcqRel);
        fence_after_rmw();
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
            if waitables[id.index()].list(socket.slot) {
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
    /// Lists a socket as ready: by the engine, and by the family for a level-triggered member that is still ready. True:
    /// somebody sleeps; write the doorbell (engine) or wake one of them (family).
    #[must_use]
    pub fn list(&self, slot: Slot) -> bool {
        let word = slot.index() / 64;
        self.ready[word].fetch_or(1 << (slot.index() % 64), Ordering::AcqRel);
        fence_after_rmw();
        let summary = &self.summary[word / 64];
        let bit = 1 << (word % 64);
        if summary.load(Ordering::Relaxed) & bit == 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
            fence_after_rmw();
        }
        self.wake()
    }

    /// True when the doorbell is to be rung: somebody sleeps, and this call is the one that wakes. A fence has gone
    /// before, after what there is to see was published.
    #[must_use]
    pub fn wake(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed) != 0 && self.sleeping.swap(0, Ordering::AcqRel) != 0
    }

    /// The waiter has taken all the news and is about to block. True: block on the doorbell, unless a look at the socket
    /// it waits for says otherwise. False: a socket was listed meanwhile. [`leave`](Self::leave) in either case.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        self.announce()
    }

    fn announce(&self) -> bool {
        self.sleeping.swap(1, Ordering::AcqRel);
        fence_after_rmw();
        !self.has_news()
    }

    /// The waiter blocks no longer (or found after [`enter`](Self::enter) that it need not), has taken the news it can
    /// and, if there was no more, the doorbell's byte. True: it leaves news to others who sleep, wake one.
    #[must_use]
    pub fn leave(&self) -> bool {
        // A count that a hostile relative set to 0 does not wrap.
        let _ = self.sleepers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| count.checked_sub(1));
        self.sleeping.swap(0, Ordering::AcqRel);
        fence_after_rmw();
        // Who entered before the swap is counted here; who enters after it announces itself.
        self.sleepers.load(Ordering::Relaxed) != 0 && !self.announce() && self.wake()
    }

    /// True when sockets are listed.
    pub fn has_news(&self) -> bool {
        self.summary.iter().any(|summary| summary.load(Ordering::Acquire) != 0)
    }

    /// Starts a round over the listed sockets. What is not taken from the result must be put back
    /// ([`News::put_back`]).
    pub fn take_news(&self) -> News {
        let mut news = News::default();
        for (taken, summary) in news.summary.iter_mut().zip(&self.summary) {
            if summary.load(Ordering::Relaxed) != 0 {
                *taken = summary.swap(0, Ordering::AcqRel);
            }
        }
        fence_after_rmw();
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

    /// Lists again what this round has not come to. True: another thread, which sleeps, may have looked meanwhile and
    /// found nothing; wake one.
    #[must_use]
    pub fn put_back(self, waitable: &Waitable) -> bool {
        let mut summary = self.summary;
        if self.bits != 0 {
            waitable.ready[self.word].fetch_or(self.bits, Ordering::AcqRel);
            summary[self.word / 64] |= 1 << (self.word % 64);
        }
        if summary.iter().all(|&left| left == 0) {
            return false;
        }
        for (left, summary) in summary.iter().zip(&waitable.summary) {
            if *left != 0 {
                summary.fetch_or(*left, Ordering::AcqRel);
            }
        }
        fence_after_rmw();
        waitable.wake()
    }
}
