/* The maps of the diversion: their records and what the counters mean.
 *
 * ../keys.rs and ../counters.rs hold the same records for Rust; sizes and order must agree. One loaded object serves
 * one interface. All maps are written by the engine, by descriptor; the programs change hit counts and counters only.
 */
#ifndef PERSONA_MAPS_H
#define PERSONA_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* IPv6 in network order, IPv4 as ::ffff:a.b.c.d: one form for both families. */
struct address {
    __u32 words[4];
};

/* A connected 4-tuple as the engine sees it: `local` is the destination of a received packet. */
struct flow_key {
    struct address local;
    struct address remote;
    __be16 local_port;
    __be16 remote_port;
};

struct flow {
    __u32 shard; /* owner, for display: the arriving queue's shard passes the frame on */
    __u32 reserved;
    __u64 hits;
};

/* The wildcard of a family is its unspecified address: ::ffff:0.0.0.0 or ::. */
struct listener_key {
    struct address local;
    __be16 port;
    __u16 reserved;
};

struct listener {
    __u64 hits;
};

enum address_mode {
    ADDRESS_SHARED = 1, /* the host's too: bounds where wildcard listeners apply */
    ADDRESS_OWN = 2,    /* the engine's alone: everything to it is diverted */
};

struct local_address {
    __u32 mode;
    __u32 reserved;
    __u64 hits;
};

/* What became of a frame; each frame counts once. */
enum reason {
    PASSED,             /* not ours */
    PASSED_TRUNCATED,   /* not ours as far as one can see: the frame ends within a header */
    PASSED_MALFORMED,   /* not ours as far as one can see: a header contradicts itself */
    PASSED_RELEASED,    /* ours, but no engine came back before the deadline */
    DIVERTED_FLOW,
    DIVERTED_LISTENER,
    DIVERTED_ADDRESS,
    DIVERTED_ICMP_ERROR, /* the embedded packet is one of a flow or listener of ours */
    DIVERTED_NEIGHBOUR,  /* ARP or neighbour solicitation for an address of our own */
    DROPPED_FRAGMENT,    /* first fragment of a shared address's flow: refused */
    DROPPED_HELD,        /* ours, while the engine is being restarted */
    DROPPED_NO_SOCKET,   /* ours, but no AF_XDP socket serves the queue it came from */
    REASONS,
};

#define FLOWS_MAX 262144
#define LISTENERS_MAX 16384
#define ADDRESSES_MAX 1024
#define QUEUES_MAX 64

/* Not preallocated: memory follows the number of connections. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, FLOWS_MAX);
    __type(key, struct flow_key);
    __type(value, struct flow);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, LISTENERS_MAX);
    __type(key, struct listener_key);
    __type(value, struct listener);
} listeners SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, ADDRESSES_MAX);
    __type(key, struct address);
    __type(value, struct local_address);
} addresses SEC(".maps");

/* Index: receive queue. An entry vanishes with its socket. */
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, QUEUES_MAX);
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, REASONS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

/* One word, so that a change is atomic. 0: an engine runs. Otherwise a time on CLOCK_BOOTTIME in nanoseconds: what is
 * ours is dropped before it and passed after it (1: passed from now on). */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} hold_until SEC(".maps");

#endif
