//! Writer against reader, with chunk hand-back: every byte once and in order, no byte touched by both, no chunk left
//! behind.

use super::{World, check};
use crate::receive::ReceiveWriter;
use crate::send::SendReader;
use crate::sync::Ordering;
use loom::sync::Arc;
use loom::thread;

/// Chunks hold four bytes, maps two chunks.
#[test]
fn loom_send_stream() {
    check(3, || {
        let world = Arc::new(World::new(2, 6));
        let application = {
            let world = world.clone();
            thread::spawn(move || {
                let writer = world.socket().send_writer();
                let mut written = 0;
                // The second write continues in the first one's chunk, or in a fresh one if that was taken away.
                while written < 5 {
                    let bytes: &[u8] = if written == 0 { &[1] } else { &[2, 3, 4, 5][written - 1..] };
                    let count = writer.write(bytes).len;
                    written += count;
                    if count == 0 {
                        thread::yield_now();
                    }
                }
            })
        };
        let socket = world.socket();
        let mut reader = SendReader::new();
        let mut seen = Vec::new();
        for _ in 0..2 {
            take(&mut reader, &world, &mut seen);
        }
        application.join().expect("the writer ends");
        // The mark of attention that follows each write.
        take(&mut reader, &world, &mut seen);
        take(&mut reader, &world, &mut seen);
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!(socket.pool.free.count(), 2, "an idle stream holds no chunk");
    });
}

fn take(reader: &mut SendReader, world: &World, seen: &mut Vec<u8>) {
    let socket = world.socket();
    let end = reader.poll_end(&socket);
    let chunks = socket.send_chunks();
    let mut at = reader.acked();
    while at < end {
        let span = chunks.span(at).expect("published");
        let mut bytes = vec![0; span.len.min((end - at) as usize)];
        // SAFETY: `bytes` is writable for its length.
        unsafe { chunks.pool.load(span.chunk, span.at, bytes.as_mut_ptr(), bytes.len()) };
        at += bytes.len() as u64;
        seen.extend(bytes);
    }
    reader.acknowledge(&socket, end);
}

#[test]
fn loom_send_stream_idle_then_more() {
    check(3, || {
        let world = Arc::new(World::new(2, 4));
        let application = {
            let world = world.clone();
            thread::spawn(move || {
                let writer = world.socket().send_writer();
                assert_eq!(writer.write(&[1]).len, 1);
                // The chunk is still there, or was taken away: a byte is never lost.
                assert_eq!(writer.write(&[2]).len, 1);
            })
        };
        let mut reader = SendReader::new();
        let mut seen = Vec::new();
        take(&mut reader, &world, &mut seen);
        application.join().expect("the writer ends");
        take(&mut reader, &world, &mut seen);
        assert_eq!(seen, [1, 2]);
        assert_eq!(world.bitmap().count(), 2, "an idle stream holds no chunk");
    });
}

#[test]
fn loom_receive_stream() {
    check(3, || {
        let world = Arc::new(World::new(3, 0));
        let engine = {
            let world = world.clone();
            thread::spawn(move || {
                let socket = world.socket();
                let mut writer = ReceiveWriter::new();
                assert_eq!(writer.store(&socket, 0, &[1]).len, 1);
                writer.publish(&socket, 1);
                // Out of order: the byte beyond the gap keeps its chunk held.
                assert_eq!(writer.store(&socket, 4, &[5]).len, 1);
                assert_eq!(writer.store(&socket, 1, &[2, 3, 4]).len, 3);
                writer.publish(&socket, 5);
            })
        };
        let reader = world.socket().receive_reader();
        let mut seen = Vec::new();
        let read = |seen: &mut Vec<u8>| {
            let mut bytes = [0; 8];
            let len = reader.read(&mut bytes).len;
            seen.extend(&bytes[..len]);
        };
        read(&mut seen);
        read(&mut seen);
        engine.join().expect("the engine ends");
        read(&mut seen);
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!(world.bitmap().count(), 3, "an idle stream holds no chunk");
    });
}

/// The reader takes the chunk away while the writer adds to it: nothing published may be lost.
#[test]
fn loom_take_away_against_publication() {
    check(3, || {
        let world = Arc::new(World::new(2, 0));
        let mut writer = ReceiveWriter::new();
        writer.store(&world.socket(), 0, &[1]);
        writer.publish(&world.socket(), 1);
        let application = {
            let world = world.clone();
            thread::spawn(move || {
                let reader = world.socket().receive_reader();
                let mut bytes = [0; 2];
                let len = reader.read(&mut bytes).len;
                assert_eq!(bytes[0], 1);
                let more = reader.read(&mut bytes[len..]).len;
                bytes[..len + more].to_vec()
            })
        };
        writer.store(&world.socket(), 1, &[2]);
        writer.publish(&world.socket(), 2);
        let mut seen = application.join().expect("the reader ends");
        let mut rest = [0; 2];
        let len = world.socket().receive_reader().read(&mut rest).len;
        seen.extend(&rest[..len]);
        assert_eq!(seen, [1, 2]);
        assert_eq!(world.bitmap().count(), 2);
    });
}

/// Two who found the buffer full (two writers, or a writer and an epoll set) and the engine that frees it: each of them sees
/// the space, or the engine sees that somebody waits and wakes all. What one of them finds must not hide the other's wish.
#[test]
fn loom_want_space() {
    check(3, || {
        let world = Arc::new(World::new(2, 2));
        assert_eq!(world.socket().send_writer().write(&[1, 2]).len, 2);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || world.socket().send_writer().want_space())
            })
            .collect();
        let mut reader = SendReader::new();
        reader.poll_end(&world.socket());
        let notified = reader.acknowledge(&world.socket(), 2);
        for waiter in waiters {
            let found = waiter.join().expect("the waiter ends");
            assert!(notified || found, "it would sleep for ever");
        }
    });
}

/// The engine sets the offset at which it wants to hear of reads while the application reads past it.
#[test]
fn loom_window_update() {
    check(3, || {
        let world = Arc::new(World::new(2, 0));
        let mut writer = ReceiveWriter::new();
        writer.store(&world.socket(), 0, &[1, 2, 3]);
        writer.publish(&world.socket(), 3);
        let application = {
            let world = world.clone();
            thread::spawn(move || {
                let reader = world.socket().receive_reader();
                let mut byte = [0];
                (0..3).fold(false, |marked, _| reader.read(&mut byte).mark | marked)
            })
        };
        let seen = writer.set_update_at(&world.socket(), 2);
        let marked = application.join().expect("the reader ends");
        assert!(seen || marked, "the window would stay closed");
        assert_eq!(world.cursor.rcv_read.load(Ordering::Relaxed), 3);
    });
}
