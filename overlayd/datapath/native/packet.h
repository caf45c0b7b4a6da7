/* Packets: checked, cut and joined. Nothing here calls the kernel or Python, so that tests and fuzzers can drive all of it.
 *
 * 1. parse         the same checks, in the same order, as overlayd/wire/ip.py
 * 2. complete      a checksum that the kernel left to us (VIRTIO_NET_HDR_F_NEEDS_CSUM)
 * 3. cut           a superpacket into the segments that the kernel would have made (tcp_gso_segment, __udp_gso_segment)
 * 4. join          packets of one flow into a superpacket, as the kernel's GRO does (tcp_gro_receive, udp_gro_receive)
 *
 * Every length is checked where a packet enters (parse, cut_plan, join_offer); behind that, accesses cannot fail.
 */
#ifndef OVERLAYD_NATIVE_PACKET_H
#define OVERLAYD_NATIVE_PACKET_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "checksum.h"

/* --- constants of the specifications ---------------------------------------------------------------------------- */

enum { IPV4_HEADER = 20, IPV6_HEADER = 40, TCP_HEADER = 20, UDP_HEADER = 8, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58 };
enum { PACKET_MAX = 65535 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_CWR = 0x80 };
enum { TCP_CHECK = 16, UDP_CHECK = 6 }; /* offsets of the checksum field */
enum { NOT_ECT = 0, ECT_1 = 1, ECT_0 = 2, CE = 3 }; /* RFC 3168 */

/* <linux/virtio_net.h> */
enum { VNET_NEEDS_CSUM = 1 };
enum { GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };

struct vnet { /* native byte order; offsets count from the IP header on a TUN */
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct vnet) == 10, "struct virtio_net_hdr has 10 bytes");

/* --- constants of this implementation --------------------------------------------------------------------------- */

enum {
    HEADERS_MAX = 256,  /* IP and transport headers of a packet that is cut: 60 + 60, and room for IPv6 extensions */
    JOIN_HEADERS = 120, /* and of one that is joined, which has no extensions */
    JOIN_FLOWS = 32,    /* open at a time */
    JOIN_SEGMENTS = 128,
    JOIN_SEGMENTS_UDP = 64, /* UDP_GRO_CNT_MAX, net/ipv4/udp_offload.c */
};

/* The values of core.decide.DropReason, in its order; native.REASONS gives their names to Python. */
#define FOR_EACH_REASON(X)                                                                                             \
    X(TOO_SHORT, "too_short")                                                                                          \
    X(BAD_VERSION, "bad_version")                                                                                      \
    X(BAD_HEADER_LENGTH, "bad_header_length")                                                                          \
    X(LENGTH_MISMATCH, "length_mismatch")                                                                              \
    X(TOO_LONG, "too_long")                                                                                            \
    X(SOURCE_NOT_OWN, "source_not_own")                                                                                \
    X(NO_LEASE, "no_lease")                                                                                            \
    X(DESTINATION_OWN, "destination_own")                                                                              \
    X(UNKNOWN_PEER, "unknown_peer")                                                                                            \
    X(SPOOFED_SOURCE, "spoofed_source")                                                                                \
    X(DESTINATION_NOT_OWN, "destination_not_own")                                                                      \
    X(CE_NOT_ECT, "ce_not_ect")                                                                                        \
    X(SEND_ERROR, "send_error")                                                                                        \
    X(SEND_BUFFER_FULL, "send_buffer_full")                                                                            \
    X(TUN_ERROR, "tun_error")

#define X(name, text) name,
enum reason { FOR_EACH_REASON(X) REASONS, PASS = REASONS };
#undef X

/* --- bytes ------------------------------------------------------------------------------------------------------ */

static inline uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static inline void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

/* --- 1. parse --------------------------------------------------------------------------------------------------- */

struct ip {
    uint8_t version, protocol;
    uint16_t header; /* bytes: options of IPv4 included, extension headers of IPv6 not */
    const uint8_t *source, *destination;
    uint8_t address; /* bytes of an address */
    bool fragment;   /* of IPv4: more follow, or an offset */
};

