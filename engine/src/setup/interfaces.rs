//! Opening the interfaces of the configuration: the port of each queue, the diversion, the addresses.

use crate::config::{AddressKind, Config, Count, Interface as Wanted, InterfaceKind, XdpModeChoice};
use crate::control::admin::InterfaceFacts;
use crate::divert::{self, AddressMode as Diverted, Capacity, Diversion, PortKind, XdpMode};
use crate::host::occupant::Wanted as Occupation;
use crate::host::{self, HostAddress};
use crate::ledger::{Entry, Kind, Ledger};
use crate::port::Port;
use crate::port::packet::{self, PacketPort};
use crate::port::tap::{self, TapPort};
use crate::port::xdp::umem::KERNEL_HEADROOM;
use crate::port::xdp::{self, XdpPort};
use anyhow::{Context, Result, anyhow, bail};
use persona_stack::{AddressMode, InterfaceConfig, Link, Offload, PortId};
use std::net::IpAddr;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The port's packet memory has frames of a page at most; beyond, a packet takes several buffers.
const LONGEST_LINK_HEADER: u32 = 22;
const LARGEST_FRAME: u32 = 4_096;
/// IP packets of a tap that does not say.
const DEFAULT_MTU: u32 = 1_500;
/// Connections that may be diverted one by one on a shared address, per interface.
const FLOWS: u32 = 1 << 18;
const LISTENERS: u32 = 4_096;

/// One interface with its ports.
pub struct Opened {
    pub id: PortId,
    pub name: String,
    /// The host's index.
    pub index: u32,
    pub mode: AddressMode,
    /// A shared interface whose addresses of ours are all that the host has there, now and later.
    pub every_address: bool,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub addresses: Vec<(IpAddr, u8)>,
    /// Queue and port.
    /// `None` once a shard has it.
    pub ports: Vec<(u32, Option<Box<dyn Port>>)>,
    pub diversion: Option<Diversion>,
}

impl Opened {
    pub fn config(&self) -> InterfaceConfig {
        let offloads = self.ports.iter().filter_map(|(_, port)| Some(port.as_ref()?.offload()));
        let offload = offloads
            .reduce(|one, other| Offload {
                max_segment: one.max_segment.min(other.max_segment),
                tx_checksum: one.tx_checksum && other.tx_checksum,
            })
            .unwrap_or(Offload { max_segment: self.mtu.into(), tx_checksum: false });
        InterfaceConfig {
            port: self.id,
            link: Link::Ethernet { mac: self.mac },
            mtu: self.mtu,
            offload,
            mode: self.mode,
        }
    }

    pub const fn link_header(&self) -> usize {
        ETHERNET
    }

    /// For `persona info` and the like; `shards`: how queues are dealt out.
    pub fn facts(&self, shards: usize) -> InterfaceFacts {
        InterfaceFacts {
            name: self.name.clone(),
            shared: self.mode == AddressMode::Shared,
            addresses: self.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect(),
            mtu: self.mtu.into(),
            mac: Some(self.mac),
            queues: self
                .ports
                .iter()
                .enumerate()
                .filter_map(|(nth, (queue, port))| Some((*queue, (nth % shards) as u8, port.as_ref()?.describe())))
                .collect(),
            link_header: self.link_header(),
        }
    }
}

/// Opens all of them, or none stays open.
pub fn open(config: &Config, ledger: &Ledger, predecessors: bool) -> Result<Vec<Opened>> {
    let host_addresses = host::tables::addresses().context("cannot read the host's addresses")?;
    let shards = match config.shards {
        Count::Auto => 1,
        Count::Exactly(shards) => shards.into(),
    };
    config
        .interfaces
        .iter()
        .enumerate()
        .map(|(place, wanted)| {
            open_one(place, wanted, shards, ledger, predecessors, &host_addresses)
                .with_context(|| format!("interface {} cannot be used", wanted.param))
        })
        .collect()
}

