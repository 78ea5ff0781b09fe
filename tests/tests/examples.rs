//! Each file of `deploy/examples/` starts an engine that moves bytes. The talk's has a test of its own (`talk.rs`).

use persona_tests::topology::{INTERFACE, OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Side, Topology};
use std::path::PathBuf;

fn example(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../deploy/examples", name].iter().collect()
}

/// Transfers with the library's end listening and connecting.
fn both_roles(topology: &Topology, engine: &Engine, ours: &str, peers: &str) {
    topology.exchange(Side::Persona(engine), Side::Peer, ours, 5001).unwrap();
    topology.exchange(Side::Peer, Side::Persona(engine), peers, 5002).unwrap();
}

#[test]
fn own_as_it_is() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start_file(&topology, &example("own.json")).unwrap();
    both_roles(&topology, &engine, OUR_ADDRESS, PEER_ADDRESS);
    topology.assert_kernel_saw_no_tcp().unwrap();
    engine.down().unwrap();
}

#[test]
fn tap_as_it_is() {
    let topology = Topology::new(Link::default()).unwrap();
    topology.add_tap().unwrap();
    topology.run(&topology.peer, &["ip", "address", "add", "10.8.0.1/24", "dev", INTERFACE]).unwrap();
    let engine = Engine::start_file(&topology, &example("tap.json")).unwrap();
    both_roles(&topology, &engine, "10.8.0.2", "10.8.0.1");
    topology.assert_kernel_saw_no_tcp().unwrap();
    engine.down().unwrap();
}

/// But for the interface's name, as it is: its rules and its user, too.
#[test]
fn shared_on_this_interface() {
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let text = std::fs::read_to_string(example("shared.json")).unwrap();
    let fitted = text.replace("\"eth0\"", &format!("\"{INTERFACE}\""));
    assert_ne!(fitted, text, "the example names another interface than this test expects");
    let engine = Engine::start_text(&topology, &fitted).unwrap();
    both_roles(&topology, &engine, OUR_ADDRESS, PEER_ADDRESS);
    topology.assert_kernel_saw_no_tcp().unwrap();
    // A rule gives this port to the host.
    topology.exchange(Side::Peer, Side::Persona(&engine), PEER_ADDRESS, 53).unwrap();
    let of_kernel = |name| topology.kernel_counter(&topology.ours, "Tcp", name).unwrap();
    assert_eq!((of_kernel("ActiveOpens"), of_kernel("OutRsts"), of_kernel("InErrs")), (1, 0, 0));
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.engine_pid().unwrap())).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(uids.split_whitespace().all(|uid| uid == nobody.to_string()), "the engine runs as {uids}");
    engine.down().unwrap();
}
