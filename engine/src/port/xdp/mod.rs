//! The AF_XDP port: one socket on one queue of one interface, with packet memory of its own.
//!
//! Own rings, because the engine needs what no library offers together: the UMEM in a memfd that a successor maps
//! again, multi-buffer frames and transmit metadata. The XDP program that redirects frames to the socket is not the
//! port's affair; the caller enters [`XdpPort::socket`] into the program's map.

pub mod queues;
pub mod ring;
pub mod socket;
pub mod umem;

use super::error::PortError;
use super::interface::{Interface, XdpAttachment, xdp_attachment};
use super::merge::Treatment;
use super::{Full, Port, PortCounters, TxFrame};
use persona_stack::{Offload, RxFrame};
use queues::Queues;
use rustix::fd::{BorrowedFd, OwnedFd};
use socket::Socket;
use std::io;
use umem::{Geometry, KERNEL_HEADROOM, METADATA, Umem};

/// How to open an AF_XDP port.
#[derive(Clone, Debug)]
pub struct Params {
    /// Name of the interface.
    pub interface: String,
    pub queue: u32,
    /// Frames that wait for us and for the kernel at most. Powers of two.
    pub rx_frames: u32,
    pub tx_frames: u32,
    /// Try zero-copy before copying.
    pub zero_copy: bool,
    /// Leave transport checksums to the device where it completes them and transmit metadata is offered (Linux 6.8).
    pub checksum_offload: bool,
    /// Frames may come from a sender on this host that leaves only the pseudo-header sum. `None`: if the
    /// interface's driver is one of those that connect local peers.
    pub local_peer: Option<bool>,
    /// Merge received trains of TCP segments.
    pub merge: bool,
}

impl Params {
    pub fn new(interface: &str, queue: u32) -> Self {
        Self {
            interface: interface.to_owned(),
            queue,
            rx_frames: 2048,
            tx_frames: 2048,
            zero_copy: true,
            checksum_offload: true,
            local_peer: None,
            merge: true,
        }
    }
}

/// Longest link header (two VLAN tags).
const LINK_HEADER: u32 = 22;
/// Largest super-segment, limited by IPv4's length field.
const LONGEST: u32 = 0xffff;

pub struct XdpPort {
    // Declared before the memory it works on, so that it is dropped first.
    queues: Queues<Socket>,
    umem: Umem,
    name: String,
    zero_copy: String,
    treatment: Treatment,
}

impl XdpPort {
    pub fn open(params: &Params) -> Result<Self, PortError> {
        let interface = Interface::ready(&params.interface)?;
        let geometry = geometry(params, &interface)?;
        let mut umem = Umem::new(geometry, &interface.name)?;
        let mut fd = Socket::unbound(&mut umem, &interface.name)?;
        let mut refused = socket::bind(&fd, &interface, params.queue, &umem, params.zero_copy)?;
        if refused.is_none() && params.zero_copy && umem.geometry().metadata != 0 {
            // In zero-copy mode only some drivers complete checksums, and none says so on the socket: sum ourselves.
            drop(fd);
            umem.describe(Geometry { metadata: 0, ..umem.geometry() });
            fd = Socket::unbound(&mut umem, &interface.name)?;
            refused = socket::bind(&fd, &interface, params.queue, &umem, true)?;
        }
        let (socket, rings) = Socket::map(fd, &umem.geometry(), &interface.name)?;
        let treatment = treatment(params, &interface);
        // SAFETY: the memory is the port's own, lives as long as `queues` (field order), and is that of the geometry.
        let queues = unsafe { Queues::new(socket, rings, umem.start(), umem.geometry(), treatment) };
        let zero_copy = match refused {
            _ if !params.zero_copy => "copying, as configured".to_owned(),
            None => "zero-copy".to_owned(),
            Some(reason) => format!("copying (zero-copy: {})", io::Error::from(reason)),
        };
        Ok(Self { queues, umem, name: interface.name, zero_copy, treatment })
    }

