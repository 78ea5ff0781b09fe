//! A session in anonymous memory, and random numbers that print their seed.
#![allow(dead_code)] // Each test uses its part.

use memmap2::MmapMut;
use persona_channel::layout::CHUNK_SIZE;
use persona_channel::memory::{Parameters, SESSION_SIZE, SessionRef, SocketRef};
use persona_channel::send::{Piece, SendReader};

/// Anonymous zero memory with a session in it. Only the touched pages exist.
pub struct Memory {
    map: MmapMut,
}

impl Memory {
    pub fn new() -> Self {
        Self::with(&Parameters { chunks: 1024, ..PARAMETERS })
    }

    pub fn with(parameters: &Parameters<'_>) -> Self {
        let memory = Self { map: MmapMut::map_anon(SESSION_SIZE).expect("anonymous memory") };
        memory.session().initialise(parameters);
        memory
    }

    pub fn session(&self) -> SessionRef<'_> {
        // SAFETY: the mapping is page-aligned, SESSION_SIZE long, and lives as long as the borrow.
        unsafe { SessionRef::from_raw(self.map.as_ptr().cast_mut()).expect("mappings are page-aligned") }
    }
}

pub const PARAMETERS: Parameters<'static> = Parameters {
    shards: 2,
    session: 7,
    token: [3, 4],
    send_buffer: 256 * 1024,
    receive_buffer: 256 * 1024,
    flags: 0,
    sockets: 16_384,
    chunks: 16_384,
    policy: b"policy",
};

/// A small generator (splitmix64); `new` prints its seed, which `PERSONA_TEST_SEED` replaces.
pub struct Random(u64);

impl Random {
    pub fn new(name: &str) -> Self {
        let seed = match std::env::var("PERSONA_TEST_SEED") {
            Ok(seed) => seed.parse().expect("PERSONA_TEST_SEED is a number"),
            Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), name),
        };
        println!("{name}: PERSONA_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_ne_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Bytes of a send stream, as the engine finds them.
pub fn gather(reader: &SendReader, socket: &SocketRef<'_>, offset: u64, len: usize) -> Vec<u8> {
    let mut pieces = vec![Piece { start: std::ptr::null(), len: 0 }; len / CHUNK_SIZE + 2];
    let count = reader.resolve(socket, offset, len, &mut pieces).expect("the range was published");
    let mut bytes = Vec::new();
    for piece in &pieces[..count] {
        // SAFETY: the piece lies in the session, which nobody changes meanwhile.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.start, piece.len) });
    }
    bytes
}
