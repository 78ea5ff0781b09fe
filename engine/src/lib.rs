//! The engine: ports, shards, steering, host integration, sessions and the `persona` command.

pub mod admin;
pub mod command;
pub mod config;
pub mod keeper;
pub mod ledger;
pub mod port;
