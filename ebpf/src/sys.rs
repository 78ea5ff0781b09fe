//! The commands of bpf(2) that aya keeps to itself, or offers only on objects that it owns: map elements by
//! descriptor, and links whose descriptor we may keep.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_LINK_CREATE: i32 = 28;

/// Update flags.
pub(crate) const ANY: u64 = 0;
pub(crate) const NO_EXIST: u64 = 1;

/// `union bpf_attr` for the map element commands.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Element {
    map_fd: u32,
    reserved: u32,
    key: u64,
    /// Value, or next key.
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Info {
    fd: u32,
    len: u32,
    pointer: u64,
}

/// `union bpf_attr` for BPF_LINK_CREATE, with the part for tcx.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    reserved: u32,
    expected_revision: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
pub(crate) struct MapShape {
    pub map_type: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
}

pub(crate) fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: FromBytes + ?Sized,
{
    element(BPF_MAP_LOOKUP_ELEM, map, Some(key), pointer_mut(value), 0)
}

pub(crate) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    element(BPF_MAP_UPDATE_ELEM, map, Some(key), std::ptr::from_ref(value) as u64, flags)
}

pub(crate) fn delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    element(BPF_MAP_DELETE_ELEM, map, Some(key), 0, 0)
}

/// The key after `previous` (`None`: the first), `None` at the end. A key that was deleted meanwhile starts again at
/// the first.
pub(crate) fn next_key<K>(map: BorrowedFd<'_>, previous: Option<&K>) -> io::Result<Option<K>>
where
    K: IntoBytes + FromZeros + FromBytes + Immutable,
{
    let mut next = K::new_zeroed();
    match element(BPF_MAP_GET_NEXT_KEY, map, previous, pointer_mut(&mut next), 0) {
        Ok(()) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut shape = MapShape::default();
    let attribute =
        Info { fd: map.as_raw_fd() as u32, len: size_of::<MapShape>() as u32, pointer: pointer_mut(&mut shape) };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attribute)?;
    Ok(shape)
}

pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let attribute = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd: 0,
        reserved: 0,
        expected_revision: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &attribute)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn element<K: IntoBytes + Immutable>(
    command: i32,
    map: BorrowedFd<'_>,
    key: Option<&K>,
    value: u64,
    flags: u64,
) -> io::Result<()> {
    let key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    let attribute = Element { map_fd: map.as_raw_fd() as u32, reserved: 0, key, value, flags };
    bpf(command, &attribute).map(drop)
}

fn pointer_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

fn bpf<A: IntoBytes + Immutable>(command: i32, attribute: &A) -> io::Result<i32> {
    // SAFETY: the kernel reads size_of::<A>() bytes of `attribute`. The pointers in it were made by the functions above
    // from references that outlive the call; `Maps` checked that the map's key and value sizes are those of the types.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

pub(crate) fn attach_socket_filter(program: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let number = program.as_raw_fd();
    // SAFETY: the kernel reads one int at the address of `number`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            std::ptr::from_ref(&number).cast(),
            size_of_val(&number) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
