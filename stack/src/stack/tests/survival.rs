//! State outlives its process: a copy of the arena goes on exactly as the original does.

use super::bench::*;
use super::transfer::Pair;
use crate::*;
use std::vec::Vec;

/// Everything that a script knows beside its stack.
fn twin<'m>(memory: &'m mut [u8], of: &(u64, u32, Option<ConnectionId>)) -> Script<'m> {
    let mut script = Script::with_stack(Stack::attach(memory).unwrap());
    (script.now, script.iss, script.id) = *of;
    script.stamps = true;
    script
}

#[test]
fn a_copy_behaves_like_its_original_to_the_last_bit() {
    let config = config();
    let original = memory(&config);
    let known = {
        let mut stack = Stack::format(original, &config, Instant::from_micros(1_000_000)).unwrap();
        stack.add_interface(&interface(1500, 1500)).unwrap();
        stack.add_address(PORT, OURS.into(), 24).unwrap();
        let mut script = Script::with_stack(stack).accept(usual(), &SocketOptions::default());
        // In the midst of everything: data in flight, a hole below what arrived, a half-open request, unread events.
        script.write(100_000);
        script.inject(A, 500, 1, b"out of order");
        script.remote_port += 1;
        script.inject_with(S, 0, 0, usual(), &[]);
        (script.now, script.iss, script.id)
    };
    let copy = memory(&config);
    copy.copy_from_slice(original);

    let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
    let mut events: [Vec<Event>; 2] = Default::default();
    for (place, memory) in [original, copy].into_iter().enumerate() {
        let mut script = twin(memory, &known);
        script.inject(A, 1, 1449, b"in order");
        script.pass(3_000_000);
        events[place] = script.events();
        script.inject(A, 501, 20_000, &[]);
        script.read_to(8);
        script.close();
        script.pass(200_000_000);
        events[place].extend(script.events());
        sent[place] = script.bench.sent.into_iter().collect();
    }
    assert!(sent[0].len() > 10 && events[0].len() > 1, "{} {:?}", sent[0].len(), events[0]);
    assert_eq!(sent[0], sent[1]);
    assert_eq!(events[0], events[1]);
}

/// Serialises both ends in mid-transfer under loss, rebuilds them in new stacks with other clocks' values, and
/// finishes byte for byte.
#[test]
fn both_ends_can_be_moved_to_other_stacks_in_mid_transfer() {
    for (step, congestion) in
        [(5, Congestion::Cubic), (20, Congestion::NewReno), (45, Congestion::Cubic), (80, Congestion::Cubic)]
    {
        let mut pair = Pair::new(1500, 3_000);
        pair.open(&SocketOptions { congestion: Some(congestion), ..SocketOptions::default() });
        pair.lose = |sent| sent % 19 == 0;
        pair.write(0, 900_000);
        pair.write(1, 600_000);
        for _ in 0..step {
            pair.step();
        }
        pair.move_ends();
        pair.run(|pair| pair.ends[1].rcv_end == 900_000 && pair.ends[0].rcv_end == 600_000);
        pair.shutdown(0);
        pair.shutdown(1);
        pair.run(|pair| pair.ends.iter().all(|end| end.closed == [CloseReason::Finished]));
        pair.check(1, 900_000);
        pair.check(0, 600_000);
    }
}

#[test]
fn bytes_that_are_no_connection_are_refused() {
    let script = Script::accepted(usual(), &SocketOptions::default());
    let mut bytes = [0; EXPORT_MAX];
    let len = script.stack.export(script.at(), script.id(), &mut bytes).unwrap();
    assert_eq!(script.stack.export(script.at(), script.id(), &mut { bytes }[..len - 1]), Err(Error::NoMemory));
    let good = &bytes[..len];
    let import =
        |bytes: &[u8]| stack(&config(), OURS, 1500, 1500).import(Instant::from_micros(5), Owner(3), bytes).map(|_| ());
    assert_eq!(import(good), Ok(()));
    assert_eq!(import(&good[..len - 1]), Err(ImportError::Damaged));
    assert_eq!(import(&good[..3]), Err(ImportError::Damaged));
    for place in 0..6 {
        let mut other = bytes;
        other[place] ^= 1;
        assert_eq!(import(&other[..len]), Err(ImportError::Foreign), "byte {place}");
    }
    let elsewhere = stack(&config(), PEER, 1500, 1500).import(Instant::from_micros(5), Owner(3), good);
    assert_eq!(elsewhere, Err(ImportError::Refused(Error::AddressNotAvailable)));
    let mut script = script;
    let again = script.stack.import(Instant::from_micros(5), Owner(3), good);
    assert_eq!(again, Err(ImportError::Refused(Error::AddressInUse)));
}

#[test]
fn the_trace_says_what_happened_to_whom() {
    let mut script = Script::accepted(plain(), &SocketOptions::default());
    assert_eq!(script.stack.poll_trace(), None, "off by default");
    script.stack.set_tracing(true);
    script.write(100);
    script.pass(300_000);
    let traced: Vec<Traced> = std::iter::from_fn(|| script.stack.poll_trace()).collect();
    let counted = |what| Happening::Counted { what, amount: 1 };
    let timeout = traced.iter().find(|traced| traced.what == counted(Counter::TcpExtTCPTimeouts)).unwrap();
    assert_eq!(timeout.connection, script.id);
    assert!(timeout.at.as_micros() > 1_200_000);
    assert!(traced.iter().any(|traced| traced.what == counted(Counter::TcpRetransSegs)));
}
