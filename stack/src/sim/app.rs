//! Applications: each end of a connection writes, reads, pauses and ends as its plan and chance will.

use super::host::SimHost;
use super::rng::Rng;
use crate::api::{CloseReason, ConnectionId, Error, SocketOptions, Status};
use crate::frame::Owner;
use crate::stack::Stack;
use crate::time::Instant;

/// What one end does. Sizes in bytes, times in microseconds, chances in parts of a million.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes to send.
    pub total: u64,
    pub write: (u64, u64),
    pub read: (u64, u64),
    /// Chance of a pause after a write or a read, and its greatest length.
    pub write_pause: (u32, u64),
    pub read_pause: (u32, u64),
    /// Written and not acknowledged at most.
    pub send_buffer: u64,
    pub receive_buffer: u64,
    pub end: End,
    /// close() only when everything was acknowledged: what a closed socket has left is given up after eight tries, as
    /// on Linux, which a peer that does not read for minutes or has no memory uses up.
    pub waits_for_acks: bool,
    /// Tell the stack of reads only when it has to know.
    pub lazy_reader: bool,
    /// Chance that the options are changed after a write.
    pub fiddle: u32,
    pub options: SocketOptions,
}

/// How an end is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// shutdown() after the last byte, close() when the peer's end was read too.
    HalfClose,
    /// Read the peer's end first, then shutdown and close.
    AfterPeer,
    /// close() after the last byte was written, whatever the peer still sends.
    CloseEarly,
    /// RST when so many bytes were written.
    AbortAt(u64),
}

