//! `persona up` and what looks at an engine, against a peer that pings: start, questions, capture, restart, stop, and each
//! refusal at start with its sentence and nothing left behind. Programs over the engine are tested end to end in
//! `tests/`; here no library is needed.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PERSONA: &str = env!("CARGO_BIN_EXE_persona");
/// Long enough for a loaded machine; nothing waits so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);
const OURS: &str = "10.66.0.2";
const PEER: &str = "10.66.0.1";
const CONFIG: &str =
    r#"{"interfaces": [{"type": "xdp", "param": "veth0", "ip": "10.66.0.2", "masklen": 24}], "linger_ms": 100}"#;

/// Two namespaces with a veth pair between them, and a directory.
struct Ground {
    ours: String,
    peer: String,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new(name: &str) -> Ground {
        let tag = format!("pup-{}-{name}", std::process::id());
        let ground = Ground { ours: format!("{tag}-a"), peer: format!("{tag}-b"), dir: tempfile::tempdir().unwrap() };
        for namespace in [&ground.ours, &ground.peer] {
            succeed(&["ip", "netns", "add", namespace]);
        }
        let (ours, peer) = (&ground.ours, &ground.peer);
        succeed(&["ip", "-n", ours, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", peer]);
        for namespace in [ours, peer] {
            succeed(&["ip", "-n", namespace, "link", "set", "veth0", "up"]);
        }
        succeed(&["ip", "-n", peer, "address", "add", &format!("{PEER}/24"), "dev", "veth0"]);
        ground.write("own.json", CONFIG);
        // Any library will do for programs that make no socket.
        let library = ground.dir.path().join("libpersona.so");
        let compiler = Command::new("cc").args(["-shared", "-o"]).arg(&library).args(["-x", "c", "/dev/null"]).status();
        assert!(compiler.expect("cc runs").success());
        ground
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ours]).args(words).current_dir(self.dir.path());
        command
    }

    fn persona(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside(&[PERSONA]);
        command.args(arguments);
        command.env("PERSONA_RUN_DIR", self.run_dir()).env("PERSONA_LIBRARY", self.dir.path().join("libpersona.so"));
        command.env_remove("LKL_HIJACK_CONFIG_FILE").env_remove("PERSONA_NAME");
        command
    }

    fn run_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    fn up(&self) {
        let (status, _, words) = output(&mut self.persona(&["up", "--config", "own.json"]));
        assert_eq!(status, Some(0), "{words}");
    }

    fn refused(&self, config: &str) -> String {
        self.write("refused.json", config);
        let (status, _, sentence) = output(&mut self.persona(&["up", "--config", "refused.json"]));
        assert_eq!(status, Some(1), "{sentence}");
        self.assert_nothing_left();
        sentence
    }

    fn assert_nothing_left(&self) {
        assert!(!self.run_dir().join("default").exists(), "files of the engine are still there");
        assert!(!self.has_xdp(), "an XDP program is still attached");
    }

    fn has_xdp(&self) -> bool {
        let link = succeed(&["ip", "-n", &self.ours, "-details", "-json", "link", "show", "dev", "veth0"]);
        let link: Value = serde_json::from_str(&link).unwrap();
        link[0].get("xdp").is_some()
    }

    fn ask(&self, question: &[&str]) -> Value {
        let (status, out, words) = output(self.persona(question).arg("--json"));
        assert_eq!(status, Some(0), "{question:?}: {words}");
        serde_json::from_str(&out).unwrap()
    }

