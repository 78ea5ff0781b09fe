//! The keeper: the process that holds what must outlive an engine, starts engines and restarts them. No packet code.

pub mod fork;
