//! What each of [`Sysctls`] changes, on the wire or in time.

use super::bench::*;
use crate::wire::{SackBlock, TcpOptions, Timestamps};
use crate::*;

/// The settings of a stock Linux but for what `change` does.
fn tuned(change: impl FnOnce(&mut Sysctls)) -> Script<'static> {
    let mut script = Script::new();
    tune(&mut script, change);
    script
}

fn tune(script: &mut Script<'_>, change: impl FnOnce(&mut Sysctls)) {
    let mut sysctls = *script.stack.sysctls();
    change(&mut sysctls);
    script.stack.set_sysctls(&sysctls);
}

/// What the SYN of a connect() offers: window scale, SACK, timestamps.
fn offers(change: impl FnOnce(&mut Sysctls)) -> (bool, bool, bool) {
    let mut script = tuned(change);
    script.connect(&SocketOptions::default());
    shown(&script.next())
}

/// What the SYN,ACK agrees to, of everything that a peer can offer. `requests`: half-open connections there is room for.
fn agrees(requests: u32, change: impl FnOnce(&mut Sysctls)) -> (bool, bool, bool) {
    let config = Config { requests, ..config() };
    let mut script = Script::with_stack(stack(&config, OURS, 1500, 1500));
    tune(&mut script, change);
    script.listen(4, &SocketOptions::default());
    script.stamps = true;
    script.inject_with(S, 0, 0, usual(), &[]);
    shown(&script.next())
}

fn shown(seen: &Seen) -> (bool, bool, bool) {
    let options = &seen.options;
    (options.window_scale.is_some(), options.sack_permitted, options.timestamps.is_some())
}

/// When each of the segments comes that time alone brings, in milliseconds from now, for at most `seconds`.
fn schedule(script: &mut Script<'_>, seconds: u64) -> std::vec::Vec<u64> {
    let start = script.now;
    let mut times = std::vec::Vec::new();
    for _ in 0..seconds * 100 {
        script.pass(10_000);
        while script.try_next().is_some() {
            times.push((script.now - start) / 1_000);
        }
    }
    times
}

#[test]
fn options_that_are_off_are_not_offered() {
    assert_eq!(offers(|_| {}), (true, true, true));
    assert_eq!(offers(|sysctls| sysctls.window_scaling = 0), (false, true, true));
    assert_eq!(offers(|sysctls| sysctls.sack = 0), (true, false, true));
    assert_eq!(offers(|sysctls| sysctls.timestamps = 0), (true, true, false));
}

#[test]
fn options_that_are_off_are_not_agreed_to() {
    // With a record and with a cookie.
    for requests in [4, 0] {
        assert_eq!(agrees(requests, |_| {}), (true, true, true));
        assert_eq!(agrees(requests, |sysctls| sysctls.sack = 0), (true, false, true));
        // A cookie keeps nothing without timestamps.
        let kept = requests > 0;
        assert_eq!(agrees(requests, |sysctls| sysctls.timestamps = 0), (kept, kept, false));
        assert_eq!(agrees(requests, |sysctls| sysctls.window_scaling = 0), (false, true, true));
    }
}

#[test]
fn what_a_peer_answers_unasked_is_ignored() {
    let mut script = tuned(|sysctls| {
        (sysctls.window_scaling, sysctls.sack, sysctls.timestamps) = (0, 0, 0);
    });
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | A, 0, 1, usual(), &[]);
    let info = script.info();
    assert_eq!((info.sack, info.timestamps, info.snd_scale), (false, false, 0));
}

#[test]
fn timestamps_begin_at_the_clocks_zero_when_told_to() {
    let value = |mode: u32| {
        let mut script = tuned(|sysctls| sysctls.timestamps = mode);
        script.connect(&SocketOptions::default());
        script.next().options.timestamps.unwrap().value
    };
    assert_eq!(value(2), 1_000, "milliseconds since the clock's origin");
    assert_ne!(value(1), 1_000);
}

#[test]
fn syn_timeouts_are_linear_before_they_double() {
    let times = |change: fn(&mut Sysctls)| {
        let mut script = tuned(change);
        script.connect(&SocketOptions::default());
        script.next();
        let times = schedule(&mut script, 200);
        assert_eq!(script.closed(), Some(CloseReason::TimedOut));
        times.iter().map(|at| at / 1_000).collect::<std::vec::Vec<_>>()
    };
    assert_eq!(times(|_| {}), [1, 2, 3, 4, 5, 7, 11, 19, 35, 67], "Linux: four linear, six doubling");
    assert_eq!(times(|sysctls| (sysctls.syn_linear_timeouts, sysctls.syn_retries) = (0, 3)), [1, 3, 7]);
}

