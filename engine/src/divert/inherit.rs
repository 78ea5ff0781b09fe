//! How a diversion outlives its engine: by descriptors in the keeper's ledger.
//!
//! Kinds: `BpfLink` (b: [`XDP_DRIVER`] ... [`CLSACT`]; for clsact it is the socket whose end makes the filter inert, and
//! `len` holds priority and handle), `BpfMap` (b: place in [`MapFds`]), `BpfProgram` (b: 0, the socket filter). a is the
//! interface's place in the configuration.

use super::{Attachment, Diversion};
use crate::ledger::{Entry, Kind, Ledger};
use persona_ebpf::attach::detach_clsact;
use persona_ebpf::{ClsactFilter, Error, Hold, Link, MapFds, Maps, XdpMode};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

const XDP_DRIVER: u64 = 0;
const XDP_GENERIC: u64 = 1;
const TCX: u64 = 2;
const CLSACT: u64 = 3;

const SOCKET_FILTER: u64 = 0;

impl Diversion {
    /// Enters all descriptors; `place` is the interface's place in the configuration.
    pub fn record(&self, ledger: &Ledger, place: u64) -> io::Result<()> {
        let mut b = 0;
        self.maps.fds().try_map(|fd: RawFd| {
            // SAFETY: `self.maps` owns the descriptor and outlives the call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let recorded = ledger.record(Kind::BpfMap, place, b, fd, 0);
            b += 1;
            recorded
        })?;
        if let Some(filter) = &self.socket_filter {
            ledger.record(Kind::BpfProgram, place, SOCKET_FILTER, filter, 0)?;
        }
        // The link last: without it a successor attaches anew.
        match &self.attachment {
            Attachment::Xdp { link, mode, multi_buffer } => {
                let b = if *mode == XdpMode::Driver { XDP_DRIVER } else { XDP_GENERIC };
                ledger.record(Kind::BpfLink, place, b, link, (*multi_buffer).into())
            }
            Attachment::Tcx { link } => ledger.record(Kind::BpfLink, place, TCX, link, 0),
            Attachment::Clsact(filter) => {
                let name = u64::from(filter.priority) << 32 | u64::from(filter.handle);
                ledger.record(Kind::BpfLink, place, CLSACT, &filter.alive, name)
            }
        }
    }

    /// Goes on with a predecessor's diversion, on copies of its descriptors; `None` when the ledger has none for this
    /// interface. Flows, listeners and addresses are still as the predecessor left them.
    pub fn resume(ledger: &Ledger, place: u64, interface: &str) -> Result<Option<Self>, Error> {
        let Some(link) = link_of(ledger, place) else { return Ok(None) };
        let Some(maps) = maps_of(ledger, place) else { return Ok(None) };
        let copy = |entry: Entry, map| ledger.copy(&entry).map_err(|cause| Error::Map { action: "keep", map, cause });
        let maps = Maps::from_fds(maps.try_map(|entry| copy(entry, "a map"))?)?;
        let program = copy(link, "the program's link")?;
        let attachment = match (link.b, link.len) {
            (XDP_DRIVER, multi) => {
                Attachment::Xdp { link: Link::from_fd(program), mode: XdpMode::Driver, multi_buffer: multi != 0 }
            }
            (XDP_GENERIC, multi) => {
                Attachment::Xdp { link: Link::from_fd(program), mode: XdpMode::Generic, multi_buffer: multi != 0 }
            }
            (TCX, _) => Attachment::Tcx { link: Link::from_fd(program) },
            (_, name) => {
                Attachment::Clsact(ClsactFilter { alive: program, priority: (name >> 32) as u16, handle: name as u32 })
            }
        };
        let socket_filter = ledger.find(Kind::BpfProgram, place, SOCKET_FILTER);
        let socket_filter = socket_filter.map(|entry| copy(entry, "the socket filter")).transpose()?;
        Ok(Some(Self { interface: interface.into(), attachment, socket_filter, maps }))
    }

