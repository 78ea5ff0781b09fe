//! Keys of LKL that are known and have no effect here, each with the reason that a user reads.

use super::Problem;
use super::file::{File, InterfaceFile};

/// Bits of `debug` that LKL gives a meaning of their own.
const DEBUG_WAIT_AT_EXIT: u32 = 0x100;
const DEBUG_WAIT_BEFORE_BOOT: u32 = 0x200;

/// Warnings for the global keys. An empty value asks for nothing and is not worth a word.
pub(super) fn global(file: &File) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, reason: String| warnings.push(Problem::new(key, reason));
    let debug = file.debug.as_ref().map_or(0, |debug| debug.0);
    if debug & DEBUG_WAIT_AT_EXIT != 0 {
        warn(
            "debug",
            "bit 0x100 has no effect: a program's exit is never held up; use `persona sockets` while it runs".into(),
        );
    }
    if debug & DEBUG_WAIT_BEFORE_BOOT != 0 {
        warn("debug", "bit 0x200 has no effect: no kernel boots inside the program".into());
    }
    if let Some(cmdline) = non_empty(file.boot_cmdline.as_ref().map(|text| &text.0)) {
        for word in cmdline.split_whitespace() {
            warn("boot_cmdline", format!("`{word}` has no effect: {}", boot_reason(word)));
        }
    }
    if non_empty(file.mount.as_ref().map(|text| &text.0)).is_some() {
        warn("mount", "has no effect: there is no kernel inside the program that could mount anything".into());
    }
    if non_empty(file.dump.as_ref().map(|text| &text.0)).is_some() {
        warn("dump", "has no effect: there are no files of a kernel to print; see `persona stats`".into());
    }
    if file.delay_main.as_ref().is_some_and(|delay| delay.0 != 0) {
        warn(
            "delay_main",
            "has no effect: packets flow before a program starts, so there is nothing to wait for".into(),
        );
    }
    warnings
}

/// Warnings for the keys of one interface.
pub(super) fn interface(path: &str, file: &InterfaceFile) -> Vec<Problem> {
    let mut warnings = Vec::new();
    if non_empty(file.qdisc.as_ref().map(|text| &text.0)).is_some() {
        let reason = "has no effect: there is no queueing discipline between stack and port";
        warnings.push(Problem::new(&format!("{path}.qdisc"), reason));
    }
    for (key, present) in [
        ("ipv6", file.ipv6.is_some()),
        ("masklen6", file.masklen6.is_some()),
        ("ifgateway6", file.ifgateway6.is_some()),
    ] {
        if present {
            warnings.push(Problem::new(&format!("{path}.{key}"), IPV4_ONLY));
        }
    }
    warnings
}

/// Why IPv6 settings wait.
pub(super) const IPV4_ONLY: &str = "has no effect: this release's stack carries IPv4 only, IPv6 stays with the host";

fn boot_reason(word: &str) -> &'static str {
    match word.split('=').next().unwrap_or_default() {
        "mem" => "memory is bounded by the keys connections, send_buffer and receive_buffer",
        "ip" => "addresses come from the keys ip and masklen; this release asks no DHCP server",
        "loglevel" | "quiet" | "debug" => "the key log says what is logged",
        _ => "no kernel boots inside the program",
    }
}

fn non_empty(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}
