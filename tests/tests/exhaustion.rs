//! Descriptors, sockets, connections and memory used up, on either side: the errors of Linux or a sentence, nothing leaked, and
//! all of it works again when there is room.

use persona_tests::engine::{interface, one};
use persona_tests::{Attempt, Engine, Link, Side, Topology, wait_until};
use serde_json::json;

#[test]
fn a_program_out_of_descriptors_gets_emfile_and_nothing_leaks() {
    // The library's own descriptors count too, and a pool of them that varies: a leak of five in each turn would show.
    const PROGRAM: &str = "import socket,errno,resource\n\
        resource.setrlimit(resource.RLIMIT_NOFILE,(200,200))\n\
        def fill(connected):\n\
        \x20all=[]\n\
        \x20try:\n\
        \x20 while len(all)<1000:\n\
        \x20  s=socket.socket(); all.append(s)\n\
        \x20  if connected: s.connect(('10.9.0.1',8300))\n\
        \x20except OSError as e: print(errno.errorcode[e.errno])\n\
        \x20count=len(all)\n\
        \x20for s in all: s.close()\n\
        \x20return count\n\
        counts=[fill(False) for _ in range(10)]\n\
        print('steady' if 150<min(counts) and max(counts)<200 else counts)\n\
        fill(True)\n\
        c=socket.create_connection(('10.9.0.1',8300)); c.sendall(b'ping'); print(c.recv(4).decode())";
    const SERVER: &str = "import socket,threading\n\
        s=socket.create_server(('10.9.0.1',8300),backlog=500)\n\
        def serve(c):\n\
        \x20try: c.sendall(c.recv(4))\n\
        \x20except OSError: pass\n\
        \x20c.close()\n\
        while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()";
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let _server = topology.spawn(Side::Peer, &["python3", "-c", SERVER]).unwrap();
    topology.wait_for_peer_listener(8300).unwrap();
    let before = engine.descriptors();
    for _ in 0..2 {
        let words = engine.told(&topology, PROGRAM);
        let lines: Vec<&str> = words.lines().collect();
        let (filled, rest) = lines.split_at(lines.len().min(10));
        assert!(filled.iter().all(|line| *line == "EMFILE"), "{words}");
        assert_eq!(rest, ["steady", "EMFILE", "ping"], "{words}");
        wait_until(|| engine.descriptors() == before);
    }
}

#[test]
fn a_session_out_of_sockets_says_so_and_serves_again_when_they_are_closed() {
    const PROGRAM: &str = "import socket,errno,resource\n\
        hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
        resource.setrlimit(resource.RLIMIT_NOFILE,(hard,hard))\n\
        counts=[]\n\
        for turn in range(2):\n\
        \x20all=[]\n\
        \x20try:\n\
        \x20 while len(all)<200000: all.append(socket.socket())\n\
        \x20except OSError as e: print(errno.errorcode[e.errno])\n\
        \x20counts.append(len(all))\n\
        \x20for s in all: s.close()\n\
        print('same' if counts[0]==counts[1] and counts[0]>1000 else counts)\n\
        s=socket.create_server(('10.9.0.2',8400)); print('bound')";
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let before = engine.descriptors();
    let words = engine.told(&topology, PROGRAM);
    let lines: Vec<&str> = words.lines().collect();
    assert!(["ENOBUFS", "EMFILE", "ENFILE"].contains(&lines[0]), "{words}");
    assert_eq!(lines[1..], [lines[0], "same", "bound"], "{words}");
    wait_until(|| engine.descriptors() == before);
    assert_eq!(engine.json(&["sockets"]).unwrap(), json!([]));
}

