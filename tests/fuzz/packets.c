/* Fuzz target of the packet functions (overlayd/datapath/native_packet.h, native_table.h).
 *
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ioverlayd/datapath tests/fuzz/packets.c -o packets && ./packets corpus
 * gcc -g -O1 -fsanitize=address,undefined -DSTANDALONE -Ioverlayd/datapath tests/fuzz/packets.c -o packets
 *     ./packets SECONDS [SEED]    mutates packets that it builds itself, without coverage
 *
 * Input: how it is used (1 byte), a virtio-net header (10 bytes), then packets, each behind its length (2 bytes, little
 * endian). Held: what is cut covers the packet and is sound; what is joined can be cut into as many packets again.
 */
#include <stdio.h>
#include <stdlib.h>

#include "native_packet.h"
#include "native_table.h"

#define HOLD(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint32_t offered, came_out;

static uint32_t cut_all(const struct vnet *vnet, const uint8_t *packet, size_t length)
{
    struct ip ip, part;
    struct cut cut;
    if (parse_ip(packet, length, &ip) != PASS || !cut_plan(&cut, vnet, packet, length, &ip))
        return 0;
    size_t payload = 0;
    for (uint32_t index = 0; index < cut.count; index++) {
        uint8_t *one = malloc(PACKET_MAX + 1); /* on the heap, so that the sanitizer sees its end */
        size_t size = cut_headers(&cut, index, one);
        HOLD(index + 1 == cut.count || size == cut.size);
        HOLD(cut.headers + size <= PACKET_MAX);
        memcpy(one + cut.headers, cut_payload(&cut, index), size);
        HOLD(parse_ip(one, cut.headers + size, &part) == PASS);
        payload += size;
        free(one);
    }
    HOLD(payload == cut.payload && payload + cut.headers == length);
    return cut.count;
}

static void sink(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t count, size_t headers, int owner)
{
    (void)context, (void)headers, (void)owner;
    size_t length = 0;
    for (int part = 1; part < iovs; part++)
        length += iov[part].iov_len;
    HOLD(length <= PACKET_MAX);
    uint8_t *whole = malloc(length + 1), *at = whole;
    for (int part = 1; part < iovs; part++) {
        memcpy(at, iov[part].iov_base, iov[part].iov_len);
        at += iov[part].iov_len;
    }
    if (count > 1)
        HOLD(cut_all(vnet, whole, length) == count);
    came_out += count;
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct joiner joiner;
    struct vnet vnet;
    if (size < 11)
        return 0;
    memcpy(&vnet, data + 1, sizeof vnet);
    joiner.tcp = data[0] & 1;
    joiner.udp = data[0] & 2;
    joiner.sink = sink;
    offered = came_out = 0;
    uint8_t *kept[256];
    unsigned used = 0;
    for (size_t at = 11; at + 2 <= size && used < 256;) {
        size_t length = data[at] | (size_t)data[at + 1] << 8;
        at += 2;
        if (length > size - at)
            length = size - at;
        uint8_t *packet = kept[used++] = malloc(length ? length : 1);
        memcpy(packet, data + at, length);
        at += length;
        cut_all(&vnet, packet, length);
        uint8_t *copy = malloc(length ? length : 1);
        memcpy(copy, packet, length);
        complete(copy, length, &vnet);
        free(copy);
        struct ip ip;
        if (parse_ip(packet, length, &ip) == PASS) {
            offered++;
            join_offer(&joiner, packet, length, &ip, 0);
        }
    }
    join_flush(&joiner);
    HOLD(offered == came_out);
    while (used)
        free(kept[--used]);
    return 0;
}

#ifdef STANDALONE
#include <time.h>

static uint64_t state;

static uint32_t any(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* xorshift64 */
    return (uint32_t)(state >> 11) % below;
}

/* One to twenty packets of one or two flows, sound but for a few bytes. */
static size_t build(uint8_t *out)
{
    size_t at = 11;
    bool v6 = any(2), udp = any(3) == 0;
    unsigned count = 1 + any(20), options = any(4) ? 0 : 4 * any(11), size = 1 + any(any(4) ? 100 : 1500);
    unsigned start = v6 ? IPV6_HEADER : IPV4_HEADER, own = udp ? UDP_HEADER : TCP_HEADER + options;
    uint32_t sequence = any(1u << 31);
    out[0] = (uint8_t)any(4);
    struct vnet vnet = {(uint8_t)any(2), (uint8_t)(udp ? GSO_UDP_L4 : v6 ? GSO_TCPV6 : GSO_TCPV4), 0,
                        (uint16_t)(1 + any(200)), (uint16_t)start, (uint16_t)(udp ? UDP_CHECK : TCP_CHECK)};
    memcpy(out + 1, &vnet, sizeof vnet);
    for (unsigned index = 0; index < count; index++) {
        unsigned payload = any(10) ? size : any(size + 1), length = start + own + payload;
        uint8_t *packet = out + at + 2;
        out[at] = (uint8_t)length, out[at + 1] = (uint8_t)(length >> 8);
        memset(packet, (int)index, length);
        memset(packet, 0, start + own);
        if (v6) {
            packet[0] = 0x60, packet[6] = udp ? PROTO_UDP : PROTO_TCP, packet[7] = 64;
            put16(packet + 4, length - IPV6_HEADER);
        } else {
            packet[0] = 0x45, packet[8] = 64, packet[9] = udp ? PROTO_UDP : PROTO_TCP;
            put16(packet + 2, length);
            put16(packet + 4, index);
            put_sum(packet + 10, (uint16_t)~fold(sum_bytes(packet, IPV4_HEADER, 0)));
        }
        uint8_t *transport = packet + start;
        put16(transport, 1 + any(2));
        if (udp) {
            put16(transport + 4, length - start);
        } else {
            put32(transport + 4, sequence);
            transport[12] = (uint8_t)(own / 4 << 4);
            transport[13] = TCP_ACK;
            sequence += payload;
        }
        struct ip ip;
        if (parse_ip(packet, length, &ip) == PASS) {
            uint64_t sum = sum_bytes(transport, length - start, pseudo_sum(&ip, ip.protocol, length - start));
            put_sum(transport + (udp ? UDP_CHECK : TCP_CHECK), (uint16_t)~fold(sum));
        }
        at += 2 + length;
    }
    for (unsigned changes = any(3) ? 0 : any(8); changes; changes--)
        out[any(4) ? any((uint32_t)(at < 80 ? at : 80)) : any((uint32_t)at)] = (uint8_t)any(256);
    return any(20) ? at : any((uint32_t)at);
}

int main(int argc, char **argv)
{
    static uint8_t buffer[1 << 17];
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    state = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 : 8285;
    unsigned long runs = 0, joined = 0;
    while (time(NULL) < end)
        for (int index = 0; index < 1000; index++, runs++) {
            LLVMFuzzerTestOneInput(buffer, build(buffer));
            joined += offered > 1;
        }
    printf("%lu inputs, %lu with more than one sound packet\n", runs, joined);
    return 0;
}
#endif
