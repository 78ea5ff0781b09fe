//! One direction of a wire: what it does to frames, by chance and by plan.

use super::frames::{self, Frame};
use super::rng::Rng;
use crate::wire::icmpv4::Icmpv4Repr;
use crate::wire::{Ipv4Repr, Ipv4View, protocol};
use std::vec;
use std::vec::Vec;

/// Properties of one direction. Times in microseconds, chances in parts of a million.
#[derive(Clone, Debug, Default)]
pub struct LinkParams {
    /// Bits per second; 0: without limit.
    pub rate: u64,
    pub delay: u64,
    /// Up to this much is added to the delay of each frame, so that frames overtake each other.
    pub jitter: u64,
    pub loss: u32,
    /// Chance that a row of losses begins, and its greatest length.
    pub burst: u32,
    pub burst_length: u64,
    pub duplicate: u32,
    pub corrupt: u32,
    /// Chance that a frame is held back, and for how long.
    pub reorder: u32,
    pub reorder_delay: u64,
    /// Bytes that wait for the wire at most; 0: without limit.
    pub queue: u64,
    /// Chance that a packet which is ECN-capable is marked, and bytes that wait above which each is; 0: none.
    pub mark: u32,
    pub mark_above: u64,
    /// From, to: nothing passes.
    pub outages: Vec<(u64, u64)>,
    /// What happens to packets that are too long further on.
    pub narrow: Option<Narrow>,
    /// TCP options that a middlebox takes off SYNs.
    pub strip: Vec<u8>,
}

/// A part of the path whose MTU is smaller.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    pub mtu: usize,
    pub kind: NarrowKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowKind {
    /// A router that fragments although it must not.
    Fragments,
    /// A router that drops and says so.
    Reports,
}

/// What came of sending a frame.
#[derive(Debug, Default)]
pub struct Passage {
    /// When which frames arrive.
    pub arrivals: Vec<(u64, Frame)>,
    /// Returned to the sender by a router.
    pub returned: Option<Frame>,
    /// When the port has room again.
    pub departed_at: u64,
    /// Why the frame went missing.
    pub lost: Option<&'static str>,
}

/// One direction of a wire.
#[derive(Clone, Debug)]
pub struct Link {
    pub params: LinkParams,
    rng: Rng,
    busy_until: u64,
    burst_until: u64,
}

impl Link {
    pub fn new(params: LinkParams, rng: Rng) -> Self {
        Self { params, rng, busy_until: 0, burst_until: 0 }
    }

    /// How long a frame that comes at `now` waits for its turn.
    pub fn backlog(&self, now: u64) -> u64 {
        self.busy_until.saturating_sub(now)
    }

