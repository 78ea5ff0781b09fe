//! The service manager's readiness protocol (sd_notify): one datagram of assignments to the socket in NOTIFY_SOCKET.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{env, io};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells the service manager `state`, such as "READY=1". Nothing happens when there is none.
pub fn notify(state: &str) {
    let Some(path) = env::var_os(VARIABLE) else { return };
    if let Err(error) = send(path.as_encoded_bytes(), state) {
        tracing::warn!("cannot tell the service manager at {}: {error}", path.display());
    }
}

fn send(path: &[u8], state: &str) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let address = match path {
        // A leading @ stands for the NUL of an abstract address.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrives_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        let name = format!("persona-notify-{}", std::process::id());
        let abstractly = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(format!("@{name}").as_bytes(), "STOPPING=1").unwrap();
        let mut buffer = [0; 64];
        let len = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1");
        let len = abstractly.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"STOPPING=1");
    }
}
