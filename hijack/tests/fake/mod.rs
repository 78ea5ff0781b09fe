//! An engine for the library's tests: it serves the attach protocol and the session's memory, and its network is
//! itself. A connection to a port on which some session listens is joined to it; bytes go from one socket's send
//! stream to the other's receive stream. No packet, no TCP, one shard, one thread.

pub mod descriptors;
mod network;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use persona_channel::attach::{Grant, Hello, Refusal, Request, Welcome, kind};
use persona_channel::lane::{LaneReader, Next};
use persona_channel::layout::{Command, LANES, op};
use persona_channel::memory::{Parameters, SESSION_SIZE, SessionRef, Shard, WaitableId};
use zerocopy::IntoBytes;

use network::Network;

const SHARD: Shard = match Shard::new(0) {
    Some(shard) => shard,
    None => panic!("there is a first shard"),
};

/// What a test may set.
#[derive(Clone, Default)]
pub struct Settings {
    pub send_buffer: Option<u32>,
    pub receive_buffer: Option<u32>,
    /// Socket slots of a session.
    pub sockets: Option<u32>,
    /// Encoded rules.
    pub policy: Vec<u8>,
    /// Refuse everybody with this sentence.
    pub refuse: Option<&'static str>,
    /// Most bytes moved per connection and round, so that streams are cut in odd places.
    pub step: Option<usize>,
}

/// A running fake engine. Its directory goes away with it.
pub struct FakeEngine {
    pub directory: PathBuf,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    reasons: Receiver<(u32, String)>,
}

impl FakeEngine {
    pub fn start(name: &str, settings: Settings) -> FakeEngine {
        let directory = std::env::temp_dir().join(format!("persona-fake-{}-{name}", std::process::id()));
        std::fs::create_dir_all(directory.join("default")).expect("a directory for the session socket");
        let listener = descriptors::listen(&directory.join("default/session.sock"));
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(descriptors::eventfd());
        let (sender, reasons) = channel();
        let mut engine = Engine {
            listener,
            wake: wake.clone(),
            stop: stop.clone(),
            settings,
            network: Network::default(),
            connections: Vec::new(),
            reasons: sender,
        };
        let thread = std::thread::Builder::new()
            .name(format!("fake-{name}"))
            .spawn(move || engine.run())
            .expect("a thread for the fake engine");
        FakeEngine { directory, stop, wake, thread: Some(thread), reasons }
    }

    /// Reasons reported so far for sockets that stayed on the host.
    pub fn reasons(&self) -> Vec<(u32, String)> {
        self.reasons.try_iter().collect()
    }

