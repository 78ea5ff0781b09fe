//! getsockopt() of what only a live connection knows.

use super::Shard;
use super::commands::Outcome;
use super::options::Value;
use super::record::Phase;
use super::sessions::owner_of;
use crate::message::SlotKey;
use persona_channel::layout::REPLY_SIZE;
use std::sync::atomic::Ordering;

impl Shard<'_> {
    pub(crate) fn get_option(&mut self, key: SlotKey, args: &[u64; 6]) -> Outcome {
        let (level, name) = (args[0] as i32, args[1] as i32);
        let room = (args[2] as usize).min(REPLY_SIZE);
        let Some((record, socket)) = self.host.sessions.socket(owner_of(key.session, key.slot)) else {
            return Outcome::Done(-libc::EBADF);
        };
        let value = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => Ok(Value::int(socket.state.error.swap(0, Ordering::AcqRel))),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
                Ok(Value::int(matches!(record.phase, Phase::Listening(_) | Phase::Opening).into()))
            }
            (level, name) => record.settings.value(level, name),
        };
        match value {
            Ok(value) => Outcome::Bytes(value.as_bytes()[..value.as_bytes().len().min(room)].into()),
            Err(errno) => Outcome::Done(-errno),
        }
    }
}
