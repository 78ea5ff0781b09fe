//! End-to-end throughput over AF_XDP and packet_mmap, Persona, the host kernel and the minimal loop beside each other. The
//! time of an iteration is what 64 MiB took at the rate that a short transfer had. `endtoend` measures the same in turn
//! and as ratios, which is what to judge by; these groups show how one side changes from one run to the next.
//!
//! Needs root and the release build of the workspace; without root nothing is measured, and it says so.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use persona_benches::ground::{Ground, Who, Work, handle_interrupts};
use persona_benches::sample::{field, gigabits};
use persona_tests::Link;
use serde_json::json;
use std::time::Duration;

/// Of one iteration.
const BYTES: u64 = 64 << 20;
/// Of one transfer.
const MILLISECONDS: u64 = 300;

fn throughput(criterion: &mut Criterion) {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("throughput: not measured, root is needed");
    }
    // Namespaces are removed when a sample fails: its panic unwinds to here.
    handle_interrupts().expect("signal handlers");
    over(criterion, "AF_XDP, offloads off", "xdp", "xdp", Link { offload: false, ..Link::default() });
    over(criterion, "packet_mmap, offloads on", "packet", "packet-offload", Link::default());
}

fn over(criterion: &mut Criterion, name: &str, kind: &str, ring: &'static str, link: Link) {
    let mut ground = Ground::new(link, kind, &json!({})).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let who = [Who::Persona, Who::Host, Who::Minimal(ring)];
    // One server answers both kinds of transfer.
    ground.serve(who, &Work::new("send", MILLISECONDS)).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let mut group = criterion.benchmark_group(format!("throughput/{name}"));
    group.throughput(Throughput::Bytes(BYTES)).sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(2));
    for direction in ["send", "receive"] {
        for (contender, who) in ["Persona", "host", "minimal loop"].into_iter().zip(who) {
            let work = Work::new(direction, MILLISECONDS);
            group.bench_function(BenchmarkId::new(direction, contender), |bench| {
                bench.iter_custom(|iterations| {
                    let sample = ground.sample(who, &work).unwrap_or_else(|error| panic!("{name}: {error:#}"));
                    assert!(gigabits(&sample).expect("a rate") > 0.0, "{sample}");
                    let [seconds, bytes] =
                        ["seconds", "bytes"].map(|key| field(&sample, key).expect("a number of the sample"));
                    Duration::from_secs_f64(seconds / bytes * BYTES as f64 * iterations as f64)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
