//! `persona trace`: asks the shards for the connection, and streams what its shard traces as JSON lines.

use super::Control;
use crate::admin::Reply;
use crate::control::admin::BACKLOG;
use crate::message::{ShardMessage, TraceAnswer};
use crate::trace::{self, Event, Line, Source};
use persona_stack::{Congestion, Instant};
use rustix::time::{ClockId, clock_gettime};
use std::net::SocketAddr;

/// A trace that runs, or that shards are being asked about.
pub struct Trace {
    ticket: u32,
    pub administrator: u32,
    local: SocketAddr,
    remote: SocketAddr,
    /// Shards that have not answered.
    missing: usize,
    /// By shard; the connection's alone once it is known.
    sources: Vec<Option<Source>>,
    begun: Option<Begun>,
    /// Why no shard looks, where the connection is there.
    refused: Option<&'static str>,
    /// Lines that the reader was too slow for and has not been told of.
    dropped: u64,
}

struct Begun {
    at: Instant,
    congestion: Congestion,
    last: u64,
}

impl Trace {
    /// The connection is `shard`'s. Others have let go of their ends, or will: that is no end of the trace.
    fn begin(&mut self, shard: usize, begun: Begun) {
        self.begun = Some(begun);
        let others = self.sources.iter_mut().enumerate().filter(|(place, _)| *place != shard);
        others.for_each(|(_, source)| *source = None);
    }

    /// Nothing more will come than what waits.
    fn is_over(&self) -> bool {
        self.begun.is_some() && self.sources.iter().flatten().any(Source::is_over)
    }
}

impl Control<'_> {
    pub(crate) fn trace(&mut self, administrator: u32, local: SocketAddr, remote: SocketAddr) {
        let ticket = self.ticket();
        let mut sources = Vec::new();
        for shard in 0..self.links.shards() {
            let (tap, source) = trace::tap(ticket);
            sources.push(Some(source));
            self.links.send(shard, ShardMessage::Trace { tap, local, remote });
        }
        let missing = sources.len();
        let (begun, refused, dropped) = (None, None, 0);
        self.traces.push(Trace { ticket, administrator, local, remote, missing, sources, begun, refused, dropped });
    }

    /// A shard has looked for the connection.
    pub(crate) fn traced(&mut self, ticket: u32, shard: usize, answer: TraceAnswer) {
        let Some(place) = self.traces.iter().position(|trace| trace.ticket == ticket) else { return };
        let trace = &mut self.traces[place];
        trace.missing -= 1;
        let mut first = None;
        match answer {
            TraceAnswer::Begun { info, now } => {
                let time = clock_gettime(ClockId::Realtime);
                let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
                trace.begin(shard, Begun { at: now, congestion: info.congestion, last: 0 });
                first = Some(Line::begin(&info, (seconds * 1e6).round() / 1e6));
            }
            TraceAnswer::NotHere => trace.sources[shard] = None,
            TraceAnswer::Twice => trace.refused = Some("is being traced already: end that trace first"),
            TraceAnswer::TooMany => trace.refused = Some("cannot be traced: so many others of its shard are"),
        }
        let (administrator, done) = (trace.administrator, trace.missing == 0 && trace.begun.is_none());
        if let Some(line) = first {
            self.reply(administrator, &Reply::Ok(()));
            self.trace_line(administrator, &line);
        } else if done {
            let Trace { local, remote, refused, .. } = self.traces.swap_remove(place);
            let error = match refused {
                Some(why) => format!("the connection from {local} to {remote} {why}"),
                None => format!("there is no connection from {local} to {remote}: see `persona sockets`"),
            };
            self.reply::<()>(administrator, &Reply::Error(error));
        }
    }

    /// Writes what the shards have traced; `true` when there was anything.
    pub(crate) fn copy_traces(&mut self) -> bool {
        let mut any = false;
        let mut traces = std::mem::take(&mut self.traces);
        traces.retain_mut(|trace| {
            // Before the queue is emptied: nothing comes after it is over.
            let over = trace.is_over();
            let Some(begun) = &mut trace.begun else { return true };
            for source in trace.sources.iter_mut().flatten() {
                while let Some(traced) = source.happenings.receive() {
                    any = true;
                    let line = Line::of(&traced, begun.at, begun.congestion);
                    begun.last = begun.last.max(line.t);
                    let room = self.backlog(trace.administrator) < BACKLOG;
                    trace.dropped += if room { source.take_lost() } else { 1 };
                    if room {
                        let dropped = std::mem::take(&mut trace.dropped);
                        self.tell_dropped(trace.administrator, line.t, dropped);
                        self.trace_line(trace.administrator, &line);
                    }
                }
                trace.dropped += if over { source.take_lost() } else { 0 };
            }
            self.write_out(trace.administrator);
            if over {
                self.tell_dropped(trace.administrator, begun.last, trace.dropped);
                self.close_when_written(trace.administrator);
            }
            !over
        });
        // Those whose reader went away meanwhile are asked for no longer.
        let (stay, gone) = traces.into_iter().partition(|trace| self.administrators.contains_key(&trace.administrator));
        self.traces = stay;
        self.end_traces(gone);
        any
    }

    /// The reader is gone.
    pub(crate) fn end_traces_of(&mut self, administrator: u32) {
        let (gone, stay) =
            std::mem::take(&mut self.traces).into_iter().partition(|trace| trace.administrator == administrator);
        self.traces = stay;
        self.end_traces(gone);
    }

    fn end_traces(&mut self, traces: Vec<Trace>) {
        for trace in traces {
            for shard in 0..self.links.shards() {
                self.links.send(shard, ShardMessage::Untrace { ticket: trace.ticket });
            }
        }
    }

    fn tell_dropped(&mut self, administrator: u32, t: u64, events: u64) {
        if events > 0 {
            self.trace_line(administrator, &Line { t, event: Event::Dropped { events } });
        }
    }

    fn trace_line(&mut self, administrator: u32, line: &Line) {
        // Strings and numbers: they can always be written.
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            self.queue_output(administrator, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shard_that_has_the_connection_ends_a_trace() {
        let (mut taps, sources): (Vec<_>, Vec<_>) = (0..3).map(|_| trace::tap(1)).unzip();
        let end = SocketAddr::from(([10, 0, 0, 1], 1));
        let mut trace = Trace {
            ticket: 1,
            administrator: 0,
            local: end,
            remote: end,
            missing: 3,
            sources: sources.into_iter().map(Some).collect(),
            begun: None,
            refused: None,
            dropped: 0,
        };
        // The first has let go and its answer is on its way; the second answers.
        drop(taps.remove(0));
        assert!(!trace.is_over());
        trace.begin(1, Begun { at: Instant::default(), congestion: Congestion::Cubic, last: 0 });
        assert!(!trace.is_over());
        drop(taps.pop());
        assert!(!trace.is_over());
        drop(taps);
        assert!(trace.is_over());
    }
}