fn open_one(
    place: usize,
    wanted: &Wanted,
    shards: u32,
    ledger: &Ledger,
    predecessors: bool,
    host_addresses: &[HostAddress],
) -> Result<Opened> {
    let mut opening = Opening { place: place as u64, wanted, shards, ledger, predecessors };
    opening.refuse_occupied()?;
    let device = match wanted.kind {
        InterfaceKind::Tap | InterfaceKind::Macvtap => opening.tap()?,
        InterfaceKind::Xdp => opening.xdp()?,
        InterfaceKind::Packet => opening.packet()?,
        InterfaceKind::Auto => opening.auto()?,
    };
    // Once more: two that started at once see each other now.
    opening.refuse_occupied()?;
    let Device { name, index, mac, mtu, ports, diversion } = device;
    let ports = ports.into_iter().map(|(queue, port)| (queue, Some(port))).collect();
    let mode = match wanted.mode {
        AddressKind::Own => AddressMode::Own,
        AddressKind::Shared => AddressMode::Shared,
    };
    let on_host: Vec<(IpAddr, u8)> = host_addresses
        .iter()
        .filter(|known| known.interface == index && known.address.is_ipv4())
        .map(|known| (known.address, known.prefix_len))
        .collect();
    let addresses: Vec<(IpAddr, u8)> = match (wanted.ip, mode) {
        (Some((ip, prefix)), AddressMode::Own) => {
            let ip = IpAddr::V4(ip);
            if host_addresses.iter().any(|known| known.address == ip) {
                bail!("{ip} is an address of the host: remove it there, or set \"address\": \"shared\"");
            }
            vec![(ip, prefix)]
        }
        (Some((ip, _)), AddressMode::Shared) => {
            let found = on_host.iter().find(|(known, _)| *known == IpAddr::V4(ip));
            vec![*found.ok_or_else(|| anyhow!("{ip} is not an address of the host there: leave \"ip\" out"))?]
        }
        (None, AddressMode::Shared) if on_host.is_empty() => {
            bail!(
                "the host has no IPv4 address there that could be shared: give it one, or set \"ip\" and \"address\": \"own\""
            )
        }
        (None, AddressMode::Shared) => on_host,
        (None, AddressMode::Own) => bail!("it has no \"ip\""),
    };
    if mode == AddressMode::Shared && diversion.is_none() {
        bail!("a tap or macvtap has no traffic of the host to share an address with: set \"address\": \"own\"");
    }
    if let Some(diversion) = &diversion {
        diversion.clear()?;
        let diverted = if mode == AddressMode::Own { Diverted::Own } else { Diverted::Shared };
        for (address, _) in &addresses {
            diversion.add_address(*address, diverted)?;
        }
    }
    let mtu = wanted.mtu.map_or(mtu, |mtu| mtu.into());
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let mac = wanted.mac.map_or(mac, |mac| mac.0);
    let every_address = mode == AddressMode::Shared && wanted.ip.is_none();
    Ok(Opened { id: PortId(place as u8), name, index, mode, every_address, mac, mtu, addresses, ports, diversion })
}

/// An interface on its way.
struct Opening<'a> {
    place: u64,
    wanted: &'a Wanted,
    /// Shards that the configuration asks for: where queues cost nothing, as many.
    shards: u32,
    ledger: &'a Ledger,
    predecessors: bool,
}

struct Device {
    name: String,
    index: u32,
    mac: [u8; 6],
    mtu: u32,
    ports: Vec<(u32, Box<dyn Port>)>,
    diversion: Option<Diversion>,
}

