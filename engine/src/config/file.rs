//! The configuration file as it is written: every key that Persona knows, its type and what it means.
//!
//! The JSON schema (`persona check --schema`), the list of known keys and the parser all come from these types. What
//! the values mean together is decided in `resolve.rs`.

use super::scalar::{Count, Loose, Mac, Network, PortRange, Scalar, Who};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Configuration of a Persona engine. All keys of LKL's hijack library are known, with LKL's meaning; values may be
/// strings, as LKL demands, or numbers and booleans.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Interfaces of the engine, in order; at most 16.
    pub interfaces: Option<Vec<InterfaceFile>>,
    /// IPv4 default gateway.
    pub gateway: Option<Loose<Ipv4Addr>>,
    /// IPv6 default gateway.
    pub gateway6: Option<Loose<Ipv6Addr>>,
    /// LKL's debug bit mask: other than 0 logs what the control plane does.
    pub debug: Option<Loose<u32>>,
    /// 0: shards run on the processors of `cpus`; 1 or 2: one shard, on the first processor allowed.
    pub singlecpu: Option<Loose<SingleCpu>>,
    /// "name=value;name=value", Linux's names. Those that mean something to the stack are applied, the others named
    /// in a warning.
    pub sysctl: Option<Loose<String>>,
    /// LKL's kernel command line; has no effect here.
    pub boot_cmdline: Option<Loose<String>>,
    /// LKL: filesystems to mount inside its kernel; has no effect here.
    pub mount: Option<Loose<String>>,
    /// LKL: files printed at exit; has no effect here (see `persona stats`).
    pub dump: Option<Loose<String>>,
    /// LKL: microseconds slept before main(); has no effect here, packets flow before a program starts.
    pub delay_main: Option<Loose<u64>>,

    /// Threads that run the stack: "auto" (one per processor that the engine may use, at most one per queue) or 1 to 8.
    pub shards: Option<Loose<Count>>,
    /// Processors to pin the shards to, in order; absent: those that the engine may use.
    pub cpus: Option<Vec<Loose<u16>>>,
    /// Microseconds that an idle shard looks for work before it sleeps; absent: adapts itself. 0: sleeps at once.
    pub spin_us: Option<Loose<u32>>,
    /// User (name or number) that the engine runs as after set-up. Default: nobody.
    pub user: Option<Loose<Who>>,
    /// Who may use the engine. Absent: everybody who may log in.
    pub access: Option<AccessFile>,
    /// Which sockets the engine takes; the first rule that matches decides, without any the engine does.
    pub rules: Option<Vec<RuleFile>>,
    /// True: a socket that cannot be accelerated is an error instead of the host's.
    pub strict: Option<Loose<bool>>,
    /// Bytes that a socket's send buffer holds at most (4096 to 4194304).
    pub send_buffer: Option<Loose<u32>>,
    /// Bytes that a socket's receive buffer holds at most (4096 to 4194304).
    pub receive_buffer: Option<Loose<u32>>,
    /// Connections that a shard can hold.
    pub connections: Option<Loose<u32>>,
    /// Sockets that can listen, per shard.
    pub listeners: Option<Loose<u32>>,
    /// Half-open incoming connections per shard before SYN cookies serve.
    pub syn_backlog: Option<Loose<u32>>,
    /// Connections in TIME_WAIT per shard.
    pub time_waits: Option<Loose<u32>>,
    /// Bytes for the reassembly of IP fragments, per shard.
    pub reassembly: Option<Loose<u32>>,
    /// Milliseconds for which segments of live flows are held back while no engine runs; later the host sees them.
    pub hold_ms: Option<Loose<u32>>,
    /// Milliseconds that `persona down` waits for connections to end in order.
    pub linger_ms: Option<Loose<u32>>,
    /// What the control plane logs.
    pub log: Option<Loose<LogLevel>>,
}

