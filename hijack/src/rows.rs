//! Rows of `persona sockets`: how many descriptors lie behind each socket that the engine was told is the host's, so that
//! its row goes when the last of them does.
//!
//! The descriptor table has the row of a number ([`table::enter_row`](crate::table::enter_row)); for everybody else such a
//! number is the kernel's, as it is. What libc closes behind our back keeps its row until the number is used again.

use core::sync::atomic::{AtomicU32, Ordering};

use persona_channel::attach::ROWS;

use crate::attach;

/// Descriptors of each row; 0: free.
static HOLDERS: [AtomicU32; ROWS] = [const { AtomicU32::new(0) }; ROWS];
/// The engine is being told that the row is gone, and nobody may take it before.
const LEAVING: u32 = u32::MAX;
/// Counts forks on the way here: the rows of a parent's descriptors are the parent's to take away.
static FAMILY: AtomicU32 = AtomicU32::new(0);

/// A row and whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RowId {
    pub row: u32,
    pub family: u32,
}

/// Keeps a row while it is being entered.
pub struct Row(RowId);

impl Row {
    /// A free row, if there is one and somebody who would hear of it.
    pub fn claim() -> Option<Self> {
        attach::usable()?;
        let is_mine = |cell: &AtomicU32| cell.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let row = HOLDERS.iter().position(is_mine)? as u32;
        Some(Row(RowId { row, family: FAMILY.load(Ordering::Relaxed) }))
    }

    pub fn id(&self) -> RowId {
        self.0
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        leave(self.0);
    }
}

/// One more descriptor of the row; false when the row is a parent's, or gone.
pub fn join(id: RowId) -> bool {
    let more = |holders: u32| (holders != 0 && holders != LEAVING).then(|| holders + 1);
    cell(id).is_some_and(|cell| cell.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok())
}

/// One descriptor less.
pub fn leave(id: RowId) {
    let Some(cell) = cell(id) else { return };
    let less = |holders: u32| match holders {
        0 | LEAVING => None,
        1 => Some(LEAVING),
        _ => Some(holders - 1),
    };
    if cell.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less) == Ok(1) {
        attach::send_gone(id.row);
        cell.store(0, Ordering::Release);
    }
}

/// A child tells of its own sockets alone.
pub fn in_child() {
    FAMILY.fetch_add(1, Ordering::Relaxed);
    for cell in &HOLDERS {
        cell.store(0, Ordering::Relaxed);
    }
}

fn cell(id: RowId) -> Option<&'static AtomicU32> {
    HOLDERS.get(id.row as usize).filter(|_| id.family == FAMILY.load(Ordering::Relaxed))
}
