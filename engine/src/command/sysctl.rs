//! `persona sysctl`: settings of a running engine, as sysctl(8) shows and sets them.

use super::{EngineName, admin_client, print_json};
use crate::admin::{Request, Sysctl};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::io::Write;

pub(super) fn sysctl(engine: &EngineName, write: bool, json: bool, settings: &[String]) -> Result<()> {
    let request = request(write, settings)?;
    let answer: Vec<Sysctl> = admin_client::ask(&engine.place()?, &request)?;
    for warning in answer.iter().filter_map(|setting| setting.warning.as_ref()) {
        eprintln!("persona: warning: {warning}");
    }
    if json {
        return print_json(&answer.iter().map(|setting| (&setting.name, &setting.value)).collect::<BTreeMap<_, _>>());
    }
    let mut out = std::io::stdout().lock();
    for Sysctl { name, value, .. } in &answer {
        writeln!(out, "{name} = {value}")?;
    }
    Ok(())
}

fn request(write: bool, settings: &[String]) -> Result<Request> {
    let (mut set, mut get) = (Vec::new(), Vec::new());
    for setting in settings {
        match setting.split_once('=') {
            Some((name, value)) => {
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                set.push(Sysctl { name, value, warning: None });
            }
            None if write => bail!("`{setting}` is not of the form name=value, which -w sets"),
            None => get.push(setting.clone()),
        }
    }
    Ok(Request::Sysctl { set, get })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_apart_by_the_sign() {
        let arguments = ["net.ipv4.tcp_sack = 0", "net.ipv4.tcp_rmem"].map(str::to_owned);
        let setting = Sysctl { name: "net.ipv4.tcp_sack".to_owned(), value: "0".to_owned(), warning: None };
        let expected = Request::Sysctl { set: vec![setting], get: vec!["net.ipv4.tcp_rmem".to_owned()] };
        assert_eq!(request(false, &arguments).unwrap(), expected);
        let sentence = request(true, &arguments).unwrap_err().to_string();
        assert!(sentence.starts_with("`net.ipv4.tcp_rmem` is not of the form name=value"), "{sentence}");
    }
}
