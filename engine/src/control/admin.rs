//! The administration socket: `persona sockets`, `stats`, `filter show`, `capture`, `info`, `sysctl`.
//!
//! One JSON request and one JSON reply per line (see `crate::admin`). What the shards know is asked of each by a message; the
//! reply goes out when all have answered. A capture turns its connection into a pcapng stream, a trace (`trace.rs`) into one of
//! JSON lines.

use super::{Control, Token};
use crate::admin::{CaptureFilter, Filter, Info, InterfaceInfo, PortStats, Reply, Request, Socket, Stats, Sysctl};
use crate::capture::{self, Source, pcapng};
use crate::message::ShardMessage;
use crate::shard::report::ShardReport;
use crate::sysctl::Refused;
use persona_channel::layout::ABI_VERSION;
use persona_stack::PortId;
use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Longest request.
const REQUEST: usize = 64 * 1024;
/// Bytes that wait for a reader before its connection is given up (replies) or frames are dropped (capture).
pub(super) const BACKLOG: usize = 16 * 1024 * 1024;

/// What is known of an interface since start.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFacts {
    pub name: String,
    pub shared: bool,
    pub addresses: Vec<String>,
    pub mtu: u32,
    pub mac: Option<[u8; 6]>,
    /// For each queue: number, shard, what was chosen.
    pub queues: Vec<(u32, u8, String)>,
    pub link_header: usize,
}

/// A connection of the command.
pub struct Administrator {
    socket: OwnedFd,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Nothing more is to be said.
    closing: bool,
}

/// A question that shards are answering.
pub struct Pending {
    administrator: u32,
    question: Question,
    missing: usize,
    reports: Vec<(usize, ShardReport)>,
    sockets: Vec<Socket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Sockets,
    Stats,
}

/// A running capture.
pub struct Capture {
    administrator: u32,
    sources: Vec<Source>,
    snap: usize,
    /// Frames dropped because the reader was too slow.
    dropped: u64,
}

