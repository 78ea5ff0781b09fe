//! For tests that fork: a process in which nothing else runs.
//!
//! A child gets the locks of all threads of its parent, held or not, and the threads of other tests hold some at any
//! moment. Here as in life, only a process with one thread forks.

use std::process::{Command, Stdio};

/// Set in the process of the test's own.
const MARK: &str = "PERSONA_TEST_ALONE";

/// Runs the calling test once more in a process of its own. `true` where that was waited for: there is nothing left to do.
///
/// # Panics
///
/// When the test failed there; what it said is on standard error.
#[must_use]
pub fn done_elsewhere() -> bool {
    let thread = std::thread::current();
    // The harness names its threads after their tests; it runs the only test in hand on the main thread.
    let test = thread.name().filter(|&name| name != "main");
    let (Some(test), None) = (test, std::env::var_os(MARK)) else { return false };
    let program = std::env::current_exe().expect("a test knows its program");
    let arguments = ["--exact", test, "--test-threads=1", "--nocapture", "--quiet"];
    // Its summary would be counted as one more test.
    let child = Command::new(program).args(arguments).env(MARK, test).stdout(Stdio::null()).status();
    let status = child.expect("the test's program starts");
    assert!(status.success(), "{test}, alone in a process: {status}");
    true
}
