//! What is counted, under Linux's names. [`Counter`] is also the vocabulary of the trace: whoever counts something of a
//! connection tells the trace in the same breath.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One thing that is counted; the variant's name is the name that Linux's nstat prints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All of them in order of their index.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// The name that nstat prints.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => stringify!($name),)* }
            }
        }
    };
}

counters! {
    TcpActiveOpens, TcpPassiveOpens, TcpAttemptFails, TcpEstabResets,
    TcpInSegs, TcpOutSegs, TcpRetransSegs, TcpInErrs, TcpOutRsts, TcpInCsumErrors,
    TcpExtSyncookiesSent, TcpExtSyncookiesRecv, TcpExtSyncookiesFailed,
    TcpExtEmbryonicRsts, TcpExtOutOfWindowIcmps, TcpExtTW, TcpExtTWRecycled, TcpExtTCPTimeWaitOverflow,
    TcpExtPAWSActive, TcpExtPAWSEstab, TcpExtDelayedACKs, TcpExtDelayedACKLost, TcpExtTCPAckCompressed,
    TcpExtListenOverflows, TcpExtListenDrops, TcpExtTCPReqQFullDoCookies, TcpExtTCPReqQFullDrop,
    TcpExtTCPHPHits, TcpExtTCPPureAcks, TcpExtTCPHPAcks,
    TcpExtTCPRenoRecovery, TcpExtTCPSackRecovery, TcpExtTCPSACKReneging, TcpExtTCPSACKDiscard,
    TcpExtTCPSACKReorder, TcpExtTCPFullUndo, TcpExtTCPPartialUndo, TcpExtTCPDSACKUndo,
    TcpExtTCPLossProbes, TcpExtTCPLossProbeRecovery,
    TcpExtTCPLostRetransmit, TcpExtTCPFastRetrans, TcpExtTCPSlowStartRetrans, TcpExtTCPTimeouts,
    TcpExtTCPDSACKOldSent, TcpExtTCPDSACKOfoSent, TcpExtTCPDSACKRecv,
    TcpExtTCPAbortOnData, TcpExtTCPAbortOnClose, TcpExtTCPAbortOnMemory, TcpExtTCPAbortOnTimeout,
    TcpExtTCPAbortOnLinger, TcpExtTCPAbortFailed,
    TcpExtTCPRcvCollapsed, TcpExtTCPOFOQueue, TcpExtTCPOFODrop, TcpExtTCPOFOMerge, TcpExtTCPRcvQDrop,
    TcpExtTCPChallengeACK, TcpExtTCPSYNChallenge, TcpExtTCPACKSkippedChallenge, TcpExtTCPACKSkippedSeq,
    TcpExtTCPACKSkippedPAWS, TcpExtTCPACKSkippedTimeWait, TcpExtTCPACKSkippedSynRecv,
    TcpExtTCPSpuriousRTOs, TcpExtTCPSpuriousRtxHostQueues,
    TcpExtTCPHystartDelayDetect, TcpExtTCPHystartDelayCwnd,
    TcpExtTCPKeepAlive, TcpExtTCPWinProbe, TcpExtTCPToZeroWindowAdv, TcpExtTCPFromZeroWindowAdv,
    TcpExtTCPWantZeroWindowAdv, TcpExtTCPSynRetrans, TcpExtTCPOrigDataSent, TcpExtTCPDelivered, TcpExtTCPDeliveredCE,
    TcpExtTCPMinTTLDrop, TcpExtTCPDeferAcceptDrop,
    TcpExtTCPMTUPFail, TcpExtTCPMTUPSuccess, TcpExtTCPBacklogDrop,
    /// Segments that the port had no room for, or whose next hop was not known yet; the stack sent them later.
    PersonaTxBusy,
    /// Records of the range pool that were wanted and not there.
    PersonaRangesExhausted,
    /// Records of the sent queues that were wanted and not there: what they would have told apart is one.
    PersonaFlightsExhausted,
    /// Connections that found no control block.
    PersonaConnectionsExhausted,
    /// Segments of data that left with ECT(0) and with ECT(1): classic ECN's traffic and L4S's (RFC 9331).
    PersonaOutECT0Segs, PersonaOutECT1Segs,
    /// Those of the latter that arrived marked, as far as peers told; all are in `TcpExtTCPDeliveredCE`.
    PersonaDeliveredCEECT1,
    /// Connections that agreed on AccECN, and those whose data was to be ECN-capable no longer because feedback cannot be trusted.
    PersonaAccECN, PersonaAccECNDistrusted,
    /// Incoming connections that the host refused because their accept queue was full.
    PersonaIncomingRefused,
}

const COUNT: usize = Counter::ALL.len();

/// All counters, since the arena was formatted. Lies in the arena.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub struct Counters {
    values: [u64; COUNT],
}

impl Counters {
    #[inline]
    pub(crate) fn add(&mut self, counter: Counter, amount: u64) {
        self.values[counter as usize] += amount;
    }

    pub(crate) fn slot(&mut self, counter: Counter) -> &mut u64 {
        &mut self.values[counter as usize]
    }

    pub fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Names and values in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (counter.name(), self.value(*counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_and_names_agree() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
        assert_eq!(Counter::TcpExtTCPTimeouts.name(), "TcpExtTCPTimeouts");
    }
}
