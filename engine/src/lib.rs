//! The engine: ports, shards, steering, host integration, sessions and the `persona` command.

pub mod config;
pub mod port;
