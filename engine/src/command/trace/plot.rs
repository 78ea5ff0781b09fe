//! The time-sequence plot (as tcptrace and Wireshark draw it): what was sent and why, what was acknowledged and reported, and
//! the window; below it congestion window and bytes in flight, and round trips, over the same time.
//!
//! It shows what this end sends, of which the trace knows why; what came, where that is by far the most.

use super::chart::{Band, Chart, Mark, Panel, Series, Shape, plain};
use crate::trace::{Event, Line};
use anyhow::{Result, bail};

/// Marks of one series that are drawn one by one; where there are more, those that touch are joined.
const MOST_MARKS: usize = 1_500;

/// So many times what was sent must have come for a plot of what came.
const MUCH_MORE: u64 = 8;

/// Reasons of segments, with the words of the legend and a colour.
const REASONS: [(&str, &str, &str); 8] = [
    ("new", "sent", "#1f4e9e"),
    ("rack", "again: RACK", "#d62728"),
    ("duplicates", "again: duplicate ACKs", "#e377c2"),
    ("tail_probe", "tail loss probe", "#ff7f0e"),
    ("timeout", "again: timeout", "#7b1113"),
    ("reneging", "again: reneging", "#bcbd22"),
    ("path_mtu", "again: path MTU", "#17becf"),
    ("probe", "window probe", "#7f7f7f"),
];

/// What is collected of a trace.
#[derive(Default)]
struct Collected {
    title: String,
    subtitle: String,
    end: f64,
    /// By place in [`REASONS`].
    segments: [Vec<Mark>; REASONS.len()],
    /// Where each of them ends, as far as was seen.
    sacks: Vec<Mark>,
    acks: Vec<(f64, f64)>,
    edges: Vec<(f64, f64)>,
    losses: Vec<(f64, f64, String)>,
    cwnd: Vec<(f64, f64)>,
    ssthresh: Vec<(f64, f64)>,
    in_flight: Vec<(f64, f64)>,
    srtt: Vec<(f64, f64)>,
    min_rtt: Vec<(f64, f64)>,
    rto: Vec<(f64, f64)>,
    bands: Vec<Band>,
    recovering: Option<(f64, String)>,
    highest: f64,
    dropped: u64,
}

/// The plot of a trace, as SVG.
pub(super) fn draw(lines: &[Line]) -> Result<String> {
    let data = |line: &&Line| matches!(&line.event, Event::Sent { len: 1.., .. } | Event::Received { len: 1.., .. });
    if lines.iter().filter(data).count() == 0 {
        bail!("nothing was sent or received while the trace ran: there is nothing to plot");
    }
    let bytes = |ours: bool| -> u64 {
        let amount = |line: &Line| match &line.event {
            Event::Sent { len, .. } if ours => u64::from(*len),
            Event::Received { len, .. } if !ours => u64::from(*len),
            _ => 0,
        };
        lines.iter().map(amount).sum()
    };
    let ours = MUCH_MORE * bytes(true) >= bytes(false);
    let mut collected = Collected::default();
    for line in lines {
        collected.take(line, ours);
    }
    Ok(collected.chart(ours).svg())
}

