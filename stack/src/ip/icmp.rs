//! ICMP: which messages are answered, and what an error means to a transport.

use super::interface::{Interfaces, is_host_address};
use super::limit::Rate;
use crate::frame::PortId;
use crate::wire::icmpv4::unreachable;
use crate::wire::{Icmpv4Repr, Ipv4View, protocol};

/// Errors that we send, for all destinations together; Linux: icmp_msgs_per_sec, icmp_msgs_burst.
pub const ERROR_RATE: Rate = Rate { per_second: 1_000, burst: 50 };
/// Bytes of the offending packet that an error carries: the whole error stays within 576 bytes (RFC 1812 section
/// 4.3.2.3).
pub const MAX_EMBEDDED: usize = 576 - 20 - 8;

/// An error that a router or a host reports. Whoever it concerns has to check first that the embedded segment is one
/// that could have been sent (RFC 5927 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    Unreachable {
        code: u8,
    },
    /// `mtu` is 0 when the router did not say.
    FragmentationNeeded {
        mtu: u16,
    },
    TimeExceeded {
        code: u8,
    },
    ParameterProblem,
}

impl IcmpError {
    /// The errno that Linux reports for it (asm-generic/errno.h).
    pub const fn errno(self) -> u16 {
        const EPROTO: u16 = 71;
        const ENONET: u16 = 64;
        const EMSGSIZE: u16 = 90;
        const ENOPROTOOPT: u16 = 92;
        const EOPNOTSUPP: u16 = 95;
        const ENETUNREACH: u16 = 101;
        const ECONNREFUSED: u16 = 111;
        const EHOSTDOWN: u16 = 112;
        const EHOSTUNREACH: u16 = 113;
        match self {
            Self::Unreachable { code } => match code {
                unreachable::NET
                | unreachable::NET_UNKNOWN
                | unreachable::NET_PROHIBITED
                | unreachable::NET_FOR_TOS => ENETUNREACH,
                unreachable::PROTOCOL => ENOPROTOOPT,
                unreachable::PORT => ECONNREFUSED,
                unreachable::SOURCE_ROUTE_FAILED => EOPNOTSUPP,
                unreachable::HOST_UNKNOWN => EHOSTDOWN,
                unreachable::HOST_ISOLATED => ENONET,
                _ => EHOSTUNREACH,
            },
            Self::FragmentationNeeded { .. } => EMSGSIZE,
            Self::TimeExceeded { .. } => EHOSTUNREACH,
            Self::ParameterProblem => EPROTO,
        }
    }

    /// Whether it ends a request of a peer's (RFC 9293 section 3.9.2.2). An attempt of ours is ended by each, an established
    /// connection by none (RFC 5927 section 5.2, and Linux without IP_RECVERR).
    pub const fn is_hard(self) -> bool {
        match self {
            Self::Unreachable { code } => !matches!(
                code,
                unreachable::NET
                    | unreachable::HOST
                    | unreachable::SOURCE_ROUTE_FAILED
                    | unreachable::NET_FOR_TOS
                    | unreachable::HOST_FOR_TOS
            ),
            Self::ParameterProblem => true,
            Self::FragmentationNeeded { .. } | Self::TimeExceeded { .. } => false,
        }
    }
}

