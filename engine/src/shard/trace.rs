//! The shard's part of `persona trace`: finding the connection, and copying what the stack traces to whoever looks.

use super::Shard;
use crate::message::{ControlMessage, TraceAnswer};
use crate::trace::Tap;
use persona_stack::{Error, Happening};
use std::net::SocketAddr;

impl Shard<'_> {
    /// Looks at the connection if it is this shard's, and answers [`ControlMessage::Traced`].
    pub(crate) fn trace(&mut self, mut tap: Tap, local: SocketAddr, remote: SocketAddr) {
        let ticket = tap.ticket;
        let now = self.now;
        let found = self.stack.connection(local, remote);
        let found = found.and_then(|connection| self.stack.info(now, connection).ok());
        let answer = match found {
            None => TraceAnswer::NotHere,
            Some(info) => match self.stack.watch(now, info.connection) {
                Ok(()) => {
                    tap.connection = Some(info.connection);
                    self.traces.push(tap);
                    TraceAnswer::Begun { info: Box::new(info), now }
                }
                Err(Error::Invalid) => TraceAnswer::Twice,
                Err(Error::NoMemory) => TraceAnswer::TooMany,
                Err(_) => TraceAnswer::NotHere,
            },
        };
        let shard = self.links.index as u8;
        self.links.send_control(ControlMessage::Traced { ticket, shard, answer });
    }

    pub(crate) fn untrace(&mut self, ticket: u32) {
        if let Some(place) = self.traces.iter().position(|tap| tap.ticket == ticket) {
            let tap = self.traces.swap_remove(place);
            if let Some(connection) = tap.connection {
                self.stack.unwatch(connection);
            }
        }
    }

    /// Copies what was traced in this iteration.
    #[inline]
    pub(crate) fn copy_traces(&mut self) {
        if !self.traces.is_empty() {
            self.drain_trace();
        }
    }

    #[cold]
    fn drain_trace(&mut self) {
        while let Some(traced) = self.stack.poll_trace() {
            let Some(place) = self.traces.iter().position(|tap| tap.connection == traced.connection) else { continue };
            self.traces[place].record(traced);
            if matches!(traced.what, Happening::Ended { .. }) {
                // The stack looks no longer.
                self.traces.swap_remove(place);
            }
        }
        let dropped = self.stack.take_trace_dropped();
        if dropped > 0 {
            // Whose they were is not known any more.
            self.traces.iter_mut().for_each(|tap| tap.lose(dropped));
        }
    }
}
