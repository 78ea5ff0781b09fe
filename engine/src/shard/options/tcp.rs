//! Options of IPPROTO_TCP.

use super::{Effect, Errno, LONGEST_VALUE, Settings, Stage, Value, int, only_zero, stack, within};
use persona_stack::{Congestion, Duration, Sysctls};

// Constants that the libc crate does not have for every target.
const TCP_LINGER2: i32 = 8;
const TCP_MD5SIG: i32 = 14;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
pub const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_CC_INFO: i32 = 26;
const TCP_SAVED_SYN: i32 = 28;
const TCP_REPAIR_WINDOW: i32 = 29;
pub const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_FASTOPEN_KEY: i32 = 33;
pub const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;
const TCP_IS_MPTCP: i32 = 43;
pub const TCP_RTO_MAX_MS: i32 = 44;
pub const TCP_RTO_MIN_US: i32 = 45;
pub const TCP_DELACK_MAX_US: i32 = 46;

/// The longest that TCP_LINGER2 asks for, in seconds.
const LONGEST_FIN_TIMEOUT: i32 = 120;
/// Half of Linux's smallest receive buffer.
const LEAST_CLAMP: u32 = 1_152;
/// Linux's net.core.somaxconn, which bounds the queue of TCP_FASTOPEN.
const SOMAXCONN: i32 = 4_096;
/// Linux's TCP_TIMEOUT_INIT and TCP_RTO_MAX in seconds.
const FIRST_TIMEOUT: u32 = 1;
const LAST_TIMEOUT: u32 = 120;

impl Settings {
    pub(super) fn set_tcp(&mut self, name: i32, value: &[u8], stage: Stage) -> Result<Effect, Errno> {
        match name {
            libc::TCP_CONGESTION | libc::TCP_ULP | TCP_FASTOPEN_KEY if value.is_empty() => return Err(libc::EINVAL),
            libc::TCP_CONGESTION => {
                return stack(&mut self.stack.congestion, Some(congestion(value).ok_or(libc::ENOENT)?));
            }
            // No upper layer protocol is there to be put on top (kernel TLS).
            libc::TCP_ULP => return Err(libc::ENOENT),
            // One key or two.
            TCP_FASTOPEN_KEY => return Err(if value.len() >= 16 { libc::ENOPROTOOPT } else { libc::EINVAL }),
            _ => {}
        }
        let number = int(value)?;
        let on = number != 0;
        match name {
            libc::TCP_NODELAY => return stack(&mut self.stack.nodelay, on),
            libc::TCP_CORK => return stack(&mut self.stack.cork, on),
            libc::TCP_QUICKACK => {
                self.delays_acks = !on;
                return stack(&mut self.stack.quickack, on);
            }
            libc::TCP_MAXSEG => {
                let size = if on { Some(within(number, 88, 32_767)? as u16) } else { None };
                return stack(&mut self.stack.max_segment, size);
            }
            libc::TCP_KEEPIDLE => return stack(&mut self.stack.keep_idle, Some(seconds(number)?)),
            libc::TCP_KEEPINTVL => return stack(&mut self.stack.keep_interval, Some(seconds(number)?)),
            libc::TCP_KEEPCNT => return stack(&mut self.stack.keep_count, Some(within(number, 1, 127)? as u8)),
            libc::TCP_SYNCNT => return stack(&mut self.stack.syn_retries, Some(within(number, 1, 127)? as u8)),
            libc::TCP_USER_TIMEOUT => {
                let timeout = within(number, 0, i32::MAX)? as u64;
                return stack(&mut self.stack.user_timeout, (timeout != 0).then(|| Duration::from_millis(timeout)));
            }
            libc::TCP_DEFER_ACCEPT => return stack(&mut self.stack.defer_accept, retransmissions(number)),
            libc::TCP_FASTOPEN => {
                let queue = within(number, 0, i32::MAX)?.min(SOMAXCONN);
                if stage == Stage::Connection {
                    return Err(libc::EINVAL);
                }
                self.fastopen = queue as u32;
            }
            libc::TCP_WINDOW_CLAMP => {
                if !on && stage != Stage::Idle {
                    return Err(libc::EINVAL);
                }
                self.window_clamp = if on { (number as u32).clamp(LEAST_CLAMP, i32::MAX as u32) } else { 0 };
                if number < 0 {
                    self.window_clamp = LEAST_CLAMP;
                }
            }
            TCP_LINGER2 => {
                self.linger2 = number.clamp(-1, LONGEST_FIN_TIMEOUT);
                return stack(&mut self.stack.linger2, (self.linger2 != 0).then_some(self.linger2 as i16));
            }
            libc::TCP_THIN_LINEAR_TIMEOUTS => {
                self.kept.set(libc::IPPROTO_TCP, name, number)?;
                return stack(&mut self.stack.thin_linear_timeouts, on);
            }
            TCP_RTO_MIN_US => {
                self.kept.set(libc::IPPROTO_TCP, name, number)?;
                return stack(&mut self.stack.rto_min, Some(Duration::from_micros(number as u64)));
            }
            libc::TCP_THIN_DUPACK => drop(within(number, 0, 1)?),
            TCP_FASTOPEN_CONNECT if stage != Stage::Idle => return Err(libc::EINVAL),
            TCP_FASTOPEN_NO_COOKIE if stage == Stage::Connection => return Err(libc::EINVAL),
            TCP_INQ => return only_zero(within(number, 0, 1)?),
            TCP_TX_DELAY => return only_zero(within(number, 0, i32::MAX)?),
            // Shorter than their structures, or not there.
            TCP_MD5SIG | TCP_MD5SIG_EXT if value.len() < LONGEST_VALUE => return Err(libc::EINVAL),
            // Checkpoint and restore, which Linux grants to CAP_NET_ADMIN only.
            TCP_REPAIR | TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_OPTIONS | TCP_TIMESTAMP | TCP_REPAIR_WINDOW => {
                return Err(libc::EPERM);
            }
            name => self.kept.set(libc::IPPROTO_TCP, name, number)?,
        }
        Ok(Effect::Remembered)
    }

