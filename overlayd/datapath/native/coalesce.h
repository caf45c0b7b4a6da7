/* Coalescing: packets of one flow into a superpacket, as the kernel's GRO does (tcp_gro_receive, udp_gro_receive).
 *
 * 1. add           a packet is added to its flow, or closes it and opens a new one, or passes
 * 2. close         a flow that is full, pushed or ended by a shorter packet is emitted
 * 3. flush         whatever is open is emitted at the end of a batch: what was added is borrowed until then
 */
#ifndef OVERLAYD_NATIVE_COALESCE_H
#define OVERLAYD_NATIVE_COALESCE_H

#include "packet.h"

enum {
    COALESCE_HEADERS = 120, /* bytes of IP and TCP header; a packet with extension headers is not coalesced */
    COALESCE_FLOWS = 32,    /* open at a time */
    COALESCE_SEGMENTS = 128,
    COALESCE_SEGMENTS_UDP = 64, /* UDP_GRO_CNT_MAX, net/ipv4/udp_offload.c */
};

/* What goes to the TUN: iov[0] is left for the virtio-net header. With count > 1, iov[1] is the headers and each other
 * one the payload of a packet, `headers` bytes behind that packet's begin; else iov[1] is the packet itself. All of it is
 * borrowed until the sink returns. */
typedef void coalesce_sink(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers,
                       int owner);

struct coalesce_flow {
    bool udp, push;
    bool first_checked, first_partial; /* a partial sum needs no check: the outer one held */
    int owner;
    uint32_t hash, next_sequence, total, count;
    uint16_t headers, size, next_id;
    const uint8_t *first;
    size_t first_length;
    struct ip ip;
    uint8_t head[COALESCE_HEADERS];
    struct iovec iov[2 + COALESCE_SEGMENTS];
};

struct coalescer {
    bool tcp, udp; /* which protocols are coalesced */
    coalesce_sink *sink;
    void *context;
    unsigned used, oldest;
    struct coalesce_flow flows[COALESCE_FLOWS]; /* the first `used` are open */
};

static inline void coalesce_pass(struct coalescer *coalescer, const uint8_t *packet, size_t length, const struct ip *ip,
                             bool partial, int owner)
{
    struct vnet vnet = partial ? partial_vnet(ip, length) : (struct vnet){0};
    struct iovec iov[2] = {{0}, {(void *)(uintptr_t)packet, length}};
    coalescer->sink(coalescer->context, &vnet, iov, 2, 1, 0, owner);
}

/* Write a flow out and forget it. */
static inline void coalesce_emit(struct coalescer *coalescer, struct coalesce_flow *flow)
{
    if (flow->count == 1) {
        coalesce_pass(coalescer, flow->first, flow->first_length, &flow->ip, flow->first_partial, flow->owner);
    } else {
        uint16_t transport = flow->ip.header;
        size_t check = flow->udp ? UDP_CHECK : TCP_CHECK, rest = flow->total - transport;
        memcpy(flow->head, flow->first, flow->headers);
        if (flow->ip.version == 4) {
            put16(flow->head + IP4_LENGTH, flow->total);
            put16(flow->head + IP4_CHECK, 0);
            put_sum(flow->head + IP4_CHECK, (uint16_t)~fold(sum_bytes(flow->head, transport, 0)));
        } else {
            put16(flow->head + IP6_LENGTH, flow->total - IPV6_HEADER);
        }
        if (flow->udp)
            put16(flow->head + transport + UDP_LENGTH, (uint32_t)rest);
        else if (flow->push)
            flow->head[transport + TCP_FLAGS] |= TCP_PSH;
        put_sum(flow->head + transport + check, fold(pseudo_sum(&flow->ip, flow->ip.protocol, rest)));
        struct vnet vnet = {
            .flags = VNET_NEEDS_CSUM,
            .gso_type = flow->udp ? GSO_UDP_L4 : flow->ip.version == 4 ? GSO_TCPV4 : GSO_TCPV6,
            .hdr_len = flow->headers,
            .gso_size = flow->size,
            .csum_start = transport,
            .csum_offset = (uint16_t)check,
        };
        flow->iov[1] = (struct iovec){flow->head, flow->headers};
        coalescer->sink(coalescer->context, &vnet, flow->iov, (int)(2 + flow->count), flow->count, flow->headers, flow->owner);
    }
    flow->count = 0;
}

