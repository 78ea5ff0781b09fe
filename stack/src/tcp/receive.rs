//! Received data: trimming to the window, storing in and out of order, SACK and DSACK blocks to report, the FIN, the
//! urgent pointer. When it is acknowledged says `acknowledge`.

use super::acknowledge::Due;
use super::block::{Tcb, change, flag};
use super::handshake::announced_mss;
use super::ranges::Inserted;
use super::segment::{Arrival, Bytes};
use super::state::State;
use super::{Conn, seq};
use crate::api::{CloseReason, Host};
use crate::counters::Counter;
use crate::frame::Owner;
use crate::wire::SeqNumber;

/// Fewest bytes that count as a full segment in the estimate of the peer's segment size (RFC 9293 section 3.7.1).
const LEAST_MSS: u16 = 536;

impl Tcb {
    /// In-order bytes of the receive stream.
    #[inline]
    pub(crate) fn rcv_end(&self) -> u64 {
        let end = if self.rcv_fin != 0 { self.rcv_nxt.min(self.rcv_fin) } else { self.rcv_nxt };
        seq::offset(end)
    }

    /// The peer's FIN arrived in order.
    pub(crate) fn peer_closed(&self) -> bool {
        self.rcv_fin != 0 && self.rcv_nxt > self.rcv_fin
    }
}

impl Conn<'_, '_> {
    /// The segment is the next one in order and nothing about it is special, so that it may be stored before its
    /// checksum is known: what is beyond `rcv_nxt` is not published.
    #[inline]
    pub(crate) fn predicts(&self, arrival: &Arrival<'_>) -> bool {
        use crate::wire::TcpFlags;
        let tcb = &*self.tcb;
        let special = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST | TcpFlags::URG;
        tcb.state() == State::Established
            && !arrival.payload.is_empty()
            && !arrival.flags.intersects(special)
            && seq::to_wire(tcb.irs, tcb.rcv_nxt) == arrival.seq
            && tcb.ofo_count == 0
            && tcb.flags & (flag::ADOPTED | flag::ORPHAN) == flag::ADOPTED
            && tcb.rcv_nxt + arrival.payload.len() as u64 <= tcb.rcv_adv
    }

    /// Takes the payload and FIN of an acceptable segment that begins at `start`. `stored`: so many bytes at RCV.NXT
    /// have been stored already, together with the checksum's verification.
    pub(crate) fn receive<H: Host>(&mut self, host: &mut H, arrival: &Arrival<'_>, start: u64, stored: Option<usize>) {
        let fin = arrival.flags.fin();
        if arrival.payload.is_empty() && !fin {
            return;
        }
        if !self.tcb.state().receives() {
            // RFC 9293 section 3.10.7.4, seventh: after the peer's FIN nothing more can come; ignored.
            return;
        }
        if !self.tcb.has(flag::ADOPTED) {
            // Not acknowledged: the peer repeats it until the connection has an owner.
            return;
        }
        let end = start + arrival.payload.len() as u64;
        if self.tcb.has(flag::ORPHAN) && end > self.tcb.rcv_nxt {
            // Nobody will read it; the peer must know (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
            self.env.count(Counter::TcpExtTCPAbortOnData);
            self.send_rst(host);
            self.end(CloseReason::Aborted);
            return;
        }
        self.receive_marks(arrival);
        self.estimate_rcv_mss(arrival);
        let before = self.tcb.rcv_nxt;
        let due = if start <= before {
            self.in_order(host, arrival.payload, start, fin, stored)
        } else {
            self.out_of_order(host, arrival.payload, start, fin)
        };
        let now = self.account(arrival, before, due);
        if self.tcb.peer_closed() && before <= self.tcb.rcv_fin {
            self.on_fin(host);
        }
        if now && !self.tcb.has(flag::ENDED) {
            self.send_ack(host);
        }
    }

