//! The engine's two listening sockets: session.sock for processes, admin.sock for the command.
//!
//! They are in the ledger, so that a process that attaches while no engine runs waits for the successor.

use crate::config::Access;
use crate::keeper::Place;
use crate::ledger::{Kind, Ledger};
use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// session.sock, open to whom the policy lets in; finer distinctions are made by the peer's credentials.
pub fn session(place: &Place, ledger: &Ledger, access: &Access) -> Result<OwnedFd> {
    let path = place.session_socket();
    let socket = open(&path, SocketType::SEQPACKET, Kind::SessionSocket, ledger)?;
    let permissions = std::fs::Permissions::from_mode(access.socket_mode());
    std::fs::set_permissions(&path, permissions)
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    if let Some(group) = access.socket_group() {
        std::os::unix::fs::chown(&path, None, Some(group))
            .with_context(|| format!("cannot give {} to group {group}", path.display()))?;
    }
    Ok(socket)
}

/// admin.sock, for root: a capture shows everybody's payload.
pub fn admin(place: &Place, ledger: &Ledger) -> Result<OwnedFd> {
    let path = place.admin_socket();
    let socket = open(&path, SocketType::STREAM, Kind::AdminSocket, ledger)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(socket)
}

fn open(path: &Path, kind: SocketType, record: Kind, ledger: &Ledger) -> Result<OwnedFd> {
    let wrong = || format!("cannot listen on {}", path.display());
    if let Some(entry) = ledger.find(record, 0, 0) {
        return ledger.copy(&entry).with_context(wrong);
    }
    // What lies there is of an engine that is gone: the keeper holds the lock of this name.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(wrong),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None).with_context(wrong)?;
    bind(&socket, &SocketAddrUnix::new(path).with_context(wrong)?).with_context(wrong)?;
    listen(&socket, BACKLOG).with_context(wrong)?;
    ledger.record(record, 0, 0, &socket, 0).with_context(wrong)?;
    Ok(socket)
}
