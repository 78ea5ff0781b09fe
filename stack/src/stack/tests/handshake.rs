//! Opening: options on the wire, retransmission of SYN and SYN,ACK, refusal, simultaneous open, accept queue.

use super::bench::*;
use crate::wire::{TcpOptions, Timestamps};
use crate::*;
use std::net::{Ipv4Addr, SocketAddr};

#[test]
fn syn_offers_what_linux_offers() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    let syn = script.next();
    assert_eq!((syn.flags, syn.ack, syn.len()), (S, 0, 0));
    let TcpOptions { mss, window_scale, sack_permitted, timestamps, .. } = syn.options;
    assert_eq!((mss, window_scale, sack_permitted), (Some(1460), Some(7), true));
    assert!(timestamps.is_some_and(|stamps| stamps.echo == 0));
    assert_eq!(syn.window, 65_535);
    assert_eq!(script.info().state, State::SynSent);
}

#[test]
fn active_open_reports_established() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    script.now += 30_000;
    script.inject_with(S | A, 0, 1, plain(), &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
    let events = script.events();
    assert!(
        matches!(events[..], [Event::Connection { owner: Owner(7), changes: Changes { established: true, .. }, .. }]),
        "{events:?}"
    );
    let info = script.info();
    assert_eq!(info.state, State::Established);
    assert_eq!((info.timestamps, info.sack, info.snd_scale, info.rcv_scale), (false, false, 0, 0));
    assert_eq!((info.snd_mss, info.cwnd), (1460, 14_600));
    assert_eq!(info.rtt, Duration::from_millis(30));
    // Nothing was sent yet: idle since the handshake, as on Linux, not since the clock's origin.
    assert_eq!(info.last_sent, Duration::ZERO);
    script.expect_nothing();
}

#[test]
fn a_small_mss_is_obeyed_and_an_absurd_one_raised() {
    let offer = |mss| TcpOptions { mss, ..TcpOptions::default() };
    for (announced, used) in [(None, 536), (Some(1000), 1000), (Some(9000), 1460), (Some(1), 48)] {
        let script = Script::connected(offer(announced), &SocketOptions::default());
        assert_eq!(script.info().snd_mss, used, "{announced:?}");
    }
    let options = SocketOptions { max_segment: Some(700), ..SocketOptions::default() };
    let script = Script::accepted(usual(), &options);
    assert_eq!(script.info().snd_mss, 700 - 12);
}

#[test]
fn syn_is_repeated_with_backoff_and_then_given_up() {
    let mut script = Script::new();
    script.stack.set_sysctls(&Sysctls { syn_linear_timeouts: 0, ..Sysctls::LINUX });
    script.connect(&SocketOptions { syn_retries: Some(2), ..SocketOptions::default() });
    script.next();
    for wait in [1_000_000u64, 2_000_000] {
        script.pass(wait - 10_000);
        script.expect_nothing();
        script.pass(15_000);
        assert_eq!(script.next().flags, S);
    }
    script.pass(5_000_000);
    script.expect_nothing();
    assert_eq!(script.closed(), Some(CloseReason::TimedOut));
    assert_eq!(script.count(Counter::TcpExtTCPSynRetrans), 2);
    assert_eq!(script.stack.usage().connections, 0);
}

#[test]
fn a_reset_refuses() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    script.inject(R, 0, 0, &[]);
    assert_eq!(script.closed(), None, "without an ACK of the SYN it may be anybody's");
    script.inject(R | A, 0, 1, &[]);
    assert_eq!(script.closed(), Some(CloseReason::Refused));
    script.expect_nothing();
}

#[test]
fn an_ack_of_something_never_sent_is_reset_and_the_open_goes_on() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S | A, 0, 77, plain(), &[]);
    let reset = script.next();
    assert_eq!((reset.flags, reset.seq), (R, 77));
    script.inject_with(S | A, 0, 1, plain(), &[]);
    assert_eq!(script.next().brief(), (A, 1, 1, 0));
}

