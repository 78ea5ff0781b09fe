//! The `persona` command as scripts see it: exit status, sentences, and that a refusal leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PERSONA: &str = env!("CARGO_BIN_EXE_persona");

/// A command in an environment of its own: no engine is up, no configuration is named.
fn persona(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PERSONA);
    command.args(arguments).current_dir(dir).env("PERSONA_RUN_DIR", dir.join("run"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LKL_HIJACK_") || name == "PERSONA_NAME") {
        command.env_remove(name);
    }
    // Where no library was built, any file will do: these programs make no socket.
    let library = dir.join("libpersona.so");
    if !library.exists() {
        let built = Command::new("cc").args(["-shared", "-o"]).arg(&library).args(["-x", "c", "/dev/null"]).status();
        assert!(built.expect("cc runs").success());
    }
    command.env("PERSONA_LIBRARY", &library);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").canonicalize().unwrap()
}

#[test]
fn every_example_configuration_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let mut checked = Vec::new();
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let (status, out, warnings) = run(&mut persona(dir.path(), &["check", path.to_str().unwrap()]));
        assert_eq!(status, Some(0), "{warnings}");
        assert!(out.starts_with(&format!("{}: a valid configuration\n", path.display())), "{out}");
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Only LKL's example has keys without effect here.
        assert_eq!(warnings.lines().count(), if name == "talk.json" { 4 } else { 0 }, "{name}: {warnings}");
        checked.push(name);
    }
    checked.sort();
    assert_eq!(checked, ["own.json", "shared.json", "talk.json", "tap.json"]);
}

#[test]
fn check_prints_the_configuration_as_understood_and_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let own = examples().join("own.json");
    let (status, out, _) = run(&mut persona(dir.path(), &["check", "--json", own.to_str().unwrap()]));
    assert_eq!(status, Some(0));
    let loaded: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(loaded["config"]["interfaces"][0]["param"], "veth0");
    let (status, out, _) = run(&mut persona(dir.path(), &["check", "--schema"]));
    assert_eq!(status, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(schema["properties"]["interfaces"].is_object());
}

#[test]
fn an_invalid_configuration_is_refused_with_a_line_for_each_problem() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.json"), r#"{"gatway": "10.0.0.1", "interface": []}"#).unwrap();
    for command in [&["check", "bad.json"][..], &["up", "--config", "bad.json"]] {
        let (status, _, sentences) = run(&mut persona(dir.path(), command));
        assert_eq!(status, Some(1));
        assert_eq!(
            sentences,
            "persona: bad.json: gatway: unknown key `gatway`; the nearest known one is `gateway`\n\
             persona: bad.json: interface: unknown key `interface`; the nearest known one is `interfaces`\n"
        );
    }
    assert!(!dir.path().join("run").exists(), "nothing was started");
}

#[test]
fn the_file_that_the_environment_names_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, sentence) = run(persona(dir.path(), &["check"]).env("LKL_HIJACK_CONFIG_FILE", "elsewhere.json"));
    assert_eq!(status, Some(1));
    assert!(sentence.starts_with("persona: elsewhere.json: cannot be read:"), "{sentence}");
    fs::copy(examples().join("own.json"), dir.path().join("lkl-hijack.json")).unwrap();
    let (status, out, _) = run(&mut persona(dir.path(), &["check"]));
    assert_eq!(status, Some(0), "the file that LKL reads by itself");
    assert!(out.starts_with("lkl-hijack.json: a valid configuration"), "{out}");
}

#[test]
fn without_an_engine_each_question_has_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let questions: [&[&str]; 6] = [
        &["sockets"],
        &["sysctl", "-a"],
        &["stats", "--json"],
        &["filter", "show"],
        &["info"],
        &["capture", "-w", "f"],
    ];
    for question in questions {
        let (status, out, sentence) = run(&mut persona(dir.path(), question));
        assert_eq!(status, Some(1), "{question:?}");
        assert_eq!(sentence, "persona: no engine named `default` is up: start one with `persona up`\n", "{question:?}");
        assert_eq!(out, "");
    }
    let (status, _, sentence) = run(&mut persona(dir.path(), &["down", "--name", "web"]));
    assert_eq!((status, sentence.as_str()), (Some(1), "persona: no engine named `web` is up\n"));
}

#[test]
fn run_tells_its_own_failures_from_the_program_s() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, sentence) = run(&mut persona(dir.path(), &["run", "--", "true"]));
    assert_eq!(status, Some(125));
    assert!(sentence.contains("no engine named `default` is up: start one with `persona up`, or give --config"));
    let (status, _, sentence) = run(&mut persona(dir.path(), &["run", "no-such-program"]));
    assert_eq!((status, sentence.as_str()), (Some(127), "persona: no-such-program: not found\n"));
    let (status, _, sentence) = run(&mut persona(dir.path(), &["run", "/etc/passwd"]));
    assert_eq!((status, sentence.as_str()), (Some(126), "persona: /etc/passwd: cannot be executed\n"));
    let (status, _, _) = run(&mut persona(dir.path(), &["run"]));
    assert_eq!(status, Some(2), "wrong usage");
}

