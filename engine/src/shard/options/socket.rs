//! Options of SOL_SOCKET.

use super::kept::SO_LOCK_FILTER;
use super::{Effect, Errno, Settings, Value, int, only_zero, stack, within};

/// Linux's smallest buffers, as getsockopt shows them (doubled).
pub const LEAST_SEND_BUFFER: u32 = 4_608;
pub const LEAST_RECEIVE_BUFFER: u32 = 2_304;

// Constants that the libc crate does not have for every target.
const SO_BSDCOMPAT: i32 = 14;
const SO_ATTACH_FILTER: i32 = 26;
const SO_DETACH_FILTER: i32 = 27;
const SO_TIMESTAMPING: i32 = 37;
pub const SO_BUSY_POLL: i32 = 46;
const SO_MAX_PACING_RATE: i32 = 47;
const SO_BPF_EXTENSIONS: i32 = 48;
pub const SO_INCOMING_CPU: i32 = 49;
const SO_CNX_ADVICE: i32 = 53;
const SO_MEMINFO: i32 = 55;
const SO_INCOMING_NAPI_ID: i32 = 56;
const SO_PEERGROUPS: i32 = 59;
const SO_ZEROCOPY: i32 = 60;
const SO_TXTIME: i32 = 61;
const SO_BINDTOIFINDEX: i32 = 62;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
const SO_BUSY_POLL_BUDGET: i32 = 70;
const SO_BUF_LOCK: i32 = 72;
const SO_RESERVE_MEM: i32 = 73;
const SO_TXREHASH: i32 = 74;
const SO_PASSPIDFD: i32 = 76;
const SO_PEERPIDFD: i32 = 77;
const SO_PASSRIGHTS: i32 = 83;

/// SO_TIMESTAMP, SO_TIMESTAMPNS and their 64-bit forms: one is on, and switching any of them off ends it.
const TIMESTAMPS: [i32; 4] = [libc::SO_TIMESTAMP, libc::SO_TIMESTAMPNS, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW];
/// Options of AF_UNIX and netlink.
const FOREIGN: [i32; 5] = [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS, SO_RESERVE_MEM];

/// Bits of SO_BUF_LOCK: the size was set by the application.
const SEND_LOCKED: u8 = 1;
const RECEIVE_LOCKED: u8 = 2;
/// What SO_BPF_EXTENSIONS says on every Linux.
const BPF_EXTENSIONS: i32 = 64;

