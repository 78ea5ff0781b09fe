//! Local ports: who has bound what, and whether another may.
//!
//! The rules are those of Linux for SO_REUSEADDR and SO_REUSEPORT: overlapping claims of a port conflict unless both
//! reuse the address and the older one does not listen, or both share the port and belong to one user. Reserving the
//! port on the host (shared mode) is the caller's affair.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the socket that holds a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    pub session: u32,
    pub slot: u32,
}

/// What a socket wants to bind, and how it would share.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub holder: Holder,
    pub local: SocketAddr,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub uid: u32,
}

struct Held {
    claim: Claim,
    listening: bool,
}

/// Why a claim was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// EADDRINUSE: another socket's claim stands against it, or no ephemeral port is left.
    InUse,
    /// EINVAL: the socket has a claim already.
    Bound,
}

/// Connections by local port, counted by the shards: a port with live connections is taken for whoever does not share it
/// with every one of them.
///
/// A word has three counts of 21 bits: all, those that do not reuse the address, those that do not share the port.
pub struct PortUse(Box<[AtomicU64]>);

/// A connection as [`PortUse`] counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortUser {
    pub port: u16,
    /// SO_REUSEADDR and SO_REUSEPORT of its socket.
    pub reuse_address: bool,
    pub reuse_port: bool,
}

const COUNT_BITS: u32 = 21;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

impl PortUser {
    fn weight(self) -> u64 {
        1 | u64::from(!self.reuse_address) << COUNT_BITS | u64::from(!self.reuse_port) << (2 * COUNT_BITS)
    }
}

impl Default for PortUse {
    fn default() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU64::new(0)).collect())
    }
}

impl PortUse {
    pub fn begin(&self, user: PortUser) {
        self.0[usize::from(user.port)].fetch_add(user.weight(), Ordering::Relaxed);
    }

    pub fn end(&self, user: PortUser) {
        self.0[usize::from(user.port)].fetch_sub(user.weight(), Ordering::Relaxed);
    }

    pub fn is_used(&self, port: u16) -> bool {
        self.0[usize::from(port)].load(Ordering::Relaxed) != 0
    }

    /// Whether a live connection stands against binding its port.
    fn refuses(&self, port: u16, claim: &Claim) -> bool {
        let counts = self.0[usize::from(port)].load(Ordering::Relaxed);
        let all_reuse_address = counts >> COUNT_BITS & COUNT == 0;
        let all_reuse_port = counts >> (2 * COUNT_BITS) & COUNT == 0;
        counts != 0 && !(claim.reuse_address && all_reuse_address) && !(claim.reuse_port && all_reuse_port)
    }
}

/// All claims of the engine. Control thread only.
pub struct PortTable {
    by_port: HashMap<u16, Vec<Held>>,
    by_holder: HashMap<Holder, u16>,
    ephemeral: std::ops::RangeInclusive<u16>,
    /// Ranges, both ends included, that no ephemeral port is taken from.
    reserved: Vec<(u16, u16)>,
    /// Where the search for an ephemeral port goes on; begins at an unpredictable place (RFC 6056).
    next: u16,
}

impl PortTable {
    pub fn new(ephemeral: std::ops::RangeInclusive<u16>, seed: u64) -> Self {
        let span = u64::from(ephemeral.end() - ephemeral.start()) + 1;
        let next = ephemeral.start() + (seed % span) as u16;
        Self { by_port: HashMap::new(), by_holder: HashMap::new(), ephemeral, reserved: Vec::new(), next }
    }

    /// The range that ports are taken from where nobody names one.
    pub fn set_ephemeral(&mut self, ephemeral: std::ops::RangeInclusive<u16>) {
        if !ephemeral.contains(&self.next) {
            self.next = *ephemeral.start();
        }
        self.ephemeral = ephemeral;
    }

    /// Ranges, both ends included, that are taken by name only.
    pub fn reserve(&mut self, ranges: &[(u16, u16)]) {
        self.reserved = ranges.to_vec();
    }

    /// Takes the port that `claim` names, or an ephemeral one for port 0; returns the address as bound.
    pub fn bind(&mut self, claim: Claim, used: &PortUse) -> Result<SocketAddr, Refused> {
        if self.by_holder.contains_key(&claim.holder) {
            return Err(Refused::Bound);
        }
        let port = match claim.local.port() {
            0 => self.ephemeral_port(&claim, used)?,
            port if self.conflicts(&claim, port) || used.refuses(port, &claim) => {
                return Err(Refused::InUse);
            }
            port => port,
        };
        let local = SocketAddr::new(claim.local.ip(), port);
        let claim = Claim { local, ..claim };
        self.by_port.entry(port).or_default().push(Held { claim, listening: false });
        self.by_holder.insert(claim.holder, port);
        Ok(local)
    }

