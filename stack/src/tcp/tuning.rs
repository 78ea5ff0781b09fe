//! Buffers that grow with the path: the receive buffer with what the application reads in a round trip (dynamic right-sizing, as
//! Linux does it), the send buffer with the congestion window. Neither shrinks: what was offered is not taken back.

use super::block::Tcb;
use super::seq;
use super::settings::{Settings, setting};
use crate::time::Instant;

/// Linux's default of tcp_rmem, which a tuned buffer begins with.
pub(crate) const FIRST_RECEIVE_BUFFER: u32 = 131_072;
/// A tuned send buffer begins with this. A writer that is woken for every 128 KiB waits for a processor as often: on a veth
/// bulk sending fell by a quarter.
pub const FIRST_SEND_BUFFER: u32 = 1 << 20;
/// Without an estimate of the round trip, in microseconds.
const UNKNOWN_ROUND_TRIP: u32 = 1_000;
/// An initial window is no reason to grow, in segments.
const FIRST_SEGMENTS: u64 = 10;
/// What Linux allows for beside twice the amount read, in segments.
const SPARE_SEGMENTS: u64 = 16;

impl Settings {
    pub(crate) fn first_receive_buffer(&self) -> u32 {
        if self.has(setting::TUNE_RECEIVE) {
            self.receive_buffer.min(FIRST_RECEIVE_BUFFER)
        } else {
            self.receive_buffer
        }
    }
}

impl Tcb {
    /// The application has read: grows the buffer when it reads more in a round trip than in any before. The peer can then send
    /// in each round trip twice what was read in the last, so that slow start is never held back.
    #[inline]
    pub(crate) fn tune_receive_buffer(&mut self, now: Instant) {
        if !self.settings.has(setting::TUNE_RECEIVE) || self.rcv_buffer >= self.settings.receive_buffer {
            return;
        }
        let micros = now.as_micros() as u32;
        let round_trip = if self.srtt == 0 { UNKNOWN_ROUND_TRIP } else { self.srtt };
        if micros.wrapping_sub(self.tuned_at) < round_trip {
            return;
        }
        let read = seq::offset(self.rcv_read) as u32;
        let amount = u64::from(read.wrapping_sub(self.tuned_read));
        let most = u64::from(self.tuned_space).max(FIRST_SEGMENTS * u64::from(self.mss));
        if amount > most {
            let window = 2 * amount + SPARE_SEGMENTS * u64::from(self.rcv_mss);
            // The faster it grows, the more is allowed for.
            let ahead = window * (amount - most) / most;
            let buffer = (window + 2 * ahead).min(u64::from(self.settings.receive_buffer)) as u32;
            self.rcv_buffer = self.rcv_buffer.max(buffer);
            self.tuned_space = amount as u32;
        }
        self.tuned_at = micros;
        self.tuned_read = read;
    }

    /// Bytes that the application may have written and the peer not acknowledged: twice the congestion window, since one is in
    /// flight while the next is written.
    #[inline]
    pub(crate) fn send_room(&self) -> u32 {
        let most = self.settings.send_buffer;
        if !self.settings.has(setting::TUNE_SEND) {
            return most;
        }
        self.cwnd.saturating_mul(2).max(FIRST_SEND_BUFFER).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::state::State;
    use super::*;
    use crate::SocketOptions;
    use crate::flow::Flow;

    fn tcb(limit: u32) -> Tcb {
        let options = SocketOptions {
            receive_buffer: Some(limit),
            tune_receive: true,
            send_buffer: Some(limit),
            tune_send: true,
            ..Default::default()
        };
        let mut tcb = Tcb::new(Flow::default(), 0, 0, Settings::new(&options), State::Established);
        (tcb.rcv_mss, tcb.mss, tcb.srtt) = (1448, 1448, 10_000);
        tcb
    }

    /// A reader that takes all that comes: the window is what limits, and doubles at least with each round trip.
    #[test]
    fn grows_with_the_reader_up_to_the_limit() {
        let mut tcb = tcb(4 << 20);
        assert_eq!(tcb.rcv_buffer, FIRST_RECEIVE_BUFFER);
        let mut sizes = std::vec::Vec::new();
        for round in 1..12u64 {
            tcb.rcv_read += u64::from(tcb.rcv_buffer);
            tcb.tune_receive_buffer(Instant::from_micros(round * 10_000));
            sizes.push(tcb.rcv_buffer);
        }
        assert_eq!(*sizes.last().unwrap(), 4 << 20, "{sizes:?}");
        assert!(sizes.windows(2).all(|pair| pair[1] == 4 << 20 || pair[1] >= 2 * pair[0]), "{sizes:?}");
    }

    /// A reader that takes 10,000 bytes per round trip needs no more than it has.
    #[test]
    fn a_slow_reader_keeps_the_first_buffer() {
        let mut tcb = tcb(4 << 20);
        for round in 1..100u64 {
            tcb.rcv_read += 10_000;
            tcb.tune_receive_buffer(Instant::from_micros(round * 10_000));
        }
        assert_eq!(tcb.rcv_buffer, FIRST_RECEIVE_BUFFER);
    }

    #[test]
    fn room_to_write_follows_the_window() {
        let mut tcb = tcb(4 << 20);
        tcb.cwnd = 14_480;
        assert_eq!(tcb.send_room(), FIRST_SEND_BUFFER);
        tcb.cwnd = 700_000;
        assert_eq!(tcb.send_room(), 1_400_000);
        tcb.cwnd = 1 << 30;
        assert_eq!(tcb.send_room(), 4 << 20);
        tcb.settings.bits = 0;
        tcb.cwnd = 1;
        assert_eq!(tcb.send_room(), 4 << 20, "what was asked for");
    }
}
