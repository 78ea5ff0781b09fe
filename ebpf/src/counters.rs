//! What became of the frames that the programs saw: one reason each (`programs/maps.h`).

/// In the order of the C enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    Passed,
    PassedTruncated,
    PassedMalformed,
    PassedReleased,
    DivertedFlow,
    DivertedListener,
    DivertedAddress,
    DivertedIcmpError,
    DivertedNeighbour,
    DroppedFragment,
    DroppedHeld,
    DroppedNoSocket,
}

impl Reason {
    pub const ALL: [Self; 12] = [
        Self::Passed,
        Self::PassedTruncated,
        Self::PassedMalformed,
        Self::PassedReleased,
        Self::DivertedFlow,
        Self::DivertedListener,
        Self::DivertedAddress,
        Self::DivertedIcmpError,
        Self::DivertedNeighbour,
        Self::DroppedFragment,
        Self::DroppedHeld,
        Self::DroppedNoSocket,
    ];

    /// The counter's name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "Passed",
            Self::PassedTruncated => "PassedTruncated",
            Self::PassedMalformed => "PassedMalformed",
            Self::PassedReleased => "PassedReleased",
            Self::DivertedFlow => "DivertedFlow",
            Self::DivertedListener => "DivertedListener",
            Self::DivertedAddress => "DivertedAddress",
            Self::DivertedIcmpError => "DivertedIcmpError",
            Self::DivertedNeighbour => "DivertedNeighbour",
            Self::DroppedFragment => "DroppedFragment",
            Self::DroppedHeld => "DroppedHeld",
            Self::DroppedNoSocket => "DroppedNoSocket",
        }
    }
}

/// Frames by [`Reason`], summed over all CPUs, since the object was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub(crate) [u64; Reason::ALL.len()]);

impl Counters {
    pub const fn frames(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.frames(reason)))
    }

    /// Frames since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(earlier.0[i])))
    }
}
