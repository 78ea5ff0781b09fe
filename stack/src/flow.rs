//! Flows: who talks to whom, as the records hold it, and everything that is derived from it under a secret: the hash
//! of the tables, the owning shard, initial sequence numbers, timestamp offsets and ephemeral ports.

use core::hash::Hasher;
use core::net::{Ipv4Addr, SocketAddr};
use siphasher::sip::{SipHasher13, SipHasher24};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ip::PackedIp;
use crate::time::Instant;

/// The 4-tuple of a connection, seen from our side.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) local: PackedIp,
    pub(crate) remote: PackedIp,
    /// Host order.
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
}

impl Flow {
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: local.ip().into(),
            remote: remote.ip().into(),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }

    pub(crate) fn local_socket(&self) -> SocketAddr {
        SocketAddr::new(self.local.into(), self.local_port)
    }

    pub(crate) fn remote_socket(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), self.remote_port)
    }

    /// The whole flow in few words, for the keyed hashes.
    #[inline]
    fn feed(&self, hasher: &mut impl Hasher) {
        let ports = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        let [local, remote] = [&self.local, &self.remote];
        if local.high() | remote.high() == 0 {
            // IPv4, as good as always: the low halves tell everything, and 32 bits of each all but the family.
            hasher.write_u64(local.low() << 32 | remote.low() & 0xffff_ffff);
            hasher.write_u64(ports);
        } else {
            for half in [local.high(), local.low(), remote.high(), remote.low(), ports] {
                hasher.write_u64(half);
            }
        }
    }

    /// Our address and the peer's; the stack opens no IPv6 connection, so that there is none to be lost here.
    #[inline]
    pub(crate) fn v4(&self) -> (Ipv4Addr, Ipv4Addr) {
        let v4 = |address: PackedIp| address.to_v4().unwrap_or(Ipv4Addr::UNSPECIFIED);
        (v4(self.local), v4(self.remote))
    }
}

/// Keys that derive from the caller's seed, one for each purpose, so that what one of them shows to the network says
/// nothing of another. Lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Secrets {
    table: [u8; 16],
    isn: [u8; 16],
    stamp: [u8; 16],
    port: [u8; 16],
    cookie: [u8; 16],
}

impl Secrets {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            table: derive(seed, b"flow"),
            isn: derive(seed, b"isn "),
            stamp: derive(seed, b"tsof"),
            port: derive(seed, b"port"),
            cookie: derive(seed, b"cook"),
        }
    }

    /// A word for a purpose of somebody else's that wants one unpredictable number.
    pub(crate) fn word(&self, purpose: &[u8; 4]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.port);
        hasher.write(purpose);
        hasher.finish()
    }

    /// Hash for the tables and for the choice of a shard.
    #[inline]
    pub(crate) fn hash(&self, flow: &Flow) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.table);
        flow.feed(&mut hasher);
        hasher.finish()
    }

    /// RFC 6528 section 3: ISN = M + F(flow, secret), M ticking every 4 microseconds.
    pub(crate) fn isn(&self, flow: &Flow, now: Instant) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.isn);
        flow.feed(&mut hasher);
        (hasher.finish() as u32).wrapping_add((now.as_micros() / 4) as u32)
    }

    /// RFC 7323 section 5.4: where the timestamp clock of this pair of hosts begins. Ports stay out of it, so that a
    /// flow that reuses a 4-tuple (and its TIME-WAIT) sees time go on.
    pub(crate) fn stamp_offset(&self, flow: &Flow) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.stamp);
        Flow { local_port: 0, remote_port: 0, ..*flow }.feed(&mut hasher);
        hasher.finish() as u32
    }

    /// RFC 6056 section 3.3.3, algorithm 3: the offset at which the search for an ephemeral port begins.
    pub(crate) fn port_offset(&self, flow: &Flow) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.port);
        Flow { local_port: 0, ..*flow }.feed(&mut hasher);
        hasher.finish() as u32
    }

    /// Authenticates what a SYN cookie says.
    pub(crate) fn cookie(&self, flow: &Flow, irs: u32, count: u32, content: u32) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.cookie);
        flow.feed(&mut hasher);
        hasher.write_u64(u64::from(irs) << 32 | u64::from(count));
        hasher.write_u32(content);
        hasher.finish() as u32
    }
}

fn derive(seed: &[u8; 32], purpose: &[u8; 4]) -> [u8; 16] {
    let mut key = [0; 16];
    for (half, out) in key.chunks_exact_mut(8).enumerate() {
        let mut first = [0; 16];
        first.copy_from_slice(&seed[..16]);
        let mut hasher = SipHasher24::new_with_key(&first);
        hasher.write(&seed[16..]);
        hasher.write(purpose);
        hasher.write_u8(half as u8);
        out.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    key
}

/// The shard of a flow whose hash is known. The tables use the low half, so that the flows of one shard spread over all of
/// its table.
#[inline]
pub(crate) fn shard_of(hash: u64, shards: u8) -> u8 {
    ((u64::from((hash >> 32) as u32) * u64::from(shards)) >> 32) as u8
}

/// The shard that owns a flow: the same on every shard with the same seed, independent of direction's arrival queue.
pub fn flow_shard(seed: &[u8; 32], shards: u8, local: SocketAddr, remote: SocketAddr) -> u8 {
    shard_of(Secrets::new(seed).hash(&Flow::new(local, remote)), shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::str::FromStr;

    fn socket(text: &str) -> SocketAddr {
        SocketAddr::from_str(text).unwrap()
    }

    #[test]
    fn flows_spread_over_shards() {
        let mut count = [0u32; 4];
        for port in 0..4000 {
            let local = SocketAddr::new(socket("10.0.0.1:0").ip(), port);
            count[usize::from(flow_shard(&[7; 32], 4, local, socket("10.0.0.2:80")))] += 1;
        }
        assert!(count.iter().all(|count| (800..1200).contains(count)), "{count:?}");
    }

    #[test]
    fn secrets_differ_by_purpose_and_seed() {
        let flow = Flow::new(socket("10.0.0.1:1000"), socket("10.0.0.2:80"));
        let secrets = Secrets::new(&[1; 32]);
        let now = Instant::from_micros(0);
        assert_ne!(secrets.isn(&flow, now), secrets.stamp_offset(&flow));
        assert_ne!(secrets.isn(&flow, now), Secrets::new(&[2; 32]).isn(&flow, now));
        assert_eq!(
            secrets.isn(&flow, Instant::from_micros(4_000)).wrapping_sub(secrets.isn(&flow, now)),
            1_000,
            "the clock of RFC 6528 ticks every 4 microseconds"
        );
    }
}