impl Opening<'_> {
    /// Where another engine is, we are not.
    fn refuse_occupied(&self) -> Result<()> {
        let param = &self.wanted.param;
        let what = match self.wanted.kind {
            InterfaceKind::Tap => Occupation::tap(param),
            InterfaceKind::Macvtap => Occupation::device(param),
            InterfaceKind::Xdp | InterfaceKind::Packet | InterfaceKind::Auto => {
                Occupation::interface(&host::Interface::find_usable(param)?)
            }
        };
        what.occupant().map_or(Ok(()), |occupant| Err(host::Error::Occupied(occupant).into()))
    }

    fn xdp(&mut self) -> Result<Device> {
        let interface = host::Interface::find_usable(&self.wanted.param)?;
        let queues = self.queues(interface.rx_queues)?;
        let mut ports = Vec::new();
        for queue in 0..queues {
            ports.push((queue, self.xdp_port(&interface.name, queue)?));
        }
        let multi_buffer = interface.mtu + LONGEST_LINK_HEADER + KERNEL_HEADROOM > LARGEST_FRAME;
        let mode = match self.wanted.xdp_mode {
            XdpModeChoice::Auto => None,
            XdpModeChoice::ZeroCopy | XdpModeChoice::Driver => Some(XdpMode::Driver),
            XdpModeChoice::Generic => Some(XdpMode::Generic),
        };
        let diversion = self.diversion(&interface.name, PortKind::Xdp { multi_buffer, mode }, queues)?;
        for (queue, port) in &ports {
            diversion.set_xsk(*queue, port.socket())?;
        }
        let ports = ports.into_iter().map(|(queue, port)| (queue, Box::new(port) as Box<dyn Port>)).collect();
        Ok(Device {
            index: interface.index,
            mac: interface.mac.unwrap_or_default(),
            mtu: interface.mtu,
            name: interface.name,
            ports,
            diversion: Some(diversion),
        })
    }

    /// A predecessor's socket with its packet memory, or a fresh one.
    fn xdp_port(&self, interface: &str, queue: u32) -> Result<XdpPort> {
        let mut params = xdp::Params::new(interface, queue);
        if let Some(frames) = self.wanted.frames {
            (params.rx_frames, params.tx_frames) = (frames, frames);
        }
        params.zero_copy = matches!(self.wanted.xdp_mode, XdpModeChoice::Auto | XdpModeChoice::ZeroCopy);
        if let Some(mask) = self.wanted.offload {
            params.checksum_offload &= mask.tx_checksum();
            params.merge &= mask.receive_merged();
        }
        if let (Some(socket), Some(memory)) = (self.inherited(Kind::Xsk, queue), self.inherited(Kind::Umem, queue)) {
            return Ok(XdpPort::reopen(&params, self.ledger.copy(&socket)?, self.ledger.copy(&memory)?)?);
        }
        // Half of it: the predecessor died between the two records, and its socket would keep the queue.
        self.discard(Kind::Xsk, Some(queue.into()));
        self.discard(Kind::Umem, Some(queue.into()));
        let port = XdpPort::open(&params)?;
        for (kind, descriptor) in [Kind::Xsk, Kind::Umem].into_iter().zip(port.descriptors()) {
            self.ledger.record(kind, self.place, queue.into(), descriptor, 0)?;
        }
        Ok(port)
    }

    fn packet(&mut self) -> Result<Device> {
        let interface = host::Interface::find_usable(&self.wanted.param)?;
        let queues = self.queues(self.shards)?;
        let diversion = self.diversion(&interface.name, PortKind::Packet, queues)?;
        let mut params = packet::Params::slots(&interface.name);
        if let Some(mask) = self.wanted.offload {
            params.vnet &= mask.tx_checksum() || mask.segmentation() || mask.rx_checksum();
            params.merge &= mask.receive_merged();
        }
        // The group's number need only be unique within the network namespace: one engine has an interface to itself.
        params.fanout = (queues > 1).then_some(interface.index as u16);
        let mut ports: Vec<(u32, Box<dyn Port>)> = Vec::new();
        for queue in 0..queues {
            // Not in the ledger: a successor would find frames of dead connections in the ring. The keeper closes it.
            params.filter = Some(diversion.socket_filter()?);
            ports.push((queue, Box::new(PacketPort::open(&params)?)));
        }
        Ok(Device {
            index: interface.index,
            mac: interface.mac.unwrap_or_default(),
            mtu: interface.mtu,
            name: interface.name,
            ports,
            diversion: Some(diversion),
        })
    }

    /// AF_XDP where the interface does it, packet_mmap otherwise.
    fn auto(&mut self) -> Result<Device> {
        if self.predecessors && divert::was_xdp(self.ledger, self.place) == Some(false) {
            // What the first engine found out still holds, and its program has not to go for a trial.
            return self.packet();
        }
        match self.xdp() {
            Ok(device) => Ok(device),
            Err(error) => {
                tracing::warn!("{}: AF_XDP is not to be had ({error:#}); packet_mmap instead", self.wanted.param);
                // The attempt's own descriptors are closed; a predecessor's sockets serve nobody any more.
                self.ledger.forget_closed();
                self.discard(Kind::Xsk, None);
                self.discard(Kind::Umem, None);
                self.packet()
            }
        }
    }

    fn tap(&mut self) -> Result<Device> {
        let queues = self.queues(if self.wanted.kind == InterfaceKind::Tap { self.shards } else { 1 })?;
        let place = match self.wanted.kind {
            InterfaceKind::Macvtap => tap::Place::Macvtap { path: self.wanted.param.clone() },
            _ => tap::Place::Tap { name: self.wanted.param.clone(), create: true },
        };
        let vnet = self.wanted.offload.is_none_or(|mask| mask.0 != 0);
        let params = tap::Params { place, vnet, multi_queue: queues > 1, merge: true };
        let mut ports: Vec<(u32, TapPort)> = Vec::new();
        let mut name = String::new();
        for queue in 0..queues {
            let port = self.tap_port(&params, queue)?;
            port.interface().clone_into(&mut name);
            ports.push((queue, port));
        }
        let interface = host::Interface::find(&name).ok();
        let mtu = interface.as_ref().map_or(DEFAULT_MTU, |interface| interface.mtu);
        let index = interface.as_ref().map_or(0, |interface| interface.index);
        // A macvtap delivers what is addressed to its own address. A tap is a cable: the host's end has its own
        // address, ours is another, which a successor keeps, since the neighbours know it.
        let kept = self.inherited(Kind::Tap, 0).and_then(|entry| mac_of(entry.len));
        let mac = match (self.wanted.kind, interface.and_then(|interface| interface.mac), kept) {
            (InterfaceKind::Macvtap, Some(mac), _) | (_, _, Some(mac)) => mac,
            _ => random_mac()?,
        };
        for (queue, port) in ports.iter().filter(|(queue, _)| self.inherited(Kind::Tap, *queue).is_none()) {
            for descriptor in port.descriptors() {
                self.ledger.record(Kind::Tap, self.place, (*queue).into(), descriptor, word_of(mac))?;
            }
        }
        let ports = ports.into_iter().map(|(queue, port)| (queue, Box::new(port) as Box<dyn Port>)).collect();
        Ok(Device { name, index, mac, mtu, ports, diversion: None })
    }

    /// A predecessor's queue, or a fresh one. An interface that exists only while it is open stays so, with the
    /// addresses and routes that the host has there.
    fn tap_port(&self, params: &tap::Params, queue: u32) -> Result<TapPort> {
        match self.inherited(Kind::Tap, queue) {
            Some(entry) => Ok(TapPort::reopen(params, self.ledger.copy(&entry)?)?),
            None => Ok(TapPort::open(params)?),
        }
    }

    /// What a predecessor left for a queue.
    fn inherited(&self, kind: Kind, queue: u32) -> Option<Entry> {
        self.predecessors.then(|| self.ledger.find(kind, self.place, queue.into())).flatten()
    }

    /// Closes what a predecessor left at this place and nobody goes on with; `b` absent: of every queue.
    fn discard(&self, kind: Kind, b: Option<u64>) {
        if self.predecessors {
            // SAFETY: the predecessor is gone, and we have copies at most.
            unsafe { self.ledger.discard(kind, self.place, b) };
        }
    }

    fn queues(&self, offered: u32) -> Result<u32> {
        match self.wanted.queues {
            Count::Auto => Ok(offered),
            Count::Exactly(queues) if u32::from(queues) <= offered => {
                if u32::from(queues) < offered && self.wanted.kind == InterfaceKind::Xdp {
                    tracing::warn!(
                        "{}: frames of ours that arrive on queues {queues} to {} are dropped (DroppedNoSocket): raise \
                         \"queues\", or have the interface deliver to the others (ethtool -X)",
                        self.wanted.param,
                        offered - 1
                    );
                }
                Ok(queues.into())
            }
            Count::Exactly(queues) if matches!(self.wanted.kind, InterfaceKind::Tap | InterfaceKind::Packet) => {
                Ok(queues.into())
            }
            Count::Exactly(queues) => {
                bail!("\"queues\" is {queues}, and it has {offered}: lower it, or add queues (ethtool -L)")
            }
        }
    }

    /// The predecessor's programs, or fresh ones.
    fn diversion(&self, interface: &str, kind: PortKind, queues: u32) -> Result<Diversion> {
        if self.predecessors {
            let for_xdp = matches!(kind, PortKind::Xdp { .. });
            match Diversion::resume(self.ledger, self.place, interface)? {
                Some(diversion) if diversion.xdp_mode().is_some() == for_xdp => return Ok(diversion),
                Some(other) => other.detach(self.ledger, self.place)?,
                // SAFETY: the predecessor is gone, and nobody has copies of what it left, which is not whole.
                None => unsafe { divert::discard(self.ledger, self.place) },
            }
        }
        let diversion = Diversion::attach(interface, kind, Capacity { queues, flows: FLOWS, listeners: LISTENERS })?;
        diversion.record(self.ledger, self.place)?;
        Ok(diversion)
    }
}

/// A hardware address as a number for the ledger, and back; a record without one has 0.
fn word_of(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn mac_of(word: u64) -> Option<[u8; 6]> {
    let [_, _, mac @ ..] = word.to_be_bytes();
    (word != 0).then_some(mac)
}

/// A locally administered unicast address.
fn random_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    rustix::rand::getrandom(&mut mac, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

/// Queues that every shard can have one of: what `shards` may be at most.
pub fn least_queues(opened: &[Opened]) -> usize {
    opened.iter().map(|interface| interface.ports.len()).min().unwrap_or(1)
}
