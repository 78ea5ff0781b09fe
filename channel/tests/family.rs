//! Lanes, accept rings, attention, waitables, ownership words and slots with real threads.
#![cfg(not(loom))]

mod common;

use common::{Memory, PARAMETERS, Random};
use persona_channel::accept::{AcceptFull, AcceptWriter, Accepted};
use persona_channel::attention::Marks;
use persona_channel::lane::{LaneFull, LaneReader, Next};
use persona_channel::layout::*;
use persona_channel::memory::*;
use persona_channel::owner::{Taken, acquire, take_over};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

fn shard() -> Shard {
    Shard::new(1).expect("in range")
}

fn slot(index: u32) -> Slot {
    Slot::new(index).expect("in range")
}

fn alive(_: u32) -> bool {
    true
}

#[test]
fn a_session_is_what_the_engine_said() {
    let memory = Memory::with(&PARAMETERS);
    let session = memory.session();
    let header = session.header();
    assert_eq!((header.magic, header.abi, header.shards), (MAGIC, ABI_VERSION, 2));
    assert_eq!((header.session, header.token), (7, [3, 4]));
    let mut policy = [0; POLICY_SIZE];
    let len = session.policy(&mut policy);
    assert_eq!(&policy[..len], b"policy");
    assert_eq!(session.free_sockets().count(), SOCKETS);
    assert_eq!(session.pool().free.count(), CHUNKS);
    assert!(!session.dead());
    session.set_dead();
    assert!(session.dead());

    let small = Memory::with(&Parameters { sockets: 70, chunks: 1, ..PARAMETERS });
    let session = small.session();
    let claimed: Vec<_> = std::iter::from_fn(|| session.claim_slot(5)).map(|socket| socket.slot.get()).collect();
    assert_eq!(claimed, (0..70).collect::<Vec<_>>());
    assert!(session.pool().claim().is_some() && session.pool().claim().is_none());
}

#[test]
fn indexes_out_of_range_do_not_exist() {
    assert_eq!(Slot::new(SOCKETS as u32), None);
    assert_eq!(WaitableId::new(u32::MAX), None);
    assert_eq!(Shard::new(SHARDS as u32), None);
    let memory = Memory::new();
    let bitmap = memory.session().free_waitables();
    bitmap.free(u32::MAX);
    assert!(!bitmap.is_free(u32::MAX));
    assert_eq!(bitmap.claim_in(0..1 << 40), None);
    assert!(memory.session().interest(WaitableId::new(EPOLL_SETS as u32).expect("in range"), slot(0)).is_none());
}

#[test]
fn a_recycled_slot_is_new_but_for_its_generation() {
    let memory = Memory::new();
    let session = memory.session();
    let socket = session.claim_slot(5).expect("a free slot");
    // SAFETY: the slot's lines, which nobody else uses; atomics of bytes.
    let line = |at: usize| unsafe {
        std::sync::atomic::AtomicU8::from_ptr((&raw const *socket.state).cast::<u8>().cast_mut().add(at))
    };
    let reserved = std::mem::offset_of!(Socket, address) + 48;
    let unused = |at: usize| at >= reserved || (56..64).contains(&at) || (120..128).contains(&at);
    (0..size_of::<Socket>()).filter(|&at| !unused(at)).for_each(|at| line(at).store(0xff, Ordering::Relaxed));
    session.recycle_slot(socket.slot);
    assert_eq!(socket.generation(), 0, "0xffff_ffff and one more");
    let dirty: Vec<_> = (0..size_of::<Socket>()).filter(|&at| line(at).load(Ordering::Relaxed) != 0).collect();
    assert_eq!(dirty, [0; 0], "every field was cleared");
    assert_eq!(session.claim_slot(9).expect("free again").slot, socket.slot);
    session.recycle_slot(socket.slot);
    assert_eq!(socket.generation(), 1);
}

#[test]
fn commands_of_many_threads_arrive_once_and_in_each_threads_order() {
    const THREADS: u32 = 4;
    const COMMANDS: u64 = 2000;
    let memory = Memory::new();
    let session = memory.session();
    std::thread::scope(|scope| {
        for tid in 1..=THREADS {
            scope.spawn(move || {
                for value in 0..COMMANDS {
                    let command = Command::new(op::RELEASE, tid, 0, [value; 6]);
                    loop {
                        let Some(guard) = session.claim_lane(shard(), tid, alive) else { continue };
                        if value % 100 == 99 {
                            let Ok(pushed) = guard.push(&command.with_reply()) else { continue };
                            let result = std::iter::repeat_with(|| {
                                std::thread::yield_now();
                                guard.result(pushed.ticket)
                            });
                            assert_eq!(result.flatten().next(), Some(tid as i32));
                            let mut reply = [0; 16];
                            guard.reply(&mut reply);
                            assert_eq!(u64::from_ne_bytes(reply[8..].try_into().expect("8 bytes")), value);
                            break;
                        }
                        match guard.push(&command) {
                            Ok(_) => break,
                            Err(LaneFull) => std::thread::yield_now(),
                        }
                    }
                }
            });
        }
        // A thread moves from lane to lane, so that order is each lane's: a value may overtake those in other lanes.
        let mut readers = [LaneReader::new(); LANES];
        let mut seen = BTreeSet::new();
        while seen.len() < (THREADS as u64 * COMMANDS) as usize {
            let mut marks = session.attention(shard()).collect();
            if marks.is_empty() {
                std::thread::yield_now();
            }
            while let Some(index) = marks.next_lane() {
                let lane = session.lane(shard(), index);
                let reader = &mut readers[index.index()];
                while let Next::Command(command) = reader.next(lane) {
                    assert_eq!(command.args, [command.args[0]; 6], "a command is whole");
                    assert!(seen.insert((command.socket, command.args[0])), "a command comes once");
                    let reply = [1, command.args[0]].map(u64::to_ne_bytes).concat();
                    let ring = reader.complete(lane, session.waitables(), command.socket as i32, &reply);
                    assert_eq!(ring, None, "nobody sleeps");
                }
            }
        }
    });
}

