//! TCP options: MSS (RFC 9293 section 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018), AccECN (RFC 9768 section
//! 3.2.3).
//!
//! Parsing is bounded by the 40 bytes that a header can hold. An unknown option is skipped by its length; one whose
//! length is impossible ends the parsing, and what was read before it counts, as on Linux.

use super::SeqNumber;

/// Most bytes of options that a header can carry.
pub const MAX_LEN: usize = 40;
/// Most SACK blocks that fit (RFC 2018 section 3); three beside timestamps.
pub const MAX_SACK_BLOCKS: usize = 4;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// The two orders of the AccECN option: ECT(0) first, ECT(1) first.
const ECN_BYTES_0: u8 = 172;
const ECN_BYTES_1: u8 = 174;

/// What almost every segment of an open connection carries, so that it is recognised in one comparison.
const ALIGNED_TIMESTAMPS: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];

/// The timestamps option, in ticks of the sender's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    pub value: u32,
    pub echo: u32,
}

/// Sequence numbers `start .. end`, received and not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    pub start: SeqNumber,
    pub end: SeqNumber,
}

/// Up to four blocks, most recent first.
#[derive(Clone, Copy, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; MAX_SACK_BLOCKS],
    count: u8,
}

impl SackBlocks {
    /// Appends a block. `false`: there is no room.
    pub fn push(&mut self, block: SackBlock) -> bool {
        match self.blocks.get_mut(usize::from(self.count)) {
            Some(free) => {
                *free = block;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    #[inline]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.count)).unwrap_or_default()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SackBlocks {}

impl core::fmt::Debug for SackBlocks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The AccECN option: bytes of payload that arrived with each codepoint, counted modulo 2^24 from 1 (ECT) or 0 (CE). What is
/// not told is at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnBytes {
    /// ECT(1) comes first and ECT(0) last, instead of the other way around; CE is always between them.
    pub ect1_first: bool,
    /// In the order of the wire; only the first `count` are told.
    fields: [u32; 3],
    count: u8,
}

impl EcnBytes {
    /// What a field can hold.
    pub const MASK: u32 = 0xff_ffff;

    /// The first `count` fields of an option, 3 at most.
    pub fn new(ect1_first: bool, ect0: u32, ce: u32, ect1: u32, count: u8) -> Self {
        let fields = if ect1_first { [ect1, ce, ect0] } else { [ect0, ce, ect1] };
        let told = |place: usize| if place < usize::from(count) { fields[place] & Self::MASK } else { 0 };
        Self { ect1_first, fields: [told(0), told(1), told(2)], count: count.min(3) }
    }

    fn field(&self, place: usize) -> Option<u32> {
        (place < usize::from(self.count)).then(|| self.fields[place])
    }

    pub fn ect0(&self) -> Option<u32> {
        self.field(if self.ect1_first { 2 } else { 0 })
    }

    pub fn ce(&self) -> Option<u32> {
        self.field(1)
    }

    pub fn ect1(&self) -> Option<u32> {
        self.field(if self.ect1_first { 0 } else { 2 })
    }

    /// Nothing is told.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of an option with `count` fields, padded to words.
    pub const fn padded_len(count: u8) -> usize {
        (2 + 3 * count as usize).next_multiple_of(4)
    }

    fn parse(ect1_first: bool, value: &[u8]) -> Self {
        // RFC 9768 section 3.2.3: of another length than it should have, the whole fields count.
        let (fields, _) = value.as_chunks::<3>();
        let mut parsed = Self { ect1_first, count: fields.len().min(3) as u8, ..Self::default() };
        for (place, &[high, middle, low]) in parsed.fields.iter_mut().zip(fields) {
            *place = u32::from_be_bytes([0, high, middle, low]);
        }
        parsed
    }

    /// Writes the option to the end of `room`, which is [`Self::padded_len`] long, behind its padding.
    fn emit(&self, room: &mut [u8]) {
        let len = 2 + 3 * usize::from(self.count);
        let (padding, option) = room.split_at_mut(room.len() - len);
        padding.fill(NOP);
        option[0] = if self.ect1_first { ECN_BYTES_1 } else { ECN_BYTES_0 };
        option[1] = len as u8;
        for (place, field) in option[2..].chunks_exact_mut(3).zip(self.fields) {
            place.copy_from_slice(&field.to_be_bytes()[1..]);
        }
    }
}

/// The options of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    pub mss: Option<u16>,
    /// Shift count as sent; who uses it bounds it by 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
    pub sack: SackBlocks,
    pub ecn_bytes: Option<EcnBytes>,
}

impl TcpOptions {
    /// Reads options from the bytes between header and payload.
    #[inline]
    pub fn parse(options: &[u8]) -> Self {
        match options {
            [] => Self::default(),
            [o0, o1, o2, o3, v0, v1, v2, v3, e0, e1, e2, e3] if [*o0, *o1, *o2, *o3] == ALIGNED_TIMESTAMPS => {
                let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
                let echo = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
                Self { timestamps: Some(Timestamps { value, echo }), ..Self::default() }
            }
            _ => Self::parse_each(options),
        }
    }

    fn parse_each(mut options: &[u8]) -> Self {
        let mut parsed = Self::default();
        while let [kind, rest @ ..] = options {
            match *kind {
                END => break,
                NOP => options = rest,
                kind => {
                    let [len, ..] = rest else { break };
                    let Some((option, after)) = options.split_at_checked(usize::from(*len)) else { break };
                    // A length of 0 or 1 would not even hold itself: there is no next option to find.
                    let [_, _, value @ ..] = option else { break };
                    parsed.take(kind, value);
                    options = after;
                }
            }
        }
        parsed
    }

    fn take(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                self.timestamps = Some(Timestamps { value, echo: u32::from_be_bytes([e0, e1, e2, e3]) });
            }
            (ECN_BYTES_0 | ECN_BYTES_1, value) => self.ecn_bytes = Some(EcnBytes::parse(kind == ECN_BYTES_1, value)),
            (SACK, blocks) => {
                let (blocks, odd) = blocks.as_chunks::<8>();
                if !odd.is_empty() {
                    return;
                }
                self.sack = SackBlocks::default();
                for &[s0, s1, s2, s3, e0, e1, e2, e3] in blocks {
                    let start = SeqNumber(u32::from_be_bytes([s0, s1, s2, s3]));
                    self.sack.push(SackBlock { start, end: SeqNumber(u32::from_be_bytes([e0, e1, e2, e3])) });
                }
            }
            // Unknown, or known with a length that it does not have.
            _ => {}
        }
    }