    /// The holder is about to listen: looks again, since another may have begun to since bind().
    pub fn listen(&mut self, holder: Holder) -> Result<SocketAddr, Refused> {
        let port = *self.by_holder.get(&holder).ok_or(Refused::InUse)?;
        let held = self.by_port.get(&port).ok_or(Refused::InUse)?;
        let claim = held.iter().find(|held| held.claim.holder == holder).ok_or(Refused::InUse)?.claim;
        if self.conflicts(&claim, port) {
            return Err(Refused::InUse);
        }
        self.set_listening(holder, true);
        Ok(claim.local)
    }

    pub fn set_listening(&mut self, holder: Holder, listening: bool) {
        let Some(port) = self.by_holder.get(&holder) else { return };
        for held in self.by_port.entry(*port).or_default() {
            if held.claim.holder == holder {
                held.listening = listening;
            }
        }
    }

    /// True if somebody listens at just this address.
    pub fn is_listened(&self, local: SocketAddr) -> bool {
        let held = self.by_port.get(&local.port()).map_or(&[][..], Vec::as_slice);
        held.iter().any(|held| held.listening && held.claim.local == local)
    }

    pub fn bound(&self, holder: Holder) -> Option<SocketAddr> {
        let port = self.by_holder.get(&holder)?;
        let held = self.by_port.get(port)?;
        held.iter().find(|held| held.claim.holder == holder).map(|held| held.claim.local)
    }

    /// Gives the holder's claim up. Returns the address and whether nobody else holds the port any more.
    pub fn release(&mut self, holder: Holder) -> Option<(SocketAddr, bool)> {
        let port = self.by_holder.remove(&holder)?;
        let held = self.by_port.get_mut(&port)?;
        let place = held.iter().position(|held| held.claim.holder == holder)?;
        let local = held.swap_remove(place).claim.local;
        let last = held.is_empty();
        if last {
            self.by_port.remove(&port);
        }
        Some((local, last))
    }

    /// How many hold a port.
    pub fn holders(&self, port: u16) -> usize {
        self.by_port.get(&port).map_or(0, Vec::len)
    }

    pub fn holders_of(&self, session: u32) -> Vec<Holder> {
        self.by_holder.keys().filter(|holder| holder.session == session).copied().collect()
    }

    fn is_reserved(&self, port: u16) -> bool {
        self.reserved.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    fn conflicts(&self, claim: &Claim, port: u16) -> bool {
        let others = self.by_port.get(&port).map_or(&[][..], Vec::as_slice);
        others.iter().filter(|other| other.claim.holder != claim.holder).any(|other| {
            let share_address = claim.reuse_address && other.claim.reuse_address && !other.listening;
            let share_port = claim.reuse_port && other.claim.reuse_port && claim.uid == other.claim.uid;
            overlap(claim.local.ip(), other.claim.local.ip()) && !share_address && !share_port
        })
    }

    fn ephemeral_port(&mut self, claim: &Claim, used: &PortUse) -> Result<u16, Refused> {
        for _ in self.ephemeral.clone() {
            let port = self.next;
            self.next = if port == *self.ephemeral.end() { *self.ephemeral.start() } else { port + 1 };
            if !self.is_reserved(port) && !self.by_port.contains_key(&port) && !used.is_used(port) {
                return Ok(port);
            }
        }
        // Every port has somebody: one that may be shared will do, as on Linux.
        let may = |port: &u16| !self.is_reserved(*port) && !self.conflicts(claim, *port);
        self.ephemeral.clone().find(may).ok_or(Refused::InUse)
    }
}

fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_unspecified() || other.is_unspecified() || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(slot: u32, local: &str) -> Claim {
        Claim {
            holder: Holder { session: 1, slot },
            local: local.parse().unwrap(),
            reuse_address: false,
            reuse_port: false,
            uid: 1000,
        }
    }

    fn table() -> (PortTable, PortUse) {
        (PortTable::new(40_000..=40_003, 77), PortUse::default())
    }

