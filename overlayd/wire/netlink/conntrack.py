"""nf_conntrack: the connections that the kernel follows, and how to make it forget one.

     entry      original: source -> destination    as its first packet was sent, before any translation
                reply:    source -> destination    as answers to it come in; its source is what a DNAT led to

Of UDP an entry lives as long as packets come, and its translation with it: what a port leads to is decided by the first
packet alone.
"""

from __future__ import annotations

from typing import NamedTuple

from overlayd.wire.address import Address
from overlayd.wire.netlink.message import SET, attribute, attributes, message, nested, read_ip, u32
from overlayd.wire.netlink.uapi import (
    CTA_FILTER,
    CTA_FILTER_F_DST_PORT,
    CTA_FILTER_F_PROTO_NUM,
    CTA_FILTER_ORIG_FLAGS,
    CTA_FILTER_REPLY_FLAGS,
    CTA_ID,
    CTA_IP_V4_DST,
    CTA_IP_V4_SRC,
    CTA_IP_V6_DST,
    CTA_IP_V6_SRC,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    IPCTNL_MSG_CT_DELETE,
    IPCTNL_MSG_CT_GET,
    NFGENMSG,
    NFNL_SUBSYS_CTNETLINK,
)

GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET


class Endpoint(NamedTuple):
    """One end of a connection."""

    address: Address
    port: int


class ConntrackEntry(NamedTuple):
    """An entry, by what tells where its packets were sent and where they went."""

    destination: Endpoint
    """What its first packet was sent to."""
    answering: Endpoint
    """Who answers: the destination, or what it was translated to."""
    family: int
    identity: bytes
    """The attributes by which the kernel finds it."""


def dump_header(family: int, protocol: int, port: int | None) -> bytes:
    """What selects the entries of a protocol by the port that they were sent to, any for None; a kernel before 5.8
    answers with all of the family."""
    flags = CTA_FILTER_F_PROTO_NUM | (CTA_FILTER_F_DST_PORT if port is not None else 0)
    ports = attribute(CTA_PROTO_DST_PORT, port.to_bytes(2)) if port is not None else b""
    proto = nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([protocol])), ports)
    chosen = nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, flags), u32(CTA_FILTER_REPLY_FLAGS, 0))
    return NFGENMSG.pack(family, 0, 0) + nested(CTA_TUPLE_ORIG, proto) + chosen


def delete_entry(entry: ConntrackEntry, sequence: int) -> bytes:
    """Forget this entry, and no later one with the same addresses and ports."""
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    return message(kind, SET, sequence, NFGENMSG.pack(entry.family, 0, 0) + entry.identity)


def read_entry(data: bytes, begin: int, end: int, protocol: int) -> ConntrackEntry | None:
    """The entry in a body of the dump; None for one of another protocol, and one cut off."""
    if end - begin < NFGENMSG.size:
        return None
    found = dict(attributes(data, begin + NFGENMSG.size, end))
    original, reply = found.get(CTA_TUPLE_ORIG), found.get(CTA_TUPLE_REPLY)
    if original is None or reply is None or _protocol(original) != protocol:
        return None
    destination = _endpoint(original, CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)
    answering = _endpoint(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)
    if destination is None or answering is None:
        return None
    identity = nested(CTA_TUPLE_ORIG, original)
    identity += b"".join(attribute(kind, found[kind]) for kind in (CTA_ZONE, CTA_ID) if kind in found)
    return ConntrackEntry(destination, answering, data[begin], identity)


def _protocol(tuple_: bytes) -> int | None:
    value = _part(tuple_, CTA_TUPLE_PROTO).get(CTA_PROTO_NUM, b"")
    return value[0] if len(value) == 1 else None


def _endpoint(tuple_: bytes, v4: int, v6: int, port: int) -> Endpoint | None:
    ip = _part(tuple_, CTA_TUPLE_IP)
    address = read_ip(ip.get(v4) or ip.get(v6) or b"")
    number = _part(tuple_, CTA_TUPLE_PROTO).get(port, b"")
    return Endpoint(address, int.from_bytes(number)) if address is not None and len(number) == 2 else None


def _part(tuple_: bytes, kind: int) -> dict[int, bytes]:
    value = dict(attributes(tuple_, 0, len(tuple_))).get(kind, b"")
    return dict(attributes(value, 0, len(value)))
