//! State outlives its process: a copy of the arena goes on exactly as the original does.

use super::bench::*;
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
