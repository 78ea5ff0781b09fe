//! Congestion control: what happened on the path goes in, a window and a pacing rate come out. A controller sees neither the
//! connection nor the clock; what it has to remember lies in [`Memory`].
//!
//! A new controller is one file with an `impl Controller` and one line in [`controllers!`]; docs/congestion-control.md shows how.

mod bbr;
mod cubic;
mod dctcp;
#[cfg(test)]
mod example;
mod hystart;
mod ledbat;
mod newreno;
mod prague;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::time::Instant;

/// The largest window: keeps sums of two windows within 32 bits.
pub(crate) const MAX_CWND: u32 = 1 << 30;

/// What a controller may remember, zero when it starts.
pub(crate) type Memory = [u64; 24];

/// RFC 6928: ten segments, or fewer when they are large.
pub(crate) fn initial_window(mss: u16) -> u32 {
    let mss = u32::from(mss);
    (10 * mss).min((2 * mss).max(14_600))
}

/// What a controller steers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Bytes of payload in a full segment.
    pub(crate) mss: u32,
    /// Smoothed and least round-trip time in microseconds; 0: not known yet.
    pub(crate) srtt: u32,
    pub(crate) min_rtt: u32,
    /// Bytes thought to be in the network.
    pub(crate) in_flight: u32,
    /// Bytes that have arrived, and that were lost, since the connection began to send.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// The peer reports what has arrived out of order.
    pub(crate) sack: bool,
    /// The peer tells marks exactly (AccECN); else [`Ack::marked`] is all that was delivered with an echo.
    pub(crate) accurate: bool,
    /// Where a controller's chance may begin: differs from connection to connection. Whoever sees the connection's
    /// segments can work it out, who sees by their timing what the controller does anyway.
    pub(crate) seed: u32,
    pub(crate) now: Instant,
}

/// What a controller decides. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    /// Bytes per second; 0: as fast as the window lets.
    pub(crate) pacing: u64,
    /// What is to be counted, or done beside; [`Note::None`] when a controller is asked.
    pub(crate) note: Note,
}

/// What a controller tells beside its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    None,
    /// Slow start ended because round trips had grown (Linux's TCPHystartDelayDetect).
    HystartDelay,
    /// What is in flight now was kept small on purpose: its rate says nothing of the path.
    AppLimited,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Bytes that are newly known to have arrived, in order or not; newly thought to be lost.
    pub(crate) delivered: u32,
    pub(crate) lost: u32,
    /// Bytes newly reported as marked with congestion experienced (CE); none as long as ECN is not negotiated.
    pub(crate) marked: u32,
    /// The window kept data back since the last acknowledgement that moved SND.UNA.
    pub(crate) cwnd_limited: bool,
    /// The window may grow: it was what limited sending, and no reduction is under way.
    pub(crate) may_grow: bool,
    /// The connection is in fast recovery or comes out of a timeout.
    pub(crate) in_recovery: bool,
    /// Everything that was in flight when the last round began has been delivered.
    pub(crate) round: bool,
    /// Round-trip time of the segment acknowledged last, in microseconds.
    pub(crate) rtt: Option<u32>,
    pub(crate) rate: Option<RateSample>,
}

/// One sample of the delivery rate (draft-ietf-ccwg-bbr section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateSample {
    /// Bytes delivered in `interval` microseconds.
    pub(crate) delivered: u64,
    pub(crate) interval: u32,
    /// C.delivered when the segment was sent that this is about.
    pub(crate) prior_delivered: u64,
    /// Bytes in flight with that segment, and bytes lost since it was sent.
    pub(crate) sent_in_flight: u32,
    pub(crate) lost: u32,
    /// The application had less to send than the path would have taken.
    pub(crate) app_limited: bool,
}

/// Why the window has to be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Loss,
    /// The retransmission timer expired, for the first time in a row. The window becomes one segment.
    Timeout,
    /// The path marked packets instead of dropping them (RFC 3168); at most once in a round trip.
    Marked,
}

