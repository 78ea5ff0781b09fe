//! What `persona trace` prints: the stack's happenings of one connection as JSON, one object per line, and their way from the
//! shard to the control thread.
//!
//! A shard copies what its stack traced into a bounded queue and goes on; what does not fit is counted, never waited for, and
//! the reader is told ([`Event::Dropped`]). The control thread empties the queue and writes.

use crate::mailbox::{self, Receiver, Sender};
use persona_stack::wire::TcpFlags;
use persona_stack::{CloseReason, Congestion, ConnectionId, Happening, Info, Instant, Traced};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Happenings of one connection that can wait for the control thread.
const QUEUE: usize = 16_384;

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since the trace began.
    pub t: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What happened; docs/trace.md says more. Sequence numbers are counted from the SYN of their direction, as tcpdump's; times
/// are microseconds, sizes bytes, rates bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How the connection stood; `time`: seconds since 1970.
    Begin {
        local: String,
        remote: String,
        state: String,
        congestion: String,
        mss: u32,
        time: f64,
    },
    Count {
        name: String,
        amount: u64,
    },
    Sent {
        seq: u64,
        len: u32,
        flags: String,
        ack: u64,
        window: u32,
        why: String,
    },
    Received {
        seq: u64,
        len: u32,
        flags: String,
        ack: u64,
        window: u32,
    },
    Sack {
        start: u64,
        end: u64,
    },
    State {
        from: String,
        to: String,
    },
    Recovery {
        from: String,
        to: String,
    },
    /// No `ssthresh`: slow start has no end yet; `pacing` 0: not paced.
    Window {
        cwnd: u32,
        ssthresh: Option<u32>,
        pacing: u64,
        in_flight: u64,
        mode: String,
    },
    Reduction {
        delivered: u32,
        sent: u32,
        flight: u32,
    },
    Rtt {
        srtt: u32,
        rttvar: u32,
        rto: u32,
        min_rtt: u32,
    },
    Delivered {
        total: u64,
    },
    Lost {
        bytes: u64,
        why: String,
    },
    /// `after`: from now on.
    Armed {
        timer: String,
        after: u64,
    },
    Stopped {
        timer: String,
    },
    Fired {
        timer: String,
    },
    Ended {
        reason: String,
    },
    /// So many events are missing here: the reader, or the control thread, was too slow.
    Dropped {
        events: u64,
    },
}

impl Line {
    /// The first line.
    pub fn begin(info: &Info, time: f64) -> Self {
        let event = Event::Begin {
            local: info.local.to_string(),
            remote: info.remote.to_string(),
            state: info.state.name().to_owned(),
            congestion: info.congestion.name().to_owned(),
            mss: info.snd_mss.into(),
            time,
        };
        Self { t: 0, event }
    }

    /// `began`: the shard's clock when the trace did.
    pub fn of(traced: &Traced, began: Instant, congestion: Congestion) -> Self {
        Self { t: traced.at.since(began).as_micros(), event: Event::of(traced, congestion) }
    }
}

impl Event {
    fn of(traced: &Traced, congestion: Congestion) -> Self {
        match traced.what {
            Happening::Counted { what, amount } => Event::Count { name: what.name().to_owned(), amount },
            Happening::Sent { seq, len, flags, ack, window, why } => {
                Event::Sent { seq, len, flags: letters(flags), ack, window, why: why.name().to_owned() }
            }
            Happening::Received { seq, len, flags, ack, window } => {
                Event::Received { seq, len, flags: letters(flags), ack, window }
            }
            Happening::Sacked { start, end } => Event::Sack { start, end },
            Happening::State { from, to } => Event::State { from: from.name().to_owned(), to: to.name().to_owned() },
            Happening::Recovery { from, to } => {
                Event::Recovery { from: recovery_name(from).to_owned(), to: recovery_name(to).to_owned() }
            }
            Happening::Window { cwnd, ssthresh, pacing, in_flight, mode } => Event::Window {
                cwnd,
                ssthresh: (ssthresh != u32::MAX).then_some(ssthresh),
                pacing,
                in_flight,
                mode: congestion.mode_name(mode).to_owned(),
            },
            Happening::Reduction { delivered, sent, flight } => Event::Reduction { delivered, sent, flight },
            Happening::RoundTrip { srtt, rttvar, rto, min_rtt } => Event::Rtt { srtt, rttvar, rto, min_rtt },
            Happening::Delivered { total } => Event::Delivered { total },
            Happening::Lost { bytes, why } => Event::Lost { bytes, why: why.name().to_owned() },
            Happening::Armed { timer, at } => {
                Event::Armed { timer: timer.name().to_owned(), after: at.since(traced.at).as_micros() }
            }
            Happening::Stopped { timer } => Event::Stopped { timer: timer.name().to_owned() },
            Happening::Fired { timer } => Event::Fired { timer: timer.name().to_owned() },
            Happening::Ended { reason } => Event::Ended { reason: reason_name(reason) },
        }
    }
}

