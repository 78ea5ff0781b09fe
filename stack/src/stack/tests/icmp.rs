//! ICMP errors about connections: path MTU, hard and soft errors, and forged ones.

use super::bench::*;
use crate::wire::{Icmpv4Repr, Ipv4Repr, TcpOptions, icmpv4, protocol};
use crate::*;
use std::net::Ipv4Addr;
use std::vec;
use std::vec::Vec;

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

/// The beginning of a segment of ours with number `seq`, as a router returns it.
fn original(script: &Script<'_>, seq: u32) -> Vec<u8> {
    let repr = crate::wire::TcpRepr {
        source_port: script.local_port,
        destination_port: script.remote_port,
        seq: crate::wire::SeqNumber(script.iss.wrapping_add(seq)),
        ack: crate::wire::SeqNumber(0),
        flags: A,
        window: 0,
        urgent: 0,
        options: TcpOptions::default(),
    };
    let mut packet = build(OURS, PEER, &repr, &[]);
    packet.truncate(28);
    packet
}

fn deliver(script: &mut Script<'_>, error: &Icmpv4Repr<'_>) {
    let mut message = vec![0; 200];
    let len = error.emit(&mut message);
    let mut packet = vec![0; 20];
    Ipv4Repr {
        source: ROUTER,
        destination: OURS,
        protocol: protocol::ICMP,
        ttl: 64,
        tos: 0,
        identification: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: len as u16,
    }
    .emit(&mut packet);
    packet.extend_from_slice(&message[..len]);
    script.deliver(&packet);
}

#[test]
fn a_smaller_path_is_obeyed_and_the_segment_repeated() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(5000);
    while script.try_next().is_some() {}
    let embedded = original(&script, 1);
    deliver(&mut script, &Icmpv4Repr::FragmentationNeeded { mtu: 1000, embedded: &embedded });
    assert_eq!((script.info().pmtu, script.info().snd_mss), (1000, 960));
    let mut seq = 1;
    while let Some(seen) = script.try_next() {
        assert_eq!(seen.seq, seq);
        assert!(seen.len() <= 960);
        seq += seen.len() as u32;
    }
    assert_eq!(seq, 5001);
    assert_eq!(script.count(Counter::TcpExtTCPTimeouts), 0);
    // A larger one is no news, and an absurd one not believed.
    deliver(&mut script, &Icmpv4Repr::FragmentationNeeded { mtu: 1400, embedded: &embedded });
    deliver(&mut script, &Icmpv4Repr::FragmentationNeeded { mtu: 100, embedded: &embedded });
    assert_eq!(script.info().pmtu, 552);
}

#[test]
fn an_error_about_what_is_not_in_flight_is_forged() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(1000);
    script.next();
    for seq in [0u32.wrapping_sub(1), 5000] {
        let embedded = original(&script, seq);
        deliver(&mut script, &Icmpv4Repr::FragmentationNeeded { mtu: 600, embedded: &embedded });
    }
    assert_eq!(script.info().pmtu, 1500);
    assert_eq!(script.count(Counter::TcpExtOutOfWindowIcmps), 2);
}

#[test]
fn a_hard_error_ends_an_open_and_not_a_connection() {
    let mut script = Script::new();
    script.connect(&SocketOptions::default());
    script.next();
    let embedded = original(&script, 0);
    deliver(&mut script, &Icmpv4Repr::Unreachable { code: icmpv4::unreachable::PORT, embedded: &embedded });
    assert_eq!(script.closed(), Some(CloseReason::Refused));

    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(10);
    script.next();
    let embedded = original(&script, 1);
    deliver(&mut script, &Icmpv4Repr::Unreachable { code: icmpv4::unreachable::PORT, embedded: &embedded });
    assert_eq!(script.info().state, State::Established);
}

#[test]
fn a_soft_error_is_told_once_and_becomes_the_reason_when_all_fails() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    script.write(10);
    script.next();
    let embedded = original(&script, 1);
    deliver(&mut script, &Icmpv4Repr::Unreachable { code: icmpv4::unreachable::HOST, embedded: &embedded });
    let events = script.events();
    assert!(
        matches!(
            events[..],
            [Event::Connection {
                changes: Changes { soft_error: true, .. },
                status: Status { soft_error: 113, .. },
                ..
            }]
        ),
        "{events:?}"
    );

    let options = SocketOptions { user_timeout: Some(Duration::from_secs(3)), ..SocketOptions::default() };
    let mut script = Script::accepted(plain(), &options);
    script.write(10);
    script.next();
    let embedded = original(&script, 1);
    deliver(&mut script, &Icmpv4Repr::Unreachable { code: icmpv4::unreachable::HOST, embedded: &embedded });
    script.pass(10_000_000);
    assert_eq!(script.closed(), Some(CloseReason::Unreachable(113)));
}

#[test]
fn how_far_a_router_is_believed_is_the_settings() {
    let mtu = |mode: u32, least: u32, told: u16| {
        let mut script = Script::accepted(plain(), &SocketOptions::default());
        let sysctls = Sysctls { ip_no_pmtu_disc: mode, min_pmtu: least, ..Sysctls::LINUX };
        script.stack.set_sysctls(&sysctls);
        script.write(3_000);
        let embedded = original(&script, 1);
        deliver(&mut script, &Icmpv4Repr::FragmentationNeeded { mtu: told, embedded: &embedded });
        script.info().pmtu
    };
    assert_eq!(mtu(0, 552, 1000), 1000);
    assert_eq!(mtu(0, 1200, 1000), 1200);
    assert_eq!(mtu(1, 552, 1000), 552, "that it is too large, not how large it may be");
    assert_eq!(mtu(2, 552, 1000), 1500, "nothing");
    assert_eq!(mtu(3, 552, 1000), 1000);
}

#[test]
fn an_open_ends_by_soft_errors_as_well() {
    for (code, errno) in [(icmpv4::unreachable::HOST, 113), (icmpv4::unreachable::NET, 101)] {
        let mut script = Script::new();
        script.connect(&SocketOptions::default());
        script.next();
        let embedded = original(&script, 0);
        deliver(&mut script, &Icmpv4Repr::Unreachable { code, embedded: &embedded });
        assert_eq!(script.closed(), Some(CloseReason::Unreachable(errno)));
    }
}
