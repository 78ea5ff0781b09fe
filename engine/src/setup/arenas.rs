//! The shards' arenas: the memory in which a stack lies, in memfds that outlive the engine.

use crate::clock;
use crate::config::{Config, Sizes};
use crate::ledger::{Kind, Ledger};
use anyhow::{Context, Result, anyhow};
use memmap2::{MmapMut, MmapOptions};
use persona_stack::Stack;
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::OwnedFd;

/// Next hops and routes that a shard can know.
const NEIGHBOURS: u32 = 1_024;
const ROUTES: u32 = 512;

/// What the shards' stacks are made with. `seed` is one for all of them, so that they agree about who owns a flow.
pub fn stack_config(sizes: &Sizes, seed: [u8; 32], shard: usize, shards: usize) -> persona_stack::Config {
    persona_stack::Config {
        connections: sizes.connections,
        listeners: sizes.listeners,
        requests: sizes.requests,
        time_waits: sizes.time_waits,
        // Holes, sacked stretches, and what is in flight: most connections have none, some have many.
        ranges: sizes.connections.saturating_mul(2).max(4_096),
        flights: sizes.connections.saturating_mul(4).max(16_384),
        neighbours: NEIGHBOURS,
        routes: ROUTES,
        reassembly: sizes.reassembly,
        seed,
        shard: shard as u8,
        shards: shards as u8,
    }
}

/// A fresh stack in a fresh arena, which is recorded for a successor.
pub fn make(config: &Config, ledger: &Ledger, seed: [u8; 32], shard: usize, shards: usize) -> Result<Stack<'static>> {
    let config = stack_config(&config.sizes, seed, shard, shards);
    let size = config.memory_size();
    let descriptor = rustix::fs::memfd_create("persona-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .context("cannot make a shard's memory")?;
    rustix::fs::ftruncate(&descriptor, size as u64).context("cannot size a shard's memory")?;
    rustix::fs::fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .context("cannot seal a shard's memory")?;
    let memory = map(&descriptor, size)?;
    ledger.record(Kind::Arena, shard as u64, 0, &descriptor, size as u64).context("cannot record a shard's memory")?;
    // Both live as long as the process: the shard's thread ends with it, and a successor finds the memory afterwards.
    std::mem::forget(descriptor);
    let memory: &'static mut MmapMut = Box::leak(Box::new(memory));
    Stack::format(memory, &config, clock::now()).map_err(|error| anyhow!("cannot make a shard's stack: {error:?}"))
}

/// A predecessor's arenas, taken out of the ledger.
pub fn inherited(ledger: &Ledger) -> Vec<(u64, MmapMut)> {
    let entries: Vec<_> = ledger.of_kind(Kind::Arena).collect();
    let mut arenas = Vec::new();
    for entry in entries {
        // SAFETY: the predecessor is gone; its record is taken over once, here.
        let descriptor = unsafe { ledger.adopt(&entry) };
        match map(&descriptor, entry.len as usize) {
            Ok(memory) => arenas.push((entry.a, memory)),
            Err(error) => tracing::warn!("a predecessor's connections cannot be ended: {error:#}"),
        }
        ledger.close(descriptor);
    }
    arenas
}

fn map(descriptor: &OwnedFd, size: usize) -> Result<MmapMut> {
    // SAFETY: the memfd is ours alone, sealed against shrinking, and mapped nowhere else while this process lives.
    unsafe { MmapOptions::new().len(size).map_mut(descriptor) }.context("cannot map a shard's memory")
}
