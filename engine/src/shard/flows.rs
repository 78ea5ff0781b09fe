//! Connections that are entered into the diversion one by one, because the host has their address as well: who still
//! needs an entry, and on which interfaces it is.
//!
//! A flow has one shard, so what the shard knows here is the whole truth: it asks no other thread and takes no lock. An entry
//! outlives its connection for a while (late segments must not find the host), and a second attempt with the same addresses may
//! meet a connection that lives: so entries count their users.
//!
//! Entering and taking away stay one bpf(2) call for each connection and interface. The kernel's hash maps cannot be mapped
//! into memory, and a batch would leave a window in which the answer to a SYN finds the host, which resets it.

use super::routing::Routing;
use crate::hooks::Hooks;
use persona_stack::{Instant, PortId};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// Local and remote end.
type Ends = (SocketAddr, SocketAddr);

struct Flow {
    users: u32,
    /// Bit by port: where it was entered. The address may be gone from there before the flow ends.
    ports: u16,
}

const _: () = assert!(crate::config::INTERFACES <= u16::BITS as usize);

/// Of one shard.
#[derive(Default)]
pub struct Flows {
    entered: HashMap<Ends, Flow>,
    /// Connections that ended, in the order of the times at which their entries are given up.
    lingering: VecDeque<(Instant, Ends)>,
}

impl Flows {
    /// A connection exists, or its SYN is about to leave.
    pub fn begin(&mut self, hooks: &dyn Hooks, routing: &Routing, shard: usize, local: SocketAddr, remote: SocketAddr) {
        if !hooks.tracks_flows() {
            return;
        }
        let known = self.entered.get_mut(&(local, remote));
        let mut ports = known.as_ref().map_or(0, |flow| flow.ports);
        for port in routing.ports_of(local.ip()) {
            if ports & bit(port) == 0 && hooks.flow_begins(port, local, remote, shard as u8) {
                ports |= bit(port);
            }
        }
        match known {
            Some(flow) => *flow = Flow { users: flow.users + 1, ports },
            // An address of the engine's own, all of which is diverted.
            None if ports == 0 => {}
            None => drop(self.entered.insert((local, remote), Flow { users: 1, ports })),
        }
    }

    /// Nothing came of a connection that began.
    pub fn end(&mut self, hooks: &dyn Hooks, local: SocketAddr, remote: SocketAddr) {
        let Some(flow) = self.entered.get_mut(&(local, remote)) else { return };
        flow.users -= 1;
        if flow.users > 0 {
            return;
        }
        for port in (0..u16::BITS as u8).map(PortId).filter(|port| flow.ports & bit(*port) != 0) {
            hooks.flow_ended(port, local, remote);
        }
        self.entered.remove(&(local, remote));
    }

    /// A connection is gone: its entry is given up at `until`, which is never before the one of an earlier call.
    pub fn linger(&mut self, until: Instant, local: SocketAddr, remote: SocketAddr) {
        if self.entered.contains_key(&(local, remote)) {
            self.lingering.push_back((until, (local, remote)));
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn next_end(&self) -> Option<Instant> {
        self.lingering.front().map(|(until, _)| *until)
    }

    /// Gives up entries whose time has come.
    pub fn expire(&mut self, hooks: &dyn Hooks, now: Instant) {
        while self.next_end().is_some_and(|until| until <= now) {
            if let Some((_, (local, remote))) = self.lingering.pop_front() {
                self.end(hooks, local, remote);
            }
        }
    }
}

fn bit(port: PortId) -> u16 {
    1u16.checked_shl(port.0.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Notes what is entered and what is taken away; port 2 is no shared one.
    #[derive(Default)]
    struct Diverted(Mutex<Vec<(u8, bool)>>);

    impl Diverted {
        fn told(&self) -> Vec<(u8, bool)> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Hooks for Diverted {
        fn flow_begins(&self, port: PortId, _: SocketAddr, _: SocketAddr, _: u8) -> bool {
            let shared = port != PortId(2);
            if shared {
                self.0.lock().unwrap().push((port.0, true));
            }
            shared
        }

        fn flow_ended(&self, port: PortId, _: SocketAddr, _: SocketAddr) {
            self.0.lock().unwrap().push((port.0, false));
        }

        fn tracks_flows(&self) -> bool {
            true
        }
    }

    const LOCAL: &str = "10.9.0.2:40000";
    const REMOTE: &str = "10.9.0.1:80";

    struct Ground {
        flows: Flows,
        hooks: Diverted,
        routing: Routing,
    }

    impl Ground {
        fn new(ports: &[u8]) -> Self {
            let mut routing = Routing::default();
            for port in ports {
                routing.add_address(PortId(*port), end(LOCAL).ip(), 24);
            }
            Self { flows: Flows::default(), hooks: Diverted::default(), routing }
        }

        fn begin(&mut self) -> Vec<(u8, bool)> {
            self.flows.begin(&self.hooks, &self.routing, 0, end(LOCAL), end(REMOTE));
            self.hooks.told()
        }

        fn end(&mut self) -> Vec<(u8, bool)> {
            self.flows.end(&self.hooks, end(LOCAL), end(REMOTE));
            self.hooks.told()
        }

        fn expire(&mut self, seconds: u64) -> Vec<(u8, bool)> {
            self.flows.expire(&self.hooks, second(seconds));
            self.hooks.told()
        }
    }

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn second(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_attempt_that_met_a_live_connection_leaves_it_diverted() {
        let mut ground = Ground::new(&[0]);
        assert_eq!(ground.begin(), [(0, true)]);
        assert_eq!(ground.begin(), []);
        assert_eq!(ground.end(), []);
        assert_eq!(ground.end(), [(0, false)]);
        assert_eq!(ground.end(), [], "it has ended");
    }

    #[test]
    fn a_successor_with_the_same_addresses_outlives_what_lingers() {
        let mut ground = Ground::new(&[0]);
        ground.begin();
        ground.flows.linger(second(61), end(LOCAL), end(REMOTE));
        assert_eq!(ground.begin(), []);
        assert_eq!((ground.flows.next_end(), ground.expire(60)), (Some(second(61)), vec![]));
        assert_eq!(ground.expire(61), []);
        assert_eq!(ground.flows.next_end(), None);
        ground.flows.linger(second(99), end(LOCAL), end(REMOTE));
        assert_eq!(ground.expire(99), [(0, false)]);
        assert!(ground.flows.entered.is_empty());
    }

    #[test]
    fn a_flow_is_taken_from_where_it_was_entered() {
        let mut ground = Ground::new(&[0, 1, 2]);
        assert_eq!(ground.begin(), [(0, true), (1, true)]);
        ground.routing.remove_address(PortId(0), end(LOCAL).ip());
        ground.routing.add_address(PortId(3), end(LOCAL).ip(), 24);
        assert_eq!(ground.begin(), [(3, true)], "where the address came later");
        assert_eq!(ground.end(), []);
        assert_eq!(ground.end(), [(0, false), (1, false), (3, false)]);
    }

    #[test]
    fn an_address_of_our_own_needs_no_entries() {
        let mut ground = Ground::new(&[2]);
        assert_eq!(ground.begin(), []);
        ground.flows.linger(second(61), end(LOCAL), end(REMOTE));
        assert_eq!((ground.flows.next_end(), ground.flows.entered.len()), (None, 0));
    }
}