    #[test]
    fn overlapping_addresses_conflict_and_disjoint_ones_do_not() {
        let (mut table, used) = table();
        table.bind(claim(1, "10.0.0.1:80"), &used).unwrap();
        table.bind(claim(2, "10.0.0.2:80"), &used).unwrap();
        assert_eq!(table.bind(claim(3, "0.0.0.0:80"), &used), Err(Refused::InUse));
        assert_eq!(table.bind(claim(1, "10.0.0.1:81"), &used), Err(Refused::Bound));
    }

    #[test]
    fn reserved_ports_are_taken_by_name_only() {
        let (mut table, used) = table();
        table.set_ephemeral(50_000..=50_003);
        table.reserve(&[(50_000, 50_001), (50_003, 50_003)]);
        assert_eq!(table.bind(claim(1, "10.0.0.1:0"), &used), Ok("10.0.0.1:50002".parse().unwrap()));
        assert_eq!(table.bind(claim(2, "10.0.0.1:0"), &used), Err(Refused::InUse));
        assert_eq!(table.bind(claim(3, "10.0.0.1:50001"), &used), Ok("10.0.0.1:50001".parse().unwrap()));
    }

    #[test]
    fn reusing_an_address_needs_both_and_no_listener() {
        let (mut table, used) = table();
        let sharing = |slot| Claim { reuse_address: true, ..claim(slot, "0.0.0.0:80") };
        table.bind(sharing(1), &used).unwrap();
        assert_eq!(table.bind(claim(2, "0.0.0.0:80"), &used), Err(Refused::InUse));
        table.bind(sharing(2), &used).unwrap();
        table.listen(Holder { session: 1, slot: 1 }).unwrap();
        assert_eq!(table.listen(Holder { session: 1, slot: 2 }), Err(Refused::InUse));
        assert_eq!(table.bind(sharing(3), &used), Err(Refused::InUse));
        assert_eq!(table.release(Holder { session: 1, slot: 1 }), Some(("0.0.0.0:80".parse().unwrap(), false)));
        table.listen(Holder { session: 1, slot: 2 }).unwrap();
    }

    #[test]
    fn sharing_a_port_is_for_one_user() {
        let (mut table, used) = table();
        let sharing = |slot, uid| Claim { reuse_port: true, uid, ..claim(slot, "0.0.0.0:80") };
        table.bind(sharing(1, 5), &used).unwrap();
        table.listen(Holder { session: 1, slot: 1 }).unwrap();
        table.bind(sharing(2, 5), &used).unwrap();
        table.listen(Holder { session: 1, slot: 2 }).unwrap();
        assert_eq!(table.bind(sharing(3, 6), &used), Err(Refused::InUse));
        let local = "0.0.0.0:80".parse().unwrap();
        table.set_listening(Holder { session: 1, slot: 1 }, false);
        assert!(table.is_listened(local));
        table.set_listening(Holder { session: 1, slot: 2 }, false);
        assert!(!table.is_listened(local));
    }

    #[test]
    fn a_port_with_live_connections_is_for_those_who_share_it_with_all_of_them() {
        let (mut table, used) = table();
        let plain = claim(1, "0.0.0.0:80");
        let address = Claim { reuse_address: true, ..plain };
        let port = Claim { reuse_port: true, ..plain };
        let mut attempt = |claim, used: &PortUse| {
            let outcome = table.bind(claim, used).is_ok();
            table.release(claim.holder);
            outcome
        };
        let first = PortUser { port: 80, reuse_address: true, reuse_port: true };
        used.begin(first);
        assert_eq!([plain, address, port].map(|claim| attempt(claim, &used)), [false, true, true]);
        let second = PortUser { reuse_address: false, ..first };
        used.begin(second);
        assert_eq!([plain, address, port].map(|claim| attempt(claim, &used)), [false, false, true]);
        used.end(second);
        assert!(attempt(address, &used));
        used.end(first);
        assert!(!used.is_used(80) && attempt(plain, &used));
    }

    #[test]
    fn ephemeral_ports_come_from_the_range_until_it_is_used_up() {
        let (mut table, used) = table();
        used.begin(PortUser { port: 40_002, reuse_address: false, reuse_port: false });
        let mut ports: Vec<u16> =
            (0..3).map(|slot| table.bind(claim(slot, "0.0.0.0:0"), &used).unwrap().port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [40_000, 40_001, 40_003]);
        // 40002 has a connection but no claim: the last resort.
        assert_eq!(table.bind(claim(4, "0.0.0.0:0"), &used).map(|local| local.port()), Ok(40_002));
        assert_eq!(table.bind(claim(5, "0.0.0.0:0"), &used), Err(Refused::InUse));
        assert_eq!(table.holders_of(1).len(), 4);
    }
}
