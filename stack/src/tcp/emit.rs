//! Segments of a connection: link, IP and TCP header of one outgoing (super-)segment, and what its departure changes.

use super::block::{Tcb, flag};
use super::{Conn, ecn, seq};
use crate::api::Host;
use crate::counters::Counter;
use crate::env::Unsent;
use crate::frame::{Gso, Owner, Payload, PortId, TxChecksum};
use crate::ip::{LINK_ROOM, Outgoing};
use crate::time::Instant;
use crate::wire::tcp::CHECKSUM_OFFSET;
use crate::wire::{
    Ipv4Repr, SackBlock, SackBlocks, SeqNumber, TcpFlags, TcpOptions, TcpRepr, Timestamps, checksum, protocol,
};

/// Bytes of the timestamps option with its padding.
pub(crate) const TIMESTAMPS_LEN: u16 = 12;

/// The timestamp clock: milliseconds, as Linux's.
#[inline]
pub(crate) fn stamp(now: Instant, offset: u32) -> u32 {
    ((now.as_micros() / 1_000) as u32).wrapping_add(offset)
}

/// The coarse clock of what lasts for days.
#[inline]
pub(crate) fn seconds(now: Instant) -> u32 {
    (now.as_micros() / 1_000_000) as u32
}

impl Tcb {
    /// Options of any segment after the handshake, written where they are wanted: they are too long to be passed on.
    #[inline]
    pub(crate) fn fill_options(&self, now: Instant, options: &mut TcpOptions) {
        if self.has(flag::TIMESTAMPS) {
            options.timestamps = Some(Timestamps { value: stamp(now, self.ts_offset), echo: self.ts_recent });
        }
        if self.has(flag::SACK) && self.reports_sack() {
            options.sack = self.outgoing_sack();
        }
        if self.sends_ecn_bytes() {
            self.fill_ecn_bytes(options);
        }
    }

    #[cold]
    fn outgoing_sack(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let mut push = |[start, end]: [u32; 2]| {
            if start != end {
                blocks.push(SackBlock { start: SeqNumber(start), end: SeqNumber(end) });
            }
        };
        // RFC 2883 section 4: the duplicate comes first.
        push(self.dsack);
        self.sack_blocks.into_iter().for_each(push);
        blocks
    }

    /// Whether the next segment carries SACK blocks.
    #[inline]
    fn reports_sack(&self) -> bool {
        self.ofo_count > 0 || self.dsack[0] != self.dsack[1]
    }

    /// Payload bytes of a wire segment sent now: the MSS less what options other than timestamps take.
    #[inline]
    pub(crate) fn payload_mss(&self) -> u32 {
        let extra = self.has(flag::SACK) && self.reports_sack() || self.sends_ecn_bytes();
        if !extra {
            return u32::from(self.mss);
        }
        let mut options = TcpOptions::default();
        self.fill_options(Instant::default(), &mut options);
        let counted = if self.has(flag::TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 };
        u32::from(self.mss.saturating_sub(options.len() as u16 - counted).max(1))
    }
}

impl Conn<'_, '_> {
    /// Makes sure that the way to the peer is known: looked up again only when routes or addresses have changed.
    #[inline]
    pub(crate) fn resolve(&mut self) -> Result<(), Unsent> {
        let generation = self.env.net.routes.generation();
        if self.tcb.path_generation == generation {
            return Ok(());
        }
        let flow = &self.tcb.flow;
        let path = self.env.route(flow.remote.into(), Some(flow.local.into())).ok_or(Unsent::NoRoute)?;
        let tcb = &mut *self.tcb;
        tcb.next_hop = path.next_hop.into();
        tcb.port = path.port.0;
        tcb.path_generation = generation;
        Ok(())
    }

    /// Sends `len` payload bytes from `from` on with `flags`. Nothing has changed when it was not sent.
    pub(crate) fn emit<H: Host>(
        &mut self,
        host: &mut H,
        from: u64,
        len: u32,
        flags: TcpFlags,
        payload_mss: u32,
    ) -> Result<(), Unsent> {
        self.resolve()?;
        let edge = self.tcb.rcv_adv;
        let window = self.tcb.offer_window();
        let urgent = self.urgent_pointer(from);
        let flags = if urgent == 0 { flags } else { flags | TcpFlags::URG };
        let (ecn, codepoint) = self.tcb.ecn_outgoing(from, len, flags);
        let flags = flags | ecn;
        let mut repr = TcpRepr {
            source_port: self.tcb.flow.local_port,
            destination_port: self.tcb.flow.remote_port,
            seq: seq::to_wire(self.tcb.iss, from),
            ack: seq::to_wire(self.tcb.irs, self.tcb.rcv_nxt),
            flags,
            window,
            urgent,
            options: TcpOptions::default(),
        };
        self.tcb.fill_options(self.now, &mut repr.options);
        let sent = self.transmit(host, &repr, seq::offset(from), len, payload_mss, codepoint);
        if sent.is_err() {
            self.tcb.rcv_adv = edge;
            return sent;
        }
        if let Some(zero) = self.tcb.note_zero_window(window) {
            self.env.count(if zero { Counter::TcpExtTCPToZeroWindowAdv } else { Counter::TcpExtTCPFromZeroWindowAdv });
        }
        if flags.contains(TcpFlags::CWR) && !self.tcb.is_accurate() {
            self.tcb.ecn &= !ecn::bit::CWR_DUE;
        }
        if self.tcb.is_accurate() && flags.ack() {
            self.tcb.accurate_sent(self.now, repr.options.ecn_bytes.is_some());
        }
        if flags.ack() {
            let together = self.tcb.acknowledged();
            if together > 0 {
                self.env.count_many(Counter::TcpExtTCPAckCompressed, together.into());
            }
        }
        Ok(())
    }

