//! The system calls of the fake engine.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::RwLock;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, recvmsg, sendmsg,
    socket, socketpair,
};

/// Held while this process has a descriptor that is to be a program's alone, and exclusively while a program is started: between
/// fork and exec it has copies of everything, and what the other program closes would not be closed.
pub static HANDING_OVER: RwLock<()> = RwLock::new(());

pub fn listen(path: &Path) -> OwnedFd {
    let _ = std::fs::remove_file(path);
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("a free path");
    nix::sys::socket::listen(&fd, Backlog::new(64).expect("a legal backlog")).expect("a listener");
    fd
}

pub fn accept(listener: &OwnedFd) -> OwnedFd {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).expect("a process connects");
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).expect("a socket pair")
}

pub fn send(fd: &OwnedFd, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    // A process that died meanwhile is no fault of the test.
    let _ = sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None);
}

/// The next message; None when the process is gone.
pub fn receive(fd: &OwnedFd) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 512];
    let received = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, MsgFlags::empty()).ok()?.bytes
    };
    buffer.truncate(received);
    (received > 0).then_some(buffer)
}

pub fn eventfd() -> OwnedFd {
    // SAFETY: no memory is involved; the result is checked and owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        assert!(fd >= 0, "an eventfd");
        OwnedFd::from_raw_fd(fd)
    }
}

pub fn ring(eventfd: &OwnedFd) {
    let _ = nix::unistd::write(eventfd, &1u64.to_ne_bytes());
}

pub fn drain_eventfd(eventfd: &OwnedFd) {
    let _ = nix::unistd::read(eventfd, &mut [0; 8]);
}

/// Writes a doorbell's byte; a full doorbell is rung already.
pub fn send_byte(fd: &OwnedFd) {
    let _ = nix::sys::socket::send(fd.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// Bytes taken, without waiting; None at the end.
pub fn take(fd: &OwnedFd, bytes: &mut [u8]) -> Option<usize> {
    match nix::sys::socket::recv(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => None,
        Ok(count) => Some(count),
        Err(nix::errno::Errno::EAGAIN) => Some(0),
        Err(_) => None,
    }
}

/// Bytes given, without waiting.
pub fn give(fd: &OwnedFd, bytes: &[u8]) -> usize {
    nix::sys::socket::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).unwrap_or(0)
}

pub fn end_sending(fd: &OwnedFd) {
    let _ = nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}

/// The descriptors that have something to say.
pub fn poll(fds: &[RawFd], timeout: i32) -> Vec<RawFd> {
    let mut list: Vec<_> =
        fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 }).collect();
    // SAFETY: the list is as long as said.
    unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) };
    list.iter().filter(|entry| entry.revents != 0).map(|entry| entry.fd).collect()
}

/// A sealed memfd of `length` bytes, mapped.
pub fn shared_memory(length: usize) -> (OwnedFd, *mut u8) {
    let name = CString::new(std::ffi::OsStr::new("fake-session").as_bytes()).expect("no NUL in the name");
    // SAFETY: each result is checked; the mapping is as long as the file.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0, "a memfd");
        assert_eq!(libc::ftruncate(fd, length as libc::off_t), 0, "room for a session");
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, seals), 0, "seals");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let base = libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0);
        assert_ne!(base, libc::MAP_FAILED, "a mapping");
        (OwnedFd::from_raw_fd(fd), base.cast())
    }
}
