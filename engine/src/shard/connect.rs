//! connect(): which shard opens the connection, from which address, and what follows at once.
//!
//! A socket without a local port is opened by the shard that has it, which picks a port whose flow is its own. With a
//! bound port the flow's owner is given, and the slot moves there first, anchor and all.

use super::Shard;
use super::commands::{Outcome, address, errno};
use super::record::{self, Phase, Record, change_bits};
use super::sessions::owner_of;
use super::sleep::Token;
use crate::message::{Origin, ShardMessage, SlotKey};
use persona_channel::layout::{Command, state_bits};
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::SendReader;
use persona_stack::{ConnectionId, flow_shard};
use rustix::event::epoll;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

impl Shard<'_> {
    pub(crate) fn connect(&mut self, key: SlotKey, command: &Command, origin: Origin) -> Outcome {
        let mut remote = match address(&command.args) {
            Ok(remote) => remote,
            Err(errno) => return Outcome::Done(-errno),
        };
        let owner = owner_of(key.session, key.slot);
        let Some((record, _)) = self.host.sessions.socket(owner) else { return Outcome::Done(-libc::EBADF) };
        match record.phase {
            Phase::Idle | Phase::Failed => {}
            Phase::Connecting => return Outcome::Done(-libc::EALREADY),
            Phase::Connected | Phase::Listening(_) | Phase::Opening => return Outcome::Done(-libc::EISCONN),
            Phase::Ended | Phase::Orphan => return Outcome::Done(-libc::EINVAL),
        }
        let mut local = record.bound.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        if local.ip().is_unspecified() {
            let Some(source) = self.host.routing.source_for(remote.ip()) else {
                return Outcome::Done(-libc::ENETUNREACH);
            };
            local.set_ip(source);
        }
        if remote.ip().is_unspecified() {
            // Linux: the unspecified address means ourselves.
            remote.set_ip(local.ip());
        }
        if local.port() != 0 && self.links.shards() > 1 {
            let shard = flow_shard(&self.seed, self.links.shards() as u8, local, remote).into();
            if shard != self.links.index {
                self.move_to(key, shard, Some((*command, origin)));
                return Outcome::Pending;
            }
        }
        self.open(key, local, remote).into()
    }

    fn open(&mut self, key: SlotKey, local: SocketAddr, remote: SocketAddr) -> Result<(), i32> {
        let owner = owner_of(key.session, key.slot);
        let (record, socket) = self.host.sessions.socket(owner).ok_or(libc::EBADF)?;
        let options = record.settings.stack;
        // A further attempt begins as a fresh socket.
        record.send.release(&socket);
        record.receive.release(&socket);
        (record.send, record.receive) = (SendReader::new(), ReceiveWriter::new());
        (record.told_written, record.told_read) = (0, 0);
        for word in [&socket.state.rcv_end, &socket.state.snd_acked, &socket.cursor.snd_end, &socket.cursor.rcv_read] {
            word.store(0, Ordering::Relaxed);
        }
        change_bits(&socket, state_bits::CONNECTING, record::ENDED | state_bits::ERROR);
        let opened = self.open_from(owner, local, remote, &options);
        let (record, socket) = self.host.sessions.socket(owner).ok_or(libc::EBADF)?;
        let (connection, local) = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                change_bits(&socket, 0, state_bits::CONNECTING);
                return Err(errno);
            }
        };
        record.phase = Phase::Connecting;
        record.connection = Some(connection);
        record.local = Some(local);
        record.remote = Some(remote);
        let user = record.settings.port_user(local.port());
        record.uses_port = Some(user);
        record::publish_addresses(&socket, record.local, record.remote);
        self.host.ports_used.begin(user);
        Ok(())
    }

    fn open_from(
        &mut self,
        owner: persona_stack::Owner,
        local: SocketAddr,
        remote: SocketAddr,
        options: &persona_stack::SocketOptions,
    ) -> Result<(ConnectionId, SocketAddr), i32> {
        let pool = if local.port() == 0 { self.host.hooks.ephemeral_ports() } else { None };
        let Some(pool) = pool else {
            if local.port() != 0 {
                self.flow_begins(local, remote);
            }
            let connection = self
                .stack
                .connect(self.now, owner, local, remote, options, &mut self.host)
                .inspect_err(|_| self.host.flows.end(self.host.hooks, local, remote))
                .map_err(errno)?;
            let local = self.stack.local_address(connection).map_err(errno)?;
            return Ok((connection, local));
        };
        // Begins at an unpredictable place (RFC 6056), and takes ports whose flow is ours.
        let start = self.now.as_micros() as usize ^ owner.0 as usize;
        for step in 0..pool.len() {
            let local = SocketAddr::new(local.ip(), pool[(start + step) % pool.len()]);
            if usize::from(flow_shard(&self.seed, self.links.shards() as u8, local, remote)) != self.links.index {
                continue;
            }
            self.flow_begins(local, remote);
            match self.stack.connect(self.now, owner, local, remote, options, &mut self.host) {
                Ok(connection) => return Ok((connection, local)),
                Err(persona_stack::Error::AddressInUse) => self.host.flows.end(self.host.hooks, local, remote),
                Err(error) => {
                    self.host.flows.end(self.host.hooks, local, remote);
                    return Err(errno(error));
                }
            }
        }
        Err(libc::EADDRNOTAVAIL)
    }

    /// Before the SYN leaves: its answer must find us.
    fn flow_begins(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.host.flows.begin(self.host.hooks, &self.host.routing, self.links.index, local, remote);
    }

    /// Gives a slot, its record and its anchor to another shard.
    fn move_to(&mut self, key: SlotKey, shard: usize, then: Option<(Command, Origin)>) {
        let Some(attached) = self.host.sessions.get(key.session) else { return };
        let Some(record) = attached.remove(key.slot) else { return };
        if let Some(anchor) = &record.anchor {
            let _ = epoll::delete(&self.epoll, anchor.as_fd());
        }
        attached.session.view().socket(key.slot).state.shard.store(shard as u32, Ordering::Release);
        attached.session.resettle(key.slot, shard);
        self.links.send(shard, ShardMessage::Move { session: key.session, record: Box::new(record), then });
    }

    /// A slot has come from another shard.
    pub(crate) fn arrive(&mut self, session: u32, record: Record, then: Option<(Command, Origin)>) {
        let slot = record.slot;
        let Some(attached) = self.host.sessions.get(session) else {
            if let Some((_, origin)) = then {
                self.complete(origin, -libc::EBADF, &[]);
            }
            return;
        };
        let token = Token::Anchor { session, slot }.data();
        let watched = match &record.anchor {
            Some(anchor) => epoll::add(&self.epoll, anchor.as_fd(), token, epoll::EventFlags::empty()),
            None => Ok(()),
        };
        attached.insert(record);
        if let Err(error) = watched {
            tracing::warn!("session {session}: an anchor cannot be watched: {error}");
            self.hang_up(session, slot);
        }
        if let Some((command, origin)) = then {
            self.command(command, origin);
        }
        self.look(session, slot);
    }
}
