/* The packet engine in C: one call carries one burst, with the GIL released.
 *
 * outbound: read the TUN until it is empty or the burst is full -> check and look up, once for a superpacket -> cut it
 *           -> gather runs (datagrams of one size to one peer) -> sendmmsg with UDP_SEGMENT
 * inbound:  recvmmsg with UDP_GRO -> check and look up every datagram -> join packets of a flow -> write to the TUN
 *
 * Towards peers that are overlayd, too, and have said so (`way`): sums of inner packets stay partial, the outer one holds;
 * the outer ECN field is the inner one's (RFC 6040, normal mode); and where the kernel segments tunnels (Linux 6.17), a
 * superpacket goes whole, with its outer headers, into a TAP from which the kernel forwards it.
 *
 * What is rare and needs an answer goes into a small ring that Python empties after the burst (`Engine.refused`).
 * No memory is allocated in a burst. Docstrings stand in _native.pyi.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sched.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "packet.h"
#include "table.h"

/* --- constants -------------------------------------------------------------------------------------------------- */

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* <linux/udp.h> */
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

/* struct virtio_net_hdr_v1_hash_tunnel, <linux/virtio_net.h> of Linux 6.17 */
enum {
    VNET_TUNNEL = 24,
    VNET_TUNNEL_CSUM = 8,               /* flags */
    GSO_TUNNEL4 = 0x20, GSO_TUNNEL6 = 0x40, /* gso_type */
    VNET_OUTER_TRANSPORT = 20,          /* where two offsets stand, from the begin of the frame */
    VNET_INNER_NETWORK = 22,
    ETHERNET = 14,
};

/* How packets may go to a peer beyond flannel's way; by slot. */
enum way { WAY_PARTIAL = 1, WAY_ECN = 2, WAY_TUNNEL = 4 };

enum {
    UDP_PAYLOAD_MAX = 65507, /* 65535 less IPv4 and UDP headers */
    TUN_GONE = -1,
    ATTENTION = 1 << 20, /* added to a burst's count when `Engine.refused` or `Engine.degraded` has something */

    TX_READS = 64,              /* of the TUN in one burst */
    TX_BYTES = 1 << 20,         /* and no more than this */
    TX_ARENA = 384 << 10,       /* read before a flush; small enough to stay in the second-level cache */
    TX_ALIGN = 64,
    TX_LONE = 16,               /* see `lone` */
    TX_HEADERS = 256 << 10,     /* headers of cut segments before a flush */
    RUNS = 64,                  /* messages in one sendmmsg */
    RUN_SEGMENTS = 128,         /* UDP_MAX_SEGMENTS; 64 before Linux 6.9 */
    RUN_SEGMENTS_OLD = 64,
    RUN_PARTS = 2 * RUN_SEGMENTS,
    TUNNEL_SEGMENTS = 3, /* fewer go through the socket */

    BULK = 32 << 10, /* bytes at once, from which on there are soon more */

    RX_MESSAGES = 64, /* in one recvmmsg */
    RX_FEW = 8,       /* when they are large */
    RX_LARGE = 16 << 10,
    RX_BYTES = 1 << 20, /* in one burst, and no more than */
    RX_BURST = 128,     /* messages */
    RX_BUFFER = 65536,

    POLL_MAX = 1000000, /* ns; busy-polling gives the event loop its turn at least this often */

    RING = 64,         /* packets kept for an answer */
    RING_BYTES = 1280, /* of each: more than any ICMP error quotes */
    JOIN_FAILURES = 16, /* superpackets in a row that the TUN refuses before we stop making them */
};

/* --- structs ---------------------------------------------------------------------------------------------------- */

struct traffic {
    uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
};

struct refused {
    uint8_t direction; /* 0 outbound by decision, 1 inbound by decision, 2 outbound by EMSGSIZE, 3 a peer's word to us */
    int peer;          /* index in the table of that moment; the receiver, or for inbound the sender */
    uint32_t length, kept;
    uint8_t bytes[RING_BYTES];
};

struct run {
    int peer;
    uint32_t size, segments, bytes;
    bool closed; /* by a shorter last one */
    uint8_t ecn; /* of the outer header */
};

struct batch { /* of one socket */
    int socket, family; /* 0 IPv4, 1 IPv6 */
    unsigned count;
    struct mmsghdr messages[RUNS];
    struct run runs[RUNS];
    struct iovec parts[RUNS][RUN_PARTS];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int))];
    } control[RUNS];
};

/* What stands before a superpacket on the TAP: virtio-net header, Ethernet, IP, UDP; all that stays the same filled in. */
struct outer {
    uint8_t bytes[VNET_TUNNEL + ETHERNET + IPV6_HEADER + UDP_HEADER];
    size_t length; /* 0: no address of this family */
};

struct engine {
    int tun;
    bool vnet; /* the TUN has IFF_VNET_HDR */
    bool busy; /* a burst is being carried, the GIL released */
    const struct table *table;

    struct batch batches[2]; /* IPv4, IPv6 underlay */
    int tap;                 /* takes superpackets with their outer headers, or -1 */
    struct outer outers[2];
    int *open_runs;          /* by peer: its run that may grow, or -1 */
    uint32_t run_segments;   /* at most; 1 when GSO is off */
    size_t headers_used;
    uint8_t *arena, *headers;
    unsigned lone; /* bursts in a row of one small packet: a dialogue, where looking for a second one only takes time */
    int64_t poll;  /* ns to look for more after a burst before going back to sleep */

    struct mmsghdr rx_messages[RX_MESSAGES];
    struct iovec rx_parts[RX_MESSAGES];
    struct sockaddr_storage rx_from[RX_MESSAGES];
    union {
        struct cmsghdr header;
        char bytes[2 * CMSG_SPACE(sizeof(int))];
    } rx_control[RX_MESSAGES];
    uint8_t *rx_buffers;
    unsigned rx_batch;
    struct joiner joiner;
    unsigned join_failures;

    struct refused *ring;
    unsigned ring_count;

    struct traffic total, *slots;
    uint8_t *ways; /* enum way; by slot, as the counters */
    int slot_count;
    uint64_t tx_drops[REASONS], rx_drops[REASONS];
    uint64_t unanswered; /* refused packets that found the ring full */
    uint64_t gso_failures, join_refusals, tunnelled;
    int gso_error, join_error, tunnel_error; /* errno of what made us give the offload up, until Python has read it */
};

/* --- helpers ---------------------------------------------------------------------------------------------------- */

static void refuse(struct engine *engine, uint8_t direction, int peer, const struct iovec *parts, size_t count,
                   size_t length)
{
    if (engine->ring_count == RING) {
        engine->unanswered++;
        return;
    }
    struct refused *one = &engine->ring[engine->ring_count++];
    one->direction = direction;
    one->peer = peer;
    one->length = (uint32_t)length;
    one->kept = 0;
    size_t left = length < RING_BYTES ? length : RING_BYTES;
    for (size_t index = 0; index < count && left; index++) {
        size_t bytes = parts[index].iov_len < left ? parts[index].iov_len : left;
        memcpy(one->bytes + one->kept, parts[index].iov_base, bytes);
        one->kept += (uint32_t)bytes;
        left -= bytes;
    }
}

