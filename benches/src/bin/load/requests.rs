//! Small requests on many connections that stay open, one request under way on each: both ends on one thread and one
//! epoll set, as event-driven servers and their clients are.

use crate::{MESSAGE, Outcome, open};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Events of one look.
const EVENTS: usize = 64;

/// A level-triggered set of what can be read; each member has a number.
pub struct Readable(OwnedFd);

impl Readable {
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain syscall.
        match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: just made and owned by nobody else.
            fd => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
        }
    }

    pub fn add(&self, socket: impl AsFd, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: reads one event.
        let outcome = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Numbers of what can be read, after at most `wait` milliseconds (-1: whenever).
    pub fn wait(&self, wait: i32) -> io::Result<impl Iterator<Item = u64> + use<>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: room for as many events as are said.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, wait) };
        if count < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(events.into_iter().take(count as usize).map(|event| event.u64))
        }
    }

    /// Sends back what comes on sockets that were added by their descriptor, which are closed at their end.
    pub fn echo_forever(&self) -> Outcome<()> {
        let mut buffer = [0; 16 * MESSAGE];
        loop {
            for number in self.wait(-1)? {
                // SAFETY: whoever added the descriptor left it to us; nobody else closes it.
                let mut stream = unsafe { TcpStream::from_raw_fd(number as i32) };
                let answered = stream.read(&mut buffer).and_then(|len| stream.write_all(&buffer[..len]).map(|()| len));
                if answered.is_ok_and(|len| len > 0) {
                    // It stays open.
                    let _ = std::os::fd::IntoRawFd::into_raw_fd(stream);
                }
            }
        }
    }
}

pub fn measure(address: &str, time: Duration, connections: usize) -> Outcome<()> {
    let set = Readable::new()?;
    let mut streams = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut stream = open(address)?;
        stream.write_all(b"q")?;
        set.add(&stream, number as u64)?;
        streams.push((stream, 0));
    }
    let message = [0x5a; MESSAGE];
    // One request on each before the clock runs: the server knows them all by then.
    for (stream, _) in &mut streams {
        stream.write_all(&message)?;
        stream.read_exact(&mut [0; MESSAGE])?;
    }
    let (mut count, started) = (0u64, Instant::now());
    for (stream, _) in &mut streams {
        stream.write_all(&message)?;
    }
    while started.elapsed() < time {
        let before = count;
        for number in set.wait(1000)? {
            let (stream, have) = &mut streams[number as usize];
            let mut answer = [0; MESSAGE];
            match stream.read(&mut answer[*have..])? {
                0 => return Err("the server closed a connection".into()),
                len => *have += len,
            }
            if *have == MESSAGE {
                *have = 0;
                count += 1;
                stream.write_all(&message)?;
            }
        }
        if count == before && started.elapsed() > time + crate::PATIENCE {
            return Err("the server does not answer any more".into());
        }
    }
    if count == 0 {
        return Err("not one request was answered in time".into());
    }
    println!("{{\"count\":{count},\"seconds\":{:.6}}}", started.elapsed().as_secs_f64());
    Ok(())
}
