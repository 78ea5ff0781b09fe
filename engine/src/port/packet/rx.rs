//! The receive ring of a packet socket: blocks that hold many frames (TPACKET_V3) or slots of one frame (TPACKET_V2).

use crate::port::PortCounters;
use crate::port::merge::{Batch, MAX_PIECES, Received};
use crate::port::vnet;
use persona_stack::RxChecksum;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a VLAN tag.
const TAG: usize = 4;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Memory order of a ring: `count` blocks (or slots) of `size` bytes, `per_block` of them in each `block_size` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub start: *mut u8,
    pub block_size: usize,
    pub per_block: usize,
    pub size: usize,
    pub count: usize,
}

impl Shape {
    pub fn at(&self, index: usize) -> *mut u8 {
        let index = index % self.count;
        self.start.wrapping_add(index / self.per_block * self.block_size + index % self.per_block * self.size)
    }
}

/// The receive side.
pub enum Receive {
    Blocks(Blocks),
    Slots(Slots),
}

/// TPACKET_V3: the kernel hands over a block when it is full or its time is up.
pub struct Blocks {
    shape: Shape,
    current: usize,
    /// Frames of the current block not yet taken; `None`: not looked at.
    left: Option<u32>,
    next: *mut u8,
}

/// TPACKET_V2: the kernel hands over each frame at once.
pub struct Slots {
    shape: Shape,
    current: usize,
    /// Slots taken since the last release.
    taken: usize,
}

// SAFETY: the pointers go into a mapping that belongs to the port, which one thread uses at a time.
unsafe impl Send for Receive {}

/// What both kinds of header say of a frame.
struct Frame {
    start: *mut u8,
    len: usize,
    wire_len: usize,
    status: u32,
    tag: (u16, u16),
}

impl Receive {
    pub fn blocks(shape: Shape) -> Self {
        Self::Blocks(Blocks { shape, current: 0, left: None, next: shape.start })
    }

    pub fn slots(shape: Shape) -> Self {
        Self::Slots(Slots { shape, current: 0, taken: 0 })
    }

    /// Whether frames wait.
    pub fn waiting(&self) -> bool {
        match self {
            Self::Blocks(blocks) => blocks.left.is_some() || blocks.is_ours(),
            Self::Slots(slots) => slots.is_ours(slots.current + slots.taken),
        }
    }

    /// Puts up to `budget` frames into the batch; they stay valid until [`Receive::release`]. Returns how many.
    pub fn gather(&mut self, batch: &mut Batch, budget: usize, vnet: bool, counters: &mut PortCounters) -> usize {
        let mut frames = 0;
        while frames < budget && batch.room() > MAX_PIECES {
            let next = match self {
                Self::Blocks(blocks) => blocks.next(),
                Self::Slots(slots) => slots.next(),
            };
            let Some(frame) = next else { break };
            frames += 1;
            counters.rx_frames += 1;
            counters.rx_bytes += frame.len as u64;
            if frame.len < frame.wire_len {
                counters.rx_frames -= 1;
                counters.rx_bytes -= frame.len as u64;
                counters.rx_dropped += 1;
                continue;
            }
            push(batch, frame, vnet);
        }
        frames
    }

    /// Gives back what was taken; the batch has been delivered.
    pub fn release(&mut self) {
        match self {
            Self::Blocks(blocks) => blocks.release(),
            Self::Slots(slots) => slots.release(),
        }
    }
}

impl Blocks {
    fn header(&self) -> *mut libc::tpacket_block_desc {
        self.shape.at(self.current).cast()
    }

    fn status(&self) -> &AtomicU32 {
        let at = offset_of!(libc::tpacket_block_desc, hdr) + offset_of!(libc::tpacket_hdr_v1, block_status);
        status(self.shape.at(self.current), at)
    }

