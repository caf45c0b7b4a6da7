/* Fuzz target of the packet functions (overlayd/datapath/native): parsed, completed, segmented, coalesced.
 *
 * Input: what is coalesced (1 byte: bit 0 TCP, bit 1 UDP, bit 2 sums may be partial, bit 3 FIX_SUMS leaves them so), a
 * virtio-net header (10 bytes), then packets until the end:
 *
 *   how     1  the flags below; the upper four bits: so many more packets that continue this one
 *   fill    2  bytes of a pattern behind the given ones: long packets from short inputs
 *   length  1  of the given bytes; then those
 *
 * Held, by oracles of its own (fuzz.h):
 *   parse     says whether a packet is valid
 *   complete  makes the checksum right and changes nothing else
 *   segment   byte for byte the segments that the superpacket stands for
 *   coalesce  each packet comes out once, as it was or in a superpacket that segments into the very same again; those
 *             have right checksums, or ones that may be partial, or corruption was laundered; nothing overtakes within
 *             a flow; what was segmented is coalesced
 */
#include "fuzz.h"
#include "coalesce.h"
#include "packet.h"
#include "segment.h"

enum {
    FIX_LENGTHS = 1,  /* write the lengths of IP and UDP */
    FIX_SUMS = 2,     /* and the checksums */
    CONTINUE = 4,     /* the packet before it again, with the next sequence number and id; the given bytes are pairs of an
                         offset and a value that is added there */
    DAMAGE = 8,       /* add them when all is right */
    PACKETS = 192,    /* at a time; more than COALESCE_SEGMENTS */
    BYTES = 256 << 10 /* of all; more than PACKET_MAX */
};

struct packet {
    uint8_t *bytes, *before; /* as they are borrowed by the coalescer, and as they were */
    size_t length;
    unsigned times; /* that it came out */
};

struct packets {
    unsigned count;
    size_t bytes;
    struct packet all[PACKETS];
};

struct witness { /* of what a coalescer lets out */
    struct packets *packets;
    unsigned supers, out, order[PACKETS];
    size_t length; /* of the last superpacket */
    uint8_t whole[PACKET_MAX];
};

static struct packets offered, segments;
static struct witness witness;
static struct coalescer coalescer;
static bool announced, fix_partial; /* the sender may leave sums partial; it does */

/* --- packets from input ------------------------------------------------------------------------------------------ */

static struct packet *add(struct packets *packets, size_t length)
{
    if (packets->count == PACKETS || packets->bytes + length > BYTES)
        return NULL;
    struct packet *packet = &packets->all[packets->count++];
    /* of its very size, so that the sanitizer sees its end */
    *packet = (struct packet){malloc(length ? length : 1), malloc(length ? length : 1), length, 0};
    HOLD(packet->bytes && packet->before);
    packets->bytes += length;
    return packet;
}

static void drop(struct packets *packets)
{
    for (unsigned index = 0; index < packets->count; index++) {
        free(packets->all[index].bytes);
        free(packets->all[index].before);
    }
    packets->count = 0;
    packets->bytes = 0;
}

/* The offset of TCP or UDP in a packet that holds all of its header there, or 0. */
static unsigned transport_of(const struct packet *packet, struct view *view)
{
    if (!view_of(packet->bytes, packet->length, view) || (view->protocol != PROTO_TCP && view->protocol != PROTO_UDP))
        return 0;
    return view->header + (view->protocol == PROTO_TCP ? 20 : 8) <= packet->length ? view->header : 0;
}

/* The transport's checksum field when all of the sum is left to the receiver. */
static unsigned partial_sum(const struct view *view, size_t length)
{
    return ~checksum(words(view->ends, view->ends_length, view->protocol + length - view->header)) & 0xffffu;
}

static bool looks_partial(const struct packet *packet)
{
    struct view view;
    unsigned transport = transport_of(packet, &view), check = transport + (view.protocol == PROTO_TCP ? 16 : 6);
    if (!transport || (view.version == 4 && read16(packet->bytes + 6) & 0x3fff))
        return false;
    return read16(packet->bytes + check) && read16(packet->bytes + check) == partial_sum(&view, packet->length);
}

