//! The library under real programs: small ones in C and Python, preloaded, against the fake engine.

mod fake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fake::{FakeEngine, Settings, library};
use persona_channel::attach::reason;
use persona_channel::policy::{Action, Rule};

/// Longest that a program may run; each of them takes well under a second when nothing hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compiles a program of `c/` once for all tests.
fn program(name: &str) -> PathBuf {
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(binary) = compiled.get(name) {
        return binary.clone();
    }
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(format!("{name}.c"));
    let status = Command::new("cc")
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-D_GNU_SOURCE", "-o"])
        .arg(&binary)
        .arg(&source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{} compiles", source.display());
    compiled.insert(name.to_owned(), binary.clone());
    binary
}

fn preloaded(engine: &FakeEngine, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .env("LD_PRELOAD", library())
        .env("PERSONA_RUN_DIR", &engine.directory)
        .env_remove("PERSONA_NAME")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs to the end, or fails the test with what the program said.
fn finish(command: &mut Command) -> Output {
    let started = {
        let _alone = fake::descriptors::HANDING_OVER.write();
        command.spawn()
    };
    let child = started.expect("the program starts");
    let id = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("the program's output"),
        Err(_) => {
            let stacks = Command::new("gdb")
                .args(["-p", &id.to_string(), "-batch", "-ex", "thread apply all bt"])
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default();
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id as i32), nix::sys::signal::Signal::SIGKILL);
            let said = receiver.recv_timeout(Duration::from_secs(5));
            panic!("{command:?} hangs\n{said:?}\n{stacks}");
        }
    }
}

fn succeed(command: &mut Command) -> String {
    let output = finish(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\nstdout: {out}\nstderr: {err}", output.status);
    out.into_owned()
}

/// Runs one case of a C program against an engine of its own.
fn case(binary: &str, case: &str, settings: Settings) {
    let engine = FakeEngine::start(&format!("{binary}-{case}"), settings);
    succeed(preloaded(&engine, &program(binary)).arg(case));
}

macro_rules! cases {
    ($binary:literal: $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                case($binary, stringify!($name), Settings::default());
            }
        )*
    };
}

cases!("basic":
    socket_takes_the_lowest_number,
    connect_and_transfer,
    connect_refused,
    nonblocking_connect,
    socket_options,
    names,
    half_close,
    broken_pipe,
    receive_flags,
    vectors,
    messages,
    file_flags,
    duplicates,
    an_address_is_free_once_its_listener_is_gone,
    bytes_in_flight,
    timeouts,
    bad_arguments,
    sendfile_moves_a_file,
    splice_to_and_from_pipes,
);

cases!("waiting":
    poll_both_worlds,
    select_both_worlds,
    poll_times_out,
    interrupted_by_a_signal,
    restarted_after_a_signal,
    writes_from_a_signal_handler,
    cancelled_while_blocked,
    many_threads,
    output_becomes_possible,
);

cases!("epoll":
    epoll_level,
    epoll_edge,
    epoll_gives_everybody_a_turn,
    epoll_oneshot,
    epoll_both_worlds,
    epoll_nested,
    epoll_add_wakes_a_sleeper,
    epoll_add_wakes_a_sleeper_of_an_empty_set,
    epoll_forgets_closed_sockets,
);

cases!("host":
    descriptors_run_out,
    loopback_stays_on_the_host,
);

cases!("family":
    fork_shares_sockets,
    fork_per_connection,
    accept_in_two_children,
    close_in_the_parent_only,
    fork_with_epoll,
    child_in_a_sandbox,
    closes_every_number,
    stdio_on_a_socket,
    standard_streams,
    formatted_output,
    fork_by_system_call,
    exec_of_a_stranger,
    exec_by_env_of_a_stranger,
    exec_keeps_sockets,
    passed_over_a_socket,
);

