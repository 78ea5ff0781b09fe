//! Joins two interfaces of this network namespace as a link with given conditions would, and prints what it did to
//! their frames as one JSON object when it is interrupted or its time is over.
//!
//! `emulate ONE OTHER THERE BACK SEED SECONDS`: THERE holds from ONE to OTHER, BACK the other way round. Needs root.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal};
use persona_tests::emulator::conditions::{self, Conditions};
use persona_tests::emulator::relay::Relay;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emulate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, one, other, there, back, seed, seconds] = arguments.as_slice() else {
        bail!("usage: emulate ONE OTHER THERE BACK SEED SECONDS; THERE and BACK: {}", conditions::KEYS)
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and nothing else.
        unsafe { nix::sys::signal::signal(signal, SigHandler::Handler(on_stop)) }
            .with_context(|| format!("cannot handle {signal}"))?;
    }
    let relay = Relay {
        interfaces: [one.clone(), other.clone()],
        conditions: [Conditions::parse(there)?, Conditions::parse(back)?],
        seed: seed.parse().with_context(|| format!("`{seed}` is no seed: write a whole number"))?,
        lifetime: Duration::from_secs(seconds.parse().with_context(|| format!("`{seconds}` is no time in seconds"))?),
    };
    println!("{}", relay.run(&STOP)?);
    Ok(())
}

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}
