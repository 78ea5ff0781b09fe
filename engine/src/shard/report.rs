//! How a shard stands: its sockets as `ss -tin` shows them, its counters, its ports'.

use super::Shard;
use super::host::shard_index;
use super::inspect;
use crate::admin::Socket;
use crate::message::ControlMessage;
use crate::port::PortCounters;
use persona_channel::layout::ACCEPT_RING;
use persona_stack::PortId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// A shard's counters.
#[derive(Clone, Debug, Default)]
pub struct ShardReport {
    /// The stack's, by Linux's names.
    pub stack: Vec<(&'static str, u64)>,
    /// The shard's own.
    pub shard: BTreeMap<String, u64>,
    pub ports: Vec<(PortId, PortCounters)>,
}

/// One socket of the shard.
pub type SocketReport = Socket;

impl Shard<'_> {
    pub(crate) fn report(&mut self, ticket: u32, sockets: bool) {
        let sockets = if sockets { self.socket_reports() } else { Vec::new() };
        let report = Box::new(ShardReport {
            stack: self.stack.counters().iter().chain(self.stack.ip_counters().values()).collect(),
            shard: self.own_counters(),
            ports: self
                .host
                .attachments
                .iter()
                .filter_map(|attachment| Some((attachment.id, attachment.port.as_ref()?.counters())))
                .collect(),
        });
        let shard = self.links.index as u8;
        self.links.send_control(ControlMessage::Report { ticket, shard, report, sockets });
    }

    fn own_counters(&self) -> BTreeMap<String, u64> {
        let super::host::ShardCounters {
            handed_over,
            mailbox_full,
            looped,
            loop_full,
            deferred_full,
            damaged_streams,
            accept_full,
            slots_exhausted,
            store_short,
            doorbells,
            sleeps,
        } = self.host.counters;
        let counters = [
            ("ShardHandedOver", handed_over),
            ("ShardMailboxFull", mailbox_full),
            ("ShardLooped", looped),
            ("ShardLoopFull", loop_full),
            ("ShardDeferredFull", deferred_full),
            ("ShardDamagedStreams", damaged_streams),
            ("ShardAcceptFull", accept_full),
            ("ShardSlotsExhausted", slots_exhausted),
            ("ShardStoreShort", store_short),
            ("ShardDoorbells", doorbells),
            ("ShardSleeps", sleeps),
            ("ShardPortFailures", self.failed_ports),
        ];
        counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn socket_reports(&mut self) -> Vec<Socket> {
        let (shard, shards) = (self.links.index, self.links.shards());
        let mut reports = Vec::new();
        for attached in self.host.sessions.iter() {
            let session = std::sync::Arc::clone(&attached.session);
            let view = session.view();
            let waiting: BTreeMap<u32, (u32, u32)> = attached
                .listeners
                .iter()
                .map(|listener| {
                    // Of every shard, as the shared memory has it: a figure to show, no more.
                    let len = |shard| {
                        let ring = view.accept_ring(listener.ring, shard_index(shard));
                        let tail = ring.tail.load(Ordering::Relaxed);
                        tail.wrapping_sub(ring.head.load(Ordering::Relaxed)).min(ACCEPT_RING as u32)
                    };
                    (listener.slot.get(), ((0..shards).map(len).sum(), listener.backlog))
                })
                .collect();
            for record in attached.records() {
                let socket = view.socket(record.slot);
                let info = record.connection.and_then(|connection| self.stack.info(self.now, connection).ok());
                let listening = inspect::is_listening(record.phase);
                let (recv_q, send_q) = if listening {
                    let (waiting, backlog) = waiting.get(&record.slot.get()).copied().unwrap_or_default();
                    (u64::from(waiting), u64::from(backlog))
                } else {
                    let read = record.receive.poll_read(&socket);
                    (record.receive.published() - read, record.send.end() - record.send.acked())
                };
                let owned = record.has_application();
                reports.push(Socket {
                    state: match &info {
                        Some(info) => inspect::state_name(info).to_owned(),
                        None if listening => "LISTEN".to_owned(),
                        None => "UNCONN".to_owned(),
                    },
                    local: shown(record.local.or(record.bound)),
                    remote: shown(record.remote),
                    recv_q,
                    send_q,
                    pid: owned.then_some(session.peer.pid),
                    program: owned.then(|| session.peer.program.clone()),
                    uid: Some(session.peer.uid),
                    session: Some(u64::from(session.index) + 1),
                    shard: Some(shard as u8),
                    reason: None,
                    relay: record.relay.is_some(),
                    timer: info.as_ref().and_then(inspect::timer),
                    tcp: info.as_ref().map(inspect::tcp),
                });
            }
        }
        reports
    }
}

/// As `ss -n` shows it.
fn shown(address: Option<SocketAddr>) -> String {
    match address {
        None => "*:*".to_owned(),
        Some(address) if address.ip().is_unspecified() && address.port() == 0 => "*:*".to_owned(),
        Some(address) if address.port() == 0 => format!("{}:*", address.ip()),
        Some(address) => address.to_string(),
    }
}
