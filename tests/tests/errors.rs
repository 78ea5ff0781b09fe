//! Bad input and exhaustion: one clear sentence each, a non-zero exit, nothing left behind, and what ran goes on.
//!
//! Elsewhere: interface missing, down or taken, two engines of one name (`engine/tests/up.rs`); configurations and
//! commands without an engine (`engine/tests/command.rs`); an ABI that differs (`engine/tests/session`); kernels too old
//! for a part (`engine/src/host/probe`); an engine that goes while an application runs (`faults.rs`); users who may not
//! (`access.rs`).

use persona_tests::engine::interface;
use persona_tests::topology::{INTERFACE, OUR_ADDRESS};
use persona_tests::{Engine, Link, Side, Topology};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// `persona up` in the engine's namespace, through `wrapper`, with a run directory of its own.
struct Attempt {
    directory: tempfile::TempDir,
    output: Output,
    namespace: String,
}

impl Attempt {
    fn new(topology: &Topology, wrapper: &[&str], config: &Value) -> Self {
        Self::with(topology, wrapper, config, |command| command.output().unwrap())
    }

    fn with(
        topology: &Topology,
        wrapper: &[&str],
        config: &Value,
        finish: impl FnOnce(&mut Command) -> Output,
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("persona-errors-").tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &topology.ours]).args(wrapper).arg(persona_tests::binary("persona"));
        command.args(["up", "--config"]).arg(&file).env("PERSONA_RUN_DIR", directory.path().join("run"));
        Self { output: finish(&mut command), directory, namespace: topology.ours.clone() }
    }

    /// The same on a kernel that answers a system call (with this first argument) as one does that has not got it.
    fn on_kernel_without(lack: &Lack, topology: &Topology, config: &Value) -> Self {
        Self::with(topology, &[], config, |command| {
            let filter = lack.filter();
            // SAFETY: one system call on memory that the closure owns.
            unsafe { command.pre_exec(move || install(&filter)).output() }.unwrap()
        })
    }

    fn words(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The one sentence of a refusal that left nothing behind.
    fn refused(&self) -> String {
        let words = self.words();
        assert_eq!(self.output.status.code(), Some(1), "{words}");
        assert!(words.starts_with("persona: ") && words.lines().count() == 1, "{words}");
        assert!(!self.directory.path().join("run/default").exists(), "files of the engine are still there: {words}");
        words
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.output.status.success() {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.namespace]).arg(persona_tests::binary("persona")).arg("down");
            let _ = command.env("PERSONA_RUN_DIR", self.directory.path().join("run")).output();
        }
    }
}

/// A system call that this kernel knows and an older one does not.
struct Lack {
    call: i64,
    first_argument: Option<u32>,
    errno: i32,
}

impl Lack {
    fn filter(&self) -> Vec<libc::sock_filter> {
        const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
        let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let argument: Vec<_> = self
            .first_argument
            .into_iter()
            .flat_map(|argument| {
                [step(LOAD, 0, std::mem::offset_of!(libc::seccomp_data, args) as u32), step(EQUAL, 1, argument)]
            })
            .collect();
        let mut filter = vec![
            step(LOAD, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
            step(EQUAL, argument.len() as u8 + 1, self.call as u32),
        ];
        filter.extend(argument);
        filter.push(step(ANSWER, 0, libc::SECCOMP_RET_ERRNO | self.errno as u32));
        filter.push(step(ANSWER, 0, libc::SECCOMP_RET_ALLOW));
        filter
    }
}

fn install(filter: &[libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program lives across the call and is as long as said.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn one(kind: &str, topology: &Topology) -> Value {
    json!({ "interfaces": [interface(kind, topology)] })
}

/// What `program` (Python) prints under Persona; its errors too.
fn told(topology: &Topology, engine: &Engine, program: &str) -> String {
    let running = topology.spawn(Side::Persona(engine), &["python3", "-c", program]).unwrap();
    let finished = running.finish(60).unwrap();
    finished.stdout + &finished.stderr
}

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
        let words = told(&topology, &engine, TWICE);
        assert_eq!(words, "EADDRINUSE\nfree again\n", "shared: {shared}, {shards} shards");
        if shared {
            let program = "import socket,sys;s=socket.create_server(('10.9.0.2',8201));sys.stdin.read()";
            let mut host = topology.command(Side::Host, &["python3", "-c", program]);
            let mut host = host.stdin(std::process::Stdio::piped()).spawn().unwrap();
            wait_until(|| {
                topology.run(&topology.ours, &["cat", "/proc/net/tcp"]).unwrap().contains(":2009 00000000:0000 0A")
            });
            let words = told(&topology, &engine, ONCE);
            // Its standard input ends: it does too.
            drop(host.stdin.take());
            host.wait().unwrap();
            assert_eq!(words, "EADDRINUSE\n");
            assert_eq!(told(&topology, &engine, ONCE), "bound\n");
        }
    }
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("not within 10 s");
}

/// What the descriptors of the table that keeper and engine share lead to, kind by kind.
fn descriptors(engine: &Engine) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", engine.keeper().unwrap())).unwrap() {
        // One that the engine closes this moment cannot be read any more.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        *kinds.entry(target.split(":[").next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    kinds
}

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
    let before = descriptors(&engine);
    for _ in 0..2 {
        let words = told(&topology, &engine, PROGRAM);
        let lines: Vec<&str> = words.lines().collect();
        let (filled, rest) = lines.split_at(lines.len().min(10));
        assert!(filled.iter().all(|line| *line == "EMFILE"), "{words}");
        assert_eq!(rest, ["steady", "EMFILE", "ping"], "{words}");
        wait_until(|| descriptors(&engine) == before);
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
    let before = descriptors(&engine);
    let words = told(&topology, &engine, PROGRAM);
    let lines: Vec<&str> = words.lines().collect();
    assert!(["ENOBUFS", "EMFILE", "ENFILE"].contains(&lines[0]), "{words}");
    assert_eq!(lines[1..], [lines[0], "same", "bound"], "{words}");
    wait_until(|| descriptors(&engine) == before);
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
    let before = descriptors(&engine);
    assert_eq!(told(&topology, &engine, PROGRAM), "ENOBUFS 16\nENOBUFS again\n");
    wait_until(|| descriptors(&engine) == before);
}

#[test]
fn a_session_out_of_memory_says_so_and_loses_nothing() {
    // More than the session's 256 MiB in all, to a peer that does not read.
    const PROGRAM: &str = "import socket,errno,time\n\
        all=[]; sent=0; error='none'\n\
        while len(all)<400 and error in ('none','EAGAIN'):\n\
        \x20s=socket.create_connection(('10.9.0.1',8901)); s.setblocking(False); all.append(s)\n\
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
    assert_eq!(told(&topology, &engine, PROGRAM), "ENOBUFS True\nwhole\n");
    assert!(server.finish(20).unwrap().status.success());
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
    assert!(!xdp_attached(&topology));
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
        assert_eq!(told(&topology, &engine, client), "b'10.9.0.4'\n");
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
