//! Explicit congestion notification end to end, over an emulated link that marks: against the host kernel in both roles, with
//! what it knows, and between two engines with accurate feedback and L4S.

use persona_tests::engine::interface;
use persona_tests::topology::{OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Conditions, Emulator, Engine, Link, Side, Topology, binary};
use serde_json::{Value, json};
use std::mem::ManuallyDrop;
use std::time::Duration;

const SEED: u64 = 20_261_124;
const LIFETIME: Duration = Duration::from_secs(60);
const BYTES: &str = "4000001";
/// Marks from 20 KB on, which is 4 ms, and drops nothing that a window of this path can hold.
const MARKING: &str = "rate=40m,delay=2ms,queue=1000000,mark=20000";
/// Marks from a millisecond on.
const L4S: &str = "rate=40m,delay=2ms,queue=1000000,mark=5000";

/// Two sides joined by a link that marks.
struct Ground {
    topology: Topology,
    emulator: Emulator,
}

impl Ground {
    fn new(conditions: &str) -> Self {
        let topology = Topology::emulated(Link { shared: true, ..Link::default() }).unwrap();
        let conditions = Conditions::parse(conditions).unwrap();
        let emulator = Emulator::start(&topology, &conditions, &conditions, SEED, LIFETIME).unwrap();
        Self { topology, emulator }
    }

    /// Whether the host kernel took the mode.
    fn set_kernel(&self, mode: u32) -> bool {
        let setting = format!("net.ipv4.tcp_ecn={mode}");
        self.topology.run(&self.topology.peer, &["sysctl", "-qw", &setting]).is_ok()
    }

    /// Frames that the emulator marked in each direction, from our side and towards it.
    fn finish(self) -> [u64; 2] {
        let counts = self.emulator.finish().unwrap();
        assert_eq!(counts["faults"], 0, "{counts}");
        ["there", "back"].map(|direction| {
            assert_eq!(counts[direction]["dropped_queue"], 0, "{counts}");
            counts[direction]["marked"].as_u64().unwrap()
        })
    }
}

fn start(topology: &Topology, kind: &str, address: &str, sysctl: &str) -> Engine {
    let mut interface = interface(kind, topology);
    interface["ip"] = json!(address);
    Engine::start_with(topology, &json!({ "interfaces": [interface], "sysctl": sysctl })).unwrap()
}

/// Moves bytes from the one that connects to the one that listens, at `address`.
fn transfer(listens: (&Topology, Side<'_>), connects: (&Topology, Side<'_>), address: &str, wait: impl FnOnce()) {
    let program = binary("transfer").display().to_string();
    let server = listens.0.spawn(listens.1, &[&program, "listen", "receive", BYTES, address]).unwrap();
    wait();
    let client = connects.0.succeed(connects.1, &[&program, "connect", "send", BYTES, address], 50).unwrap();
    let server = server.finish(50).unwrap();
    assert!(server.status.success(), "{}{}", server.stdout, server.stderr);
    let [client, server]: [Value; 2] = [&client, &server].map(|end| serde_json::from_str(&end.stdout).unwrap());
    assert_eq!(client["sent_sha256"], server["received_sha256"]);
}

fn count(engine: &Engine, name: &str) -> u64 {
    let stats = engine.json(&["stats"]).unwrap();
    // What is zero is not told.
    find(&stats, name).unwrap_or(0)
}

fn find(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(fields) => {
            fields.get(name).and_then(Value::as_u64).or_else(|| fields.values().find_map(|value| find(value, name)))
        }
        Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}

