//! The receive window: what is offered, when it is worth telling, and how it is scaled. It never shrinks (RFC 9293
//! section 3.8.6), beyond what scaling cuts off (RFC 7323 section 2.4), and never grows in silly steps (section
//! 3.8.6.2.2).

use super::block::{Tcb, flag};
use super::seq;
use super::state::State;

/// Least receive buffer, as Linux's SOCK_MIN_RCVBUF.
pub(crate) const LEAST_BUFFER: u32 = 2_304;
/// Scale that we offer: enough for 4 MiB and more, and the same as a stock Linux offers.
pub(crate) const SCALE: u8 = 7;
/// RFC 7323 section 2.3: a larger one is taken as this.
pub(crate) const MAX_SCALE: u8 = 14;
/// First window on the wire, where no scale applies yet.
const UNSCALED: u64 = 65_535;

impl Tcb {
    /// Where the window would end if it were told now, in steps that are worth a segment.
    #[inline]
    fn right_edge(&self) -> u64 {
        if self.state() == State::SynReceived {
            // Our SYN,ACK may go out again, and cannot tell more than it did.
            return self.rcv_adv;
        }
        let possible = self.rcv_read + u64::from(self.rcv_buffer);
        let least = u64::from(self.rcv_mss.max(536)).min(u64::from(self.rcv_buffer / 2));
        if possible >= self.rcv_adv + least { possible } else { self.rcv_adv }
    }

    /// Growth of the window that deserves a segment of its own: a quarter of the buffer, at least the smaller of one
    /// segment and half of the buffer.
    #[inline]
    fn update_step(&self) -> u64 {
        let buffer = u64::from(self.rcv_buffer);
        (buffer / 4).max(u64::from(self.rcv_mss.max(536)).min(buffer / 2))
    }

    /// Stream offset that the application's read cursor has to reach for a window update.
    #[inline]
    pub(crate) fn window_update_at(&self) -> u64 {
        seq::offset((self.rcv_adv + self.update_step()).saturating_sub(u64::from(self.rcv_buffer)))
    }

    /// Whether the application has read enough for a window update.
    #[inline]
    pub(crate) fn window_update_due(&self) -> bool {
        self.rcv_read + u64::from(self.rcv_buffer) >= self.rcv_adv + self.update_step()
    }

    /// The window field of the segment that is about to be sent; moves the right edge.
    #[inline]
    pub(crate) fn offer_window(&mut self) -> u16 {
        let window = self.right_edge().saturating_sub(self.rcv_nxt);
        let field = (window >> self.rcv_scale).min(u64::from(u16::MAX));
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + (field << self.rcv_scale));
        field as u16
    }

    /// The window field of a SYN or SYN,ACK (RFC 7323 section 2.2: never scaled).
    pub(crate) fn offer_first_window(&mut self) -> u16 {
        let window = u64::from(self.rcv_buffer).min(UNSCALED);
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + window);
        window as u16
    }

    /// Notes a window that the peer offers.
    #[inline]
    pub(crate) fn take_window(&mut self, window: u32, seq: u64) {
        self.snd_wnd = window;
        self.max_wnd = self.max_wnd.max(window);
        self.snd_wl1 = seq as u32;
    }

    /// Whether `offered` is the first window of zero, or the first that is not, in a row.
    #[inline]
    pub(crate) fn note_zero_window(&mut self, offered: u16) -> Option<bool> {
        let zero = offered == 0;
        if zero == self.has(flag::ZERO_WINDOW) {
            return None;
        }
        if zero {
            self.set(flag::ZERO_WINDOW);
        } else {
            self.clear(flag::ZERO_WINDOW);
        }
        Some(zero)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::SocketOptions;
    use crate::flow::Flow;
    use proptest::prelude::*;

    fn tcb(buffer: u32) -> Tcb {
        let settings = Settings::new(&SocketOptions { receive_buffer: Some(buffer), ..Default::default() });
        let mut tcb = Tcb::new(Flow::default(), 0, 0, settings, State::Established);
        tcb.rcv_nxt = seq::FIRST;
        tcb.rcv_mss = 1448;
        tcb
    }

    proptest! {
        /// Whatever arrives and is read, the right edge only moves right, the buffer is never over-committed, and a
        /// reader that has caught up always finds an update due before the window is shut.
        #[test]
        fn honest(buffer in LEAST_BUFFER..5_000_000, scale in 0u8..8, steps in prop::collection::vec((any::<bool>(), 0u64..100_000), 1..200)) {
            let mut tcb = tcb(buffer);
            tcb.rcv_scale = scale;
            let mut edge = tcb.rcv_adv;
            for (arrives, amount) in steps {
                if arrives {
                    tcb.rcv_nxt += amount.min(tcb.rcv_adv - tcb.rcv_nxt);
                } else {
                    tcb.rcv_read += amount.min(tcb.rcv_nxt - tcb.rcv_read);
                }
                tcb.offer_window();
                prop_assert!(tcb.rcv_adv >= edge);
                prop_assert!(tcb.rcv_adv <= tcb.rcv_read + u64::from(buffer));
                prop_assert!(seq::offset(tcb.rcv_nxt) < tcb.window_update_at() || tcb.rcv_adv > tcb.rcv_nxt
                    || tcb.rcv_read < tcb.rcv_nxt);
                edge = tcb.rcv_adv;
            }
        }
    }

    #[test]
    fn small_reads_do_not_move_the_edge() {
        let mut tcb = tcb(10_000);
        tcb.offer_window();
        let edge = tcb.rcv_adv;
        tcb.rcv_nxt += 5_000;
        tcb.rcv_read += 1_000;
        tcb.offer_window();
        assert_eq!(tcb.rcv_adv, edge, "less than a segment");
        assert!(!tcb.window_update_due());
        tcb.rcv_read += 1_500;
        assert!(tcb.window_update_due());
        assert_eq!(tcb.window_update_at(), 2_500);
        tcb.offer_window();
        assert_eq!(tcb.rcv_adv, edge + 2_500);
    }
}
