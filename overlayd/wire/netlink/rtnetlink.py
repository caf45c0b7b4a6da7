"""rtnetlink messages for routes, neighbours and FDB entries (linux/rtnetlink.h, linux/neighbour.h).

Written by hand because there are thousands of them: a generic encoder takes ten times as long for each, and a lease
table of 10,000 peers makes 30,000. Devices and addresses, which are few, go through pyroute2.

     nlmsghdr: length u32, type u16, flags u16, sequence u32, port u32        in native byte order
     rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type (u8 each), flags u32
     ndmsg: family u8, pad u8+u16, ifindex s32, state u16, flags u8, type u8
     attribute: length u16, type u16, value, padded to 4
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# linux/netlink.h
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

# linux/rtnetlink.h
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWNEIGH, _RTM_DELNEIGH = 24, 25, 28, 29
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 8, 18
_RTAX_LOCK, _RTAX_MTU = 1, 2
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7
_RTNH_F_ONLINK = 4

# linux/neighbour.h
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF = 2

# linux/socket.h
_AF_INET, _AF_BRIDGE, _AF_INET6 = 2, 7, 10

ROUTE_PROTOCOL = 178
"""rtm_protocol of every route that overlayd makes: how it knows them again. No registered daemon uses it."""

HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BBHiHBB")
_ATTRIBUTE = struct.Struct("=HH")

_ADD = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_PUT = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
_REMOVE = NLM_F_REQUEST | NLM_F_ACK


def add_route(
    destination: Network,
    link: int | None,
    gateway: Address | None,
    onlink: bool,
    sequence: int,
    *,
    replace: bool,
    mtu: int | None = None,
) -> bytes:
    """A route through interface index `link`; unreachable where `link` is None. `mtu` is what it takes, in bytes.

    Without `replace` the kernel refuses (EEXIST) where any route to `destination` of the same metric stands.
    """
    attributes = attribute(_RTA_DST, destination.network_address.packed)
    if link is None:
        scope, kind = _RT_SCOPE_UNIVERSE, _RTN_UNREACHABLE
    else:
        scope, kind = _RT_SCOPE_UNIVERSE if gateway is not None else _RT_SCOPE_LINK, _RTN_UNICAST
        attributes += attribute(_RTA_OIF, struct.pack("=i", link))
    if gateway is not None:
        if gateway.version == destination.version:
            attributes += attribute(_RTA_GATEWAY, gateway.packed)
        else:  # struct rtvia: an IPv4 route may have an IPv6 next hop
            attributes += attribute(_RTA_VIA, struct.pack("=H", _family(gateway)) + gateway.packed)
    if mtu is not None:
        metrics = attribute(_RTAX_MTU, struct.pack("=I", mtu))
        if destination.version == 6:  # where it forwards IPv6, the kernel heeds no other (ip6_dst_mtu_maybe_forward)
            metrics += attribute(_RTAX_LOCK, struct.pack("=I", 1 << _RTAX_MTU))
        attributes += attribute(_RTA_METRICS, metrics)
    flags = _RTNH_F_ONLINK if onlink else 0
    body = _rtmsg(destination, scope, kind, flags) + attributes
    return message(_RTM_NEWROUTE, _PUT if replace else _ADD, sequence, body)


def delete_route(destination: Network, link: int | None, sequence: int) -> bytes:
    """Delete our route to `destination` (through interface index `link`, where it has one)."""
    attributes = attribute(_RTA_DST, destination.network_address.packed)
    if link is not None:
        attributes += attribute(_RTA_OIF, struct.pack("=i", link))
    kind = _RTN_UNICAST if link is not None else _RTN_UNREACHABLE
    body = _rtmsg(destination, _RT_SCOPE_NOWHERE, kind, 0) + attributes
    return message(_RTM_DELROUTE, _REMOVE, sequence, body)


def put_neighbour(link: int, ip: Address, mac: str, sequence: int) -> bytes:
    """A permanent neighbour entry, replacing whatever stands there."""
    body = _NDMSG.pack(_family(ip), 0, 0, link, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, ip.packed) + attribute(_NDA_LLADDR, _octets(mac))
    return message(_RTM_NEWNEIGH, _PUT, sequence, body)


def delete_neighbour(link: int, ip: Address, sequence: int) -> bytes:
    """Delete a neighbour entry."""
    body = _NDMSG.pack(_family(ip), 0, 0, link, 0, 0, 0) + attribute(_NDA_DST, ip.packed)
    return message(_RTM_DELNEIGH, _REMOVE, sequence, body)


def put_fdb(link: int, mac: str, vtep: Address, sequence: int) -> bytes:
    """A permanent entry in a VXLAN device's own FDB, replacing the one of the same MAC."""
    body = _NDMSG.pack(_AF_BRIDGE, 0, 0, link, _NUD_PERMANENT | _NUD_NOARP, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, _octets(mac)) + attribute(_NDA_DST, vtep.packed)
    return message(_RTM_NEWNEIGH, _PUT, sequence, body)


def delete_fdb(link: int, mac: str, vtep: Address, sequence: int) -> bytes:
    """Delete an entry from a VXLAN device's own FDB."""
    body = _NDMSG.pack(_AF_BRIDGE, 0, 0, link, _NUD_PERMANENT | _NUD_NOARP, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, _octets(mac)) + attribute(_NDA_DST, vtep.packed)
    return message(_RTM_DELNEIGH, _REMOVE, sequence, body)


def read_acks(data: bytes) -> list[tuple[int, int]]:
    """(sequence, errno) of every acknowledgement in what a netlink socket delivered; errno 0 is success."""
    acks = []
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            break
        if kind == NLMSG_ERROR and length >= HEADER.size + 4:
            acks.append((sequence, -struct.unpack_from("=i", data, offset + HEADER.size)[0]))
        offset += length + 3 & ~3
    return acks


def _rtmsg(destination: Network, scope: int, kind: int, flags: int) -> bytes:
    family = _AF_INET if destination.version == 4 else _AF_INET6
    return _RTMSG.pack(family, destination.prefixlen, 0, 0, _RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, kind, flags)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Any netlink message: a header of that type before `body`."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _family(address: Address) -> int:
    return _AF_INET if address.version == 4 else _AF_INET6


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
