//! Any order of fragments gives the datagram; overlap, lies about the end, and floods do not.

use super::*;
use crate::wire::protocol;
use proptest::prelude::*;
extern crate std;
use std::vec;
use std::vec::Vec;

struct Memory {
    blocks: Vec<Block>,
    datagrams: Vec<Datagram>,
    state: ReassemblyState,
    scratch: Vec<u8>,
}

impl Memory {
    fn new(bytes: u32) -> Self {
        let (blocks, datagrams) = Reassembly::sizes(bytes);
        Self {
            blocks: vec![Block { received: [7; 4], bytes: [0xdd; BLOCK] }; blocks],
            datagrams: vec![Datagram::default(); datagrams],
            state: ReassemblyState::default(),
            scratch: vec![0; SCRATCH],
        }
    }

    fn view(&mut self) -> Reassembly<'_> {
        Reassembly {
            blocks: &mut self.blocks,
            datagrams: &mut self.datagrams,
            state: &mut self.state,
            scratch: &mut self.scratch,
        }
    }

    fn add(&mut self, now: Instant, from: u8, id: u16, offset: usize, more: bool, payload: &[u8]) -> Outcome {
        let mut bytes = [0; 20];
        let repr = Ipv4Repr {
            source: Ipv4Addr::new(10, 0, 0, from),
            destination: Ipv4Addr::new(10, 0, 0, 1),
            protocol: protocol::TCP,
            ttl: 64,
            tos: 2,
            identification: id,
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset as u16,
            payload_len: payload.len() as u16,
        };
        repr.emit(&mut bytes);
        // In two pieces, as a multi-buffer frame has them.
        let (head, tail) = payload.split_at(payload.len() / 3);
        self.view().add(now, &Ipv4View::new(&bytes).unwrap(), [head, tail].into_iter())
    }
}

const NOW: Instant = Instant::from_micros(1_000_000);

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

proptest! {
    #[test]
    fn fragments_in_any_order_and_repeated_give_the_datagram(
        len in 16usize..=MAX_PAYLOAD,
        cuts in prop::collection::btree_set(1usize..MAX_PAYLOAD / 8, 0..20),
        order in any::<u64>(),
        repeat: bool,
    ) {
        let bytes = payload(len);
        let mut bounds: Vec<usize> = cuts.into_iter().map(|cut| cut * 8).filter(|&cut| cut < len).collect();
        bounds.insert(0, 0);
        bounds.push(len);
        let mut fragments: Vec<_> = bounds.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let last = fragments.len();
        for place in 0..last {
            fragments.swap(place, (order.wrapping_mul(place as u64 * 2 + 1) >> 7) as usize % last);
        }
        let mut memory = Memory::new(200_000);
        for (place, range) in fragments.iter().enumerate() {
            let more = range.end < len;
            let outcome = memory.add(NOW, 9, 77, range.start, more, &bytes[range.clone()]);
            if place + 1 < last {
                prop_assert_eq!(outcome, Outcome::Incomplete);
                if repeat {
                    let again = memory.add(NOW, 9, 77, range.start, more, &bytes[range.clone()]);
                    prop_assert_eq!(again, Outcome::Incomplete);
                }
            } else {
                let Outcome::Complete(whole) = outcome else { panic!("{outcome:?} at the end") };
                prop_assert_eq!((whole.len, whole.source, whole.tos), (len, Ipv4Addr::new(10, 0, 0, 9), 2));
                prop_assert_eq!(&memory.scratch[..len], &bytes[..]);
            }
        }
        prop_assert_eq!(memory.view().blocks_in_use(), 0);
    }

    /// Whatever fragments come, memory stays within its bound and comes back with time.
    #[test]
    fn random_fragments_leave_nothing_behind(
        fragments in prop::collection::vec((1u8..6, 0u16..4, 0usize..9_000, any::<bool>(), 1usize..3_000), 0..200),
    ) {
        let mut memory = Memory::new(30_000);
        let bytes = payload(3_000);
        for (step, (from, id, offset, more, len)) in fragments.into_iter().enumerate() {
            let now = NOW + Duration::from_millis(step as u64 * 200);
            let mut reassembly = memory.view();
            while reassembly.pop_expired(now).is_some() {}
            memory.add(now, from, id, offset * 8 % 65_528, more, &bytes[..len]);
            let in_use: usize =
                memory.datagrams.iter().flat_map(|it| it.blocks).filter(|&block| block != 0).count();
            prop_assert_eq!(memory.state.used as usize, in_use);
            prop_assert!(in_use <= memory.blocks.len());
        }
        let end = NOW + Duration::from_secs(600);
        let mut reassembly = memory.view();
        while reassembly.pop_expired(end).is_some() {}
        prop_assert_eq!((reassembly.blocks_in_use(), reassembly.next_deadline()), (0, None));
    }
}

