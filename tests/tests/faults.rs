//! What happens when parts of Persona die: the host's own traffic is untouched, peers and applications learn of it at
//! once, nothing stays behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use persona_tests::topology::{INTERFACE, PEER_ADDRESS};
use persona_tests::{Engine, Link, Running, Side, Topology, binary};
use std::time::Duration;

/// A second address of the host beside the engine's, for traffic that is not ours.
const HOST_ADDRESS: &str = "10.9.0.3";

fn topology_with_host_address() -> Topology {
    let topology = Topology::new(Link::default()).unwrap();
    topology.run(&topology.ours, &["ip", "address", "add", &format!("{HOST_ADDRESS}/24"), "dev", INTERFACE]).unwrap();
    topology
}

/// A transfer between the two host kernels over the engine's interface, long enough to live through what a test does.
fn host_transfer(topology: &Topology) -> (Running, Running) {
    let transfer = binary("transfer").display().to_string();
    let address = format!("{HOST_ADDRESS}:7000");
    // 1,500 writes with a pause after each: at least 7 s.
    let server = topology.spawn(Side::Host, &[&transfer, "listen", "paced", "200000000", &address]).unwrap();
    wait_until(|| topology.run(&topology.ours, &["cat", "/proc/net/tcp"]).unwrap().contains(":1B58 00000000:0000 0A"));
    let client = topology.spawn(Side::Peer, &[&transfer, "connect", "paced", "200000000", &address]).unwrap();
    (server, client)
}

fn exact(transfer: (Running, Running)) {
    for end in [transfer.1, transfer.0] {
        let end = end.finish(120).unwrap();
        assert!(end.status.success(), "{}{}", end.stdout, end.stderr);
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("not within 10 s");
}

fn xdp_attached(topology: &Topology) -> bool {
    topology.run(&topology.ours, &["ip", "link", "show", "dev", INTERFACE]).unwrap().contains("prog/xdp")
}

/// A program under Persona that holds a connection to a silent server of the peer and reads.
fn blocked_reader(topology: &Topology, engine: &Engine) -> (Running, Running) {
    let server = topology
        .spawn(
            Side::Peer,
            &["python3", "-c", "import socket,sys\ns=socket.create_server(('10.9.0.1',7001))\nc=s.accept()[0]\nprint('accepted',flush=True)\ntry:\n d=c.recv(1)\n print('end',d)\nexcept OSError as e: print(type(e).__name__)"],
        )
        .unwrap();
    topology.wait_for_peer_listener(7001).unwrap();
    let reader = topology
        .spawn(
            Side::Persona(engine),
            &["python3", "-c", "import socket\nc=socket.create_connection(('10.9.0.1',7001))\ntry: print('end',c.recv(1))\nexcept OSError as e: print(type(e).__name__)"],
        )
        .unwrap();
    wait_until(|| engine.json(&["sockets"]).unwrap().to_string().contains("ESTAB"));
    (server, reader)
}

#[test]
fn a_killed_engine_resets_its_connections_and_comes_back_while_the_link_stays() {
    let topology = topology_with_host_address();
    let mut host = host_transfer(&topology);
    let engine = Engine::start(&topology, "xdp").unwrap();
    let (server, reader) = blocked_reader(&topology, &engine);
    let before = engine.engine_pid().unwrap();
    assert!(!host.0.has_ended().unwrap(), "the host's transfer has to be under way");
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();

    let (server, reader) = (server.finish(20).unwrap(), reader.finish(20).unwrap());
    assert!(reader.stdout.contains("ConnectionResetError"), "the application: {}{}", reader.stdout, reader.stderr);
    assert!(server.stdout.contains("ConnectionResetError"), "the peer: {}{}", server.stdout, server.stderr);
    assert!(xdp_attached(&topology));
    wait_until(|| engine.engine_pid().is_ok_and(|pid| pid != before));

    // The new engine serves new programs.
    let transfer = binary("transfer").display().to_string();
    let address = format!("{PEER_ADDRESS}:7002");
    let server = topology.spawn(Side::Peer, &[&transfer, "listen", "both", "1000000", &address]).unwrap();
    topology.wait_for_peer_listener(7002).unwrap();
    topology.succeed(Side::Persona(&engine), &[&transfer, "connect", "both", "1000000", &address], 30).unwrap();
    assert!(server.finish(20).unwrap().status.success());
    exact(host);
}

#[test]
fn keeper_and_engine_killed_leave_the_host_as_before() {
    let topology = topology_with_host_address();
    let mut host = host_transfer(&topology);
    let engine = Engine::start(&topology, "xdp").unwrap();
    let (_server, reader) = blocked_reader(&topology, &engine);
    let (keeper, child) = (engine.keeper().unwrap(), engine.engine_pid().unwrap());
    assert!(xdp_attached(&topology));
    assert!(!host.0.has_ended().unwrap(), "the host's transfer has to be under way");
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    wait_until(|| !xdp_attached(&topology));
    let reader = reader.finish(20).unwrap();
    assert!(reader.stdout.contains("ConnectionResetError"), "the application: {}{}", reader.stdout, reader.stderr);
    exact(host);
}

#[test]
fn a_graceful_stop_ends_connections_as_a_process_exit_does() {
    let topology = topology_with_host_address();
    let mut host = host_transfer(&topology);
    let engine = Engine::start(&topology, "xdp").unwrap();
    let (server, reader) = blocked_reader(&topology, &engine);
    assert!(!host.0.has_ended().unwrap(), "the host's transfer has to be under way");
    engine.down().unwrap();
    // Nothing unread: the peer sees an orderly end of file, as when a process exits on Linux.
    let server = server.finish(20).unwrap();
    assert!(server.stdout.contains("end b''"), "the peer: {}{}", server.stdout, server.stderr);
    reader.finish(20).unwrap();
    assert!(!xdp_attached(&topology));
    exact(host);
}
