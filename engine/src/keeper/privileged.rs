//! What the keeper does for an engine that has given up its privileges. Each request is checked as if a stranger made
//! it: the engine reads packets, and may have been taken over by one.

use super::Charge;
use super::link::{Answer, Request};
use crate::host;
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

/// The reservation's socket appears in the table that we share, and is the engine's from here on.
fn reserve(local: SocketAddr) -> io::Result<Answer> {
    let reservation = host::reserve(local).map_err(|error| match error {
        host::Error::PortInUse { .. } => {
            tracing::warn!("{error}");
            io::Error::from_raw_os_error(libc::EADDRINUSE)
        }
        host::Error::Reserve { cause, .. } => cause,
        other => io::Error::other(other),
    })?;
    let bound = reservation.local();
    Ok(Answer::Descriptor(reservation.into_socket().into_raw_fd(), bound))
}
