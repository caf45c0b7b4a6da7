/* The state of an engine, and what both directions share: counters, and packets that are handed to Python ("punted").
 *
 * No memory is allocated in a burst. A packet that is rare and needs a reply goes into a small ring, which Python empties
 * after the burst (`Engine.punted`).
 */
#ifndef OVERLAYD_NATIVE_ENGINE_H
#define OVERLAYD_NATIVE_ENGINE_H

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "coalesce.h"
#include "packet.h"
#include "segment.h"
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

/* Extensions of flannel's format that a peer has confirmed; by slot. */
enum capability { CAP_PARTIAL_SUMS = 1, CAP_ECN = 2, CAP_TUNNEL_GSO = 4 };

enum {
    UDP_PAYLOAD_MAX = 65507, /* 65535 less IPv4 and UDP headers */
    TUN_GONE = -1,
    ATTENTION = 1 << 20, /* added to a burst's count when `Engine.punted` or `Engine.degraded` has something */

    TX_READS = 64,              /* of the TUN in one burst */
    TX_BYTES = 1 << 20,         /* and no more than this */
    TX_ARENA = 384 << 10,       /* read before a flush; small enough to stay in the second-level cache */
    TX_ALIGN = 64,
    TX_LONE = 16,               /* see `lone` */
    TX_HEADERS = 256 << 10,     /* headers of segments before a flush */
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
    COALESCE_FAILURES = 16, /* superpackets refused by the TUN in a row before coalescing is given up */
};

/* As this host's containers see it; shared with Python. */
enum direction { OUTBOUND, INBOUND, DIRECTIONS };

/* Why a packet is handed to Python; exported to it under these names. */
enum punt_reason {
    PUNT_OUTBOUND, /* dropped outbound: the container may deserve an ICMP error */
    PUNT_INBOUND,  /* dropped inbound: the peer may deserve one */
    PUNT_EMSGSIZE, /* too long for the path */
    PUNT_HELLO,    /* not an IP packet, from an announced peer */
};

/* --- structs ---------------------------------------------------------------------------------------------------- */

struct traffic {
    uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
};

struct punt {
    enum punt_reason reason;
    int peer;          /* number in the current table: the receiver, or for inbound the sender */
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
    int socket;
    enum family family;
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

    struct batch batches[FAMILIES];
    int tap;                 /* takes superpackets with their outer headers, or -1 */
    struct outer outers[FAMILIES];
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
    struct coalescer coalescer;
    unsigned coalesce_failures;

    struct punt *ring;
    unsigned ring_count;

    struct traffic total, *slots;
    uint8_t *capabilities; /* enum capability; by slot, as the counters */
    int slot_count;
    uint64_t tx_reads, rx_reads; /* those of busy polling included */
    uint64_t drops[DIRECTIONS][REASONS];
    struct sockaddr_storage unknown_sender; /* of the last UNKNOWN_PEER, until Python has fetched it; else AF_UNSPEC */
    uint64_t unanswered; /* punted packets that found the ring full */
    uint64_t gso_failures, coalesce_refusals, tunnelled;
    int gso_error, coalesce_error, tunnel_error; /* errno of what made us give the offload up, until Python has fetched it */
};

/* --- helpers ---------------------------------------------------------------------------------------------------- */

static void punt(struct engine *engine, enum punt_reason reason, int peer, const struct iovec *parts, size_t count,
                   size_t length)
{
    if (engine->ring_count == RING) {
        engine->unanswered++;
        return;
    }
    struct punt *one = &engine->ring[engine->ring_count++];
    one->reason = reason;
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

#endif
