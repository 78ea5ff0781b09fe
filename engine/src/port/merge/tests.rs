//! Cutting and merging are inverse; what must not merge goes up as it came, and each flow keeps its order.

use super::*;
use crate::port::cut::{Cut, Device};
use crate::port::fixture::{Template, pieces_of, template};
use crate::port::{Piece, TxFrame};
use persona_stack::{Gso, TxChecksum};
use proptest::prelude::*;

const MERGE: Treatment = Treatment { partial: true, merge: true };

/// A delivered frame in one piece.
#[derive(Debug, PartialEq)]
struct Seen {
    frame: Vec<u8>,
    checksum: RxChecksum,
    gso_size: u16,
}

/// Delivers frames, each split at `split` bytes into head and tail.
fn deliver(frames: &mut [Vec<u8>], treatment: Treatment, split: usize) -> Vec<Seen> {
    let mut batch = Batch::new(treatment);
    for frame in frames {
        let first = split.min(frame.len());
        let (head, tail) = frame.split_at_mut(first);
        let tail: Vec<Received> =
            tail.chunks_mut(split).map(|part| Received { start: part.as_mut_ptr(), len: part.len() }).collect();
        let head = Received { start: head.as_mut_ptr(), len: head.len() };
        // SAFETY: `frames` is borrowed mutably until the end of this function.
        unsafe { batch.push(head, &tail, RxChecksum::Unverified, 0) };
    }
    let mut seen = Vec::new();
    let count = batch.deliver(&mut |frame| {
        let bytes = [frame.head].into_iter().chain(frame.tail.iter().copied()).flatten().copied().collect();
        seen.push(Seen { frame: bytes, checksum: frame.checksum, gso_size: frame.gso_size });
    });
    assert_eq!(count, seen.len());
    assert!(batch.is_empty());
    seen
}

fn cut(header: &[u8], payload: &[u8], size: u16, device_sums: bool) -> Vec<Vec<u8>> {
    let pieces: Vec<Piece> = pieces_of(payload, &[]);
    let layout = Layout::of_ethernet(header).unwrap();
    let mut header = header.to_vec();
    let pseudo = layout.pseudo_header(&header, header.len() - layout.l4 + payload.len()).fold();
    sum::store(&mut header, layout.l4 + TCP_CHECKSUM, pseudo);
    let end = header.len() + payload.len();
    layout.set_end(&mut header, end);
    let checksum = TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 };
    let frame = TxFrame { header: &header, payload: &pieces, checksum, gso: Some(Gso { size, repeats_ecn: false }) };
    let mut cut = Cut::new(&frame, Device { sums: device_sums, cuts: false }).unwrap();
    let mut frames = Vec::new();
    while let Some(len) = cut.next_len() {
        let mut frame = vec![0; len];
        cut.write(&mut [&mut frame]);
        frames.push(frame);
    }
    frames
}

/// Whether the TCP checksum of a (merged) frame holds.
fn holds(frame: &[u8]) -> bool {
    let layout = Layout::of_ethernet(frame).unwrap();
    let mut sum = layout.pseudo_header(frame, layout.end - layout.l4);
    sum.add(&frame[layout.l4..layout.end]);
    sum.fold() == 0xffff
}

proptest! {
    #[test]
    fn merging_undoes_cutting(
        v6: bool,
        tags in 0usize..3,
        psh: bool,
        device_sums: bool,
        sequence: u32,
        size in 200u16..2000,
        split in 150usize..3000,
        payload in proptest::collection::vec(any::<u8>(), 200..9000),
    ) {
        let flags = if psh { 0x18 } else { 0x10 };
        let header = template(&Template { v6, tags, flags, sequence, ..Template::default() });
        // What one frame with the whole payload would be.
        let whole = cut(&header, &payload, u16::MAX, device_sums).remove(0);
        let mut frames = cut(&header, &payload, size, device_sums);
        let pieces: usize = frames.iter().map(|frame| frame.len().div_ceil(split)).sum();
        prop_assume!(pieces <= BATCH);
        let many = frames.len() > 1;
        // One complete checksum in 65,536 looks partial by chance.
        let seen = deliver(&mut frames, Treatment { partial: device_sums, merge: true }, split);
        prop_assert_eq!(seen.len(), 1);
        prop_assert_eq!(seen[0].gso_size, if many { size } else { 0 });
        prop_assert_eq!(seen[0].checksum == RxChecksum::Partial, device_sums);
        prop_assert!(device_sums || holds(&seen[0].frame));
        // All ones and zero are one number: compare the checksum apart.
        let layout = Layout::of_ethernet(&whole).unwrap();
        let at = layout.l4 + TCP_CHECKSUM;
        prop_assert_eq!(sum::load(&whole, at) % 0xffff, sum::load(&seen[0].frame, at) % 0xffff);
        prop_assert_eq!(&whole[..at], &seen[0].frame[..at]);
        prop_assert_eq!(&whole[at + 2..], &seen[0].frame[at + 2..]);
    }

    #[test]
    fn a_flipped_bit_in_a_train_breaks_the_checksum_of_the_train(
        payload in proptest::collection::vec(any::<u8>(), 3000..6000),
        frame in 0usize..3,
        bit in 0usize..8000,
    ) {
        let mut frames = cut(&template(&Template::default()), &payload, 1000, false);
        let at = frames[frame].len() - 1 - bit / 8 % 1000;
        frames[frame][at] ^= 1 << (bit % 8);
        // As above.
        let seen = deliver(&mut frames, Treatment { partial: false, merge: true }, 4096);
        prop_assert_eq!(seen.len(), 1);
        prop_assert!(!holds(&seen[0].frame));
    }

    #[test]
    fn flows_keep_their_order_and_lose_nothing(
        order in proptest::collection::vec((0u16..12, 0u8..6), 1..60),
    ) {
        // Twelve flows, each sending segments that may or may not merge.
        let mut sequence = [0u32; 12];
        let mut sent: Vec<Vec<u8>> = vec![Vec::new(); 12];
        let mut frames = Vec::new();
        for (flow, kind) in order {
            let at = usize::from(flow);
            let flags = [0x10, 0x10, 0x10, 0x18, 0x11, 0x90][usize::from(kind)];
            let len = if kind == 1 { 0 } else { 100 - usize::from(kind) % 2 };
            let payload: Vec<u8> = (0..len).map(|byte| (sequence[at] + byte as u32) as u8).collect();
            let header =
                template(&Template { flags, sequence: sequence[at], source_port: flow, ..Template::default() });
            frames.extend(cut(&header, &payload, 1000, false));
            sequence[at] += len as u32;
            sent[at].extend(payload);
        }
        let segments = frames.len();
        let seen = deliver(&mut frames, MERGE, 4096);
        prop_assert!(seen.len() <= segments);
        let mut got: Vec<Vec<u8>> = vec![Vec::new(); 12];
        for one in &seen {
            prop_assert!(holds(&one.frame));
            let layout = Layout::of_ethernet(&one.frame).unwrap();
            let flow = usize::from(be16(&one.frame, layout.l4).unwrap());
            let at = layout.l4 + layout.tcp_header(&one.frame).unwrap();
            prop_assert_eq!(be32(&one.frame, layout.l4 + 4) as usize, got[flow].len());
            got[flow].extend(&one.frame[at..]);
        }
        prop_assert_eq!(got, sent);
    }
}