    fn in_order<H: Host>(
        &mut self,
        host: &mut H,
        payload: Bytes<'_>,
        start: u64,
        fin: bool,
        stored: Option<usize>,
    ) -> Due {
        let before = self.tcb.rcv_nxt;
        let old = (before - start).min(payload.len() as u64);
        if old > 0 && payload.len() as u64 == old {
            self.ack_was_lost();
        }
        if old > 0 {
            // RFC 2883 section 4: say which bytes came twice.
            self.duplicate(start, start + old, Counter::TcpExtTCPDSACKOldSent);
        }
        let fresh = payload.skip(old as usize);
        let room = self.tcb.rcv_adv.saturating_sub(before) as usize;
        let wanted = fresh.truncate(room);
        let taken = match stored {
            Some(taken) => taken,
            None if wanted.is_empty() => 0,
            None => wanted.store(host, Owner(self.tcb.owner), seq::offset(before)).len,
        };
        self.tcb.rcv_nxt = before + taken as u64;
        let complete = taken == fresh.len();
        if fin && complete {
            self.tcb.rcv_fin = before + taken as u64;
            self.tcb.rcv_nxt += 1;
        }
        if !complete {
            // Out of window, or the host has no memory now: only what was stored is acknowledged.
            self.env.count(Counter::TcpExtTCPRcvQDrop);
        }
        let filled = self.absorb();
        if old > 0 || filled || !complete {
            // RFC 5681 section 4.2: at once when a gap is filled, in whole or in part.
            return Due::Immediately;
        }
        if self.tcb.ofo_count > 0 { Due::Gap } else { Due::Usual }
    }

    /// Takes out-of-order ranges that RCV.NXT has reached. Whether there were any.
    #[inline]
    fn absorb(&mut self) -> bool {
        if self.tcb.ofo_count == 0 {
            return false;
        }
        let tcb = &mut *self.tcb;
        let mut reached = tcb.rcv_nxt;
        for range in self.env.ranges().iter(tcb.ofo_head) {
            if range.start > reached {
                break;
            }
            reached = reached.max(range.end);
        }
        self.env.ranges().remove_below(&mut tcb.ofo_head, &mut tcb.ofo_count, reached);
        let advanced = reached > tcb.rcv_nxt;
        tcb.rcv_nxt = reached;
        let floor = seq::to_wire(tcb.irs, reached);
        let old = core::mem::take(&mut tcb.sack_blocks);
        let above = |block: &[u32; 2]| block[0] != block[1] && SeqNumber(block[1]).after(floor);
        for (place, block) in tcb.sack_blocks.iter_mut().zip(old.into_iter().filter(above)) {
            *place = block;
        }
        advanced
    }

    fn out_of_order<H: Host>(&mut self, host: &mut H, payload: Bytes<'_>, start: u64, fin: bool) -> Due {
        let room = self.tcb.rcv_adv.saturating_sub(start) as usize;
        let wanted = payload.truncate(room);
        let tcb = &mut *self.tcb;
        // The record first: bytes that nobody remembers need not be stored. What may be stored less is corrected.
        let taken = if wanted.is_empty() {
            0
        } else if tcb.ofo_count >= super::ranges::MOST || !self.env.ranges_free() {
            self.env.count(Counter::TcpExtTCPOFODrop);
            return Due::Immediately;
        } else {
            wanted.store(host, Owner(self.tcb.owner), seq::offset(start)).len
        };
        let tcb = &mut *self.tcb;
        let complete = taken == payload.len();
        let mut end = start + taken as u64;
        if fin && complete {
            tcb.rcv_fin = end;
            end += 1;
        }
        if end == start {
            self.env.count(Counter::TcpExtTCPOFODrop);
            return Due::Immediately;
        }
        match self.env.ranges().insert(&mut tcb.ofo_head, &mut tcb.ofo_count, start, end) {
            Inserted::Covered { start: from, end: to, added } => {
                self.env.count(Counter::TcpExtTCPOFOQueue);
                if added < end - start {
                    self.env.count(Counter::TcpExtTCPOFOMerge);
                }
                self.report_sack(from, to);
                if added > 0 {
                    return Due::Gap;
                }
                self.duplicate(start, end, Counter::TcpExtTCPDSACKOfoSent);
            }
            Inserted::Full => {
                if fin && complete {
                    tcb.rcv_fin = 0;
                }
                self.env.count(Counter::PersonaRangesExhausted);
            }
        }
        Due::Immediately
    }

