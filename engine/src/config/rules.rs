//! Rules: which sockets the engine serves and which stay with the host.

use super::file::{Protocol, RuleFile, Verdict};
use super::scalar::{Network, PortRange};
use serde::Serialize;
use std::net::SocketAddr;

/// One rule. What is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Pattern: base name, or path where it has a slash; `*` stands for any characters.
    pub program: Option<String>,
    pub local: Option<Network>,
    pub remote: Option<Network>,
    pub port: Option<PortRange>,
    pub protocol: Protocol,
    #[serde(rename = "use")]
    pub verdict: Verdict,
}

/// What a socket is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Path of the program.
    pub program: &'a str,
    /// Known from bind() on.
    pub local: Option<SocketAddr>,
    /// Known from connect() on.
    pub remote: Option<SocketAddr>,
}

impl Rule {
    pub fn matches(&self, question: &Question<'_>) -> bool {
        let base_name = question.program.rsplit('/').next().unwrap_or_default();
        let program = self.program.as_deref().is_none_or(|pattern| {
            let subject = if pattern.contains('/') { question.program } else { base_name };
            matches_pattern(pattern.as_bytes(), subject.as_bytes())
        });
        let within = |network: &Option<Network>, address: Option<SocketAddr>| {
            network.is_none_or(|network| address.is_some_and(|address| network.contains(address.ip())))
        };
        let far_port = question.remote.or(question.local).map(|address| address.port());
        program
            && within(&self.local, question.local)
            && within(&self.remote, question.remote)
            && self.port.is_none_or(|range| far_port.is_some_and(|port| range.contains(port)))
    }
}

/// Who serves the socket: the first rule that matches decides.
pub fn verdict(rules: &[Rule], question: &Question<'_>) -> Verdict {
    rules.iter().find(|rule| rule.matches(question)).map_or(Verdict::Engine, |rule| rule.verdict)
}

/// `*` matches any run of characters, everything else itself. Linear: only the last star is ever reconsidered.
fn matches_pattern(pattern: &[u8], subject: &[u8]) -> bool {
    let (mut in_pattern, mut in_subject) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while in_subject < subject.len() {
        if pattern.get(in_pattern) == Some(&b'*') {
            retry = Some((in_pattern, in_subject));
            in_pattern += 1;
        } else if pattern.get(in_pattern) == Some(&subject[in_subject]) {
            in_pattern += 1;
            in_subject += 1;
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            in_pattern = star + 1;
            in_subject = taken + 1;
        } else {
            return false;
        }
    }
    pattern[in_pattern..].iter().all(|&byte| byte == b'*')
}

pub(super) fn resolve_rule(file: RuleFile) -> Rule {
    Rule {
        program: file.program.map(|program| program.0),
        local: file.local.map(|network| network.0),
        remote: file.remote.map(|network| network.0),
        port: file.port.map(|range| range.0),
        protocol: file.protocol.map_or(Protocol::default(), |protocol| protocol.0),
        verdict: file.verdict.map_or(Verdict::default(), |verdict| verdict.0),
    }
}
