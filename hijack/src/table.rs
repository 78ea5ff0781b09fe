//! What each descriptor number of this process means to us: one atomic word per number, read without locks.
//!
//! The table lies in zero-initialised static memory, so that pages nobody looks at cost nothing and a forked child
//! has its own copy. Beside it stands a count of descriptors per socket, which says whether this process still holds
//! a socket (dup makes several numbers for one).

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use persona_channel::layout::SOCKETS;

use crate::attach::SESSIONS;
use crate::inherit;
use crate::rows::{self, Row, RowId};

/// Numbers the table covers; one beyond is never ours (the kernel's own default limit is the same).
pub const DESCRIPTORS: usize = 1 << 20;

static TABLE: [AtomicU64; DESCRIPTORS] = [const { AtomicU64::new(0) }; DESCRIPTORS];
static HOLDERS: [[AtomicU32; SOCKETS]; SESSIONS] = [const { [const { AtomicU32::new(0) }; SOCKETS] }; SESSIONS];
/// One more than the highest number that was ever entered.
static HIGHEST: AtomicI32 = AtomicI32::new(0);

/// A socket of a session: where it lies and which life of the slot it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketId {
    pub session: u8,
    pub slot: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The kernel's.
    Foreign,
    Socket(SocketId),
    /// An epoll descriptor with sockets of ours in it: index into the process's sets.
    Epoll(u16),
    /// A descriptor the library keeps for itself; applications see it as closed.
    Internal,
}

const KIND_SHIFT: u32 = 28;
const SOCKET: u32 = 1;
const EPOLL: u32 = 2;
const INTERNAL: u32 = 3;
/// The kernel's, and known to the engine as such: decodes as foreign.
const ROW: u32 = 4;

impl Entry {
    fn encode(self) -> u64 {
        match self {
            Entry::Foreign => 0,
            Entry::Socket(id) => {
                let place = SOCKET << KIND_SHIFT | u32::from(id.session) << 20 | id.slot;
                u64::from(id.generation) << 32 | u64::from(place)
            }
            Entry::Epoll(set) => u64::from(EPOLL << KIND_SHIFT | u32::from(set)),
            Entry::Internal => u64::from(INTERNAL << KIND_SHIFT),
        }
    }

    fn decode(word: u64) -> Entry {
        let low = word as u32;
        match low >> KIND_SHIFT {
            SOCKET => Entry::Socket(SocketId {
                session: (low >> 20) as u8,
                slot: low & (SOCKETS as u32 - 1),
                generation: (word >> 32) as u32,
            }),
            EPOLL => Entry::Epoll(low as u16),
            INTERNAL => Entry::Internal,
            _ => Entry::Foreign,
        }
    }
}

#[inline]
pub fn get(fd: c_int) -> Entry {
    let Some(cell) = TABLE.get(fd as usize) else {
        return Entry::Foreign;
    };
    match cell.load(Ordering::Acquire) {
        0 => {
            inherit::settle();
            Entry::decode(cell.load(Ordering::Acquire))
        }
        word => Entry::decode(word),
    }
}

/// The socket behind a number, if it is one of ours.
#[inline]
pub fn socket(fd: c_int) -> Option<SocketId> {
    match get(fd) {
        Entry::Socket(id) => Some(id),
        _ => None,
    }
}

/// Enters `entry` for `fd` and gives back what was there. False numbers beyond the table stay foreign.
pub fn set(fd: c_int, entry: Entry) -> Entry {
    let Some(word) = TABLE.get(fd as usize) else {
        return Entry::Foreign;
    };
    if let Entry::Socket(id) = entry {
        holders(id).fetch_add(1, Ordering::AcqRel);
    }
    HIGHEST.fetch_max(fd + 1, Ordering::AcqRel);
    let old = word.swap(entry.encode(), Ordering::AcqRel);
    if let Some(row) = row_of(old) {
        rows::leave(row);
    }
    let old = Entry::decode(old);
    if let Entry::Socket(id) = old {
        holders(id).fetch_sub(1, Ordering::AcqRel);
    }
    old
}

/// Makes `fd` foreign if it still says `expected`; false if somebody else was faster.
pub fn forget(fd: c_int, expected: Entry) -> bool {
    let Some(word) = TABLE.get(fd as usize) else {
        return false;
    };
    let done = word.compare_exchange(expected.encode(), 0, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if done && let Entry::Socket(id) = expected {
        holders(id).fetch_sub(1, Ordering::AcqRel);
    }
    done
}

/// Gives a number of the kernel's a row of `persona sockets`.
pub fn enter_row(fd: c_int, row: Option<&Row>) {
    if let (Some(row), Some(word)) = (row, TABLE.get(fd as usize)) {
        join(fd, word, row.id());
    }
}

/// The copy of a number of the kernel's has the same row.
pub fn share_row(fd: c_int, copy: c_int) {
    if let (Some(row), Some(word)) = (TABLE.get(fd as usize).and_then(row_in), TABLE.get(copy as usize)) {
        join(copy, word, row);
    }
}

/// A number of the kernel's is about to be closed. One load if it has no row.
#[inline]
pub fn leave_row(fd: c_int) {
    let Some(word) = TABLE.get(fd as usize) else { return };
    let known = word.load(Ordering::Acquire);
    if let Some(row) = row_of(known)
        && word.compare_exchange(known, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        rows::leave(row);
    }
}

/// As [`leave_row`] for all numbers of a range.
pub fn leave_rows(first: u32, last: u32) {
    let end = (HIGHEST.load(Ordering::Acquire) as u32).min(last.saturating_add(1));
    (first..end).for_each(|fd| leave_row(fd as c_int));
}

fn join(fd: c_int, word: &AtomicU64, row: RowId) {
    if rows::join(row) {
        HIGHEST.fetch_max(fd + 1, Ordering::AcqRel);
        let new = u64::from(row.family) << 32 | u64::from(ROW << KIND_SHIFT | row.row);
        // A number that means something else by now is somebody else's.
        if word.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            rows::leave(row);
        }
    }
}

fn row_in(word: &AtomicU64) -> Option<RowId> {
    row_of(word.load(Ordering::Acquire))
}

fn row_of(word: u64) -> Option<RowId> {
    let low = word as u32;
    (low >> KIND_SHIFT == ROW).then_some(RowId { row: low & !(ROW << KIND_SHIFT), family: (word >> 32) as u32 })
}

/// True if some descriptor of this process refers to the socket.
pub fn is_held(id: SocketId) -> bool {
    holders(id).load(Ordering::Acquire) > 0
}

/// True if any socket of the session has a descriptor here.
pub fn session_is_held(session: u8) -> bool {
    HOLDERS[session as usize % SESSIONS].iter().any(|count| count.load(Ordering::Acquire) > 0)
}

/// True if the number can be entered.
pub fn covers(fd: c_int) -> bool {
    (fd as usize) < DESCRIPTORS
}

/// All numbers with an entry, with what they mean. For the rare operations that need them all.
pub fn entries() -> impl Iterator<Item = (c_int, Entry)> {
    (0..HIGHEST.load(Ordering::Acquire)).map(|fd| (fd, get(fd))).filter(|(_, entry)| *entry != Entry::Foreign)
}

fn holders(id: SocketId) -> &'static AtomicU32 {
    &HOLDERS[id.session as usize % SESSIONS][id.slot as usize % SOCKETS]
}