static void fix(struct packet *packet, unsigned how)
{
    uint8_t *bytes = packet->bytes;
    struct view view;
    if (how & FIX_LENGTHS && packet->length >= 4 && bytes[0] >> 4 == 4)
        write16(bytes + 2, (unsigned)packet->length);
    else if (how & FIX_LENGTHS && packet->length >= 40)
        write16(bytes + 4, (unsigned)packet->length - 40);
    if (!view_of(bytes, packet->length, &view))
        return;
    if (how & FIX_SUMS && view.version == 4) {
        write16(bytes + 10, 0);
        write16(bytes + 10, checksum(words(bytes, view.header, 0)));
    }
    unsigned transport = transport_of(packet, &view), check = transport + (view.protocol == PROTO_TCP ? 16 : 6);
    if (transport && how & FIX_LENGTHS && view.protocol == PROTO_UDP)
        write16(bytes + transport + 4, (unsigned)packet->length - transport);
    if (transport && how & FIX_SUMS) {
        write16(bytes + check, 0);
        unsigned sum = checksum(transport_words(bytes, packet->length, &view, transport, view.protocol));
        write16(bytes + check, sum || view.protocol == PROTO_TCP ? sum : 0xffff);
        if (fix_partial)
            write16(bytes + check, partial_sum(&view, packet->length));
    }
}

/* Make `packet`, a copy of the one before it, its successor. */
static void advance(struct packet *packet)
{
    struct view view;
    unsigned transport = transport_of(packet, &view);
    uint8_t *bytes = packet->bytes;
    if (transport && view.version == 4)
        write16(bytes + 4, read16(bytes + 4) + 1);
    if (transport && view.protocol == PROTO_TCP) {
        size_t payload = packet->length - transport - (size_t)(bytes[transport + 12] >> 4) * 4;
        put32(bytes + transport + 4, get32(bytes + transport + 4) + (uint32_t)payload);
    }
}

static void read_packets(struct input *in)
{
    while (in->at < in->end) {
        unsigned how = take8(in), fill = take16(in), given = take8(in);
        uint8_t bytes[256];
        given = (unsigned)take(in, bytes, given);
        for (unsigned number = 0; number <= how >> 4; number++) {
            bool copy = offered.count && (number || how & CONTINUE);
            const struct packet *last = offered.count ? &offered.all[offered.count - 1] : NULL;
            struct packet *packet = add(&offered, copy ? last->length : given + fill);
            if (!packet)
                return;
            if (copy) {
                memcpy(packet->bytes, last->bytes, packet->length);
                advance(packet);
            } else {
                memcpy(packet->bytes, bytes, given);
                for (unsigned at = 0; at < fill; at++)
                    packet->bytes[given + at] = (uint8_t)(at * 7 + offered.count);
            }
            if (how & DAMAGE)
                fix(packet, how);
            for (unsigned at = 0; how & CONTINUE && at + 1 < given; at += 2)
                if (bytes[at] < packet->length)
                    packet->bytes[bytes[at]] = (uint8_t)(packet->bytes[bytes[at]] + bytes[at + 1]);
            if (!(how & DAMAGE))
                fix(packet, how);
            memcpy(packet->before, packet->bytes, packet->length);
        }
    }
}

/* --- parse, complete --------------------------------------------------------------------------------------------- */

static bool check_parse(const struct packet *packet, struct ip *ip)
{
    struct view view;
    bool sound = view_of(packet->bytes, packet->length, &view);
    HOLD((parse_ip(packet->bytes, packet->length, ip) == PASS) == sound);
    if (sound) {
        HOLD(ip->version == view.version && ip->protocol == view.protocol && ip->header == view.header);
        HOLD(ip->source == view.ends && ip->destination == view.ends + view.ends_length / 2);
        HOLD(ip->address * 2 == view.ends_length);
        HOLD(ip->fragment == (view.version == 4 && read16(packet->bytes + 6) & 0x3fff));
        HOLD(is_partial(packet->bytes, packet->length, ip) == looks_partial(packet));
    }
    return sound;
}

static void check_complete(const struct packet *packet, const struct vnet *vnet)
{
    size_t start = vnet->csum_start, field = start + vnet->csum_offset, length = packet->length;
    uint8_t *copy = malloc(length ? length : 1);
    HOLD(copy);
    memcpy(copy, packet->bytes, length);
    bool inside = start < length && field + 2 <= length;
    HOLD(complete(copy, length, vnet) == inside);
    for (size_t at = 0; at < length; at++)
        HOLD(copy[at] == packet->bytes[at] || (inside && (at == field || at == field + 1)));
    if (inside && vnet->csum_offset % 2 == 0) /* what stood in the field, the pseudo header's sum, is part of it */
        HOLD(checksum(words(copy + start, length - start, read16(packet->bytes + field))) == 0);
    if (inside && vnet->csum_offset == UDP_CHECK)
        HOLD(copy[field] || copy[field + 1]);
    free(copy);
}

