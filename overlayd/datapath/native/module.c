/* The packet engine in C: one call carries one burst, with the GIL released. This file is its face towards Python.
 *
 * outbound.h    TUN -> segment -> send.h (runs) or tunnel.h (tunnel GSO) -> underlay
 * inbound.h     underlay -> coalesce.h -> TUN
 * burst.h       both directions, busy polling; engine.h holds their state
 * packet.h, segment.h, coalesce.h, table.h, checksum.h    pure functions: no system call, so that fuzzers can drive them
 * py_table.h, py_engine.h                                 the types
 *
 * All of it is one translation unit: the compiler sees through every call on the capabilities of a packet. Docstrings are in
 * _native.pyi.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "py_engine.h"

/* --- Python: pure functions ------------------------------------------------------------------------------------- */

static PyObject *py_segment(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *header, *packet;
    Py_ssize_t header_length, length;
    struct vnet vnet;
    struct ip ip;
    struct segment_plan plan;
    if (!PyArg_ParseTuple(args, "y#y#", &header, &header_length, &packet, &length))
        return NULL;
    if (header_length != sizeof vnet) {
        PyErr_SetString(PyExc_ValueError, "a virtio-net header has 10 bytes");
        return NULL;
    }
    memcpy(&vnet, header, sizeof vnet);
    enum reason reason = parse_ip((const uint8_t *)packet, (size_t)length, &ip);
    if (reason != PASS || !segment_plan(&plan, &vnet, (const uint8_t *)packet, (size_t)length, &ip)) {
        PyErr_SetString(PyExc_ValueError, "the packet is not a superpacket as its virtio-net header says");
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (uint32_t index = 0; list && index < plan.count; index++) {
        uint8_t headers[HEADERS_MAX];
        size_t payload = segment_headers(&plan, index, headers);
        PyObject *one = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(plan.headers + payload));
        if (one) {
            char *bytes = PyBytes_AsString(one);
            memcpy(bytes, headers, plan.headers);
            memcpy(bytes + plan.headers, segment_payload(&plan, index), payload);
        }
        if (!one || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *py_complete(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *header, *packet;
    Py_ssize_t header_length, length;
    struct vnet vnet;
    if (!PyArg_ParseTuple(args, "y#y#", &header, &header_length, &packet, &length))
        return NULL;
    PyObject *copy = PyBytes_FromStringAndSize(packet, length);
    if (!copy)
        return NULL;
    memset(&vnet, 0, sizeof vnet);
    memcpy(&vnet, header, (size_t)header_length < sizeof vnet ? (size_t)header_length : sizeof vnet);
    if (header_length != sizeof vnet || !complete((uint8_t *)PyBytes_AsString(copy), (size_t)length, &vnet)) {
        Py_DECREF(copy);
        PyErr_SetString(PyExc_ValueError, "the checksum's place is outside of the packet");
        return NULL;
    }
    return copy;
}

static void append_coalesced(void *context, struct vnet *vnet, struct iovec *iov, int iovs, uint32_t Py_UNUSED(count),
                          size_t Py_UNUSED(headers), int Py_UNUSED(owner))
{
    PyObject *list = context;
    size_t length = 0;
    for (int part = 1; part < iovs; part++)
        length += iov[part].iov_len;
    PyObject *packet = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (!packet)
        return;
    char *at = PyBytes_AsString(packet);
    for (int part = 1; part < iovs; part++) {
        memcpy(at, iov[part].iov_base, iov[part].iov_len);
        at += iov[part].iov_len;
    }
    PyObject *item = Py_BuildValue("(y#N)", (const char *)vnet, (Py_ssize_t)sizeof *vnet, packet);
    if (item)
        PyList_Append(list, item);
    Py_XDECREF(item);
}

static PyObject *py_coalesce(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *packets;
    int announced = 0;
    if (!PyArg_ParseTuple(args, "O!|p", &PyList_Type, &packets, &announced))
        return NULL;
    struct coalescer *coalescer = calloc(1, sizeof *coalescer);
    PyObject *list = PyList_New(0);
    if (!coalescer || !list) {
        free(coalescer);
        Py_XDECREF(list);
        return PyErr_NoMemory();
    }
    coalescer->tcp = coalescer->udp = true;
    coalescer->sink = append_coalesced;
    coalescer->context = list;
    for (Py_ssize_t index = 0; index < PyList_Size(packets); index++) {
        char *packet;
        Py_ssize_t length;
        struct ip ip;
        if (PyBytes_AsStringAndSize(PyList_GetItem(packets, index), &packet, &length) < 0)
            break;
        if (parse_ip((const uint8_t *)packet, (size_t)length, &ip) == PASS)
            coalesce_add(coalescer, (const uint8_t *)packet, (size_t)length, &ip,
                       announced && is_partial((const uint8_t *)packet, (size_t)length, &ip), 0);
    }
    coalesce_flush(coalescer);
    free(coalescer);
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyMethodDef functions[] = {
    {"segment", py_segment, METH_VARARGS, NULL},
    {"complete", py_complete, METH_VARARGS, NULL},
    {"coalesce", py_coalesce, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* --- module ----------------------------------------------------------------------------------------------------- */

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->table_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &table_spec, NULL);
    state->engine_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &engine_spec, NULL);
    if (!state->table_type || !state->engine_type || PyModule_AddType(module, state->table_type) < 0 ||
        PyModule_AddType(module, state->engine_type) < 0)
        return -1;
#define X(name, text) text,
    static const char *const names[] = {FOR_EACH_REASON(X)};
#undef X
    PyObject *reasons = PyTuple_New(REASONS);
    for (int index = 0; reasons && index < REASONS; index++) {
        PyObject *name = PyUnicode_FromString(names[index]);
        if (!name || PyTuple_SetItem(reasons, index, name) < 0)
            Py_CLEAR(reasons);
    }
    int done = reasons ? PyModule_AddObjectRef(module, "REASONS", reasons) : -1;
    Py_XDECREF(reasons);
    const struct {
        const char *name;
        long value;
    } constants[] = {{"ATTENTION", ATTENTION}, {"OWN", OWN},         {"NOBODY", NOBODY},
                     {"PARTIAL_SUMS", CAP_PARTIAL_SUMS}, {"ECN", CAP_ECN}, {"TUNNEL_GSO", CAP_TUNNEL_GSO},
                     {"OUTBOUND", OUTBOUND}, {"INBOUND", INBOUND},
                     {"PUNT_OUTBOUND", PUNT_OUTBOUND}, {"PUNT_INBOUND", PUNT_INBOUND},
                     {"PUNT_EMSGSIZE", PUNT_EMSGSIZE}, {"PUNT_HELLO", PUNT_HELLO}};
    for (size_t index = 0; done == 0 && index < sizeof constants / sizeof *constants; index++)
        done = PyModule_AddIntConstant(module, constants[index].name, constants[index].value);
    return done;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->table_type);
    Py_VISIT(state->engine_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->table_type);
    Py_CLEAR(state->engine_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