    /// Sends `repr` with payload from the send stream. `codepoint`: ECN field of the IP header. Shared by handshake and
    /// stream.
    pub(crate) fn transmit<H: Host>(
        &mut self,
        host: &mut H,
        repr: &TcpRepr,
        offset: u64,
        len: u32,
        payload_mss: u32,
        codepoint: u8,
    ) -> Result<(), Unsent> {
        let tcb = &mut *self.tcb;
        let mut header = [0; LINK_ROOM + Ipv4Repr::LEN + TcpRepr::MAX_LEN];
        let (local, remote) = tcb.flow.v4();
        let tcp_len = repr.header_len() as u32 + len;
        Ipv4Repr {
            source: local,
            destination: remote,
            protocol: protocol::TCP,
            ttl: tcb.settings.ttl(&self.env.globals.sysctls),
            // The ECN field is not the application's, as on Linux.
            tos: (tcb.settings.tos & !ecn::codepoint::MASK) | codepoint,
            identification: tcb.ip_id,
            dont_fragment: self.env.globals.sysctls.ip_no_pmtu_disc == 0,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: tcp_len as u16,
        }
        .emit(&mut header[LINK_ROOM..]);
        let pseudo = checksum::pseudo_v4(local, remote, protocol::TCP, tcp_len);
        let tcp = &mut header[LINK_ROOM + Ipv4Repr::LEN..];
        let (header_len, payload, checksum) = if len == 0 {
            (repr.emit_complete(tcp, pseudo), Payload::None, TxChecksum::Complete)
        } else {
            let partial = TxChecksum::Partial { start: Ipv4Repr::LEN as u16, offset: CHECKSUM_OFFSET as u16 };
            let payload = Payload::Stream { owner: Owner(tcb.owner), offset, len };
            (repr.emit(tcp, pseudo), payload, partial)
        };
        let frame = Outgoing {
            header: &mut header[..LINK_ROOM + Ipv4Repr::LEN + header_len],
            payload,
            checksum,
            gso: (len > payload_mss).then_some(Gso { size: payload_mss as u16, repeats_ecn: tcb.is_accurate() }),
        };
        let (port, next_hop) = (PortId(tcb.port), tcb.next_hop);
        if self.env.net.output(self.now, port, next_hop, frame, host).is_err() {
            self.env.count(Counter::PersonaTxBusy);
            return Err(Unsent::Busy);
        }
        let wire_segments = len.div_ceil(payload_mss.max(1)).max(1);
        tcb.ip_id = tcb.ip_id.wrapping_add(wire_segments as u16);
        tcb.segs_out = tcb.segs_out.wrapping_add(wire_segments);
        self.env.count_many(Counter::TcpOutSegs, u64::from(wire_segments));
        if codepoint != ecn::codepoint::NOT_ECT {
            let l4s = codepoint == ecn::codepoint::ECT1;
            let counter = if l4s { Counter::PersonaOutECT1Segs } else { Counter::PersonaOutECT0Segs };
            self.env.count_many(counter, u64::from(wire_segments));
        }
        if self.env.trace.is_on() {
            self.trace_sent(repr, len);
        }
        Ok(())
    }

    /// RFC 9293 section 3.8.5: the pointer of a segment that begins at `from`; 0 when there is nothing urgent ahead.
    #[inline]
    fn urgent_pointer(&self, from: u64) -> u16 {
        if self.tcb.snd_up <= from {
            return 0;
        }
        (self.tcb.snd_up - from).min(u64::from(u16::MAX)) as u16
    }

    /// Bytes of payload that one call may send: what the port takes at once, in whole wire segments.
    #[inline]
    pub(crate) fn largest_payload(&self, payload_mss: u32) -> u32 {
        /// Ethernet, IPv4, and the longest TCP header.
        const HEADERS: u32 = (LINK_ROOM + Ipv4Repr::LEN + TcpRepr::MAX_LEN) as u32;
        /// An IPv4 packet is at most this long, cut or not.
        const LONGEST: u32 = 65_535;
        let most = self.env.max_segment(self.tcb.port).min(LONGEST).saturating_sub(HEADERS);
        // draft-ietf-ccwg-bbr section 5.6.3: what is paced leaves in pieces of a millisecond, at least two segments.
        let most = match self.sender_if_any().map_or(0, |sender| sender.pacing_rate) {
            0 => most,
            rate => most.min((rate / 1_000).min(u64::from(LONGEST)) as u32).max(most.min(2 * payload_mss)),
        };
        (most - most % payload_mss).max(payload_mss)
    }
}
