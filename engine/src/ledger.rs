//! The ledger: what each descriptor of the table that keeper and engine share is for.
//!
//! It lies in a memfd that both map, so it survives an engine that was killed at any point; the successor finds there
//! what it can go on with. A record's place is its descriptor's number, which makes recording, looking up and
//! forgetting one store each and needs no lock. What is open and not in the ledger belongs to nobody: the keeper
//! closes it before it starts the next engine ([`Ledger::sweep`]).
//!
//! Order: open, then record; forget, then close. A death in between leaves a descriptor without record, never a record of
//! another descriptor. A successor works on copies ([`Ledger::copy`]), so that one that fails while it starts leaves the
//! originals as they were; what it had made and recorded itself is closed with it, and the keeper forgets that
//! ([`Ledger::forget_closed`]) before any of the numbers is used again.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a descriptor is. The keys `a` and `b` of its record are named at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// The keeper's own (standard streams, lock, log, signals, its end of the link, this ledger).
    Keeper = 1,
    /// The engine's end of the link to the keeper.
    EngineLink,
    /// Memfd with a shard's stack. a: shard.
    Arena,
    /// Memfd of a session. a: session, and [`MAY_BIND_RESERVED`]; b, `len`: its token.
    SessionMemory,
    /// Eventfd by which a session's processes wake a shard. a: session, b: shard.
    ShardEvent,
    /// The engine's end of an anchor. a: session, b: anchor.
    Anchor,
    /// The engine's end of a waitable's doorbell. a: session, b: waitable.
    Doorbell,
    /// The application's end of a waitable's doorbell, kept to be handed out again. a: session, b: waitable.
    DoorbellPeer,
    /// Connection of a process. a: session, b: pid.
    Connection,
    /// The listening socket for processes.
    SessionSocket,
    /// The listening socket for administration.
    AdminSocket,
    /// bpf_link of an XDP or tc program. a: interface, b: which program.
    BpfLink,
    /// eBPF map. a: interface, b: which map.
    BpfMap,
    /// eBPF program. a: interface, b: which program.
    BpfProgram,
    /// AF_XDP socket. a: interface, b: queue.
    Xsk,
    /// Memfd of a UMEM. a: interface, b: queue.
    Umem,
    /// Tap or macvtap device. a: interface, b: queue; `len` holds our hardware address.
    Tap,
    /// Bound kernel socket that keeps a port from being handed out. a: IPv4 address (0: any), b: port.
    Reservation,
    /// Nothing but the place for a record: a session ended with its engine (`crate::session::estate`). a: until when it counts,
    /// in seconds, and [`MAY_BIND_RESERVED`]; b, `len`: its token.
    Estate,
}

/// In the first key of a session's record: its maker might bind reserved ports.
pub const MAY_BIND_RESERVED: u64 = 1 << 63;

const KINDS: [Kind; 19] = [
    Kind::Keeper,
    Kind::EngineLink,
    Kind::Arena,
    Kind::SessionMemory,
    Kind::ShardEvent,
    Kind::Anchor,
    Kind::Doorbell,
    Kind::DoorbellPeer,
    Kind::Connection,
    Kind::SessionSocket,
    Kind::AdminSocket,
    Kind::BpfLink,
    Kind::BpfMap,
    Kind::BpfProgram,
    Kind::Xsk,
    Kind::Umem,
    Kind::Tap,
    Kind::Reservation,
    Kind::Estate,
];

impl Kind {
    fn from_word(word: u64) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u64 == word)
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub a: u64,
    pub b: u64,
    pub fd: RawFd,
    /// Bytes of memory behind the descriptor, or another number that its kind needs.
    pub len: u64,
}

/// Words of a record: kind (0: none), a, b, len.
const WORDS: usize = 4;
/// More descriptors than any limit in use today; the memory behind unused records is never touched.
const CAPACITY_MAX: u64 = 1 << 20;

