//! The end-to-end tests' ground: network namespaces joined by a veth pair, an engine in one of them, and processes
//! in either. The tests themselves are in `tests/`; each makes its own topology with unique names and leaves nothing
//! behind, whether it passes, fails or is interrupted.

pub mod attempt;
pub mod emulator;
pub mod engine;
pub mod process;
pub mod ssh;
pub mod topology;

pub use attempt::{Attempt, Lack};
pub use emulator::{Conditions, Emulator};
pub use engine::Engine;
pub use process::{Finished, Running, Side};
pub use ssh::Ssh;
pub use topology::{Link, Topology};

use std::path::PathBuf;

/// The directory of this build's binaries (`persona`, `libpersona.so`, `transfer`).
pub fn binaries() -> PathBuf {
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// One of this build's binaries; the message names the command that makes it.
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` (with the test's profile) first",
        path.display()
    );
    path
}

/// Waits for a condition, 10 s at most.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("not within 10 s");
}
