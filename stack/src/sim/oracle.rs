//! What the wire alone shows: sequence numbers, windows, options, against the rules that hold for every TCP.
//!
//! Frames are looked at when they leave a node, in order, and when they arrive undamaged at the other, which is when
//! the other end may know what they say. Numbers are counted from the initial one of their direction: SYN is 0, the
//! first byte 1.

use super::frames::Frame;
use crate::frame::Owner;
use crate::wire::{Ipv4View, SeqNumber, TcpFlags, TcpView};
use std::collections::HashMap;
use std::format;
use std::string::String;
use std::vec::Vec;

type Address = (core::net::Ipv4Addr, u16);

/// One direction of a flow: what its sender has sent, and what it has been told.
#[derive(Clone, Debug)]
struct Direction {
    iss: SeqNumber,
    /// End of what was ever sent, SYN and FIN counted.
    sent_end: u64,
    fin_end: Option<u64>,
    last_ack: u64,
    /// Right edge of the window that this sender has offered; in the other direction's numbers.
    offered: u64,
    /// Right edge of the window that the peer has offered, as far as its frames arrived here.
    granted: u64,
    /// The same as the peer's last SYN said it.
    syn_granted: u64,
    own_scale: Option<u8>,
    peer_scale: Option<u8>,
    own_timestamps: bool,
    peer_timestamps: bool,
    last_timestamp: Option<u32>,
    own_sack: bool,
    peer_sack: bool,
    /// ECN flags of the last SYN of either side that had any, as a number (RFC 9768's ACE field).
    own_ecn: u8,
    peer_ecn: u8,
    /// Packets with data and CE that have arrived here.
    marks: u64,
}

impl Direction {
    fn new(iss: SeqNumber) -> Self {
        Self {
            iss,
            sent_end: 0,
            fin_end: None,
            last_ack: 0,
            offered: 0,
            granted: 0,
            syn_granted: 0,
            own_scale: None,
            peer_scale: None,
            own_timestamps: false,
            peer_timestamps: false,
            last_timestamp: None,
            own_sack: false,
            peer_sack: false,
            own_ecn: 0,
            peer_ecn: 0,
            marks: 0,
        }
    }

    /// `seq` counted from the initial number.
    fn place(&self, seq: SeqNumber) -> u64 {
        u64::from(seq.since(self.iss))
    }

    /// Shift of the windows that the peer sends, as this sender understands it.
    fn peer_shift(&self) -> u8 {
        if self.own_scale.is_some() { self.peer_scale.unwrap_or(0) } else { 0 }
    }

    /// AccECN was agreed on (RFC 9768 section 3.1.2).
    fn accurate(&self) -> bool {
        let answers = |ace: u8| (2..7).contains(&ace);
        self.own_ecn == 7 && answers(self.peer_ecn) || self.peer_ecn == 7 && answers(self.own_ecn)
    }

    fn own_shift(&self) -> u8 {
        if self.peer_scale.is_some() { self.own_scale.unwrap_or(0) } else { 0 }
    }
}

/// Counts of things that a scenario may want to have seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub segments: u64,
    pub data_bytes: u64,
    /// Bytes that had been sent before.
    pub repeated_bytes: u64,
    pub sack_blocks: u64,
    pub window_probes: u64,
    pub zero_windows: u64,
    pub resets: u64,
    pub timestamps: u64,
    /// Packets that left ECN-capable; segments that bore ECE and CWR.
    pub ecn_capable: u64,
    pub echoes: u64,
    /// Marks that AccECN's counters told, modulo eight and as often as they told them.
    pub exact_echoes: u64,
    pub window_reductions: u64,
}

impl Seen {
    /// RFC 3168 section 6.1: what may be ECN-capable, and what may bear ECE and CWR. `start`: of a segment of `len` bytes.
    fn check_ecn(&mut self, own: &Direction, tcp: &TcpView<'_>, ecn: u8, start: u64, len: u64) -> Result<(), String> {
        let flags = tcp.flags();
        if flags.syn() {
            return if ecn == 0 { Ok(()) } else { Err("a SYN that is ECN-capable".into()) };
        }
        let fresh = len > 0 && start >= own.sent_end;
        let agreed = own.own_ecn != 0 && own.peer_ecn != 0;
        if ecn != 0 {
            self.ecn_capable += 1;
            if !agreed || !fresh {
                return Err(format!("ECN-capable at {start}: new data: {fresh}, agreed upon: {agreed}"));
            }
        }
        if own.accurate() {
            // RFC 9768 section 3.2.2: how the SYN,ACK arrived in the first ACK, which was not ECN-capable; then a counter.
            let told = u64::from(flags.ace().wrapping_sub(5) & 7);
            let first = flags.ace() == 2 && start == 1 && own.sent_end == 1;
            self.exact_echoes += told;
            // A TIME-WAIT counts nothing.
            let over = flags.ace() == 0 && len == 0 && own.fin_end.is_some();
            return match first || over || told <= own.marks {
                true => Ok(()),
                false => Err(format!("ACE {} with {} marks arrived", flags.ace(), own.marks)),
            };
        }
        if flags.contains(TcpFlags::ECE) {
            self.echoes += 1;
            if !agreed || own.marks == 0 {
                return Err(format!("ECE; {} marks have arrived, agreed upon: {agreed}", own.marks));
            }
        }
        if flags.contains(TcpFlags::CWR) {
            self.window_reductions += 1;
            if !agreed || !fresh {
                return Err(format!("CWR at {start}: new data: {fresh}, agreed upon: {agreed}"));
            }
        }
        Ok(())
    }
}