    pub(super) fn tcp_value(&self, name: i32, sysctls: &Sysctls) -> Result<Value, Errno> {
        let tcp = &self.stack;
        let seconds =
            |span: Option<Duration>, default: u32| span.map_or(default.into(), |span| span.as_millis() / 1000) as i32;
        let number = match name {
            libc::TCP_CONGESTION => {
                let mut name = [0; 16];
                let word = tcp.congestion.unwrap_or_default().name().as_bytes();
                name[..word.len()].copy_from_slice(word);
                return Ok(Value::bytes(&name));
            }
            // CUBIC and NewReno tell nothing of themselves, on Linux neither; no SYN, key or upper layer is there.
            TCP_CC_INFO | TCP_SAVED_SYN | TCP_FASTOPEN_KEY | libc::TCP_ULP => return Ok(Value::bytes(&[])),
            libc::TCP_NODELAY => tcp.nodelay.into(),
            libc::TCP_CORK => tcp.cork.into(),
            libc::TCP_QUICKACK => (!self.delays_acks).into(),
            // Before a connection is there, Linux shows the smallest MSS it would assume.
            libc::TCP_MAXSEG => tcp.max_segment.unwrap_or(536).into(),
            libc::TCP_KEEPIDLE => seconds(tcp.keep_idle, sysctls.keepalive_time),
            libc::TCP_KEEPINTVL => seconds(tcp.keep_interval, sysctls.keepalive_intvl),
            libc::TCP_KEEPCNT => tcp.keep_count.map_or(sysctls.keepalive_probes, u32::from) as i32,
            libc::TCP_SYNCNT => tcp.syn_retries.map_or(sysctls.syn_retries, u32::from) as i32,
            libc::TCP_USER_TIMEOUT => tcp.user_timeout.map_or(0, |span| span.as_millis() as i32),
            libc::TCP_DEFER_ACCEPT => patience(self.stack.defer_accept) as i32,
            libc::TCP_FASTOPEN => self.fastopen as i32,
            libc::TCP_WINDOW_CLAMP => self.window_clamp as i32,
            TCP_LINGER2 if self.linger2 == 0 => sysctls.fin_timeout as i32,
            TCP_LINGER2 => self.linger2,
            libc::TCP_THIN_DUPACK | TCP_REPAIR | TCP_IS_MPTCP | TCP_INQ | TCP_TX_DELAY => 0,
            TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_WINDOW => return Err(libc::EINVAL),
            name => self.kept.value(libc::IPPROTO_TCP, name)?,
        };
        Ok(Value::int(number))
    }
}

fn seconds(number: i32) -> Result<Duration, Errno> {
    Ok(Duration::from_secs(within(number, 1, 32_767)? as u64))
}

fn congestion(value: &[u8]) -> Option<Congestion> {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    Congestion::by_name(core::str::from_utf8(&value[..end]).ok()?)
}

/// How often the SYN,ACK is sent within so many seconds; Linux keeps TCP_DEFER_ACCEPT this way.
fn retransmissions(seconds: i32) -> u8 {
    (0..u8::MAX).find(|&count| i64::from(patience(count)) >= i64::from(seconds)).unwrap_or(u8::MAX)
}

/// The seconds that so many retransmissions take.
fn patience(count: u8) -> u32 {
    let timeouts = std::iter::successors(Some(FIRST_TIMEOUT), |timeout| Some((timeout * 2).min(LAST_TIMEOUT)));
    timeouts.take(count.into()).sum()
}
