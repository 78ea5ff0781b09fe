//! The table: every `net.ipv4.tcp_*`, `net.ipv4.ip_*` and `net.core.*` setting of Linux 6.18, what it does here or why it does
//! nothing. docs/sysctl.md is made of it.

use persona_stack::Sysctls;

/// One setting.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// Of its number or numbers; empty: a choice, a count or a name.
    pub unit: &'static str,
    pub kind: Kind,
    /// What it sets, where the name does not say it all; or why it has no effect.
    pub note: &'static str,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number of the stack's, read with each decision.
    Stack { field: fn(&mut Sysctls) -> &mut u32, min: u32, max: u32 },
    /// Something else, which `Tunables` deals with by name. The range in words.
    Engine { range: &'static str },
    /// As `Engine`, but it sizes memory and so can be set before start only.
    Start { range: &'static str },
    /// Shown, not set.
    Shown,
    /// Known to Linux, without effect here.
    Nothing,
}

impl Entry {
    pub fn has_effect(&self) -> bool {
        !matches!(self.kind, Kind::Nothing)
    }
}

macro_rules! stack {
    ($name:literal, $field:ident, $unit:literal, $min:expr, $max:expr, $note:literal) => {
        Entry {
            name: $name,
            unit: $unit,
            kind: Kind::Stack { field: |sysctls| &mut sysctls.$field, min: $min, max: $max },
            note: $note,
        }
    };
}

const fn engine(name: &'static str, unit: &'static str, range: &'static str, note: &'static str) -> Entry {
    Entry { name, unit, kind: Kind::Engine { range }, note }
}

const fn start(name: &'static str, unit: &'static str, range: &'static str, note: &'static str) -> Entry {
    Entry { name, unit, kind: Kind::Start { range }, note }
}

const fn nothing(name: &'static str, note: &'static str) -> Entry {
    Entry { name, unit: "", kind: Kind::Nothing, note }
}

const INT_MAX: u32 = i32::MAX as u32;
/// What Linux takes for a switch: everything but 0 is on.
const BYTE: u32 = 255;
/// What a day has seconds: longer waits are slips.
const DAY: u32 = 86_400;

const NO_FASTOPEN: &str = "this release has no TCP Fast Open";
const NO_PROBING: &str = "this release does not probe path MTUs";
const NO_PLB: &str = "paths are not changed for load: the stack has no flow label to change";
const NO_METRICS: &str = "no metrics are saved between connections";
const NO_PACING_RATIO: &str = "only a congestion controller that measures the path paces here, by its own ratio";
const NO_DEVICES: &str = "the stack has no such devices";
const NO_FORWARDING: &str = "the stack forwards nothing";
const NO_SKB: &str = "there are no sk_buffs here: payload lies in the session's chunks";
const NO_HASH: &str = "tables are sized by the keys connections and listeners";
const LINUX_IGNORES: &str = "Linux itself ignores it";
const NO_MARK: &str = "frames of the engine carry no marks";
const NO_TUNNEL: &str = "the stack has no tunnels and no IPsec";
const HOST_LOOPS: &str = "the key spin_us says how long a shard looks for work";
const OF_HOST: &str = "the host's value counts";
const NO_UDP: &str = "this release's stack has no UDP";

/// In the order of their names.
pub static TABLE: &[Entry] = &[
    nothing("net.core.bpf_jit_enable", OF_HOST),
    nothing("net.core.bpf_jit_harden", OF_HOST),
    nothing("net.core.bpf_jit_kallsyms", OF_HOST),
    nothing("net.core.bpf_jit_limit", OF_HOST),
    nothing("net.core.busy_poll", HOST_LOOPS),
    nothing("net.core.busy_read", HOST_LOOPS),
    nothing("net.core.default_qdisc", "there is no queueing discipline between stack and port"),
    nothing("net.core.dev_weight", OF_HOST),
    nothing("net.core.dev_weight_rx_bias", OF_HOST),
    nothing("net.core.dev_weight_tx_bias", OF_HOST),
    nothing("net.core.devconf_inherit_init_net", "engines make no network namespaces"),
    nothing("net.core.fb_tunnels_only_for_init_net", NO_TUNNEL),
    nothing("net.core.flow_limit_cpu_bitmap", OF_HOST),
    nothing("net.core.flow_limit_table_len", OF_HOST),
    nothing("net.core.gro_normal_batch", OF_HOST),
    nothing("net.core.high_order_alloc_disable", NO_SKB),
    nothing("net.core.max_skb_frags", NO_SKB),
    nothing("net.core.mem_pcpu_rsv", "memory is the session's own and is not accounted for by processor"),
    nothing("net.core.message_burst", "the log has no limit of its own"),
    nothing("net.core.message_cost", "the log has no limit of its own"),
    nothing("net.core.netdev_budget", OF_HOST),
    nothing("net.core.netdev_budget_usecs", OF_HOST),
    nothing("net.core.netdev_max_backlog", OF_HOST),
    nothing("net.core.netdev_rss_key", OF_HOST),
    nothing("net.core.netdev_tstamp_prequeue", OF_HOST),
    nothing("net.core.netdev_unregister_timeout_secs", OF_HOST),
    nothing("net.core.optmem_max", "sockets allocate no ancillary memory"),
    nothing("net.core.rmem_default", "net.ipv4.tcp_rmem says what a TCP socket begins with, as on Linux"),
    engine("net.core.rmem_max", "bytes", "2304 to 2147483647", "the most that SO_RCVBUF asks for"),
    nothing("net.core.rps_default_mask", OF_HOST),
    nothing("net.core.rps_sock_flow_entries", OF_HOST),
    nothing("net.core.skb_defer_max", NO_SKB),
    engine("net.core.somaxconn", "connections", "0 to 65535", "the most that the backlog of listen() counts for"),
    nothing("net.core.tstamp_allow_data", "sockets of the engine give no transmit time stamps"),
    nothing("net.core.txrehash", "a flow's way through the stack does not depend on a transmit hash"),
    nothing("net.core.warnings", LINUX_IGNORES),
    nothing("net.core.wmem_default", "net.ipv4.tcp_wmem says what a TCP socket begins with, as on Linux"),
    engine("net.core.wmem_max", "bytes", "4608 to 2147483647", "the most that SO_SNDBUF asks for"),
    nothing("net.core.xfrm_acq_expires", NO_TUNNEL),
    nothing("net.core.xfrm_aevent_etime", NO_TUNNEL),
    nothing("net.core.xfrm_aevent_rseqth", NO_TUNNEL),
    nothing("net.core.xfrm_larval_drop", NO_TUNNEL),
    nothing("net.ipv4.ip_autobind_reuse", "a port is shared only by who asks for it (SO_REUSEADDR, SO_REUSEPORT)"),
    stack!(
        "net.ipv4.ip_default_ttl",
        ip_default_ttl,
        "hops",
        1,
        255,
        "of sockets without IP_TTL, also of those that are open"
    ),
    nothing("net.ipv4.ip_dynaddr", "a connection keeps the address that it began with"),
    nothing("net.ipv4.ip_early_demux", "every segment finds its connection by one lookup"),
    nothing("net.ipv4.ip_forward", NO_FORWARDING),
    nothing("net.ipv4.ip_forward_update_priority", NO_FORWARDING),
    nothing("net.ipv4.ip_forward_use_pmtu", NO_FORWARDING),
    engine(
        "net.ipv4.ip_local_port_range",
        "ports",
        "two ports from 1 to 65535",
        "for connect() and bind() without a port; on a shared address connect() takes ports that the host gives away. Not set: the \
         host's range for bind()",
    ),
    engine(
        "net.ipv4.ip_local_reserved_ports",
        "ports",
        "ports and ranges, at most 32",
        "never taken by connect() and bind() without a port; on a shared address the host's list counts for connect()",
    ),
    stack!(
        "net.ipv4.ip_no_pmtu_disc",
        ip_no_pmtu_disc,
        "",
        0,
        3,
        "0: DF and path MTU discovery; 1: no DF, a router's report means min_pmtu; 2: no DF, no report is believed; 3: no DF, \
         reports are believed when they name something in flight"
    ),
    nothing("net.ipv4.ip_nonlocal_bind", "only addresses of the engine's can be bound"),
    nothing("net.ipv4.ip_unprivileged_port_start", OF_HOST),
    start(
        "net.ipv4.ipfrag_high_thresh",
        "bytes",
        "65536 to 268435456",
        "memory for fragments of each shard (key reassembly)",
    ),
    nothing("net.ipv4.ipfrag_low_thresh", LINUX_IGNORES),
    nothing("net.ipv4.ipfrag_max_dist", "a source is bounded by its share of the memory instead"),
    nothing("net.ipv4.ipfrag_secret_interval", LINUX_IGNORES),
    stack!(
        "net.ipv4.ipfrag_time",
        ipfrag_time,
        "seconds",
        1,
        DAY,
        "of datagrams whose first fragment comes after the change"
    ),
    stack!("net.ipv4.route.min_pmtu", min_pmtu, "bytes", 68, 65_535, "a router that claims less is not believed"),
    stack!("net.ipv4.tcp_abort_on_overflow", abort_on_overflow, "", 0, BYTE, "RST when the accept queue is full"),
    nothing("net.ipv4.tcp_adv_win_scale", "a receive buffer holds payload only, so all of it is offered"),
    nothing("net.ipv4.tcp_allowed_congestion_control", "every controller of the stack is open to everybody"),
    nothing("net.ipv4.tcp_app_win", "no part of a receive buffer is kept for bookkeeping"),
    nothing("net.ipv4.tcp_autocorking", "what was written between two looks of a shard leaves together in any case"),
    Entry {
        name: "net.ipv4.tcp_available_congestion_control",
        unit: "",
        kind: Kind::Shown,
        note: "the controllers of the stack",
    },
    nothing("net.ipv4.tcp_backlog_ack_defer", "there is no socket backlog: segments are processed as they come"),
    nothing("net.ipv4.tcp_base_mss", NO_PROBING),
    stack!(
        "net.ipv4.tcp_challenge_ack_limit",
        challenge_ack_limit,
        "per second",
        0,
        INT_MAX,
        "of each shard, all connections together; the greatest value: no limit"
    ),
    nothing("net.ipv4.tcp_child_ehash_entries", NO_HASH),
    stack!(
        "net.ipv4.tcp_comp_sack_delay_ns",
        comp_sack_delay_ns,
        "nanoseconds",
        0,
        1_000_000_000,
        "at most a twentieth of the round trip; less than 512 us end with the batch of frames"
    ),
    stack!("net.ipv4.tcp_comp_sack_nr", comp_sack_nr, "", 0, BYTE, "0: none is held back"),
    nothing("net.ipv4.tcp_comp_sack_slack_ns", "the timers of a shard tick once in 1.024 ms: that is the slack"),
    engine("net.ipv4.tcp_congestion_control", "", "a name", "of new sockets"),
    stack!("net.ipv4.tcp_dsack", dsack, "", 0, BYTE, ""),
    nothing("net.ipv4.tcp_early_demux", "every segment finds its connection by one lookup"),
    stack!("net.ipv4.tcp_early_retrans", early_retrans, "", 0, 4, "tail loss probes: 3 and 4 on, else off"),
    stack!(
        "net.ipv4.tcp_ecn",
        ecn,
        "",
        0,
        5,
        "0: neither asked for nor accepted, 1: both, 2: accepted; 3: AccECN asked for and accepted, 4: classic asked for, AccECN accepted, 5: AccECN accepted"
    ),
    stack!("net.ipv4.tcp_ecn_fallback", ecn_fallback, "", 0, 1, "1: a SYN that has to be repeated asks no more"),
    stack!(
        "net.ipv4.tcp_ecn_option",
        ecn_option,
        "",
        0,
        2,
        "0: never, 1: when something has changed, 2: whenever it fits; of new connections"
    ),
    stack!(
        "net.ipv4.tcp_ecn_option_beacon",
        ecn_option_beacon,
        "in a round trip",
        0,
        3,
        "at least so often where tcp_ecn_option is 1"
    ),
    nothing("net.ipv4.tcp_ehash_entries", NO_HASH),
    nothing("net.ipv4.tcp_fack", LINUX_IGNORES),
    nothing("net.ipv4.tcp_fastopen", NO_FASTOPEN),
    nothing("net.ipv4.tcp_fastopen_blackhole_timeout_sec", NO_FASTOPEN),
    nothing("net.ipv4.tcp_fastopen_key", NO_FASTOPEN),
    stack!(
        "net.ipv4.tcp_fin_timeout",
        fin_timeout,
        "seconds",
        1,
        DAY,
        "of orphans that enter FIN-WAIT-2 after the change"
    ),
    stack!("net.ipv4.tcp_frto", frto, "", 0, BYTE, ""),
    nothing("net.ipv4.tcp_fwmark_accept", NO_MARK),
    stack!("net.ipv4.tcp_invalid_ratelimit", invalid_ratelimit, "milliseconds", 0, INT_MAX, ""),
    stack!("net.ipv4.tcp_keepalive_intvl", keepalive_intvl, "seconds", 1, 32_767, "of sockets without TCP_KEEPINTVL"),
    stack!("net.ipv4.tcp_keepalive_probes", keepalive_probes, "", 1, 255, "of sockets without TCP_KEEPCNT"),
    stack!("net.ipv4.tcp_keepalive_time", keepalive_time, "seconds", 1, 32_767, "of sockets without TCP_KEEPIDLE"),
    nothing("net.ipv4.tcp_l3mdev_accept", NO_DEVICES),
    nothing(
        "net.ipv4.tcp_limit_output_bytes",
        "no queue lies between stack and port: what the port's ring cannot take stays unsent",
    ),
    nothing("net.ipv4.tcp_low_latency", LINUX_IGNORES),
    stack!(
        "net.ipv4.tcp_max_orphans",
        max_orphans,
        "connections",
        0,
        INT_MAX,
        "of each shard; what is closed beyond it is reset"
    ),
    nothing(
        "net.ipv4.tcp_max_reordering",
        "the reordering window is measured in time (RFC 8985), and bounded by the round trip",
    ),
    engine(
        "net.ipv4.tcp_max_syn_backlog",
        "connections",
        "1 to 1048576",
        "half-open, of each shard; before start it sizes the table (key syn_backlog), later it cannot exceed it. Without cookies the last \
         quarter is not used",
    ),
    engine(
        "net.ipv4.tcp_max_tw_buckets",
        "connections",
        "0 to 4194304",
        "in TIME-WAIT, of each shard; before start it sizes the table (key time_waits), later it cannot exceed it",
    ),
    nothing("net.ipv4.tcp_mem", "memory is bounded by the keys connections, send_buffer and receive_buffer"),
    nothing("net.ipv4.tcp_migrate_req", "what a listener leaves behind is aborted, as on Linux by default"),
    stack!("net.ipv4.tcp_min_rtt_wlen", min_rtt_wlen, "seconds", 0, DAY, ""),
    nothing("net.ipv4.tcp_min_snd_mss", "it is 48 bytes, Linux's default and least"),
    nothing("net.ipv4.tcp_min_tso_segs", "super-segments are as large as windows and port allow"),
    engine(
        "net.ipv4.tcp_moderate_rcvbuf",
        "",
        "0 or 1",
        "of new sockets; 0: the receive buffer stays at the middle number of tcp_rmem",
    ),
    nothing("net.ipv4.tcp_mtu_probe_floor", NO_PROBING),
    nothing("net.ipv4.tcp_mtu_probing", NO_PROBING),
    nothing("net.ipv4.tcp_no_metrics_save", NO_METRICS),
    nothing("net.ipv4.tcp_no_ssthresh_metrics_save", NO_METRICS),
    nothing("net.ipv4.tcp_notsent_lowat", "a socket is writable as long as its send buffer has room"),
    stack!("net.ipv4.tcp_orphan_retries", orphan_retries, "", 0, BYTE, "0: 8"),
    nothing("net.ipv4.tcp_pacing_ca_ratio", NO_PACING_RATIO),
    nothing("net.ipv4.tcp_pacing_ss_ratio", NO_PACING_RATIO),
    nothing(
        "net.ipv4.tcp_pingpong_thresh",
        "the first answer within the delay of an ACK counts, as with Linux's default of 1",
    ),
    nothing("net.ipv4.tcp_plb_cong_thresh", NO_PLB),
    nothing("net.ipv4.tcp_plb_enabled", NO_PLB),
    nothing("net.ipv4.tcp_plb_idle_rehash_rounds", NO_PLB),
    nothing("net.ipv4.tcp_plb_rehash_rounds", NO_PLB),
    nothing("net.ipv4.tcp_plb_suspend_rto_sec", NO_PLB),
    nothing("net.ipv4.tcp_probe_interval", NO_PROBING),
    nothing("net.ipv4.tcp_probe_threshold", NO_PROBING),
    stack!(
        "net.ipv4.tcp_recovery",
        recovery,
        "bits",
        0,
        BYTE,
        "2: the reordering window does not widen; 4: it does not close at tcp_reordering. RACK (1) is always on, as in Linux"
    ),
    nothing("net.ipv4.tcp_reflect_tos", "a connection has the TOS of its listener"),
    stack!("net.ipv4.tcp_reordering", reordering, "segments", 1, 256, ""),
    nothing("net.ipv4.tcp_retrans_collapse", "what is sent again is cut anew from the stream, in whole segments"),
    nothing("net.ipv4.tcp_retries1", "the way to the peer is looked up anew whenever routes have changed"),
    stack!(
        "net.ipv4.tcp_retries2",
        retries2,
        "",
        0,
        BYTE,
        "counted as the time that so many timeouts take from 200 ms on"
    ),
    stack!("net.ipv4.tcp_rfc1337", rfc1337, "", 0, BYTE, "other than 0: RST does not end TIME-WAIT"),
    engine(
        "net.ipv4.tcp_rmem",
        "bytes",
        "three numbers",
        "of new sockets; the greatest is the key receive_buffer. The buffer begins with 131072 and grows; with tcp_moderate_rcvbuf = 0 it is \
         the middle number. The least has no effect",
    ),
    stack!("net.ipv4.tcp_rto_max_ms", rto_max_ms, "milliseconds", 1_000, 120_000, ""),
    stack!("net.ipv4.tcp_rto_min_us", rto_min_us, "microseconds", 1, 1_000_000, ""),
    stack!("net.ipv4.tcp_sack", sack, "", 0, BYTE, "of handshakes after the change"),
    nothing("net.ipv4.tcp_shrink_window", "an offered window is never taken back, as with Linux's default of 0"),
    stack!("net.ipv4.tcp_slow_start_after_idle", slow_start_after_idle, "", 0, BYTE, ""),
    stack!("net.ipv4.tcp_stdurg", stdurg, "", 0, BYTE, ""),
    stack!("net.ipv4.tcp_syn_linear_timeouts", syn_linear_timeouts, "", 0, 127, ""),
    stack!("net.ipv4.tcp_syn_retries", syn_retries, "", 1, 127, "of sockets without TCP_SYNCNT"),
    stack!("net.ipv4.tcp_synack_retries", synack_retries, "", 0, BYTE, ""),
    stack!("net.ipv4.tcp_syncookies", syncookies, "", 0, 2, "0: never, 1: when the backlog is full, 2: always"),
    stack!("net.ipv4.tcp_thin_linear_timeouts", thin_linear_timeouts, "", 0, BYTE, ""),
    stack!(
        "net.ipv4.tcp_timestamps",
        timestamps,
        "",
        0,
        2,
        "of handshakes after the change; 2: without a random offset"
    ),
    nothing("net.ipv4.tcp_tso_rtt_log", "super-segments are as large as windows and port allow"),
    nothing("net.ipv4.tcp_tso_win_divisor", "super-segments are as large as windows and port allow"),
    stack!(
        "net.ipv4.tcp_tw_reuse",
        tw_reuse,
        "",
        0,
        2,
        "Linux's default of 2, on the loopback interface only, would mean never: the stack has none"
    ),
    stack!("net.ipv4.tcp_tw_reuse_delay", tw_reuse_delay, "milliseconds", 1, 32_768, ""),
    stack!("net.ipv4.tcp_window_scaling", window_scaling, "", 0, BYTE, "of handshakes after the change"),
    engine(
        "net.ipv4.tcp_wmem",
        "bytes",
        "three numbers",
        "of new sockets; the greatest is the key send_buffer. The buffer begins with 131072 and grows; the other two have no effect",
    ),
    nothing("net.ipv4.tcp_workaround_signed_windows", "no peer is left that reads windows as signed numbers"),
];

/// Settings of other parts of Linux, or beginnings of their names that end with a dot or an underscore, and why they have no
/// effect. The first that fits is said.
pub static ELSEWHERE: &[(&str, &str)] = &[
    ("net.mptcp.", "this release has no MPTCP"),
    ("net.ipv4.cipso_", "packets carry no security labels"),
    ("net.ipv4.conf.", "interfaces are described by the configuration's interfaces"),
    ("net.ipv4.fib_", "routes come from the configuration, or from the host's table"),
    ("net.ipv4.fwmark_reflect", NO_MARK),
    ("net.ipv4.icmp_", "the limits of ICMP answers are fixed: 1,000 a second, and not to broadcasts"),
    ("net.ipv4.igmp_", "the stack joins no multicast groups"),
    ("net.ipv4.inet_peer_", "the stack keeps no record of peers"),
    ("net.ipv4.neigh.", "the neighbour table has Linux's times, and is sized for the arena"),
    ("net.ipv4.nexthop_", "routes come from the configuration, or from the host's table"),
    ("net.ipv4.ping_group_range", "sockets of ICMP stay with the host"),
    ("net.ipv4.raw_l3mdev_accept", NO_DEVICES),
    ("net.ipv4.route.", "routes come from the configuration, or from the host's table"),
    ("net.ipv4.udp_", NO_UDP),
    ("net.ipv4.xfrm4_", NO_TUNNEL),
    ("net.ipv4.tcp_available_ulp", "no upper layer protocol can be put on a socket"),
    ("net.ipv6.", "this release's stack carries IPv4 only"),
    ("net.bridge.", NO_DEVICES),
    ("net.netfilter.", "the stack has no packet filter"),
    ("net.nf_conntrack_max", "the stack has no packet filter"),
    ("net.unix.", "AF_UNIX stays with the host"),
    ("kernel.", "there is no kernel inside Persona that it could set"),
    ("vm.", "there is no kernel inside Persona that it could set"),
    ("fs.", "there is no kernel inside Persona that it could set"),
    ("dev.", "there is no kernel inside Persona that it could set"),
    ("debug.", "there is no kernel inside Persona that it could set"),
];

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

/// Why a name that is not in the table has no effect, if Linux knows it.
pub fn reason_elsewhere(name: &str) -> Option<&'static str> {
    let fits = |known: &str| name == known || known.ends_with(['.', '_']) && name.starts_with(known);
    ELSEWHERE.iter().find(|(known, _)| fits(known)).map(|(_, reason)| *reason)
}
