//! What the channel costs: a write of one segment's payload from the application's buffer to the engine's frame and back
//! to the pool, a segment's payload on its way to the application, a wake-up, a command with its reply, and the copy
//! with and without the checksum.
//!
//! Both ends run on one thread, so that the figures are work and not the distance between two cores. Afterwards two threads
//! stream to each other under strace, which counts the syscalls that they make while both are busy.

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use persona_benches::stream::{SEGMENT, session, socket};
use persona_channel::copy;
use persona_channel::lane::{LaneReader, Next};
use persona_channel::layout::*;
use persona_channel::memory::*;
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::{Piece, SendReader};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Payload of a super-segment.
const SUPER_SEGMENT: usize = 44 * SEGMENT;

fn copies(criterion: &mut Criterion) {
    let source = vec![7u8; SEGMENT];
    let mut target = vec![0u8; SEGMENT];
    let mut group = criterion.benchmark_group("channel/copy of 1448 bytes");
    group.throughput(Throughput::Bytes(SEGMENT as u64));
    // SAFETY (all four): both vectors are SEGMENT long.
    group.bench_function("memcpy", |bench| {
        // SAFETY: as above.
        bench.iter(|| unsafe { copy::copy(black_box(source.as_ptr()), black_box(target.as_mut_ptr()), SEGMENT) });
    });
    group.bench_function("sum alone", |bench| bench.iter(|| copy::Sum::of(black_box(&source))));
    group.bench_function("memcpy, then sum", |bench| {
        bench.iter(|| {
            // SAFETY: as above.
            unsafe { copy::copy(black_box(source.as_ptr()), black_box(target.as_mut_ptr()), SEGMENT) };
            copy::Sum::of(black_box(&target))
        });
    });
    group.bench_function("copy and sum in one pass", |bench| {
        bench.iter(|| {
            // SAFETY: as above.
            unsafe { copy::copy_and_sum(black_box(source.as_ptr()), black_box(target.as_mut_ptr()), SEGMENT) }
        });
    });
    group.finish();
}

/// write() -> mark -> collect -> resolve -> frame -> acknowledge, for one segment and for a super-segment.
fn send(criterion: &mut Criterion) {
    let session = session();
    let shard = Shard::new(0).expect("in range");
    let attention = session.attention(shard);
    let mut group = criterion.benchmark_group("channel/send");
    for (name, len) in [("1448 byte write", SEGMENT), ("63712 byte write", SUPER_SEGMENT)] {
        let socket = socket(session);
        let bytes = vec![7u8; len];
        let mut frame = vec![0u8; len];
        let mut reader = SendReader::new();
        let mut pieces = [Piece { start: std::ptr::null(), len: 0 }; SUPER_SEGMENT / CHUNK_SIZE + 2];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{name}, application alone"), |bench| {
            bench.iter_batched(
                || {
                    let end = reader.poll_end(&socket);
                    reader.acknowledge(&socket, end);
                },
                |()| {
                    let written = socket.send_writer().write(black_box(&bytes));
                    (written, attention.mark_socket(socket.slot))
                },
                BatchSize::PerIteration,
            );
        });
        let end = reader.poll_end(&socket);
        reader.acknowledge(&socket, end);
        group.bench_function(format!("{name}, to frame and back to the pool"), |bench| {
            bench.iter(|| {
                assert_eq!(socket.send_writer().write(black_box(&bytes)).len, len);
                assert!(!attention.mark_socket(socket.slot));
                let mut marks = attention.collect();
                assert_eq!(marks.next_socket(attention), Some(socket.slot));
                let end = reader.poll_end(&socket);
                let start = reader.acked();
                let count = reader.resolve(&socket, start, (end - start) as usize, &mut pieces).expect("published");
                let mut at = 0;
                for piece in &pieces[..count] {
                    // SAFETY: the piece lies in the session, the frame has room for all of them.
                    black_box(unsafe { copy::copy_and_sum(piece.start, frame[at..].as_mut_ptr(), piece.len) });
                    at += piece.len;
                }
                reader.acknowledge(&socket, end)
            });
        });
    }
    group.finish();
}

