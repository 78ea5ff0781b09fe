//! What a predecessor left: its connections are reset, its sessions end, its applications hear it at once.
//!
//! A successor could take them over as they lie in arenas and sessions; this release ends them, which needs the same
//! structure: peers get RST, every socket has ECONNRESET, nobody hangs.

use super::arenas;
use crate::clock;
use crate::ledger::{Kind, Ledger, MAY_BIND_RESERVED};
use crate::session::estate::Estate;
use crate::session::{self, estate};
use crate::shard::host::ShardHost;
use crate::shard::record::ENDED;
use persona_channel::layout::state_bits;
use persona_channel::memory::{SessionRef, Slot};
use persona_stack::Stack;
use rustix::net::SendFlags;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Resets the connections of every arena in the ledger, through the ports of `host`.
pub fn reset_connections(ledger: &Ledger, host: &mut ShardHost<'_>) {
    for (shard, mut memory) in arenas::inherited(ledger) {
        match Stack::attach(&mut memory) {
            Ok(mut stack) => {
                let now = clock::now();
                stack.abort_all(now, host);
                stack.flush(now, host);
                while stack.poll_event().is_some() {}
                if let Err((port, error)) = host.flush_ports() {
                    tracing::warn!("port {}: a predecessor's connections may not have been reset: {error}", port.0);
                }
            }
            Err(error) => tracing::warn!("shard {shard} of the predecessor cannot be read: {error:?}"),
        }
    }
}

/// Ends every session of the ledger. What their families, and those of earlier engines, may claim is returned.
pub fn end_sessions(ledger: &Ledger) -> Vec<Estate> {
    let now = clock::seconds();
    let mut estates = estate::known(ledger, now);
    let memories: Vec<_> = ledger.of_kind(Kind::SessionMemory).collect();
    for entry in &memories {
        let (token, may_bind_reserved) = ([entry.b, entry.len], entry.a & MAY_BIND_RESERVED != 0);
        match estate::leave(ledger, token, may_bind_reserved, now) {
            Ok(estate) => estates.push(estate),
            Err(error) => tracing::warn!("a session's family cannot come back: {error:#}"),
        }
        // SAFETY: the predecessor is gone; its record is taken over once, here.
        let descriptor = unsafe { ledger.adopt(entry) };
        match session::map(&descriptor) {
            Ok(memory) => {
                // SAFETY: the mapping has a session's size, is page-aligned, outlives the use here, and its memfd is sealed
                // against shrinking.
                if let Some(view) = unsafe { SessionRef::from_raw(memory.as_mut_ptr()) } {
                    end_session(view);
                }
            }
            Err(error) => {
                let session = entry.a & !MAY_BIND_RESERVED;
                tracing::warn!("session {session} of the predecessor cannot be ended: {error:#}");
            }
        }
        ledger.close(descriptor);
    }
    // Everything is said before anybody is woken.
    let doorbells: Vec<_> = ledger.of_kind(Kind::Doorbell).collect();
    for entry in &doorbells {
        // SAFETY: as above.
        let doorbell = unsafe { ledger.adopt(entry) };
        // Full: there is a byte to wake up to. Closed: nobody to wake.
        let _ = rustix::net::send(doorbell.as_fd(), &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        ledger.close(doorbell);
    }
    estates
}

fn end_session(view: SessionRef<'_>) {
    view.set_dead();
    for slot in Slot::all().filter(|slot| !view.free_sockets().is_free(slot.get())) {
        let socket = view.socket(slot);
        if socket.state.bits.load(Ordering::Relaxed) & (state_bits::CONNECTED | state_bits::CONNECTING) != 0 {
            socket.state.error.store(libc::ECONNRESET, Ordering::Relaxed);
        }
        crate::shard::record::change_bits(&socket, ENDED | state_bits::ERROR, state_bits::CONNECTING);
        socket.state.make_edges(true, true);
    }
    for waitable in view.waitables() {
        waitable.sleeping.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claimed_socket_of_a_dead_session_has_ended() {
        let session = crate::session::tests::session(1);
        let view = session.view();
        let connected = Slot::new(view.free_sockets().claim().unwrap()).unwrap();
        let idle = Slot::new(view.free_sockets().claim().unwrap()).unwrap();
        view.socket(connected).state.bits.store(state_bits::BOUND | state_bits::CONNECTED, Ordering::Relaxed);
        end_session(view);
        assert!(view.dead());
        let state = view.socket(connected).state;
        assert_eq!(state.error.load(Ordering::Relaxed), libc::ECONNRESET);
        assert_eq!(state.bits.load(Ordering::Relaxed) & (ENDED | state_bits::ERROR), ENDED | state_bits::ERROR);
        assert_eq!(view.socket(idle).state.error.load(Ordering::Relaxed), 0);
        assert_eq!(view.socket(idle).state.bits.load(Ordering::Relaxed) & ENDED, ENDED);
    }
}