#[test]
fn an_engine_out_of_connections_refuses_the_next_and_goes_on() {
    // 16 records; the peer's kernel accepts more than that.
    const PROGRAM: &str = "import socket,errno,time\n\
        def fill():\n\
        \x20all=[]\n\
        \x20try:\n\
        \x20 while len(all)<100: all.append(socket.create_connection(('10.9.0.1',8900)))\n\
        \x20except OSError as e: return all,errno.errorcode[e.errno]\n\
        \x20return all,'none'\n\
        all,first=fill(); print(first,len(all))\n\
        for s in all: s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0'); s.close()\n\
        for turn in range(200):\n\
        \x20again,error=fill()\n\
        \x20for s in again: s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0'); s.close()\n\
        \x20if len(again)==len(all): print(error,'again'); break\n\
        \x20time.sleep(0.025)";
    const SERVER: &str = "import socket\ns=socket.create_server(('10.9.0.1',8900),backlog=500)\nall=[]\n\
        while True: all.append(s.accept()[0])";
    let topology = Topology::new(Link::default()).unwrap();
    let config = json!({ "interfaces": [interface("xdp", &topology)], "shards": 1, "connections": 16 });
    let engine = Engine::start_with(&topology, &config).unwrap();
    let _server = topology.spawn(Side::Peer, &["python3", "-c", SERVER]).unwrap();
    topology.wait_for_peer_listener(8900).unwrap();
    let before = engine.descriptors();
    assert_eq!(engine.told(&topology, PROGRAM), "ENOBUFS 16\nENOBUFS again\n");
    wait_until(|| engine.descriptors() == before);
}

#[test]
fn a_session_out_of_memory_says_so_and_loses_nothing() {
    // More than the session's 256 MiB in all, to a peer that does not read.
    const PROGRAM: &str = "import socket,errno,time\n\
        all=[]; sent=0; error='none'\n\
        while len(all)<400 and error in ('none','EAGAIN'):\n\
        \x20s=socket.create_connection(('10.9.0.1',8901)); s.setblocking(False); all.append(s)\n\
        \x20s.setsockopt(socket.SOL_SOCKET,socket.SO_SNDBUF,1<<19)\n\
        \x20s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0')\n\
        \x20try:\n\
        \x20 while True: sent+=s.send(b'x'*65536)\n\
        \x20except OSError as e: error=errno.errorcode[e.errno]\n\
        print(error, sent>200<<20)\n\
        for s in all: s.close()\n\
        c=socket.create_connection(('10.9.0.1',8902)); data=bytes(range(256))*4096\n\
        rest=memoryview(data)\n\
        for turn in range(200):\n\
        \x20try: rest=rest[c.send(rest):]\n\
        \x20except OSError as e: time.sleep(0.025)\n\
        \x20if not rest: break\n\
        c.shutdown(socket.SHUT_WR)\n\
        got=b''\n\
        while True:\n\
        \x20piece=c.recv(65536); got+=piece\n\
        \x20if not piece: break\n\
        print('whole' if got==data else len(got))";
    const SERVER: &str = "import socket,threading\n\
        silent=socket.create_server(('10.9.0.1',8901),backlog=500); echo=socket.create_server(('10.9.0.1',8902))\n\
        def hold():\n\
        \x20all=[]\n\
        \x20while True: all.append(silent.accept()[0])\n\
        threading.Thread(target=hold,daemon=True).start()\n\
        c=echo.accept()[0]; data=b''\n\
        while True:\n\
        \x20piece=c.recv(65536); data+=piece\n\
        \x20if not piece: break\n\
        c.sendall(data); c.close()";
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let server = topology.spawn(Side::Peer, &["python3", "-c", SERVER]).unwrap();
    topology.wait_for_peer_listener(8902).unwrap();
    assert_eq!(engine.told(&topology, PROGRAM), "ENOBUFS True\nwhole\n");
    assert!(server.finish(20).unwrap().status.success());
}