#[test]
fn a_syn_ack_is_repeated_as_often_as_told() {
    let mut script = tuned(|sysctls| sysctls.synack_retries = 2);
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    assert_eq!(schedule(&mut script, 60).len(), 2);
    assert_eq!(script.stack.usage().requests, 0);
}

#[test]
fn without_cookies_a_full_backlog_drops() {
    let mut script = tuned(|sysctls| sysctls.syncookies = 0);
    script.listen(2, &SocketOptions::default());
    for port in 0..3 {
        script.remote_port = 100 + port;
        script.inject_with(S, 0, 0, plain(), &[]);
    }
    script.next();
    script.next();
    script.expect_nothing();
    assert_eq!(script.count(Counter::TcpExtTCPReqQFullDrop), 1);
    assert_eq!(script.count(Counter::TcpExtSyncookiesSent), 0);
}

#[test]
fn without_cookies_the_last_quarter_of_the_backlog_stays_free() {
    let mut script = tuned(|sysctls| (sysctls.syncookies, sysctls.max_syn_backlog) = (0, 4));
    script.listen(100, &SocketOptions::default());
    for port in 0..6 {
        script.remote_port = 100 + port;
        script.inject_with(S, 0, 0, plain(), &[]);
    }
    assert_eq!(script.stack.usage().requests, 4);
    assert_eq!(script.count(Counter::TcpExtListenDrops), 2);
}

#[test]
fn cookies_can_be_sent_always() {
    let mut script = tuned(|sysctls| sysctls.syncookies = 2);
    let mut script = {
        script.listen(16, &SocketOptions::default());
        script.peer_opens(plain());
        script
    };
    assert_eq!(script.count(Counter::TcpExtSyncookiesSent), 1);
    assert_eq!(script.count(Counter::TcpExtSyncookiesRecv), 1);
    assert!(!script.events().is_empty(), "the connection is there");
}

#[test]
fn an_overflow_of_the_accept_queue_resets_when_told_to() {
    for (abort, requests) in [(0, 1), (1, 0)] {
        let mut script = tuned(|sysctls| sysctls.abort_on_overflow = abort);
        script.bench.incoming = Incoming::Refuse;
        script.listen(4, &SocketOptions::default());
        script.inject_with(S, 0, 0, plain(), &[]);
        script.next();
        script.inject(A, 1, 1, &[]);
        assert_eq!(script.try_next().map(|seen| seen.flags), (abort == 1).then_some(R));
        assert_eq!(script.stack.usage().requests, requests);
    }
}

#[test]
fn keepalive_of_a_socket_that_says_nothing_goes_by_the_settings_of_the_moment() {
    let options = SocketOptions { keepalive: true, ..SocketOptions::default() };
    let mut script = tuned(|sysctls| sysctls.keepalive_time = 20).accept(plain(), &options);
    tune(&mut script, |sysctls| (sysctls.keepalive_intvl, sysctls.keepalive_probes) = (5, 2));
    // Two probes, five seconds apart, and the RST of the end.
    let seconds: std::vec::Vec<u64> = schedule(&mut script, 60).iter().map(|at| at / 1_000).collect();
    assert_eq!(seconds, [20, 25, 30]);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
}

#[test]
fn a_sockets_own_keepalive_goes_first() {
    let keep_idle = Some(Duration::from_secs(2));
    let options = SocketOptions { keepalive: true, keep_idle, ..SocketOptions::default() };
    let mut script = tuned(|sysctls| sysctls.keepalive_time = 20).accept(plain(), &options);
    script.pass(3_000_000);
    assert_eq!(script.next().brief(), (A, 0, 1, 0));
}

#[test]
fn retries_bound_how_long_a_silent_peer_is_waited_for() {
    let mut script = tuned(|sysctls| sysctls.retries2 = 3).accept(plain(), &SocketOptions::default());
    script.write(100);
    let times = schedule(&mut script, 60);
    assert_eq!(script.closed(), Some(CloseReason::TimedOut), "{times:?}");
    // As long as three timeouts from 200 ms take: 3 s from the first timeout on.
    assert!(*times.last().unwrap() < 4_500, "{times:?}");
}