impl Collected {
    fn take(&mut self, line: &Line, ours: bool) {
        let at = line.t as f64 / 1e6;
        self.end = self.end.max(at);
        match &line.event {
            Event::Begin { local, remote, congestion, mss, .. } => {
                self.title = format!("{local} > {remote}");
                self.subtitle = format!("{congestion}, segments of {mss} bytes");
            }
            Event::Sent { seq, len, ack, window, why, .. } => {
                if ours {
                    self.segment(at, *seq, *len, why);
                } else {
                    self.acknowledged(at, *ack, *window);
                }
            }
            Event::Received { seq, len, ack, window, .. } => {
                if ours {
                    self.acknowledged(at, *ack, *window);
                } else {
                    self.segment(at, *seq, *len, "new");
                }
            }
            Event::Sack { start, end } if ours => {
                let title = format!("{}: SACK {start}:{end}", plain(at));
                self.sacks.push(Mark { at, from: *start as f64, to: *end as f64, title });
            }
            Event::Lost { bytes, why } if ours => {
                let title = format!("{}: {bytes} bytes count as lost ({why})", plain(at));
                let acked = self.acks.last().map_or(self.highest, |(_, ack)| *ack);
                self.losses.push((at, acked, title));
            }
            Event::Window { cwnd, ssthresh, in_flight, .. } => {
                self.cwnd.push((at, f64::from(*cwnd)));
                if let Some(ssthresh) = ssthresh {
                    self.ssthresh.push((at, f64::from(*ssthresh)));
                }
                self.in_flight.push((at, *in_flight as f64));
            }
            Event::Rtt { srtt, rto, min_rtt, .. } if *srtt > 0 => {
                let millis = |micros: u32| f64::from(micros) / 1e3;
                self.srtt.push((at, millis(*srtt)));
                self.min_rtt.push((at, millis(*min_rtt)));
                self.rto.push((at, millis(*rto)));
            }
            Event::Recovery { to, .. } => self.recovery(at, to),
            Event::Dropped { events } => self.dropped = self.dropped.saturating_add(*events),
            _ => {}
        }
    }

    fn segment(&mut self, at: f64, seq: u64, len: u32, why: &str) {
        if len == 0 {
            return;
        }
        let place = REASONS.iter().position(|(name, ..)| *name == why).unwrap_or(0);
        // A file may say anything.
        let end = seq.saturating_add(len.into());
        let (from, to) = (seq as f64, end as f64);
        let title = format!("{}: {} {seq}:{end} ({len} bytes)", plain(at), REASONS[place].1);
        self.highest = self.highest.max(to);
        self.segments[place].push(Mark { at, from, to, title });
    }

    fn acknowledged(&mut self, at: f64, ack: u64, window: u32) {
        if ack == 0 {
            return;
        }
        self.acks.push((at, ack as f64));
        self.edges.push((at, ack.saturating_add(window.into()) as f64));
    }

    fn recovery(&mut self, at: f64, to: &str) {
        if let Some((from, name)) = self.recovering.take() {
            let title = format!("{} to {}: recovery ({name})", plain(from), plain(at));
            self.bands.push(Band { from, to: at, title });
        }
        if matches!(to, "fast" | "loss" | "reducing") {
            self.recovering = Some((at, to.to_owned()));
        }
    }

    fn chart(mut self, ours: bool) -> Chart {
        self.recovery(self.end, "open");
        // A window that nobody could fill would press everything else flat.
        let roof = self.highest + 0.15 * self.highest.max(1.0);
        self.edges.iter_mut().for_each(|(_, edge)| *edge = edge.min(roof));
        if self.dropped > 0 {
            self.subtitle += &format!("; {} events are missing", self.dropped);
        }
        let marks =
            |name, colour, bold, marks| Series { name, colour, dashed: false, bold, shape: Shape::Marks(marks) };
        let line =
            |name, colour, dashed, points| Series { name, colour, dashed, bold: false, shape: Shape::Steps(points) };
        let end = self.end;
        let mut sequence = vec![
            line("receive window", "#c9a400", false, self.edges),
            line("acknowledged", "#2ca02c", false, self.acks),
            marks("SACK", "#9467bd", false, joined(self.sacks, end)),
        ];
        let shape = Shape::Crosses(self.losses);
        sequence.push(Series { name: "counts as lost", colour: "#555555", dashed: false, bold: false, shape });
        for ((why, name, colour), found) in REASONS.into_iter().zip(self.segments) {
            sequence.push(marks(if ours { name } else { "received" }, colour, why != "new", joined(found, end)));
        }
        let windows = vec![
            line("ssthresh", "#888888", true, self.ssthresh),
            line("in flight", "#ff7f0e", false, self.in_flight),
            line("cwnd", "#1f4e9e", false, self.cwnd),
        ];
        let times = vec![
            line("timeout", "#888888", true, self.rto),
            line("least", "#2ca02c", false, self.min_rtt),
            line("smoothed", "#1f4e9e", false, self.srtt),
        ];
        let panel = |title, height, series: Vec<Series>, label| Panel {
            title,
            height,
            series: series.into_iter().filter(|series| !series.shape.is_empty()).collect(),
            label,
        };
        Chart {
            title: self.title,
            subtitle: self.subtitle,
            end,
            panels: vec![
                panel("Sequence number", 430.0, sequence, size),
                panel("Congestion window, bytes", 170.0, windows, size),
                panel("Round trip, ms", 130.0, times, plain as fn(f64) -> String),
            ],
            bands: self.bands,
        }
    }
}

