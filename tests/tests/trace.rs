//! `persona trace`: a connection over an emulated link is followed from outside, as text, JSON and plot; and what cannot be
//! followed is said in one sentence.

use persona_tests::topology::PEER_ADDRESS;
use persona_tests::{Conditions, Emulator, Engine, Link, Running, Side, Topology, binary, wait_until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SEED: u64 = 20_261_125;
const PORT: u16 = 5001;
/// Losses in millionths: enough for every kind of repair within a few megabytes.
const CONDITIONS: &str = "rate=20m,delay=10ms,queue=60000,loss=15000";
const BYTES: &str = "5000000";

struct Ground {
    topology: Topology,
    engine: Engine,
    _emulator: Emulator,
}

fn ground() -> Ground {
    let topology = Topology::emulated(Link::default()).unwrap();
    let conditions = Conditions::parse(CONDITIONS).unwrap();
    println!("seed {SEED}");
    let emulator = Emulator::start(&topology, &conditions, &conditions, SEED, Duration::from_secs(120)).unwrap();
    let engine = Engine::start(&topology, "packet").unwrap();
    Ground { topology, engine, _emulator: emulator }
}

impl Ground {
    /// A transfer from the program under Persona to the peer, under way; both ends' names.
    fn transfer(&self) -> ([Running; 2], [String; 2]) {
        let (program, address) = (binary("transfer").display().to_string(), format!("{PEER_ADDRESS}:{PORT}"));
        let server = self.topology.spawn(Side::Peer, &[&program, "listen", "both", BYTES, &address]).unwrap();
        self.topology.wait_for_peer_listener(PORT).unwrap();
        let client =
            self.topology.spawn(Side::Persona(&self.engine), &[&program, "connect", "both", BYTES, &address]).unwrap();
        let mut ends = None;
        wait_until(|| {
            let sockets = self.engine.json(&["sockets"]).unwrap();
            let found = sockets.as_array().unwrap().iter().find(|socket| socket["state"] == "ESTAB").cloned();
            ends = found.map(|socket| ["local", "remote"].map(|end| socket[end].as_str().unwrap().to_owned()));
            ends.is_some()
        });
        ([server, client], ends.unwrap())
    }

    fn trace(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine.persona(&["trace", "--name", &self.engine.name]);
        command.args(arguments);
        command
    }

    /// The sentence with which a trace is refused.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.trace(arguments).output().unwrap();
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        sentence
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn kinds(lines: &[Value]) -> std::collections::BTreeSet<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[test]
fn a_lossy_transfer_is_explained_to_its_end_and_drawn() {
    let ground = ground();
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("live.svg");
    let ([server, client], [local, remote]) = ground.transfer();
    let trace = ground.trace(&[&local, "--json", "--plot", plot.to_str().unwrap()]).output().unwrap();
    for end in [client, server] {
        let finished = end.finish(60).unwrap();
        assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    }
    assert!(trace.status.success(), "{}", String::from_utf8_lossy(&trace.stderr));
    let text = String::from_utf8(trace.stdout).unwrap();
    let events = lines(&text);
    assert_eq!((&events[0]["event"], &events[0]["local"]), (&"begin".into(), &local.as_str().into()));
    assert_eq!(events[0]["remote"], remote.as_str());
    assert_eq!(events.last().unwrap()["event"], "ended", "it ends with the connection");
    let seen = kinds(&events);
    for kind in ["sent", "received", "sack", "lost", "window", "rtt", "delivered", "recovery", "reduction", "count"] {
        assert!(seen.contains(kind), "no {kind} in {seen:?}");
    }
    for kind in ["armed", "fired", "state"] {
        assert!(seen.contains(kind), "no {kind} in {seen:?}");
    }
    assert!(!seen.contains("dropped"), "the reader kept up");
    let repaired = events.iter().any(|line| line["event"] == "sent" && line["why"] == "rack");
    assert!(repaired, "RACK found losses");
    // Time does not run backwards, and sequence numbers are those of the transfer.
    assert!(events.windows(2).all(|two| two[0]["t"].as_u64() <= two[1]["t"].as_u64()));
    let after = |line: &Value| Some(line["seq"].as_u64()? + line["len"].as_u64().filter(|&len| len > 0)?);
    let most = events.iter().filter_map(after).max().unwrap();
    assert_eq!(most, BYTES.parse::<u64>().unwrap() + 1, "the first byte has the number 1");

    let file = directory.path().join("saved.jsonl");
    std::fs::write(&file, &text).unwrap();
    let again = directory.path().join("again.svg");
    let drawn = Command::new(binary("persona"))
        .args(["trace", "--from", file.to_str().unwrap(), "--plot", again.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(drawn.status.success() && drawn.stdout.is_empty(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let [live, again] = [plot, again].map(|path| std::fs::read_to_string(path).unwrap());
    assert_eq!(live, again, "a saved trace gives the same picture, without an engine");
    for words in ["acknowledged", "receive window", "SACK", "again: RACK", "cwnd", "in flight", "smoothed", "recovery"]
    {
        assert!(live.contains(words), "no {words} in the plot");
    }
}

#[test]
fn a_trace_ends_when_it_is_told_to_and_the_connection_goes_on() {
    let ground = ground();
    let ([server, client], [local, remote]) = ground.transfer();
    let counted = ground.trace(&[&local, &remote, "--count", "50"]).output().unwrap();
    assert!(counted.status.success());
    let text = String::from_utf8(counted.stdout).unwrap();
    assert_eq!(text.lines().count(), 51, "the beginning and fifty events: {text}");
    assert!(text.lines().next().unwrap().contains(&format!("begin {local} > {remote} ESTAB")), "{text}");
    let timed = ground.trace(&[&remote, "--seconds", "1"]).output().unwrap();
    assert!(timed.status.success(), "one trace after another: {}", String::from_utf8_lossy(&timed.stderr));
    let mut interrupted = ground.trace(&[&local]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(interrupted.stdout.as_mut().unwrap(), &mut first).unwrap();
    let twice = ground.refusal(&[&local]);
    assert!(twice.contains("is being traced already: end that trace first"), "{twice}");
    let pid = nix::unistd::Pid::from_raw(interrupted.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = interrupted.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.ends_with(b"\n"), "whole lines");
    for end in [client, server] {
        let finished = end.finish(60).unwrap();
        assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    }
    // Without a process, the connection may still be there for a while: its trace then ends with it.
    wait_until(|| !ground.trace(&[&local, &remote]).output().unwrap().status.success());
    let gone = ground.refusal(&[&local, &remote]);
    assert!(gone.contains(&format!("there is no connection from {local} to {remote}")), "{gone}");
    let gone = ground.refusal(&[&local]);
    assert!(gone.contains(&format!("no connection has {local} at an end")), "{gone}");
}

#[test]
fn what_cannot_be_read_or_written_is_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("broken"), "{\"t\":1,\"event\":\"delivered\",\"total\":5}\n{\"t\":2,\"event\":\"dan").unwrap();
    std::fs::write(path("idle"), "{\"t\":1,\"event\":\"delivered\",\"total\":5}\n").unwrap();
    let cases = [
        (vec!["--from".to_owned(), path("none")], "cannot read"),
        (vec!["--from".to_owned(), path("empty")], "is empty"),
        (vec!["--from".to_owned(), path("broken")], "broken, line 2: not written by"),
        (vec!["--from".to_owned(), path("idle"), "--plot".to_owned(), path("plot.svg")], "there is nothing to plot"),
        (vec!["--from".to_owned(), path("idle"), "--plot".to_owned(), path("no/plot.svg")], "cannot write"),
    ];
    for (arguments, words) in cases {
        let output = Command::new(binary("persona")).arg("trace").args(&arguments).output().unwrap();
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{sentence}");
        assert!(sentence.contains(words) && sentence.lines().count() == 1, "{sentence}");
    }
    assert!(!Path::new(&path("plot.svg")).exists(), "no file without a plot");
}
