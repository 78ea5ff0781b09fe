//! struct virtio_net_hdr, with which packet sockets and tap devices say what is left to do for a frame: the checksum
//! and the cutting. Legacy form without a buffer count, in host byte order.

use super::headers::{Layout, Version};
use persona_stack::{Gso, RxChecksum, TxChecksum};

/// Length on the wire between us and the kernel.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The segments carry CWR: the cutter clears it after the first.
const GSO_ECN: u8 = 0x80;

/// The header for an outgoing frame. `gso` is set where the frame exceeds one segment; `header` is its headers, all of
/// them.
pub fn encode(header: &[u8], checksum: TxChecksum, gso: Option<Gso>) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    if let TxChecksum::Partial { start, offset } = checksum {
        bytes[0] = NEEDS_CSUM;
        bytes[6..8].copy_from_slice(&start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    if let Some(gso) = gso
        && let Some(layout) = Layout::of_ethernet(header)
    {
        bytes[1] = if layout.version == Version::V4 { GSO_TCPV4 } else { GSO_TCPV6 };
        if header[layout.l4 + super::headers::TCP_FLAGS] & super::headers::tcp_flag::CWR != 0 {
            bytes[1] |= GSO_ECN;
        }
        bytes[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    }
    if bytes[0] != 0 || bytes[1] != GSO_NONE {
        bytes[2..4].copy_from_slice(&(header.len() as u16).to_ne_bytes());
    }
    bytes
}

/// What the kernel says of a received frame: the state of its checksum, and the cut size of a train (0: not one).
pub fn decode(bytes: &[u8; LEN]) -> (RxChecksum, u16) {
    let checksum = match bytes[0] {
        flags if flags & NEEDS_CSUM != 0 => RxChecksum::Partial,
        flags if flags & DATA_VALID != 0 => RxChecksum::Verified,
        _ => RxChecksum::Unverified,
    };
    let gso_size = if bytes[1] == GSO_NONE { 0 } else { u16::from_ne_bytes([bytes[4], bytes[5]]) };
    (checksum, gso_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::fixture::{Template, template};

    #[test]
    fn a_super_segment_says_all_that_is_left_to_do() {
        let header = template(&Template { v6: true, flags: 0x90, ..Template::default() });
        let checksum = TxChecksum::Partial { start: 54, offset: 16 };
        let bytes = encode(&header, checksum, Some(Gso { size: 1440, repeats_ecn: false }));
        // SAFETY: plain numbers of the same size.
        let seen: libc_header = unsafe { core::mem::transmute(bytes) };
        let expected = (1, 0x84, header.len() as u16, 1440, 54, 16);
        assert_eq!((seen.flags, seen.gso, seen.length, seen.size, seen.start, seen.offset), expected);
        assert_eq!(decode(&bytes), (RxChecksum::Partial, 1440));
    }

    /// The kernel's declaration.
    #[repr(C)]
    #[allow(non_camel_case_types)]
    struct libc_header {
        flags: u8,
        gso: u8,
        length: u16,
        size: u16,
        start: u16,
        offset: u16,
    }

    #[test]
    fn a_complete_frame_needs_nothing() {
        assert_eq!(encode(&[0; 60], TxChecksum::Complete, None), [0; LEN]);
        assert_eq!(decode(&[0; LEN]), (RxChecksum::Unverified, 0));
        assert_eq!(decode(&[DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0]), (RxChecksum::Verified, 0));
    }
}
