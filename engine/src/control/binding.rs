//! bind() and listen() as the control thread decides them.
//!
//! A listener exists on every shard or on none: the order goes to all, and when all have answered the slot's owner hears
//! the outcome. The end goes the same way back, before slot, port and accept rings can be used again.

use super::Control;
use super::ports::{Claim, Holder, Refused};
use crate::message::{ListenOrder, Origin, ShardMessage, SlotKey};
use crate::shard::options::Settings;
use persona_channel::layout::LISTENERS;
use persona_channel::memory::ListenerIndex;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// A listener that shards are being told of.
pub struct Opening {
    shard: usize,
    key: SlotKey,
    origin: Origin,
    local: SocketAddr,
    listener: ListenerIndex,
    /// Shards that have not answered.
    missing: usize,
    /// The first refusal.
    failed: Option<i32>,
}

/// A listener that shards are giving up.
pub struct Ending {
    shard: usize,
    key: SlotKey,
    listener: ListenerIndex,
    missing: usize,
    /// How the opening failed, if that is why it ends.
    failed: Option<(Origin, i32)>,
}

/// Linux's net.ipv4.ip_local_port_range.
pub fn ephemeral_range() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last && first > 0 => first..=last,
        _ => 32_768..=60_999,
    }
}

/// Linux's net.ipv4.ip_unprivileged_port_start: ports below need CAP_NET_BIND_SERVICE.
pub fn reserved_below() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1_024)
}

fn holder(key: SlotKey) -> Holder {
    Holder { session: key.session, slot: key.slot.get() }
}