/// What a controller tells of itself: the structures of Linux's TCP_CC_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Details {
    #[default]
    None,
    /// Bytes per second, microseconds, percent.
    Bbr { bandwidth: u64, min_rtt: u32, pacing_gain: u32, cwnd_gain: u32 },
    /// Share of marks in 1,024ths, and bytes marked and acknowledged in this observation window.
    Dctcp { alpha: u32, marked: u32, acked: u32 },
}

/// One way to control congestion.
pub(crate) trait Controller {
    /// The connection begins to send: `window` holds the initial one.
    fn start(&mut self, path: &Path, window: &mut Window) {
        let _ = (path, window);
    }

    fn on_ack(&mut self, path: &Path, ack: &Ack, window: &mut Window);

    /// Congestion was met. Returns ssthresh, which the window is brought down to.
    fn on_congestion(&mut self, path: &Path, cause: Cause, window: &Window) -> u32;

    /// The episode that began with [`Self::on_congestion`] is over.
    fn on_recovered(&mut self, path: &Path, window: &mut Window) {
        let _ = (path, window);
    }

    /// Sending starts again after an idle time: growth counts from now.
    fn on_idle(&mut self, path: &Path, window: &mut Window) {
        let _ = (path, window);
    }

    /// A loss or timeout turned out not to have been one; the window is what it was before.
    fn on_undo(&mut self, path: &Path, window: &mut Window) {
        let _ = (path, window);
    }

    /// What it tells of itself (TCP_CC_INFO).
    fn details(&self) -> Details {
        Details::None
    }

    /// What it is doing, for the trace; its place in [`Self::modes`].
    fn mode(&self, window: &Window) -> u8 {
        u8::from(window.cwnd >= window.ssthresh)
    }

    /// Names of the modes.
    fn modes(&self) -> &'static [&'static str] {
        &["slow_start", "avoidance"]
    }

    /// The clock is another one from now on: what was `from` is `to`.
    fn on_clock(&mut self, from: Instant, to: Instant) {
        let _ = (from, to);
    }
}

/// One line for each controller: name of the variant, Linux's name, type, whether it decides about the window in recovery and
/// after idle times itself, where proportional rate reduction and restart do it otherwise, and whether it answers marks in
/// proportion, so that its packets may be ECT(1) (RFC 9331 section 4.3).
macro_rules! controllers {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $type:ty, $steers:literal, $scalable:literal;)*) => {
        /// Congestion controllers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Congestion { $($(#[$doc])* $kind,)* }

        impl Congestion {
            /// All of them.
            pub const ALL: &'static [Congestion] = &[$(Congestion::$kind,)*];

            /// Linux's name, as TCP_CONGESTION takes it.
            pub const fn name(self) -> &'static str {
                match self { $(Congestion::$kind => $name,)* }
            }

            /// Name of a mode of [`Happening::Window`](crate::Happening::Window).
            pub fn mode_name(self, mode: u8) -> &'static str {
                self.view(&mut Memory::default()).modes().get(usize::from(mode)).copied().unwrap_or("unknown")
            }

            /// Whether it decides about the window in recovery and after idle times itself.
            pub(crate) const fn steers(self) -> bool {
                match self { $(Congestion::$kind => $steers,)* }
            }

            /// Whether it answers marks in proportion, so that its packets may be ECT(1) (RFC 9331 section 4.3).
            pub(crate) const fn scalable(self) -> bool {
                match self { $(Congestion::$kind => $scalable,)* }
            }

            fn view(self, memory: &mut Memory) -> &mut dyn Controller {
                match self { $(Congestion::$kind => view::<$type>(memory),)* }
            }
        }
    };
}

