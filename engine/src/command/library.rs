//! Where libpersona.so is: beside the command, or where a package puts it.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

pub const LIBRARY: &str = "libpersona.so";
/// Names the library where it lies elsewhere.
const VARIABLE: &str = "PERSONA_LIBRARY";

/// The library's absolute path.
pub(super) fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = std::path::absolute(PathBuf::from(path))?;
        if !path.is_file() {
            bail!("{VARIABLE} names {}, where no file is", path.display());
        }
        return Ok(path);
    }
    let command = std::env::current_exe().context("cannot tell where this command lies")?;
    let dir = command.parent().unwrap_or(Path::new("/"));
    match candidates(dir).into_iter().find(|candidate| candidate.is_file()) {
        Some(path) => Ok(path.canonicalize()?),
        None => bail!(
            "{LIBRARY} is neither in {0} nor in {0}/../lib/persona; build it (cargo build -p persona-hijack), or set {VARIABLE}",
            dir.display()
        ),
    }
}

/// Where the library can be for a command in `dir`, best first.
fn candidates(dir: &Path) -> [PathBuf; 4] {
    [
        // A build directory.
        dir.join(LIBRARY),
        // A package's: /usr/bin and /usr/lib/persona.
        dir.join("../lib/persona").join(LIBRARY),
        dir.join("../lib").join(LIBRARY),
        // A test's executable in the build directory's deps.
        dir.join("..").join(LIBRARY),
    ]
}
