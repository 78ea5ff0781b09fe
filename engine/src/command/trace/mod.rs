//! `persona trace`: what happens to one connection, as text, as JSON, or as a time-sequence plot.

mod chart;
mod plot;
mod text;

use super::capture::block_signals;
use super::{EngineName, admin_client};
use crate::admin::{Request, Socket};
use crate::trace::{Event, Line};
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines that a plot is drawn of at most: what a browser can still show, and a few hundred megabytes here.
const MOST_FOR_PLOT: usize = 1_000_000;

#[derive(Debug, Args)]
pub(super) struct Order {
    #[command(flatten)]
    engine: EngineName,
    /// The connection as `persona sockets` prints it: one end as ADDRESS:PORT if that is enough, else both.
    #[arg(value_name = "SOCKET", num_args = 1..=2, required_unless_present = "from", conflicts_with = "from")]
    socket: Vec<String>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// End after so many seconds.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    seconds: Option<u64>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Draw the time-sequence plot into FILE when the trace is over; prints nothing unless --json is there.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Read a trace that `--json` has written instead of asking an engine.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// Where the lines go.
struct Sink<'a> {
    order: &'a Order,
    out: std::io::StdoutLock<'static>,
    /// Lines for the plot.
    kept: Vec<Line>,
    seen: u64,
}

impl Sink<'_> {
    /// `false`: that was enough.
    fn take(&mut self, line: Line) -> Result<bool> {
        if self.order.json {
            serde_json::to_writer(&mut self.out, &line)?;
            writeln!(self.out)?;
        } else if self.order.plot.is_none() {
            writeln!(self.out, "{}", text::write(&line))?;
        }
        self.seen += u64::from(!matches!(line.event, Event::Begin { .. }));
        if self.order.plot.is_some() {
            self.kept.push(line);
            if self.kept.len() == MOST_FOR_PLOT {
                eprintln!("persona: the plot is of the first {MOST_FOR_PLOT} events: a plot cannot show more");
                return Ok(false);
            }
        }
        Ok(self.order.count.is_none_or(|count| self.seen < count))
    }

    fn finish(mut self) -> Result<()> {
        self.out.flush()?;
        let Some(path) = &self.order.plot else { return Ok(()) };
        let drawing = plot::draw(&self.kept)?;
        std::fs::write(path, drawing).with_context(|| format!("cannot write {}", path.display()))
    }
}

pub(super) fn trace(order: &Order) -> Result<()> {
    // Before the trace, which would be for nothing.
    let made = order.plot.as_deref().map(try_writing).transpose()?.unwrap_or(false);
    let mut sink = Sink { order, out: std::io::stdout().lock(), kept: Vec::new(), seen: 0 };
    let outcome = match &order.from {
        Some(path) => read(path, &mut sink),
        None => follow(order, &mut sink),
    };
    let outcome = outcome.and_then(|()| sink.finish());
    if let (Err(_), true, Some(path)) = (&outcome, made, &order.plot) {
        // Nothing is in it.
        let _ = std::fs::remove_file(path);
    }
    outcome
}

/// Opens the file that a plot goes to and leaves it as it is. Whether it was not there before.
fn try_writing(path: &Path) -> Result<bool> {
    let made = !path.exists();
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(made)
}

/// A trace from a file.
fn read(path: &Path, sink: &mut Sink<'_>) -> Result<()> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut any = false;
    for (number, line) in std::io::BufReader::new(file).lines().enumerate() {
        let text = line.with_context(|| format!("cannot read {}", path.display()))?;
        let line = serde_json::from_str(&text).map_err(|error| {
            anyhow::anyhow!(
                "{}, line {}: not written by `persona trace --json` of this version: {error}",
                path.display(),
                number + 1
            )
        })?;
        any = true;
        if !sink.take(line)? {
            break;
        }
    }
    if !any {
        bail!("{} is empty: write it with `persona trace SOCKET --json`", path.display());
    }
    Ok(())
}

