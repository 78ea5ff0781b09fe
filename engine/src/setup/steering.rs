//! The engine's surroundings in one face ([`Hooks`]): diversions of all interfaces, ports kept from the host, next hops
//! that the host resolves.

use crate::admin::{EbpfStats, Filter};
use crate::divert::{AddressMode as Diverted, Diversion};
use crate::hooks::Hooks;
use crate::keeper::EngineLink;
use crate::ledger::{Kind, Ledger};
use crate::setup::interfaces::Opened;
use anyhow::{Context, Result};
use persona_stack::{AddressMode, PortId};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Ports for the connections that we open from a shared address, per address. Each serves many remote addresses, and costs a
/// descriptor.
const EPHEMERAL: usize = 1_024;

/// What one interface contributes.
pub struct Steered {
    pub index: u32,
    pub mode: AddressMode,
    /// Addresses that the host gets later are ours as well.
    pub every_address: bool,
    /// The control thread's, which follows the host's. Shards know them by [`Routing`](crate::shard::routing::Routing).
    addresses: Mutex<Vec<IpAddr>>,
    pub diversion: Option<Diversion>,
}

pub struct Steering<'a> {
    interfaces: Vec<Steered>,
    link: &'a EngineLink,
    ledger: &'a Ledger,
    /// Sockets that keep ports from the host, by local address.
    reserved: Mutex<HashMap<SocketAddr, OwnedFd>>,
    ephemeral: Option<Arc<[u16]>>,
}

impl<'a> Steering<'a> {
    /// Takes the diversions out of the interfaces. While privileged or not: ports of the ephemeral range need nothing.
    pub fn new(opened: &mut [Opened], link: &'a EngineLink, ledger: &'a Ledger) -> Result<Self> {
        let interfaces: Vec<Steered> = opened
            .iter_mut()
            .map(|interface| Steered {
                index: interface.index,
                mode: interface.mode,
                every_address: interface.every_address,
                addresses: Mutex::new(interface.addresses.iter().map(|(address, _)| *address).collect()),
                diversion: interface.diversion.take(),
            })
            .collect();
        let mut steering = Self { interfaces, link, ledger, reserved: Mutex::default(), ephemeral: None };
        if !steering.shared_addresses().is_empty() {
            steering.ephemeral = Some(steering.reserve_ephemeral().context("cannot keep ports from the host")?);
        }
        Ok(steering)
    }

    fn shared_addresses(&self) -> Vec<IpAddr> {
        let shared = self.interfaces.iter().filter(|interface| interface.mode == AddressMode::Shared);
        shared.flat_map(Steered::addresses).collect()
    }

