"""Dumps of routes, neighbours and FDB entries (linux/rtnetlink.h): requests, and what the kernel answers.

Read by hand for the reason that they are written by hand in `wire.rtnetlink`: of 10,000 peers there are 30,000, every
minute. What is not overlayd's is passed over before anything of it is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple

from overlayd.wire.netlink.rtnetlink import HEADER, NLM_F_REQUEST, ROUTE_PROTOCOL, Address, Network

# linux/netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
_NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10

# linux/rtnetlink.h, linux/neighbour.h
_RTM_NEWROUTE, _RTM_GETROUTE, _RTM_NEWNEIGH, _RTM_GETNEIGH = 24, 26, 28, 30
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 8, 18
_RTAX_MTU = 2
_NDA_DST, _NDA_LLADDR = 1, 2
_RT_TABLE_MAIN = 254
_RTN_UNREACHABLE = 7
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200  # what a path has taught the kernel (its MTU), kept as a copy of the route
_NUD_PERMANENT = 0x80
_AF_INET = 2
_TYPE = 0x3FFF  # NLA_TYPE_MASK

Dump = Literal["routes", "neighbours", "paths"]
"""Paths are what the kernel has learnt of destinations; only a socket with NETLINK_GET_STRICT_CHK gets them alone."""

_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=i")
_METRIC = struct.Struct("=I")


class RouteEntry(NamedTuple):
    """A route of the main table that overlayd made."""

    destination: Network
    unreachable: bool
    link: int
    """Interface index; 0 for none."""
    gateway: Address | None
    onlink: bool
    mtu: int | None = None


class NeighbourEntry(NamedTuple):
    """A permanent neighbour or FDB entry."""

    link: int
    address: Address | None
    """The neighbour, or the VTEP of an FDB entry; None where the entry has none."""
    mac: str | None


def request(what: Dump, family: int, sequence: int) -> bytes:
    """Asks for a dump; the family is an address family, or AF_BRIDGE for the FDB."""
    kind = _RTM_GETNEIGH if what == "neighbours" else _RTM_GETROUTE
    body = bytes([family]) + bytes(11)  # struct rtmsg and struct ndmsg begin with it, and are of one size
    if what == "paths":
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, _RTM_F_CLONED)
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, flags, sequence, begin of the body, its end) of each whole message in what a netlink socket delivered."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            return
        yield kind, flags, sequence, offset + HEADER.size, offset + length
        offset += length + 3 & ~3


def read_route(data: bytes, begin: int, end: int) -> RouteEntry | None:
    """The route in a body of RTM_NEWROUTE; None for one that is not overlayd's, or cut off."""
    if end - begin < _RTMSG.size:
        return None
    family, prefix, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(data, begin)
    if protocol != ROUTE_PROTOCOL or table != _RT_TABLE_MAIN or flags & _RTM_F_CLONED:
        return None
    destination: bytes | None = None
    gateway: Address | None = None
    mtu: int | None = None
    link = 0
    for attribute, value in attributes(data, begin + _RTMSG.size, end):
        if attribute == _RTA_DST:
            destination = value
        elif attribute == _RTA_METRICS:
            mtu = _mtu(value)
        elif attribute == _RTA_OIF and len(value) == _INDEX.size:
            link = _INDEX.unpack(value)[0]
        elif attribute == _RTA_GATEWAY:
            gateway = _address(value)
        elif attribute == _RTA_VIA:  # struct rtvia: a family, an address
            gateway = _address(value[2:])
    network = _network(destination or bytes(4 if family == _AF_INET else 16), prefix)
    if network is None:
        return None
    return RouteEntry(network, kind == _RTN_UNREACHABLE, link, gateway, bool(flags & _RTNH_F_ONLINK), mtu)


def read_path(data: bytes, begin: int, end: int) -> tuple[Address, int] | None:
    """A destination and the path MTU that the kernel has learnt of it, in a body of RTM_NEWROUTE; else None."""
    if end - begin < _RTMSG.size or not _RTMSG.unpack_from(data, begin)[8] & _RTM_F_CLONED:
        return None
    found = dict(attributes(data, begin + _RTMSG.size, end))
    address, mtu = _address(found.get(_RTA_DST, b"")), _mtu(found.get(_RTA_METRICS, b""))
    return (address, mtu) if address is not None and mtu is not None else None


def _mtu(metrics: bytes) -> int | None:
    for attribute, value in attributes(metrics, 0, len(metrics)):
        if attribute == _RTAX_MTU and len(value) == _METRIC.size:
            return int(_METRIC.unpack(value)[0])
    return None


def route_destination(data: bytes, begin: int, end: int) -> Network | None:
    """The destination alone of a route in a body that is long enough, whoever made it; None for one cut off."""
    family, prefix = data[begin], data[begin + 1]
    for attribute, value in attributes(data, begin + _RTMSG.size, end):
        if attribute == _RTA_DST:
            return _network(value, prefix)
    return _network(bytes(4 if family == _AF_INET else 16), prefix)


def read_neighbour(data: bytes, begin: int, end: int) -> NeighbourEntry | None:
    """The entry in a body of RTM_NEWNEIGH; None for one that is not permanent, or cut off."""
    if end - begin < _NDMSG.size:
        return None
    if not _NDMSG.unpack_from(data, begin)[4] & _NUD_PERMANENT:
        return None
    return neighbour_entry(data, begin, end)


def neighbour_entry(data: bytes, begin: int, end: int) -> NeighbourEntry:
    """The entry in a body that is long enough, whatever its state."""
    link = _NDMSG.unpack_from(data, begin)[3]
    address: Address | None = None
    mac: str | None = None
    for attribute, value in attributes(data, begin + _NDMSG.size, end):
        if attribute == _NDA_DST:
            address = _address(value)
        elif attribute == _NDA_LLADDR and len(value) == 6:
            mac = value.hex(":")
    return NeighbourEntry(link, address, mac)


def attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each whole attribute from `offset` on."""
    while offset + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > end:
            return
        yield kind & _TYPE, data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3


def _address(packed: bytes) -> Address | None:
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed) if len(packed) == 16 else None


def _network(packed: bytes, prefix: int) -> Network | None:
    try:
        return IPv4Network((packed, prefix)) if len(packed) == 4 else IPv6Network((packed, prefix))
    except ValueError:
        return None
