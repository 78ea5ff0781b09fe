//! Listeners that share an address (SO_REUSEPORT): each gets connections, and the address stays served until the last closes.

use persona_tests::topology::OUR_ADDRESS;
use persona_tests::{Engine, Link, Side, Topology};

/// Two listeners at one address take 16 connections, then the first closes and the second takes 4 more.
const SHARERS: &str = "
import select, socket, sys
def listener():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('10.9.0.2', 7100)); s.listen(); return s
both = [listener(), listener()]
def take(listeners, connections):
    counts = [0] * len(listeners)
    while sum(counts) < connections:
        ready = select.select(listeners, [], [], 20)[0]
        if not ready: sys.exit('no connection within 20 s: %r' % counts)
        for s in ready:
            c = s.accept()[0]; c.sendall(b'here'); c.close(); counts[listeners.index(s)] += 1
    return counts
print('both', *take(both, 16), flush=True)
both[0].close()
print('last', *take(both[1:], 4), flush=True)
";

/// One connection after the other, each answered. The close of the first listener may meet one under way.
const CLIENT: &str = "
import socket, sys, time
done, tries = 0, 0
while done < 20:
    tries += 1
    if tries > 60: sys.exit('only %d answers' % done)
    try:
        c = socket.create_connection((sys.argv[1], 7100), 5)
        if c.recv(9) == b'here': done += 1
        c.close()
    except OSError: time.sleep(0.05)
";

#[test]
fn sharers_of_an_address_take_turns_and_the_last_serves_alone() {
    let topology = Topology::new(Link::default()).unwrap();
    let engine = Engine::start(&topology, "xdp").unwrap();
    let server = topology.spawn(Side::Persona(&engine), &["python3", "-c", SHARERS]).unwrap();
    engine.wait_for_listener(7100).unwrap();
    let client = topology.succeed(Side::Peer, &["python3", "-c", CLIENT, OUR_ADDRESS], 60);
    let server = server.finish(30).unwrap();
    let said = format!("{}{}", server.stdout, server.stderr);
    client.unwrap_or_else(|error| panic!("{error:#}\n{said}"));
    let counts: Vec<u32> = said
        .lines()
        .find_map(|line| line.strip_prefix("both "))
        .map(|counts| counts.split(' ').map(|count| count.parse().unwrap()).collect())
        .unwrap_or_default();
    // There are at most 8 shards, so some shard has two connections or more, and gives them to both.
    assert!(counts.len() == 2 && counts.iter().all(|&count| count > 0), "{said}");
    assert!(said.contains("last 4") && server.status.success(), "{said}");
}
