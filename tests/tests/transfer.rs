//! Byte-exact transfers between Persona and the host kernel's TCP, both roles, over each port.

use persona_tests::engine::interface;
use persona_tests::topology::{OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Side, Topology, binary};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Runs one transfer with the library's end listening or connecting, checks every byte at both ends.
fn exchange(topology: &Topology, engine: &Engine, listen: bool, mode: &str, bytes: u64, port: u16) {
    let transfer = binary("transfer").display().to_string();
    let count = bytes.to_string();
    let peer_mode = match mode {
        "send" => "receive",
        "receive" => "send",
        other => other,
    };
    let (server_side, client_side, address) = if listen {
        (Side::Persona(engine), Side::Peer, format!("{OUR_ADDRESS}:{port}"))
    } else {
        (Side::Peer, Side::Persona(engine), format!("{PEER_ADDRESS}:{port}"))
    };
    let (server_mode, client_mode) = if listen { (mode, peer_mode) } else { (peer_mode, mode) };
    let server = topology.spawn(server_side, &[&transfer, "listen", server_mode, &count, &address]).unwrap();
    if listen {
        engine.wait_for_listener(port).unwrap();
    } else {
        topology.wait_for_peer_listener(port).unwrap();
    }
    let client = topology.succeed(client_side, &[&transfer, "connect", client_mode, &count, &address], 60);
    let server = server.finish(20);
    let (client, server) = match (client, server) {
        (Ok(client), Ok(server)) => (client, server),
        (client, server) => panic!(
            "{mode} listen={listen} {bytes}: client: {} server: {}",
            client.map_or_else(|error| error.to_string(), |end| end.stdout + &end.stderr),
            server.map_or_else(|error| error.to_string(), |end| end.stdout + &end.stderr),
        ),
    };
    assert!(server.status.success(), "{mode} listen={listen}: {}{}", server.stdout, server.stderr);
    let [client, server]: [Value; 2] = [&client, &server].map(|end| serde_json::from_str(&end.stdout).unwrap());
    assert_eq!(client["sent_sha256"], server["received_sha256"]);
    assert_eq!(server["sent_sha256"], client["received_sha256"]);
}

fn all_modes(link: Link, config: impl FnOnce(&Topology) -> Value, bytes: u64) {
    let topology = Topology::new(link).unwrap();
    let engine = Engine::start_with(&topology, &config(&topology)).unwrap();
    let mut port = 5000;
    for listen in [false, true] {
        for mode in ["echo", "send", "receive", "both"] {
            port += 1;
            exchange(&topology, &engine, listen, mode, if mode == "echo" { 64 } else { bytes }, port);
        }
    }
    topology.assert_kernel_saw_no_tcp().unwrap();
    engine.down().unwrap();
}

#[test]
fn af_xdp_own_address() {
    all_modes(Link::default(), |topology| json!({ "interfaces": [interface("xdp", topology)] }), 64 * MIB);
}
