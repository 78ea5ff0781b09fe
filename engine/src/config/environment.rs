//! LKL's environment variables: a configuration of at most one interface, which the file overrides key by key.

use super::Problem;
use super::json::nearest;
use serde_json::{Map, Value, json};

const PREFIX: &str = "LKL_HIJACK_";

/// Where a variable's value belongs.
enum Target {
    Global(&'static str),
    Interface(&'static str),
    /// Read elsewhere, or without effect for the given reason.
    Aside(Option<&'static str>),
}
use Target::{Aside, Global, Interface};

const VARIABLES: &[(&str, Target)] = &[
    ("NET_GATEWAY", Global("gateway")),
    ("NET_GATEWAY6", Global("gateway6")),
    ("DEBUG", Global("debug")),
    ("SINGLE_CPU", Global("singlecpu")),
    ("SYSCTL", Global("sysctl")),
    ("BOOT_CMDLINE", Global("boot_cmdline")),
    ("MOUNT", Global("mount")),
    ("DUMP", Global("dump")),
    ("NET_IFTYPE", Interface("type")),
    ("NET_IFPARAMS", Interface("param")),
    ("NET_MTU", Interface("mtu")),
    ("NET_IP", Interface("ip")),
    ("NET_NETMASK_LEN", Interface("masklen")),
    ("NET_IFGATEWAY", Interface("ifgateway")),
    ("NET_IPV6", Interface("ipv6")),
    ("NET_NETMASK6_LEN", Interface("masklen6")),
    ("NET_IFGATEWAY6", Interface("ifgateway6")),
    ("NET_MAC", Interface("mac")),
    ("NET_NEIGHBOR", Interface("neigh")),
    ("NET_QDISC", Interface("qdisc")),
    ("OFFLOAD", Interface("offload")),
    // Obsolete in LKL too: the name of a tap device, in place of IFTYPE and IFPARAMS.
    ("NET_TAP", Interface("param")),
    ("CONFIG_FILE", Aside(None)),
    (
        "ZPOLINE",
        Aside(Some(
            "Persona rewrites no machine code: system calls that a program makes without libc stay with the host",
        )),
    ),
];

/// What the environment says.
#[derive(Debug, Default)]
pub struct Environment {
    /// Keys as the file has them.
    pub values: Map<String, Value>,
    /// Variables that are known and have no effect here.
    pub warnings: Vec<Problem>,
}

/// Reads the variables that begin with LKL_HIJACK_; others are none of ours.
pub fn read(variables: impl Iterator<Item = (String, String)>) -> Result<Environment, Vec<Problem>> {
    let mut environment = Environment::default();
    let mut interface = Map::new();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let Some(suffix) = name.strip_prefix(PREFIX) else { continue };
        match VARIABLES.iter().find(|(known, _)| *known == suffix) {
            Some((_, Global(key))) => drop(environment.values.insert((*key).to_owned(), json!(value))),
            Some((_, Interface(key))) => {
                if suffix == "NET_TAP" {
                    interface.entry("type").or_insert_with(|| json!("tap"));
                }
                interface.insert((*key).to_owned(), json!(value));
            }
            Some((_, Aside(None))) => {}
            Some((_, Aside(Some(reason)))) => environment.warnings.push(Problem::new(&name, reason)),
            None => {
                let known = nearest(&suffix.to_lowercase(), VARIABLES.iter().map(|(known, _)| *known)).unwrap_or("");
                let reason = format!("unknown variable; the nearest known one is {PREFIX}{known}");
                problems.push(Problem::new(&name, reason));
            }
        }
    }
    if !interface.is_empty() {
        environment.values.insert("interfaces".to_owned(), json!([interface]));
    }
    if problems.is_empty() { Ok(environment) } else { Err(problems) }
}

/// The variable that `path` of the merged configuration came from, if it is one of the environment's.
pub fn variable_of(path: &str) -> Option<String> {
    let found = VARIABLES.iter().find(|(_, target)| match target {
        Global(key) => path == *key,
        Interface(key) => path.strip_prefix("interfaces[0].") == Some(key),
        Aside(_) => false,
    });
    found.map(|(suffix, _)| format!("{PREFIX}{suffix}"))
}
