//! Ports that the engine uses on an address shared with the host: a bound socket that never listens keeps the host from
//! giving the port to anybody else. A packet that reaches it all the same (the diversion has gone) is answered with RST,
//! as for any closed port.

use super::Error;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A port that is ours as long as this exists.
#[derive(Debug)]
pub struct Reservation {
    local: SocketAddr,
    socket: OwnedFd,
}

/// Keeps `local`'s port; port 0 takes any free one of the host's range for outgoing connections. Ports below
/// `net.ipv4.ip_unprivileged_port_start` need CAP_NET_BIND_SERVICE: the keeper has it.
pub fn reserve(local: SocketAddr) -> Result<Reservation, Error> {
    bound(local).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            Error::PortInUse { address: local.ip(), port: local.port(), owner: owner(local.port()) }
        }
        _ => Error::Reserve { address: local.ip(), port: local.port(), cause: source },
    })
}

fn bound(local: SocketAddr) -> io::Result<Reservation> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if local.is_ipv6() {
        // A dual-stack listener reserves both families by itself.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &local)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok(Reservation { local, socket })
}

impl Reservation {
    /// With the port that was given for port 0.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Goes on with a socket that a predecessor bound.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Self { local, socket })
    }

    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Reservation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// " (nginx, process 123)" of the process that has a TCP socket bound to the port, as far as we may see.
fn owner(port: u16) -> String {
    let inodes: Vec<String> = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(|line| socket_inode(line, port)).collect::<Vec<_>>())
        .collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let has = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|target| {
            inodes.iter().any(|inode| target.as_os_str().to_string_lossy() == format!("socket:[{inode}]"))
        });
        if has {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!(" ({}, process {})", name.trim(), process.file_name().to_string_lossy());
        }
    }
    String::new()
}

/// The inode in a line of /proc/net/tcp whose local port is this one.
fn socket_inode(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    let inode = fields.nth(7)?;
    (u16::from_str_radix(local_port, 16) == Ok(port)).then(|| inode.to_owned())
}

/// Whether the host would let a process bind `port` without CAP_NET_BIND_SERVICE.
pub fn is_unprivileged(port: u16) -> bool {
    const DEFAULT_START: u16 = 1024;
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    port >= start.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_START)
}

/// The host's range for outgoing connections (net.ipv4.ip_local_port_range), both ends included.
pub fn ephemeral_range() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32_768, 60_999);
    let read = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ends = text.split_whitespace().map(str::parse);
        Some((ends.next()?.ok()?, ends.next()?.ok()?))
    };
    read().unwrap_or(DEFAULT)
}

/// Whether `address` is one that the host has.
pub fn is_local(address: IpAddr) -> Result<bool, Error> {
    Ok(super::tables::addresses()?.iter().any(|own| own.address == address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::in_namespace;
    use std::net::{TcpListener, TcpStream};

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_reserved_port_is_not_given_to_anybody_else() {
        in_namespace(|| {
            let kept = reserve(local(8080)).unwrap();
            assert_eq!(kept.local(), local(8080));
            assert_eq!(TcpListener::bind(local(8080)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(TcpStream::connect(local(8080)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            // As a successor does.
            let kept = Reservation::from_socket(kept.into_socket()).unwrap();
            assert_eq!(kept.local(), local(8080));
            drop(kept);
            TcpListener::bind(local(8080)).unwrap();
        });
    }

    #[test]
    fn port_0_takes_a_free_one() {
        in_namespace(|| {
            let first = reserve(local(0)).unwrap();
            let second = reserve(local(0)).unwrap();
            let (low, high) = ephemeral_range();
            assert!((low..=high).contains(&first.local().port()));
            assert_ne!(first.local(), second.local());
        });
    }

    #[test]
    fn a_port_in_use_names_its_owner() {
        in_namespace(|| {
            let _host = TcpListener::bind(local(8080)).unwrap();
            let sentence = reserve(local(8080)).unwrap_err().to_string();
            assert!(sentence.starts_with("port 8080 of 127.0.0.1 is in use by the host ("), "{sentence}");
            assert!(sentence.contains(&format!("process {})", std::process::id())), "{sentence}");
        });
    }

    #[test]
    fn a_wildcard_of_either_family_can_be_reserved() {
        in_namespace(|| {
            let _v4 = reserve("0.0.0.0:80".parse().unwrap()).unwrap();
            let _v6 = reserve("[::]:80".parse().unwrap()).unwrap();
            assert_eq!(TcpListener::bind("127.0.0.1:80").unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert!(matches!(reserve("192.0.2.1:80".parse().unwrap()), Err(Error::Reserve { .. })));
            assert!(is_unprivileged(1024));
        });
    }
}
