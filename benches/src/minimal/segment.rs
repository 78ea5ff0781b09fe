//! Headers of the one connection: everything that stays the same is written and summed once.

use super::{FILLER, HEADERS};
use std::net::SocketAddrV4;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 0x10;

/// Offsets from the beginning of the frame.
const IP: usize = 14;
const TCP: usize = 34;

/// Both ends of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub our_mac: [u8; 6],
    pub peer_mac: [u8; 6],
    pub ours: SocketAddrV4,
    pub peer: SocketAddrV4,
}

/// What changes from segment to segment.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
}

/// The header of the next segment.
pub struct Template {
    bytes: [u8; HEADERS],
    /// Sums of the words that never change: of the IPv4 header, and of pseudo-header and ports.
    network: u32,
    transport: u32,
    /// The kernel completes the checksum.
    partial: bool,
}

impl Template {
    pub fn new(ends: &Ends, partial: bool) -> Self {
        let mut bytes = [0; HEADERS];
        bytes[..6].copy_from_slice(&ends.peer_mac);
        bytes[6..12].copy_from_slice(&ends.our_mac);
        bytes[12..IP].copy_from_slice(&[8, 0]);
        // Version and length, DF, TTL, protocol.
        bytes[IP..IP + 2].copy_from_slice(&[0x45, 0]);
        bytes[IP + 6..IP + 10].copy_from_slice(&[0x40, 0, 64, 6]);
        bytes[IP + 12..IP + 16].copy_from_slice(&ends.ours.ip().octets());
        bytes[IP + 16..IP + 20].copy_from_slice(&ends.peer.ip().octets());
        let network = sum(&bytes[IP..IP + 20]);
        let mut transport = sum(&bytes[IP + 12..IP + 20]) + 6;
        bytes[TCP..TCP + 2].copy_from_slice(&ends.ours.port().to_be_bytes());
        bytes[TCP + 2..TCP + 4].copy_from_slice(&ends.peer.port().to_be_bytes());
        if !partial {
            transport += sum(&bytes[TCP..TCP + 4]);
        }
        Self { bytes, network, transport, partial }
    }

    /// A header without options before `filler` bytes of payload.
    pub fn plain(&mut self, fields: &Fields, filler: usize) -> &[u8; HEADERS] {
        self.write(fields, 20, filler, filler_sum(filler));
        &self.bytes
    }

    /// A whole segment with options (a multiple of four bytes) and a payload of its own.
    pub fn with(&mut self, fields: &Fields, options: &[u8], payload: &[u8]) -> Vec<u8> {
        assert!(options.len().is_multiple_of(4), "options end on a word");
        self.write(fields, 20 + options.len(), payload.len(), sum(options) + sum(payload));
        [&self.bytes, options, payload].concat()
    }

    fn write(&mut self, fields: &Fields, header: usize, payload: usize, rest: u32) {
        let Fields { seq, ack, flags, window } = *fields;
        let len = (20 + header + payload) as u16;
        let put = |bytes: &mut [u8; HEADERS], at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        };
        let bytes = &mut self.bytes;
        put(bytes, IP + 2, len);
        put(bytes, IP + 10, !fold(self.network + u32::from(len)));
        bytes[TCP + 4..TCP + 8].copy_from_slice(&seq.to_be_bytes());
        bytes[TCP + 8..TCP + 12].copy_from_slice(&ack.to_be_bytes());
        let offset_and_flags = (header as u16 / 4) << 12 | u16::from(flags);
        put(bytes, TCP + 12, offset_and_flags);
        put(bytes, TCP + 14, window);
        let pseudo = self.transport + (header + payload) as u32;
        let check = if self.partial {
            fold(pseudo)
        } else {
            let halves = (seq >> 16) + (seq & 0xffff) + (ack >> 16) + (ack & 0xffff);
            !fold(pseudo + halves + u32::from(offset_and_flags) + u32::from(window) + rest)
        };
        put(bytes, TCP + 16, check);
    }
}

