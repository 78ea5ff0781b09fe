//! Socket options, with Linux's numbers, lengths, ranges and errors.
//!
//! [`Settings`] is what a socket has been told; what the stack must know of it is [`Settings::stack`]. Options that
//! show a live connection (TCP_INFO, TCP_MAXSEG once connected) are answered by `inspect.rs`, and what concerns only
//! calls that wait by the library. Options that have no effect here but cannot do harm are remembered and read back, as
//! Linux does with many of its own ([`kept`]). `docs/sockopts.md` says of each option of Linux which of these it is, and
//! the tests hold it against the code.

mod ip;
mod kept;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;

use crate::control::ports::PortUser;
use crate::sysctl::Tunables;
use kept::Kept;
use persona_channel::stream::MAX_BUFFER;
use persona_stack::{FIRST_SEND_BUFFER, SocketOptions, Sysctls};

type Errno = i32;

/// Bytes of a value that a command carries.
pub const LONGEST_VALUE: usize = 24;

/// What the application has set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub stack: SocketOptions,
    pub reuse_address: bool,
    pub reuse_port: bool,
    /// SO_LINGER; the seconds stay when it is switched off.
    linger: bool,
    linger_seconds: u32,
    /// TCP_LINGER2 in seconds; 0: the default, negative: none.
    linger2: i32,
    receive_low: u32,
    /// SO_MAX_PACING_RATE in bytes per second.
    pacing_rate: u64,
    /// Which of SO_TIMESTAMP, SO_TIMESTAMPNS and their 64-bit forms is on; 0: none.
    timestamps: u8,
    /// SO_BUF_LOCK.
    buffer_locks: u8,
    /// TCP_QUICKACK is off.
    delays_acks: bool,
    window_clamp: u32,
    multicast_loop: bool,
    fastopen: u32,
    kept: Kept,
    limits: Limits,
}

/// Bounds and defaults of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most that SO_SNDBUF and SO_RCVBUF can ask for, as getsockopt shows it.
    pub send_buffer: u32,
    pub receive_buffer: u32,
    /// The most that a backlog counts for (net.core.somaxconn).
    pub backlog: u32,
    /// What a new socket starts with.
    pub defaults: SocketOptions,
}

impl Limits {
    pub fn of(tunables: &Tunables) -> Self {
        let mut defaults = tunables.options();
        let most = |bytes: u32| bytes.min(MAX_BUFFER);
        defaults.send_buffer = defaults.send_buffer.map(most);
        defaults.receive_buffer = defaults.receive_buffer.map(most);
        Self {
            send_buffer: most(tunables.send_asked.saturating_mul(2)),
            receive_buffer: most(tunables.receive_asked.saturating_mul(2)),
            backlog: tunables.somaxconn,
            defaults,
        }
    }
}

/// How far a socket has come, which a few options depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Neither listening nor connected nor on the way there.
    Idle,
    Listening,
    Connection,
}

/// What has to follow from a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Remembered, no more.
    Remembered,
    /// The stack's options changed.
    Stack,
    /// The send buffer's size changed as well.
    SendBuffer(u32),
}

/// An option's value on its way to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    bytes: [u8; 36],
    len: usize,
}

impl Value {
    pub fn int(value: i32) -> Self {
        Self::bytes(&value.to_ne_bytes())
    }

    pub fn bytes(value: &[u8]) -> Self {
        let mut bytes = [0; 36];
        let len = value.len().min(bytes.len());
        bytes[..len].copy_from_slice(&value[..len]);
        Self { bytes, len }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Settings {
    pub fn new(limits: Limits) -> Self {
        Self {
            stack: limits.defaults,
            reuse_address: false,
            reuse_port: false,
            linger: false,
            linger_seconds: 0,
            linger2: 0,
            receive_low: 1,
            pacing_rate: u64::MAX,
            timestamps: 0,
            buffer_locks: 0,
            delays_acks: false,
            window_clamp: 0,
            multicast_loop: true,
            fastopen: 0,
            kept: Kept::default(),
            limits,
        }
    }

    /// What a connection has from its listener: nearly everything, as on Linux.
    pub fn inherited(&self) -> Self {
        let mut settings = *self;
        settings.kept.reset(libc::SOL_SOCKET, libc::SO_PRIORITY);
        settings.kept.reset(libc::SOL_SOCKET, socket::SO_INCOMING_CPU);
        settings.stack.defer_accept = 0;
        Self { fastopen: 0, ..settings }
    }

    /// IP_RECVERR: errors that end nothing are told all the same.
    pub fn reports_errors(&self) -> bool {
        self.kept.value(libc::IPPROTO_IP, libc::IP_RECVERR) == Ok(1)
    }

    /// What a socket may write before anything is acknowledged.
    pub fn send_buffer(&self) -> u32 {
        let most = self.stack.send_buffer.unwrap_or(self.limits.send_buffer);
        if self.stack.tune_send { most.min(FIRST_SEND_BUFFER) } else { most }
    }

    pub fn receive_buffer(&self) -> u32 {
        self.stack.receive_buffer.unwrap_or(self.limits.receive_buffer)
    }

    /// A connection of this socket, as it stands against bind().
    pub fn port_user(&self, port: u16) -> PortUser {
        PortUser { port, reuse_address: self.reuse_address, reuse_port: self.reuse_port }
    }

    /// setsockopt. `value` is cut off at what a command carries, which is longer than any value that is taken.
    pub fn set(&mut self, level: i32, name: i32, value: &[u8], stage: Stage) -> Result<Effect, Errno> {
        match level {
            libc::SOL_SOCKET => self.set_socket(name, value),
            libc::IPPROTO_TCP => self.set_tcp(name, value, stage),
            libc::IPPROTO_IP => self.set_ip(name, value),
            _ => Err(libc::ENOPROTOOPT),
        }
    }

    /// getsockopt into `room` bytes, for what does not depend on a connection. `sysctls`: for what the socket has not been told.
    pub fn value(&self, level: i32, name: i32, room: usize, sysctls: &Sysctls) -> Result<Value, Errno> {
        match level {
            libc::SOL_SOCKET => self.socket_value(name, room),
            libc::IPPROTO_TCP => self.tcp_value(name, sysctls),
            libc::IPPROTO_IP => self.ip_value(name, sysctls),
            _ => Err(libc::ENOPROTOOPT),
        }
    }
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    let bytes = value.get(..4).ok_or(libc::EINVAL)?;
    Ok(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn within(number: i32, least: i32, most: i32) -> Result<i32, Errno> {
    if (least..=most).contains(&number) { Ok(number) } else { Err(libc::EINVAL) }
}

fn stack<T>(place: &mut T, value: T) -> Result<Effect, Errno> {
    *place = value;
    Ok(Effect::Stack)
}

/// A request that changes nothing is granted; what Linux would take and Persona does not have is refused like an option
/// that nobody knows, which is how programs find out what a kernel can do.
fn only_zero(number: i32) -> Result<Effect, Errno> {
    if number == 0 { Ok(Effect::Remembered) } else { Err(libc::ENOPROTOOPT) }
}
