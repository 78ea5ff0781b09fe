//! A peer that sends whatever it likes: random segments around every edge, in every state, with the application doing
//! random things. Nothing panics, no arithmetic overflows, no record is lost.

use super::bench::*;
use crate::wire::{SackBlock, SackBlocks, SeqNumber, TcpFlags, TcpOptions, Timestamps};
use crate::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Segment {
        flags: u16,
        seq: i64,
        ack: i64,
        window: u16,
        urgent: u16,
        len: usize,
        blocks: Vec<(i32, i32)>,
        stamp: Option<(i32, i32)>,
    },
    /// Random bytes behind a valid IP header.
    Garbage(Vec<u8>),
    Write(u32),
    Read,
    Shutdown,
    Close,
    Abort,
    Urgent(u32),
    Options(u8),
    Pass(u32),
    Busy(bool),
    Room(Option<u16>),
    Listener,
}

fn near() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => -3i64..3,
        4 => -4_000i64..70_000,
        1 => -0x8000_0000i64..0x8000_0000,
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![6 => Just(A.0), 2 => Just((A | F).0), 1 => Just(S.0), 1 => Just((S | A).0), 1 => Just(R.0), 2 => 0..=TcpFlags::ALL.0];
    let block = (-5_000i32..60_000, 1i32..5_000);
    let segment = (
        flags,
        near(),
        near(),
        prop_oneof![any::<u16>(), Just(0), 0u16..3000],
        any::<u16>(),
        prop_oneof![Just(0usize), 1usize..1460],
        prop::collection::vec(block, 0..4),
        prop::option::of((-10i32..10, -10i32..10)),
    )
        .prop_map(|(flags, seq, ack, window, urgent, len, blocks, stamp)| Step::Segment {
            flags,
            seq,
            ack,
            window,
            urgent,
            len,
            blocks,
            stamp,
        });
    let step = prop_oneof![
        30 => segment,
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Step::Garbage),
        6 => (0u32..40_000).prop_map(Step::Write),
        4 => Just(Step::Read),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Close),
        1 => Just(Step::Abort),
        1 => (0u32..5_000).prop_map(Step::Urgent),
        1 => any::<u8>().prop_map(Step::Options),
        6 => prop_oneof![0u32..300_000, 0u32..200_000_000].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Busy),
        1 => prop::option::of(any::<u16>()).prop_map(Step::Room),
        1 => Just(Step::Listener),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(mut script: Script<'_>, steps: Vec<Step>, stamps: bool) {
    let mut written = 0u64;
    script.stamps = stamps;
    for step in steps {
        let id = script.id.filter(|id| script.stack.local_address(*id).is_ok());
        let now = script.at();
        match step {
            Step::Segment { flags, seq, ack, window, urgent, len, blocks, stamp } => {
                // Around where the two ends really are.
                let (base_seq, base_ack) = match id.map(|id| script.stack.info(now, id).unwrap()) {
                    Some(info) => (1 + info.bytes_received, 1 + info.bytes_acked + info.unacked),
                    None => (1, 1),
                };
                let seq = (base_seq as i64 + seq) as u32;
                let ack = (base_ack as i64 + ack) as u32;
                let mut options = TcpOptions::default();
                let mut sack = SackBlocks::default();
                for (start, len) in blocks {
                    let start = SeqNumber(script.iss.wrapping_add(base_ack as u32).wrapping_add(start as u32));
                    sack.push(SackBlock { start, end: SeqNumber(start.0.wrapping_add(len as u32)) });
                }
                options.sack = sack;
                options.timestamps = stamp.filter(|_| stamps).map(|(value, echo)| {
                    let now = (script.now / 1_000) as u32;
                    Timestamps { value: now.wrapping_add(value as u32), echo: now.wrapping_add(echo as u32) }
                });
                script.window = window;
                let packet = script.packet(TcpFlags(flags), seq, ack, options, urgent, &vec![1; len]);
                script.deliver(&packet);
            }
            Step::Garbage(bytes) => {
                let mut packet = script.packet(A, 1, 1, TcpOptions::default(), 0, &[]);
                packet.truncate(20);
                packet.extend_from_slice(&bytes);
                let total = packet.len() as u16;
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                packet[10..12].fill(0);
                let sum = !crate::wire::checksum::sum(&packet[..20]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                let frame = RxFrame { checksum: RxChecksum::Verified, ..RxFrame::single(&packet) };
                script.stack.on_frame(now, PORT, &frame, &mut script.bench);
            }
            Step::Write(more) if id.is_some() => {
                written += u64::from(more);
                script.write(written);
            }
            Step::Read if id.is_some() => {
                let end = script.info().bytes_received;
                script.read_to(end);
            }
            Step::Shutdown if id.is_some() => script.shutdown(),
            Step::Close if id.is_some() => script.close(),
            Step::Abort => {
                if let Some(id) = id {
                    script.stack.abort(now, id, &mut script.bench).unwrap();
                }
            }
            Step::Urgent(ahead) => {
                if let Some(id) = id {
                    script.stack.urgent(id, written + u64::from(ahead)).unwrap();
                }
            }
            Step::Options(bits) => {
                if let Some(id) = id {
                    let options = SocketOptions {
                        nodelay: bits & 1 != 0,
                        cork: bits & 2 != 0,
                        keepalive: bits & 4 != 0,
                        keep_idle: Some(Duration::from_secs(1)),
                        user_timeout: (bits & 8 != 0).then_some(Duration::from_millis(700)),
                        max_segment: (bits & 16 != 0).then_some(u16::from(bits)),
                        receive_buffer: (bits & 32 != 0).then_some(1 << (bits & 15)),
                        congestion: (bits & 64 != 0).then_some(Congestion::NewReno),
                        ..SocketOptions::default()
                    };
                    script.stack.set_options(now, id, &options, &mut script.bench).unwrap();
                }
            }
            Step::Pass(micros) => script.pass(u64::from(micros)),
            Step::Busy(busy) => script.bench.busy = busy,
            Step::Room(room) => script.bench.room = room.map(usize::from),
            Step::Listener => {
                // A second listener comes and goes.
                let local = std::net::SocketAddr::from((OURS, 81));
                let id = script.stack.listen(Owner(1), local, 1, &SocketOptions::default()).unwrap();
                script.stack.unlisten(now, id, &mut script.bench).unwrap();
            }
            Step::Write(_) | Step::Read | Step::Shutdown | Step::Close => {}
        }
        script.flush();
        script.events();
        script.bench.sent.clear();
        script.bench.super_segments.clear();
    }
    // Whatever is left ends, and every record comes back.
    script.bench.busy = false;
    let now = script.at();
    script.stack.abort_all(now, &mut script.bench);
    script.flush();
    script.events();
    script.pass(400_000_000);
    script.flush();
    script.events();
    let usage = script.stack.usage();
    assert_eq!(usage, Usage { listeners: usage.listeners, ..Usage::default() });
    assert_eq!(script.stack.next_timeout(), None);
}

fn script(block: &mut [u8], max_segment: u32) -> Script<'_> {
    let config = config();
    Script::with_stack(stack_in(aligned(block, &config), &config, OURS, 1500, max_segment))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn an_accepted_connection_stands_anything(steps in steps(), offer in 0u8..3) {
        let offer = [plain(), sack_only(), usual()][usize::from(offer)];
        let mut block = dirty(&config());
        let script = script(&mut block, 1500).accept(offer, &SocketOptions::default());
        run(script, steps, offer.timestamps.is_some());
    }

    #[test]
    fn an_opening_connection_stands_anything(steps in steps()) {
        let mut block = dirty(&config());
        let mut script = script(&mut block, 1500);
        script.listen(2, &SocketOptions::default());
        script.connect(&SocketOptions::default());
        script.next();
        run(script, steps, false);
    }

    #[test]
    fn a_listener_stands_anything(steps in steps(), later: bool) {
        let mut block = dirty(&config());
        let mut script = script(&mut block, 65_535);
        script.bench.incoming = if later { Incoming::Later } else { Incoming::Adopt(Owner(7)) };
        script.listen(2, &SocketOptions::default());
        run(script, steps, false);
    }
}
