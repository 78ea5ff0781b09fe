/* The diversion: what belongs to the engine goes to its rings, all else to the host, bit for bit.
 *
 * persona_xdp, persona_xdp_frags   AF_XDP ports; the second where frames may span buffers (MTU beyond a page)
 * persona_tc                       packet_mmap ports: the ring has its copy already, the original must not reach the host
 * persona_tc_alive                 the same for kernels without tcx, whose attachment outlives its maker
 * persona_socket                   on the packet socket itself: only what is ours takes room in its ring
 */
#include "match.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* What <linux/pkt_cls.h> and <linux/if_packet.h> call TC_ACT_UNSPEC, TC_ACT_SHOT and PACKET_OUTGOING. */
#define TC_NEXT (-1)
#define TC_DROP 2
#define SENT_BY_HOST 4
#define WHOLE_PACKET 0x7fffffff

static __always_inline int divert_xdp(struct xdp_md *xdp, const enum frame_kind kind)
{
    struct frame frame = { .kind = kind, .ctx = xdp };
    struct subject subject = {};
    enum reason reason;
    enum verdict verdict;
    int action = XDP_PASS;

    parse_ethernet(&frame, &subject);
    verdict = judge(&subject, &reason, 0);
    if (verdict == VERDICT_DROP) {
        action = XDP_DROP;
    } else if (verdict == VERDICT_DIVERT) {
        /* Without a socket the segment is lost, and TCP repeats it; the host would answer it with a reset. */
        action = bpf_redirect_map(&xsks, xdp->rx_queue_index, XDP_DROP);
        if (action != XDP_REDIRECT)
            reason = DROPPED_NO_SOCKET;
    }
    count(reason);
    return action;
}

SEC("xdp")
int persona_xdp(struct xdp_md *xdp)
{
    return divert_xdp(xdp, FRAME_XDP);
}

SEC("xdp.frags")
int persona_xdp_frags(struct xdp_md *xdp)
{
    return divert_xdp(xdp, FRAME_XDP_FRAGS);
}

static __always_inline int drop_original(struct __sk_buff *skb)
{
    struct frame frame = { .kind = FRAME_SKB, .ctx = skb };
    struct subject subject = {};
    enum reason reason;
    enum verdict verdict;

    parse_ethernet(&frame, &subject);
    verdict = judge(&subject, &reason, 0);
    count(reason);
    return verdict == VERDICT_PASS ? TC_NEXT : TC_DROP;
}

SEC("classifier")
int persona_tc(struct __sk_buff *skb)
{
    return drop_original(skb);
}

/* Holds one socket of the keeper's, and loses it when the keeper is gone. */
struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} alive SEC(".maps");

SEC("classifier")
int persona_tc_alive(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct bpf_sock *keeper = bpf_map_lookup_elem(&alive, &zero);

    if (!keeper)
        return TC_NEXT;
    bpf_sk_release(keeper);
    return drop_original(skb);
}

SEC("socket")
int persona_socket(struct __sk_buff *skb)
{
    struct frame frame = { .kind = FRAME_SKB, .ctx = skb };
    struct subject subject = {};
    enum reason reason;

    if (skb->pkt_type == SENT_BY_HOST)
        return 0;
    parse_ethernet(&frame, &subject);
    return judge(&subject, &reason, 1) == VERDICT_DIVERT ? WHOLE_PACKET : 0;
}
