/* Inbound: from an underlay socket to the TUN.
 *
 * 1. recvmmsg      with UDP_GRO: a message is one datagram or a run of them
 * 2. decide        check and look up every datagram; the outer ECN field is merged into the inner one (RFC 6040)
 * 3. coalesce      packets of a flow into superpackets
 * 4. write         to the TUN; a superpacket that the TUN refuses is written packet by packet
 */
#ifndef OVERLAYD_NATIVE_INBOUND_H
#define OVERLAYD_NATIVE_INBOUND_H

#include <unistd.h>

#include "engine.h"

static bool write_tun(struct engine *engine, struct iovec *iov, int iovs)
{
    if (!engine->vnet) {
        const struct vnet *vnet = iov[0].iov_base;
        if (vnet->flags & VNET_NEEDS_CSUM) /* a single packet: nothing is coalesced for such a TUN */
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

/* The coalescer's sink: write one packet or superpacket to the TUN. */
static void write_coalesced(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers,
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
            engine->coalesce_failures = 0;
        return;
    }
    if (count == 1 || (errno != EINVAL && errno != EIO)) {
        engine->drops[INBOUND][TUN_ERROR] += count;
        return;
    }
    /* The kernel refuses the superpacket: write its packets, which are still intact in the receive buffer. */
    engine->coalesce_refusals++;
    if (++engine->coalesce_failures >= COALESCE_FAILURES && (engine->coalescer.tcp || engine->coalescer.udp)) {
        engine->coalescer.tcp = engine->coalescer.udp = false;
        engine->coalesce_error = errno;
    }
    for (int part = 2; part < iovs; part++) {
        size_t length = headers + iov[part].iov_len;
        uint8_t *packet = (uint8_t *)iov[part].iov_base - headers;
        struct ip ip;
        struct vnet own = {0}; /* a partial sum stays partial; a sum that only looks partial is not harmed */
        if (parse_ip(packet, length, &ip) == PASS && is_partial(packet, length, &ip))
            own = partial_vnet(&ip, length);
        struct iovec single[2] = {{&own, sizeof own}, {packet, length}};
        if (write_tun(engine, single, 2))
            count_rx(engine, owner, 1, length);
        else
            engine->drops[INBOUND][TUN_ERROR]++;
    }
}

/* A superpacket that arrived whole because nothing between the hosts had to segment it; false if it is not one. */
static bool inbound_superpacket(struct engine *engine, uint8_t *packet, size_t length, const struct ip *ip, int host)
{
    if (ip->protocol != PROTO_TCP || !is_partial(packet, length, ip))
        return false;
    size_t headers = ip->header + (size_t)(packet[ip->header + TCP_DATA_OFFSET] >> 4) * 4;
    if (headers >= engine->table->mtu || headers >= length)
        return false;
    struct vnet vnet = partial_vnet(ip, length);
    vnet.gso_type = ip->version == 4 ? GSO_TCPV4 : GSO_TCPV6;
    vnet.gso_size = (uint16_t)(engine->table->mtu - headers);
    vnet.hdr_len = (uint16_t)headers;
    struct segment_plan plan;
    if (!segment_plan(&plan, &vnet, packet, length, ip))
        return false;
    coalesce_flush(&engine->coalescer); /* keep the order */
    if (engine->coalescer.tcp) {
        struct iovec iov[2] = {{&vnet, sizeof vnet}, {packet, length}};
        if (write_tun(engine, iov, 2)) {
            count_rx(engine, host, plan.count, (uint64_t)plan.count * headers + plan.payload);
            return true;
        }
    }
    for (uint32_t index = 0; index < plan.count; index++) {
        uint8_t head[HEADERS_MAX];
        struct vnet plain = {0};
        size_t payload = segment_headers(&plan, index, head);
        struct iovec iov[3] = {
            {&plain, sizeof plain}, {head, headers}, {(void *)(uintptr_t)segment_payload(&plan, index), payload}};
        if (write_tun(engine, iov, 3))
            count_rx(engine, host, 1, headers + payload);
        else
            engine->drops[INBOUND][TUN_ERROR]++;
    }
    return true;
}

static void inbound_datagram(struct engine *engine, uint8_t *packet, size_t length, int host, unsigned ecn)
{
    struct ip ip;
    struct iovec part = {packet, length};
    bool announced = host >= 0 && engine->table->peers[host].announced;
    if (announced && length && packet[0] >> 4 == 0) { /* not an IP version: a hello */
        punt(engine, PUNT_HELLO, host, &part, 1, length);
        return;
    }
    enum reason reason = decide_inbound(engine->table, packet, length, host, &ip);
    if ((reason == PASS || reason == TOO_LONG) && !decapsulate_ecn(packet, &ip, ecn))
        reason = CE_NOT_ECT;
    if (reason == PASS) {
        coalesce_add(&engine->coalescer, packet, length, &ip, announced && is_partial(packet, length, &ip), host);
        return;
    }
    if (reason == TOO_LONG && announced && inbound_superpacket(engine, packet, length, &ip, host))
        return;
    engine->drops[INBOUND][reason]++;
    if (reason == TOO_LONG)
        punt(engine, PUNT_INBOUND, host, &part, 1, length);
}

/* Ancillary data: the size of the datagrams in a message (without UDP_GRO the message is one), and the outer ECN field. */
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

static int inbound_burst(struct engine *engine, enum family family)
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
            if (host == NOBODY)
                engine->unknown_sender = engine->rx_from[index];
            do { /* an empty datagram counts */
                size_t one = length - at < size ? length - at : size;
                inbound_datagram(engine, buffer + at, one, host, ecn);
                at += one;
            } while (at < length);
            batch_bytes += length;
        }
        coalesce_flush(&engine->coalescer); /* before the buffers are used again */
        burst += got;
        bytes += batch_bytes;
        engine->rx_batch = batch_bytes / (unsigned)got >= RX_LARGE ? RX_FEW : RX_MESSAGES;
        if ((unsigned)got < want && batch_bytes < BULK)
            break; /* else more may have arrived while this was written: cheaper than going to sleep */
    }
    engine->rx_reads += (unsigned)burst;
    return burst;
}

#endif
