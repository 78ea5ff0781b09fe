//! The table against Linux and against itself, values in and out, and the document.

use super::table::{ELSEWHERE, Kind, TABLE};
use super::*;
use std::path::Path;

fn sentence(outcome: Result<Option<String>, Refused>) -> String {
    outcome.unwrap_err().into_sentence()
}

#[test]
fn names_are_in_order_and_there_once() {
    // net.ipv4.route.min_pmtu lies in a folder: as /proc/sys is read.
    assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
    for entry in TABLE.iter().filter(|entry| !entry.has_effect()) {
        assert!(!entry.note.is_empty(), "{} without a reason", entry.name);
    }
}

/// What the running kernel has is known here, so that nothing is called unknown that an administrator finds in /proc/sys.
#[test]
fn every_setting_of_this_kernel_is_known() {
    for (folder, prefix) in [("/proc/sys/net/ipv4", "net.ipv4."), ("/proc/sys/net/core", "net.core.")] {
        let names = std::fs::read_dir(folder).expect("the kernel's settings can be listed");
        let mut seen = 0;
        for file in names.map(Result::unwrap).filter(|file| file.file_type().unwrap().is_file()) {
            let name = format!("{prefix}{}", file.file_name().into_string().unwrap());
            let known = table::find(&name).is_some() || table::reason_elsewhere(&name).is_some();
            assert!(known, "{name} is missing in the table");
            seen += 1;
        }
        assert!(seen > 0, "{folder} is empty");
    }
}

/// Every number of the stack can be set to both ends of its range, is shown as set, and no further.
#[test]
fn numbers_go_as_far_as_their_range() {
    for entry in TABLE {
        let Kind::Stack { min, max, .. } = entry.kind else { continue };
        let mut tunables = Tunables::default();
        let (_, default) = tunables.get(entry.name).unwrap();
        assert!((min..=max).contains(&default.parse().unwrap()), "{}: default {default}", entry.name);
        for value in [min, max] {
            tunables.set(entry.name, &value.to_string()).unwrap();
            assert_eq!(tunables.get(entry.name), Ok((entry.name, value.to_string())));
        }
        let before = tunables.clone();
        for value in [u64::from(max) + 1, u64::from(min).wrapping_sub(1)] {
            let refused = sentence(tunables.set(entry.name, &value.to_string()));
            assert!(refused.contains(&format!("is not a number from {min} to {max}")), "{refused}");
        }
        assert_eq!(tunables, before, "refused and yet changed");
    }
}

/// No two names write to the same place.
#[test]
fn each_number_has_a_place_of_its_own() {
    for entry in TABLE {
        let Kind::Stack { field, min, max } = entry.kind else { continue };
        let mut changed = Sysctls::LINUX;
        let value = if *field(&mut changed) == min { max } else { min };
        *field(&mut changed) = value;
        for other in TABLE.iter().filter(|other| other.name != entry.name) {
            let Kind::Stack { field, .. } = other.kind else { continue };
            let mut untouched = Sysctls::LINUX;
            assert_eq!(field(&mut changed), field(&mut untouched), "{} and {}", entry.name, other.name);
        }
    }
}

#[test]
fn whatever_has_an_effect_is_shown_and_takes_its_own_default() {
    for entry in TABLE.iter().filter(|entry| entry.has_effect()) {
        let mut tunables = Tunables::default();
        let (_, value) = tunables.get(entry.name).unwrap();
        if !matches!(entry.kind, Kind::Shown) {
            assert_eq!(tunables.set(entry.name, &value), Ok(None), "{}", entry.name);
            assert_eq!(tunables.get(entry.name), Ok((entry.name, value)));
        }
    }
}

#[test]
fn what_has_no_effect_is_refused_with_the_reason() {
    let mut tunables = Tunables::default();
    let set = |tunables: &mut Tunables, name: &str| sentence(tunables.set(name, "1"));
    let refused = set(&mut tunables, "net.ipv4.tcp_low_latency");
    assert_eq!(refused, "net.ipv4.tcp_low_latency has no effect: Linux itself ignores it");
    assert_eq!(tunables.get("net.ipv4.tcp_low_latency").unwrap_err().into_sentence(), refused);
    assert_eq!(set(&mut tunables, "net/mptcp/enabled"), "net.mptcp.enabled has no effect: this release has no MPTCP");
    assert!(set(&mut tunables, "net.ipv4.udp_rmem_min").contains("no UDP"));
    assert!(set(&mut tunables, "net.ipv4.tcp_available_congestion_control").contains("cannot be set"));
    assert_eq!(
        set(&mut tunables, "net.ipv4.tcp_sak"),
        "`net.ipv4.tcp_sak` is no sysctl; the nearest is net.ipv4.tcp_sack"
    );
    assert!(matches!(tunables.set("net.ipv4.tcp_sak", "1"), Err(Refused::Wrong(_))));
    assert_eq!(tunables, Tunables::default());
    assert!(ELSEWHERE.iter().all(|(name, why)| !name.is_empty() && !why.is_empty()));
}

