/* Packets: header fields, checks and checksums. Nothing here calls the kernel or Python: tests and fuzzers drive all of it.
 *
 * 1. parse         the same checks, in the same order, as overlayd/wire/ip.py
 * 2. complete      a checksum that the kernel left to us (VIRTIO_NET_HDR_F_NEEDS_CSUM)
 *
 * Every length is checked where a packet enters (parse_ip, segment_plan, coalesce_add); after that, accesses cannot fail.
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

/* Offsets of header fields, in bytes.
 *
 * IPv4, RFC 791    0 version, header length | 1 TOS | 2 length    | 4 id | 6 flags, fragment offset
 *                  8 TTL | 9 protocol | 10 checksum | 12 source | 16 destination | 20 options
 * IPv6, RFC 8200   0 version, traffic class, flow label | 4 payload length | 6 next header | 7 hop limit
 *                  8 source | 24 destination
 * TCP, RFC 9293    0 ports | 4 sequence | 8 acknowledgment | 12 data offset | 13 flags | 14 window | 16 checksum
 *                  18 urgent pointer | 20 options
 * UDP, RFC 768     0 ports | 4 length | 6 checksum
 */
enum {
    IP4_TOS = 1, IP4_LENGTH = 2, IP4_ID = 4, IP4_FRAGMENT = 6, IP4_TTL = 8, IP4_PROTOCOL = 9, IP4_CHECK = 10,
    IP4_SOURCE = 12, IP4_DESTINATION = 16,
    IP6_TRAFFIC_CLASS = 1, IP6_LENGTH = 4, IP6_NEXT_HEADER = 6, IP6_HOP_LIMIT = 7, IP6_SOURCE = 8, IP6_DESTINATION = 24,
    TCP_SEQUENCE = 4, TCP_ACKNOWLEDGMENT = 8, TCP_DATA_OFFSET = 12, TCP_FLAGS = 13, TCP_WINDOW = 14, TCP_CHECK = 16,
    TCP_URGENT = 18,
    UDP_DESTINATION = 2, UDP_LENGTH = 4, UDP_CHECK = 6,
};
enum { IP4_DF = 0x4000, IP4_OFFSET_OR_MORE = 0x3fff }; /* of IP4_FRAGMENT */
enum { NOT_ECT = 0, ECT_1 = 1, ECT_0 = 2, CE = 3 }; /* RFC 3168 */

/* <linux/virtio_net.h> */
enum { VNET_NEEDS_CSUM = 1 };
enum { GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };

struct vnet { /* native byte order; offsets count from the IP header on a TUN */
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct vnet) == 10, "struct virtio_net_hdr has 10 bytes");

/* The values of core.forward.DropReason, in its order; REASONS gives their names to Python. */
#define FOR_EACH_REASON(X)                                                                                             \
    X(TOO_SHORT, "too_short")                                                                                          \
    X(BAD_VERSION, "bad_version")                                                                                      \
    X(BAD_HEADER_LENGTH, "bad_header_length")                                                                          \
    X(LENGTH_MISMATCH, "length_mismatch")                                                                              \
    X(TOO_LONG, "too_long")                                                                                            \
    X(SOURCE_NOT_OWN, "source_not_own")                                                                                \
    X(NO_LEASE, "no_lease")                                                                                            \
    X(DESTINATION_OWN, "destination_own")                                                                              \
    X(UNKNOWN_PEER, "unknown_peer")                                                                                    \
    X(SPOOFED_SOURCE, "spoofed_source")                                                                                \
    X(DESTINATION_NOT_OWN, "destination_not_own")                                                                      \
    X(TTL_EXPIRED, "ttl_expired")                                                                                      \
    X(CE_NOT_ECT, "ce_not_ect")                                                                                        \
    X(SEND_ERROR, "send_error")                                                                                        \
    X(SEND_BUFFER_FULL, "send_buffer_full")                                                                            \
    X(TUN_ERROR, "tun_error")

