//! The same small programs on the host kernel and under Persona, against the same peer, have to print the same lines:
//! what each call returns, which error it gives and which events are reported, in each state of a socket. The programs
//! are in `programs/differential/`; what they may not print is said in its `ground.py`.
//!
//! A deviation that is meant, or lies deeper than the library, is listed in [`KNOWN`] with its reason; one that has
//! disappeared from the programs' output fails the test as well, so that the list stays true.

use persona_tests::engine::interface;
use persona_tests::topology::{OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Side, Topology};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What Persona prints where the host prints something else, by its beginning.
const KNOWN: [&str; 4] = [
    // Two descriptors of one socket are one member of an epoll set: a member is a socket's place in session memory, and a second
    // one would need a place of its own there.
    "epoll_of_copies: register both: (None, 'EEXIST')",
    "epoll_of_copies: data: [('s', 'OUT')]",
    "epoll_of_copies: poll: []",
    "epoll_of_copies: the copy is closed: []",
];

/// Longest run of one program, in seconds.
const PATIENCE: u64 = 120;

fn program(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs/differential").join(name);
    path.display().to_string()
}

/// What a program prints on the host kernel, or under Persona.
fn lines(name: &str, under_persona: bool) -> Vec<String> {
    let topology = Topology::new(Link { shared: !under_persona, ..Link::default() }).unwrap();
    // What lies behind the peer: silence, and two kinds of refusal by ICMP.
    let peer = topology.peer.as_str();
    topology.run(peer, &["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0"]).unwrap();
    for (kind, network) in
        [("blackhole", "10.98.0.0/24"), ("unreachable", "10.99.0.0/24"), ("prohibit", "10.97.0.0/24")]
    {
        topology.run(peer, &["ip", "route", "add", kind, network]).unwrap();
    }
    let engine = under_persona.then(|| {
        let interfaces = [interface("xdp", &topology)];
        Engine::start_with(&topology, &json!({ "interfaces": interfaces, "gateway": PEER_ADDRESS })).unwrap()
    });
    let side = match &engine {
        Some(engine) => Side::Persona(engine),
        None => {
            topology.run(&topology.ours, &["ip", "route", "add", "default", "via", PEER_ADDRESS]).unwrap();
            Side::Host
        }
    };
    let directory = tempfile::Builder::new().prefix("persona-differential-").tempdir().unwrap();
    let control = directory.path().join("control").display().to_string();
    let _puppet = topology.spawn(Side::Peer, &["python3", &program("puppet.py"), &control]).unwrap();
    let arguments = ["python3", "-B", &program(name), OUR_ADDRESS, PEER_ADDRESS, &control];
    let finished = topology.spawn(side, &arguments).unwrap().finish(PATIENCE).unwrap();
    let mut lines: Vec<_> = finished.stdout.lines().map(str::to_owned).collect();
    assert_eq!(
        lines.pop().as_deref(),
        Some("end"),
        "{name} (Persona: {under_persona}) did not come to its end: {}\n{}\n{}",
        finished.status,
        finished.stdout,
        finished.stderr
    );
    if under_persona {
        topology.assert_kernel_saw_no_tcp().unwrap();
    }
    lines
}

/// Lines of one scenario, whose name they begin with.
fn scenario<'a>(lines: &'a [String], name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}: ");
    lines.iter().filter(|line| line.starts_with(&prefix)).map(String::as_str).collect()
}

fn compare(name: &str) {
    let (host, persona) = (lines(name, false), lines(name, true));
    let names: BTreeSet<_> = host.iter().chain(&persona).filter_map(|line| line.split(": ").next()).collect();
    let mut differences = Vec::new();
    let begins = |line: &str, name: &str| line.split(": ").next() == Some(name);
    let mut known: BTreeSet<_> = KNOWN.iter().filter(|line| names.iter().any(|name| begins(line, name))).collect();
    for name in names {
        let (host, persona) = (scenario(&host, name), scenario(&persona, name));
        for index in 0..host.len().max(persona.len()) {
            let (expected, found) = (host.get(index).copied(), persona.get(index).copied());
            if expected == found {
                continue;
            }
            match KNOWN.iter().find(|line| found.is_some_and(|found| found.starts_with(**line))) {
                Some(line) => {
                    known.remove(line);
                }
                None => differences.push(format!("host    {expected:?}\nPersona {found:?}")),
            }
        }
    }
    assert!(
        differences.is_empty() && known.is_empty(),
        "{name}: {} lines differ\n{}\nknown deviations that are gone: {known:?}",
        differences.len(),
        differences.join("\n")
    );
    assert!(host.len() > 20, "{name} looked at something: {host:?}");
}

#[test]
fn states() {
    compare("states.py");
}

#[test]
fn connecting() {
    compare("connecting.py");
}

#[test]
fn moving() {
    compare("moving.py");
}

#[test]
fn waiting() {
    compare("waiting.py");
}

#[test]
fn options() {
    compare("options.py");
}

#[test]
fn every_option() {
    compare("every_option.py");
}
