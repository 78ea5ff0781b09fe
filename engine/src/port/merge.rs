//! Receive batches: frames of one ring visit, with trains of TCP segments merged (software LRO).
//!
//! For ports that deliver frames of MTU size. Merging never looks beyond one batch, so it delays nothing. A segment
//! joins a train when it is the next one of the same flow and differs in nothing (codepoint and ECN flags included) but sequence
//! number, length, IPv4 identification and PSH; PSH, a short segment and anything else of the same flow end the train. The head's lengths
//! become those of the train.
//!
//! The payload is not summed here, because the stack sums it anyway in the pass that copies it. Each segment's checksum
//! field implies the sum of its payload; the head gets the field that covers all of them, so that the stack's one check
//! is the check of every segment.

use super::headers::{Layout, TCP_CHECKSUM, TCP_FLAGS, Version, be16, be32, tcp_flag};
use super::sum::{self, Sum};
use persona_stack::{RxChecksum, RxFrame};

/// Most pieces (descriptors) of one batch.
pub const BATCH: usize = 64;
/// Flows whose trains are open at the same time; one more closes the oldest.
const TRAINS: usize = 8;
/// ECE and CWR: classic ECN's, or with AE in the byte before them the counter of AccECN (RFC 9768).
const ECN_FLAGS: u8 = tcp_flag::ECE | tcp_flag::CWR;
/// Longest train as an IP packet.
const LONGEST: usize = 0xffff;

/// Memory of the port's own that holds received bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub start: *mut u8,
    pub len: usize,
}

/// What a port does to the frames of a batch before the stack sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Recognise checksums that a local peer left to a device ([`Layout::checksum_is_partial`]).
    pub partial: bool,
    /// Merge trains.
    pub merge: bool,
}

/// The frames of one visit to a receive ring. Keeps its memory between visits.
pub struct Batch {
    frames: Vec<Frame>,
    pieces: Vec<Received>,
    treatment: Treatment,
}

// SAFETY: the pointers are only meaningful between `push` and the end of `deliver`, both called by the port's thread.
unsafe impl Send for Batch {}

#[derive(Clone, Copy)]
struct Frame {
    head: Received,
    /// Further pieces: range of `Batch::pieces`.
    tail: (u32, u32),
    checksum: RxChecksum,
    gso_size: u16,
    /// Next frame of the same train.
    next: Option<u32>,
}

/// A TCP data segment that may begin or continue a train.
#[derive(Clone, Copy)]
struct Segment {
    layout: Layout,
    /// Offset of the payload.
    payload_at: usize,
    payload: usize,
    sequence: u32,
    psh: bool,
}

/// Frames of one flow that are delivered as one.
#[derive(Clone, Copy)]
struct Train {
    first: u32,
    last: u32,
    head: Segment,
    /// Sequence number that continues the train.
    next_sequence: u32,
    /// Payload bytes of all segments.
    payload: usize,
    /// Sum of the payload as the checksum fields imply it.
    sum: Sum,
    segments: usize,
    /// Pieces beyond the head.
    pieces: usize,
    closed: bool,
    psh: bool,
}

impl Batch {
    pub fn new(treatment: Treatment) -> Self {
        Self { frames: Vec::with_capacity(BATCH), pieces: Vec::with_capacity(BATCH), treatment }
    }

    /// Pieces that still fit.
    pub fn room(&self) -> usize {
        BATCH.saturating_sub(self.frames.len() + self.pieces.len())
    }

    /// Frames pushed since the last delivery.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a frame that lies in `head` and then `tail`.
    ///
    /// # Safety
    ///
    /// The memory must be readable and writable, and nobody else may write it, until [`Batch::deliver`] returns.
    pub unsafe fn push(&mut self, head: Received, tail: &[Received], checksum: RxChecksum, gso_size: u16) {
        let from = self.pieces.len() as u32;
        self.pieces.extend_from_slice(tail);
        self.frames.push(Frame { head, tail: (from, self.pieces.len() as u32), checksum, gso_size, next: None });
    }