#[test]
fn simultaneous_open() {
    let mut script = Script::new();
    script.stamps = true;
    script.connect(&SocketOptions::default());
    script.next();
    // RFC 9293 figure 8.
    script.inject_with(S, 0, 0, usual(), &[]);
    let answer = script.next();
    assert_eq!(answer.brief(), (S | A, 0, 1, 0));
    assert_eq!(answer.options.window_scale, Some(7));
    assert_eq!(script.info().state, State::SynReceived);
    script.inject_with(S | A, 0, 1, usual(), &[]);
    assert_eq!(script.info().state, State::Established, "the crossing SYN,ACK acknowledges ours");
    script.expect_nothing();
    script.inject(A, 1, 1, b"hello");
    assert_eq!(script.received(), b"hello");
}

#[test]
fn shutdown_before_the_handshake_ends_sends_fin_after_it() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.shutdown();
    script.inject(A, 1, 1, &[]);
    assert_eq!(script.next().brief(), (F | A, 1, 1, 0));
}

#[test]
fn passive_open_repeats_its_answer_and_gives_up() {
    let mut script = Script::new();
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, usual(), &[]);
    let answer = script.next();
    assert_eq!(answer.brief(), (S | A, 0, 1, 0));
    assert_eq!(answer.options.timestamps.map(|stamps| stamps.echo), Some(1));
    assert_eq!(script.stack.usage().requests, 1);
    // The peer repeats its SYN: the same answer.
    script.inject_with(S, 0, 0, usual(), &[]);
    assert_eq!(script.next().brief(), (S | A, 0, 1, 0));
    script.pass(70_000_000);
    let mut repeated = 0;
    while let Some(again) = script.try_next() {
        assert_eq!(again.brief(), (S | A, 0, 1, 0));
        repeated += 1;
    }
    assert_eq!(repeated, 5, "Linux's tcp_synack_retries");
    assert_eq!(script.stack.usage().requests, 0);
    assert!(script.events().is_empty());
}

#[test]
fn data_with_the_last_ack_is_not_lost() {
    let mut script = Script::new();
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.inject(A, 1, 1, b"GET");
    assert_eq!(script.received(), b"GET");
    assert_eq!(script.next().brief(), (A, 1, 4, 0));
    assert_eq!(script.count(Counter::TcpPassiveOpens), 1);
}

#[test]
fn what_nobody_has_adopted_is_not_acknowledged() {
    let mut script = Script::new();
    script.bench.incoming = Incoming::Later;
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.inject(A, 1, 1, b"early");
    let events = script.events();
    let [Event::Incoming { connection, listener_owner: Owner(1), local, remote, .. }] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(local, SocketAddr::from((OURS, OUR_PORT)));
    assert_eq!(remote, SocketAddr::from((PEER, PEER_PORT)));
    script.expect_nothing();
    assert!(script.received().is_empty());
    let now = script.at();
    script.stack.adopt(now, connection, Owner(7), &mut script.bench).unwrap();
    assert_eq!(script.stack.adopt(now, connection, Owner(7), &mut script.bench), Err(Error::Invalid));
    script.inject(A, 1, 1, b"early");
    assert_eq!(script.received(), b"early");
    assert_eq!(script.next().brief(), (A, 1, 6, 0));
}

#[test]
fn a_full_accept_queue_drops_and_the_next_segment_asks_again() {
    let mut script = Script::new();
    script.bench.incoming = Incoming::Refuse;
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.inject(A, 1, 1, b"one");
    script.expect_nothing();
    assert!(script.events().is_empty());
    assert_eq!(script.count(Counter::TcpExtListenOverflows), 1);
    assert_eq!(script.stack.usage(), Usage { listeners: 1, requests: 1, ..Usage::default() });
    script.bench.incoming = Incoming::Adopt(Owner(7));
    script.inject(A, 1, 1, b"one");
    assert_eq!(script.received(), b"one");
}

