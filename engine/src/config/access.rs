//! Who the engine runs as and who may attach to it.

use super::Problem;
use super::file::AccessFile;
use serde::Serialize;

/// A user of the host, looked up when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Who may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Access {
    /// Whoever has a process, as for the host's own sockets.
    #[default]
    Everybody,
    /// Root, these users, and members of these groups.
    Only { uids: Vec<u32>, gids: Vec<u32> },
}

impl Access {
    /// Whether a process with this effective user and these groups (effective and supplementary) may attach.
    pub fn allows(&self, uid: u32, gids: &[u32]) -> bool {
        match self {
            Access::Everybody => true,
            Access::Only { uids, gids: allowed } => {
                uid == 0 || uids.contains(&uid) || gids.iter().any(|gid| allowed.contains(gid))
            }
        }
    }

    /// Mode of the session socket. Its group is `socket_group`; finer distinctions are made by the peer's credentials.
    pub fn socket_mode(&self) -> u32 {
        match self {
            Access::Everybody => 0o666,
            Access::Only { uids, gids } if uids.is_empty() && gids.is_empty() => 0o600,
            Access::Only { uids, gids } if uids.is_empty() && gids.len() == 1 => 0o660,
            Access::Only { .. } => 0o666,
        }
    }

    /// Group that the session socket belongs to where its mode lets a group in.
    pub fn socket_group(&self) -> Option<u32> {
        match self {
            Access::Only { uids, gids } if uids.is_empty() && gids.len() == 1 => Some(gids[0]),
            _ => None,
        }
    }
}

pub(super) fn resolve_access(file: &AccessFile, problems: &mut Vec<Problem>) -> Access {
    let mut uids = Vec::new();
    for (index, user) in file.users.iter().enumerate() {
        match uid_of(&user.0.0) {
            Some(uid) => uids.push(uid),
            None => problems.push(Problem::new(&format!("access.users[{index}]"), no_such("user", &user.0.0))),
        }
    }
    let mut gids = Vec::new();
    for (index, group) in file.groups.iter().enumerate() {
        match gid_of(&group.0.0) {
            Some(gid) => gids.push(gid),
            None => problems.push(Problem::new(&format!("access.groups[{index}]"), no_such("group", &group.0.0))),
        }
    }
    Access::Only { uids, gids }
}

/// The account of a user by name or number.
pub(super) fn resolve_account(user: &str) -> Result<Account, Problem> {
    let found = match user.parse::<u32>() {
        Ok(uid) => nix::unistd::User::from_uid(uid.into()).ok().flatten(),
        Err(_) => nix::unistd::User::from_name(user).ok().flatten(),
    };
    let found = found.ok_or_else(|| Problem::new("user", no_such("user", user)))?;
    Ok(Account { name: found.name, uid: found.uid.as_raw(), gid: found.gid.as_raw() })
}

fn uid_of(user: &str) -> Option<u32> {
    // A number needs no entry in the host's database: containers use such users.
    user.parse().ok().or_else(|| Some(nix::unistd::User::from_name(user).ok()??.uid.as_raw()))
}

fn gid_of(group: &str) -> Option<u32> {
    group.parse().ok().or_else(|| Some(nix::unistd::Group::from_name(group).ok()??.gid.as_raw()))
}

fn no_such(what: &str, name: &str) -> String {
    format!("this host has no {what} `{name}`; create it, or write a number")
}