    /// Takes the programs away, with what predecessors left of them; `place` as in [`Diversion::record`]. Dropping leaves
    /// what a predecessor recorded, and a clsact filter, which needs CAP_NET_ADMIN to go and is inert without its socket.
    pub fn detach(self, ledger: &Ledger, place: u64) -> Result<(), Error> {
        self.maps.fds().map(|fd| ledger.forget(fd));
        if let Some(filter) = self.socket_filter {
            ledger.close(filter);
        }
        let clsact = match self.attachment {
            Attachment::Xdp { link, .. } | Attachment::Tcx { link } => {
                ledger.close(link.into_fd());
                None
            }
            Attachment::Clsact(filter) => {
                ledger.close(filter.alive);
                Some((filter.priority, filter.handle))
            }
        };
        // SAFETY: what is recorded still is a predecessor's; we had copies.
        unsafe { discard(ledger, place) };
        clsact.map_or(Ok(()), |(priority, handle)| detach_clsact(&self.interface, priority, handle))
    }
}

/// Closes what predecessors recorded of the diversion at this place.
///
/// # Safety
/// No living process of this descriptor table owns it.
pub unsafe fn discard(ledger: &Ledger, place: u64) {
    for kind in [Kind::BpfLink, Kind::BpfMap, Kind::BpfProgram] {
        // SAFETY: the caller says so.
        unsafe { ledger.discard(kind, place, None) };
    }
}

/// Whether a predecessor had its diversion at this place for AF_XDP (else for packet sockets); `None`: it had none.
pub fn was_xdp(ledger: &Ledger, place: u64) -> Option<bool> {
    link_of(ledger, place).map(|link| matches!(link.b, XDP_DRIVER | XDP_GENERIC))
}

/// Holds back what is ours on every interface for `span`, then lets it pass: the keeper calls this when its engine died.
pub fn hold_all(ledger: &Ledger, span: Duration) -> Result<(), Error> {
    for_all(ledger, |maps| maps.hold_for(span))
}

/// Lets pass what is ours on every interface: the keeper gives up.
pub fn pass_all(ledger: &Ledger) -> Result<(), Error> {
    for_all(ledger, |maps| maps.set_hold(Hold::Pass))
}

/// Closes every link that the ledger has, for a keeper that ends without an engine; `interface` gives the name of a
/// place in the configuration. A clsact filter is removed.
///
/// # Safety
/// No engine runs in this descriptor table.
pub unsafe fn detach_all(ledger: &Ledger, interface: impl Fn(u64) -> Option<String>) {
    let links: Vec<Entry> = ledger.of_kind(Kind::BpfLink).collect();
    for link in links {
        // SAFETY: the caller says that nobody else owns it.
        ledger.close(unsafe { ledger.adopt(&link) });
        if let (CLSACT, Some(name)) = (link.b, interface(link.a))
            && let Err(error) = detach_clsact(&name, (link.len >> 32) as u16, link.len as u32)
        {
            tracing::warn!("{error}; the filter is inert");
        }
    }
}

/// Does this to each interface's maps; all are tried, and the first error is returned.
fn for_all(ledger: &Ledger, act: impl Fn(&Maps) -> Result<(), Error>) -> Result<(), Error> {
    let mut outcome = Ok(());
    for link in ledger.of_kind(Kind::BpfLink).collect::<Vec<_>>() {
        let Some(entries) = maps_of(ledger, link.a) else { continue };
        // Copies: the engine's own descriptors are not ours to close.
        let copies = entries.try_map(|entry| {
            // SAFETY: a record means that the descriptor is open; it is borrowed for this call.
            unsafe { BorrowedFd::borrow_raw(entry.fd) }.try_clone_to_owned()
        });
        let copied =
            copies.map_err(|cause| Error::Map { action: "keep", map: "hold_until", cause }).and_then(Maps::from_fds);
        let acted = copied.and_then(|maps| act(&maps));
        outcome = outcome.and(acted);
    }
    outcome
}

fn link_of(ledger: &Ledger, place: u64) -> Option<Entry> {
    ledger.of_kind(Kind::BpfLink).find(|entry| entry.a == place)
}

fn maps_of(ledger: &Ledger, place: u64) -> Option<MapFds<Entry>> {
    let map = |b| ledger.find(Kind::BpfMap, place, b);
    Some(MapFds {
        flows: map(0)?,
        listeners: map(1)?,
        addresses: map(2)?,
        xsks: map(3)?,
        counters: map(4)?,
        hold_until: map(5)?,
    })
}
