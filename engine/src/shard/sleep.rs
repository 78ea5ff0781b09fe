//! How long a shard looks for work before it sleeps, and how it sleeps without missing any.
//!
//! While there is work, the shard polls. Without any it goes on looking for a bounded time, yielding the processor to whatever
//! shares it, and then announces that it sleeps: to every session, to the other threads; fences; looks at everything once
//! more; and blocks until a descriptor or a timer wakes it. The time it looks adapts: a sleep that proves short was
//! a mistake and lengthens it, a long one shortens it.

use super::Shard;
use super::host::shard_index;
use persona_channel::attention::sleep_fence;
use persona_channel::layout::Attention;
use persona_channel::memory::Slot;
use persona_stack::Instant;
use rustix::event::{Timespec, epoll};
use std::time::Duration;

/// Longest time to look for work when it adapts, in microseconds.
const LONGEST_SPIN: u64 = 100;
/// A sleep shorter than this was not worth it, in microseconds.
const SHORT_SLEEP: u64 = 150;
/// Iterations between looks at the descriptors (hang-ups, events of parked sessions) while there is work.
const GLANCE_EVERY: u64 = 64;
/// Output that waits for a neighbour is tried again after this, in microseconds, should the reply that wakes us have been
/// lost on its way between shards. A full port is no reason to sleep at all.
const PENDING_OUTPUT: u64 = 10_000;
/// Descriptors taken from the kernel at once.
const EVENTS: usize = 256;

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Waker,
    Port(u32),
    Session(u32),
    Anchor { session: u32, slot: Slot },
}

const WAKER: u64 = 0;
const PORT: u64 = 1;
const SESSION: u64 = 2;
const ANCHOR: u64 = 3;

impl Token {
    /// Kind in the upper 8 bits, then session (24 bits) and slot.
    pub fn data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Token::Waker => WAKER << 56,
            Token::Port(index) => PORT << 56 | u64::from(index),
            Token::Session(session) => SESSION << 56 | u64::from(session) << 32,
            Token::Anchor { session, slot } => ANCHOR << 56 | u64::from(session) << 32 | u64::from(slot.get()),
        })
    }

    pub fn parse(data: epoll::EventData) -> Option<Self> {
        let data = data.u64();
        let session = (data >> 32) as u32 & 0x00ff_ffff;
        match data >> 56 {
            WAKER => Some(Token::Waker),
            PORT => Some(Token::Port(data as u32)),
            SESSION => Some(Token::Session(session)),
            ANCHOR => Some(Token::Anchor { session, slot: Slot::new(data as u32)? }),
            _ => None,
        }
    }
}

/// When to stop looking for work.
pub struct Idle {
    fixed: Option<u64>,
    budget: u64,
    busy: bool,
    /// When there was last something to do.
    since: Instant,
    last_glance: u64,
}

impl Idle {
    pub fn new(spin: Option<Duration>) -> Self {
        let fixed = spin.map(|spin| spin.as_micros() as u64);
        Self { fixed, budget: fixed.unwrap_or(LONGEST_SPIN / 4), busy: true, since: Instant::default(), last_glance: 0 }
    }

    pub fn is_busy(&self) -> bool {
        self.busy
    }

    pub fn note(&mut self, busy: bool) {
        self.busy = busy;
    }

    fn slept(&mut self, micros: u64) {
        if self.fixed.is_none() {
            self.budget = match micros {
                ..SHORT_SLEEP => (self.budget * 2 + 5).min(LONGEST_SPIN),
                _ => self.budget / 2,
            };
        }
    }
}