/* Forget a flow that was written out: the last one takes its place, which keeps the open ones together. */
static inline void coalesce_close(struct coalescer *coalescer, struct coalesce_flow *flow)
{
    coalesce_emit(coalescer, flow);
    struct coalesce_flow *last = &coalescer->flows[--coalescer->used];
    if (flow != last) {
        size_t used = offsetof(struct coalesce_flow, iov) + (2 + last->count) * sizeof last->iov[0];
        memcpy(flow, last, used);
    }
}

/* Write out everything: the packets that were offered may be overwritten afterwards. */
static inline void coalesce_flush(struct coalescer *coalescer)
{
    for (unsigned index = 0; index < coalescer->used; index++)
        coalesce_emit(coalescer, &coalescer->flows[index]);
    coalescer->used = 0;
}

/* Whether the checksums of IP header and transport are right: nothing else may be coalesced, or corruption is laundered. */
static inline bool coalesce_intact(const uint8_t *packet, size_t length, const struct ip *ip, bool partial)
{
    if (ip->version == 4 && fold(sum_bytes(packet, ip->header, 0)) != 0xffff)
        return false;
    if (partial)
        return true;
    size_t rest = length - ip->header;
    return fold(sum_bytes(packet + ip->header, rest, pseudo_sum(ip, ip->protocol, rest))) == 0xffff;
}

/* Whether a packet continues the flow: all fields but those that segmentation rewrites equal the first packet's. */
static inline bool coalesce_continues(const struct coalesce_flow *flow, const uint8_t *packet, size_t headers, size_t payload)
{
    const uint8_t *first = flow->first;
    unsigned transport = flow->ip.header;
    if (headers != flow->headers || payload > flow->size || flow->total + payload > PACKET_MAX)
        return false;
    if (flow->count >= (flow->udp ? (uint32_t)COALESCE_SEGMENTS_UDP : (uint32_t)COALESCE_SEGMENTS))
        return false;
    if (flow->ip.version == 4) {
        if (packet[IP4_TOS] != first[IP4_TOS] || packet[IP4_FRAGMENT] != first[IP4_FRAGMENT] ||
            packet[IP4_TTL] != first[IP4_TTL])
            return false;
        if (!(get16(packet + IP4_FRAGMENT) & IP4_DF) && get16(packet + IP4_ID) != flow->next_id)
            return false; /* without DF the id identifies fragments */
    } else if (memcmp(packet, first, IP6_LENGTH) != 0 || /* traffic class, flow label */
               packet[IP6_HOP_LIMIT] != first[IP6_HOP_LIMIT]) {
        return false;
    }
    if (flow->udp)
        return true;
    const uint8_t *tcp = packet + transport, *head = first + transport;
    return get32(tcp + TCP_SEQUENCE) == flow->next_sequence &&
           memcmp(tcp + TCP_ACKNOWLEDGMENT, head + TCP_ACKNOWLEDGMENT, TCP_FLAGS - TCP_ACKNOWLEDGMENT) == 0 &&
           memcmp(tcp + TCP_WINDOW, head + TCP_WINDOW, TCP_CHECK - TCP_WINDOW) == 0 &&
           memcmp(tcp + TCP_URGENT, head + TCP_URGENT, headers - transport - TCP_URGENT) == 0; /* and options */
}

/* Add one valid packet of `length` bytes with the parsed header `ip`; it stays borrowed until coalesce_flush. `partial`:
 * is_partial holds, and the peer may leave sums partial. */
