/* Fuzz target of the forwarding table (overlayd/datapath/native/table.h).
 *
 * Input: MTU (2 bytes), length of the packets (2), how many peers (1), for each: bit 0 for IPv6, bit 1 when nobody stands
 * for its address from now on (1), address (4 or 16); then networks until the end, for each: family and owner (1 byte:
 * bit 0 for IPv6; above it 0 for nobody from now on, 1 for this host, else two more than the peer's index), prefix
 * length (1), address (4 or 16).
 *
 * Held: owners and hosts are what a scan of the list finds, by the longest prefix, the last of equals; verdicts follow
 * from that; copies are as what they are copied from. Asked about: the first and the last address of each network, and
 * their neighbours.
 */
#include "fuzz.h"
#include "table.h"

enum { PEERS = 16, NETWORKS = 48, ENDS = 10 };

struct network {
    unsigned width, bits;
    int owner;
    uint8_t address[16];
};

struct host {
    unsigned width, gone;
    uint8_t address[16];
};

static struct network networks[NETWORKS];
static struct host hosts[PEERS];
static unsigned network_count, host_count;

/* --- oracles ---------------------------------------------------------------------------------------------------- */

static int bit(const uint8_t *address, unsigned number) { return address[number / 8] >> (7 - number % 8) & 1; }

static int covers(const struct network *network, const uint8_t *address, unsigned width)
{
    unsigned same = 0;
    if (network->width != width)
        return 0;
    while (same < network->bits && bit(network->address, same) == bit(address, same))
        same++;
    return same == network->bits;
}

/* Whether a later one is of the same network. */
static int replaced(unsigned index)
{
    const struct network *one = &networks[index];
    for (unsigned later = index + 1; later < network_count; later++)
        if (networks[later].bits == one->bits && covers(&networks[later], one->address, one->width))
            return 1;
    return 0;
}

static int scan(const uint8_t *address, unsigned width)
{
    const struct network *best = NULL;
    for (unsigned index = 0; index < network_count; index++)
        if (networks[index].owner != NOBODY && covers(&networks[index], address, width) &&
            (!best || networks[index].bits > best->bits) && !replaced(index))
            best = &networks[index];
    return best ? best->owner : NOBODY;
}

static int same_address(unsigned one, unsigned other)
{
    return hosts[one].width == hosts[other].width && !memcmp(hosts[one].address, hosts[other].address, hosts[one].width);
}

static int scan_hosts(const uint8_t *address, unsigned width)
{
    int found = NOBODY;
    for (unsigned index = 0; index < host_count; index++)
        if (hosts[index].width == width && memcmp(hosts[index].address, address, width) == 0)
            found = hosts[index].gone ? NOBODY : (int)index;
    return found;
}

/* --- the table, as native.c makes it ---------------------------------------------------------------------------- */

static void sound(const struct level *level)
{
    uint32_t used = 0;
    for (uint32_t at = 0; at < level->size; at++)
        used += level->rows[at].owner != NOBODY;
    HOLD(used == level->used && used * 2 <= level->size && (level->size & (level->size - 1)) == 0);
}

/* As after one more change. */
static struct table *again(struct table *table, int peers)
{
    struct table *copy = table_copy(table, peers);
    HOLD(copy && copy->peer_count == peers);
    table_free(table);
    for (int family = 0; family < 2; family++) {
        sound(&copy->hosts[family]);
        for (int index = 0; index < copy->level_count[family]; index++) {
            sound(&copy->levels[family][index]);
            HOLD(copy->levels[family][index].used);
            HOLD(index == 0 || copy->levels[family][index].bits < copy->levels[family][index - 1].bits);
        }
    }
    return copy;
}

static struct table *build(unsigned mtu)
{
    struct table *table = table_empty(mtu);
    HOLD(table && table->mtu == mtu);
    for (unsigned index = 0; index < host_count; index++) {
        table = again(table, (int)index + 1);
        const struct host *host = &hosts[index];
        struct peer *peer = &table->peers[index];
        peer->ipv6 = host->width == 16;
        peer->key = key_of(host->address, host->width);
        HOLD(level_set(&table->hosts[peer->ipv6], peer->key, host->gone ? NOBODY : (int)index));
    }
    for (unsigned index = 0; index < network_count; index++) {
        const struct network *network = &networks[index];
        struct level *level = table_level(table, network->width == 16, (int)network->bits);
        HOLD(level && level_set(level, key_of(network->address, network->width), network->owner));
        if (index % 4 == 3)
            table = again(table, (int)host_count);
    }
    return again(table, (int)host_count);
}

/* --- held ------------------------------------------------------------------------------------------------------- */

