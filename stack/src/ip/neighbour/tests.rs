//! The table against a map, and the life of an entry.

use super::*;
use proptest::prelude::*;
extern crate std;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

const PORT: PortId = PortId(1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn table(count: u32) -> (Vec<NeighbourRecord>, NeighboursState) {
    let records = vec![NeighbourRecord::default(); Neighbours::records_for(count)];
    (records, NeighboursState::new(0x9e37_79b9_7f4a_7c15))
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

fn at(millis: u64) -> Instant {
    Instant::from_micros(0) + Duration::from_millis(millis)
}

#[test]
fn an_unknown_neighbour_is_asked_for_three_times_and_given_up() {
    let (mut records, mut state) = table(8);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    assert_eq!(table.resolve(at(0), PORT, ip(1)), Resolution::Request);
    assert_eq!(table.resolve(at(10), PORT, ip(1)), Resolution::Wait);
    assert_eq!(table.next_deadline(), Some(at(1_000)));
    assert_eq!(table.pop_due(at(999)), None);
    let again = Due::Request { port: PORT, address: ip(1), mac: None };
    for second in [1_000, 2_000] {
        assert_eq!(table.pop_due(at(second)), Some(again));
        assert_eq!(table.pop_due(at(second)), None);
        assert_eq!(table.next_deadline(), Some(at(second + 1_000)));
    }
    assert_eq!(table.pop_due(at(3_000)), Some(Due::Failed { port: PORT, address: ip(1) }));
    assert_eq!((table.pop_due(at(3_000)), table.next_deadline(), table.len()), (None, None, 0));
    assert_eq!(table.resolve(at(3_001), PORT, ip(1)), Resolution::Request, "the next use asks anew");
}

#[test]
fn an_answer_resolves_and_ages_and_is_proven_again() {
    let (mut records, mut state) = table(8);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    table.resolve(at(0), PORT, ip(1));
    assert_eq!(table.learn(at(5), PORT, ip(1), MAC, false), Learned::Resolved);
    assert_eq!((table.pop_due(at(5_000)), table.next_deadline()), (None, None));
    assert_eq!(table.resolve(at(30_005), PORT, ip(1)), Resolution::Known(MAC));
    assert_eq!(table.resolve(at(30_006), PORT, ip(1)), Resolution::KnownProbe(MAC));
    assert_eq!(table.resolve(at(30_007), PORT, ip(1)), Resolution::Known(MAC), "one request at a time");
    let again = Due::Request { port: PORT, address: ip(1), mac: Some(MAC) };
    assert_eq!(table.pop_due(at(31_006)), Some(again));
    assert_eq!(table.learn(at(31_007), PORT, ip(1), MAC, false), Learned::Updated);
    assert_eq!(table.pop_due(at(99_000)), None);
    // The second time a connection's progress is the proof, and the third time nobody answers.
    assert_eq!(table.resolve(at(70_000), PORT, ip(1)), Resolution::KnownProbe(MAC));
    table.confirm(at(70_001), PORT, ip(1));
    assert_eq!(table.pop_due(at(99_000)), None);
    assert_eq!(table.resolve(at(110_000), PORT, ip(1)), Resolution::KnownProbe(MAC));
    assert_eq!(table.pop_due(at(111_000)), Some(again));
    assert_eq!(table.pop_due(at(112_000)), Some(again));
    assert_eq!(table.pop_due(at(113_000)), Some(Due::Failed { port: PORT, address: ip(1) }));
}

#[test]
fn only_a_neighbour_who_talks_to_us_gets_an_entry_unasked() {
    let (mut records, mut state) = table(8);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    assert_eq!(table.learn(at(0), PORT, ip(1), MAC, false), Learned::Ignored);
    assert_eq!(table.len(), 0);
    assert_eq!(table.learn(at(0), PORT, ip(1), MAC, true), Learned::Updated);
    assert_eq!(table.resolve(at(1), PORT, ip(1)), Resolution::Known(MAC));
    let moved = MacAddr([2, 0, 0, 0, 0, 10]);
    assert_eq!(table.learn(at(2), PORT, ip(1), moved, false), Learned::Updated);
    assert_eq!(table.resolve(at(3), PORT, ip(1)), Resolution::Known(moved));
    assert_eq!(table.resolve(at(3), PortId(2), ip(1)), Resolution::Request, "another link, another neighbour");
}

#[test]
fn an_entry_from_outside_stays_until_it_is_taken_away() {
    let (mut records, mut state) = table(8);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    table.resolve(at(0), PORT, ip(1));
    assert_eq!(table.set(PORT, ip(1), MAC), Ok(Learned::Resolved));
    assert_eq!(table.learn(at(1), PORT, ip(1), MacAddr([4; 6]), true), Learned::Ignored);
    assert_eq!(table.resolve(at(9_999_999), PORT, ip(1)), Resolution::Known(MAC));
    assert_eq!(table.pop_due(at(9_999_999)), None);
    assert_eq!(table.set(PORT, ip(1), MacAddr::BROADCAST), Err(Error::Invalid));
    table.forget(PORT, ip(1));
    assert_eq!(table.resolve(at(9_999_999), PORT, ip(1)), Resolution::Request);
}

#[test]
fn a_full_table_forgets_the_oldest_and_never_what_came_from_outside() {
    let (mut records, mut state) = table(6);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    let mut added = 0;
    for last in 1..=3 {
        table.set(PORT, ip(last), MAC).unwrap();
    }
    for last in 4..=200u8 {
        assert_eq!(table.learn(at(u64::from(last)), PORT, ip(last), MAC, true), Learned::Updated);
        added = added.max(table.len());
    }
    assert!(added >= 6, "at least as many as asked for, {added}");
    for last in [1, 2, 3, 199, 200] {
        assert_eq!(table.resolve(at(300), PORT, ip(last)), Resolution::Known(MAC), "{last}");
    }
    for last in 4..=200u8 {
        let _ = table.set(PORT, ip(last), MAC);
    }
    assert_eq!(table.set(PORT, ip(201), MAC), Err(Error::NoMemory));
    assert_eq!(table.resolve(at(400), PORT, ip(202)), Resolution::NoRoom);
}

#[test]
fn what_is_wanted_is_told_once() {
    let (mut records, mut state) = table(8);
    let mut table = Neighbours { records: &mut records, state: &mut state };
    assert_eq!(table.pop_wanted(), None);
    for last in [1, 2] {
        table.resolve(at(0), PORT, ip(last));
        table.mark_wanted(PORT, ip(last));
        table.mark_wanted(PORT, ip(last));
    }
    table.set(PORT, ip(2), MAC).unwrap();
    assert_eq!(table.pop_wanted(), Some((PORT, ip(1))));
    assert_eq!(table.pop_wanted(), None);
}

proptest! {
    /// Insertion and removal in any order against a map, at the highest load.
    #[test]
    fn the_table_is_a_map(
        secret: u64, steps in prop::collection::vec((any::<bool>(), 0u8..40, any::<u8>()), 1..300),
    ) {
        let (mut records, mut state) = table(40);
        state = NeighboursState { secret: secret | 1, ..state };
        let mut table = Neighbours { records: &mut records, state: &mut state };
        let mut model = BTreeMap::new();
        for (insert, last, mac) in steps {
            let mac = MacAddr([2, 0, 0, 0, 0, mac]);
            if insert {
                table.set(PORT, ip(last), mac).unwrap();
                model.insert(last, mac);
            } else {
                table.forget(PORT, ip(last));
                model.remove(&last);
            }
            prop_assert_eq!(table.len() as usize, model.len());
            for last in 0..40 {
                let found = table.find(PORT, ip(last).into()).map(|place| table.records[place].mac);
                prop_assert_eq!(found, model.get(&last).copied());
            }
        }
    }
}
