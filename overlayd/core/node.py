"""This host's part in the network: everything about it that does not change with a peer's lease."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from overlayd.core.address import FAMILIES, Address, Family, Interface, Network, overlap
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.subnets import SubnetRange
from overlayd.core.mode import UNTYPED, ModeSpec
from overlayd.core.mtu import narrowed, overlay_mtu
from overlayd.core.settings.section import Section


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that carries the overlay's packets between hosts."""

    name: str
    index: int
    mtu: int
    """underlay_mtu, bytes."""
    addresses: tuple[Interface, ...]
    """All its addresses with their on-link prefixes."""
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None

    def public(self, family: Family) -> Address | None:
        """The address that peers send to, of that family."""
        return self.public_ip if family == 4 else self.public_ipv6

    def local(self, family: Family) -> Address | None:
        """The address that this host sends from: the public one, or behind a NAT the interface's own."""
        own = [item.ip for item in self.addresses if item.version == family and not item.ip.is_link_local]
        public = self.public(family)
        return public if public in own else next(iter(own), None)

    def on_link(self, address: Address) -> bool:
        """Whether the address is reached on this interface without a gateway."""
        return any(address.version == own.version and address in own.network for own in self.addresses)


@dataclass(frozen=True, slots=True)
class Node:
    """A host in the overlay, as its own configuration, underlay and lease make it."""

    spec: ModeSpec[Any]
    """The mode."""
    section: Section | None
    """The mode's settings."""
    lease: Lease
    underlay: Underlay
    ranges: tuple[SubnetRange, ...]
    """The network, one range for each family it has."""
    mtu_override: int | None = None

    @property
    def mode(self) -> str:
        """The mode's name."""
        return self.spec.name

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that containers speak here: those in which this host holds a subnet."""
        return tuple(family for family in FAMILIES if self.lease.subnet_of(family) is not None)

    def underlay_family(self, inner: Family) -> Family:
        """The underlay family that carries container packets of family `inner`: the same one where this host
        has a public address of it, as flannel does in dual stack, else the other."""
        if self.underlay.public(inner) is not None:
            return inner
        return 6 if inner == 4 else 4

    @property
    def underlay_families(self) -> tuple[Family, ...]:
        """The underlay families in use."""
        return tuple(sorted({self.underlay_family(inner) for inner in self.families}))

    @property
    def largest_mtu(self) -> int:
        """Bytes of container packet that every underlay family in use can carry."""
        return min(overlay_mtu(self.underlay.mtu, self.spec.overhead(family)) for family in self.underlay_families)

    @property
    def overlay_mtu(self) -> int:
        """Bytes of container packet: as configured, if the underlay carries that, else as many as it carries."""
        return min(self.largest_mtu, self.mtu_override or self.largest_mtu)

    def route_mtu(self, subnet: Network, public: Address, paths: Mapping[Address, int]) -> int | None:
        """Bytes of container packet that get to the peer's subnet, where its path is known to take less than others."""
        return narrowed(paths.get(public), self.spec.overhead(public.version), subnet.version, self.overlay_mtu)

    def serves(self, other: Node) -> bool:
        """Whether what sends and receives for this node is right for `other` as well: they differ in the underlay's MTU
        and in addresses that are not sent from, and in nothing else."""
        mine, its = self.underlay, other.underlay
        alike = replace(other, underlay=replace(its, mtu=mine.mtu, addresses=mine.addresses))
        return alike == self and all(
            mine.local(underlay_family) == its.local(underlay_family) for underlay_family in self.underlay_families
        )

    def obstacle(self, peer: Lease, inner: Family) -> str | None:
        """Why the peer's subnet of family `inner` cannot be reached from here, in words; None when it can be."""
        underlay_family = self.underlay_family(inner)
        subnet, public = peer.subnet_of(inner), peer.public(underlay_family)
        if subnet is None or self._vacant(peer):
            return None
        if wrong := self._mismatch(peer, subnet):
            return wrong
        if public is None:
            key = "public_ip" if underlay_family == 4 else "public_ipv6"
            return f"{subnet} is carried over IPv{underlay_family} from this host, and the lease has no {key}; add it"
        return self.spec.obstacle(self, peer, subnet, public)

    def _vacant(self, peer: Lease) -> bool:
        """Whether the lease is a reservation that no host has taken up yet: nobody to reach, and nothing wrong."""
        if not peer.reserved:
            return False
        nobody = peer.public_ip is None and peer.public_ipv6 is None
        return nobody or (peer.backend == UNTYPED and peer.port is None and self.mode != UNTYPED)

    def _mismatch(self, peer: Lease, subnet: Network) -> str | None:
        """What the peer's lease and this node's configuration contradict each other in."""
        if peer.backend is not None and peer.backend != self.mode:
            return f"{subnet} uses backend {peer.backend}, this host {self.mode}; use one on all hosts"
        for name, field in self.spec.agreed:
            its, ours = getattr(peer, field), getattr(self.section, field)
            if its is not None and its != ours:
                return f"{subnet} uses {name} {its}, this host {name} {ours}; use one on all hosts"
        if any(overlap(subnet, own) for own in self.lease.subnets):
            return f"{subnet} overlaps this host's own subnet; remove one of the two leases"
        return None

    def problem(self, peer: Lease) -> str | None:
        """The first obstacle to any of the peer's subnets; None for this host's own."""
        if peer.key == self.lease.key:
            return None
        return next((text for inner in self.families if (text := self.obstacle(peer, inner))), None)

    def reachable(self, peer: Lease) -> Iterator[tuple[Network, Address]]:
        """The peer's subnets that can be reached from here, each with the underlay address that holds it."""
        for inner in self.families:
            subnet, public = peer.subnet_of(inner), peer.public(self.underlay_family(inner))
            if subnet is None or public is None or self._vacant(peer):
                continue
            if self.obstacle(peer, inner) is None:
                yield subnet, public
