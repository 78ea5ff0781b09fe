//! A trace for people: one line per event.

use crate::trace::{Event, Line};

/// Seconds since the trace began, and what happened.
pub(super) fn write(line: &Line) -> String {
    let seconds = line.t as f64 / 1e6;
    format!("{seconds:>11.6} {}", say(&line.event))
}

fn say(event: &Event) -> String {
    match event {
        Event::Begin { local, remote, state, congestion, mss, .. } => {
            format!("begin {local} > {remote} {state} {congestion} mss {mss}")
        }
        Event::Count { name, amount } => format!("count {name} +{amount}"),
        Event::Sent { seq, len, flags, ack, window, why } => {
            let again = if why == "new" { String::new() } else { format!(" ({why})") };
            format!("> {} [{flags}] ack {ack} win {window}{again}", span(*seq, *len))
        }
        Event::Received { seq, len, flags, ack, window } => {
            format!("< {} [{flags}] ack {ack} win {window}", span(*seq, *len))
        }
        Event::Sack { start, end } => format!("< sack {start}:{end}"),
        Event::State { from, to } => format!("state {from} -> {to}"),
        Event::Recovery { from, to } => format!("recovery {from} -> {to}"),
        Event::Window { cwnd, ssthresh, pacing, in_flight, mode } => {
            let ssthresh = ssthresh.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
            format!("window cwnd {cwnd} ssthresh {ssthresh} pacing {pacing} in flight {in_flight} mode {mode}")
        }
        Event::Reduction { delivered, sent, flight } => {
            format!("prr delivered {delivered} sent {sent} of {flight} in flight")
        }
        Event::Rtt { srtt, rttvar, rto, min_rtt } => format!("rtt {srtt}/{rttvar} us rto {rto} us min {min_rtt} us"),
        Event::Delivered { total } => format!("delivered {total}"),
        Event::Lost { bytes, why } => format!("lost {bytes} ({why})"),
        Event::Armed { timer, after } => format!("timer {timer} in {after} us"),
        Event::Stopped { timer } => format!("timer {timer} stopped"),
        Event::Fired { timer } => format!("timer {timer} fired"),
        Event::Ended { reason } => format!("ended {reason}"),
        Event::Dropped { events } => format!("dropped {events} events: this reader is too slow"),
    }
}

fn span(seq: u64, len: u32) -> String {
    format!("{seq}:{} len {len}", seq + u64::from(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_and_what() {
        let sent = Event::Sent { seq: 1, len: 1448, flags: "P.".into(), ack: 1, window: 65_536, why: "rack".into() };
        assert_eq!(
            write(&Line { t: 1_234_567, event: sent }),
            "   1.234567 > 1:1449 len 1448 [P.] ack 1 win 65536 (rack)"
        );
        let window = Event::Window { cwnd: 14_480, ssthresh: None, pacing: 0, in_flight: 0, mode: "slow_start".into() };
        assert_eq!(say(&window), "window cwnd 14480 ssthresh none pacing 0 in flight 0 mode slow_start");
    }
}
