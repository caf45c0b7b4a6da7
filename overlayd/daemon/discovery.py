"""From settings to this host's node: which interface, which lease, which MTU. Reads the kernel; changes nothing."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from overlayd.core.address import Network
from overlayd.core.leases.lease import Lease
from overlayd.core.mtu import MINIMUM
from overlayd.core.node import Node, Underlay
from overlayd.core.settings.model import Settings
from overlayd.core.underlay import UnderlayError, find_underlay
from overlayd.registry.base import Registry
from overlayd.registry.static import StaticRegistry
from overlayd.system.errors import HostError
from overlayd.system.netlink import Netlink
from overlayd.system.state_dir import StateDir

_ANYWHERE = {4: "198.51.100.1", 6: "2001:db8::1"}  # documentation addresses: they follow the default route


async def _accept(node: Node) -> None:
    """Any node will do."""


async def discover(
    settings: Settings,
    registry: Registry,
    netlink: Netlink,
    stay: str | None = None,
    admit: Callable[[Node], Awaitable[None]] = _accept,
) -> Node:
    """This host's node. Raises HostError or RegistryError with what is missing and how to give it.

    The lease is claimed when everything about the node is known to be right, and `admit` has raised nothing.

    `stay` is the interface on which the overlay is up: it is kept where the settings name none (a default route may be
    away for a moment), and an mtu that it has become too narrow for is lowered, where otherwise it is refused.
    """
    if stay is not None and not (settings.iface or settings.iface_regex or settings.iface_can_reach):
        settings = settings.changed(iface=stay)
    interfaces = await netlink.interfaces()
    targets = [settings.iface_can_reach] if settings.iface_can_reach is not None else list(_ANYWHERE.values())
    egress = [index for target in targets if (index := await netlink.egress(target)) is not None]
    leases = [entry.lease() for entry in settings.leases]
    try:
        underlay = find_underlay(settings, interfaces, egress, leases)
    except UnderlayError as error:
        raise HostError(str(error)) from None

    async def check(lease: Lease) -> None:
        await admit(_node(settings, underlay, lease, stay))

    return _node(settings, underlay, await registry.acquire(settings, underlay, check), stay)


def _node(settings: Settings, underlay: Underlay, lease: Lease, stay: str | None) -> Node:
    """The node with this lease. Raises HostError where the underlay is not good enough for it."""
    # The lease says by which families peers reach this host; an address that it does not name carries nothing.
    underlay = replace(underlay, public_ip=lease.public_ip, public_ipv6=lease.public_ipv6)
    for own in lease.subnets:
        _not_on_underlay(own, underlay)
    node = Node(settings.spec, settings.section, lease, underlay, settings.ranges(), settings.mtu)
    if (fault := node.spec.fault(node)) is not None:
        raise HostError(fault)
    for underlay_family in node.underlay_families:
        if underlay.local(underlay_family) is None:
            raise HostError(
                f"interface {underlay.name} has no IPv{underlay_family} address to send from,"
                f" and this host's lease is reached over IPv{underlay_family}; add one"
            )
    if stay is None and (settings.mtu or 0) > (largest := node.largest_mtu):
        raise HostError(
            f"mtu: {settings.mtu} does not fit: interface {underlay.name} (MTU {underlay.mtu}) leaves {largest} bytes"
            f" for containers in {node.mode} mode; set mtu to {largest} or less, or leave it out"
        )
    least = max(MINIMUM[family] for family in node.families)
    if node.overlay_mtu < least:
        raise HostError(
            f"interface {underlay.name}: its MTU {underlay.mtu} leaves {node.overlay_mtu} bytes for containers,"
            f" which need {least}; raise it by {least - node.overlay_mtu}"
        )
    return node


def _not_on_underlay(subnet: Network, underlay: Underlay) -> None:
    for own in underlay.addresses:
        if own.ip in subnet:
            raise HostError(
                f"interface {underlay.name}: its address {own} lies in this host's own subnet {subnet};"
                " overlay and underlay must not share addresses"
            )


def make_registry(settings: Settings, *, read_only: bool = False) -> Registry:
    """The source of leases. Raises HostError or RegistryError. `read_only`: nothing is written anywhere."""
    if settings.registry == "static":
        return StaticRegistry()
    from overlayd.registry.etcd.registry import EtcdRegistry  # an HTTP client and ssl: a fifth of a daemon's memory

    store = StateDir(Path(settings.state_dir), Path(settings.subnet_file))
    name = settings.node_name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    return EtcdRegistry(settings, store, name, read_only=read_only)
