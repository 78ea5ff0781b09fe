//! The sent queue against a model that knows the fate of every byte.

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flying,
    Sacked,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Byte {
    fate: Fate,
    resent: bool,
    sent_at: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        len: u64,
        grain: u64,
    },
    Ack(u64),
    Sack(u64, u64),
    /// Loses what was sent at or before this part (of 8) of the time that has passed.
    Lose(u64),
    LoseHead(u64),
    Resend(u64),
    FindAgain,
    Renege,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..40, 0u64..3).prop_map(|(len, grain)| Step::Send { len, grain }),
        3 => (0u64..60).prop_map(Step::Ack),
        6 => (0u64..100, 1u64..30).prop_map(|(from, len)| Step::Sack(from, len)),
        2 => (0u64..9).prop_map(Step::Lose),
        1 => (1u64..20).prop_map(Step::LoseHead),
        3 => (1u64..30).prop_map(Step::Resend),
        1 => Just(Step::FindAgain),
        1 => Just(Step::Renege),
    ];
    prop::collection::vec(step, 1..120)
}

fn departure(at: u64, grain: u64) -> Departure {
    Departure {
        at,
        delivered: 0,
        since_delivery: 0,
        since_first: 0,
        in_flight: 0,
        lost_before: 0,
        app_limited: false,
        grain,
    }
}

/// Records of a pool for `queues` queues and `shared` more.
struct Memory {
    records: Vec<Flight>,
    state: PoolState,
    flying: u32,
    reserved: u32,
    refusals: u64,
}

impl Memory {
    fn new(queues: u32, shared: u32) -> Self {
        let records = vec![zerocopy::FromZeros::new_zeroed(); (queues + shared) as usize];
        Self { records, state: PoolState::EMPTY, flying: 0, reserved: queues, refusals: 0 }
    }

    fn pool(&mut self) -> FlightPool<'_> {
        FlightPool {
            records: &mut self.records,
            state: &mut self.state,
            queues: &mut self.flying,
            reserved: self.reserved,
            refusals: &mut self.refusals,
        }
    }
}

fn check(pool: &FlightPool<'_>, queue: &SentQueue, model: &[Byte], una: u64) {
    let mut at = una;
    let mut count = 0;
    for flight in walk(pool.records, queue) {
        assert_eq!(flight.start, at);
        for number in flight.start..flight.end {
            let byte = model[number as usize];
            let fate = match flight.bits & (bit::SACKED | bit::LOST) {
                0 => Fate::Flying,
                bit::SACKED => Fate::Sacked,
                _ => Fate::Lost,
            };
            assert_eq!(fate, byte.fate, "byte {number}");
            if fate == Fate::Flying {
                assert_eq!(flight.has(bit::RESENT), byte.resent, "byte {number}");
                assert!(flight.sent_at <= byte.sent_at && byte.sent_at <= flight.sent_at + 2, "byte {number}");
            }
        }
        at = flight.end;
        count += 1;
    }
    assert_eq!((at, count), (model.len() as u64, queue.count));
    let sum = |test: &dyn Fn(&Byte) -> bool| model[una as usize..].iter().filter(|byte| test(byte)).count() as u32;
    assert_eq!(queue.sacked, sum(&|byte| byte.fate == Fate::Sacked));
    assert_eq!(queue.lost, sum(&|byte| byte.fate == Fate::Lost));
    assert_eq!(queue.resent, sum(&|byte| byte.fate == Fate::Flying && byte.resent));
    let (mut index, mut flying, mut last) = (queue.oldest(), 0, 0);
    while let Some(flight) = pool.get(index) {
        assert!(!flight.has(bit::SACKED | bit::LOST) && flight.sent_at >= last);
        (last, index, flying) = (flight.sent_at, flight.newer(), flying + flight.len() as u32);
    }
    assert_eq!(flying, sum(&|byte| byte.fate == Fate::Flying));
    assert_eq!(pool.state.used(), queue.count);
}