/* --- coalesce -------------------------------------------------------------------------------------------------------- */

static bool intact(uint8_t *bytes, size_t length)
{
    struct view view;
    HOLD(view_of(bytes, length, &view));
    if (view.version == 4 && checksum(words(bytes, view.header, 0)))
        return false;
    if (announced && looks_partial(&(struct packet){bytes, NULL, length, 0}))
        return true;
    return checksum(transport_words(bytes, length, &view, view.header, view.protocol)) == 0;
}

/* Equal in all that matters: an id that DF makes void (RFC 6864), and the two ways to write a checksum of zero. */
static void check_same(const struct packet *packet, uint8_t *again, size_t length)
{
    HOLD(packet->length == length && intact(again, length));
    struct view view;
    view_of(again, length, &view);
    unsigned check = view.header + (view.protocol == PROTO_TCP ? TCP_CHECK : UDP_CHECK);
    for (size_t at = 0; at < length; at++) {
        bool id = view.version == 4 && again[6] & 0x40 && (at == 4 || at == 5);
        bool sum = at - check < 2 || (view.version == 4 && at - 10 < 2);
        HOLD(again[at] == packet->before[at] || id || sum);
    }
}

static unsigned whose(const struct packets *packets, const uint8_t *bytes)
{
    unsigned index = 0;
    while (index < packets->count && packets->all[index].bytes != bytes)
        index++;
    HOLD(index < packets->count);
    return index;
}

static void sink(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers, int owner)
{
    struct witness *seen = context;
    struct packets *packets = seen->packets;
    HOLD(owner == 7 && count >= 1 && seen->out + count <= packets->count);
    if (count == 1) {
        unsigned index = whose(packets, iov[1].iov_base);
        const struct packet *packet = &packets->all[index];
        struct vnet expected = {0};
        struct view own;
        if (announced && looks_partial(packet)) {
            unsigned start = transport_of(packet, &own);
            expected = (struct vnet){VNET_NEEDS_CSUM, 0, 0, 0, (uint16_t)start, own.protocol == PROTO_TCP ? 16 : 6};
        }
        HOLD(iovs == 2 && iov[1].iov_len == packet->length && memcmp(vnet, &expected, sizeof expected) == 0);
        packets->all[index].times++;
        seen->order[seen->out++] = index;
        return;
    }
    HOLD(iovs == (int)count + 2 && iov[1].iov_len == headers);
    seen->length = 0;
    for (int part = 1; part < iovs; part++) {
        HOLD(seen->length + iov[part].iov_len <= PACKET_MAX);
        memcpy(seen->whole + seen->length, iov[part].iov_base, iov[part].iov_len);
        seen->length += iov[part].iov_len;
    }
    struct packet super = {seen->whole, NULL, seen->length, 0};
    struct view view;
    unsigned transport = transport_of(&super, &view), udp = view.protocol == PROTO_UDP;
    HOLD(transport && transport + (udp ? 8u : (seen->whole[transport + 12] >> 4) * 4u) == headers);
    HOLD(count <= (udp ? COALESCE_SEGMENTS_UDP : COALESCE_SEGMENTS));
    HOLD(view.version == 6 || checksum(words(seen->whole, view.header, 0)) == 0);
    HOLD(!udp || read16(seen->whole + transport + 4) == seen->length - transport);
    HOLD(vnet->flags == VNET_NEEDS_CSUM && vnet->hdr_len == headers && vnet->gso_size == iov[2].iov_len);
    HOLD(vnet->gso_type == (udp ? GSO_UDP_L4 : view.version == 4 ? GSO_TCPV4 : GSO_TCPV6));
    HOLD(vnet->csum_start == transport && vnet->csum_offset == (udp ? UDP_CHECK : TCP_CHECK));
    struct ip ip;
    struct segment_plan plan;
    HOLD(parse_ip(seen->whole, seen->length, &ip) == PASS && segment_plan(&plan, vnet, seen->whole, seen->length, &ip));
    HOLD(plan.count == count && plan.headers == headers);
    static uint8_t again[PACKET_MAX];
    for (uint32_t number = 0; number < count; number++) {
        const struct iovec *part = &iov[2 + number];
        unsigned index = whose(packets, (const uint8_t *)part->iov_base - headers);
        struct packet *packet = &packets->all[index];
        HOLD(intact(packet->before, packet->length)); /* or corruption was laundered */
        HOLD(!udp || read16(packet->before + transport + UDP_CHECK)); /* and a packet without a checksum stays without */
        size_t size = segment_headers(&plan, number, again);
        HOLD(size == part->iov_len && size <= vnet->gso_size && (size == vnet->gso_size || number + 1 == count));
        memcpy(again + headers, segment_payload(&plan, number), size);
        check_same(packet, again, headers + size);
        packet->times++;
        seen->order[seen->out++] = index;
    }
    seen->supers++;
    HOLD(complete(seen->whole, seen->length, vnet) && intact(seen->whole, seen->length));
}

