"""Leases: which host owns which subnet, the table of all of them, and what changes in it.

A lease's way: a registry gives a snapshot or an event -> the table says what that changes -> backends read the changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

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
    written_mac_v6: str | None = None
    """The MAC of a second VXLAN device, over IPv6, where the host has one with a MAC of its own (flannel)."""
    backend: str | None = None
    """How the host's packets travel, in flannel's words; None where the registry does not say (the static one)."""
    vni: int | None = None
    port: int | None = None
    """UDP port that the host listens on; None where the registry does not say."""
    probe_port: int | None = None
    """UDP port on which the host's overlayd answers probes; None where it does not, or where flannel runs."""
    data: Mapping[str, Any] | None = field(default=None, hash=False)
    """What a udp lease carries beside its addresses; opaque here."""
    reserved: bool = False
    """Whether it never expires. One without any underlay address is held for nobody."""
    # Made once: with thousands of leases these are asked for all the time.
    subnets: tuple[Network, ...] = field(init=False, repr=False, compare=False)
    """The one or two subnets, IPv4 first."""
    key: str = field(init=False, repr=False, compare=False)
    """The lease's identity, as flannel's etcd keys spell it: 10.5.52.0-24, or 10.5.52.0-24&fc00::-64."""

    def __post_init__(self) -> None:
        subnets = tuple(subnet for subnet in (self.subnet, self.ipv6_subnet) if subnet is not None)
        if not subnets:
            raise ValueError("a lease needs a subnet of at least one family")
        object.__setattr__(self, "subnets", subnets)
        object.__setattr__(self, "key", "&".join(str(subnet).replace("/", "-") for subnet in subnets))

    @property
    def vtep_mac(self) -> str:
        """The MAC of the host's VXLAN device: as written, else derived from the lease, the same on every host."""
        return self.written_mac or self.written_mac_v6 or derive_mac(f"overlayd vtep {self.key}")

    def mac_over(self, underlay_family: Family) -> str:
        """The MAC of the host's VXLAN device over that underlay family."""
        return self.written_mac_v6 or self.vtep_mac if underlay_family == 6 else self.vtep_mac

    def subnet_of(self, family: Family) -> Network | None:
        """The subnet of that family, if the lease has one."""
        return self.subnet if family == 4 else self.ipv6_subnet

    def public(self, family: Family) -> Address | None:
        """The underlay address of that family, if the host has one."""
        return self.public_ip if family == 4 else self.public_ipv6

    def __str__(self) -> str:
        subnets = "+".join(map(str, self.subnets))
        publics = "/".join(str(public) for public in (self.public_ip, self.public_ipv6) if public is not None)
        return f"{subnets}@{publics}" if publics else subnets


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
        self._publics: Counter[Address] = Counter()

    def replace(self, leases: Iterable[Lease]) -> list[LeaseEvent]:
        """Make the table equal a snapshot; the events lead from the old table to the new one, removals first."""
        new = {lease.key: lease for lease in leases}
        events = [LeaseEvent(lease, None) for key, lease in self._leases.items() if key not in new]
        for key, lease in new.items():
            old = self._leases.get(key)
            if old != lease:
                events.append(LeaseEvent(old, lease))
        self._leases = new
        self._count(events)
        return events

    def apply(self, *changes: LeaseEvent) -> list[LeaseEvent]:
        """Take events from a registry; gives back what they change here: nothing for one that was known already.

        Costs what the events cost, however large the table is.
        """
        events: list[LeaseEvent] = []
        for change in changes:
            key, new = change.lease.key, change.new
            old = self._leases.pop(key, None) if new is None else self._leases.get(key)
            if new is not None:
                self._leases[key] = new
            if old != new:
                events.append(LeaseEvent(old, new))
        self._count(events)
        return events

    def _count(self, events: Iterable[LeaseEvent]) -> None:
        for event in events:
            for lease, step in ((event.old, -1), (event.new, 1)):
                for public in (lease.public_ip, lease.public_ipv6) if lease is not None else ():
                    if public is not None:
                        self._publics[public] += step

    def is_public(self, address: Address) -> bool:
        """Whether any lease names this underlay address."""
        return self._publics[address] > 0

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, key: str) -> Lease | None:
        """The lease with this key, or None."""
        return self._leases.get(key)