#[test]
fn a_backlog_of_n_holds_one_more() {
    let mut script = Script::new();
    script.bench.incoming = Incoming::Later;
    let listener = script.listen(1, &SocketOptions::default());
    for port in 1..=2 {
        script.remote_port = port;
        script.peer_opens(plain());
    }
    script.remote_port = 3;
    script.inject_with(S, 0, 0, plain(), &[]);
    script.expect_nothing();
    assert_eq!(script.count(Counter::TcpExtListenOverflows), 1);
    // Closing the listener resets what nobody took.
    let now = script.at();
    script.stack.unlisten(now, listener, &mut script.bench).unwrap();
    assert_eq!(script.next().flags, R | A);
    assert_eq!(script.next().flags, R | A);
    assert!(script.events().is_empty(), "nobody has heard of them");
    assert_eq!(script.stack.usage(), Usage::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    assert_eq!(script.next().flags, R | A, "nobody listens");
}

#[test]
fn a_reset_takes_a_request_back() {
    let mut script = Script::new();
    script.listen(4, &SocketOptions::default());
    script.inject_with(S, 0, 0, plain(), &[]);
    script.next();
    script.inject(R, 5, 0, &[]);
    assert_eq!(script.stack.usage().requests, 1, "RFC 5961: only the exact number");
    script.inject(R, 1, 0, &[]);
    assert_eq!(script.stack.usage().requests, 0);
}

#[test]
fn strangers_are_reset() {
    let mut script = Script::new();
    script.inject(A, 100, 200, &[]);
    let reset = script.next();
    assert_eq!((reset.flags, reset.seq.wrapping_add(script.iss)), (R, 200));
    script.inject(F, 100, 0, b"xy");
    let reset = script.next();
    assert_eq!((reset.flags, reset.ack), (R | A, 103));
    script.inject(R, 100, 0, &[]);
    script.expect_nothing();
    // Not for a listener: ACKs out of nowhere.
    script.listen(4, &SocketOptions::default());
    script.inject(A, 100, 200, &[]);
    assert_eq!(script.next().flags, R);
}

#[test]
fn commands_say_what_is_wrong() {
    let mut script = Script::new();
    let now = script.at();
    let options = SocketOptions::default();
    let any = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let v6: SocketAddr = "[::1]:80".parse().unwrap();
    let far: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let foreign: SocketAddr = "10.0.0.9:80".parse().unwrap();
    let near = SocketAddr::from((PEER, 80));
    assert_eq!(script.stack.listen(Owner(1), any(0), 1, &options), Err(Error::Invalid));
    assert_eq!(script.stack.listen(Owner(1), v6, 1, &options), Err(Error::FamilyNotSupported));
    assert_eq!(script.stack.listen(Owner(1), foreign, 1, &options), Err(Error::AddressNotAvailable));
    script.listen(1, &options);
    assert_eq!(script.stack.listen(Owner(1), any(OUR_PORT), 1, &options), Err(Error::AddressInUse));
    // The exact address may be had beside the wildcard, and wins.
    assert!(script.stack.listen(Owner(2), SocketAddr::from((OURS, OUR_PORT)), 1, &options).is_ok());
    let mut connect = |local, remote| script.stack.connect(now, Owner(7), local, remote, &options, &mut script.bench);
    assert_eq!(connect(any(0), v6), Err(Error::FamilyNotSupported));
    assert_eq!(connect(any(0), far), Err(Error::NoRoute));
    assert_eq!(connect(foreign, near), Err(Error::AddressNotAvailable));
    assert_eq!(connect(any(0), any(80)), Err(Error::Invalid));
    assert!(connect(any(1234), near).is_ok());
    assert_eq!(connect(any(1234), near), Err(Error::AddressInUse));
    let stale = ConnectionId { index: 0, generation: 9 };
    assert_eq!(script.stack.write(now, stale, 1, &mut script.bench), Err(Error::Gone));
    let wild = ConnectionId { index: 1 << 20, generation: 0 };
    assert_eq!(script.stack.write(now, wild, 1, &mut script.bench), Err(Error::Gone));
}

#[test]
fn control_blocks_run_out_with_an_error_and_come_back() {
    let mut script = Script::new();
    let now = script.at();
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let near = SocketAddr::from((PEER, 80));
    let mut ids = std::vec::Vec::new();
    loop {
        match script.stack.connect(now, Owner(7), any, near, &SocketOptions::default(), &mut script.bench) {
            Ok(id) => ids.push(id),
            Err(error) => {
                assert_eq!(error, Error::NoMemory);
                break;
            }
        }
    }
    assert_eq!(ids.len(), 64);
    let mut ports: std::vec::Vec<u16> = ids.iter().map(|id| script.stack.local_address(*id).unwrap().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 64);
    assert!(ports.iter().all(|port| (32_768..=60_999).contains(port)));
    for id in ids {
        script.stack.abort(now, id, &mut script.bench).unwrap();
        assert_eq!(script.stack.abort(now, id, &mut script.bench), Err(Error::Gone));
    }
    assert_eq!(script.events().len(), 64);
    assert_eq!(script.stack.usage(), Usage::default());
}

#[test]
fn ephemeral_ports_belong_to_the_shard() {
    let config = Config { shard: 2, shards: 4, ..config() };
    let mut script = Script::with_stack(stack(&config, OURS, 1500, 1500));
    for _ in 0..20 {
        script.connect(&SocketOptions::default());
        let local = script.stack.local_address(script.id()).unwrap();
        assert_eq!(flow_shard(&config.seed, 4, local, SocketAddr::from((PEER, PEER_PORT))), 2);
        let packet = script.packet(S | A, 0, 1, plain(), 0, &[]);
        assert_eq!(script.stack.classify(PORT, &RxFrame::single(&packet)), Ownership::Here);
    }
    script.local_port = 1;
    let mut elsewhere = 0;
    for port in 1..200 {
        script.local_port = port;
        let packet = script.packet(A, 0, 1, plain(), 0, &[]);
        let expected = flow_shard(&config.seed, 4, SocketAddr::from((OURS, port)), SocketAddr::from((PEER, PEER_PORT)));
        let owner = script.stack.classify(PORT, &RxFrame::single(&packet));
        assert_eq!(owner, if expected == 2 { Ownership::Here } else { Ownership::Shard(expected) });
        elsewhere += u32::from(expected != 2);
    }
    assert!(elsewhere > 100);
}

#[test]
fn an_old_echo_in_the_answer_is_refused() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    let syn = script.next();
    let future = syn.options.timestamps.unwrap().value.wrapping_add(100_000);
    let offer = TcpOptions { timestamps: Some(Timestamps { value: 5, echo: future }), ..usual() };
    script.inject_with(S | A, 0, 1, offer, &[]);
    assert_eq!(script.next().flags, R);
    assert_eq!(script.count(Counter::TcpExtPAWSActive), 1);
}

