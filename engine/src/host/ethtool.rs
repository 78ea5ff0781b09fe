//! What a device does with frames by itself, and how many queues it uses: ethtool's old and simple ioctls.

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::AsRawFd;

const ETHTOOL_GRXCSUM: u32 = 0x14;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGSO: u32 = 0x23;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const FLAG_LRO: u32 = 1 << 15;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Offloads that are switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    pub rx_checksum: bool,
    pub tx_checksum: bool,
    pub tso: bool,
    pub gso: bool,
    pub gro: bool,
    pub lro: bool,
}

/// Queues in use, combined ones counted on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    pub receive: u32,
    pub transmit: u32,
}

pub fn offloads(interface: &str) -> io::Result<Offloads> {
    let on = |command| value(interface, command).map(|value| value != 0);
    Ok(Offloads {
        rx_checksum: on(ETHTOOL_GRXCSUM)?,
        tx_checksum: on(ETHTOOL_GTXCSUM)?,
        tso: on(ETHTOOL_GTSO)?,
        gso: on(ETHTOOL_GGSO)?,
        gro: on(ETHTOOL_GGRO)?,
        lro: value(interface, ETHTOOL_GFLAGS)? & FLAG_LRO != 0,
    })
}

/// EOPNOTSUPP where the driver does not say.
pub fn channels(interface: &str) -> io::Result<Channels> {
    let [_, _, _, _, _, receive, transmit, _, combined] = ask(interface, [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(Channels { receive: receive + combined, transmit: transmit + combined })
}

fn value(interface: &str, command: u32) -> io::Result<u32> {
    ask(interface, [command, 0]).map(|[_, value]| value)
}

/// All structures used here are arrays of 32-bit words that begin with the command.
fn ask<const WORDS: usize>(interface: &str, mut words: [u32; WORDS]) -> io::Result<[u32; WORDS]> {
    // SAFETY: ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the request names `words`, which is as long as the command's structure and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{in_namespace, ip, run};

    #[test]
    fn offloads_are_those_that_ethtool_sets() {
        in_namespace(|| {
            assert!(offloads("us").unwrap().tso);
            run("ethtool -K us tso off tx off rx off gro off gso off");
            assert_eq!(offloads("us").unwrap(), Offloads::default());
            run("ethtool -K us tx on");
            assert!(offloads("us").unwrap().tx_checksum);
        });
    }

    #[test]
    fn channels_are_those_in_use() {
        in_namespace(|| {
            ip("link add wide numrxqueues 4 numtxqueues 4 type veth peer name wide2 numrxqueues 4 numtxqueues 4");
            run("ethtool -L wide rx 3 tx 2");
            assert_eq!(channels("wide").unwrap(), Channels { receive: 3, transmit: 2 });
            assert!(channels("nonesuch").is_err());
        });
    }
}
