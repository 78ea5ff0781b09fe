//! Options that are remembered and read back: switches, and numbers within bounds. Those that have an effect give it to the
//! stack's options beside; IP_RECVERR decides who is told of a soft error.
//!
//! What each of the others would do on Linux, and why it does nothing here, is said in `docs/sockopts.md`.

use super::Errno;
use super::socket::{SO_BUSY_POLL, SO_INCOMING_CPU};
use super::tcp::{TCP_DELACK_MAX_US, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_NOTSENT_LOWAT};
use super::tcp::{TCP_RTO_MAX_MS, TCP_RTO_MIN_US};

/// Any integer but 0 is "on".
const SWITCHES: [(i32, i32); 23] = [
    (libc::SOL_SOCKET, libc::SO_DEBUG),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, 41), // SO_WIFI_STATUS
    (libc::SOL_SOCKET, 43), // SO_NOFCS
    (libc::SOL_SOCKET, SO_LOCK_FILTER),
    (libc::SOL_SOCKET, 45), // SO_SELECT_ERR_QUEUE
    (libc::SOL_SOCKET, 69), // SO_PREFER_BUSY_POLL
    (libc::SOL_SOCKET, 75), // SO_RCVMARK
    (libc::SOL_SOCKET, 82), // SO_RCVPRIORITY
    (libc::IPPROTO_IP, libc::IP_RECVOPTS),
    (libc::IPPROTO_IP, libc::IP_RETOPTS),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_PASSSEC),
    (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR),
    (libc::IPPROTO_IP, 23), // IP_CHECKSUM
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
];

pub const SO_LOCK_FILTER: i32 = 44;

/// A number and its bounds.
struct Number {
    level: i32,
    name: i32,
    least: i32,
    most: i32,
    default: i32,
}

const fn number(level: i32, name: i32, least: i32, most: i32, default: i32) -> Number {
    Number { level, name, least, most, default }
}

const NUMBERS: [Number; 17] = [
    number(libc::SOL_SOCKET, libc::SO_PRIORITY, i32::MIN, i32::MAX, 0),
    number(libc::SOL_SOCKET, libc::SO_MARK, i32::MIN, i32::MAX, 0),
    number(libc::SOL_SOCKET, SO_BUSY_POLL, 0, i32::MAX, 0),
    number(libc::SOL_SOCKET, SO_INCOMING_CPU, i32::MIN, i32::MAX, -1),
    number(libc::SOL_SOCKET, 74, 0, 1, 1), // SO_TXREHASH
    number(libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, 0, 1, 0),
    number(libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 0, 2, 0),
    number(libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, i32::MIN, i32::MAX, 0),
    number(libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0, 1, 0),
    number(libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 0, 1, 0),
    number(libc::IPPROTO_TCP, TCP_RTO_MAX_MS, 1_000, 120_000, 120_000),
    number(libc::IPPROTO_TCP, TCP_RTO_MIN_US, 8_000, 200_000, 200_000),
    number(libc::IPPROTO_TCP, TCP_DELACK_MAX_US, 8_000, 200_000, 200_000),
    number(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, 0, 5, 1),
    number(libc::IPPROTO_IP, libc::IP_MINTTL, 0, 255, 0),
    number(libc::IPPROTO_IP, 26, 0, 1, 0), // IP_RECVERR_RFC4884
    number(libc::IPPROTO_IP, 49, 0, 1, 1), // IP_MULTICAST_ALL
];

#[derive(Clone, Copy, Debug)]
pub struct Kept {
    switches: u32,
    numbers: [i32; NUMBERS.len()],
}

const _: () = assert!(SWITCHES.len() <= 32);

impl Default for Kept {
    fn default() -> Self {
        Self { switches: 0, numbers: NUMBERS.map(|number| number.default) }
    }
}

fn switch(level: i32, name: i32) -> Option<usize> {
    SWITCHES.iter().position(|known| *known == (level, name))
}

fn place(level: i32, name: i32) -> Option<usize> {
    NUMBERS.iter().position(|known| (known.level, known.name) == (level, name))
}

impl Kept {
    pub fn set(&mut self, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        if let Some(bit) = switch(level, name) {
            self.switches = self.switches & !(1 << bit) | u32::from(value != 0) << bit;
            return Ok(());
        }
        let place = place(level, name).ok_or(libc::ENOPROTOOPT)?;
        self.numbers[place] = super::within(value, NUMBERS[place].least, NUMBERS[place].most)?;
        Ok(())
    }

    pub fn value(&self, level: i32, name: i32) -> Result<i32, Errno> {
        if let Some(bit) = switch(level, name) {
            return Ok((self.switches >> bit & 1) as i32);
        }
        Ok(self.numbers[place(level, name).ok_or(libc::ENOPROTOOPT)?])
    }

    /// Back to the default.
    pub fn reset(&mut self, level: i32, name: i32) {
        if let Some(place) = place(level, name) {
            self.numbers[place] = NUMBERS[place].default;
        }
    }
}
