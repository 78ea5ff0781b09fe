//! The diversion: eBPF programs that send the engine's packets to the engine and leave all others to the host, and
//! the typed Rust face of their maps.
//!
//! [`Object`] loads the programs, [`attach`] fastens them to an interface by a bpf_link, [`Maps`] says what is ours.
//! A link lives as long as its descriptor is open in any process: the keeper holds it, and when the keeper dies the
//! host is as before. [`Maps`] works through descriptors alone, so it goes on after capabilities were dropped, and in a
//! successor that inherited the descriptors.
//!
//! The programs are C (`src/programs/`, compiled by `build.rs`); ARCHITECTURE.md says why.

pub mod attach;
mod counters;
mod error;
mod keys;
mod maps;
mod netlink;
mod object;
mod sys;

pub use attach::{ClsactFilter, Link, XdpMode};
pub use counters::{Counters, Reason};
pub use error::Error;
pub use keys::{AddressMode, FlowKey, ListenerKey};
pub use maps::{Hits, Hold, MapFds, Maps};
pub use object::{Object, Program, Sizes, object_bytes};