#[test]
fn an_engine_out_of_descriptors_refuses_with_a_sentence_and_serves_again_when_there_are_some() {
    // Takes what there is, holds it until its standard input ends, and counts what it gets then.
    const GREEDY: &str = "import socket,errno,sys,time\n\
        def fill():\n\
        \x20all=[]\n\
        \x20try:\n\
        \x20 while len(all)<2000: all.append(socket.socket())\n\
        \x20except OSError as e: return all,errno.errorcode[e.errno]\n\
        all,first=fill(); print(first,flush=True); sys.stdin.readline()\n\
        for s in all: s.close()\n\
        for turn in range(200):\n\
        \x20again,error=fill()\n\
        \x20if len(again)>=len(all)-32>50: print(error,'again'); break\n\
        \x20for s in again: s.close()\n\
        \x20time.sleep(0.025)";
    const BIND: &str = "import socket;socket.create_server(('10.9.0.2',8700));print('bound')";
    let topology = Topology::new(Link::default()).unwrap();
    let attempt = Attempt::new(&topology, &["prlimit", "--nofile=400:400"], &one("xdp", &topology));
    assert!(attempt.output.status.success(), "{}", attempt.words());
    let directory = attempt.directory.path().join("run");
    let persona = persona_tests::binary("persona").display().to_string();
    let run = |program: &str| {
        let words = [&persona, "run", "--strict", "--", "python3", "-c", program];
        let mut command = topology.command(Side::Host, &words);
        command.env("PERSONA_RUN_DIR", &directory);
        command
    };
    let open = || {
        let keeper = std::fs::read_to_string(directory.join("default/keeper.pid")).unwrap();
        std::fs::read_dir(format!("/proc/{}/fd", keeper.trim())).unwrap().count()
    };
    let before = open();
    let mut greedy = run(GREEDY).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(greedy.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ENOBUFS");
    // Another program is told at once, and in a sentence; so is the command.
    for _ in 0..2 {
        let refused = run(BIND).output().unwrap();
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        let sentence = words.lines().find(|line| line.starts_with("persona: ")).unwrap_or_default();
        assert!(sentence.contains("RLIMIT_NOFILE") && !refused.status.success(), "{words}");
    }
    let info = topology.command(Side::Host, &[&persona, "info"]).env("PERSONA_RUN_DIR", &directory).output().unwrap();
    assert!(info.status.success() || String::from_utf8_lossy(&info.stderr).contains("RLIMIT_NOFILE"), "{info:?}");
    std::io::Write::write_all(greedy.stdin.as_mut().unwrap(), b"\n").unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["ENOBUFS again"]);
    assert!(greedy.wait().unwrap().success());
    wait_until(|| open() == before);
    let bound = run(BIND).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bound.stdout), "bound\n", "{}", String::from_utf8_lossy(&bound.stderr));
}

#[test]
fn few_descriptors_leave_fewer_ports_of_a_shared_address_and_say_so() {
    const CONNECT: &str =
        "import socket;c=socket.create_connection(('10.9.0.1',8600));c.sendall(b'ping');print(c.recv(4))";
    const SERVE: &str = "import socket;s=socket.create_server(('10.9.0.1',8600));c=s.accept()[0];c.sendall(c.recv(4))";
    let topology = Topology::new(Link { shared: true, ..Link::default() }).unwrap();
    let attempt = Attempt::new(&topology, &["prlimit", "--nofile=400:400"], &one("xdp", &topology));
    let words = attempt.words();
    assert!(attempt.output.status.success(), "{words}");
    let directory = attempt.directory.path().join("run");
    let log = std::fs::read_to_string(directory.join("default/log")).unwrap();
    let warning = log.lines().find(|line| line.contains("RLIMIT_NOFILE")).unwrap_or_else(|| panic!("{log}"));
    assert!(warning.contains("100 ports of each shared address"), "{warning}");
    // And it serves.
    let server = topology.spawn(Side::Peer, &["python3", "-c", SERVE]).unwrap();
    topology.wait_for_peer_listener(8600).unwrap();
    let mut command = topology.command(Side::Host, &[]);
    let persona = persona_tests::binary("persona").display().to_string();
    command.args([&persona, "run", "--strict", "--", "python3", "-c", CONNECT]).env("PERSONA_RUN_DIR", &directory);
    let client = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&client.stdout), "b'ping'\n", "{}", String::from_utf8_lossy(&client.stderr));
    server.finish(20).unwrap();
    drop(attempt);

    // None at all: a sentence.
    let sentence = Attempt::new(&topology, &["prlimit", "--nofile=20:20"], &one("xdp", &topology)).refused();
    assert!(sentence.contains("descriptors") && sentence.contains("RLIMIT_NOFILE"), "{sentence}");
    let link =
        topology.run(&topology.ours, &["ip", "link", "show", "dev", persona_tests::topology::INTERFACE]).unwrap();
    assert!(!link.contains("prog/xdp"));
}