    /// Goes on with the descriptors of a port whose process ended: those of [`Port::descriptors`], in that order. Frames
    /// that it had queued are sent with the next flush; frames that it had not read are received.
    pub fn reopen(params: &Params, socket: OwnedFd, memfd: OwnedFd) -> Result<Self, PortError> {
        let interface = Interface::find(&params.interface)?;
        let umem = Umem::reopen(memfd, &interface.name)?;
        let geometry = umem.geometry();
        if geometry.interface != interface.index || geometry.queue != params.queue {
            return Err(PortError::Device {
                path: "the packet memory".to_owned(),
                what: "that of the port",
                reason: format!("it belongs to interface {} queue {}", geometry.interface, geometry.queue),
            });
        }
        let (socket, rings) = Socket::map(socket, &geometry, &interface.name)?;
        let treatment = treatment(params, &interface);
        let zero_copy = if queues::Kernel::copies(&socket) { "copying" } else { "zero-copy" };
        // SAFETY: as in `open`; the process before us has ended, as the caller promises.
        let queues = unsafe { Queues::take_over(socket, rings, umem.start(), geometry, treatment) };
        Ok(Self { queues, umem, name: interface.name, zero_copy: format!("{zero_copy}, taken over"), treatment })
    }

    /// What the XDP program's map of sockets has to hold for this queue.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.queues.kernel().fd()
    }

    /// Transmit frames that are not free: queued, or with the kernel and not completed.
    pub fn outstanding(&self) -> u32 {
        self.queues.outstanding()
    }
}

impl Port for XdpPort {
    fn offload(&self) -> Offload {
        Offload { max_segment: LONGEST, tx_checksum: true }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        self.queues.receive(budget, sink)
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        self.queues.transmit(frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.queues.flush()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn pending(&mut self) -> bool {
        self.queues.pending()
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.queues.counters();
        if let Some(kernel) = self.queues.kernel().statistics() {
            counters.rx_dropped += kernel.rx_dropped + kernel.rx_ring_full.unwrap_or(0);
            counters.tx_dropped += kernel.tx_invalid_descs;
        }
        counters
    }

    fn describe(&self) -> String {
        let geometry = self.queues.geometry();
        let program = match xdp_attachment(geometry.interface) {
            Some(XdpAttachment::Driver) => "program in the driver",
            Some(XdpAttachment::Generic) => "generic program",
            Some(XdpAttachment::Other) => "program in the device",
            Some(XdpAttachment::None) | None => "no program yet",
        };
        format!(
            "AF_XDP on {} queue {}: {}, {program}, {}+{} frames of {} bytes, {}, checksums by {}{}{}",
            self.name,
            geometry.queue,
            self.zero_copy,
            geometry.rx_frames,
            geometry.tx_frames,
            geometry.frame_size,
            if geometry.multi_buffer != 0 { "multi-buffer" } else { "single buffer" },
            if geometry.metadata != 0 { "the device" } else { "software" },
            if self.treatment.merge { ", merging" } else { "" },
            if self.treatment.partial { ", recognising partial checksums" } else { "" },
        )
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket(), self.umem.memfd()]
    }
}

fn geometry(params: &Params, interface: &Interface) -> Result<Geometry, PortError> {
    for (what, value) in [("receive frames", params.rx_frames), ("transmit frames", params.tx_frames)] {
        if !value.is_power_of_two() || !(64..=1 << 20).contains(&value) {
            let on = interface.name.clone();
            let rule = "a power of two from 64 to 1048576";
            return Err(PortError::Size { on, what, value: value.into(), rule });
        }
    }
    let wire = interface.mtu + LINK_HEADER;
    let frame_size = if wire + KERNEL_HEADROOM <= 2048 { 2048 } else { 4096 };
    Ok(Geometry {
        frame_size,
        rx_frames: params.rx_frames,
        tx_frames: params.tx_frames,
        metadata: if params.checksum_offload && interface.sums { METADATA } else { 0 },
        multi_buffer: u32::from(wire + KERNEL_HEADROOM > frame_size),
        interface: interface.index,
        queue: params.queue,
        mtu: interface.mtu,
    })
}

fn treatment(params: &Params, interface: &Interface) -> Treatment {
    Treatment { partial: params.local_peer.unwrap_or_else(|| interface.has_local_peer()), merge: params.merge }
}
