"""Routes of the main table: requests, dumps and notifications (RTMSG in linux/rtnetlink.h).

What is not overlayd's is told by the fixed header, before an attribute is decoded: where a routing daemon runs,
thousands of other routes come by.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from overlayd.wire.address import Address, Network
from overlayd.wire.netlink.message import (
    ADD,
    PUT,
    S32,
    SET,
    attribute,
    attributes,
    family_of,
    message,
    read_ip,
    read_number,
    u32,
)
from overlayd.wire.netlink.uapi import (
    AF_INET,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_VIA,
    RTAX_LOCK,
    RTAX_MTU,
    RTM_DELROUTE,
    RTM_F_CLONED,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTMSG,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    RTNH_F_ONLINK,
    RTPROT_BOOT,
    RTPROT_STATIC,
    RTPROT_UNSPEC,
    RTVIA,
)

ROUTE_PROTOCOL = 178
"""rtm_protocol of every route that overlayd makes: how it knows them again. No registered daemon uses it."""


_IPV6_PRIORITY = 1024  # IP6_RT_PRIO_USER: of a route that was added without one


class RouteEntry(NamedTuple):
    """A route of the main table."""

    destination: Network
    unreachable: bool
    link: int
    """Interface index; 0 for none."""
    gateway: Address | None
    onlink: bool
    mtu: int | None = None
    ours: bool = True


class RouteEvent(NamedTuple):
    """A route of the main table came, replaced another one, or went."""

    destination: Network
    ours: bool
    """Whether it was made by overlayd."""
    entry: RouteEntry | None
    """None where it went, and where it is another's."""


# --- requests ---------------------------------------------------------------------------------------------------------


def put_route(
    destination: Network,
    link: int | None,
    gateway: Address | None,
    onlink: bool,
    sequence: int,
    *,
    replace: bool,
    mtu: int | None = None,
    ours: bool = True,
) -> bytes:
    """A route through interface index `link`; unreachable where `link` is None. `mtu` is what it takes, in bytes;
    `ours`: whether it has overlayd's protocol, or that of `ip route add`.

    Without `replace` the kernel refuses (EEXIST) where any route to `destination` of the same metric stands.
    """
    fields = attribute(RTA_DST, destination.network_address.packed)
    if link is None:
        scope, kind = RT_SCOPE_UNIVERSE, RTN_UNREACHABLE
    else:
        scope, kind = RT_SCOPE_UNIVERSE if gateway is not None else RT_SCOPE_LINK, RTN_UNICAST
        fields += attribute(RTA_OIF, S32.pack(link))
    if gateway is not None:
        if gateway.version == destination.version:
            fields += attribute(RTA_GATEWAY, gateway.packed)
        else:  # an IPv4 route may have an IPv6 next hop
            fields += attribute(RTA_VIA, RTVIA.pack(family_of(gateway)) + gateway.packed)
    if mtu is not None:
        metrics = u32(RTAX_MTU, mtu)
        if destination.version == 6:  # where it forwards IPv6, the kernel heeds no other (ip6_dst_mtu_maybe_forward)
            metrics += u32(RTAX_LOCK, 1 << RTAX_MTU)
        fields += attribute(RTA_METRICS, metrics)
    header = _rtmsg(destination, scope, kind, RTNH_F_ONLINK if onlink else 0, ours)
    return message(RTM_NEWROUTE, PUT if replace else ADD, sequence, header + fields)


def delete_route(destination: Network, link: int | None, sequence: int, *, ours: bool = True) -> bytes:
    """Delete our (or another's) route to `destination` (through interface index `link`, where it has one)."""
    fields = attribute(RTA_DST, destination.network_address.packed)
    if link is not None:
        fields += attribute(RTA_OIF, S32.pack(link))
    kind = RTN_UNICAST if link is not None else RTN_UNREACHABLE
    return message(
        RTM_DELROUTE, SET, sequence, _rtmsg(destination, RT_SCOPE_NOWHERE, kind, 0, ours, RTPROT_UNSPEC) + fields
    )


def egress_request(destination: Address, sequence: int) -> bytes:
    """Asks which route the kernel would take to an address (`ip route get`)."""
    body = RTMSG.pack(family_of(destination), destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return message(RTM_GETROUTE, NLM_F_REQUEST, sequence, body + attribute(RTA_DST, destination.packed))


def path_header(family: int) -> bytes:
    """The fixed header that selects what paths have taught the kernel, of a socket with NETLINK_GET_STRICT_CHK."""
    return RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, RTM_F_CLONED)