/// The records of one descriptor table, and behind them a word that counts how many places were ever used. Safe to use
/// from any thread.
#[derive(Debug)]
pub struct Ledger {
    memory: MmapRaw,
    fd: OwnedFd,
    capacity: usize,
}

impl Ledger {
    /// An empty ledger that covers as many descriptors as this process may ever open, and those that it has.
    pub fn create() -> io::Result<Ledger> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // What was open before the limit was lowered has a greater number.
        let inherited = open_descriptors().last().map_or(0, |&last| last as u64 + 1);
        let capacity = limit.maximum.unwrap_or(CAPACITY_MAX).min(CAPACITY_MAX).max(inherited) as usize;
        let bytes = (capacity * WORDS + 1) * size_of::<u64>();
        let fd = rustix::fs::memfd_create("persona-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        // Nobody can shrink it under us, not even a keeper of another version.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let memory = MmapOptions::new().len(bytes).map_raw(&fd)?;
        let ledger = Ledger { memory, fd, capacity };
        ledger.record(Kind::Keeper, 0, 0, ledger.fd.as_fd(), bytes as u64)?;
        Ok(ledger)
    }

    /// Says what `fd` is. Fails when the number is beyond the limit that held at creation.
    pub fn record(&self, kind: Kind, a: u64, b: u64, fd: impl AsFd, len: u64) -> io::Result<()> {
        let number = fd.as_fd().as_raw_fd();
        let Some([kind_word, a_word, b_word, len_word]) = self.words(number) else {
            return Err(io::Error::other(format!("descriptor {number} is beyond the ledger's {}", self.capacity)));
        };
        a_word.store(a, Ordering::Relaxed);
        b_word.store(b, Ordering::Relaxed);
        len_word.store(len, Ordering::Relaxed);
        self.used().fetch_max(number as u64 + 1, Ordering::Relaxed);
        // The kind last: a record is there whole or not at all.
        kind_word.store(kind as u64, Ordering::Release);
        Ok(())
    }

    /// Takes the record of `fd` away. To be called before the descriptor is closed.
    pub fn forget(&self, fd: RawFd) {
        if let Some([kind_word, ..]) = self.words(fd) {
            kind_word.store(0, Ordering::Release);
        }
    }

    /// Forgets and closes.
    pub fn close(&self, fd: OwnedFd) {
        self.forget(fd.as_raw_fd());
        drop(fd);
    }

    /// The record of one descriptor.
    pub fn get(&self, fd: RawFd) -> Option<Entry> {
        let [kind_word, a_word, b_word, len_word] = self.words(fd)?;
        let kind = Kind::from_word(kind_word.load(Ordering::Acquire))?;
        let [a, b, len] = [a_word, b_word, len_word].map(|word| word.load(Ordering::Relaxed));
        Some(Entry { kind, a, b, fd, len })
    }

