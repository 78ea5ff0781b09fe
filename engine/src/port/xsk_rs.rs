//! The AF_XDP port a second time, on the xsk-rs crate (libxdp): an independent implementation that has to understand the
//! same frames, and the baseline that our own rings are measured against.
//!
//! It has no UMEM that outlives the process, no transmit metadata and no successor; apart from that it behaves as
//! [`super::xdp`] and passes the same tests.

use super::cut::{Cut, Device};
use super::error::PortError;
use super::interface::Interface;
use super::merge::{BATCH, Batch, MAX_PIECES, Received, Treatment};
use super::xdp::Params;
use super::{Full, Port, PortCounters, TxFrame};
use ::xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use ::xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};
use persona_stack::{Offload, RxChecksum, RxFrame};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;
use std::num::NonZeroU32;

/// Longest link header (two VLAN tags).
const LINK_HEADER: usize = 22;
/// Largest super-segment, limited by IPv4's length field.
const LONGEST: u32 = 0xffff;
const PKT_CONTD: u32 = 1;
const MAX_DESCRIPTORS: usize = MAX_PIECES + 1;
/// Frames that the kernel sends per syscall in copy mode, at least.
const COPY_BATCH: u32 = 32;

pub struct XskRsPort {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    /// Transmit frames nobody uses.
    free: Vec<FrameDesc>,
    tx_frames: u32,
    /// Received descriptors not delivered yet: the beginning of a packet may wait for its rest.
    received: Vec<FrameDesc>,
    spare: Vec<FrameDesc>,
    capacity: usize,
    longest: usize,
    batch: Batch,
    counters: PortCounters,
    description: String,
    refused: bool,
}

impl XskRsPort {
    pub fn open(params: &Params) -> Result<Self, PortError> {
        let interface = Interface::ready(&params.interface)?;
        let on = interface.name.as_str();
        let failed = |operation: &'static str, error: String| PortError::Io {
            operation,
            on: on.to_owned(),
            source: io::Error::other(error),
        };
        let wire = interface.mtu as usize + LINK_HEADER;
        let frame_size = if wire + 256 <= 2048 { 2048 } else { 4096 };
        let size = |frames| QueueSize::new(frames).map_err(|error| failed("sizing the rings", error.to_string()));
        let (rx_size, tx_size) = (size(params.rx_frames)?, size(params.tx_frames)?);
        let frame = FrameSize::new(frame_size).map_err(|error| failed("sizing frames", error.to_string()))?;
        let config = UmemConfig::builder()
            .frame_size(frame)
            // Twice the frames, as `Geometry::fill_entries` explains: a frame can come back before its entry is free.
            .fill_queue_size(size(2 * params.rx_frames)?)
            .comp_queue_size(tx_size)
            .build()
            .map_err(|error| failed("describing the packet memory", error.to_string()))?;
        let count = NonZeroU32::new(params.rx_frames + params.tx_frames).expect("the sizes were checked");
        let (umem, mut frames) =
            Umem::new(config, count, false).map_err(|error| failed("making the packet memory", error.to_string()))?;

        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        let multi_buffer = wire + 256 > frame_size as usize;
        flags.set(BindFlags::XDP_USE_SG, multi_buffer);
        flags.set(BindFlags::XDP_COPY, !params.zero_copy);
        let socket = SocketConfig::builder()
            .rx_queue_size(rx_size)
            .tx_queue_size(tx_size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let name = on.parse().map_err(|_| PortError::NoInterface(on.to_owned()))?;
        // SAFETY: the UMEM is not shared and no program is loaded by the library.
        let made = unsafe { Socket::new(socket, &umem, &name, params.queue) };
        let (tx, rx, queues) = made.map_err(|error| failed("opening the AF_XDP socket", error.to_string()))?;
        let (mut fill, completion) = queues.expect("a UMEM of its own has its own rings");

        let free = frames.split_off(params.rx_frames as usize);
        // SAFETY: the frames are of this UMEM and used nowhere else; transmit frames never go here.
        let given = unsafe { fill.produce(&frames) };
        assert_eq!(given, frames.len(), "the fill ring takes all receive frames");
        let partial = params.local_peer.unwrap_or_else(|| interface.has_local_peer());
        let buffers = if multi_buffer { "multi-buffer" } else { "single buffer" };
        Ok(Self {
            tx,
            rx,
            fill,
            completion,
            umem,
            spare: vec![free[0]; BATCH],
            free,
            tx_frames: params.tx_frames,
            received: Vec::with_capacity(BATCH + MAX_DESCRIPTORS),
            capacity: config.mtu() as usize,
            longest: wire.min(config.mtu() as usize * if multi_buffer { MAX_DESCRIPTORS } else { 1 }),
            batch: Batch::new(Treatment { partial, merge: params.merge }),
            counters: PortCounters::default(),
            description: format!("AF_XDP (xsk-rs) on {on} queue {}: {buffers}, checksums by software", params.queue),
            refused: false,
        })
    }

    /// What the XDP program's map of sockets has to hold for this queue.
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives as long as its queues.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Transmit frames that are not free.
    pub fn outstanding(&self) -> u32 {
        self.tx_frames - self.free.len() as u32
    }

