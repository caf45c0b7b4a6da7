/* Segmentation: a superpacket into the segments that the kernel would have made (tcp_gso_segment, __udp_gso_segment). */
#ifndef OVERLAYD_NATIVE_SEGMENT_H
#define OVERLAYD_NATIVE_SEGMENT_H

#include "packet.h"

enum { HEADERS_MAX = 256 }; /* IP and transport headers of a superpacket: 60 + 60, and room for IPv6 extension headers */

struct segment_plan {
    const uint8_t *packet;
    struct ip ip;
    bool udp, partial;  /* partial: the segments' sums are left to the receiver */
    uint16_t transport; /* offset of the TCP or UDP header */
    uint16_t headers;   /* offset of the payload */
    uint16_t size;      /* payload of each segment but the last */
    uint32_t payload, count;
};

/* Plan how to segment a superpacket; false when the virtio-net header does not fit the packet. `ip` is its parsed header. */
static inline bool segment_plan(struct segment_plan *plan, const struct vnet *vnet, const uint8_t *packet, size_t length,
                            const struct ip *ip)
{
    uint8_t kind = vnet->gso_type & (uint8_t)~GSO_ECN;
    plan->udp = kind == GSO_UDP_L4;
    if (!plan->udp && !(kind == GSO_TCPV4 && ip->version == 4) && !(kind == GSO_TCPV6 && ip->version == 6))
        return false;
    uint8_t protocol = plan->udp ? PROTO_UDP : PROTO_TCP;
    if (ip->fragment || vnet->gso_size == 0 || length > PACKET_MAX)
        return false;
    if (ip->protocol == protocol ? vnet->csum_start != ip->header : ip->version == 4 || vnet->csum_start < ip->header)
        return false; /* only IPv6 may have something between its header and the transport's */
    size_t transport = vnet->csum_start;
    if (transport + (plan->udp ? UDP_HEADER : TCP_HEADER) > length)
        return false;
    size_t own = plan->udp ? UDP_HEADER : (size_t)(packet[transport + TCP_DATA_OFFSET] >> 4) * 4;
    if ((!plan->udp && own < TCP_HEADER) || transport + own > length || transport + own > HEADERS_MAX)
        return false;
    plan->partial = false;
    plan->packet = packet;
    plan->ip = *ip;
    plan->transport = (uint16_t)transport;
    plan->headers = (uint16_t)(transport + own);
    plan->size = vnet->gso_size;
    plan->payload = (uint32_t)(length - plan->headers);
    plan->count = plan->payload ? (plan->payload + plan->size - 1) / plan->size : 1;
    return true;
}

static inline const uint8_t *segment_payload(const struct segment_plan *plan, uint32_t index)
{
    return plan->packet + plan->headers + (size_t)index * plan->size;
}

/* Write the headers of segment `index` (below `count`) to `out`, `plan->headers` bytes; returns its payload's length. */
static inline size_t segment_headers(const struct segment_plan *plan, uint32_t index, uint8_t *out)
{
    bool last = index + 1 == plan->count;
    size_t done = (size_t)index * plan->size, payload = last ? plan->payload - done : plan->size;
    size_t length = plan->headers + payload, transport_length = length - plan->transport;
    memcpy(out, plan->packet, plan->headers);
    if (plan->ip.version == 4) {
        put16(out + IP4_LENGTH, (uint32_t)length);
        put16(out + IP4_ID, get16(out + IP4_ID) + index);
        put16(out + IP4_CHECK, 0);
        put_sum(out + IP4_CHECK, (uint16_t)~fold(sum_bytes(out, plan->ip.header, 0)));
    } else {
        put16(out + IP6_LENGTH, (uint32_t)(length - IPV6_HEADER));
    }
    uint8_t *transport = out + plan->transport;
    size_t check = plan->udp ? UDP_CHECK : TCP_CHECK;
    if (plan->udp) {
        put16(transport + UDP_LENGTH, (uint32_t)transport_length);
    } else {
        put32(transport + TCP_SEQUENCE, get32(transport + TCP_SEQUENCE) + (uint32_t)done);
        if (!last)
            transport[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (index)
            transport[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
    }
    uint64_t sum = pseudo_sum(&plan->ip, plan->udp ? PROTO_UDP : PROTO_TCP, transport_length);
    if (plan->partial) {
        put_sum(transport + check, fold(sum));
        return payload;
    }
    put16(transport + check, 0);
    sum = sum_bytes(transport, (size_t)(plan->headers - plan->transport), sum);
    uint16_t folded = (uint16_t)~fold(sum_bytes(segment_payload(plan, index), payload, sum));
    put_sum(transport + check, plan->udp && !folded ? 0xffff : folded);
    return payload;
}

#endif
