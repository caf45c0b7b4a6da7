"""Notifications of rtnetlink (linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h): what came, changed or went.

    ifinfomsg: family u8, pad u8, type u16, index s32, flags u32, change u32
    ifaddrmsg: family u8, prefix length u8, flags u8, scope u8, index u32

Everybody's changes come by, thousands of them where a routing daemon runs: what is not overlayd's is told by the fixed
headers, before an attribute is decoded.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from overlayd.wire.netlink.dump import (
    NeighbourEntry,
    RouteEntry,
    attributes,
    neighbour_entry,
    read_neighbour,
    read_route,
    route_destination,
)
from overlayd.wire.netlink.rtnetlink import ROUTE_PROTOCOL, Network

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH = 24, 25, 28, 29

_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP = 0x1
_RT_TABLE_MAIN = 254
_AF_UNSPEC, _AF_BRIDGE = 0, 7
_NLM_F_REPLACE = 0x100

_IFINFOMSG = struct.Struct("=BBHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BBHiHBB")
_NUMBER = struct.Struct("=I")


class LinkEvent(NamedTuple):
    """A device of this name is there, so, or is gone."""

    link: int
    """Interface index."""
    name: str
    up: bool
    mtu: int
    gone: bool


class AddressEvent(NamedTuple):
    """An address of a device came, changed or went."""

    link: int
    """Interface index."""
    address: IPv4Interface | IPv6Interface
    flags: int
    """IFA_F_TENTATIVE and the like, those of the header."""
    gone: bool


class RouteEvent(NamedTuple):
    """A route of the main table came, replaced another one, or went."""

    destination: Network
    ours: bool
    """Whether it was made by overlayd."""
    entry: RouteEntry | None
    """None where it went, and where it is another's."""


class NeighbourEvent(NamedTuple):
    """A neighbour or, with `fdb`, an FDB entry came, changed or went."""

    fdb: bool
    about: NeighbourEntry
    """Which one; what it says is of no account where it went."""
    entry: NeighbourEntry | None
    """None where it is not there any more, or not permanent."""


def read_link(kind: int, data: bytes, begin: int, end: int) -> LinkEvent | None:
    """The event in a body of RTM_NEWLINK or RTM_DELLINK; None for a bridge's word about a port, and one cut off."""
    if end - begin < _IFINFOMSG.size:
        return None
    family, _, _, index, flags, _ = _IFINFOMSG.unpack_from(data, begin)
    if family != _AF_UNSPEC:
        return None
    name, mtu = "", 0
    for attribute, value in attributes(data, begin + _IFINFOMSG.size, end):
        if attribute == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif attribute == _IFLA_MTU and len(value) == _NUMBER.size:
            mtu = _NUMBER.unpack(value)[0]
    return LinkEvent(index, name, bool(flags & _IFF_UP), mtu, kind == RTM_DELLINK) if name else None


def address_index(data: bytes, begin: int, end: int) -> int | None:
    """The index of the interface that a body of RTM_NEWADDR or RTM_DELADDR is about."""
    return _IFADDRMSG.unpack_from(data, begin)[4] if end - begin >= _IFADDRMSG.size else None


def read_address(kind: int, data: bytes, begin: int, end: int) -> AddressEvent | None:
    """The event in a body of RTM_NEWADDR or RTM_DELADDR; None for one cut off."""
    if end - begin < _IFADDRMSG.size:
        return None
    _, prefix, flags, _, index = _IFADDRMSG.unpack_from(data, begin)
    found = dict(attributes(data, begin + _IFADDRMSG.size, end))
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))  # of a point-to-point link, our own end
    try:
        own = IPv4Interface((packed, prefix)) if len(packed) == 4 else IPv6Interface((packed, prefix))
    except ValueError:
        return None
    return AddressEvent(index, own, flags, kind == RTM_DELADDR)


def read_route_event(kind: int, flags: int, data: bytes, begin: int, end: int) -> RouteEvent | None:
    """The event in a body of RTM_NEWROUTE or RTM_DELROUTE; None for what cannot concern a route of overlayd's.

    Another's route concerns it when it replaced one, or made room.
    """
    if end - begin < 12 or data[begin + 4] != _RT_TABLE_MAIN:
        return None
    if data[begin + 5] == ROUTE_PROTOCOL:
        entry = read_route(data, begin, end)
        return RouteEvent(entry.destination, True, entry if kind == RTM_NEWROUTE else None) if entry else None
    if kind == RTM_NEWROUTE and not flags & _NLM_F_REPLACE:
        return None
    destination = route_destination(data, begin, end)
    return RouteEvent(destination, False, None) if destination is not None else None


def neighbour_index(data: bytes, begin: int, end: int) -> int | None:
    """The index of the interface that a body of RTM_NEWNEIGH or RTM_DELNEIGH is about."""
    return _NDMSG.unpack_from(data, begin)[3] if end - begin >= _NDMSG.size else None


def read_neighbour_event(kind: int, data: bytes, begin: int, end: int) -> NeighbourEvent | None:
    """The event in a body of RTM_NEWNEIGH or RTM_DELNEIGH; None for one cut off, or of an FDB entry without a VTEP.

    Such a one follows each change of a VXLAN device's FDB where the kernel is older (6.1), since rtnetlink tells of it
    after the device has: it says nothing that the first has not.
    """
    if end - begin < _NDMSG.size:
        return None
    entry = read_neighbour(data, begin, end) if kind == RTM_NEWNEIGH else None
    fdb, about = data[begin] == _AF_BRIDGE, entry or neighbour_entry(data, begin, end)
    return None if fdb and about.address is None else NeighbourEvent(fdb, about, entry)
