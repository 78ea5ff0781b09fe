//! Ten thousand seeds, a family at a time; one seed by name; any number for a soak.

use super::*;
use std::env;
use std::string::String;

/// Lines of the packet trace that a failing run prints.
const TRACE: usize = 300;

/// Runs the seeds of one family out of `count` seeds in all, and adds up what was seen.
fn family(family: Family, count: u64) -> Outcome {
    let place = Family::ALL.iter().position(|&it| it == family).unwrap() as u64;
    let mut sum: Option<Outcome> = None;
    for seed in (place..count).step_by(Family::ALL.len()) {
        let outcome = run(seed, TRACE);
        match &mut sum {
            Some(sum) => sum.add(&outcome),
            None => sum = Some(outcome),
        }
    }
    sum.expect("there are more seeds than families")
}

/// Seeds of a normal test run, over all families.
const SEEDS: u64 = 10_000;

macro_rules! families {
    ($($(#[$doc:meta])* $name:ident: $family:ident, |$sum:ident| $check:block;)*) => {
        $($(#[$doc])* #[test]
        fn $name() {
            let $sum = family(Family::$family, SEEDS);
            // Otherwise the circumstances were not what their name says.
            $check
        })*
    };
}

families! {
    a_clean_link_needs_few_repetitions: CleanLink, |sum| {
        // Bytes that came before their connection was adopted, or while it was refused, are sent again.
        assert!(sum.seen.repeated_bytes * 50 < sum.seen.data_bytes, "{sum:?}");
    };
    lost_segments_are_found_by_sack_and_by_timeout: LossyLink, |sum| {
        sum.has_counted(&["TcpExtTCPSackRecovery", "TcpExtTCPTimeouts", "TcpExtTCPLostRetransmit"]);
    };
    reordered_and_doubled_segments_arrive_once: ReorderingLink, |sum| {
        sum.has_counted(&["TcpExtTCPOFOQueue", "TcpExtTCPDSACKOldSent", "TcpExtTCPDSACKRecv"]);
    };
    damage_is_caught_by_checksums: CorruptingLink, |sum| {
        sum.has_counted(&["TcpInCsumErrors", "IpExtInCsumErrors"]);
    };
    a_slow_reader_closes_the_window_and_opens_it_again: SlowReader, |sum| {
        sum.has_counted(&["TcpExtTCPWinProbe", "TcpExtTCPToZeroWindowAdv", "TcpExtTCPFromZeroWindowAdv"]);
        assert!(sum.seen.zero_windows > 0, "{sum:?}");
    };
    bytes_without_memory_are_not_acknowledged: ShortMemory, |sum| { sum.has_counted(&["TcpExtTCPRcvQDrop"]); };
    a_thin_pipe_with_a_short_queue_drops_or_marks: ThinPipe, |sum| {
        sum.has_counted(&["TcpExtTCPSackRecovery", "IpExtInCEPkts", "TcpExtTCPDeliveredCE"]);
        assert!(sum.seen.echoes > 0 && sum.seen.exact_echoes > 0 && sum.seen.window_reductions > 0, "{sum:?}");
    };
    a_link_that_fails_and_comes_back_goes_on: FailingLink, |sum| {
        sum.has_counted(&["TcpExtTCPTimeouts", "TcpExtTCPSynRetrans"]);
    };
    what_a_busy_port_refuses_is_sent_later: BusyPort, |sum| { sum.has_counted(&["PersonaTxBusy"]); };
    peers_without_scale_sack_or_timestamps_are_served: OldPeer, |sum| {
        assert!(sum.agreed.iter().all(|&count| count > 0), "{sum:?}");
        sum.has_counted(&["TcpExtTCPRenoRecovery"]);
    };
    a_narrow_path_fragments_or_reports: NarrowPath, |sum| {
        sum.has_counted(&["IpReasmOKs", "IcmpInDestUnreachs", "TcpExtTCPMTUPFail"]);
    };
    many_connections_share_few_records: ManyConnections, |sum| {
        sum.has_counted(&["TcpExtSyncookiesSent", "TcpExtSyncookiesRecv", "PersonaRangesExhausted"]);
    };
    abrupt_ends_leave_nothing_behind: AbruptEnds, |sum| {
        sum.has_counted(&["TcpExtTCPAbortOnData", "TcpExtTCPAbortOnClose", "TcpEstabResets"]);
    };
    opens_that_cross_make_one_connection: SimultaneousOpen, |sum| {
        assert_eq!(sum.counter("TcpPassiveOpens"), 0, "{sum:?}");
    };
    everything_at_once: Everything, |sum| { sum.has_counted(&["TcpExtTCPKeepAlive", "PersonaNeighbourFailures"]); };
}

impl Outcome {
    fn has_counted(&self, counters: &[&str]) {
        for name in counters {
            assert!(self.counter(name) > 0, "{name} stayed at zero: {self:?}");
        }
    }
}

/// Point by point the arena is copied to other memory and the old one spoilt, and nobody notices.
#[test]
fn a_copy_of_the_arena_goes_on_from_any_step() {
    for seed in 0..150 {
        let mut world = Scenario::new(seed).build(TRACE);
        let (start, mut rng, mut copies) = (world.now, rng::Rng::new(seed ^ 0xc0b1), 0);
        world.run(|world| {
            if rng.chance(20_000) {
                let node = rng.below(world.nodes.len() as u64) as usize;
                world.move_arena(node);
                copies += 1;
            }
        });
        finish(&mut world, seed, start);
        assert!(copies > 0 || world.steps < 500, "{} steps without a copy", world.steps);
    }
}

/// Both ends are written down as bytes in mid-transfer, over links that lose and reorder, and go on in new stacks.
#[test]
fn serialised_connections_go_on_in_other_stacks() {
    let mut rebuilt = 0;
    for seed in (0..900).filter(|&seed| {
        matches!(Family::of_seed(seed), Family::LossyLink | Family::ReorderingLink | Family::SlowReader)
    }) {
        let mut world = Scenario::new(seed).build(TRACE);
        let mut rng = rng::Rng::new(seed ^ 0x5e71a1);
        world.run(|world| {
            if rng.chance(10_000) && (0..world.nodes.len()).all(|node| world.can_rebuild(node)) {
                for node in 0..world.nodes.len() {
                    world.rebuild(node);
                }
                rebuilt += 1;
            }
        });
        // Half-open and TIME-WAIT records stay behind in the old stack, so that not everything comes to rest as usual.
        if let Err(reason) = scenario::judge(&world) {
            panic!("{reason}");
        }
    }
    assert!(rebuilt > 300, "stacks were rebuilt {rebuilt} times");
}

/// `PERSONA_SEED=n`: that run with its whole trace; otherwise the first.
#[test]
fn one_seed() {
    let seed = env::var("PERSONA_SEED").map_or(0, |text| text.parse().expect("PERSONA_SEED is a number"));
    let outcome = run(seed, usize::MAX);
    if env::var_os("PERSONA_SEED").is_some() {
        std::println!("{outcome:#?}");
    }
}

/// `SEEDS=n`, from `FROM=m` on: goes on after a failure, and names all of them at the end.
#[test]
#[ignore = "as many seeds as SEEDS says, for make soak"]
fn soak() {
    let number = |name: &str, default| {
        env::var(name).map_or(default, |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (from, count) = (number("FROM", SEEDS), number("SEEDS", 10_000));
    let failed: Vec<u64> =
        (from..from + count).filter(|&seed| std::panic::catch_unwind(|| run(seed, 0)).is_err()).collect();
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
}
