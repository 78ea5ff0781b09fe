//! docs/sysctl.md, from the table; a test compares the two.

use super::table::{Entry, Kind, TABLE};
use super::{Tunables, table::ELSEWHERE};
use std::fmt::Write;

const HEAD: &str = "\
# Settings under Linux's names

Made from `engine/src/sysctl/table.rs`; `PERSONA_WRITE_DOCUMENTS=1 cargo test -p persona-engine --lib sysctl` writes it anew.

The configuration's `sysctl` key sets them before start (`\"net.ipv4.tcp_fin_timeout=30;net.ipv4.tcp_sack=0\"`), and `persona sysctl`
while the engine runs, until it ends:

    persona sysctl -a
    persona sysctl net.ipv4.tcp_retries2
    persona sysctl -w net.ipv4.tcp_retries2=8 net.ipv4.tcp_keepalive_time=600

The numbers of the first table hold from the next decision on, also for connections that are there, unless the row says
otherwise. What a socket sets for itself (TCP_KEEPIDLE, IP_TTL, SO_RCVBUF ...) goes first. Of several assignments in one command either
all are made or none. What has no effect is a warning in the configuration and an error of the command, with the reason below; a name that
Linux does not know is an error that names the nearest.

Ranges and defaults are those of Linux 6.18, but for sizes of memory, and ranges that would stop the stack.
";

/// The whole text.
pub fn text() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## With effect\n\n| name | unit | range | default | what it sets |\n|---|---|---|---|---|\n");
    for entry in TABLE.iter().filter(|entry| entry.has_effect()) {
        let (_, default) = Tunables::default().get(entry.name).unwrap_or_default();
        row(&mut text, &[&format!("`{}`", entry.name), entry.unit, &range(entry), &default, entry.note]);
    }
    text.push_str("\n## Without effect\n\n| name | why |\n|---|---|\n");
    for entry in TABLE.iter().filter(|entry| !entry.has_effect()) {
        row(&mut text, &[&format!("`{}`", entry.name), entry.note]);
    }
    text.push_str("\n## Of other parts of Linux\n\n| name | why it has no effect |\n|---|---|\n");
    for (name, why) in ELSEWHERE {
        let rest = if name.ends_with(['.', '_']) { "*" } else { "" };
        row(&mut text, &[&format!("`{name}{rest}`"), why]);
    }
    text
}

fn range(entry: &Entry) -> String {
    match entry.kind {
        Kind::Stack { min, max, .. } => format!("{min} to {max}"),
        Kind::Engine { range } => range.to_owned(),
        Kind::Start { range } => format!("{range}, before start only"),
        Kind::Shown => "shown only".to_owned(),
        Kind::Nothing => String::new(),
    }
}

fn row(text: &mut String, cells: &[&str]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | ").replace("  ", " "));
}