    /// Moves whole packets into the batch. Returns packets and descriptors.
    fn gather(&mut self, budget: usize) -> (usize, usize) {
        if self.received.len() < MAX_DESCRIPTORS {
            // SAFETY: the descriptors are overwritten with those of this UMEM.
            let count = unsafe { self.rx.consume(&mut self.spare) };
            self.received.extend_from_slice(&self.spare[..count]);
        }
        let (mut frames, mut used) = (0, 0);
        while frames < budget && self.batch.room() >= MAX_DESCRIPTORS {
            let rest = &mut self.received[used..];
            let Some(count) = rest.iter().position(|piece| !piece.has_more_frames()).map(|last| last + 1) else {
                break;
            };
            let mut pieces = [Received { start: std::ptr::null_mut(), len: 0 }; MAX_DESCRIPTORS];
            for (piece, descriptor) in pieces.iter_mut().zip(&mut rest[..count]) {
                // SAFETY: a received frame is ours until it is back in the fill ring.
                let mut contents = unsafe { self.umem.data_mut(descriptor) };
                let bytes = contents.contents_mut();
                *piece = Received { start: bytes.as_mut_ptr(), len: bytes.len() };
            }
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += pieces[..count].iter().map(|piece| piece.len as u64).sum::<u64>();
            // SAFETY: as above; they go back after the delivery.
            unsafe { self.batch.push(pieces[0], &pieces[1..count], RxChecksum::Unverified, 0) };
            frames += 1;
            used += count;
        }
        (frames, used)
    }

    fn reap(&mut self) {
        loop {
            // SAFETY: the descriptors are overwritten with those of this UMEM.
            let count = unsafe { self.completion.consume(&mut self.spare) };
            self.free.extend_from_slice(&self.spare[..count]);
            if count < self.spare.len() {
                return;
            }
        }
    }

    fn waiting(&mut self) -> u32 {
        self.tx_frames - self.tx.nb_free_exact()
    }
}

impl Port for XskRsPort {
    fn offload(&self) -> Offload {
        Offload { max_segment: LONGEST, tx_checksum: true }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let mut taken = 0;
        while taken < budget {
            let (frames, used) = self.gather(budget - taken);
            if frames == 0 {
                if taken == 0 && self.fill.needs_wakeup() {
                    self.counters.kicks += 1;
                    // Failure leaves the ring as it is; the next visit asks again.
                    let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
                }
                break;
            }
            self.batch.deliver(sink);
            // SAFETY: the frames were delivered and are used no more.
            let given = unsafe { self.fill.produce(&self.received[..used]) };
            assert_eq!(given, used, "the fill ring takes all receive frames");
            self.received.drain(..used);
            taken += frames;
        }
        taken
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let fits = |cut: &Cut<'_>| frame.header.len() <= self.capacity && cut.longest() <= self.longest;
        let Some(mut cut) = Cut::new(frame, Device::default()).ok().filter(fits) else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        let needed = cut.longest().div_ceil(self.capacity) * cut.frames();
        if self.free.len() < needed {
            self.reap();
        }
        if self.free.len() < needed || (self.tx.nb_free_exact() as usize) < needed {
            self.counters.tx_full += 1;
            self.refused = true;
            return Err(Full);
        }
        self.refused = false;
        while let Some(len) = cut.next_len() {
            let count = len.div_ceil(self.capacity);
            let from = self.free.len() - count;
            let mut room: [&mut [u8]; MAX_DESCRIPTORS] = std::array::from_fn(|_| Default::default());
            for (at, (descriptor, slice)) in self.free[from..].iter_mut().zip(&mut room).enumerate() {
                let piece = self.capacity.min(len - at * self.capacity);
                descriptor.set_options(if at + 1 < count { PKT_CONTD } else { 0 });
                // SAFETY: a free frame is ours alone.
                let mut contents = unsafe { self.umem.data_mut(descriptor) };
                contents.cursor().set_pos(piece);
                let bytes = contents.contents_mut();
                // SAFETY: the slice outlives the borrow of the descriptor, not that of the frame, which stays ours until
                // it is produced below; no two slices share a frame.
                *slice = unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr(), bytes.len()) };
            }
            cut.write(&mut room[..count]);
            // SAFETY: the frames are of this UMEM and leave the free list now.
            let queued = unsafe { self.tx.produce(&self.free[from..]) };
            assert_eq!(queued, count, "room was counted");
            self.free.truncate(from);
            self.counters.tx_frames += 1;
            self.counters.tx_bytes += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut waiting = self.waiting();
        for _visit in 0..waiting.div_ceil(COPY_BATCH) + 1 {
            if waiting == 0 || !self.tx.needs_wakeup() {
                break;
            }
            self.counters.kicks += 1;
            self.tx.wakeup()?;
            let left = self.waiting();
            if left == waiting {
                break;
            }
            waiting = left;
        }
        self.reap();
        Ok(())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn pending(&mut self) -> bool {
        if !self.received.is_empty() || self.rx.nb_avail_exact() > 0 || self.waiting() > 0 {
            return true;
        }
        if self.refused {
            self.reap();
            self.refused = self.outstanding() > 0;
            return true;
        }
        false
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.counters;
        if let Ok(kernel) = self.rx.fd().xdp_statistics() {
            counters.rx_dropped += kernel.rx_dropped() + kernel.rx_ring_full();
            counters.tx_dropped += kernel.tx_invalid_descs();
        }
        counters
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket()]
    }
}