    /// Ends the engine as a crash without successor does: every descriptor of its own closes.
    pub fn kill(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        descriptors::ring(&self.wake);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the fake engine ends without a panic");
        }
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        descriptors::ring(&self.wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the fake engine panicked");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A session as the engine holds it.
pub struct Session {
    pub memory: SessionRef<'static>,
    memfd: OwnedFd,
    eventfd: OwnedFd,
    id: u64,
    token: [u64; 2],
    lanes: [LaneReader; LANES],
    /// Engine's ends of the anchors by id, and the slot each belongs to.
    pub anchors: HashMap<u32, Anchor>,
    next_anchor: u32,
    doorbells: HashMap<u32, (OwnedFd, OwnedFd)>,
}

pub struct Anchor {
    pub end: OwnedFd,
    pub slot: Option<(u32, u32)>,
}

impl Session {
    /// Rings the waitables that hear of a socket.
    pub fn notify(&self, slot: persona_channel::memory::Slot) {
        let socket = self.memory.socket(slot);
        self.memory.notify(&socket, |waitable| self.ring(waitable));
    }

    pub fn ring(&self, waitable: WaitableId) {
        if let Some((ours, _)) = self.doorbells.get(&waitable.get()) {
            descriptors::send_byte(ours);
        }
    }
}

struct Engine {
    listener: OwnedFd,
    wake: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    settings: Settings,
    network: Network,
    /// Session sockets and the session each belongs to, by its index in the network.
    connections: Vec<(OwnedFd, Option<usize>)>,
    reasons: Sender<(u32, String)>,
}

impl Engine {
    fn run(&mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let busy = self.round();
            let parked = !busy && self.park();
            let ready = descriptors::poll(&self.watched(), if parked { 1_000 } else { 0 });
            self.unpark();
            for fd in ready {
                self.serve(fd);
            }
        }
    }

    /// One pass over commands and streams. True if something moved.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.network.sessions.len() {
            let session = &mut self.network.sessions[index];
            let attention = session.memory.attention(SHARD);
            let mut marks = attention.collect();
            let mut commands = Vec::new();
            while let Some(lane) = marks.next_lane() {
                busy = true;
                commands.push(lane);
            }
            while let Some(slot) = marks.next_socket(attention) {
                busy = true;
                self.network.touch(index, slot);
            }
            for lane in commands {
                loop {
                    let session = &mut self.network.sessions[index];
                    let line = session.memory.lane(SHARD, lane);
                    match session.lanes[lane.index()].next(line) {
                        Next::Command(command) => {
                            let mut reply = Vec::new();
                            let result = self.execute(index, &command, &mut reply);
                            let session = &mut self.network.sessions[index];
                            let waitables = session.memory.waitables();
                            let waiter = session.lanes[lane.index()].complete(line, waitables, result, &reply);
                            if let Some(waiter) = waiter {
                                session.ring(waiter);
                            }
                        }
                        Next::Nothing => break,
                        Next::Damaged => panic!("the library damaged lane {lane:?}"),
                    }
                }
            }
        }
        busy | self.network.pump(self.settings.step.unwrap_or(usize::MAX))
    }

    fn execute(&mut self, session: usize, command: &Command, reply: &mut Vec<u8>) -> i32 {
        let network = &mut self.network;
        match command.op {
            op::BIND_ANCHOR => network.bind_anchor(session, command),
            op::BIND => network.bind(session, command),
            op::LISTEN => network.listen(session, command),
            op::CONNECT => network.connect(session, command),
            op::SHUTDOWN => network.shutdown(session, command),
            op::SET_OPTION => network.set_option(session, command),
            op::GET_OPTION => network.get_option(session, command, reply),
            op::RELAY => network.relay(session, command),
            op::RELEASE => network.release(session, command),
            _ => -libc::EOPNOTSUPP,
        }
    }

    fn park(&self) -> bool {
        let parked = |session: &Session| session.memory.attention(SHARD).park();
        self.network.sessions.iter().all(parked)
    }

    fn unpark(&self) {
        self.network.sessions.iter().for_each(|session| session.memory.attention(SHARD).wake_up());
    }

    fn watched(&self) -> Vec<RawFd> {
        let mut fds = vec![self.listener.as_raw_fd(), self.wake.as_raw_fd()];
        fds.extend(self.connections.iter().map(|(fd, _)| fd.as_raw_fd()));
        for session in &self.network.sessions {
            fds.push(session.eventfd.as_raw_fd());
            fds.extend(session.anchors.values().map(|anchor| anchor.end.as_raw_fd()));
        }
        fds
    }

    fn serve(&mut self, fd: RawFd) {
        if fd == self.listener.as_raw_fd() {
            self.connections.push((descriptors::accept(&self.listener), None));
        } else if let Some(place) = self.connections.iter().position(|(own, _)| own.as_raw_fd() == fd) {
            match descriptors::receive(&self.connections[place].0) {
                Some(message) => self.answer(place, &message),
                None => {
                    self.connections.remove(place);
                }
            }
        } else if let Some(session) = self.network.sessions.iter().position(|own| own.eventfd.as_raw_fd() == fd) {
            descriptors::drain_eventfd(&self.network.sessions[session].eventfd);
        } else if fd != self.wake.as_raw_fd() {
            self.network.anchor_ready(fd);
        }
    }

    fn answer(&mut self, place: usize, message: &[u8]) {
        let settings = self.settings.clone();
        match self.connections[place].1 {
            None => {
                let hello = Hello::decode(message).expect("the first message is a hello");
                hello.check().expect("library and test are of one build");
                let refusal = settings.refuse.map(|sentence| Refusal::new(format_args!("{sentence}")));
                if let Some(refusal) = refusal {
                    descriptors::send(&self.connections[place].0, refusal.as_bytes(), &[]);
                    return;
                }
                let index = match hello.session {
                    0 => {
                        self.network.sessions.push(new_session(self.network.sessions.len() as u64 + 1, &settings));
                        self.network.sessions.len() - 1
                    }
                    id => id as usize - 1,
                };
                let session = &self.network.sessions[index];
                assert!(hello.session == 0 || hello.token == session.token, "a child knows the family's token");
                let welcome = Welcome::new(1, session.id, session.token);
                let fds = [session.memfd.as_raw_fd(), session.eventfd.as_raw_fd()];
                descriptors::send(&self.connections[place].0, welcome.as_bytes(), &fds);
                self.connections[place].1 = Some(index);
            }
            Some(index) => {
                let request = Request::decode(message).expect("a request after the welcome");
                let connection = &self.connections[place].0;
                let session = &mut self.network.sessions[index];
                match request.kind {
                    kind::ANCHORS => {
                        let _handing_over = descriptors::HANDING_OVER.read();
                        let count = request.value.min(16);
                        let pairs: Vec<_> = (0..count).map(|_| descriptors::pair()).collect();
                        let ids: Vec<_> = (session.next_anchor..session.next_anchor + count).collect();
                        session.next_anchor += count;
                        let fds: Vec<_> = pairs.iter().map(|(_, theirs)| theirs.as_raw_fd()).collect();
                        descriptors::send(connection, Grant::new(&ids).as_bytes(), &fds);
                        for (id, (end, _)) in ids.into_iter().zip(pairs) {
                            session.anchors.insert(id, Anchor { end, slot: None });
                        }
                    }
                    kind::DOORBELL => {
                        let pair = session.doorbells.entry(request.value).or_insert_with(descriptors::pair);
                        let fd = pair.1.as_raw_fd();
                        descriptors::send(connection, Grant::new(&[request.value]).as_bytes(), &[fd]);
                    }
                    kind::REASON => {
                        let _ = self.reasons.send((request.value, request.text().to_owned()));
                    }
                    kind::GONE => {}
                    other => panic!("request of kind {other}"),
                }
            }
        }
    }
}