static void count_tx(struct engine *engine, int peer, uint64_t packets, uint64_t bytes)
{
    struct traffic *own = &engine->slots[engine->table->peers[peer].slot];
    engine->total.tx_packets += packets;
    engine->total.tx_bytes += bytes;
    own->tx_packets += packets;
    own->tx_bytes += bytes;
}

static void count_rx(struct engine *engine, int peer, uint64_t packets, uint64_t bytes)
{
    struct traffic *own = &engine->slots[engine->table->peers[peer].slot];
    engine->total.rx_packets += packets;
    engine->total.rx_bytes += bytes;
    own->rx_packets += packets;
    own->rx_bytes += bytes;
}

/* --- outbound: sending ------------------------------------------------------------------------------------------ */

static struct cmsghdr *put_control(struct cmsghdr *at, int level, int type, const void *value, size_t size)
{
    at->cmsg_level = level;
    at->cmsg_type = type;
    at->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(at), value, size);
    return (struct cmsghdr *)(void *)((char *)at + CMSG_SPACE(size));
}

/* What the kernel is told beside the bytes: the size of the segments, the ECN field where it is not 0. */
static void set_control(struct batch *batch, unsigned index, struct msghdr *message, bool segments)
{
    const struct run *run = &batch->runs[index];
    char *begin = batch->control[index].bytes;
    struct cmsghdr *at = &batch->control[index].header;
    if (segments)
        at = put_control(at, SOL_UDP, UDP_SEGMENT, &(uint16_t){(uint16_t)run->size}, sizeof(uint16_t));
    if (run->ecn && batch->family == 0)
        at = put_control(at, IPPROTO_IP, IP_TOS, &(int){run->ecn}, sizeof(int));
    else if (run->ecn)
        at = put_control(at, IPPROTO_IPV6, IPV6_TCLASS, &(int){run->ecn}, sizeof(int));
    message->msg_controllen = (size_t)((char *)at - begin);
    message->msg_control = message->msg_controllen ? begin : NULL;
}

/* Send the datagrams of a run one by one, as the kernel did not take the run as a whole; whether one was too long. */
static bool send_apart(struct engine *engine, struct batch *batch, unsigned index)
{
    struct run *run = &batch->runs[index];
    struct msghdr whole = batch->messages[index].msg_hdr;
    bool answered = false;
    size_t part = 0;
    for (uint32_t sent = 0; sent < run->segments; sent++) {
        struct msghdr one = whole;
        size_t first = part, bytes = 0;
        while (part < whole.msg_iovlen && bytes < run->size)
            bytes += whole.msg_iov[part++].iov_len; /* parts end where datagrams end: run_add made them so */
        one.msg_iov = whole.msg_iov + first;
        one.msg_iovlen = part - first;
        set_control(batch, index, &one, false);
        ssize_t done;
        do
            done = sendmsg(batch->socket, &one, MSG_DONTWAIT);
        while (done < 0 && errno == EINTR);
        if (done >= 0) {
            count_tx(engine, run->peer, 1, bytes);
        } else if (errno == EAGAIN) {
            engine->tx_drops[SEND_BUFFER_FULL]++;
        } else if (errno == EMSGSIZE) {
            engine->tx_drops[TOO_LONG]++;
            if (!answered)
                refuse(engine, 2, run->peer, one.msg_iov, one.msg_iovlen, bytes);
            answered = true; /* they are of one size and from one burst: one answer says it */
        } else {
            engine->tx_drops[SEND_ERROR]++;
        }
    }
    return answered;
}

static void flush_batch(struct engine *engine, struct batch *batch)
{
    for (unsigned index = 0; index < batch->count; index++) {
        struct run *run = &batch->runs[index];
        struct msghdr *message = &batch->messages[index].msg_hdr;
        engine->open_runs[run->peer] = -1;
        set_control(batch, index, message, run->segments > 1);
    }
    unsigned index = 0;
    while (index < batch->count) {
        int sent = sendmmsg(batch->socket, batch->messages + index, batch->count - index, MSG_DONTWAIT);
        if (sent > 0) {
            for (; sent; sent--, index++)
                count_tx(engine, batch->runs[index].peer, batch->runs[index].segments, batch->runs[index].bytes);
            continue;
        }
        int error = errno;
        struct run *run = &batch->runs[index];
        if (error == EINTR)
            continue;
        if (error == EAGAIN) {
            for (; index < batch->count; index++)
                engine->tx_drops[SEND_BUFFER_FULL] += batch->runs[index].segments;
            break;
        }
        if (run->segments > 1 && (error == EMSGSIZE || error == EIO || error == EINVAL)) {
            /* EMSGSIZE, and on some kernels EINVAL: a path narrower than the segments, which says nothing of GSO. EIO: no
             * checksum offload on the way out. EINVAL: more segments than this kernel takes, or no GSO on this route. */
            bool narrow = send_apart(engine, batch, index);
            if (error != EMSGSIZE && !narrow) {
                engine->gso_failures++;
                if (error == EINVAL && engine->run_segments > RUN_SEGMENTS_OLD) {
                    engine->run_segments = RUN_SEGMENTS_OLD;
                } else {
                    engine->run_segments = 1;
                    engine->gso_error = error;
                }
            }
        } else if (error == EMSGSIZE) {
            struct msghdr *message = &batch->messages[index].msg_hdr;
            engine->tx_drops[TOO_LONG]++;
            refuse(engine, 2, run->peer, message->msg_iov, message->msg_iovlen, run->bytes);
        } else {
            engine->tx_drops[SEND_ERROR] += run->segments;
        }
        index++;
    }
    batch->count = 0;
}

static void flush(struct engine *engine)
{
    for (int family = 0; family < 2; family++)
        if (engine->batches[family].count)
            flush_batch(engine, &engine->batches[family]);
    engine->headers_used = 0;
}

/* Add one datagram of one or two parts to the peer's run, or to a new one. The parts stay borrowed until the flush. */
static void run_add(struct engine *engine, int peer, unsigned ecn, const void *head, size_t head_length,
                    const void *tail, size_t tail_length)
{
    const struct peer *to = &engine->table->peers[peer];
    struct batch *batch = &engine->batches[to->ipv6];
    uint32_t bytes = (uint32_t)(head_length + tail_length);
    if (batch->socket < 0) {
        engine->tx_drops[SEND_ERROR]++;
        return;
    }
    struct run *run = NULL;
    int open = engine->open_runs[peer];
    if (open >= 0) {
        run = &batch->runs[open];
        if (run->closed || run->ecn != ecn || bytes > run->size || run->segments >= engine->run_segments ||
            run->bytes + bytes > UDP_PAYLOAD_MAX)
            run = NULL;
    }
    if (!run) {
        if (batch->count == RUNS)
            flush_batch(engine, batch);
        open = (int)batch->count++;
        engine->open_runs[peer] = open;
        run = &batch->runs[open];
        *run = (struct run){.peer = peer, .size = bytes, .ecn = (uint8_t)ecn};
        batch->messages[open].msg_hdr = (struct msghdr){
            .msg_name = (void *)(uintptr_t)&to->address,
            .msg_namelen = to->address_length,
            .msg_iov = batch->parts[open],
        };
    }
    struct msghdr *message = &batch->messages[open].msg_hdr;
    message->msg_iov[message->msg_iovlen++] = (struct iovec){(void *)(uintptr_t)head, head_length};
    if (tail_length)
        message->msg_iov[message->msg_iovlen++] = (struct iovec){(void *)(uintptr_t)tail, tail_length};
    run->segments++;
    run->bytes += bytes;
    run->closed = bytes < run->size;
}

