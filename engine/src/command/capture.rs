//! `persona capture`: the engine writes pcapng, this passes it on.

use super::{EngineName, admin_client};
use crate::admin::{CaptureFilter, Request};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

pub(super) fn capture(engine: &EngineName, write: &Path, snap: Option<u32>, words: &[String]) -> Result<()> {
    let filter = parse_filter(words)?;
    let to_stdout = write == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        bail!("pcapng is not for a terminal: redirect the output, or name a file with -w");
    }
    let ((), mut frames) = admin_client::open(&engine.place()?, &Request::Capture { filter, snap })?;
    frames.get_ref().set_read_timeout(None)?;
    // Ctrl-C is how a capture ends, and must not cut a record in two.
    let signals = block_signals()?;
    let mut out: Box<dyn Write> = match to_stdout {
        true => Box::new(std::io::stdout().lock()),
        false => Box::new(File::create(write).with_context(|| format!("cannot write {}", write.display()))?),
    };
    let mut ending = false;
    loop {
        let waiting = frames.buffer().is_empty();
        if waiting {
            let mut fds = [PollFd::new(frames.get_ref(), PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for frames"),
            }
            if !ending && fds[1].revents().contains(PollFlags::IN) {
                ending = true;
                // The engine sees it, finishes the record it is at and closes.
                frames.get_ref().shutdown(std::net::Shutdown::Write)?;
            }
            if !fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                continue;
            }
        }
        let bytes = frames.fill_buf().context("the engine broke the capture off")?;
        if bytes.is_empty() {
            break;
        }
        let written = bytes.len();
        out.write_all(bytes).with_context(|| format!("cannot write {}", write.display()))?;
        frames.consume(written);
    }
    out.flush()?;
    if !ending {
        bail!("the engine has ended the capture");
    }
    Ok(())
}

pub(super) fn block_signals() -> Result<SignalFd> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?)
}

/// Reads `host A and port N and tcp` and the like, a part of tcpdump's language.
fn parse_filter(words: &[String]) -> Result<CaptureFilter> {
    let mut filter = CaptureFilter::default();
    let text = words.join(" ");
    let mut words = text.split_whitespace();
    let mut expecting = !text.trim().is_empty();
    while expecting {
        match words.next() {
            Some("host") => {
                let address = words.next().context("filter: `host` without an address")?;
                let parsed = address.parse().with_context(|| format!("filter: `{address}` is not an address"))?;
                set(&mut filter.host, parsed, "host")?;
            }
            Some("port") => {
                let port = words.next().context("filter: `port` without a number")?;
                let parsed = port.parse().with_context(|| format!("filter: `{port}` is not a port"))?;
                set(&mut filter.port, parsed, "port")?;
            }
            Some("tcp") => set(&mut filter.protocol, libc::IPPROTO_TCP as u8, "protocol")?,
            Some("udp") => set(&mut filter.protocol, libc::IPPROTO_UDP as u8, "protocol")?,
            Some("icmp") => set(&mut filter.protocol, libc::IPPROTO_ICMP as u8, "protocol")?,
            Some("arp") => filter.arp = true,
            Some(word) => {
                bail!("filter: `{word}` is not known; write host ADDRESS, port NUMBER, tcp, udp, icmp or arp")
            }
            None => bail!("filter: something has to follow `and`"),
        }
        expecting = match words.next() {
            None => false,
            Some("and") => true,
            Some(word) => bail!("filter: expected `and` before `{word}`"),
        };
    }
    if filter.arp && (filter.port.is_some() || filter.protocol.is_some()) {
        bail!("filter: arp has neither ports nor a protocol above it");
    }
    Ok(filter)
}

fn set<T>(place: &mut Option<T>, value: T, what: &str) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => bail!("filter: more than one {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CaptureFilter> {
        parse_filter(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn filters_are_read() {
        assert_eq!(parse_filter(&[]).unwrap(), CaptureFilter::default());
        let expected =
            CaptureFilter { host: Some("10.9.0.1".parse().unwrap()), port: Some(80), protocol: Some(6), arp: false };
        assert_eq!(parse("tcp and host 10.9.0.1 and port 80").unwrap(), expected);
        assert_eq!(parse_filter(&["tcp and host 10.9.0.1 and port 80".to_owned()]).unwrap(), expected, "as one word");
        assert!(parse("arp").unwrap().arp);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let cases = [
            ("ip6", "filter: `ip6` is not known; write host ADDRESS, port NUMBER, tcp, udp, icmp or arp"),
            ("port http", "filter: `http` is not a port"),
            ("host", "filter: `host` without an address"),
            ("tcp port 80", "filter: expected `and` before `port`"),
            ("tcp and", "filter: something has to follow `and`"),
            ("tcp and udp", "filter: more than one protocol"),
            ("arp and port 1", "filter: arp has neither ports nor a protocol above it"),
        ];
        for (text, sentence) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), sentence);
        }
    }
}