/// What a received frame says, if it is of this connection.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    pub fields: Fields,
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Arrived<'a> {
    /// `None`: another protocol, another connection, or not whole.
    pub fn parse(frame: &'a [u8], ends: &Ends) -> Option<Self> {
        let ours = frame.len() >= HEADERS
            && frame[12..IP + 1] == [8, 0, 0x45]
            && frame[IP + 9] == 6
            && frame[TCP..TCP + 2] == ends.peer.port().to_be_bytes()
            && frame[TCP + 2..TCP + 4] == ends.ours.port().to_be_bytes();
        if !ours {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        let (end, start) = (IP + usize::from(half(IP + 2)), TCP + usize::from(frame[TCP + 12] >> 4) * 4);
        Some(Self {
            fields: Fields { seq: word(TCP + 4), ack: word(TCP + 8), flags: frame[TCP + 13], window: half(TCP + 14) },
            options: frame.get(HEADERS..start)?,
            payload: frame.get(start..end)?,
        })
    }

    /// The shift of the window scale option; 0 without one.
    pub fn window_scale(&self) -> u32 {
        let mut rest = self.options;
        loop {
            match *rest {
                [1, ..] => rest = &rest[1..],
                [3, 3, shift, ..] => return u32::from(shift.min(14)),
                [kind, len, ..] if kind != 0 && len >= 2 && usize::from(len) <= rest.len() => {
                    rest = &rest[usize::from(len)..];
                }
                _ => return 0,
            }
        }
    }
}

/// The sum of big-endian words, not folded; an odd byte is the upper half of its word.
fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    pairs.sum()
}

/// [`sum`] of `len` bytes of filler, by multiplication.
fn filler_sum(len: usize) -> u32 {
    let byte = u32::from(FILLER);
    // A super-segment's sum is below 2^31.
    (len / 2) as u32 * (byte << 8 | byte) + (len % 2) as u32 * (byte << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            our_mac: [2, 0, 0, 0, 0, 2],
            peer_mac: [2, 0, 0, 0, 0, 1],
            ours: "10.9.0.2:40000".parse().unwrap(),
            peer: "10.9.0.1:5201".parse().unwrap(),
        }
    }

    const FIELDS: Fields = Fields { seq: 0xfff0_1234, ack: 0x8765_4321, flags: ACK | PSH, window: 0xfffe };

    /// Headers and payload add up as RFC 1071 wants.
    fn holds(frame: &[u8]) -> bool {
        let mut pseudo = frame[IP + 12..IP + 20].to_vec();
        pseudo.extend([0, 6]);
        pseudo.extend(((frame.len() - TCP) as u16).to_be_bytes());
        fold(sum(&frame[IP..TCP])) == 0xffff && fold(sum(&pseudo) + sum(&frame[TCP..])) == 0xffff
    }

    #[test]
    fn checksums_hold_for_each_length_of_the_filler() {
        let mut template = Template::new(&ends(), false);
        for filler in [0, 1, 2, 3, 536, 1459, 1460] {
            let mut frame = template.plain(&FIELDS, filler).to_vec();
            frame.resize(HEADERS + filler, FILLER);
            assert!(holds(&frame), "{filler} bytes");
            frame[TCP + 5] ^= 1;
            assert!(!holds(&frame), "a changed frame");
        }
    }

    #[test]
    fn checksums_hold_with_options_and_a_payload_of_its_own() {
        let mut template = Template::new(&ends(), false);
        let frame = template.with(&FIELDS, &[3, 3, 7, 1], b"payload");
        assert!(holds(&frame));
        let mirrored = Ends { ours: ends().peer, peer: ends().ours, ..ends() };
        let arrived = Arrived::parse(&frame, &mirrored).unwrap();
        assert_eq!((arrived.payload, arrived.window_scale()), (&b"payload"[..], 7));
        assert_eq!((arrived.fields.seq, arrived.fields.flags), (FIELDS.seq, FIELDS.flags));
    }

    #[test]
    fn the_kernel_gets_the_sum_of_the_pseudo_header() {
        let mut template = Template::new(&ends(), true);
        let frame = template.plain(&FIELDS, 64_240);
        let pseudo = 0x0a09 * 2 + 2 + 1 + 6 + 20 + 64_240;
        assert_eq!(frame[TCP + 16..TCP + 18], fold(pseudo).to_be_bytes());
    }

    #[test]
    fn frames_that_are_cut_off_or_foreign_are_no_segments() {
        let mut template = Template::new(&ends(), false);
        let mirrored = Ends { ours: ends().peer, peer: ends().ours, ..ends() };
        let frame = template.with(&FIELDS, &[], &[7; 100]);
        assert!(Arrived::parse(&frame, &mirrored).is_some());
        assert!(Arrived::parse(&frame[..frame.len() - 1], &mirrored).is_none());
        assert!(Arrived::parse(&frame[..40], &mirrored).is_none());
        assert!(Arrived::parse(&frame, &ends()).is_none());
    }
}
