/* The forwarding table: who owns an address, by the longest prefix; which peer is behind an underlay address.
 *
 * A table is made once and never changed. For each prefix length in use, longest first, one hash table with open
 * addressing: a look-up costs as many probes as there are lengths, however many networks there are.
 */
#ifndef OVERLAYD_NATIVE_TABLE_H
#define OVERLAYD_NATIVE_TABLE_H

#include <netinet/in.h>
#include <stdlib.h>

#include "native_packet.h"

enum { NOBODY = -2, OWN = -1 }; /* owners that are no peers; a peer's is its index, 0 or more */

struct peer {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t address_length;
    bool ipv6;     /* the carrier */
    bool announced; /* its lease and ours say that both ends are overlayd: it may leave sums partial, ask, ... */
    int slot;      /* of its counters */
    int host;      /* index of the peer that stands for this underlay address */
};

struct key {
    uint64_t high, low; /* an IPv4 address is the upper half of `high` */
};

struct row {
    struct key key;
    int owner;
};

struct level {
    int bits;
    struct key mask;
    uint32_t size; /* of `rows`; a power of two, at most half full */
    struct row *rows;
};

struct table {
    uint32_t mtu;
    int peer_count;
    struct peer *peers;
    struct level hosts[2];                       /* underlay addresses, IPv4 and IPv6; owner is a peer's index */
    int level_count[2];
    struct level levels[2][129];
};

static inline struct key key_of(const uint8_t *address, unsigned length)
{
    if (length == 4)
        return (struct key){(uint64_t)get32(address) << 32, 0};
    return (struct key){(uint64_t)get32(address) << 32 | get32(address + 4),
                        (uint64_t)get32(address + 8) << 32 | get32(address + 12)};
}

static inline uint32_t key_hash(struct key key)
{
    uint64_t mixed = (key.high ^ (key.low * 0x9e3779b97f4a7c15u)) * 0xd6e8feb86659fd93u;
    return (uint32_t)(mixed >> 32 ^ mixed >> 48);
}

static inline struct row *level_find(const struct level *level, struct key key)
{
    uint32_t at = key_hash(key) & (level->size - 1);
    while (level->rows[at].owner != NOBODY &&
           (level->rows[at].key.high != key.high || level->rows[at].key.low != key.low))
        at = (at + 1) & (level->size - 1);
    return &level->rows[at]; /* the row of the key, or the free one where it would be */
}

static inline bool level_init(struct level *level, int bits, size_t rows)
{
    level->bits = bits;
    level->mask.high = bits == 0 ? 0 : bits >= 64 ? ~(uint64_t)0 : ~(uint64_t)0 << (64 - bits);
    level->mask.low = bits <= 64 ? 0 : bits >= 128 ? ~(uint64_t)0 : ~(uint64_t)0 << (128 - bits);
    level->size = 4;
    while (level->size < rows * 2)
        level->size *= 2;
    level->rows = malloc(level->size * sizeof *level->rows);
    if (!level->rows)
        return false;
    for (uint32_t at = 0; at < level->size; at++)
        level->rows[at].owner = NOBODY;
    return true;
}

/* The owner of an address of that many bytes: a peer's index, OWN or NOBODY. */
static inline int table_owner(const struct table *table, const uint8_t *address, unsigned length)
{
    struct key key = key_of(address, length);
    int family = length == 16;
    for (int index = 0; index < table->level_count[family]; index++) {
        const struct level *level = &table->levels[family][index];
        int owner = level_find(level, (struct key){key.high & level->mask.high, key.low & level->mask.low})->owner;
        if (owner != NOBODY)
            return owner;
    }
    return NOBODY;
}

/* The peer behind an underlay address, or NOBODY. */
static inline int table_host(const struct table *table, const uint8_t *address, unsigned length)
{
    return level_find(&table->hosts[length == 16], key_of(address, length))->owner;
}

/* As core.decide.decide_outbound, but for the MTU, which a superpacket's segments have to fit: PASS sets `peer`. */
static inline enum reason decide_outbound(const struct table *table, const struct ip *ip, int *peer)
{
    if (table_owner(table, ip->source, ip->address) != OWN)
        return SOURCE_NOT_OWN;
    *peer = table_owner(table, ip->destination, ip->address);
    return *peer == NOBODY ? NO_LEASE : *peer == OWN ? DESTINATION_OWN : PASS;
}

/* As core.decide.decide_inbound, for a datagram from `host` (table_host), whoever that is. PASS fills `ip`. */
static inline enum reason decide_inbound(const struct table *table, const uint8_t *packet, size_t length, int host,
                                         struct ip *ip)
{
    if (host < 0)
        return STRANGER;
    enum reason reason = parse_ip(packet, length, ip);
    if (reason != PASS)
        return reason;
    int holder = table_owner(table, ip->source, ip->address);
    if (holder < 0 || table->peers[holder].host != host)
        return SPOOFED_SOURCE;
    if (table_owner(table, ip->destination, ip->address) != OWN)
        return DESTINATION_NOT_OWN;
    return length > table->mtu ? TOO_LONG : PASS;
}

static inline void table_free(struct table *table)
{
    if (!table)
        return;
    for (int family = 0; family < 2; family++) {
        for (int index = 0; index < table->level_count[family]; index++)
            free(table->levels[family][index].rows);
        free(table->hosts[family].rows);
    }
    free(table->peers);
    free(table);
}

#endif
