//! `persona filter show`: what the eBPF programs divert from the host.

use super::table::{Align, lines};
use super::{EngineName, admin_client, print_json};
use crate::admin::{Filter, FilterEntry, Request};
use anyhow::Result;
use std::io::Write;

pub(super) fn show(engine: &EngineName, json: bool) -> Result<()> {
    let filters: Vec<Filter> = admin_client::ask(&engine.place()?, &Request::Filter)?;
    if json {
        return print_json(&filters);
    }
    let mut out = std::io::stdout().lock();
    for line in filters.iter().flat_map(render) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn render(filter: &Filter) -> Vec<String> {
    use Align::{Left, Right};
    let head = [("Kind", Left), ("Local", Left), ("Remote", Left), ("Shard", Right), ("Hits", Right)];
    let rows: Vec<[String; 5]> = filter.entries.iter().map(row).collect();
    let title = format!("{}: {}, {}", filter.interface, filter.attached, filter.state);
    std::iter::once(title).chain(lines(head, &rows)).collect()
}

fn row(entry: &FilterEntry) -> [String; 5] {
    [
        entry.kind.clone(),
        entry.local.clone(),
        entry.remote.clone().unwrap_or_else(|| "*".to_owned()),
        entry.shard.map_or("-".to_owned(), |shard| shard.to_string()),
        entry.hits.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_in_columns_under_their_interface() {
        let filter = Filter {
            interface: "veth0".into(),
            attached: "xdp driver".into(),
            state: "run".into(),
            entries: vec![
                FilterEntry { kind: "address".into(), local: "10.9.0.2".into(), hits: 12, ..Default::default() },
                FilterEntry {
                    kind: "flow".into(),
                    local: "10.9.0.2:80".into(),
                    remote: Some("10.9.0.1:4000".into()),
                    shard: Some(1),
                    hits: 7,
                },
            ],
        };
        let expected = [
            "veth0: xdp driver, run",
            "Kind    Local       Remote        Shard Hits",
            "address 10.9.0.2    *                 -   12",
            "flow    10.9.0.2:80 10.9.0.1:4000     1    7",
        ];
        assert_eq!(render(&filter), expected);
    }
}
