"""Leases: which host owns which subnet, the table of all of them, and what changes in it.

A lease's way: a registry gives a snapshot or an event -> the table says what that changes -> backends read the changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from overlayd.core.address import Address, Family, Network
from overlayd.wire.mac import derive_mac

Wire = Literal["flannel", "overlayd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One host's subnet, of one family or of both, and where the host is found on the underlay."""

    subnet: IPv4Network | None = None
    ipv6_subnet: IPv6Network | None = None
    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    written_mac: str | None = None
    """The VTEP MAC that the registry holds; None where it is derived."""
    name: str = ""
    """What people call the host; for display only."""
    wire: Wire = "flannel"
    """What the host understands in udp mode: flannel's format alone, or what overlayd nodes agree upon, too."""

    def __post_init__(self) -> None:
        if not self.subnets:
            raise ValueError("a lease needs a subnet of at least one family")

    @property
    def subnets(self) -> tuple[Network, ...]:
        """The one or two subnets, IPv4 first."""
        return tuple(subnet for subnet in (self.subnet, self.ipv6_subnet) if subnet is not None)

    @property
    def key(self) -> str:
        """The lease's identity, as flannel's etcd keys spell it: 10.5.52.0-24, or 10.5.52.0-24&fc00::-64."""
        return "&".join(str(subnet).replace("/", "-") for subnet in self.subnets)

    @property
    def vtep_mac(self) -> str:
        """The MAC of the host's VXLAN device: as written, else derived from the lease, the same on every host."""
        return self.written_mac or derive_mac(f"overlayd vtep {self.key}")

    def subnet_of(self, family: Family) -> Network | None:
        """The subnet of that family, if the lease has one."""
        return self.subnet if family == 4 else self.ipv6_subnet

    def public(self, family: Family) -> Address | None:
        """The underlay address of that family, if the host has one."""
        return self.public_ip if family == 4 else self.public_ipv6

    def __str__(self) -> str:
        publics = "/".join(str(public) for public in (self.public_ip, self.public_ipv6) if public is not None)
        return f"{'+'.join(map(str, self.subnets))}@{publics}"


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    """One change of the table: `old` is None for a lease that came, `new` for one that went."""

    old: Lease | None
    new: Lease | None

    @property
    def kind(self) -> str:
        """added, removed or changed."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "changed"

    @property
    def lease(self) -> Lease:
        """The newest form of the lease that the event is about."""
        lease = self.new or self.old
        assert lease is not None
        return lease


class LeaseTable:
    """All leases of the network by key, this host's own included. Changing it says what changed."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def replace(self, leases: Iterable[Lease]) -> list[LeaseEvent]:
        """Make the table equal a snapshot; the events lead from the old table to the new one, removals first."""
        new = {lease.key: lease for lease in leases}
        events = [LeaseEvent(lease, None) for key, lease in self._leases.items() if key not in new]
        for key, lease in new.items():
            old = self._leases.get(key)
            if old != lease:
                events.append(LeaseEvent(old, lease))
        self._leases = new
        return events

    def apply(self, event: LeaseEvent) -> list[LeaseEvent]:
        """Take one event from a registry; gives back what it changes here: nothing for one that was known already."""
        new = {**self._leases}
        new.pop(event.lease.key, None)
        return self.replace([*new.values(), *([event.new] if event.new is not None else [])])

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, key: str) -> Lease | None:
        """The lease with this key, or None."""
        return self._leases.get(key)
