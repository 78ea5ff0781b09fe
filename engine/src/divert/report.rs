//! What `persona filter show` and `persona stats` say of a diversion.

use super::{Diversion, Error, Hold};
use crate::admin::{EbpfStats, Filter, FilterEntry};

impl Diversion {
    /// All entries with their hits, addresses first, each kind in order.
    pub fn filter(&self) -> Result<Filter, Error> {
        let entry =
            |kind: &str, local: String, hits| FilterEntry { kind: kind.into(), local, hits, ..FilterEntry::default() };
        let mut addresses = self.maps.addresses()?;
        addresses.sort_by_key(|entry| entry.key);
        let mut listeners = self.maps.listeners()?;
        listeners.sort_by_key(|entry| entry.key);
        let mut flows = self.maps.flows()?;
        flows.sort_by_key(|entry| entry.key);

        let mut entries = Vec::with_capacity(addresses.len() + listeners.len() + flows.len());
        entries.extend(addresses.into_iter().map(|address| {
            // A shared address diverts nothing by itself.
            let kind = match address.value {
                super::AddressMode::Own => "address",
                super::AddressMode::Shared => "shared address",
            };
            entry(kind, address.key.to_string(), address.hits)
        }));
        entries.extend(
            listeners.into_iter().map(|listener| entry("listener", listener.key.local().to_string(), listener.hits)),
        );
        entries.extend(flows.into_iter().map(|flow| FilterEntry {
            remote: Some(flow.key.remote().to_string()),
            shard: u8::try_from(flow.value).ok(),
            ..entry("flow", flow.key.local().to_string(), flow.hits)
        }));

        let state = match self.maps.hold()? {
            Hold::Run => "run",
            Hold::Until(_) => "hold",
            Hold::Pass => "pass",
        };
        Ok(Filter { interface: self.interface.clone(), attached: self.attached(), state: state.into(), entries })
    }

    /// The programs' counters by name.
    pub fn stats(&self) -> Result<EbpfStats, Error> {
        let counters = self.counters()?.iter().map(|(reason, frames)| (reason.name().into(), frames)).collect();
        Ok(EbpfStats { interface: self.interface.clone(), counters })
    }
}
