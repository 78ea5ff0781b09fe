//! Kernel, privileges and limits.

use super::Finding;
use persona_ebpf::{Object, Program, Sizes};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The oldest kernel that all ports work on.
const OLDEST: Kernel = Kernel(6, 1);
const WITH_TCX: Kernel = Kernel(6, 6);
const WITH_MANAGED_NEIGHBOURS: Kernel = Kernel(5, 16);
/// Descriptors that a busy engine takes: one anchor per connection and a few per process.
const MANY_DESCRIPTORS: u64 = 65_536;
/// Bytes that must be lockable for a UMEM without CAP_IPC_LOCK.
const LOCKED_BYTES: u64 = 64 << 20;

/// Version of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    pub fn running() -> Self {
        let release = rustix::system::uname();
        Self::parse(&release.release().to_string_lossy()).unwrap_or(Self(0, 0))
    }

    /// From "6.1.0-18-amd64" and the like.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Sentence for a part that this kernel is too old for; `None` when it is new enough.
    pub fn lacks(self, part: &str, since: Self) -> Option<String> {
        (self < since).then(|| format!("{part} needs Linux {}.{}, this is {}.{}", since.0, since.1, self.0, self.1))
    }
}

/// Everything that does not depend on an interface.
pub fn host() -> Vec<Finding> {
    let kernel = Kernel::running();
    let capabilities = effective_capabilities();
    vec![
        version(kernel),
        privileges(capabilities),
        programs(),
        btf(),
        jit(),
        tc_hook(kernel),
        xdp_sockets(),
        transmit_metadata(),
        packet_sockets(),
        tap(),
        locked_memory(capabilities),
        descriptors(),
        huge_pages(),
        processors(),
        neighbours(kernel),
    ]
}

fn version(kernel: Kernel) -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match kernel.lacks("Persona", OLDEST) {
        None => Finding::good("kernel", format!("Linux {release}")),
        Some(sentence) => Finding::limited(
            "kernel",
            format!("Linux {release}: {sentence}; single ports may work all the same"),
            "install a newer kernel",
        ),
    }
}

/// What `persona up` needs, with the number of each (linux/capability.h). The engine drops all of them.
const CAPABILITIES: [(&str, u32, &str); 8] = [
    ("CAP_NET_ADMIN", 12, "attaching programs, tap devices, neighbours"),
    ("CAP_NET_RAW", 13, "AF_XDP and packet sockets"),
    ("CAP_BPF", 39, "loading programs"),
    ("CAP_PERFMON", 38, "loading programs"),
    ("CAP_SETUID", 7, "changing to an unprivileged user"),
    ("CAP_SETGID", 6, "changing to an unprivileged user"),
    ("CAP_NET_BIND_SERVICE", 10, "keeping ports below 1024 on a shared address"),
    ("CAP_IPC_LOCK", 14, "frame memory beyond the memlock limit"),
];

/// Without the first of them nothing works; the others have narrower uses.
const NEEDED: usize = 4;

fn is_for_programs(capability: &str) -> bool {
    matches!(capability, "CAP_BPF" | "CAP_PERFMON")
}