/// All flows of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    directions: HashMap<(Address, Address), Direction>,
    pub seen: Seen,
}

impl Oracle {
    /// A frame leaves its sender. `source`: owner and stream offset of its first payload byte.
    pub fn on_departure(&mut self, frame: &Frame, link: usize, source: Option<(Owner, u64)>) -> Result<(), String> {
        let Some(place) = frame.tcp_place(link) else { return Ok(()) };
        let (from, to, tcp) = parse(frame, link, place.tcp, place.end);
        let (flags, options) = (tcp.flags(), tcp.options());
        let len = (place.end - place.payload) as u64;
        self.seen.segments += 1;
        if flags.rst() {
            self.seen.resets += 1;
            return Ok(());
        }
        if flags.syn() {
            let known = self.directions.get(&(from, to));
            if known.is_none_or(|known| known.iss != tcp.seq()) {
                let mut fresh = Direction::new(tcp.seq());
                // What the peer's SYN has said before ours was sent.
                if let Some(known) = known.filter(|known| flags.ack() || known.sent_end == 0) {
                    fresh.peer_scale = known.peer_scale;
                    fresh.peer_timestamps = known.peer_timestamps;
                    fresh.peer_sack = known.peer_sack;
                    fresh.peer_ecn = known.peer_ecn;
                    fresh.granted = known.syn_granted;
                }
                self.directions.insert((from, to), fresh);
            }
        }
        let other = self.directions.get(&(to, from)).cloned();
        let Some(own) = self.directions.get_mut(&(from, to)) else {
            return Err(format!("a segment of a flow that never sent SYN: {tcp:?}"));
        };
        let start = own.place(tcp.seq());
        if let (true, Some((_, offset))) = (len > 0, source) {
            // The stream's first byte follows SYN.
            if start.wrapping_sub(1) != offset {
                return Err(format!("stream offset {offset} travels under sequence number iss+{start}"));
            }
            self.seen.data_bytes += len;
            self.seen.repeated_bytes += own.sent_end.saturating_sub(start).min(len);
            if start + len > own.granted {
                let is_probe = len == 1 && start == own.granted;
                if !is_probe {
                    return Err(format!("sends {start}..{} beyond the window's edge {}", start + len, own.granted));
                }
                self.seen.window_probes += 1;
            }
        }
        let end = start + len + u64::from(flags.syn()) + u64::from(flags.fin());
        if let Some(fin_end) = own.fin_end
            && end > fin_end
        {
            return Err(format!("sends up to {end} although FIN was at {}", fin_end - 1));
        }
        if flags.fin() {
            if own.fin_end.is_some_and(|known| known != end) {
                return Err(format!("FIN at {} and at {}", own.fin_end.unwrap_or(0) - 1, end - 1));
            }
            own.fin_end = Some(end);
        }
        self.seen.check_ecn(own, &tcp, frame.bytes[link + 1] & 3, start, len)?;
        own.sent_end = own.sent_end.max(end);
        if flags.syn() {
            own.own_scale = options.window_scale;
            own.own_timestamps = options.timestamps.is_some();
            own.own_sack = options.sack_permitted;
            own.own_ecn = told_ecn(own.own_ecn, flags);
        }
        match options.timestamps {
            Some(timestamps) => {
                self.seen.timestamps += 1;
                if own.last_timestamp.is_some_and(|last| (timestamps.value.wrapping_sub(last) as i32) < 0) {
                    return Err(format!("timestamp went back from {:?} to {}", own.last_timestamp, timestamps.value));
                }
                own.last_timestamp = Some(timestamps.value);
                let agreed = own.own_timestamps && own.peer_timestamps;
                if !flags.syn() && !agreed {
                    return Err("timestamps that were not agreed upon".into());
                }
            }
            // RFC 7323 section 3.2: once agreed upon, in every segment but RST.
            None if !flags.syn() && own.own_timestamps && own.peer_timestamps => {
                return Err("a segment without the timestamps that were agreed upon".into());
            }
            None => {}
        }
        if flags.ack() {
            let Some(other) = other else {
                return Err("acknowledges a direction that never sent".into());
            };
            Self::check_ack(own, &other, &tcp, &mut self.seen)?;
        } else if !flags.syn() {
            return Err("a segment without ACK".into());
        }
        Ok(())
    }

