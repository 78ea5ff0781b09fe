//! The layout as numbers. A change here is a change of the ABI and of [`ABI_VERSION`](crate::layout::ABI_VERSION):
//! library and engine of different builds would otherwise disagree silently.

use crate::layout::*;
use core::mem::{align_of, offset_of, size_of};

/// Asserts size and alignment of a type, and the offset of each field that another build relies on.
macro_rules! layout {
    ($type:ty, size $size:expr, align $align:expr $(, $field:ident at $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == $align);
            $(assert!(offset_of!($type, $field) == $offset);)*
        };
    };
}

layout!(Header, size 128, align 64, magic at 0, abi at 8, shards at 12, session at 16, token at 24, send_buffer at 40,
    receive_buffer at 44, flags at 48, dead at 52, policy_len at 120);
layout!(StateLine, size 64, align 64, rcv_end at 0, snd_acked at 8, window_update_at at 16, urgent at 24, bits at 32,
    error at 36, edges at 40, send_buffer at 44, generation at 48, shard at 52);
layout!(CursorLine, size 64, align 64, snd_end at 0, rcv_read at 8, own_send at 16, own_receive at 20,
    own_control at 24, want_space at 28, file_flags at 32, kind at 36, receive_timeout at 40, send_timeout at 44,
    receive_low at 48, claimant at 52);
layout!(WaitLine, size 64, align 64, waiters at 0);
layout!(AddressLine, size 64, align 64, family at 0, local_port at 4, remote_port at 8, listener at 12, local at 16,
    remote at 32);
layout!(Socket, size 256, align 64, state at 0, cursor at 64, wait at 128, address at 192);
layout!(Maps, size 2048, align 64, send at 0, receive at 1024);
layout!(Command, size 64, align 64, op at 0, reply at 2, socket at 4, generation at 8, args at 16);
layout!(Lane, size 2496, align 64, owner at 0, tail at 4, waiter at 8, head at 64, done at 68, result at 72,
    reply at 128, commands at 448);
layout!(Attention, size 2240, align 64, raised at 0, sleeping at 64, lanes at 128, summary at 136, sockets at 192);
layout!(Waitable, size 2176, align 64, sleeping at 0, owner at 4, sleepers at 8, summary at 64, ready at 128);
layout!(Interest, size 32, align 8, data at 0, events at 8, generation at 12, descriptor at 16, edges at 20);
layout!(AcceptRing, size 8320, align 64, tail at 0, head at 64, entries at 128);
layout!(Chunk, size CHUNK_SIZE, align 4096);

/// Rounds up to a chunk's alignment.
const fn page(offset: usize) -> usize {
    offset.next_multiple_of(4096)
}

const ATTENTION: usize = 64 * 1024;
const LANES_AT: usize = ATTENTION + SHARDS * 2240;
const FREE_SOCKETS: usize = LANES_AT + SHARDS * LANES * 2496;
const FREE_CHUNKS: usize = FREE_SOCKETS + SOCKETS / 8;
const FREE_WAITABLES: usize = FREE_CHUNKS + CHUNKS / 8;
const FREE_LISTENERS: usize = FREE_WAITABLES + WAITABLES / 8;
const SOCKETS_AT: usize = (FREE_LISTENERS + LISTENERS / 8).next_multiple_of(64);
const MAPS: usize = SOCKETS_AT + SOCKETS * 256;
const WAITABLES_AT: usize = MAPS + SOCKETS * 2048;
const ACCEPT: usize = WAITABLES_AT + WAITABLES * 2176;
const INTERESTS: usize = ACCEPT + LISTENERS * SHARDS * 8320;
const CHUNKS_AT: usize = page(INTERESTS + EPOLL_SETS * SOCKETS * 32);

layout!(Session, size CHUNKS_AT + CHUNKS * CHUNK_SIZE, align 4096, header at 0, policy at 128, attention at ATTENTION,
    lanes at LANES_AT, free_sockets at FREE_SOCKETS, free_chunks at FREE_CHUNKS, free_waitables at FREE_WAITABLES,
    free_listeners at FREE_LISTENERS, sockets at SOCKETS_AT, maps at MAPS, waitables at WAITABLES_AT,
    accept at ACCEPT, interests at INTERESTS, chunks at CHUNKS_AT);

// What the algorithms assume.
const _: () = {
    assert!(CHUNK_SIZE.is_power_of_two() && MAP_ENTRIES.is_power_of_two() && ACCEPT_RING.is_power_of_two());
    assert!(LANE_COMMANDS.is_power_of_two() && LANES <= 64 && SOCKET_SUMMARY * 64 >= SOCKET_WORDS);
    assert!(CHUNKS as u32 <= map_entry::CHUNK_MASK, "index plus one fits the entry");
    assert!(CHUNK_SIZE as u32 <= map_entry::FILL_MASK, "a full chunk's fill fits the entry");
    assert!(WAITABLES.is_multiple_of(64) && LISTENERS.is_multiple_of(64) && CHUNKS.is_multiple_of(64));
};
