//! `persona up`.

use super::EngineName;
use crate::config::{self, Config, InterfaceKind, Loaded, LogLevel};
use crate::engine::Engine;
use crate::host::firewall;
use crate::keeper::start;
use anyhow::Result;
use std::path::Path;
use tracing_subscriber::filter::LevelFilter;

pub(super) fn up(file: Option<&Path>, engine: &EngineName, foreground: bool) -> Result<()> {
    let place = engine.place()?;
    let loaded = config::load(file)?;
    print_warnings(&loaded);
    print_bypassed(&loaded.config);
    log_to_stderr(loaded.config.log);
    if foreground {
        return start::in_foreground(&loaded.config, &place, &Engine);
    }
    start::in_background(&loaded.config, &place, &Engine, false).map(drop)
}

pub(super) fn print_warnings(loaded: &Loaded) {
    let source = loaded.file.as_ref().map_or("the environment".to_owned(), |file| file.display().to_string());
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

    fn configured(kind: &str) -> Config {
        let text =
            format!(r#"{{"interfaces": [{{"type": "{kind}", "param": "us", "ip": "10.9.0.2", "masklen": 24}}]}}"#);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        config::load(Some(file.path())).unwrap().config
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
