//! The tap and macvtap port: frames by read and write on a character device.
//!
//! There is no ring, so this is the one port whose `receive` and `transmit` make a syscall for each frame. With virtio
//! headers (IFF_VNET_HDR) that frame is a whole super-segment and its payload is copied once, by the kernel, straight out
//! of the send stream. Without them the port cuts and sums into a buffer of its own.

mod device;

use super::cut::{self, Cut};
use super::error::PortError;
use super::merge::{BATCH, Batch, Received, Treatment};
use super::{Full, Port, PortCounters, TxFrame, vnet};
use device::Device;
use persona_stack::{MAX_HEADER, Offload, RxChecksum, RxFrame};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io::{self, IoSlice};

/// Which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A tap interface by name; made (until the port closes) if it does not exist and `create` is set.
    Tap { name: String, create: bool },
    /// A macvtap by its device node, /dev/tapN.
    Macvtap { path: String },
}

/// How to open a tap port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    pub place: Place,
    /// Let the kernel cut and sum (IFF_VNET_HDR).
    pub vnet: bool,
    /// The interface has several queues; each port that is opened on it is one.
    pub multi_queue: bool,
    /// Merge received trains of TCP segments.
    pub merge: bool,
}

impl Params {
    pub fn tap(name: &str) -> Self {
        let place = Place::Tap { name: name.to_owned(), create: false };
        Self { place, vnet: true, multi_queue: false, merge: true }
    }

    pub fn macvtap(path: &str) -> Self {
        Self { place: Place::Macvtap { path: path.to_owned() }, ..Self::tap("") }
    }
}

/// Largest super-segment, limited by IPv4's length field.
const LONGEST: usize = 0xffff;
/// Buffer for a frame with its virtio header.
const BUFFER: usize = vnet::LEN + 22 + LONGEST;
/// Frames read before they are handed on: enough for a train, and the buffers stay in the cache's reach.
const READ_BATCH: usize = 32;
/// Payload pieces that one writev takes; more are gathered first.
const MAX_VECTORS: usize = 32;

pub struct TapPort {
    device: Device,
    /// One receive buffer after the other.
    buffers: Box<[u8]>,
    /// Where frames are cut, or gathered.
    staging: Box<[u8]>,
    batch: Batch,
    macvtap: bool,
    counters: PortCounters,
    /// The device is gone or down; reported by the next flush.
    failed: Option<io::Error>,
}

impl TapPort {
    pub fn open(params: &Params) -> Result<Self, PortError> {
        Ok(Self::with(params, Device::open(params)?))
    }

    /// Goes on with the descriptor of a port whose process ended. Frames that it had not read are received.
    pub fn reopen(params: &Params, descriptor: OwnedFd) -> Result<Self, PortError> {
        Ok(Self::with(params, Device::reopen(params, descriptor)?))
    }

    fn with(params: &Params, device: Device) -> Self {
        let vnet = device.vnet.is_ok();
        Self {
            device,
            buffers: vec![0; READ_BATCH * BUFFER].into_boxed_slice(),
            staging: vec![0; BUFFER].into_boxed_slice(),
            // Without virtio headers the kernel completes every checksum before it hands a frame over.
            batch: Batch::new(Treatment { partial: false, merge: params.merge && !vnet }),
            macvtap: matches!(params.place, Place::Macvtap { .. }),
            counters: PortCounters::default(),
            failed: None,
        }
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.device.name
    }

    fn vnet(&self) -> bool {
        self.device.vnet.is_ok()
    }

    /// Writes one frame; `first`: nothing of its super-segment has been sent. Only then can it be refused.
    fn write(&mut self, vectors: &[IoSlice<'_>], len: usize, first: bool) -> Result<(), Full> {
        self.counters.kicks += 1;
        match rustix::io::writev(&self.device.fd, vectors) {
            Ok(_) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += len as u64;
                return Ok(());
            }
            Err(Errno::AGAIN) if first => {
                self.counters.tx_full += 1;
                return Err(Full);
            }
            Err(error @ (Errno::IO | Errno::BADFD | Errno::NODEV | Errno::NETDOWN)) => {
                self.failed = Some(error.into());
            }
            // No memory, or a frame that the kernel does not take.
            Err(_) => {}
        }
        self.counters.tx_dropped += 1;
        Ok(())
    }