#[test]
fn an_orphan_has_retries_of_its_own() {
    let sent = |retries: u32| {
        let mut script = tuned(|sysctls| sysctls.orphan_retries = retries).accept(plain(), &SocketOptions::default());
        script.write(100);
        script.close();
        script.next();
        schedule(&mut script, 300).len()
    };
    assert!(sent(2) < sent(4) && sent(4) < sent(0), "0 stands for eight");
}

#[test]
fn fin_wait_2_of_an_orphan_ends_in_time() {
    let mut script = tuned(|sysctls| sysctls.fin_timeout = 3).accept(plain(), &SocketOptions::default());
    script.close();
    script.next();
    script.inject(A, 1, 2, &[]);
    script.pass(2_900_000);
    assert_eq!(script.closed(), None);
    script.pass(200_000);
    assert_eq!(script.closed(), Some(CloseReason::Finished));
}

/// In TIME-WAIT, of a peer that offered `offer`.
fn waiting(mut script: Script<'static>, offer: TcpOptions) -> Script<'static> {
    script = script.accept(offer, &SocketOptions::default());
    script.shutdown();
    script.next();
    script.inject(F | A, 1, 2, &[]);
    script.next();
    script.events();
    script
}

#[test]
fn a_reset_ends_time_wait_as_on_linux() {
    let mut script = waiting(Script::new(), plain());
    script.inject(R, 1, 0, &[]);
    assert_eq!(script.stack.usage().time_waits, 1, "not in order");
    script.inject(R, 2, 0, &[]);
    assert_eq!(script.stack.usage().time_waits, 0);
}

#[test]
fn time_waits_are_bounded() {
    let script = waiting(tuned(|sysctls| sysctls.max_tw_buckets = 0), plain());
    assert_eq!(script.stack.usage().time_waits, 0);
    assert_eq!(script.count(Counter::TcpExtTCPTimeWaitOverflow), 1);
}

#[test]
fn a_four_tuple_in_time_wait_is_taken_over_when_allowed_and_late_enough() {
    let reuses = |reuse: u32, delay: u32| {
        let change = |sysctls: &mut Sysctls| (sysctls.tw_reuse, sysctls.tw_reuse_delay) = (reuse, delay);
        let mut script = waiting(tuned(change), usual());
        script.pass(2_000_000);
        let local = std::net::SocketAddr::from((OURS, OUR_PORT));
        let remote = std::net::SocketAddr::from((PEER, PEER_PORT));
        let now = script.at();
        script.stack.connect(now, Owner(7), local, remote, &SocketOptions::default(), &mut script.bench).is_ok()
    };
    assert!(reuses(1, 1_000));
    assert!(!reuses(1, 5_000));
    assert!(!reuses(0, 1_000));
}

#[test]
fn answers_to_what_does_not_fit_are_as_rare_as_told() {
    let answers = |change: fn(&mut Sysctls)| {
        let mut script = tuned(change).accept(plain(), &SocketOptions::default());
        (0..4)
            .filter(|_| {
                script.pass(100_000);
                // A RST beside the mark.
                script.inject(R, 100, 0, &[]);
                script.try_next().is_some()
            })
            .count()
    };
    assert_eq!(answers(|_| {}), 1, "two a second");
    assert_eq!(answers(|sysctls| sysctls.invalid_ratelimit = 0), 4);
    assert_eq!(answers(|sysctls| (sysctls.invalid_ratelimit, sysctls.challenge_ack_limit) = (0, 2)), 2);
    assert_eq!(answers(|sysctls| sysctls.challenge_ack_limit = 0), 0);
}

#[test]
fn duplicates_are_reported_unless_told_not_to() {
    let reported = |dsack: u32| {
        let mut script = tuned(|sysctls| sysctls.dsack = dsack).accept(usual(), &SocketOptions::default());
        script.inject(A, 1, 1, b"once");
        script.next();
        script.inject(A, 1, 1, b"once");
        !script.next().options.sack.is_empty()
    };
    assert!(reported(1));
    assert!(!reported(0));
}

#[test]
fn the_urgent_pointer_names_the_byte_that_the_setting_says() {
    for (stdurg, mark) in [(0, 3), (1, 4)] {
        let mut script = tuned(|sysctls| sysctls.stdurg = stdurg).accept(plain(), &SocketOptions::default());
        let packet = script.packet(A | U, 1, 1, TcpOptions::default(), 3, b"abcdef");
        script.deliver(&packet);
        let urgent = script.events().iter().find_map(|event| match event {
            Event::Connection { status, .. } => status.urgent,
            _ => None,
        });
        assert_eq!(urgent, Some(mark));
    }
}

#[test]
fn the_least_timeout_is_the_settings() {
    let first = |least: u32| {
        let mut script = tuned(|sysctls| (sysctls.rto_min_us, sysctls.early_retrans) = (least, 0));
        script.round_trip = 1_000;
        let mut script = script.accept(sack_only(), &SocketOptions::default());
        script.write(100);
        script.next();
        schedule(&mut script, 2)[0]
    };
    assert!((200..=220).contains(&first(200_000)), "{}", first(200_000));
    assert!((50..=70).contains(&first(50_000)), "{}", first(50_000));
}

#[test]
fn the_greatest_timeout_is_the_settings() {
    let mut script = tuned(|sysctls| sysctls.rto_max_ms = 1_000).accept(plain(), &SocketOptions::default());
    script.write(100);
    script.next();
    let times = schedule(&mut script, 12);
    let last: std::vec::Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).rev().take(5).collect();
    assert!(last.iter().all(|gap| (990..=1_010).contains(gap)), "{times:?}");
}

