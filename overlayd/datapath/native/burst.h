/* One burst in either direction, and busy polling after it. */
#ifndef OVERLAYD_NATIVE_BURST_H
#define OVERLAYD_NATIVE_BURST_H

#include <sched.h>
#include <time.h>

#include "inbound.h"
#include "outbound.h"

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/* Poll until nothing has arrived for `poll` ns. Waking up is most of a round trip's time on an idle machine. */
static int busy_poll(struct engine *engine)
{
    int64_t now = nanoseconds(), limit = now + POLL_MAX, end = now + engine->poll;
    while (now < end && now < limit && !engine->ring_count) {
        int moved = outbound_burst(engine);
        if (moved < 0)
            return moved;
        for (enum family family = V4; family < FAMILIES; family++)
            if (engine->batches[family].socket >= 0)
                moved += inbound_burst(engine, family);
        if (!moved)
            sched_yield(); /* let whoever has something to send run */
        now = nanoseconds();
        if (moved)
            end = now + engine->poll;
    }
    return 0;
}

/* One burst from the TUN, or from the socket of an underlay family; then busy polling, if it is on. */
static int carry(struct engine *engine, enum direction direction, enum family family)
{
    int count = direction == OUTBOUND ? outbound_burst(engine) : inbound_burst(engine, family);
    if (engine->poll && count > 0 && busy_poll(engine) < 0)
        return TUN_GONE;
    return count;
}

#endif
