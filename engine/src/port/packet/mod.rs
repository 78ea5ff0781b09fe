//! The packet_mmap port: a packet socket with mapped rings on an interface that the host uses as well.
//!
//! The socket sees copies of all frames; that the host does not act on those that are ours is the affair of a tc
//! program, and that we do not see those that are not is the affair of a socket filter ([`Params::filter`]).
//!
//! With PACKET_VNET_HDR a slot carries a whole super-segment, which the kernel or the device cuts and sums, and received
//! super-segments arrive whole; large ones go past the ring ([`direct`]). Without it the port cuts and sums.

pub mod direct;
pub mod rx;
pub mod socket;
pub mod tx;

use super::cut::{Cut, Device};
use super::error::PortError;
use super::interface::Interface;
use super::merge::{Batch, Treatment};
use super::{Full, Port, PortCounters, TxFrame, vnet};
use direct::Direct;
use persona_stack::{MAX_HEADER, Offload, RxFrame};
use rustix::fd::{BorrowedFd, OwnedFd};
use rx::Receive;
use socket::{Agreed, Socket};
use std::io;
use tx::Transmit;

/// How to open a packet port.
#[derive(Debug)]
pub struct Params {
    /// Name of the interface.
    pub interface: String,
    /// Let the kernel or the device cut and sum (PACKET_VNET_HDR).
    pub vnet: bool,
    /// Send past the queueing discipline of the interface. Only without `vnet`: super-segments that the device does not
    /// cut would be lost.
    pub qdisc_bypass: bool,
    /// Receive in blocks (TPACKET_V3), which is cheap for many frames, but delivers a block that is not full only after
    /// `block_timeout_ms`. Otherwise in slots (TPACKET_V2): each frame at once.
    pub blocks: bool,
    pub block_timeout_ms: u32,
    pub block_bytes: usize,
    /// Memory of the rings, in bytes.
    pub rx_bytes: usize,
    pub tx_bytes: usize,
    /// Merge received trains of TCP segments.
    pub merge: bool,
    /// Sockets of one group, each a port of its own, share the interface's frames by flow (PACKET_FANOUT).
    pub fanout: Option<u16>,
    /// A loaded socket filter program, attached before the first frame can arrive.
    pub filter: Option<OwnedFd>,
}

impl Params {
    /// TPACKET_V3: for throughput.
    pub fn blocks(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            vnet: true,
            qdisc_bypass: true,
            blocks: true,
            block_timeout_ms: 1,
            block_bytes: 1 << 18,
            rx_bytes: 16 << 20,
            tx_bytes: 8 << 20,
            merge: true,
            fanout: None,
            filter: None,
        }
    }

    /// TPACKET_V2: for latency. Any slot may have to take a super-segment, so that a ring for many frames is large.
    pub fn slots(interface: &str) -> Self {
        Self { blocks: false, rx_bytes: 64 << 20, ..Self::blocks(interface) }
    }
}

/// Largest super-segment, limited by IPv4's length field.
const LONGEST: u32 = 0xffff;

pub struct PacketPort {
    // Declared before the socket, whose mapping they point into, so that they are dropped first.
    rx: Receive,
    tx: Transmit,
    batch: Batch,
    socket: Socket,
    /// With virtio headers.
    direct: Option<Direct>,
    agreed: Agreed,
    name: String,
    blocks: bool,
    counters: PortCounters,
    /// A super-segment was refused and the kernel holds frames: room will come.
    refused: bool,
}

impl PacketPort {
    pub fn open(params: &Params) -> Result<Self, PortError> {
        let interface = Interface::ready(&params.interface)?;
        socket::check(params, &interface.name)?;
        let (socket, rx, tx, agreed) = Socket::open(params, &interface)?;
        let direct = agreed.vnet.is_ok().then(|| Direct::open(&interface, socket::SEND_BUFFER)).transpose()?;
        Ok(Self {
            rx,
            tx,
            direct,
            // The ring says itself which checksums are partial.
            batch: Batch::new(Treatment { partial: false, merge: params.merge }),
            socket,
            agreed,
            name: interface.name,
            blocks: params.blocks,
            counters: PortCounters::default(),
            refused: false,
        })
    }

    /// Transmit slots that are not free: queued, or with the kernel.
    pub fn outstanding(&mut self) -> usize {
        self.tx.outstanding()
    }

