//! Tests of the whole stack at the level of packets: scripts of segments in and out at virtual times, one file per
//! subject, and two stacks back to back.

mod accecn;
mod acknowledge;
mod bench;
mod close;
mod cookies;
mod ecn;
mod handshake;
mod hostile;
mod icmp;
mod info;
mod life;
mod receive;
mod recovery;
mod send;
mod survival;
mod sysctl;
mod timers;
mod timewait;
mod trace;
mod transfer;
