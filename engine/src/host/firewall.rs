//! Rules of the host's firewall that the diversion bypasses: what is diverted is seen by neither nftables nor iptables,
//! and what we send leaves below them. `persona up` and `persona doctor` name those rules.

use serde_json::Value;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

/// A chain on a hook of the kernel's packet path, with rules or a policy that act on traffic of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family ("ip", "inet"...; "iptables" and "ip6tables" for the legacy kind).
    pub family: String,
    pub table: String,
    pub name: String,
    /// "input", "prerouting"...
    pub hook: String,
    pub rules: usize,
    /// Drops what no rule accepts.
    pub drops: bool,
}

/// What is bypassed, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypassed {
    pub chains: Vec<Chain>,
    /// Why there may be more.
    pub unknown: Vec<String>,
}

/// Hooks that traffic to and from this host passes; what is forwarded is never ours.
const HOOKS: [&str; 6] = ["ingress", "prerouting", "input", "output", "postrouting", "egress"];

/// Reads the rules of this network namespace that would concern traffic over `interface`. Needs CAP_NET_ADMIN.
pub fn bypassed(interface: &str) -> Bypassed {
    let mut bypassed = Bypassed::default();
    match run("nft", &["-j", "list", "ruleset"]) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(ruleset) => {
                let mut chains = nftables(&ruleset, interface);
                chains.retain(|chain| chain.family != "netdev" || hangs_on(chain, interface));
                bypassed.chains.extend(chains);
            }
            Err(error) => bypassed.unknown.push(format!("the answer of nft is not understood: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bypassed.unknown.push("the program nft is not installed, so nftables' rules are not known".into());
        }
        Err(error) => bypassed.unknown.push(format!("nftables' rules cannot be read: {error}")),
    }
    for (tables, family, program) in [
        ("/proc/thread-self/net/ip_tables_names", "iptables", "iptables-legacy-save"),
        ("/proc/thread-self/net/ip6_tables_names", "ip6tables", "ip6tables-legacy-save"),
    ] {
        // The file is there only where the legacy kind is in use, and names the tables that were touched.
        let names = fs::read_to_string(tables).unwrap_or_default();
        if names.trim().is_empty() {
            continue;
        }
        match run(program, &[]) {
            Ok(text) => bypassed.chains.extend(iptables(family, &text)),
            Err(error) => bypassed.unknown.push(format!("{program} cannot say what {family}' rules are: {error}")),
        }
    }
    bypassed
}

impl Bypassed {
    /// One sentence for the user; `None` when nothing is bypassed.
    pub fn sentence(&self, interface: &str) -> Option<String> {
        if self.chains.is_empty() {
            return None;
        }
        let chains: Vec<String> = self.chains.iter().map(Chain::to_string).collect();
        Some(format!("Persona's connections over {interface} bypass the host's firewall: {}", chains.join("; ")))
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, table, name, hook, rules, drops } = self;
        let plural = if *rules == 1 { "" } else { "s" };
        let policy = if *drops { ", policy drop" } else { "" };
        write!(f, "{family} {table} {name} ({hook}, {rules} rule{plural}{policy})")
    }
}

/// From `nft -j list ruleset`.
fn nftables(ruleset: &Value, interface: &str) -> Vec<Chain> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut chains: Vec<Chain> = objects
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| HOOKS.contains(&text(chain, "hook").as_str()) && concerns(&chain["dev"], interface))
        .map(|chain| Chain {
            family: text(chain, "family"),
            table: text(chain, "table"),
            name: text(chain, "name"),
            hook: text(chain, "hook"),
            rules: 0,
            drops: text(chain, "policy") == "drop",
        })
        .collect();
    for rule in objects.iter().map(|object| &object["rule"]).filter(|rule| rule.is_object()) {
        let of = (text(rule, "family"), text(rule, "table"), text(rule, "chain"));
        let same = |chain: &&mut Chain| (&chain.family, &chain.table, &chain.name) == (&of.0, &of.1, &of.2);
        if let Some(chain) = chains.iter_mut().find(same) {
            chain.rules += 1;
        }
    }
    chains.retain(|chain| chain.rules > 0 || chain.drops);
    chains
}

