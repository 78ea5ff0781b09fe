//! Rules: which sockets the engine serves and which stay with the host.
//!
//! Programs are matched here, when a process attaches; what is left concerns addresses and ports and is compiled to
//! the form that the library walks ([`persona_channel::policy`]).

use super::Problem;
use super::file::{Protocol, RuleFile, Verdict};
use super::scalar::{Network, PortRange};
use persona_channel::policy::{self, Action, Family, Side};
use serde::Serialize;
use std::net::IpAddr;

/// One rule. What is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Pattern: base name, or path where it has a slash; `*` stands for any characters.
    pub program: Option<String>,
    /// At most one of `local` and `remote`.
    pub local: Option<Network>,
    pub remote: Option<Network>,
    pub port: Option<PortRange>,
    pub protocol: Protocol,
    #[serde(rename = "use")]
    pub verdict: Verdict,
}

/// The rules that concern a program, in order, as the library reads them. `name`: what it calls itself; `path`: where its
/// file is, empty where that is unknown.
pub fn policy(rules: &[Rule], name: &str, path: &str) -> Vec<policy::Rule> {
    rules.iter().filter(|rule| rule.concerns(name, path)).map(Rule::compile).collect()
}

impl Rule {
    fn concerns(&self, name: &str, path: &str) -> bool {
        let base_name = path.rsplit('/').next().unwrap_or_default();
        self.program.as_deref().is_none_or(|pattern| {
            let subjects = if pattern.contains('/') { [path, path] } else { [name, base_name] };
            subjects
                .iter()
                .any(|subject| !subject.is_empty() && matches_pattern(pattern.as_bytes(), subject.as_bytes()))
        })
    }

    fn compile(&self) -> policy::Rule {
        let mut compiled = policy::Rule::all(match self.verdict {
            Verdict::Engine => Action::Engine,
            Verdict::Host => Action::Host,
        });
        let (side, network) = match (self.remote, self.local) {
            (Some(remote), _) => (Side::Remote, Some(remote)),
            (None, Some(local)) => (Side::Local, Some(local)),
            (None, None) => (Side::Any, None),
        };
        compiled.side = side;
        if let Some(network) = network {
            compiled.prefix = network.prefix_len;
            match network.address {
                IpAddr::V4(address) => {
                    compiled.family = Family::V4;
                    compiled.address[..4].copy_from_slice(&address.octets());
                }
                IpAddr::V6(address) => {
                    compiled.family = Family::V6;
                    compiled.address = address.octets();
                }
            }
        }
        if let Some(range) = self.port {
            (compiled.first_port, compiled.last_port) = (range.first, range.last);
        }
        compiled
    }
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

pub(super) fn resolve_rules(files: Vec<RuleFile>, problems: &mut Vec<Problem>) -> Vec<Rule> {
    if files.len() > policy::MOST_RULES {
        let reason = format_args!("{} of them: at most {} are possible", files.len(), policy::MOST_RULES);
        problems.push(Problem::new("rules", reason));
    }
    for (index, file) in files.iter().enumerate() {
        if file.verdict.is_none() {
            let reason = "missing: a rule says who serves the socket, engine or host";
            problems.push(Problem::new(&format!("rules[{index}].use"), reason));
        }
        if file.local.is_some() && file.remote.is_some() {
            let reason = "local and remote in one rule: a socket is asked about at bind or at connect; write two rules";
            problems.push(Problem::new(&format!("rules[{index}]"), reason));
        }
    }
    files.into_iter().map(resolve_rule).collect()
}

fn resolve_rule(file: RuleFile) -> Rule {
    Rule {
        program: file.program.map(|program| program.0),
        local: file.local.map(|network| network.0),
        remote: file.remote.map(|network| network.0),
        port: file.port.map(|range| range.0),
        protocol: file.protocol.map_or(Protocol::default(), |protocol| protocol.0),
        verdict: file.verdict.map_or(Verdict::default(), |verdict| verdict.0),
    }
}
