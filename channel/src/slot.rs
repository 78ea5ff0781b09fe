//! A socket slot's life: claimed by the library (socket()) or by the engine (an incoming connection), recycled by the
//! engine.

use crate::layout::*;
use crate::memory::{SessionRef, Slot, SocketRef};
use crate::sync::{AtomicU64, Ordering};

impl<'m> SessionRef<'m> {
    /// Claims a free slot for process `claimant` (0: the engine). The slot is as new: all zero but its generation. The
    /// engine does not believe the bitmap: a slot that its own table knows as used is claimed again and not given back.
    pub fn claim_slot(self, claimant: u32) -> Option<SocketRef<'m>> {
        let slot = Slot::new(self.free_sockets().claim()?)?;
        let socket = self.socket(slot);
        socket.cursor.claimant.store(claimant, Ordering::Release);
        Some(socket)
    }

    /// The engine gives a slot back: ends its generation, clears its lines and frees it. The caller has released both
    /// streams ([`SendReader::release`], [`ReceiveWriter::release`]). Epoll members of the old generation recognise
    /// that it ended.
    ///
    /// [`SendReader::release`]: crate::send::SendReader::release
    /// [`ReceiveWriter::release`]: crate::receive::ReceiveWriter::release
    pub fn recycle_slot(self, slot: Slot) {
        let socket = self.socket(slot);
        socket.begin_life(socket.generation().wrapping_add(1));
        self.free_sockets().free(slot.get());
    }
}

impl SocketRef<'_> {
    pub fn generation(&self) -> u32 {
        self.state.generation.load(Ordering::Acquire)
    }

    /// The engine: another life of the slot, of this generation, with everything else as in fresh memory.
    pub fn begin_life(&self, next: u32) {
        let StateLine {
            rcv_end,
            snd_acked,
            window_update_at,
            urgent,
            bits,
            error,
            edges,
            send_buffer,
            generation,
            shard,
        } = self.state;
        // The generation first: who still holds the old one sees that it ended before it sees a fresh socket.
        generation.store(next, Ordering::Release);
        for word in [rcv_end, snd_acked, window_update_at, urgent] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [bits, edges, send_buffer, shard] {
            word.store(0, Ordering::Relaxed);
        }
        error.store(0, Ordering::Relaxed);

        let CursorLine {
            snd_end,
            rcv_read,
            own_send,
            own_receive,
            own_control,
            want_space,
            file_flags,
            kind,
            receive_timeout,
            send_timeout,
            receive_low,
            claimant,
        } = self.cursor;
        for word in [snd_end, rcv_read] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [own_send, own_receive, own_control, want_space, file_flags] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [kind, receive_timeout, send_timeout, receive_low, claimant] {
            word.store(0, Ordering::Relaxed);
        }

        let WaitLine { waiters } = self.wait;
        waiters.iter().for_each(|word: &AtomicU64| word.store(0, Ordering::Relaxed));

        for word in [&self.address.family, &self.address.local_port, &self.address.remote_port, &self.address.listener]
        {
            word.store(0, Ordering::Relaxed);
        }
        self.address.local.iter().chain(&self.address.remote).for_each(|word| word.store(0, Ordering::Relaxed));

        // Most are empty, and reading does not take the line away from others.
        let entries = self.maps.send.iter().chain(&self.maps.receive);
        for entry in entries.filter(|entry| entry.load(Ordering::Relaxed) != 0) {
            entry.store(0, Ordering::Relaxed);
        }
    }
}