/* --- outbound: tunnel GSO --------------------------------------------------------------------------------------- */

/* Write a payload with outer headers to the TAP, its outer checksum left to the kernel; whether the kernel took it. */
static bool write_tap(struct engine *engine, const struct peer *to, const struct vnet *vnet, unsigned ecn,
                      const void *payload, size_t length)
{
    struct outer *outer = &engine->outers[to->ipv6];
    uint8_t *network = outer->bytes + VNET_TUNNEL + ETHERNET, *udp;
    memcpy(outer->bytes, vnet, sizeof *vnet);
    if (to->ipv6) {
        udp = network + IPV6_HEADER;
        network[1] = (uint8_t)(ecn << 4);
        put16(network + 4, (uint32_t)(length + UDP_HEADER));
        memcpy(network + 24, &to->address.v6.sin6_addr, 16);
        memcpy(udp + 2, &to->address.v6.sin6_port, 2);
    } else {
        udp = network + IPV4_HEADER;
        network[1] = (uint8_t)ecn;
        put16(network + 2, (uint32_t)(length + UDP_HEADER + IPV4_HEADER));
        memcpy(network + 16, &to->address.v4.sin_addr, 4);
        put16(network + 10, 0);
        put_sum(network + 10, (uint16_t)~fold(sum_bytes(network, IPV4_HEADER, 0)));
        memcpy(udp + 2, &to->address.v4.sin_port, 2);
    }
    put16(udp + 4, (uint32_t)(length + UDP_HEADER));
    size_t address = to->ipv6 ? 16 : 4;
    put_sum(udp + 6, fold(sum_bytes(udp - 2 * address, 2 * address, 0) + htons(PROTO_UDP) +
                          htons((uint16_t)(length + UDP_HEADER))));

    struct iovec iov[2] = {{outer->bytes, outer->length}, {(void *)(uintptr_t)payload, length}};
    ssize_t done;
    do
        done = writev(engine->tap, iov, 2);
    while (done < 0 && errno == EINTR);
    return done >= 0;
}

/* Whether there is a TAP for what goes to this peer and has that length. */
static bool can_tunnel(const struct engine *engine, const struct peer *to, size_t length)
{
    return engine->tap >= 0 && engine->outers[to->ipv6].length && length <= UDP_PAYLOAD_MAX;
}

/* Hand a superpacket to the kernel, to be cut as late as the way allows; whether it took it. */
static bool tunnel(struct engine *engine, const struct cut *cut, const struct vnet *inner, size_t length, int peer,
                   unsigned ecn)
{
    const struct peer *to = &engine->table->peers[peer];
    if (!can_tunnel(engine, to, length) || cut->udp || cut->ip.protocol != PROTO_TCP)
        return false;
    uint16_t behind = (uint16_t)(engine->outers[to->ipv6].length - VNET_TUNNEL);
    struct vnet vnet = *inner;
    vnet.flags = VNET_NEEDS_CSUM | VNET_TUNNEL_CSUM;
    vnet.gso_type |= to->ipv6 ? GSO_TUNNEL6 : GSO_TUNNEL4;
    vnet.hdr_len = (uint16_t)(cut->headers + behind);
    vnet.csum_start = (uint16_t)(vnet.csum_start + behind);
    flush(engine); /* what was read before leaves before */
    if (!write_tap(engine, to, &vnet, ecn, cut->packet, length)) {
        if (errno != EAGAIN && errno != ENOBUFS) {
            engine->tunnel_error = errno;
            engine->tap = -1;
        }
        return false;
    }
    engine->tunnelled++;
    count_tx(engine, peer, cut->count, (uint64_t)cut->count * cut->headers + cut->payload);
    return true;
}

/* --- outbound: one packet --------------------------------------------------------------------------------------- */

/* What was read: `packet` lives in the arena until the flush. */
static void outbound_packet(struct engine *engine, const struct vnet *vnet, uint8_t *packet, size_t length)
{
    struct ip ip;
    int peer = NOBODY;
    bool superpacket = vnet->gso_type != GSO_NONE;
    struct cut cut = {.count = 1};
    enum reason reason = parse_ip(packet, length, &ip);
    if (reason == PASS && superpacket && !cut_plan(&cut, vnet, packet, length, &ip)) {
        cut.count = 1;
        reason = LENGTH_MISMATCH;
    }
    if (reason == PASS)
        reason = decide_outbound(engine->table, &ip, &peer);
    unsigned way = reason == PASS ? engine->ways[engine->table->peers[peer].slot] : 0;
    cut.partial = (way & WAY_PARTIAL) && (vnet->flags & VNET_NEEDS_CSUM) && vnet->csum_start == ip.header &&
                  vnet->csum_offset == check_offset(&ip, length);
    if (!superpacket && !cut.partial && (vnet->flags & VNET_NEEDS_CSUM) && !complete(packet, length, vnet) &&
        reason == PASS)
        reason = LENGTH_MISMATCH;
    size_t longest = superpacket && cut.count > 1 ? (size_t)cut.headers + cut.size : length;
    if (reason == PASS && longest > engine->table->mtu)
        reason = TOO_LONG;

    if (reason != PASS) {
        engine->tx_drops[reason] += cut.count;
        if (reason == NO_LEASE || reason == TOO_LONG) {
            uint8_t headers[HEADERS_MAX];
            struct iovec parts[2] = {{packet, length}, {NULL, 0}};
            if (superpacket) { /* the sender knows no superpackets: it is told of the first segment */
                parts[1].iov_len = cut_headers(&cut, 0, headers);
                parts[1].iov_base = (void *)(uintptr_t)cut_payload(&cut, 0);
                parts[0] = (struct iovec){headers, cut.headers};
            }
            refuse(engine, 0, peer, parts, 2, parts[0].iov_len + parts[1].iov_len);
        }
        return;
    }
    unsigned ecn = way & WAY_ECN ? get_ecn(packet, &ip) : NOT_ECT;
    if (!superpacket) {
        run_add(engine, peer, ecn, packet, length, NULL, 0);
        return;
    }
    if ((way & WAY_TUNNEL) && cut.count >= TUNNEL_SEGMENTS && tunnel(engine, &cut, vnet, length, peer, ecn))
        return;
    for (uint32_t index = 0; index < cut.count; index++) {
        if (engine->headers_used + cut.headers > TX_HEADERS)
            flush(engine); /* the payload stays where it is */
        uint8_t *headers = engine->headers + engine->headers_used;
        engine->headers_used += ((size_t)cut.headers + 15) & ~(size_t)15;
        size_t payload = cut_headers(&cut, index, headers);
        run_add(engine, peer, ecn, headers, cut.headers, cut_payload(&cut, index), payload);
    }
}