/// Two segments that would merge, the second changed by `change` and summed again.
fn merged_after(change: impl FnOnce(&mut Vec<u8>)) -> usize {
    let header = template(&Template { flags: 0x10, ..Template::default() });
    let mut frames = cut(&header, &[1; 2000], 1000, false);
    change(&mut frames[1]);
    let frame = &mut frames[1];
    if let Some(layout) = Layout::of_ethernet(frame).filter(|layout| layout.protocol == 6) {
        layout.sum_ipv4(frame);
        sum::store(frame, layout.l4 + TCP_CHECKSUM, 0);
        let mut sum = layout.pseudo_header(frame, layout.end - layout.l4);
        sum.add(&frame[layout.l4..layout.end.min(frame.len())]);
        sum::store(frame, layout.l4 + TCP_CHECKSUM, sum::field(sum.fold()));
    }
    deliver(&mut frames, MERGE, 4096).len()
}

/// ECN flags that stay the same, be they an echo or AccECN's counter, are no reason to stay apart.
#[test]
fn segments_with_the_same_ecn_flags_join() {
    for (flags, ae) in [(0x50, 0), (0x50, 1), (0x10, 1)] {
        let mut header = template(&Template { flags, ..Template::default() });
        header[34 + 12] |= ae;
        let seen = deliver(&mut cut(&header, &[1; 2000], 1000, false), MERGE, 4096);
        assert_eq!((seen.len(), seen[0].gso_size, seen[0].frame[34 + 12] & 1), (1, 1000, ae));
        assert_eq!(seen[0].frame[34 + 13] & 0xc0, flags & 0xc0);
    }
}

#[test]
fn only_the_next_segment_that_is_alike_joins() {
    const L3: usize = 14;
    const L4: usize = 34;
    assert_eq!(merged_after(|_| {}), 1);
    let changes: [(&str, usize, u8); 15] = [
        ("destination MAC", 0, 1),
        ("type of service (ECN)", L3 + 1, 3),
        ("don't fragment", L3 + 6, 0x40),
        ("time to live", L3 + 8, 1),
        ("source address", L3 + 15, 1),
        ("destination port", L4 + 3, 1),
        ("sequence number", L4 + 7, 1),
        ("acknowledgement number", L4 + 11, 1),
        ("FIN", L4 + 13, 0x01),
        ("SYN", L4 + 13, 0x02),
        ("CWR", L4 + 13, 0x80),
        ("ECE", L4 + 13, 0x40),
        ("AE", L4 + 12, 0x01),
        ("window", L4 + 15, 1),
        ("option", L4 + 20, 3),
    ];
    for (name, at, flip) in changes {
        assert_eq!(merged_after(|frame| frame[at] ^= flip), 2, "{name}");
    }
    assert_eq!(merged_after(|frame| frame[L3 + 5] ^= 1), 1, "the identification may differ");
}

#[test]
fn ethernet_padding_does_not_end_up_in_the_stream() {
    let header = template(&Template { flags: 0x10, options: 0, ..Template::default() });
    let mut frames = cut(&header, &[1, 2, 3, 4], 2, false);
    frames.iter_mut().for_each(|frame| frame.resize(60, 0xee));
    let seen = deliver(&mut frames, MERGE, 4096);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].frame[54..], [1, 2, 3, 4]);
    assert!(holds(&seen[0].frame));
}

#[test]
fn untreated_batches_pass_everything_as_it_came() {
    let header = template(&Template::default());
    let frames = cut(&header, &[5; 3000], 1000, true);
    let seen = deliver(&mut frames.clone(), Treatment::default(), 512);
    let expected: Vec<Seen> =
        frames.into_iter().map(|frame| Seen { frame, checksum: RxChecksum::Unverified, gso_size: 0 }).collect();
    assert_eq!(seen, expected);
}
