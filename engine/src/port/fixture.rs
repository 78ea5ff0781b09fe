//! Frames that the tests of the ports are made of.

use super::Piece;
use super::headers::{Layout, put_be16};

/// What a TCP header template says.
pub struct Template {
    pub v6: bool,
    pub tags: usize,
    /// 32-bit words of TCP options.
    pub options: usize,
    pub sequence: u32,
    pub id: u16,
    pub flags: u8,
    pub urgent: u16,
    pub source_port: u16,
    /// Payload bytes that the length fields announce.
    pub payload: usize,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            v6: false,
            tags: 0,
            options: 3,
            sequence: 0x0102_0304,
            id: 7,
            flags: 0x18,
            urgent: 0,
            source_port: 4000,
            payload: 0,
        }
    }
}

/// A header template with an empty TCP checksum field and a right IPv4 header checksum.
pub fn template(template: &Template) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in 0..template.tags {
        bytes.extend(if tag + 1 == template.tags { [0x81, 0] } else { [0x88, 0xa8] });
        bytes.extend([0, 5 + tag as u8]);
    }
    if template.v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 1, 0, 0, 6, 64]);
        for host in [1, 2] {
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
    } else {
        bytes.extend([8, 0, 0x45, 0, 0, 0]);
        bytes.extend(template.id.to_be_bytes());
        bytes.extend([0x40, 0, 64, 6, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    }
    bytes.extend(template.source_port.to_be_bytes());
    bytes.extend(80u16.to_be_bytes());
    bytes.extend(template.sequence.to_be_bytes());
    bytes.extend([9, 9, 9, 9, ((5 + template.options) << 4) as u8, template.flags, 0x20, 0, 0, 0]);
    bytes.extend(template.urgent.to_be_bytes());
    bytes.extend(std::iter::repeat_n(1, template.options * 4));
    let l3 = 14 + 4 * template.tags;
    if template.v6 {
        let length = bytes.len() - l3 - 40;
        put_be16(&mut bytes, l3 + 4, length as u16);
    } else {
        let length = bytes.len() - l3;
        put_be16(&mut bytes, l3 + 2, length as u16);
    }
    let end = bytes.len() + template.payload;
    let layout = Layout::of_ethernet(&bytes).expect("a template that parses");
    layout.set_end(&mut bytes, end);
    bytes
}

/// `payload` in pieces that begin at `splits`.
pub fn pieces_of(payload: &[u8], splits: &[usize]) -> Vec<Piece> {
    let mut at: Vec<usize> = splits.iter().map(|&split| split.min(payload.len())).collect();
    at.extend([0, payload.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| Piece { start: payload[pair[0]..].as_ptr(), len: pair[1] - pair[0] }).collect()
}