    /// Takes a frame at `now`. `link`: length of its link header.
    pub fn send(&mut self, now: u64, mut frame: Frame, link: usize) -> Passage {
        let wire_time = match self.params.rate {
            0 => 0,
            rate => (frame.bytes.len() as u64 * 8 * 1_000_000).div_ceil(rate),
        };
        let start = self.busy_until.max(now);
        let waiting = (start - now) * self.params.rate / 8_000_000;
        if self.params.queue != 0 && waiting > self.params.queue {
            return Passage { departed_at: now, lost: Some("queue full"), ..Passage::default() };
        }
        self.busy_until = start + wire_time;
        let departed_at = self.busy_until;
        let lost = |why| Passage { departed_at, lost: Some(why), ..Passage::default() };
        if self.params.outages.iter().any(|&(from, to)| (from..to).contains(&departed_at)) {
            return lost("link down");
        }
        // ARP has no checksum and three tries: whether it gets through is not what is simulated here.
        if frame.is_arp(link) {
            let arrivals = vec![(departed_at + self.params.delay, frame)];
            return Passage { arrivals, departed_at, ..Passage::default() };
        }
        if self.rng.chance(self.params.burst) {
            self.burst_until = departed_at + self.rng.below(self.params.burst_length + 1);
        }
        if departed_at < self.burst_until || self.rng.chance(self.params.loss) {
            return lost("lost");
        }
        let congested = self.params.mark_above != 0 && waiting > self.params.mark_above;
        if congested || self.params.mark != 0 && self.rng.chance(self.params.mark) {
            frames::mark(&mut frame, link);
        }
        frames::strip_options(&mut frame, link, |kind| self.params.strip.contains(&kind));
        let mut pieces = vec![frame];
        if let Some(narrow) = self.params.narrow {
            match narrow.kind {
                NarrowKind::Fragments => pieces = frames::fragment(&pieces[0], link, narrow.mtu),
                NarrowKind::Reports => {
                    if let Some(returned) = too_long(&pieces[0], link, narrow.mtu) {
                        return Passage { returned: Some(returned), departed_at, ..lost("too long") };
                    }
                }
            }
        }
        let mut arrivals = vec![];
        // Two turned bits in the fragments of one datagram may cancel in the checksum, which then rightly holds.
        let mut damaged = false;
        for mut piece in pieces {
            let copies = if self.rng.chance(self.params.duplicate) { 2 } else { 1 };
            if self.rng.chance(self.params.corrupt) && !damaged {
                self.corrupt(&mut piece, link);
                damaged = piece.corrupt;
            }
            for _ in 0..copies {
                let mut delay = self.params.delay + self.rng.below(self.params.jitter + 1);
                if self.rng.chance(self.params.reorder) {
                    delay += self.rng.below(self.params.reorder_delay + 1);
                }
                arrivals.push((departed_at + delay, piece.clone()));
            }
        }
        Passage { arrivals, departed_at, ..Passage::default() }
    }

    /// Turns one bit over, behind the link header, whose damage Ethernet itself would notice. A frame whose checksum
    /// is not on it cannot be damaged by a wire.
    fn corrupt(&mut self, frame: &mut Frame, link: usize) {
        if frame.partial || frame.gso_size != 0 || frame.bytes.len() <= link {
            return;
        }
        let end =
            Ipv4View::new(&frame.bytes[link..]).map_or(frame.bytes.len(), |it| link + usize::from(it.total_len()));
        let end = end.min(frame.bytes.len());
        let bit = self.rng.between(link as u64 * 8, end as u64 * 8 - 1);
        frame.bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        frame.corrupt = true;
    }
}

/// The router's answer to a packet that is longer than `mtu`, or `None` when it passes.
fn too_long(frame: &Frame, link: usize, mtu: usize) -> Option<Frame> {
    let header = Ipv4View::new(&frame.bytes[link..]).ok()?;
    let longest = match frame.gso_size {
        0 => usize::from(header.total_len()),
        size => frame.tcp_place(link)?.payload - link + usize::from(size),
    };
    if longest <= mtu {
        return None;
    }
    let embedded = &frame.bytes[link..link + header.header_len() + 8];
    let message = Icmpv4Repr::FragmentationNeeded { mtu: mtu as u16, embedded };
    let repr = Ipv4Repr {
        // The router answers from an address of its own.
        source: core::net::Ipv4Addr::new(192, 0, 2, 1),
        destination: header.source(),
        protocol: protocol::ICMP,
        ttl: 64,
        tos: 0,
        identification: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: message.len() as u16,
    };
    let mut bytes = frame.bytes[..link].to_vec();
    // Back to whom it came from.
    if link >= 12 {
        let (destination, source) = bytes[..12].split_at_mut(6);
        destination.swap_with_slice(source);
    }
    bytes.resize(link + Ipv4Repr::LEN + message.len(), 0);
    repr.emit(&mut bytes[link..]);
    message.emit(&mut bytes[link + Ipv4Repr::LEN..]);
    Some(Frame { bytes, gso_size: 0, partial: false, corrupt: false, whole: None })
}
