"""route_localnet of a device (ip-sysctl.rst): whether 127.0.0.0/8 is routed on it like other addresses."""

from __future__ import annotations

from overlayd.wire.netlink.link import set_link
from overlayd.wire.netlink.message import U32, attributes, nested, u32
from overlayd.wire.netlink.uapi import (
    AF_INET,
    IFINFOMSG,
    IFLA_AF_SPEC,
    IFLA_INET_CONF,
    IPV4_DEVCONF_ROUTE_LOCALNET,
)

_AT = (IPV4_DEVCONF_ROUTE_LOCALNET - 1) * U32.size
"""Where it is in the kernel's list of the settings."""


def set_route_localnet(index: int, sequence: int, *, on: bool) -> bytes:
    """Switch it on or off."""
    setting = nested(IFLA_INET_CONF, u32(IPV4_DEVCONF_ROUTE_LOCALNET, on))
    return set_link(index, nested(IFLA_AF_SPEC, nested(AF_INET, setting)), sequence)


def read_route_localnet(data: bytes, begin: int, end: int) -> tuple[int, bool] | None:
    """The interface index, and whether it is on, in a body of RTM_NEWLINK; None for one cut off, or without IPv4."""
    if end - begin < IFINFOMSG.size:
        return None
    _, _, _, index, _, _ = IFINFOMSG.unpack_from(data, begin)
    value = data[begin + IFINFOMSG.size : end]
    for kind in (IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF):
        value = dict(attributes(value, 0, len(value))).get(kind, b"")
    return (index, any(value[_AT : _AT + U32.size])) if len(value) >= _AT + U32.size else None
