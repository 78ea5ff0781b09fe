//! Options of IPPROTO_IP.

use super::{Effect, Errno, Settings, Value, int, only_zero, stack, within};
use persona_stack::Sysctls;

// Constants that the libc crate does not have for every target.
const IP_ROUTER_ALERT: i32 = 5;
const IP_PKTOPTIONS: i32 = 9;
const IP_IPSEC_POLICY: i32 = 16;
const IP_XFRM_POLICY: i32 = 17;
const IP_NODEFRAG: i32 = 22;
const IP_RECVFRAGSIZE: i32 = 25;
const IP_MSFILTER: i32 = 41;
const MCAST_MSFILTER: i32 = 48;
const IP_MULTICAST_ALL: i32 = 49;
const IP_UNICAST_IF: i32 = 50;
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// ECN's bits are TCP's own.
const ECN_MASK: u8 = 3;

impl Settings {
    pub(super) fn set_ip(&mut self, name: i32, value: &[u8]) -> Result<Effect, Errno> {
        match name {
            // Nothing, or ends of lists.
            libc::IP_OPTIONS if value.iter().all(|&byte| byte == 0) => return Ok(Effect::Remembered),
            libc::IP_OPTIONS => return Err(libc::ENOPROTOOPT),
            IP_UNICAST_IF | IP_LOCAL_PORT_RANGE if value.len() != 4 => return Err(libc::EINVAL),
            IP_IPSEC_POLICY | IP_XFRM_POLICY => return Err(libc::ENOPROTOOPT),
            _ => {}
        }
        let needs_value = matches!(
            name,
            libc::IP_TTL | libc::IP_FREEBIND | libc::IP_TRANSPARENT | libc::IP_MINTTL | IP_MULTICAST_ALL
        );
        // An int, a single byte, or nothing, which is 0.
        let number = match value.first() {
            _ if value.len() >= 4 => int(value)?,
            None if needs_value || name == libc::IP_MULTICAST_LOOP => return Err(libc::EINVAL),
            byte => byte.map_or(0, |&byte| byte.into()),
        };
        match name {
            libc::IP_TOS => {
                let tos = number as u8 & !ECN_MASK;
                if tos != self.stack.tos.unwrap_or(0) {
                    self.kept.set(libc::SOL_SOCKET, libc::SO_PRIORITY, priority(tos))?;
                }
                return stack(&mut self.stack.tos, Some(tos));
            }
            libc::IP_TTL => {
                let ttl = if number == -1 { None } else { Some(within(number, 1, 255)? as u8) };
                return stack(&mut self.stack.ttl, ttl);
            }
            libc::IP_MINTTL => {
                self.kept.set(libc::IPPROTO_IP, name, number)?;
                return stack(&mut self.stack.min_ttl, number as u8);
            }
            libc::IP_TRANSPARENT => return only_zero(number),
            // What connect() may take as the local port is the engine's configuration.
            IP_LOCAL_PORT_RANGE => return only_zero(number),
            IP_UNICAST_IF if number != 0 => return Err(libc::EADDRNOTAVAIL),
            IP_UNICAST_IF => {}
            libc::IP_MULTICAST_LOOP => self.multicast_loop = number != 0,
            // Of datagrams, on Linux as well.
            IP_ROUTER_ALERT | IP_RECVFRAGSIZE | libc::IP_MULTICAST_IF | libc::IP_MULTICAST_TTL => {
                return Err(libc::EINVAL);
            }
            libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => return Err(libc::EPROTO),
            37..=MCAST_MSFILTER => return Err(libc::EINVAL),
            name => self.kept.set(libc::IPPROTO_IP, name, number)?,
        }
        Ok(Effect::Remembered)
    }

    pub(super) fn ip_value(&self, name: i32, sysctls: &Sysctls) -> Result<Value, Errno> {
        let number = match name {
            libc::IP_OPTIONS | IP_PKTOPTIONS => return Ok(Value::bytes(&[])),
            libc::IP_TOS => self.stack.tos.unwrap_or(0).into(),
            libc::IP_TTL => self.stack.ttl.map_or(sysctls.ip_default_ttl, u32::from) as i32,
            libc::IP_MULTICAST_TTL => 1,
            libc::IP_MULTICAST_LOOP => self.multicast_loop.into(),
            libc::IP_HDRINCL | IP_ROUTER_ALERT | IP_NODEFRAG | IP_RECVFRAGSIZE | libc::IP_MULTICAST_IF => 0,
            libc::IP_TRANSPARENT | IP_UNICAST_IF | IP_LOCAL_PORT_RANGE => 0,
            IP_MSFILTER | MCAST_MSFILTER => return Err(libc::EINVAL),
            name => self.kept.value(libc::IPPROTO_IP, name)?,
        };
        Ok(Value::int(number))
    }
}

/// Linux's rt_tos2priority: setting the type of service sets the priority.
fn priority(tos: u8) -> i32 {
    match tos & 0x1e {
        0x00..=0x06 => 0,
        0x08..=0x0e => 2,
        0x10..=0x16 => 6,
        _ => 4,
    }
}
