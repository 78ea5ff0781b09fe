//! `persona check`.

use super::{print_json, up};
use crate::config::{self, Interface};
use anyhow::Result;
use std::path::Path;

pub(super) fn check(file: Option<&Path>, json: bool) -> Result<()> {
    let loaded = up::load(file)?;
    if json {
        return print_json(&loaded);
    }
    up::print_warnings(&loaded);
    let source = up::source(&loaded);
    println!("{source}: a valid configuration");
    for interface in &loaded.config.interfaces {
        println!("  {}", describe(interface));
    }
    Ok(())
}

pub(super) fn print_schema() -> Result<()> {
    print_json(&config::schema())
}

fn describe(interface: &Interface) -> String {
    let Interface { kind, param, mode, ip, .. } = interface;
    let address = ip.map_or("the host's address".to_owned(), |(ip, prefix_len)| format!("{ip}/{prefix_len}"));
    format!("{kind} {param}: {address} ({mode})")
}
