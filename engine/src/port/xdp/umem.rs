//! The UMEM: packet memory in a sealed memfd, so that the engine's successor can map it again.
//!
//! Layout: receive frames, transmit frames, one page that describes both. The two kinds never mix: a receive frame
//! is only ever in the fill or the receive ring, a transmit frame in the transmit or the completion ring or free. So a
//! successor finds every frame by looking at the rings.

use crate::port::error::PortError;
use crate::port::mapping::Mapping;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};

/// Bytes that the kernel keeps free before a received frame (XDP_PACKET_HEADROOM).
pub const KERNEL_HEADROOM: u32 = 256;
/// Bytes before a transmit frame that hold its metadata (struct xsk_tx_metadata without launch time).
pub const METADATA: u32 = 16;

const PAGE: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"PERSUMEM");

/// Counts and sizes. Written into the memfd for the successor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// Powers of two; also the sizes of the rings.
    pub rx_frames: u32,
    pub tx_frames: u32,
    /// Bytes before each transmit frame for metadata: [`METADATA`], or 0 where the kernel does not know it.
    pub metadata: u32,
    /// 1 when frames may span several descriptors.
    pub multi_buffer: u32,
    /// Index and queue of the interface.
    pub interface: u32,
    pub queue: u32,
    pub mtu: u32,
}

#[repr(C)]
struct Description {
    magic: u64,
    geometry: Geometry,
}

impl Geometry {
    /// Bytes of the packet memory.
    pub fn bytes(&self) -> usize {
        (self.rx_frames as usize + self.tx_frames as usize) * self.frame_size as usize
    }

    /// Entries of the fill ring. Twice the frames: the kernel shows a received frame before it shows that it has taken
    /// the fill entry (xsk_flush), so that the frame can come back while its old entry still seems to be there.
    pub fn fill_entries(&self) -> u32 {
        2 * self.rx_frames
    }

    /// Bytes that a transmit frame can hold.
    pub fn tx_capacity(&self) -> usize {
        (self.frame_size - self.metadata) as usize
    }

    /// Offset of transmit frame `index`, before its metadata.
    pub fn tx_offset(&self, index: u32) -> u64 {
        u64::from(self.rx_frames + index) * u64::from(self.frame_size)
    }

    /// Beginning of the frame in which `address` lies.
    pub fn frame_of(&self, address: u64) -> u64 {
        address & !u64::from(self.frame_size - 1)
    }

    /// Which transmit frame `address` lies in.
    pub fn tx_index(&self, address: u64) -> Option<u32> {
        let frame = u32::try_from(address / u64::from(self.frame_size)).ok()?;
        frame.checked_sub(self.rx_frames).filter(|&index| index < self.tx_frames)
    }

    /// Which receive frame `address` lies in.
    pub fn rx_index(&self, address: u64) -> Option<u32> {
        u32::try_from(address / u64::from(self.frame_size)).ok().filter(|&index| index < self.rx_frames)
    }
}

#[derive(Debug)]
pub struct Umem {
    memfd: OwnedFd,
    mapping: Mapping,
    geometry: Geometry,
}

impl Umem {
    /// Makes the memory and seals its size.
    pub fn new(geometry: Geometry, on: &str) -> Result<Self, PortError> {
        let memfd = rustix::fs::memfd_create("persona-umem", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(PortError::io("creating the packet memory", on))?;
        let len = geometry.bytes() + PAGE;
        rustix::fs::ftruncate(&memfd, len as u64).map_err(PortError::io("sizing the packet memory", on))?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(PortError::io("sealing the packet memory", on))?;
        let mapping = Mapping::new(&memfd, len, 0).map_err(PortError::io("mapping the packet memory", on))?;
        let mut umem = Self { memfd, mapping, geometry };
        umem.describe(geometry);
        Ok(umem)
    }

    /// Maps the memory that another process made.
    pub fn reopen(memfd: OwnedFd, on: &str) -> Result<Self, PortError> {
        let strange = |reason: &str| PortError::Device {
            path: "the packet memory".to_owned(),
            what: "the UMEM of an AF_XDP port",
            reason: reason.to_owned(),
        };
        let seals = rustix::fs::fcntl_get_seals(&memfd).map_err(PortError::io("reading the seals", on))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(strange("it is not sealed against shrinking"));
        }
        let len = rustix::fs::fstat(&memfd).map_err(PortError::io("sizing the packet memory", on))?.st_size as usize;
        if len < PAGE {
            return Err(strange("it is too short"));
        }
        let mapping = Mapping::new(&memfd, len, 0).map_err(PortError::io("mapping the packet memory", on))?;
        // SAFETY: the last page of the mapping, which is aligned; any bytes are a valid Description.
        let description = unsafe { mapping.start().add(len - PAGE).cast::<Description>().read() };
        let geometry = description.geometry;
        if description.magic != MAGIC || !matches!(geometry.frame_size, 2048 | 4096) || geometry.bytes() + PAGE != len {
            return Err(strange("its description does not fit its size"));
        }
        Ok(Self { memfd, mapping, geometry })
    }

    /// Records what was agreed on with the kernel.
    pub fn describe(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        let description = Description { magic: MAGIC, geometry };
        // SAFETY: the last page of the mapping, which is aligned and ours.
        unsafe {
            self.mapping.start().add(self.mapping.len() - PAGE).cast::<Description>().write(description);
        }
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Beginning of the packet memory, [`Geometry::bytes`] long.
    pub fn start(&self) -> *mut u8 {
        self.mapping.start()
    }

    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}
