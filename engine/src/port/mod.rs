//! Ports: the ways by which frames enter and leave a shard, behind one small trait.
//!
//! A port carries super-segments: a header template, payload pieces, the state of the checksum and a cut size. A
//! port whose device cannot sum or cut does it in software ([`cut`]), in the same pass as the copy that it makes
//! anyway. Nothing above a port knows which of them did it.

pub mod cut;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod headers;
pub mod interface;
pub mod mapping;
pub mod memory;
pub mod merge;
pub mod packet;
pub mod sum;
pub mod tap;
pub mod vnet;
pub mod xdp;
#[cfg(feature = "xsk-rs")]
pub mod xsk_rs;

use persona_stack::{Gso, Offload, RxFrame, TxChecksum};
use std::io;
use std::os::fd::BorrowedFd;

/// Bytes that another process may be changing while we read them. Copied once, summed as copied, never re-read.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub start: *const u8,
    pub len: usize,
}

/// A super-segment whose payload has been resolved to memory.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    pub header: &'a [u8],
    /// The payload in order. The memory is readable for the duration of the call.
    pub payload: &'a [Piece],
    pub checksum: TxChecksum,
    pub gso: Option<Gso>,
}

/// The port's transmit ring or the device behind it has no room: nothing of the frame was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One queue pair of one interface. Owned by one shard, never shared.
pub trait Port: Send {
    /// Fixed for the port's life.
    fn offload(&self) -> Offload;

    /// Takes up to `budget` received frames and hands each to `sink`; the frame's memory is the port's again when
    /// `sink` returns. Returns how many were taken. Makes no syscall unless the ring demands a wake-up.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize;

    /// Copies the frame into the transmit ring, cut and summed as far as the device does not. Makes no syscall, but
    /// where one for a whole super-segment saves a copy of it. All of it is taken or nothing ([`Full`]).
    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full>;

    /// Kicks the kernel once for what was queued since the last flush and takes back completed frames. Never blocks.
    fn flush(&mut self) -> io::Result<()>;

    /// What to poll for readability while the shard sleeps; `None` for ports in memory.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// True when frames wait or completions are outstanding, so that the shard must not block yet. Called after the
    /// shard announced that it sleeps.
    fn pending(&mut self) -> bool;

    /// Counters since creation.
    fn counters(&self) -> PortCounters;

    /// What was chosen when the port was opened, and why where a better choice was not to be had: one line for people.
    fn describe(&self) -> String;

    /// The descriptors that keep the port alive, for the keeper's ledger. The order is the port's own and fixed.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

/// What a port did and what it had to drop. All monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    /// Frames that the kernel could not deliver (ring full, no fill descriptor, over-long).
    pub rx_dropped: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Super-segments refused because the ring was full.
    pub tx_full: u64,
    /// Frames that the kernel refused after they were queued.
    pub tx_dropped: u64,
    /// Syscalls made to move frames (kicks and wake-ups).
    pub kicks: u64,
}
