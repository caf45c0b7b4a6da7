/* Outbound: from the TUN to the underlay.
 *
 * 1. read          the TUN, until it is empty or the burst is full
 * 2. decide        check and look up, once for a superpacket
 * 3. tunnel        or segment it, sums left partial where the peer has that capability
 * 4. run_add       and flush at the end of the burst
 */
#ifndef OVERLAYD_NATIVE_OUTBOUND_H
#define OVERLAYD_NATIVE_OUTBOUND_H

#include <unistd.h>

#include "tunnel.h"

/* One packet or superpacket as it was read: `packet` lives in the arena until the flush. */
static void outbound_packet(struct engine *engine, const struct vnet *vnet, uint8_t *packet, size_t length)
{
    struct ip ip;
    int peer = NOBODY;
    bool superpacket = vnet->gso_type != GSO_NONE;
    struct segment_plan plan = {.count = 1};
    enum reason reason = parse_ip(packet, length, &ip);
    if (reason == PASS && superpacket && !segment_plan(&plan, vnet, packet, length, &ip)) {
        plan.count = 1;
        reason = LENGTH_MISMATCH;
    }
    if (reason == PASS)
        reason = decide_outbound(engine->table, &ip, &peer);
    unsigned capabilities = reason == PASS ? engine->capabilities[engine->table->peers[peer].slot] : 0;
    plan.partial = (capabilities & CAP_PARTIAL_SUMS) && (vnet->flags & VNET_NEEDS_CSUM) && vnet->csum_start == ip.header &&
                  vnet->csum_offset == check_offset(&ip, length);
    if (!superpacket && !plan.partial && (vnet->flags & VNET_NEEDS_CSUM) && !complete(packet, length, vnet) &&
        reason == PASS)
        reason = LENGTH_MISMATCH;
    size_t longest = superpacket && plan.count > 1 ? (size_t)plan.headers + plan.size : length;
    if (reason == PASS && longest > engine->table->mtu)
        reason = TOO_LONG;

    if (reason != PASS) {
        engine->drops[OUTBOUND][reason] += plan.count;
        if (reason == NO_LEASE || reason == TOO_LONG) {
            uint8_t headers[HEADERS_MAX];
            struct iovec parts[2] = {{packet, length}, {NULL, 0}};
            if (superpacket) { /* the sender sees no superpackets: report the first segment */
                parts[1].iov_len = segment_headers(&plan, 0, headers);
                parts[1].iov_base = (void *)(uintptr_t)segment_payload(&plan, 0);
                parts[0] = (struct iovec){headers, plan.headers};
            }
            punt(engine, PUNT_OUTBOUND, peer, parts, 2, parts[0].iov_len + parts[1].iov_len);
        }
        return;
    }
    unsigned ecn = capabilities & CAP_ECN ? get_ecn(packet, &ip) : NOT_ECT;
    if (!superpacket) {
        run_add(engine, peer, ecn, packet, length, NULL, 0);
        return;
    }
    if ((capabilities & CAP_TUNNEL_GSO) && plan.count >= TUNNEL_SEGMENTS && tunnel(engine, &plan, vnet, length, peer, ecn))
        return;
    for (uint32_t index = 0; index < plan.count; index++) {
        if (engine->headers_used + plan.headers > TX_HEADERS)
            flush(engine); /* the payload stays where it is */
        uint8_t *headers = engine->headers + engine->headers_used;
        engine->headers_used += ((size_t)plan.headers + 15) & ~(size_t)15;
        size_t payload = segment_headers(&plan, index, headers);
        run_add(engine, peer, ecn, headers, plan.headers, segment_payload(&plan, index), payload);
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
            flush(engine); /* more may arrive while this is sent: cheaper than going to sleep */
            used = 0;
            flushed = bytes;
            continue;
        }
        reads++;
        if ((size_t)got < head) {
            engine->drops[OUTBOUND][TOO_SHORT]++;
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
            break; /* more packets will wake us again */
    }
    flush(engine);
    engine->tx_reads += (unsigned)reads;
    if (reads)
        engine->lone = reads == 1 && bytes <= engine->table->mtu ? engine->lone + 1 : 0;
    return result ? result : reads;
}

#endif
