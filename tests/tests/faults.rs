//! What happens when parts of Persona die: the host's own traffic is untouched, peers and applications learn of it at
//! once, nothing stays behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use persona_tests::engine::interface;
use persona_tests::topology::{INTERFACE, OUR_ADDRESS, PEER_ADDRESS};
use persona_tests::{Engine, Link, Running, Side, Topology, binary, wait_until};
use serde_json::json;
use std::time::{Duration, Instant};

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
    serves(&topology, &engine, Side::Peer, &format!("{PEER_ADDRESS}:7002"));
    exact(host);
}

/// A program under Persona exchanges a megabyte with a server of a host kernel.
fn serves(topology: &Topology, engine: &Engine, side: Side<'_>, address: &str) {
    let transfer = binary("transfer").display().to_string();
    let server = topology.spawn(side, &[&transfer, "listen", "both", "1000000", address]).unwrap();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let namespace = if matches!(side, Side::Peer) { &topology.peer } else { &topology.ours };
    let listens = format!(":{port:04X} 00000000:0000 0A");
    wait_until(|| topology.run(namespace, &["cat", "/proc/net/tcp"]).unwrap().contains(&listens));
    topology.succeed(Side::Persona(engine), &[&transfer, "connect", "both", "1000000", address], 30).unwrap();
    assert!(server.finish(20).unwrap().status.success());
    // The program's session ends a moment after it.
    wait_until(|| !engine.descriptors().keys().any(|kind| kind.starts_with("/memfd:persona-session")));
}

/// Kills the engine and waits for its successor.
fn killed(engine: &Engine) {
    let before = engine.engine_pid().unwrap();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    wait_until(|| engine.engine_pid().is_ok_and(|pid| pid != before) && engine.json(&["info"]).is_ok());
}

#[test]
fn a_successor_that_cannot_start_leaves_the_link_to_the_one_that_can() {
    let topology = Topology::new(Link::default()).unwrap();
    let ours = |words: &[&str]| topology.run(&topology.ours, words).unwrap();
    ours(&["ip", "link", "add", "spare", "type", "veth", "peer", "name", "other"]);
    ours(&["ip", "link", "set", "other", "up"]);
    ours(&["ip", "link", "set", "spare", "up"]);
    let spare = json!({ "type": "xdp", "param": "spare", "ip": "10.9.9.2", "masklen": 24 });
    let config = json!({ "interfaces": [interface("xdp", &topology), spare] });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let log = engine.run_dir().join(&engine.name).join("log");
    let failures = || std::fs::read_to_string(&log).unwrap().matches("interface spare is down").count();
    ours(&["ip", "link", "set", "spare", "down"]);
    let pid = engine.engine_pid().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until(|| failures() >= 2);
    assert!(xdp_attached(&topology), "the programs stay while successors fail");
    ours(&["ip", "link", "set", "spare", "up"]);
    wait_until(|| engine.json(&["info"]).is_ok());
    let address = format!("{PEER_ADDRESS}:7004");
    serves(&topology, &engine, Side::Peer, &address);
    let before = engine.descriptors();
    killed(&engine);
    serves(&topology, &engine, Side::Peer, &address);
    // Nothing gathers. A connection of the command's may be on its way out, now or before.
    let of = |kind: &String| before.get(kind).copied().unwrap_or(0);
    wait_until(|| engine.descriptors().iter().all(|(kind, count)| *count <= of(kind)));
}

#[test]
fn an_engine_killed_on_a_packet_port_comes_back_without_leaving_a_socket() {
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({ "interfaces": [interface("packet", &topology)], "shards": 2 });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let sockets = || topology.run(&topology.ours, &["cat", "/proc/net/packet"]).unwrap().lines().count();
    let address = format!("{PEER_ADDRESS}:7003");
    serves(&topology, &engine, Side::Peer, &address);
    // A successor has copies of what the first engine made, and the next one has no more.
    killed(&engine);
    serves(&topology, &engine, Side::Peer, &address);
    let before = (sockets(), engine.descriptors());
    assert!(before.0 > 2, "a heading and a socket for each queue");
    for _ in 0..2 {
        killed(&engine);
        serves(&topology, &engine, Side::Peer, &address);
    }
    // The connections of the programs that have ended go when the engine has seen their end.
    wait_until(|| (sockets(), engine.descriptors()) == before);
    topology.assert_kernel_saw_no_tcp().unwrap();
}

