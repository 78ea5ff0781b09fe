//! Relay: a connection's payload passes through the anchor itself, for holders of the descriptor that do not know the
//! library.
//!
//! To the application: bytes stay in the receive stream until the anchor takes them. From the application: bytes go
//! from the anchor into a buffer of the engine, which continues the send stream at the offset where the stream stood when relay
//! began; what lies below that offset is in the stream's chunks and is sent first.
//!
//! Half-close, both ways: the end of the anchor's input becomes FIN, the peer's FIN shuts the anchor for writing once
//! everything before it was delivered. A RST closes our end of the anchor.

use super::Shard;
use super::host::resolve_stream;
use super::record::{Phase, set_bits};
use super::sessions::owner_of;
use super::sleep::Token;
use crate::message::SlotKey;
use crate::port::Piece;
use persona_channel::layout::state_bits;
use persona_channel::memory::{Slot, SocketRef};
use persona_channel::send::SendReader;
use persona_stack::CloseReason;
use rustix::event::epoll;
use rustix::net::{RecvFlags, Shutdown};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Bytes taken from an anchor and not yet acknowledged by the peer.
const BUFFER: usize = 256 * 1024;
/// Bytes taken or given by one visit, so that one relay does not hold up a shard.
const VISIT: usize = 128 * 1024;
const READ: usize = 32 * 1024;

pub struct Relay {
    /// Stream offset of the first byte that came from the anchor.
    base: u64,
    /// Stream offset of the first byte in `buffer`.
    start: u64,
    buffer: VecDeque<u8>,
    /// The anchor's input has ended.
    ended: bool,
    /// The anchor was shut for writing.
    shut: bool,
    /// Receive stream offset up to which the anchor has taken bytes.
    delivered: u64,
    /// Nobody reads the anchor any more.
    deaf: bool,
}

impl Relay {
    fn new(base: u64, delivered: u64) -> Self {
        let buffer = VecDeque::new();
        Self { base, start: base, buffer, ended: false, shut: false, delivered, deaf: false }
    }

    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    pub fn acknowledge(&mut self, acked: u64) {
        let gone = acked.saturating_sub(self.start).min(self.buffer.len() as u64);
        self.buffer.drain(..gone as usize);
        self.start += gone;
    }

    /// Where `len` bytes from stream offset `offset` lie; `None` for what is not there.
    pub fn resolve(
        &self,
        stream: &SendReader,
        socket: &SocketRef<'_>,
        offset: u64,
        len: usize,
        pieces: &mut [Piece],
    ) -> Option<usize> {
        let below = self.base.saturating_sub(offset).min(len as u64) as usize;
        let mut count = 0;
        if below > 0 {
            count = resolve_stream(stream, socket, offset, below, pieces)?;
        }
        let mut skip = usize::try_from((offset + below as u64).checked_sub(self.start).unwrap_or(u64::MAX)).ok();
        if below < len {
            let (first, second) = self.buffer.as_slices();
            let mut left = len - below;
            for half in [first, second] {
                let at = skip?.min(half.len());
                let taken = (half.len() - at).min(left);
                skip = skip.map(|skip| skip - at);
                if taken > 0 {
                    *pieces.get_mut(count)? = Piece { start: half[at..].as_ptr(), len: taken };
                    count += 1;
                    left -= taken;
                }
            }
            if left > 0 {
                return None;
            }
        }
        Some(count)
    }

    /// Takes what the anchor has, as far as there is room and one visit allows.
    fn take(&mut self, anchor: &OwnedFd) -> Taken {
        let mut any = false;
        let mut bytes = [0u8; READ];
        let mut visit = 0;
        while !self.ended && self.buffer.len() < BUFFER {
            if visit >= VISIT {
                return Taken::More;
            }
            let room = (BUFFER - self.buffer.len()).min(READ);
            match rustix::net::recv(anchor, &mut bytes[..room], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.ended = true,
                Ok((taken, _)) => {
                    self.buffer.extend(&bytes[..taken]);
                    visit += taken;
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => continue,
                // ECONNRESET: the application closed its end with bytes unread.
                Err(_) => self.ended = true,
            }
            any = true;
        }
        if any { Taken::Some } else { Taken::Nothing }
    }
}

/// What a visit to an anchor brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    /// Bytes, or the end; the anchor tells when there is more.
    Some,
    /// Bytes, and there may be more already.
    More,
}