static int outbound_burst(struct engine *engine)
{
    static const struct vnet plain;
    const size_t head = engine->vnet ? sizeof(struct vnet) : 0;
    size_t used = 0, bytes = 0, flushed = 0;
    int reads = 0, result = 0;
    while (reads < TX_READS && bytes < TX_BYTES) {
        if (used + TX_ALIGN + PACKET_MAX > TX_ARENA) {
            flush(engine);
            used = 0;
        }
        uint8_t *packet = engine->arena + used + TX_ALIGN; /* aligned; its virtio-net header stands before it */
        ssize_t got = read(engine->tun, packet - head, PACKET_MAX + head);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                result = TUN_GONE;
            if (result || bytes - flushed < BULK)
                break;
            flush(engine); /* more may come while this is sent, and who does not sleep need not be woken */
            used = 0;
            flushed = bytes;
            continue;
        }
        reads++;
        if ((size_t)got < head) {
            engine->tx_drops[TOO_SHORT]++;
            continue;
        }
        size_t length = (size_t)got - head;
        struct vnet vnet = plain;
        if (head)
            memcpy(&vnet, packet - head, sizeof vnet);
        outbound_packet(engine, &vnet, packet, length);
        bytes += length;
        used += (TX_ALIGN + length + TX_ALIGN - 1) & ~(size_t)(TX_ALIGN - 1);
        if (engine->lone % TX_LONE && length <= engine->table->mtu)
            break; /* what may follow wakes us again */
    }
    flush(engine);
    if (reads)
        engine->lone = reads == 1 && bytes <= engine->table->mtu ? engine->lone + 1 : 0;
    return result ? result : reads;
}

/* --- inbound ---------------------------------------------------------------------------------------------------- */

static bool write_tun(struct engine *engine, struct iovec *iov, int iovs)
{
    if (!engine->vnet) {
        const struct vnet *vnet = iov[0].iov_base;
        if (vnet->flags & VNET_NEEDS_CSUM) /* of a single packet: nothing is joined for such a TUN */
            complete(iov[1].iov_base, iov[1].iov_len, vnet);
        iov++;
        iovs--;
    }
    ssize_t done;
    do
        done = writev(engine->tun, iov, iovs);
    while (done < 0 && errno == EINTR);
    return done >= 0;
}

/* The joiner's sink: one packet or superpacket to the TUN. */
static void write_joined(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers,
                         int owner)
{
    struct engine *engine = context;
    iov[0] = (struct iovec){vnet, sizeof *vnet};
    uint64_t bytes = 0;
    if (count == 1) {
        bytes = iov[1].iov_len;
    } else {
        for (int part = 2; part < iovs; part++)
            bytes += headers + iov[part].iov_len;
    }
    if (write_tun(engine, iov, iovs)) {
        count_rx(engine, owner, count, bytes);
        if (count > 1)
            engine->join_failures = 0;
        return;
    }
    if (count == 1 || (errno != EINVAL && errno != EIO)) {
        engine->rx_drops[TUN_ERROR] += count;
        return;
    }
    /* The kernel does not like the superpacket: write what it was made of, which lies untouched where it came in. */
    engine->join_refusals++;
    if (++engine->join_failures >= JOIN_FAILURES && (engine->joiner.tcp || engine->joiner.udp)) {
        engine->joiner.tcp = engine->joiner.udp = false;
        engine->join_error = errno;
    }
    for (int part = 2; part < iovs; part++) {
        size_t length = headers + iov[part].iov_len;
        uint8_t *packet = (uint8_t *)iov[part].iov_base - headers;
        struct ip ip;
        struct vnet own = {0}; /* a sum that came partial is partial still; one that looks so loses nothing */
        if (parse_ip(packet, length, &ip) == PASS && is_partial(packet, length, &ip))
            own = partial_vnet(&ip, length);
        struct iovec single[2] = {{&own, sizeof own}, {packet, length}};
        if (write_tun(engine, single, 2))
            count_rx(engine, owner, 1, length);
        else
            engine->rx_drops[TUN_ERROR]++;
    }
}

/* A superpacket that came whole, as it does where nothing between the hosts had to cut it; false when it is none. */
static bool inbound_superpacket(struct engine *engine, uint8_t *packet, size_t length, const struct ip *ip, int host)
{
    if (ip->protocol != PROTO_TCP || !is_partial(packet, length, ip))
        return false;
    size_t headers = ip->header + (size_t)(packet[ip->header + 12] >> 4) * 4;
    if (headers >= engine->table->mtu || headers >= length)
        return false;
    struct vnet vnet = partial_vnet(ip, length);
    vnet.gso_type = ip->version == 4 ? GSO_TCPV4 : GSO_TCPV6;
    vnet.gso_size = (uint16_t)(engine->table->mtu - headers);
    vnet.hdr_len = (uint16_t)headers;
    struct cut cut;
    if (!cut_plan(&cut, &vnet, packet, length, ip))
        return false;
    join_flush(&engine->joiner); /* what came before goes before */
    if (engine->joiner.tcp) {
        struct iovec iov[2] = {{&vnet, sizeof vnet}, {packet, length}};
        if (write_tun(engine, iov, 2)) {
            count_rx(engine, host, cut.count, (uint64_t)cut.count * headers + cut.payload);
            return true;
        }
    }
    for (uint32_t index = 0; index < cut.count; index++) {
        uint8_t head[HEADERS_MAX];
        struct vnet plain = {0};
        size_t payload = cut_headers(&cut, index, head);
        struct iovec iov[3] = {
            {&plain, sizeof plain}, {head, headers}, {(void *)(uintptr_t)cut_payload(&cut, index), payload}};
        if (write_tun(engine, iov, 3))
            count_rx(engine, host, 1, headers + payload);
        else
            engine->rx_drops[TUN_ERROR]++;
    }
    return true;
}

static void inbound_datagram(struct engine *engine, uint8_t *packet, size_t length, int host, unsigned ecn)
{
    struct ip ip;
    struct iovec part = {packet, length};
    bool announced = host >= 0 && engine->table->peers[host].announced;
    if (announced && length && packet[0] >> 4 == 0) { /* no IP version: it speaks to us */
        refuse(engine, 3, host, &part, 1, length);
        return;
    }
    enum reason reason = decide_inbound(engine->table, packet, length, host, &ip);
    if ((reason == PASS || reason == TOO_LONG) && !decapsulate_ecn(packet, &ip, ecn))
        reason = CE_NOT_ECT;
    if (reason == PASS) {
        join_offer(&engine->joiner, packet, length, &ip, announced && is_partial(packet, length, &ip), host);
        return;
    }
    if (reason == TOO_LONG && announced && inbound_superpacket(engine, packet, length, &ip, host))
        return;
    engine->rx_drops[reason]++;
    if (reason == TOO_LONG)
        refuse(engine, 1, host, &part, 1, length);
}

/* What the kernel says beside the bytes: the size of the datagrams in a message (all of it is one without UDP_GRO's
 * word), and the outer ECN field. */
static void read_control(struct msghdr *message, size_t *size, unsigned *ecn)
{
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
        int value = 0;
        if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TOS) { /* a byte, ip(7) */
            *ecn = *(const uint8_t *)CMSG_DATA(control) & 3;
            continue;
        }
        if (control->cmsg_len < CMSG_LEN(sizeof value))
            continue;
        memcpy(&value, CMSG_DATA(control), sizeof value);
        if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO && value > 0)
            *size = (size_t)value;
        else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_TCLASS)
            *ecn = value & 3;
    }
}

