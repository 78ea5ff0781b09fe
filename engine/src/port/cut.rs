//! Software segmentation and checksum: a [`TxFrame`] becomes frames of MTU size.
//!
//! Used by every port whose device cannot cut or sum. The payload is copied once, straight into the memory that goes to
//! the kernel, and summed by that copy. What segmentation changes in the headers is what a TSO device changes: IP
//! length, IPv4 identification and header checksum, TCP sequence number, flags, urgent pointer and checksum.

use super::headers::{Layout, TCP_CHECKSUM, TCP_FLAGS, Version, be16, be32, put_be16, tcp_flag};
use super::sum::{self, Sum};
use super::{Piece, TxFrame};
use persona_stack::{Gso, TxChecksum};

/// The frames of one super-segment, written one after the other by [`Cut::write`].
pub struct Cut<'a> {
    header: &'a [u8],
    payload: Source<'a>,
    payload_len: usize,
    /// Payload bytes already written.
    done: usize,
    /// Payload bytes of each frame; all of it when nothing is cut.
    size: usize,
    written: usize,
    form: Form,
    device_sums: bool,
    /// CWR belongs to every frame.
    repeats_cwr: bool,
}

#[derive(Clone, Copy)]
enum Form {
    /// Sent as it is; `None`: the checksum is complete.
    Whole(Option<(usize, usize)>),
    /// Cut as TCP (into one frame where the device cuts).
    Tcp(Layout),
}

/// The headers do not describe what was asked: cut size zero or not TCP, checksum field outside of the header. Shows
/// a mistake of the caller's; the frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What the device behind a port does itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Completes transport checksums: the pseudo-header sum is left in the field.
    pub sums: bool,
    /// Cuts super-segments: only the headers are made those of the whole.
    pub cuts: bool,
}

impl Device {
    /// Whether it cuts a super-segment with these headers as `gso` demands. A virtio header can say that CWR is the first
    /// segment's, not that it is everyone's: devices and kernels take it away from all but the first.
    pub fn cuts_as_told(&self, header: &[u8], layout: Layout, gso: Gso) -> bool {
        self.cuts && !(gso.repeats_ecn && header[layout.l4 + TCP_FLAGS] & tcp_flag::CWR != 0)
    }
}

impl<'a> Cut<'a> {
    pub fn new(frame: &TxFrame<'a>, device: Device) -> Result<Self, Malformed> {
        let payload_len = frame.payload.iter().map(|piece| piece.len).sum();
        let header = frame.header;
        let (form, size) = match (frame.gso, frame.checksum) {
            (Some(gso), _) => {
                let layout = Layout::of_ethernet(header).ok_or(Malformed)?;
                let length = layout.tcp_header(header).ok_or(Malformed)?;
                if gso.size == 0 || header.len() != layout.l4 + length {
                    return Err(Malformed);
                }
                (
                    Form::Tcp(layout),
                    if device.cuts_as_told(header, layout, gso) { payload_len } else { usize::from(gso.size) },
                )
            }
            (_, TxChecksum::Complete) => (Form::Whole(None), payload_len),
            (_, TxChecksum::Partial { start, offset }) => {
                let (start, offset) = (usize::from(start), usize::from(offset));
                if start + offset + 2 > header.len() {
                    return Err(Malformed);
                }
                (Form::Whole(Some((start, offset))), payload_len)
            }
        };
        Ok(Self {
            header,
            payload: Source { pieces: frame.payload, at: 0 },
            payload_len,
            done: 0,
            size,
            written: 0,
            form,
            device_sums: device.sums,
            repeats_cwr: frame.gso.is_some_and(|gso| gso.repeats_ecn),
        })
    }

    /// How many frames there will be in all.
    pub fn frames(&self) -> usize {
        if self.size == 0 { 1 } else { self.payload_len.div_ceil(self.size) }
    }

    /// Length of the longest frame.
    pub fn longest(&self) -> usize {
        self.header.len() + self.size.min(self.payload_len)
    }

    /// Length of the frame that [`Cut::write`] makes next; `None` when all are written.
    pub fn next_len(&self) -> Option<usize> {
        (self.written < self.frames()).then(|| self.header.len() + self.size.min(self.payload_len - self.done))
    }