/// Sends bytes that another process may be changing; bytes sent, or `None` when nobody will read them.
fn send(anchor: &OwnedFd, start: *const u8, len: usize) -> Option<usize> {
    // SAFETY: the kernel copies from `len` bytes of session memory, which stay mapped; it does not mind that they change.
    let sent = unsafe { libc::send(anchor.as_raw_fd(), start.cast(), len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent >= 0 {
        return Some(sent as usize);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Some(0),
        _ => None,
    }
}

impl Shard<'_> {
    /// Puts a socket into relay. Whatever of the unread bytes the anchor does not take at once follows in order.
    pub(crate) fn enter_relay(&mut self, key: SlotKey) -> Result<(), i32> {
        self.look(key.session, key.slot);
        let attached = self.host.sessions.get(key.session).ok_or(libc::EBADF)?;
        let (record, socket) = attached.socket(key.slot).ok_or(libc::EBADF)?;
        if record.relay.is_some() {
            return Ok(());
        }
        if !matches!(record.phase, Phase::Connecting | Phase::Connected | Phase::Ended) {
            return Err(libc::ENOTCONN);
        }
        let anchor = record.anchor.as_ref().ok_or(libc::EBADF)?;
        let token = Token::Anchor { session: key.session, slot: key.slot }.data();
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::modify(&self.epoll, anchor.as_fd(), token, wanted).map_err(|_| libc::ENOBUFS)?;
        let base = if record.write_shut { record.told_written } else { record.send.poll_end(&socket) };
        record.relay = Some(Box::new(Relay::new(base, record.receive.poll_read(&socket))));
        set_bits(&socket, state_bits::RELAY);
        socket.state.make_edges(true, true);
        self.tell(owner_of(key.session, key.slot));
        self.pump(key.session, key.slot);
        Ok(())
    }

    /// Moves bytes both ways between a relayed socket's anchor and its connection.
    pub(crate) fn pump(&mut self, session: u32, slot: Slot) {
        let owner = owner_of(session, slot);
        let Some((record, socket)) = self.host.sessions.socket(owner) else { return };
        let (Some(relay), Some(anchor)) = (&mut record.relay, &record.anchor) else { return };
        let mut written = None;
        let mut finished = false;
        let mut more = false;
        if record.phase == Phase::Connected {
            let taken = relay.take(anchor);
            more = taken == Taken::More;
            if taken != Taken::Nothing {
                written = Some(relay.end());
            }
            finished = relay.ended && !std::mem::replace(&mut record.write_shut, relay.ended);
        }
        let before = relay.delivered;
        let mut hole = false;
        let end = record.receive.published();
        let mut visit = 0;
        while relay.delivered < end && visit < VISIT {
            let rest = (end - relay.delivered) as usize;
            let Some(span) = socket.receive_chunks().span(relay.delivered) else {
                hole = true;
                break;
            };
            let len = span.len.min(rest);
            let taken =
                if relay.deaf { Some(len) } else { send(anchor, socket.pool.address(span.chunk, span.at), len) };
            match taken {
                Some(0) => break,
                Some(taken) => {
                    relay.delivered += taken as u64;
                    visit += taken;
                }
                None => relay.deaf = true,
            }
        }
        if relay.delivered != before {
            let chunks = socket.receive_chunks();
            chunks.empty_below(before, relay.delivered);
            socket.cursor.rcv_read.store(relay.delivered, Ordering::Release);
            if relay.delivered == end {
                chunks.take_last(end);
            }
        }
        let read = record.receive.poll_read(&socket);
        if record.peer_closed && relay.delivered == end && !std::mem::replace(&mut relay.shut, true) {
            // Fails only when the far end is gone, which the anchor reports.
            let _ = rustix::net::shutdown(anchor, Shutdown::Write);
        }
        let done = relay.ended && (relay.deaf || super::closing::has_hung_up(anchor));
        more |= visit >= VISIT;
        let connection = record.connection;
        let ended = record.phase == Phase::Ended && relay.delivered == end;
        if let Some(connection) = connection {
            if let Some(end) = written {
                record.told_written = end;
                let _ = self.stack.write(self.now, connection, end, &mut self.host);
            }
            if finished {
                let _ = self.stack.shutdown(self.now, connection, &mut self.host);
            }
            if read != before {
                let _ = self.stack.read(self.now, connection, read, &mut self.host);
            }
        }
        if hole {
            self.host.counters.damaged_streams += 1;
            self.host.damaged.push(owner);
        }
        if done || ended {
            self.hang_up(session, slot);
        } else if more {
            // There is more than one visit may take: comes back in the next iteration, by way of the attention.
            self.unfinished_relays.push((session, slot));
        }
    }

    /// The connection of a relayed socket is gone.
    pub(crate) fn relay_ended(&mut self, session: u32, slot: Slot, reason: CloseReason) {
        if reason != CloseReason::Finished
            && let Some((record, _)) = self.host.sessions.socket(owner_of(session, slot))
            && let Some(relay) = &mut record.relay
        {
            // What the peer's RST overtook is lost, as in Linux's receive queue after tcp_reset.
            relay.deaf = true;
        }
        self.pump(session, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::session;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
        // SAFETY: the pieces lie in the session and the relay that the test holds, and nobody writes there.
        pieces.iter().flat_map(|piece| unsafe { std::slice::from_raw_parts(piece.start, piece.len) }.to_vec()).collect()
    }

    #[test]
    fn the_stream_goes_on_in_the_buffer() {
        let session = session(1);
        let slot = Slot::new(4).unwrap();
        let socket = session.view().socket(slot);
        socket.state.send_buffer.store(1 << 16, Ordering::Relaxed);
        assert_eq!(socket.send_writer().write(b"stream").len, 6);
        let mut stream = SendReader::new();
        let mut relay = Relay::new(stream.poll_end(&socket), 0);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
        rustix::io::write(&theirs, b"anchor").unwrap();
        assert_eq!(relay.take(&ours), Taken::Some);
        let mut pieces = [Piece { start: std::ptr::null(), len: 0 }; 4];
        let count = relay.resolve(&stream, &socket, 2, 8, &mut pieces).unwrap();
        assert_eq!(bytes_of(&pieces[..count]), b"reamanch");
        relay.acknowledge(8);
        stream.acknowledge(&socket, 8);
        let count = relay.resolve(&stream, &socket, 8, 4, &mut pieces).unwrap();
        assert_eq!(bytes_of(&pieces[..count]), b"chor");
        assert_eq!(relay.resolve(&stream, &socket, 8, 5, &mut pieces), None, "beyond the end");
        assert_eq!(relay.resolve(&stream, &socket, 7, 1, &mut pieces), None, "acknowledged");
        drop(theirs);
        assert_eq!(relay.take(&ours), Taken::Some);
        assert!(relay.ended);
    }

    #[test]
    fn a_full_buffer_takes_nothing_until_it_is_acknowledged() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let mut relay = Relay::new(0, 0);
        let mut sent = 0;
        for _ in 0..64 {
            sent += rustix::io::write(&theirs, &[7u8; READ]).unwrap_or(0);
            relay.take(&ours);
        }
        assert!(sent > BUFFER, "the pair holds more than the buffer");
        assert_eq!(relay.buffer.len(), BUFFER);
        relay.acknowledge(10);
        relay.take(&ours);
        assert_eq!((relay.start, relay.buffer.len()), (10, BUFFER));
    }
}
