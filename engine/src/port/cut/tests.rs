//! Cut frames are compared with what an independent parser finds in them, and with the payload they came from.

use super::*;
use crate::port::fixture::{Template, pieces_of, template};
use etherparse::{SlicedPacket, TransportSlice};
use persona_stack::Gso;
use proptest::prelude::*;

/// Cuts `payload`, in pieces at `splits`, with the given template.
fn cut_all(header: &[u8], payload: &[u8], splits: &[usize], size: u16, sums: bool, room: usize) -> Vec<Vec<u8>> {
    let pieces = pieces_of(payload, splits);
    let layout = Layout::of_ethernet(header).unwrap();
    let checksum = TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 };
    let frame = TxFrame { header, payload: &pieces, checksum, gso: Some(Gso { size, repeats_ecn: false }) };
    let mut cut = Cut::new(&frame, Device { sums: !sums, cuts: false }).unwrap();
    let announced = cut.frames();
    let mut frames = Vec::new();
    while let Some(len) = cut.next_len() {
        assert!(len <= cut.longest());
        let mut frame = vec![0; len];
        let first = len.min(room.max(header.len()));
        let (head, tail) = frame.split_at_mut(first);
        let mut slices = vec![head];
        slices.extend(tail.chunks_mut(room));
        let left = cut.write(&mut slices);
        assert_eq!(left == TxChecksum::Complete, sums);
        frames.push(frame);
    }
    assert_eq!(frames.len(), announced);
    frames
}

/// Checks one frame with etherparse and returns (sequence, flags, urgent, payload).
fn verify(frame: &[u8]) -> (u32, u8, u16, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("not TCP") };
    let layout = Layout::of_ethernet(frame).unwrap();
    assert_eq!(layout.end, frame.len(), "IP length");
    let expected = match packet.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    // All ones and zero are the same number in one's complement.
    assert_eq!(tcp.checksum() % 0xffff, expected % 0xffff, "TCP checksum");
    (tcp.sequence_number(), frame[layout.l4 + TCP_FLAGS], tcp.urgent_pointer(), tcp.payload().to_vec())
}

proptest! {
    #[test]
    fn every_cut_frame_is_what_a_tso_device_would_send(
        v6: bool,
        tags in 0usize..3,
        options in 0usize..10,
        sequence: u32,
        id: u16,
        flags: u8,
        size in 1u16..3000,
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
        splits in proptest::collection::vec(0usize..20_000, 0..5),
        room in 200usize..4096,
    ) {
        let size = size.max(payload.len() as u16 / 60 + 1);
        let header = template(&Template { v6, tags, options, sequence, id, flags: flags & 0xd9, ..Template::default() });
        let frames = cut_all(&header, &payload, &splits, size, true, room);
        let mut all = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let layout = Layout::of_ethernet(frame).unwrap();
            let (seq, seen, _, bytes) = verify(frame);
            prop_assert_eq!(seq, sequence.wrapping_add(all.len() as u32));
            all.extend_from_slice(&bytes);
            let last = index + 1 == frames.len();
            prop_assert_eq!(bytes.len() == usize::from(size) || last, true);
            let mut expected = flags & 0xd9;
            if !last { expected &= !(tcp_flag::FIN | tcp_flag::PSH) }
            if index > 0 { expected &= !tcp_flag::CWR }
            prop_assert_eq!(seen, expected);
            if !v6 { prop_assert_eq!(be16(frame, layout.l3 + 4).unwrap(), id.wrapping_add(index as u16)) }
        }
        prop_assert_eq!(all, payload);
    }

    /// AccECN's field is everyone's, and a kernel that cuts would take CWR away.
    #[test]
    fn an_accurate_field_stays_whole(flags in 0u8..4, payload in proptest::collection::vec(any::<u8>(), 1..9000)) {
        let ecn = flags << 6;
        let mut header = template(&Template { flags: tcp_flag::ACK | ecn, ..Template::default() });
        let layout = Layout::of_ethernet(&header).unwrap();
        header[layout.l4 + 12] |= 1;
        let pieces = pieces_of(&payload, &[]);
        let checksum = TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 };
        let gso = Some(Gso { size: 1000, repeats_ecn: true });
        let frame = TxFrame { header: &header, payload: &pieces, checksum, gso };
        let mut cut = Cut::new(&frame, Device::default()).unwrap();
        while let Some(len) = cut.next_len() {
            let mut bytes = vec![0; len];
            cut.write(&mut [&mut bytes]);
            prop_assert_eq!(verify(&bytes).1, tcp_flag::ACK | ecn);
            prop_assert_eq!(bytes[layout.l4 + 12] & 1, 1);
        }
        let device = Cut::new(&frame, Device { sums: true, cuts: true }).unwrap();
        let cuts_here = ecn & tcp_flag::CWR != 0;
        prop_assert_eq!(device.frames(), if cuts_here { payload.len().div_ceil(1000) } else { 1 });
    }

    #[test]
    fn a_device_that_sums_gets_the_pseudo_header_sum(
        v6: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 1u16..3000,
    ) {
        let size = size.max(100);
        let header = template(&Template { v6, ..Template::default() });
        for frame in cut_all(&header, &payload, &[], size, false, 4096) {
            let layout = Layout::of_ethernet(&frame).unwrap();
            prop_assert!(layout.checksum_is_partial(&frame));
        }
    }
}

