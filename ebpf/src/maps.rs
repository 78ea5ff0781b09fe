//! [`Maps`]: what is diverted, what came of it, and what to do while no engine runs.
//!
//! All calls take `&self` and may come from any thread: the kernel serialises them per element. They need the
//! descriptors and no capability.

use crate::counters::{Counters, Reason};
use crate::error::Error;
use crate::keys::{AddressKey, AddressMode, AddressValue, FlowKey, FlowValue, ListenerKey, ListenerValue};
use crate::sys;
use std::collections::HashSet;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The descriptors of one object's maps, in whatever form (owned, or numbers for a ledger).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFds<T> {
    pub flows: T,
    pub listeners: T,
    pub addresses: T,
    pub xsks: T,
    pub counters: T,
    pub hold_until: T,
}

/// The typed face of one object's maps.
#[derive(Debug)]
pub struct Maps {
    fds: MapFds<OwnedFd>,
    flows_max: u32,
    listeners_max: u32,
    addresses_max: u32,
    queues_max: u32,
}

/// What to do with frames that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// An engine runs: divert.
    Run,
    /// No engine runs: drop until this time on CLOCK_BOOTTIME, then pass to the host.
    Until(Duration),
    /// Pass to the host.
    Pass,
}

/// An entry with the frames that it has matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits<K, V> {
    pub key: K,
    pub value: V,
    pub hits: u64,
}

impl<T> MapFds<T> {
    /// The same descriptors in another form, in the order of the fields.
    pub fn map<U>(self, mut convert: impl FnMut(T) -> U) -> MapFds<U> {
        match self.try_map(|fd| Ok::<U, std::convert::Infallible>(convert(fd))) {
            Ok(fds) => fds,
        }
    }

    /// The same, unless one cannot be converted.
    pub fn try_map<U, E>(self, mut convert: impl FnMut(T) -> Result<U, E>) -> Result<MapFds<U>, E> {
        Ok(MapFds {
            flows: convert(self.flows)?,
            listeners: convert(self.listeners)?,
            addresses: convert(self.addresses)?,
            xsks: convert(self.xsks)?,
            counters: convert(self.counters)?,
            hold_until: convert(self.hold_until)?,
        })
    }
}

impl Maps {
    /// Goes on with maps that this process made or inherited. Each must be of this build's shape.
    pub fn from_fds(fds: MapFds<OwnedFd>) -> Result<Self, Error> {
        let flows_max = check::<FlowKey, FlowValue>("flows", &fds.flows)?;
        let listeners_max = check::<ListenerKey, ListenerValue>("listeners", &fds.listeners)?;
        let addresses_max = check::<AddressKey, AddressValue>("addresses", &fds.addresses)?;
        let queues_max = check::<u32, u32>("xsks", &fds.xsks)?;
        let reasons = check::<u32, u64>("counters", &fds.counters)?;
        check::<u32, u64>("hold_until", &fds.hold_until)?;
        if reasons as usize != Reason::ALL.len() {
            let reason = format!("it counts {reasons} reasons instead of {}", Reason::ALL.len());
            return Err(Error::ForeignMap { map: "counters", reason });
        }
        Ok(Self { fds, flows_max, listeners_max, addresses_max, queues_max })
    }

    /// The descriptors' numbers, for whoever shares this process's table.
    pub fn fds(&self) -> MapFds<RawFd> {
        let fds = &self.fds;
        MapFds {
            flows: fds.flows.as_raw_fd(),
            listeners: fds.listeners.as_raw_fd(),
            addresses: fds.addresses.as_raw_fd(),
            xsks: fds.xsks.as_raw_fd(),
            counters: fds.counters.as_raw_fd(),
            hold_until: fds.hold_until.as_raw_fd(),
        }
    }

    // Flows.

    /// Diverts a connection; `shard` is for display. Again for the same key: the new shard, and hits from 0.
    pub fn insert_flow(&self, key: FlowKey, shard: u32) -> Result<(), Error> {
        let value = FlowValue { shard, reserved: 0, hits: 0 };
        sys::update(self.fds.flows.as_fd(), &key, &value, sys::ANY)
            .map_err(|cause| refused("flow", "flows", self.flows_max, cause))
    }

    /// Returns whether it was there.
    pub fn remove_flow(&self, key: FlowKey) -> Result<bool, Error> {
        remove("flows", self.fds.flows.as_fd(), &key)
    }

    /// All flows with their shards. Entries that come or go meanwhile may be missing.
    pub fn flows(&self) -> Result<Vec<Hits<FlowKey, u32>>, Error> {
        list("flows", self.fds.flows.as_fd(), |key: FlowKey, value: FlowValue| Hits {
            key,
            value: value.shard,
            hits: value.hits,
        })
    }

    // Listeners.

    /// Diverts what comes to an address and port. A listener that is there keeps its hits.
    pub fn insert_listener(&self, key: ListenerKey) -> Result<(), Error> {
        insert_new(self.fds.listeners.as_fd(), &key, &ListenerValue { hits: 0 })
            .map_err(|cause| refused("listener", "listeners", self.listeners_max, cause))
    }

    /// Returns whether it was there.
    pub fn remove_listener(&self, key: ListenerKey) -> Result<bool, Error> {
        remove("listeners", self.fds.listeners.as_fd(), &key)
    }

    pub fn listeners(&self) -> Result<Vec<Hits<ListenerKey, ()>>, Error> {
        list("listeners", self.fds.listeners.as_fd(), |key: ListenerKey, value: ListenerValue| Hits {
            key,
            value: (),
            hits: value.hits,
        })
    }

    // Addresses.