    /// The same ports on every shared address: as many as we want, and no more than a quarter of the descriptors takes.
    fn reserve_ephemeral(&self) -> Result<Arc<[u16]>> {
        let mut ports = Vec::new();
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = self.shared_addresses();
        let limit = descriptor_limit();
        let wanted = EPHEMERAL.min(limit / 4 / addresses.len().max(1));
        if wanted < EPHEMERAL {
            tracing::warn!(
                "{limit} open descriptors leave {wanted} ports of each shared address for connections, instead of \
                 {EPHEMERAL}: raise RLIMIT_NOFILE (LimitNOFILE= of the service)"
            );
        }
        for _ in 0..wanted {
            let mut kept = Vec::new();
            let mut port = 0;
            for &address in &addresses {
                match crate::host::reserve(SocketAddr::new(address, port)) {
                    Ok(reservation) => {
                        port = reservation.local().port();
                        kept.push((reservation.local(), reservation.into_socket()));
                    }
                    Err(_) if port != 0 => {
                        kept.clear();
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if !kept.is_empty() {
                ports.push(port);
                reserved.extend(kept);
            }
        }
        Ok(ports.into())
    }

    /// What is ours is diverted from now on.
    pub fn run(&self) -> Result<()> {
        for diversion in self.diversions() {
            diversion.run()?;
        }
        Ok(())
    }

    /// Takes the programs away, at the end.
    pub fn detach(self) {
        let diversions = self.interfaces.into_iter().enumerate();
        for (place, diversion) in diversions.filter_map(|(place, interface)| Some((place, interface.diversion?))) {
            if let Err(error) = diversion.detach(self.ledger, place as u64) {
                tracing::warn!("a diversion cannot be taken away: {error}");
            }
        }
    }

    fn diversions(&self) -> impl Iterator<Item = &Diversion> {
        self.interfaces.iter().filter_map(|interface| interface.diversion.as_ref())
    }

    /// The diversion of a shared interface.
    fn shared_at(&self, port: PortId) -> Option<&Diversion> {
        let interface = self.interfaces.get(usize::from(port.0))?;
        interface.diversion.as_ref().filter(|_| interface.mode == AddressMode::Shared)
    }

    /// Diversions of shared addresses that `local` concerns.
    fn shared(&self, local: IpAddr) -> impl Iterator<Item = &Diversion> {
        self.interfaces
            .iter()
            .filter(move |interface| {
                interface.mode == AddressMode::Shared && (local.is_unspecified() || interface.has(local))
            })
            .filter_map(|interface| interface.diversion.as_ref())
    }

    fn is_shared(&self, local: IpAddr) -> bool {
        self.shared_addresses().iter().any(|address| local.is_unspecified() || *address == local)
    }

    /// Takes an address that the host got: its ports of the ephemeral range are kept from the host, then it is diverted.
    fn take(&self, interface: &Steered, address: IpAddr) -> Result<()> {
        let mut kept = Vec::new();
        for port in self.ephemeral.iter().flat_map(|ports| ports.iter()) {
            let reservation = crate::host::reserve(SocketAddr::new(address, *port))?;
            kept.push((reservation.local(), reservation.into_socket()));
        }
        if let Some(diversion) = &interface.diversion {
            diversion.add_address(address, Diverted::Shared)?;
        }
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
        interface.addresses.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        Ok(())
    }

    /// Gives back what [`Steering::take`] took. Ports of listeners there are released when those are closed.
    fn give_back(&self, interface: &Steered, address: IpAddr) -> Result<()> {
        interface.addresses.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != address);
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        for port in self.ephemeral.iter().flat_map(|ports| ports.iter()) {
            reserved.remove(&SocketAddr::new(address, *port));
        }
        interface.diversion.as_ref().map_or(Ok(()), |diversion| diversion.remove_address(address))?;
        Ok(())
    }
}

impl Steered {
    fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has(&self, address: IpAddr) -> bool {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }
}

impl Hooks for Steering<'_> {
    fn flow_begins(&self, port: PortId, local: SocketAddr, remote: SocketAddr, shard: u8) -> bool {
        let Some(diversion) = self.shared_at(port) else { return false };
        let entered = diversion.add_flow(local, remote, shard);
        if let Err(error) = &entered {
            tracing::warn!("the connection {local} {remote} cannot be diverted: {error}");
        }
        entered.is_ok()
    }

    fn flow_ended(&self, port: PortId, local: SocketAddr, remote: SocketAddr) {
        let Some(diversion) = self.shared_at(port) else { return };
        if let Err(error) = diversion.remove_flow(local, remote) {
            tracing::warn!("the connection {local} {remote} stays diverted: {error}");
        }
    }

    fn tracks_flows(&self) -> bool {
        self.ephemeral.is_some()
    }

    fn listener_begins(&self, local: SocketAddr) -> io::Result<()> {
        self.shared(local.ip()).try_for_each(|diversion| diversion.add_listener(local).map_err(io::Error::other))
    }

    fn listener_ended(&self, local: SocketAddr) {
        for diversion in self.shared(local.ip()) {
            if let Err(error) = diversion.remove_listener(local) {
                tracing::warn!("connections to {local} stay diverted: {error}");
            }
        }
    }

    fn reserve_port(&self, local: SocketAddr) -> io::Result<()> {
        if !self.is_shared(local.ip()) {
            return Ok(());
        }
        let (socket, bound) = self.link.reserve(local)?;
        // What lies there from an earlier socket of ours keeps the same port.
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).insert(bound, socket);
        Ok(())
    }

    fn release_port(&self, local: SocketAddr) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&local);
    }

    fn ephemeral_ports(&self) -> Option<Arc<[u16]>> {
        self.ephemeral.clone()
    }

    fn neighbour_wanted(&self, port: PortId, address: IpAddr) {
        let Some(interface) = self.interfaces.get(usize::from(port.0)) else { return };
        if let Err(error) = self.link.manage_neighbour(interface.index, address) {
            tracing::warn!("the host cannot be asked to resolve {address}: {error}");
        }
    }

    fn interface_of(&self, index: u32) -> Option<PortId> {
        let place = self
            .interfaces
            .iter()
            .position(|interface| interface.index == index && interface.mode == AddressMode::Shared)?;
        Some(PortId(place as u8))
    }

    fn address_changed(&self, port: PortId, address: IpAddr, present: bool) -> bool {
        let Some(interface) = self.interfaces.get(usize::from(port.0)) else { return false };
        match (present, interface.has(address)) {
            // Told twice.
            (true, true) | (false, false) => false,
            (true, false) if !interface.every_address => false,
            (true, false) => match self.take(interface, address) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!("the host's new address {address} stays with the host alone: {error:#}");
                    false
                }
            },
            (false, true) => {
                if let Err(error) = self.give_back(interface, address) {
                    tracing::warn!("the diversion of {address} cannot be taken away: {error:#}");
                }
                true
            }
        }
    }

    fn filters(&self) -> Vec<Filter> {
        self.diversions()
            .filter_map(|diversion| {
                diversion.filter().inspect_err(|error| tracing::warn!("a diversion cannot be read: {error}")).ok()
            })
            .collect()
    }

    fn counters(&self) -> Vec<EbpfStats> {
        self.diversions()
            .filter_map(|diversion| {
                diversion.stats().inspect_err(|error| tracing::warn!("a diversion cannot be read: {error}")).ok()
            })
            .collect()
    }
}

/// How many descriptors keeper and engine may have open.
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| limit as usize)
}

/// Sockets that a predecessor kept for ports: its connections are gone, and so is what they were for.
pub fn drop_reservations(ledger: &Ledger) {
    let entries: Vec<_> = ledger.of_kind(Kind::Reservation).collect();
    for entry in entries {
        // SAFETY: the predecessor is gone; its record is taken over once, here.
        ledger.close(unsafe { ledger.adopt(&entry) });
    }
}