/// Whether a netdev chain hangs on the interface: nft before 1.0.7 leaves the devices out of its JSON. One that cannot be
/// asked may.
fn hangs_on(chain: &Chain, interface: &str) -> bool {
    let Ok(text) = run("nft", &["list", "chain", &chain.family, &chain.table, &chain.name]) else { return true };
    let declared = text.lines().find(|line| line.contains(" hook "));
    declared.is_none_or(|line| line.contains(&format!("\"{interface}\"")))
}

/// A chain without device concerns all; netdev chains name one or several.
fn concerns(device: &Value, interface: &str) -> bool {
    match device {
        Value::String(name) => name == interface,
        Value::Array(names) => names.iter().any(|name| name.as_str() == Some(interface)),
        _ => true,
    }
}

/// From `iptables-legacy-save`: `*table`, `:CHAIN POLICY [counters]`, `-A CHAIN rule`.
fn iptables(family: &str, saved: &str) -> Vec<Chain> {
    let mut table = String::new();
    let mut chains: Vec<Chain> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim().into();
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let name = words.next().unwrap_or_default();
            let hook = name.to_lowercase();
            if HOOKS.contains(&hook.as_str()) {
                let drops = words.next() == Some("DROP");
                chains.push(Chain {
                    family: family.into(),
                    table: table.clone(),
                    name: name.into(),
                    hook,
                    rules: 0,
                    drops,
                });
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let name = rule.split_whitespace().next().unwrap_or_default();
            if let Some(chain) = chains.iter_mut().find(|chain| chain.table == table && chain.name == name) {
                chain.rules += 1;
            }
        }
    }
    chains.retain(|chain| chain.rules > 0 || chain.drops);
    chains
}

/// Runs a tool of the administrator's, who may have it in a directory that is not in our path.
fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in ["", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"] {
        let command = Command::new(format!("{directory}{program}")).args(arguments).stdin(Stdio::null()).output();
        match command {
            Ok(output) if output.status.success() => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(io::Error::other(said.lines().next().unwrap_or("it failed").to_owned()));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, run as must};

    #[test]
    fn rules_on_the_way_are_named_and_others_are_not() {
        in_namespace(|| {
            assert_eq!(bypassed("us"), Bypassed::default());
            assert_eq!(bypassed("us").sentence("us"), None);
            let rules = std::env::temp_dir().join(format!("persona-nft-{}", std::process::id()));
            fs::write(
                &rules,
                "table inet guard {
                    chain incoming { type filter hook input priority 0; policy drop; tcp dport 22 accept; jump more; }
                    chain more { tcp dport 80 drop; }
                    chain through { type filter hook forward priority 0; policy drop; }
                    chain idle { type filter hook output priority 0; policy accept; }
                }
                table ip nat {
                    chain after { type nat hook postrouting priority 100; oifname \"us\" masquerade; }
                }
                table netdev early {
                    chain us { type filter hook ingress device \"us\" priority 0; ip ttl 1 drop; }
                    chain peer { type filter hook ingress device \"peer\" priority 0; drop; }
                }",
            )
            .unwrap();
            must(&format!("nft -f {}", rules.display()));
            fs::remove_file(&rules).unwrap();

            let found = bypassed("us");
            let shown: Vec<String> = found.chains.iter().map(Chain::to_string).collect();
            assert_eq!(
                shown,
                [
                    "inet guard incoming (input, 2 rules, policy drop)",
                    "ip nat after (postrouting, 1 rule)",
                    "netdev early us (ingress, 1 rule)",
                ]
            );
            assert_eq!(found.unknown, Vec::<String>::new());
            let sentence = found.sentence("us").unwrap();
            assert!(sentence.starts_with("Persona's connections over us bypass the host's firewall: inet guard"));
        });
    }

    #[test]
    fn the_legacy_kind_is_read_from_what_it_saves() {
        let saved = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
                     -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\nCOMMIT\n\
                     *filter\n:INPUT DROP [3:180]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
        let shown: Vec<String> = iptables("iptables", saved).iter().map(Chain::to_string).collect();
        assert_eq!(
            shown,
            ["iptables nat PREROUTING (prerouting, 1 rule)", "iptables filter INPUT (input, 0 rules, policy drop)"]
        );
    }

    #[test]
    fn a_tool_that_is_not_there_is_told_apart_from_one_that_fails() {
        assert_eq!(run("persona-no-such-tool", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_ne!(run("false", &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
