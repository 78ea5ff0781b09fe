use super::*;

const MS: u64 = 1_000_000;
/// With what Ethernet adds: 1,538 bytes on the wire.
const FULL: usize = 1514;

fn path(text: &str) -> Path {
    Path::new(Conditions::parse(text).unwrap(), 7)
}

fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    frame
}

/// Due times of `count` frames, one each `gap` ns.
fn run(path: &mut Path, count: u64, gap: u64) -> Vec<Option<Delivery>> {
    let mut full = frame(FULL);
    (0..count).map(|index| path.offer(index * gap, &mut full)).collect()
}

fn due(deliveries: &[Option<Delivery>]) -> Vec<u64> {
    deliveries.iter().flatten().map(|delivery| delivery.due).collect()
}

#[test]
fn without_conditions_a_frame_leaves_when_it_came() {
    let mut path = path("none");
    assert_eq!(due(&run(&mut path, 3, 5)), [0, 5, 10]);
}

#[test]
fn frames_leave_at_the_rate_of_the_wire_after_the_delay() {
    // 1,538 bytes are 12,304 bits: 1,230,400 ns at 10 Mbit/s.
    let mut path = path("rate=10m,delay=20ms");
    assert_eq!(due(&run(&mut path, 3, 0)), [21_230_400, 22_460_800, 23_691_200]);
    // After a pause the link is free, and nothing is made up for.
    assert_eq!(path.offer(50 * MS, &mut frame(FULL)).unwrap().due, 71_230_400);
}

#[test]
fn no_rate_loses_a_part_of_a_frames_time() {
    // 12,304 bits at 7 Mbit/s are 1,757,714.2857 ns: 700,000 frames take 1,230.4 s and not a microsecond less.
    let mut path = path("rate=7m");
    let (mut full, mut last) = (frame(FULL), 0);
    for _ in 0..700_000 {
        last = path.offer(0, &mut full).unwrap().due;
    }
    assert!((1_230_399_999_000..=1_230_400_000_000).contains(&last), "{last}");
}

#[test]
fn what_finds_the_queue_full_is_dropped_and_the_longest_wait_is_known() {
    // Three frames fit.
    let mut path = path("rate=10m,queue=4614");
    let deliveries = run(&mut path, 5, 0);
    assert_eq!(deliveries.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false, false]);
    assert_eq!(path.counters.dropped_queue, 2);
    assert_eq!(path.counters.longest_queue, 2 * 1538);
    assert_eq!(path.counters.longest_wait, 2 * 1_230_400);
    // One has left: one more fits.
    assert!(path.offer(1_230_400, &mut frame(FULL)).is_some());
    assert!(path.offer(1_230_400, &mut frame(FULL)).is_none());
}

#[test]
fn a_queue_smaller_than_a_frame_still_carries_one_at_a_time() {
    let mut path = path("rate=10m,queue=100");
    assert!(path.offer(0, &mut frame(FULL)).is_some());
    assert!(path.offer(1, &mut frame(FULL)).is_none());
    assert!(path.offer(1_230_400, &mut frame(FULL)).is_some());
}

