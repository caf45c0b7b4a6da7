/* Python's Table: an immutable forwarding table. Docstrings are in _native.pyi. */
#ifndef OVERLAYD_NATIVE_PY_TABLE_H
#define OVERLAYD_NATIVE_PY_TABLE_H

#include <Python.h>

#include "table.h"

typedef struct {
    PyObject ob_base;
    struct table *table;
} TableObject;

typedef struct {
    PyTypeObject *table_type, *engine_type;
} State;

static struct PyModuleDef definition;

static bool invalid(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return false;
}

static bool no_memory(void)
{
    PyErr_NoMemory();
    return false;
}

/* ((number, address, port, slot, announced), ...) */
static bool set_peers(struct table *table, PyObject *peers, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(peers); index++) {
        const char *host;
        Py_ssize_t length;
        int number, port, slot, announced;
        if (!PyArg_ParseTuple(PyTuple_GetItem(peers, index), "iy#iip", &number, &host, &length, &port, &slot, &announced))
            return false;
        if (number < 0 || number >= count || (length != 4 && length != 16) || port < 0 || port > 65535 || slot < 0 ||
            slot > 1 << 24)
            return invalid("a peer is (number below `count`, 4 or 16 bytes of address, port, slot, announced)");
        struct peer *peer = &table->peers[number];
        *peer = (struct peer){.ipv6 = length == 16, .slot = slot, .announced = announced};
        peer->key = key_of((const uint8_t *)host, (unsigned)length);
        if (peer->ipv6) {
            peer->address.v6.sin6_family = AF_INET6;
            peer->address.v6.sin6_port = htons((uint16_t)port);
            memcpy(&peer->address.v6.sin6_addr, host, 16);
            peer->address_length = sizeof peer->address.v6;
        } else {
            peer->address.v4.sin_family = AF_INET;
            peer->address.v4.sin_port = htons((uint16_t)port);
            memcpy(&peer->address.v4.sin_addr, host, 4);
            peer->address_length = sizeof peer->address.v4;
        }
    }
    return true;
}

/* ((address, the number of the peer that stands for it, or NOBODY), ...) */
static bool set_hosts(struct table *table, PyObject *hosts, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(hosts); index++) {
        const char *host;
        Py_ssize_t length;
        int number;
        if (!PyArg_ParseTuple(PyTuple_GetItem(hosts, index), "y#i", &host, &length, &number))
            return false;
        if ((length != 4 && length != 16) || (number < 0 && number != NOBODY) || number >= count)
            return invalid("a host is (4 or 16 bytes of address, a peer's number or NOBODY)");
        if (!level_set(&table->hosts[length == 16], key_of((const uint8_t *)host, (unsigned)length), number))
            return no_memory();
    }
    return true;
}

/* ((first address, prefix length, owner or NOBODY), ...) */
static bool set_networks(struct table *table, PyObject *networks, int count)
{
    for (Py_ssize_t index = 0; index < PyTuple_Size(networks); index++) {
        const char *prefix;
        Py_ssize_t length;
        int bits, owner;
        if (!PyArg_ParseTuple(PyTuple_GetItem(networks, index), "y#ii", &prefix, &length, &bits, &owner))
            return false;
        if ((length != 4 && length != 16) || bits < 0 || bits > length * 8 || owner < NOBODY || owner >= count)
            return invalid("a network is (4 or 16 bytes of address, prefix length, a peer's number, OWN or NOBODY)");
        struct level *level = table_level(table, length == 16, bits);
        if (!level || !level_set(level, key_of((const uint8_t *)prefix, (unsigned)length), owner))
            return no_memory();
    }
    return true;
}

static PyObject *table_wrap(PyTypeObject *type, struct table *table)
{
    TableObject *self = table ? (TableObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0) : NULL;
    if (self)
        self->table = table;
    else
        table_free(table);
    return table ? (PyObject *)self : PyErr_NoMemory();
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"mtu", NULL};
    unsigned int mtu;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I", names, &mtu))
        return NULL;
    return table_wrap(type, table_empty(mtu));
}

static PyObject *table_changed(PyObject *self, PyObject *args)
{
    int count;
    PyObject *peers, *hosts, *networks;
    if (!PyArg_ParseTuple(args, "iO!O!O!", &count, &PyTuple_Type, &peers, &PyTuple_Type, &hosts, &PyTuple_Type, &networks))
        return NULL;
    const struct table *from = ((TableObject *)self)->table;
    if (count < 0 || count > 1 << 24) {
        invalid("count: so many numbers of peers cannot be");
        return NULL;
    }
    PyObject *changed = table_wrap(Py_TYPE(self), table_copy(from, count));
    if (!changed)
        return NULL;
    struct table *table = ((TableObject *)changed)->table;
    if (!set_peers(table, peers, count) || !set_hosts(table, hosts, count) || !set_networks(table, networks, count)) {
        Py_DECREF(changed);
        return NULL;
    }
    return changed;
}

static void table_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    table_free(((TableObject *)self)->table);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *verdict(enum reason reason, int peer)
{
    return reason == PASS ? PyLong_FromLong(peer) : PyLong_FromLong(-1 - (long)reason);
}

static PyObject *table_outbound(PyObject *self, PyObject *args)
{
    const struct table *table = ((TableObject *)self)->table;
    const char *packet;
    Py_ssize_t length;
    struct ip ip;
    int peer = NOBODY;
    if (!PyArg_ParseTuple(args, "y#", &packet, &length))
        return NULL;
    enum reason reason = parse_ip((const uint8_t *)packet, (size_t)length, &ip);
    if (reason == PASS)
        reason = decide_outbound(table, &ip, &peer);
    if (reason == PASS && (size_t)length > table->mtu)
        reason = TOO_LONG;
    return verdict(reason, peer);
}

static PyObject *table_inbound(PyObject *self, PyObject *args)
{
    const struct table *table = ((TableObject *)self)->table;
    const char *packet, *from;
    Py_ssize_t length, from_length;
    struct ip ip;
    if (!PyArg_ParseTuple(args, "y#y#", &packet, &length, &from, &from_length))
        return NULL;
    int host = NOBODY;
    if (from_length == 4 || from_length == 16)
        host = table_host(table, (const uint8_t *)from, (unsigned)from_length);
    return verdict(decide_inbound(table, (const uint8_t *)packet, (size_t)length, host, &ip), host);
}

static PyMethodDef table_methods[] = {
    {"changed", table_changed, METH_VARARGS, NULL},
    {"outbound", table_outbound, METH_VARARGS, NULL},
    {"inbound", table_inbound, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "overlayd.datapath.native._native.Table",
    .basicsize = sizeof(TableObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = table_slots,
};

#endif
