/* From the bytes of a frame to the *subject* of the match: whose packet is it, if it is anybody's of ours?
 *
 * Nothing is looked up here. Checksums are not verified: a broken packet of a flow of ours is the stack's to drop.
 */
#ifndef PERSONA_PARSE_H
#define PERSONA_PARSE_H

#include "frame.h"
#include "maps.h"
#include "wire.h"

enum subject_kind {
    SUBJECT_NONE,           /* nothing in it can be ours */
    SUBJECT_TCP,            /* the 4-tuple is known */
    SUBJECT_FIRST_FRAGMENT, /* of a TCP segment; the 4-tuple is known */
    SUBJECT_ICMP_ERROR,     /* the 4-tuple is the embedded packet's, seen from its sender: us */
    SUBJECT_ADDRESS,        /* only `key.local` is known */
    SUBJECT_NEIGHBOUR,      /* somebody asks for the hardware address of `key.local`, or answers us */
};

struct subject {
    enum subject_kind kind;
    enum reason passed; /* why it passes if nothing matches */
    struct flow_key key;
};

static __always_inline void address_from_ipv4(struct address *address, __be32 ipv4)
{
    address->words[0] = 0;
    address->words[1] = 0;
    address->words[2] = bpf_htonl(0xffff);
    address->words[3] = ipv4;
}

static __always_inline void address_from_ipv6(struct address *address, const __be32 *ipv6)
{
    address->words[0] = ipv6[0];
    address->words[1] = ipv6[1];
    address->words[2] = ipv6[2];
    address->words[3] = ipv6[3];
}

static __always_inline int address_equal(const struct address *a, const struct address *b)
{
    return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
           a->words[3] == b->words[3];
}

static __always_inline void passed(struct subject *subject, enum subject_kind kind, enum reason why)
{
    subject->kind = kind;
    subject->passed = why;
}

static __always_inline void parse_arp(const struct frame *frame, __u32 offset, struct subject *subject)
{
    struct arp arp;

    if (!frame_read(frame, offset, &arp, sizeof(arp)))
        return passed(subject, SUBJECT_NONE, PASSED_TRUNCATED);
    if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETHERTYPE_IPV4) || arp.hardware_length != 6 ||
        arp.protocol_length != 4)
        return passed(subject, SUBJECT_NONE, PASSED_MALFORMED);

    __be32 target;
    __builtin_memcpy(&target, arp.target, sizeof(target));
    address_from_ipv4(&subject->key.local, target);
    passed(subject, SUBJECT_NEIGHBOUR, PASSED);
}

/* The ports of a TCP segment or of the embedded one; `received` is false for the latter, which we sent. */
static __always_inline int parse_ports(const struct frame *frame, __u32 offset, struct flow_key *key, int received)
{
    struct ports ports;

    if (!frame_read(frame, offset, &ports, sizeof(ports)))
        return 0;
    key->local_port = received ? ports.destination : ports.source;
    key->remote_port = received ? ports.source : ports.destination;
    return 1;
}

/* A whole TCP segment of `length` bytes (header and payload) at `offset`. */
static __always_inline void parse_tcp(const struct frame *frame, __u32 offset, __u32 length, struct subject *subject)
{
    if (length < TCP_HEADER)
        return passed(subject, SUBJECT_ADDRESS, PASSED_MALFORMED);
    if (!parse_ports(frame, offset, &subject->key, 1))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    passed(subject, SUBJECT_TCP, PASSED);
}

/* The packet that an ICMPv4 error complains about. Its source must be the error's destination, or somebody made it up. */
static __always_inline void parse_embedded_ipv4(const struct frame *frame, __u32 offset, struct subject *subject)
{
    struct ipv4 ip;

    if (!frame_read(frame, offset, &ip, sizeof(ip)))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);

    __u32 header = (ip.version_ihl & 0xf) * 4;
    if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
        return passed(subject, SUBJECT_ADDRESS, PASSED_MALFORMED);

    passed(subject, SUBJECT_ADDRESS, PASSED);
    if (ip.protocol != PROTOCOL_TCP || ip.source != subject->key.local.words[3] ||
        ip.fragment & bpf_htons(IPV4_FRAGMENT_OFFSET))
        return;
    address_from_ipv4(&subject->key.remote, ip.destination);
    if (!parse_ports(frame, offset + header, &subject->key, 0))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    subject->kind = SUBJECT_ICMP_ERROR;
}

