//! Where an engine's files are: `/run/persona/NAME/`, or below PERSONA_RUN_DIR.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

pub const RUN_DIR_VARIABLE: &str = "PERSONA_RUN_DIR";
pub const NAME_VARIABLE: &str = "PERSONA_NAME";
const RUN_DIR: &str = "/run/persona";
const NAME: &str = "default";
/// A socket's path must fit into sockaddr_un, 108 bytes with its NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The directory of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    run_dir: PathBuf,
}

impl Place {
    /// The engine called `name`, else the one that PERSONA_NAME names, else `default`.
    pub fn of(name: Option<&str>) -> Result<Place> {
        let from_environment = std::env::var(NAME_VARIABLE).ok().filter(|name| !name.is_empty());
        let name = name.map(str::to_owned).or(from_environment).unwrap_or_else(|| NAME.to_owned());
        let run_dir = std::env::var_os(RUN_DIR_VARIABLE).filter(|dir| !dir.is_empty());
        Self::new(name, run_dir.map_or_else(|| PathBuf::from(RUN_DIR), PathBuf::from))
    }

    pub fn new(name: String, run_dir: PathBuf) -> Result<Place> {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(legal) {
            bail!("`{name}` cannot be an engine's name: use letters, digits, `-`, `_` and `.`");
        }
        let run_dir = std::path::absolute(&run_dir).with_context(|| format!("cannot use {}", run_dir.display()))?;
        let place = Place { name, run_dir };
        let longest = place.session_socket();
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            bail!("{} is too long for a socket's path: choose a shorter {RUN_DIR_VARIABLE} or name", longest.display());
        }
        Ok(place)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The command that starts this engine, for sentences that recommend it.
    pub fn up(&self) -> String {
        if self.name == NAME { "persona up".to_owned() } else { format!("persona up --name {}", self.name) }
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub fn dir(&self) -> PathBuf {
        self.run_dir.join(&self.name)
    }

    /// Where processes attach.
    pub fn session_socket(&self) -> PathBuf {
        self.dir().join("session.sock")
    }

    /// Where the command asks.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir().join("admin.sock")
    }

    /// Holds the keeper's number; the keeper has it locked as long as it lives.
    pub fn pid_file(&self) -> PathBuf {
        self.dir().join("keeper.pid")
    }

    /// What keeper and engine log when they run in the background.
    pub fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", ".hidden", "a b", "\0"] {
            assert!(Place::new(name.to_owned(), "/run/persona".into()).is_err(), "{name:?}");
        }
        let place = Place::new("web-1.test_2".to_owned(), "/run/persona".into()).unwrap();
        assert_eq!(place.session_socket(), Path::new("/run/persona/web-1.test_2/session.sock"));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let error = Place::new("x".to_owned(), PathBuf::from(format!("/{}", "d".repeat(100)))).unwrap_err();
        assert!(error.to_string().contains("too long for a socket's path"), "{error}");
    }
}