#[test]
fn a_tap_that_the_engine_made_outlives_it_with_what_the_host_has_there() {
    let topology = Topology::new(Link::default()).unwrap();
    let ours = &topology.ours;
    let config = json!({ "interfaces": [{ "type": "tap", "param": "made0", "ip": "10.9.5.2", "masklen": 24 }] });
    let engine = Engine::start_with(&topology, &config).unwrap();
    topology.run(ours, &["ip", "address", "add", "10.9.5.1/24", "dev", "made0"]).unwrap();
    topology.run(ours, &["ip", "link", "set", "made0", "up"]).unwrap();
    serves(&topology, &engine, Side::Host, "10.9.5.1:7004");
    let mac = || engine.json(&["info"]).unwrap()["interfaces"][0]["mac"].clone();
    let index = || topology.run(ours, &["cat", "/sys/class/net/made0/ifindex"]).unwrap();
    let first = (index(), mac());
    killed(&engine);
    serves(&topology, &engine, Side::Host, "10.9.5.1:7004");
    let before = (first.0, first.1, engine.descriptors());
    for _ in 0..2 {
        killed(&engine);
        serves(&topology, &engine, Side::Host, "10.9.5.1:7004");
    }
    wait_until(|| (index(), mac(), engine.descriptors()) == before);
    engine.down().unwrap();
    assert!(is_gone(&topology, "made0"), "what was made for the engine goes with it");
}

/// The host's end of the same cable carries traffic of its own all the while.
#[test]
fn an_engine_killed_on_a_macvtap_comes_back_and_everything_killed_leaves_the_host_as_before() {
    let topology = topology_with_host_address();
    let ours = &topology.ours;
    let device = topology.add_macvtap().unwrap();
    let config = json!({ "interfaces": [{ "type": "macvtap", "param": device, "ip": OUR_ADDRESS, "masklen": 24 }] });
    let mut host = host_transfer(&topology);
    let engine = Engine::start_with(&topology, &config).unwrap();
    let mac = || topology.run(ours, &["cat", "/sys/class/net/macvtap0/address"]).unwrap();
    let (server, reader) = blocked_reader(&topology, &engine);
    let before = (mac(), engine.json(&["info"]).unwrap()["interfaces"][0]["mac"].clone());
    assert_eq!(before.1, before.0.trim());
    killed(&engine);
    assert!(reader.finish(20).unwrap().stdout.contains("ConnectionResetError"));
    assert!(server.finish(20).unwrap().stdout.contains("ConnectionResetError"));
    assert_eq!((mac(), engine.json(&["info"]).unwrap()["interfaces"][0]["mac"].clone()), before);
    serves(&topology, &engine, Side::Peer, &format!("{PEER_ADDRESS}:7005"));
    assert!(!host.0.has_ended().unwrap(), "the host's transfer has to be under way");

    let (_server, reader) = blocked_reader(&topology, &engine);
    let (keeper, child) = (engine.keeper().unwrap(), engine.engine_pid().unwrap());
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    let reader = reader.finish(20).unwrap();
    assert!(reader.stdout.contains("ConnectionResetError"), "the application: {}{}", reader.stdout, reader.stderr);
    assert_eq!(mac(), before.0, "the device is the host's");
    exact(host);
    topology.run(&topology.peer, &["ping", "-c", "1", "-W", "5", HOST_ADDRESS]).unwrap();
}