#[test]
fn tail_loss_is_probed_for_only_when_told_to() {
    let probes = |early: u32| {
        let mut script = tuned(|sysctls| sysctls.early_retrans = early);
        script.round_trip = 10_000;
        let mut script = script.accept(sack_only(), &SocketOptions::default());
        script.write(2_000);
        script.pass(10_000_000);
        script.count(Counter::TcpExtTCPLossProbes)
    };
    assert_eq!(probes(3), 1);
    assert_eq!(probes(0), 0);
}

/// A flight of ten segments of which the peer has the last `count` when `delay` has passed; whether it counts as loss.
fn loses(count: u32, change: impl FnOnce(&mut Sysctls)) -> bool {
    let mut script = tuned(change);
    script.round_trip = 100_000;
    let mut script = script.accept(sack_only(), &SocketOptions::default());
    script.write(10 * 1460);
    script.pass(100_000);
    let start = 1 + 1460;
    let mut options = TcpOptions::default();
    let block = SackBlock {
        start: crate::wire::SeqNumber(script.iss.wrapping_add(start)),
        end: crate::wire::SeqNumber(script.iss.wrapping_add(start + count * 1460)),
    };
    options.sack.push(block);
    script.inject_with(A, 1, 1, options, &[]);
    script.count(Counter::TcpExtTCPSackRecovery) == 1
}

#[test]
fn the_reordering_window_obeys_threshold_and_recovery() {
    assert!(loses(3, |_| {}), "three are enough");
    assert!(!loses(2, |_| {}), "two may have overtaken");
    assert!(loses(2, |sysctls| sysctls.reordering = 2));
    assert!(!loses(3, |sysctls| sysctls.reordering = 6));
    assert!(!loses(3, |sysctls| sysctls.recovery = 1 | 4), "the threshold is off");
}

#[test]
fn duplicates_count_up_to_the_setting_where_there_is_no_sack() {
    let recovers = |reordering: u32, duplicates: u32| {
        let mut script = tuned(|sysctls| sysctls.reordering = reordering).accept(plain(), &SocketOptions::default());
        script.write(10 * 1460);
        for _ in 0..duplicates {
            script.inject(A, 1, 1, &[]);
        }
        script.count(Counter::TcpExtTCPRenoRecovery) == 1
    };
    assert!(recovers(3, 3) && !recovers(3, 2));
    assert!(recovers(5, 5) && !recovers(5, 4));
}

#[test]
fn the_window_decays_when_idle_only_when_told_to() {
    let window = |slow: u32| {
        let mut script = tuned(|sysctls| sysctls.slow_start_after_idle = slow);
        script.round_trip = 10_000;
        let mut script = script.accept(plain(), &SocketOptions::default());
        let mut end = 0;
        for _ in 0..6 {
            end += 10 * 1460;
            script.write(end);
            script.pass(10_000);
            script.inject(A, 1, 1 + end as u32, &[]);
        }
        let before = script.info().cwnd;
        script.pass(20_000_000);
        script.write(end + 1);
        (before, script.info().cwnd)
    };
    let (before, after) = window(0);
    assert_eq!(before, after);
    let (before, after) = window(1);
    assert!(after < before, "{before} {after}");
}

