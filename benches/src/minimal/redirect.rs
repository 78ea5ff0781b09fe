//! The smallest XDP program: each frame of a queue goes to the AF_XDP socket that the map has for the queue.

use super::mapping::interface_index;
use anyhow::{Context, Result};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The attached program; it goes with the last descriptor.
pub struct Redirect {
    _map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Redirect {
    /// What arrives on queue 0 of `interface` goes to `socket`.
    pub fn attach(interface: &str, socket: BorrowedFd<'_>) -> Result<Self> {
        let index = interface_index(interface).with_context(|| format!("there is no interface {interface}"))?;
        let map = owned(bpf(BPF_MAP_CREATE, &words(&[BPF_MAP_TYPE_XSKMAP, 4, 4, 1, 0])).context("map of sockets")?);
        let (queue, value) = (0u32, socket.as_raw_fd() as u32);
        let mut entry = words(&[map.as_raw_fd() as u32, 0]);
        for pointer in [&raw const queue, &raw const value] {
            entry.extend((pointer as u64).to_ne_bytes());
        }
        entry.extend(0u64.to_ne_bytes());
        bpf(BPF_MAP_UPDATE_ELEM, &entry).context("entering the socket into the map")?;

        // r2 = ctx->rx_queue_index; r1 = map; r3 = XDP_PASS; return bpf_redirect_map(r1, r2, r3)
        let instructions: [u64; 6] = [
            0x0000_0000_0010_1261,
            0x0000_0000_0000_1118 | (map.as_raw_fd() as u64) << 32,
            0,
            0x0000_0002_0000_03b7,
            0x0000_0033_0000_0085,
            0x95,
        ];
        let license = c"MIT";
        let mut load = words(&[BPF_PROG_TYPE_XDP, instructions.len() as u32]);
        load.extend((instructions.as_ptr() as u64).to_ne_bytes());
        load.extend((license.as_ptr() as u64).to_ne_bytes());
        // log_level, log_size, log_buf, kern_version, prog_flags
        load.extend(words(&[0, 0, 0, 0, 0, 0]));
        let program = owned(bpf(BPF_PROG_LOAD, &load).context("loading the XDP program")?);
        let link = words(&[program.as_raw_fd() as u32, index, BPF_XDP, XDP_FLAGS_DRV_MODE]);
        let link = bpf(BPF_LINK_CREATE, &link).with_context(|| format!("attaching an XDP program to {interface}"))?;
        Ok(Self { _map: map, _program: program, _link: owned(link) })
    }
}

fn bpf(command: i64, attributes: &[u8]) -> io::Result<i32> {
    // SAFETY: the attributes are a prefix of union bpf_attr of the given length; what they point to outlives the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome as i32) }
}

fn owned(number: i32) -> OwnedFd {
    // SAFETY: just made by bpf() and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
