//! Socket addresses between the application's `sockaddr` and the session's address lines.

use core::ffi::c_int;
use core::fmt;
use core::mem::{MaybeUninit, size_of};
use core::sync::atomic::Ordering;

use persona_channel::layout::AddressLine;
use persona_channel::policy::Family;

use crate::sys::{Errno, Result};

/// An IPv4 endpoint; IPv6 sockets stay on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub octets: [u8; 4],
    /// Host order.
    pub port: u16,
}

impl Address {
    pub const ANY: Address = Address { octets: [0; 4], port: 0 };

    /// Reads what an application passed for an AF_INET socket.
    ///
    /// # Safety
    /// `address` must be readable for `length` bytes.
    pub unsafe fn read(address: *const libc::sockaddr, length: libc::socklen_t) -> Result<Address> {
        if address.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        if (length as usize) < size_of::<libc::sockaddr_in>() {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: the caller vouches for `length` bytes, which hold a whole sockaddr_in.
        let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
        match c_int::from(address.sin_family) {
            libc::AF_INET => {
                Ok(Address { octets: address.sin_addr.s_addr.to_ne_bytes(), port: u16::from_be(address.sin_port) })
            }
            _ => Err(Errno(libc::EAFNOSUPPORT)),
        }
    }

    /// Writes the address the way getsockname and accept do: as much as fits, and the full length.
    ///
    /// # Safety
    /// `length` must be null or point to the room at `address`.
    pub unsafe fn write(&self, address: *mut libc::sockaddr, length: *mut libc::socklen_t) {
        if address.is_null() || length.is_null() {
            return;
        }
        let full = self.to_sockaddr();
        // SAFETY: the caller vouches for the room that `length` states.
        unsafe {
            let room = (*length as usize).min(size_of::<libc::sockaddr_in>());
            core::ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), address.cast::<u8>(), room);
            *length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
    }

    pub fn to_sockaddr(self) -> libc::sockaddr_in {
        // SAFETY: all zero is a valid address record.
        let mut address: libc::sockaddr_in = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = self.port.to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(self.octets);
        address
    }

    /// Arguments of the commands that carry an address: family, port, two words.
    pub fn arguments(&self) -> [u64; 4] {
        [libc::AF_INET as u64, u64::from(self.port), words(self.octets)[0], 0]
    }

    pub fn local(line: &AddressLine) -> Address {
        Address {
            octets: octets(line.local[0].load(Ordering::Acquire)),
            port: line.local_port.load(Ordering::Acquire) as u16,
        }
    }

    pub fn remote(line: &AddressLine) -> Address {
        Address {
            octets: octets(line.remote[0].load(Ordering::Acquire)),
            port: line.remote_port.load(Ordering::Acquire) as u16,
        }
    }

    pub fn is_loopback(&self) -> bool {
        self.octets[0] == 127
    }

    /// Multicast and the limited broadcast, which no stream goes to.
    pub fn is_to_many(&self) -> bool {
        self.octets[0] & 0xf0 == 0xe0 || self.octets == [255; 4]
    }

    /// Form that the policy compares.
    pub fn policy_form(&self) -> (Family, [u8; 16]) {
        let mut wide = [0; 16];
        wide[..4].copy_from_slice(&self.octets);
        (Family::V4, wide)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.octets;
        write!(f, "{a}.{b}.{c}.{d}:{}", self.port)
    }
}

fn words(octets: [u8; 4]) -> [u64; 2] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&octets);
    [u64::from_ne_bytes(bytes), 0]
}

fn octets(word: u64) -> [u8; 4] {
    let bytes = word.to_ne_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}
