//! SYN cookies: when no half-open record is left, what it would hold travels in the SYN,ACK and comes back with the ACK
//! (RFC 4987 section 3.6). The MSS is in the sequence number; scale and SACK are in the low bits of the timestamp.

use crate::flow::{Flow, Secrets};
use crate::time::Instant;
use crate::wire::TcpOptions;

/// MSS values that a cookie can name, ascending; the one at or below the peer's is taken. They are those that paths
/// have: minimum, default, PPPoE with and without timestamps, Ethernet, jumbo.
const MSS_TABLE: [u16; 8] = [216, 536, 1024, 1300, 1440, 1452, 1460, 8960];
const MSS_BITS: u32 = 3;
/// Length of the period after which a cookie of the one before last is void. Microseconds.
const PERIOD: u64 = 64_000_000;
/// Low bits of the timestamp that carry options.
const STAMP_BITS: u32 = 6;
const STAMP_SCALE: u32 = 0xf;
const STAMP_SACK: u32 = 1 << 4;
const STAMP_ECN: u32 = 1 << 5;

/// What a valid cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Baked {
    pub(crate) mss: u16,
}

/// The initial sequence number of a SYN,ACK for a SYN with number `irs` and an MSS of `mss`.
pub(crate) fn bake(secrets: &Secrets, flow: &Flow, irs: u32, mss: u16, now: Instant) -> u32 {
    let place = MSS_TABLE.iter().rposition(|known| *known <= mss).unwrap_or(0) as u32;
    seal(secrets, flow, irs, period(now), place)
}

/// Reads the cookie back from the number that an ACK acknowledges, less one.
pub(crate) fn check(secrets: &Secrets, flow: &Flow, irs: u32, cookie: u32, now: Instant) -> Option<Baked> {
    let place = cookie & ((1 << MSS_BITS) - 1);
    let current = period(now);
    let valid =
        [current, current.wrapping_sub(1)].into_iter().any(|count| seal(secrets, flow, irs, count, place) == cookie);
    valid.then(|| Baked { mss: MSS_TABLE[place as usize] })
}

fn period(now: Instant) -> u32 {
    (now.as_micros() / PERIOD) as u32
}

/// 29 bits of authentication, 3 bits of MSS.
fn seal(secrets: &Secrets, flow: &Flow, irs: u32, count: u32, place: u32) -> u32 {
    secrets.cookie(flow, irs, count, place) << MSS_BITS | place
}

/// What the timestamp of a SYN,ACK brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) ecn: bool,
}

/// Puts the options of a SYN, and whether ECN was agreed on, into the timestamp of its answer; the peer's clock sees one that is a little behind.
pub(crate) fn stamp_options(stamp: u32, options: &TcpOptions, ecn: bool) -> u32 {
    let scale = options.window_scale.map_or(STAMP_SCALE, |scale| u32::from(scale.min(14)));
    let sack = if options.sack_permitted { STAMP_SACK } else { 0 };
    let ecn = if ecn { STAMP_ECN } else { 0 };
    let marked = stamp & !((1 << STAMP_BITS) - 1) | scale | sack | ecn;
    // Never ahead of the clock: the next segment's timestamp must not be behind.
    if marked.wrapping_sub(stamp) as i32 > 0 { marked.wrapping_sub(1 << STAMP_BITS) } else { marked }
}

/// What [`stamp_options`] put into the timestamp which the peer echoes.
pub(crate) fn read_stamp(echo: u32) -> Stamped {
    let scale = echo & STAMP_SCALE;
    Stamped {
        window_scale: (scale != STAMP_SCALE).then_some(scale as u8),
        sack: echo & STAMP_SACK != 0,
        ecn: echo & STAMP_ECN != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow(port: u16) -> Flow {
        Flow { local_port: 80, remote_port: port, ..Flow::default() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    proptest! {
        #[test]
        fn says_what_was_baked(irs: u32, mss in 88u16..9_000, seconds in 100u64..1_000_000, age in 0u64..60) {
            let secrets = Secrets::new(&[3; 32]);
            let cookie = bake(&secrets, &flow(1), irs, mss, at(seconds));
            let baked = check(&secrets, &flow(1), irs, cookie, at(seconds + age)).unwrap();
            prop_assert!(baked.mss <= mss.max(MSS_TABLE[0]));
            prop_assert_eq!(check(&secrets, &flow(1), irs, cookie, at(seconds + 200)), None, "too old");
            prop_assert_eq!(check(&secrets, &flow(2), irs, cookie, at(seconds)), None, "another flow");
            prop_assert_eq!(check(&secrets, &flow(1), irs, cookie ^ 0x100, at(seconds)), None, "altered");
        }

        #[test]
        fn options_survive_in_the_timestamp(stamp: u32, scale in prop::option::of(0u8..15), sack: bool, ecn: bool) {
            let options = TcpOptions { window_scale: scale, sack_permitted: sack, ..TcpOptions::default() };
            let marked = stamp_options(stamp, &options, ecn);
            prop_assert_eq!(read_stamp(marked), Stamped { window_scale: scale, sack, ecn });
            prop_assert!(stamp.wrapping_sub(marked) < 1 << (STAMP_BITS + 1), "a little behind, never ahead");
        }
    }
}