#[test]
fn nested_use_takes_another_lane_and_the_dead_leave_theirs() {
    let memory = Memory::new();
    let session = memory.session();
    let mut guards: Vec<_> = (0..LANES).map(|_| session.claim_lane(shard(), 7, alive).expect("a free lane")).collect();
    assert!(session.claim_lane(shard(), 7, |_| false).is_none(), "our own frames below us are not dead");
    assert!(session.claim_lane(shard(), 8, alive).is_none());
    let taken = session.claim_lane(shard(), 8, |tid| tid != 7).expect("thread 7 died");
    std::mem::forget(guards.remove(0));
    drop(taken);
    assert!(session.claim_lane(shard(), 9, alive).is_some());
}

#[test]
fn a_lane_whose_counters_make_no_sense_starts_afresh() {
    let memory = Memory::new();
    let session = memory.session();
    let lane = session.lane(shard(), LaneIndex::new(0).expect("in range"));
    let mut reader = LaneReader::new();
    lane.tail.store(12_345, Ordering::Relaxed);
    assert!(matches!(reader.next(lane), Next::Damaged));
    assert!(matches!(reader.next(lane), Next::Nothing));
    let guard = session.claim_lane(shard(), 7, alive).expect("a free lane");
    let pushed = guard.push(&Command::new(op::BIND, 1, 2, [3; 6]).with_reply()).expect("room");
    assert!(matches!(reader.next(lane), Next::Command(command) if command.op == op::BIND && command.generation == 2));
    assert_eq!(guard.result(pushed.ticket), None);
    reader.complete(lane, session.waitables(), -98, &[]);
    assert_eq!(guard.result(pushed.ticket), Some(-98));
}

#[test]
fn each_accepted_connection_goes_to_one_thread() {
    let memory = Memory::new();
    let session = memory.session();
    let ring = session.accept_ring(ListenerIndex::new(3).expect("in range"), shard());
    let accepted = Mutex::new(Vec::new());
    const CONNECTIONS: u32 = 20_000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while accepted.lock().expect("not poisoned").len() < CONNECTIONS as usize {
                    match ring.pop() {
                        Some(one) => accepted.lock().expect("not poisoned").push(one),
                        None => std::thread::yield_now(),
                    }
                }
            });
        }
        let mut writer = AcceptWriter::new();
        for number in 0..CONNECTIONS {
            let connection = Accepted { slot: slot(number % SOCKETS as u32), generation: number };
            while writer.push(ring, 64, connection) == Err(AcceptFull) {
                std::thread::yield_now();
            }
        }
    });
    let mut numbers: Vec<_> = accepted.into_inner().expect("not poisoned").iter().map(|one| one.generation).collect();
    numbers.sort();
    assert_eq!(numbers, (0..CONNECTIONS).collect::<Vec<_>>());
}

#[test]
fn a_backlog_bounds_the_accept_ring() {
    let memory = Memory::new();
    let ring = memory.session().accept_ring(ListenerIndex::new(0).expect("in range"), shard());
    let mut writer = AcceptWriter::new();
    let connection = Accepted { slot: slot(1), generation: 1 };
    assert_eq!(writer.push(ring, 0, connection), Err(AcceptFull));
    assert_eq!(writer.push(ring, 2, connection), Ok(()));
    assert_eq!(writer.push(ring, 2, connection), Ok(()));
    assert_eq!(writer.push(ring, 2, connection), Err(AcceptFull));
    assert_eq!((writer.take_back(ring).next(), writer.len(ring)), (Some(connection), Some(1)));
    // A family that moves the head back while the engine takes: each entry is taken once all the same.
    let back = writer.take_back(ring).inspect(|_| ring.head.store(1, Ordering::Relaxed)).take(3 * ACCEPT_RING);
    assert_eq!(back.count(), 1);
    writer.reset(ring);
    assert!(!ring.ready() && ring.pop().is_none());
    let pushed = (0..2 * ACCEPT_RING).take_while(|_| writer.push(ring, u32::MAX, connection).is_ok()).count();
    assert_eq!(pushed, ACCEPT_RING);
    ring.head.store(5000, Ordering::Relaxed);
    assert_eq!(writer.push(ring, 2, connection), Err(AcceptFull), "a head from nowhere is a full ring");
}

