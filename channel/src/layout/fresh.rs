//! New memory for models: loom's atomics cannot be made by zeroing.

use super::*;
use core::array::from_fn;

fn u32s<const N: usize>() -> [AtomicU32; N] {
    from_fn(|_| AtomicU32::new(0))
}

fn u64s<const N: usize>() -> [AtomicU64; N] {
    from_fn(|_| AtomicU64::new(0))
}

impl StateLine {
    pub fn fresh() -> Self {
        let [rcv_end, snd_acked, window_update_at, urgent] = u64s();
        let [bits, edges, send_buffer, generation, shard] = u32s();
        let error = AtomicI32::new(0);
        Self { rcv_end, snd_acked, window_update_at, urgent, bits, error, edges, send_buffer, generation, shard }
    }
}

impl CursorLine {
    pub fn fresh() -> Self {
        let [snd_end, rcv_read] = u64s();
        let [own_send, own_receive, own_control, want_space, file_flags] = u32s();
        let [kind, receive_timeout, send_timeout, receive_low, claimant] = u32s();
        Self {
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
        }
    }
}

impl WaitLine {
    pub fn fresh() -> Self {
        Self { waiters: u64s() }
    }
}

impl AddressLine {
    pub fn fresh() -> Self {
        let [family, local_port, remote_port, listener] = u32s();
        Self { family, local_port, remote_port, listener, local: u64s(), remote: u64s(), _reserved: [0; 2] }
    }
}

impl Maps {
    pub fn fresh() -> Self {
        Self { send: u32s(), receive: u32s() }
    }
}

impl Lane {
    pub fn fresh() -> Self {
        let [owner, tail, waiter, head, done] = u32s();
        let result = AtomicI32::new(0);
        let commands = from_fn(|_| u64s());
        Self { owner, tail, waiter, _pad0: [0; 13], head, done, result, _pad1: [0; 13], reply: u64s(), commands }
    }
}

impl Attention {
    pub fn fresh() -> Self {
        let [raised, sleeping] = u32s();
        Self {
            raised,
            _pad0: [0; 15],
            sleeping,
            _pad1: [0; 15],
            lanes: AtomicU64::new(0),
            summary: u64s(),
            _pad2: [0; 3],
            sockets: u64s(),
        }
    }
}

impl Waitable {
    pub fn fresh() -> Self {
        let [sleeping, owner, sleepers] = u32s();
        Self { sleeping, owner, sleepers, _pad0: [0; 13], summary: u64s(), _pad1: [0; 4], ready: u64s() }
    }
}
