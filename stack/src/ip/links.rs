//! The way out, and everything about the links: [`Links`] holds interfaces, routes, neighbours and the frames that wait
//! for them, answers ARP, and is the one place where IP frames get their link header.

use super::counters::IpCounters;
use super::held::HeldFrames;
use super::interface::Interfaces;
use super::limit::{Rate, TokenBucket};
use super::neighbour::{Due, Learned, Neighbours, Resolution};
use super::packed::PackedIp;
use super::route::Routes;
use crate::api::{AddressMode, Busy, Error, Host, Link};
use crate::frame::{Gso, Payload, PortId, Segment, TxChecksum};
use crate::time::Instant;
use crate::wire::{ArpOperation, ArpRepr, EtherType, EthernetRepr, MacAddr};
use core::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that [`Outgoing::header`] leaves free in front of the IP header.
pub const LINK_ROOM: usize = EthernetRepr::LEN;

/// RFC 5227 section 2.4: an address is defended at most once in ten seconds.
const DEFEND_RATE: Rate = Rate { per_second: 1, burst: 1 };
const DEFEND_EVERY: u64 = 10;

/// A frame to send, complete but for its link header.
pub struct Outgoing<'a> {
    /// [`LINK_ROOM`] bytes for the link header, then the IP header and what follows.
    pub header: &'a mut [u8],
    pub payload: Payload<'a>,
    /// `start` counts from the IP header on.
    pub checksum: TxChecksum,
    pub gso: Option<Gso>,
}

/// What the links remember beside the tables; in the arena.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinksState {
    pub(super) icmp_errors: TokenBucket,
    defence: TokenBucket,
    /// Addresses that have to be announced on their link: a bit for each place in the list of addresses.
    announce: [u64; 2],
    /// Identification of the next datagram that may be fragmented.
    pub(super) identification: u32,
    /// Shard 0 answers what every shard sees.
    answers_all: u32,
}

impl LinksState {
    /// `seed`: where datagram identifications begin.
    pub fn new(shard: u8, seed: u32) -> Self {
        Self { answers_all: u32::from(shard == 0), identification: seed, ..Self::default() }
    }

    /// Whether this shard answers what every shard sees (ARP, reassembled datagrams).
    pub fn answers_all(&self) -> bool {
        self.answers_all != 0
    }
}

/// The links of one stack, over the arena.
pub struct Links<'m> {
    pub interfaces: &'m mut Interfaces,
    pub routes: Routes<'m>,
    pub neighbours: Neighbours<'m>,
    pub(crate) held: &'m mut HeldFrames,
    pub counters: &'m mut IpCounters,
    pub(crate) state: &'m mut LinksState,
}

