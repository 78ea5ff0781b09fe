//! Bad input: one clear sentence each, a non-zero exit, nothing left behind, and what ran goes on.
//!
//! Elsewhere: interface missing, down or taken, two engines of one name (`engine/tests/up.rs`); configurations and
//! commands without an engine (`engine/tests/command.rs`); an engine that goes while an application runs (`faults.rs`);
//! users who may not (`access.rs`); what is used up (`exhaustion.rs`).

use persona_tests::engine::{interface, one};
use persona_tests::topology::{INTERFACE, OUR_ADDRESS};
use persona_tests::{Attempt, Engine, Lack, Link, Side, Topology, wait_until};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn a_missing_capability_is_named() {
    let topology = Topology::new(Link::default()).unwrap();
    let all = ["net_admin", "net_raw", "bpf", "perfmon", "net_bind_service", "setuid", "setgid", "sys_resource"];
    let cases = [("xdp", "net_raw"), ("packet", "net_raw"), ("xdp", "bpf"), ("packet", "net_admin"), ("xdp", "setuid")];
    for (kind, without) in cases {
        let kept: Vec<String> = all.iter().filter(|name| **name != without).map(|name| format!("+{name}")).collect();
        let bounding = format!("--bounding-set=-all,{}", kept.join(","));
        let attempt = Attempt::new(&topology, &["setpriv", &bounding, "--no-new-privs"], &one(kind, &topology));
        let sentence = attempt.refused();
        assert!(sentence.contains("CAP_"), "{kind} without {without}: {sentence}");
        assert!(!xdp_attached(&topology));
    }
}

#[test]
fn a_part_that_the_kernel_lacks_is_named_with_the_version_that_has_it() {
    const LINK_CREATE: u32 = 28;
    let topology = Topology::new(Link::default()).unwrap();
    let no_xdp_sockets =
        Lack { call: libc::SYS_socket, first_argument: Some(libc::AF_XDP as u32), errno: libc::EAFNOSUPPORT };
    let no_programs = Lack { call: libc::SYS_bpf, first_argument: None, errno: libc::ENOSYS };
    for (kind, lack, part, version) in [
        ("xdp", &no_xdp_sockets, "AF_XDP", "Linux 4.18"),
        ("xdp", &no_programs, "eBPF", "Linux 6.1"),
        ("packet", &no_programs, "eBPF", "Linux 6.1"),
    ] {
        let sentence = Attempt::on_kernel_without(lack, &topology, &one(kind, &topology)).refused();
        assert!(sentence.contains(part) && sentence.contains(version), "{kind}: {sentence}");
        assert!(!xdp_attached(&topology));
    }
    // What there is a way around for is no reason to refuse: packet sockets instead, and clsact where there is no tcx.
    let no_links = Lack { call: libc::SYS_bpf, first_argument: Some(LINK_CREATE), errno: libc::EINVAL };
    for (kind, lack, attached) in [("auto", &no_xdp_sockets, "tcx"), ("packet", &no_links, "clsact")] {
        let attempt = Attempt::on_kernel_without(lack, &topology, &one(kind, &topology));
        assert!(attempt.output.status.success(), "{kind}: {}", attempt.words());
        let persona = persona_tests::binary("persona").display().to_string();
        let mut show = topology.command(Side::Host, &[&persona, "filter", "show", "--json"]);
        let shown = show.env("PERSONA_RUN_DIR", attempt.directory.path().join("run")).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(shown[0]["attached"], attached, "{shown}");
        let answers = || topology.run(&topology.peer, &["ping", "-c", "1", "-W", "1", OUR_ADDRESS]).is_ok();
        let log = || std::fs::read_to_string(attempt.directory.path().join("run/default/log")).unwrap();
        assert!((0..10).any(|_| answers()), "{kind}: {}", log());
    }
}

#[test]
fn an_mtu_beyond_the_interfaces_is_refused_by_check_and_up() {
    let topology = Topology::new(Link::default()).unwrap();
    let mut config = one("xdp", &topology);
    config["interfaces"][0]["mtu"] = 9000.into();
    let attempt = Attempt::new(&topology, &[], &config);
    let sentence = attempt.refused();
    assert!(sentence.contains("config.json: interfaces[0].mtu: 9000 is larger than the MTU of veth0"), "{sentence}");
    let (persona, file) = (persona_tests::binary("persona"), attempt.directory.path().join("config.json"));
    let words = [persona.to_str().unwrap(), "check", file.to_str().unwrap()];
    let checked = topology.spawn(Side::Host, &words).unwrap().finish(20).unwrap();
    assert_eq!((checked.status.code(), checked.stderr), (Some(1), sentence));
}

fn xdp_attached(topology: &Topology) -> bool {
    topology.run(&topology.ours, &["ip", "link", "show", "dev", INTERFACE]).unwrap().contains("prog/xdp")
}