    fn vnet(&self) -> bool {
        self.agreed.vnet.is_ok()
    }

    /// Sends a large super-segment past the ring; `false`: it has to go through it.
    fn transmit_direct(&mut self, frame: &TxFrame<'_>) -> bool {
        let payload = frame.payload.iter().map(|piece| piece.len).sum::<usize>();
        if payload < direct::WORTH || frame.header.len() > MAX_HEADER {
            return false;
        }
        let Ok(mut cut) = Cut::new(frame, Device { sums: true, cuts: true }) else { return false };
        if cut.frames() > 1 {
            // The kernel would not cut it as it has to be.
            return false;
        }
        // What was queued before goes first.
        if self.tx.unsent() > 0 && (self.flush().is_err() || self.tx.unsent() > 0) {
            return false;
        }
        let Some(direct) = &self.direct else { return false };
        let total = cut.longest();
        let mut header = [0; MAX_HEADER];
        let header = &mut header[..frame.header.len()];
        let left = cut.write_header(header);
        let gso = frame.gso.filter(|gso| payload > usize::from(gso.size));
        self.counters.kicks += 1;
        if !direct.send(&vnet::encode(header, left, gso), header, frame.payload) {
            return false;
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += total as u64;
        true
    }
}

impl Port for PacketPort {
    fn offload(&self) -> Offload {
        Offload { max_segment: LONGEST, tx_checksum: true }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let vnet = self.vnet();
        let mut taken = 0;
        while taken < budget {
            let frames = self.rx.gather(&mut self.batch, budget - taken, vnet, &mut self.counters);
            self.batch.deliver(sink);
            self.rx.release();
            if frames == 0 && !self.rx.waiting() {
                break;
            }
            taken += frames;
        }
        taken
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let offloads = self.vnet();
        if offloads && self.transmit_direct(frame) {
            self.refused = false;
            return Ok(());
        }
        let prefix = if offloads { vnet::LEN } else { 0 };
        let room = self.tx.capacity() - prefix;
        let cut = Cut::new(frame, Device { sums: offloads, cuts: offloads });
        let Some(mut cut) = cut.ok().filter(|cut| cut.longest() <= room) else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        if !self.tx.has_room(cut.frames(), &mut self.counters.tx_dropped) {
            self.counters.tx_full += 1;
            self.refused = true;
            return Err(Full);
        }
        self.refused = false;
        let header = frame.header.len();
        while let Some(len) = cut.next_len() {
            let (prefix, bytes) = self.tx.slot(prefix + len).split_at_mut(prefix);
            let left = cut.write(&mut [bytes]);
            if !prefix.is_empty() {
                let gso = frame.gso.filter(|gso| len - header > usize::from(gso.size));
                prefix.copy_from_slice(&vnet::encode(&bytes[..header], left, gso));
            }
            let total = prefix.len() + len;
            self.tx.commit(total);
            self.counters.tx_frames += 1;
            self.counters.tx_bytes += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.tx.unsent() == 0 {
            return Ok(());
        }
        self.counters.kicks += 1;
        match self.socket.kick() {
            Ok(()) => Ok(()),
            // No memory or a full device queue: the frames stay in the ring and the next flush tries again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.fd())
    }

    fn pending(&mut self) -> bool {
        if self.rx.waiting() || self.tx.unsent() > 0 {
            return true;
        }
        if self.refused {
            // Once everything has left there is nothing to wait for: say so one last time.
            self.refused = self.tx.outstanding() > 0;
            return true;
        }
        false
    }

    fn counters(&self) -> PortCounters {
        PortCounters { rx_dropped: self.counters.rx_dropped + self.socket.dropped(), ..self.counters }
    }

    fn describe(&self) -> String {
        format!(
            "packet_mmap on {}: {}, {}, {}",
            self.name,
            if self.blocks { "TPACKET_V3 blocks" } else { "TPACKET_V2 slots" },
            match &self.agreed.vnet {
                Ok(()) => "checksum and segmentation by the kernel (PACKET_VNET_HDR)".to_owned(),
                Err(reason) => format!("checksum and segmentation in software ({reason})"),
            },
            if self.agreed.qdisc_bypass { "past the qdisc" } else { "through the qdisc" },
        )
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.fd()]
    }
}