/// store -> publish -> notify -> read.
fn receive(criterion: &mut Criterion) {
    let session = session();
    let socket = socket(session);
    let set = session.claim_epoll_set().expect("a free waitable");
    socket.wait.subscribe(set);
    let waitable = session.waitable(set);
    let frame = vec![7u8; SEGMENT];
    let mut buffer = vec![0u8; SEGMENT];
    let mut writer = ReceiveWriter::new();
    let mut group = criterion.benchmark_group("channel/receive");
    group.throughput(Throughput::Bytes(SEGMENT as u64));
    group.bench_function("1448 bytes, frame to buffer", |bench| {
        bench.iter(|| {
            let stored = writer.store(&socket, writer.published(), black_box(&frame));
            writer.publish(&socket, writer.published() + stored.len as u64);
            let read = socket.receive_reader().read(black_box(&mut buffer));
            writer.poll_read(&socket);
            (stored.sum, read)
        });
    });
    group.bench_function("1448 bytes, frame to buffer, listed in an epoll set", |bench| {
        bench.iter(|| {
            let stored = writer.store(&socket, writer.published(), black_box(&frame));
            writer.publish(&socket, writer.published() + stored.len as u64);
            session.notify(&socket, |_| unreachable!("nobody sleeps"));
            let mut news = waitable.take_news();
            assert_eq!(news.next(waitable), Some(socket.slot));
            let read = socket.receive_reader().read(black_box(&mut buffer));
            writer.poll_read(&socket);
            (stored.sum, read)
        });
    });
    group.finish();
}

fn wake_ups(criterion: &mut Criterion) {
    let session = session();
    let socket = socket(session);
    let attention = session.attention(Shard::new(0).expect("in range"));
    let set = session.claim_waitable(1).expect("a free waitable");
    let waitable = session.waitable(set);
    socket.wait.subscribe(set);
    let (mut engine_end, mut application_end) = UnixStream::pair().expect("a doorbell");
    let mut group = criterion.benchmark_group("channel/wake-up");
    group.bench_function("mark an awake shard", |bench| bench.iter(|| attention.mark_socket(socket.slot)));
    group.bench_function("mark and collect", |bench| {
        bench.iter(|| {
            let ring = attention.mark_socket(socket.slot);
            let mut marks = attention.collect();
            (ring, marks.next_socket(attention))
        });
    });
    group.bench_function("park, mark, collect", |bench| {
        bench.iter(|| {
            assert!(attention.park() && attention.mark_socket(socket.slot));
            attention.collect().next_socket(attention)
        });
    });
    group.bench_function("notify a waiter that is awake", |bench| {
        bench.iter(|| session.notify(&socket, |_| unreachable!("nobody sleeps")));
    });
    waitable.clear();
    group.bench_function("notify a sleeper, doorbell's byte written and read", |bench| {
        bench.iter(|| {
            assert!(waitable.enter());
            session.notify(&socket, |_| engine_end.write_all(&[1]).expect("a byte"));
            std::io::Read::read_exact(&mut application_end, &mut [0]).expect("a byte");
            waitable.unlist(socket.slot);
            let mut news = waitable.take_news();
            while news.next(waitable).is_some() {}
            waitable.leave()
        });
    });
    group.finish();
}

fn commands(criterion: &mut Criterion) {
    let session = session();
    let shard = Shard::new(0).expect("in range");
    let attention = session.attention(shard);
    let mut readers = [LaneReader::new(); LANES];
    let command = Command::new(op::GET_OPTION, 1, 1, [0; 6]).with_reply();
    criterion.bench_function("channel/command with reply", |bench| {
        bench.iter(|| {
            let guard = session.claim_lane(shard, 1, |_| true).expect("a free lane");
            let pushed = guard.push(black_box(&command)).expect("room");
            let index = attention.collect().next_lane().expect("marked");
            let lane = session.lane(shard, index);
            let reader = &mut readers[index.index()];
            let Next::Command(command) = reader.next(lane) else { unreachable!("a command was pushed") };
            reader.complete(lane, session.waitables(), command.op as i32, &[1, 2, 3, 4]);
            let mut reply = [0; 4];
            guard.reply(&mut reply);
            (guard.result(pushed.ticket), reply)
        });
    });
}

