//! What ports cost: cutting and summing a super-segment, merging a train, a pair in memory, and, for root, sending
//! super-segments over a veth pair in a network namespace of the bench's own, where the peer's kernel drops them (its
//! receive path runs in the sender's softirq and is part of every figure, the same for each port).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use persona_engine::port::cut::{Cut, Device};
use persona_engine::port::error::PortError;
use persona_engine::port::headers::{Layout, put_be16};
use persona_engine::port::memory::{self, pair};
use persona_engine::port::merge::{BATCH, Batch, Received, Treatment};
use persona_engine::port::packet::{self, PacketPort};
use persona_engine::port::xdp::{self, XdpPort};
use persona_engine::port::{Piece, Port, TxFrame, sum};
use persona_stack::{Gso, RxChecksum, TxChecksum};
use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

/// Payload of a segment of 1,500 bytes with timestamps.
const SEGMENT: usize = 1448;
const SEGMENTS: usize = 44;

/// Headers of a TCP segment with timestamps, and a payload in chunks of 16 KiB as a send stream has it.
struct Source {
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Source {
    fn new() -> Self {
        let mut header = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
        header.extend([10, 92, 0, 2, 10, 92, 0, 1, 0x0f, 0xa0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0]);
        header.extend([0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let length = header.len() - 14 + SEGMENTS * SEGMENT;
        put_be16(&mut header, 16, length as u16);
        let layout = Layout::of_ethernet(&header).expect("headers that parse");
        layout.sum_ipv4(&mut header);
        let pseudo = layout.pseudo_header(&header, 32 + SEGMENTS * SEGMENT).fold();
        sum::store(&mut header, 50, pseudo);
        Self { header, payload: (0..SEGMENTS * SEGMENT).map(|byte| byte as u8).collect() }
    }

    fn pieces(&self) -> Vec<Piece> {
        self.payload.chunks(16 << 10).map(|part| Piece { start: part.as_ptr(), len: part.len() }).collect()
    }

    fn frame<'a>(&'a self, pieces: &'a [Piece]) -> TxFrame<'a> {
        TxFrame {
            header: &self.header,
            payload: pieces,
            checksum: TxChecksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { size: SEGMENT as u16, repeats_ecn: false }),
        }
    }

    /// The super-segment as frames on the wire.
    fn frames(&self) -> Vec<Vec<u8>> {
        let pieces = self.pieces();
        let mut cut = Cut::new(&self.frame(&pieces), Device::default()).expect("headers that can be cut");
        let mut frames = Vec::new();
        while let Some(len) = cut.next_len() {
            let mut frame = vec![0; len];
            cut.write(&mut [&mut frame]);
            frames.push(frame);
        }
        frames
    }
}

fn software(criterion: &mut Criterion) {
    let source = Source::new();
    let pieces = source.pieces();
    let mut group = criterion.benchmark_group("ports/super-segment of 44 x 1448 bytes");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    for (name, sums) in [("cut and sum", false), ("cut, the device sums", true)] {
        let mut room = vec![0u8; 2048];
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut cut = Cut::new(&source.frame(&pieces), Device { sums, cuts: false }).expect("a frame");
                while let Some(len) = cut.next_len() {
                    black_box(cut.write(&mut [&mut room[..len]]));
                }
            });
        });
    }
    for (name, merge) in [("receive one by one", false), ("merge", true)] {
        let frames = source.frames();
        let mut memory = frames.clone();
        let mut batch = Batch::new(Treatment { partial: true, merge });
        group.bench_function(name, |bench| {
            bench.iter(|| {
                for (frame, from) in memory.iter_mut().zip(&frames) {
                    // The head's headers are rewritten by merging.
                    frame[..66].copy_from_slice(&from[..66]);
                    let received = Received { start: frame.as_mut_ptr(), len: frame.len() };
                    // SAFETY: `memory` is not touched before the batch is delivered.
                    unsafe { batch.push(received, &[], RxChecksum::Unverified, 0) };
                }
                batch.deliver(&mut |frame| {
                    black_box(frame.len());
                })
            });
        });
    }
    for (name, offloads) in [("memory pair, software", false), ("memory pair, offloads", true)] {
        let params = memory::Params {
            checksum: offloads,
            segmentation: offloads,
            merge: !offloads,
            ..memory::Params::default()
        };
        let (mut a, mut b) = pair(params, params);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                a.transmit(&source.frame(&pieces)).expect("an empty ring");
                b.receive(BATCH, &mut |frame| {
                    black_box(frame.len());
                })
            });
        });
    }
    group.finish();
}

/// Moves this thread to a namespace with a veth pair; false without root.
fn namespace() -> bool {
    // SAFETY: affects this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return false;
    }
    let commands = [
        "link set lo up",
        "link add ours type veth peer name peer",
        "link set peer address 02:00:00:00:00:01",
        "link set peer up",
        "link set ours up",
    ];
    commands.iter().all(|command| {
        Command::new("ip").args(command.split_whitespace()).status().is_ok_and(|status| status.success())
    })
}

/// The last group: the process stays in the namespace, which ends with it.
fn veth(criterion: &mut Criterion) {
    if namespace() {
        transmit_over_veth(criterion);
    } else {
        eprintln!("ports over veth: not measured, root is needed");
    }
}

/// The kernel gives a queue back some time after the port before has closed its socket: until then opening it fails.
fn when_free<P>(open: impl Fn() -> Result<P, PortError>) -> P {
    // xsk-rs does not say why it failed: whatever it was, it is tried again, and said in the end.
    for _ in 0..100 {
        match open() {
            Ok(port) => return port,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    open().unwrap_or_else(|error| panic!("{error}"))
}

fn transmit_over_veth(criterion: &mut Criterion) {
    let source = Source::new();
    let pieces = source.pieces();
    let own = xdp::Params::new("ours", 0);
    let mut group = criterion.benchmark_group("ports/send 44 x 1448 bytes over veth");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let mut measure = |name: &str, mut port: Box<dyn Port>| {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                while port.transmit(&source.frame(&pieces)).is_err() {
                    port.flush().expect("a kick");
                }
                port.flush().expect("a kick");
            });
        });
        let counters = port.counters();
        assert_eq!(counters.tx_dropped, 0, "{name}: {counters:?}");
    };
    measure("AF_XDP, kernel sums", Box::new(when_free(|| XdpPort::open(&own))));
    let software = xdp::Params { checksum_offload: false, ..own };
    measure("AF_XDP, software sums", Box::new(when_free(|| XdpPort::open(&software))));
    #[cfg(feature = "xsk-rs")]
    {
        use persona_engine::port::xsk_rs::XskRsPort;
        measure("AF_XDP on xsk-rs, software sums", Box::new(when_free(|| XskRsPort::open(&software))));
    }
    for (name, vnet) in [("packet_mmap, kernel cuts", true), ("packet_mmap, software", false)] {
        let params = packet::Params { vnet, ..packet::Params::blocks("ours") };
        measure(name, Box::new(PacketPort::open(&params).expect("a packet port")));
    }
    group.finish();
}

criterion_group!(benches, software, veth);
criterion_main!(benches);