    fn check_ack(own: &mut Direction, other: &Direction, tcp: &TcpView<'_>, seen: &mut Seen) -> Result<(), String> {
        let ack = other.place(tcp.ack());
        if ack > other.sent_end {
            return Err(format!("acknowledges {ack}, only {} were sent", other.sent_end));
        }
        if ack < own.last_ack {
            return Err(format!("ACK went back from {} to {ack}", own.last_ack));
        }
        own.last_ack = ack;
        let shift = if tcp.flags().syn() { 0 } else { own.own_shift() };
        let edge = ack + (u64::from(tcp.window()) << shift);
        seen.zero_windows += u64::from(tcp.window() == 0);
        // RFC 9293 section 3.8.6: a receiver should not shrink the window; but for what scaling rounds off (RFC 7323
        // section 2.4).
        if edge + (1 << own.own_shift()) <= own.offered {
            return Err(format!("window's edge went back from {} to {edge}", own.offered));
        }
        own.offered = own.offered.max(edge);
        let options = tcp.options();
        for (index, block) in options.sack.as_slice().iter().enumerate() {
            seen.sack_blocks += 1;
            if !(own.own_sack && own.peer_sack) {
                return Err("SACK that was not agreed upon".into());
            }
            let (start, end) = (other.place(block.start), other.place(block.end));
            let duplicate = index == 0 && start < ack;
            if start >= end || end > other.sent_end || (start <= ack && !duplicate) {
                return Err(format!("SACK block {start}..{end} with ACK {ack}, {} were sent", other.sent_end));
            }
        }
        Ok(())
    }

    /// A frame arrives undamaged where it was sent to: what it says is known there from now on.
    pub fn on_arrival(&mut self, frame: &Frame, link: usize) {
        // The first fragment that arrives may be the last that was missing.
        if let Some(whole) = &frame.whole {
            return self.on_arrival(whole, link);
        }
        let Some(place) = frame.tcp_place(link) else { return };
        let (from, to, tcp) = parse(frame, link, place.tcp, place.end);
        let (flags, options) = (tcp.flags(), tcp.options());
        if flags.rst() {
            return;
        }
        if flags.syn() && !self.directions.contains_key(&(to, from)) {
            // The peer has not sent anything yet; its initial number is filled in when it does.
            let number = Direction::new(if flags.ack() { tcp.ack() - 1 } else { SeqNumber(0) });
            self.directions.insert((to, from), number);
        }
        let Some(receiver) = self.directions.get_mut(&(to, from)) else { return };
        if flags.syn() {
            receiver.peer_scale = options.window_scale;
            receiver.peer_timestamps = options.timestamps.is_some();
            receiver.peer_sack = options.sack_permitted;
            receiver.peer_ecn = told_ecn(receiver.peer_ecn, flags);
            // The window of a SYN counts from the first byte on.
            receiver.syn_granted = 1 + u64::from(tcp.window());
            receiver.granted = receiver.granted.max(receiver.syn_granted);
        }
        receiver.marks += u64::from(frame.bytes[link + 1] & 3 == 3 && place.end > place.payload);
        if flags.ack() {
            let shift = if flags.syn() { 0 } else { receiver.peer_shift() };
            let edge = receiver.place(tcp.ack()) + (u64::from(tcp.window()) << shift);
            receiver.granted = receiver.granted.max(edge);
        }
    }

    /// Options of the flows, for a scenario that wants to know what was agreed upon: scale, SACK, timestamps.
    pub fn agreed(&self) -> Vec<(bool, bool, bool)> {
        let agreed = |it: &Direction| {
            let scale = it.own_scale.is_some() && it.peer_scale.is_some();
            (scale, it.own_sack && it.peer_sack, it.own_timestamps && it.peer_timestamps)
        };
        self.directions.values().map(agreed).collect()
    }
}

/// What a side has said of ECN, after one more SYN. One that is repeated may leave it out and take nothing back; but a question
/// is taken back by a SYN,ACK without an answer.
fn told_ecn(before: u8, flags: TcpFlags) -> u8 {
    match flags.ace() {
        0 if flags.ack() && matches!(before, 3 | 7) => 0,
        0 => before,
        ace => ace,
    }
}

fn parse(frame: &Frame, ip: usize, tcp: usize, end: usize) -> (Address, Address, TcpView<'_>) {
    let header = Ipv4View::new(&frame.bytes[ip..]).expect("a place has a header");
    let tcp = TcpView::new(&frame.bytes[tcp..end]).expect("a place has a header");
    ((header.source(), tcp.source_port()), (header.destination(), tcp.destination_port()), tcp)
}