static int inbound_burst(struct engine *engine, int family)
{
    const int socket = engine->batches[family].socket;
    int burst = 0;
    size_t bytes = 0;
    while (burst < RX_BURST && bytes < RX_BYTES) {
        unsigned want = engine->rx_batch;
        for (unsigned index = 0; index < want; index++) {
            struct msghdr *message = &engine->rx_messages[index].msg_hdr;
            message->msg_namelen = sizeof engine->rx_from[index];
            message->msg_control = &engine->rx_control[index];
            message->msg_controllen = sizeof engine->rx_control[index];
            message->msg_flags = 0;
        }
        int got = recvmmsg(socket, engine->rx_messages, want, MSG_DONTWAIT, NULL);
        if (got < 0) {
            if (errno == EAGAIN)
                break;
            burst++; /* an ICMP error about an earlier send, or a signal; nothing was received */
            continue;
        }
        size_t batch_bytes = 0;
        for (int index = 0; index < got; index++) {
            struct msghdr *message = &engine->rx_messages[index].msg_hdr;
            uint8_t *buffer = engine->rx_parts[index].iov_base;
            size_t length = engine->rx_messages[index].msg_len, size = length, at = 0;
            unsigned ecn = NOT_ECT;
            read_control(message, &size, &ecn);
            const struct sockaddr *from = (const struct sockaddr *)&engine->rx_from[index];
            int host = NOBODY;
            if (from->sa_family == AF_INET)
                host = table_host(engine->table, (const uint8_t *)&((const struct sockaddr_in *)from)->sin_addr, 4);
            else if (from->sa_family == AF_INET6)
                host = table_host(engine->table, (const uint8_t *)&((const struct sockaddr_in6 *)from)->sin6_addr, 16);
            do { /* an empty datagram is one, too */
                size_t one = length - at < size ? length - at : size;
                inbound_datagram(engine, buffer + at, one, host, ecn);
                at += one;
            } while (at < length);
            batch_bytes += length;
        }
        join_flush(&engine->joiner); /* before the buffers are used again */
        burst += got;
        bytes += batch_bytes;
        engine->rx_batch = batch_bytes / (unsigned)got >= RX_LARGE ? RX_FEW : RX_MESSAGES;
        if ((unsigned)got < want && batch_bytes < BULK)
            break; /* else more may have come while this was written, and who does not sleep need not be woken */
    }
    return burst;
}

/* --- both directions -------------------------------------------------------------------------------------------- */

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/* Look for more until nothing came for `poll` ns. Waking from sleep is most of a round trip's time on an idle machine. */
static int busy_poll(struct engine *engine)
{
    int64_t now = nanoseconds(), limit = now + POLL_MAX, end = now + engine->poll;
    while (now < end && now < limit && !engine->ring_count) {
        int moved = outbound_burst(engine);
        if (moved < 0)
            return moved;
        for (int family = 0; family < 2; family++)
            if (engine->batches[family].socket >= 0)
                moved += inbound_burst(engine, family);
        if (!moved)
            sched_yield(); /* somebody may need the processor to have something to send */
        now = nanoseconds();
        if (moved)
            end = now + engine->poll;
    }
    return 0;
}

/* One burst from the TUN, or from the socket of that family, and with busy-polling whatever follows soon. */
enum { FROM_TUN = -1 };
static int carry(struct engine *engine, int from)
{
    int count = from == FROM_TUN ? outbound_burst(engine) : inbound_burst(engine, from);
    if (engine->poll && count > 0 && busy_poll(engine) < 0)
        return TUN_GONE;
    return count;
}

/* --- Python: Table ---------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    struct table *table;
} TableObject;

typedef struct {
    PyTypeObject *table_type, *engine_type;
} State;

static struct PyModuleDef definition;

static bool invalid(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return false;
}

static bool no_memory(void)
{
    PyErr_NoMemory();
    return false;
}

/* ((number, address, port, slot, announced), ...) */
static bool set_peers(struct table *table, PyObject *peers, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(peers); index++) {
        const char *host;
        Py_ssize_t length;
        int number, port, slot, announced;
        if (!PyArg_ParseTuple(PyTuple_GetItem(peers, index), "iy#iip", &number, &host, &length, &port, &slot, &announced))
            return false;
        if (number < 0 || number >= count || (length != 4 && length != 16) || port < 0 || port > 65535 || slot < 0 ||
            slot > 1 << 24)
            return invalid("a peer is (number below `count`, 4 or 16 bytes of address, port, slot, announced)");
        struct peer *peer = &table->peers[number];
        *peer = (struct peer){.ipv6 = length == 16, .slot = slot, .announced = announced};
        peer->key = key_of((const uint8_t *)host, (unsigned)length);
        if (peer->ipv6) {
            peer->address.v6.sin6_family = AF_INET6;
            peer->address.v6.sin6_port = htons((uint16_t)port);
            memcpy(&peer->address.v6.sin6_addr, host, 16);
            peer->address_length = sizeof peer->address.v6;
        } else {
            peer->address.v4.sin_family = AF_INET;
            peer->address.v4.sin_port = htons((uint16_t)port);
            memcpy(&peer->address.v4.sin_addr, host, 4);
            peer->address_length = sizeof peer->address.v4;
        }
    }
    return true;
}

/* ((address, the number of the peer that stands for it, or NOBODY), ...) */
static bool set_hosts(struct table *table, PyObject *hosts, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(hosts); index++) {
        const char *host;
        Py_ssize_t length;
        int number;
        if (!PyArg_ParseTuple(PyTuple_GetItem(hosts, index), "y#i", &host, &length, &number))
            return false;
        if ((length != 4 && length != 16) || (number < 0 && number != NOBODY) || number >= count)
            return invalid("a host is (4 or 16 bytes of address, a peer's number or NOBODY)");
        if (!level_set(&table->hosts[length == 16], key_of((const uint8_t *)host, (unsigned)length), number))
            return no_memory();
    }
    return true;
}

/* ((first address, prefix length, owner or NOBODY), ...) */
static bool set_networks(struct table *table, PyObject *networks, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(networks); index++) {
        const char *prefix;
        Py_ssize_t length;
        int bits, owner;
        if (!PyArg_ParseTuple(PyTuple_GetItem(networks, index), "y#ii", &prefix, &length, &bits, &owner))
            return false;
        if ((length != 4 && length != 16) || bits < 0 || bits > length * 8 || owner < NOBODY || owner >= count)
            return invalid("a network is (4 or 16 bytes of address, prefix length, a peer's number, OWN or NOBODY)");
        struct level *level = table_level(table, length == 16, bits);
        if (!level || !level_set(level, key_of((const uint8_t *)prefix, (unsigned)length), owner))
            return no_memory();
    }
    return true;
}

static PyObject *table_wrap(PyTypeObject *type, struct table *table)
{
    TableObject *self = table ? (TableObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0) : NULL;
    if (self)
        self->table = table;
    else
        table_free(table);
    return table ? (PyObject *)self : PyErr_NoMemory();
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mtu", NULL};
    unsigned int mtu;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I", names, &mtu))
        return NULL;
    return table_wrap(type, table_empty(mtu));
}

