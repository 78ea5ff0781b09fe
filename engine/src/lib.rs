//! The engine: ports, shards, steering, host integration, sessions and the `persona` command.

pub mod admin;
#[cfg(test)]
mod alone;
pub mod capture;
pub mod clock;
pub mod command;
pub mod config;
pub mod control;
pub mod divert;
pub mod engine;
pub mod hooks;
pub mod host;
pub mod keeper;
pub mod ledger;
pub mod mailbox;
pub mod mesh;
pub mod message;
pub mod port;
pub mod privileges;
pub mod session;
pub mod setup;
pub mod shard;
pub mod sysctl;
pub mod trace;