    /// Says whose an address is; again for the same address: the new mode, and hits from 0.
    pub fn insert_address(&self, address: IpAddr, mode: AddressMode) -> Result<(), Error> {
        let value = AddressValue { mode: mode.code(), reserved: 0, hits: 0 };
        sys::update(self.fds.addresses.as_fd(), &AddressKey::from(address), &value, sys::ANY)
            .map_err(|cause| refused("address", "addresses", self.addresses_max, cause))
    }

    /// Returns whether it was there.
    pub fn remove_address(&self, address: IpAddr) -> Result<bool, Error> {
        remove("addresses", self.fds.addresses.as_fd(), &AddressKey::from(address))
    }

    pub fn addresses(&self) -> Result<Vec<Hits<IpAddr, AddressMode>>, Error> {
        list("addresses", self.fds.addresses.as_fd(), |key: AddressKey, value: AddressValue| Hits {
            key: key.ip(),
            value: AddressMode::from_code(value.mode),
            hits: value.hits,
        })
    }

    // Sockets.

    /// Frames that arrive on `queue` and are ours go to this AF_XDP socket. The socket needs its UMEM, fill ring and
    /// receive ring before. The entry vanishes when the socket does.
    pub fn set_xsk(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        sys::update(self.fds.xsks.as_fd(), &queue, &(socket.as_raw_fd() as u32), sys::ANY)
            .map_err(|cause| refused("queue's socket", "xsks", self.queues_max, cause))
    }

    pub fn unset_xsk(&self, queue: u32) -> Result<(), Error> {
        remove("xsks", self.fds.xsks.as_fd(), &queue).map(drop)
    }

    // State and counters.

    pub fn set_hold(&self, hold: Hold) -> Result<(), Error> {
        let until: u64 = match hold {
            Hold::Run => 0,
            Hold::Pass => 1,
            Hold::Until(deadline) => u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX).max(2),
        };
        sys::update(self.fds.hold_until.as_fd(), &0u32, &until, sys::ANY).map_err(|cause| Error::Map {
            action: "write",
            map: "hold_until",
            cause,
        })
    }

    /// Drops what is ours for `span` from now on, then passes it.
    pub fn hold_for(&self, span: Duration) -> Result<(), Error> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        self.set_hold(Hold::Until(now.saturating_add(span)))
    }

    pub fn hold(&self) -> Result<Hold, Error> {
        let mut until = 0u64;
        sys::lookup(self.fds.hold_until.as_fd(), &0u32, &mut until).map_err(|cause| Error::Map {
            action: "read",
            map: "hold_until",
            cause,
        })?;
        Ok(match until {
            0 => Hold::Run,
            1 => Hold::Pass,
            deadline => Hold::Until(Duration::from_nanos(deadline)),
        })
    }

    pub fn counters(&self) -> Result<Counters, Error> {
        let failed = |cause| Error::Map { action: "read", map: "counters", cause };
        let cpus = aya::util::nr_cpus().map_err(|(_, cause)| failed(cause))?;
        let mut per_cpu = vec![0u64; cpus];
        let mut sums = [0; Reason::ALL.len()];
        for reason in Reason::ALL {
            sys::lookup(self.fds.counters.as_fd(), &(reason as u32), per_cpu.as_mut_slice()).map_err(failed)?;
            sums[reason as usize] = per_cpu.iter().sum();
        }
        Ok(Counters(sums))
    }
}

/// The map's capacity, when its records have the size of ours.
fn check<K, V>(map: &'static str, fd: &OwnedFd) -> Result<u32, Error> {
    let shape = sys::map_shape(fd.as_fd()).map_err(|error| Error::ForeignMap { map, reason: error.to_string() })?;
    if (shape.key_size as usize, shape.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
        let reason = format!(
            "key and value take {} and {} bytes instead of {} and {}",
            shape.key_size,
            shape.value_size,
            size_of::<K>(),
            size_of::<V>()
        );
        return Err(Error::ForeignMap { map, reason });
    }
    Ok(shape.max_entries)
}

fn refused(kind: &'static str, map: &'static str, max: u32, cause: io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::E2BIG | libc::ENOMEM) => Error::Full { kind, map, max },
        _ => Error::Map { action: "write", map, cause },
    }
}

fn insert_new<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    match sys::update(map, key, value, sys::NO_EXIST) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

fn remove<K: IntoBytes + Immutable>(map: &'static str, fd: BorrowedFd<'_>, key: &K) -> Result<bool, Error> {
    match sys::delete(fd, key) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(cause) => Err(Error::Map { action: "delete from", map, cause }),
    }
}

fn list<K, V, T>(map: &'static str, fd: BorrowedFd<'_>, mut entry: impl FnMut(K, V) -> T) -> Result<Vec<T>, Error>
where
    K: FromBytes + IntoBytes + Immutable + Copy + Eq + Hash,
    V: FromBytes + FromZeros,
{
    let failed = |cause| Error::Map { action: "read", map, cause };
    // The kernel starts again at the first key when the previous one is gone: nothing may be listed twice, and a map
    // that others empty as we walk must not keep us.
    let steps = 2 * sys::map_shape(fd).map_err(failed)?.max_entries as usize;
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    let mut previous: Option<K> = None;
    for _ in 0..steps {
        let Some(key) = sys::next_key(fd, previous.as_ref()).map_err(failed)? else { break };
        previous = Some(key);
        if !seen.insert(key) {
            continue;
        }
        let mut value = V::new_zeroed();
        match sys::lookup(fd, &key, &mut value) {
            Ok(()) => entries.push(entry(key, value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(cause) => return Err(failed(cause)),
        }
    }
    Ok(entries)
}
