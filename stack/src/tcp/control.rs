//! What happens to an open connection from outside the stream: options, urgent data, ICMP errors (RFC 5927, RFC 1191).

use super::block::{NEVER, Tcb, change, flag};
use super::settings::{Settings, setting};
use super::state::State;
use super::{Conn, handshake, seq};
use crate::api::{CloseReason, Host, SocketOptions};
use crate::counters::Counter;
use crate::ip::IcmpError;
use crate::wire::SeqNumber;

/// RFC 1191 section 7: what paths carry, for routers that do not say.
const PLATEAUS: [u16; 8] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 576];
const ECONNREFUSED: u16 = 111;

impl Tcb {
    /// Bytes were received that the application has not read, as far as the stack was told.
    pub(crate) fn unread(&self) -> bool {
        self.rcv_end() > seq::offset(self.rcv_read)
    }
}

impl Conn<'_, '_> {
    pub(crate) fn set_options<H: Host>(&mut self, host: &mut H, options: &SocketOptions) {
        let old = self.tcb.settings;
        let mut new = Settings::new(options);
        if self.tcb.state().synchronised() {
            // As on Linux, TCP_MAXSEG counts until both sides have announced theirs.
            new.max_segment = old.max_segment;
        }
        self.tcb.settings = new;
        // A window that was offered is not taken back: a smaller buffer shows as data is read.
        let grown = if new.has(setting::TUNE_RECEIVE) { self.tcb.rcv_buffer } else { 0 };
        self.tcb.rcv_buffer = new.first_receive_buffer().max(grown.min(new.receive_buffer));
        if new.max_segment != old.max_segment {
            self.tcb.update_mss();
        }
        if new.congestion != old.congestion {
            self.start_control();
        }
        if new.has(setting::QUICKACK) && !old.has(setting::QUICKACK) {
            self.tcb.clear(flag::PINGPONG);
            if self.tcb.ack_at != NEVER {
                self.send_ack(host);
            }
        }
        if self.tcb.state().synchronised() {
            self.start_idle_timer();
            // Nagle and cork may have held something back.
            self.push(host);
        }
        self.rearm();
    }

    pub(crate) fn urgent(&mut self, end: u64) {
        if self.tcb.state().sends() {
            self.tcb.snd_up = self.tcb.snd_up.max(seq::FIRST + end);
        }
    }

    /// The way to the peer is gone while the connection is being opened.
    pub(crate) fn unreachable(&mut self, errno: u16) {
        self.env.count(Counter::TcpAttemptFails);
        self.end(if errno == ECONNREFUSED { CloseReason::Refused } else { CloseReason::Unreachable(errno) });
    }

    /// A router or the peer's host reports an error about a segment with number `about`.
    pub(crate) fn on_icmp_error<H: Host>(&mut self, host: &mut H, error: IcmpError, about: SeqNumber) {
        // RFC 5927 section 4.1: only what is in flight can have caused it.
        let seq = seq::from_wire(self.tcb.iss, self.tcb.snd_una, about);
        if seq < self.tcb.snd_una || seq > self.tcb.snd_nxt {
            self.env.count(Counter::TcpExtOutOfWindowIcmps);
            return;
        }
        if let IcmpError::FragmentationNeeded { mtu } = error {
            self.shrink_path(host, mtu);
            return;
        }
        // RFC 9293 section 3.9.2.2 would go on for soft errors; RFC 5461 describes what Linux and others do, which applications
        // with several addresses to try rely on.
        if matches!(self.tcb.state(), State::SynSent | State::SynReceived) {
            self.unreachable(error.errno());
            return;
        }
        // RFC 9293 section 3.9.2.2: not fatal; told when asked for, or when the connection fails.
        self.tcb.soft_error = error.errno();
        self.changed(change::SOFT_ERROR);
    }

    /// Path MTU discovery (RFC 1191 sections 3 and 6).
    fn shrink_path<H: Host>(&mut self, host: &mut H, mtu: u16) {
        let sysctls = &self.env.globals.sysctls;
        let least = u16::try_from(sysctls.min_pmtu).unwrap_or(u16::MAX);
        let old = self.tcb.pmtu;
        let mtu = match (sysctls.ip_no_pmtu_disc, mtu) {
            // Linux: the size is not believed, the fact is; or neither.
            (1, _) => least,
            (2, _) => return,
            (_, 0) => PLATEAUS.into_iter().find(|plateau| *plateau < old).unwrap_or(least),
            (_, mtu) => mtu,
        };
        let mtu = mtu.max(least);
        if mtu >= old {
            return;
        }
        self.tcb.pmtu = mtu;
        self.tcb.update_mss();
        self.env.count(Counter::TcpExtTCPMTUPFail);
        let tcb = &*self.tcb;
        if !tcb.state().synchronised() || tcb.in_flight() == 0 {
            return;
        }
        // What is in flight was too large and is lost, for no reason of congestion: sent again in smaller pieces.
        self.enter_refit();
        let tcb = &*self.tcb;
        debug_assert!(tcb.mss >= handshake::LEAST_MSS - super::emit::TIMESTAMPS_LEN);
        self.push(host);
    }
}
