//! The minimal loop as a program: one connection to `load serve` at the other end of a veth, without any stack.
//!
//! `minimal RING send|receive INTERFACE ADDRESS PEER:PORT PEER-MAC MS` prints one JSON object, as `load` does. RING:
//!
//! | ring | what |
//! |---|---|
//! | `xdp` | AF_XDP rings of its own, an XDP program that redirects everything |
//! | `xdp-diverted` | the same behind Persona's XDP program, with an entry for the connection |
//! | `xdp-port` | the engine's AF_XDP port |
//! | `xsk-rs` | the engine's AF_XDP port on the xsk-rs crate (cargo feature `xsk-rs`) |
//! | `packet` | packet_mmap rings of its own, one segment per frame in both directions (offloads off); the host's stack sees each frame, too |
//! | `packet-diverted` | the same behind Persona's socket filter and tc program: the host sees nothing |
//! | `packet-offload` | packet_mmap rings of its own with super-segments (PACKET_VNET_HDR) |

use anyhow::{Context, Result, bail};
use persona_benches::machine;
use persona_benches::minimal::packet::PacketRing;
use persona_benches::minimal::port::PortRing;
use persona_benches::minimal::redirect::Redirect;
use persona_benches::minimal::segment::Ends;
use persona_benches::minimal::tcp::Connection;
use persona_benches::minimal::{Ring, xdp::XdpRing};
use persona_engine::divert::{Capacity, Diversion, PortKind};
use persona_engine::port::xdp::{Params, XdpPort};
use std::any::Any;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: minimal xdp|xdp-diverted|xdp-port|xsk-rs|packet|packet-diverted|packet-offload \
                     send|receive INTERFACE ADDRESS PEER:PORT PEER-MAC MS";
const CAPACITY: Capacity = Capacity { queues: 1, flows: 16, listeners: 1 };

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minimal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ring, kind, interface, address, peer, peer_mac, milliseconds] = arguments.as_slice() else { bail!(USAGE) };
    let ends = Ends {
        our_mac: own_mac(interface)?,
        peer_mac: parse_mac(peer_mac)?,
        ours: SocketAddrV4::new(address.parse::<Ipv4Addr>().context("ADDRESS")?, local_port()),
        peer: peer.parse().context("PEER:PORT")?,
    };
    let time = Duration::from_millis(milliseconds.parse().context("MS")?);
    // What diverts frames to the ring is attached as long as this lives.
    let (ring, _attached) = patiently(|| open(ring, interface, &ends))?;
    let connection = Connection::open(ring, ends)?;
    let (busy, started) = (machine::busy_seconds()?, Instant::now());
    let moved = match kind.as_str() {
        "send" => connection.send_for(time)?,
        "receive" => connection.receive_for(time)?,
        _ => bail!(USAGE),
    };
    let (seconds, busy) = (started.elapsed().as_secs_f64(), machine::busy_seconds()? - busy);
    println!(
        "{{\"bytes\":{},\"seconds\":{seconds:.6},\"busy_seconds\":{busy:.3},\"again\":{},\"dropped\":{}}}",
        moved.bytes, moved.again, moved.dropped
    );
    Ok(())
}

/// The kernel gives a queue back some time after the program before us has ended: until then opening it fails.
fn patiently<T>(mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match open() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

type Opened = (Box<dyn Ring>, Option<Box<dyn Any>>);

fn open(ring: &str, interface: &str, ends: &Ends) -> Result<Opened> {
    Ok(match ring {
        "xdp" => {
            let ring = XdpRing::open(interface)?;
            let program = Redirect::attach(interface, ring.socket())?;
            (Box::new(ring), Some(Box::new(program)))
        }
        "xdp-diverted" => {
            let ring = XdpRing::open(interface)?;
            let diversion = Diversion::attach(interface, PortKind::Xdp { multi_buffer: false, mode: None }, CAPACITY)?;
            diversion.set_xsk(0, ring.socket())?;
            diversion.add_flow(ends.ours.into(), ends.peer.into(), 0)?;
            (Box::new(ring), Some(Box::new(diversion)))
        }
        "xdp-port" => on_port(XdpPort::open(&params(interface))?, interface, XdpPort::socket)?,
        "xsk-rs" => xsk_rs(interface)?,
        "packet" => (Box::new(PacketRing::open(interface, false, None)?), None),
        "packet-offload" => (Box::new(PacketRing::open(interface, true, None)?), None),
        "packet-diverted" => {
            let diversion = Diversion::attach(interface, PortKind::Packet, CAPACITY)?;
            diversion.add_flow(ends.ours.into(), ends.peer.into(), 0)?;
            let ring = PacketRing::open(interface, false, Some(&diversion.socket_filter()?))?;
            (Box::new(ring), Some(Box::new(diversion)))
        }
        _ => bail!(USAGE),
    })
}

/// What either AF_XDP port is opened with: nothing that the loop does not need.
fn params(interface: &str) -> Params {
    Params {
        zero_copy: false,
        checksum_offload: false,
        local_peer: Some(false),
        merge: false,
        ..Params::new(interface, 0)
    }
}

fn on_port<P: persona_engine::port::Port + 'static>(
    port: P,
    interface: &str,
    socket: impl Fn(&P) -> BorrowedFd<'_>,
) -> Result<Opened> {
    let program = Redirect::attach(interface, socket(&port))?;
    Ok((Box::new(PortRing::new(port)), Some(Box::new(program))))
}

#[cfg(feature = "xsk-rs")]
fn xsk_rs(interface: &str) -> Result<Opened> {
    use persona_engine::port::xsk_rs::XskRsPort;
    on_port(XskRsPort::open(&params(interface))?, interface, XskRsPort::socket)
}

#[cfg(not(feature = "xsk-rs"))]
fn xsk_rs(_: &str) -> Result<Opened> {
    bail!("minimal was built without xsk-rs: build it with `--features xsk-rs`")
}

/// Another one in each run, so that what the last connection left at the peer does not matter.
fn local_port() -> u16 {
    20_000 + (std::process::id() % 40_000) as u16
}

fn own_mac(interface: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: is there an interface {interface}?"))?;
    parse_mac(text.trim())
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    bytes.with_context(|| format!("{text} is not a hardware address"))
}