/* PASS or the reason. `packet` must hold one whole packet and nothing after it. */
static inline enum reason parse_ip(const uint8_t *packet, size_t length, struct ip *ip)
{
    if (length == 0)
        return TOO_SHORT;
    ip->version = packet[0] >> 4;
    if (ip->version == 4) {
        if (length < IPV4_HEADER)
            return TOO_SHORT;
        ip->header = (uint16_t)((packet[0] & 15) * 4);
        if (ip->header < IPV4_HEADER || ip->header > length)
            return BAD_HEADER_LENGTH;
        if (get16(packet + 2) != length)
            return LENGTH_MISMATCH;
        ip->protocol = packet[9];
        ip->source = packet + 12;
        ip->destination = packet + 16;
        ip->address = 4;
        ip->fragment = (get16(packet + 6) & 0x3fff) != 0;
        return PASS;
    }
    if (ip->version == 6) {
        if (length < IPV6_HEADER)
            return TOO_SHORT;
        if (get16(packet + 4) != length - IPV6_HEADER)
            return LENGTH_MISMATCH;
        ip->header = IPV6_HEADER;
        ip->protocol = packet[6];
        ip->source = packet + 8;
        ip->destination = packet + 24;
        ip->address = 16;
        ip->fragment = false;
        return PASS;
    }
    return BAD_VERSION;
}

/* The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) for `length` bytes of transport. */
static inline uint64_t pseudo_sum(const struct ip *ip, uint8_t protocol, size_t length)
{
    return sum_bytes(ip->source, 2u * ip->address, 0) + htons(protocol) + htons((uint16_t)length);
}

/* --- explicit congestion notification (RFC 6040) ---------------------------------------------------------------- */

static inline unsigned get_ecn(const uint8_t *packet, const struct ip *ip)
{
    return ip->version == 4 ? packet[1] & 3 : packet[1] >> 4 & 3;
}

static inline void set_ecn(uint8_t *packet, const struct ip *ip, unsigned ecn)
{
    if (ip->version == 6) {
        packet[1] = (uint8_t)((packet[1] & ~0x30) | ecn << 4);
        return;
    }
    uint64_t before = (uint16_t)~get16(packet), check = (uint16_t)~get16(packet + 10);
    packet[1] = (uint8_t)((packet[1] & ~3) | ecn);
    put16(packet + 10, (uint16_t)~fold(check + before + get16(packet))); /* RFC 1624 */
}

/* What the outer header's ECN field makes of the inner one (section 4.2); false when the packet must be dropped. */
static inline bool decapsulate_ecn(uint8_t *packet, const struct ip *ip, unsigned outer)
{
    if (outer == NOT_ECT || outer == ECT_0)
        return true;
    unsigned inner = get_ecn(packet, ip);
    if (outer == CE && inner == NOT_ECT)
        return false; /* a transport that knows no marks is told by the loss */
    if (outer == CE ? inner != CE : inner == ECT_0)
        set_ecn(packet, ip, outer);
    return true;
}

/* --- 2. complete ------------------------------------------------------------------------------------------------ */

/* Finish the checksum that the kernel left to us; false when its place is outside of the packet. */
static inline bool complete(uint8_t *packet, size_t length, const struct vnet *vnet)
{
    size_t start = vnet->csum_start, field = start + vnet->csum_offset;
    if (field + 2 > length || start >= length)
        return false;
    uint16_t sum = (uint16_t)~fold(sum_bytes(packet + start, length - start, 0));
    put_sum(packet + field, !sum && vnet->csum_offset == UDP_CHECK ? 0xffff : sum); /* a UDP sum of 0 says: none */
    return true;
}

/* The place of the transport's checksum, which counts from there; 0 when it is not TCP or UDP or not all there. */
static inline uint16_t check_offset(const struct ip *ip, size_t length)
{
    bool udp = ip->protocol == PROTO_UDP;
    if (ip->fragment || (!udp && ip->protocol != PROTO_TCP) ||
        length < (size_t)ip->header + (udp ? UDP_HEADER : TCP_HEADER))
        return 0;
    return udp ? UDP_CHECK : TCP_CHECK;
}

/* Whether the transport's checksum field holds no more than the pseudo header's sum, as NEEDS_CSUM leaves it. One sound
 * packet in 65536 looks so, too; to complete its sum does not change it. */
static inline bool is_partial(const uint8_t *packet, size_t length, const struct ip *ip)
{
    uint16_t check = check_offset(ip, length), field;
    if (!check)
        return false;
    memcpy(&field, packet + ip->header + check, sizeof field);
    return field && field == fold(pseudo_sum(ip, ip->protocol, length - ip->header));
}

/* The virtio-net header of a packet whose sum is partial. */
static inline struct vnet partial_vnet(const struct ip *ip, size_t length)
{
    return (struct vnet){
        .flags = VNET_NEEDS_CSUM, .csum_start = ip->header, .csum_offset = check_offset(ip, length)};
}

