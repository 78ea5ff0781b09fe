//! What the keeper does for an engine that has given up its privileges. Each request is checked as if a stranger made
//! it: the engine reads packets, and may have been taken over by one.

use super::Charge;
use super::link::{Answer, Request};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;

pub(super) fn serve(request: &Request, charge: &dyn Charge) -> io::Result<Answer> {
    match *request {
        Request::Reserve(local) => reserve(local),
        Request::ManageNeighbour { interface, address } => {
            charge.manage_neighbour(interface, address).map(|()| Answer::Done)
        }
    }
}

/// Binds without listening: the kernel then gives the port to nobody, and still answers nothing on it.
fn reserve(local: SocketAddr) -> io::Result<Answer> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if local.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &local)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    // The engine owns it from here on.
    Ok(Answer::Descriptor(socket.into_raw_fd(), bound))
}
