//! One interface: which ports it can have, and what stands in the way.

use super::Finding;
use crate::host::genetlink::xdp_features;
use crate::host::{Error, Interface, ethtool, firewall};
use persona_ebpf::attach::xdp_owner;

/// Frames of an MTU up to this fit into one buffer together with their headroom.
const SINGLE_BUFFER_MTU: u32 = 3_498;

/// Everything about one interface; an error when there is none of that name.
pub fn interface(name: &str) -> Result<Vec<Finding>, Error> {
    let interface = Interface::find(name)?;
    let mut findings = vec![state(&interface), owner(&interface)];
    findings.extend(modes(&interface));
    findings.extend([queues(&interface), offloads(&interface), rules(&interface)]);
    Ok(findings)
}

fn state(interface: &Interface) -> Finding {
    let Interface { name, mtu, kind, .. } = interface;
    let kind = kind.as_deref().unwrap_or("hardware");
    if !interface.up {
        return Finding::missing(name, format!("{kind}, down"), format!("ip link set dev {name} up"));
    }
    if interface.loopback || interface.mac.is_none() {
        return Finding::missing(name, "its frames have no Ethernet header", "choose an Ethernet interface");
    }
    if !interface.carrier {
        return Finding::limited(name, format!("{kind}, MTU {mtu}, up, and the other end is not there"), "");
    }
    if interface.controller.is_some() {
        return Finding::limited(
            name,
            format!("{kind}, MTU {mtu}, a port of a bridge or bond, which has the addresses"),
            "use the bridge or bond itself",
        );
    }
    Finding::good(name, format!("{kind}, MTU {mtu}, up"))
}

fn owner(interface: &Interface) -> Finding {
    const SUBJECT: &str = "XDP program";
    match xdp_owner(&interface.name) {
        Ok(None) => Finding::good(SUBJECT, "none is attached"),
        Ok(Some(owner)) => Finding::limited(
            SUBJECT,
            format!("{owner} is attached: no AF_XDP port until it goes"),
            format!(
                "ip link set dev {} xdp off, or stop what attached it, or use \"type\": \"packet\"",
                interface.name
            ),
        ),
        Err(error) => Finding::limited(SUBJECT, error.to_string(), ""),
    }
}

fn modes(interface: &Interface) -> Vec<Finding> {
    const SUBJECT: &str = "AF_XDP mode";
    let features = match xdp_features(interface.index) {
        Ok(features) => features,
        Err(error) => {
            return vec![Finding::limited(
                SUBJECT,
                format!("the kernel does not tell before it is tried (since Linux 6.3): {error}"),
                "",
            )];
        }
    };
    let mode = match (features.driver, features.zero_copy) {
        (true, true) => Finding::good(SUBJECT, "in the driver, zero-copy"),
        (true, false) => Finding::good(SUBJECT, "in the driver, one copy (its driver has no zero-copy)"),
        (false, _) => Finding::limited(
            SUBJECT,
            "generic only: its driver runs no XDP programs",
            "\"type\": \"packet\" is likely faster here",
        ),
    };
    let mut findings = vec![mode];
    if interface.mtu > SINGLE_BUFFER_MTU {
        let mtu = interface.mtu;
        findings.push(match features.multi_buffer {
            true => Finding::good("large frames", format!("MTU {mtu} in several buffers")),
            false => Finding::missing(
                "large frames",
                format!("MTU {mtu} does not fit one buffer, and the driver does not split frames"),
                format!("ip link set dev {} mtu {SINGLE_BUFFER_MTU}, or use \"type\": \"packet\"", interface.name),
            ),
        });
    }
    findings.push(match features.tx_checksum {
        true => Finding::good("checksums", "the device sums what AF_XDP sends"),
        false => Finding::limited("checksums", "the engine sums what AF_XDP sends", ""),
    });
    findings
}

fn queues(interface: &Interface) -> Finding {
    let (receive, transmit) = (interface.rx_queues, interface.tx_queues);
    let found = format!("{receive} to receive, {transmit} to send");
    if receive == transmit {
        return Finding::good("queues", found);
    }
    let most = receive.min(transmit);
    Finding::limited(
        "queues",
        format!("{found}: an AF_XDP socket needs one of each, so {most} can be used"),
        format!("ethtool -L {}", interface.name),
    )
}

fn offloads(interface: &Interface) -> Finding {
    const SUBJECT: &str = "offloads";
    let on = match ethtool::offloads(&interface.name) {
        Ok(on) => on,
        Err(error) => return Finding::limited(SUBJECT, format!("cannot be read: {error}"), ""),
    };
    let names = [("tx checksum", on.tx_checksum), ("rx checksum", on.rx_checksum), ("TSO", on.tso), ("GRO", on.gro)];
    let listed: Vec<&str> = names.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
    if interface.kind.as_deref() == Some("veth") {
        return Finding::good(SUBJECT, format!("{listed}; an XDP program on a veth switches off TSO of its peer"));
    }
    Finding::good(SUBJECT, listed)
}

fn rules(interface: &Interface) -> Finding {
    const SUBJECT: &str = "firewall";
    let bypassed = firewall::bypassed(&interface.name);
    match bypassed.sentence(&interface.name) {
        Some(sentence) => Finding::limited(
            SUBJECT,
            sentence,
            "what these rules forbid, forbid to Persona's programs by its own \"rules\" and \"access\"",
        ),
        None if bypassed.unknown.is_empty() => Finding::good(SUBJECT, "no rule is bypassed"),
        None => Finding::limited(SUBJECT, bypassed.unknown.join("; "), "apt-get install nftables"),
    }
}
