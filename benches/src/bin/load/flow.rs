//! Bulk over a slow or lossy path: the receiver counts for a time and ends the transfer, so that what still waits in the
//! sender's buffer is nobody's; and it checks each byte, since the bytes are a function of their position.

use crate::{Outcome, PATIENCE, choose_congestion_control, open};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A prime, so that no shift by segments or buffers goes unnoticed.
const PERIOD: usize = 1_048_573;
const BUFFER: usize = 128 << 10;
/// How often the receiver looks at its clock when nothing comes.
const LOOK: Duration = Duration::from_millis(10);
/// Says that no byte was wrong.
const EXACT: u64 = u64::MAX;

pub fn measure(address: &str, time: Duration, controller: &str) -> Outcome<()> {
    let mut stream = open(address)?;
    choose_congestion_control(&stream, controller)?;
    // What is not sent when the receiver has had enough is not to be sent.
    let off = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Linger, &off)?;
    stream.set_read_timeout(Some(time + 2 * PATIENCE))?;
    let mut request = [b'f'; 9];
    request[1..].copy_from_slice(&(time.as_millis() as u64).to_le_bytes());
    stream.write_all(&request)?;
    let mut sending = stream.try_clone()?;
    // Ends with the process, in the middle of a write.
    std::thread::spawn(move || pour(&mut sending));
    let mut answer = [0; 24];
    stream.read_exact(&mut answer)?;
    let [bytes, nanoseconds, wrong_at] =
        [0, 8, 16].map(|at| u64::from_le_bytes(answer[at..at + 8].try_into().expect("eight bytes")));
    let (seconds, exact) = (nanoseconds as f64 / 1e9, wrong_at == EXACT);
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.6},\"exact\":{exact}}}");
    if exact { Ok(()) } else { Err(format!("byte {wrong_at} of {bytes} arrived wrong").into()) }
}

fn pour(stream: &mut TcpStream) {
    let (pattern, mut at) = (pattern(), 0);
    while let Ok(len) = stream.write(&pattern[at..(at + BUFFER).min(PERIOD)]) {
        at = (at + len) % PERIOD;
    }
}

/// The server's part: counts for as long as the client asked, tells, and waits for the client to go.
pub fn take(mut stream: TcpStream) -> Outcome<()> {
    let started = Instant::now();
    let mut time = [0; 8];
    stream.read_exact(&mut time)?;
    let time = Duration::from_millis(u64::from_le_bytes(time));
    stream.set_read_timeout(Some(LOOK))?;
    let (pattern, mut buffer) = (pattern(), vec![0; BUFFER]);
    let (mut bytes, mut wrong_at) = (0u64, EXACT);
    while started.elapsed() < time {
        match stream.read(&mut buffer) {
            Ok(0) => return Err("the client went before its time".into()),
            Ok(len) => {
                if wrong_at == EXACT {
                    wrong_at = check(&buffer[..len], bytes, &pattern).unwrap_or(EXACT);
                }
                bytes += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let nanoseconds = started.elapsed().as_nanos() as u64;
    for number in [bytes, nanoseconds, wrong_at] {
        stream.write_all(&number.to_le_bytes())?;
    }
    // A close with unread bytes would be a reset that overtakes the answer.
    stream.set_read_timeout(Some(PATIENCE))?;
    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
    Ok(())
}

/// Position of the first byte that is not the pattern's.
fn check(received: &[u8], mut position: u64, pattern: &[u8]) -> Option<u64> {
    let mut rest = received;
    while !rest.is_empty() {
        let at = (position % PERIOD as u64) as usize;
        let len = rest.len().min(PERIOD - at);
        let (here, expected) = (&rest[..len], &pattern[at..at + len]);
        if here != expected {
            let wrong = here.iter().zip(expected).position(|(one, other)| one != other)?;
            return Some(position + wrong as u64);
        }
        position += len as u64;
        rest = &rest[len..];
    }
    None
}

/// One period of the stream.
fn pattern() -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let next = |_| {
        // Marsaglia's xorshift64.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    };
    (0..PERIOD).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_and_a_shift_are_found_where_they_are() {
        let pattern = pattern();
        let stream: Vec<u8> = pattern.iter().chain(&pattern).copied().collect();
        let from = PERIOD - 1_000;
        assert_eq!(check(&stream[from..from + 3_000], from as u64, &pattern), None);
        let mut wrong = stream[from..from + 3_000].to_vec();
        wrong[2_000] ^= 1;
        assert_eq!(check(&wrong, from as u64, &pattern), Some(from as u64 + 2_000));
        for shift in [1, 1_448, BUFFER] {
            assert!(check(&stream[shift..shift + 3_000], 0, &pattern).is_some(), "a shift by {shift}");
        }
    }
}