/// We connect and send; then the kernel does. What either side's marks lead to, as our counters tell.
fn against_the_kernel(ours: u32, kernel: u32) {
    let ground = Ground::new(MARKING);
    assert!(ground.set_kernel(kernel), "every kernel knows tcp_ecn={kernel}");
    let topology = &ground.topology;
    let engine = start(topology, "xdp", OUR_ADDRESS, &format!("net.ipv4.tcp_ecn={ours}"));
    let address = format!("{PEER_ADDRESS}:5001");
    transfer((topology, Side::Peer), (topology, Side::Persona(&engine)), &address, || {
        topology.wait_for_peer_listener(5001).unwrap();
    });
    let asked = matches!(ours, 1 | 3 | 4) && kernel > 0;
    let sent = (count(&engine, "PersonaOutECT0Segs"), count(&engine, "TcpExtTCPDeliveredCE"));
    assert_eq!((sent.0 > 0, sent.1 > 0), (asked, asked), "ours {ours}, kernel {kernel}: {sent:?}");
    let address = format!("{OUR_ADDRESS}:5002");
    transfer((topology, Side::Persona(&engine)), (topology, Side::Peer), &address, || {
        engine.wait_for_listener(5002).unwrap();
    });
    let got = (count(&engine, "IpExtInECT0Pkts"), count(&engine, "IpExtInCEPkts"));
    let answered = kernel == 1 && ours > 0;
    assert_eq!((got.0 > 0, got.1 > 0), (answered, answered), "ours {ours}, kernel {kernel}: {got:?}");
    assert_eq!(count(&engine, "PersonaAccECN"), 0, "the kernel agrees on classic ECN at most");
    engine.down().unwrap();
    let [there, back] = ground.finish();
    assert_eq!((there > 0, back > 0), (asked, answered), "ours {ours}, kernel {kernel}: {there} {back}");
}

#[test]
fn the_kernel_and_we_agree_on_classic_ecn() {
    against_the_kernel(1, 1);
}

/// AccECN is asked for, and a kernel that does not know it answers as RFC 3168 has it.
#[test]
fn who_asks_for_accurate_feedback_gets_what_there_is() {
    against_the_kernel(3, 1);
    against_the_kernel(3, 2);
    against_the_kernel(5, 1);
}

#[test]
fn a_kernel_without_ecn_gets_none() {
    against_the_kernel(3, 0);
}

/// Two engines: AccECN with a classic controller, over a port that cuts and one whose kernel does, then with Prague, whose packets
/// are L4S's.
#[test]
fn two_engines_feed_marks_back_exactly() {
    let cases = [("cubic", "xdp", MARKING, false), ("cubic", "packet", MARKING, false), ("prague", "xdp", L4S, true)];
    for (controller, kind, conditions, l4s) in cases {
        let ground = Ground::new(conditions);
        let topology = &ground.topology;
        // The same ground seen from the other side; the namespaces are the first one's to remove.
        let mirrored = ManuallyDrop::new(Topology {
            ours: topology.peer.clone(),
            peer: topology.ours.clone(),
            middle: topology.middle.clone(),
            link: topology.link,
        });
        let sysctl = format!("net.ipv4.tcp_ecn=3;net.ipv4.tcp_congestion_control={controller}");
        let engine = start(topology, kind, OUR_ADDRESS, &sysctl);
        let peer = start(&mirrored, kind, PEER_ADDRESS, &sysctl);
        let address = format!("{PEER_ADDRESS}:5003");
        transfer((&mirrored, Side::Persona(&peer)), (topology, Side::Persona(&engine)), &address, || {
            peer.wait_for_listener(5003).unwrap();
        });
        assert_eq!((count(&engine, "PersonaAccECN"), count(&peer, "PersonaAccECN")), (1, 1), "{controller}");
        let sent = [count(&engine, "PersonaOutECT0Segs"), count(&engine, "PersonaOutECT1Segs")];
        assert_eq!(sent.map(|segments| segments > 0), [!l4s, l4s], "{controller}: {sent:?}");
        assert_eq!(count(&engine, "PersonaAccECNDistrusted"), 0, "{controller}");
        let (told, arrived) = (count(&engine, "TcpExtTCPDeliveredCE"), count(&peer, "IpExtInCEPkts"));
        assert_eq!(told, arrived, "{controller}: each mark is told once");
        engine.down().unwrap();
        peer.down().unwrap();
        let [there, back] = ground.finish();
        assert_eq!((there, back), (arrived, 0), "{controller}: data alone is ECN-capable");
        assert!(there > 0, "{controller}");
    }
}
