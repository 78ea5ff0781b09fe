//! What must hold whenever a node's loop has gone round, and when everything is over.

use super::node::Node;
use super::world::World;
use crate::stack::Stack;
use crate::time::Instant;

/// After each round.
pub fn check(stack: &Stack<'_>, now: Instant) {
    if let Err(reason) = stack.audit(now) {
        panic!("{reason}");
    }
}

/// When the last connection has ended and the wire is silent: every record is back in its pool and no timer is left.
pub fn check_at_rest(world: &mut World) {
    for (index, node) in world.nodes.iter_mut().enumerate() {
        let Node { arena, .. } = node;
        let stack = Stack::attach(arena.bytes()).expect("the arena holds a stack");
        let usage = stack.usage();
        let left = (usage.connections, usage.requests, usage.time_waits, usage.ranges);
        assert_eq!(left, (0, 0, 0, 0), "node {index}: connections, requests, TIME-WAITs, ranges are left");
        assert_eq!(stack.next_timeout(), None, "node {index}: a timer is left");
    }
}
