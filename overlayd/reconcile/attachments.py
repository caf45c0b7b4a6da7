"""What containers are attached by: a bridge for each network that has any, and the host's end of each attachment.

    bridge    BridgeLink ovlbr0, gateway 10.1.1.1/24        VethLink ovl5e0c..., BridgePort, Neighbour on ovlbr0
    routed    VethLink ovl77ab..., gateway 10.1.1.1/32      Neighbour and Route 10.1.1.7/32 on ovl77ab...

Every network shares this host's subnet, and has a bridge of its own. The bridge of the first network has the subnet's
route; those of others have the gateway's address alone, and a route to each of their containers.

The host asks no container for its MAC, which it knows. By IPv6 it could not: its ends have no link-local address.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface

from overlayd.core.address import Address, Network, host_network
from overlayd.core.attach.ipam import container_mac, gateway
from overlayd.core.attach.model import DEFAULT_NETWORK, Attachment
from overlayd.core.attach.table import AttachmentTable
from overlayd.core.kernel.kinds import (
    BridgeLink,
    BridgePort,
    KernelObject,
    LinkAddress,
    Neighbour,
    Route,
    VethLink,
    VethPeer,
)
from overlayd.core.kernel.provider import Surroundings
from overlayd.core.leases.table import LeaseEvent
from overlayd.core.node import Node


def bridge_name(network: str) -> str:
    """The network's bridge, at most 15 characters."""
    return "ovlbr0" if network == DEFAULT_NETWORK else f"ovlbr{hashlib.sha256(network.encode()).hexdigest()[:10]}"


def device_towards(attachment: Attachment) -> str:
    """The device of this host that leads to the container."""
    return attachment.device if attachment.mode == "routed" else bridge_name(attachment.network)


class AttachmentProvider(ABC):
    """See `core.kernel.provider.Provider`: one that follows from this host's attachments alone."""

    def __init__(self, node: Node, table: AttachmentTable) -> None:
        self._node, self._table = node, table

    def objects(self, now: Surroundings) -> Iterator[KernelObject]:
        return self.of(self._table)

    def on_leases(self, events: Sequence[LeaseEvent]) -> tuple[list[KernelObject], list[KernelObject]]:
        return [], []  # what peers lease does not matter here

    @abstractmethod
    def of(self, attachments: Iterable[Attachment]) -> Iterator[KernelObject]:
        """What these attachments want, with what they share."""


class Attachments(AttachmentProvider):
    """Host ends are transient: they are desired while they are there."""

    def of(self, attachments: Iterable[Attachment], peers: dict[str, VethPeer] | None = None) -> Iterator[KernelObject]:
        """What these attachments want, their bridges included. `peers`: the ends to make, by the host end's name."""
        bridges: set[str] = set()
        for one in attachments:
            yield VethLink(one.device, one.mtu, peer=(peers or {}).get(one.device))
            if one.mode == "routed":
                yield from self._gateways(one.device, routed=True)
                yield from self._routes(one, one.device)
                yield from self._neighbours(one, one.device)
                continue
            bridge = bridge_name(one.network)
            if bridge not in bridges:
                bridges.add(bridge)
                yield from self._bridge(bridge)
            yield BridgePort(one.device, bridge, hairpin=bool(one.ports))
            yield from self._neighbours(one, bridge)
            if one.network != DEFAULT_NETWORK:
                yield from self._routes(one, bridge)

    def _bridge(self, name: str) -> Iterator[KernelObject]:
        gateways = [gateway(subnet) for subnet in self._subnets]
        yield BridgeLink(name, self._node.overlay_mtu, mac=container_mac(gateways))
        yield from self._gateways(name, routed=name != bridge_name(DEFAULT_NETWORK))

    def _gateways(self, device: str, *, routed: bool) -> Iterator[KernelObject]:
        """The gateway's addresses, with the subnet's route or without."""
        for subnet in self._subnets:
            length = subnet.max_prefixlen if routed else subnet.prefixlen
            yield LinkAddress(device, ip_interface((gateway(subnet), length)))

    def _routes(self, attachment: Attachment, device: str) -> Iterator[KernelObject]:
        for address in self._current(attachment):
            yield Route(host_network(address), device, own_link=True)

    def _neighbours(self, attachment: Attachment, device: str) -> Iterator[KernelObject]:
        for address in self._current(attachment):
            yield Neighbour(device, address, attachment.mac)

    def _current(self, attachment: Attachment) -> Iterator[Address]:
        """Its addresses but for those of a lease that this host has lost."""
        return (one.ip for one in attachment.addresses if any(one.ip in subnet for subnet in self._subnets))

    @property
    def _subnets(self) -> tuple[Network, ...]:
        return self._node.lease.subnets
