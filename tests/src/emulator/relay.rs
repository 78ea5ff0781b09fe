//! The loop of the emulator: frames in at one end, through a `Path`, out at the other when they are due; both
//! directions in one thread, which sleeps between.
//!
//! Frames carry the time at which the kernel took them, so that looking late changes no due time as long as it is not
//! later than the shortest delay. So while frames come, the thread does not wake up for each but once in a *quantum*, a
//! tenth of the shortest delay; what is due by then leaves together. How late frames left is counted.

use super::conditions::Conditions;
use super::counters::Counters;
use super::end::{self, End};
use super::path::Path;
use super::pending::{Frames, Pending, Slot};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Frames under way in both directions: 128 MiB, of which only what is used is ever touched.
const FRAMES: u32 = 65_536;
/// Frames of one look at a ring.
const LOOK: usize = 256;
const QUANTUM_MAX: u64 = 100_000;
/// The longest sleep, so that a stop is heard.
const NAP: u64 = 50_000_000;

/// What to join, and how.
pub struct Relay {
    /// Interfaces; what comes at the first leaves by the second under the first conditions.
    pub interfaces: [String; 2],
    pub conditions: [Conditions; 2],
    pub seed: u64,
    /// After which the relay ends by itself.
    pub lifetime: Duration,
}

struct Direction {
    path: Path,
    pending: Pending,
    /// Taken from `pending` and not sent yet, oldest first.
    ready: Vec<(u64, Slot)>,
}

impl Direction {
    fn new(conditions: &Conditions, seed: u64) -> Self {
        let pending = Pending::new(FRAMES as usize);
        Self { path: Path::new(conditions.clone(), seed), pending, ready: Vec::with_capacity(end::batch()) }
    }

    /// Takes what has come.
    fn take(&mut self, from: &mut End, frames: &mut Frames, clock: &Clock) -> usize {
        let Self { path, pending, .. } = self;
        from.receive(LOOK, |came, frame| {
            let Some(slot) = frames.store(frame) else {
                path.counters.overflowed += 1;
                return;
            };
            let Some(delivery) = path.offer(clock.since_start(came), frames.bytes_mut(slot)) else {
                return frames.release(slot);
            };
            pending.push(delivery.due, slot);
            if delivery.twice {
                match frames.again(slot) {
                    Some(copy) => pending.push(delivery.due, copy),
                    None => path.counters.overflowed += 1,
                }
            }
        })
    }

    /// Sends what is due; says whether everything that is went.
    fn give(&mut self, to: &mut End, frames: &mut Frames, clock: &Clock) -> bool {
        loop {
            let now = clock.now();
            while self.ready.len() < end::batch() {
                let Some(next) = self.pending.pop_due(now) else { break };
                self.ready.push(next);
            }
            if self.ready.is_empty() {
                return true;
            }
            let sent = to.send(self.ready.iter().map(|(_, slot)| frames.bytes(*slot)));
            if sent.done == 0 {
                return false;
            }
            let counters = &mut self.path.counters;
            counters.refused += sent.refused as u64;
            for (due, slot) in self.ready.drain(..sent.done) {
                counters.forwarded += 1;
                counters.forwarded_bytes += frames.bytes(slot).len() as u64;
                counters.lateness.record(now - due);
                frames.release(slot);
            }
            counters.forwarded -= sent.refused as u64;
        }
    }
}

impl Relay {
    /// Forwards until `stop` or the end of the lifetime. The counts, as JSON.
    pub fn run(&self, stop: &AtomicBool) -> Result<Value> {
        let [first, second] = &self.interfaces;
        let mut ends = [End::open(first)?, End::open(second)?];
        prefer_this_thread()?;
        let clock = Clock::start();
        let mut frames = Frames::new(FRAMES);
        // The two directions draw differently.
        let seeds = [self.seed, self.seed ^ u64::MAX];
        let mut directions = [0, 1].map(|at| Direction::new(&self.conditions[at], seeds[at]));
        let shortest = self.conditions.iter().map(|one| one.delay.as_nanos() as u64).min().unwrap_or(0);
        let quantum = (shortest / 10).min(QUANTUM_MAX);
        let lifetime = self.lifetime.as_nanos() as u64;
        while !stop.load(Ordering::Relaxed) && clock.now() < lifetime {
            let (mut taken, mut all) = (0, true);
            for (at, direction) in directions.iter_mut().enumerate() {
                taken += direction.take(&mut ends[at], &mut frames, &clock);
                all &= direction.give(&mut ends[1 - at], &mut frames, &clock);
            }
            let next = directions.iter().filter_map(|direction| direction.pending.next_due()).min();
            let now = clock.now();
            let next = next.unwrap_or(now + NAP).min(now + NAP);
            if !all {
                // The device has no room; it has after the receiver's softirq.
                sleep(quantum.max(10_000));
            } else if taken == 0 {
                wait(&ends, next.saturating_sub(now))?;
            } else if quantum > 0 && taken < LOOK {
                // More is on its way, and none of it is due sooner than a delay from now.
                sleep(next.clamp(now + quantum / 2, now + quantum) - now);
            }
        }
        let seconds = clock.now() as f64 / 1e9;
        let counters = [0, 1].map(|at| {
            let missed = ends[at].missed();
            let Direction { path, pending, ready } = &directions[at];
            Counters { missed, under_way: (pending.len() + ready.len()) as u64, ..path.counters.clone() }
        });
        Ok(json!({
            "seed": self.seed,
            "seconds": seconds,
            "faults": counters[0].faults() + counters[1].faults(),
            "there": counters[0].to_json(),
            "back": counters[1].to_json(),
        }))
    }
}

/// Nanoseconds since the beginning, on the clock that the kernel stamps frames with. A step of that clock while the
/// emulator runs shows as lateness.
struct Clock {
    start: u64,
}

impl Clock {
    fn start() -> Self {
        Self { start: realtime() }
    }

    fn now(&self) -> u64 {
        self.since_start(realtime())
    }

    fn since_start(&self, time: u64) -> u64 {
        time.saturating_sub(self.start)
    }
}

fn realtime() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a timespec to a local one.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    assert_eq!(outcome, 0, "there is always a wall clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The emulator runs as soon as it is due, whatever the endpoints do, and its sleeps end when they should.
fn prefer_this_thread() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads one structure.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if outcome < 0 {
        return Err(io::Error::last_os_error()).context("cannot take a real-time priority (CAP_SYS_NICE is needed)");
    }
    // SAFETY: plain numbers.
    let outcome = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    if outcome < 0 { Err(io::Error::last_os_error()).context("cannot set the timer slack") } else { Ok(()) }
}

/// A signal may end it early.
fn sleep(nanoseconds: u64) {
    let time = timespec(nanoseconds);
    // SAFETY: reads one structure.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// Until a frame comes, `nanoseconds` at most.
fn wait(ends: &[End; 2], nanoseconds: u64) -> Result<()> {
    let mut members = [0, 1].map(|at| libc::pollfd { fd: End::number(&ends[at]), events: libc::POLLIN, revents: 0 });
    let time = timespec(nanoseconds);
    // SAFETY: two members, as said, and a time.
    let outcome = unsafe { libc::ppoll(members.as_mut_ptr(), 2, &raw const time, std::ptr::null()) };
    match io::Error::last_os_error() {
        error if outcome < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error).context("cannot wait"),
        _ => Ok(()),
    }
}

fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 }
}
