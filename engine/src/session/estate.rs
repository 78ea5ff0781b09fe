//! Estates: what the families of dead sessions may do again in the engine that follows.
//!
//! A server may have bound a reserved port as root and given its privilege up since, and a process may have become a user who
//! is not in `access`. When their engine dies, both come back by the token of their dead session, which only their family
//! knows: it stands for the right to attach, and to bind reserved ports if the session's maker might. The engine keeps the
//! tokens in the ledger, since an estate may be claimed only after another death.

use crate::ledger::{Kind, Ledger, MAY_BIND_RESERVED};
use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use std::time::Duration;

/// For how long a family can come back. Whoever waits for connections does so at once; the others had other things to do.
pub const CLAIMED_WITHIN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estate {
    pub token: [u64; 2],
    pub may_bind_reserved: bool,
    /// Seconds of the engine's clock.
    until: u64,
}

/// Notes that a session has ended with its engine.
pub fn leave(ledger: &Ledger, token: [u64; 2], may_bind_reserved: bool, now: u64) -> Result<Estate> {
    let estate = Estate { token, may_bind_reserved, until: now + CLAIMED_WITHIN.as_secs() };
    let place = eventfd(0, EventfdFlags::CLOEXEC).context("cannot note an ended session")?;
    let flag = if may_bind_reserved { MAY_BIND_RESERVED } else { 0 };
    ledger
        .record(Kind::Estate, estate.until | flag, token[0], &place, token[1])
        .context("cannot note an ended session")?;
    // It is the ledger's from here on.
    std::mem::forget(place);
    Ok(estate)
}

/// Those that earlier engines noted and that still count; the others go.
pub fn known(ledger: &Ledger, now: u64) -> Vec<Estate> {
    let entries: Vec<_> = ledger.of_kind(Kind::Estate).collect();
    let mut estates = Vec::new();
    for entry in entries {
        let estate = Estate {
            token: [entry.b, entry.len],
            may_bind_reserved: entry.a & MAY_BIND_RESERVED != 0,
            until: entry.a & !MAY_BIND_RESERVED,
        };
        if estate.counts(now) {
            estates.push(estate);
        } else {
            // SAFETY: the engine that noted it is gone, and nobody uses the descriptor.
            ledger.close(unsafe { ledger.adopt(&entry) });
        }
    }
    estates
}

impl Estate {
    pub fn counts(&self, now: u64) -> bool {
        now < self.until
    }

    /// Whether this is a claim to it. No token is none.
    pub fn is_claimed_by(&self, token: [u64; 2], now: u64) -> bool {
        token != [0, 0] && token == self.token && self.counts(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estate_outlives_engines_until_its_time_is_over() {
        let ledger = Ledger::create().unwrap();
        let privileged = leave(&ledger, [7, 8], true, 100).unwrap();
        let plain = leave(&ledger, [1, 0], false, 200).unwrap();
        let mut found = known(&ledger, 300);
        found.sort_by_key(|estate| estate.until);
        assert_eq!(found, [privileged, plain]);
        assert!(privileged.is_claimed_by([7, 8], 300) && !privileged.is_claimed_by([7, 9], 300));
        assert!(!Estate { token: [0, 0], ..plain }.is_claimed_by([0, 0], 300));
        assert!(!privileged.is_claimed_by([7, 8], 100 + CLAIMED_WITHIN.as_secs()));
        assert_eq!(known(&ledger, 100 + CLAIMED_WITHIN.as_secs()), [plain]);
        assert_eq!(ledger.of_kind(Kind::Estate).count(), 1);
    }
}
