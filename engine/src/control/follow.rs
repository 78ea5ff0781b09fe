//! Shared addresses: the shards' neighbours, addresses and routes follow the host's.
//!
//! The monitor was opened before the tables are read, so that no change is missed; one that is told twice does no harm.

use super::Control;
use crate::host::{self, Change, HostAddress, HostNeighbour};
use crate::message::ShardMessage;
use std::collections::HashSet;

/// Changes taken in one go.
const BUDGET: usize = 256;

impl Control<'_> {
    /// Reads the neighbours that the host knows already; addresses and routes were read at set-up.
    pub(crate) fn read_host(&mut self) {
        if self.monitor.is_none() {
            return;
        }
        match host::tables::neighbours() {
            Ok(neighbours) => neighbours.iter().for_each(|neighbour| self.neighbour(neighbour)),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Something of the host changed.
    pub(crate) fn follow_host(&mut self) {
        let Some(monitor) = &self.monitor else { return };
        let mut changes = Vec::new();
        if let Err(error) = monitor.read(BUDGET, |change| changes.push(change)) {
            tracing::warn!("{error}");
        }
        for change in changes {
            match change {
                Change::Neighbour(neighbour) => self.neighbour(&neighbour),
                Change::Address(address) => self.address(&address, true),
                Change::AddressGone(address) => self.address(&address, false),
                Change::Route(route) => self.route(&route, true),
                Change::RouteGone(route) => self.route(&route, false),
                Change::InterfaceGone { index } => {
                    if self.hooks.interface_of(index).is_some() {
                        tracing::error!("an interface of the engine is gone from the host");
                    }
                }
                Change::Interface(_) => {}
                Change::Overrun => self.read_again(),
            }
        }
    }

    /// Changes were lost: what there is now is told, which is enough for all but routes and addresses that went away
    /// unseen. Those are named.
    fn read_again(&mut self) {
        self.read_host();
        match (host::tables::addresses(), host::tables::routes()) {
            (Ok(addresses), Ok(routes)) => {
                let addresses: HashSet<HostAddress> = addresses.into_iter().collect();
                addresses.iter().for_each(|address| self.address(address, true));
                routes.iter().for_each(|route| self.route(route, true));
                tracing::warn!(
                    "changes of the host's tables were lost; routes that went away meanwhile are still used"
                );
            }
            (Err(error), _) | (_, Err(error)) => tracing::warn!("{error}"),
        }
    }

    fn neighbour(&mut self, neighbour: &HostNeighbour) {
        let HostNeighbour { interface, address, mac } = *neighbour;
        if let Some(port) = self.hooks.interface_of(interface).filter(|_| address.is_ipv4()) {
            self.tell_shards(|| ShardMessage::Neighbour { port, address, mac });
        }
    }

    fn address(&mut self, of_host: &HostAddress, present: bool) {
        let HostAddress { interface, address, prefix_len } = *of_host;
        if let Some(port) = self.hooks.interface_of(interface).filter(|_| address.is_ipv4())
            && self.hooks.address_changed(port, address, present)
        {
            self.tell_shards(|| ShardMessage::Address { port, address, prefix_len, present });
        }
    }

    fn route(&mut self, of_host: &host::HostRoute, present: bool) {
        let Some(port) = self.hooks.interface_of(of_host.interface) else { return };
        if of_host.destination.is_ipv4() {
            let route = of_host.for_port(port);
            self.tell_shards(|| ShardMessage::Route { route, present });
        }
    }

    fn tell_shards(&mut self, message: impl Fn() -> ShardMessage) {
        for shard in 0..self.links.shards() {
            self.links.send(shard, message());
        }
    }
}
