//! What loads, what it means, and what is refused with which words.

use super::*;

/// The example of the talk that Persona takes after, as it was shown.
const TALK: &str = r#"{
    "gateway": "10.206.211.1",
    "interfaces": [ { "ifgateway": "202.214.86.129", "ip": "202.214.86.168", "mac": "02:87:f8:27:22:02",
                      "masklen": "26", "param": "/dev/tap23", "type": "macvtap" } ],
    "debug": "0", "singlecpu": "1", "delay_main": "500000",
    "sysctl": "net.ipv4.tcp_wmem=4096 87380 2147483647;net.mptcp.mptcp_debug=1"
}"#;

fn load_with(variables: &[(&str, &str)], text: Option<&str>) -> Result<(Config, Vec<Problem>), Invalid> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    from_parts(variables, text, "test.json")
}

fn load_text(text: &str) -> Result<(Config, Vec<Problem>), Invalid> {
    load_with(&[], Some(text))
}

/// A configuration with one good interface and `more` keys at the top.
fn with_keys(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"interfaces": [{{"type": "xdp", "param": "veth0", "ip": "10.9.0.2", "masklen": 24}}]{comma} {more}}}"#)
}

/// A configuration whose only interface has the given keys.
fn with_interface(keys: &str) -> String {
    format!(r#"{{"interfaces": [{{{keys}}}]}}"#)
}

fn good(text: &str) -> Config {
    let (config, warnings) = load_text(text).unwrap_or_else(|invalid| panic!("{invalid}"));
    assert_eq!(warnings, [], "no warning expected for {text}");
    config
}

fn problems(text: &str) -> Vec<String> {
    match load_text(text) {
        Ok((config, _)) => panic!("{text} loaded as {config:?}"),
        Err(invalid) => invalid.problems.iter().map(Problem::to_string).collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let (_, warnings) = load_text(text).unwrap_or_else(|invalid| panic!("{invalid}"));
    warnings.iter().map(Problem::to_string).collect()
}

#[track_caller]
fn assert_refused(text: &str, sentence: &str) {
    let problems = problems(text);
    assert_eq!(problems, [sentence], "for {text}");
}

#[test]
fn the_shortest_example_loads_with_defaults() {
    let config = good(&with_keys(r#""gateway": "10.9.0.1""#));
    let [interface] = config.interfaces.as_slice() else { panic!("{config:?}") };
    assert_eq!(interface.kind, InterfaceKind::Xdp);
    assert_eq!(interface.param, "veth0");
    assert_eq!(interface.mode, AddressKind::Own);
    assert_eq!(interface.ip, Some(("10.9.0.2".parse().unwrap(), 24)));
    assert_eq!(config.user.name, "nobody");
    assert_eq!(config.access, Access::Everybody);
    let route = DefaultRoute { gateway: "10.9.0.1".parse().unwrap(), interface: 0, source: None };
    assert_eq!(config.default_routes(), [route]);
}

#[test]
fn the_example_of_the_talk_loads_unchanged() {
    let (config, warnings) = load_text(TALK).unwrap();
    let [interface] = config.interfaces.as_slice() else { panic!("{config:?}") };
    assert_eq!(interface.kind, InterfaceKind::Macvtap);
    assert_eq!(interface.param, "/dev/tap23");
    assert_eq!(interface.ip, Some(("202.214.86.168".parse().unwrap(), 26)));
    assert_eq!(interface.mac, Some(Mac([0x02, 0x87, 0xf8, 0x27, 0x22, 0x02])));
    assert_eq!(config.shards, Count::Exactly(1));
    assert_eq!(config.sysctls.send_buffer.most, crate::sysctl::BUFFER_MAX);
    assert_eq!(config.log, LogLevel::Info);
    let gateway = DefaultRoute {
        gateway: "202.214.86.129".parse().unwrap(),
        interface: 0,
        source: Some("202.214.86.168".parse().unwrap()),
    };
    assert_eq!(config.default_routes(), [gateway]);
    // Each of its keys that has no effect is accounted for.
    let at: Vec<&str> = warnings.iter().map(|warning| warning.at.as_str()).collect();
    assert_eq!(at, ["delay_main", "sysctl", "sysctl", "gateway"], "{warnings:?}");
    assert!(warnings[1].reason.starts_with("net.ipv4.tcp_wmem: 2147483647 bytes"), "{warnings:?}");
    assert!(warnings[2].reason.starts_with("net.mptcp.mptcp_debug has no effect"), "{warnings:?}");
}

#[test]
fn every_key_of_lkl_is_known() {
    let text = r#"{
        "gateway": "10.0.0.1", "gateway6": "fd00::1", "debug": "0x301", "singlecpu": "2",
        "sysctl": "net.ipv4.tcp_rmem=4096 87380 262144", "boot_cmdline": "mem=128M ip=dhcp loglevel=8",
        "mount": "proc,sysfs", "dump": "/sysfs/class/net/lo/mtu", "delay_main": "1",
        "interfaces": [ { "type": "tap", "param": "tap0", "mtu": "1400", "ip": "10.0.0.2", "masklen": "24",
          "ifgateway": "10.0.0.1", "ipv6": "fd00::2", "masklen6": "64", "ifgateway6": "fd00::1",
          "mac": "2:0:0:0:0:1", "neigh": "10.0.0.1|02:00:00:00:00:02;fd00::1|02:00:00:00:00:02",
          "qdisc": "root|fq", "offload": "0x883" } ]
    }"#;
    let (config, warnings) = load_text(text).unwrap();
    let [interface] = config.interfaces.as_slice() else { panic!("{config:?}") };
    assert_eq!(interface.mtu, Some(1400));
    assert_eq!(interface.neighbours.len(), 2);
    assert_eq!(config.sysctls.receive_buffer.most, 262_144);
    assert_eq!(config.log, LogLevel::Debug);
    let offload = interface.offload.unwrap();
    assert!(offload.tx_checksum() && offload.rx_checksum() && offload.receive_merged() && offload.segmentation());
    let at: Vec<&str> = warnings.iter().map(|warning| warning.at.as_str()).collect();
    let expected = [
        "debug",
        "debug",
        "boot_cmdline",
        "boot_cmdline",
        "boot_cmdline",
        "mount",
        "dump",
        "delay_main",
        "interfaces[0].qdisc",
        "interfaces[0].ipv6",
        "interfaces[0].masklen6",
        "interfaces[0].ifgateway6",
        "gateway6",
    ];
    assert_eq!(at, expected);
}

#[test]
fn strings_numbers_and_booleans_mean_the_same() {
    let as_strings = with_keys(r#""strict": "true", "spin_us": "50", "shards": "2", "user": "65534""#);
    let as_values = with_keys(r#""strict": true, "spin_us": 50, "shards": 2, "user": 65534"#);
    let config = good(&as_strings);
    assert_eq!(config, good(&as_values));
    assert!(config.strict);
    assert_eq!(config.spin, Some(Duration::from_micros(50)));
    assert_eq!(config.shards, Count::Exactly(2));
}

#[test]
fn numbers_are_read_with_base_prefixes_as_strtol_does() {
    for (text, bits) in [("0x883", 0x883), ("2179", 0x883), ("04203", 0x883)] {
        let config = good(&with_interface(&format!(
            r#""type": "tap", "param": "t", "ip": "10.0.0.2", "masklen": 24, "offload": "{text}""#
        )));
        assert_eq!(config.interfaces[0].offload, Some(OffloadMask(bits)), "{text}");
    }
}

#[test]
fn trailing_commas_pass_and_commas_in_strings_stay() {
    let text = r#"{"interfaces": [{"type": "tap", "param": "a,]", "ip": "10.0.0.2", "masklen": 24,},],
        "mount": "", }"#;
    assert_eq!(good(text).interfaces[0].param, "a,]");
}

#[test]
fn a_missing_comma_is_still_an_error_with_its_position() {
    let problems = problems("{\"debug\": 1\n \"mount\": \"\"}");
    assert!(problems[0].contains("line 2 column 2"), "{problems:?}");
}

#[test]
fn raw_is_packet() {
    let config = good(&with_interface(r#""type": "raw", "param": "eth9", "ip": "10.0.0.2", "masklen": 24"#));
    assert_eq!(config.interfaces[0].kind, InterfaceKind::Packet);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert_refused(
        &with_keys(r#""gatway": "10.9.0.1""#),
        "gatway: unknown key `gatway`; the nearest known one is `gateway`",
    );
    assert_refused(
        &with_interface(r#""type": "xdp", "param": "v", "ip": "10.0.0.2", "mask_len": 24"#),
        "interfaces[0].mask_len: unknown key `mask_len`; the nearest known one is `masklen`",
    );
    assert_refused(
        &with_keys(r#""access": {"user": ["root"]}"#),
        "access.user: unknown key `user`; the nearest known one is `users`",
    );
    assert_refused(
        &with_keys(r#""rules": [{"use": "host"}, {"usee": "host"}]"#),
        "rules[1].usee: unknown key `usee`; the nearest known one is `use`",
    );
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let problems = problems(r#"{"debug": 0, "debug": 1}"#);
    assert!(problems[0].contains("duplicate field `debug`"), "{problems:?}");
}

#[test]
fn wrong_values_are_refused_with_path_and_reason() {
    let interface = |key: &str| with_interface(&format!(r#""type": "xdp", "param": "veth0", {key}"#));
    let cases = [
        (interface(r#""ip": "10.9.0.300", "masklen": 24"#), "interfaces[0].ip", "`10.9.0.300` is not an IPv4 address"),
        (
            interface(r#""ip": "10.9.0.2", "masklen": "33""#),
            "interfaces[0].masklen",
            "33 is out of range: from 1 to 32",
        ),
        (interface(r#""ip": "10.9.0.2", "masklen": 0"#), "interfaces[0].masklen", "0 is out of range"),
        (
            interface(r#""ip": "10.9.0.2", "masklen": -1"#),
            "interfaces[0].masklen",
            "`-1` is not a number from 0 to 255",
        ),
        (interface(r#""ip": "10.9.0.2""#), "interfaces[0].masklen", "missing"),
        (interface(r#""masklen": 24"#), "interfaces[0].masklen", "is there without ip"),
        (interface(r#""ip": "224.0.0.1", "masklen": 24"#), "interfaces[0].ip", "no address that a host can have"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "mac": "01:00:00:00:00:00""#), "interfaces[0].mac", "unicast"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "mtu": 100"#), "interfaces[0].mtu", "100 is out of range"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "frames": 100"#), "interfaces[0].frames", "power of two"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "queues": 9"#), "interfaces[0].queues", "from 1 to 8"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "address": "both""#), "interfaces[0].address", "own or shared"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "ifgateway": "10.8.0.1""#), "interfaces[0].ifgateway", "not on"),
        (interface(r#""ip": "10.9.0.2", "masklen": 24, "neigh": "10.9.0.1""#), "interfaces[0].neigh", "ip|mac"),
        (
            with_interface(r#""type": "vde", "param": "x""#),
            "interfaces[0].type",
            "LKL's vde, dpdk and pipe do not exist",
        ),
        (with_interface(r#""param": "v", "ip": "10.0.0.2", "masklen": 24"#), "interfaces[0].type", "missing"),
        (with_interface(r#""type": "xdp", "ip": "10.0.0.2", "masklen": 24"#), "interfaces[0].param", "missing"),
        (
            with_interface(r#""type": "xdp", "param": "a/b", "address": "shared""#),
            "interfaces[0].param",
            "cannot be the name",
        ),
        (
            with_interface(r#""type": "macvtap", "param": "tap1", "ip": "10.0.0.2", "masklen": 24"#),
            "interfaces[0].param",
            "/dev/tap23",
        ),
        (
            with_interface(r#""type": "tap", "param": "t", "ip": "10.0.0.2", "masklen": 24, "address": "shared""#),
            "interfaces[0].address",
            "impossible with tap",
        ),
        ("{}".to_owned(), "interfaces", "missing"),
        (r#"{"interfaces": {}}"#.to_owned(), "interfaces", "expected a sequence"),
        ("[]".to_owned(), "", "expected an object"),
        (with_keys(r#""strict": "maybe""#), "strict", "`maybe` is not true or false"),
        (with_keys(r#""singlecpu": 3"#), "singlecpu", "`3` is not 0, 1 or 2"),
        (with_keys(r#""singlecpu": 1, "shards": 2"#), "singlecpu", "contradicts shards = 2"),
        (with_keys(r#""shards": 2, "cpus": [0]"#), "cpus", "1 processors for 2 shards"),
        (with_keys(r#""send_buffer": 10"#), "send_buffer", "10 is out of range"),
        (with_keys(r#""user": "no-such-user-here""#), "user", "no user `no-such-user-here`"),
        (with_keys(r#""access": {"groups": ["no-such-group-here"]}"#), "access.groups[0]", "no group"),
        (with_keys(r#""rules": [{"program": "x"}]"#), "rules[0].use", "missing"),
        (
            with_keys(r#""rules": [{"local": "10.0.0.1", "remote": "10.0.0.2", "use": "host"}]"#),
            "rules[0]",
            "write two rules",
        ),
        (
            with_keys(&format!(r#""rules": [{}]"#, [r#"{"use": "host"}"#; 129].join(", "))),
            "rules",
            "129 of them: at most 128",
        ),
        (with_keys(r#""rules": [{"port": "90-80", "use": "host"}]"#), "rules[0].port", "a port such as 443"),
        (with_keys(r#""rules": [{"protocol": "udp", "use": "host"}]"#), "rules[0].protocol", "`udp` is not tcp"),
        (with_keys(r#""sysctl": "net.ipv4.tcp_congestion_control=vegas""#), "sysctl", "`vegas` is not in this stack"),
        (with_keys(r#""sysctl": "net.ipv4.tcp_wmem=1 2""#), "sysctl", "not three numbers"),
        (with_keys(r#""sysctl": "net.ipv4.tcp_syn_retries""#), "sysctl", "not of the form name=value"),
        (
            with_keys(r#""sysctl": "nett.ipv4.tcp_wmem=1 2 3""#),
            "sysctl",
            "`nett.ipv4.tcp_wmem` is no sysctl; the nearest is net.ipv4.tcp_wmem",
        ),
        (with_keys(r#""sysctl": "net.ipv4.tcp_wmme=1 2 3""#), "sysctl", "the nearest is net.ipv4.tcp_wmem"),
        (with_keys(r#""sysctl": "net.ipv4.tcp_sack=256""#), "sysctl", "`256` is not a number from 0 to 255"),
    ];
    for (text, path, reason) in cases {
        let invalid = load_text(&text).err().unwrap_or_else(|| panic!("{text} loaded"));
        let found = invalid.problems.iter().any(|problem| problem.at == path && problem.reason.contains(reason));
        assert!(found, "{text}: expected {path}: ...{reason}..., found {invalid}");
    }
}

#[test]
fn two_interfaces_may_not_be_one() {
    let text = r#"{"interfaces": [
        {"type": "xdp", "param": "veth0", "ip": "10.9.0.2", "masklen": 24},
        {"type": "xdp", "param": "veth0", "ip": "10.9.0.2", "masklen": 24}]}"#;
    assert_eq!(
        problems(text),
        ["interfaces[1].param: veth0 is there twice", "interfaces[1].ip: another interface has the same address"]
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"{"interfaces": [{"type": "xdp"}], "user": "no-such-user-here", "send_buffer": 1}"#;
    assert_eq!(problems(text).len(), 4, "{:?}", problems(text));
}

#[test]
fn shared_mode_takes_its_address_from_the_host() {
    let config = good(&with_interface(r#""type": "packet", "param": "eth9", "address": "shared""#));
    assert_eq!(config.interfaces[0].mode, AddressKind::Shared);
    assert_eq!(config.interfaces[0].ip, None);
}

#[test]
fn settings_without_effect_are_named_with_the_reason() {
    let cases = [
        (with_keys(r#""gateway": "192.0.2.1""#), "gateway: 192.0.2.1 has no effect: it is on no interface's network"),
        (
            with_keys(r#""sysctl": "net/ipv4/tcp_fack=1""#),
            "sysctl: net.ipv4.tcp_fack has no effect: Linux itself ignores it",
        ),
        (
            with_interface(r#""type": "tap", "param": "t", "ip": "10.0.0.2", "masklen": 24, "offload": "0xc803""#),
            "interfaces[0].offload: bits 0xc000 have no effect: the ports use 0x1983 only",
        ),
        (
            with_interface(r#""type": "packet", "param": "e", "ip": "10.0.0.2", "masklen": 24, "mode": "driver""#),
            "interfaces[0].mode: has no effect: packet attaches no XDP program for receiving",
        ),
    ];
    for (text, warning) in cases {
        assert_eq!(warnings(&text), [warning], "{text}");
    }
}

#[test]
fn sysctls_that_mean_something_are_applied() {
    let sysctls = "net.ipv4.tcp_keepalive_time=60; net.ipv4.tcp_keepalive_intvl=10;net.ipv4.tcp_keepalive_probes=3;\
        net.ipv4.tcp_syn_retries=2;net.ipv4.ip_default_ttl=32;net.ipv4.tcp_congestion_control=reno;\
        net.ipv4.tcp_max_syn_backlog=100;net.ipv4.tcp_max_tw_buckets=200;net.ipv4.ipfrag_high_thresh=131072";
    let config = good(&with_keys(&format!(r#""sysctl": "{sysctls}""#)));
    let stack = &config.sysctls.stack;
    assert_eq!((stack.keepalive_time, stack.keepalive_intvl, stack.keepalive_probes), (60, 10, 3));
    assert_eq!((stack.syn_retries, stack.ip_default_ttl), (2, 32));
    assert_eq!(config.sysctls.options().congestion, Some(persona_stack::Congestion::NewReno));
    assert_eq!((config.sizes.requests, config.sizes.time_waits, config.sizes.reassembly), (100, 200, 131_072));
}

#[test]
fn a_key_overrides_the_sysctl_of_the_same_meaning() {
    let config = good(&with_keys(r#""sysctl": "net.ipv4.tcp_wmem=4096 8192 65536", "send_buffer": 131072"#));
    assert_eq!(config.sysctls.send_buffer.most, 131_072);
}

#[test]
fn the_environment_alone_makes_a_configuration() {
    let variables = [
        ("LKL_HIJACK_NET_IFTYPE", "raw"),
        ("LKL_HIJACK_NET_IFPARAMS", "eth9"),
        ("LKL_HIJACK_NET_IP", "10.9.0.2"),
        ("LKL_HIJACK_NET_NETMASK_LEN", "24"),
        ("LKL_HIJACK_NET_GATEWAY", "10.9.0.1"),
        ("LKL_HIJACK_NET_MTU", "1400"),
        ("LKL_HIJACK_CONFIG_FILE", "elsewhere.json"),
        ("HOME", "/"),
    ];
    let (config, warnings) = load_with(&variables, None).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.interfaces[0].kind, InterfaceKind::Packet);
    assert_eq!(config.interfaces[0].mtu, Some(1400));
    assert_eq!(config.default_routes().len(), 1);
}

#[test]
fn the_obsolete_tap_variable_makes_a_tap() {
    let variables =
        [("LKL_HIJACK_NET_TAP", "tap7"), ("LKL_HIJACK_NET_IP", "10.9.0.2"), ("LKL_HIJACK_NET_NETMASK_LEN", "24")];
    let (config, _) = load_with(&variables, None).unwrap();
    assert_eq!((config.interfaces[0].kind, config.interfaces[0].param.as_str()), (InterfaceKind::Tap, "tap7"));
}

#[test]
fn the_file_overrides_the_environment_key_by_key() {
    let variables = [("LKL_HIJACK_NET_GATEWAY", "192.0.2.1"), ("LKL_HIJACK_SINGLE_CPU", "1")];
    let (config, _) = load_with(&variables, Some(&with_keys(r#""gateway": "10.9.0.1""#))).unwrap();
    assert_eq!(config.gateway, Some("10.9.0.1".parse().unwrap()));
    assert_eq!(config.shards, Count::Exactly(1));
}

#[test]
fn errors_name_the_variable_that_they_come_from() {
    let wrong = load_with(&[("LKL_HIJACK_NET_MTU", "huge")], Some(r#"{"debug": 0}"#)).unwrap_err();
    assert_eq!(wrong.problems[0].at, "LKL_HIJACK_NET_MTU", "{wrong}");
    let wrong = load_with(&[("LKL_HIJACK_NET_IPP", "10.0.0.1")], None).unwrap_err();
    let sentence = "LKL_HIJACK_NET_IPP: unknown variable; the nearest known one is LKL_HIJACK_NET_IP";
    assert_eq!(wrong.problems[0].to_string(), sentence);
    let (_, warned) = load_with(&[("LKL_HIJACK_ZPOLINE", "1")], Some(&with_keys(""))).unwrap();
    assert_eq!(warned[0].at, "LKL_HIJACK_ZPOLINE");
}

#[test]
fn the_message_says_file_path_and_reason() {
    let invalid = load_text(&with_keys(r#""debgu": 1"#)).unwrap_err();
    assert_eq!(invalid.to_string(), "test.json: debgu: unknown key `debgu`; the nearest known one is `debug`");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let missing = load(Some(Path::new("/nonexistent/persona.json"))).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/persona.json: cannot be read: No such file"), "{missing}");
}

#[test]
fn access_is_decided_by_user_and_groups() {
    let config = good(&with_keys(r#""access": {"users": ["nobody", 1234], "groups": [42]}"#));
    assert!(config.access.allows(0, &[]), "root always may");
    assert!(config.access.allows(1234, &[]));
    assert!(config.access.allows(65_534, &[65_534]));
    assert!(config.access.allows(1, &[7, 42]));
    assert!(!config.access.allows(1, &[7]));
    assert_eq!(config.access.socket_mode(), 0o666);
    let group = good(&with_keys(r#""access": {"groups": [42]}"#)).access;
    assert_eq!((group.socket_mode(), group.socket_group()), (0o660, Some(42)));
    assert_eq!(good(&with_keys(r#""access": {}"#)).access.socket_mode(), 0o600);
}

#[test]
fn the_first_rule_that_matches_decides() {
    use persona_channel::policy::{Action, Family, Question, Rule, Side, decide};
    use std::net::SocketAddrV4;
    let config = good(&with_keys(
        r#""rules": [
            {"program": "ssh*", "use": "host"},
            {"program": "/opt/*/server", "port": 443, "use": "engine"},
            {"remote": "10.1.0.0/16", "port": "8000-8099", "use": "host"},
            {"local": "10.9.0.2", "port": 22, "use": "host"}]"#,
    ));
    let ask = |program: &str, local: Option<&str>, remote: Option<&str>| {
        let (name, path) = program.split_once('=').unwrap_or(("", program));
        let encoded: Vec<u8> = policy(&config.rules, name, path).iter().flat_map(Rule::encode).collect();
        let side = if remote.is_some() { Side::Remote } else { Side::Local };
        let asked: SocketAddrV4 = remote.or(local).unwrap().parse().unwrap();
        let mut address = [0; 16];
        address[..4].copy_from_slice(&asked.ip().octets());
        decide(&encoded, &Question { side, family: Family::V4, address, port: asked.port(), program: b"" })
    };
    assert_eq!(ask("/usr/bin/ssh", None, Some("192.0.2.1:22")), Action::Host);
    assert_eq!(ask("ssh-alias=/usr/bin/other", None, Some("192.0.2.1:22")), Action::Host);
    assert_eq!(ask("other=/usr/bin/ssh", None, Some("192.0.2.1:22")), Action::Host);
    assert_eq!(ask("ssh=", None, Some("192.0.2.1:22")), Action::Host);
    assert_eq!(ask("/opt/a/server=/usr/bin/curl", None, Some("10.1.2.3:8050")), Action::Host);
    assert_eq!(ask("=/opt/a/server", None, Some("10.1.2.3:8050")), Action::Host);
    assert_eq!(ask("/usr/bin/mosh", None, Some("192.0.2.1:22")), Action::Engine);
    assert_eq!(ask("/usr/bin/curl", None, Some("10.1.2.3:8050")), Action::Host);
    assert_eq!(ask("/usr/bin/curl", None, Some("10.1.2.3:8100")), Action::Engine);
    assert_eq!(ask("/usr/bin/curl", None, Some("10.2.2.3:8050")), Action::Engine);
    assert_eq!(ask("/usr/sbin/dropbear", Some("10.9.0.2:22"), None), Action::Host);
    assert_eq!(ask("/usr/sbin/dropbear", Some("10.9.0.2:23"), None), Action::Engine);
}

#[test]
fn networks_contain_what_their_prefix_covers() {
    let contains = |network: &str, address: &str| {
        <Network as scalar::Scalar>::parse(network).unwrap().contains(address.parse().unwrap())
    };
    assert!(contains("0.0.0.0/0", "203.0.113.9"));
    assert!(contains("10.0.0.0/8", "10.255.0.1"));
    assert!(!contains("10.0.0.0/8", "11.0.0.1"));
    assert!(contains("192.0.2.1", "192.0.2.1"));
    assert!(!contains("192.0.2.1", "192.0.2.2"));
    assert!(contains("::/0", "fd00::1"));
    assert!(contains("fd00::/64", "fd00::1"));
    assert!(!contains("fd00::/64", "fd00:0:0:1::1"));
    assert!(!contains("::/0", "10.0.0.1"));
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    let properties = schema["properties"].as_object().unwrap();
    for (key, property) in properties {
        assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{key} lacks a description");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema.to_string().contains("\"masklen6\""));
}