static inline void coalesce_add(struct coalescer *coalescer, const uint8_t *packet, size_t length, const struct ip *ip,
                              bool partial, int owner)
{
    bool udp = ip->protocol == PROTO_UDP, tcp = ip->protocol == PROTO_TCP;
    bool unknown = ip->version == 6 && !udp && !tcp && ip->protocol != PROTO_ICMPV6; /* behind extension headers */
    if (!unknown && !(udp ? coalescer->udp : tcp && coalescer->tcp)) {
        coalesce_pass(coalescer, packet, length, ip, partial, owner);
        return;
    }
    if (unknown || ip->fragment || length < (size_t)ip->header + (udp ? UDP_HEADER : TCP_HEADER)) {
        coalesce_flush(coalescer); /* its flow is unknown: flush all to keep the order */
        coalesce_pass(coalescer, packet, length, ip, partial, owner);
        return;
    }
    const uint8_t *transport = packet + ip->header;
    uint64_t mixed = sum_bytes(ip->source, 2u * ip->address, 0) * 31 + get32(transport);
    uint32_t hash = (uint32_t)(mixed ^ mixed >> 32);
    struct coalesce_flow *flow = NULL;
    for (unsigned index = 0; index < coalescer->used && !flow; index++) {
        struct coalesce_flow *one = &coalescer->flows[index];
        if (one->hash == hash && one->udp == udp && one->ip.version == ip->version &&
            memcmp(one->ip.source, ip->source, 2u * ip->address) == 0 &&
            memcmp(one->first + one->ip.header, transport, 4) == 0)
            flow = one;
    }

    size_t own = udp ? UDP_HEADER : (size_t)(transport[TCP_DATA_OFFSET] >> 4) * 4, headers = ip->header + own;
    bool able = ip->version == 6 || ip->header == IPV4_HEADER;
    if (udp)
        able = able && get16(transport + UDP_LENGTH) == length - ip->header && get16(transport + UDP_CHECK) != 0;
    else
        able = able && own >= TCP_HEADER && (transport[TCP_FLAGS] & ~TCP_PSH) == TCP_ACK;
    able = able && headers < length; /* it has a payload */
    size_t payload = able ? length - headers : 0;
    bool push = !udp && (transport[TCP_FLAGS] & TCP_PSH);

    if (flow) {
        bool more = able && coalesce_continues(flow, packet, headers, payload) && coalesce_intact(packet, length, ip, partial);
        if (more && !flow->first_checked)
            more = (flow->first_checked =
                        coalesce_intact(flow->first, flow->first_length, &flow->ip, flow->first_partial));
        if (more) {
            flow->iov[2 + flow->count++] = (struct iovec){(void *)(uintptr_t)(packet + headers), payload};
            flow->total += (uint32_t)payload;
            flow->next_sequence += (uint32_t)payload;
            flow->next_id++;
            flow->push = push;
            if (push || payload < flow->size)
                coalesce_close(coalescer, flow);
            return;
        }
        coalesce_close(coalescer, flow);
    }
    if (!able || push) {
        coalesce_pass(coalescer, packet, length, ip, partial, owner);
        return;
    }
    if (coalescer->used == COALESCE_FLOWS)
        coalesce_close(coalescer, &coalescer->flows[coalescer->oldest++ % COALESCE_FLOWS]);
    flow = &coalescer->flows[coalescer->used++];
    flow->udp = udp;
    flow->push = false;
    flow->first_checked = false;
    flow->first_partial = partial;
    flow->owner = owner;
    flow->hash = hash;
    flow->next_sequence = udp ? 0 : get32(transport + TCP_SEQUENCE) + (uint32_t)payload;
    flow->total = (uint32_t)length;
    flow->count = 1;
    flow->headers = (uint16_t)headers;
    flow->size = (uint16_t)payload;
    flow->next_id = (uint16_t)(get16(packet + IP4_ID) + 1);
    flow->first = packet;
    flow->first_length = length;
    flow->ip = *ip;
    flow->iov[2] = (struct iovec){(void *)(uintptr_t)(packet + headers), payload};
}

#endif
