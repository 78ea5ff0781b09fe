//! Why a port could not be opened: one sentence each, that says what to do.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("there is no interface {0}: create it or correct the name")]
    NoInterface(String),
    #[error("interface {0} is down: bring it up with `ip link set {0} up`")]
    Down(String),
    #[error("interface {0} has no Ethernet header (link type {1}), which this port needs")]
    NotEthernet(String, u16),
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket: stop the program that holds it or use another queue"
    )]
    Busy { interface: String, queue: u32 },
    #[error("{0} is attached to another program: stop it or use another interface")]
    Attached(String),
    #[error("interface {interface} has no queue {queue}: see `ethtool -l {interface}`")]
    NoQueue { interface: String, queue: u32 },
    #[error("{operation} on {on} is not permitted: it needs {capability}; run as root or grant it")]
    Permission { operation: &'static str, on: String, capability: &'static str },
    #[error(
        "{bytes} bytes for the rings of {on} exceed the locked-memory limit: raise it (`ulimit -l`) or grant CAP_IPC_LOCK"
    )]
    LockedMemory { on: String, bytes: usize },
    #[error(
        "MTU {mtu} of {on} needs {what}, which this kernel does not have (Linux {since} does): lower the MTU or use another port type"
    )]
    Mtu { on: String, mtu: u32, what: &'static str, since: &'static str },
    #[error("this kernel has no {what} (needed for {on}): load or enable it, or use another port type")]
    Unsupported { on: String, what: &'static str },
    #[error("{path} cannot be used as {what}: {reason}")]
    Device { path: String, what: &'static str, reason: String },
    #[error("{what} of {on}: {value} is not valid; it must be {rule}")]
    Size { on: String, what: &'static str, value: u64, rule: &'static str },
    #[error("{operation} failed on {on}: {source}")]
    Io { operation: &'static str, on: String, source: io::Error },
}

impl PortError {
    /// For `map_err`: names the operation and its object; permission problems become [`PortError::Permission`].
    pub fn io<E: Into<io::Error>>(operation: &'static str, on: &str) -> impl FnOnce(E) -> Self {
        move |error| {
            let source: io::Error = error.into();
            let on = on.to_owned();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    Self::Permission { operation, on, capability: "CAP_NET_ADMIN and CAP_NET_RAW" }
                }
                _ => Self::Io { operation, on, source },
            }
        }
    }
}
