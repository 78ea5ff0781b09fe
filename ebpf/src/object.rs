//! The compiled programs and how they get into the kernel.

use crate::error::Error;
use crate::maps::{MapFds, Maps};
use aya::programs::{SchedClassifier, SocketFilter, Xdp};
use std::os::fd::{AsFd, OwnedFd};

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
        let ebpf = aya::EbpfLoader::new()
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
        let refused = |source| Error::Program { program: name, source: Box::new(source) };
        let loaded = self.ebpf.program_mut(name).ok_or(Error::Missing { what: "program", name })?;
        if loaded.fd().is_err() {
            match program {
                Program::Xdp | Program::XdpFrags => <&mut Xdp>::try_from(&mut *loaded).and_then(Xdp::load),
                Program::Tc | Program::TcAlive => {
                    <&mut SchedClassifier>::try_from(&mut *loaded).and_then(SchedClassifier::load)
                }
                Program::Socket => <&mut SocketFilter>::try_from(&mut *loaded).and_then(SocketFilter::load),
            }
            .map_err(refused)?;
        }
        let fd = loaded.fd().map_err(refused)?;
        fd.as_fd().try_clone_to_owned().map_err(|error| refused(error.into()))
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
        data.fd().as_fd().try_clone_to_owned().map_err(|source| Error::Map { action: "keep", map: name, source })
    }
}
