//! Keepers with engines that carry no packets: what they do when these die, hang, fail or are told to stop.
//!
//! Each keeper is a process of its own, as it is in life; the engines leave what they did in files.

use super::start::{in_background, running, stop};
use super::*;
use crate::alone::done_elsewhere;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Long enough for a loaded machine; nothing waits so long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the engine of a test does.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    /// Is ready and waits for the stop.
    Serve,
    /// Fails before it is ready.
    Fail,
    Panic,
    /// Is ready and never stops.
    Hang,
    /// Serves, having asked for two ports first.
    Reserve,
    /// As `Serve`, but the second engine fails after it made and recorded something, and had a copy of what it found.
    Stumble,
}

struct TestCharge {
    behaviour: Behaviour,
    traces: PathBuf,
}

impl Charge for TestCharge {
    fn run(&self, surroundings: &Surroundings<'_>) -> Result<()> {
        let Surroundings { ledger, link, predecessors, .. } = surroundings;
        fs::write(self.traces.join(format!("engine{predecessors}")), std::process::id().to_string())?;
        match self.behaviour {
            Behaviour::Fail => anyhow::bail!("the interface veth0 does not exist"),
            Behaviour::Panic => panic!("on purpose"),
            _ => {}
        }
        if self.behaviour == Behaviour::Stumble && *predecessors == 1 {
            let _copy = ledger.copy(&ledger.find(Kind::Arena, 5, 0).context("the predecessor's record")?)?;
            let made: Vec<_> = (0..8).map(|_| fs::File::open("/dev/null")).collect::<std::io::Result<_>>()?;
            made.iter().try_for_each(|file| ledger.record(Kind::Umem, 6, 0, file, 0))?;
            anyhow::bail!("the interface veth0 is down");
        }
        if *predecessors > 0 {
            // Numbers that a failed engine used come up again.
            let _fresh: Vec<_> = (0..8).map(|_| fs::File::open("/dev/null")).collect();
            fs::write(self.traces.join("made"), ledger.of_kind(Kind::Umem).count().to_string())?;
        }
        if *predecessors > 0 {
            let arena = ledger.find(Kind::Arena, 5, 0).context("the predecessor's record")?;
            fs::write(self.traces.join("found"), format!("{} {}", arena.fd, arena.len))?;
            let strays = crate::ledger::open_descriptors().into_iter().filter(|&fd| ledger.get(fd).is_none());
            // One is the directory that lists them.
            fs::write(self.traces.join("strays"), (strays.count() - 1).to_string())?;
        } else {
            let arena = fs::File::open("/dev/null")?;
            ledger.record(Kind::Arena, 5, 0, &arena, 4096)?;
            std::mem::forget((arena, fs::File::open("/dev/zero")?));
        }
        if self.behaviour == Behaviour::Reserve {
            let (socket, bound) = link.reserve("127.0.0.1:0".parse()?)?;
            ledger.record(Kind::Reservation, 0, bound.port().into(), &socket, 0)?;
            let again = link.reserve(bound).expect_err("the port is taken");
            fs::write(self.traces.join("reserved"), format!("{bound} {}", again.raw_os_error().unwrap_or(0)))?;
            std::mem::forget(socket);
        }
        link.ready()?;
        let wait_for_stop = || {
            let mut fds = [PollFd::from_borrowed_fd(link.stop(), PollFlags::IN)];
            poll_until(&mut fds, Some(Instant::now() + PATIENCE));
        };
        wait_for_stop();
        if self.behaviour == Behaviour::Hang {
            std::thread::sleep(PATIENCE);
        }
        fs::write(self.traces.join("stopped"), "")?;
        Ok(())
    }

    fn hold(&self, _: &Ledger, deadline: Duration) {
        // Tests look at the file; without it they fail.
        let _ = fs::write(self.traces.join("held"), deadline.as_millis().to_string());
    }

    fn manage_neighbour(&self, _: u32, _: std::net::IpAddr) -> std::io::Result<()> {
        Ok(())
    }
}

struct Scene {
    _dir: tempfile::TempDir,
    place: Place,
    config: Config,
    charge: TestCharge,
}

impl Scene {
    fn new(behaviour: Behaviour) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new("keeper-test".to_owned(), dir.path().join("run")).unwrap();
        let text = r#"{"interfaces": [{"type": "xdp", "param": "veth0", "address": "shared"}], "linger_ms": 0}"#;
        let (config, _) = crate::config::from_parts(std::iter::empty(), Some(text), "test").unwrap();
        let charge = TestCharge { behaviour, traces: dir.path().to_owned() };
        Scene { place, config, charge, _dir: dir }
    }

    fn up(&self) -> Result<nix::unistd::Pid> {
        in_background(&self.config, &self.place, &self.charge, false)
    }

    fn trace(&self, name: &str) -> String {
        wait_for(|| fs::read_to_string(self.charge.traces.join(name)).ok().filter(|text| !text.is_empty()), name)
    }

    fn engine(&self, generation: u32) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.trace(&format!("engine{generation}")).parse().unwrap())
    }

    fn assert_nothing_left(&self) {
        assert!(!self.place.dir().exists(), "{} is still there", self.place.dir().display());
        assert!(running(&self.place).unwrap().is_none());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A failed test leaves no keeper; a successful one has stopped it already.
        let _ = stop(&self.place);
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_gone(pid: nix::unistd::Pid) -> bool {
    // A zombie is gone too: its keeper, or init in its place, has yet to look.
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

#[test]
fn a_keeper_starts_reports_and_stops_in_order() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    let keeper = scene.up().unwrap();
    assert_eq!(running(&scene.place).unwrap().expect("it runs").0, keeper);
    let engine = scene.engine(0);
    stop(&scene.place).unwrap();
    assert!(scene.charge.traces.join("stopped").exists(), "the engine ended in order");
    assert!(is_gone(engine));
    scene.assert_nothing_left();
    assert_eq!(stop(&scene.place).unwrap_err().to_string(), "no engine named `keeper-test` is up");
}

#[test]
fn a_failing_engine_s_sentence_reaches_the_caller_and_nothing_is_left() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Fail);
    assert_eq!(scene.up().unwrap_err().to_string(), "the interface veth0 does not exist");
    scene.assert_nothing_left();
    // And the name is free again.
    assert_eq!(scene.up().unwrap_err().to_string(), "the interface veth0 does not exist");
}