static __always_inline void parse_icmp(const struct frame *frame, __u32 offset, struct subject *subject)
{
    __u8 type;

    if (!frame_read(frame, offset, &type, sizeof(type)))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    if (type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM)
        return parse_embedded_ipv4(frame, offset + ICMP_HEADER, subject);
    passed(subject, SUBJECT_ADDRESS, PASSED);
}

static __always_inline void parse_ipv4(const struct frame *frame, __u32 offset, struct subject *subject)
{
    struct ipv4 ip;

    if (!frame_read(frame, offset, &ip, sizeof(ip)))
        return passed(subject, SUBJECT_NONE, PASSED_TRUNCATED);

    __u32 header = (ip.version_ihl & 0xf) * 4;
    __u32 total = bpf_ntohs(ip.total_length);
    /* A merged packet of more than 64 KiB carries 0 (only tc and socket filters see such). */
    if (total == 0 && frame->kind == FRAME_SKB)
        total = 0x10000;
    if (ip.version_ihl >> 4 != 4 || header < sizeof(ip) || total < header)
        return passed(subject, SUBJECT_NONE, PASSED_MALFORMED);

    address_from_ipv4(&subject->key.local, ip.destination);
    address_from_ipv4(&subject->key.remote, ip.source);
    passed(subject, SUBJECT_ADDRESS, PASSED);

    offset += header;
    if (ip.fragment & bpf_htons(IPV4_FRAGMENT_OFFSET))
        return;
    if (ip.fragment & bpf_htons(IPV4_MORE_FRAGMENTS)) {
        if (ip.protocol == PROTOCOL_TCP && parse_ports(frame, offset, &subject->key, 1))
            subject->kind = SUBJECT_FIRST_FRAGMENT;
        return;
    }
    if (ip.protocol == PROTOCOL_TCP)
        parse_tcp(frame, offset, total - header, subject);
    else if (ip.protocol == PROTOCOL_ICMP)
        parse_icmp(frame, offset, subject);
}

/* As parse_embedded_ipv4. We send no extension headers, so a packet with some is not ours. */
static __always_inline void parse_embedded_ipv6(const struct frame *frame, __u32 offset, struct subject *subject)
{
    struct ipv6 ip;
    struct address source;

    if (!frame_read(frame, offset, &ip, sizeof(ip)))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    if (bpf_ntohl(ip.version_class_label) >> 28 != 6)
        return passed(subject, SUBJECT_ADDRESS, PASSED_MALFORMED);

    passed(subject, SUBJECT_ADDRESS, PASSED);
    address_from_ipv6(&source, ip.source);
    if (ip.next_header != PROTOCOL_TCP || !address_equal(&source, &subject->key.local))
        return;
    address_from_ipv6(&subject->key.remote, ip.destination);
    if (!parse_ports(frame, offset + sizeof(ip), &subject->key, 0))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    subject->kind = SUBJECT_ICMP_ERROR;
}

static __always_inline void parse_icmpv6(const struct frame *frame, __u32 offset, struct subject *subject)
{
    __u8 type;

    if (!frame_read(frame, offset, &type, sizeof(type)))
        return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
    if (type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM)
        return parse_embedded_ipv6(frame, offset + ICMP_HEADER, subject);

    passed(subject, SUBJECT_ADDRESS, PASSED);
    /* Solicitations go to a multicast group: the target says whom they are for. RFC 4861 section 4.3. */
    if (type == ICMPV6_NEIGHBOUR_SOLICITATION) {
        __be32 target[4];

        if (!frame_read(frame, offset + ICMP_HEADER, target, sizeof(target)))
            return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
        address_from_ipv6(&subject->key.local, target);
        subject->kind = SUBJECT_NEIGHBOUR;
    }
}

static __always_inline int is_extension(__u8 protocol)
{
    return protocol == PROTOCOL_HOP_BY_HOP || protocol == PROTOCOL_ROUTING || protocol == PROTOCOL_DESTINATION ||
           protocol == PROTOCOL_AUTHENTICATION || protocol == PROTOCOL_MOBILITY || protocol == PROTOCOL_HIP ||
           protocol == PROTOCOL_SHIM6;
}

