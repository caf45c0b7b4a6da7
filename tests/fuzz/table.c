/* Fuzz target of the forwarding table (overlayd/datapath/native_table.h).
 *
 * Input: MTU (2 bytes), length of the packets (2), how many peers (1), for each: 1 for IPv6, address (4 or 16);
 * then networks until the end, for each: family and owner (1 byte: bit 0 for IPv6; above it 0 for this host, else one more
 * than the peer's index), prefix length (1), address (4 or 16).
 *
 * Held: owners and hosts are what a scan of the list finds, by the longest prefix, the last of equals; verdicts follow
 * from that. Asked about: the first and the last address of each network, and their neighbours.
 */
#include "fuzz.h"
#include "native_table.h"

enum { PEERS = 16, NETWORKS = 48, ENDS = 10 };

struct network {
    unsigned width, bits;
    int owner;
    uint8_t address[16];
};

struct host {
    unsigned width;
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

static int scan(const uint8_t *address, unsigned width)
{
    const struct network *best = NULL;
    for (unsigned index = 0; index < network_count; index++)
        if (covers(&networks[index], address, width) && (!best || networks[index].bits >= best->bits))
            best = &networks[index];
    return best ? best->owner : NOBODY;
}

static int scan_hosts(const uint8_t *address, unsigned width)
{
    int found = NOBODY;
    for (unsigned index = 0; index < host_count; index++)
        if (hosts[index].width == width && memcmp(hosts[index].address, address, width) == 0)
            found = (int)index;
    return found;
}

/* --- the table, as native.c makes it ---------------------------------------------------------------------------- */

static void fill_level(struct level *level, unsigned width, unsigned bits)
{
    size_t rows = 0;
    for (unsigned index = 0; index < network_count; index++)
        rows += networks[index].width == width && networks[index].bits == bits;
    HOLD(level_init(level, (int)bits, rows));
    HOLD(level->size >= 2 * rows && (level->size & (level->size - 1)) == 0);
    for (unsigned index = 0; index < network_count; index++)
        if (networks[index].width == width && networks[index].bits == bits) {
            struct key key = key_of(networks[index].address, width);
            key.high &= level->mask.high;
            key.low &= level->mask.low;
            *level_find(level, key) = (struct row){key, networks[index].owner};
        }
}

static struct table *build(unsigned mtu)
{
    struct table *table = calloc(1, sizeof *table);
    HOLD(table);
    table->mtu = mtu;
    table->peers = calloc(host_count + 1, sizeof *table->peers);
    HOLD(table->peers && level_init(&table->hosts[0], 32, host_count) && level_init(&table->hosts[1], 128, host_count));
    for (unsigned index = 0; index < host_count; index++) {
        struct key key = key_of(hosts[index].address, hosts[index].width);
        *level_find(&table->hosts[hosts[index].width == 16], key) = (struct row){key, (int)index};
    }
    table->peer_count = (int)host_count;
    for (unsigned index = 0; index < host_count; index++)
        table->peers[index].host = table_host(table, hosts[index].address, hosts[index].width);
    for (unsigned width = 4; width <= 16; width += 12)
        for (int bits = (int)width * 8; bits >= 0; bits--) {
            unsigned index = 0;
            while (index < network_count && (networks[index].width != width || networks[index].bits != (unsigned)bits))
                index++;
            if (index < network_count)
                fill_level(&table->levels[width == 16][table->level_count[width == 16]++], width, (unsigned)bits);
        }
    return table;
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
    HOLD(decide_inbound(table, packet, length, NOBODY, &ip) == STRANGER);
    for (unsigned index = 0; index < host_count; index++) {
        int host = scan_hosts(hosts[index].address, hosts[index].width);
        reason = decide_inbound(table, packet, length, host, &ip);
        int holder = sender < 0 ? NOBODY : scan_hosts(hosts[sender].address, hosts[sender].width);
        HOLD(reason == (holder != host      ? SPOOFED_SOURCE
                        : receiver != OWN     ? DESTINATION_NOT_OWN
                        : length > table->mtu ? TOO_LONG
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
        *host = (struct host){.width = take8(&in) & 1 ? 16 : 4};
        take(&in, host->address, host->width);
    }
    while (in.at < in.end && network_count < NETWORKS) {
        struct network *network = &networks[network_count++];
        unsigned kind = take8(&in);
        *network = (struct network){.width = kind & 1 ? 16 : 4, .owner = (int)(kind >> 1) % (int)(host_count + 1) - 1};
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