static PyObject *table_changed(PyObject *self, PyObject *args)
{
    int count;
    PyObject *peers, *hosts, *networks;
    if (!PyArg_ParseTuple(args, "iO!O!O!", &count, &PyTuple_Type, &peers, &PyTuple_Type, &hosts, &PyTuple_Type, &networks))
        return NULL;
    const struct table *from = ((TableObject *)self)->table;
    if (count < 0 || count > 1 << 24) {
        invalid("count: so many numbers of peers cannot be");
        return NULL;
    }
    PyObject *changed = table_wrap(Py_TYPE(self), table_copy(from, count));
    if (!changed)
        return NULL;
    struct table *table = ((TableObject *)changed)->table;
    if (!set_peers(table, peers, count) || !set_hosts(table, hosts, count) || !set_networks(table, networks, count)) {
        Py_DECREF(changed);
        return NULL;
    }
    return changed;
}

static void table_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    table_free(((TableObject *)self)->table);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *verdict(enum reason reason, int peer)
{
    return reason == PASS ? PyLong_FromLong(peer) : PyLong_FromLong(-1 - (long)reason);
}

static PyObject *table_outbound(PyObject *self, PyObject *args)
{
    const struct table *table = ((TableObject *)self)->table;
    const char *packet;
    Py_ssize_t length;
    struct ip ip;
    int peer = NOBODY;
    if (!PyArg_ParseTuple(args, "y#", &packet, &length))
        return NULL;
    enum reason reason = parse_ip((const uint8_t *)packet, (size_t)length, &ip);
    if (reason == PASS)
        reason = decide_outbound(table, &ip, &peer);
    if (reason == PASS && (size_t)length > table->mtu)
        reason = TOO_LONG;
    return verdict(reason, peer);
}

static PyObject *table_inbound(PyObject *self, PyObject *args)
{
    const struct table *table = ((TableObject *)self)->table;
    const char *packet, *from;
    Py_ssize_t length, from_length;
    struct ip ip;
    if (!PyArg_ParseTuple(args, "y#y#", &packet, &length, &from, &from_length))
        return NULL;
    int host = NOBODY;
    if (from_length == 4 || from_length == 16)
        host = table_host(table, (const uint8_t *)from, (unsigned)from_length);
    return verdict(decide_inbound(table, (const uint8_t *)packet, (size_t)length, host, &ip), host);
}

