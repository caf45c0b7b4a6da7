"""A host's kernel through the daemon's own `Kernel`, and objects of vxlan mode to fill it with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, TypeVar

from overlayd.core.address import FAMILIES
from overlayd.core.kernel.diff import diff
from overlayd.core.kernel.firewall import FirewallPolicy, GuardedPort, OverlayRange, own_table
from overlayd.core.kernel.kinds import FdbEntry, KernelObject, KernelState, Neighbour, Route, Ruleset, VxlanLink
from overlayd.lab import Host
from overlayd.lab.namespace import within
from overlayd.system.kernel import Failure, Kernel
from overlayd.system.netlink import Netlink
from overlayd.wire.mac import derive_mac
from support.dump import index_of

T = TypeVar("T")


def inside(host: Host, job: Callable[[Kernel], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine that is given the host's kernel.

    A thread is moved into the namespace; every socket and process that the coroutine makes is from there.
    """

    async def run() -> T:
        async with Netlink() as netlink:
            return await job(Kernel(netlink))

    return within(host.namespace, lambda: asyncio.run(run()))


def bring_to(host: Host, desired: KernelState) -> list[Failure]:
    """Compare and apply; what the kernel refused."""

    async def job(kernel: Kernel) -> list[Failure]:
        return await kernel.apply(diff((await kernel.read()).state, desired))

    return inside(host, job)


def reading(host: Host) -> KernelState:
    """What is there."""

    async def job(kernel: Kernel) -> KernelState:
        return (await kernel.read()).state

    return inside(host, job)


def device(host: Host, **fields: Any) -> VxlanLink:
    """The vxlan device of these tests."""
    local, underlay = IPv4Address("192.0.2.1"), index_of(host, "eth0")
    link = VxlanLink("ovl.1", 1450, vni=1, port=8472, local=local, underlay=underlay, mac="06:47:0f:9c:01:2a")
    return replace(link, **fields)


def peers(count: int) -> Iterator[KernelObject]:
    """The objects of vxlan mode for this many peers, every tenth of them with IPv6."""
    subnets = IPv4Network("100.64.0.0/10").subnets(new_prefix=24)
    subnets6 = IPv6Network("fd00:10::/32").subnets(new_prefix=64)
    for number, (subnet, subnet6) in enumerate(zip(subnets, subnets6, strict=False)):
        if number == count:
            return
        mac = derive_mac(f"peer {number}")
        yield FdbEntry("ovl.1", mac, IPv4Address("172.16.0.0") + number)
        for own in (subnet, subnet6) if number % 10 == 0 else (subnet,):
            yield Neighbour("ovl.1", own[0], mac)
            yield Route(own, "ovl.1", own[0], onlink=True, own_link=True)


def rules() -> Ruleset:
    """Our table with both sets."""
    network = IPv4Network("10.1.0.0/16")
    guarded = tuple(GuardedPort(family, 8472, 1, "02:00:00:00:00:01") for family in FAMILIES)
    ranges = (OverlayRange(network, IPv4Network("10.1.1.0/24")),)
    made = own_table(
        FirewallPolicy(
            ranges=ranges,
            devices=("ovl.1",),
            tunnels=(),
            guarded=guarded,
            underlay="eth0",
            underlay_families=(4, 6),
            plain=False,
            ports=(),
            peer_ports=(),
            masquerade=False,
            forward_accept=False,
        )
    )
    assert made is not None
    return made
