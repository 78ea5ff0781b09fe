//! Two engines in this process, joined back to back in memory, and applications that play the library's part by hand.
//!
//! Everything waits with a deadline, never longer than [`PATIENCE`], and nothing depends on how long something took.

use memmap2::{MmapOptions, MmapRaw};
use persona_channel::attach::{Answer, Hello, LARGEST_MESSAGE, Request};
use persona_channel::lane::LaneGuard;
use persona_channel::layout::{Command, op, state_bits};
use persona_channel::memory::{ListenerIndex, SESSION_SIZE, SessionRef, Shard as ShardIndex, SocketRef, WaitableId};
use persona_engine::config::{self, Config};
use persona_engine::control::{self, Control, ports::PortUse};
use persona_engine::hooks::OwnAddresses;
use persona_engine::keeper::Place;
use persona_engine::ledger::Ledger;
use persona_engine::port::memory::{self, MemoryPort, Params};
use persona_engine::port::{Full, Port, PortCounters, TxFrame};
use persona_engine::setup::sockets;
use persona_engine::shard::host::{Attachment, ShardHost};
use persona_engine::shard::options::Limits;
use persona_engine::shard::routing::Routing;
use persona_engine::shard::{Parts, Shard};
use persona_engine::{clock, mesh};
use persona_stack::{AddressMode, InterfaceConfig, Link, Offload, PortId, RxFrame, Stack};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketType,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// Our two addresses.
pub const LEFT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
pub const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));

/// Polls until `condition` gives something.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(outcome) = condition() {
            return outcome;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// One engine: its threads, and the way to stop it.
pub struct Engine {
    pub place: Place,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// Both engines with `shards` shards each.
pub fn engines(shards: usize) -> (Engine, Engine) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (one, other) = memory::pair(Params { merge: true, ..Params::default() }, Params::default());
        let bells = [0, 1].map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let copies = bells.each_ref().map(|bell| bell.try_clone().unwrap());
        let ([ours, theirs], [our_copy, their_copy]) = (bells, copies);
        left.push(Box::new(Belled { port: one, bell: ours, peer: their_copy }) as Box<dyn Port>);
        right.push(Box::new(Belled { port: other, bell: theirs, peer: our_copy }) as Box<dyn Port>);
    }
    (Engine::start(LEFT, 2, left), Engine::start(RIGHT, 1, right))
}

/// A port in memory that can be slept on.
struct Belled {
    port: MemoryPort,
    bell: OwnedFd,
    peer: OwnedFd,
}

impl Port for Belled {
    fn offload(&self) -> Offload {
        self.port.offload()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.port.receive(budget, sink)
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        self.port.transmit(frame)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.port.flush()?;
        rustix::io::write(&self.peer, &1u64.to_ne_bytes())?;
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }

    fn pending(&mut self) -> bool {
        self.port.pending()
    }

    fn counters(&self) -> PortCounters {
        self.port.counters()
    }

    fn describe(&self) -> String {
        self.port.describe()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.port.descriptors()
    }
}

