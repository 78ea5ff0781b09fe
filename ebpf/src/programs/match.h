/* From a subject to a verdict: flow, then listener, then address of our own; otherwise the frame passes. */
#ifndef PERSONA_MATCH_H
#define PERSONA_MATCH_H

#include "maps.h"
#include "parse.h"

enum verdict {
    VERDICT_PASS,
    VERDICT_DIVERT,
    VERDICT_DROP,
};

static __always_inline void count(enum reason reason)
{
    __u32 index = reason;
    __u64 *counter = bpf_map_lookup_elem(&counters, &index);

    if (counter)
        *counter += 1;
}

/* Which of our entries the subject belongs to, as a DIVERTED_ reason; its `passed` when to none. Hits are counted
 * unless `quiet` (a constant): a frame that two programs look at counts once. */
static __always_inline enum reason find(const struct subject *subject, const int quiet)
{
    struct listener_key exact = { .local = subject->key.local, .port = subject->key.local_port };
    int has_ports = subject->kind == SUBJECT_TCP || subject->kind == SUBJECT_FIRST_FRAGMENT ||
                    subject->kind == SUBJECT_ICMP_ERROR;
    struct local_address *address;
    struct listener *listener;

    if (subject->kind == SUBJECT_NONE)
        return subject->passed;

    if (has_ports) {
        struct flow *flow = bpf_map_lookup_elem(&flows, &subject->key);

        if (flow) {
            if (!quiet)
                __sync_fetch_and_add(&flow->hits, 1);
            return DIVERTED_FLOW;
        }
        listener = bpf_map_lookup_elem(&listeners, &exact);
        if (listener) {
            if (!quiet)
                __sync_fetch_and_add(&listener->hits, 1);
            return DIVERTED_LISTENER;
        }
    }

    address = bpf_map_lookup_elem(&addresses, &subject->key.local);
    if (!address)
        return subject->passed;

    /* A wildcard means every address of this host: never a packet that is only forwarded through it. */
    if (has_ports) {
        struct listener_key wildcard = exact;

        if (exact.local.words[0] == 0 && exact.local.words[1] == 0 && exact.local.words[2] == bpf_htonl(0xffff)) {
            wildcard.local.words[3] = 0;
        } else {
            wildcard.local.words[0] = 0;
            wildcard.local.words[1] = 0;
            wildcard.local.words[2] = 0;
            wildcard.local.words[3] = 0;
        }
        listener = bpf_map_lookup_elem(&listeners, &wildcard);
        if (listener) {
            if (!quiet)
                __sync_fetch_and_add(&listener->hits, 1);
            return DIVERTED_LISTENER;
        }
    }

    if (address->mode != ADDRESS_OWN)
        return subject->passed;
    if (!quiet)
        __sync_fetch_and_add(&address->hits, 1);
    return subject->kind == SUBJECT_NEIGHBOUR ? DIVERTED_NEIGHBOUR : DIVERTED_ADDRESS;
}

/* Fragments to an address of our own reach the stack whole, which reassembles them. On a shared address the later ones
 * carry no ports and go to the host, so that the first one must not be ours either. */
static __always_inline int is_fragment_of_shared(const struct subject *subject)
{
    struct local_address *address;

    if (subject->kind != SUBJECT_FIRST_FRAGMENT)
        return 0;
    address = bpf_map_lookup_elem(&addresses, &subject->key.local);
    return !address || address->mode != ADDRESS_OWN;
}

/* What happens to the frame, and why. */
static __always_inline enum verdict judge(const struct subject *subject, enum reason *reason, const int quiet)
{
    __u32 zero = 0;
    __u64 *until;

    *reason = find(subject, quiet);
    if (*reason < DIVERTED_FLOW)
        return VERDICT_PASS;

    until = bpf_map_lookup_elem(&hold_until, &zero);
    if (until && *until) {
        if (bpf_ktime_get_boot_ns() >= *until) {
            *reason = PASSED_RELEASED;
            return VERDICT_PASS;
        }
        *reason = DROPPED_HELD;
        return VERDICT_DROP;
    }

    if (is_fragment_of_shared(subject)) {
        *reason = DROPPED_FRAGMENT;
        return VERDICT_DROP;
    }
    if (subject->kind == SUBJECT_ICMP_ERROR && *reason != DIVERTED_ADDRESS)
        *reason = DIVERTED_ICMP_ERROR;
    return VERDICT_DIVERT;
}

#endif