/// A trace from an engine.
fn follow(order: &Order, sink: &mut Sink<'_>) -> Result<()> {
    let place = order.engine.place()?;
    let sockets: Vec<Socket> = admin_client::ask(&place, &Request::Sockets)?;
    let (local, remote) = find(&sockets, &order.socket)?;
    let ((), mut lines) = admin_client::open(&place, &Request::Trace { local, remote })?;
    lines.get_ref().set_read_timeout(None)?;
    // Ctrl-C is how a trace ends, and must not cut a line in two.
    let signals = block_signals()?;
    let end = order.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut rest = Vec::new();
    loop {
        if lines.buffer().is_empty() {
            sink.out.flush()?;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let timeout =
                left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            let mut fds = [PollFd::new(lines.get_ref(), PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for events"),
            }
            if fds[1].revents().contains(PollFlags::IN) {
                return Ok(());
            }
            if !fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                continue;
            }
        } else if end.is_some_and(|end| end <= Instant::now()) {
            return Ok(());
        }
        let bytes = lines.fill_buf().context("the engine broke the trace off")?;
        let Some(newline) = bytes.iter().position(|&byte| byte == b'\n') else {
            if bytes.is_empty() {
                bail!("the engine has gone before the connection ended: the trace stops here");
            }
            rest.extend_from_slice(bytes);
            let length = bytes.len();
            lines.consume(length);
            continue;
        };
        rest.extend_from_slice(&bytes[..newline]);
        lines.consume(newline + 1);
        let line: Line = serde_json::from_slice(&rest)
            .context("the engine's trace is of another version than this command: update both")?;
        rest.clear();
        let ended = matches!(line.event, Event::Ended { .. });
        if !sink.take(line)? || ended {
            return Ok(());
        }
    }
}

/// The connection that `words` name.
fn find(sockets: &[Socket], words: &[String]) -> Result<(SocketAddr, SocketAddr)> {
    let parse = |word: &String| -> Result<SocketAddr> {
        word.parse().map_err(|_| anyhow::anyhow!("`{word}` is no ADDRESS:PORT such as 10.9.0.2:80"))
    };
    let named = words.iter().map(parse).collect::<Result<Vec<_>>>()?;
    if let [local, remote] = named[..] {
        // The engine knows connections that no process has any more, too.
        let turned = sockets.iter().filter_map(ends).any(|found| found == (remote, local));
        return Ok(if turned { (remote, local) } else { (local, remote) });
    }
    let end = named[0];
    let found: Vec<_> =
        sockets.iter().filter_map(ends).filter(|(local, remote)| *local == end || *remote == end).collect();
    match found[..] {
        [only] => Ok(only),
        [] => bail!("no connection has {end} at an end: see `persona sockets`"),
        [(local, remote), ..] => {
            bail!("{} connections have {end} at an end: name both, such as {local} {remote}", found.len())
        }
    }
}

/// Of a connection of the engine's.
fn ends(socket: &Socket) -> Option<(SocketAddr, SocketAddr)> {
    socket.tcp.as_ref()?;
    Some((socket.local.parse().ok()?, socket.remote.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Tcp;

    fn socket(local: &str, remote: &str) -> Socket {
        Socket { local: local.into(), remote: remote.into(), tcp: Some(Tcp::default()), ..Socket::default() }
    }

    fn found(words: &[&str]) -> Result<(SocketAddr, SocketAddr), String> {
        let sockets = [
            socket("10.0.0.1:80", "10.0.0.2:1000"),
            socket("10.0.0.1:80", "10.0.0.2:1001"),
            Socket { local: "10.0.0.1:81".into(), remote: "*:*".into(), ..Socket::default() },
        ];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        find(&sockets, &words).map_err(|error| error.to_string())
    }

    #[test]
    fn one_end_is_enough_where_it_is_the_only_one() {
        let expected = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:1001".parse().unwrap());
        assert_eq!(found(&["10.0.0.2:1001"]), Ok(expected));
        assert_eq!(found(&["10.0.0.1:80", "10.0.0.2:1001"]), Ok(expected));
        assert_eq!(found(&["10.0.0.2:1001", "10.0.0.1:80"]), Ok(expected), "either way round");
    }

    #[test]
    fn what_is_not_found_or_ambiguous_is_said() {
        let cases = [
            (
                &["10.0.0.1:80"][..],
                "2 connections have 10.0.0.1:80 at an end: name both, such as 10.0.0.1:80 10.0.0.2:1000",
            ),
            (&["10.0.0.1:81"], "no connection has 10.0.0.1:81 at an end: see `persona sockets`"),
            (&["80"], "`80` is no ADDRESS:PORT such as 10.9.0.2:80"),
        ];
        for (words, sentence) in cases {
            assert_eq!(found(words), Err(sentence.to_owned()));
        }
    }
}
