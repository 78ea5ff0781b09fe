//! Socket options, with Linux's numbers, lengths, ranges and errors.
//!
//! [`Settings`] is what a socket has been told; what the stack must know of it is [`Settings::stack`]. Options that
//! show a live connection (TCP_INFO, TCP_MAXSEG once connected) are answered by `inspect.rs`. Options that have no
//! effect here but cannot do harm are remembered and read back, as Linux does with many of its own.

use persona_stack::{Congestion, Duration, FIRST_SEND_BUFFER, SocketOptions};

type Errno = i32;

/// Linux's smallest buffers, as getsockopt shows them (doubled).
const LEAST_SEND_BUFFER: u32 = 4_608;
const LEAST_RECEIVE_BUFFER: u32 = 2_304;

/// Linux's net.ipv4.ip_default_ttl.
const DEFAULT_TTL: u8 = 64;

/// What the application has set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub stack: SocketOptions,
    pub reuse_address: bool,
    pub reuse_port: bool,
    /// SO_LINGER: on, seconds.
    pub linger: Option<u32>,
    /// TCP_DEFER_ACCEPT in seconds; TCP_FASTOPEN queue length; TCP_LINGER2: remembered.
    pub defer_accept: u32,
    pub linger2: i32,
    pub notsent_low: u32,
    pub receive_low: u32,
    priority: u32,
    mark: u32,
    flags: u32,
    window_clamp: u32,
    mtu_discover: u32,
    min_ttl: u32,
    fastopen: u32,
    receive_timeout: [u8; 16],
    send_timeout: [u8; 16],
    limits: Limits,
}

/// Bounds and defaults of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most that SO_SNDBUF and SO_RCVBUF can ask for, as getsockopt shows it.
    pub send_buffer: u32,
    pub receive_buffer: u32,
    /// What a new socket starts with.
    pub defaults: SocketOptions,
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
    bytes: [u8; 32],
    len: usize,
}

impl Value {
    pub fn int(value: i32) -> Self {
        Self::bytes(&value.to_ne_bytes())
    }