/* --- 3. cut ----------------------------------------------------------------------------------------------------- */

struct cut {
    const uint8_t *packet;
    struct ip ip;
    bool udp, partial;  /* partial: the segments' sums are left to the receiver */
    uint16_t transport; /* offset of the TCP or UDP header */
    uint16_t headers;   /* offset of the payload */
    uint16_t size;      /* payload of each segment but the last */
    uint32_t payload, count;
};

/* How a superpacket is to be cut; false when the virtio-net header does not fit the packet. `ip` is its parsed header. */
static inline bool cut_plan(struct cut *cut, const struct vnet *vnet, const uint8_t *packet, size_t length,
                            const struct ip *ip)
{
    uint8_t kind = vnet->gso_type & (uint8_t)~GSO_ECN;
    cut->udp = kind == GSO_UDP_L4;
    if (!cut->udp && !(kind == GSO_TCPV4 && ip->version == 4) && !(kind == GSO_TCPV6 && ip->version == 6))
        return false;
    uint8_t protocol = cut->udp ? PROTO_UDP : PROTO_TCP;
    if (ip->fragment || vnet->gso_size == 0 || length > PACKET_MAX)
        return false;
    if (ip->protocol == protocol ? vnet->csum_start != ip->header : ip->version == 4 || vnet->csum_start < ip->header)
        return false; /* only IPv6 may have something between its header and the transport's */
    size_t transport = vnet->csum_start;
    if (transport + (cut->udp ? UDP_HEADER : TCP_HEADER) > length)
        return false;
    size_t own = cut->udp ? UDP_HEADER : (size_t)(packet[transport + 12] >> 4) * 4;
    if ((!cut->udp && own < TCP_HEADER) || transport + own > length || transport + own > HEADERS_MAX)
        return false;
    cut->partial = false;
    cut->packet = packet;
    cut->ip = *ip;
    cut->transport = (uint16_t)transport;
    cut->headers = (uint16_t)(transport + own);
    cut->size = vnet->gso_size;
    cut->payload = (uint32_t)(length - cut->headers);
    cut->count = cut->payload ? (cut->payload + cut->size - 1) / cut->size : 1;
    return true;
}

static inline const uint8_t *cut_payload(const struct cut *cut, uint32_t index)
{
    return cut->packet + cut->headers + (size_t)index * cut->size;
}