    /// Hands the frames on in the order of each flow, and forgets them. Returns how many went up, a train as one.
    pub fn deliver(&mut self, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let mut open = Open { trains: [None; TRAINS], used: 0 };
        let mut delivered = 0;
        for index in 0..self.frames.len() as u32 {
            if self.treatment == Treatment::default() {
                self.single(index, sink);
                delivered += 1;
                continue;
            }
            delivered += self.treat(index, &mut open, sink);
        }
        for at in 0..open.used {
            if let Some(train) = open.trains[at].take() {
                self.train(&train, sink);
                delivered += 1;
            }
        }
        self.frames.clear();
        self.pieces.clear();
        delivered
    }

    /// Deals with one frame and whatever it ends. Returns how many frames went up.
    fn treat(&mut self, index: u32, open: &mut Open, sink: &mut dyn FnMut(RxFrame<'_>)) -> usize {
        let frame = self.frames[index as usize];
        let head = bytes(&frame.head);
        let Some(layout) = Layout::of_ethernet(head) else {
            self.single(index, sink);
            return 1;
        };
        if self.treatment.partial
            && frame.checksum == RxChecksum::Unverified
            && frame.gso_size == 0
            && layout.checksum_is_partial(head)
        {
            self.frames[index as usize].checksum = RxChecksum::Partial;
        }
        if !self.treatment.merge || layout.tcp_header(head).is_none() {
            self.single(index, sink);
            return 1;
        }

        let mut delivered = 0;
        let segment = self.segment(index, layout);
        let flow = open.of_flow(self, head, layout);
        if let (Some(at), Some(segment)) = (flow, segment)
            && let Some(train) = &mut open.trains[at]
            && self.continues(train, index, &segment)
        {
            self.append(train, index, &segment);
            return 0;
        }
        if let Some(train) = flow.and_then(|at| open.remove(at)) {
            self.train(&train, sink);
            delivered += 1;
        }
        let Some(segment) = segment else {
            self.single(index, sink);
            return delivered + 1;
        };
        if open.used == TRAINS
            && let Some(oldest) = open.remove(0)
        {
            self.train(&oldest, sink);
            delivered += 1;
        }
        open.push(self.begin(index, &segment));
        delivered
    }

    /// The frame as a segment of a train, if it can be one.
    fn segment(&self, index: u32, layout: Layout) -> Option<Segment> {
        let frame = &self.frames[index as usize];
        let head = bytes(&frame.head);
        let payload_at = layout.l4 + layout.tcp_header(head)?;
        let flags = head[layout.l4 + TCP_FLAGS];
        // The ECN flags may be what they like, as long as they are the same in a whole train.
        let plain = flags & !(tcp_flag::PSH | ECN_FLAGS) == tcp_flag::ACK && head[layout.l4 + 12] & 0x0e == 0;
        let options = layout.version == Version::V4 && layout.l4 - layout.l3 != 20;
        let len = frame.head.len + self.tail(frame).iter().map(|piece| piece.len).sum::<usize>();
        // Padding may follow in a frame of one piece, where the slice is simply shortened.
        let whole = if frame.tail.0 == frame.tail.1 { layout.end <= len } else { layout.end == len };
        if !plain
            || options
            || !whole
            || layout.end <= payload_at
            || frame.gso_size != 0
            || !layout.network_checksum_holds(head)
        {
            return None;
        }
        Some(Segment {
            layout,
            payload_at,
            payload: layout.end - payload_at,
            sequence: be32(head, layout.l4 + 4),
            psh: flags & tcp_flag::PSH != 0,
        })
    }

    /// Whether `segment`, of the train's flow, is its next one.
    fn continues(&self, train: &Train, index: u32, segment: &Segment) -> bool {
        let (first, frame) = (&self.frames[train.first as usize], &self.frames[index as usize]);
        let (a, b) = (bytes(&first.head), bytes(&frame.head));
        let (head, layout) = (&train.head, &segment.layout);
        let same_network = match layout.version {
            // Type of service, DF and time to live; the rest is compared as the flow or may differ.
            Version::V4 => {
                a[head.layout.l3 + 1] == b[layout.l3 + 1]
                    && a[head.layout.l3 + 6..head.layout.l3 + 9] == b[layout.l3 + 6..layout.l3 + 9]
            }
            // Traffic class, flow label and hop limit.
            Version::V6 => {
                a[head.layout.l3..head.layout.l3 + 4] == b[layout.l3..layout.l3 + 4]
                    && a[head.layout.l3 + 7] == b[layout.l3 + 7]
            }
        };
        !train.closed
            && segment.sequence == train.next_sequence
            && segment.payload <= train.head.payload
            && frame.checksum == first.checksum
            && segment.payload_at == head.payload_at
            && same_network
            // ECE and CWR, AE; acknowledgement number, window and every option.
            && (a[head.layout.l4 + TCP_FLAGS] ^ b[layout.l4 + TCP_FLAGS]) & ECN_FLAGS == 0
            && a[head.layout.l4 + 12] == b[layout.l4 + 12]
            && a[head.layout.l4 + 8..head.layout.l4 + 12] == b[layout.l4 + 8..layout.l4 + 12]
            && a[head.layout.l4 + 14..head.layout.l4 + 16] == b[layout.l4 + 14..layout.l4 + 16]
            && a[head.layout.l4 + 20..head.payload_at] == b[layout.l4 + 20..segment.payload_at]
            && head.payload_at - head.layout.l3 + train.payload + segment.payload <= LONGEST
            && train.pieces + 1 + self.tail(frame).len() <= BATCH
    }

    fn begin(&self, index: u32, segment: &Segment) -> Train {
        let mut sum = Sum::default();
        sum.add_piece(self.payload_sum(index, segment), segment.payload);
        Train {
            first: index,
            last: index,
            head: *segment,
            next_sequence: segment.sequence.wrapping_add(segment.payload as u32),
            payload: segment.payload,
            sum,
            segments: 1,
            pieces: self.tail(&self.frames[index as usize]).len(),
            closed: segment.psh,
            psh: segment.psh,
        }
    }

    fn append(&mut self, train: &mut Train, index: u32, segment: &Segment) {
        let sum = self.payload_sum(index, segment);
        self.frames[train.last as usize].next = Some(index);
        train.last = index;
        train.next_sequence = train.next_sequence.wrapping_add(segment.payload as u32);
        train.payload += segment.payload;
        train.sum.add_piece(sum, segment.payload);
        train.segments += 1;
        train.pieces += 1 + self.tail(&self.frames[index as usize]).len();
        train.closed = segment.psh || segment.payload < train.head.payload;
        train.psh = segment.psh;
    }

    /// Sum of the payload that the checksum field implies: field + pseudo-header + header + payload is all ones.
    fn payload_sum(&self, index: u32, segment: &Segment) -> u16 {
        let head = bytes(&self.frames[index as usize].head);
        let layout = &segment.layout;
        let mut rest = layout.pseudo_header(head, layout.end - layout.l4);
        rest.add(&head[layout.l4..segment.payload_at]);
        !rest.fold()
    }

    fn train(&mut self, train: &Train, sink: &mut dyn FnMut(RxFrame<'_>)) {
        if train.segments == 1 {
            return self.single(train.first, sink);
        }
        let first = self.frames[train.first as usize];
        let layout = Layout { end: train.head.payload_at + train.payload, ..train.head.layout };
        self.rewrite_head(&first, train, &layout);

        let mut tail: [&[u8]; BATCH] = [&[]; BATCH];
        let mut used = 0;
        let mut put = |piece| {
            tail[used] = piece;
            used += 1;
        };
        let head_len = first.head.len.min(train.head.layout.end);
        self.tail(&first).iter().for_each(|piece| put(bytes(piece)));
        let mut next = first.next;
        while let Some(index) = next {
            let frame = &self.frames[index as usize];
            let head = bytes(&frame.head);
            // `segment` has seen that the header parses and that the packet ends within the frame.
            let end = Layout::of_ethernet(head).map_or(head.len(), |layout| layout.end.min(head.len()));
            put(&head[train.head.payload_at..end]);
            self.tail(frame).iter().for_each(|piece| put(bytes(piece)));
            next = frame.next;
        }
        sink(RxFrame {
            head: &bytes(&first.head)[..head_len],
            tail: &tail[..used],
            checksum: first.checksum,
            gso_size: train.head.payload as u16,
        });
    }

    /// Makes the headers of the train's first frame those of the whole train.
    fn rewrite_head(&self, first: &Frame, train: &Train, layout: &Layout) {
        // SAFETY: `push` demands memory that is ours to write until `deliver` returns, and no other slice of it exists
        // at this moment.
        let head = unsafe { core::slice::from_raw_parts_mut(first.head.start, first.head.len) };
        layout.set_end(head, layout.end);
        if train.psh {
            head[layout.l4 + TCP_FLAGS] |= tcp_flag::PSH;
        }
        let mut check = layout.pseudo_header(head, layout.end - layout.l4);
        let at = layout.l4 + TCP_CHECKSUM;
        match first.checksum {
            RxChecksum::Partial => sum::store(head, at, check.fold()),
            RxChecksum::Unverified | RxChecksum::Verified => {
                sum::store(head, at, 0);
                check.add(&head[layout.l4..train.head.payload_at]);
                check.add_folded(train.sum.fold());
                sum::store(head, at, sum::field(check.fold()));
            }
        }
    }

    fn single(&self, index: u32, sink: &mut dyn FnMut(RxFrame<'_>)) {
        let frame = &self.frames[index as usize];
        let mut tail: [&[u8]; MAX_PIECES] = [&[]; MAX_PIECES];
        let pieces = self.tail(frame);
        for (slot, piece) in tail.iter_mut().zip(pieces) {
            *slot = bytes(piece);
        }
        sink(RxFrame {
            head: bytes(&frame.head),
            tail: &tail[..pieces.len()],
            checksum: frame.checksum,
            gso_size: frame.gso_size,
        });
    }

    fn tail(&self, frame: &Frame) -> &[Received] {
        &self.pieces[frame.tail.0 as usize..frame.tail.1 as usize]
    }
}

/// Most pieces of one frame beyond its head: the kernel's MAX_SKB_FRAGS.
pub const MAX_PIECES: usize = 17;

/// Trains still growing, oldest first.
struct Open {
    trains: [Option<Train>; TRAINS],
    used: usize,
}

impl Open {
    /// The open train of the flow to which a frame belongs. Another link header (VLAN) makes another flow.
    fn of_flow(&self, batch: &Batch, head: &[u8], layout: Layout) -> Option<usize> {
        let addresses = layout.addresses(head);
        self.trains[..self.used].iter().flatten().position(|train| {
            let first = bytes(&batch.frames[train.first as usize].head);
            let other = &train.head.layout;
            first[..other.l3] == head[..layout.l3]
                && other.version == layout.version
                && other.addresses(first) == addresses
                && be16(first, other.l4) == be16(head, layout.l4)
                && be16(first, other.l4 + 2) == be16(head, layout.l4 + 2)
        })
    }

    fn push(&mut self, train: Train) {
        self.trains[self.used] = Some(train);
        self.used += 1;
    }

    fn remove(&mut self, at: usize) -> Option<Train> {
        let train = self.trains[at].take();
        self.trains[at..self.used].rotate_left(1);
        self.used -= 1;
        train
    }
}

fn bytes(piece: &Received) -> &[u8] {
    // SAFETY: `Batch::push` demands memory that stays readable until `deliver` returns; every use is inside of it.
    unsafe { core::slice::from_raw_parts(piece.start, piece.len) }
}

#[cfg(test)]
mod tests;