    pub fn bytes(value: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let len = value.len().min(bytes.len());
        bytes[..len].copy_from_slice(&value[..len]);
        Self { bytes, len }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Flags that are remembered and read back.
mod flag {
    pub const BROADCAST: u32 = 1;
    pub const DONTROUTE: u32 = 1 << 1;
    pub const TIMESTAMP: u32 = 1 << 2;
    pub const RECVERR: u32 = 1 << 3;
    pub const FREEBIND: u32 = 1 << 4;
    pub const BIND_NO_PORT: u32 = 1 << 5;
    pub const THIN_LINEAR: u32 = 1 << 6;
    pub const THIN_DUPACK: u32 = 1 << 7;
    pub const SAVE_SYN: u32 = 1 << 8;
    pub const RECVTOS: u32 = 1 << 9;
    pub const RECVTTL: u32 = 1 << 10;
    pub const PKTINFO: u32 = 1 << 11;
}

// Constants that the libc crate does not have for every target.
const TCP_LINGER2: i32 = 8;
const TCP_NOTSENT_LOWAT: i32 = 25;
const SO_BUSY_POLL: i32 = 46;
const SO_INCOMING_CPU: i32 = 49;
const SO_MAX_PACING_RATE: i32 = 47;

impl Settings {
    pub fn new(limits: Limits) -> Self {
        Self {
            stack: limits.defaults,
            reuse_address: false,
            reuse_port: false,
            linger: None,
            defer_accept: 0,
            linger2: 60,
            notsent_low: u32::MAX,
            receive_low: 1,
            priority: 0,
            mark: 0,
            flags: 0,
            window_clamp: 0,
            mtu_discover: 1,
            min_ttl: 0,
            fastopen: 0,
            receive_timeout: [0; 16],
            send_timeout: [0; 16],
            limits,
        }
    }

    /// What a socket may write before anything is acknowledged.
    pub fn send_buffer(&self) -> u32 {
        let most = self.stack.send_buffer.unwrap_or(self.limits.send_buffer);
        if self.stack.tune_send { most.min(FIRST_SEND_BUFFER) } else { most }
    }

    /// setsockopt. `privileged`: the peer may exceed limits.
    pub fn set(&mut self, level: i32, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        match level {
            libc::SOL_SOCKET => self.set_socket(name, value),
            libc::IPPROTO_TCP => self.set_tcp(name, value),
            libc::IPPROTO_IP => self.set_ip(name, value),
            _ => Err(libc::ENOPROTOOPT),
        }
    }

    fn set_socket(&mut self, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        match name {
            libc::SO_LINGER => {
                let (on, seconds) = (int(value)?, int(value.get(4..).unwrap_or(&[]))?);
                self.linger = (on != 0).then_some(seconds.max(0) as u32);
                self.stack.linger_reset = self.linger == Some(0);
                return Ok(Effect::Stack);
            }
            libc::SO_RCVTIMEO => return remember(&mut self.receive_timeout, value),
            libc::SO_SNDTIMEO => return remember(&mut self.send_timeout, value),
            libc::SO_BINDTODEVICE => {
                return if value.iter().all(|&byte| byte == 0) { Ok(Effect::Remembered) } else { Err(libc::ENODEV) };
            }
            libc::SO_TYPE | libc::SO_PROTOCOL | libc::SO_DOMAIN | libc::SO_ERROR | libc::SO_ACCEPTCONN => {
                return Err(libc::ENOPROTOOPT);
            }
            libc::SO_SNDLOWAT => return Err(libc::ENOPROTOOPT),
            _ => {}
        }
        let number = int(value)?;
        let on = number != 0;
        match name {
            libc::SO_REUSEADDR => self.reuse_address = on,
            libc::SO_REUSEPORT => self.reuse_port = on,
            libc::SO_KEEPALIVE => return stack(&mut self.stack.keepalive, on),
            libc::SO_OOBINLINE => return stack(&mut self.stack.oob_inline, on),
            libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
                let size = doubled(number, self.limits.send_buffer, LEAST_SEND_BUFFER);
                self.stack.send_buffer = Some(size);
                self.stack.tune_send = false;
                return Ok(Effect::SendBuffer(size));
            }
            libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
                let size = doubled(number, self.limits.receive_buffer, LEAST_RECEIVE_BUFFER);
                self.stack.tune_receive = false;
                return stack(&mut self.stack.receive_buffer, Some(size));
            }
            libc::SO_RCVLOWAT => self.receive_low = number.max(1) as u32,
            libc::SO_PRIORITY => self.priority = number as u32,
            libc::SO_MARK => self.mark = number as u32,
            libc::SO_BROADCAST => self.flag(flag::BROADCAST, on),
            libc::SO_DONTROUTE => self.flag(flag::DONTROUTE, on),
            libc::SO_TIMESTAMP => self.flag(flag::TIMESTAMP, on),
            SO_BUSY_POLL | SO_INCOMING_CPU | SO_MAX_PACING_RATE => {}
            _ => return Err(libc::ENOPROTOOPT),
        }
        Ok(Effect::Remembered)
    }

    fn set_tcp(&mut self, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        match name {
            libc::TCP_CONGESTION => {
                return stack(&mut self.stack.congestion, Some(congestion(value).ok_or(libc::ENOENT)?));
            }
            // No upper layer protocol is there to be put on top (kernel TLS).
            libc::TCP_ULP => return Err(libc::ENOENT),
            _ => {}
        }
        let number = int(value)?;
        let on = number != 0;
        match name {
            libc::TCP_NODELAY => stack(&mut self.stack.nodelay, on),
            libc::TCP_CORK => stack(&mut self.stack.cork, on),
            libc::TCP_QUICKACK => stack(&mut self.stack.quickack, on),
            libc::TCP_MAXSEG => match number {
                0 => stack(&mut self.stack.max_segment, None),
                88..=32_767 => stack(&mut self.stack.max_segment, Some(number as u16)),
                _ => Err(libc::EINVAL),
            },
            libc::TCP_KEEPIDLE => stack(&mut self.stack.keep_idle, Some(seconds(number, 32_767)?)),
            libc::TCP_KEEPINTVL => stack(&mut self.stack.keep_interval, Some(seconds(number, 32_767)?)),
            libc::TCP_KEEPCNT => stack(&mut self.stack.keep_count, Some(within(number, 1, 127)? as u8)),
            libc::TCP_SYNCNT => stack(&mut self.stack.syn_retries, Some(within(number, 1, 127)? as u8)),
            libc::TCP_USER_TIMEOUT => {
                let timeout = u64::try_from(number).map_err(|_| libc::EINVAL)?;
                stack(&mut self.stack.user_timeout, (timeout != 0).then(|| Duration::from_millis(timeout)))
            }
            libc::TCP_DEFER_ACCEPT => remember_number(&mut self.defer_accept, number.max(0) as u32),
            libc::TCP_FASTOPEN => remember_number(&mut self.fastopen, within(number, 0, i32::MAX)? as u32),
            libc::TCP_WINDOW_CLAMP => remember_number(&mut self.window_clamp, number.max(0) as u32),
            TCP_NOTSENT_LOWAT => remember_number(&mut self.notsent_low, number as u32),
            TCP_LINGER2 => {
                self.linger2 = number;
                Ok(Effect::Remembered)
            }
            libc::TCP_THIN_LINEAR_TIMEOUTS => self.flagged(flag::THIN_LINEAR, on),
            libc::TCP_THIN_DUPACK => self.flagged(flag::THIN_DUPACK, on),
            libc::TCP_SAVE_SYN => self.flagged(flag::SAVE_SYN, on),
            _ => Err(libc::ENOPROTOOPT),
        }
    }

