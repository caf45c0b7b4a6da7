/* Tunnel GSO: where the kernel segments tunnels (Linux 6.17), a superpacket goes whole, with its outer headers, into a TAP
 * from which the kernel forwards it.
 *
 * TAP frame:  virtio-net header | Ethernet | IP | UDP | the container's superpacket
 */
#ifndef OVERLAYD_NATIVE_TUNNEL_H
#define OVERLAYD_NATIVE_TUNNEL_H

#include <unistd.h>

#include "send.h"

/* Write a payload with outer headers to the TAP, its outer checksum left to the kernel; whether the kernel took it. */
static bool write_tap(struct engine *engine, const struct peer *to, const struct vnet *vnet, unsigned ecn,
                      const void *payload, size_t length)
{
    struct outer *outer = &engine->outers[to->ipv6];
    uint8_t *network = outer->bytes + VNET_TUNNEL + ETHERNET, *udp;
    memcpy(outer->bytes, vnet, sizeof *vnet);
    if (to->ipv6) {
        udp = network + IPV6_HEADER;
        network[IP6_TRAFFIC_CLASS] = (uint8_t)(ecn << 4);
        put16(network + IP6_LENGTH, (uint32_t)(length + UDP_HEADER));
        memcpy(network + IP6_DESTINATION, &to->address.v6.sin6_addr, 16);
        memcpy(udp + UDP_DESTINATION, &to->address.v6.sin6_port, 2);
    } else {
        udp = network + IPV4_HEADER;
        network[IP4_TOS] = (uint8_t)ecn;
        put16(network + IP4_LENGTH, (uint32_t)(length + UDP_HEADER + IPV4_HEADER));
        memcpy(network + IP4_DESTINATION, &to->address.v4.sin_addr, 4);
        put16(network + IP4_CHECK, 0);
        put_sum(network + IP4_CHECK, (uint16_t)~fold(sum_bytes(network, IPV4_HEADER, 0)));
        memcpy(udp + UDP_DESTINATION, &to->address.v4.sin_port, 2);
    }
    put16(udp + UDP_LENGTH, (uint32_t)(length + UDP_HEADER));
    size_t address = to->ipv6 ? 16 : 4;
    put_sum(udp + UDP_CHECK, fold(sum_bytes(udp - 2 * address, 2 * address, 0) + htons(PROTO_UDP) +
                          htons((uint16_t)(length + UDP_HEADER))));

    struct iovec iov[2] = {{outer->bytes, outer->length}, {(void *)(uintptr_t)payload, length}};
    ssize_t done;
    do
        done = writev(engine->tap, iov, 2);
    while (done < 0 && errno == EINTR);
    return done >= 0;
}

/* Whether packets of that length to this peer can go through the TAP. */
static bool can_tunnel(const struct engine *engine, const struct peer *to, size_t length)
{
    return engine->tap >= 0 && engine->outers[to->ipv6].length && length <= UDP_PAYLOAD_MAX;
}

/* Hand a superpacket to the kernel, to be segmented as late as possible; whether it took it. */
static bool tunnel(struct engine *engine, const struct segment_plan *plan, const struct vnet *inner, size_t length, int peer,
                   unsigned ecn)
{
    const struct peer *to = &engine->table->peers[peer];
    if (!can_tunnel(engine, to, length) || plan->udp || plan->ip.protocol != PROTO_TCP)
        return false;
    uint16_t behind = (uint16_t)(engine->outers[to->ipv6].length - VNET_TUNNEL);
    struct vnet vnet = *inner;
    vnet.flags = VNET_NEEDS_CSUM | VNET_TUNNEL_CSUM;
    vnet.gso_type |= to->ipv6 ? GSO_TUNNEL6 : GSO_TUNNEL4;
    vnet.hdr_len = (uint16_t)(plan->headers + behind);
    vnet.csum_start = (uint16_t)(vnet.csum_start + behind);
    flush(engine); /* keep the order */
    if (!write_tap(engine, to, &vnet, ecn, plan->packet, length)) {
        if (errno != EAGAIN && errno != ENOBUFS) {
            engine->tunnel_error = errno;
            engine->tap = -1;
        }
        return false;
    }
    engine->tunnelled++;
    count_tx(engine, peer, plan->count, (uint64_t)plan->count * plan->headers + plan->payload);
    return true;
}

#endif