def _rtmsg(destination: Network, scope: int, kind: int, flags: int, ours: bool, other: int = RTPROT_BOOT) -> bytes:
    family, protocol = family_of(destination), ROUTE_PROTOCOL if ours else other
    return RTMSG.pack(family, destination.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, kind, flags)


# --- what the kernel says ---------------------------------------------------------------------------------------------


def read_route(data: bytes, begin: int, end: int, *, foreign: bool = False) -> RouteEntry | None:
    """The route in a body of RTM_NEWROUTE; None for one that is not overlayd's, or cut off.

    `foreign`: those that are not overlayd's instead, as far as `ip route add` or flannel can have made them.
    """
    if end - begin < RTMSG.size:
        return None
    family, prefix, _, tos, table, protocol, _, kind, flags = RTMSG.unpack_from(data, begin)
    ours = protocol == ROUTE_PROTOCOL
    if ours == foreign or table != RT_TABLE_MAIN or flags & RTM_F_CLONED:
        return None
    if foreign and (protocol not in (RTPROT_BOOT, RTPROT_STATIC) or kind != RTN_UNICAST or tos):
        return None
    destination: bytes | None = None
    gateway: Address | None = None
    mtu: int | None = None
    link = 0
    for number, value in attributes(data, begin + RTMSG.size, end):
        if number == RTA_DST:
            destination = value
        elif number == RTA_METRICS:
            mtu = _mtu(value)
        elif number == RTA_OIF:
            link = read_number(value)
        elif number == RTA_GATEWAY:
            gateway = read_ip(value)
        elif number == RTA_VIA:
            gateway = read_ip(value[RTVIA.size :])
        elif number == RTA_PRIORITY and foreign and read_number(value) != (0 if family == AF_INET else _IPV6_PRIORITY):
            return None  # overlayd's would stand beside it
    network = _network(destination or bytes(4 if family == AF_INET else 16), prefix)
    if network is None:
        return None
    return RouteEntry(network, kind == RTN_UNREACHABLE, link, gateway, bool(flags & RTNH_F_ONLINK), mtu, ours)


def read_route_event(kind: int, flags: int, data: bytes, begin: int, end: int) -> RouteEvent | None:
    """The event in a body of RTM_NEWROUTE or RTM_DELROUTE; None for what cannot concern a route of overlayd's.

    Another's route concerns it when it replaced one, or made room.
    """
    if end - begin < RTMSG.size:
        return None
    _, _, _, _, table, protocol, _, _, _ = RTMSG.unpack_from(data, begin)
    if table != RT_TABLE_MAIN:
        return None
    if protocol == ROUTE_PROTOCOL:
        entry = read_route(data, begin, end)
        return RouteEvent(entry.destination, True, entry if kind == RTM_NEWROUTE else None) if entry else None
    if kind == RTM_NEWROUTE and not flags & NLM_F_REPLACE:
        return None
    destination = _destination(data, begin, end)
    return RouteEvent(destination, False, None) if destination is not None else None


def read_path(data: bytes, begin: int, end: int) -> tuple[Address, int] | None:
    """A destination and the path MTU that the kernel has learnt of it, in a body of RTM_NEWROUTE; else None."""
    if end - begin < RTMSG.size:
        return None
    *_, flags = RTMSG.unpack_from(data, begin)
    if not flags & RTM_F_CLONED:
        return None
    found = dict(attributes(data, begin + RTMSG.size, end))
    address, mtu = read_ip(found.get(RTA_DST, b"")), _mtu(found.get(RTA_METRICS, b""))
    return (address, mtu) if address is not None and mtu is not None else None


def read_egress(data: bytes, begin: int, end: int) -> int | None:
    """The interface index in the answer to `egress_request`."""
    if end - begin < RTMSG.size:
        return None
    return read_number(dict(attributes(data, begin + RTMSG.size, end)).get(RTA_OIF, b"")) or None


def _mtu(metrics: bytes) -> int | None:
    return next((read_number(value) for kind, value in attributes(metrics, 0, len(metrics)) if kind == RTAX_MTU), None)


def _destination(data: bytes, begin: int, end: int) -> Network | None:
    """The destination alone, whoever made the route."""
    family, prefix, *_ = RTMSG.unpack_from(data, begin)
    found = dict(attributes(data, begin + RTMSG.size, end))
    return _network(found.get(RTA_DST, bytes(4 if family == AF_INET else 16)), prefix)


def _network(packed: bytes, prefix: int) -> Network | None:
    try:
        return IPv4Network((packed, prefix)) if len(packed) == 4 else IPv6Network((packed, prefix))
    except ValueError:
        return None