    fn set_ip(&mut self, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        // IP options take an int or a single byte.
        let number = if value.len() >= 4 { int(value)? } else { i32::from(*value.first().ok_or(libc::EINVAL)?) };
        let on = number != 0;
        match name {
            libc::IP_TOS => stack(&mut self.stack.tos, Some(number as u8)),
            libc::IP_TTL => match number {
                -1 => stack(&mut self.stack.ttl, None),
                1..=255 => stack(&mut self.stack.ttl, Some(number as u8)),
                _ => Err(libc::EINVAL),
            },
            libc::IP_MTU_DISCOVER => remember_number(&mut self.mtu_discover, within(number, 0, 5)? as u32),
            libc::IP_MINTTL => remember_number(&mut self.min_ttl, within(number, 0, 255)? as u32),
            libc::IP_RECVERR => self.flagged(flag::RECVERR, on),
            libc::IP_FREEBIND => self.flagged(flag::FREEBIND, on),
            libc::IP_BIND_ADDRESS_NO_PORT => self.flagged(flag::BIND_NO_PORT, on),
            libc::IP_RECVTOS => self.flagged(flag::RECVTOS, on),
            libc::IP_RECVTTL => self.flagged(flag::RECVTTL, on),
            libc::IP_PKTINFO => self.flagged(flag::PKTINFO, on),
            _ => Err(libc::ENOPROTOOPT),
        }
    }