impl Settings {
    pub(super) fn set_socket(&mut self, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        if name == libc::SO_BINDTODEVICE {
            // The configuration says which interface a flow takes.
            return if value.first().is_none_or(|&byte| byte == 0) {
                Ok(Effect::Remembered)
            } else {
                Err(libc::ENODEV)
            };
        }
        let number = int(value)?;
        let on = number != 0;
        match name {
            libc::SO_REUSEADDR => self.reuse_address = on,
            libc::SO_REUSEPORT => self.reuse_port = on,
            libc::SO_KEEPALIVE => return stack(&mut self.stack.keepalive, on),
            libc::SO_OOBINLINE => return stack(&mut self.stack.oob_inline, on),
            libc::SO_LINGER => {
                let seconds = int(&value[4..])?;
                self.linger = on;
                if on {
                    self.linger_seconds = seconds as u32;
                }
                return stack(&mut self.stack.linger_reset, on && seconds == 0);
            }
            libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
                let asked = if name == libc::SO_SNDBUF { number } else { number.max(0) };
                let size = doubled(asked, self.limits.send_buffer, LEAST_SEND_BUFFER);
                self.stack.send_buffer = Some(size);
                self.stack.tune_send = false;
                self.buffer_locks |= SEND_LOCKED;
                return Ok(Effect::SendBuffer(size));
            }
            libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
                let asked = if name == libc::SO_RCVBUF { number } else { number.max(0) };
                let size = doubled(asked, self.limits.receive_buffer, LEAST_RECEIVE_BUFFER);
                self.stack.tune_receive = false;
                self.buffer_locks |= RECEIVE_LOCKED;
                return stack(&mut self.stack.receive_buffer, Some(size));
            }
            SO_BUF_LOCK => {
                let locks = within(number, 0, (SEND_LOCKED | RECEIVE_LOCKED).into())? as u8;
                self.buffer_locks = locks;
                self.stack.tune_receive = locks & RECEIVE_LOCKED == 0 && self.limits.defaults.tune_receive;
                return stack(&mut self.stack.tune_send, locks & SEND_LOCKED == 0 && self.limits.defaults.tune_send);
            }
            libc::SO_RCVLOWAT => self.receive_low = number.max(1) as u32,
            SO_MAX_PACING_RATE => {
                self.pacing_rate = match value.first_chunk::<8>() {
                    Some(bytes) if value.len() == 8 => u64::from_ne_bytes(*bytes),
                    _ if number == -1 => u64::MAX,
                    _ => (number as u32).into(),
                };
            }
            SO_LOCK_FILTER if !on && self.kept.value(libc::SOL_SOCKET, name)? != 0 => return Err(libc::EPERM),
            // -1 asks for the default.
            SO_TXREHASH if number == -1 => self.kept.reset(libc::SOL_SOCKET, name),
            SO_BUSY_POLL_BUDGET => drop(within(number, 0, i32::from(u16::MAX))?),
            SO_BSDCOMPAT | SO_CNX_ADVICE => {}
            SO_DETACH_FILTER => return Err(libc::ENOENT),
            SO_DETACH_REUSEPORT_BPF => return Err(if self.reuse_port { libc::ENOENT } else { libc::EINVAL }),
            // A struct sock_fprog, a struct sock_txtime.
            SO_ATTACH_FILTER if value.len() != 16 => return Err(libc::EINVAL),
            SO_TXTIME if value.len() != 8 => return Err(libc::EINVAL),
            SO_ZEROCOPY => return only_zero(within(number, 0, 1)?),
            SO_BINDTOIFINDEX => return only_zero(within(number, 0, i32::MAX)?),
            SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => return only_zero(number),
            libc::SO_PEEK_OFF => return only_zero(i32::from(number >= 0)),
            SO_RESERVE_MEM if number < 0 => return Err(libc::EINVAL),
            name if FOREIGN.contains(&name) => return Err(libc::EOPNOTSUPP),
            name if TIMESTAMPS.contains(&name) => self.timestamps = if on { name as u8 } else { 0 },
            name => self.kept.set(libc::SOL_SOCKET, name, number)?,
        }
        Ok(Effect::Remembered)
    }

    pub(super) fn socket_value(&self, name: i32, room: usize) -> Result<Value, Errno> {
        let number = match name {
            libc::SO_LINGER => {
                let words = [u32::from(self.linger), self.linger_seconds];
                return Ok(Value::bytes(zerocopy::IntoBytes::as_bytes(&words)));
            }
            SO_MAX_PACING_RATE if room >= 8 => return Ok(Value::bytes(&self.pacing_rate.to_ne_bytes())),
            SO_MAX_PACING_RATE => self.pacing_rate.min(u32::MAX.into()) as i32,
            // Flags, and a clock that is not bound.
            SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => return Ok(Value::bytes(&[0; 8])),
            // Nobody, as for every socket that is not AF_UNIX: a pid of 0, no user, no group.
            libc::SO_PEERCRED => {
                let words = [0u32, u32::MAX, u32::MAX];
                return Ok(Value::bytes(zerocopy::IntoBytes::as_bytes(&words)));
            }
            // SK_MEMINFO_*: allocated for receiving, its bound, the same for sending; five that are not counted here.
            SO_MEMINFO => {
                let words = [0, self.receive_buffer(), 0, self.send_buffer(), 0, 0, 0, 0, 0];
                return Ok(Value::bytes(zerocopy::IntoBytes::as_bytes(&words)));
            }
            libc::SO_BINDTODEVICE | SO_ATTACH_FILTER => return Ok(Value::bytes(&[])),
            libc::SO_REUSEADDR => self.reuse_address.into(),
            libc::SO_REUSEPORT => self.reuse_port.into(),
            libc::SO_KEEPALIVE => self.stack.keepalive.into(),
            libc::SO_OOBINLINE => self.stack.oob_inline.into(),
            libc::SO_SNDBUF => self.send_buffer() as i32,
            libc::SO_RCVBUF => self.receive_buffer() as i32,
            libc::SO_RCVLOWAT => self.receive_low as i32,
            libc::SO_SNDLOWAT => 1,
            libc::SO_TYPE => libc::SOCK_STREAM,
            libc::SO_PROTOCOL => libc::IPPROTO_TCP,
            libc::SO_DOMAIN => libc::AF_INET,
            SO_BUF_LOCK => self.buffer_locks.into(),
            SO_BPF_EXTENSIONS => BPF_EXTENSIONS,
            libc::SO_PEEK_OFF => -1,
            SO_BSDCOMPAT | SO_INCOMING_NAPI_ID | SO_ZEROCOPY | SO_BINDTOIFINDEX | SO_RESERVE_MEM => 0,
            SO_TXTIME => return Ok(Value::bytes(&[0; 8])),
            SO_PEERGROUPS | SO_PEERPIDFD => return Err(libc::ENODATA),
            // Linux does not look whether it is in nanoseconds.
            SO_TIMESTAMP_NEW => i32::from(matches!(self.timestamps.into(), SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW)),
            name if TIMESTAMPS.contains(&name) => i32::from(i32::from(self.timestamps) == name),
            name if FOREIGN.contains(&name) => return Err(libc::EOPNOTSUPP),
            name => self.kept.value(libc::SOL_SOCKET, name)?,
        };
        Ok(Value::int(number))
    }
}

/// Linux doubles what is asked for, within the limits, to account for its bookkeeping; programs read the doubled value.
fn doubled(asked: i32, limit: u32, least: u32) -> u32 {
    (asked as u32).min(limit / 2).saturating_mul(2).max(least)
}
