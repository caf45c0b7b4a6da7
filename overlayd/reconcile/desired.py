"""Everything that is to be in the kernel, for one backend and its peers."""

from __future__ import annotations

from collections.abc import Iterable

from overlayd.backend.base import Backend
from overlayd.core.kernel.firewall import ForeignChain, Side, Wanted, rulesets
from overlayd.core.kernel.kinds import KernelObject, KernelState, Route, state_of
from overlayd.core.leases.lease import Lease
from overlayd.core.node import Node
from overlayd.core.settings.model import Settings


def desired_state(
    backend: Backend, settings: Settings, peers: Iterable[Lease], dropping: Iterable[ForeignChain]
) -> KernelState:
    """Every object that is to be in the kernel; pure."""
    node = backend.node
    objects: list[KernelObject] = [*backend.base(), *_unreachable(node), *rulesets(_rules(backend, settings), dropping)]
    for lease in peers:
        objects += backend.peer(lease)
    return state_of(objects)


def _unreachable(node: Node) -> list[Route]:
    """What nobody leases is answered by the kernel itself with ICMP, and never leaves by the default route."""
    return [Route(one.network) for one in node.ranges if node.lease.subnet_of(one.network.version) is not None]


def _rules(backend: Backend, settings: Settings) -> Wanted:
    node = backend.node
    sides = []
    for one in node.ranges:
        subnet = node.lease.subnet_of(one.network.version)
        if subnet is not None:
            sides.append(Side(one.network, subnet))
    return Wanted(
        tuple(sides), backend.devices, backend.guarded, node.underlay.name, settings.ip_masq, settings.forward_rules
    )