static __always_inline void parse_ipv6(const struct frame *frame, __u32 offset, struct subject *subject)
{
    struct ipv6 ip;

    if (!frame_read(frame, offset, &ip, sizeof(ip)))
        return passed(subject, SUBJECT_NONE, PASSED_TRUNCATED);
    if (bpf_ntohl(ip.version_class_label) >> 28 != 6)
        return passed(subject, SUBJECT_NONE, PASSED_MALFORMED);

    address_from_ipv6(&subject->key.local, ip.destination);
    address_from_ipv6(&subject->key.remote, ip.source);

    __u32 end = offset + sizeof(ip) + bpf_ntohs(ip.payload_length);
    /* As for IPv4: a merged packet of more than 64 KiB, or a jumbogram. */
    if (ip.payload_length == 0 && frame->kind == FRAME_SKB)
        end = offset + 0x10000;
    __u8 protocol = ip.next_header;
    int first_fragment = 0;

    offset += sizeof(ip);
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        if (protocol == PROTOCOL_FRAGMENT) {
            struct fragment_header fragment;

            if (!frame_read(frame, offset, &fragment, sizeof(fragment)))
                return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
            if (fragment.offset & bpf_htons(IPV6_FRAGMENT_OFFSET))
                return passed(subject, SUBJECT_ADDRESS, PASSED);
            /* RFC 6946: a fragment that is the whole packet is treated as one without the header. */
            if (fragment.offset & bpf_htons(IPV6_MORE_FRAGMENTS))
                first_fragment = 1;
            protocol = fragment.next_header;
            offset += sizeof(fragment);
        } else if (is_extension(protocol)) {
            struct extension extension;

            if (!frame_read(frame, offset, &extension, sizeof(extension)))
                return passed(subject, SUBJECT_ADDRESS, PASSED_TRUNCATED);
            if (protocol == PROTOCOL_AUTHENTICATION)
                offset += (extension.length + 2) * 4;
            else
                offset += (extension.length + 1) * 8;
            protocol = extension.next_header;
        } else {
            break;
        }
    }
    /* More of them than anybody sends for a good reason. */
    if (protocol == PROTOCOL_FRAGMENT || is_extension(protocol))
        return passed(subject, SUBJECT_ADDRESS, PASSED_MALFORMED);

    passed(subject, SUBJECT_ADDRESS, PASSED);
    if (first_fragment) {
        if (protocol == PROTOCOL_TCP && parse_ports(frame, offset, &subject->key, 1))
            subject->kind = SUBJECT_FIRST_FRAGMENT;
    } else if (protocol == PROTOCOL_TCP) {
        parse_tcp(frame, offset, end < offset ? 0 : end - offset, subject);
    } else if (protocol == PROTOCOL_ICMPV6) {
        parse_icmpv6(frame, offset, subject);
    }
}

/* The network layer at `offset`: where a port without a link header begins, with the protocol it is told. */
static __always_inline void parse_network(const struct frame *frame, __u32 offset, __u16 ethertype,
                                          struct subject *subject)
{
    if (ethertype == ETHERTYPE_IPV4)
        parse_ipv4(frame, offset, subject);
    else if (ethertype == ETHERTYPE_IPV6)
        parse_ipv6(frame, offset, subject);
    else if (ethertype == ETHERTYPE_ARP)
        parse_arp(frame, offset, subject);
    else
        passed(subject, SUBJECT_NONE, PASSED);
}

/* The VLAN whose frames the engine takes, 0 for none: set when the object is loaded. */
const volatile __u16 vlan = 0;

static __always_inline void parse_ethernet(const struct frame *frame, struct subject *subject)
{
    __u32 offset = ETHERNET_HEADER;
    __be16 ethertype;
    /* The kernel takes the outer tag out of an skb. */
    __u16 tagged = frame_vlan(frame);

    if (!frame_read(frame, ETHERNET_HEADER - sizeof(ethertype), &ethertype, sizeof(ethertype)))
        return passed(subject, SUBJECT_NONE, PASSED_TRUNCATED);
    for (int i = 0; i < VLAN_TAGS_MAX; i++) {
        struct vlan_tag tag;
        __u16 id;

        if (ethertype != bpf_htons(ETHERTYPE_VLAN) && ethertype != bpf_htons(ETHERTYPE_QINQ))
            break;
        if (!frame_read(frame, offset, &tag, sizeof(tag)))
            return passed(subject, SUBJECT_NONE, PASSED_TRUNCATED);
        id = bpf_ntohs(tag.control) & VLAN_ID;
        if (id)
            tagged = id;
        ethertype = tag.ethertype;
        offset += VLAN_TAG;
    }
    /* Another VLAN is another interface, although its frames come the same way. A tag with priority alone is none. */
    if (tagged != vlan)
        return passed(subject, SUBJECT_NONE, PASSED);
    parse_network(frame, offset, bpf_ntohs(ethertype), subject);
}

#endif