/// As tcpdump writes them.
fn letters(flags: TcpFlags) -> String {
    let known = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
        (TcpFlags::AE, 'e'),
        (TcpFlags::ACK, '.'),
    ];
    known.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, letter)| letter).collect()
}

/// Linux's TCP_CA_*, as `ss` would name them.
fn recovery_name(number: u8) -> &'static str {
    match number {
        0 => "open",
        1 => "disorder",
        2 => "reducing",
        3 => "fast",
        _ => "loss",
    }
}

fn reason_name(reason: CloseReason) -> String {
    match reason {
        CloseReason::Finished => "finished".to_owned(),
        CloseReason::Reset => "reset".to_owned(),
        CloseReason::Refused => "refused".to_owned(),
        CloseReason::TimedOut => "timed_out".to_owned(),
        CloseReason::Unreachable(errno) => {
            let error = std::io::Error::from_raw_os_error(errno.into());
            format!("unreachable: {error}")
        }
        CloseReason::Aborted => "aborted".to_owned(),
    }
}

#[derive(Default)]
struct Shared {
    lost: AtomicU64,
    over: AtomicBool,
}

/// The shard's end of a trace. Its end is the trace's.
pub struct Tap {
    /// Names the trace between the threads.
    pub ticket: u32,
    pub connection: Option<ConnectionId>,
    happenings: Sender<Traced>,
    shared: Arc<Shared>,
}

/// The control thread's.
pub struct Source {
    pub happenings: Receiver<Traced>,
    shared: Arc<Shared>,
}

pub fn tap(ticket: u32) -> (Tap, Source) {
    let (sender, receiver) = mailbox::queue(QUEUE);
    let shared = Arc::new(Shared::default());
    let tap = Tap { ticket, connection: None, happenings: sender, shared: Arc::clone(&shared) };
    (tap, Source { happenings: receiver, shared })
}

impl Tap {
    pub fn record(&mut self, traced: Traced) {
        if self.happenings.send(traced).is_err() {
            self.lose(1);
        }
    }

    pub fn lose(&mut self, happenings: u64) {
        self.shared.lost.fetch_add(happenings, Ordering::Relaxed);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
    }
}

impl Source {
    /// Happenings lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }

    /// Nothing more will come than what is in the queue.
    pub fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persona_stack::Why;

    fn traced(what: Happening) -> Traced {
        let connection = Some(ConnectionId { index: 0, generation: 0 });
        Traced { at: Instant::from_micros(1_500), connection, what }
    }

    #[test]
    fn a_line_is_one_flat_object_and_comes_back() {
        let flags = TcpFlags(TcpFlags::ACK.0 | TcpFlags::PSH.0);
        let sent = Happening::Sent { seq: 1 << 40, len: 1448, flags, ack: 7, window: 65_535, why: Why::Rack };
        let line = Line::of(&traced(sent), Instant::from_micros(500), Congestion::Cubic);
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"t":1000,"event":"sent","seq":1099511627776,"len":1448,"flags":"P.","ack":7,"window":65535,"why":"rack"}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        let window = Happening::Window { cwnd: 10, ssthresh: u32::MAX, pacing: 0, in_flight: 1, mode: 1 };
        let line = Line::of(&traced(window), Instant::default(), Congestion::Bbr);
        let expected = Event::Window { cwnd: 10, ssthresh: None, pacing: 0, in_flight: 1, mode: "drain".to_owned() };
        assert_eq!(line.event, expected);
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn a_full_queue_counts_and_the_end_is_seen_after_what_is_in_it() {
        let (mut tap, mut source) = tap(1);
        for _ in 0..QUEUE + 5 {
            tap.record(traced(Happening::Delivered { total: 1 }));
        }
        assert!(!source.is_over());
        drop(tap);
        assert!(source.is_over() && source.happenings.receive().is_some());
        assert_eq!((source.take_lost(), source.take_lost()), (5, 0));
    }
}
