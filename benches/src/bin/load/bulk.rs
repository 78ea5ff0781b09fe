//! As many bytes as go through in a time, in one direction, over one connection or several at once.

use crate::{CONGESTION_CONTROL, Outcome, choose_congestion_control, open};
use persona_benches::machine;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Of a write and of a read.
const BUFFER: usize = 128 << 10;

/// Seen from the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Send,
    Receive,
}

pub fn measure(address: &str, time: Duration, connections: usize, direction: Direction) -> Outcome<()> {
    let streams: Vec<TcpStream> = (0..connections).map(|_| open(address)).collect::<Outcome<_>>()?;
    for stream in &streams {
        choose_congestion_control(stream, CONGESTION_CONTROL)?;
    }
    let (busy, started) = (machine::busy_seconds()?, Instant::now());
    let bytes: u64 = std::thread::scope(|scope| {
        let mut streams = streams.into_iter();
        let own = streams.next().expect("one connection at least");
        let others: Vec<_> = streams.map(|stream| scope.spawn(move || transfer(stream, time, direction))).collect();
        let mut bytes = transfer(own, time, direction)?;
        for other in others {
            bytes += other.join().map_err(|_| "a connection's thread panicked")??;
        }
        Outcome::Ok(bytes)
    })?;
    let (seconds, busy) = (started.elapsed().as_secs_f64(), machine::busy_seconds()? - busy);
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.6},\"busy_seconds\":{busy:.3}}}");
    Ok(())
}

/// Bytes that arrived at the other end.
fn transfer(mut stream: TcpStream, time: Duration, direction: Direction) -> Outcome<u64> {
    if direction == Direction::Receive {
        let mut request = [b'r'; 9];
        request[1..].copy_from_slice(&(time.as_millis() as u64).to_le_bytes());
        stream.write_all(&request)?;
        return drain(&mut stream);
    }
    stream.write_all(b"s")?;
    pour(&mut stream, time)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_le_bytes(count))
}

/// Writes for as long as `time`, then ends this direction.
pub fn pour(stream: &mut TcpStream, time: Duration) -> Outcome<()> {
    let (buffer, started) = (vec![0x5a; BUFFER], Instant::now());
    while started.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Reads to the end of the stream.
pub fn drain(stream: &mut TcpStream) -> Outcome<u64> {
    let (mut buffer, mut count) = (vec![0; BUFFER], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(count),
            len => count += len as u64,
        }
    }
}