criterion_group!(channel, copies, send, receive, wake_ups, commands);

/// Environment variable of the process that strace looks at.
const BUSY: &str = "PERSONA_BENCH_BUSY";
const BUSY_WRITES: usize = 200_000;

/// An application thread writes segments, a shard thread takes them off, both as in production: the shard parks and
/// blocks on its eventfd after an idle while, the application rings when it must. Two getppid() calls frame the run.
fn stream_while_traced() {
    /// Rounds that the shard looks around before it sleeps.
    const SPINS: u32 = 1_000_000;
    let session = session();
    let socket = socket(session);
    let attention = session.attention(Shard::new(0).expect("in range"));
    let bytes = [7u8; SEGMENT];
    // SAFETY: a new descriptor.
    let eventfd = unsafe { libc::eventfd(0, 0) };
    let total = (BUSY_WRITES * SEGMENT) as u64;
    let (ready, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reader = SendReader::new();
            let mut idle = 0;
            ready.store(true, Ordering::Release);
            while reader.acked() < total {
                let mut marks = attention.collect();
                if marks.next_socket(attention).is_some() {
                    let end = reader.poll_end(&socket);
                    reader.acknowledge(&socket, end);
                    idle = 0;
                    continue;
                }
                std::hint::spin_loop();
                idle += 1;
                if idle > SPINS && attention.park() {
                    let mut count = 0u64;
                    // SAFETY: eight writable bytes.
                    unsafe { libc::read(eventfd, (&raw mut count).cast(), 8) };
                    idle = 0;
                }
            }
            done.store(true, Ordering::Release);
            while done.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
        });
        while !ready.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: no arguments.
        unsafe { libc::getppid() };
        let mut written = 0;
        while written < total {
            let rest = (total - written).min(SEGMENT as u64) as usize;
            let len = socket.send_writer().write(&bytes[..rest]).len;
            written += len as u64;
            if len == 0 {
                std::hint::spin_loop();
            } else if attention.mark_socket(socket.slot) {
                // SAFETY: eight readable bytes.
                unsafe { libc::write(eventfd, (&raw const ONE).cast(), 8) };
            }
        }
        while !done.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: no arguments.
        unsafe { libc::getppid() };
        done.store(false, Ordering::Release);
    });
}

static ONE: u64 = 1;

/// Runs this program again under strace and prints what it saw between the two marks.
fn count_syscalls() {
    let trace = std::env::temp_dir().join(format!("persona-bench-{}.strace", std::process::id()));
    let program = std::env::current_exe().expect("a path");
    let traced =
        std::process::Command::new("strace").args(["-f", "-qq", "-o"]).arg(&trace).arg(program).env(BUSY, "1").status();
    match traced {
        Ok(status) if status.success() => {
            let lines = std::fs::read_to_string(&trace).expect("strace's output");
            let marks: Vec<_> =
                lines.lines().enumerate().filter(|(_, line)| line.contains("getppid(")).map(|(at, _)| at).collect();
            let [start, end] = marks[..] else { panic!("strace saw {} marks instead of two", marks.len()) };
            let syscalls = end - start - 1;
            println!("channel/busy: {BUSY_WRITES} writes of {SEGMENT} bytes, both sides busy: {syscalls} syscalls");
        }
        Ok(status) => println!("channel/busy: not counted, strace ended with {status}"),
        Err(error) => println!("channel/busy: not counted, strace cannot be started: {error} (install strace)"),
    }
    // It does not exist when strace did not start.
    let _ = std::fs::remove_file(trace);
}

fn main() {
    if std::env::var_os(BUSY).is_some() {
        return stream_while_traced();
    }
    channel();
    if std::env::args().any(|argument| argument == "--bench") {
        count_syscalls();
    }
    Criterion::default().configure_from_args().final_summary();
}