static void ask(const struct table *table, const uint8_t *address, unsigned width)
{
    uint8_t *exact = malloc(width); /* on the heap, so that the sanitizer sees its end */
    HOLD(exact);
    memcpy(exact, address, width);
    HOLD(table_owner(table, exact, width) == scan(exact, width));
    HOLD(table_host(table, exact, width) == scan_hosts(exact, width));
    free(exact);
}

static void step(uint8_t *address, unsigned width, int by)
{
    for (unsigned at = width; at-- > 0;) {
        int value = address[at] + by;
        address[at] = (uint8_t)value;
        if (value >= 0 && value <= 255)
            return;
    }
}

static void ask_around(const struct table *table, const struct network *network)
{
    uint8_t address[16];
    memcpy(address, network->address, network->width);
    ask(table, address, network->width);
    for (int last = 0; last < 2; last++) {
        for (unsigned number = network->bits; number < network->width * 8; number++)
            address[number / 8] = (uint8_t)((address[number / 8] & ~(128 >> number % 8)) | last * 128 >> number % 8);
        ask(table, address, network->width);
        uint8_t beyond[16];
        memcpy(beyond, address, network->width);
        step(beyond, network->width, last ? 1 : -1);
        ask(table, beyond, network->width);
    }
}

/* Both verdicts on a packet between two networks, from each peer and from a stranger. */
static void judge(const struct table *table, const struct network *from, const struct network *to, size_t length)
{
    const size_t header = from->width == 4 ? 20 : 40;
    if (from->width != to->width || length < header)
        return;
    uint8_t *packet = calloc(1, length);
    HOLD(packet);
    if (from->width == 4) {
        packet[0] = 0x45;
        write16(packet + 2, (unsigned)length);
    } else {
        packet[0] = 0x60;
        write16(packet + 4, (unsigned)length - 40);
    }
    const bool expired = length % 4 == 0;
    packet[from->width == 4 ? 8 : 7] = expired ? 0 : 64;
    uint8_t *source = packet + (from->width == 4 ? 12 : 8), *destination = source + from->width;
    memcpy(source, from->address, from->width);
    memcpy(destination, to->address, from->width);
    int sender = scan(source, from->width), receiver = scan(destination, from->width), peer = NOBODY;
    struct ip ip;
    HOLD(parse_ip(packet, length, &ip) == PASS);
    enum reason reason = decide_outbound(table, &ip, &peer);
    if (sender != OWN)
        HOLD(reason == SOURCE_NOT_OWN);
    else if (receiver < 0)
        HOLD(reason == (receiver == OWN ? DESTINATION_OWN : NO_LEASE));
    else
        HOLD(reason == PASS && peer == receiver);
    HOLD(decide_inbound(table, packet, length, NOBODY, &ip) == UNKNOWN_PEER);
    for (unsigned index = 0; index < host_count; index++) {
        int host = scan_hosts(hosts[index].address, hosts[index].width);
        if (host == NOBODY)
            continue;
        reason = decide_inbound(table, packet, length, host, &ip);
        HOLD(reason == (sender < 0 || !same_address((unsigned)sender, index) ? SPOOFED_SOURCE
                        : receiver != OWN                                    ? DESTINATION_NOT_OWN
                        : expired                                            ? TTL_EXPIRED
                        : length > table->mtu                                ? TOO_LONG
                                                                             : PASS));
        HOLD(decide_inbound(table, packet, length - 1, host, &ip) == (length == header ? TOO_SHORT : LENGTH_MISMATCH));
    }
    free(packet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    unsigned mtu = take16(&in), length = take16(&in);
    network_count = host_count = 0;
    for (unsigned left = take8(&in) % (PEERS + 1); left; left--) {
        struct host *host = &hosts[host_count++];
        unsigned kind = take8(&in);
        *host = (struct host){.width = kind & 1 ? 16 : 4, .gone = kind & 2};
        take(&in, host->address, host->width);
    }
    while (in.at < in.end && network_count < NETWORKS) {
        struct network *network = &networks[network_count++];
        unsigned kind = take8(&in);
        *network = (struct network){.width = kind & 1 ? 16 : 4, .owner = (int)(kind >> 1) % (int)(host_count + 2) - 2};
        network->bits = take8(&in) % (network->width * 8 + 1);
        take(&in, network->address, network->width);
    }
    struct table *table = build(mtu);
    for (unsigned index = 0; index < host_count; index++)
        ask(table, hosts[index].address, hosts[index].width);
    for (unsigned index = 0; index < network_count; index++)
        ask_around(table, &networks[index]);
    for (unsigned from = 0; from < network_count && from < ENDS; from++)
        for (unsigned to = 0; to < network_count && to < ENDS; to++)
            judge(table, &networks[from], &networks[to], length);
    table_free(table);
    return 0;
}
