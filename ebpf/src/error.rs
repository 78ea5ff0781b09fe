//! What can go wrong between us and the kernel's BPF subsystem; each variant is one sentence for the user, cause included
//! (it is no `source`, so that a chain of contexts does not say it twice).

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot load the eBPF object: {reason}; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or root) and Linux \
         6.1 or later"
    )]
    Load { reason: String },

    /// `log` is the verifier's, if it came so far.
    #[error(
        "the kernel refuses the eBPF program {program}: {cause}; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or \
         root) and Linux 6.1 or later"
    )]
    Program { program: &'static str, cause: io::Error, log: String },

    #[error("this build's eBPF object has no {what} named {name}: rebuild persona")]
    Missing { what: &'static str, name: &'static str },

    #[error(
        "interface {interface} already has an XDP program attached: {owner}; detach it (ip link set dev {interface} xdp \
         off, or stop what attached it) or choose type \"packet\""
    )]
    XdpOccupied { interface: String, owner: String },

    #[error(
        "interface {interface} takes no XDP program for its MTU of {mtu}: the driver wants a smaller MTU{frags}; lower \
         the MTU or choose type \"packet\""
    )]
    XdpMtu { interface: String, mtu: u32, frags: &'static str },

    #[error("cannot attach the {program} program to interface {interface}: {cause}")]
    Attach { interface: String, program: &'static str, cause: io::Error },

    #[error("cannot attach the tc program to interface {interface} by clsact: {reason}")]
    Clsact { interface: String, reason: String },

    #[error("cannot attach the socket filter to the packet socket: {0}")]
    SocketFilter(io::Error),

    #[error(
        "no room for another {kind} in the eBPF map {map} ({max} entries): close some connections or raise the limit"
    )]
    Full { kind: &'static str, map: &'static str, max: u32 },

    #[error("cannot {action} the eBPF map {map}: {cause}")]
    Map { action: &'static str, map: &'static str, cause: io::Error },

    #[error("descriptor for the eBPF map {map} is none of this build's maps: {reason}")]
    ForeignMap { map: &'static str, reason: String },

    #[error("cannot ask the kernel about interface {interface}: {cause}")]
    Query { interface: String, cause: io::Error },
}

impl From<aya::EbpfError> for Error {
    fn from(error: aya::EbpfError) -> Self {
        Self::Load { reason: chain(&error) }
    }
}

/// An error with its sources in one line, none twice.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
