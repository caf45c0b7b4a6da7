"""The address types that everything shares; `ipaddress` does the work."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Literal

from overlayd.wire.address import Address, Interface, Network

__all__ = ["FAMILIES", "Address", "Family", "Interface", "Network", "host_network", "overlap", "within"]

Family = Literal[4, 6]

FAMILIES: tuple[Family, Family] = (4, 6)


def overlap(one: Network, other: Network) -> bool:
    """Whether two networks share an address; networks of different families never do."""
    if one.prefixlen == other.prefixlen:  # the common case, and the cheap one
        return one == other
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one.overlaps(other)
    return False


def within(inner: Network, outer: Network) -> bool:
    """Whether `inner` is `outer` or a part of it."""
    return inner.prefixlen >= outer.prefixlen and inner.version == outer.version and inner.network_address in outer


def host_network(address: Address) -> Network:
    """The /32 or /128 of one address."""
    if isinstance(address, IPv4Address):
        return IPv4Network(address)
    return IPv6Network(address)
