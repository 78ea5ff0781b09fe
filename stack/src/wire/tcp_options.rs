//! TCP options: MSS (RFC 9293 section 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018).
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

/// The options of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    pub mss: Option<u16>,
    /// Shift count as sent; who uses it bounds it by 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
    pub sack: SackBlocks,
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
        self.len_without_sack() + if blocks == 0 { 0 } else { 4 + 8 * blocks }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the options in Linux's order, each aligned to four bytes: MSS, SACK permitted and timestamps (sharing
    /// a word), window scale, SACK blocks as far as they fit. Returns their length.
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

    fn sack_blocks_that_fit(&self) -> usize {
        let room = MAX_LEN.saturating_sub(self.len_without_sack() + 4) / 8;
        self.sack.as_slice().len().min(room)
    }
}
