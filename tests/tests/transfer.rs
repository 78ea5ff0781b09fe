//! Byte-exact transfers between Persona and the host kernel's TCP, both roles, over each port.

use persona_tests::engine::interface;
use persona_tests::topology::{OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Side, Topology, binary};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Bytes of one direction of one transfer.
fn amount() -> u64 {
    std::env::var("PERSONA_TRANSFER_MIB").map_or(64, |text| text.parse().expect("PERSONA_TRANSFER_MIB is a number"))
        * MIB
}

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

/// One point of the matrix.
#[derive(Debug)]
struct Case {
    port: Port,
    link: Link,
    shards: u32,
}

#[derive(Clone, Copy, Debug)]
enum Port {
    Xdp,
    /// With or without PACKET_VNET_HDR.
    Packet {
        vnet: bool,
    },
    Tap,
    Macvtap,
}

impl Case {
    fn config(&self, topology: &Topology) -> Value {
        let mut interface = match self.port {
            Port::Xdp => interface("xdp", topology),
            Port::Packet { .. } => interface("packet", topology),
            Port::Tap => interface("tap", topology),
            Port::Macvtap => interface("macvtap", topology),
        };
        match self.port {
            Port::Xdp => {}
            Port::Packet { vnet } => {
                if !vnet {
                    interface["offload"] = json!(0);
                }
            }
            Port::Tap => interface["param"] = json!(topology.add_tap().unwrap()),
            Port::Macvtap => interface["param"] = json!(topology.add_macvtap().unwrap()),
        }
        json!({ "interfaces": [interface], "shards": self.shards })
    }
}

/// Every mode in both roles. The kernel of the engine's namespace sees nothing of it.
fn run(case: &Case) {
    let topology = Topology::new(case.link).unwrap();
    let engine = Engine::start_with(&topology, &case.config(&topology)).unwrap();
    let (bytes, mut port) = (amount(), 5000);
    for listen in [false, true] {
        for mode in ["echo", "send", "receive", "both"] {
            port += 1;
            exchange(&topology, &engine, listen, mode, if mode == "echo" { 64 } else { bytes }, port);
        }
    }
    topology.assert_kernel_saw_no_tcp().unwrap();
    engine.down().unwrap();
}

// Chosen so that each pair of values of (port, address mode, shards, veth offload, MTU) that can meet meets in a case.

#[test]
fn af_xdp() {
    run(&Case { port: Port::Xdp, link: Link { mtu: 1500, offload: true, queues: 1, shared: false }, shards: 1 });
}

#[test]
fn af_xdp_two_shards_without_veth_offload() {
    run(&Case { port: Port::Xdp, link: Link { mtu: 1500, offload: false, queues: 2, shared: false }, shards: 2 });
}

#[test]
fn af_xdp_shared_address_jumbo() {
    run(&Case { port: Port::Xdp, link: Link { mtu: 9000, offload: true, queues: 1, shared: true }, shards: 1 });
}

#[test]
fn af_xdp_shared_address_two_shards_jumbo_without_veth_offload() {
    run(&Case { port: Port::Xdp, link: Link { mtu: 9000, offload: false, queues: 2, shared: true }, shards: 2 });
}

#[test]
fn packet_mmap_with_vnet_header_two_shards_jumbo() {
    run(&Case {
        port: Port::Packet { vnet: true },
        link: Link { mtu: 9000, offload: true, queues: 2, shared: false },
        shards: 2,
    });
}

#[test]
fn packet_mmap_with_vnet_header_shared_address_without_veth_offload() {
    run(&Case {
        port: Port::Packet { vnet: true },
        link: Link { mtu: 1500, offload: false, queues: 1, shared: true },
        shards: 1,
    });
}

#[test]
fn packet_mmap_without_vnet_header_jumbo_without_veth_offload() {
    run(&Case {
        port: Port::Packet { vnet: false },
        link: Link { mtu: 9000, offload: false, queues: 1, shared: false },
        shards: 1,
    });
}

#[test]
fn packet_mmap_without_vnet_header_shared_address_two_shards() {
    run(&Case {
        port: Port::Packet { vnet: false },
        link: Link { mtu: 1500, offload: true, queues: 2, shared: true },
        shards: 2,
    });
}

#[test]
fn tap() {
    run(&Case { port: Port::Tap, link: Link { mtu: 1500, offload: true, queues: 1, shared: false }, shards: 1 });
}

#[test]
fn tap_jumbo_without_veth_offload() {
    run(&Case { port: Port::Tap, link: Link { mtu: 9000, offload: false, queues: 1, shared: false }, shards: 1 });
}

#[test]
fn macvtap_jumbo() {
    run(&Case { port: Port::Macvtap, link: Link { mtu: 9000, offload: true, queues: 1, shared: false }, shards: 1 });
}

#[test]
fn macvtap_without_veth_offload() {
    run(&Case { port: Port::Macvtap, link: Link { mtu: 1500, offload: false, queues: 1, shared: false }, shards: 1 });
}

/// Everything with everything, 1 GiB each way unless PERSONA_TRANSFER_MIB says otherwise.
#[test]
#[ignore = "the full matrix, for make soak"]
fn full_matrix() {
    for port in [Port::Xdp, Port::Packet { vnet: true }, Port::Packet { vnet: false }, Port::Tap, Port::Macvtap] {
        let diverted = matches!(port, Port::Xdp | Port::Packet { .. });
        for (shared, shards, offload, mtu) in combinations() {
            // A tap has no host to share an address with; a macvtap's device here has one queue.
            if diverted || (!shared && shards == 1) {
                let case = Case { port, link: Link { mtu, offload, queues: shards, shared }, shards };
                println!("{case:?}");
                run(&case);
            }
        }
    }
}

fn combinations() -> impl Iterator<Item = (bool, u32, bool, u32)> {
    (0..16).map(|bits| (bits & 1 != 0, 1 + (bits >> 1 & 1), bits & 4 != 0, if bits & 8 != 0 { 9000 } else { 1500 }))
}