/* Of IPv6: hop-by-hop, routing, fragment, ESP, authentication, destination, mobility, HIP, shim6 (IANA's list). */
static bool is_extension(unsigned protocol)
{
    static const unsigned known[] = {0, 43, 44, 50, 51, 60, 135, 139, 140};
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (protocol == known[index])
            return true;
    return false;
}

/* Whether one may not overtake the other. Those of a flow; of fragments, and of what has its transport behind an
 * extension header, it cannot be told whose they are. */
static bool in_order(const struct packet *one, const struct packet *other)
{
    struct view view, second;
    if (!view_of(one->bytes, one->length, &view) || !view_of(other->bytes, other->length, &second))
        return false;
    if (view.version != second.version || memcmp(view.ends, second.ends, view.ends_length) != 0)
        return false;
    if (view.version == 6 && (is_extension(view.protocol) || is_extension(second.protocol)))
        return true;
    if (view.protocol != second.protocol || (view.protocol != PROTO_TCP && view.protocol != PROTO_UDP))
        return false;
    bool told = transport_of(one, &view) && transport_of(other, &second) &&
                (view.version == 6 || !((read16(one->bytes + 6) | read16(other->bytes + 6)) & 0x3fff));
    return !told || memcmp(one->bytes + view.header, other->bytes + second.header, 4) == 0;
}

static void check_coalesce(struct packets *packets, bool tcp, bool udp)
{
    memset(&coalescer, 0xa5, sizeof coalescer); /* nothing of an earlier input may matter */
    coalescer.tcp = tcp;
    coalescer.udp = udp;
    coalescer.sink = sink;
    coalescer.context = &witness;
    coalescer.used = coalescer.oldest = 0;
    witness.packets = packets;
    witness.supers = witness.out = 0;
    unsigned sound = 0;
    for (unsigned index = 0; index < packets->count; index++) {
        struct packet *packet = &packets->all[index];
        struct ip ip;
        if (parse_ip(packet->bytes, packet->length, &ip) == PASS) {
            bool partial = announced && is_partial(packet->bytes, packet->length, &ip);
            coalesce_add(&coalescer, packet->bytes, packet->length, &ip, partial, 7);
            packet->times--; /* owed */
            sound++;
        }
    }
    coalesce_flush(&coalescer);
    HOLD(witness.out == sound && coalescer.used == 0);
    for (unsigned index = 0; index < packets->count; index++) {
        const struct packet *packet = &packets->all[index];
        HOLD(packet->times == 0 && memcmp(packet->bytes, packet->before, packet->length) == 0);
    }
    for (unsigned later = 1; later < sound; later++)
        for (unsigned earlier = 0; earlier < later; earlier++)
            HOLD(witness.order[earlier] < witness.order[later] ||
                 !in_order(&packets->all[witness.order[earlier]], &packets->all[witness.order[later]]));
}

/* --- segment --------------------------------------------------------------------------------------------------------- */

/* Segment `index`, made in the plainest way (tcp_gso_segment, __udp_gso_segment). */
static void segment_by_oracle(const struct packet *super, const struct segment_plan *plan, uint32_t index, uint8_t *out, size_t length)
{
    const unsigned transport = plan->transport;
    struct view view;
    memcpy(out, super->bytes, plan->headers);
    memcpy(out + plan->headers, super->bytes + plan->headers + (size_t)index * plan->size, length - plan->headers);
    if (out[0] >> 4 == 4) {
        write16(out + 2, (unsigned)length);
        write16(out + 4, read16(out + 4) + index);
        write16(out + 10, 0);
        write16(out + 10, checksum(words(out, (out[0] & 15u) * 4, 0)));
    } else {
        write16(out + 4, (unsigned)length - 40);
    }
    if (plan->udp) {
        write16(out + transport + 4, (unsigned)length - transport);
    } else {
        put32(out + transport + 4, get32(out + transport + 4) + index * plan->size);
        out[transport + 13] &= (uint8_t)(index + 1 == plan->count ? 0xff : ~(TCP_FIN | TCP_PSH));
        out[transport + 13] &= (uint8_t)(index ? ~TCP_CWR : 0xff);
    }
    HOLD(view_of(out, length, &view));
    uint8_t *check = out + transport + (plan->udp ? UDP_CHECK : TCP_CHECK);
    write16(check, 0);
    unsigned sum = checksum(transport_words(out, length, &view, transport, plan->udp ? PROTO_UDP : PROTO_TCP));
    write16(check, plan->udp && !sum ? 0xffff : sum);
}