impl Control<'_> {
    /// The command has connected.
    pub(crate) fn admit(&mut self, socket: OwnedFd) {
        let serial = self.serial();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if let Err(error) = epoll::add(&self.epoll, &socket, Token::Administrator(serial).data(), flags) {
            tracing::error!("an administrator cannot be watched: {error}");
            return;
        }
        let administrator = Administrator { socket, input: Vec::new(), output: VecDeque::new(), closing: false };
        self.administrators.insert(serial, administrator);
    }

    /// The command has sent something, has room again, or is gone.
    pub(crate) fn hear_administrator(&mut self, serial: u32) {
        self.write_out(serial);
        let Some(administrator) = self.administrators.get_mut(&serial) else { return };
        let mut buffer = [0u8; 4_096];
        loop {
            match rustix::net::recv(&administrator.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return self.dismiss(serial),
                Ok((length, _)) if administrator.input.len() + length <= REQUEST => {
                    administrator.input.extend(&buffer[..length]);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return self.dismiss(serial),
            }
        }
        while let Some(administrator) = self.administrators.get_mut(&serial) {
            let Some(end) = administrator.input.iter().position(|&byte| byte == b'\n') else { return };
            let line: Vec<u8> = administrator.input.drain(..=end).collect();
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.request(serial, request),
                Err(error) => {
                    self.reply::<()>(serial, &Reply::Error(format!("the request is not understood: {error}")))
                }
            }
        }
    }

    fn request(&mut self, serial: u32, request: Request) {
        match request {
            Request::Info => {
                let info = self.info();
                self.reply(serial, &Reply::Ok(info));
            }
            Request::Sockets => self.ask_shards(serial, Question::Sockets),
            Request::Stats => self.ask_shards(serial, Question::Stats),
            Request::Filter => {
                let filters: Vec<Filter> = self.hooks.filters();
                self.reply(serial, &Reply::Ok(filters));
            }
            Request::Sysctl { set, get } => {
                let reply = self.sysctl(&set, &get).map_or_else(Reply::Error, Reply::Ok);
                self.reply(serial, &reply);
            }
            Request::Capture { filter, snap } => self.capture(serial, &filter, snap),
            Request::Trace { local, remote } => self.trace(serial, local, remote),
        }
    }

    fn sysctl(&mut self, set: &[Sysctl], get: &[String]) -> Result<Vec<Sysctl>, String> {
        let mut changed = self.tunables.clone();
        let mut answer = Vec::new();
        for Sysctl { name, value, .. } in set {
            let warning = changed.set(name, value).map_err(Refused::into_sentence)?;
            let (name, value) = changed.get(name).map_err(Refused::into_sentence)?;
            answer.push(Sysctl { name: name.to_owned(), value, warning });
        }
        for name in get {
            let (name, value) = changed.get(name).map_err(Refused::into_sentence)?;
            answer.push(Sysctl { name: name.to_owned(), value, warning: None });
        }
        if set.is_empty() && get.is_empty() {
            let all = changed.all().map(|(name, value)| Sysctl { name: name.to_owned(), value, warning: None });
            answer.extend(all);
        }
        if changed != self.tunables {
            if let Some((first, last)) = changed.ports {
                self.ports.set_ephemeral(first..=last);
            }
            self.ports.reserve(&changed.reserved_ports);
            for shard in 0..self.links.shards() {
                self.links.send(shard, ShardMessage::Tune(Box::new(changed.clone())));
            }
            self.tunables = changed;
        }
        Ok(answer)
    }

    fn info(&self) -> Info {
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            abi: ABI_VERSION,
            restarts: self.restarts,
            uptime: self.started.elapsed().as_secs_f64(),
            sessions: self.sessions.iter().flatten().count() as u32,
            shards: self.shards.clone(),
            interfaces: self
                .interfaces
                .iter()
                .map(|facts| InterfaceInfo {
                    param: facts.name.clone(),
                    address: if facts.shared { "shared" } else { "own" }.to_owned(),
                    addresses: facts.addresses.clone(),
                    mtu: facts.mtu,
                    mac: facts.mac.map(shown_mac),
                    ports: facts.queues.iter().map(|(.., description)| description.clone()).collect(),
                })
                .collect(),
        }
    }

    fn ask_shards(&mut self, administrator: u32, question: Question) {
        let ticket = self.ticket();
        let missing = self.links.shards();
        let pending = Pending { administrator, question, missing, reports: Vec::new(), sockets: Vec::new() };
        self.reports.insert(ticket, pending);
        for shard in 0..missing {
            self.links.send(shard, ShardMessage::Report { ticket, sockets: question == Question::Sockets });
        }
    }

    pub(crate) fn report_came(&mut self, ticket: u32, shard: usize, report: ShardReport, sockets: Vec<Socket>) {
        let Some(pending) = self.reports.get_mut(&ticket) else { return };
        pending.missing -= 1;
        pending.reports.push((shard, report));
        pending.sockets.extend(sockets);
        if pending.missing > 0 {
            return;
        }
        let Some(mut pending) = self.reports.remove(&ticket) else { return };
        pending.reports.sort_by_key(|(shard, _)| *shard);
        match pending.question {
            Question::Sockets => {
                let mut sockets = merge_listeners(pending.sockets);
                sockets.extend(self.host_sockets());
                self.reply(pending.administrator, &Reply::Ok(sockets));
            }
            Question::Stats => {
                let stats = self.stats(pending.reports);
                self.reply(pending.administrator, &Reply::Ok(stats));
            }
        }
    }

    /// Sockets that the library left to the host, with the reason.
    fn host_sockets(&self) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for process in self.processes.values() {
            for (reason, address) in process.reasons.iter().flatten() {
                sockets.push(Socket {
                    state: "HOST".to_owned(),
                    local: "*:*".to_owned(),
                    remote: if address.is_empty() { "*:*".to_owned() } else { address.clone() },
                    pid: Some(process.pid),
                    program: Some(process.program.clone()),
                    uid: Some(process.uid),
                    session: process.session.map(|session| u64::from(session) + 1),
                    reason: Some(super::attach::reason_text(*reason).to_owned()),
                    ..Socket::default()
                });
            }
        }
        sockets
    }

    fn stats(&self, reports: Vec<(usize, ShardReport)>) -> Stats {
        let mut stats = Stats { ebpf: self.hooks.counters(), ..Stats::default() };
        for (shard, report) in reports {
            let mut own = report.shard;
            for (name, value) in report.stack {
                *stats.stack.entry(name.to_owned()).or_default() += value;
                own.insert(name.to_owned(), value);
            }
            stats.shards.push(own);
            let mut seen: BTreeMap<PortId, usize> = BTreeMap::new();
            for (port, counters) in report.ports {
                let nth = seen.entry(port).or_default();
                let facts = self.interfaces.get(usize::from(port.0));
                let mut queues =
                    facts.into_iter().flat_map(|facts| &facts.queues).filter(|queue| usize::from(queue.1) == shard);
                let queue = queues.nth(*nth).map_or(0, |queue| queue.0);
                *nth += 1;
                stats.ports.push(PortStats {
                    interface: self.interface_of(port).to_owned(),
                    queue,
                    shard: shard as u8,
                    counters: port_counters(&counters),
                });
            }
        }
        stats
    }

    fn capture(&mut self, serial: u32, filter: &CaptureFilter, snap: Option<u32>) {
        if !self.captures.is_empty() {
            let error = "a capture is running already: end it first".to_owned();
            return self.reply::<()>(serial, &Reply::Error(error));
        }
        self.reply(serial, &Reply::Ok(()));
        let filter =
            capture::Filter { host: filter.host, port: filter.port, protocol: filter.protocol, arp: filter.arp };
        let interfaces: Vec<pcapng::Interface<'_>> = self
            .interfaces
            .iter()
            .map(|facts| pcapng::Interface { name: &facts.name, ethernet: facts.link_header > 0 })
            .collect();
        let header = pcapng::header(&interfaces);
        let link_headers: Arc<[(PortId, usize)]> =
            self.interfaces.iter().enumerate().map(|(index, facts)| (PortId(index as u8), facts.link_header)).collect();
        let mut sources = Vec::new();
        for shard in 0..self.links.shards() {
            let (tap, source) = capture::tap(filter, Arc::clone(&link_headers));
            sources.push(source);
            self.links.send(shard, ShardMessage::Capture(Some(tap)));
        }
        let snap = snap.map_or(capture::SNAP_LENGTH, |snap| snap as usize);
        self.captures.push(Capture { administrator: serial, sources, snap, dropped: 0 });
        self.output(serial, &header);
    }

    /// Moves captured frames to their readers; `true` when there were any.
    pub(crate) fn copy_captures(&mut self) -> bool {
        let mut any = false;
        let mut captures = std::mem::take(&mut self.captures);
        for capture in &mut captures {
            let Some(administrator) = self.administrators.get_mut(&capture.administrator) else { continue };
            for source in &mut capture.sources {
                while let Some(mut frame) = source.frames.receive() {
                    any = true;
                    if administrator.output.len() > BACKLOG {
                        capture.dropped += 1;
                        continue;
                    }
                    frame.bytes.truncate(capture.snap);
                    administrator.output.extend(pcapng::packet(frame.port.0.into(), &frame));
                }
            }
            self.write_out(capture.administrator);
        }
        // Those whose reader went away meanwhile were ended by `dismiss`.
        captures.retain(|capture| self.administrators.contains_key(&capture.administrator));
        self.captures = captures;
        any
    }

    pub(super) fn reply<T: serde::Serialize>(&mut self, serial: u32, reply: &Reply<T>) {
        let mut line = serde_json::to_vec(reply)
            .unwrap_or_else(|error| format!("{{\"error\":\"the reply cannot be written: {error}\"}}").into_bytes());
        line.push(b'\n');
        self.output(serial, &line);
    }

    fn output(&mut self, serial: u32, bytes: &[u8]) {
        self.queue_output(serial, bytes);
        self.write_out(serial);
    }

    /// For [`Control::write_out`] to write.
    pub(super) fn queue_output(&mut self, serial: u32, bytes: &[u8]) {
        if let Some(administrator) = self.administrators.get_mut(&serial) {
            administrator.output.extend(bytes);
        }
    }

    /// Bytes that wait for the reader.
    pub(super) fn backlog(&self, serial: u32) -> usize {
        self.administrators.get(&serial).map_or(0, |administrator| administrator.output.len())
    }

    pub(super) fn close_when_written(&mut self, serial: u32) {
        if let Some(administrator) = self.administrators.get_mut(&serial) {
            administrator.closing = true;
            self.write_out(serial);
        }
    }

    pub(super) fn write_out(&mut self, serial: u32) {
        let Some(administrator) = self.administrators.get_mut(&serial) else { return };
        while !administrator.output.is_empty() {
            let (first, _) = administrator.output.as_slices();
            match rustix::net::send(&administrator.socket, first, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(administrator.output.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return self.dismiss(serial),
            }
        }
        let waits = !administrator.output.is_empty();
        if administrator.closing && !waits {
            return self.dismiss(serial);
        }
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if waits {
            flags |= epoll::EventFlags::OUT;
        }
        let token = Token::Administrator(serial).data();
        if epoll::modify(&self.epoll, &administrator.socket, token, flags).is_err() {
            self.dismiss(serial);
        }
    }

    fn dismiss(&mut self, serial: u32) {
        self.administrators.remove(&serial);
        self.reports.retain(|_, pending| pending.administrator != serial);
        self.end_traces_of(serial);
        if self.captures.iter().any(|capture| capture.administrator == serial) {
            self.captures.retain(|capture| capture.administrator != serial);
            for shard in 0..self.links.shards() {
                self.links.send(shard, ShardMessage::Capture(None));
            }
        }
    }
}

fn port_counters(counters: &crate::port::PortCounters) -> BTreeMap<String, u64> {
    let crate::port::PortCounters { rx_frames, rx_bytes, rx_dropped, tx_frames, tx_bytes, tx_full, tx_dropped, kicks } =
        *counters;
    [
        ("RxFrames", rx_frames),
        ("RxBytes", rx_bytes),
        ("RxDropped", rx_dropped),
        ("TxFrames", tx_frames),
        ("TxBytes", tx_bytes),
        ("TxFull", tx_full),
        ("TxDropped", tx_dropped),
        ("Kicks", kicks),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn shown_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// A listener's slot is reported by its owner alone.
fn merge_listeners(mut sockets: Vec<Socket>) -> Vec<Socket> {
    sockets.sort_by(|one, other| {
        (&one.session, &one.local, &one.remote).cmp(&(&other.session, &other.local, &other.remote))
    });
    sockets
}
