//! What this host can do for an engine, found by trying: what `persona doctor` prints. Nothing stays changed, and no
//! interface is touched.

mod interface;
mod system;
#[cfg(test)]
mod tests;

pub use interface::interface;
pub use system::{Kernel, host};

use serde::Serialize;
use std::fmt;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Good,
    /// It works, with less than there could be.
    Limited,
    /// Something does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// "kernel", "AF_XDP sockets"...
    pub subject: String,
    pub verdict: Verdict,
    /// What was found, and what follows from it.
    pub found: String,
    /// How to mend it, where it can be.
    pub mend: Option<String>,
}

impl Finding {
    fn good(subject: &str, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Good, found: found.into(), mend: None }
    }

    fn limited(subject: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::bad(Verdict::Limited, subject, found.into(), mend.into())
    }

    fn missing(subject: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::bad(Verdict::Missing, subject, found.into(), mend.into())
    }

    fn bad(verdict: Verdict, subject: &str, found: String, mend: String) -> Self {
        Self { subject: subject.into(), verdict, found, mend: Some(mend).filter(|mend| !mend.is_empty()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Limited => "limited",
            Self::Missing => "missing",
        })
    }
}

/// The worst of them; good when there are none.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good)
}
