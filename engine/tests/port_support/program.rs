//! The smallest XDP program that a test needs: redirects every frame of a queue to the socket in its map, and passes
//! frames of queues without a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    Driver,
    Generic,
}

/// An attached program; detached when dropped.
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

fn bpf(command: i64, attributes: &[u8]) -> io::Result<i32> {
    // SAFETY: the attributes are a prefix of union bpf_attr of the given length; what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn fd(number: i32) -> OwnedFd {
    // SAFETY: just made by bpf() and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl Redirect {
    pub fn attach(interface: &str, mode: Attach) -> Self {
        let map = fd(bpf(BPF_MAP_CREATE, &words(&[BPF_MAP_TYPE_XSKMAP, 4, 4, 8, 0])).expect("map of sockets"));
        // r2 = ctx->rx_queue_index; r1 = map; r3 = XDP_PASS; return bpf_redirect_map(r1, r2, r3)
        let number = map.as_raw_fd() as u32;
        let instructions: [u64; 6] = [
            0x0000_0000_0010_1261,
            0x0000_0000_0000_1118 | u64::from(number) << 32,
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
        load.extend(words(&[0, 0, 0, 0, 0, if mode == Attach::Driver { BPF_F_XDP_HAS_FRAGS } else { 0 }]));
        let program = fd(bpf(BPF_PROG_LOAD, &load).expect("XDP program"));
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: reads a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let flags = if mode == Attach::Driver { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        let link = bpf(BPF_LINK_CREATE, &words(&[program.as_raw_fd() as u32, index, BPF_XDP, flags]));
        Self { map, _program: program, _link: fd(link.expect("attaching the XDP program")) }
    }

    /// Frames of `queue` go to `socket` from now on.
    pub fn insert(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd() as u32;
        let mut attributes = words(&[self.map.as_raw_fd() as u32, 0]);
        attributes.extend((&raw const queue as u64).to_ne_bytes());
        attributes.extend((&raw const value as u64).to_ne_bytes());
        attributes.extend(0u64.to_ne_bytes());
        bpf(BPF_MAP_UPDATE_ELEM, &attributes).expect("entering the socket into the map");
    }
}

const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// A socket filter that lets nothing through.
pub fn refuse_all() -> OwnedFd {
    // return 0
    let instructions: [u64; 2] = [0xb7, 0x95];
    let license = c"MIT";
    let mut load = words(&[BPF_PROG_TYPE_SOCKET_FILTER, instructions.len() as u32]);
    load.extend((instructions.as_ptr() as u64).to_ne_bytes());
    load.extend((license.as_ptr() as u64).to_ne_bytes());
    fd(bpf(BPF_PROG_LOAD, &load).expect("socket filter"))
}
