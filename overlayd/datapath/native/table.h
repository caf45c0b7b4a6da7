/* The forwarding table: who owns an address, by the longest prefix; which peer is behind an underlay address.
 *
 * A table is never changed once packets are decided by it: what changes is set in a copy, which costs a plain copy of
 * its memory. For each prefix length in use, longest first, one hash table with open addressing: a look-up costs as many
 * probes as there are lengths, however many networks there are.
 */
#ifndef OVERLAYD_NATIVE_TABLE_H
#define OVERLAYD_NATIVE_TABLE_H

#include <netinet/in.h>
#include <stdlib.h>

#include "packet.h"

enum { NOBODY = -2, OWN = -1 }; /* owners that are no peers; a peer's is its index, 0 or more */

struct key {
    uint64_t high, low; /* an IPv4 address is the upper half of `high` */
};

struct peer {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t address_length;
    struct key key; /* the underlay address, to compare */
    bool ipv6;     /* the underlay family */
    bool announced; /* both leases say overlayd: it may leave sums partial, send hellos, ... */
    int slot;      /* of its counters */
};

struct row {
    struct key key;
    int owner;
};

struct level {
    int bits;
    struct key mask;
    uint32_t size; /* of `rows`; a power of two, at most half full */
    uint32_t used;
    struct row *rows;
};

struct table {
    uint32_t mtu;
    int peer_count;
    struct peer *peers;
    struct level hosts[FAMILIES]; /* underlay addresses, IPv4 and IPv6; the owner is the peer that stands for the address */
    int level_count[FAMILIES];
    struct level levels[FAMILIES][129];
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
    level->used = 0;
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

static inline bool level_copy(struct level *to, const struct level *from)
{
    *to = *from;
    to->rows = malloc(from->size * sizeof *to->rows);
    if (to->rows)
        memcpy(to->rows, from->rows, from->size * sizeof *to->rows);
    return to->rows;
}

static inline void level_remove(struct level *level, struct row *row)
{
    uint32_t last = level->size - 1, hole = (uint32_t)(row - level->rows);
    row->owner = NOBODY;
    level->used--;
    for (uint32_t at = (hole + 1) & last; level->rows[at].owner != NOBODY; at = (at + 1) & last) {
        uint32_t home = key_hash(level->rows[at].key) & last;
        if (((at - home) & last) >= ((at - hole) & last)) { /* else it would come to stand before its home */
            level->rows[hole] = level->rows[at];
            level->rows[at].owner = NOBODY;
            hole = at;
        }
    }
}

/* Give a key to an owner, or take it from whoever has it with NOBODY. False without memory; nothing is changed then. */
static inline bool level_set(struct level *level, struct key key, int owner)
{
    key.high &= level->mask.high;
    key.low &= level->mask.low;
    struct row *row = level_find(level, key);
    if (row->owner != NOBODY && owner == NOBODY)
        level_remove(level, row);
    if (owner == NOBODY)
        return true;
    if (row->owner == NOBODY && (level->used + 1) * 2 > level->size) {
        struct level grown;
        if (!level_init(&grown, level->bits, level->size))
            return false;
        for (uint32_t at = 0; at < level->size; at++)
            if (level->rows[at].owner != NOBODY)
                *level_find(&grown, level->rows[at].key) = level->rows[at];
        grown.used = level->used;
        free(level->rows);
        *level = grown;
        row = level_find(level, key);
    }
    level->used += row->owner == NOBODY;
    *row = (struct row){key, owner};
    return true;
}

/* The level of a prefix length, made where there is none yet; NULL without memory. */
static inline struct level *table_level(struct table *table, enum family family, int bits)
{
    struct level *levels = table->levels[family], made;
    int at = 0, count = table->level_count[family];
    while (at < count && levels[at].bits > bits)
        at++;
    if (at < count && levels[at].bits == bits)
        return &levels[at];
    if (!level_init(&made, bits, 0))
        return NULL;
    memmove(&levels[at + 1], &levels[at], (size_t)(count - at) * sizeof *levels);
    levels[at] = made;
    table->level_count[family]++;
    return &levels[at];
}

/* The owner of an address of that many bytes: a peer's index, OWN or NOBODY. */
static inline int table_owner(const struct table *table, const uint8_t *address, unsigned length)
{
    struct key key = key_of(address, length);
    enum family family = length == 16 ? V6 : V4;
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

static inline bool same_host(const struct peer *one, const struct peer *other)
{
    return one == other ||
           (one->ipv6 == other->ipv6 && one->key.high == other->key.high && one->key.low == other->key.low);
}

/* As core.forward.decide_outbound, but for the MTU, which a superpacket's segments have to fit: PASS sets `peer`. */
static inline enum reason decide_outbound(const struct table *table, const struct ip *ip, int *peer)
{
    if (table_owner(table, ip->source, ip->address) != OWN)
        return SOURCE_NOT_OWN;
    *peer = table_owner(table, ip->destination, ip->address);
    return *peer == NOBODY ? NO_LEASE : *peer == OWN ? DESTINATION_OWN : PASS;
}

/* As core.forward.decide_inbound, for a datagram from `host` (table_host), whoever that is. PASS fills `ip`. */
static inline enum reason decide_inbound(const struct table *table, const uint8_t *packet, size_t length, int host,
                                         struct ip *ip)
{
    if (host < 0)
        return UNKNOWN_PEER;
    enum reason reason = parse_ip(packet, length, ip);
    if (reason != PASS)
        return reason;
    int holder = table_owner(table, ip->source, ip->address);
    if (holder < 0 || !same_host(&table->peers[holder], &table->peers[host]))
        return SPOOFED_SOURCE;
    if (table_owner(table, ip->destination, ip->address) != OWN)
        return DESTINATION_NOT_OWN;
    if (get_ttl(packet, ip) == 0)
        return TTL_EXPIRED;
    return length > table->mtu ? TOO_LONG : PASS;
}

static inline void table_free(struct table *table)
{
    if (!table)
        return;
    for (enum family family = V4; family < FAMILIES; family++) {
        for (int index = 0; index < table->level_count[family]; index++)
            free(table->levels[family][index].rows);
        free(table->hosts[family].rows);
    }
    free(table->peers);
    free(table);
}

/* NULL without memory. */
static inline struct table *table_empty(uint32_t mtu)
{
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->mtu = mtu;
    table->peers = calloc(1, sizeof *table->peers);
    if (table->peers && level_init(&table->hosts[0], 32, 0) && level_init(&table->hosts[1], 128, 0))
        return table;
    table_free(table);
    return NULL;
}

/* The same with room for so many peers, or more where it has more; levels that nobody uses left out. NULL without memory. */
static inline struct table *table_copy(const struct table *from, int peers)
{
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->mtu = from->mtu;
    table->peer_count = peers > from->peer_count ? peers : from->peer_count;
    table->peers = calloc((size_t)table->peer_count + 1, sizeof *table->peers);
    bool whole = table->peers;
    if (whole)
        memcpy(table->peers, from->peers, (size_t)from->peer_count * sizeof *from->peers);
    for (enum family family = V4; family < FAMILIES && whole; family++) {
        whole = level_copy(&table->hosts[family], &from->hosts[family]);
        for (int index = 0; index < from->level_count[family] && whole; index++) {
            if (from->levels[family][index].used == 0)
                continue;
            int *count = &table->level_count[family];
            whole = level_copy(&table->levels[family][*count], &from->levels[family][index]);
            *count += whole;
        }
    }
    if (whole)
        return table;
    table_free(table);
    return NULL;
}

#endif