fn new_session(id: u64, settings: &Settings) -> Session {
    let (memfd, base) = descriptors::shared_memory(SESSION_SIZE);
    // SAFETY: mapped for the whole length and never unmapped (the test process ends soon after).
    let memory = unsafe { SessionRef::from_raw(base) }.expect("a mapping is page-aligned");
    let token = [0x5eed_0000 + id, 0x1234_5678_9abc_def0];
    memory.initialise(&Parameters {
        shards: 1,
        session: id,
        token,
        send_buffer: settings.send_buffer.unwrap_or(256 * 1024),
        receive_buffer: settings.receive_buffer.unwrap_or(256 * 1024),
        flags: 0,
        sockets: settings.sockets.unwrap_or(4096),
        chunks: 4096,
        policy: &settings.policy,
    });
    Session {
        memory,
        memfd,
        eventfd: descriptors::eventfd(),
        id,
        token,
        lanes: [LaneReader::new(); LANES],
        anchors: HashMap::new(),
        next_anchor: 1,
        doorbells: HashMap::new(),
    }
}

/// The library under test. Cargo does not build a cdylib for the tests of its own package, so it is asked to; for the whole
/// workspace, as `make test` has built it, since a single package has other features of the dependencies.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().expect("the test knows its own path");
        let directory = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
        let release = directory.ends_with("release");
        let mut build = std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        build.args(["build", "--quiet", "--workspace", "--all-targets"]).args(release.then_some("--release"));
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "libpersona.so builds");
        directory.join("libpersona.so")
    })
}