    fn is_ours(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    fn next(&mut self) -> Option<Frame> {
        if self.left.is_none() {
            if !self.is_ours() {
                return None;
            }
            // SAFETY: the kernel has handed the block over; its header is complete.
            let header = unsafe { (*self.header()).hdr.bh1 };
            self.left = Some(header.num_pkts);
            self.next = self.header().cast::<u8>().wrapping_add(header.offset_to_first_pkt as usize);
        }
        self.left = Some(self.left?.checked_sub(1)?);
        let start = self.next;
        // SAFETY: the kernel counted this frame into the block, so that a header lies here; it is aligned to 16.
        let header = unsafe { &*start.cast::<libc::tpacket3_hdr>() };
        self.next = start.wrapping_add(header.tp_next_offset as usize);
        Some(Frame {
            start: start.wrapping_add(usize::from(header.tp_mac)),
            len: header.tp_snaplen as usize,
            wire_len: header.tp_len as usize,
            status: header.tp_status,
            tag: (header.hv1.tp_vlan_tpid, header.hv1.tp_vlan_tci as u16),
        })
    }

    fn release(&mut self) {
        if self.left == Some(0) {
            self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.left = None;
            self.current = (self.current + 1) % self.shape.count;
        }
    }
}

impl Slots {
    fn status(&self, index: usize) -> &AtomicU32 {
        status(self.shape.at(index), offset_of!(libc::tpacket2_hdr, tp_status))
    }

    fn is_ours(&self, index: usize) -> bool {
        self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    fn next(&mut self) -> Option<Frame> {
        let index = self.current + self.taken;
        if self.taken == self.shape.count || !self.is_ours(index) {
            return None;
        }
        self.taken += 1;
        let start = self.shape.at(index);
        // SAFETY: the kernel has handed the slot over; its header is complete and aligned to 16.
        let header = unsafe { &*start.cast::<libc::tpacket2_hdr>() };
        Some(Frame {
            start: start.wrapping_add(usize::from(header.tp_mac)),
            len: header.tp_snaplen as usize,
            wire_len: header.tp_len as usize,
            status: header.tp_status,
            tag: (header.tp_vlan_tpid, header.tp_vlan_tci),
        })
    }

    fn release(&mut self) {
        for index in self.current..self.current + self.taken {
            self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.current = (self.current + self.taken) % self.shape.count;
        self.taken = 0;
    }
}

/// The status word at `offset` of a header.
fn status(header: *mut u8, offset: usize) -> &'static AtomicU32 {
    // SAFETY: the header lies in the mapped ring, which lives as long as the port, and the word is aligned. The
    // reference does not leave this module and is not kept.
    unsafe { &*header.wrapping_add(offset).cast::<AtomicU32>() }
}

fn push(batch: &mut Batch, frame: Frame, vnet: bool) {
    let (checksum, gso_size) = if vnet {
        // SAFETY: with PACKET_VNET_HDR the header lies directly before the frame.
        vnet::decode(unsafe { &*frame.start.wrapping_sub(vnet::LEN).cast() })
    } else if frame.status & libc::TP_STATUS_CSUMNOTREADY != 0 {
        (RxChecksum::Partial, 0)
    } else if frame.status & TP_STATUS_CSUM_VALID != 0 {
        (RxChecksum::Verified, 0)
    } else {
        (RxChecksum::Unverified, 0)
    };
    let (mut start, mut len) = (frame.start, frame.len);
    if frame.status & TP_STATUS_VLAN_VALID != 0 && len >= 12 {
        // The kernel took the tag out; what belongs to a VLAN must not look like untagged traffic. The ring has room
        // for it where the socket address and the vnet header were, and neither is needed any more.
        let protocol = if frame.status & TP_STATUS_VLAN_TPID_VALID != 0 { frame.tag.0 } else { 0x8100 };
        start = start.wrapping_sub(TAG);
        len += TAG;
        // SAFETY: the bytes before the frame belong to its header area, which is longer than a tag.
        unsafe {
            core::ptr::copy(frame.start, start, 12);
            start.add(12).cast::<[u8; 2]>().write(protocol.to_be_bytes());
            start.add(14).cast::<[u8; 2]>().write(frame.tag.1.to_be_bytes());
        }
    }
    // SAFETY: the frame is ours until `release`, which follows the delivery of the batch.
    unsafe { batch.push(Received { start, len }, &[], checksum, gso_size) };
}
