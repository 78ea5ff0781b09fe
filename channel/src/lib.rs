//! The shared-memory contract between the engine and the preload library.
//!
//! One *session* is one memfd, mapped by the engine and by every process of one fork family. What lies where is in
//! [`layout`]; the messages that set a session up are in [`attach`]; the algorithms over the layout (streams, command
//! lanes, readiness, sleep and wake) each have a module of their own.
//!
//! Everything in a session may be changed by a hostile process at any time. The engine's side of each algorithm
//! therefore reads a word once, bounds it, keeps its own cursors and makes a bounded number of steps.
#![cfg_attr(not(loom), no_std)]

pub mod accept;
pub mod attach;
pub mod attention;
pub mod chunk;
pub mod copy;
pub mod lane;
pub mod layout;
pub mod memory;
pub mod owner;
pub mod policy;
pub mod poll;
pub mod receive;
pub mod send;
pub mod slot;
pub mod stream;
pub mod sync;
pub mod wait;

#[cfg(not(loom))]
mod abi;
#[cfg(all(loom, test))]
mod loom_models;
