//! Lanes: commands in order and whole, replies to the one who asked, lanes of the dead taken over.

use super::{Doorbell, check};
use crate::lane::{LaneReader, Next, claim};
use crate::layout::*;
use crate::memory::WaitableId;
use crate::sync::Ordering;
use core::array::from_fn;
use loom::sync::Arc;
use loom::thread;

struct Shard {
    lanes: [Lane; LANES],
    attention: Attention,
    waitables: [Waitable; WAITABLES],
}

impl Shard {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lanes: from_fn(|_| Lane::fresh()),
            attention: Attention::fresh(),
            waitables: from_fn(|_| Waitable::fresh()),
        })
    }
}

fn command(value: u64) -> Command {
    Command::new(op::RELEASE, value as u32, 0, [value; 6])
}

fn take(reader: &mut LaneReader, shard: &Shard) -> Option<u64> {
    match reader.next(&shard.lanes[0]) {
        Next::Command(command) => {
            assert_eq!(command.args, [command.args[0]; 6], "a command is whole");
            assert_eq!(command.socket as u64, command.args[0]);
            Some(command.args[0])
        }
        Next::Nothing => None,
        Next::Damaged => panic!("nobody damaged the lane"),
    }
}

#[test]
fn loom_lane_ring() {
    check(3, || {
        let shard = Shard::new();
        let family = {
            let shard = shard.clone();
            thread::spawn(move || {
                let guard = claim(&shard.lanes, &shard.attention, 9, |_| true).expect("a free lane");
                let mut pushed = 0;
                for value in 1..=3 {
                    // The ring holds two: the third finds room only after the engine took one.
                    pushed += guard.push(&command(value)).is_ok() as usize;
                }
                pushed
            })
        };
        let mut reader = LaneReader::new();
        let mut seen = Vec::new();
        for _ in 0..2 {
            if let Some(value) = take(&mut reader, &shard) {
                seen.push(value);
                assert_eq!(reader.complete(&shard.lanes[0], &shard.waitables, 0, &[]), None);
            }
        }
        let pushed = family.join().expect("the family ends");
        while let Some(value) = take(&mut reader, &shard) {
            seen.push(value);
            reader.complete(&shard.lanes[0], &shard.waitables, 0, &[]);
        }
        assert!(pushed >= 2);
        assert_eq!(seen, (1..=pushed as u64).collect::<Vec<_>>());
        assert_eq!(shard.lanes[0].owner.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn loom_lane_reply() {
    check(3, || {
        let shard = Shard::new();
        let doorbell = Doorbell::new();
        let shard_bell = Doorbell::new();
        let family = {
            let (shard, doorbell, shard_bell) = (shard.clone(), doorbell.clone(), shard_bell.clone());
            thread::spawn(move || {
                let waitable = WaitableId::new(3).expect("in range");
                let guard = claim(&shard.lanes, &shard.attention, 9, |_| true).expect("a free lane");
                guard.wait_on(waitable);
                let pushed = guard.push(&command(7).with_reply()).expect("room");
                if pushed.ring {
                    shard_bell.ring();
                }
                let waitable = &shard.waitables[waitable.index()];
                loop {
                    if let Some(result) = guard.result(pushed.ticket) {
                        let mut reply = [0; 8];
                        guard.reply(&mut reply);
                        return (result, reply);
                    }
                    if waitable.enter() && guard.result(pushed.ticket).is_none() {
                        doorbell.sleep();
                    }
                    assert!(!waitable.leave(), "nobody else sleeps here");
                }
            })
        };
        let mut reader = LaneReader::new();
        loop {
            if take(&mut reader, &shard).is_some() {
                if reader.complete(&shard.lanes[0], &shard.waitables, -5, b"answer!!").is_some() {
                    doorbell.ring();
                }
                break;
            }
            shard.attention.collect();
            if take_nothing(&reader, &shard) && shard.attention.park() {
                shard_bell.sleep();
            }
        }
        assert_eq!(family.join().expect("the family ends"), (-5, *b"answer!!"));
    });
}

/// After collecting the marks the shard looks at the lanes before it sleeps.
fn take_nothing(reader: &LaneReader, shard: &Shard) -> bool {
    let mut probe = *reader;
    matches!(probe.next(&shard.lanes[0]), Next::Nothing)
}

#[test]
fn loom_lane_of_a_dead_thread() {
    check(3, || {
        let shard = Shard::new();
        for lane in &shard.lanes {
            lane.owner.store(13, Ordering::Relaxed);
        }
        let claimants: Vec<_> = (20..22)
            .map(|tid| {
                let shard = shard.clone();
                thread::spawn(move || {
                    let guard = claim(&shard.lanes, &shard.attention, tid, |owner| owner != 13);
                    // Nobody else has it while we hold it.
                    guard.map(|guard| (guard.push(&command(tid as u64)).is_ok(), core::mem::forget(guard)).0)
                })
            })
            .collect();
        for claimant in claimants {
            assert_eq!(claimant.join().expect("ends"), Some(true), "two dead lanes serve two threads");
        }
        let mut owners: Vec<_> = shard.lanes.iter().map(|lane| lane.owner.load(Ordering::Relaxed)).collect();
        owners.sort();
        assert_eq!(owners, [20, 21]);
    });
}