#[test]
fn overlap_discards_the_datagram_and_what_still_comes_of_it() {
    let bytes = payload(64);
    let mut memory = Memory::new(100_000);
    assert_eq!(memory.add(NOW, 9, 1, 0, true, &bytes[..32]), Outcome::Incomplete);
    assert_eq!(memory.add(NOW, 9, 1, 24, true, &bytes[24..48]), Outcome::Discarded);
    assert_eq!(memory.add(NOW, 9, 1, 0, true, &bytes[..32]), Outcome::Discarded);
    assert_eq!(memory.add(NOW, 9, 1, 32, false, &bytes[32..]), Outcome::Discarded);
    assert_eq!(memory.view().blocks_in_use(), 0);
    // Another datagram of the same source is not touched, and after its time the number can be used again.
    assert_eq!(memory.add(NOW, 9, 2, 0, true, &bytes[..32]), Outcome::Incomplete);
    assert!(matches!(memory.add(NOW, 9, 2, 32, false, &bytes[32..]), Outcome::Complete(_)));
    let later = NOW + LIFETIME;
    assert_eq!(memory.view().pop_expired(later), Some(Expired { first: None }));
    assert_eq!(memory.add(later, 9, 1, 0, true, &bytes[..32]), Outcome::Incomplete);
    assert!(matches!(memory.add(later, 9, 1, 32, false, &bytes[32..]), Outcome::Complete(_)));
}

#[test]
fn a_datagram_has_one_end() {
    let bytes = payload(64);
    let mut memory = Memory::new(100_000);
    assert_eq!(memory.add(NOW, 9, 1, 32, false, &bytes[32..48]), Outcome::Incomplete);
    assert_eq!(memory.add(NOW, 9, 1, 48, false, &bytes[48..]), Outcome::Discarded, "a second end");
    assert_eq!(memory.add(NOW, 9, 2, 32, false, &bytes[32..48]), Outcome::Incomplete);
    assert_eq!(memory.add(NOW, 9, 2, 48, true, &bytes[48..]), Outcome::Discarded, "beyond the end");
    assert_eq!(memory.add(NOW, 9, 3, 48, true, &bytes[48..]), Outcome::Incomplete);
    assert_eq!(memory.add(NOW, 9, 3, 32, false, &bytes[32..48]), Outcome::Discarded, "an end before what is there");
    assert_eq!(memory.view().blocks_in_use(), 0);
}

#[test]
fn impossible_fragments_are_discarded() {
    let bytes = payload(2_000);
    let mut memory = Memory::new(100_000);
    assert_eq!(memory.add(NOW, 9, 1, 0, true, &bytes[..33]), Outcome::Discarded, "ends beside a unit");
    assert_eq!(memory.add(NOW, 9, 1, 0, true, &[]), Outcome::Discarded, "empty");
    assert_eq!(memory.add(NOW, 9, 1, 65_528, false, &bytes[..8]), Outcome::Discarded, "longer than IP allows");
    assert_eq!(memory.view().next_deadline(), None);
    let mut nothing = Memory::new(0);
    assert_eq!(nothing.add(NOW, 9, 1, 0, true, &bytes[..32]), Outcome::Discarded, "no memory at all");
}

#[test]
fn what_stays_incomplete_expires_with_its_first_bytes() {
    let bytes = payload(64);
    let mut memory = Memory::new(100_000);
    memory.add(NOW, 9, 1, 0, true, &bytes[..32]);
    memory.add(NOW + Duration::from_secs(1), 9, 2, 32, false, &bytes[32..]);
    let mut reassembly = memory.view();
    assert_eq!(reassembly.next_deadline(), Some(NOW + LIFETIME));
    assert_eq!(reassembly.pop_expired(NOW + Duration::from_secs(29)), None);
    let expired = reassembly.pop_expired(NOW + LIFETIME).unwrap();
    let (header, first) = expired.first.unwrap();
    assert_eq!((header.identification, header.payload_len, &first[..]), (1, 32, &bytes[..8]));
    assert_eq!(reassembly.pop_expired(NOW + LIFETIME), None);
    assert_eq!(reassembly.next_deadline(), Some(NOW + LIFETIME + Duration::from_secs(1)));
    assert_eq!(reassembly.pop_expired(NOW + Duration::from_secs(32)), Some(Expired { first: None }));
}

#[test]
fn one_source_cannot_push_out_the_others() {
    let bytes = payload(64);
    let mut memory = Memory::new(40_000);
    assert_eq!(memory.add(NOW, 9, 1, 0, true, &bytes[..32]), Outcome::Incomplete);
    for id in 0..1_000 {
        memory.add(NOW + Duration::from_millis(1), 66, id, 0, true, &bytes[..32]);
    }
    assert!(matches!(memory.add(NOW, 9, 1, 32, false, &bytes[32..]), Outcome::Complete(_)));
}