impl Links<'_> {
    /// Gives `port` an address; in own mode the link hears of it at the next [`Links::flush`].
    pub fn add_address(&mut self, port: PortId, address: IpAddr, prefix_len: u8) -> Result<(), Error> {
        self.interfaces.add_address(port, address, prefix_len)?;
        self.routes.changed();
        if let Some(place) = self.interfaces.addresses().iter().position(|known| known.address() == address) {
            self.state.announce[place / 64] |= 1 << (place % 64);
        }
        Ok(())
    }

    pub fn remove_address(&mut self, port: PortId, address: IpAddr) -> Result<(), Error> {
        self.interfaces.remove_address(port, address)?;
        self.routes.changed();
        // What frames to ourselves have left there.
        self.set_unknown(port, address);
        // Places have moved; an announcement too many does no harm, one too few does.
        if self.state.announce != [0; 2] {
            self.state.announce = [u64::MAX; 2];
        }
        Ok(())
    }

    fn set_unknown(&mut self, port: PortId, address: IpAddr) {
        self.neighbours.forget(port, address);
        self.counters.held_drops += self.held.give_up(port, address);
    }

    /// A neighbour known from outside. Held frames that waited for it go out at once.
    pub fn set_neighbour<H: Host>(
        &mut self,
        port: PortId,
        address: IpAddr,
        mac: Option<[u8; 6]>,
        host: &mut H,
    ) -> Result<(), Error> {
        if self.interfaces.get(port).is_none() {
            return Err(Error::Invalid);
        }
        let Some(mac) = mac.map(MacAddr) else {
            self.set_unknown(port, address);
            return Ok(());
        };
        if self.neighbours.set(port, address, mac)? == Learned::Resolved {
            self.release(port, address, mac, host);
        }
        Ok(())
    }

    /// Sends a frame to `next_hop`, or keeps it until the neighbour has answered when it is short enough. [`Busy`]:
    /// not taken, because the port has no room or the neighbour is not known yet; try again at the next flush.
    #[inline]
    pub fn output<H: Host>(
        &mut self,
        now: Instant,
        port: PortId,
        next_hop: PackedIp,
        frame: Outgoing<'_>,
        host: &mut H,
    ) -> Result<(), Busy> {
        let Some(interface) = self.interfaces.get(port) else {
            // The interface is gone, as if its cable were cut.
            self.counters.ip_out_discards += 1;
            return Ok(());
        };
        let Outgoing { header, payload, checksum, gso } = frame;
        let skip = match interface.link() {
            Link::Ip => LINK_ROOM,
            Link::Ethernet { mac } => {
                let source = MacAddr(mac);
                let known = self.hardware_address(now, port, next_hop, host);
                let destination = known.unwrap_or_default();
                EthernetRepr { destination, source, ether_type: EtherType::IPV4 }.emit(header);
                if known.is_none() {
                    let checksum = shifted(checksum, LINK_ROOM);
                    return self.hold(port, next_hop.into(), header, payload, checksum);
                }
                0
            }
        };
        let Some(header) = header.get(skip..) else { return Ok(()) };
        let checksum = shifted(checksum, LINK_ROOM - skip);
        host.transmit(port, &Segment { header, payload, checksum, gso })?;
        self.counters.ip_out_requests += 1;
        Ok(())
    }

    /// Announces addresses that are new on their link. Call once per batch.
    pub fn flush<H: Host>(&mut self, host: &mut H) {
        if self.state.announce == [0; 2] {
            return;
        }
        for place in 0..self.interfaces.addresses().len() {
            let bit = 1 << (place % 64);
            if self.state.announce[place / 64] & bit == 0 {
                continue;
            }
            let address = self.interfaces.addresses()[place];
            // A full port gets it at the next flush.
            if self.announce(address.port(), address.address(), host).is_err() {
                return;
            }
            self.state.announce[place / 64] &= !bit;
        }
        self.state.announce = [0; 2];
    }

    /// When [`Links::on_timeout`] has something to do at the earliest.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.neighbours.next_deadline()
    }

    /// Repeats requests, and gives next hops up that do not answer: `failed` is called for each of them.
    pub fn on_timeout<H: Host>(&mut self, now: Instant, host: &mut H, mut failed: impl FnMut(PortId, IpAddr)) {
        while let Some(due) = self.neighbours.pop_due(now) {
            match due {
                Due::Request { port, address, mac } => self.request(port, address, mac, host),
                Due::Failed { port, address } => {
                    self.counters.neighbour_failures += 1;
                    self.counters.held_drops += self.held.give_up(port, address);
                    failed(port, address);
                }
            }
        }
    }

    /// A next hop in shared mode whose link address the host has to be asked for.
    pub fn pop_wanted(&mut self) -> Option<(PortId, IpAddr)> {
        self.neighbours.pop_wanted()
    }

    /// An ARP packet arrived on `port`.
    pub fn on_arp<H: Host>(&mut self, now: Instant, port: PortId, packet: &[u8], host: &mut H) {
        let Some(interface) = self.interfaces.get(port) else { return };
        let (Link::Ethernet { mac }, AddressMode::Own) = (interface.link(), interface.mode()) else { return };
        let Ok(packet) = ArpRepr::parse(packet) else {
            self.counters.arp_in_errors += 1;
            return;
        };
        let (our_mac, sender, target) = (MacAddr(mac), IpAddr::V4(packet.sender_ip), IpAddr::V4(packet.target_ip));
        if packet.sender_mac == our_mac {
            return;
        }
        if !packet.sender_mac.is_station() {
            self.counters.arp_in_errors += 1;
            return;
        }
        let is_request = packet.operation == ArpOperation::Request;
        match packet.operation {
            ArpOperation::Request => self.counters.arp_in_requests += 1,
            ArpOperation::Reply => self.counters.arp_in_replies += 1,
        }
        let ours = |address| self.interfaces.find(address).is_some_and(|known| known.port() == port);
        if ours(sender) {
            self.counters.arp_conflicts += 1;
            self.defend(now, port, sender, host);
            return;
        }
        let for_us = ours(target);
        // RFC 5227 section 1.1: a probe bears no sender; it is answered and nothing is learnt from it.
        if !packet.sender_ip.is_unspecified() {
            let learned = self.neighbours.learn(now, port, sender, packet.sender_mac, is_request && for_us);
            if learned == Learned::Resolved {
                self.release(port, sender, packet.sender_mac, host);
            }
        }
        if is_request && for_us && self.state.answers_all() {
            let reply = ArpRepr {
                operation: ArpOperation::Reply,
                sender_mac: our_mac,
                sender_ip: packet.target_ip,
                target_mac: packet.sender_mac,
                target_ip: packet.sender_ip,
            };
            if self.send_arp(port, packet.sender_mac, &reply, host).is_ok() {
                self.counters.arp_out_replies += 1;
            }
        }
    }

    /// Identification for a datagram that may be fragmented.
    pub(super) fn next_identification(&mut self) -> u16 {
        self.state.identification = self.state.identification.wrapping_add(1);
        self.state.identification as u16
    }

    #[inline]
    fn hardware_address<H: Host>(
        &mut self,
        now: Instant,
        port: PortId,
        next_hop: PackedIp,
        host: &mut H,
    ) -> Option<MacAddr> {
        let address = || IpAddr::from(next_hop);
        match self.neighbours.resolve(now, port, next_hop) {
            Resolution::Known(mac) => Some(mac),
            Resolution::KnownProbe(mac) => {
                self.request(port, address(), Some(mac), host);
                Some(mac)
            }
            Resolution::Wait => None,
            Resolution::NoRoom => {
                self.counters.neighbour_overflows += 1;
                None
            }
            Resolution::Request => {
                // Frames to ourselves never leave the host: their link address is our own.
                if self.interfaces.is_local(next_hop) {
                    let mac = self.interfaces.get(port)?.mac();
                    return self.neighbours.set(port, address(), mac).ok().map(|_| mac);
                }
                self.request(port, address(), None, host);
                None
            }
        }
    }

    /// Keeps a frame of headers alone for a neighbour that is being asked for.
    fn hold(
        &mut self,
        port: PortId,
        next_hop: IpAddr,
        frame: &[u8],
        payload: Payload<'_>,
        checksum: TxChecksum,
    ) -> Result<(), Busy> {
        if !payload.is_empty() {
            return Err(Busy);
        }
        let dropped = self.held.hold(port, next_hop, frame, checksum).ok_or(Busy)?;
        self.counters.held_drops += dropped;
        Ok(())
    }

    /// Sends what waited for a neighbour that has just answered.
    fn release<H: Host>(&mut self, port: PortId, next_hop: IpAddr, mac: MacAddr, host: &mut H) {
        while let Some(mut frame) = self.held.release(port, next_hop) {
            let checksum = frame.checksum;
            let header = frame.bytes_mut();
            if let Some(destination) = header.first_chunk_mut::<6>() {
                *destination = mac.0;
            }
            let segment = Segment { header, payload: Payload::None, checksum, gso: None };
            match host.transmit(port, &segment) {
                Ok(()) => self.counters.ip_out_requests += 1,
                // As if the wire had lost it: the transport repeats it.
                Err(Busy) => self.counters.ip_out_discards += 1,
            }
        }
    }

    /// Asks for the link address of `address`: on the link, or of the caller's host in shared mode.
    fn request<H: Host>(&mut self, port: PortId, address: IpAddr, mac: Option<MacAddr>, host: &mut H) {
        let Some(interface) = self.interfaces.get(port) else { return };
        if interface.mode() == AddressMode::Shared {
            self.neighbours.mark_wanted(port, address);
            return;
        }
        let (IpAddr::V4(target_ip), Some(IpAddr::V4(sender_ip))) = (address, self.interfaces.source_for(port, address))
        else {
            return;
        };
        let request = ArpRepr {
            operation: ArpOperation::Request,
            sender_mac: interface.mac(),
            sender_ip,
            target_mac: MacAddr::default(),
            target_ip,
        };
        if self.send_arp(port, mac.unwrap_or(MacAddr::BROADCAST), &request, host).is_ok() {
            self.counters.arp_out_requests += 1;
        }
    }

    /// Somebody else uses our address: say once more that it is ours (RFC 5227 section 2.4 b).
    fn defend<H: Host>(&mut self, now: Instant, port: PortId, address: IpAddr, host: &mut H) {
        let slowed = Instant::from_micros(now.as_micros() / DEFEND_EVERY);
        if self.state.answers_all() && self.state.defence.take(slowed, DEFEND_RATE) {
            // A full port loses it as the wire may; the next conflict defends again.
            let _ = self.announce(port, address, host);
        }
    }

    /// A gratuitous request (RFC 5227 section 2.3): whoever has an older entry for `address` corrects it.
    fn announce<H: Host>(&mut self, port: PortId, address: IpAddr, host: &mut H) -> Result<(), Busy> {
        let (Some(interface), IpAddr::V4(ip)) = (self.interfaces.get(port), address) else { return Ok(()) };
        if interface.mode() == AddressMode::Shared || !self.state.answers_all() {
            return Ok(());
        }
        let Link::Ethernet { mac } = interface.link() else { return Ok(()) };
        let (sender_mac, target_mac) = (MacAddr(mac), MacAddr::default());
        let operation = ArpOperation::Request;
        let request = ArpRepr { operation, sender_mac, sender_ip: ip, target_mac, target_ip: ip };
        self.send_arp(port, MacAddr::BROADCAST, &request, host)?;
        self.counters.arp_out_requests += 1;
        Ok(())
    }

    fn send_arp<H: Host>(
        &self,
        port: PortId,
        destination: MacAddr,
        packet: &ArpRepr,
        host: &mut H,
    ) -> Result<(), Busy> {
        let mut frame = [0; EthernetRepr::LEN + ArpRepr::LEN];
        EthernetRepr { destination, source: packet.sender_mac, ether_type: EtherType::ARP }.emit(&mut frame);
        packet.emit(&mut frame[EthernetRepr::LEN..]);
        let segment = Segment { header: &frame, payload: Payload::None, checksum: TxChecksum::Complete, gso: None };
        host.transmit(port, &segment)
    }
}

/// `checksum` with places counted from `by` bytes earlier.
#[inline]
fn shifted(checksum: TxChecksum, by: usize) -> TxChecksum {
    match checksum {
        TxChecksum::Complete => TxChecksum::Complete,
        TxChecksum::Partial { start, offset } => TxChecksum::Partial { start: start + by as u16, offset },
    }
}
