//! What the stack alone costs: sums, the two ends over memory beside smoltcp's, and their parts. A segment in costs a
//! flow lookup, which shows in the difference between few connections and ten thousand.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use persona_benches::memory::{Ends, Wire, persona::Persona, smoltcp::Smoltcp, way::Ported};
use persona_stack::wire::checksum;
use std::hint::black_box;
use std::time::{Duration, Instant};

const PAYLOAD: usize = 1460;

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stack/checksum");
    for len in [20, 64, PAYLOAD, 16 << 10] {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("sum", len), |bench| bench.iter(|| checksum::sum(black_box(&bytes))));
    }
    group.finish();
}

/// Bytes of one iteration: a few hundred segments.
const TRANSFER: usize = 1 << 20;

fn two_ends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stack/two ends over memory, MTU 1500, 1 MiB");
    let mut measure = |name: &str, ends: &mut dyn Ends| {
        // Elements are data segments; how many there are is the stack's affair, and nearly the same each time.
        group.throughput(Throughput::Elements(ends.transfer(TRANSFER)));
        group.bench_function(name, |bench| bench.iter(|| ends.transfer(TRANSFER)));
    };
    measure("Persona", &mut Persona::<Wire>::connect(0));
    measure("Persona, 10000 idle connections", &mut Persona::<Wire>::connect(10_000));
    measure("Persona, cut and merged by the port", &mut Persona::<Ported>::connect(0));
    measure("smoltcp", &mut Smoltcp::connect());
    group.finish();
}

/// Which half of a round the clock runs in.
#[derive(Clone, Copy)]
enum Half {
    /// write(), and the frames that leave with it.
    Out,
    /// Frames taken in, and the acknowledgements that leave for them.
    In,
}

fn halves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stack/per data segment");
    group.throughput(Throughput::Elements(1));
    for (name, half) in [("segment out", Half::Out), ("segment in", Half::In)] {
        for others in [0, 10_000] {
            let mut pair = Persona::<Wire>::connect(others);
            pair.transfer(TRANSFER);
            group.bench_function(BenchmarkId::new(name, format!("{} connections", others + 1)), |bench| {
                bench.iter_custom(|segments| time_half(&mut pair, half, segments));
            });
        }
    }
    group.finish();
}

/// What does not depend on how much data moves.
fn per_connection(criterion: &mut Criterion) {
    for others in [10, 10_000] {
        let mut pair = Persona::<Wire>::connect(others);
        let of = format!("of {others} connections");
        let mut group = criterion.benchmark_group("stack/lookup");
        let mut index = 0;
        group.bench_function(BenchmarkId::new("acknowledgement without news", &of), |bench| {
            bench.iter(|| {
                pair.find(index);
                index = (index + 1) % usize::from(others);
            });
        });
        group.finish();
        let mut group = criterion.benchmark_group("stack/timer");
        group.bench_function(BenchmarkId::new("nothing due", &of), |bench| bench.iter(|| black_box(pair.timers())));
        group.finish();
    }
}

/// Moves data until `segments` have gone and scales what the half took to exactly that many.
fn time_half(pair: &mut Persona<Wire>, half: Half, segments: u64) -> Duration {
    let (before, mut spent) = (pair.segments(), Duration::ZERO);
    while pair.segments() - before < segments {
        let limit = pair.offset() + TRANSFER as u64;
        let started = Instant::now();
        pair.write(limit);
        pair.send();
        let sent = Instant::now();
        pair.receive();
        let received = Instant::now();
        pair.read();
        spent += match half {
            Half::Out => sent - started,
            Half::In => received - sent,
        };
    }
    spent.mul_f64(segments as f64 / (pair.segments() - before) as f64)
}

criterion_group!(benches, sums, two_ends, halves, per_connection);
criterion_main!(benches);
