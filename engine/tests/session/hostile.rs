//! An application that damages everything it shares with the engine, at random moments: the engine neither crashes nor
//! blocks, and other sessions notice nothing.
//!
//! A failing run prints its seed; `PERSONA_SEED=n` repeats it.

use crate::rig::{App, RIGHT, Sock, engines, pattern, until};
use persona_channel::attach::Request;
use persona_channel::layout::{CHUNKS, Session, op};
use persona_channel::memory::SESSION_SIZE;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0;
        (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (x >> 29)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("PERSONA_SEED") {
        Ok(text) => text.parse().expect("PERSONA_SEED is a number"),
        Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
    };
    println!("PERSONA_SEED={seed} cargo test -p persona-engine --test session hostile");
    seed
}

/// Writes random bytes into the session: most of them where the control structures are.
fn damage(app: &App, random: &mut Random) {
    const CONTROL: usize = std::mem::offset_of!(Session, chunks);
    // The first slots and lanes are the ones in use.
    const HOT: usize = std::mem::offset_of!(Session, sockets) + 64 * 256;
    let maps = std::mem::offset_of!(Session, maps);
    let accept = std::mem::offset_of!(Session, accept);
    for _ in 0..64 {
        let at = match random.below(8) {
            0..=3 => random.below(HOT),
            4 | 5 => maps + random.below(64 * 2_048),
            6 => accept + random.below(8 * 8_320),
            _ => random.below(CONTROL),
        };
        assert!(at < SESSION_SIZE);
        // SAFETY: inside the mapping, which lives as long as `app`; the engine expects such writers.
        let byte = unsafe { AtomicU8::from_ptr(app.bytes().add(at)) };
        match random.below(4) {
            0 => byte.store(0xff, Ordering::Relaxed),
            1 => byte.store(0, Ordering::Relaxed),
            _ => byte.store(random.next() as u8, Ordering::Relaxed),
        }
    }
}

/// Plays an application that also uses what it damages.
fn misbehave(app: &mut App, remote: SocketAddr, random: &mut Random) {
    let shards = app.view().header().shards.clamp(1, 2);
    let mut socks: Vec<Sock> = Vec::new();
    for _ in 0..300 {
        damage(app, random);
        match random.below(6) {
            0 if socks.len() < 24 => {
                let claimed = app.view().claim_slot(1).map(|socket| (socket.slot.get(), socket.generation()));
                if let Some((slot, generation)) = claimed {
                    let (id, anchor) = app.anchor();
                    let sock = Sock { slot, generation, anchor: Some(anchor) };
                    app.push_blindly(&sock, random.next() as u32 % shards, op::BIND_ANCHOR, &[id.into()]);
                    app.push_blindly(&sock, sock.slot % shards, op::CONNECT, &App::address(remote));
                    socks.push(sock);
                }
            }
            1 if !socks.is_empty() => {
                let place = random.below(socks.len());
                socks.swap_remove(place);
            }
            2 => {
                let sock = Sock { slot: random.next() as u32, generation: random.next() as u32, anchor: None };
                let args = [random.next(), random.next(), random.next(), random.next(), 0, 0];
                app.push_blindly(&sock, random.next() as u32 % shards, random.below(14) as u16, &args);
            }
            3 => {
                for sock in &socks {
                    let args = [random.next() % 64, random.next() % 64, random.next() % 32, random.next(), 0, 0];
                    app.push_blindly(sock, sock.slot % shards, random.below(14) as u16, &args);
                }
            }
            4 => {
                // Fills a doorbell, and makes its end blocking.
                let waitable = persona_channel::memory::WaitableId::new(random.below(512) as u32).unwrap();
                let (_, descriptors) = app.request(&Request::doorbell(waitable.get()));
                for descriptor in descriptors {
                    rustix::fs::fcntl_setfl(&descriptor, rustix::fs::OFlags::empty()).unwrap();
                }
                for waiters in (0..64).filter_map(persona_channel::memory::Slot::new) {
                    app.view().socket(waiters).wait.subscribe(waitable);
                }
            }
            _ => app.wake_all(),
        }
    }
}

fn attack(shards: usize) {
    let seed = seed();
    let (left, right) = engines(shards);
    let mut server = right.attach();
    let (listener, local) = server.listen(SocketAddr::new(RIGHT, 0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The honest pair, in sessions of their own, before, during and after.
        let honest = scope.spawn(|| {
            let mut client = left.attach();
            let mut rounds = 0u64;
            while !done.load(Ordering::Relaxed) || rounds < 3 {
                let sock = client.connected(local);
                let accepted = accept_mine(&mut server, &listener, &client, &sock);
                let bytes = pattern(200_000, rounds);
                client.write(&sock, &bytes);
                client.shutdown_write(&sock);
                let (got, errno) = server.read(&accepted, usize::MAX);
                assert!(got == bytes && errno == 0, "round {rounds}: {} bytes, errno {errno}", got.len());
                rounds += 1;
            }
            until("its chunks to come back", || (client.view().pool().free.count() == CHUNKS).then_some(()));
        });
        for round in 0..4 {
            let mut random = Random(seed.wrapping_add(round));
            let mut hostile = left.attach();
            misbehave(&mut hostile, local, &mut random);
        }
        done.store(true, Ordering::Relaxed);
        honest.join().expect("the honest application is served");
    });
    // The engine still answers, and still starts sessions.
    assert!(left.ask(r#"{"request": "stats"}"#)["ok"].is_object());
    let mut after = left.attach();
    let sock = after.connected(local);
    drop(sock);
}

/// Accepts until the connection is the one of `sock`: others are the attacker's, and closed.
fn accept_mine(server: &mut App, listener: &Sock, client: &App, sock: &Sock) -> Sock {
    let mine = client.of(sock).address.local_port.load(Ordering::Acquire);
    loop {
        let accepted = server.accept(listener);
        if server.of(&accepted).address.remote_port.load(Ordering::Acquire) == mine {
            return accepted;
        }
    }
}

#[test]
fn a_hostile_application_harms_itself_alone() {
    attack(1);
}

#[test]
fn a_hostile_application_harms_itself_alone_on_two_shards() {
    attack(2);
}