#[test]
fn a_half_open_peer_that_asks_is_told_the_window_it_was_offered() {
    for (offer, window) in [(plain(), 65_535), (usual(), 511)] {
        let mut script = Script::new();
        script.bench.incoming = Incoming::Refuse;
        script.listen(4, &SocketOptions::default());
        script.stamps = offer.timestamps.is_some();
        script.peer_opens(offer);
        // Its keepalive: a number before the window.
        script.inject(A, 0, 1, &[]);
        let answer = script.next();
        assert_eq!((answer.brief(), answer.window), ((A, 1, 1, 0), window));
    }
}

#[test]
fn syns_that_cross_late_have_time_to_be_answered() {
    let mut script = Script::new();
    script.stamps = true;
    script.connect(&SocketOptions::default());
    // Six repetitions were lost.
    script.pass(10_000_000);
    while script.try_next().is_some() {}
    script.inject_with(S, 0, 0, usual(), &[]);
    assert_eq!(script.next().brief(), (S | A, 0, 1, 0));
    script.pass(20_000_000);
    assert_eq!(script.closed(), None);
    assert_eq!(script.next().brief(), (S | A, 0, 1, 0), "the SYN,ACK is repeated");
    script.inject_with(S | A, 0, 1, usual(), &[]);
    assert_eq!(script.info().state, State::Established);
}