#[test]
fn a_panic_is_told_from_a_failure() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Panic);
    assert_eq!(scene.up().unwrap_err().to_string(), "it panicked; its log says where");
    scene.assert_nothing_left();
}

#[test]
fn a_name_has_one_engine_at_a_time() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    let keeper = scene.up().unwrap();
    let refused = scene.up().unwrap_err().to_string();
    let sentence = format!("an engine named `keeper-test` is up already (keeper {keeper})");
    assert!(refused.starts_with(&sentence), "{refused}");
    assert_eq!(running(&scene.place).unwrap().expect("it still runs").0, keeper);
    stop(&scene.place).unwrap();
}

#[test]
fn a_killed_engine_has_a_successor_that_finds_the_ledger_and_no_strays() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    scene.up().unwrap();
    nix::sys::signal::kill(scene.engine(0), Signal::SIGKILL).unwrap();
    assert_eq!(scene.trace("held"), scene.config.hold.as_millis().to_string());
    assert!(scene.trace("found").ends_with(" 4096"));
    assert_eq!(scene.trace("strays"), "0");
    let second = scene.engine(1);
    // And once more: the count goes on.
    nix::sys::signal::kill(second, Signal::SIGKILL).unwrap();
    let third = scene.engine(2);
    assert!(!is_gone(third));
    stop(&scene.place).unwrap();
    assert!(is_gone(third));
    scene.assert_nothing_left();
}

#[test]
fn an_engine_that_fails_while_it_starts_leaves_what_it_found_and_no_record_of_what_it_made() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Stumble);
    scene.up().unwrap();
    nix::sys::signal::kill(scene.engine(0), Signal::SIGKILL).unwrap();
    let third = scene.engine(2);
    assert!(scene.trace("found").ends_with(" 4096"));
    assert_eq!((scene.trace("made"), scene.trace("strays")), ("0".to_owned(), "0".to_owned()));
    assert!(!is_gone(third));
    stop(&scene.place).unwrap();
    scene.assert_nothing_left();
}

#[test]
fn an_engine_that_does_not_stop_is_killed() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Hang);
    scene.up().unwrap();
    let engine = scene.engine(0);
    stop(&scene.place).unwrap();
    assert!(is_gone(engine));
    assert!(!scene.charge.traces.join("stopped").exists());
    scene.assert_nothing_left();
}

#[test]
fn the_engine_dies_with_its_keeper_and_the_name_is_free() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    let keeper = scene.up().unwrap();
    let engine = scene.engine(0);
    nix::sys::signal::kill(keeper, Signal::SIGKILL).unwrap();
    wait_for(|| is_gone(engine).then_some(()), "the engine's end");
    assert!(running(&scene.place).unwrap().is_none(), "a stale pid file is not taken for a keeper");
    wait_for(|| scene.up().ok(), "a new engine");
    stop(&scene.place).unwrap();
    scene.assert_nothing_left();
}

#[test]
fn the_keeper_reserves_ports_in_the_shared_table() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Reserve);
    scene.up().unwrap();
    let trace = scene.trace("reserved");
    let (bound, errno) = trace.split_once(' ').unwrap();
    assert_eq!(errno.parse(), Ok(libc::EADDRINUSE));
    let bound: SocketAddr = bound.parse().unwrap();
    let taken = std::net::TcpListener::bind(bound).expect_err("nobody else gets the port");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let refused = std::net::TcpStream::connect(bound).expect_err("nobody listens on it");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    stop(&scene.place).unwrap();
    std::net::TcpListener::bind(bound).expect("the port is free again");
}

#[test]
fn a_tied_keeper_ends_with_its_starter() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    let starter = fork::copy(|| i32::from(in_background(&scene.config, &scene.place, &scene.charge, true).is_err()));
    let status = waitpid(starter.unwrap(), None).unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    let engine = scene.engine(0);
    wait_for(|| is_gone(engine).then_some(()), "the engine's end");
    wait_for(|| (!scene.place.dir().exists()).then_some(()), "the directory's end");
}

#[test]
fn a_foreground_keeper_tells_the_service_manager() {
    if done_elsewhere() {
        return;
    }
    let scene = Scene::new(Behaviour::Serve);
    let path = scene.charge.traces.join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let keeper = fork::copy(|| {
        // SAFETY: the child has one thread.
        unsafe { std::env::set_var("NOTIFY_SOCKET", &path) };
        i32::from(start::in_foreground(&scene.config, &scene.place, &scene.charge).is_err())
    });
    let keeper = keeper.unwrap();
    let mut buffer = [0; 256];
    let len = manager.recv(&mut buffer).unwrap();
    assert!(buffer[..len].starts_with(b"READY=1\n"));
    nix::sys::signal::kill(keeper, Signal::SIGINT).unwrap();
    let len = manager.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"STOPPING=1");
    let status = waitpid(keeper, None).unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    scene.assert_nothing_left();
}
