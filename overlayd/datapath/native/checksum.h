/* The Internet checksum (RFC 1071), in the machine's own byte order: section 2 B says that the result is the same. */
#ifndef OVERLAYD_NATIVE_CHECKSUM_H
#define OVERLAYD_NATIVE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sums `steps` times two vectors of `width` bytes. 32-bit words go into 64-bit lanes: no carry is lost below 2^32 steps. */
#define SUM_VECTORS(name, width, attributes)                                                                           \
    typedef uint64_t name##_lanes __attribute__((vector_size(width)));                                                 \
    attributes static inline uint64_t name(const uint8_t *bytes, size_t steps)                                         \
    {                                                                                                                  \
        const name##_lanes low = (name##_lanes){0} + 0xffffffff;                                                       \
        name##_lanes first, second, a = {0}, b = {0}, c = {0}, d = {0};                                                \
        for (; steps; steps--, bytes += 2 * (width)) {                                                                 \
            memcpy(&first, bytes, width);                                                                              \
            memcpy(&second, bytes + (width), width);                                                                   \
            a += first & low;                                                                                          \
            b += first >> 32;                                                                                          \
            c += second & low;                                                                                         \
            d += second >> 32;                                                                                         \
        }                                                                                                              \
        a += b + c + d;                                                                                                \
        uint64_t sum = 0;                                                                                              \
        for (unsigned lane = 0; lane < (width) / sizeof sum; lane++)                                                   \
            sum += a[lane];                                                                                            \
        return sum;                                                                                                    \
    }

SUM_VECTORS(sum_vectors, 16, ) /* what every 64-bit machine has (SSE2, NEON); the compiler makes do where there is none */
#ifdef __x86_64__
#define SUM_AVX2 1
SUM_VECTORS(sum_vectors_avx2, 32, __attribute__((target("avx2"))))
#endif

enum { SUM_STEP = 64, SUM_VECTORS_FROM = 128 /* bytes: below, folding the lanes costs more than it saves */ };

/* Adds the bytes to a sum, which is not folded. What lies at an odd offset of the whole may not be added to others. */
static inline uint64_t sum_bytes(const uint8_t *bytes, size_t length, uint64_t sum)
{
    if (length >= SUM_VECTORS_FROM) {
        size_t steps = length / SUM_STEP;
#ifdef SUM_AVX2
        sum += __builtin_cpu_supports("avx2") ? sum_vectors_avx2(bytes, steps) : sum_vectors(bytes, 2 * steps);
#else
        sum += sum_vectors(bytes, 2 * steps);
#endif
        bytes += steps * SUM_STEP;
        length -= steps * SUM_STEP;
    }
    for (; length >= 4; bytes += 4, length -= 4) {
        uint32_t word;
        memcpy(&word, bytes, 4);
        sum += word;
    }
    if (length) {
        uint32_t word = 0;
        memcpy(&word, bytes, length);
        sum += word;
    }
    return sum;
}

static inline uint16_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static inline void put_sum(uint8_t *at, uint16_t folded) { memcpy(at, &folded, 2); }

#endif