/* Write the headers of segment `index` (below `count`) to `out`, `cut->headers` bytes; returns its payload's length. */
static inline size_t cut_headers(const struct cut *cut, uint32_t index, uint8_t *out)
{
    bool last = index + 1 == cut->count;
    size_t done = (size_t)index * cut->size, payload = last ? cut->payload - done : cut->size;
    size_t length = cut->headers + payload, transport_length = length - cut->transport;
    memcpy(out, cut->packet, cut->headers);
    if (cut->ip.version == 4) {
        put16(out + 2, (uint32_t)length);
        put16(out + 4, get16(out + 4) + index);
        put16(out + 10, 0);
        put_sum(out + 10, (uint16_t)~fold(sum_bytes(out, cut->ip.header, 0)));
    } else {
        put16(out + 4, (uint32_t)(length - IPV6_HEADER));
    }
    uint8_t *transport = out + cut->transport;
    size_t check = cut->udp ? UDP_CHECK : TCP_CHECK;
    if (cut->udp) {
        put16(transport + 4, (uint32_t)transport_length);
    } else {
        put32(transport + 4, get32(transport + 4) + (uint32_t)done);
        if (!last)
            transport[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (index)
            transport[13] &= (uint8_t)~TCP_CWR;
    }
    uint64_t sum = pseudo_sum(&cut->ip, cut->udp ? PROTO_UDP : PROTO_TCP, transport_length);
    if (cut->partial) {
        put_sum(transport + check, fold(sum));
        return payload;
    }
    put16(transport + check, 0);
    sum = sum_bytes(transport, (size_t)(cut->headers - cut->transport), sum);
    uint16_t folded = (uint16_t)~fold(sum_bytes(cut_payload(cut, index), payload, sum));
    put_sum(transport + check, cut->udp && !folded ? 0xffff : folded);
    return payload;
}

/* --- 4. join ---------------------------------------------------------------------------------------------------- */

/* What goes to the TUN: iov[0] is left for the virtio-net header. With count > 1, iov[1] is the headers and each other
 * one the payload of a packet, `headers` bytes behind that packet's begin; else iov[1] is the packet itself. All of it is
 * borrowed until the sink returns. */
typedef void join_sink(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers,
                       int owner);

struct join_flow {
    bool udp, push;
    bool first_checked, first_partial; /* a partial sum needs no check: the outer one held */
    int owner;
    uint32_t hash, next_sequence, total, count;
    uint16_t headers, size, next_id;
    const uint8_t *first;
    size_t first_length;
    struct ip ip;
    uint8_t head[JOIN_HEADERS];
    struct iovec iov[2 + JOIN_SEGMENTS];
};

struct joiner {
    bool tcp, udp; /* what is joined */
    join_sink *sink;
    void *context;
    unsigned used, oldest;
    struct join_flow flows[JOIN_FLOWS]; /* the first `used` are open */
};

static inline void join_pass(struct joiner *joiner, const uint8_t *packet, size_t length, const struct ip *ip,
                             bool partial, int owner)
{
    struct vnet vnet = partial ? partial_vnet(ip, length) : (struct vnet){0};
    struct iovec iov[2] = {{0}, {(void *)(uintptr_t)packet, length}};
    joiner->sink(joiner->context, &vnet, iov, 2, 1, 0, owner);
}

/* Write a flow out and forget it. */
static inline void join_emit(struct joiner *joiner, struct join_flow *flow)
{
    if (flow->count == 1) {
        join_pass(joiner, flow->first, flow->first_length, &flow->ip, flow->first_partial, flow->owner);
    } else {
        uint16_t transport = flow->ip.header;
        size_t check = flow->udp ? UDP_CHECK : TCP_CHECK, rest = flow->total - transport;
        memcpy(flow->head, flow->first, flow->headers);
        if (flow->ip.version == 4) {
            put16(flow->head + 2, flow->total);
            put16(flow->head + 10, 0);
            put_sum(flow->head + 10, (uint16_t)~fold(sum_bytes(flow->head, transport, 0)));
        } else {
            put16(flow->head + 4, flow->total - IPV6_HEADER);
        }
        if (flow->udp)
            put16(flow->head + transport + 4, (uint32_t)rest);
        else if (flow->push)
            flow->head[transport + 13] |= TCP_PSH;
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
        joiner->sink(joiner->context, &vnet, flow->iov, (int)(2 + flow->count), flow->count, flow->headers, flow->owner);
    }
    flow->count = 0;
}

/* Forget a flow that was written out: the last one takes its place, which keeps the open ones together. */
static inline void join_close(struct joiner *joiner, struct join_flow *flow)
{
    join_emit(joiner, flow);
    struct join_flow *last = &joiner->flows[--joiner->used];
    if (flow != last) {
        size_t used = offsetof(struct join_flow, iov) + (2 + last->count) * sizeof last->iov[0];
        memcpy(flow, last, used);
    }
}

/* Write out everything: the packets that were offered may be overwritten afterwards. */
static inline void join_flush(struct joiner *joiner)
{
    for (unsigned index = 0; index < joiner->used; index++)
        join_emit(joiner, &joiner->flows[index]);
    joiner->used = 0;
}

/* Whether the checksums of IP header and transport are right: nothing else may be joined, or corruption is laundered. */
static inline bool join_intact(const uint8_t *packet, size_t length, const struct ip *ip, bool partial)
{
    if (ip->version == 4 && fold(sum_bytes(packet, ip->header, 0)) != 0xffff)
        return false;
    if (partial)
        return true;
    size_t rest = length - ip->header;
    return fold(sum_bytes(packet + ip->header, rest, pseudo_sum(ip, ip->protocol, rest))) == 0xffff;
}

/* Whether a packet continues the flow: all fields but those that cutting makes anew are the first packet's. */
static inline bool join_continues(const struct join_flow *flow, const uint8_t *packet, size_t headers, size_t payload)
{
    const uint8_t *first = flow->first;
    unsigned transport = flow->ip.header;
    if (headers != flow->headers || payload > flow->size || flow->total + payload > PACKET_MAX)
        return false;
    if (flow->count >= (flow->udp ? (uint32_t)JOIN_SEGMENTS_UDP : (uint32_t)JOIN_SEGMENTS))
        return false;
    if (flow->ip.version == 4) { /* TOS; flags; TTL */
        if (packet[1] != first[1] || packet[6] != first[6] || packet[8] != first[8])
            return false;
        if (!(packet[6] & 0x40) && get16(packet + 4) != flow->next_id)
            return false; /* without DF the id is what fragments are put together by */
    } else if (memcmp(packet, first, 4) != 0 || packet[7] != first[7]) { /* traffic class, flow label; hop limit */
        return false;
    }
    if (flow->udp)
        return true;
    const uint8_t *tcp = packet + transport, *head = first + transport;
    return get32(tcp + 4) == flow->next_sequence && memcmp(tcp + 8, head + 8, 5) == 0 && /* ack, data offset */
           memcmp(tcp + 14, head + 14, 2) == 0 &&                                        /* window */
           memcmp(tcp + 18, head + 18, headers - transport - 18) == 0;                   /* urgent pointer, options */
}

/* Take one sound packet of `length` bytes with the parsed header `ip`; it stays borrowed until join_flush. `partial`:
 * its sum is what is_partial knows, from a peer that may leave it so. */
static inline void join_offer(struct joiner *joiner, const uint8_t *packet, size_t length, const struct ip *ip,
                              bool partial, int owner)
{
    bool udp = ip->protocol == PROTO_UDP, tcp = ip->protocol == PROTO_TCP;
    bool unknown = ip->version == 6 && !udp && !tcp && ip->protocol != PROTO_ICMPV6; /* behind extension headers */
    if (!unknown && !(udp ? joiner->udp : tcp && joiner->tcp)) {
        join_pass(joiner, packet, length, ip, partial, owner);
        return;
    }
    if (unknown || ip->fragment || length < (size_t)ip->header + (udp ? UDP_HEADER : TCP_HEADER)) {
        join_flush(joiner); /* whose it is cannot be told: keep the order by brute force */
        join_pass(joiner, packet, length, ip, partial, owner);
        return;
    }
    const uint8_t *transport = packet + ip->header;
    uint64_t mixed = sum_bytes(ip->source, 2u * ip->address, 0) * 31 + get32(transport);
    uint32_t hash = (uint32_t)(mixed ^ mixed >> 32);
    struct join_flow *flow = NULL;
    for (unsigned index = 0; index < joiner->used && !flow; index++) {
        struct join_flow *one = &joiner->flows[index];
        if (one->hash == hash && one->udp == udp && one->ip.version == ip->version &&
            memcmp(one->ip.source, ip->source, 2u * ip->address) == 0 &&
            memcmp(one->first + one->ip.header, transport, 4) == 0)
            flow = one;
    }

    size_t own = udp ? UDP_HEADER : (size_t)(transport[12] >> 4) * 4, headers = ip->header + own;
    bool able = ip->version == 6 || ip->header == IPV4_HEADER;
    if (udp)
        able = able && get16(transport + 4) == length - ip->header && get16(transport + UDP_CHECK) != 0;
    else
        able = able && own >= TCP_HEADER && (transport[13] & ~TCP_PSH) == TCP_ACK;
    able = able && headers < length; /* it has a payload */
    size_t payload = able ? length - headers : 0;
    bool push = !udp && (transport[13] & TCP_PSH);

    if (flow) {
        bool more = able && join_continues(flow, packet, headers, payload) && join_intact(packet, length, ip, partial);
        if (more && !flow->first_checked)
            more = (flow->first_checked =
                        join_intact(flow->first, flow->first_length, &flow->ip, flow->first_partial));
        if (more) {
            flow->iov[2 + flow->count++] = (struct iovec){(void *)(uintptr_t)(packet + headers), payload};
            flow->total += (uint32_t)payload;
            flow->next_sequence += (uint32_t)payload;
            flow->next_id++;
            flow->push = push;
            if (push || payload < flow->size)
                join_close(joiner, flow);
            return;
        }
        join_close(joiner, flow);
    }
    if (!able || push) {
        join_pass(joiner, packet, length, ip, partial, owner);
        return;
    }
    if (joiner->used == JOIN_FLOWS)
        join_close(joiner, &joiner->flows[joiner->oldest++ % JOIN_FLOWS]);
    flow = &joiner->flows[joiner->used++];
    flow->udp = udp;
    flow->push = false;
    flow->first_checked = false;
    flow->first_partial = partial;
    flow->owner = owner;
    flow->hash = hash;
    flow->next_sequence = udp ? 0 : get32(transport + 4) + (uint32_t)payload;
    flow->total = (uint32_t)length;
    flow->count = 1;
    flow->headers = (uint16_t)headers;
    flow->size = (uint16_t)payload;
    flow->next_id = (uint16_t)(get16(packet + 4) + 1);
    flow->first = packet;
    flow->first_length = length;
    flow->ip = *ip;
    flow->iov[2] = (struct iovec){(void *)(uintptr_t)(packet + headers), payload};
}

#endif