/// What to do with a message whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpAction<'a> {
    /// Send this back.
    Reply(Icmpv4Repr<'a>),
    /// Tell the transport. `embedded` begins with an IP header.
    Error { error: IcmpError, embedded: &'a [u8] },
    /// Nothing: an answer to somebody else's question, or a type without a use.
    Ignore,
}

/// Decides on a message.
pub fn act_on(message: Icmpv4Repr<'_>) -> IcmpAction<'_> {
    let error = |error, embedded| IcmpAction::Error { error, embedded };
    match message {
        Icmpv4Repr::EchoRequest { identifier, sequence, payload } => {
            IcmpAction::Reply(Icmpv4Repr::EchoReply { identifier, sequence, payload })
        }
        Icmpv4Repr::EchoReply { .. } => IcmpAction::Ignore,
        Icmpv4Repr::Unreachable { code, embedded } => error(IcmpError::Unreachable { code }, embedded),
        Icmpv4Repr::FragmentationNeeded { mtu, embedded } => error(IcmpError::FragmentationNeeded { mtu }, embedded),
        Icmpv4Repr::TimeExceeded { code, embedded } => error(IcmpError::TimeExceeded { code }, embedded),
        Icmpv4Repr::ParameterProblem { embedded, .. } => error(IcmpError::ParameterProblem, embedded),
    }
}

/// Whether a packet may be answered with an ICMP error.
// RFC 1122 section 3.2.2: never about an ICMP error, a broadcast, a later fragment, or to an address that is not one
// host's.
pub fn may_answer(interfaces: &Interfaces, port: PortId, header: &Ipv4View<'_>) -> bool {
    let is_query = |kind: &u8| matches!(kind, 0 | 8 | 13 | 14);
    let is_error = header.protocol() == protocol::ICMP && !header.rest().first().is_some_and(is_query);
    header.fragment_offset() == 0
        && is_host_address(header.source())
        && !interfaces.is_broadcast(port, header.source())
        && !interfaces.is_broadcast(port, header.destination())
        && !header.destination().is_multicast()
        && !is_error
}

#[cfg(test)]
mod tests {
    use super::super::interface::tests::{PORT, interfaces};
    use super::*;
    use crate::api::AddressMode;
    use crate::wire::Ipv4Repr;
    use core::net::Ipv4Addr;

    #[test]
    fn errors_mean_what_they_mean_on_linux() {
        let unreachable = |code| IcmpError::Unreachable { code };
        for (error, errno, hard) in [
            (unreachable(0), 101, false),
            (unreachable(1), 113, false),
            (unreachable(2), 92, true),
            (unreachable(3), 111, true),
            (unreachable(5), 95, false),
            (unreachable(6), 101, true),
            (unreachable(7), 112, true),
            (unreachable(8), 64, true),
            (unreachable(9), 101, true),
            (unreachable(10), 113, true),
            (unreachable(11), 101, false),
            (unreachable(12), 113, false),
            (unreachable(13), 113, true),
            (unreachable(15), 113, true),
            (IcmpError::FragmentationNeeded { mtu: 1_400 }, 90, false),
            (IcmpError::TimeExceeded { code: 0 }, 113, false),
            (IcmpError::ParameterProblem, 71, true),
        ] {
            assert_eq!((error.errno(), error.is_hard()), (errno, hard), "{error:?}");
        }
    }

    #[test]
    fn only_an_echo_request_is_replied_to() {
        let request = Icmpv4Repr::EchoRequest { identifier: 1, sequence: 2, payload: b"x" };
        let reply = Icmpv4Repr::EchoReply { identifier: 1, sequence: 2, payload: b"x" };
        assert_eq!(act_on(request), IcmpAction::Reply(reply));
        assert_eq!(act_on(reply), IcmpAction::Ignore);
        let needed = Icmpv4Repr::FragmentationNeeded { mtu: 1_300, embedded: b"ip" };
        let error = IcmpError::FragmentationNeeded { mtu: 1_300 };
        assert_eq!(act_on(needed), IcmpAction::Error { error, embedded: b"ip" });
    }

    #[test]
    fn errors_are_not_answered_with_errors_nor_are_broadcasts_and_fragments() {
        let interfaces = interfaces(AddressMode::Own);
        let good = Ipv4Repr {
            source: Ipv4Addr::new(10, 9, 0, 1),
            destination: Ipv4Addr::new(10, 9, 0, 2),
            protocol: protocol::UDP,
            ttl: 64,
            tos: 0,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: 8,
        };
        let answers = |repr: Ipv4Repr, first: u8| {
            let mut packet = [first; 28];
            repr.emit(&mut packet);
            may_answer(&interfaces, PORT, &Ipv4View::new(&packet).unwrap())
        };
        assert!(answers(good, 0));
        assert!(answers(Ipv4Repr { more_fragments: true, ..good }, 0));
        assert!(!answers(Ipv4Repr { fragment_offset: 8, ..good }, 0));
        for source in [[10, 9, 0, 255], [224, 0, 0, 1], [0, 0, 0, 0], [255, 255, 255, 255]] {
            assert!(!answers(Ipv4Repr { source: source.into(), ..good }, 0));
        }
        for destination in [[10, 9, 0, 255], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(!answers(Ipv4Repr { destination: destination.into(), ..good }, 0));
        }
        let icmp = Ipv4Repr { protocol: protocol::ICMP, ..good };
        assert!(answers(icmp, 8) && !answers(icmp, 3) && !answers(icmp, 11) && !answers(icmp, 12));
    }
}
