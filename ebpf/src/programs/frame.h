/* Reading a frame's bytes in each of the program types, bounds checked.
 *
 * `kind` is a constant in every caller, and everything is inlined: no branch on it remains in the programs.
 */
#ifndef PERSONA_FRAME_H
#define PERSONA_FRAME_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "wire.h"

enum frame_kind {
    FRAME_XDP,
    FRAME_XDP_FRAGS, /* the headers may reach beyond the first buffer */
    FRAME_SKB,
};

struct frame {
    enum frame_kind kind;
    void *ctx;
};

/* No header that we look at begins further in: Ethernet, VLAN tags, IPv6 with extension headers, ICMPv6 with its
 * embedded packet. */
#define OFFSET_MAX 1023

/* Copies `length` (a constant) bytes at `offset`; false when the frame is shorter. */
static __always_inline int frame_read(const struct frame *frame, __u32 offset, void *to, const __u32 length)
{
    if (offset > OFFSET_MAX)
        return 0;
    if (frame->kind == FRAME_SKB)
        return bpf_skb_load_bytes(frame->ctx, offset, to, length) == 0;

    struct xdp_md *xdp = frame->ctx;
    void *data = (void *)(long)xdp->data;
    void *data_end = (void *)(long)xdp->data_end;

    if (data + offset + length <= data_end) {
        __builtin_memcpy(to, data + offset, length);
        return 1;
    }
    if (frame->kind == FRAME_XDP_FRAGS)
        return bpf_xdp_load_bytes(xdp, offset, to, length) == 0;
    return 0;
}

/* The VLAN of a tag that the kernel has taken out of the frame, 0 when there is none. */
static __always_inline __u16 frame_vlan(const struct frame *frame)
{
    struct __sk_buff *skb = frame->ctx;

    if (frame->kind != FRAME_SKB || !skb->vlan_present)
        return 0;
    return skb->vlan_tci & VLAN_ID;
}

#endif