#[test]
fn values_that_are_no_plain_number() {
    let mut tunables = Tunables::default();
    tunables.set("net.ipv4.tcp_rmem", "4096\t65536  1048576").unwrap();
    assert_eq!(tunables.get("net.ipv4.tcp_rmem").unwrap().1, "4096 65536 1048576");
    assert_eq!(tunables.options().receive_buffer, Some(1_048_576));
    assert!(tunables.options().tune_receive);
    tunables.set("net.ipv4.tcp_moderate_rcvbuf", "0").unwrap();
    assert_eq!((tunables.options().receive_buffer, tunables.options().tune_receive), (Some(65_536), false));
    tunables.set("net.ipv4.tcp_congestion_control", "reno").unwrap();
    assert_eq!(tunables.options().congestion, Some(Congestion::NewReno));
    tunables.set("net.ipv4.ip_local_port_range", "40000 40100").unwrap();
    assert_eq!(tunables.ports, Some((40_000, 40_100)));
    tunables.set("net.ipv4.ip_local_reserved_ports", "8080, 9148-9150,").unwrap();
    assert_eq!(tunables.get("net.ipv4.ip_local_reserved_ports").unwrap().1, "8080,9148-9150");
    let warning = tunables.set("net.ipv4.tcp_wmem", "4096 87380 2147483647").unwrap();
    assert!(warning.is_some_and(|sentence| sentence.contains("beyond what a stream can hold")));
    for (name, value) in [
        ("net.ipv4.tcp_rmem", "4096 65536"),
        ("net.ipv4.tcp_rmem", "4096 65536 1 2"),
        ("net.ipv4.tcp_wmem", "9 8 7"),
        ("net.ipv4.tcp_wmem", "a b c"),
        ("net.ipv4.tcp_congestion_control", "vegas"),
        ("net.ipv4.ip_local_port_range", "2 1"),
        ("net.ipv4.ip_local_port_range", "0 1"),
        ("net.ipv4.ip_local_port_range", "1 65536"),
        ("net.ipv4.ip_local_port_range", "1 2 3"),
        ("net.ipv4.ip_local_reserved_ports", "9-8"),
        ("net.ipv4.ip_local_reserved_ports", "0"),
        ("net.ipv4.ip_local_reserved_ports", "a"),
        ("net.ipv4.tcp_sack", ""),
        ("net.ipv4.tcp_sack", "on"),
    ] {
        let before = tunables.clone();
        assert!(matches!(tunables.set(name, value), Err(Refused::Wrong(_))), "{name}={value}");
        assert_eq!(tunables, before);
    }
}

#[test]
fn tables_of_a_running_engine_keep_their_size() {
    let sizes = Sizes { requests: 100, time_waits: 50, ..SIZES };
    let mut running = Tunables::default().started(&sizes);
    assert_eq!(running.get("net.ipv4.tcp_max_syn_backlog").unwrap().1, "100");
    running.set("net.ipv4.tcp_max_syn_backlog", "60").unwrap();
    assert_eq!(running.stack.max_syn_backlog, 60);
    let refused = sentence(running.set("net.ipv4.tcp_max_tw_buckets", "51"));
    assert!(
        refused.ends_with("the engine was started with a table of 50 (key time_waits of the configuration)"),
        "{refused}"
    );
    let refused = sentence(running.set("net.ipv4.ipfrag_high_thresh", "131072"));
    assert!(refused.contains("set it in the configuration"), "{refused}");
    assert_eq!(running.get("net.ipv4.ipfrag_high_thresh").unwrap().1, SIZES.reassembly.to_string());
}

#[test]
fn the_document_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sysctl.md");
    let wanted = document::text();
    if std::env::var_os("PERSONA_WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/sysctl.md can be written");
    }
    let found = std::fs::read_to_string(&path).expect("docs/sysctl.md is there");
    assert!(found == wanted, "docs/sysctl.md differs from the table: PERSONA_WRITE_DOCUMENTS=1 writes it anew");
}