#[test]
fn a_large_transfer_in_odd_steps() {
    for step in [1, 777, 16 * 1024, 65_537] {
        let buffers = if step == 1 { 4 * 1024 } else { 64 * 1024 };
        let settings = Settings {
            step: Some(step),
            send_buffer: Some(buffers),
            receive_buffer: Some(buffers),
            ..Settings::default()
        };
        let engine = FakeEngine::start(&format!("odd-{step}"), settings);
        let length = if step == 1 { "20000" } else { "8000000" };
        succeed(preloaded(&engine, &program("basic")).args(["transfer", length]));
    }
}

#[test]
fn a_rule_keeps_a_port_on_the_host() {
    let mut rule = Rule::all(Action::Host);
    (rule.first_port, rule.last_port) = (7777, 7777);
    let engine = FakeEngine::start("policy", Settings { policy: rule.encode().to_vec(), ..Settings::default() });
    succeed(preloaded(&engine, &program("host")).arg("ruled_out"));
    let reasons = engine.reasons();
    assert!(reasons.iter().any(|(code, text)| *code == reason::POLICY && text.ends_with(":7777")), "{reasons:?}");
}

#[test]
fn a_program_with_ipv6_alone_is_told_of() {
    let engine = FakeEngine::start("ipv6", Settings::default());
    succeed(preloaded(&engine, &program("host")).arg("ipv6_alone"));
    // The program did not wait for an answer: the report may still be on its way.
    let reported = || engine.reasons().iter().any(|(code, _)| *code == reason::FAMILY);
    let deadline = Instant::now() + PATIENCE;
    while !reported() {
        assert!(Instant::now() < deadline, "nothing was reported");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_session_without_free_slots_leaves_sockets_to_the_host() {
    let engine = FakeEngine::start("slots", Settings { sockets: Some(8), ..Settings::default() });
    succeed(preloaded(&engine, &program("host")).arg("slots_run_out"));
    assert!(engine.reasons().iter().any(|(code, _)| *code == reason::NO_MEMORY));
}

#[test]
fn without_an_engine_sockets_stay_on_the_host() {
    let mut engine = FakeEngine::start("absent", Settings::default());
    engine.kill();
    let output = finish(preloaded(&engine, &program("host")).arg("loopback_stays_on_the_host"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("no engine at").count(), 1, "{said}");
}

#[test]
fn strict_refuses_what_cannot_be_accelerated() {
    let mut engine = FakeEngine::start("strict", Settings::default());
    let binary = program("host");
    succeed(preloaded(&engine, &binary).env("PERSONA_STRICT", "1").arg("strict_with_engine"));
    engine.kill();
    let output = finish(preloaded(&engine, &binary).env("PERSONA_STRICT", "1").arg("strict_without_engine"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("TCP sockets are refused"), "{said}");
}

#[test]
fn a_refusal_is_told_once() {
    let refuse = Some("only members of the group persona may attach");
    let engine = FakeEngine::start("refusal", Settings { refuse, ..Settings::default() });
    let output = finish(preloaded(&engine, &program("host")).arg("loopback_stays_on_the_host"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let sentence = "only members of the group persona may attach; TCP sockets stay on the host";
    assert_eq!(said.matches(sentence).count(), 1, "{said}");
}

#[test]
fn the_end_of_the_engine_ends_its_sockets() {
    let mut engine = FakeEngine::start("killed", Settings::default());
    let mut command = preloaded(&engine, &program("waiting"));
    command.arg("engine_dies");
    let child = std::thread::spawn(move || succeed(&mut command));
    // The program makes this file once its threads are about to block.
    let ready = engine.directory.join("blocked");
    let begun = std::time::Instant::now();
    while !ready.exists() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    engine.kill();
    child.join().expect("every blocked call ends");
}

#[test]
fn python_sockets_selectors_and_asyncio() {
    let engine = FakeEngine::start("python", Settings::default());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/sockets.py");
    succeed(preloaded(&engine, Path::new("/usr/bin/python3")).arg(script));
}
