//! Set-up: everything that an engine makes while it is privileged, or finds in the ledger when it has a predecessor.
//!
//! - [`interfaces`]: ports, diversions, addresses.
//! - [`arenas`]: the shards' stacks.
//! - [`sockets`]: session.sock and admin.sock.
//! - [`inherit`]: the end of a predecessor's connections and sessions.
//! - [`steering`]: what shards and control thread ask of diversions and host later.

pub mod arenas;
pub mod inherit;
pub mod interfaces;
pub mod sockets;
pub mod steering;