#[test]
fn a_program_that_the_library_cannot_enter_is_named_and_refused_when_strict() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("main.c");
    fs::write(&source, "int main(void) { return 3; }\n").unwrap();
    let program = dir.path().join("static");
    let built = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&source).status().expect("cc runs");
    assert!(built.success());
    let name = program.to_str().unwrap();
    let (status, _, sentence) = run(&mut persona(dir.path(), &["run", "--strict", name]));
    assert_eq!(status, Some(125));
    let expected =
        format!("persona: {name} is statically linked, so the library cannot enter it; refused because of --strict\n");
    assert_eq!(sentence, expected);
    let (_, _, sentence) = run(&mut persona(dir.path(), &["run", name]));
    assert!(sentence.starts_with(&format!("persona: warning: {name} is statically linked")), "{sentence}");
}

#[test]
fn a_name_that_leaves_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, sentence) = run(&mut persona(dir.path(), &["down", "--name", "../x"]));
    assert_eq!(status, Some(1));
    assert!(sentence.starts_with("persona: `../x` cannot be an engine's name"), "{sentence}");
}

#[test]
fn every_command_has_help() {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, _) = run(&mut persona(dir.path(), &["--help"]));
    assert_eq!(status, Some(0));
    let commands: Vec<&str> = out
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for expected in ["up", "down", "run", "check", "sockets", "stats", "filter", "capture", "doctor"] {
        assert!(commands.contains(&expected), "{expected} is missing in {commands:?}");
    }
    for command in commands.into_iter().filter(|command| *command != "help") {
        let (status, out, _) = run(&mut persona(dir.path(), &[command, "--help"]));
        assert_eq!(status, Some(0), "{command}");
        assert!(out.contains("Usage: persona"), "{out}");
    }
}

#[test]
fn the_service_runs_a_command_that_exists_and_passes_systemd_s_own_check() {
    let dir = tempfile::tempdir().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/persona@.service");
    let text = fs::read_to_string(&unit).unwrap();
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/persona ")).expect("ExecStart");
    let arguments: Vec<String> = start.split(' ').map(|word| word.replace("%i", "no-such-engine")).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (status, _, sentence) = run(&mut persona(dir.path(), &arguments));
    assert_eq!(status, Some(1), "the arguments are understood, the file is not there: {sentence}");
    assert!(sentence.starts_with("persona: /etc/persona/no-such-engine.json: cannot be read"), "{sentence}");

    // The check wants the program to be there: it gets a root directory in which it is.
    let root = dir.path().join("root");
    for path in ["usr/bin", "etc/systemd/system"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join("usr/bin/persona"), "").unwrap();
    fs::set_permissions(root.join("usr/bin/persona"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(&unit, root.join("etc/systemd/system/persona@.service")).unwrap();
    // The targets that every unit refers to.
    for target in ["sysinit", "basic", "shutdown", "network", "multi-user"] {
        fs::write(root.join(format!("etc/systemd/system/{target}.target")), "[Unit]\nDescription=x\n").unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no", "--root"])
        .arg(&root)
        .arg("persona@test.service")
        .output()
        .expect("systemd-analyze runs: it is in deploy/packages.txt");
    let words = String::from_utf8_lossy(&output.stderr);
    let about_us: Vec<&str> = words.lines().filter(|line| line.contains("persona@")).collect();
    assert!(output.status.success() && about_us.is_empty(), "{words}");
}

#[test]
fn doctor_reports_on_the_host_and_on_interfaces() {
    let dir = tempfile::tempdir().unwrap();
    let (_, out, _) = run(&mut persona(dir.path(), &["doctor", "--json", "lo"]));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let about: Vec<&str> = report.as_array().unwrap().iter().map(|part| part["about"].as_str().unwrap()).collect();
    assert_eq!(about, ["host", "lo"]);
    let findings = report[0]["findings"].as_array().unwrap();
    let library = findings.iter().find(|finding| finding["subject"] == "library").expect("the library is looked for");
    assert_eq!(library["verdict"], "good");
    let missing = findings.iter().find(|finding| finding["verdict"] == "missing" && finding["mend"].is_null());
    assert!(missing.is_none(), "what is missing can be mended: {missing:?}");
    // Loopback carries no Ethernet frames, which is a reason to fail.
    let (status, _, sentence) = run(&mut persona(dir.path(), &["doctor", "lo"]));
    assert_eq!((status, sentence.as_str()), (Some(1), "persona: something that Persona needs is missing here\n"));
    let (status, _, sentence) = run(&mut persona(dir.path(), &["doctor", "no-such-if"]));
    assert_eq!(status, Some(1));
    assert!(sentence.starts_with("persona: interface no-such-if does not exist"), "{sentence}");
}
