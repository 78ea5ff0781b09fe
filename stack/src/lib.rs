//! The network stack as a deterministic state machine: time and frames go in, frames and events come out.
//!
//! Nothing here reads a clock, a socket, an environment variable or a random generator of its own; one seed
//! reproduces one run exactly. All state lies in one block of memory that the caller supplies ([`Stack::format`],
//! [`Stack::attach`]), as plain fixed-size records linked by index, so that it can outlive the process.
//!
//! The contract of a caller's loop, in order:
//!
//! 1. [`Stack::on_frame`] for each frame received; may change everything below.
//! 2. Commands ([`Stack::connect`], [`Stack::write`], [`Stack::read`], ...); may change everything below.
//! 3. [`Stack::on_timeout`] when [`Stack::next_timeout`] has passed.
//! 4. [`Stack::flush`] once per batch: delayed output (pending ACKs, data that waits for room).
//! 5. [`Stack::poll_event`] until it returns `None`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod api;
mod congestion;
mod counters;
mod env;
mod flow;
pub mod frame;
pub mod ip;
mod memory;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stack;
pub mod sysctl;
mod tcp;
pub mod time;
mod trace;
pub mod wire;

pub use api::*;
pub use congestion::{Congestion, Details};
pub use counters::{Counter, Counters};
pub use flow::flow_shard;
pub use frame::*;
pub use stack::{Config, MemoryError, Ownership, RESERVED_RANGES, Stack, Usage};
pub use sysctl::Sysctls;
pub use tcp::export::{EXPORT_MAX, ImportError};
pub use tcp::info::{AccurateEcn, Info, Listening, Sending};
pub use tcp::state::State;
pub use tcp::tuning::FIRST_SEND_BUFFER;
pub use time::{Duration, Instant};
pub use trace::{Happening, Timer, Traced, WATCHES, Why};
