//! `persona up`.

use super::EngineName;
use crate::config::{self, Config, Interface, InterfaceKind, Invalid, Loaded, LogLevel, Problem};
use crate::engine::Engine;
use crate::host::{self, firewall};
use crate::keeper::start;
use anyhow::Result;
use std::path::Path;
use tracing_subscriber::filter::LevelFilter;

pub(super) fn up(file: Option<&Path>, engine: &EngineName, foreground: bool) -> Result<()> {
    let place = engine.place()?;
    let loaded = load(file)?;
    print_warnings(&loaded);
    print_bypassed(&loaded.config);
    log_to_stderr(loaded.config.log);
    if foreground {
        return start::in_foreground(&loaded.config, &place, &Engine);
    }
    start::in_background(&loaded.config, &place, &Engine, false).map(drop)
}

/// Loads the configuration and holds it against the interfaces that there are. What is not there yet is no mistake: it may be
/// made later, and the engine says so when it starts.
pub(super) fn load(file: Option<&Path>) -> Result<Loaded, Invalid> {
    let loaded = config::load(file)?;
    let interfaces = loaded.config.interfaces.iter().enumerate();
    let problems: Vec<_> = interfaces.filter_map(|(place, wanted)| beyond_mtu(place, wanted)).collect();
    if problems.is_empty() {
        return Ok(loaded);
    }
    Err(Invalid { source: source(&loaded), problems })
}

/// An interface that does not carry packets as long as we are told to send.
fn beyond_mtu(place: usize, wanted: &Interface) -> Option<Problem> {
    let mtu = wanted.mtu?;
    let found = match wanted.kind {
        // The device is called after its interface's index.
        InterfaceKind::Macvtap => {
            let index = Some(wanted.param.rsplit_once("tap")?.1.parse().ok()?);
            let is_it =
                |known: &host::Interface| Some(known.index) == index && known.kind.as_deref() == Some("macvtap");
            host::Interface::all().ok()?.into_iter().find(is_it)?
        }
        _ => host::Interface::find(&wanted.param).ok()?,
    };
    (u32::from(mtu) > found.mtu).then(|| Problem {
        at: format!("interfaces[{place}].mtu"),
        reason: format!(
            "{mtu} is larger than the MTU of {name}, which is {known}: leave it out, or raise that one with `ip link set \
             {name} mtu {mtu}`",
            name = found.name,
            known = found.mtu
        ),
    })
}

/// Where a configuration came from, for messages.
pub(super) fn source(loaded: &Loaded) -> String {
    loaded.file.as_ref().map_or("the environment".to_owned(), |file| file.display().to_string())
}

pub(super) fn print_warnings(loaded: &Loaded) {
    let source = source(loaded);
    for warning in &loaded.warnings {
        eprintln!("persona: warning: {source}: {warning}");
    }
}

/// Names the rules of the host's firewall that its administrator may think apply to us.
pub(super) fn print_bypassed(config: &Config) {
    for sentence in bypassed(config) {
        eprintln!("persona: warning: {sentence}");
    }
}

fn bypassed(config: &Config) -> Vec<String> {
    // A tap's packets pass the host's stack, which applies its rules to them as to any neighbour's.
    let diverted = config
        .interfaces
        .iter()
        .filter(|interface| matches!(interface.kind, InterfaceKind::Xdp | InterfaceKind::Packet | InterfaceKind::Auto));
    diverted.filter_map(|interface| firewall::bypassed(&interface.param).sentence(&interface.param)).collect()
}

/// Logs of the control plane; in the background stderr is the log file.
pub(super) fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let logger = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // Set already only where a test runs two commands in one process.
    let _ = logger.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, run};

    fn written(kind: &str, param: &str, more: &str) -> tempfile::NamedTempFile {
        let text = format!(
            r#"{{"interfaces": [{{"type": "{kind}", "param": "{param}", "ip": "10.9.0.2", "masklen": 24{more}}}]}}"#
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn configured(kind: &str) -> Config {
        config::load(Some(written(kind, "us", "").path())).unwrap().config
    }

    #[test]
    fn an_mtu_beyond_the_interfaces_is_refused_where_there_is_one() {
        in_namespace(|| {
            run("ip tuntap add tap0 mode tap");
            run("ip link add link us name macvtap0 index 77 type macvtap mode bridge");
            let interfaces = [
                ("xdp", "us", "us"),
                ("packet", "us", "us"),
                ("auto", "us", "us"),
                ("tap", "tap0", "tap0"),
                ("macvtap", "/dev/tap77", "macvtap0"),
            ];
            for (kind, param, name) in interfaces {
                let load = |mtu: u32| {
                    let file = written(kind, param, &format!(r#", "mtu": {mtu}"#));
                    load(Some(file.path())).map(|loaded| loaded.config.interfaces[0].mtu)
                };
                assert_eq!(load(1500), Ok(Some(1500)), "{kind}");
                let problems = load(1501).unwrap_err().problems;
                assert!(
                    matches!(&problems[..], [one] if one.at == "interfaces[0].mtu"
                        && one.reason.starts_with(&format!("1501 is larger than the MTU of {name}, which is 1500"))),
                    "{kind}: {problems:?}"
                );
            }
            // Nothing to be held against.
            assert!(load(Some(written("xdp", "elsewhere", r#", "mtu": 9000"#).path())).is_ok());
        });
    }

    #[test]
    fn rules_that_are_bypassed_are_named_for_what_is_diverted() {
        in_namespace(|| {
            assert_eq!(bypassed(&configured("xdp")), Vec::<String>::new());
            run("nft add table inet guard");
            run("nft add chain inet guard input { type filter hook input priority 0 ; policy drop ; }");
            for kind in ["xdp", "packet", "auto"] {
                let sentences = bypassed(&configured(kind));
                assert!(matches!(&sentences[..], [one] if one.contains("over us") && one.contains("inet guard input")));
            }
            assert_eq!(bypassed(&configured("tap")), Vec::<String>::new());
        });
    }
}