#[test]
fn marks_of_many_sockets_are_all_found_over_several_visits() {
    let mut random = Random::new("marks_of_many_sockets_are_all_found_over_several_visits");
    let memory = Memory::new();
    let attention = memory.session().attention(shard());
    let mut marks = Marks::default();
    let mut want = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        for _ in 0..random.below(100) {
            let socket = random.below(SOCKETS) as u32;
            want.insert(socket);
            assert!(!attention.mark_socket(slot(socket)), "nobody sleeps");
        }
        marks.merge(attention.collect());
        // A visit with a budget.
        seen.extend((0..40).map_while(|_| marks.next_socket(attention)).map(Slot::get));
    }
    seen.extend(std::iter::from_fn(|| marks.next_socket(attention)).map(Slot::get));
    assert_eq!(seen, want);
    assert!(marks.is_empty());
}

#[test]
fn a_parked_session_rings_once() {
    let memory = Memory::new();
    let attention = memory.session().attention(shard());
    assert!(attention.park());
    assert!(attention.mark_socket(slot(5)), "the first mark rings");
    assert!(!attention.mark_socket(slot(6)) && !attention.mark_lane(LaneIndex::new(2).expect("in range")));
    assert!(!attention.park(), "there is something to collect");
    let mut marks = attention.collect();
    assert_eq!(marks.next_lane().map(LaneIndex::get), Some(2));
    assert_eq!(marks.next_socket(attention), Some(slot(5)));
    assert_eq!(marks.next_socket(attention), Some(slot(6)));
    assert!(marks.is_empty() && attention.park());
}

#[test]
fn news_reach_the_subscribed_waitables_that_sleep() {
    let memory = Memory::new();
    let session = memory.session();
    let socket = session.claim_slot(1).expect("a free slot");
    let sets = [session.claim_epoll_set(), session.claim_waitable(44), session.claim_epoll_set()];
    let [first, blocked, second] = sets.map(|id| id.expect("a free waitable"));
    assert!(first.index() < EPOLL_SETS && blocked.index() >= EPOLL_SETS);
    socket.wait.subscribe(first);
    socket.wait.subscribe(blocked);
    assert!(session.waitable(blocked).enter());
    assert!(session.waitable(second).enter());
    let mut rung = Vec::new();
    session.notify(&socket, |id| rung.push(id));
    assert_eq!(rung, [blocked], "subscribed and asleep");
    session.notify(&socket, |id| rung.push(id));
    assert_eq!(rung, [blocked], "rung once for each sleep");
    let mut news = session.waitable(first).take_news();
    assert_eq!(news.next(session.waitable(first)), Some(socket.slot));
    assert_eq!(news.next(session.waitable(first)), None);
    assert!(!session.waitable(second).has_news());
    assert!(!session.waitable(blocked).leave());
    assert!(!session.waitable(blocked).enter(), "the news is still listed");
    session.release_waitable(blocked);
    assert_eq!(session.claim_waitable(45), Some(blocked));
    assert!(!session.waitable(blocked).has_news(), "as new");
}

#[test]
fn what_a_full_array_leaves_stays_listed() {
    let memory = Memory::new();
    let session = memory.session();
    let waitable = session.waitable(session.claim_epoll_set().expect("a free waitable"));
    let sockets = [3, 64, 65, 5000, 16_383].map(slot);
    for socket in sockets {
        assert!(!waitable.list(socket));
    }
    let mut news = waitable.take_news();
    assert_eq!([news.next(waitable), news.next(waitable)], [Some(sockets[0]), Some(sockets[1])]);
    assert!(!waitable.has_news());
    assert!(!news.put_back(waitable), "nobody sleeps");
    let mut news = waitable.take_news();
    assert_eq!(std::iter::from_fn(|| news.next(waitable)).collect::<Vec<_>>(), sockets[2..]);
    assert!(waitable.enter());
    assert!(waitable.list(sockets[0]), "a sleeper is woken");
    assert!(waitable.unlist(sockets[0]) && !waitable.unlist(sockets[0]));
}

#[test]
fn a_word_has_one_owner_and_outlives_it() {
    let word = AtomicU32::new(0);
    let owned = acquire(&word, 5, alive).expect("free");
    assert!(!owned.recovered);
    assert_eq!(acquire(&word, 6, alive).err(), Some(Taken::By(5)));
    assert_eq!(acquire(&word, 5, alive).err(), Some(Taken::Ourselves));
    std::mem::forget(owned);
    let owned = acquire(&word, 6, |tid| tid != 5).expect("thread 5 died");
    assert!(owned.recovered);
    std::mem::forget(owned);
    drop(take_over(&word));
    assert!(acquire(&word, 7, alive).is_ok_and(|owned| !owned.recovered));
}
