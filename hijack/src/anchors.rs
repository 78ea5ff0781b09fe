//! The pool of anchors: descriptors that can become sockets without asking the engine.
//!
//! Each place of the pool is one atomic word, so that threads and signal handlers take and put without a lock.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use crate::attach::{self, Trouble, View};
use crate::sys::{self, Errno};
use crate::{place, table};

/// An anchor under an application's number.
pub struct Anchored {
    pub fd: c_int,
    pub id: u32,
}

/// Takes an anchor and gives it the lowest free number, as socket() and accept() promise.
pub fn hand_out(view: &View, cloexec: bool) -> Result<Anchored, Trouble> {
    let (pooled, id) = match take(view) {
        Some(anchor) => anchor,
        None => attach::fetch_anchors(view)?,
    };
    match sys::duplicate_above(pooled, 0, cloexec) {
        Ok(fd) if table::covers(fd) => {
            place::drop(pooled);
            Ok(Anchored { fd, id })
        }
        outcome => {
            if let Ok(fd) = outcome {
                let _ = sys::close(fd);
            }
            put(view, pooled, id);
            let errno = outcome.err().unwrap_or(Errno(libc::EMFILE));
            Err(Trouble { reason: persona_channel::attach::reason::NO_MEMORY, errno })
        }
    }
}

fn take(view: &View) -> Option<(c_int, u32)> {
    view.pool.iter().find_map(|cell| match cell.swap(0, Ordering::AcqRel) {
        0 => None,
        anchor => Some(((anchor >> 32) as c_int - 1, anchor as u32)),
    })
}

/// Puts an anchor into the pool; one that finds no place is closed.
pub fn put(view: &View, fd: c_int, id: u32) {
    let anchor = (fd as u64 + 1) << 32 | u64::from(id);
    let placed =
        view.pool.iter().any(|cell| cell.compare_exchange(0, anchor, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if !placed {
        place::drop(fd);
    }
}