/* Whether its segments are coalesced again: they can be, and the superpacket is correct. */
static bool coalesces_again(const struct packet *super, const struct segment_plan *plan)
{
    struct view view;
    if (transport_of(super, &view) != plan->transport || (view.version == 4 && view.header != 20) || plan->count < 2)
        return false;
    if (plan->udp)
        return view.protocol == PROTO_UDP && plan->count <= COALESCE_SEGMENTS_UDP &&
               read16(super->bytes + plan->transport + 4) == super->length - plan->transport;
    return view.protocol == PROTO_TCP && plan->count <= COALESCE_SEGMENTS &&
           (super->bytes[plan->transport + 13] & ~TCP_PSH) == TCP_ACK;
}

static void check_segment(const struct packet *super, const struct ip *ip, const struct vnet *vnet)
{
    struct segment_plan plan;
    if (!segment_plan(&plan, vnet, super->bytes, super->length, ip))
        return;
    HOLD(plan.count >= 1 && plan.headers <= HEADERS_MAX && plan.headers + (size_t)plan.payload == super->length && plan.size == vnet->gso_size);
    size_t payload = 0;
    for (uint32_t index = 0; index < plan.count; index++) {
        if (index == PACKETS / 2 && plan.count > PACKETS)
            index = plan.count - PACKETS / 2; /* in the middle they are all alike */
        size_t size = index + 1 < plan.count ? plan.size : plan.payload - (size_t)index * plan.size;
        struct packet *packet = add(&segments, plan.headers + size);
        if (!packet)
            break;
        if (plan.transport == ip->header && ip->protocol == (plan.udp ? PROTO_UDP : PROTO_TCP)) {
            plan.partial = true;
            HOLD(segment_headers(&plan, index, packet->bytes) == size);
            plan.partial = false;
            memcpy(packet->bytes + plan.headers, segment_payload(&plan, index), size);
            HOLD(looks_partial(packet));
            struct vnet rest = partial_vnet(&plan.ip, packet->length);
            HOLD(complete(packet->bytes, packet->length, &rest)); /* is checked like one that was segmented so, below */
        } else {
            HOLD(segment_headers(&plan, index, packet->bytes) == size);
            memcpy(packet->bytes + plan.headers, segment_payload(&plan, index), size);
        }
        segment_by_oracle(super, &plan, index, packet->before, packet->length);
        HOLD(memcmp(packet->bytes, packet->before, packet->length) == 0);
        payload += size;
    }
    bool all = segments.count == plan.count;
    HOLD(!all || payload == plan.payload);
    check_coalesce(&segments, true, true);
    if (all && coalesces_again(super, &plan)) {
        HOLD(witness.supers == 1 && witness.out == plan.count && witness.length == super->length);
        struct packet again = {malloc(super->length), super->bytes, super->length, 0};
        HOLD(again.bytes);
        memcpy(again.bytes, witness.whole, super->length);
        check_same(&again, again.bytes, again.length);
        free(again.bytes);
    }
    drop(&segments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    unsigned coalesced = take8(&in);
    announced = coalesced & 4;
    fix_partial = coalesced & 8;
    struct vnet vnet = {take8(&in), take8(&in), 0, 0, 0, 0};
    vnet.hdr_len = take16(&in);
    vnet.gso_size = take16(&in);
    vnet.csum_start = take16(&in);
    vnet.csum_offset = take16(&in);
    read_packets(&in);
    for (unsigned index = 0; index < offered.count; index++) {
        struct ip ip;
        check_complete(&offered.all[index], &vnet);
        if (check_parse(&offered.all[index], &ip) && index < 2) /* one superpacket tells as much as many */
            check_segment(&offered.all[index], &ip, &vnet);
    }
    check_coalesce(&offered, coalesced & 1, coalesced & 2);
    drop(&offered);
    return 0;
}
