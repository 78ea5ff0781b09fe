//! The unmodified program of the end-to-end measurements: plain sockets and nothing of Persona's.
//!
//! `load serve ADDRESS:PORT` answers connections until it is killed. `load KIND ADDRESS:PORT MS [COUNT]` connects to it and
//! works for MS milliseconds: `send` or `receive` (bulk in one direction, over COUNT connections at once), `echo` (64 bytes
//! to and fro), `connect` (open, one byte each way, closed by the server, again) or `requests` (64 bytes to and fro on
//! COUNT connections that stay open). It prints one JSON object. Bulk is counted where it arrives, and the clock stops when
//! the receiver has said so. Two kinds are for paths that are slow or lose: `flow` (bulk to the server, checked byte by byte)
//! and `paced` (64 bytes to and fro, at a steady pace); they take the congestion controller as a last argument. `load
//! controllers NAME...` prints those of the names that a socket takes.

mod bulk;
mod flow;
mod paced;
mod requests;
mod serve;
mod single;

use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// A peer that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whatever the host's default is: both sides and both stacks use the same.
const CONGESTION_CONTROL: &str = "cubic";
const USAGE: &str = "usage: load serve ADDRESS:PORT | load send|receive|echo|connect|requests|flow|paced ADDRESS:PORT MS \
                     [CONNECTIONS [CONTROLLER]] | load controllers NAME...";

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let (kind, address, rest) = match words.as_slice() {
        ["serve", address] => {
            let listener = TcpListener::bind(address)?;
            // Inherited by what it accepts.
            choose_congestion_control(&listener, CONGESTION_CONTROL)?;
            return serve::serve(&listener);
        }
        ["controllers", names @ ..] => return controllers(names),
        [kind, address, rest @ ..] => (*kind, *address, rest),
        _ => return Err(USAGE.into()),
    };
    let (milliseconds, count, controller) = match rest {
        [milliseconds] => (*milliseconds, "1", CONGESTION_CONTROL),
        [milliseconds, count] => (*milliseconds, *count, CONGESTION_CONTROL),
        [milliseconds, count, controller] => (*milliseconds, *count, *controller),
        _ => return Err(USAGE.into()),
    };
    let (time, count) = (Duration::from_millis(milliseconds.parse()?), count.parse()?);
    match kind {
        "send" => bulk::measure(address, time, count, bulk::Direction::Send),
        "receive" => bulk::measure(address, time, count, bulk::Direction::Receive),
        "echo" => single::echo(address, time),
        "connect" => single::connect(address, time),
        "requests" => requests::measure(address, time, count),
        "flow" => flow::measure(address, time, controller),
        "paced" => paced::measure(address, time, count, controller),
        _ => Err(USAGE.into()),
    }
}

fn open(address: &str) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address).map_err(|error| format!("cannot connect to {address}: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn choose_congestion_control(socket: &impl std::os::fd::AsFd, name: &str) -> Outcome<()> {
    use nix::sys::socket::{setsockopt, sockopt::TcpCongestion};
    setsockopt(socket, TcpCongestion, &name.into()).map_err(|error| format!("cannot choose {name}: {error}").into())
}

fn controllers(names: &[&str]) -> Outcome<()> {
    let mut taken = Vec::new();
    for name in names {
        // A socket of its own for each: a connection that has begun may take fewer.
        let (domain, kind) = (nix::sys::socket::AddressFamily::Inet, nix::sys::socket::SockType::Stream);
        let socket = nix::sys::socket::socket(domain, kind, nix::sys::socket::SockFlag::SOCK_CLOEXEC, None)?;
        if choose_congestion_control(&socket, name).is_ok() {
            taken.push(format!("\"{name}\""));
        }
    }
    println!("[{}]", taken.join(","));
    Ok(())
}
