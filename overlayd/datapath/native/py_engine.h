/* Python's Engine: two sockets, a TUN and a table. Docstrings are in _native.pyi. */
#ifndef OVERLAYD_NATIVE_PY_ENGINE_H
#define OVERLAYD_NATIVE_PY_ENGINE_H

#include <Python.h>

#include "burst.h"
#include "py_table.h"

typedef struct {
    PyObject ob_base;
    PyObject *table; /* owns engine->table */
    struct engine *engine;
} EngineObject;

static bool refuse_busy(const struct engine *engine)
{
    if (engine->busy)
        PyErr_SetString(PyExc_RuntimeError, "the engine is carrying a burst in another thread");
    return engine->busy;
}

static bool ready(const struct engine *engine)
{
    if (!engine->table)
        PyErr_SetString(PyExc_RuntimeError, "replace_table() comes first");
    return engine->table && !refuse_busy(engine);
}

static void set_run_segments(struct engine *engine, unsigned segments)
{
    engine->run_segments = segments < 1 ? 1 : segments > RUN_SEGMENTS ? RUN_SEGMENTS : segments;
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"socket4", "socket6", "run_segments", "poll_us", NULL};
    int socket4, socket6;
    unsigned int run_segments, poll_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiII", names, &socket4, &socket6, &run_segments, &poll_us))
        return NULL;
    EngineObject *self = (EngineObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    struct engine *engine = self->engine = calloc(1, sizeof *engine);
    if (!engine)
        goto no_memory;
    engine->tun = engine->tap = -1;
    engine->batches[V6].family = V6;
    engine->poll = (int64_t)poll_us * 1000;
    engine->batches[V4].socket = socket4;
    engine->batches[V6].socket = socket6;
    set_run_segments(engine, run_segments);
    engine->coalescer.sink = write_coalesced;
    engine->coalescer.context = engine;
    engine->rx_batch = RX_MESSAGES;
    engine->arena = aligned_alloc(TX_ALIGN, TX_ARENA + 2 * TX_ALIGN + 65536);
    engine->headers = malloc(TX_HEADERS + HEADERS_MAX);
    engine->rx_buffers = malloc((size_t)RX_MESSAGES * RX_BUFFER);
    engine->ring = malloc(RING * sizeof *engine->ring);
    if (!engine->arena || !engine->headers || !engine->rx_buffers || !engine->ring)
        goto no_memory;
    for (unsigned index = 0; index < RX_MESSAGES; index++) {
        engine->rx_parts[index] = (struct iovec){engine->rx_buffers + (size_t)index * RX_BUFFER, RX_BUFFER};
        engine->rx_messages[index].msg_hdr.msg_name = &engine->rx_from[index];
        engine->rx_messages[index].msg_hdr.msg_iov = &engine->rx_parts[index];
        engine->rx_messages[index].msg_hdr.msg_iovlen = 1;
    }
    return (PyObject *)self;
no_memory:
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void engine_dealloc(PyObject *object)
{
    EngineObject *self = (EngineObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    struct engine *engine = self->engine;
    if (engine) {
        free(engine->arena);
        free(engine->headers);
        free(engine->rx_buffers);
        free(engine->ring);
        free(engine->open_runs);
        free(engine->slots);
        free(engine->capabilities);
        free(engine);
    }
    Py_XDECREF(self->table);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *engine_replace_table(PyObject *object, PyTypeObject *defining, PyObject *const *args, Py_ssize_t count,
                                      PyObject *names)
{
    EngineObject *self = (EngineObject *)object;
    struct engine *engine = self->engine;
    State *state = PyType_GetModuleState(defining);
    if (count != 1 || (names && PyTuple_Size(names)) || !PyObject_TypeCheck(args[0], state->table_type)) {
        PyErr_SetString(PyExc_TypeError, "replace_table() takes a Table");
        return NULL;
    }
    if (refuse_busy(engine))
        return NULL;
    const struct table *table = ((TableObject *)args[0])->table;
    int slots = engine->slot_count;
    for (int index = 0; index < table->peer_count; index++)
        if (table->peers[index].slot >= slots)
            slots = table->peers[index].slot + 1;
    if (slots > engine->slot_count) {
        struct traffic *grown = realloc(engine->slots, (size_t)slots * sizeof *grown);
        if (grown)
            engine->slots = grown;
        uint8_t *capabilities = grown ? realloc(engine->capabilities, (size_t)slots) : NULL;
        if (!capabilities)
            return PyErr_NoMemory();
        engine->capabilities = capabilities;
        memset(capabilities + engine->slot_count, 0, (size_t)(slots - engine->slot_count));
        memset(grown + engine->slot_count, 0, (size_t)(slots - engine->slot_count) * sizeof *grown);
        engine->slot_count = slots;
    }
    int *open_runs = malloc(((size_t)table->peer_count + 1) * sizeof *open_runs);
    if (!open_runs)
        return PyErr_NoMemory();
    for (int index = 0; index < table->peer_count; index++)
        open_runs[index] = -1;
    free(engine->open_runs);
    engine->open_runs = open_runs;
    engine->table = table;
    Py_INCREF(args[0]);
    Py_XDECREF(self->table);
    self->table = args[0];
    Py_RETURN_NONE;
}

static PyObject *engine_replace_tun(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int tun, vnet, tcp, udp;
    if (!PyArg_ParseTuple(args, "ippp", &tun, &vnet, &tcp, &udp) || refuse_busy(engine))
        return NULL;
    engine->tun = tun;
    engine->vnet = vnet;
    engine->coalescer.tcp = vnet && tcp;
    engine->coalescer.udp = vnet && udp;
    engine->coalesce_failures = 0;
    Py_RETURN_NONE;
}

static PyObject *engine_set_run_segments(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    unsigned segments;
    if (!PyArg_ParseTuple(args, "I", &segments) || refuse_busy(engine))
        return NULL;
    set_run_segments(engine, segments);
    Py_RETURN_NONE;
}

static PyObject *engine_replace_tap(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    const char *mac, *sources[2];
    Py_ssize_t mac_length, lengths[2];
    int tap, port;
    if (!PyArg_ParseTuple(args, "iy#y#y#i", &tap, &mac, &mac_length, &sources[0], &lengths[0], &sources[1], &lengths[1],
                          &port) ||
        refuse_busy(engine))
        return NULL;
    if (mac_length != 6 || (lengths[0] != 0 && lengths[0] != 4) || (lengths[1] != 0 && lengths[1] != 16)) {
        PyErr_SetString(PyExc_ValueError, "replace_tap() takes a MAC, an IPv4 and an IPv6 address; these may be empty");
        return NULL;
    }
    engine->tap = tap;
    engine->tunnel_error = 0;
    for (enum family family = V4; family < FAMILIES; family++) {
        struct outer *outer = &engine->outers[family];
        *outer = (struct outer){.length = 0};
        if (!lengths[family])
            continue;
        uint16_t network = ETHERNET, transport = (uint16_t)(ETHERNET + (family == V6 ? IPV6_HEADER : IPV4_HEADER));
        uint16_t inner = (uint16_t)(transport + UDP_HEADER);
        uint8_t *frame = outer->bytes + VNET_TUNNEL, *ip = frame + network;
        outer->length = VNET_TUNNEL + (size_t)inner;
        memcpy(outer->bytes + VNET_OUTER_TRANSPORT, &transport, 2);
        memcpy(outer->bytes + VNET_INNER_NETWORK, &inner, 2);
        memcpy(frame, mac, 6);
        memcpy(frame + 6, mac, 6);
        put16(frame + 12, family == V6 ? 0x86dd : 0x0800);
        if (family == V6) {
            ip[0] = 0x60;
            ip[IP6_NEXT_HEADER] = PROTO_UDP;
            ip[IP6_HOP_LIMIT] = 65; /* forwarding decrements it: on the wire it is 64, as from a socket */
            memcpy(ip + IP6_SOURCE, sources[1], 16);
        } else {
            ip[0] = 0x45;
            put16(ip + IP4_FRAGMENT, IP4_DF); /* as on the sockets */
            ip[IP4_TTL] = 65;
            ip[IP4_PROTOCOL] = PROTO_UDP;
            memcpy(ip + IP4_SOURCE, sources[0], 4);
        }
        put16(frame + transport, (uint32_t)port);
    }
    Py_RETURN_NONE;
}

static PyObject *engine_tunnel(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int peer;
    const char *payload;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "iy#", &peer, &payload, &length) || !ready(engine))
        return NULL;
    if (peer < 0 || peer >= engine->table->peer_count) {
        PyErr_SetString(PyExc_IndexError, "no such peer");
        return NULL;
    }
    const struct peer *to = &engine->table->peers[peer];
    uint16_t transport = (uint16_t)(ETHERNET + (to->ipv6 ? IPV6_HEADER : IPV4_HEADER));
    struct vnet vnet = {.flags = VNET_NEEDS_CSUM, .csum_start = transport, .csum_offset = UDP_CHECK};
    return PyBool_FromLong(can_tunnel(engine, to, (size_t)length) &&
                           write_tap(engine, to, &vnet, NOT_ECT, payload, (size_t)length));
}

static PyObject *engine_set_capabilities(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int slot, capabilities;
    if (!PyArg_ParseTuple(args, "ii", &slot, &capabilities) || refuse_busy(engine))
        return NULL;
    if (slot >= 0 && slot < engine->slot_count)
        engine->capabilities[slot] = (uint8_t)capabilities;
    Py_RETURN_NONE;
}

static PyObject *engine_carry(struct engine *engine, enum direction direction, enum family family)
{
    int count;
    if (!ready(engine))
        return NULL;
    engine->busy = true;
    Py_BEGIN_ALLOW_THREADS
    count = carry(engine, direction, family);
    Py_END_ALLOW_THREADS
    engine->busy = false;
    bool attention = engine->ring_count || engine->gso_error || engine->coalesce_error || engine->tunnel_error;
    return PyLong_FromLong(count >= 0 && attention ? count + ATTENTION : count);
}

static PyObject *engine_outbound(PyObject *self, PyObject *Py_UNUSED(none))
{
    return engine_carry(((EngineObject *)self)->engine, OUTBOUND, V4);
}

static PyObject *engine_inbound(PyObject *self, PyObject *args)
{
    int family;
    if (!PyArg_ParseTuple(args, "i", &family))
        return NULL;
    return engine_carry(((EngineObject *)self)->engine, INBOUND, family == 6 ? V6 : V4);
}

static PyObject *engine_punted(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    PyObject *list = PyList_New(0);
    for (unsigned index = 0; list && index < engine->ring_count; index++) {
        const struct punt *one = &engine->ring[index];
        PyObject *item = Py_BuildValue("iiIy#", (int)one->reason, one->peer, (unsigned)one->length,
                                       (const char *)one->bytes, (Py_ssize_t)one->kept);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    engine->ring_count = 0;
    return list;
}

static PyObject *numbers(const uint64_t *values, size_t count)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t index = 0; tuple && index < count; index++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[index]);
        if (!value || PyTuple_SetItem(tuple, (Py_ssize_t)index, value) < 0) /* steals the reference even on failure */
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *traffic_tuple(const struct traffic *traffic)
{
    return Py_BuildValue("(KKKK)", (unsigned long long)traffic->tx_packets, (unsigned long long)traffic->tx_bytes,
                         (unsigned long long)traffic->rx_packets, (unsigned long long)traffic->rx_bytes);
}

static PyObject *engine_counters(PyObject *self, PyObject *Py_UNUSED(none))
{
    const struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    PyObject *slots = PyList_New(0);
    for (int index = 0; slots && index < engine->slot_count; index++) {
        PyObject *one = traffic_tuple(&engine->slots[index]);
        if (!one || PyList_Append(slots, one) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(one);
    }
    if (!slots)
        return NULL;
    return Py_BuildValue("(NN(NN)K)", traffic_tuple(&engine->total), slots, numbers(engine->drops[OUTBOUND], REASONS),
                         numbers(engine->drops[INBOUND], REASONS), (unsigned long long)engine->unanswered);
}

static PyObject *engine_reads(PyObject *self, PyObject *Py_UNUSED(none))
{
    const struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    return Py_BuildValue("(KK)", (unsigned long long)engine->tx_reads, (unsigned long long)engine->rx_reads);
}

static PyObject *engine_gauges(PyObject *self, PyObject *Py_UNUSED(none))
{
    const struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    return Py_BuildValue("{s:i,s:I,s:i,s:i,s:i,s:K,s:K,s:K}", "udp_gso", engine->run_segments > 1, "run_segments",
                         (unsigned)engine->run_segments, "coalesce_tcp", (int)engine->coalescer.tcp, "coalesce_udp",
                         (int)engine->coalescer.udp, "tunnel_gso", engine->tap >= 0, "gso_failures",
                         (unsigned long long)engine->gso_failures, "coalesce_refusals",
                         (unsigned long long)engine->coalesce_refusals, "tunnelled",
                         (unsigned long long)engine->tunnelled);
}

static PyObject *engine_unknown_sender(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    const struct sockaddr_storage from = engine->unknown_sender;
    engine->unknown_sender.ss_family = AF_UNSPEC;
    if (from.ss_family == AF_INET)
        return PyBytes_FromStringAndSize((const char *)&((const struct sockaddr_in *)&from)->sin_addr, 4);
    if (from.ss_family == AF_INET6)
        return PyBytes_FromStringAndSize((const char *)&((const struct sockaddr_in6 *)&from)->sin6_addr, 16);
    Py_RETURN_NONE;
}

static PyObject *engine_degraded(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct engine *engine = ((EngineObject *)self)->engine;
    if (refuse_busy(engine))
        return NULL;
    const struct {
        const char *name;
        int *error;
    } offloads[] = {{"udp_gso", &engine->gso_error}, {"coalesce_tcp,coalesce_udp", &engine->coalesce_error}, {"tunnel_gso", &engine->tunnel_error}};
    PyObject *list = PyList_New(0);
    for (size_t index = 0; list && index < sizeof offloads / sizeof *offloads; index++) {
        if (!*offloads[index].error)
            continue;
        PyObject *item = Py_BuildValue("si", offloads[index].name, *offloads[index].error);
        *offloads[index].error = 0;
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *engine_forget(PyObject *self, PyObject *args)
{
    struct engine *engine = ((EngineObject *)self)->engine;
    int slot;
    if (!PyArg_ParseTuple(args, "i", &slot) || refuse_busy(engine))
        return NULL;
    if (slot >= 0 && slot < engine->slot_count) {
        engine->slots[slot] = (struct traffic){0};
        engine->capabilities[slot] = 0;
    }
    Py_RETURN_NONE;
}

static PyMethodDef engine_methods[] = {
    {"replace_table", (PyCFunction)(void (*)(void))engine_replace_table, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     NULL},
    {"replace_tun", engine_replace_tun, METH_VARARGS, NULL},
    {"set_run_segments", engine_set_run_segments, METH_VARARGS, NULL},
    {"replace_tap", engine_replace_tap, METH_VARARGS, NULL},
    {"set_capabilities", engine_set_capabilities, METH_VARARGS, NULL},
    {"tunnel", engine_tunnel, METH_VARARGS, NULL},
    {"outbound", engine_outbound, METH_NOARGS, NULL},
    {"inbound", engine_inbound, METH_VARARGS, NULL},
    {"punted", engine_punted, METH_NOARGS, NULL},
    {"unknown_sender", engine_unknown_sender, METH_NOARGS, NULL},
    {"degraded", engine_degraded, METH_NOARGS, NULL},
    {"counters", engine_counters, METH_NOARGS, NULL},
    {"reads", engine_reads, METH_NOARGS, NULL},
    {"gauges", engine_gauges, METH_NOARGS, NULL},
    {"forget", engine_forget, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    .name = "overlayd.datapath.native._native.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};

#endif
