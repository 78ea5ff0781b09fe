//! Giving up what set-up needed: user, groups, every capability, and the way to get any of them back.
//!
//! Called once, on the only thread, before the shards start: capabilities belong to threads, and what a thread does not
//! have it cannot pass on.

use anyhow::{Context, Result, bail};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Who the engine runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// Becomes `identity` for good. An engine that was not started by root keeps its user and loses its capabilities.
pub fn drop_to(identity: Identity) -> Result<()> {
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
    if rustix::process::geteuid().is_root() && identity.uid != 0 {
        // SAFETY: setgroups with no groups reads nothing; the set*id calls take numbers.
        let failed = unsafe {
            libc::setgroups(0, std::ptr::null()) != 0
                || libc::setresgid(identity.gid, identity.gid, identity.gid) != 0
                || libc::setresuid(identity.uid, identity.uid, identity.uid) != 0
        };
        if failed {
            let error = std::io::Error::last_os_error();
            bail!(
                "cannot change to user {} and group {}: {error}; it takes CAP_SETUID and CAP_SETGID",
                identity.uid,
                identity.gid
            );
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).context("cannot drop capabilities")
}