/// One interface.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InterfaceFile {
    /// How frames travel: xdp, packet (raw is the same), tap, macvtap, or auto.
    #[serde(rename = "type")]
    pub kind: Option<Loose<InterfaceKind>>,
    /// xdp, packet, auto: the interface's name; tap: the name of the device; macvtap: its /dev/tapN.
    pub param: Option<Loose<String>>,
    /// IP packet bytes of a frame; absent: the interface's.
    pub mtu: Option<Loose<u16>>,
    /// IPv4 address. In shared mode absent: the host's.
    pub ip: Option<Loose<Ipv4Addr>>,
    /// Length of the IPv4 network's prefix.
    pub masklen: Option<Loose<u8>>,
    /// Gateway for what is sent from this interface's IPv4 address.
    pub ifgateway: Option<Loose<Ipv4Addr>>,
    /// IPv6 address.
    pub ipv6: Option<Loose<Ipv6Addr>>,
    /// Length of the IPv6 network's prefix.
    pub masklen6: Option<Loose<u8>>,
    /// Gateway for what is sent from this interface's IPv6 address.
    pub ifgateway6: Option<Loose<Ipv6Addr>>,
    /// Ethernet address; absent: the interface's (xdp, packet), the device's (macvtap) or a random one (tap).
    pub mac: Option<Loose<Mac>>,
    /// Permanent neighbours: "ip|mac;ip|mac".
    pub neigh: Option<Loose<String>>,
    /// LKL: queueing discipline "root|fq"; has no effect here.
    pub qdisc: Option<Loose<String>>,
    /// virtio-net feature bits to use at most (0x1 CSUM, 0x2 GUEST_CSUM, 0x80 GUEST_TSO4, 0x100 GUEST_TSO6, 0x800
    /// HOST_TSO4, 0x1000 HOST_TSO6); absent: what the port offers.
    pub offload: Option<Loose<u32>>,
    /// own: an address of the engine's alone; shared: host and engine use one address at the same time.
    pub address: Option<Loose<AddressKind>>,
    /// Queues to use: "auto" (all) or 1 to 8.
    pub queues: Option<Loose<Count>>,
    /// xdp only: how to attach: auto, zerocopy, driver or generic.
    pub mode: Option<Loose<XdpModeChoice>>,
    /// Frames of the port's memory, per queue; a power of two.
    pub frames: Option<Loose<u32>>,
}

/// Who may use the engine: a process of one of these users or with one of these groups. Root always may.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessFile {
    /// User names or numbers.
    pub users: Vec<Loose<Who>>,
    /// Group names or numbers.
    pub groups: Vec<Loose<Who>>,
}

/// One rule. What is absent matches everything.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleFile {
    /// Program by base name, or by path where it has a slash; `*` stands for any characters.
    pub program: Option<Loose<String>>,
    /// Local address or network.
    pub local: Option<Loose<Network>>,
    /// Remote address or network (connections to somewhere).
    pub remote: Option<Loose<Network>>,
    /// Port or range: the remote one of a connect, the local one of a bind or listen.
    pub port: Option<Loose<PortRange>>,
    /// tcp, the default and the only protocol of this release.
    pub protocol: Option<Loose<Protocol>>,
    /// Who serves the socket: engine or host.
    #[serde(rename = "use")]
    pub verdict: Option<Loose<Verdict>>,
}

/// Declares an enumeration of words: parser, schema, error text and spelling come from one list.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $default:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $alias:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name::$default
            }
        }

        impl Scalar for $name {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<Self> {
                match text {
                    $($word $(| $alias)* => Some($name::$variant),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(match self { $($name::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// How an interface's frames travel.
    InterfaceKind, "one of xdp, packet (or raw), tap, macvtap, auto; LKL's vde, dpdk and pipe do not exist in Persona", Auto {
        /// AF_XDP.
        Xdp = "xdp",
        /// packet_mmap.
        Packet = "packet" | "raw",
        Tap = "tap",
        Macvtap = "macvtap",
        /// AF_XDP where the interface does it, packet_mmap otherwise.
        Auto = "auto",
    }
}

words! {
    /// Whose an interface's address is.
    AddressKind, "own or shared", Own {
        Own = "own",
        Shared = "shared",
    }
}

words! {
    /// How an XDP program may be attached.
    XdpModeChoice, "one of auto, zerocopy, driver, generic", Auto {
        Auto = "auto",
        ZeroCopy = "zerocopy",
        Driver = "driver",
        Generic = "generic",
    }
}

words! {
    /// Protocols that a rule can name.
    Protocol, "tcp", Tcp {
        Tcp = "tcp",
    }
}

words! {
    /// Who serves a socket.
    Verdict, "engine or host", Engine {
        Engine = "engine",
        Host = "host",
    }
}

words! {
    /// What the control plane logs.
    LogLevel, "one of error, warn, info, debug, trace", Info {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

/// LKL's pinning: anything but 0 is one shard on one processor here, where a shard polls its own devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SingleCpu(pub bool);

impl Scalar for SingleCpu {
    const EXPECTED: &'static str = "0, 1 or 2";
    const JSON_TYPE: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(SingleCpu(false)),
            "1" | "2" => Some(SingleCpu(true)),
            _ => None,
        }
    }
}
