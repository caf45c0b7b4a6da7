"""Routes of overlayd's, and those that it takes over."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from overlayd.core.kernel.kinds.base import Interfaces, Key, RtnetlinkObject, Verb
from overlayd.wire.address import Address, Network
from overlayd.wire.netlink import route as wire
from overlayd.wire.netlink.message import family_header
from overlayd.wire.netlink.uapi import AF_INET, AF_INET6, RTM_GETROUTE, RTMSG


@dataclass(frozen=True, slots=True)
class Route(RtnetlinkObject):
    """A route of the main table, marked as ours by its protocol. Without `link` it is an unreachable route."""

    rank = 70
    dump = (RTM_GETROUTE, (family_header(AF_INET, RTMSG), family_header(AF_INET6, RTMSG)))

    destination: Network
    link: str | None = None
    gateway: Address | None = None
    onlink: bool = False
    own_link: bool = False
    """Whether `link` is a device of ours (else it is the underlay's)."""
    mtu: int | None = None
    """Bytes, where the path takes less than the device: what the kernel forwards has to fit, or its sender is told."""
    ours: bool = True
    """Whether it has overlayd's protocol; another's is read only to be taken over."""

    @property
    def key(self) -> Key:
        return ("route", self.destination)

    @property
    def parent(self) -> Key | None:
        return ("link", self.link) if self.own_link else None

    def is_blocked_by(self, actual: Self) -> bool:
        """The kernel takes no IPv6 gateway as on-link that another device has a route to (ip6_route_check_nh_onlink),
        and the peer's subnet holds its VTEP's address."""
        return self.onlink and self.destination.version == 6 and actual.link not in (None, self.link)

    def encode(self, verb: Verb, indexes: Mapping[str, int], sequence: int) -> bytes:
        index = indexes[self.link] if self.link is not None else None
        if verb == "delete":
            return wire.delete_route(self.destination, index, sequence, ours=self.ours)
        replace = verb == "change"
        return wire.put_route(
            self.destination, index, self.gateway, self.onlink, sequence, replace=replace, mtu=self.mtu, ours=self.ours
        )

    @classmethod
    def decode(cls, data: bytes, begin: int, end: int, interfaces: Interfaces) -> Route | None:
        entry = wire.read_route(data, begin, end, foreign=interfaces.foreign)
        return cls.of(entry, interfaces) if entry is not None else None

    @classmethod
    def of(cls, entry: wire.RouteEntry, interfaces: Interfaces) -> Route:
        """The route in a dump or a notification."""
        if entry.unreachable:
            return Route(entry.destination)
        return Route(
            entry.destination,
            link=interfaces.names.get(entry.link, f"#{entry.link}"),
            gateway=entry.gateway,
            onlink=entry.onlink,
            own_link=entry.link in interfaces.ours,
            mtu=entry.mtu,
            ours=entry.ours,
        )

    def explain(self, number: int, text: str) -> str:
        if number == errno.EEXIST:
            return f"{text}: a route to {self.destination} that overlayd did not make is there; remove it"
        if number == errno.ENETUNREACH:
            return f"{text}: the gateway is not on the link"
        return RtnetlinkObject.explain(self, number, text)

    def __str__(self) -> str:
        if self.link is None:
            return f"route unreachable {self.destination}"
        words = f"route {self.destination}"
        if self.gateway is not None:
            foreign = "inet6 " if self.gateway.version != self.destination.version else ""
            words += f" via {foreign}{self.gateway}"
        mtu = f" mtu {self.mtu}" if self.mtu is not None else ""
        return f"{words} dev {self.link}{mtu}{' onlink' if self.onlink else ''}"
