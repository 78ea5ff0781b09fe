//! A small unmodified program that moves bytes and says what it saw: the tests run it on the host kernel and under
//! Persona, in both roles.
//!
//! `transfer ROLE MODE BYTES ADDRESS:PORT [CONNECTIONS]` with ROLE `listen` or `connect` and MODE, seen from this end,
//! `send`, `receive`, `both` (each in its own direction, at once) or `echo` (a request of BYTES, its answer, in turn, 100
//! times); `both` with a pause after each write is `paced`, for tests that need a transfer to last. The bytes are a function of their position and direction, so that each end checks every one. Prints one
//! JSON object: bytes each way, hashes, and the first wrong position if there is one. Exit status 1 on any difference.

use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between the writes of a paced transfer.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, role, mode, bytes, address, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: transfer listen|connect send|receive|both|echo BYTES ADDRESS:PORT [CONNECTIONS]");
        return ExitCode::from(2);
    };
    let bytes: u64 = bytes.parse().expect("BYTES is a number");
    let connections: u32 = rest.first().map_or(1, |text| text.parse().expect("CONNECTIONS is a number"));
    let listener = (role == "listen").then(|| TcpListener::bind(address).expect("bind"));
    let mut ok = true;
    for _ in 0..connections {
        let stream = match &listener {
            Some(listener) => listener.accept().expect("accept").0,
            None => TcpStream::connect(address).expect("connect"),
        };
        ok &= run(stream, mode, bytes, listener.is_some());
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(stream: TcpStream, mode: &str, bytes: u64, listening: bool) -> bool {
    let started = Instant::now();
    // The listener's bytes differ from the connector's, so that an echo of one's own would be noticed.
    let (mine, theirs) = if listening { (1, 2) } else { (2, 1) };
    let (sent, received) = match mode {
        "send" => {
            let sent = send(&stream, bytes, mine);
            stream.shutdown(Shutdown::Write).expect("shutdown");
            // The peer closes after it has everything: its end-of-file proves the delivery.
            (sent, receive(&stream, theirs))
        }
        "receive" => {
            let received = receive(&stream, theirs);
            (Direction::default(), received)
        }
        "both" | "paced" => std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent =
                    Direction { pause: if mode == "paced" { PAUSE } else { Duration::ZERO }, ..Direction::default() };
                sent.write(&stream, bytes, mine);
                stream.shutdown(Shutdown::Write).expect("shutdown");
                sent
            });
            let received = receive(&stream, theirs);
            (sender.join().expect("sender"), received)
        }),
        "echo" => {
            stream.set_nodelay(true).expect("TCP_NODELAY");
            let (mut sent, mut received) = (Direction::default(), Direction::default());
            for _ in 0..100 {
                if listening {
                    received.exactly(&stream, bytes, theirs);
                    sent.write(&stream, bytes, mine);
                } else {
                    sent.write(&stream, bytes, mine);
                    received.exactly(&stream, bytes, theirs);
                }
            }
            (sent, received)
        }
        _ => panic!("unknown mode {mode}"),
    };
    let expected = match mode {
        "send" => 0,
        "echo" => 100 * bytes,
        _ => bytes,
    };
    let seconds = started.elapsed().as_secs_f64();
    let ok = received.wrong_at.is_none() && received.bytes == expected;
    println!(
        "{{\"sent\":{},\"sent_sha256\":\"{}\",\"received\":{},\"received_sha256\":\"{}\",\"wrong_at\":{},\"seconds\":{seconds:.6},\"ok\":{ok}}}",
        sent.bytes,
        sent.hash(),
        received.bytes,
        received.hash(),
        received.wrong_at.map_or("null".into(), |at| at.to_string()),
    );
    ok
}

/// What went through one direction.
#[derive(Default)]
struct Direction {
    bytes: u64,
    pause: Duration,
    hasher: Sha256,
    wrong_at: Option<u64>,
}

impl Direction {
    fn hash(&self) -> String {
        self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn write(&mut self, mut stream: &TcpStream, bytes: u64, direction: u8) {
        let mut buffer = vec![0; 128 * 1024];
        let end = self.bytes + bytes;
        while self.bytes < end {
            let len = buffer.len().min((end - self.bytes) as usize);
            fill(&mut buffer[..len], self.bytes, direction);
            stream.write_all(&buffer[..len]).expect("write");
            self.hasher.update(&buffer[..len]);
            self.bytes += len as u64;
            std::thread::sleep(self.pause);
        }
    }

    /// Takes in what was read and checks each byte.
    fn check(&mut self, received: &[u8], expected: &mut Vec<u8>, direction: u8) {
        expected.resize(received.len(), 0);
        fill(expected, self.bytes, direction);
        if self.wrong_at.is_none() && received != expected.as_slice() {
            let at = received.iter().zip(expected.iter()).position(|(a, b)| a != b).unwrap_or(0);
            self.wrong_at = Some(self.bytes + at as u64);
        }
        self.hasher.update(received);
        self.bytes += received.len() as u64;
    }

    fn exactly(&mut self, mut stream: &TcpStream, bytes: u64, direction: u8) {
        let mut buffer = vec![0; bytes as usize];
        stream.read_exact(&mut buffer).expect("read");
        self.check(&buffer, &mut Vec::new(), direction);
    }
}

fn send(stream: &TcpStream, bytes: u64, direction: u8) -> Direction {
    let mut sent = Direction::default();
    sent.write(stream, bytes, direction);
    sent
}

/// Reads to the end of the stream.
fn receive(mut stream: &TcpStream, direction: u8) -> Direction {
    let mut received = Direction::default();
    let (mut buffer, mut expected) = (vec![0; 128 * 1024], Vec::new());
    loop {
        match stream.read(&mut buffer).expect("read") {
            0 => return received,
            len => received.check(&buffer[..len], &mut expected, direction),
        }
    }
}

/// The stream's content at `offset`: 8-byte words that depend on their index and direction.
fn fill(buffer: &mut [u8], offset: u64, direction: u8) {
    for (index, byte) in buffer.iter_mut().enumerate() {
        let at = offset + index as u64;
        let word = (at / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ u64::from(direction) << 56);
        *byte = (word >> (8 * (at % 8))) as u8;
    }
}
