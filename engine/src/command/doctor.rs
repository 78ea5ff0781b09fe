//! `persona doctor`: what this host, and an interface of it, can do for Persona, and how to mend what it cannot.

use super::{library, print_json};
use crate::host::probe::{self, Finding, Verdict};
use anyhow::{Result, bail};
use serde::Serialize;
use std::io::Write;

/// One part of the report.
#[derive(Serialize)]
struct Part {
    /// "host", or an interface's name.
    about: String,
    findings: Vec<Finding>,
}

pub(super) fn doctor(interfaces: &[String], json: bool) -> Result<()> {
    let mut host = probe::host();
    host.push(preload_library());
    let mut parts = vec![Part { about: "host".to_owned(), findings: host }];
    for interface in interfaces {
        parts.push(Part { about: interface.clone(), findings: probe::interface(interface)? });
    }
    if json {
        print_json(&parts)?;
    } else {
        let mut out = std::io::stdout().lock();
        for line in parts.iter().flat_map(render) {
            writeln!(out, "{line}")?;
        }
    }
    let worst = parts.iter().map(|part| probe::worst(&part.findings)).max();
    if worst == Some(Verdict::Missing) {
        bail!("something that Persona needs is missing here");
    }
    Ok(())
}

fn preload_library() -> Finding {
    let subject = "library".to_owned();
    match library::find() {
        Ok(path) => Finding { subject, verdict: Verdict::Good, found: path.display().to_string(), mend: None },
        Err(error) => Finding { subject, verdict: Verdict::Missing, found: error.to_string(), mend: None },
    }
}

fn render(part: &Part) -> Vec<String> {
    let width = part.findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut lines = vec![format!("{}:", part.about)];
    for finding in &part.findings {
        let Finding { subject, verdict, found, mend } = finding;
        lines.push(format!("  {verdict:<8}{subject:<width$}  {found}"));
        if let Some(mend) = mend {
            lines.push(format!("  {:<8}{:<width$}  mend: {mend}", "", ""));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_what_mends_them() {
        let finding = |subject: &str, verdict, mend: Option<&str>| Finding {
            subject: subject.into(),
            verdict,
            found: "found".into(),
            mend: mend.map(Into::into),
        };
        let part = Part {
            about: "host".into(),
            findings: vec![
                finding("kernel", Verdict::Good, None),
                finding("BTF", Verdict::Missing, Some("another kernel")),
            ],
        };
        let expected =
            ["host:", "  good    kernel  found", "  missing BTF     found", "                  mend: another kernel"];
        assert_eq!(render(&part), expected);
    }
}
