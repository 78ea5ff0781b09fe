//! The connection states of RFC 9293 section 3.3.2 that a control block can be in. LISTEN, SYN-RECEIVED of a passive open
//! and TIME-WAIT have records of their own; SYN-RECEIVED here is that of a simultaneous open.

/// State of a control block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Closed = 0,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    /// Only in reports: the record is a [`TimeWait`](super::block::TimeWait).
    TimeWait,
    /// Only in reports.
    Listen,
}

impl State {
    #[inline]
    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            1 => State::SynSent,
            2 => State::SynReceived,
            3 => State::Established,
            4 => State::FinWait1,
            5 => State::FinWait2,
            6 => State::CloseWait,
            7 => State::Closing,
            8 => State::LastAck,
            9 => State::TimeWait,
            10 => State::Listen,
            _ => State::Closed,
        }
    }

    /// Data can still arrive.
    #[inline]
    pub(crate) fn receives(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Data that the application writes can still be sent (or waits for the handshake).
    pub(crate) fn sends(self) -> bool {
        matches!(self, State::SynSent | State::SynReceived | State::Established | State::CloseWait)
    }

    /// The handshake is done.
    #[inline]
    pub(crate) fn synchronised(self) -> bool {
        !matches!(self, State::Closed | State::SynSent | State::SynReceived)
    }

    /// Name as `ss` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            State::Closed => "UNCONN",
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECV",
            State::Established => "ESTAB",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
            State::Listen => "LISTEN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn every_state_survives_the_record() {
        for byte in 0..=10 {
            assert_eq!(State::from_byte(byte) as u8, byte);
        }
        assert_eq!(State::from_byte(200), State::Closed);
    }
}
