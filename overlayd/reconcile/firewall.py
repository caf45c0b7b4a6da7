"""The rules of a node: our own table, its sets of peers, and accepts in other firewalls' forward chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from overlayd.core.address import Address
from overlayd.core.kernel.firewall import FirewallPolicy, OverlayRange, peer_element, rulesets
from overlayd.core.kernel.kinds import KernelObject, SetElement
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.lease import Lease
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node


def overlay_ranges(node: Node) -> Iterator[OverlayRange]:
    """The overlay in each family in which this host has a subnet."""
    for one in node.ranges:
        subnet = node.lease.subnet_of(one.network.version)
        if subnet is not None:
            yield OverlayRange(one.network, subnet)


class Firewall:
    """See `core.kernel.provider.Provider`. Where there are ports to guard, each peer that can be reached has an element
    in the set of peers."""

    def __init__(
        self,
        node: Node,
        devices: tuple[str, ...],
        tunnels: tuple[str, ...],
        ports: tuple[int, ...],
        masquerade: bool,
        forward_accept: bool,
        is_public: Callable[[Address], bool],
    ) -> None:
        """`devices` are the overlay's; `tunnels`: see `Backend`; `ports`: of hosts, for peers alone; `is_public`:
        whether any lease names this underlay address."""
        self._node, self._is_public = node, is_public
        self._policy = FirewallPolicy(
            ranges=tuple(overlay_ranges(node)),
            devices=devices,
            tunnels=tunnels,
            guarded=tuple(node.spec.guards(node)),
            underlay=node.underlay.name,
            underlay_families=tuple(node.underlay_families),
            plain=node.spec.plain(node),
            ports=ports,
            peer_ports=tuple(product(node.underlay_families, sorted(node.spec.ports(node)))),
            masquerade=masquerade,
            forward_accept=forward_accept,
        )

    def objects(self, now: Surroundings) -> Iterator[KernelObject]:
        yield from rulesets(self._policy, now.foreign)
        for lease in now.peers:
            yield from self._elements(lease)

    def on_leases(self, events: Sequence[LeaseEvent]) -> tuple[list[KernelObject], list[KernelObject]]:
        old = [thing for event in events if event.old is not None for thing in self._elements(event.old)]
        new = [thing for event in events if event.new is not None for thing in self._elements(event.new)]
        # A host that has two leases is a peer with either.
        stays = {thing.key for thing in new}
        return [thing for thing in old if thing.key in stays or not self._is_public(thing.address)], [*new]

    def _elements(self, lease: Lease) -> list[SetElement]:
        if not (self._policy.guarded or self._policy.ports):
            return []
        return [peer_element(public) for _, public in self._node.reachable(lease)]
