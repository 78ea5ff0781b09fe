//! Counters of the IP layer, under Linux's names (`nstat`); what Linux does not count bears `Persona`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// One shard's counters; in the arena, so that they go on after a restart.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct IpCounters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl IpCounters {
            /// Names in the order of [`IpCounters::values`].
            pub const NAMES: &[&str] = &[$($name,)*];

            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                Self::NAMES.iter().copied().zip([$(self.$field,)*])
            }
        }
    };
}

counters! {
    ip_in_receives: "IpInReceives",
    /// Malformed header, bad checksum, impossible length, source routing.
    ip_in_hdr_errors: "IpInHdrErrors",
    /// Not addressed to us.
    ip_in_addr_errors: "IpInAddrErrors",
    ip_in_unknown_protos: "IpInUnknownProtos",
    ip_in_discards: "IpInDiscards",
    ip_in_delivers: "IpInDelivers",
    ip_in_truncated: "IpExtInTruncatedPkts",
    ip_in_csum_errors: "IpExtInCsumErrors",
    /// By ECN codepoint; each segment of a merged train counts, as on Linux.
    ip_in_no_ect: "IpExtInNoECTPkts",
    ip_in_ect1: "IpExtInECT1Pkts",
    ip_in_ect0: "IpExtInECT0Pkts",
    ip_in_ce: "IpExtInCEPkts",
    ip_out_requests: "IpOutRequests",
    ip_out_discards: "IpOutDiscards",
    ip_out_no_routes: "IpOutNoRoutes",
    ip_reasm_timeout: "IpReasmTimeout",
    ip_reasm_reqds: "IpReasmReqds",
    ip_reasm_oks: "IpReasmOKs",
    ip_reasm_fails: "IpReasmFails",
    ip_frag_oks: "IpFragOKs",
    ip_frag_creates: "IpFragCreates",
    icmp_in_msgs: "IcmpInMsgs",
    icmp_in_errors: "IcmpInErrors",
    icmp_in_csum_errors: "IcmpInCsumErrors",
    icmp_in_dest_unreachs: "IcmpInDestUnreachs",
    icmp_in_time_excds: "IcmpInTimeExcds",
    icmp_in_parm_probs: "IcmpInParmProbs",
    icmp_in_echos: "IcmpInEchos",
    icmp_in_echo_reps: "IcmpInEchoReps",
    icmp_out_msgs: "IcmpOutMsgs",
    icmp_out_rate_limited: "IcmpOutRateLimitGlobal",
    icmp_out_dest_unreachs: "IcmpOutDestUnreachs",
    icmp_out_time_excds: "IcmpOutTimeExcds",
    icmp_out_echo_reps: "IcmpOutEchoReps",
    arp_in_requests: "PersonaArpInRequests",
    arp_in_replies: "PersonaArpInReplies",
    arp_in_errors: "PersonaArpInErrors",
    /// Somebody else on the link uses one of our addresses.
    arp_conflicts: "PersonaArpConflicts",
    arp_out_requests: "PersonaArpOutRequests",
    arp_out_replies: "PersonaArpOutReplies",
    /// Next hops that did not answer.
    neighbour_failures: "PersonaNeighbourFailures",
    /// The neighbour table had no room for another next hop.
    neighbour_overflows: "PersonaNeighbourOverflows",
    /// Frames that waited for a neighbour and were given up: it failed, or newer frames took their place.
    held_drops: "PersonaHeldDrops",
    /// Frames for another station, of another VLAN, or with a link header that is cut short.
    link_in_discards: "PersonaLinkInDiscards",
}

#[cfg(test)]
mod tests {
    use super::IpCounters;

    #[test]
    fn every_field_has_its_own_name() {
        assert_eq!(size_of::<IpCounters>(), 8 * IpCounters::NAMES.len());
        let counters = IpCounters { ip_in_receives: 7, link_in_discards: 9, ..IpCounters::default() };
        let mut values = counters.values();
        assert_eq!(values.next(), Some(("IpInReceives", 7)));
        assert_eq!(values.last(), Some(("PersonaLinkInDiscards", 9)));
        for (place, name) in IpCounters::NAMES.iter().enumerate() {
            assert!(!IpCounters::NAMES[..place].contains(name), "{name} twice");
        }
    }
}