    /// All records, by descriptor.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        // Only descriptors that are open can have records, and only their records' pages have been touched.
        open_descriptors().into_iter().filter_map(|fd| self.get(fd))
    }

    /// All records of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = Entry> + '_ {
        self.entries().filter(move |entry| entry.kind == kind)
    }

    pub fn find(&self, kind: Kind, a: u64, b: u64) -> Option<Entry> {
        self.of_kind(kind).find(|entry| (entry.a, entry.b) == (a, b))
    }

    /// Forgets every record whose descriptor is closed.
    pub fn forget_closed(&self) {
        for number in 0..self.used().load(Ordering::Relaxed) as RawFd {
            // SAFETY: the number is only asked about; one that is closed is refused.
            let closed = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_err();
            if closed && self.get(number).is_some() {
                self.forget(number);
            }
        }
    }

    /// A copy of the descriptor of a record that a predecessor left, to go on with. The original stays the ledger's.
    pub fn copy(&self, entry: &Entry) -> io::Result<OwnedFd> {
        // SAFETY: a record means that the descriptor is open; it is borrowed for this call.
        unsafe { BorrowedFd::borrow_raw(entry.fd) }.try_clone_to_owned()
    }

    /// Forgets and closes what predecessors recorded under these keys; `b` absent: any.
    ///
    /// # Safety
    /// Nobody in this descriptor table owns these descriptors: the process that recorded them is gone.
    pub unsafe fn discard(&self, kind: Kind, a: u64, b: Option<u64>) {
        let entries: Vec<_> =
            self.of_kind(kind).filter(|entry| entry.a == a && b.is_none_or(|b| b == entry.b)).collect();
        for entry in entries {
            // SAFETY: the caller says so.
            self.close(unsafe { self.adopt(&entry) });
        }
    }

    /// Takes over the descriptor of a record that a predecessor left, to be given to [`Ledger::close`] when it has served:
    /// the record stays until then.
    ///
    /// # Safety
    /// Nobody else in this descriptor table owns the descriptor: the process that recorded it is gone.
    pub unsafe fn adopt(&self, entry: &Entry) -> OwnedFd {
        // SAFETY: a record means that the descriptor is open, and the caller says that nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(entry.fd) }
    }

    /// Closes every open descriptor that has no record and returns how many they were.
    ///
    /// # Safety
    /// Every other process with this descriptor table is gone, and the caller owns no descriptor without record.
    pub unsafe fn sweep(&self) -> usize {
        let strays = open_descriptors().into_iter().filter(|fd| self.get(*fd).is_none());
        // SAFETY: the caller says that whoever owned these is gone. One of them is the directory that listed the
        // numbers, which is closed by now: closing it again only fails.
        strays.filter(|&fd| unsafe { libc::close(fd) } == 0).count()
    }

    /// Places that were ever used: the greatest number recorded, plus one.
    fn used(&self) -> &AtomicU64 {
        let records: *const AtomicU64 = self.memory.as_ptr().cast();
        // SAFETY: as in `words`; the word lies behind the records.
        unsafe { &*records.add(self.capacity * WORDS) }
    }

    fn words(&self, fd: RawFd) -> Option<&[AtomicU64; WORDS]> {
        let index = usize::try_from(fd).ok().filter(|index| *index < self.capacity)?;
        let records: *const [AtomicU64; WORDS] = self.memory.as_ptr().cast();
        // SAFETY: the mapping is page-aligned, holds `capacity` records, cannot shrink (sealed), lives as long as
        // `self`, and is accessed through atomics only.
        Some(unsafe { &*records.add(index) })
    }
}

