//! The `persona` command, as people type it and scripts call it.
//!
//! Exit status: 0 done, 1 failed (one sentence on stderr), 2 wrong usage. `run` passes the program's own on, and answers
//! 125 for a failure of its own, 126 and 127 for a program that cannot be run or found, as env(1) does.

mod admin_client;
mod capture;
mod check;
mod doctor;
mod filter;
mod library;
mod program;
mod run;
mod sockets;
mod stats;
mod sysctl;
mod table;
mod trace;
mod up;

use crate::keeper::Place;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Gives any Linux process its own network stack.
#[derive(Debug, Parser)]
#[command(name = "persona", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start an engine; returns once packets flow.
    ///
    /// The configuration is FILE, else the one that LKL_HIJACK_CONFIG_FILE names, else ./lkl-hijack.json, else the
    /// LKL_HIJACK_* variables.
    Up {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineName,
        /// Stay in the foreground until SIGTERM or Ctrl-C, and log to stderr.
        #[arg(long)]
        foreground: bool,
    },
    /// Stop an engine: its connections end as when a process exits.
    Down {
        #[command(flatten)]
        engine: EngineName,
    },
    /// Run a program on an engine's stack; a private engine is started when none is up and a configuration is given.
    Run {
        /// The configuration of the private engine; without effect while the named engine is up.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineName,
        /// A TCP socket that cannot be accelerated is an error, and so is a program that the library cannot enter.
        #[arg(long)]
        strict: bool,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Check a configuration without starting anything.
    Check {
        /// The file; absent: what `persona up` would read.
        file: Option<PathBuf>,
        /// Print the configuration as it was understood.
        #[arg(long)]
        json: bool,
        /// Print the JSON schema of the configuration instead.
        #[arg(long, conflicts_with_all = ["file", "json"])]
        schema: bool,
    },
    /// Say what an engine is and what it runs on.
    Info {
        #[command(flatten)]
        engine: EngineName,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// List sockets as `ss -tin` does, those that stay with the host with the reason.
    Sockets {
        #[command(flatten)]
        engine: EngineName,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Print counters: the stack's by Linux's names, the ports' and the eBPF programs'.
    Stats {
        #[command(flatten)]
        engine: EngineName,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
        /// Counters that are zero too.
        #[arg(short = 'z', long = "zeros")]
        zeros: bool,
    },
    /// Show and change settings under Linux's names, as sysctl(8) does; they last until the engine ends.
    Sysctl {
        #[command(flatten)]
        engine: EngineName,
        /// Show all that have an effect; what is shown without any NAME, too.
        #[arg(short = 'a', long = "all", conflicts_with_all = ["write", "settings"])]
        all: bool,
        /// Set; every argument is a NAME=VALUE.
        #[arg(short = 'w', long = "write", requires = "settings")]
        write: bool,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
        /// NAME to show, NAME=VALUE to set; slashes may stand for dots.
        #[arg(value_name = "NAME[=VALUE]")]
        settings: Vec<String>,
    },
    /// Look at what is diverted from the host to the engine.
    Filter {
        #[command(subcommand)]
        command: FilterCommand,
    },
    /// Write the engine's frames, both directions, as pcapng.
    Capture {
        #[command(flatten)]
        engine: EngineName,
        /// Where to; `-` is the standard output.
        #[arg(short = 'w', value_name = "FILE")]
        write: PathBuf,
        /// Bytes to keep of each frame.
        #[arg(short = 's', long = "snap", value_name = "BYTES")]
        snap: Option<u32>,
        /// What to write: `host ADDRESS`, `port NUMBER`, `tcp`, `udp`, `icmp`, `arp`, joined by `and`.
        #[arg(trailing_var_arg = true)]
        filter: Vec<String>,
    },
    /// Follow one connection: segments and why they are sent again, windows, round trips, losses, timers.
    ///
    /// Ends with the connection, after --seconds or --count, or by Ctrl-C. docs/trace.md explains each event.
    ///
    /// persona trace 10.9.0.2:40512 --plot trace.svg
    Trace(trace::Order),
    /// Say what this host can do for Persona and how to mend what it cannot; fails when something is missing.
    Doctor {
        /// Interfaces to look at too.
        interfaces: Vec<String>,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum FilterCommand {
    /// List diverted flows, listeners and addresses, with hits.
    Show {
        #[command(flatten)]
        engine: EngineName,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct EngineName {
    /// Which engine; absent: the one that PERSONA_NAME names, else `default`.
    #[arg(long)]
    name: Option<String>,
}

impl EngineName {
    fn place(&self) -> Result<Place> {
        Place::of(self.name.as_deref())
    }
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run { config, engine, strict, command } => {
            return run::run(run::Order { config, name: engine.name, strict, command });
        }
        Command::Up { config, engine, foreground } => up::up(config.as_deref(), &engine, foreground),
        Command::Down { engine } => engine.place().and_then(|place| crate::keeper::start::stop(&place)),
        Command::Check { schema: true, .. } => check::print_schema(),
        Command::Check { file, json, .. } => check::check(file.as_deref(), json),
        Command::Info { engine, json } => stats::info(&engine, json),
        Command::Sockets { engine, json } => sockets::show(&engine, json),
        Command::Stats { engine, json, zeros } => stats::show(&engine, json, zeros),
        // Without names everything is shown, with or without -a.
        Command::Sysctl { engine, all: _, write, json, settings } => sysctl::sysctl(&engine, write, json, &settings),
        Command::Filter { command: FilterCommand::Show { engine, json } } => filter::show(&engine, json),
        Command::Capture { engine, write, snap, filter } => capture::capture(&engine, &write, snap, &filter),
        Command::Trace(order) => trace::trace(&order),
        Command::Doctor { interfaces, json } => doctor::doctor(&interfaces, json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough: no failure of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints a failure, each of its lines (an invalid configuration can have several) with the command's name.
fn complain(error: &anyhow::Error) {
    for line in format!("{error:#}").lines() {
        eprintln!("persona: {line}");
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io_error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints a value as JSON on the standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
