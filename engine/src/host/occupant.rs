//! Another engine on an interface that we are to use. An interface has one engine: two would answer for one address, or take
//! each other's queues, and the kernel refuses that for AF_XDP alone.
//!
//! An engine is known by its keeper, a process with a `keeper.pid` open, and has an interface when the descriptor table holds
//! the program of the interface, a packet socket there, or a queue of the tap. What /proc hides from us (another PID
//! namespace, a keeper with more capabilities than ours) is not found.

use super::Interface;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Index of an interface, with the XDP program on it.
    index: Option<u32>,
    xdp_program: Option<u32>,
    /// Name of a tap, in our network namespace.
    tap: Option<String>,
    /// Device of a macvtap.
    device: Option<u64>,
}

/// Another engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    pub name: String,
    pub keeper: u32,
}

impl Wanted {
    pub fn interface(interface: &Interface) -> Self {
        Self { index: Some(interface.index), xdp_program: interface.xdp_program, ..Self::default() }
    }

    pub fn tap(name: &str) -> Self {
        Self { tap: Some(name.to_owned()), ..Self::default() }
    }

    /// The `/dev/tapN` of a macvtap.
    pub fn device(path: &str) -> Self {
        Self { device: fs::metadata(path).ok().map(|metadata| metadata.rdev()), ..Self::default() }
    }

    /// The engine that has it, other than the calling process's and its keeper's.
    pub fn occupant(&self) -> Option<Occupant> {
        let sockets = self.index.map(packet_sockets).unwrap_or_default();
        let ours = [std::process::id(), std::os::unix::process::parent_id()];
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| !ours.contains(pid))
            .find_map(|pid| self.held_by(pid, &sockets))
    }

    fn held_by(&self, pid: u32, sockets: &HashSet<String>) -> Option<Occupant> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let descriptors: Vec<(PathBuf, String)> = fs::read_dir(process.join("fd"))
            .ok()?
            .flatten()
            .filter_map(|entry| Some((entry.path(), fs::read_link(entry.path()).ok()?.to_str()?.to_owned())))
            .collect();
        let name = descriptors.iter().find_map(|(_, target)| engine_of(target))?;
        let same_namespace = || {
            let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
            namespace(&process).is_some() && namespace(&process) == namespace(Path::new("/proc/thread-self"))
        };
        let has_it = descriptors.iter().any(|(path, target)| match target.as_str() {
            "anon_inode:bpf_link" => {
                self.xdp_program.is_some_and(|program| says(path, "prog_id:", &program.to_string()))
            }
            "/dev/net/tun" => self.tap.as_deref().is_some_and(|tap| says(path, "iff:", tap) && same_namespace()),
            file if file.starts_with('/') => {
                self.device.is_some_and(|wanted| fs::metadata(path).is_ok_and(|metadata| metadata.rdev() == wanted))
            }
            socket => sockets.contains(socket),
        });
        has_it.then_some(Occupant { name, keeper: pid })
    }
}

/// The engine's name, if this is the file that its keeper has open all its life.
fn engine_of(target: &str) -> Option<String> {
    let path = Path::new(target);
    let is_lock = path.file_name()? == "keeper.pid";
    is_lock.then(|| Some(path.parent()?.file_name()?.to_str()?.to_owned())).flatten()
}

/// Whether a descriptor's information has this line.
fn says(descriptor: &Path, key: &str, value: &str) -> bool {
    let information = descriptor.to_string_lossy().replace("/fd/", "/fdinfo/");
    let text = fs::read_to_string(information).unwrap_or_default();
    text.lines().any(|line| line.strip_prefix(key).is_some_and(|found| found.trim() == value))
}

/// Links of the descriptors of all packet sockets that are bound to an interface of our network namespace.
fn packet_sockets(index: u32) -> HashSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(4)?.parse() == Ok(index)).then(|| Some(format!("socket:[{}]", fields.get(8)?))).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_known_by_its_lock() {
        assert_eq!(engine_of("/run/persona/web/keeper.pid").as_deref(), Some("web"));
        assert_eq!(engine_of("/run/persona/web/keeper.pid (deleted)"), None);
        assert_eq!(engine_of("socket:[12]"), None);
        assert_eq!(engine_of("/keeper.pid"), None);
    }

    #[test]
    fn nobody_has_what_is_not_there() {
        assert_eq!(Wanted::tap("nonesuch").occupant(), None);
        assert_eq!(Wanted::device("/dev/tap987654").occupant(), None);
    }
}
