//! Two network namespaces joined by a veth pair: the engine's side and the peer's side.

use anyhow::{Context, Result, bail};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the veth pair is made.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub mtu: u32,
    /// Checksum, TSO and GRO on both ends.
    pub offload: bool,
    /// Receive and transmit queues of both ends.
    pub queues: u32,
    /// The engine's side gets its address in the host kernel too (shared address mode).
    pub shared: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { mtu: 1500, offload: true, queues: 1, shared: false }
    }
}

/// The namespaces; removed when dropped.
pub struct Topology {
    /// Namespace of the engine and of the programs under Persona.
    pub ours: String,
    /// Namespace of the ordinary host kernel.
    pub peer: String,
    /// Namespace of the emulated link between the two, if there is one.
    pub middle: Option<String>,
    pub link: Link,
}

/// Address of the engine's side (the engine's own, or the host's in shared mode).
pub const OUR_ADDRESS: &str = "10.9.0.2";
/// Address of the peer's kernel.
pub const PEER_ADDRESS: &str = "10.9.0.1";
/// The interface's name in either namespace.
pub const INTERFACE: &str = "veth0";
/// In the namespace between, the interface towards us and the one towards the peer.
pub const MIDDLE: [&str; 2] = ["ours", "peer"];

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Topology {
    pub fn new(link: Link) -> Result<Self> {
        let topology = Self::named(link, false);
        topology.build()?;
        Ok(topology)
    }

    /// With a namespace between the two, whose interfaces nothing joins but an `Emulator`. Frames are of the MTU
    /// everywhere, as on a wire.
    pub fn emulated(link: Link) -> Result<Self> {
        let topology = Self::named(Link { offload: false, ..link }, true);
        topology.build()?;
        Ok(topology)
    }

    fn named(link: Link, emulated: bool) -> Self {
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let middle = emulated.then(|| format!("pt-m-{unique}"));
        Self { ours: format!("pt-o-{unique}"), peer: format!("pt-p-{unique}"), middle, link }
    }

    /// What fails half-way is removed with the value.
    fn build(&self) -> Result<()> {
        let (ours, peer) = (self.ours.as_str(), self.peer.as_str());
        for namespace in self.namespaces() {
            ip(&["netns", "add", namespace])?;
            // IPv6 would send neighbour discovery of its own accord into byte-exact comparisons.
            sysctl(namespace, "net.ipv6.conf.all.disable_ipv6", "1")?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        match &self.middle {
            None => self.pair((ours, INTERFACE), (peer, INTERFACE))?,
            Some(middle) => {
                self.pair((ours, INTERFACE), (middle, MIDDLE[0]))?;
                self.pair((peer, INTERFACE), (middle, MIDDLE[1]))?;
            }
        }
        ip(&["-n", peer, "address", "add", &format!("{PEER_ADDRESS}/24"), "dev", INTERFACE])?;
        if self.link.shared {
            ip(&["-n", ours, "address", "add", &format!("{OUR_ADDRESS}/24"), "dev", INTERFACE])?;
        }
        Ok(())
    }

    /// A veth pair between two (namespace, name), both ends up.
    fn pair(&self, one: (&str, &str), other: (&str, &str)) -> Result<()> {
        let (queues, mtu) = (self.link.queues.to_string(), self.link.mtu.to_string());
        let many = ["numrxqueues", &queues, "numtxqueues", &queues];
        let mut words = vec!["-n", one.0, "link", "add", one.1];
        words.extend(many);
        words.extend(["type", "veth", "peer", "name", other.1]);
        words.extend(many);
        words.extend(["netns", other.0]);
        ip(&words)?;
        for (namespace, name) in [one, other] {
            ip(&["-n", namespace, "link", "set", name, "mtu", &mtu, "up"])?;
            if !self.link.offload {
                let off = ["ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
                self.run(namespace, &off)?;
            }
        }
        Ok(())
    }

    /// The namespace of the emulated link.
    pub fn middle(&self) -> Result<&str> {
        self.middle.as_deref().context("this topology has no namespace between its two")
    }

    fn namespaces(&self) -> impl Iterator<Item = &str> {
        [self.ours.as_str(), &self.peer].into_iter().chain(self.middle.as_deref())
    }

    /// Runs a short command in a namespace and returns its standard output.
    pub fn run(&self, namespace: &str, command: &[&str]) -> Result<String> {
        let output = Command::new("ip")
            .args(["netns", "exec", namespace])
            .args(command)
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?} in {namespace}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A tap device in the engine's namespace, bridged to the veth; returns its name.
    pub fn add_tap(&self) -> Result<String> {
        let (ours, mtu) = (self.ours.as_str(), self.link.mtu.to_string());
        ip(&["-n", ours, "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"])?;
        ip(&["-n", ours, "link", "add", "bridge0", "mtu", &mtu, "type", "bridge"])?;
        for (device, master) in [("tap0", true), (INTERFACE, true), ("bridge0", false)] {
            if master {
                ip(&["-n", ours, "link", "set", device, "mtu", &mtu, "master", "bridge0"])?;
            }
            ip(&["-n", ours, "link", "set", device, "up"])?;
        }
        Ok("tap0".into())
    }

    /// A macvtap device on the veth; returns the path of its character device, which is made here, since a namespace
    /// has no udev. It goes with the namespace's name.
    pub fn add_macvtap(&self) -> Result<String> {
        let ours = self.ours.as_str();
        ip(&["-n", ours, "link", "add", "link", INTERFACE, "name", "macvtap0", "type", "macvtap", "mode", "bridge"])?;
        ip(&["-n", ours, "link", "set", "macvtap0", "mtu", &self.link.mtu.to_string(), "up"])?;
        let numbers = self.run(ours, &["sh", "-c", "cat /sys/class/net/macvtap0/tap*/dev"])?;
        let (major, minor) = numbers.trim().split_once(':').context("device numbers")?;
        let index = self.run(ours, &["cat", "/sys/class/net/macvtap0/ifindex"])?;
        std::fs::create_dir_all(self.devices())?;
        let node = format!("{}/tap{}", self.devices(), index.trim());
        self.run(ours, &["mknod", &node, "c", major, minor])?;
        Ok(node)
    }

    fn devices(&self) -> String {
        format!("/tmp/{}-dev", self.ours)
    }

    /// One counter of the host kernel's /proc/net/snmp or netstat in a namespace, e.g. ("Tcp", "OutRsts").
    pub fn kernel_counter(&self, namespace: &str, group: &str, name: &str) -> Result<u64> {
        let text = self.run(namespace, &["cat", "/proc/net/snmp", "/proc/net/netstat"])?;
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{group}:")));
        let (names, values) = (lines.next().context("no such group")?, lines.next().context("no values")?);
        let position =
            names.split_whitespace().position(|word| word == name).with_context(|| format!("no {group}{name}"))?;
        Ok(values.split_whitespace().nth(position).context("short line")?.parse()?)
    }

    /// The kernel's view of the engine's namespace must be empty: it never saw a TCP segment.
    pub fn assert_kernel_saw_no_tcp(&self) -> Result<()> {
        for name in ["InSegs", "OutSegs", "OutRsts", "ActiveOpens", "PassiveOpens", "InErrs"] {
            let value = self.kernel_counter(&self.ours, "Tcp", name)?;
            if value != 0 {
                bail!("the host kernel of the engine's namespace has Tcp{name} = {value}: a diverted flow reached it");
            }
        }
        Ok(())
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
        let _ = std::fs::remove_dir_all(self.devices());
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn sysctl(namespace: &str, name: &str, value: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", "exec", namespace, "sysctl", "-qw", &format!("{name}={value}")])
        .output()
        .context("cannot run sysctl")?;
    if !output.status.success() {
        bail!("sysctl {name}={value}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