impl Engine {
    fn start(address: IpAddr, host_byte: u8, ports: Vec<Box<dyn Port>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new("test".to_owned(), directory.path().to_owned()).unwrap();
        std::fs::create_dir(place.dir()).unwrap();
        // What an engine borrows lives as long as its process; here that is the test's.
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::create().unwrap()));
        let text = format!(
            r#"{{"interfaces": [{{"type": "xdp", "param": "memory", "ip": "{address}", "masklen": 24}}],
                "linger_ms": 2000, "connections": 4096}}"#
        );
        let (config, _) = config::from_parts(std::iter::empty(), Some(&text), "test").unwrap();
        let config: &'static Config = Box::leak(Box::new(config));
        let shards = ports.len();
        let (shard_links, links) = mesh::links(shards).unwrap();
        let ports_used = Arc::new(PortUse::default());
        let mut threads = Vec::new();
        for (number, (port, links)) in ports.into_iter().zip(shard_links).enumerate() {
            let offload = port.offload();
            let attachment = Attachment { id: PortId(0), port: Some(port), link_header: 14, unflushed: false };
            let mut routing = Routing::default();
            routing.add_address(PortId(0), address, 24);
            let host = ShardHost::new(number, vec![attachment], routing, Arc::clone(&ports_used), &OwnAddresses);
            // One seed for all shards of an engine.
            let seed = [host_byte; 32];
            let settings = persona_engine::setup::arenas::stack_config(&config.sizes, seed, number, shards);
            let mut stack = Stack::format(aligned(settings.memory_size()), &settings, clock::now()).unwrap();
            let interface = InterfaceConfig {
                port: PortId(0),
                link: Link::Ethernet { mac: [2, 0, 0, 0, 0, host_byte] },
                mtu: 1500,
                offload,
                mode: AddressMode::Own,
            };
            stack.add_interface(&interface).unwrap();
            stack.add_address(PortId(0), address, 24).unwrap();
            let limits = Limits { send_buffer: 4 << 20, receive_buffer: 4 << 20, ..Limits::of(&config.sysctls) };
            let shard = Shard::new(Parts { stack, host, links, limits, seed, spin: None }).unwrap();
            threads.push(std::thread::spawn(move || shard.run()));
        }
        let stop: Arc<OwnedFd> = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let stop_seen: &'static OwnedFd = Box::leak(Box::new(stop.try_clone().unwrap()));
        let control = Control::new(control::Parts {
            config,
            tunables: config.sysctls.started(&config.sizes),
            ledger,
            links,
            session_socket: sockets::session(&place, ledger, &config.access).unwrap(),
            admin_socket: sockets::admin(&place, ledger).unwrap(),
            stop: stop_seen.as_fd(),
            hooks: &OwnAddresses,
            monitor: None,
            estates: Vec::new(),
            ports_used,
            interfaces: vec![control::admin::InterfaceFacts {
                name: "memory".into(),
                link_header: 14,
                ..Default::default()
            }],
            shards: vec![Default::default(); shards],
            restarts: 0,
        })
        .unwrap();
        threads.push(std::thread::spawn(move || control.run()));
        Self { place, stop, threads, _directory: directory }
    }

    /// Stops gracefully and waits for all threads.
    pub fn stop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        let threads = std::mem::take(&mut self.threads);
        until("the engine's threads to end", || threads.iter().all(JoinHandle::is_finished).then_some(()));
        for thread in threads {
            thread.join().expect("no thread of an engine panics");
        }
    }

    /// One request over admin.sock.
    pub fn ask(&self, request: &str) -> serde_json::Value {
        use std::io::{BufRead, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.place.admin_socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        std::io::BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Sockets that the engine knows.
    pub fn sockets(&self) -> Vec<serde_json::Value> {
        self.ask(r#"{"request": "sockets"}"#)["ok"].as_array().unwrap().clone()
    }

    pub fn attach(&self) -> App {
        App::attach(self.place.session_socket(), None)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.threads.is_empty() && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Memory of a stack, for the rest of the process.
fn aligned(size: usize) -> &'static mut [u8] {
    let memory: &'static mut memmap2::MmapMut = Box::leak(Box::new(MmapOptions::new().len(size).map_anon().unwrap()));
    memory
}

/// One process of a family.
pub struct App {
    path: PathBuf,
    connection: OwnedFd,
    memory: Arc<MmapRaw>,
    events: Vec<OwnedFd>,
    shards: usize,
    session: (u64, [u64; 2]),
    anchors: Vec<(u32, OwnedFd)>,
}

/// A socket of an application: slot, generation, and its descriptor.
pub struct Sock {
    pub slot: u32,
    pub generation: u32,
    pub anchor: Option<OwnedFd>,
}

impl App {
    fn attach(path: PathBuf, join: Option<(u64, [u64; 2])>) -> Self {
        let connection = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&connection, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let hello = Hello::new(std::process::id(), b"rig", join);
        let (answer, mut descriptors) = exchange(&connection, zerocopy::IntoBytes::as_bytes(&hello));
        let Answer::Welcome(welcome) = answer else { panic!("no welcome: {answer:?}") };
        let events = descriptors.split_off(1);
        let memory = MmapOptions::new().len(SESSION_SIZE).map_raw(&descriptors[0]).unwrap();
        assert_eq!(events.len(), welcome.shards as usize);
        Self {
            path,
            connection,
            memory: Arc::new(memory),
            events,
            shards: welcome.shards as usize,
            session: (welcome.session, welcome.token),
            anchors: Vec::new(),
        }
    }

    /// Another process of the same family.
    pub fn fork(&self) -> Self {
        Self::attach(self.path.clone(), Some(self.session))
    }

    pub fn view(&self) -> SessionRef<'_> {
        // SAFETY: the mapping has a session's size, is page-aligned, lives as long as `self`, and its memfd is sealed.
        unsafe { SessionRef::from_raw(self.memory.as_mut_ptr()) }.unwrap()
    }

    /// The raw memory, for those who damage it.
    pub fn bytes(&self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }

    pub fn request(&self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        exchange(&self.connection, zerocopy::IntoBytes::as_bytes(request))
    }

    pub fn anchor(&mut self) -> (u32, OwnedFd) {
        if self.anchors.is_empty() {
            let (answer, descriptors) = self.request(&Request::anchors(8));
            let Answer::Grant(grant) = answer else { panic!("no anchors: {answer:?}") };
            self.anchors.extend(grant.ids().iter().copied().zip(descriptors));
        }
        self.anchors.pop().unwrap()
    }

    /// socket().
    pub fn socket(&mut self) -> Sock {
        let socket = self.view().claim_slot(std::process::id()).expect("a free slot");
        let (slot, generation) = (socket.slot.get(), socket.generation());
        let (id, anchor) = self.anchor();
        let sock = Sock { slot, generation, anchor: Some(anchor) };
        assert_eq!(self.command(&sock, op::BIND_ANCHOR, &[id.into()]), 0);
        assert_ne!(self.of(&sock).state.bits.load(Ordering::Acquire) & state_bits::BOUND, 0);
        sock
    }

    pub fn of(&self, sock: &Sock) -> SocketRef<'_> {
        self.view().socket(persona_channel::memory::Slot::new(sock.slot).unwrap())
    }

    fn shard_of(&self, sock: &Sock) -> ShardIndex {
        let state = self.of(sock).state;
        let bound = state.bits.load(Ordering::Acquire) & state_bits::BOUND != 0;
        let shard = if bound { state.shard.load(Ordering::Relaxed) } else { sock.slot % self.shards as u32 };
        ShardIndex::new(shard).unwrap()
    }

    fn wake(&self, shard: ShardIndex) {
        rustix::io::write(&self.events[shard.index()], &1u64.to_ne_bytes()).unwrap();
    }

    fn lane(&self, shard: ShardIndex) -> LaneGuard<'_> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        until("a free lane", || self.view().claim_lane(shard, tid, |_| true))
    }

    /// Sends a command and waits for its result.
    pub fn command(&self, sock: &Sock, op: u16, args: &[u64]) -> i32 {
        self.command_with_reply(sock, op, args, &mut [])
    }

    pub fn command_with_reply(&self, sock: &Sock, op: u16, args: &[u64], reply: &mut [u8]) -> i32 {
        let shard = self.shard_of(sock);
        let lane = self.lane(shard);
        let mut words = [0; 6];
        words[..args.len()].copy_from_slice(args);
        let command = Command::new(op, sock.slot, sock.generation, words).with_reply();
        let pushed = until("room in a lane", || lane.push(&command).ok());
        if pushed.ring {
            self.wake(shard);
        }
        let result = until("a command's result", || lane.result(pushed.ticket));
        lane.reply(reply);
        result
    }

    /// Sends a command without looking at its outcome, to whatever shard, if there is room for it.
    pub fn push_blindly(&self, sock: &Sock, shard: u32, op: u16, args: &[u64]) {
        let shard = ShardIndex::new(shard).unwrap();
        let Some(lane) = self.view().claim_lane(shard, 1, |_| false) else { return };
        let mut words = [0; 6];
        words[..args.len()].copy_from_slice(args);
        if lane.push(&Command::new(op, sock.slot, sock.generation, words)).is_ok_and(|pushed| pushed.ring) {
            self.wake(shard);
        }
    }

    /// Rings every shard, whether it sleeps or not.
    pub fn wake_all(&self) {
        for event in &self.events {
            rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// Reports a socket that stays on the host.
    pub fn request_reason(&self, row: u32, reason: u32, address: &str) {
        self.tell(&Request::reason(row, reason, address.as_bytes()));
    }

    pub fn request_gone(&self, row: u32) {
        self.tell(&Request::gone(row));
    }

    fn tell(&self, request: &Request) {
        rustix::net::send(&self.connection, zerocopy::IntoBytes::as_bytes(request), SendFlags::NOSIGNAL).unwrap();
    }

    pub fn address(address: SocketAddr) -> [u64; 4] {
        let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 only") };
        let mut word = [0; 8];
        word[..4].copy_from_slice(&ip.octets());
        [libc::AF_INET as u64, address.port().into(), u64::from_ne_bytes(word), 0]
    }

    pub fn bind(&self, sock: &Sock, local: SocketAddr) -> i32 {
        self.command(sock, op::BIND, &Self::address(local))
    }

    pub fn set(&self, sock: &Sock, level: i32, name: i32, value: i32) -> i32 {
        let word = u64::from(u32::from_ne_bytes(value.to_ne_bytes()));
        self.command(sock, op::SET_OPTION, &[level as u64, name as u64, 4, word])
    }

    /// A listening socket and its port.
    pub fn listen(&mut self, local: SocketAddr) -> (Sock, SocketAddr) {
        let sock = self.socket();
        assert_eq!(self.bind(&sock, local), 0);
        assert_eq!(self.command(&sock, op::LISTEN, &[64]), 0);
        let port = self.of(&sock).address.local_port.load(Ordering::Acquire) as u16;
        assert_ne!(self.of(&sock).state.bits.load(Ordering::Acquire) & state_bits::LISTENING, 0);
        (sock, SocketAddr::new(local.ip(), port))
    }

    /// connect() up to its outcome: 0 or the errno.
    pub fn connect(&self, sock: &Sock, remote: SocketAddr) -> i32 {
        let started = self.command(sock, op::CONNECT, &Self::address(remote));
        if started != 0 {
            return -started;
        }
        until("a connect to end", || {
            let state = self.of(sock).state;
            let bits = state.bits.load(Ordering::Acquire);
            if bits & state_bits::ENDED != 0 {
                return Some(state.error.swap(0, Ordering::AcqRel));
            }
            (bits & state_bits::CONNECTED != 0).then_some(0)
        })
    }

    pub fn connected(&mut self, remote: SocketAddr) -> Sock {
        let sock = self.socket();
        assert_eq!(self.connect(&sock, remote), 0);
        sock
    }

    /// An accepted connection that is not bound to a descriptor yet.
    pub fn accept_unbound(&self, listener: &Sock) -> Sock {
        let line = self.of(listener).address.listener.load(Ordering::Acquire);
        let ring = ListenerIndex::new(line).unwrap();
        until("a connection to accept", || {
            let accepted = (0..self.shards as u32)
                .filter_map(ShardIndex::new)
                .find_map(|shard| self.view().accept_ring(ring, shard).pop())?;
            Some(Sock { slot: accepted.slot.get(), generation: accepted.generation, anchor: None })
        })
    }

    /// accept().
    pub fn accept(&mut self, listener: &Sock) -> Sock {
        let mut sock = self.accept_unbound(listener);
        let (id, anchor) = self.anchor();
        assert_eq!(self.command(&sock, op::BIND_ANCHOR, &[id.into()]), 0);
        sock.anchor = Some(anchor);
        sock
    }

    fn mark(&self, sock: &Sock) {
        let shard = self.shard_of(sock);
        if self.view().attention(shard).mark_socket(persona_channel::memory::Slot::new(sock.slot).unwrap()) {
            self.wake(shard);
        }
    }

    /// write() of all of it.
    pub fn write(&self, sock: &Sock, bytes: &[u8]) {
        let mut rest = bytes;
        let writer = self.of(sock).send_writer();
        until("room to write", || {
            let written = writer.write(rest);
            rest = &rest[written.len..];
            if written.len > 0 {
                self.mark(sock);
            }
            rest.is_empty().then_some(())
        });
    }

    /// read() of `len` bytes, or fewer at the end; the end's errno if it came with one.
    pub fn read(&self, sock: &Sock, len: usize) -> (Vec<u8>, i32) {
        let mut bytes = Vec::new();
        let errno = until("bytes to read", || {
            let state = self.of(sock).state;
            let bits = state.bits.load(Ordering::Acquire);
            let mut piece = vec![0; (len - bytes.len()).min(65_536)];
            let read = self.of(sock).receive_reader().read(&mut piece);
            bytes.extend(&piece[..read.len]);
            if read.mark {
                self.mark(sock);
            }
            if bytes.len() == len {
                return Some(0);
            }
            (read.len == 0 && bits & state_bits::RCV_CLOSED != 0)
                .then(|| self.of(sock).state.error.swap(0, Ordering::AcqRel))
        });
        (bytes, errno)
    }

    pub fn shutdown_write(&self, sock: &Sock) {
        assert_eq!(self.command(sock, op::SHUTDOWN, &[1]), 0);
    }

    pub fn free_sockets(&self) -> usize {
        self.view().free_sockets().count()
    }

    /// The doorbell of a waitable.
    pub fn doorbell(&self, waitable: WaitableId) -> OwnedFd {
        let (answer, mut descriptors) = self.request(&Request::doorbell(waitable.get()));
        assert!(matches!(answer, Answer::Grant(_)), "{answer:?}");
        descriptors.pop().unwrap()
    }
}

/// Whether `descriptor` becomes readable within our patience.
pub fn readable(descriptor: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(descriptor, PollFlags::IN)];
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

/// One message and its answer.
pub fn exchange(connection: &OwnedFd, message: &[u8]) -> (Answer, Vec<OwnedFd>) {
    rustix::net::send(connection, message, SendFlags::NOSIGNAL).unwrap();
    assert!(readable(connection), "the engine answers");
    let mut bytes = [0u8; LARGEST_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .unwrap();
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (Answer::decode(&bytes[..received.bytes]).expect("an answer of this version"), descriptors)
}

/// Bytes that are a function of their offset.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}