#[test]
fn the_urgent_pointer_follows_the_cut() {
    let header = template(&Template { flags: 0x30, urgent: 2500, ..Template::default() });
    let frames = cut_all(&header, &[7; 4000], &[], 1000, true, 4096);
    let seen: Vec<(u8, u16)> = frames.iter().map(|frame| verify(frame)).map(|seen| (seen.1, seen.2)).collect();
    assert_eq!(seen, [(0x30, 2500), (0x30, 1500), (0x30, 500), (0x10, 0)]);
}

#[test]
fn a_whole_frame_is_summed_where_it_asks_for_it_and_nowhere_else() {
    let mut header = template(&Template { payload: 11, ..Template::default() });
    let layout = Layout::of_ethernet(&header).unwrap();
    let pseudo = layout.pseudo_header(&header, header.len() - layout.l4 + 11).fold();
    sum::store(&mut header, layout.l4 + TCP_CHECKSUM, pseudo);
    let payload = *b"hello world";
    let pieces = pieces_of(&payload, &[3, 4]);
    let partial = TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 };
    for (checksum, device_sums, summed) in
        [(partial, false, true), (partial, true, false), (TxChecksum::Complete, false, false)]
    {
        let frame = TxFrame { header: &header, payload: &pieces, checksum, gso: None };
        let mut cut = Cut::new(&frame, Device { sums: device_sums, cuts: false }).unwrap();
        let mut out = vec![0; cut.next_len().unwrap()];
        cut.write(&mut [&mut out]);
        assert_eq!(cut.next_len(), None);
        assert_eq!(&out[header.len()..], payload);
        if summed {
            verify(&out);
        } else {
            assert_eq!(out[..header.len()], header);
        }
    }
}

#[test]
fn what_is_not_tcp_is_not_cut() {
    let mut header = template(&Template::default());
    header[14 + 9] = 17;
    let payload = [0; 3000];
    let pieces = pieces_of(&payload, &[]);
    let frame = TxFrame {
        header: &header,
        payload: &pieces,
        checksum: TxChecksum::Complete,
        gso: Some(Gso { size: 1000, repeats_ecn: false }),
    };
    assert!(matches!(Cut::new(&frame, Device::default()), Err(Malformed)));
    let outside = TxChecksum::Partial { start: 60, offset: 40 };
    let frame = TxFrame { checksum: outside, gso: None, ..frame };
    assert!(matches!(Cut::new(&frame, Device::default()), Err(Malformed)));
}

#[test]
fn a_device_that_cuts_gets_one_frame_with_the_lengths_of_the_whole() {
    for v6 in [false, true] {
        let header = template(&Template { v6, ..Template::default() });
        let payload = [3; 5000];
        let pieces = pieces_of(&payload, &[17, 3000]);
        let checksum = TxChecksum::Complete;
        let frame =
            TxFrame { header: &header, payload: &pieces, checksum, gso: Some(Gso { size: 1000, repeats_ecn: false }) };
        let mut cut = Cut::new(&frame, Device { sums: true, cuts: true }).unwrap();
        assert_eq!(cut.frames(), 1);
        let mut out = vec![0; cut.next_len().unwrap()];
        let layout = Layout::of_ethernet(&header).unwrap();
        let left = cut.write(&mut [&mut out]);
        assert_eq!(left, TxChecksum::Partial { start: layout.l4 as u16, offset: 16 });
        let layout = Layout::of_ethernet(&out).unwrap();
        assert_eq!(layout.end, out.len());
        assert!(layout.network_checksum_holds(&out));
        assert!(layout.checksum_is_partial(&out));
        assert_eq!(out[layout.l4 + TCP_FLAGS], 0x18);
    }
}
