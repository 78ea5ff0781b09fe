//! What a shard knows of one socket: the private half of a slot.
//!
//! A record belongs to the shard that owns the slot, and moves as a whole when the slot changes its owner. The shared
//! half (state line, cursors, chunk maps) is reached through the session.

use super::options::Settings;
use super::relay::Relay;
use crate::control::ports::PortUser;
use persona_channel::layout::state_bits;
use persona_channel::memory::{ListenerIndex, Slot, SocketRef};
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::SendReader;
use persona_stack::ConnectionId;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bound to an anchor, or to an address as well; no connection.
    Idle,
    /// listen() is being decided.
    Opening,
    Listening(ListenerIndex),
    /// SYN is under way.
    Connecting,
    Connected,
    /// The connection is gone; the application still has the socket.
    Ended,
    /// connect() failed at once; a further attempt is allowed.
    Failed,
    /// The application has closed the socket, and the stack still sends for it (or a listener is being ended).
    Orphan,
}

pub struct Record {
    pub slot: Slot,
    pub generation: u32,
    pub phase: Phase,
    /// Our end of the anchor; none for a connection that waits in an accept ring, and for orphans.
    pub anchor: Option<OwnedFd>,
    pub settings: Settings,
    /// Local address as bind() set it.
    pub bound: Option<SocketAddr>,
    /// bind() named its port.
    pub names_port: bool,
    /// The control thread holds a claim on a local port for this socket.
    pub claims_port: bool,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub connection: Option<ConnectionId>,
    pub send: SendReader,
    pub receive: ReceiveWriter,
    /// What the stack has been told: offsets written and read.
    pub told_written: u64,
    pub told_read: u64,
    /// shutdown(SHUT_WR) was done.
    pub write_shut: bool,
    /// The peer's FIN came.
    pub peer_closed: bool,
    /// The offset of the byte after the urgent one while the application has not read past it, and whether it took the
    /// byte by itself.
    pub urgent: Option<u64>,
    pub urgent_taken: bool,
    pub relay: Option<Box<Relay>>,
    /// Counted in the engine's port use under this port.
    pub uses_port: Option<PortUser>,
}

impl Record {
    pub fn new(slot: Slot, generation: u32, settings: Settings) -> Self {
        Self {
            slot,
            generation,
            phase: Phase::Idle,
            anchor: None,
            settings,
            bound: None,
            names_port: false,
            claims_port: false,
            local: None,
            remote: None,
            connection: None,
            send: SendReader::new(),
            receive: ReceiveWriter::new(),
            told_written: 0,
            told_read: 0,
            write_shut: false,
            peer_closed: false,
            urgent: None,
            urgent_taken: false,
            relay: None,
            uses_port: None,
        }
    }

    /// Still an application's.
    pub fn has_application(&self) -> bool {
        self.phase != Phase::Orphan
    }
}

/// Sets bits of the state line. Only the slot's owner writes them, so that no read-modify-write is needed.
pub fn set_bits(socket: &SocketRef<'_>, set: u32) {
    change_bits(socket, set, 0);
}

pub fn change_bits(socket: &SocketRef<'_>, set: u32, clear: u32) {
    // The line may have been overwritten by a hostile application: that is its own loss.
    let bits = socket.state.bits.load(Ordering::Relaxed);
    socket.state.bits.store(bits & !clear | set, Ordering::Release);
}

/// Publishes an address pair; before CONNECTED or LISTENING is set.
pub fn publish_addresses(socket: &SocketRef<'_>, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
    let line = socket.address;
    let family = match local.or(remote) {
        Some(SocketAddr::V6(_)) => libc::AF_INET6,
        _ => libc::AF_INET,
    };
    line.family.store(family as u32, Ordering::Relaxed);
    for (address, port, words) in [(local, &line.local_port, &line.local), (remote, &line.remote_port, &line.remote)] {
        let Some(address) = address else { continue };
        let mut bytes = [0u8; 16];
        match address {
            SocketAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => bytes = v6.ip().octets(),
        }
        for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        port.store(address.port().into(), Ordering::Release);
    }
}

/// Bits of a connection that has ended.
pub const ENDED: u32 = state_bits::ENDED | state_bits::RCV_CLOSED | state_bits::SND_CLOSED;
