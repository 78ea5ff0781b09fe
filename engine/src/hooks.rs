//! What the engine asks of its surroundings while it runs: the diversion of flows and listeners to its ports, and the
//! host's port numbers.
//!
//! In *own* mode the whole address is the engine's, and nothing here has anything to do. In *shared* mode listeners and flows are
//! entered into the diversion one by one, and each local port is kept from the host. `flow_*`, `tracks_flows` and
//! `ephemeral_ports` are called by shards: quick, and without a lock. The others are called by the control thread.

use persona_stack::PortId;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub trait Hooks: Sync {
    /// A connection exists (or its SYN is about to leave) whose local address the port has. Whether it was entered: it is not
    /// where the whole address is diverted.
    fn flow_begins(&self, _port: PortId, _local: SocketAddr, _remote: SocketAddr, _shard: u8) -> bool {
        false
    }

    /// A connection that was entered there is gone, TIME_WAIT included.
    fn flow_ended(&self, _port: PortId, _local: SocketAddr, _remote: SocketAddr) {}

    /// Whether connections have to be entered one by one, so that their end has to be told.
    fn tracks_flows(&self) -> bool {
        false
    }

    /// Segments to `local` come to the engine from now on.
    fn listener_begins(&self, _local: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn listener_ended(&self, _local: SocketAddr) {}

    /// Keeps `local`'s port from the host until it is released.
    fn reserve_port(&self, _local: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn release_port(&self, _local: SocketAddr) {}

    /// A shard wants to send to this next hop and does not know its hardware address.
    fn neighbour_wanted(&self, _port: PortId, _address: IpAddr) {}

    /// The port of the shared interface with this index of the host's, whose neighbours, addresses and routes the
    /// shards follow.
    fn interface_of(&self, _index: u32) -> Option<PortId> {
        None
    }

    /// The host gained or lost an address on a shared interface. Whether the shards are to follow.
    fn address_changed(&self, _port: PortId, _address: IpAddr, _present: bool) -> bool {
        false
    }

    /// What is diverted, for `persona filter show`.
    fn filters(&self) -> Vec<crate::admin::Filter> {
        Vec::new()
    }

    /// Counters of the programs that divert.
    fn counters(&self) -> Vec<crate::admin::EbpfStats> {
        Vec::new()
    }

    /// Local ports for the connections that shards open; `None`: the stack chooses by itself.
    fn ephemeral_ports(&self) -> Option<Arc<[u16]>> {
        None
    }
}

/// Nothing to do: every address is the engine's own.
pub struct OwnAddresses;

impl Hooks for OwnAddresses {}