controllers! {
    /// RFC 9438.
    #[default]
    Cubic, "cubic", cubic::Cubic, false, false;
    /// RFC 5681, RFC 6582.
    NewReno, "reno", newreno::NewReno, false, false;
    /// BBRv3, draft-ietf-ccwg-bbr-06.
    Bbr, "bbr", bbr::Bbr, true, false;
    /// RFC 8257.
    Dctcp, "dctcp", dctcp::Dctcp, false, false;
    /// LEDBAT++, draft-irtf-iccrg-ledbat-plus-plus.
    Ledbat, "ledbatpp", ledbat::Ledbat, false, false;
    /// TCP Prague, draft-briscoe-iccrg-prague-congestion-control.
    Prague, "prague", prague::Prague, true, true;
}

impl Congestion {
    /// The controller of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// As the records hold it; what they cannot hold is the default.
    pub(crate) fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

/// Slow start (RFC 5681 section 3.1): one byte for each delivered byte, up to ssthresh. Returns what is left of `delivered`
/// for congestion avoidance.
pub(crate) fn slow_start(window: &mut Window, delivered: u32) -> u32 {
    let room = window.ssthresh.saturating_sub(window.cwnd);
    let used = delivered.min(room);
    window.cwnd = (window.cwnd + used).min(MAX_CWND);
    delivered - used
}

/// A controller begins on fresh memory.
pub(crate) fn start(kind: u8, memory: &mut Memory, path: &Path, window: &mut Window) {
    *memory = Memory::default();
    with(kind, memory, |controller| controller.start(path, window));
}

/// Runs `f` on the controller of kind `kind` whose state is `memory`.
pub(crate) fn with<R>(kind: u8, memory: &mut Memory, f: impl FnOnce(&mut dyn Controller) -> R) -> R {
    f(Congestion::from_byte(kind).view(memory))
}

fn view<T: FromBytes + IntoBytes + KnownLayout + Immutable>(memory: &mut Memory) -> &mut T {
    const { assert!(size_of::<T>() <= size_of::<Memory>() && align_of::<T>() <= 8) };
    match T::mut_from_prefix(memory.as_mut_bytes()) {
        Ok((controller, _)) => controller,
        // Size and alignment were checked above, at compile time.
        Err(_) => unreachable!(),
    }
}

/// What the controllers' tests say of a path.
#[cfg(test)]
mod testing {
    use super::*;

    /// Segments of 1,000 bytes, a round trip of 100 ms, `millis` after the beginning.
    pub(super) fn path(millis: u64) -> Path {
        Path {
            mss: 1_000,
            srtt: 100_000,
            min_rtt: 100_000,
            in_flight: 0,
            delivered: 0,
            lost: 0,
            sack: true,
            accurate: false,
            seed: 1,
            now: Instant::from_micros(millis * 1_000 + 1),
        }
    }

    /// `delivered` bytes arrived, nothing is wrong.
    pub(super) fn ack(delivered: u32) -> Ack {
        Ack {
            delivered,
            lost: 0,
            marked: 0,
            cwnd_limited: true,
            may_grow: true,
            in_recovery: false,
            round: false,
            rtt: None,
            rate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_windows() {
        assert_eq!(initial_window(1460), 14_600);
        assert_eq!(initial_window(536), 5_360);
        assert_eq!(initial_window(8960), 17_920);
    }

    #[test]
    fn slow_start_stops_at_the_threshold() {
        let mut window = Window { cwnd: 10_000, ssthresh: 12_000, pacing: 0, note: Note::None };
        assert_eq!(slow_start(&mut window, 1_000), 0);
        assert_eq!(window.cwnd, 11_000);
        assert_eq!(slow_start(&mut window, 4_000), 3_000);
        assert_eq!(window.cwnd, 12_000);
    }

    #[test]
    fn names_and_bytes() {
        for (place, kind) in Congestion::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
            assert_eq!(Congestion::from_byte(place as u8), *kind);
            assert_eq!(Congestion::by_name(kind.name()), Some(*kind));
        }
        assert_eq!(Congestion::by_name("none such"), None);
        assert_eq!(Congestion::from_byte(255), Congestion::Cubic);
    }
}