    /// Bytes that [`emit`](Self::emit) writes: a multiple of four, at most 40.
    #[inline]
    pub fn len(&self) -> usize {
        let blocks = self.sack_blocks_that_fit();
        let len = self.len_without_sack() + if blocks == 0 { 0 } else { 4 + 8 * blocks };
        len + self.ecn_bytes_that_fit(len).map_or(0, |bytes| EcnBytes::padded_len(bytes.count))
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the options in Linux's order, each aligned to four bytes: MSS, SACK permitted and timestamps (sharing
    /// a word), window scale, SACK blocks as far as they fit, AccECN if it fits. Returns their length.
    ///
    /// # Panics
    ///
    /// When `buffer` is shorter than [`Self::len`].
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut at = 0;
        let mut word = |bytes: [u8; 4]| {
            buffer[at..at + 4].copy_from_slice(&bytes);
            at += 4;
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            word([MSS, 4, high, low]);
        }
        match (self.sack_permitted, self.timestamps) {
            (true, Some(_)) => word([SACK_PERMITTED, 2, TIMESTAMPS, 10]),
            (true, None) => word([NOP, NOP, SACK_PERMITTED, 2]),
            (false, Some(_)) => word(ALIGNED_TIMESTAMPS),
            (false, None) => {}
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            word(value.to_be_bytes());
            word(echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            word([NOP, WINDOW_SCALE, 3, shift]);
        }
        let blocks = self.sack_blocks_that_fit();
        if blocks > 0 {
            word([NOP, NOP, SACK, 2 + 8 * blocks as u8]);
            for block in &self.sack.as_slice()[..blocks] {
                word(block.start.0.to_be_bytes());
                word(block.end.0.to_be_bytes());
            }
        }
        if let Some(bytes) = self.ecn_bytes_that_fit(at) {
            let len = EcnBytes::padded_len(bytes.count);
            bytes.emit(&mut buffer[at..at + len]);
            at += len;
        }
        at
    }

    fn len_without_sack(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let timestamps = match (self.timestamps, self.sack_permitted) {
            (Some(_), _) => 12,
            (None, true) => 4,
            (None, false) => 0,
        };
        mss + timestamps + if self.window_scale.is_some() { 4 } else { 0 }
    }

    fn ecn_bytes_that_fit(&self, used: usize) -> Option<EcnBytes> {
        self.ecn_bytes.filter(|bytes| used + EcnBytes::padded_len(bytes.count) <= MAX_LEN)
    }

    fn sack_blocks_that_fit(&self) -> usize {
        let room = MAX_LEN.saturating_sub(self.len_without_sack() + 4) / 8;
        self.sack.as_slice().len().min(room)
    }
}
