/* The header fields that the diversion reads, in network order, as they lie on the wire.
 *
 * Not the kernel's own headers: the programs need a handful of fields, and these names are those of the RFCs.
 */
#ifndef PERSONA_WIRE_H
#define PERSONA_WIRE_H

#include <linux/types.h>
#include <bpf/bpf_endian.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100 /* IEEE 802.1Q */
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_QINQ 0x88a8 /* IEEE 802.1ad */

#define ETHERNET_HEADER 14
#define VLAN_TAG 4
#define VLAN_TAGS_MAX 2
#define VLAN_ID 0x0fff

#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_ROUTING 43
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_AUTHENTICATION 51
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_DESTINATION 60
#define PROTOCOL_MOBILITY 135
#define PROTOCOL_HIP 139
#define PROTOCOL_SHIM6 140

struct vlan_tag {
    __be16 control;
    __be16 ethertype;
};

/* RFC 826 for Ethernet and IPv4. */
struct arp {
    __be16 hardware;
    __be16 protocol;
    __u8 hardware_length;
    __u8 protocol_length;
    __be16 operation;
    __u8 sender_mac[6];
    __u8 sender[4];
    __u8 target_mac[6];
    __u8 target[4];
};

struct ipv4 {
    __u8 version_ihl;
    __u8 tos;
    __be16 total_length;
    __be16 id;
    __be16 fragment;
    __u8 ttl;
    __u8 protocol;
    __be16 checksum;
    __be32 source;
    __be32 destination;
};

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff

struct ipv6 {
    __be32 version_class_label;
    __be16 payload_length;
    __u8 next_header;
    __u8 hop_limit;
    __be32 source[4];
    __be32 destination[4];
};

/* How every IPv6 extension header begins. Length excludes the first 8 octets and counts units of 8 (authentication:
 * excludes 8, units of 4). */
struct extension {
    __u8 next_header;
    __u8 length;
};

struct fragment_header {
    __u8 next_header;
    __u8 reserved;
    __be16 offset; /* in units of 8 in the upper 13 bits, bit 0: more fragments */
    __be32 id;
};

#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define EXTENSIONS_MAX 8

struct ports {
    __be16 source;
    __be16 destination;
};

#define TCP_HEADER 20
#define ICMP_HEADER 8

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_NEIGHBOUR_SOLICITATION 135

#endif
