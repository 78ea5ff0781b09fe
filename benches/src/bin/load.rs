//! The unmodified program of the end-to-end measurements: plain sockets and nothing of Persona's.
//!
//! `load serve ADDRESS:PORT` answers one connection after another until it is killed. `load KIND ADDRESS:PORT MS` connects
//! to it and works for MS milliseconds: `send` or `receive` (bulk in one direction), `echo` (64 bytes to and fro), or
//! `connect` (open, one byte each way, closed by the server, again). It prints one JSON object. Bulk is counted where it
//! arrives, and the clock stops when the receiver has said so.

use persona_benches::machine;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const BUFFER: usize = 128 << 10;
/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// A peer that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["serve", address] => serve(&TcpListener::bind(address)?),
        [kind, address, milliseconds] => {
            let time = Duration::from_millis(milliseconds.parse()?);
            match *kind {
                "send" => bulk(address, time, true),
                "receive" => bulk(address, time, false),
                "echo" => echo(address, time),
                "connect" => connect(address, time),
                _ => Err(format!("unknown kind {kind}: send, receive, echo or connect").into()),
            }
        }
        _ => Err("usage: load serve ADDRESS:PORT | load send|receive|echo|connect ADDRESS:PORT MS".into()),
    }
}

/// What a client wants, in the first byte; a bulk receiver adds the time in milliseconds.
fn serve(listener: &TcpListener) -> Outcome<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A client that ends in the middle is the client's failure, which it reports itself.
        if let Err(error) = answer(stream) {
            eprintln!("load serve: {error}");
        }
    }
}

fn answer(mut stream: TcpStream) -> Outcome<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        b's' => {
            let count = drain(&mut stream)?;
            stream.write_all(&count.to_le_bytes())?;
        }
        b'r' => {
            let mut time = [0; 8];
            stream.read_exact(&mut time)?;
            pour(&mut stream, Duration::from_millis(u64::from_le_bytes(time)))?;
        }
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
        b'c' => stream.write_all(b"c")?,
        other => return Err(format!("a request of kind {other}").into()),
    }
    Ok(())
}

fn open(address: &str) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn bulk(address: &str, time: Duration, sending: bool) -> Outcome<()> {
    let mut stream = open(address)?;
    let (busy, started) = (machine::busy_seconds()?, Instant::now());
    let bytes = if sending {
        stream.write_all(b"s")?;
        pour(&mut stream, time)?;
        let mut count = [0; 8];
        stream.read_exact(&mut count)?;
        u64::from_le_bytes(count)
    } else {
        let mut request = [b'r'; 9];
        request[1..].copy_from_slice(&(time.as_millis() as u64).to_le_bytes());
        stream.write_all(&request)?;
        drain(&mut stream)?
    };
    let (seconds, busy) = (started.elapsed().as_secs_f64(), machine::busy_seconds()? - busy);
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.6},\"busy_seconds\":{busy:.3}}}");
    Ok(())
}

/// Writes for as long as `time`, then ends this direction.
fn pour(stream: &mut TcpStream, time: Duration) -> Outcome<()> {
    let (buffer, started) = (vec![0x5a; BUFFER], Instant::now());
    while started.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(())
}

/// Reads to the end of the stream.
fn drain(stream: &mut TcpStream) -> Outcome<u64> {
    let (mut buffer, mut count) = (vec![0; BUFFER], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(count),
            len => count += len as u64,
        }
    }
}

fn echo(address: &str, time: Duration) -> Outcome<()> {
    let mut stream = open(address)?;
    stream.write_all(b"e")?;
    let mut message = [0x5a; MESSAGE];
    let mut nanoseconds = Vec::with_capacity(1 << 20);
    let started = Instant::now();
    // The first tenth warms caches and predictors up.
    let warm = time / 10;
    while started.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if started.elapsed() >= warm {
            nanoseconds.push(sent.elapsed().as_nanos() as u64);
        }
    }
    nanoseconds.sort_unstable();
    let Some(last) = nanoseconds.len().checked_sub(1) else { return Err("not one round trip in time".into()) };
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|part| nanoseconds[(last as f64 * part).round() as usize] as f64 / 1000.0);
    println!("{{\"count\":{},\"p50\":{p50:.3},\"p99\":{p99:.3},\"p999\":{p999:.3}}}", last + 1);
    Ok(())
}

fn connect(address: &str, time: Duration) -> Outcome<()> {
    let (mut count, started) = (0u64, Instant::now());
    while started.elapsed() < time {
        let mut stream = open(address)?;
        stream.write_all(b"c")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        // The server closes first and keeps the TIME-WAIT.
        if stream.read(&mut answer)? != 0 {
            return Err("more than the answer".into());
        }
        count += 1;
    }
    println!("{{\"count\":{count},\"seconds\":{:.6}}}", started.elapsed().as_secs_f64());
    Ok(())
}
