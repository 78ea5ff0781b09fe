//! The memory port over every combination of offloads, and across two threads.

use super::*;
use crate::port::fixture::{Template, pieces_of, template};
use crate::port::headers::{Layout, TCP_CHECKSUM};
use persona_stack::Gso;

fn send(port: &mut MemoryPort, payload: &[u8], sequence: u32, size: u16) -> Result<(), Full> {
    let header = template(&Template { sequence, flags: 0x10, ..Template::default() });
    let pieces = pieces_of(payload, &[payload.len() / 3]);
    let layout = Layout::of_ethernet(&header).unwrap();
    let checksum = TxChecksum::Partial { start: layout.l4 as u16, offset: TCP_CHECKSUM as u16 };
    port.transmit(&TxFrame { header: &header, payload: &pieces, checksum, gso: Some(Gso { size, repeats_ecn: false }) })
}

/// What arrives, as one stream of payload; each frame is checked to describe itself rightly.
fn receive(port: &mut MemoryPort, stream: &mut Vec<u8>, budget: usize) -> usize {
    port.receive(budget, &mut |frame| {
        let bytes: Vec<u8> = [frame.head].into_iter().chain(frame.tail.iter().copied()).flatten().copied().collect();
        let layout = Layout::of_ethernet(&bytes).unwrap();
        assert_eq!(layout.end, bytes.len());
        assert!(layout.network_checksum_holds(&bytes));
        let at = layout.l4 + layout.tcp_header(&bytes).unwrap();
        match frame.checksum {
            RxChecksum::Partial => assert!(layout.checksum_is_partial(&bytes)),
            _ => {
                let mut sum = layout.pseudo_header(&bytes, layout.end - layout.l4);
                sum.add(&bytes[layout.l4..]);
                assert_eq!(sum.fold(), 0xffff);
            }
        }
        assert_eq!(frame.gso_size != 0, bytes.len() - at > 1448);
        stream.extend_from_slice(&bytes[at..]);
    })
}

#[test]
fn every_combination_of_offloads_carries_the_same_bytes() {
    for bits in 0..16 {
        let on = |bit| bits & (1 << bit) != 0;
        let params = Params {
            checksum: on(0),
            segmentation: on(1),
            merge: on(2),
            piece: if on(3) { 700 } else { 0 },
            slots: 64,
            ..Params::default()
        };
        let (mut a, mut b) = pair(params, params);
        let payload: Vec<u8> = (0..20_000u32).map(|byte| (byte * 7) as u8).collect();
        send(&mut a, &payload, 0, 1448).unwrap();
        assert!(b.pending());
        let mut stream = Vec::new();
        while receive(&mut b, &mut stream, 5) > 0 {}
        assert_eq!(stream, payload, "{}", a.describe());
        assert!(!b.pending());
        assert_eq!(a.counters().tx_frames, b.counters().rx_frames);
        assert_eq!(a.counters().tx_bytes, b.counters().rx_bytes);
    }
}

#[test]
fn all_of_a_super_segment_is_taken_or_nothing() {
    let (mut a, mut b) = pair(Params { slots: 8, ..Params::default() }, Params::default());
    let payload = [1; 5 * 1448];
    send(&mut a, &payload, 0, 1448).unwrap();
    assert_eq!(send(&mut a, &payload, 1, 1448), Err(Full));
    assert_eq!((a.counters().tx_frames, a.counters().tx_full), (5, 1));
    let mut stream = Vec::new();
    assert_eq!(receive(&mut b, &mut stream, 64), 5);
    send(&mut a, &payload, 1, 1448).unwrap();
    assert_eq!(a.counters().tx_frames, 10);
}

#[test]
fn two_threads_pass_frames_without_loss() {
    const ROUNDS: u32 = 2000;
    let (mut a, mut b) = pair(Params { slots: 16, ..Params::default() }, Params { merge: true, ..Params::default() });
    let sender = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            while send(&mut a, &round.to_be_bytes().repeat(600), round, 1000).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut seen: Vec<u8> = Vec::new();
    while seen.len() < ROUNDS as usize * 2400 {
        let mut stream: Vec<u8> = Vec::new();
        b.receive(32, &mut |frame| {
            let payload = frame.head[66..].iter().chain(frame.tail.iter().copied().flatten());
            stream.extend(payload);
        });
        if stream.is_empty() {
            std::thread::yield_now();
        }
        seen.extend(stream);
    }
    sender.join().unwrap();
    for (round, bytes) in seen.chunks(2400).enumerate() {
        assert_eq!(bytes, (round as u32).to_be_bytes().repeat(600));
    }
}