proptest! {
    #[test]
    fn knows_the_fate_of_every_byte(steps in steps()) {
        let mut memory = Memory::new(1, 1_024);
        let mut queue = SentQueue::EMPTY;
        let mut model: Vec<Byte> = Vec::new();
        let (mut una, mut now) = (0u64, 10u64);
        for step in steps {
            now += 1;
            let mut pool = memory.pool();
            let nxt = model.len() as u64;
            match step {
                Step::Send { len, grain } => {
                    prop_assert!(pool.can_grow(&queue));
                    pool.sent(&mut queue, nxt, nxt + len, &departure(now, grain));
                    let byte = Byte { fate: Fate::Flying, resent: false, sent_at: now };
                    model.resize((nxt + len) as usize, byte);
                }
                Step::Ack(len) => {
                    let to = (una + len).min(nxt);
                    let expected = model[una as usize..to as usize].iter().filter(|byte| byte.fate != Fate::Sacked);
                    let expected = expected.count() as u64;
                    let mut seen = 0;
                    pool.acked(&mut queue, to, |flight| seen += flight.len());
                    prop_assert_eq!(seen, expected);
                    una = to;
                }
                Step::Sack(from, len) => {
                    let (from, to) = ((una + from).min(nxt), (una + from + len).min(nxt));
                    let part = &mut model[from as usize..to as usize];
                    let expected = part.iter().filter(|byte| byte.fate != Fate::Sacked).count() as u64;
                    part.iter_mut().for_each(|byte| byte.fate = Fate::Sacked);
                    let mut seen = 0;
                    let added = pool.sacked(&mut queue, from, to, |flight| seen += flight.len());
                    prop_assert_eq!((added, seen), (expected, expected));
                }
                Step::Lose(part) => {
                    let limit = now * part / 8;
                    // By flight, as RACK does: all bytes of one share a moment, but for the grain.
                    let mut gone = Vec::new();
                    pool.lose_where(&mut queue, |flight| {
                        let lost = flight.sent_at <= limit;
                        if lost {
                            gone.push((flight.start, flight.end));
                        }
                        lost
                    });
                    for (start, end) in gone {
                        model[start as usize..end as usize].iter_mut().for_each(|byte| byte.fate = Fate::Lost);
                    }
                }
                Step::LoseHead(most) => {
                    let lost = pool.lose_head(&mut queue, most);
                    let part = &mut model[una as usize..(una + lost) as usize];
                    prop_assert!(lost <= most && part.iter().all(|byte| byte.fate == Fate::Flying));
                    part.iter_mut().for_each(|byte| byte.fate = Fate::Lost);
                }
                Step::Resend(most) => match pool.first_lost(&mut queue) {
                    Some((index, start, end)) => {
                        let first = model.iter().enumerate().skip(una as usize);
                        let first = first.clone().find(|(_, byte)| byte.fate == Fate::Lost).map(|(at, _)| at as u64);
                        prop_assert_eq!(first, Some(start));
                        let len = most.min(end - start);
                        pool.resent(&mut queue, index, len, &departure(now, 0));
                        let byte = Byte { fate: Fate::Flying, resent: true, sent_at: now };
                        model[start as usize..(start + len) as usize].fill(byte);
                    }
                    None => prop_assert!(model[una as usize..].iter().all(|byte| byte.fate != Fate::Lost)),
                },
                Step::FindAgain | Step::Renege => {
                    let fate = if matches!(step, Step::Renege) { Fate::Sacked } else { Fate::Lost };
                    match fate {
                        Fate::Sacked => pool.forget_sacks(&mut queue),
                        _ => pool.find_again(&mut queue),
                    }
                    // A sacked run keeps the youngest of its times and whether any of it was sent twice.
                    for flight in walk(pool.records, &queue) {
                        for byte in &mut model[flight.start as usize..flight.end as usize] {
                            if byte.fate == fate {
                                *byte = Byte {
                                    fate: Fate::Flying,
                                    resent: flight.has(bit::RESENT),
                                    sent_at: flight.sent_at,
                                };
                            }
                        }
                    }
                }
            }
            check(&memory.pool(), &queue, &model, una);
        }
        memory.pool().clear(&mut queue);
        prop_assert_eq!((memory.state.used(), memory.flying), (0, 0));
    }

    /// With hardly any records nothing is ever forgotten but what the peer has sacked: sent bytes stay in the queue.
    #[test]
    fn goes_on_without_records(steps in steps(), shared in 0u32..4) {
        let mut memory = Memory::new(1, shared);
        let mut queue = SentQueue::EMPTY;
        let (mut una, mut nxt, mut now) = (0u64, 0u64, 10u64);
        for step in steps {
            now += 1;
            let mut pool = memory.pool();
            match step {
                Step::Send { len, grain } => {
                    if pool.can_grow(&queue) {
                        pool.sent(&mut queue, nxt, nxt + len, &departure(now, grain));
                        nxt += len;
                    }
                }
                Step::Ack(len) => {
                    una = (una + len).min(nxt);
                    pool.acked(&mut queue, una, |_| {});
                }
                Step::Sack(from, len) => {
                    pool.sacked(&mut queue, (una + from).min(nxt), (una + from + len).min(nxt), |_| {});
                }
                Step::Lose(part) => {
                    pool.lose_where(&mut queue, |flight| flight.sent_at <= now * part / 8);
                }
                Step::LoseHead(most) => {
                    pool.lose_head(&mut queue, most);
                }
                Step::Resend(most) => {
                    if let Some((index, start, end)) = pool.first_lost(&mut queue) {
                        pool.resent(&mut queue, index, most.min(end - start), &departure(now, 0));
                    }
                }
                Step::FindAgain => pool.find_again(&mut queue),
                Step::Renege => pool.forget_sacks(&mut queue),
            }
            let pool = memory.pool();
            let (mut at, mut sums, mut flying) = (una, [0u32; 3], 0);
            for flight in walk(pool.records, &queue) {
                prop_assert_eq!(flight.start, at);
                at = flight.end;
                let len = flight.len() as u32;
                match flight.bits & (bit::SACKED | bit::LOST) {
                    bit::SACKED => sums[0] += len,
                    bit::LOST => sums[1] += len,
                    _ => {
                        flying += 1;
                        sums[2] += if flight.has(bit::RESENT) { len } else { 0 };
                    }
                }
            }
            prop_assert_eq!(at, nxt.max(una));
            prop_assert_eq!(sums, [queue.sacked, queue.lost, queue.resent]);
            let mut index = queue.oldest();
            while let Some(flight) = pool.get(index) {
                flying -= 1;
                index = flight.newer();
            }
            prop_assert_eq!(flying, 0);
        }
    }
}

#[test]
fn what_left_after_a_repetition_does_not_join_what_left_before() {
    let mut memory = Memory::new(1, 16);
    let mut queue = SentQueue::EMPTY;
    let mut pool = memory.pool();
    pool.sent(&mut queue, 0, 10, &departure(100, 50));
    pool.sent(&mut queue, 10, 20, &departure(120, 50));
    assert_eq!(queue.count, 1, "within the grain");
    pool.lose_head(&mut queue, 10);
    let head = queue.head_index();
    pool.resent(&mut queue, head, 10, &departure(130, 50));
    pool.sent(&mut queue, 20, 30, &departure(140, 50));
    let times: Vec<_> = walk(pool.records, &queue).map(|flight| (flight.start, flight.sent_at)).collect();
    assert_eq!(times, [(0, 130), (10, 100), (20, 140)]);
}