#define X(name, text) name,
enum reason { FOR_EACH_REASON(X) REASONS, PASS = REASONS };
#undef X

/* Underlay families, as indices; shared with Python. */
enum family { V4, V6, FAMILIES };

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
        if (get16(packet + IP4_LENGTH) != length)
            return LENGTH_MISMATCH;
        ip->protocol = packet[IP4_PROTOCOL];
        ip->source = packet + IP4_SOURCE;
        ip->destination = packet + IP4_DESTINATION;
        ip->address = 4;
        ip->fragment = (get16(packet + IP4_FRAGMENT) & IP4_OFFSET_OR_MORE) != 0;
        return PASS;
    }
    if (ip->version == 6) {
        if (length < IPV6_HEADER)
            return TOO_SHORT;
        if (get16(packet + IP6_LENGTH) != length - IPV6_HEADER)
            return LENGTH_MISMATCH;
        ip->header = IPV6_HEADER;
        ip->protocol = packet[IP6_NEXT_HEADER];
        ip->source = packet + IP6_SOURCE;
        ip->destination = packet + IP6_DESTINATION;
        ip->address = 16;
        ip->fragment = false;
        return PASS;
    }
    return BAD_VERSION;
}

/* The TTL, or hop limit, of a valid packet. */
static inline uint8_t get_ttl(const uint8_t *packet, const struct ip *ip)
{
    return packet[ip->version == 4 ? IP4_TTL : IP6_HOP_LIMIT];
}

/* The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) for `length` bytes of transport. */
static inline uint64_t pseudo_sum(const struct ip *ip, uint8_t protocol, size_t length)
{
    return sum_bytes(ip->source, 2u * ip->address, 0) + htons(protocol) + htons((uint16_t)length);
}

/* --- explicit congestion notification (RFC 6040) ---------------------------------------------------------------- */

static inline unsigned get_ecn(const uint8_t *packet, const struct ip *ip)
{
    return ip->version == 4 ? packet[IP4_TOS] & 3 : packet[IP6_TRAFFIC_CLASS] >> 4 & 3;
}

static inline void set_ecn(uint8_t *packet, const struct ip *ip, unsigned ecn)
{
    if (ip->version == 6) {
        packet[IP6_TRAFFIC_CLASS] = (uint8_t)((packet[IP6_TRAFFIC_CLASS] & ~0x30) | ecn << 4);
        return;
    }
    uint64_t before = (uint16_t)~get16(packet), check = (uint16_t)~get16(packet + IP4_CHECK);
    packet[IP4_TOS] = (uint8_t)((packet[IP4_TOS] & ~3) | ecn);
    put16(packet + IP4_CHECK, (uint16_t)~fold(check + before + get16(packet))); /* RFC 1624 */
}

/* Merge the outer header's ECN field into the inner one (section 4.2); false when the packet must be dropped. */
static inline bool decapsulate_ecn(uint8_t *packet, const struct ip *ip, unsigned outer)
{
    if (outer == NOT_ECT || outer == ECT_0)
        return true;
    unsigned inner = get_ecn(packet, ip);
    if (outer == CE && inner == NOT_ECT)
        return false; /* the transport ignores marks: loss tells it */
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

/* Offset of the checksum in the transport header; 0 when it is neither TCP nor UDP, or truncated. */
static inline uint16_t check_offset(const struct ip *ip, size_t length)
{
    bool udp = ip->protocol == PROTO_UDP;
    if (ip->fragment || (!udp && ip->protocol != PROTO_TCP) ||
        length < (size_t)ip->header + (udp ? UDP_HEADER : TCP_HEADER))
        return 0;
    return udp ? UDP_CHECK : TCP_CHECK;
}

/* Whether the transport's checksum field holds no more than the pseudo header's sum, as NEEDS_CSUM leaves it. One valid
 * packet in 65536 looks the same; completing its sum does not change it. */
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

#endif