impl Shape {
    fn is_empty(&self) -> bool {
        match self {
            Shape::Marks(marks) => marks.is_empty(),
            Shape::Steps(points) => points.is_empty(),
            Shape::Crosses(points) => points.is_empty(),
        }
    }
}

/// Where there are many marks, those that touch within a pixel become one.
fn joined(marks: Vec<Mark>, end: f64) -> Vec<Mark> {
    if marks.len() <= MOST_MARKS {
        return marks;
    }
    let pixel = end / MOST_MARKS as f64;
    let mut few: Vec<Mark> = Vec::new();
    for mark in marks {
        match few.last_mut() {
            Some(last) if mark.at - last.at < pixel && mark.from <= last.to && mark.to >= last.from => {
                last.from = last.from.min(mark.from);
                last.to = last.to.max(mark.to);
                last.title = format!("{}: {}:{}", plain(last.at), last.from, last.to);
            }
            _ => few.push(mark),
        }
    }
    few
}

/// Bytes in thousands and millions.
fn size(bytes: f64) -> String {
    match bytes.abs() {
        many if many >= 1e6 => format!("{} M", plain((bytes / 1e3).round() / 1e3)),
        many if many >= 1e3 => format!("{} k", plain(bytes.round() / 1e3)),
        _ => plain(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(t: u64, seq: u64, why: &str) -> Line {
        let event = Event::Sent { seq, len: 1_000, flags: ".".into(), ack: 1, window: 500, why: why.into() };
        Line { t, event }
    }

    fn received(t: u64, ack: u64, len: u32) -> Line {
        Line { t, event: Event::Received { seq: 1, len, flags: ".".into(), ack, window: 60_000 } }
    }

    #[test]
    fn every_reason_has_a_mark_of_its_own_colour() {
        let mut lines: Vec<Line> =
            REASONS.iter().zip(0..).map(|((why, ..), at)| sent(at * 1_000, 1 + at * 1_000, why)).collect();
        lines.push(received(20_000, 8_001, 0));
        lines.push(Line { t: 21_000, event: Event::Sack { start: 9_001, end: 10_001 } });
        let svg = draw(&lines).unwrap();
        for (_, name, colour) in REASONS {
            assert!(svg.contains(&format!("stroke=\"{colour}\"")) && svg.contains(name), "{name}");
        }
        for words in ["SACK 9001:10001", "acknowledged", "receive window", "0.001: again: RACK 1001:2001 (1000 bytes)"]
        {
            assert!(svg.contains(words), "{words}");
        }
    }

    #[test]
    fn a_receiver_sees_what_came() {
        let svg = draw(&[received(1, 1, 50_000), sent(2, 1, "new")]).unwrap();
        assert!(svg.contains("received") && !svg.contains(">sent<"));
    }

    #[test]
    fn numbers_that_cannot_be_are_drawn_where_they_end() {
        let far =
            Event::Sent { seq: u64::MAX, len: u32::MAX, flags: ".".into(), ack: u64::MAX, window: 1, why: "?".into() };
        let dropped = || Line { t: u64::MAX, event: Event::Dropped { events: u64::MAX } };
        let lines = [Line { t: u64::MAX, event: far }, received(0, u64::MAX, 1), dropped(), dropped()];
        assert!(draw(&lines).unwrap().ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_is_no_plot() {
        assert_eq!(
            draw(&[received(1, 5, 0)]).unwrap_err().to_string(),
            "nothing was sent or received while the trace ran: there is nothing to plot"
        );
    }

    #[test]
    fn many_marks_become_few() {
        let lines: Vec<Line> = (0..50_000).map(|at| sent(at * 10, 1 + at * 1_000, "new")).collect();
        let svg = draw(&lines).unwrap();
        assert!(svg.matches("<path").count() < 2 * MOST_MARKS, "{}", svg.matches("<path").count());
    }
}