fn is_gone(topology: &Topology, interface: &str) -> bool {
    topology.run(&topology.ours, &["ip", "link", "show", "dev", interface]).is_err()
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

/// nginx with two workers under Persona, serving one file.
struct Nginx {
    directory: tempfile::TempDir,
    port: u16,
    _running: Running,
}

impl Nginx {
    /// As root, its workers as nobody.
    fn start(topology: &Topology, engine: &Engine, port: u16) -> Self {
        let directory = tempfile::Builder::new().prefix("persona-faults-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let at = directory.path().display();
        let text = format!(
            "daemon off; user nobody nogroup; worker_processes 2; pid {at}/nginx.pid; error_log {at}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; server {{ listen {OUR_ADDRESS}:{port}; root {at}; }} }}\n"
        );
        let config = directory.path().join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let running = topology.spawn(Side::Persona(engine), &["nginx", "-c", &config.display().to_string()]).unwrap();
        engine.wait_for_listener(port).unwrap();
        Self { directory, port, _running: running }
    }

    fn workers(&self) -> Vec<String> {
        let master = std::fs::read_to_string(self.directory.path().join("nginx.pid")).unwrap();
        let master = master.trim();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    fn serves(&self, topology: &Topology) -> bool {
        let url = format!("http://{OUR_ADDRESS}:{}/nginx.conf", self.port);
        topology.succeed(Side::Peer, &["curl", "-sSf", "-m", "2", "-o", "/dev/null", &url], 5).is_ok()
    }
}

/// Nanoseconds for which the process's main thread has run or wanted to. On a busy machine, too, one that spins wants to
/// all the time and one that sleeps does not.
fn wanted_to_run(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split_whitespace().take(2).map(|number| number.parse::<u64>().unwrap()).sum()
}

fn assert_asleep(pids: &[String]) {
    let before: Vec<_> = pids.iter().map(|pid| wanted_to_run(pid)).collect();
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let most = begin.elapsed().as_nanos() as u64 / 2;
    for (pid, before) in pids.iter().zip(before) {
        let wanted = wanted_to_run(pid) - before;
        assert!(wanted < most, "process {pid} wanted to run for {wanted} ns of {} ns", most * 2);
    }
}

#[test]
fn listeners_come_back_in_the_engine_that_follows_a_killed_one() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    // A reserved port: the workers could not bind it, and prove that it was theirs.
    let nginx = Nginx::start(&topology, &engine, 80);
    let workers = nginx.workers();
    assert_eq!(workers.len(), 2);
    // Twice: what the first life left must not stand in the way of the third.
    for _ in 0..2 {
        assert!(nginx.serves(&topology));
        let before = engine.engine_pid().unwrap();
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        wait_until(|| engine.engine_pid().is_ok_and(|pid| pid != before));
        wait_until(|| nginx.serves(&topology));
        // Each worker listens for itself now.
        wait_until(|| engine.json(&["sockets"]).unwrap().to_string().matches("\"LISTEN\"").count() == 2);
        assert_asleep(&workers);
    }
    assert!(nginx.serves(&topology));
    assert_eq!(nginx.workers(), workers, "no worker had to be replaced");
    // What is proved is that they were there before: a stranger of the same user gets nothing.
    let stranger = "import os,socket\nos.setuid(65534)\ntry: socket.create_server(('10.9.0.2',81))\nexcept PermissionError: print('refused')";
    let stranger = topology.succeed(Side::Persona(&engine), &["python3", "-c", stranger], 20).unwrap();
    assert_eq!(stranger.stdout, "refused\n");
}

/// Waits for connections in each way there is, a thread for each, and answers with the way's number.
const LISTENERS: &str = "
import select, socket, threading
def listener(port):
    s = socket.create_server(('10.9.0.2', port))
    return s
def serve(s, wait):
    while True:
        wait()
        try: c = s.accept()[0]
        except BlockingIOError: continue
        # create_server sets the one and not the other, whatever brought the listener back.
        set_ = [s.getsockopt(socket.SOL_SOCKET, name) for name in (socket.SO_REUSEADDR, socket.SO_REUSEPORT)]
        c.sendall(b'here' if set_ == [1, 0] else b'with options %r' % set_)
        c.close()
def by_poll(s):
    s.setblocking(False)
    p = select.poll(); p.register(s, select.POLLIN)
    return lambda: p.poll()
def by_select(s):
    s.setblocking(False)
    return lambda: select.select([s], [], [])
def by_epoll(s):
    s.setblocking(False)
    e = select.epoll(); e.register(s, select.EPOLLIN)
    return lambda: e.poll()
ways = [lambda s: (lambda: None), by_poll, by_select, by_epoll]
for n, way in enumerate(ways):
    s = listener(7010 + n)
    threading.Thread(target=serve, args=(s, way(s))).start()
print('ready', flush=True)
";

#[test]
fn listeners_without_any_engine_sleep_until_one_comes() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let nginx = Nginx::start(&topology, &engine, 8080);
    let program = topology.spawn(Side::Persona(&engine), &["python3", "-c", LISTENERS]).unwrap();
    (0..4).for_each(|way| engine.wait_for_listener(7010 + way).unwrap());
    let (keeper, child) = (engine.keeper().unwrap(), engine.engine_pid().unwrap());
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    wait_until(|| !xdp_attached(&topology));

    let mut threads = nginx.workers();
    threads.extend(threads_below(program.pid()));
    assert!(threads.len() >= 2 + 4, "two workers, and a thread for each way to wait: {threads:?}");
    assert_asleep(&threads);

    let config = engine.run_dir().join("config.json").display().to_string();
    let up = engine.persona(&["up", "--name", &engine.name, "--config", &config]).output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    wait_until(|| nginx.serves(&topology));
    for way in 0..4 {
        let connect = format!(
            "import socket\nc=socket.create_connection(('{OUR_ADDRESS}',{}),2)\nassert c.recv(9)==b'here'",
            7010 + way
        );
        wait_until(|| topology.succeed(Side::Peer, &["python3", "-c", &connect], 5).is_ok());
    }
}

/// Two processes that wait on one epoll set, made before the fork; each answers with its pid.
const SHARED_SET: &str = "
import os, select, socket
s = socket.create_server(('10.9.0.2', 7020)); s.setblocking(False)
e = select.epoll(); e.register(s, select.EPOLLIN)
os.fork()
while True:
    e.poll()
    try: c = s.accept()[0]
    except BlockingIOError: continue
    c.sendall(b'%d' % os.getpid()); c.close()
";

#[test]
fn one_process_that_does_not_wait_keeps_nobody_awake_who_shares_its_epoll_set() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let program = topology.spawn(Side::Persona(&engine), &["python3", "-c", SHARED_SET]).unwrap();
    engine.wait_for_listener(7020).unwrap();
    let connect =
        format!("import socket\nc=socket.create_connection(('{OUR_ADDRESS}',7020),2)\nprint(c.recv(9).decode())");
    let answer =
        || topology.succeed(Side::Peer, &["python3", "-c", &connect], 5).map(|end| end.stdout.trim().to_owned());
    let before = engine.engine_pid().unwrap();
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    wait_until(|| engine.engine_pid().is_ok_and(|pid| pid != before));
    // Both listen for themselves, and both answer.
    let mut seen = std::collections::BTreeSet::new();
    wait_until(|| {
        seen.extend(answer());
        seen.len() == 2
    });
    let [stopped, other] = [seen.first().unwrap(), seen.last().unwrap()];
    let stopped_pid = Pid::from_raw(stopped.parse().unwrap());
    kill(stopped_pid, Signal::SIGSTOP).unwrap();
    // By turns, so that one of them meets the stopped process.
    for _ in 0..4 {
        let _ = topology.spawn(Side::Peer, &["python3", "-c", &connect]).unwrap().finish(5);
    }
    assert_asleep(std::slice::from_ref(other));
    kill(stopped_pid, Signal::SIGCONT).unwrap();
    wait_until(|| answer().is_ok_and(|pid| pid == *stopped));
    drop(program);
}

/// Every thread of a process and of what it started, as a path below /proc.
fn threads_below(pid: u32) -> Vec<String> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        threads.push(task.strip_prefix("/proc").unwrap().display().to_string());
        let children = std::fs::read_to_string(task.join("children")).unwrap();
        for child in children.split_whitespace() {
            threads.extend(threads_below(child.parse().unwrap()));
        }
    }
    threads
}
