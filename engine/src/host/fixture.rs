//! Namespaces for tests: a thread gets a network of its own, which goes with it.

use std::process::Command;

/// Runs `test` in a network namespace of its own with a veth pair `us` and `peer`, both up. Needs root.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("link add us address 02:00:00:00:00:02 type veth peer name peer address 02:00:00:00:00:01");
        ip("link set us up");
        ip("link set peer up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    run(&format!("ip {arguments}"));
}

/// Runs a command (words without quotes) and returns what it printed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether `holds` within a few seconds. A descriptor that we closed may be open a moment longer in a child that another
/// test has forked and that has not yet called exec.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    (0..500).any(|attempt| {
        if attempt != 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        holds()
    })
}