fn privileges(effective: u64) -> Finding {
    const CAP_SYS_ADMIN: u32 = 21;
    let has = |number: u32| effective & 1 << number != 0;
    let missing: Vec<String> = CAPABILITIES
        .iter()
        // Both were once a part of CAP_SYS_ADMIN and still are.
        .filter(|(name, number, _)| !(has(*number) || is_for_programs(name) && has(CAP_SYS_ADMIN)))
        .map(|(name, _, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Finding::good("privileges", "all that `persona up` needs");
    }
    let needed = CAPABILITIES[..NEEDED].iter().any(|(name, ..)| missing.iter().any(|entry| entry.starts_with(name)));
    let found = format!("without {}", missing.join(", "));
    let mend = "run `persona up` as root; programs under it need no privilege";
    if needed { Finding::missing("privileges", found, mend) } else { Finding::limited("privileges", found, mend) }
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn programs() -> Finding {
    let loaded = Object::load(&Sizes { flows: 16, listeners: 16, addresses: 16, queues: 1 })
        .and_then(|mut object| Program::ALL.into_iter().try_for_each(|program| object.program(program).map(drop)));
    match loaded {
        Ok(()) => Finding::good("eBPF programs", format!("all {} pass the verifier", Program::ALL.len())),
        Err(error) => Finding::missing("eBPF programs", error.to_string(), "run as root on a newer kernel"),
    }
}

fn btf() -> Finding {
    if fs::metadata("/sys/kernel/btf/vmlinux").is_ok() {
        return Finding::good("BTF", "the kernel describes its types");
    }
    Finding::limited(
        "BTF",
        "the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): the programs need none of them and load all \
         the same, tools show less",
        "",
    )
}

/// Asks of a program that was loaded: the sysctl shows in the first network namespace only.
fn jit() -> Finding {
    const SUBJECT: &str = "BPF compiler";
    let sizes = Sizes { flows: 16, listeners: 16, addresses: 16, queues: 1 };
    let compiled = Object::load(&sizes).ok().and_then(|mut object| {
        object.program(Program::Socket).ok()?;
        Some(object.aya().program(Program::Socket.name())?.info().ok()?.size_jitted() != 0)
    });
    match compiled {
        Some(true) => Finding::good(SUBJECT, "eBPF programs are compiled"),
        Some(false) => Finding::limited(
            SUBJECT,
            "eBPF programs are interpreted: each packet costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        None => Finding::limited(SUBJECT, "no program could be loaded to see whether it is compiled", "run as root"),
    }
}

/// Tries in a network namespace that nobody else sees and that goes with its thread.
fn tc_hook(kernel: Kernel) -> Finding {
    let tried = std::thread::spawn(|| {
        // SAFETY: affects the calling thread alone, which ends right after.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .map_err(|error| format!("no network namespace to try it in: {error}"))?;
        let sizes = Sizes { flows: 16, listeners: 16, addresses: 16, queues: 1 };
        let mut object = Object::load(&sizes).map_err(|error| error.to_string())?;
        match object.attach_tcx("lo").map_err(|error| error.to_string())? {
            Some(_) => Ok("tcx"),
            None => object.attach_clsact("lo").map(|_| "clsact").map_err(|error| error.to_string()),
        }
    })
    .join()
    .unwrap_or_else(|_| Err("the attempt failed".into()));
    match tried {
        Ok("tcx") => Finding::good("packet ports", "diverted by tcx, which ends with its engine"),
        Ok(_) => Finding::good(
            "packet ports",
            format!(
                "diverted by clsact ({}), inert without its engine",
                kernel.lacks("tcx", WITH_TCX).unwrap_or_default()
            ),
        ),
        Err(reason) => Finding::missing("packet ports", reason, "run as root on a kernel with CONFIG_NET_CLS_ACT"),
    }
}

fn xdp_sockets() -> Finding {
    match xdp_socket() {
        Ok(_) => Finding::good("AF_XDP sockets", "available; `persona doctor INTERFACE` says in which mode"),
        Err(error) => Finding::missing(
            "AF_XDP sockets",
            format!("none: {error}"),
            match error.raw_os_error() {
                Some(libc::EPERM) => "run as root",
                _ => "use a kernel with CONFIG_XDP_SOCKETS, or \"type\": \"packet\"",
            },
        ),
    }
}

fn xdp_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

/// Registers a frame memory with room for metadata before each frame.
fn transmit_metadata() -> Finding {
    const SUBJECT: &str = "AF_XDP checksum offload";
    const FRAME: usize = 4096;
    const METADATA: u32 = 24;
    let tried = || -> io::Result<()> {
        let socket = xdp_socket()?;
        let memory = memmap2::MmapMut::map_anon(FRAME)?;
        let registration = libc::xdp_umem_reg {
            addr: memory.as_ptr() as u64,
            len: FRAME as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: libc::XDP_UMEM_TX_METADATA_LEN,
            tx_metadata_len: METADATA,
        };
        // SAFETY: the kernel reads one xdp_umem_reg, and pins the memory it names, which is mapped until the socket closes.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_UMEM_REG,
                std::ptr::from_ref(&registration).cast(),
                size_of_val(&registration) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match tried() {
        Ok(()) => Finding::good(SUBJECT, "frames may carry transmit metadata"),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Finding::limited(SUBJECT, "the engine sums: transmit metadata needs Linux 6.11", "install a newer kernel")
        }
        Err(error) => Finding::limited(SUBJECT, format!("cannot be tried: {error}"), "run as root"),
    }
}

fn packet_sockets() -> Finding {
    match socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_) => Finding::good("packet sockets", "available"),
        Err(error) => Finding::missing("packet sockets", format!("none: {error}"), "run as root"),
    }
}

fn tap() -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::good("tap devices", "available"),
        Err(error) => Finding::limited(
            "tap devices",
            format!("/dev/net/tun cannot be opened: {error}"),
            "modprobe tun, and give the container the device",
        ),
    }
}

fn locked_memory(capabilities: u64) -> Finding {
    const CAP_IPC_LOCK: u32 = 14;
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        _ if capabilities & 1 << CAP_IPC_LOCK != 0 => Finding::good("locked memory", "unlimited by CAP_IPC_LOCK"),
        None => Finding::good("locked memory", "unlimited"),
        Some(bytes) if bytes >= LOCKED_BYTES => Finding::good("locked memory", format!("{} MiB", bytes >> 20)),
        Some(bytes) => Finding::limited(
            "locked memory",
            format!("{} KiB: too little for the frames of AF_XDP sockets", bytes >> 10),
            "raise it (ulimit -l unlimited, LimitMEMLOCK=infinity) or give the keeper CAP_IPC_LOCK",
        ),
    }
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let found = format!("{limit} at most: as many connections, less a few per process");
    if limit >= MANY_DESCRIPTORS {
        return Finding::good("descriptors", found);
    }
    Finding::limited("descriptors", found, "raise the hard limit (ulimit -Hn, LimitNOFILE=1048576)")
}

fn huge_pages() -> Finding {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    match (field("HugePages_Free"), field("HugePages_Total")) {
        (0, 0) => Finding::limited(
            "huge pages",
            "none are reserved: frame memory takes ordinary pages",
            "sysctl -w vm.nr_hugepages=64 if you want them; nothing depends on it",
        ),
        (free, total) => Finding::good("huge pages", format!("{free} of {total} are free")),
    }
}

fn processors() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    if count == 1 {
        return Finding::limited(
            "processors",
            "one: engine and applications take turns, so the engine does not spin",
            "",
        );
    }
    Finding::good("processors", format!("{count}: as many shards at most"))
}

fn neighbours(kernel: Kernel) -> Finding {
    match kernel.lacks("keeping neighbours fresh", WITH_MANAGED_NEIGHBOURS) {
        None => Finding::good("shared addresses", "the host keeps neighbours in use resolved"),
        Some(sentence) => Finding::limited("shared addresses", sentence, "install a newer kernel"),
    }
}