static PyMethodDef table_methods[] = {
    {"changed", table_changed, METH_VARARGS, NULL},
    {"outbound", table_outbound, METH_VARARGS, NULL},
    {"inbound", table_inbound, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "overlayd.datapath.native._native.Table",
    .basicsize = sizeof(TableObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = table_slots,
};

/* --- Python: Engine --------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    PyObject *table; /* owns engine->table */
    struct engine *engine;
} EngineObject;

static bool refuse_busy(const struct engine *engine)
{
    if (engine->busy)
        PyErr_SetString(PyExc_RuntimeError, "the engine is carrying a burst in another thread");
    return engine->busy;
}

static bool ready(const struct engine *engine)
{
    if (!engine->table)
        PyErr_SetString(PyExc_RuntimeError, "replace_table() comes first");
    return engine->table && !refuse_busy(engine);
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"socket4", "socket6", "run_segments", "poll_us", NULL};
    int socket4, socket6;
    unsigned int run_segments, poll_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiII", names, &socket4, &socket6, &run_segments, &poll_us))
        return NULL;
    EngineObject *self = (EngineObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    struct engine *engine = self->engine = calloc(1, sizeof *engine);
    if (!engine)
        goto no_memory;
    engine->tun = engine->tap = -1;
    engine->batches[1].family = 1;
    engine->poll = (int64_t)poll_us * 1000;
    engine->batches[0].socket = socket4;
    engine->batches[1].socket = socket6;
    engine->run_segments = run_segments < 1 ? 1 : run_segments > RUN_SEGMENTS ? RUN_SEGMENTS : run_segments;
    engine->joiner.sink = write_joined;
    engine->joiner.context = engine;
    engine->rx_batch = RX_MESSAGES;
    engine->arena = aligned_alloc(TX_ALIGN, TX_ARENA + 2 * TX_ALIGN + 65536);
    engine->headers = malloc(TX_HEADERS + HEADERS_MAX);
    engine->rx_buffers = malloc((size_t)RX_MESSAGES * RX_BUFFER);
    engine->ring = malloc(RING * sizeof *engine->ring);
    if (!engine->arena || !engine->headers || !engine->rx_buffers || !engine->ring)
        goto no_memory;
    for (unsigned index = 0; index < RX_MESSAGES; index++) {
        engine->rx_parts[index] = (struct iovec){engine->rx_buffers + (size_t)index * RX_BUFFER, RX_BUFFER};
        engine->rx_messages[index].msg_hdr.msg_name = &engine->rx_from[index];
        engine->rx_messages[index].msg_hdr.msg_iov = &engine->rx_parts[index];
        engine->rx_messages[index].msg_hdr.msg_iovlen = 1;
    }
    return (PyObject *)self;
no_memory:
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void engine_dealloc(PyObject *object)
{
    EngineObject *self = (EngineObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    struct engine *engine = self->engine;
    if (engine) {
        free(engine->arena);
        free(engine->headers);
        free(engine->rx_buffers);
        free(engine->ring);
        free(engine->open_runs);
        free(engine->slots);
        free(engine->ways);
        free(engine);
    }
    Py_XDECREF(self->table);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *engine_replace_table(PyObject *object, PyTypeObject *defining, PyObject *const *args, Py_ssize_t count,
                                      PyObject *names)
{
    EngineObject *self = (EngineObject *)object;
    struct engine *engine = self->engine;
    State *state = PyType_GetModuleState(defining);
    if (count != 1 || (names && PyTuple_Size(names)) || !PyObject_TypeCheck(args[0], state->table_type)) {
        PyErr_SetString(PyExc_TypeError, "replace_table() takes a Table");
        return NULL;
    }
    if (refuse_busy(engine))
        return NULL;
    const struct table *table = ((TableObject *)args[0])->table;
    int slots = engine->slot_count;
    for (int index = 0; index < table->peer_count; index++)
        if (table->peers[index].slot >= slots)
            slots = table->peers[index].slot + 1;
    if (slots > engine->slot_count) {
        struct traffic *grown = realloc(engine->slots, (size_t)slots * sizeof *grown);
        if (grown)
            engine->slots = grown;
        uint8_t *ways = grown ? realloc(engine->ways, (size_t)slots) : NULL;
        if (!ways)
            return PyErr_NoMemory();
        engine->ways = ways;
        memset(ways + engine->slot_count, 0, (size_t)(slots - engine->slot_count));
        memset(grown + engine->slot_count, 0, (size_t)(slots - engine->slot_count) * sizeof *grown);
        engine->slot_count = slots;
    }
    int *open_runs = malloc(((size_t)table->peer_count + 1) * sizeof *open_runs);
    if (!open_runs)
        return PyErr_NoMemory();
    for (int index = 0; index < table->peer_count; index++)
        open_runs[index] = -1;
    free(engine->open_runs);
    engine->open_runs = open_runs;
    engine->table = table;
    Py_INCREF(args[0]);
    Py_XDECREF(self->table);
    self->table = args[0];
    Py_RETURN_NONE;
}

static PyObject *engine_replace_tun(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int tun, vnet, tcp, udp;
    if (!PyArg_ParseTuple(args, "ippp", &tun, &vnet, &tcp, &udp) || refuse_busy(engine))
        return NULL;
    engine->tun = tun;
    engine->vnet = vnet;
    engine->joiner.tcp = vnet && tcp;
    engine->joiner.udp = vnet && udp;
    engine->join_failures = 0;
    Py_RETURN_NONE;
}

static PyObject *engine_replace_tap(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    const char *mac, *sources[2];
    Py_ssize_t mac_length, lengths[2];
    int tap, port;
    if (!PyArg_ParseTuple(args, "iy#y#y#i", &tap, &mac, &mac_length, &sources[0], &lengths[0], &sources[1], &lengths[1],
                          &port) ||
        refuse_busy(engine))
        return NULL;
    if (mac_length != 6 || (lengths[0] != 0 && lengths[0] != 4) || (lengths[1] != 0 && lengths[1] != 16)) {
        PyErr_SetString(PyExc_ValueError, "replace_tap() takes a MAC, an IPv4 and an IPv6 address; these may be empty");
        return NULL;
    }
    engine->tap = tap;
    engine->tunnel_error = 0;
    for (int family = 0; family < 2; family++) {
        struct outer *outer = &engine->outers[family];
        *outer = (struct outer){.length = 0};
        if (!lengths[family])
            continue;
        uint16_t network = ETHERNET, transport = (uint16_t)(ETHERNET + (family ? IPV6_HEADER : IPV4_HEADER));
        uint16_t inner = (uint16_t)(transport + UDP_HEADER);
        uint8_t *frame = outer->bytes + VNET_TUNNEL, *ip = frame + network;
        outer->length = VNET_TUNNEL + (size_t)inner;
        memcpy(outer->bytes + VNET_OUTER_TRANSPORT, &transport, 2);
        memcpy(outer->bytes + VNET_INNER_NETWORK, &inner, 2);
        memcpy(frame, mac, 6);
        memcpy(frame + 6, mac, 6);
        put16(frame + 12, family ? 0x86dd : 0x0800);
        if (family) {
            ip[0] = 0x60;
            ip[6] = PROTO_UDP;
            ip[7] = 65; /* forwarding takes one: on the wire it is a socket's 64 */
            memcpy(ip + 8, sources[1], 16);
        } else {
            ip[0] = 0x45;
            ip[6] = 0x40; /* DF, as the sockets have it */
            ip[8] = 65;
            ip[9] = PROTO_UDP;
            memcpy(ip + 12, sources[0], 4);
        }
        put16(frame + transport, (uint32_t)port);
    }
    Py_RETURN_NONE;
}

static PyObject *engine_tunnel(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int peer;
    const char *payload;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "iy#", &peer, &payload, &length) || !ready(engine))
        return NULL;
    if (peer < 0 || peer >= engine->table->peer_count) {
        PyErr_SetString(PyExc_IndexError, "no such peer");
        return NULL;
    }
    const struct peer *to = &engine->table->peers[peer];
    uint16_t transport = (uint16_t)(ETHERNET + (to->ipv6 ? IPV6_HEADER : IPV4_HEADER));
    struct vnet vnet = {.flags = VNET_NEEDS_CSUM, .csum_start = transport, .csum_offset = UDP_CHECK};
    return PyBool_FromLong(can_tunnel(engine, to, (size_t)length) &&
                           write_tap(engine, to, &vnet, NOT_ECT, payload, (size_t)length));
}

static PyObject *engine_set_way(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int slot, way;
    if (!PyArg_ParseTuple(args, "ii", &slot, &way) || refuse_busy(engine))
        return NULL;
    if (slot >= 0 && slot < engine->slot_count)
        engine->ways[slot] = (uint8_t)way;
    Py_RETURN_NONE;
}

static PyObject *engine_carry(struct engine *engine, int from)
{
    int count;
    if (!ready(engine))
        return NULL;
    engine->busy = true;
    Py_BEGIN_ALLOW_THREADS
    count = carry(engine, from);
    Py_END_ALLOW_THREADS
    engine->busy = false;
    bool attention = engine->ring_count || engine->gso_error || engine->join_error || engine->tunnel_error;
    return PyLong_FromLong(count >= 0 && attention ? count + ATTENTION : count);
}

static PyObject *engine_outbound(PyObject *self, PyObject *Py_UNUSED(none))
{
    return engine_carry(((EngineObject *)self)->engine, FROM_TUN);
}

static PyObject *engine_inbound(PyObject *self, PyObject *args)
{
    int family;
    if (!PyArg_ParseTuple(args, "i", &family))
        return NULL;
    return engine_carry(((EngineObject *)self)->engine, family == 6);
}

static PyObject *engine_refused(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    PyObject *list = PyList_New(0);
    for (unsigned index = 0; list && index < engine->ring_count; index++) {
        const struct refused *one = &engine->ring[index];
        PyObject *item = Py_BuildValue("iiIy#", (int)one->direction, one->peer, (unsigned)one->length,
                                       (const char *)one->bytes, (Py_ssize_t)one->kept);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    engine->ring_count = 0;
    return list;
}

static PyObject *numbers(const uint64_t *values, size_t count)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t index = 0; tuple && index < count; index++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[index]);
        if (!value || PyTuple_SetItem(tuple, (Py_ssize_t)index, value) < 0) /* takes the value in any case */
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *engine_counters(PyObject *self, PyObject *Py_UNUSED(none))
{
    const struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    PyObject *slots = PyList_New(0);
    for (int index = 0; slots && index < engine->slot_count; index++) {
        PyObject *one = numbers(&engine->slots[index].tx_packets, 4);
        if (!one || PyList_Append(slots, one) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(one);
    }
    if (!slots)
        return NULL;
    return Py_BuildValue("(NNNNK)", numbers(&engine->total.tx_packets, 4), slots, numbers(engine->tx_drops, REASONS),
                         numbers(engine->rx_drops, REASONS), (unsigned long long)engine->unanswered);
}

static PyObject *engine_gauges(PyObject *self, PyObject *Py_UNUSED(none))
{
    const struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    return Py_BuildValue("{s:i,s:I,s:i,s:i,s:i,s:K,s:K,s:K}", "udp_gso", engine->run_segments > 1, "run_segments",
                         (unsigned)engine->run_segments, "join_tcp", (int)engine->joiner.tcp, "join_udp",
                         (int)engine->joiner.udp, "tunnel_gso", engine->tap >= 0, "gso_failures",
                         (unsigned long long)engine->gso_failures, "join_refusals",
                         (unsigned long long)engine->join_refusals, "tunnelled",
                         (unsigned long long)engine->tunnelled);
}

static PyObject *engine_degraded(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    const struct {
        const char *name;
        int *error;
    } offloads[] = {{"udp_gso", &engine->gso_error}, {"join_tcp,join_udp", &engine->join_error}, {"tunnel_gso", &engine->tunnel_error}};
    PyObject *list = PyList_New(0);
    for (size_t index = 0; list && index < sizeof offloads / sizeof *offloads; index++) {
        if (!*offloads[index].error)
            continue;
        PyObject *item = Py_BuildValue("si", offloads[index].name, *offloads[index].error);
        *offloads[index].error = 0;
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *engine_forget(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int slot;
    if (!PyArg_ParseTuple(args, "i", &slot) || refuse_busy(engine))
        return NULL;
    if (slot >= 0 && slot < engine->slot_count) {
        engine->slots[slot] = (struct traffic){0};
        engine->ways[slot] = 0;
    }
    Py_RETURN_NONE;
}

static PyMethodDef engine_methods[] = {
    {"replace_table", (PyCFunction)(void (*)(void))engine_replace_table, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     NULL},
    {"replace_tun", engine_replace_tun, METH_VARARGS, NULL},
    {"replace_tap", engine_replace_tap, METH_VARARGS, NULL},
    {"set_way", engine_set_way, METH_VARARGS, NULL},
    {"tunnel", engine_tunnel, METH_VARARGS, NULL},
    {"outbound", engine_outbound, METH_NOARGS, NULL},
    {"inbound", engine_inbound, METH_VARARGS, NULL},
    {"refused", engine_refused, METH_NOARGS, NULL},
    {"degraded", engine_degraded, METH_NOARGS, NULL},
    {"counters", engine_counters, METH_NOARGS, NULL},
    {"gauges", engine_gauges, METH_NOARGS, NULL},
    {"forget", engine_forget, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "overlayd.datapath.native._native.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

/* --- Python: pure functions ------------------------------------------------------------------------------------- */

static PyObject *py_segment(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *header, *packet;
    Py_ssize_t header_length, length;
    struct vnet vnet;
    struct ip ip;
    struct cut cut;
    if (!PyArg_ParseTuple(args, "y#y#", &header, &header_length, &packet, &length))
        return NULL;
    if (header_length != sizeof vnet) {
        PyErr_SetString(PyExc_ValueError, "a virtio-net header has 10 bytes");
        return NULL;
    }
    memcpy(&vnet, header, sizeof vnet);
    enum reason reason = parse_ip((const uint8_t *)packet, (size_t)length, &ip);
    if (reason != PASS || !cut_plan(&cut, &vnet, (const uint8_t *)packet, (size_t)length, &ip)) {
        PyErr_SetString(PyExc_ValueError, "the packet is not a superpacket as its virtio-net header says");
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (uint32_t index = 0; list && index < cut.count; index++) {
        uint8_t headers[HEADERS_MAX];
        size_t payload = cut_headers(&cut, index, headers);
        PyObject *one = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(cut.headers + payload));
        if (one) {
            char *bytes = PyBytes_AsString(one);
            memcpy(bytes, headers, cut.headers);
            memcpy(bytes + cut.headers, cut_payload(&cut, index), payload);
        }
        if (!one || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *py_complete(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *header, *packet;
    Py_ssize_t header_length, length;
    struct vnet vnet;
    if (!PyArg_ParseTuple(args, "y#y#", &header, &header_length, &packet, &length))
        return NULL;
    PyObject *copy = PyBytes_FromStringAndSize(packet, length);
    if (!copy)
        return NULL;
    memset(&vnet, 0, sizeof vnet);
    memcpy(&vnet, header, (size_t)header_length < sizeof vnet ? (size_t)header_length : sizeof vnet);
    if (header_length != sizeof vnet || !complete((uint8_t *)PyBytes_AsString(copy), (size_t)length, &vnet)) {
        Py_DECREF(copy);
        PyErr_SetString(PyExc_ValueError, "the checksum's place is outside of the packet");
        return NULL;
    }
    return copy;
}

static void append_joined(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t Py_UNUSED(count),
                          size_t Py_UNUSED(headers), int Py_UNUSED(owner))
{
    PyObject *list = context;
    size_t length = 0;
    for (int part = 1; part < iovs; part++)
        length += iov[part].iov_len;
    PyObject *packet = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (!packet)
        return;
    char *at = PyBytes_AsString(packet);
    for (int part = 1; part < iovs; part++) {
        memcpy(at, iov[part].iov_base, iov[part].iov_len);
        at += iov[part].iov_len;
    }
    PyObject *item = Py_BuildValue("(y#N)", (const char *)vnet, (Py_ssize_t)sizeof *vnet, packet);
    if (item)
        PyList_Append(list, item);
    Py_XDECREF(item);
}

static PyObject *py_coalesce(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *packets;
    int announced = 0;
    if (!PyArg_ParseTuple(args, "O!|p", &PyList_Type, &packets, &announced))
        return NULL;
    struct joiner *joiner = calloc(1, sizeof *joiner);
    PyObject *list = PyList_New(0);
    if (!joiner || !list) {
        free(joiner);
        Py_XDECREF(list);
        return PyErr_NoMemory();
    }
    joiner->tcp = joiner->udp = true;
    joiner->sink = append_joined;
    joiner->context = list;
    for (Py_ssize_t index = 0; index < PyList_Size(packets); index++) {
        char *packet;
        Py_ssize_t length;
        struct ip ip;
        if (PyBytes_AsStringAndSize(PyList_GetItem(packets, index), &packet, &length) < 0)
            break;
        if (parse_ip((const uint8_t *)packet, (size_t)length, &ip) == PASS)
            join_offer(joiner, (const uint8_t *)packet, (size_t)length, &ip,
                       announced && is_partial((const uint8_t *)packet, (size_t)length, &ip), 0);
    }
    join_flush(joiner);
    free(joiner);
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyMethodDef functions[] = {
    {"segment", py_segment, METH_VARARGS, NULL},
    {"complete", py_complete, METH_VARARGS, NULL},
    {"coalesce", py_coalesce, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* --- module ----------------------------------------------------------------------------------------------------- */

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->table_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &table_spec, NULL);
    state->engine_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &engine_spec, NULL);
    if (!state->table_type || !state->engine_type || PyModule_AddType(module, state->table_type) < 0 ||
        PyModule_AddType(module, state->engine_type) < 0)
        return -1;
#define X(name, text) text,
    static const char *const names[] = {FOR_EACH_REASON(X)};
#undef X
    PyObject *reasons = PyTuple_New(REASONS);
    for (int index = 0; reasons && index < REASONS; index++) {
        PyObject *name = PyUnicode_FromString(names[index]);
        if (!name || PyTuple_SetItem(reasons, index, name) < 0)
            Py_CLEAR(reasons);
    }
    int done = reasons ? PyModule_AddObjectRef(module, "REASONS", reasons) : -1;
    Py_XDECREF(reasons);
    const struct {
        const char *name;
        long value;
    } constants[] = {{"ATTENTION", ATTENTION}, {"OWN", OWN},         {"NOBODY", NOBODY},
                     {"PARTIAL", WAY_PARTIAL}, {"ECN", WAY_ECN}, {"TUNNEL", WAY_TUNNEL}};
    for (size_t index = 0; done == 0 && index < sizeof constants / sizeof *constants; index++)
        done = PyModule_AddIntConstant(module, constants[index].name, constants[index].value);
    return done;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->table_type);
    Py_VISIT(state->engine_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->table_type);
    Py_CLEAR(state->engine_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
