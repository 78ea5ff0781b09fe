//! The compiled programs and how they get into the kernel.

use crate::error::Error;
use crate::maps::{MapFds, Maps};
use aya::programs::{ProgramError, SchedClassifier, SocketFilter, Xdp};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How often a program is offered to the verifier when signals interrupt it.
const ATTEMPTS: u32 = 16;

/// Alignment that ELF readers expect of an object in memory.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/persona.bpf.o")));

/// The ELF object, for other loaders.
pub fn object_bytes() -> &'static [u8] {
    &OBJECT.0
}

/// Capacities of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub flows: u32,
    pub listeners: u32,
    pub addresses: u32,
    /// Receive queues of the interface.
    pub queues: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { flows: 262_144, listeners: 16_384, addresses: 1_024, queues: 64 }
    }
}

/// The programs in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// For frames in one buffer.
    Xdp,
    /// For frames that may span buffers; the sockets must be bound with XDP_USE_SG.
    XdpFrags,
    /// tc ingress: drops the original of what the packet socket has a copy of.
    Tc,
    /// The same, inert once a socket of its maker is closed.
    TcAlive,
    /// On the packet socket: keeps what is not ours out of the ring.
    Socket,
}

impl Program {
    pub const ALL: [Self; 5] = [Self::Xdp, Self::XdpFrags, Self::Tc, Self::TcAlive, Self::Socket];

    /// The function's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "persona_xdp",
            Self::XdpFrags => "persona_xdp_frags",
            Self::Tc => "persona_tc",
            Self::TcAlive => "persona_tc_alive",
            Self::Socket => "persona_socket",
        }
    }
}

/// One loaded object: the maps and programs of one interface. Dropping it undoes nothing: links, sockets and [`Maps`]
/// hold what they need.
#[derive(Debug)]
pub struct Object {
    pub(crate) ebpf: aya::Ebpf,
}

impl Object {
    /// Makes the maps. Programs are verified when they are first asked for, so that a kernel need not know those that
    /// nobody uses.
    pub fn load(sizes: &Sizes) -> Result<Self, Error> {
        Self::load_for_vlan(sizes, 0)
    }

    /// The same for the frames of one VLAN (0: those without a tag, or with priority alone). All others are the host's.
    pub fn load_for_vlan(sizes: &Sizes, vlan: u16) -> Result<Self, Error> {
        let ebpf = aya::EbpfLoader::new()
            .override_global("vlan", &vlan, true)
            .map_max_entries("flows", sizes.flows)
            .map_max_entries("listeners", sizes.listeners)
            .map_max_entries("addresses", sizes.addresses)
            .map_max_entries("xsks", sizes.queues)
            .load(object_bytes())?;
        Ok(Self { ebpf })
    }

    /// The maps by descriptors of their own.
    pub fn maps(&self) -> Result<Maps, Error> {
        Maps::from_fds(MapFds {
            flows: self.map_fd("flows")?,
            listeners: self.map_fd("listeners")?,
            addresses: self.map_fd("addresses")?,
            xsks: self.map_fd("xsks")?,
            counters: self.map_fd("counters")?,
            hold_until: self.map_fd("hold_until")?,
        })
    }

    /// Loads a program (once) and gives a descriptor of it.
    pub fn program(&mut self, program: Program) -> Result<OwnedFd, Error> {
        let name = program.name();
        let loaded = self.ebpf.program_mut(name).ok_or(Error::Missing { what: "program", name })?;
        let mut attempts = 0;
        while loaded.fd().is_err() {
            attempts += 1;
            match load(loaded, program) {
                // The verifier gives up when a signal arrives; what handles it is not our affair.
                Err(error) if attempts < ATTEMPTS && is_interrupted(&error) => {}
                outcome => outcome.map_err(|error| refused(name, error))?,
            }
        }
        let fd = loaded.fd().map_err(|error| refused(name, error))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| refused(name, error.into()))
    }

    /// The loaded program itself, for BPF_PROG_TEST_RUN.
    pub fn aya(&mut self) -> &mut aya::Ebpf {
        &mut self.ebpf
    }

    pub(crate) fn map_fd(&self, name: &'static str) -> Result<OwnedFd, Error> {
        use aya::maps::Map;
        let missing = Error::Missing { what: "map", name };
        let data = match self.ebpf.map(name) {
            Some(
                Map::HashMap(data) | Map::XskMap(data) | Map::PerCpuArray(data) | Map::Array(data) | Map::SockMap(data),
            ) => data,
            _ => return Err(missing),
        };
        data.fd().as_fd().try_clone_to_owned().map_err(|cause| Error::Map { action: "keep", map: name, cause })
    }
}

fn load(loaded: &mut aya::programs::Program, program: Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp | Program::XdpFrags => <&mut Xdp>::try_from(loaded)?.load(),
        Program::Tc | Program::TcAlive => <&mut SchedClassifier>::try_from(loaded)?.load(),
        Program::Socket => <&mut SocketFilter>::try_from(loaded)?.load(),
    }
}

fn is_interrupted(error: &ProgramError) -> bool {
    let ProgramError::LoadError { io_error, .. } = error else { return false };
    matches!(io_error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn refused(program: &'static str, error: ProgramError) -> Error {
    let (cause, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (io_error, verifier_log.to_string()),
        ProgramError::IOError(cause) => (cause, String::new()),
        other => (io::Error::other(other), String::new()),
    };
    Error::Program { program, cause, log }
}