impl End {
    /// Whether the connection ends in order, if the peer's end is orderly too.
    pub fn is_orderly(self) -> bool {
        matches!(self, End::HalfClose | End::AfterPeer)
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct App {
    pub owner: Owner,
    /// Which of the scenario's connections it is an end of.
    pub flow: usize,
    /// It called connect().
    pub opened: bool,
    pub plan: Plan,
    pub rng: Rng,
    pub connection: Option<ConnectionId>,
    pub established: bool,
    pub window_update_at: u64,
    told_read: u64,
    pub peer_closed: bool,
    pub shut: bool,
    pub ended: bool,
    pub closed: Option<CloseReason>,
    /// The moment for which its next wake-up is scheduled.
    pub wakes_at: u64,
    /// What the trace was told last.
    pub noted: (bool, bool, bool, bool, Option<CloseReason>),
    write_at: u64,
    read_at: u64,
    nodelay: bool,
    cork: bool,
}

impl App {
    pub fn new(owner: Owner, flow: usize, plan: Plan, rng: Rng) -> Self {
        let (nodelay, cork) = (plan.options.nodelay, plan.options.cork);
        Self {
            owner,
            flow,
            opened: false,
            plan,
            rng,
            connection: None,
            established: false,
            window_update_at: 0,
            told_read: 0,
            peer_closed: false,
            shut: false,
            ended: false,
            closed: None,
            wakes_at: 0,
            noted: (false, false, false, false, None),
            write_at: 0,
            read_at: 0,
            nodelay,
            cork,
        }
    }

    /// Takes what the stack says of the connection.
    pub fn on_status(&mut self, status: &Status, host: &mut SimHost) {
        let streams = &mut host.streams[self.owner.0 as usize];
        let (acked, written) = (status.snd_acked, streams.written);
        assert!(acked >= streams.freed, "snd_acked went back from {} to {acked}", streams.freed);
        assert!(acked <= written, "snd_acked {acked} is beyond the {written} bytes written");
        streams.freed = acked;
        streams.receive_to(status.rcv_end);
        self.window_update_at = status.window_update_at;
    }

    /// Everything that the peer sent was read, and its end.
    pub fn has_read_all(&self, host: &SimHost) -> bool {
        let streams = &host.streams[self.owner.0 as usize];
        self.peer_closed && streams.read == streams.rcv_end
    }

    /// Acts as far as it can now. When it wants to act again by itself; `None`: when something happens.
    pub fn act(&mut self, now: u64, stack: &mut Stack<'_>, host: &mut SimHost) -> Option<u64> {
        if self.closed.is_some() || self.ended {
            return None;
        }
        let (Some(connection), true) = (self.connection, self.established) else { return None };
        let at = Instant::from_micros(now);
        let result = self.run(now, at, connection, stack, host);
        match result {
            Ok(wake) => wake,
            // It has ended meanwhile, and the event that says so is on its way.
            Err(Error::NotConnected | Error::Gone) => None,
            Err(error) => panic!("{:?} refused with {error:?}", self.owner),
        }
    }

    fn run(
        &mut self,
        now: u64,
        at: Instant,
        connection: ConnectionId,
        stack: &mut Stack<'_>,
        host: &mut SimHost,
    ) -> Result<Option<u64>, Error> {
        self.read(now, at, connection, stack, host)?;
        self.write(now, at, connection, stack, host)?;
        if let End::AbortAt(limit) = self.plan.end
            && host.streams[self.owner.0 as usize].written >= limit.min(self.plan.total)
        {
            self.ended = true;
            return stack.abort(at, connection, host).map(|()| None);
        }
        let done_writing = host.streams[self.owner.0 as usize].written == self.plan.total && self.write_at <= now;
        let may_shut = self.plan.end != End::AfterPeer || self.has_read_all(host);
        if done_writing && !self.shut && may_shut {
            self.shut = true;
            if self.plan.end == End::CloseEarly {
                self.ended = true;
                return stack.close(at, connection, host).map(|()| None);
            }
            stack.shutdown(at, connection, host)?;
        }
        let streams = &host.streams[self.owner.0 as usize];
        let drained = !self.plan.waits_for_acks || streams.freed == streams.written;
        if self.shut && drained && self.has_read_all(host) {
            self.ended = true;
            return stack.close(at, connection, host).map(|()| None);
        }
        Ok([self.write_at, self.read_at].into_iter().filter(|&at| at > now).min())
    }

    fn write(
        &mut self,
        now: u64,
        at: Instant,
        connection: ConnectionId,
        stack: &mut Stack<'_>,
        host: &mut SimHost,
    ) -> Result<(), Error> {
        while self.write_at <= now && !self.shut {
            let streams = &mut host.streams[self.owner.0 as usize];
            let room = self.plan.send_buffer.saturating_sub(streams.written - streams.freed);
            let left = self.plan.total - streams.written;
            let len = self.rng.magnitude(self.plan.write.0, self.plan.write.1).min(room).min(left);
            if len == 0 {
                break;
            }
            streams.written += len;
            let end = streams.written;
            stack.write(at, connection, end, host)?;
            if self.rng.chance(self.plan.fiddle) {
                self.fiddle(at, connection, stack, host)?;
            }
            if self.rng.chance(self.plan.write_pause.0) {
                self.write_at = now + 1 + self.rng.below(self.plan.write_pause.1);
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        now: u64,
        at: Instant,
        connection: ConnectionId,
        stack: &mut Stack<'_>,
        host: &mut SimHost,
    ) -> Result<(), Error> {
        while self.read_at <= now {
            let streams = &mut host.streams[self.owner.0 as usize];
            let len = self.rng.magnitude(self.plan.read.0, self.plan.read.1).min(streams.rcv_end - streams.read);
            if len == 0 {
                break;
            }
            streams.consume(len);
            let read = streams.read;
            let due = read >= self.window_update_at;
            if due || !self.plan.lazy_reader {
                self.told_read = read;
                stack.read(at, connection, read, host)?;
            }
            if self.rng.chance(self.plan.read_pause.0) {
                self.read_at = now + 1 + self.rng.below(self.plan.read_pause.1);
            }
        }
        // close() has to know what was read: unread bytes make it a reset.
        let streams = &host.streams[self.owner.0 as usize];
        if self.peer_closed && streams.read == streams.rcv_end && self.told_read != streams.read {
            self.told_read = streams.read;
            stack.read(at, connection, self.told_read, host)?;
        }
        Ok(())
    }

    /// TCP_NODELAY and TCP_CORK on and off. Corked bytes go out when the cork is taken off, or after 200 ms.
    fn fiddle(
        &mut self,
        at: Instant,
        connection: ConnectionId,
        stack: &mut Stack<'_>,
        host: &mut SimHost,
    ) -> Result<(), Error> {
        self.nodelay = self.rng.chance(500_000);
        self.cork = self.rng.chance(300_000);
        let options = SocketOptions { nodelay: self.nodelay, cork: self.cork, ..self.plan.options };
        stack.set_options(at, connection, &options, host)
    }
}