impl Shard<'_> {
    /// While there is work: looks at the descriptors now and then, so that a hang-up or a parked session does not wait
    /// for a lull.
    pub(crate) fn glance(&mut self, busy: bool) {
        if busy {
            self.idle.since = self.now;
        }
        if self.iteration - self.idle.last_glance >= GLANCE_EVERY {
            self.idle.last_glance = self.iteration;
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            self.wait(Some(&now));
        }
    }

    /// Nothing to do: yields, and sleeps when that has lasted.
    pub(crate) fn rest(&mut self) {
        if self.now.since(self.idle.since).as_micros() < self.idle.budget {
            std::thread::yield_now();
            return;
        }
        if !self.announce() {
            self.cancel();
            return;
        }
        let asleep = crate::clock::now();
        let timeout = self.next_deadline().map(|due| {
            let micros = due.since(asleep).as_micros();
            Timespec { tv_sec: (micros / 1_000_000) as i64, tv_nsec: (micros % 1_000_000 * 1_000) as i64 }
        });
        self.host.counters.sleeps += 1;
        // The descriptors are dealt with when everybody has been told that we are awake.
        self.block(timeout.as_ref());
        self.cancel();
        self.idle.last_glance = self.iteration;
        let awake = crate::clock::now();
        self.idle.slept(awake.since(asleep).as_micros());
        self.idle.since = awake;
        self.now = awake;
        self.deal_with_events();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let flows = self.host.flows.next_end();
        let output =
            self.stack.output_pending().then(|| self.now + persona_stack::Duration::from_micros(PENDING_OUTPUT));
        [self.stack.next_timeout(), flows, self.stopping, output].into_iter().flatten().min()
    }

    /// Says that we sleep, and looks once more; `false` when there is something to do after all.
    fn announce(&mut self) -> bool {
        self.links.waker().announce();
        self.for_active(Attention::announce_sleep);
        sleep_fence();
        // Marks that were put off are none: a session that had some made the last iteration a busy one.
        let done = [self.unfinished_relays.is_empty(), self.early.is_empty()];
        if !self.links.is_empty()
            || !self.host.sessions.all_watched()
            || done.contains(&false)
            || self.host.port_was_full
        {
            return false;
        }
        let mut raised = false;
        self.for_active(|attention| raised |= attention.is_raised());
        // A port without a descriptor (in memory) could not wake us.
        !raised
            && !self.host.attachments.iter_mut().any(|attachment| {
                attachment.port.as_mut().is_some_and(|port| port.pending() || port.poll_fd().is_none())
            })
    }

    fn cancel(&mut self) {
        self.links.waker().cancel();
        self.for_active(Attention::wake_up);
    }

    /// The attention of each session that is not parked: a parked one has announced already.
    fn for_active(&mut self, mut act: impl FnMut(&Attention)) {
        let shard = shard_index(self.links.index);
        for place in 0..self.host.sessions.active().len() {
            let session = self.host.sessions.active()[place];
            if let Some(attached) = self.host.sessions.get(session) {
                act(attached.session.view().attention(shard));
            }
        }
    }

    fn wait(&mut self, timeout: Option<&Timespec>) {
        self.block(timeout);
        self.deal_with_events();
    }

    /// Leaves what the kernel reports in `events`, whose memory stays from one sleep to the next.
    fn block(&mut self, timeout: Option<&Timespec>) {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS];
        // An error is a signal: whoever sent it is heard elsewhere.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout) {
            self.events.extend(events.iter().filter_map(|event| Token::parse(event.data)));
        }
    }

    fn deal_with_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for &event in &events {
            match event {
                Token::Waker | Token::Port(_) => {}
                Token::Session(session) => {
                    if self.host.sessions.unpark(session, self.iteration)
                        && let Some(attached) = self.host.sessions.get(session)
                    {
                        attached.session.view().attention(shard_index(self.links.index)).wake_up();
                    }
                }
                Token::Anchor { session, slot } => self.anchor_event(session, slot),
            }
        }
        if !events.is_empty() {
            self.idle.note(true);
        }
        events.clear();
        self.events = events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let slot = Slot::new(16_383).unwrap();
        for token in
            [Token::Waker, Token::Port(7), Token::Session(0xff_ffff), Token::Anchor { session: 0x12_3456, slot }]
        {
            assert_eq!(Token::parse(token.data()), Some(token));
        }
        assert_eq!(Token::parse(epoll::EventData::new_u64(u64::MAX)), None);
    }

    #[test]
    fn short_sleeps_lengthen_the_search_up_to_its_bound_and_long_ones_end_it() {
        let mut idle = Idle::new(None);
        for _ in 0..10 {
            idle.slept(20);
        }
        assert_eq!(idle.budget, LONGEST_SPIN);
        for _ in 0..10 {
            idle.slept(1_000_000);
        }
        assert_eq!(idle.budget, 0);
        let mut fixed = Idle::new(Some(Duration::from_micros(30)));
        fixed.slept(1);
        assert_eq!(fixed.budget, 30);
    }
}
