//! The server: what a client wants is in its first byte.

use crate::bulk::{drain, pour};
use crate::requests::Readable;
use crate::{MESSAGE, Outcome, PATIENCE};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The set of the thread that answers requests; there is none before the first connection that sends some.
static REQUESTS: OnceLock<Arc<Readable>> = OnceLock::new();

pub fn serve(listener: &TcpListener) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A client that ends in the middle is the client's failure, which it reports itself.
        complain(answer(stream));
    }
}

fn complain(outcome: Outcome<()>) {
    if let Err(error) = outcome {
        eprintln!("load serve: {error}");
    }
}

/// Short connections are answered here, one after another; the others go on beside this.
fn answer(mut stream: TcpStream) -> Outcome<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        b'c' => stream.write_all(b"c")?,
        b'q' => hand_over(stream)?,
        kind => {
            std::thread::spawn(move || complain(long(stream, kind)));
        }
    }
    Ok(())
}

fn long(mut stream: TcpStream, kind: u8) -> Outcome<()> {
    match kind {
        b's' => {
            let count = drain(&mut stream)?;
            stream.write_all(&count.to_le_bytes())?;
        }
        b'r' => {
            let mut time = [0; 8];
            stream.read_exact(&mut time)?;
            pour(&mut stream, Duration::from_millis(u64::from_le_bytes(time)))?;
        }
        b'f' => crate::flow::take(stream)?,
        b'e' => {
            let mut message = [0; MESSAGE];
            loop {
                match stream.read_exact(&mut message) {
                    Ok(()) => stream.write_all(&message)?,
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        other => return Err(format!("a request of kind {other}").into()),
    }
    Ok(())
}

/// Gives the connection to the thread that answers requests, and starts it with the first.
fn hand_over(stream: TcpStream) -> Outcome<()> {
    if let Some(set) = REQUESTS.get() {
        return set.add_own(stream);
    }
    let set = Arc::new(Readable::new()?);
    set.add_own(stream)?;
    // One thread accepts, so that nobody was faster.
    let set = REQUESTS.get_or_init(|| set).clone();
    std::thread::spawn(move || complain(set.echo_forever()));
    Ok(())
}

impl Readable {
    /// The socket is the set's from now on, and its number is its descriptor.
    fn add_own(&self, stream: TcpStream) -> Outcome<()> {
        use std::os::fd::AsRawFd;
        self.add(&stream, stream.as_raw_fd() as u64)?;
        let _ = stream.into_raw_fd();
        Ok(())
    }
}
