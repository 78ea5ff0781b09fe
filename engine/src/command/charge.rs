//! The engine as its keeper knows it.

use crate::keeper::{Charge, Surroundings};
use crate::ledger::Ledger;
use anyhow::{Result, bail};
use std::net::IpAddr;
use std::time::Duration;

pub(super) struct Engine;

impl Charge for Engine {
    fn run(&self, _surroundings: &Surroundings<'_>) -> Result<()> {
        bail!("this build has no engine yet")
    }

    fn hold(&self, _ledger: &Ledger, _deadline: Duration) {}

    fn manage_neighbour(&self, _interface: u32, _address: IpAddr) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
