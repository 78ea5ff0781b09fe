//! Asking an engine through its administration socket.

use crate::admin::{Reply, Request};
use crate::keeper::{Place, start};
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// An engine answers within milliseconds; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks one question.
pub(super) fn ask<T: DeserializeOwned>(place: &Place, request: &Request) -> Result<T> {
    open(place, request).map(|(answer, _)| answer)
}

/// Asks, and keeps the connection for what follows the answer.
pub(super) fn open<T: DeserializeOwned>(place: &Place, request: &Request) -> Result<(T, BufReader<UnixStream>)> {
    let path = place.admin_socket();
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => bail!("{}", why_not(place, &error)?),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(|| format!("cannot ask the engine at {}", path.display()))?;
    let mut reader = BufReader::new(stream);
    let mut answer = String::new();
    match reader.read_line(&mut answer) {
        Ok(0) => bail!("the engine at {} ended the conversation", path.display()),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("the engine at {} did not answer within {} seconds", path.display(), PATIENCE.as_secs());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot hear the engine at {}", path.display())),
    }
    match serde_json::from_str(&answer) {
        Ok(Reply::Ok(answer)) => Ok((answer, reader)),
        Ok(Reply::Error(sentence)) => bail!("{sentence}"),
        Err(error) => bail!("the engine's answer is of another version than this command ({error}): update both"),
    }
}

fn why_not(place: &Place, error: &std::io::Error) -> Result<String> {
    let path = place.admin_socket();
    Ok(match error.kind() {
        ErrorKind::PermissionDenied => format!("only root may ask the engine at {}", path.display()),
        _ if start::running(place)?.is_none() => {
            format!("no engine named `{}` is up: start one with `{}`", place.name(), place.up())
        }
        _ => format!("the engine named `{}` is being restarted and does not answer: {error}", place.name()),
    })
}
