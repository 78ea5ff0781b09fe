//! The talk's own way, with the example file as it was shown: a macvtap, LKL's keys, and a program that is given the
//! library by LD_PRELOAD and the configuration by LKL_HIJACK_CONFIG_FILE.

use persona_tests::{Engine, Link, Side, Topology, binary};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

const GATEWAY: &str = "202.214.86.129";
const MAC: &str = "02:87:f8:27:22:02";
const BYTES: usize = 8 << 20;

#[test]
fn the_example_of_the_talk_runs_and_transfers() {
    let topology = Topology::new(Link::default()).unwrap();
    let device = topology.add_macvtap().unwrap();
    // Before the engine comes, as whoever makes the device does it.
    let links: Value =
        serde_json::from_str(&topology.run(&topology.ours, &["ip", "-j", "-d", "link"]).unwrap()).unwrap();
    let macvtap = links.as_array().unwrap().iter().find(|link| link["linkinfo"]["info_kind"] == "macvtap").unwrap();
    let name = macvtap["ifname"].as_str().unwrap();
    topology.run(&topology.ours, &["ip", "link", "set", "dev", name, "address", MAC, "up"]).unwrap();
    topology.run(&topology.peer, &["ip", "address", "add", &format!("{GATEWAY}/26"), "dev", "veth0"]).unwrap();

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/talk.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(example).unwrap()).unwrap();
    // The number is the kernel's choice; nothing else of the file changes.
    assert_eq!(config["interfaces"][0]["param"], "/dev/tap23");
    config["interfaces"][0]["param"] = device.into();
    let engine = Engine::start_with(&topology, &config).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let payload: Vec<u8> = (0..BYTES).map(|at| (at * 31 + at / 251) as u8).collect();
    std::fs::write(directory.path().join("file"), &payload).unwrap();
    let root = directory.path().to_str().unwrap();
    let server = topology.spawn(Side::Peer, &["python3", "-m", "http.server", "8001", "--directory", root]).unwrap();
    topology.wait_for_peer_listener(8001).unwrap();

    // No `persona run`. The name is told because a test's engine is not called default.
    let received = directory.path().join("received");
    let config_file = engine.run_dir().join("config.json");
    let variables = [
        format!("LD_PRELOAD={}", binary("libpersona.so").display()),
        format!("LKL_HIJACK_CONFIG_FILE={}", config_file.display()),
        format!("PERSONA_RUN_DIR={}", engine.run_dir().display()),
        format!("PERSONA_NAME={}", engine.name),
    ];
    let url = format!("http://{GATEWAY}:8001/file");
    let mut command = vec!["env"];
    command.extend(variables.iter().map(String::as_str));
    command.extend(["curl", "--silent", "--show-error", "--fail", "--output", received.to_str().unwrap(), &url]);
    topology.succeed(Side::Host, &command, 30).unwrap();

    assert_eq!(Sha256::digest(std::fs::read(&received).unwrap()), Sha256::digest(&payload));
    topology.assert_kernel_saw_no_tcp().unwrap();
    drop(server);
    engine.down().unwrap();
}
