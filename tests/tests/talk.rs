//! What a user of LKL's hijack library brings along works: the configuration file and the way to attach.

use persona_tests::{Engine, Link, Side, Topology, binary};
use std::path::Path;
use std::process::Command;

/// The example of the talk, as it is.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/talk.json");
/// The device that it names, and so the index of its interface.
const DEVICE: &str = "/dev/tap23";
const GATEWAY: &str = "202.214.86.129";

/// The device node. Where the kernel keeps /dev itself (devtmpfs) it comes and goes with the interface; elsewhere it is
/// made here and removed whatever happens.
struct Node {
    made: bool,
}

impl Node {
    fn make(numbers: &str) -> Self {
        if Path::new(DEVICE).exists() {
            return Self { made: false };
        }
        let (major, minor) = numbers.trim().split_once(':').unwrap();
        assert!(Command::new("mknod").args([DEVICE, "c", major, minor]).status().unwrap().success());
        Self { made: true }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(DEVICE);
        }
    }
}

#[test]
fn the_talks_example_runs_on_its_macvtap_and_transfers() {
    let topology = Topology::new(Link::default()).unwrap();
    let run = |words: &[&str]| topology.run(&topology.ours, words).unwrap();
    run(&[
        "ip", "link", "add", "link", "veth0", "name", "macvtap0", "index", "23", "type", "macvtap", "mode", "bridge",
    ]);
    run(&["ip", "link", "set", "macvtap0", "address", "02:87:f8:27:22:02", "up"]);
    let _node = Node::make(&run(&["sh", "-c", "cat /sys/class/net/macvtap0/tap23/dev"]));
    topology.run(&topology.peer, &["ip", "address", "add", &format!("{GATEWAY}/26"), "dev", "veth0"]).unwrap();

    let engine = Engine::start_file(&topology, EXAMPLE.as_ref()).unwrap();
    topology.exchange(Side::Peer, Side::Persona(&engine), GATEWAY, 5001).unwrap();
    topology.assert_kernel_saw_no_tcp().unwrap();
}

#[test]
fn a_preload_and_lkls_environment_attach_to_the_running_engine() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start_named(&topology, "xdp", "default").unwrap();
    let transfer = binary("transfer").display().to_string();
    let address = format!("{}:5001", persona_tests::topology::PEER_ADDRESS);
    let server = topology.spawn(Side::Peer, &[&transfer, "listen", "both", "5000000", &address]).unwrap();
    topology.wait_for_peer_listener(5001).unwrap();
    let mut command = topology.command(Side::Host, &[&transfer, "connect", "both", "5000000", &address]);
    command
        .env("LD_PRELOAD", binary("libpersona.so"))
        .env("LKL_HIJACK_CONFIG_FILE", engine.run_dir().join("config.json"))
        .env("PERSONA_RUN_DIR", engine.run_dir());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(server.finish(20).unwrap().status.success());
    topology.assert_kernel_saw_no_tcp().unwrap();
}