    /// Writes the next frame into `room`, whose slices are filled in turn. The first must take the headers; all
    /// together must be exactly [`Cut::next_len`] long. Returns what is left to do for the checksum.
    pub fn write(&mut self, room: &mut [&mut [u8]]) -> TxChecksum {
        let len = self.size.min(self.payload_len - self.done);
        let header_len = self.header.len();
        let (first, more) = room.split_first_mut().expect("room for the headers");
        let (header, payload) = first.split_at_mut(header_len);
        header.copy_from_slice(self.header);

        let (mut check, start, offset) = match self.form {
            Form::Whole(None) => {
                self.payload.copy(payload);
                more.iter_mut().for_each(|slice| self.payload.copy(slice));
                self.advance(len);
                return TxChecksum::Complete;
            }
            Form::Whole(Some((start, offset))) => (Sum::default(), start, offset),
            Form::Tcp(layout) => {
                self.edit_and_start_sum(layout, header, len);
                (Sum::default(), layout.l4, TCP_CHECKSUM)
            }
        };
        if self.device_sums {
            self.payload.copy(payload);
            more.iter_mut().for_each(|slice| self.payload.copy(slice));
            self.advance(len);
            return TxChecksum::Partial { start: start as u16, offset: offset as u16 };
        }
        // The field holds the pseudo-header sum and is part of what is summed.
        check.add(&header[start..]);
        self.payload.copy_summing(payload, &mut check);
        for slice in more {
            self.payload.copy_summing(slice, &mut check);
        }
        sum::store(first, start + offset, sum::field(check.fold()));
        self.advance(len);
        TxChecksum::Complete
    }

    /// Writes only the headers of the next frame, for devices that sum; the caller sends the payload from the pieces.
    pub fn write_header(&mut self, header: &mut [u8]) -> TxChecksum {
        debug_assert!(self.device_sums && self.frames() == 1);
        let len = self.payload_len;
        header.copy_from_slice(self.header);
        let left = match self.form {
            Form::Whole(None) => TxChecksum::Complete,
            Form::Whole(Some((start, offset))) => TxChecksum::Partial { start: start as u16, offset: offset as u16 },
            Form::Tcp(layout) => self.edit_and_start_sum(layout, header, len),
        };
        self.advance(len);
        left
    }

    fn advance(&mut self, len: usize) {
        self.done += len;
        self.written += 1;
    }

    /// Makes the header that of the next frame, with the pseudo-header sum in the checksum field.
    fn edit_and_start_sum(&self, layout: Layout, header: &mut [u8], len: usize) -> TxChecksum {
        self.edit(layout, header, len);
        let pseudo = layout.pseudo_header(header, header.len() - layout.l4 + len);
        sum::store(header, layout.l4 + TCP_CHECKSUM, pseudo.fold());
        TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 }
    }

    /// Makes the header template that of the frame with `len` payload bytes from `done` on.
    fn edit(&self, layout: Layout, header: &mut [u8], len: usize) {
        let last = self.done + len == self.payload_len;
        if layout.version == Version::V4 {
            let id = be16(header, layout.l3 + 4).unwrap_or(0);
            put_be16(header, layout.l3 + 4, id.wrapping_add(self.written as u16));
        }
        layout.set_end(header, header.len() + len);

        let sequence = be32(header, layout.l4 + 4).wrapping_add(self.done as u32);
        header[layout.l4 + 4..layout.l4 + 8].copy_from_slice(&sequence.to_be_bytes());
        let mut flags = header[layout.l4 + TCP_FLAGS];
        if !last {
            flags &= !(tcp_flag::FIN | tcp_flag::PSH);
        }
        if self.written > 0 && !self.repeats_cwr {
            // RFC 3168 section 6.1.2: CWR answers one ECE and must not be repeated.
            flags &= !tcp_flag::CWR;
        }
        if flags & tcp_flag::URG != 0 {
            // The pointer counts from the segment's own sequence number (RFC 9293 section 3.8.5).
            let urgent = usize::from(be16(header, layout.l4 + 18).unwrap_or(0));
            let left = urgent.saturating_sub(self.done);
            if left == 0 {
                flags &= !tcp_flag::URG;
            }
            put_be16(header, layout.l4 + 18, left as u16);
        }
        header[layout.l4 + TCP_FLAGS] = flags;
    }
}

/// A cursor over the payload pieces.
pub struct Source<'a> {
    pieces: &'a [Piece],
    /// Bytes taken of the first piece.
    at: usize,
}

impl<'a> Source<'a> {
    pub fn new(pieces: &'a [Piece]) -> Self {
        Self { pieces, at: 0 }
    }

    pub fn copy(&mut self, to: &mut [u8]) {
        self.each(to, |from, part| {
            // SAFETY: a piece is readable for the duration of the port call, and `part` is the port's own memory.
            unsafe { core::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len()) }
        });
    }

    pub fn copy_summing(&mut self, to: &mut [u8], sum: &mut Sum) {
        self.each(to, |from, part| {
            // SAFETY: as in `copy`.
            unsafe { sum.copy(from, part) }
        });
    }

    fn each(&mut self, mut to: &mut [u8], mut take: impl FnMut(*const u8, &mut [u8])) {
        while !to.is_empty() {
            let piece = self.pieces.first().expect("as many payload bytes as were announced");
            let len = (piece.len - self.at).min(to.len());
            let (part, rest) = to.split_at_mut(len);
            take(piece.start.wrapping_add(self.at), part);
            to = rest;
            self.at += len;
            if self.at == piece.len {
                self.pieces = &self.pieces[1..];
                self.at = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
