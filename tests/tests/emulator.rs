//! The emulated link under the host kernel's TCP: bytes arrive exactly, and the link did what it was told.

use persona_tests::topology::PEER_ADDRESS;
use persona_tests::{Conditions, Emulator, Link, Side, Topology, binary};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const SEED: u64 = 20_261_124;
const LIFETIME: Duration = Duration::from_secs(60);

/// Moves `bytes` each way over a link that is alike in both directions; what the emulator counted.
fn transfer(conditions: &str, bytes: &str) -> Value {
    let topology = Topology::emulated(Link { shared: true, ..Link::default() }).unwrap();
    let conditions = Conditions::parse(conditions).unwrap();
    let emulator = Emulator::start(&topology, &conditions, &conditions, SEED, LIFETIME).unwrap();
    let (program, address) = (binary("transfer").display().to_string(), format!("{PEER_ADDRESS}:5001"));
    let server = topology.spawn(Side::Peer, &[&program, "listen", "both", bytes, &address]).unwrap();
    topology.wait_for_peer_listener(5001).unwrap();
    let client = topology.succeed(Side::Host, &[&program, "connect", "both", bytes, &address], 50).unwrap();
    let server = server.finish(50).unwrap();
    assert!(server.status.success(), "{}{}", server.stdout, server.stderr);
    let [client, server]: [Value; 2] = [&client, &server].map(|end| serde_json::from_str(&end.stdout).unwrap());
    assert_eq!(client["sent_sha256"], server["received_sha256"]);
    assert_eq!(server["sent_sha256"], client["received_sha256"]);
    let counts = emulator.finish().unwrap();
    assert_eq!(counts["faults"], 0, "{counts}");
    for direction in ["there", "back"] {
        let sum = |names: &[&str]| names.iter().map(|name| count(&counts, direction, name)).sum::<u64>();
        let gone = sum(&["dropped_queue", "lost_alone", "lost_burst", "lost_outage"]);
        let (came, left) = (sum(&["frames", "other", "duplicated"]), sum(&["forwarded", "under_way"]));
        assert_eq!(came, left + gone, "every frame has one fate, {direction}: {counts}");
    }
    counts
}

fn count(counts: &Value, direction: &str, name: &str) -> u64 {
    counts[direction][name].as_u64().unwrap_or_else(|| panic!("no {direction} {name} in {counts}"))
}

#[test]
fn tcp_is_exact_over_loss_reordering_duplicates_and_a_short_queue() {
    let counts = transfer(
        "rate=50m,delay=3ms,jitter=500us,queue=40000,loss=10000,burst=500/300000,reorder=10000/2ms,duplicate=5000",
        "6000001",
    );
    for direction in ["there", "back"] {
        for name in ["lost_alone", "lost_burst", "reordered", "duplicated", "longest_queue_bytes"] {
            assert!(count(&counts, direction, name) > 0, "{direction} {name}: {counts}");
        }
        assert!(count(&counts, direction, "longest_queue_bytes") <= 40_000, "{counts}");
    }
}

#[test]
fn tcp_outlives_an_outage() {
    let counts = transfer("rate=40m,delay=1ms,outage=300ms/400ms", "4000001");
    assert!(count(&counts, "there", "lost_outage") + count(&counts, "back", "lost_outage") > 0, "{counts}");
    assert_eq!(count(&counts, "there", "lost_alone"), 0);
}

#[test]
fn a_clean_link_forwards_every_frame() {
    let counts = transfer("delay=1ms", "3000001");
    for direction in ["there", "back"] {
        let frames = count(&counts, direction, "frames") + count(&counts, direction, "other");
        assert_eq!(count(&counts, direction, "forwarded") + count(&counts, direction, "under_way"), frames);
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    for (arguments, words) in [
        (&["one", "other", "none", "none", "1"][..], "usage: emulate"),
        (&["one", "other", "none", "none", "x", "1"], "`x` is no seed"),
        (&["one", "other", "loss=2", "speed=1", "1", "1"], "`speed=1`: the keys are"),
        (&["nowhere", "other", "none", "none", "1", "1"], "there is no interface nowhere"),
    ] {
        let output = Command::new(binary("emulate")).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
    }
}
