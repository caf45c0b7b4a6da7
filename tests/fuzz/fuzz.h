/* What the fuzz targets share: a reader of their input, and oracles that use none of the code under test. */
#ifndef OVERLAYD_FUZZ_H
#define OVERLAYD_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOLD(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                             \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- input: numbers are little-endian; what is missing at the end reads as 0 ------------------------------------- */

struct input {
    const uint8_t *at, *end;
};

static inline uint8_t take8(struct input *in) { return in->at < in->end ? *in->at++ : 0; }

static inline uint16_t take16(struct input *in)
{
    uint16_t low = take8(in);
    return (uint16_t)(low | take8(in) << 8);
}

static inline size_t take(struct input *in, void *to, size_t length)
{
    size_t left = (size_t)(in->end - in->at);
    length = length < left ? length : left;
    memcpy(to, in->at, length);
    in->at += length;
    return length;
}

/* --- oracles ---------------------------------------------------------------------------------------------------- */

/* The sum of 16-bit words in network order, as RFC 1071 section 4.1 writes it. */
static inline uint64_t words(const uint8_t *bytes, size_t length, uint64_t sum)
{
    size_t at = 0;
    for (; at + 1 < length; at += 2)
        sum += (unsigned)bytes[at] << 8 | bytes[at + 1];
    return at < length ? sum + ((unsigned)bytes[at] << 8) : sum;
}

static inline uint16_t checksum(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static inline unsigned read16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }

static inline void write16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8 & 255);
    at[1] = (uint8_t)(value & 255);
}

/* The parts of a packet, wherever its header says that they are. */
struct view {
    unsigned version, protocol, header; /* bytes of the IP header without extensions */
    const uint8_t *ends;                /* source and destination */
    unsigned ends_length;
};

/* Whether the packet is sound: as RFC 791 section 3.1 and RFC 8200 section 3 have it, and nothing follows it. */
static inline int view_of(const uint8_t *packet, size_t length, struct view *view)
{
    *view = (struct view){0};
    if (length >= 20 && packet[0] >> 4 == 4) {
        *view = (struct view){4, packet[9], (packet[0] & 15u) * 4, packet + 12, 8};
        return view->header >= 20 && view->header <= length && read16(packet + 2) == length;
    }
    if (length >= 40 && packet[0] >> 4 == 6) {
        *view = (struct view){6, packet[6], 40, packet + 8, 32};
        return read16(packet + 4) + 40 == length;
    }
    return 0;
}

/* The sum of a transport of that protocol at that offset, with its pseudo header (RFC 9293 section 3.1). */
static inline uint64_t transport_words(const uint8_t *packet, size_t length, const struct view *view, size_t transport,
                                       unsigned protocol)
{
    uint64_t sum = words(view->ends, view->ends_length, protocol);
    return words(packet + transport, length - transport, sum + length - transport);
}

#endif