#[test]
fn one_seed_draws_the_same_and_another_does_not() {
    let text = "loss=100000,reorder=50000/3ms,duplicate=20000,jitter=1ms,burst=1000/200000";
    let conditions = Conditions::parse(text).unwrap();
    let of = |seed| run(&mut Path::new(conditions.clone(), seed), 2_000, MS);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn a_decision_does_not_depend_on_the_other_conditions() {
    let lost = |text| run(&mut path(text), 5_000, MS).iter().map(Option::is_none).collect::<Vec<_>>();
    assert_eq!(lost("loss=20000"), lost("loss=20000,jitter=5ms,reorder=30000/2ms,duplicate=40000,rate=1g"));
}

#[test]
fn losses_are_as_many_as_were_asked_for() {
    let mut path = path("loss=30000");
    run(&mut path, 100_000, MS);
    // Five standard deviations of the binomial distribution are 270.
    assert!((2_730..=3_270).contains(&path.counters.lost_alone), "{:?}", path.counters);
}

#[test]
fn bursts_begin_and_last_as_gilberts_model_says() {
    let mut path = path("burst=1000/100000");
    let deliveries = run(&mut path, 500_000, MS);
    let mut bursts = 0;
    for (index, delivery) in deliveries.iter().enumerate() {
        bursts += u64::from(delivery.is_none() && (index == 0 || deliveries[index - 1].is_some()));
    }
    // 1 in 1,000 of the good frames begins one (about 495), of 10 frames in the mean.
    assert!((380..=610).contains(&bursts), "{bursts}");
    let mean = path.counters.lost_burst as f64 / bursts as f64;
    assert!((8.0..=12.0).contains(&mean), "{mean}");
    assert_eq!(path.counters.lost_alone, 0);
}

#[test]
fn jitter_keeps_the_order_and_reordering_breaks_it() {
    let mut steady = path("delay=5ms,jitter=4ms");
    let times = due(&run(&mut steady, 1_000, MS / 10));
    assert!(times.is_sorted());
    let spread = times.iter().enumerate().map(|(index, due)| due - index as u64 * MS / 10);
    assert!(spread.clone().min().unwrap() < 6 * MS && spread.max().unwrap() > 8 * MS);

    let mut broken = path("delay=5ms,reorder=10000/2ms");
    let times = due(&run(&mut broken, 10_000, MS));
    let late = times.iter().enumerate().filter(|(index, due)| **due == *index as u64 * MS + 7 * MS).count();
    assert_eq!(late as u64, broken.counters.reordered);
    assert!((50..=150).contains(&late), "{late}");
    assert!(!times.is_sorted());
}

#[test]
fn a_duplicate_is_told_of() {
    let mut path = path("duplicate=1000000");
    assert_eq!(path.offer(3, &mut frame(FULL)), Some(Delivery { due: 3, twice: true }));
    assert_eq!(path.counters.duplicated, 1);
}

#[test]
fn everything_that_enters_in_an_outage_is_lost_and_nothing_else() {
    let mut path = path("outage=10ms/5ms,outage=30ms/1ms");
    let alive: Vec<bool> = run(&mut path, 40, MS).iter().map(Option::is_some).collect();
    for (ms, alive) in alive.into_iter().enumerate() {
        assert_eq!(alive, !(10..15).contains(&ms) && ms != 30, "at {ms} ms");
    }
    assert_eq!(path.counters.lost_outage, 6);
}

#[test]
fn address_resolution_is_never_lost_and_draws_nothing() {
    let (mut one, mut other) = (path("loss=500000,rate=1k,queue=1000,delay=1ms"), path("loss=500000"));
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for _ in 0..100 {
        assert_eq!(one.offer(0, &mut arp), Some(Delivery { due: MS, twice: false }));
    }
    assert_eq!((one.counters.other, one.counters.frames), (100, 0));
    assert_eq!(one.index, 0);
    other.offer(0, &mut frame(FULL));
    assert_eq!(other.index, 1);
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn a_mark_is_put_where_the_packet_allows_it_and_the_checksum_holds() {
    for (ecn, marked) in [(0u8, false), (1, true), (2, true), (3, true)] {
        for high in 0..=255u8 {
            let mut path = path("rate=10m,mark=1500");
            let mut full = frame(FULL);
            full[ETHERNET + 1] = 0xb8 | ecn;
            full[ETHERNET + 4] = high;
            let sum = checksum(&full[ETHERNET..ETHERNET + 20]);
            full[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
            // The first finds an empty queue.
            path.offer(0, &mut frame(FULL));
            path.offer(0, &mut full);
            assert_eq!(path.counters.marked, u64::from(marked));
            assert_eq!(full[ETHERNET + 1], if marked { 0xbb } else { 0xb8 });
            assert_eq!(checksum(&full[ETHERNET..ETHERNET + 20]), 0, "ecn {ecn}, {high}");
        }
    }
}

#[test]
fn a_mark_waits_for_its_threshold_and_knows_ipv6() {
    let mut path = path("rate=10m,mark=3000");
    let mut six = vec![0; FULL];
    six[12..16].copy_from_slice(&[0x86, 0xdd, 0x60, 0x20]);
    for marked in [false, false, true] {
        six[15] = 0x20;
        path.offer(0, &mut six);
        assert_eq!(six[15] == 0x30, marked);
    }
}