    fn ping(&self) -> bool {
        let words = ["ip", "netns", "exec", &self.peer, "ping", "-c", "1", "-W", "2", OURS];
        Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).status().expect("ping runs").success()
    }

    fn keeper(&self) -> i32 {
        fs::read_to_string(self.run_dir().join("default/keeper.pid")).unwrap().trim().parse().unwrap()
    }

    fn engine(&self) -> i32 {
        self.ask(&["info"])["pid"].as_i64().unwrap() as i32
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Most of it is gone after a successful test.
        for name in ["default", "first", "second"] {
            let _ = self.persona(&["down", "--name", name]).output();
        }
        for namespace in [&self.ours, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

fn succeed(words: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(status.success(), "{words:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("the command runs");
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn wait_bounded(child: &mut Child) -> std::process::ExitStatus {
    let mut ended = None;
    wait_for("the child's end", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

#[test]
fn an_engine_answers_pings_and_questions_and_goes_without_a_trace() {
    let ground = Ground::new("ask");
    ground.up();
    assert!(ground.ping(), "packets flow once `up` returns");

    let info = ground.ask(&["info"]);
    assert_eq!(info["interfaces"][0]["param"], "veth0");
    assert_eq!(info["restarts"], 0);
    let filter = ground.ask(&["filter", "show"]);
    let entries = filter[0]["entries"].as_array().unwrap();
    let address = entries.iter().find(|entry| entry["kind"] == "address").expect("the address is diverted");
    assert_eq!(address["local"], OURS);
    assert!(address["hits"].as_u64().unwrap() > 0, "{filter}");
    let stats = ground.ask(&["stats", "-z"]);
    assert!(stats["stack"]["TcpActiveOpens"].is_u64(), "zeros are there: {stats}");
    assert!(ground.ask(&["stats"])["stack"]["TcpActiveOpens"].is_null(), "and left out without -z");
    assert!(stats["ports"][0]["counters"].as_object().unwrap().values().any(|count| count.as_u64() > Some(0)));
    assert_eq!(ground.ask(&["sockets"]), Value::Array(Vec::new()));

    let (status, _, words) = output(&mut ground.persona(&["up", "--config", "own.json"]));
    assert_eq!(status, Some(1));
    assert!(words.starts_with("persona: an engine named `default` is up already (keeper "), "{words}");

    let (status, _, words) = output(&mut ground.persona(&["down"]));
    assert_eq!(status, Some(0), "{words}");
    ground.assert_nothing_left();
    assert!(!ground.ping());
}

#[test]
fn a_capture_is_a_pcapng_file_of_both_directions() {
    let ground = Ground::new("capture");
    ground.up();
    let mut capture = ground.persona(&["capture", "-w", "frames.pcapng", "icmp"]).spawn().unwrap();
    let file = ground.dir.path().join("frames.pcapng");
    // The section header is written before any frame.
    wait_for("the capture", || fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0));
    assert!(ground.ping());
    let frames = || {
        let tshark = ["tshark", "-r", file.to_str().unwrap(), "-T", "fields", "-e", "icmp.type"];
        let out = Command::new(tshark[0]).args(&tshark[1..]).output().expect("tshark runs");
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_for("request and reply", || frames() == ["8", "0"]);
    kill(capture.id() as i32, nix::sys::signal::Signal::SIGINT);
    assert!(wait_bounded(&mut capture).success());
    assert_eq!(frames(), ["8", "0"], "the file is whole");
}

#[test]
fn settings_are_shown_changed_and_refused_as_sysctl_does() {
    let ground = Ground::new("sysctl");
    ground.write("tuned.json", &CONFIG.replace("\"linger_ms\"", r#""sysctl": "net.ipv4.tcp_retries2=7", "linger_ms""#));
    let (status, _, words) = output(&mut ground.persona(&["up", "--config", "tuned.json"]));
    assert_eq!(status, Some(0), "{words}");
    let say = |arguments: &[&str]| output(ground.persona(&["sysctl"]).args(arguments));

    assert_eq!(say(&["net.ipv4.tcp_retries2"]).1, "net.ipv4.tcp_retries2 = 7\n", "from the configuration");
    let all = say(&["-a"]).1;
    assert!(all.lines().any(|line| line == "net.ipv4.tcp_fin_timeout = 60"), "{all}");
    let as_json = ground.ask(&["sysctl"]);
    assert_eq!(as_json.as_object().unwrap().len(), all.lines().count());
    let (status, out, words) = say(&["-w", "net/ipv4/tcp_fin_timeout=30", "net.ipv4.ip_default_ttl=9"]);
    assert_eq!((status, words.as_str()), (Some(0), ""));
    assert_eq!(out, "net.ipv4.tcp_fin_timeout = 30\nnet.ipv4.ip_default_ttl = 9\n");

    // The shard has heard of it: the RST that answers a stranger has the new TTL.
    let file = ground.dir.path().join("frames.pcapng");
    let mut capture = ground.persona(&["capture", "-w", "frames.pcapng", "tcp"]).spawn().unwrap();
    wait_for("the capture", || fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 0));
    let knock = format!("exec 3<>/dev/tcp/{OURS}/9");
    let words = ["netns", "exec", &ground.peer, "bash", "-c", &knock];
    let knocked = Command::new("ip").args(words).stderr(Stdio::null()).status().expect("bash runs");
    assert!(!knocked.success(), "nobody listens");
    wait_for("the RST's TTL", || {
        let fields = ["-Y", "tcp.flags.reset == 1", "-T", "fields", "-e", "ip.ttl"];
        let out = Command::new("tshark").arg("-r").arg(&file).args(fields).output().expect("tshark runs");
        String::from_utf8(out.stdout).unwrap().trim() == "9"
    });
    kill(capture.id() as i32, nix::sys::signal::Signal::SIGINT);
    assert!(wait_bounded(&mut capture).success());

    // All or nothing, each refusal with its reason.
    for (setting, sentence) in [
        ("net.ipv4.tcp_low_latency=1", "net.ipv4.tcp_low_latency has no effect: Linux itself ignores it"),
        (
            "net.ipv4.tcp_fin_timeut=1",
            "`net.ipv4.tcp_fin_timeut` is no sysctl; the nearest is net.ipv4.tcp_fin_timeout",
        ),
        ("net.ipv4.tcp_sack=x", "net.ipv4.tcp_sack: `x` is not a number from 0 to 255"),
        ("net.ipv4.ipfrag_high_thresh=65536", "net.ipv4.ipfrag_high_thresh sizes memory when the engine starts"),
    ] {
        let (status, out, words) = say(&["net.ipv4.tcp_fin_timeout=5", setting]);
        assert_eq!((status, out.as_str()), (Some(1), ""), "{setting}");
        assert!(words.starts_with(&format!("persona: {sentence}")), "{words}");
    }
    assert_eq!(say(&["net.ipv4.tcp_fin_timeout"]).1, "net.ipv4.tcp_fin_timeout = 30\n");
}

#[test]
fn a_killed_engine_is_restarted_and_a_killed_keeper_leaves_the_host_as_before() {
    let ground = Ground::new("kill");
    ground.up();
    let first = ground.engine();
    kill(first, nix::sys::signal::Signal::SIGKILL);
    wait_for("the successor", || ground.ping());
    let info = ground.ask(&["info"]);
    assert_eq!(info["restarts"], 1);
    assert_ne!(info["pid"].as_i64(), Some(first.into()));

    let second = ground.engine();
    kill(ground.keeper(), nix::sys::signal::Signal::SIGKILL);
    wait_for("the engine's end", || {
        let stat = fs::read_to_string(format!("/proc/{second}/stat"));
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    });
    wait_for("the XDP program's end", || !ground.has_xdp());
    assert!(!ground.ping());
    // What it left in the file system is in nobody's way. The peer is still giving up on the address, so that one
    // ping more may fail.
    ground.up();
    wait_for("packets", || ground.ping());
}

#[test]
fn the_engine_runs_as_another_user_without_capabilities() {
    let ground = Ground::new("user");
    ground.up();
    let status = fs::read_to_string(format!("/proc/{}/status", ground.engine())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65534"; 4]);
    assert_eq!(field("Gid:"), ["65534"; 4]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
}

#[test]
fn the_capabilities_that_the_service_keeps_are_enough() {
    let ground = Ground::new("caps");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/persona@.service");
    let unit = fs::read_to_string(unit).unwrap();
    let kept = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept: Vec<String> =
        kept.split(' ').map(|name| format!("+{}", name.to_lowercase().replace("cap_", ""))).collect();
    let bounding = format!("--bounding-set=-all,{}", kept.join(","));
    let mut command = ground.inside(&["setpriv", &bounding, "--no-new-privs", PERSONA, "up", "--config", "own.json"]);
    let (status, _, words) = output(command.env("PERSONA_RUN_DIR", ground.run_dir()));
    assert_eq!(status, Some(0), "{words}");
    assert!(ground.ping());
}

#[test]
fn in_the_foreground_ctrl_c_stops_in_order() {
    let ground = Ground::new("front");
    let mut up = ground.persona(&["up", "--foreground", "--config", "own.json"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("packets", || ground.ping());
    assert_eq!(ground.keeper(), up.id() as i32, "`ip netns exec` becomes the command");
    kill(up.id() as i32, nix::sys::signal::Signal::SIGINT);
    assert!(wait_bounded(&mut up).success());
    ground.assert_nothing_left();
}

#[test]
fn a_private_engine_lives_as_long_as_its_program() {
    let ground = Ground::new("private");
    let run = |script: &str| output(&mut ground.persona(&["run", "--config", "own.json", "--", "sh", "-c", script]));
    // While the program runs there is an engine of its own.
    let (status, out, words) = run("echo $PERSONA_NAME; ls $PERSONA_RUN_DIR; exit 7");
    assert_eq!(status, Some(7), "{words}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1] && lines[0].starts_with("run-"), "{out}");
    let left: Vec<_> = fs::read_dir(ground.run_dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!ground.has_xdp());
}

#[test]
fn run_passes_signals_on_and_ends_as_the_program_did() {
    use std::os::unix::process::ExitStatusExt;
    let ground = Ground::new("signal");
    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut run = ground.persona(&["run", "--config", "own.json", "--", "sh", "-c", script]);
    let mut run = run.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(run.id() as i32, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(wait_bounded(&mut run).code(), Some(9));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!(rest, "got it\n");

    let mut run = ground.persona(&["run", "--config", "own.json", "--", "sh", "-c", "kill -USR1 $$"]).spawn().unwrap();
    assert_eq!(wait_bounded(&mut run).signal(), Some(libc::SIGUSR1));
    ground.assert_nothing_left();
}

#[test]
fn what_stands_in_the_way_at_start_is_one_sentence() {
    let ground = Ground::new("refuse");
    let with = |interface: &str| format!(r#"{{"interfaces": [{{{interface}, "ip": "10.66.0.2", "masklen": 24}}]}}"#);
    let one_line = |sentence: &str| assert_eq!(sentence.lines().count(), 1, "{sentence}");

    let sentence = ground.refused(&with(r#""type": "xdp", "param": "veth9""#));
    assert!(sentence.contains("interface veth9 does not exist"), "{sentence}");
    one_line(&sentence);

    let sentence = ground.refused(&with(r#""type": "macvtap", "param": "/dev/tap987654""#));
    assert!(sentence.contains("/dev/tap987654"), "{sentence}");
    one_line(&sentence);

    succeed(&["ip", "-n", &ground.ours, "link", "set", "veth0", "down"]);
    let sentence = ground.refused(CONFIG);
    assert!(sentence.contains("interface veth0 is down"), "{sentence}");
    one_line(&sentence);
    succeed(&["ip", "-n", &ground.ours, "link", "set", "veth0", "up"]);

    succeed(&["ip", "-n", &ground.ours, "address", "add", "10.66.0.2/24", "dev", "veth0"]);
    let sentence = ground.refused(CONFIG);
    assert!(sentence.contains("10.66.0.2 is an address of the host"), "{sentence}");
    one_line(&sentence);
}

#[test]
fn an_interface_has_one_engine_whatever_its_port_and_address() {
    let ground = Ground::new("taken");
    let one = |kind: &str, param: &str, ip: &str| {
        format!(
            r#"{{"interfaces": [{{"type": "{kind}", "param": "{param}", "ip": "{ip}", "masklen": 24}}], "linger_ms": 0}}"#
        )
    };
    succeed(&["ip", "-n", &ground.ours, "link", "add", "macvtap0", "link", "veth0", "type", "macvtap"]);
    let index = succeed(&["ip", "netns", "exec", &ground.ours, "cat", "/sys/class/net/macvtap0/ifindex"]);
    let device = ground.dir.path().join(format!("tap{}", index.trim()));
    let number = succeed(&[
        "ip",
        "netns",
        "exec",
        &ground.ours,
        "sh",
        "-c",
        &format!("cat /sys/class/net/macvtap0/tap{}/dev", index.trim()),
    ]);
    let (major, minor) = number.trim().split_once(':').unwrap();
    succeed(&["mknod", device.to_str().unwrap(), "c", major, minor]);
    succeed(&["ip", "-n", &ground.ours, "link", "set", "macvtap0", "up"]);
    let device = device.to_str().unwrap();
    for (first, second) in [
        (("packet", "veth0", OURS), ("packet", "veth0", OURS)),
        (("packet", "veth0", OURS), ("packet", "veth0", "10.66.0.3")),
        (("packet", "veth0", OURS), ("xdp", "veth0", OURS)),
        (("xdp", "veth0", OURS), ("packet", "veth0", OURS)),
        (("xdp", "veth0", OURS), ("auto", "veth0", OURS)),
        (("xdp", "veth0", OURS), ("xdp", "veth0", OURS)),
        (("tap", "tap7", OURS), ("tap", "tap7", OURS)),
        (("macvtap", device, OURS), ("macvtap", device, OURS)),
    ] {
        for (name, (kind, param, ip)) in [("first", first), ("second", second)] {
            ground.write(&format!("{name}.json"), &one(kind, param, ip));
        }
        let up = |name: &str| output(&mut ground.persona(&["up", "--name", name, "--config", &format!("{name}.json")]));
        let (status, _, words) = up("first");
        assert_eq!(status, Some(0), "{first:?}: {words}");
        let (status, _, sentence) = up("second");
        assert_eq!(status, Some(1), "{first:?} and {second:?}: {sentence}");
        let (expected, param) = ("the engine `first` has it", second.1);
        assert!(sentence.contains(&format!("interface {param} cannot be used: {expected}")), "{sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        assert!(!ground.run_dir().join("second").exists());
        if first.0 == "xdp" {
            // The peer may still be giving up on the address since the engine before.
            wait_for("packets of the first", || ground.ping());
        }
        let (status, _, words) = output(&mut ground.persona(&["down", "--name", "first"]));
        assert_eq!(status, Some(0), "{words}");
        // And it is free again.
        let (status, _, words) = up("second");
        assert_eq!(status, Some(0), "{second:?} alone: {words}");
        let (status, _, words) = output(&mut ground.persona(&["down", "--name", "second"]));
        assert_eq!(status, Some(0), "{words}");
    }
}

#[test]
fn both_engines_of_a_shared_address_are_not_started() {
    let ground = Ground::new("both");
    succeed(&["ip", "-n", &ground.ours, "address", "add", "10.66.0.2/24", "dev", "veth0"]);
    for name in ["first.json", "second.json"] {
        ground.write(name, r#"{"interfaces": [{"type": "packet", "param": "veth0", "address": "shared"}]}"#);
    }
    let up = |name: &str| output(&mut ground.persona(&["up", "--name", name, "--config", &format!("{name}.json")]));
    let (status, _, words) = up("first");
    assert_eq!(status, Some(0), "{words}");
    let (status, _, sentence) = up("second");
    assert_eq!(status, Some(1), "{sentence}");
    assert!(sentence.contains("interface veth0 cannot be used: the engine `first` has it"), "{sentence}");
    let (status, _, words) = output(&mut ground.persona(&["down", "--name", "first"]));
    assert_eq!(status, Some(0), "{words}");
}
