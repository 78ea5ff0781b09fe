//! Who may do what: ordinary users without capabilities, the policy of the configuration, reserved ports.

use persona_tests::engine::interface;
use persona_tests::topology::OUR_ADDRESS;
use persona_tests::{Engine, Link, Side, Topology};
use serde_json::json;

const FETCH: &str =
    "import socket;c=socket.create_connection(('10.9.0.1',8100));c.sendall(b'ping');print(c.recv(4).decode())";
const ECHO: &str = "import socket;s=socket.create_server(('10.9.0.1',8100));c=s.accept()[0];c.sendall(c.recv(4))";

/// `program` as user nobody, without any capability, under Persona.
fn as_nobody(program: &str) -> Vec<&str> {
    vec![
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "python3",
        "-c",
        program,
    ]
}

/// What a program of user nobody under Persona prints, both streams together.
fn told(topology: &Topology, engine: &Engine, program: &str) -> (bool, String) {
    // `persona run` is itself run as nobody: the whole path from the command on needs no privilege.
    let all = as_nobody("");
    told_through(&all[..all.len() - 3], topology, engine, program)
}

/// What a program prints that `persona run` starts through `wrapper`.
fn told_through(wrapper: &[&str], topology: &Topology, engine: &Engine, program: &str) -> (bool, String) {
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &topology.ours]).args(wrapper);
    let binaries = tempfile::Builder::new().prefix("persona-nobody-").tempdir().unwrap();
    // The build's directory may be closed to others.
    std::fs::set_permissions(binaries.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["persona", "libpersona.so"] {
        std::fs::copy(persona_tests::binary(name), binaries.path().join(name)).unwrap();
    }
    command.arg(binaries.path().join("persona")).args([
        "run",
        "--name",
        &engine.name,
        "--strict",
        "--",
        "/usr/bin/python3",
        "-c",
        program,
    ]);
    let output = command.env("PERSONA_RUN_DIR", engine.run_dir()).current_dir("/").output().unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn user_nobody_without_capabilities_connects() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let server = topology.spawn(Side::Peer, &["python3", "-c", ECHO]).unwrap();
    topology.wait_for_peer_listener(8100).unwrap();
    let (ok, text) = told(&topology, &engine, FETCH);
    assert!(ok && text.trim() == "ping", "{text}");
    server.finish(10).unwrap();
    topology.assert_kernel_saw_no_tcp().unwrap();
}

#[test]
fn reserved_ports_are_roots_as_on_linux() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let bind = |port: u16| format!("import socket;socket.create_server(('{OUR_ADDRESS}',{port}));print('bound')");
    let (ok, text) = told(&topology, &engine, &bind(80));
    assert!(!ok && text.contains("PermissionError"), "{text}");
    let (ok, text) = told(&topology, &engine, &bind(8080));
    assert!(ok && text.contains("bound"), "{text}");
    let root = topology.succeed(Side::Persona(&engine), &["python3", "-c", &bind(80)], 20).unwrap();
    assert!(root.stdout.contains("bound"));
}

#[test]
fn who_is_not_in_the_policy_is_refused_with_a_sentence() {
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({ "interfaces": [interface("xdp", &topology)], "access": { "users": ["daemon"] } });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let (ok, text) = told(&topology, &engine, FETCH);
    assert!(
        !ok && text.lines().any(|line| line.starts_with("persona:") && line.contains("may not use this engine")),
        "{text}"
    );
}

/// Rules by path and by name, for programs that say something else of themselves, started by user nobody.
#[test]
fn rules_find_programs_by_path_and_by_name() {
    const CONNECT: &str = "import socket,sys;c=socket.socket();c.settimeout(5)\n\
        try: c.connect(('10.9.0.1',8100)); print('here')\n\
        except OSError as e: print(e)";
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({
        "interfaces": [interface("xdp", &topology)],
        "rules": [
            { "program": "/usr/*/python3*", "port": 8101, "use": "host" },
            { "program": "/opt/*/python3*", "use": "host" },
            { "program": "python3*", "port": 8102, "use": "host" },
            { "program": "alias", "port": 8103, "use": "host" },
        ],
    });
    let engine = Engine::start_with(&topology, &config).unwrap();
    // What nobody serves is refused by the peer to Persona, and unreachable for the host, which has no route.
    let ask = |port: u16, comm: &str| {
        let name = format!("open('/proc/self/comm','w').write('{comm}')\n");
        let program = CONNECT.replace("8100", &port.to_string());
        let (ok, text) = told(&topology, &engine, &(if comm.is_empty() { program } else { name + &program }));
        assert!(ok, "{text}");
        text
    };
    let (host, ours) = ("Network is unreachable", "Connection refused");
    for (port, comm, expected) in [
        (8100, "", ours),
        (8101, "", host),
        // Its path stays, whatever it calls itself.
        (8101, "alias", host),
        (8102, "", host),
        (8102, "alias", host),
        (8103, "", ours),
        (8103, "alias", host),
    ] {
        let text = ask(port, comm);
        assert!(text.contains(expected), "port {port}, called {comm:?}: {text}");
    }
}

/// Root connects, and goes on as a program of user nobody with the connection in hand.
#[test]
fn a_descendant_keeps_its_sockets_whatever_user_it_becomes() {
    const PROGRAM: &str = "import os,socket\n\
        c=socket.create_connection(('10.9.0.1',8100)); c.set_inheritable(True)\n\
        heir='import socket;c=socket.socket(fileno=%d);c.sendall(b\"ping\");print(c.getsockname()[0],c.recv(4).decode())'\n\
        nobody=['setpriv','--reuid=65534','--regid=65534','--clear-groups']\n\
        os.execvp(nobody[0],nobody+['/usr/bin/python3','-c',heir%c.fileno()])";
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({ "interfaces": [interface("xdp", &topology)], "access": { "users": ["daemon"] } });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let server = topology.spawn(Side::Peer, &["python3", "-c", ECHO]).unwrap();
    topology.wait_for_peer_listener(8100).unwrap();
    let (ok, text) = told_through(&[], &topology, &engine, PROGRAM);
    assert!(ok && text.trim() == format!("{OUR_ADDRESS} ping"), "{text}");
    server.finish(10).unwrap();
}

#[test]
fn the_engine_holds_no_capability_and_is_another_user() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.engine_pid().unwrap())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(!field("Uid:").split_whitespace().any(|uid| uid == "0"), "{}", field("Uid:"));
    // The threads as well.
    for task in std::fs::read_dir(format!("/proc/{}/task", engine.engine_pid().unwrap())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
}

#[test]
fn an_idle_engine_uses_no_processor() {
    let topology = Topology::new(Link { queues: 2, ..Link::default() }).unwrap();
    let config = json!({ "interfaces": [interface("xdp", &topology)], "shards": 2 });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", engine.engine_pid().unwrap())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(std::time::Duration::from_secs(1));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_secs(10));
    // A tick is 10 ms: one is the resolution of the clock that the kernel counts with.
    assert!(ticks() - before <= 1, "{} ticks in 10 s", ticks() - before);
}