    /// RFC 2018 section 4: the range that the latest segment belongs to is reported first, then the others in the
    /// order in which they were reported before.
    fn report_sack(&mut self, from: u64, to: u64) {
        let tcb = &mut *self.tcb;
        let (start, end) = (seq::to_wire(tcb.irs, from), seq::to_wire(tcb.irs, to));
        let old = tcb.sack_blocks;
        let mut place = 1;
        tcb.sack_blocks = [[start.0, end.0], [0; 2], [0; 2]];
        for block in old {
            let swallowed = SeqNumber(block[0]).at_or_after(start) && SeqNumber(block[1]).at_or_before(end);
            if block[0] != block[1] && !swallowed && place < tcb.sack_blocks.len() {
                tcb.sack_blocks[place] = block;
                place += 1;
            }
        }
    }

    /// Notes a range that arrived twice, to be reported once.
    pub(crate) fn duplicate(&mut self, start: u64, end: u64, counter: Counter) {
        if self.tcb.has(flag::SACK) && self.env.globals.sysctls.dsack != 0 {
            let irs = self.tcb.irs;
            self.tcb.dsack = [seq::to_wire(irs, start).0, seq::to_wire(irs, end).0];
            self.env.count(counter);
        }
    }

    #[inline]
    fn estimate_rcv_mss(&mut self, arrival: &Arrival<'_>) {
        // Not beyond what we announced: a frame that somebody merged without saying so is no large segment.
        let most = announced_mss(self.tcb.pmtu, self.tcb.settings.max_segment);
        let size = arrival.wire_size().min(usize::from(most)) as u16;
        if size > self.tcb.rcv_mss {
            self.tcb.rcv_mss = size;
        } else if self.tcb.rcv_mss == 0 {
            self.tcb.rcv_mss = size.max(LEAST_MSS);
        }
    }

    /// The peer's FIN is in order: RFC 9293 section 3.10.7.4, eighth.
    fn on_fin<H: Host>(&mut self, host: &mut H) {
        self.changed(change::PEER_CLOSED);
        self.tcb.set(flag::ACK_NOW);
        match self.tcb.state() {
            State::SynReceived | State::Established => self.tcb.set_state(State::CloseWait),
            State::FinWait1 => self.tcb.set_state(State::Closing),
            State::FinWait2 => {
                self.send_ack(host);
                self.end_in_time_wait();
                return;
            }
            _ => return,
        }
        self.flush_later();
    }

    /// RFC 9293 section 3.10.7.4, sixth. The pointer names the byte after the urgent one (RFC 6093 section 2.2: so
    /// does everybody).
    pub(crate) fn take_urgent(&mut self, arrival: &Arrival<'_>, start: u64) {
        if !self.tcb.state().receives() || arrival.urgent == 0 {
            return;
        }
        // Linux's tcp_stdurg: the letter of RFC 961 names the urgent byte itself.
        let named = u64::from(self.env.globals.sysctls.stdurg != 0);
        let pointer = start + u64::from(arrival.urgent) + named;
        if pointer > self.tcb.rcv_up.max(self.tcb.rcv_read) {
            self.tcb.rcv_up = pointer;
            self.changed(change::URGENT);
        }
    }

    /// The application has read up to stream offset `offset`.
    pub(crate) fn read<H: Host>(&mut self, host: &mut H, offset: u64) {
        let read = seq::FIRST + offset.min(self.tcb.rcv_end());
        if read <= self.tcb.rcv_read {
            return;
        }
        self.tcb.rcv_read = read;
        self.tcb.tune_receive_buffer(self.now);
        if self.tcb.state().receives() && self.tcb.window_update_due() {
            self.send_ack(host);
        }
    }
}