    /// The kernel cuts and sums: one write from where the payload lies.
    fn transmit_whole(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let length = frame.header.len();
        let cut = Cut::new(frame, cut::Device { sums: true, cuts: true });
        let Some(mut cut) = cut.ok().filter(|cut| cut.longest() <= BUFFER - vnet::LEN && length <= MAX_HEADER) else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        if cut.frames() > 1 {
            // The kernel would not cut it as it has to be.
            return self.transmit_cut(frame);
        }
        let total = cut.longest();
        let gso = frame.gso.filter(|gso| total - length > usize::from(gso.size));
        if frame.payload.len() > MAX_VECTORS {
            let mut staging = std::mem::take(&mut self.staging);
            let left = cut.write(&mut [&mut staging[..total]]);
            let prefix = vnet::encode(&staging[..length], left, gso);
            let result = self.write(&[IoSlice::new(&prefix), IoSlice::new(&staging[..total])], total, true);
            self.staging = staging;
            return result;
        }
        let mut header = [0; MAX_HEADER];
        let header = &mut header[..length];
        let left = cut.write_header(header);
        let prefix = vnet::encode(header, left, gso);
        let mut vectors = [IoSlice::new(&[]); MAX_VECTORS + 2];
        vectors[0] = IoSlice::new(&prefix);
        vectors[1] = IoSlice::new(header);
        for (vector, piece) in vectors[2..].iter_mut().zip(frame.payload) {
            // SAFETY: readable for the duration of the call; only the kernel reads it, which does not mind that another
            // process writes meanwhile, and sums what it has copied.
            *vector = IoSlice::new(unsafe { core::slice::from_raw_parts(piece.start, piece.len) });
        }
        self.write(&vectors[..2 + frame.payload.len()], total, true)
    }

    fn transmit_cut(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        let cut = Cut::new(frame, cut::Device::default());
        let Some(mut cut) = cut.ok().filter(|cut| cut.longest() <= BUFFER) else {
            self.counters.tx_dropped += 1;
            return Ok(());
        };
        let mut staging = std::mem::take(&mut self.staging);
        let mut result = Ok(());
        let mut first = true;
        while let Some(len) = cut.next_len() {
            cut.write(&mut [&mut staging[..len]]);
            // Complete in every respect: with a virtio header there is nothing to say in it.
            let prefix: &[u8] = if self.vnet() { &[0; vnet::LEN] } else { &[] };
            result = self.write(&[IoSlice::new(prefix), IoSlice::new(&staging[..len])], len, first);
            if result.is_err() {
                break;
            }
            first = false;
        }
        self.staging = staging;
        result
    }

    /// Reads the next frame into buffer `at`. Returns whether there was one.
    fn read(&mut self, at: usize) -> bool {
        let prefix = if self.vnet() { vnet::LEN } else { 0 };
        let buffer = &mut self.buffers[at * BUFFER..(at + 1) * BUFFER];
        self.counters.kicks += 1;
        let len = match rustix::io::read(&self.device.fd, &mut *buffer) {
            Ok(len) => len,
            Err(error) => {
                if error != Errno::AGAIN {
                    self.failed = Some(error.into());
                }
                return false;
            }
        };
        if len <= prefix {
            return false;
        }
        let (header, frame) = buffer[..len].split_at_mut(prefix);
        let (checksum, gso_size) = match <&[u8; vnet::LEN]>::try_from(&*header) {
            Ok(header) => vnet::decode(header),
            Err(_) => (RxChecksum::Unverified, 0),
        };
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        let received = Received { start: frame.as_mut_ptr(), len: frame.len() };
        // SAFETY: the buffer is read into again only after the batch has been delivered.
        unsafe { self.batch.push(received, &[], checksum, gso_size) };
        true
    }
}

impl Port for TapPort {
    fn offload(&self) -> Offload {
        Offload { max_segment: LONGEST as u32, tx_checksum: true }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let mut taken = 0;
        while taken < budget {
            let wanted = READ_BATCH.min(budget - taken);
            let mut read = 0;
            while read < wanted && self.read(read) {
                read += 1;
            }
            self.batch.deliver(sink);
            taken += read;
            if read < wanted {
                break;
            }
        }
        taken
    }

    fn transmit(&mut self, frame: &TxFrame<'_>) -> Result<(), Full> {
        if self.vnet() { self.transmit_whole(frame) } else { self.transmit_cut(frame) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.fd.as_fd())
    }

    fn pending(&mut self) -> bool {
        let mut poll = [PollFd::new(&self.device.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
            && poll[0].revents().contains(PollFlags::IN)
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn describe(&self) -> String {
        format!(
            "{} {}: {}",
            if self.macvtap { "macvtap" } else { "tap" },
            self.device.name,
            match &self.device.vnet {
                Ok(()) => "checksum and segmentation by the kernel (IFF_VNET_HDR)".to_owned(),
                Err(reason) => format!("checksum and segmentation in software ({reason})"),
            },
        )
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.device.fd.as_fd()]
    }
}

const _: () = assert!(READ_BATCH <= BATCH);
