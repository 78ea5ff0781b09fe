//! What stays on the host: the decision, and the swap of a socket of ours for one of the kernel's under the same
//! descriptor, options and epoll memberships included.

use core::ffi::c_int;

use persona_channel::attach::reason;
use persona_channel::layout::POLICY_SIZE;
use persona_channel::policy::{self, Action, Question, RULE_SIZE, Rule, Side};

use crate::address::Address;
use crate::epoll::{self, Memberships};
use crate::handle::Handle;
use crate::rows::Row;
use crate::sys::{self, Errno, Result};
use crate::table::{self, Entry};
use crate::{options, place, report};

/// The reason code if the socket belongs on the host, None if the engine takes it.
pub fn decide(handle: &Handle, side: Side, address: &Address) -> Option<u32> {
    let to_itself = address.is_loopback() || (side == Side::Remote && address.octets == Address::ANY.octets);
    if to_itself {
        return Some(reason::LOOPBACK);
    }
    let mut rules = [0; POLICY_ON_STACK];
    let length = handle.session.policy(&mut rules);
    if length == 0 {
        return None;
    }
    let mut name = [0; 64];
    // Rules by program are rare: the engine has matched most when the process attached.
    let by_program =
        rules[..length].as_chunks::<RULE_SIZE>().0.iter().filter_map(Rule::decode).any(|rule| rule.program[0] != 0);
    let program = if by_program { place::program(&mut name) } else { b"" };
    let (family, wide) = address.policy_form();
    let question = Question { side, family, address: wide, port: address.port, program };
    (policy::decide(&rules[..length], &question) == Action::Host).then_some(reason::POLICY)
}

/// Room for the longest policy.
const POLICY_ON_STACK: usize = policy::MOST_RULES * RULE_SIZE;
const _: () = assert!(POLICY_ON_STACK <= POLICY_SIZE);

/// Replaces the socket by one of the kernel's under every number it has in this process. What the user's own policy
/// excludes is never an error; everything else is under PERSONA_STRICT.
pub fn swap(handle: &Handle, code: u32, address: &Address) -> Result<()> {
    if code != reason::POLICY && report::is_strict() {
        return Err(Errno(libc::ENETUNREACH));
    }
    let kernel = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    if handle.is_nonblocking() {
        let _ = sys::fcntl(kernel, libc::F_SETFL, libc::O_NONBLOCK as usize);
    }
    options::replay(handle, kernel);
    let mut memberships = Memberships::new();
    epoll::hand_to_kernel(handle, &mut memberships);
    let row = Row::claim();
    for (fd, entry) in table::entries() {
        if entry == Entry::Socket(handle.id) {
            replace(fd, kernel)?;
            table::enter_row(fd, row.as_ref());
        }
    }
    let _ = sys::close(kernel);
    memberships.register();
    report::on_host(handle.fd, code, Some(address), row.as_ref());
    Ok(())
}

fn replace(fd: c_int, kernel: c_int) -> Result<()> {
    let cloexec = sys::fcntl(fd, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
    table::set(fd, Entry::Foreign);
    sys::dup3(kernel, fd, if cloexec { libc::O_CLOEXEC } else { 0 }).map(drop)
}
