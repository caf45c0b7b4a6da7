/* Sending: datagrams of one size to one peer are gathered into runs, a batch of runs is sent by one sendmmsg.
 *
 * 1. run_add       a datagram joins its peer's open run, or opens one
 * 2. flush         sendmmsg, each run one message with UDP_SEGMENT
 * 3. send_apart    the datagrams of a run that the kernel does not take as a whole, one by one
 */
#ifndef OVERLAYD_NATIVE_SEND_H
#define OVERLAYD_NATIVE_SEND_H

#include "engine.h"

static struct cmsghdr *put_control(struct cmsghdr *at, int level, int type, const void *value, size_t size)
{
    at->cmsg_level = level;
    at->cmsg_type = type;
    at->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(at), value, size);
    return (struct cmsghdr *)(void *)((char *)at + CMSG_SPACE(size));
}

/* Ancillary data of a message: the segment size, and the ECN field if it is not 0. */
static void set_control(struct batch *batch, unsigned index, struct msghdr *message, bool segments)
{
    const struct run *run = &batch->runs[index];
    char *begin = batch->control[index].bytes;
    struct cmsghdr *at = &batch->control[index].header;
    if (segments)
        at = put_control(at, SOL_UDP, UDP_SEGMENT, &(uint16_t){(uint16_t)run->size}, sizeof(uint16_t));
    if (run->ecn && batch->family == V4)
        at = put_control(at, IPPROTO_IP, IP_TOS, &(int){run->ecn}, sizeof(int));
    else if (run->ecn)
        at = put_control(at, IPPROTO_IPV6, IPV6_TCLASS, &(int){run->ecn}, sizeof(int));
    message->msg_controllen = (size_t)((char *)at - begin);
    message->msg_control = message->msg_controllen ? begin : NULL;
}

/* Send the datagrams of a run one by one, because the kernel refused the whole run. True when that worked, and none was too
 * long for the path: then it was the run that the kernel did not like. */
static bool send_apart(struct engine *engine, struct batch *batch, unsigned index)
{
    struct run *run = &batch->runs[index];
    struct msghdr whole = batch->messages[index].msg_hdr;
    bool answered = false, sent_any = false;
    size_t part = 0;
    for (uint32_t sent = 0; sent < run->segments; sent++) {
        struct msghdr one = whole;
        size_t first = part, bytes = 0;
        while (part < whole.msg_iovlen && bytes < run->size)
            bytes += whole.msg_iov[part++].iov_len; /* parts end where datagrams end: run_add made them so */
        one.msg_iov = whole.msg_iov + first;
        one.msg_iovlen = part - first;
        set_control(batch, index, &one, false);
        ssize_t done;
        do
            done = sendmsg(batch->socket, &one, MSG_DONTWAIT);
        while (done < 0 && errno == EINTR);
        if (done >= 0) {
            sent_any = true;
            count_tx(engine, run->peer, 1, bytes);
        } else if (errno == EAGAIN) {
            engine->drops[OUTBOUND][SEND_BUFFER_FULL]++;
        } else if (errno == EMSGSIZE) {
            engine->drops[OUTBOUND][TOO_LONG]++;
            if (!answered)
                punt(engine, PUNT_EMSGSIZE, run->peer, one.msg_iov, one.msg_iovlen, bytes);
            answered = true; /* they have one size and one burst: one reply is enough */
        } else {
            engine->drops[OUTBOUND][SEND_ERROR]++;
        }
    }
    return sent_any && !answered;
}

static void flush_batch(struct engine *engine, struct batch *batch)
{
    for (unsigned index = 0; index < batch->count; index++) {
        struct run *run = &batch->runs[index];
        struct msghdr *message = &batch->messages[index].msg_hdr;
        engine->open_runs[run->peer] = -1;
        set_control(batch, index, message, run->segments > 1);
    }
    unsigned index = 0;
    while (index < batch->count) {
        int sent = sendmmsg(batch->socket, batch->messages + index, batch->count - index, MSG_DONTWAIT);
        if (sent > 0) {
            for (; sent; sent--, index++)
                count_tx(engine, batch->runs[index].peer, batch->runs[index].segments, batch->runs[index].bytes);
            continue;
        }
        int error = errno;
        struct run *run = &batch->runs[index];
        if (error == EINTR)
            continue;
        if (error == EAGAIN) {
            for (; index < batch->count; index++)
                engine->drops[OUTBOUND][SEND_BUFFER_FULL] += batch->runs[index].segments;
            break;
        }
        if (run->segments > 1 && (error == EMSGSIZE || error == EIO || error == EINVAL)) {
            /* EMSGSIZE, and on some kernels EINVAL: a path narrower than the segments, which says nothing of GSO. EIO: no
             * checksum offload on the capabilities out. EINVAL: more segments than this kernel takes, or no GSO on this route. */
            if (send_apart(engine, batch, index) && error != EMSGSIZE) {
                engine->gso_failures++;
                if (error == EINVAL && engine->run_segments > RUN_SEGMENTS_OLD) {
                    engine->run_segments = RUN_SEGMENTS_OLD;
                } else {
                    engine->run_segments = 1;
                    engine->gso_error = error;
                }
            }
        } else if (error == EMSGSIZE) {
            struct msghdr *message = &batch->messages[index].msg_hdr;
            engine->drops[OUTBOUND][TOO_LONG]++;
            punt(engine, PUNT_EMSGSIZE, run->peer, message->msg_iov, message->msg_iovlen, run->bytes);
        } else {
            engine->drops[OUTBOUND][SEND_ERROR] += run->segments;
        }
        index++;
    }
    batch->count = 0;
}

static void flush(struct engine *engine)
{
    for (enum family family = V4; family < FAMILIES; family++)
        if (engine->batches[family].count)
            flush_batch(engine, &engine->batches[family]);
    engine->headers_used = 0;
}

/* Add one datagram of one or two parts to the peer's run, or to a new one. The parts stay borrowed until the flush. */
static void run_add(struct engine *engine, int peer, unsigned ecn, const void *head, size_t head_length,
                    const void *tail, size_t tail_length)
{
    const struct peer *to = &engine->table->peers[peer];
    struct batch *batch = &engine->batches[to->ipv6];
    uint32_t bytes = (uint32_t)(head_length + tail_length);
    if (batch->socket < 0) {
        engine->drops[OUTBOUND][SEND_ERROR]++;
        return;
    }
    struct run *run = NULL;
    int open = engine->open_runs[peer];
    if (open >= 0) {
        run = &batch->runs[open];
        if (run->closed || run->ecn != ecn || bytes > run->size || run->segments >= engine->run_segments ||
            run->bytes + bytes > UDP_PAYLOAD_MAX)
            run = NULL;
    }
    if (!run) {
        if (batch->count == RUNS)
            flush_batch(engine, batch);
        open = (int)batch->count++;
        engine->open_runs[peer] = open;
        run = &batch->runs[open];
        *run = (struct run){.peer = peer, .size = bytes, .ecn = (uint8_t)ecn};
        batch->messages[open].msg_hdr = (struct msghdr){
            .msg_name = (void *)(uintptr_t)&to->address,
            .msg_namelen = to->address_length,
            .msg_iov = batch->parts[open],
        };
    }
    struct msghdr *message = &batch->messages[open].msg_hdr;
    message->msg_iov[message->msg_iovlen++] = (struct iovec){(void *)(uintptr_t)head, head_length};
    if (tail_length)
        message->msg_iov[message->msg_iovlen++] = (struct iovec){(void *)(uintptr_t)tail, tail_length};
    run->segments++;
    run->bytes += bytes;
    run->closed = bytes < run->size;
}

#endif