    /// getsockopt, for what does not depend on a connection.
    pub fn value(&self, level: i32, name: i32) -> Result<Value, Errno> {
        let number = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&i32::from(self.linger.is_some()).to_ne_bytes());
                bytes[4..].copy_from_slice(&self.linger.unwrap_or(0).to_ne_bytes());
                return Ok(Value::bytes(&bytes));
            }
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => return Ok(Value::bytes(&self.receive_timeout)),
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => return Ok(Value::bytes(&self.send_timeout)),
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => return Ok(Value::bytes(&[])),
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                let mut name = [0; 16];
                let word = self.stack.congestion.unwrap_or_default().name().as_bytes();
                name[..word.len()].copy_from_slice(word);
                return Ok(Value::bytes(&name));
            }
            (libc::IPPROTO_IP, libc::IP_OPTIONS) => return Ok(Value::bytes(&[])),
            (libc::SOL_SOCKET, name) => self.socket_number(name)?,
            (libc::IPPROTO_TCP, name) => self.tcp_number(name)?,
            (libc::IPPROTO_IP, name) => self.ip_number(name)?,
            _ => return Err(libc::ENOPROTOOPT),
        };
        Ok(Value::int(number))
    }

    fn socket_number(&self, name: i32) -> Result<i32, Errno> {
        Ok(match name {
            libc::SO_REUSEADDR => self.reuse_address.into(),
            libc::SO_REUSEPORT => self.reuse_port.into(),
            libc::SO_KEEPALIVE => self.stack.keepalive.into(),
            libc::SO_OOBINLINE => self.stack.oob_inline.into(),
            libc::SO_SNDBUF => self.send_buffer() as i32,
            libc::SO_RCVBUF => self.stack.receive_buffer.unwrap_or(self.limits.receive_buffer) as i32,
            libc::SO_RCVLOWAT => self.receive_low as i32,
            libc::SO_SNDLOWAT => 1,
            libc::SO_PRIORITY => self.priority as i32,
            libc::SO_MARK => self.mark as i32,
            libc::SO_TYPE => libc::SOCK_STREAM,
            libc::SO_PROTOCOL => libc::IPPROTO_TCP,
            libc::SO_DOMAIN => libc::AF_INET,
            libc::SO_BROADCAST => self.has(flag::BROADCAST),
            libc::SO_DONTROUTE => self.has(flag::DONTROUTE),
            libc::SO_TIMESTAMP => self.has(flag::TIMESTAMP),
            SO_BUSY_POLL => 0,
            SO_INCOMING_CPU | SO_MAX_PACING_RATE => -1,
            _ => return Err(libc::ENOPROTOOPT),
        })
    }

    fn tcp_number(&self, name: i32) -> Result<i32, Errno> {
        let tcp = &self.stack;
        let seconds =
            |span: Option<Duration>, default: u64| span.map_or(default, |span| span.as_millis() / 1000) as i32;
        Ok(match name {
            libc::TCP_NODELAY => tcp.nodelay.into(),
            libc::TCP_CORK => tcp.cork.into(),
            libc::TCP_QUICKACK => tcp.quickack.into(),
            // Before a connection is there, Linux shows the smallest MSS it would assume.
            libc::TCP_MAXSEG => tcp.max_segment.unwrap_or(536).into(),
            libc::TCP_KEEPIDLE => seconds(tcp.keep_idle, 7_200),
            libc::TCP_KEEPINTVL => seconds(tcp.keep_interval, 75),
            libc::TCP_KEEPCNT => tcp.keep_count.unwrap_or(9).into(),
            libc::TCP_SYNCNT => tcp.syn_retries.unwrap_or(6).into(),
            libc::TCP_USER_TIMEOUT => tcp.user_timeout.map_or(0, |span| span.as_millis() as i32),
            libc::TCP_DEFER_ACCEPT => self.defer_accept as i32,
            libc::TCP_FASTOPEN => self.fastopen as i32,
            libc::TCP_WINDOW_CLAMP => self.window_clamp as i32,
            TCP_NOTSENT_LOWAT => self.notsent_low as i32,
            TCP_LINGER2 => self.linger2,
            libc::TCP_THIN_LINEAR_TIMEOUTS => self.has(flag::THIN_LINEAR),
            libc::TCP_THIN_DUPACK => self.has(flag::THIN_DUPACK),
            libc::TCP_SAVE_SYN => self.has(flag::SAVE_SYN),
            _ => return Err(libc::ENOPROTOOPT),
        })
    }

    fn ip_number(&self, name: i32) -> Result<i32, Errno> {
        Ok(match name {
            libc::IP_TOS => self.stack.tos.unwrap_or(0).into(),
            libc::IP_TTL => self.stack.ttl.unwrap_or(DEFAULT_TTL).into(),
            libc::IP_MTU_DISCOVER => self.mtu_discover as i32,
            libc::IP_MINTTL => self.min_ttl as i32,
            libc::IP_RECVERR => self.has(flag::RECVERR),
            libc::IP_FREEBIND => self.has(flag::FREEBIND),
            libc::IP_BIND_ADDRESS_NO_PORT => self.has(flag::BIND_NO_PORT),
            libc::IP_RECVTOS => self.has(flag::RECVTOS),
            libc::IP_RECVTTL => self.has(flag::RECVTTL),
            libc::IP_PKTINFO => self.has(flag::PKTINFO),
            _ => return Err(libc::ENOPROTOOPT),
        })
    }

    fn flag(&mut self, flag: u32, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    fn flagged(&mut self, flag: u32, on: bool) -> Result<Effect, Errno> {
        self.flag(flag, on);
        Ok(Effect::Remembered)
    }

    fn has(&self, flag: u32) -> i32 {
        i32::from(self.flags & flag != 0)
    }
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    let bytes = value.get(..4).ok_or(libc::EINVAL)?;
    Ok(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn within(number: i32, least: i32, most: i32) -> Result<i32, Errno> {
    if (least..=most).contains(&number) { Ok(number) } else { Err(libc::EINVAL) }
}

fn seconds(number: i32, most: i32) -> Result<Duration, Errno> {
    Ok(Duration::from_secs(within(number, 1, most)? as u64))
}

fn stack<T>(place: &mut T, value: T) -> Result<Effect, Errno> {
    *place = value;
    Ok(Effect::Stack)
}

fn remember(place: &mut [u8; 16], value: &[u8]) -> Result<Effect, Errno> {
    place.copy_from_slice(value.get(..16).ok_or(libc::EINVAL)?);
    Ok(Effect::Remembered)
}

fn remember_number(place: &mut u32, value: u32) -> Result<Effect, Errno> {
    *place = value;
    Ok(Effect::Remembered)
}

/// Linux doubles what is asked for, within the limits, to account for its bookkeeping; programs read the doubled value.
fn doubled(asked: i32, limit: u32, least: u32) -> u32 {
    (asked as u32).min(limit / 2).saturating_mul(2).max(least)
}

fn congestion(value: &[u8]) -> Option<Congestion> {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    Congestion::by_name(core::str::from_utf8(&value[..end]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(Limits { send_buffer: 1 << 20, receive_buffer: 1 << 20, defaults: SocketOptions::default() })
    }

    #[test]
    fn what_is_set_is_read_back_as_linux_shows_it() {
        let mut settings = settings();
        for (level, name, set, shown) in [
            (libc::SOL_SOCKET, libc::SO_REUSEADDR, 5, 1),
            (libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000, 20_000),
            (libc::SOL_SOCKET, libc::SO_SNDBUF, 1, LEAST_SEND_BUFFER as i32),
            (libc::SOL_SOCKET, libc::SO_RCVBUF, i32::MAX, 1 << 20),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30, 30),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5, 5),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3, 3),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1_500, 1_500),
            (libc::IPPROTO_IP, libc::IP_TOS, 0x10, 0x10),
            (libc::IPPROTO_IP, libc::IP_TTL, 9, 9),
        ] {
            settings.set(level, name, &i32::to_ne_bytes(set)).unwrap();
            assert_eq!(settings.value(level, name), Ok(Value::int(shown)), "level {level} name {name}");
        }
    }

    #[test]
    fn linger_of_zero_resets() {
        let mut settings = settings();
        let mut value = [0u8; 8];
        value[0] = 1;
        assert_eq!(settings.set(libc::SOL_SOCKET, libc::SO_LINGER, &value), Ok(Effect::Stack));
        assert!(settings.stack.linger_reset);
        assert_eq!(settings.value(libc::SOL_SOCKET, libc::SO_LINGER).unwrap().as_bytes(), value);
        assert_eq!(settings.set(libc::SOL_SOCKET, libc::SO_LINGER, &value[..4]), Err(libc::EINVAL));
    }

    #[test]
    fn wrong_values_and_unknown_options_have_linux_errors() {
        let mut settings = settings();
        for (level, name, value, errno) in [
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 0, libc::EINVAL),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 20, libc::EINVAL),
            (libc::IPPROTO_IP, libc::IP_TTL, 300, libc::EINVAL),
            (libc::IPPROTO_TCP, 4_711, 1, libc::ENOPROTOOPT),
            (libc::SOL_SOCKET, libc::SO_TYPE, 1, libc::ENOPROTOOPT),
            (99, 1, 1, libc::ENOPROTOOPT),
        ] {
            assert_eq!(settings.set(level, name, &i32::to_ne_bytes(value)), Err(errno), "level {level} name {name}");
        }
        assert_eq!(settings.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, &[1]), Err(libc::EINVAL));
        assert_eq!(settings.set(libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"bbr"), Err(libc::ENOENT));
        assert_eq!(settings.set(libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"reno\0\0"), Ok(Effect::Stack));
        assert_eq!(&settings.value(libc::IPPROTO_TCP, libc::TCP_CONGESTION).unwrap().as_bytes()[..5], b"reno\0");
    }
}
