//! A link with a rate, a delay, a queue, losses and reordering, in user space: for kernels without netem, and with decisions
//! that a seed repeats. It stands in the middle namespace of `Topology::emulated` and joins its two interfaces.
//!
//! `conditions` says what a direction does, `path` does it under virtual time, `end` is a packet socket, `relay` the loop
//! between two of them, which the program `emulate` runs. What it can carry is in `docs/performance.md`.

pub mod conditions;
pub mod counters;
pub mod end;
pub mod path;
pub mod pending;
pub mod relay;

pub use conditions::Conditions;

use crate::process::{Running, Side};
use crate::topology::{MIDDLE, Topology};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

/// The emulator at work between the two sides of a topology; gone when dropped.
pub struct Emulator {
    running: Running,
}

impl Emulator {
    /// Starts it, and returns when it forwards. `there` is the direction from our side to the peer. It ends by itself
    /// after `lifetime`.
    pub fn start(
        topology: &Topology,
        there: &Conditions,
        back: &Conditions,
        seed: u64,
        lifetime: Duration,
    ) -> Result<Self> {
        let program = crate::binary("emulate").display().to_string();
        let (conditions, seed) = ([there.to_string(), back.to_string()], seed.to_string());
        let [ours, peer] = MIDDLE;
        let seconds = lifetime.as_secs().max(1).to_string();
        let program = [&program, ours, peer, &conditions[0], &conditions[1], &seed, &seconds];
        let mut emulator = Self { running: topology.spawn(Side::Middle, &program)? };
        for _ in 0..400 {
            if emulator.running.has_ended()? {
                let finished = emulator.running.finish(1)?;
                bail!("{}", finished.stderr.trim());
            }
            // Two bound sockets: the column says whether one is.
            let sockets = topology.run(topology.middle()?, &["cat", "/proc/net/packet"])?;
            let bound = |line: &&str| line.split_whitespace().nth(5) == Some("1");
            if sockets.lines().skip(1).filter(bound).count() == 2 {
                return Ok(emulator);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the emulator does not forward after 2 s")
    }

    /// Processor time so far is told by this process's number.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Stops it; its counts (`Relay::run`).
    pub fn finish(self) -> Result<Value> {
        self.running.signal(Signal::SIGTERM)?;
        let finished = self.running.finish(10)?;
        if !finished.status.success() {
            bail!("emulate: {}: {}", finished.status, finished.stderr.trim());
        }
        serde_json::from_str(&finished.stdout).with_context(|| format!("emulate printed {}", finished.stdout))
    }
}
