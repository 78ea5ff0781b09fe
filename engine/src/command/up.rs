//! `persona up`.

use super::EngineName;
use crate::config::{self, Loaded, LogLevel};
use crate::engine::Engine;
use crate::keeper::start;
use anyhow::Result;
use std::path::Path;
use tracing_subscriber::filter::LevelFilter;

pub(super) fn up(file: Option<&Path>, engine: &EngineName, foreground: bool) -> Result<()> {
    let place = engine.place()?;
    let loaded = config::load(file)?;
    print_warnings(&loaded);
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