impl Control<'_> {
    pub(crate) fn bind(
        &mut self,
        key: SlotKey,
        local: SocketAddr,
        reuse_address: bool,
        reuse_port: bool,
    ) -> Result<SocketAddr, i32> {
        let Some(entry) = self.entry(key.session) else { return Err(libc::EBADF) };
        let (uid, may_bind_reserved) = (entry.session.peer.uid, entry.session.peer.may_bind_reserved);
        if local.port() != 0 && local.port() < self.reserved_below && !may_bind_reserved {
            return Err(libc::EACCES);
        }
        let claim = Claim { holder: holder(key), local, reuse_address, reuse_port, uid };
        let used = std::sync::Arc::clone(&self.ports_used);
        // A port of the range may be the host's already (shared mode): another one then.
        for _ in 0..if local.port() == 0 { 64 } else { 1 } {
            let bound = self.ports.bind(claim, &used).map_err(|refused| match refused {
                Refused::InUse => libc::EADDRINUSE,
                Refused::Bound => libc::EINVAL,
            })?;
            if self.ports.holders(bound.port()) > 1 {
                return Ok(bound);
            }
            match self.hooks.reserve_port(bound) {
                Ok(_) => return Ok(bound),
                Err(error) => {
                    self.ports.release(claim.holder);
                    let errno = error.raw_os_error().unwrap_or(libc::EADDRINUSE);
                    if errno != libc::EADDRINUSE || local.port() != 0 {
                        return Err(errno);
                    }
                }
            }
        }
        Err(libc::EADDRINUSE)
    }

    pub(crate) fn open_listener(
        &mut self,
        shard: usize,
        key: SlotKey,
        origin: Origin,
        local: SocketAddr,
        backlog: u32,
        settings: &Settings,
    ) {
        match self.prepare_listener(key, local, settings) {
            Err(errno) => self.links.send(shard, ShardMessage::Listened { key, origin, result: Err(errno) }),
            Ok((local, listener)) => {
                let ticket = self.ticket();
                let missing = self.links.shards();
                let opening = Opening { shard, key, origin, local, listener, missing, failed: None };
                self.listening.insert(ticket, opening);
                let order = ListenOrder { key, ticket, local, backlog, listener, settings: *settings };
                for shard in 0..missing {
                    self.links.send(shard, ShardMessage::Listen(Box::new(order.clone())));
                }
            }
        }
    }

    fn prepare_listener(
        &mut self,
        key: SlotKey,
        unbound: SocketAddr,
        settings: &Settings,
    ) -> Result<(SocketAddr, ListenerIndex), i32> {
        if self.ports.bound(holder(key)).is_none() {
            self.bind(key, unbound, settings.reuse_address, settings.reuse_port)?;
        }
        let local = self.ports.listen(holder(key)).map_err(|_| libc::EADDRINUSE)?;
        let listener = self.claim_listener(key.session);
        if listener.is_none() {
            self.ports.set_listening(holder(key), false);
        }
        let listener = listener.ok_or(libc::ENOBUFS)?;
        if let Err(error) = self.hooks.listener_begins(local) {
            tracing::error!("connections to {local} cannot be diverted: {error}");
            self.ports.set_listening(holder(key), false);
            self.free_listener(key.session, listener);
            return Err(libc::ENOBUFS);
        }
        Ok((local, listener))
    }

    pub(crate) fn shard_listens(&mut self, ticket: u32, result: Result<(), i32>) {
        let Some(opening) = self.listening.get_mut(&ticket) else { return };
        opening.missing -= 1;
        opening.failed = opening.failed.or(result.err());
        if opening.missing > 0 {
            return;
        }
        let Some(opening) = self.listening.remove(&ticket) else { return };
        let Opening { shard, key, origin, local, listener, failed, .. } = opening;
        match failed {
            None => {
                let result = Ok((local, listener));
                self.links.send(shard, ShardMessage::Listened { key, origin, result });
            }
            Some(errno) => self.end_listener(shard, key, Some((origin, errno)), listener),
        }
    }

    pub(crate) fn close_listener(&mut self, shard: usize, key: SlotKey, listener: ListenerIndex) {
        self.end_listener(shard, key, None, listener);
        // At once, not when the last shard has stopped: who closes a listener may bind its address right after.
        self.give_up_port(holder(key));
    }

    fn end_listener(&mut self, shard: usize, key: SlotKey, failed: Option<(Origin, i32)>, listener: ListenerIndex) {
        if let Some(local) = self.ports.bound(holder(key)) {
            self.ports.set_listening(holder(key), false);
            // Whoever shares the address needs its connections diverted still.
            if !self.ports.is_listened(local) {
                self.hooks.listener_ended(local);
            }
        }
        let ticket = self.ticket();
        let missing = self.links.shards();
        self.unlistening.insert(ticket, Ending { shard, key, listener, missing, failed });
        for shard in 0..missing {
            self.links.send(shard, ShardMessage::Unlisten { key, ticket });
        }
    }

    pub(crate) fn shard_listens_no_more(&mut self, ticket: u32) {
        let Some(ending) = self.unlistening.get_mut(&ticket) else { return };
        ending.missing -= 1;
        if ending.missing > 0 {
            return;
        }
        let Some(Ending { shard, key, listener, failed, .. }) = self.unlistening.remove(&ticket) else { return };
        self.free_listener(key.session, listener);
        match failed {
            Some((origin, errno)) => {
                self.links.send(shard, ShardMessage::Listened { key, origin, result: Err(errno) });
            }
            None => self.links.send(shard, ShardMessage::Unlistened { key }),
        }
    }

    pub(crate) fn release(&mut self, key: SlotKey) {
        self.give_up_port(holder(key));
    }

    pub(crate) fn give_up_port(&mut self, holder: Holder) {
        if let Some((local, true)) = self.ports.release(holder) {
            self.hooks.release_port(local);
        }
    }

    fn claim_listener(&mut self, session: u32) -> Option<ListenerIndex> {
        const { assert!(LISTENERS == 128, "a u128 has a bit for each listener") };
        let entry = self.entry(session)?;
        let free = entry.listeners.trailing_ones();
        let listener = ListenerIndex::new(free)?;
        entry.listeners |= 1 << free;
        Some(listener)
    }

    fn free_listener(&mut self, session: u32, listener: ListenerIndex) {
        if let Some(entry) = self.entry(session) {
            entry.listeners &= !(1 << listener.get());
        }
    }
}