#[test]
fn an_xdp_program_of_somebody_else_is_named_and_stays() {
    let topology = Topology::new(Link::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (source, object) = (directory.path().join("pass.c"), directory.path().join("pass.o"));
    let program = "__attribute__((section(\"xdp\"), used)) int stranger(void *frame) { return 2; }\n\
                   char _license[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
    std::fs::write(&source, program).unwrap();
    let mut clang = Command::new("clang");
    let built = clang.args(["-O2", "-g", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
    assert!(built.status().expect("clang runs").success());
    let object = object.display().to_string();
    topology
        .run(&topology.ours, &["ip", "link", "set", "dev", INTERFACE, "xdp", "obj", &object, "sec", "xdp"])
        .unwrap();
    assert!(xdp_attached(&topology));
    let sentence = Attempt::new(&topology, &[], &one("xdp", &topology)).refused();
    assert!(sentence.contains("XDP program") && sentence.contains("stranger"), "{sentence}");
    assert!(xdp_attached(&topology), "it is still there");
}

#[test]
fn rules_that_the_diversion_bypasses_are_named_at_start() {
    let topology = Topology::new(Link::default()).unwrap();
    topology.run(&topology.ours, &["nft", "add table inet guard"]).unwrap();
    let chain = "add chain inet guard input { type filter hook input priority 0 ; policy drop ; }";
    topology.run(&topology.ours, &["nft", chain]).unwrap();
    let attempt = Attempt::new(&topology, &[], &one("xdp", &topology));
    let words = attempt.words();
    assert!(attempt.output.status.success(), "{words}");
    assert!(
        words.lines().any(|line| line.starts_with("persona: warning: ") && line.contains("inet guard input")),
        "{words}"
    );
}

#[test]
fn a_port_in_use_is_eaddrinuse_inside_persona_and_against_the_host() {
    // The sockets lie on both shards in turn, where there are two.
    const TWICE: &str = "import socket,errno\n\
        for turn in range(9):\n\
        \x20a=socket.create_server(('10.9.0.2',8200))\n\
        \x20try: socket.create_server(('10.9.0.2',8200)); print('bound twice')\n\
        \x20except OSError as e: code=errno.errorcode[e.errno]\n\
        \x20a.close()\n\
        print(code); c=socket.create_server(('10.9.0.2',8200)); print('free again')";
    const ONCE: &str = "import socket,errno\n\
        try: socket.create_server(('10.9.0.2',8201)); print('bound')\n\
        except OSError as e: print(errno.errorcode[e.errno])";
    for (shared, shards) in [(false, 1), (false, 2), (true, 2)] {
        let topology = Topology::new(Link { shared, queues: shards, ..Link::default() }).unwrap();
        let config = json!({ "interfaces": [interface("xdp", &topology)], "shards": shards });
        let engine = Engine::start_with(&topology, &config).unwrap();
        let words = engine.told(&topology, TWICE);
        assert_eq!(words, "EADDRINUSE\nfree again\n", "shared: {shared}, {shards} shards");
        if shared {
            let program = "import socket,sys;s=socket.create_server(('10.9.0.2',8201));sys.stdin.read()";
            let mut host = topology.command(Side::Host, &["python3", "-c", program]);
            let mut host = host.stdin(std::process::Stdio::piped()).spawn().unwrap();
            wait_until(|| {
                topology.run(&topology.ours, &["cat", "/proc/net/tcp"]).unwrap().contains(":2009 00000000:0000 0A")
            });
            let words = engine.told(&topology, ONCE);
            // Its standard input ends: it does too.
            drop(host.stdin.take());
            host.wait().unwrap();
            assert_eq!(words, "EADDRINUSE\n");
            assert_eq!(engine.told(&topology, ONCE), "bound\n");
        }
    }
}

/// A library of another version, played by a go-between that changes the version (or a size) in the hello of this one.
#[test]
fn a_library_of_another_build_says_which_side_to_update() {
    const BETWEEN: &str = "import socket,sys\n\
        real,own,at,value=sys.argv[1],sys.argv[2],int(sys.argv[3]),int(sys.argv[4])\n\
        l=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); l.bind(own); l.listen()\n\
        print('ready',flush=True)\n\
        while True:\n\
        \x20c=l.accept()[0]; hello=bytearray(c.recv(4096)); hello[at:at+4]=value.to_bytes(4,'little')\n\
        \x20e=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); e.connect(real); e.send(hello)\n\
        \x20c.send(e.recv(4096)); c.close(); e.close()";
    const PROGRAM: &str = "import socket;socket.create_server(('10.9.0.2',8800))";
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let real = engine.run_dir().join(&engine.name).join("session.sock");
    // Where the hello has them: the version behind the magic number, then the session's pages.
    for (at, value, expected) in [
        ("8", "1", "update libpersona.so to the version of engine and restart the program"),
        ("8", "999", "update engine to the version of libpersona.so and restart it"),
        ("12", "7", "install libpersona.so from the engine's build"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("default/session.sock");
        std::fs::create_dir(own.parent().unwrap()).unwrap();
        let mut between = Command::new("python3");
        between.args(["-c", BETWEEN]).args([&real, &own]).args([at, value]).stdout(std::process::Stdio::piped());
        let mut between = between.spawn().unwrap();
        let mut ready = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(between.stdout.take().unwrap()), &mut ready).unwrap();
        let mut program = topology.command(Side::Host, &["/usr/bin/python3", "-c", PROGRAM]);
        program.env("LD_PRELOAD", persona_tests::binary("libpersona.so")).env("PERSONA_STRICT", "1");
        let told = program.env("PERSONA_RUN_DIR", directory.path()).output().unwrap();
        between.kill().unwrap();
        between.wait().unwrap();
        let words = String::from_utf8_lossy(&told.stderr).into_owned();
        let sentence = words.lines().find(|line| line.starts_with("persona: ")).unwrap_or_default();
        assert!(sentence.contains(expected) && !told.status.success(), "{words}");
    }
}

#[test]
fn an_address_that_the_host_gets_later_is_shared_as_well() {
    const SERVE: &str = "import socket;s=socket.create_server(('10.9.0.4',8500));c=s.accept()[0];c.sendall(c.recv(4))";
    const ASK: &str = "import socket;c=socket.create_connection(('10.9.0.4',8500));c.sendall(b'ping');print(c.recv(4))";
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let config = json!({ "interfaces": [{ "type": "xdp", "param": INTERFACE, "address": "shared" }] });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let address =
        |verb| topology.run(&topology.ours, &["ip", "address", verb, "10.9.0.4/24", "dev", INTERFACE]).unwrap();
    let is_ours = || engine.json(&["filter", "show"]).unwrap().to_string().contains("\"10.9.0.4\"");
    for _ in 0..2 {
        address("add");
        wait_until(is_ours);
        let server = topology.spawn(Side::Persona(&engine), &["python3", "-c", SERVE]).unwrap();
        engine.wait_for_listener(8500).unwrap();
        let client = topology.succeed(Side::Peer, &["python3", "-c", ASK], 20).unwrap();
        assert_eq!(client.stdout, "b'ping'\n");
        assert!(server.finish(20).unwrap().status.success());
        // From the address, too.
        let server = "import socket;s=socket.create_server(('10.9.0.1',8501));c,a=s.accept();c.sendall(a[0].encode())";
        let server = topology.spawn(Side::Peer, &["python3", "-c", server]).unwrap();
        topology.wait_for_peer_listener(8501).unwrap();
        let client = "import socket;c=socket.create_connection(('10.9.0.1',8501),source_address=('10.9.0.4',0));print(c.recv(20))";
        assert_eq!(engine.told(&topology, client), "b'10.9.0.4'\n");
        server.finish(20).unwrap();
        address("del");
        wait_until(|| !is_ours());
    }
    assert_eq!(topology.kernel_counter(&topology.ours, "Tcp", "OutRsts").unwrap(), 0);
}

#[test]
fn an_address_whose_ports_the_host_uses_stays_with_the_host() {
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let range = "net.ipv4.ip_local_port_range=40000 42047";
    topology.run(&topology.ours, &["sysctl", "-qw", range]).unwrap();
    let config = json!({ "interfaces": [{ "type": "xdp", "param": INTERFACE, "address": "shared" }] });
    let engine = Engine::start_with(&topology, &config).unwrap();
    // A program of the host has every port of the range for outgoing connections on the address that is to come.
    let program = "import socket,sys,resource\n\
        resource.setrlimit(resource.RLIMIT_NOFILE,(4096,4096))\n\
        lo,hi=map(int,open('/proc/sys/net/ipv4/ip_local_port_range').read().split())\n\
        all=[]\n\
        for port in range(lo,hi+1):\n\
        \x20s=socket.socket()\n\
        \x20s.setsockopt(0,15,1)\n\
        \x20s.bind(('10.9.0.4',port)); all.append(s)\n\
        print('ready',flush=True); sys.stdin.read()";
    let mut host = topology.command(Side::Host, &["python3", "-c", program]);
    let mut host = host.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(host.stdout.take().unwrap()), &mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    topology.run(&topology.ours, &["ip", "address", "add", "10.9.0.4/24", "dev", INTERFACE]).unwrap();
    let log = engine.run_dir().join(&engine.name).join("log");
    let sentence = "the host's new address 10.9.0.4 stays with the host alone";
    wait_until(|| std::fs::read_to_string(&log).unwrap().contains(sentence));
    let filters = engine.json(&["filter", "show"]).unwrap().to_string();
    drop(host.stdin.take());
    host.wait().unwrap();
    assert!(filters.contains(OUR_ADDRESS) && !filters.contains("10.9.0.4"), "{filters}");
}
