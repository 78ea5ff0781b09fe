//! Both streams against a VecDeque, with random sizes, acknowledgements, gaps and starved pools.
#![cfg(not(loom))]

mod common;

use common::{Memory, Random, gather};
use persona_channel::copy::Sum;
use persona_channel::layout::*;
use persona_channel::memory::{Parameters, SessionRef, SocketRef};
use persona_channel::receive::ReceiveWriter;
use persona_channel::send::{SendReader, WriteEnd};
use persona_channel::stream::MAX_BUFFER;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

fn socket(session: SessionRef<'_>, send_buffer: u32) -> SocketRef<'_> {
    let socket = session.claim_slot(1).expect("a free slot");
    socket.state.send_buffer.store(send_buffer, Ordering::Relaxed);
    socket
}

#[test]
fn sent_bytes_arrive_once_and_in_order() {
    let mut random = Random::new("sent_bytes_arrive_once_and_in_order");
    for round in 0..20 {
        let memory = Memory::new();
        let session = memory.session();
        let free = session.pool().free.count();
        let buffer = 1 + random.below(MAX_BUFFER as usize) as u32;
        let socket = socket(session, buffer);
        let writer = socket.send_writer();
        let mut reader = SendReader::new();
        let mut model = VecDeque::new();
        for _ in 0..400 {
            match random.below(3) {
                0 => {
                    let size = random.below(if round % 2 == 0 { 3000 } else { 100_000 });
                    let bytes = random.bytes(size);
                    let cut = random.below(bytes.len());
                    let written = writer.write_vectored([&bytes[..cut], &bytes[cut..]].into_iter());
                    let room = buffer as usize - model.len();
                    assert_eq!(written.len, bytes.len().min(room));
                    assert_eq!(written.end == WriteEnd::Full, bytes.len() > room);
                    model.extend(&bytes[..written.len]);
                }
                1 => {
                    let end = reader.poll_end(&socket);
                    assert_eq!((end - reader.acked()) as usize, model.len());
                    let skip = random.below(model.len());
                    let len = random.below((model.len() - skip).min(70_000) + 1);
                    let offset = reader.acked() + skip as u64;
                    let want: Vec<u8> = model.range(skip..skip + len).copied().collect();
                    assert_eq!(gather(&reader, &socket, offset, len), want);
                }
                _ => {
                    let end = reader.poll_end(&socket);
                    let unacked = (end - reader.acked()) as usize;
                    let count = if random.below(4) == 0 { unacked } else { random.below(unacked + 1) };
                    reader.acknowledge(&socket, reader.acked() + count as u64);
                    model.drain(..count);
                    if model.is_empty() {
                        assert_eq!(session.pool().free.count(), free, "an idle stream holds no chunk");
                    }
                }
            }
        }
        reader.release(&socket);
        assert_eq!(session.pool().free.count(), free, "every chunk came back");
    }
}

#[test]
fn received_bytes_arrive_once_and_in_order() {
    let mut random = Random::new("received_bytes_arrive_once_and_in_order");
    for round in 0..20 {
        let memory = Memory::new();
        let session = memory.session();
        let free = session.pool().free.count();
        let socket = socket(session, 1);
        let application = socket.receive_reader();
        let mut writer = ReceiveWriter::new();
        let window = 1 + random.below(MAX_BUFFER as usize);
        // What the peer sends; `stored` is what lies in the stream beyond the published end.
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut gap: Vec<u8> = Vec::new();
        let mut unread = 0;
        for _ in 0..400 {
            match random.below(4) {
                0 => {
                    // A hole of `skip` bytes, then a segment; the hole is filled in step 1.
                    writer.poll_read(&socket);
                    let room = window.saturating_sub(unread);
                    if !gap.is_empty() || room < 2 {
                        continue;
                    }
                    let size = 2 + random.below(room.min(if round % 2 == 0 { 4000 } else { 120_000 }) - 1);
                    gap = random.bytes(size);
                    let skip = random.below(gap.len());
                    let tail = &gap[skip..];
                    let stored = writer.store(&socket, writer.published() + skip as u64, tail);
                    assert_eq!((stored.len, stored.sum), (tail.len(), Sum::of(tail)));
                    assert_eq!(application.available(), unread, "nothing is visible beyond a gap");
                }
                1 => {
                    if gap.is_empty() {
                        continue;
                    }
                    let stored = writer.store(&socket, writer.published(), &gap);
                    assert_eq!((stored.len, stored.sum), (gap.len(), Sum::of(&gap)));
                    let step = random.below(gap.len() + 1);
                    let start = writer.published();
                    writer.publish(&socket, start + step as u64);
                    writer.publish(&socket, start + gap.len() as u64);
                    unread += gap.len();
                    model.extend(gap.drain(..));
                }
                2 => {
                    let mut buffer = vec![0; random.below(90_000)];
                    let count = application.peek(0, std::iter::once(&mut buffer[..]));
                    assert_eq!(count, buffer.len().min(unread));
                    assert!(buffer[..count].iter().eq(model.range(..count)));
                }
                _ => {
                    let mut first = vec![0; random.below(5000)];
                    let mut second = vec![0; random.below(90_000)];
                    let read = application.read_vectored([&mut first[..], &mut second[..]].into_iter());
                    assert_eq!(read.len, (first.len() + second.len()).min(unread));
                    first.extend_from_slice(&second);
                    assert!(first[..read.len].iter().eq(model.range(..read.len)));
                    model.drain(..read.len);
                    unread -= read.len;
                    if unread > 0 && random.below(4) == 0 {
                        let dropped = application.discard(random.below(unread + 1));
                        model.drain(..dropped.len);
                        unread -= dropped.len;
                    }
                    if unread == 0 && gap.is_empty() {
                        assert_eq!(session.pool().free.count(), free, "an idle stream holds no chunk");
                    }
                }
            }
        }
        writer.release(&socket);
        assert_eq!(session.pool().free.count(), free, "every chunk came back");
    }
}

/// A process dies after it has emptied a chunk's entry and before it published its cursor: the next reader goes on
/// behind what the dead one had taken.
#[test]
fn a_reader_that_died_leaves_a_hole_that_the_next_one_skips() {
    let memory = Memory::new();
    let session = memory.session();
    let socket = socket(session, 1);
    let mut writer = ReceiveWriter::new();
    let bytes = [vec![1; CHUNK_SIZE], vec![2; 100]].concat();
    writer.store(&socket, 0, &bytes);
    writer.publish(&socket, bytes.len() as u64);
    socket.receive_chunks().empty_below(0, CHUNK_SIZE as u64);
    let mut buffer = vec![0; 2 * CHUNK_SIZE];
    assert_eq!(socket.receive_reader().read(&mut buffer).len, 100);
    assert_eq!(buffer[..100], [2; 100]);
    assert_eq!(writer.poll_read(&socket), bytes.len() as u64);
}

/// A process dies (or its copy faults) after it has taken chunks and before it published its end: the next write goes
/// on in them.
#[test]
fn a_writer_that_died_leaves_its_chunks_to_the_next_one() {
    let memory = Memory::new();
    let session = memory.session();
    let free = session.pool().free.count();
    let socket = socket(session, 100_000);
    let writer = socket.send_writer();
    let mut reader = SendReader::new();
    writer.write(b"abc");
    for offset in [3, CHUNK_SIZE as u64, 2 * CHUNK_SIZE as u64] {
        socket.send_chunks().hold(offset).expect("a free chunk");
    }
    assert_eq!(free - session.pool().free.count(), 3);
    let bytes = vec![7; CHUNK_SIZE];
    assert_eq!(writer.write(&bytes).len, bytes.len());
    assert_eq!(free - session.pool().free.count(), 3, "no chunk was taken twice");
    let end = reader.poll_end(&socket);
    assert_eq!(gather(&reader, &socket, 0, end as usize), [b"abc".to_vec(), bytes].concat());
    reader.release(&socket);
    assert_eq!(session.pool().free.count(), free, "what lies beyond the end came back as well");
}

/// No chunk is left: writes and stores end early and nothing is lost.
#[test]
fn an_exhausted_pool_ends_a_write_and_shortens_a_store() {
    let memory = Memory::with(&Parameters { chunks: 2, ..common::PARAMETERS });
    let session = memory.session();
    let socket = socket(session, 100_000);
    let bytes = vec![7; 100_000];
    let written = socket.send_writer().write(&bytes);
    assert_eq!((written.len, written.end), (2 * CHUNK_SIZE, WriteEnd::NoChunk));
    assert_eq!(socket.send_writer().write(&bytes).end, WriteEnd::NoChunk);
    let mut receive = ReceiveWriter::new();
    assert_eq!(receive.store(&socket, 0, &bytes).len, 0);
    let mut send = SendReader::new();
    send.poll_end(&socket);
    send.acknowledge(&socket, CHUNK_SIZE as u64);
    let stored = receive.store(&socket, 0, &bytes);
    assert_eq!((stored.len, stored.sum), (CHUNK_SIZE, Sum::of(&bytes[..CHUNK_SIZE])));
}
