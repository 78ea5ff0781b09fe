//! The packet trace of a simulation: recorded always, written out when a run fails.

use super::frames::Frame;
use crate::wire::icmpv4::Icmpv4Repr;
use crate::wire::{ArpRepr, Ipv4View, TcpView, protocol};
use std::collections::VecDeque;
use std::fmt::Write;
use std::string::String;

/// One line of the trace.
#[derive(Clone, Debug)]
struct Line {
    at: u64,
    node: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Sent { summary: Summary, fate: &'static str },
    Arrived { summary: Summary, corrupt: bool },
    Note(String),
}

/// The first bytes of a frame are enough to describe it later.
#[derive(Clone, Debug)]
struct Summary {
    head: [u8; 96],
    len: usize,
    link: usize,
    gso_size: u16,
}

impl Summary {
    fn new(frame: &Frame, link: usize) -> Self {
        let mut head = [0; 96];
        let len = frame.bytes.len().min(head.len());
        head[..len].copy_from_slice(&frame.bytes[..len]);
        Self { head, len: frame.bytes.len(), link, gso_size: frame.gso_size }
    }

    fn describe(&self, out: &mut String) {
        let head = &self.head[self.link..self.head.len().min(self.len)];
        let Ok(header) = Ipv4View::new(head) else {
            let _ = match ArpRepr::parse(head) {
                Ok(arp) => write!(out, "ARP {:?} {} asks {}", arp.operation, arp.sender_ip, arp.target_ip),
                Err(_) => write!(out, "{} bytes that are neither IPv4 nor ARP", self.len),
            };
            return;
        };
        let payload = self.len.saturating_sub(self.link + header.header_len());
        let _ = write!(out, "{}", header.source());
        if header.is_fragment() {
            let more = if header.more_fragments() { "+" } else { "" };
            let (offset, id) = (header.fragment_offset(), header.identification());
            let _ = write!(out, " > {} fragment {offset}{more} of {id}, {payload} bytes", header.destination());
            return;
        }
        if header.protocol() == protocol::ICMP {
            let message = Icmpv4Repr::parse(header.rest());
            let kind = std::format!("{message:?}");
            let _ = write!(out, " > {} ICMP {:.40}", header.destination(), kind);
            return;
        }
        let Ok(tcp) = TcpView::new(header.rest()) else {
            let _ = write!(out, " > {} protocol {} {payload} bytes", header.destination(), header.protocol());
            return;
        };
        let len = payload.saturating_sub(tcp.header_len());
        let _ = write!(
            out,
            ":{} > {}:{} {:?} seq {}",
            tcp.source_port(),
            header.destination(),
            tcp.destination_port(),
            tcp.flags(),
            tcp.seq().0
        );
        if len > 0 {
            let _ = write!(out, "+{len}");
        }
        if self.gso_size != 0 {
            let _ = write!(out, " (in {}s)", self.gso_size);
        }
        if tcp.flags().ack() {
            let _ = write!(out, " ack {}", tcp.ack().0);
        }
        let _ = write!(out, " win {}", tcp.window());
        let options = tcp.options();
        if let Some(mss) = options.mss {
            let _ = write!(out, " mss {mss}");
        }
        if let Some(scale) = options.window_scale {
            let _ = write!(out, " wscale {scale}");
        }
        if options.sack_permitted {
            let _ = write!(out, " sackOK");
        }
        if let Some(timestamps) = options.timestamps {
            let _ = write!(out, " ts {} ecr {}", timestamps.value, timestamps.echo);
        }
        for block in options.sack.as_slice() {
            let _ = write!(out, " sack {}..{}", block.start.0, block.end.0);
        }
    }
}

/// The last lines of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    lines: VecDeque<Line>,
    keep: usize,
    origin: u64,
}

impl Trace {
    /// Keeps the last `keep` lines; times are written relative to `origin`, in microseconds.
    pub fn new(keep: usize, origin: u64) -> Self {
        Self { lines: VecDeque::new(), keep, origin }
    }

    fn push(&mut self, at: u64, node: usize, what: What) {
        if self.lines.len() == self.keep {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { at, node, what });
    }

    pub fn sent(&mut self, at: u64, node: usize, frame: &Frame, link: usize, lost: Option<&'static str>) {
        let summary = Summary::new(frame, link);
        self.push(at, node, What::Sent { summary, fate: lost.unwrap_or("") });
    }

    pub fn arrived(&mut self, at: u64, node: usize, frame: &Frame, link: usize) {
        let summary = Summary::new(frame, link);
        self.push(at, node, What::Arrived { summary, corrupt: frame.corrupt });
    }

    pub fn note(&mut self, at: u64, node: usize, text: String) {
        self.push(at, node, What::Note(text));
    }

    /// The trace as text, a line each.
    pub fn write(&self) -> String {
        let mut out = String::new();
        for line in &self.lines {
            let since = line.at.saturating_sub(self.origin);
            let _ = write!(out, "{:>6}.{:06} node {} ", since / 1_000_000, since % 1_000_000, line.node);
            match &line.what {
                What::Note(text) => out.push_str(text),
                What::Sent { summary, fate } => {
                    out.push_str("-> ");
                    summary.describe(&mut out);
                    if !fate.is_empty() {
                        let _ = write!(out, " [{fate}]");
                    }
                }
                What::Arrived { summary, corrupt } => {
                    out.push_str("<- ");
                    summary.describe(&mut out);
                    if *corrupt {
                        out.push_str(" [corrupt]");
                    }
                }
            }
            out.push('\n');
        }
        out
    }
}