#[test]
fn f_rto_sends_new_data_after_a_timeout_unless_told_not_to() {
    let newest = |frto: u32| {
        let mut script = tuned(|sysctls| (sysctls.frto, sysctls.early_retrans) = (frto, 0));
        script.round_trip = 10_000;
        let mut script = script.accept(sack_only(), &SocketOptions::default());
        script.write(30 * 1460);
        script.pass(400_000);
        script.bench.sent.clear();
        // What the timeout sent again has arrived.
        script.inject(A, 1, 1 + 1460, &[]);
        script.next().seq
    };
    assert!(newest(2) > 10 * 1460, "new data: {}", newest(2));
    assert_eq!(newest(0), 1 + 1460, "what counts as lost");
}

#[test]
fn thin_streams_do_not_back_off_when_told_to() {
    let resent = |thin: u32| {
        let change = |sysctls: &mut Sysctls| (sysctls.thin_linear_timeouts, sysctls.early_retrans) = (thin, 0);
        let mut script = tuned(change);
        script.round_trip = 10_000;
        let mut script = script.accept(plain(), &SocketOptions::default());
        script.write(100);
        schedule(&mut script, 2).len()
    };
    assert!(resent(1) > resent(0) + 2, "{} {}", resent(1), resent(0));
}

#[test]
fn the_least_round_trip_is_forgotten_in_time() {
    let least = |seconds: u32| {
        let mut script = tuned(|sysctls| sysctls.min_rtt_wlen = seconds);
        script.round_trip = 10_000;
        let mut script = script.accept(plain(), &SocketOptions::default());
        script.pass(20_000_000);
        script.write(100);
        script.pass(50_000);
        script.inject(A, 1, 101, &[]);
        script.info().min_rtt
    };
    assert_eq!(least(300), Duration::from_micros(10_000));
    assert_eq!(least(5), Duration::from_micros(50_000));
}

/// TTL and DF of the next packet.
fn ip_header(script: &mut Script<'_>) -> (u8, bool) {
    let packet = script.bench.sent.pop_front().expect("a packet");
    (packet[8], packet[6] & 0x40 != 0)
}

#[test]
fn the_ttl_is_the_settings_where_the_socket_has_none() {
    let mut script = tuned(|sysctls| sysctls.ip_default_ttl = 9);
    script.listen(4, &SocketOptions::default());
    script.connect(&SocketOptions::default());
    assert_eq!(ip_header(&mut script).0, 9);
    script.connect(&SocketOptions { ttl: Some(77), ..SocketOptions::default() });
    assert_eq!(ip_header(&mut script).0, 77);
    script.local_port = OUR_PORT;
    script.inject_with(S, 0, 0, plain(), &[]);
    assert_eq!(ip_header(&mut script).0, 9, "SYN,ACK");
    script.local_port = 4_711;
    script.inject_with(S, 0, 0, plain(), &[]);
    assert_eq!(ip_header(&mut script).0, 9, "RST");
}

#[test]
fn packets_may_be_fragmented_when_told_so() {
    for (mode, df) in [(0, true), (1, false), (2, false), (3, false)] {
        let mut script = tuned(|sysctls| sysctls.ip_no_pmtu_disc = mode);
        script.connect(&SocketOptions::default());
        assert_eq!(ip_header(&mut script).1, df, "mode {mode}");
    }
}

#[test]
fn what_was_agreed_on_stays() {
    // The settings change nothing of what was agreed on: a connection with timestamps keeps them.
    let mut script = Script::accepted(usual(), &SocketOptions::default());
    tune(&mut script, |sysctls| sysctls.timestamps = 0);
    script.write(10);
    assert!(script.next().options.timestamps.is_some_and(|Timestamps { echo, .. }| echo != 0));
}

#[test]
fn reserved_ports_are_left_alone() {
    let mut script = Script::new();
    script.stack.set_port_range(40_000, 40_009).unwrap();
    script.stack.reserve_ports(&[(40_000, 40_003), (40_005, 40_008)]).unwrap();
    let mut ports = std::vec![];
    let local = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let remote = std::net::SocketAddr::from((PEER, PEER_PORT));
    let options = SocketOptions::default();
    loop {
        match script.stack.connect(script.at(), Owner(7), local, remote, &options, &mut script.bench) {
            Ok(id) => ports.push(script.stack.local_address(id).unwrap().port()),
            Err(error) => break assert_eq!(error, Error::AddressNotAvailable),
        }
    }
    ports.sort();
    assert_eq!(ports, [40_004, 40_009]);
    assert_eq!(script.stack.reserve_ports(&[(2, 1)]), Err(Error::Invalid));
    assert_eq!(script.stack.reserve_ports(&[(1, 1); RESERVED_RANGES + 1]), Err(Error::NoMemory));
}
