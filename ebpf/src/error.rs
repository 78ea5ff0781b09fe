//! What can go wrong between us and the kernel's BPF subsystem; each variant is one sentence for the user.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot load the eBPF object: {0}; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or root) and Linux 6.1 or later"
    )]
    Load(#[from] aya::EbpfError),

    /// `log` is the verifier's, if it came so far.
    #[error(
        "the kernel refuses the eBPF program {program}: {source}; it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or \
         root) and Linux 6.1 or later"
    )]
    Program { program: &'static str, source: io::Error, log: String },

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

    #[error("cannot attach the {program} program to interface {interface}: {source}")]
    Attach { interface: String, program: &'static str, source: io::Error },

    #[error("cannot attach the tc program to interface {interface} by clsact: {reason}")]
    Clsact { interface: String, reason: String },

    #[error("cannot attach the socket filter to the packet socket: {0}")]
    SocketFilter(io::Error),

    #[error(
        "no room for another {kind} in the eBPF map {map} ({max} entries): close some connections or raise the limit"
    )]
    Full { kind: &'static str, map: &'static str, max: u32 },

    #[error("cannot {action} the eBPF map {map}: {source}")]
    Map { action: &'static str, map: &'static str, source: io::Error },

    #[error("descriptor for the eBPF map {map} is none of this build's maps: {reason}")]
    ForeignMap { map: &'static str, reason: String },

    #[error("cannot ask the kernel about interface {interface}: {source}")]
    Query { interface: String, source: io::Error },
}
