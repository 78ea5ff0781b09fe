//! Host and engine on one address at the same time: each keeps its own connections, neither answers for the other.

use persona_tests::topology::{INTERFACE, OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Side, Ssh, Topology, binary};
use serde_json::json;
use std::time::Duration;

/// Bytes of one piece of a long ssh session.
const SSH_BYTES: usize = 20_000;

const QUIET: [&str; 2] = ["InErrs", "OutRsts"];

#[test]
fn the_hosts_own_connections_go_on_beside_the_engines_on_one_address() {
    for kind in ["xdp", "packet"] {
        let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
        let engine = Engine::start(&topology, kind).unwrap();
        let transfer = binary("transfer").display().to_string();
        let before = QUIET.map(|name| topology.kernel_counter(&topology.ours, "Tcp", name).unwrap());
        // Host and engine listen on neighbouring ports of one address, the peer connects to both at once, and both
        // connect back.
        let (host, ours) = (format!("{OUR_ADDRESS}:6001"), format!("{OUR_ADDRESS}:6002"));
        let host_server = topology.spawn(Side::Host, &[&transfer, "listen", "both", "30000000", &host]).unwrap();
        let our_server =
            topology.spawn(Side::Persona(&engine), &[&transfer, "listen", "both", "30000000", &ours]).unwrap();
        engine.wait_for_listener(6002).unwrap();
        let host_client = topology.spawn(Side::Peer, &[&transfer, "connect", "both", "30000000", &host]).unwrap();
        let our_client = topology.spawn(Side::Peer, &[&transfer, "connect", "both", "30000000", &ours]).unwrap();
        for end in [host_client, our_client, host_server, our_server] {
            let end = end.finish(60).unwrap();
            assert!(end.status.success(), "{kind}: {}{}", end.stdout, end.stderr);
        }
        for side in [Side::Host, Side::Persona(&engine)] {
            topology.exchange(Side::Peer, side, PEER_ADDRESS, 6003).unwrap();
        }
        let after = QUIET.map(|name| topology.kernel_counter(&topology.ours, "Tcp", name).unwrap());
        assert_eq!(before, after, "{kind}: the host answered for the engine");
        // The host's kernel carried its own two connections and no others.
        assert_eq!(topology.kernel_counter(&topology.ours, "Tcp", "PassiveOpens").unwrap(), 1);
        assert_eq!(topology.kernel_counter(&topology.ours, "Tcp", "ActiveOpens").unwrap(), 1);
    }
}

/// The host's sshd serves while an engine has the same address, with a server of its own and a client of its own at work
/// in the middle of the session.
#[test]
fn the_hosts_sshd_works_beside_the_engine_on_one_address() {
    for kind in ["xdp", "packet"] {
        let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
        let ssh = Ssh::new().unwrap();
        let _sshd = ssh.serve(&topology, Side::Host, OUR_ADDRESS, 22).unwrap();
        let before = QUIET.map(|name| topology.kernel_counter(&topology.ours, "Tcp", name).unwrap());
        let engine = Engine::start(&topology, kind).unwrap();
        // A session that is there before, while and after the engine's own connections, and carries bytes all the time.
        let command = format!("for n in $(seq 60); do head -c {SSH_BYTES} /dev/zero; sleep 0.05; done");
        let long = ssh.client(OUR_ADDRESS, 22, &command);
        let long = topology.spawn(Side::Peer, &long.each_ref().map(String::as_str)).unwrap();
        let opens = || topology.kernel_counter(&topology.ours, "Tcp", "PassiveOpens").unwrap();
        persona_tests::wait_until(|| opens() == 1);
        topology.exchange(Side::Persona(&engine), Side::Peer, OUR_ADDRESS, 6002).unwrap();
        topology.exchange(Side::Peer, Side::Persona(&engine), PEER_ADDRESS, 6003).unwrap();
        // A new session, now that the engine has connections of its own.
        let short = ssh.client(OUR_ADDRESS, 22, "echo here");
        let said = topology.succeed(Side::Peer, &short.each_ref().map(String::as_str), 30).unwrap();
        assert_eq!(said.stdout, "here\n");
        let long = long.finish(60).unwrap();
        assert!(long.status.success(), "{kind}: {}", long.stderr);
        assert_eq!(long.stdout.len(), 60 * SSH_BYTES);
        let after = QUIET.map(|name| topology.kernel_counter(&topology.ours, "Tcp", name).unwrap());
        assert_eq!(before, after, "{kind}: the host answered for the engine");
        assert_eq!(opens(), 2, "{kind}: a connection of the engine's reached the host");
        assert_eq!(topology.kernel_counter(&topology.ours, "Tcp", "ActiveOpens").unwrap(), 0);
    }
}

/// More connections at once than there would be room for in any one place of the port pool's order: an attempt that meets a
/// taken port must leave that port's connection diverted.
const MANY: &str = "
import socket, sys
sockets = []
for nth in range(400):
    s = socket.create_connection(('10.9.0.1', 6004), 20); s.settimeout(20)
    sockets.append(s)
for turn in range(2):
    for nth, s in enumerate(sockets):
        s.sendall(b'%04d' % nth)
        got = s.recv(4, socket.MSG_WAITALL)
        if got != b'%04d' % nth: sys.exit('connection %d got %r' % (nth, got))
print('all', len({s.getsockname()[1] for s in sockets}))
";

const ECHO: &str = "
import selectors, socket
s = socket.create_server(('10.9.0.1', 6004), backlog=500)
selector = selectors.DefaultSelector(); selector.register(s, selectors.EVENT_READ)
while True:
    for key, _ in selector.select(60):
        if key.fileobj is s:
            selector.register(s.accept()[0], selectors.EVENT_READ)
        elif bytes := key.fileobj.recv(100): key.fileobj.sendall(bytes)
        else: selector.unregister(key.fileobj); key.fileobj.close()
";

#[test]
fn connections_to_one_server_at_once_stay_the_engines_on_a_shared_address() {
    let topology = Topology::new(Link { shared: true, queues: 2, ..Link::default() }).unwrap();
    let config = json!({
        "interfaces": [{ "type": "xdp", "param": INTERFACE, "address": "shared" }],
        "shards": 2,
    });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let _server = topology.spawn(Side::Peer, &["python3", "-c", ECHO]).unwrap();
    topology.wait_for_peer_listener(6004).unwrap();
    let told = engine.told(&topology, MANY);
    assert_eq!(told.trim(), "all 400");
    topology.assert_kernel_saw_no_tcp().unwrap();
}

/// Before, while and after the engine reads the host's addresses, which is somewhere within the start.
#[test]
fn an_address_that_the_host_gets_while_the_engine_starts_is_not_missed() {
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let config = json!({ "interfaces": [{ "type": "xdp", "param": INTERFACE, "address": "shared" }] });
    let address = |verb| {
        topology.run(&topology.ours, &["ip", "address", verb, "10.9.0.4/24", "dev", INTERFACE]).unwrap();
    };
    for delay in (0..240).step_by(30) {
        let engine = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(delay));
                address("add");
            });
            Engine::start_with(&topology, &config).unwrap()
        });
        let is_ours = || engine.json(&["filter", "show"]).unwrap().to_string().contains("\"10.9.0.4\"");
        let told = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            is_ours()
        });
        assert!(told, "missed {delay} ms after the start");
        engine.down().unwrap();
        address("del");
    }
}
