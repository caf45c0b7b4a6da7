"""The choice of the underlay: which interface, and which of its addresses peers send to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from overlayd.core.address import Address, Family, Interface
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Underlay
from overlayd.core.settings.model import Settings


@dataclass(frozen=True, slots=True)
class HostInterface:
    """An interface of the host, as the kernel reports it."""

    name: str
    index: int
    mtu: int
    up: bool
    loopback: bool
    ours: bool
    """Whether overlayd made it."""
    addresses: tuple[Interface, ...]

    def usable(self, family: Family) -> list[Address]:
        """Its addresses that other hosts can send to."""
        return [
            own.ip
            for own in self.addresses
            if own.version == family and not (own.ip.is_link_local or own.ip.is_loopback)
        ]


class UnderlayError(ValueError):
    """No interface matches; the text says what was asked for, what there is and what to do."""


def find_underlay(
    settings: Settings, interfaces: Sequence[HostInterface], egress: Sequence[int], leases: Iterable[Lease]
) -> Underlay:
    """The underlay, by the first that is set of: iface, iface_regex, iface_can_reach, public_ip, public_ipv6; else the
    interface that holds a public IP of the static table; else the one with the default route.

    `egress` holds the interface indexes that the kernel named: for iface_can_reach where it is set, else for the
    default routes, IPv4 first. Raises UnderlayError.
    """
    candidates = [one for one in interfaces if not one.ours]
    found, asked = _choose(settings, candidates, egress, leases)
    if found is None:
        names = ", ".join(f"{one.name} ({', '.join(str(own.ip) for own in one.addresses)})" for one in candidates)
        raise UnderlayError(f"{asked}; there are {names or 'no interfaces'}")
    public_ip = settings.public_ip or _own(found, 4, leases)
    public_ipv6 = settings.public_ipv6 or _own(found, 6, leases)
    if public_ip is None and public_ipv6 is None:
        raise UnderlayError(f"interface {found.name} has no address that peers can send to; add one, or set public_ip")
    assert public_ip is None or isinstance(public_ip, IPv4Address)
    assert public_ipv6 is None or isinstance(public_ipv6, IPv6Address)
    return Underlay(found.name, found.index, found.mtu, found.addresses, public_ip, public_ipv6)


def _choose(
    settings: Settings, candidates: Sequence[HostInterface], egress: Sequence[int], leases: Iterable[Lease]
) -> tuple[HostInterface | None, str]:
    """The interface, or None with the line that says what was asked for."""
    if settings.iface is not None:
        wanted = settings.iface
        return _first(candidates, lambda one: one.name == wanted or wanted in _texts(one)), (
            f"iface: no interface has the name or address {wanted}"
        )
    if settings.iface_regex is not None:
        pattern = re.compile(settings.iface_regex)
        return _first(
            candidates, lambda one: bool(pattern.search(one.name)) or any(map(pattern.search, _texts(one)))
        ), f"iface_regex: no interface's name or address matches {settings.iface_regex}"
    if settings.iface_can_reach is not None:
        return _first(candidates, lambda one: one.index in egress), (
            f"iface_can_reach: the kernel has no route to {settings.iface_can_reach}"
        )
    publics = {settings.public_ip, settings.public_ipv6} - {None} or {
        public for lease in leases for public in (lease.public_ip, lease.public_ipv6)
    }
    holder = _first(candidates, lambda one: any(own.ip in publics for own in one.addresses))
    if holder is not None:
        return holder, ""
    # A public IP that no interface holds is that of a NAT in front: the default route leads to it.
    # Without a default route the kernel may name lo, where unreachable routes of IPv6 lead.
    holder = next((one for index in egress for one in candidates if one.index == index and not one.loopback), None)
    tried = "no interface holds a public IP of the lease table, and " if publics else ""
    return holder, f"{tried}there is no default route to choose the underlay interface by; set iface (iface: eth0)"


def _first(candidates: Sequence[HostInterface], fits: Callable[[HostInterface], bool]) -> HostInterface | None:
    return next((one for one in candidates if not one.loopback and fits(one)), None)


def _texts(one: HostInterface) -> list[str]:
    return [str(own.ip) for own in one.addresses]


def _own(found: HostInterface, family: Family, leases: Iterable[Lease]) -> Address | None:
    """The interface's address that the lease table names, else its first usable one."""
    named = {lease.public(family) for lease in leases}
    usable = found.usable(family)
    return next((address for address in usable if address in named), usable[0] if usable else None)