impl AsFd for Ledger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Numbers of the descriptors open in this process, ascending.
pub fn open_descriptors() -> Vec<RawFd> {
    let Ok(directory) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut numbers: Vec<RawFd> =
        directory.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_record_is_found_by_descriptor_kind_and_keys_until_it_is_forgotten() {
        let ledger = Ledger::create().unwrap();
        let (arena, anchor) = (null(), null());
        ledger.record(Kind::Arena, 1, 0, &arena, 4096).unwrap();
        ledger.record(Kind::Anchor, 7, 9, &anchor, 0).unwrap();
        let expected = Entry { kind: Kind::Anchor, a: 7, b: 9, fd: anchor.as_raw_fd(), len: 0 };
        assert_eq!(ledger.get(anchor.as_raw_fd()), Some(expected));
        assert_eq!(ledger.find(Kind::Anchor, 7, 9), Some(expected));
        assert_eq!(ledger.find(Kind::Anchor, 7, 8), None);
        assert_eq!(ledger.of_kind(Kind::Arena).map(|entry| entry.len).collect::<Vec<_>>(), [4096]);
        let number = anchor.as_raw_fd();
        ledger.close(anchor);
        assert_eq!(ledger.get(number), None);
        assert_eq!(ledger.find(Kind::Anchor, 7, 9), None);
    }

    #[test]
    fn a_record_of_a_closed_descriptor_is_forgotten_before_its_number_is_used_again() {
        if crate::alone::done_elsewhere() {
            return;
        }
        // A process of its own, whose descriptors nobody else opens and closes.
        let child = crate::keeper::fork::copy(|| {
            let ledger = Ledger::create().unwrap();
            let (kept, dropped) = (null(), null());
            ledger.record(Kind::Xsk, 0, 0, &kept, 0).unwrap();
            ledger.record(Kind::Umem, 0, 0, &dropped, 0).unwrap();
            let number = dropped.as_raw_fd();
            drop(dropped);
            ledger.forget_closed();
            let stranger = null();
            assert_eq!(stranger.as_raw_fd(), number);
            assert_eq!(ledger.get(number), None);
            assert!(ledger.find(Kind::Umem, 0, 0).is_none() && ledger.find(Kind::Xsk, 0, 0).is_some());
            0
        });
        let status = nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    }

    #[test]
    fn a_copy_leaves_the_original_to_the_ledger() {
        let ledger = Ledger::create().unwrap();
        let original = null();
        ledger.record(Kind::Xsk, 1, 2, &original, 0).unwrap();
        let entry = ledger.find(Kind::Xsk, 1, 2).unwrap();
        let copy = ledger.copy(&entry).unwrap();
        assert_ne!(copy.as_raw_fd(), original.as_raw_fd());
        drop(copy);
        assert_eq!(ledger.find(Kind::Xsk, 1, 2), Some(entry));
        assert!(rustix::io::fcntl_getfd(&original).is_ok());
        let number = original.as_raw_fd();
        std::mem::forget(original);
        // SAFETY: the only owner was forgotten.
        unsafe { ledger.discard(Kind::Xsk, 1, Some(2)) };
        assert_eq!(ledger.get(number), None);
    }

    #[test]
    fn every_kind_survives_its_number() {
        for kind in KINDS {
            assert_eq!(Kind::from_word(kind as u64), Some(kind));
        }
        assert_eq!(Kind::from_word(0), None);
        assert_eq!(Kind::from_word(u64::MAX), None);
    }

    #[test]
    fn numbers_beyond_the_table_are_refused_and_not_found() {
        let ledger = Ledger::create().unwrap();
        assert_eq!(ledger.get(-1), None);
        assert_eq!(ledger.get(RawFd::MAX), None);
        ledger.forget(RawFd::MAX);
    }

    #[test]
    fn a_killed_process_leaves_its_descriptors_and_records_and_strays_are_swept() {
        if crate::alone::done_elsewhere() {
            return;
        }
        // A process of its own, whose descriptors nobody else opens and closes.
        let child = crate::keeper::fork::copy(|| {
            let ledger = Ledger::create().unwrap();
            for number in open_descriptors() {
                // SAFETY: the descriptor stays open during the call.
                let fd = unsafe { BorrowedFd::borrow_raw(number) };
                // The directory that listed the numbers is among them and closed already.
                if rustix::io::fcntl_getfd(fd).is_ok() {
                    ledger.record(Kind::Keeper, 0, 0, fd, 0).unwrap();
                }
            }
            let child = crate::keeper::fork::share_files(|| {
                let kept = null();
                ledger.record(Kind::Umem, 3, 4, &kept, 77).unwrap();
                std::mem::forget((kept, null(), null()));
                // SAFETY: raise has no preconditions.
                unsafe { libc::raise(libc::SIGKILL) };
                0
            })
            .unwrap();
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGKILL, _)));
            let entry = ledger.find(Kind::Umem, 3, 4).expect("the record outlives the process");
            assert_eq!(entry.len, 77);
            // SAFETY: the only other process with this table is gone, and everything of ours is recorded.
            assert_eq!(unsafe { ledger.sweep() }, 2);
            // SAFETY: the process that recorded it is gone.
            let adopted = unsafe { ledger.adopt(&entry) };
            assert!(rustix::fs::fstat(&adopted).is_ok());
            0
        });
        let status = nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    }
}
