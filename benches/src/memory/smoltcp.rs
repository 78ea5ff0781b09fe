//! smoltcp's two ends.

use super::{BUFFER, Ends, MTU, WRITE, Wire};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

const PORT: u16 = 5201;

/// One interface, its socket, and its application's memory.
struct End {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

pub struct Smoltcp {
    ends: [End; 2],
    /// From the first end to the second, and back.
    wires: [Wire; 2],
    now: i64,
    memory: Vec<u8>,
}

impl Smoltcp {
    /// A connection that is established.
    pub fn connect() -> Self {
        let mut wires = [Wire::default(), Wire::default()];
        let mut ends = [1, 2].map(|host| End::new(host, &mut wires));
        ends[1].sockets.get_mut::<tcp::Socket<'_>>(ends[1].socket).listen(PORT).expect("a fresh socket listens");
        let End { interface, sockets, socket } = &mut ends[0];
        let socket = sockets.get_mut::<tcp::Socket<'_>>(*socket);
        socket.connect(interface.context(), (address(2), PORT), 50_000).expect("a fresh socket connects");
        let mut pair = Self { ends, wires, now: 0, memory: vec![0x5a; WRITE] };
        for _ in 0..10 {
            pair.round();
        }
        assert!(pair.socket(0).may_send() && pair.socket(1).may_recv(), "smoltcp's handshake is over in a few rounds");
        pair
    }

    fn socket(&mut self, end: usize) -> &mut tcp::Socket<'static> {
        let End { sockets, socket, .. } = &mut self.ends[end];
        sockets.get_mut(*socket)
    }

    /// Each end takes what came and sends what it may.
    fn round(&mut self) {
        self.now += 10;
        let (now, [there, back]) = (Instant::from_micros(self.now), &mut self.wires);
        let [first, second] = &mut self.ends;
        first.interface.poll(now, &mut Link { out: there, into: back }, &mut first.sockets);
        second.interface.poll(now, &mut Link { out: back, into: there }, &mut second.sockets);
    }
}

impl Ends for Smoltcp {
    fn transfer(&mut self, bytes: usize) -> u64 {
        let before = self.wires[0].data_frames;
        let (mut written, mut read, mut memory) = (0, 0, std::mem::take(&mut self.memory));
        while read < bytes {
            while written < bytes {
                let part = WRITE.min(bytes - written);
                match self.socket(0).send_slice(&memory[..part]).expect("the connection is open") {
                    0 => break,
                    count => written += count,
                }
            }
            self.round();
            loop {
                match self.socket(1).recv_slice(&mut memory).expect("the connection is open") {
                    0 => break,
                    count => read += count,
                }
            }
        }
        self.memory = memory;
        self.wires[0].data_frames - before
    }
}

impl End {
    fn new(host: u8, wires: &mut [Wire; 2]) -> Self {
        let [out, into] = wires;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(host);
        let mut interface = Interface::new(config, &mut Link { out, into }, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address(host), 24)).expect("there is room for an address");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self { interface, sockets, socket }
    }
}

fn address(host: u8) -> IpAddress {
    IpAddress::v4(10, 9, 0, host)
}

/// One end's view of the wire.
struct Link<'w> {
    out: &'w mut Wire,
    into: &'w mut Wire,
}

struct Arrived<'w> {
    frame: Vec<u8>,
    wire: &'w mut Wire,
}

struct Departing<'w>(&'w mut Wire);

impl Device for Link<'_> {
    type RxToken<'a>
        = Arrived<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Departing<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrived<'_>, Departing<'_>)> {
        let frame = self.into.pop()?;
        Some((Arrived { frame, wire: self.into }, Departing(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Departing<'_>> {
        (!self.out.is_full()).then_some(Departing(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let outcome = take(&self.frame);
        self.wire.recycle(self.frame);
        outcome
    }
}

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = self.0.blank();
        frame.resize(len, 0);
        let outcome = fill(&mut frame);
        self.0.push(frame);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_as_many_full_segments_as_it_has_to() {
        let segments = Smoltcp::connect().transfer(1 << 20);
        let least = (1u64 << 20).div_ceil(MTU as u64 - 40);
        assert!((least..least + least / 5).contains(&segments), "{segments} segments, {least} would be full");
    }
}
