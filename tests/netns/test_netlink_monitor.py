"""What is heard of changes: all that concerns overlayd, exactly as it is then, and nothing of others.

[h1] eth0 192.0.2.1/24, fd00:192:0:2::1/64 ======== eth0 [h2], no daemon anywhere
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_interface

import pytest

from overlayd.core.kernel.changes import KernelChanges
from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.firewall import peer_element
from overlayd.core.kernel.kinds import KernelState, LinkAddress, Route, Ruleset, state_of
from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within
from overlayd.system import nft
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Monitor, Netlink
from support.kernel import device, peers, rules


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts(2, mode="none", underlay="dual", containers=0) as (one, _):
        yield one


def heard(
    host: Host, desired: KernelState, action: Callable[[], None] = lambda: None
) -> tuple[KernelChanges, KernelChanges]:
    """What a monitor hears while everything is brought to `desired`, and then during the action."""

    async def job() -> tuple[KernelChanges, KernelChanges]:
        monitor, own, others = Monitor(), KernelChanges(), KernelChanges()
        monitor.watch([thing.device for thing in desired.values() if thing.device is not None], "eth0")
        async with Netlink() as netlink:
            kernel = Kernel(netlink)
            assert await kernel.apply(diff((await kernel.read()).state, desired)) == []
            drain(monitor, own)
            action()
            drain(monitor, others)
            assert await kernel.apply(diff((await kernel.read()).state, {})) == []
        monitor.close()
        return own, others

    return within(host.namespace, lambda: asyncio.run(job()))


def drain(monitor: Monitor, into: KernelChanges) -> None:
    while not monitor.read(into):
        pass


def everything(host: Host) -> KernelState:
    base = [device(host), LinkAddress("ovl.1", ip_interface("10.255.0.0/32")), Route(IPv4Network("11.0.0.0/8"))]
    gateway = IPv4Address("192.0.2.2")
    rules = Ruleset("inet", "overlayd", None, (), '[{"add": {"table": {"family": "inet", "name": "overlayd"}}}]')
    return state_of([*base, *peers(1000), Route(IPv4Network("12.0.0.0/24"), "eth0", gateway, mtu=1400), rules])


def test_own_changes_are_heard_as_they_were_made(host: Host) -> None:
    desired = everything(host)
    own, _ = heard(host, desired)
    assert len(own.objects) > 3000
    assert own.differing(desired) == ({}, {})
    assert len(own.rules) == 1
    own.discard_own(desired, desired.keys(), nft.is_own)
    assert not own.rules, "the process that made them is ours"
    assert not own.needs_comparison(desired)
    assert not own.underlay


def test_elements_that_a_lease_event_changes_are_our_own_doing(host: Host) -> None:
    """Else every one of them would call for a full comparison."""
    elements = [
        Operation("add", peer_element(IPv4Address("192.0.2.77"))),
        Operation("add", peer_element(IPv6Address("fd00::77"))),
    ]

    async def job() -> None:
        monitor, changes = Monitor(), KernelChanges()
        async with Netlink() as netlink:
            kernel = Kernel(netlink)
            assert await kernel.apply([Operation("add", rules())]) == []
            drain(monitor, KernelChanges())
            assert await kernel.apply(elements) == []
            drain(monitor, changes)
            assert len(changes.rules) == 1, "it is heard"
            changes.discard_own({}, set(), kernel.is_own)
            assert not changes.rules
            await kernel.apply([Operation("delete", rules())])
        monitor.close()

    within(host.namespace, lambda: asyncio.run(job()))


def test_of_others_nothing_is_heard(host: Host) -> None:
    def live() -> None:
        host.ip(
            "link add x type veth peer name y",
            "link set x up mtu 1400",
            "link set y master br0",
            "link set y up",
            "addr add 203.0.113.1/24 dev x",
            "neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev x nud permanent",
            "route add 203.0.113.128/25 via 203.0.113.9 proto bird",
            "route add 10.255.0.0/24 via 203.0.113.9 table 7 proto 178",
            "link set eth0 txqueuelen 500",
            "link set y nomaster",
            "link del x",
        )
        host.run("nft", "add table inet x; add chain inet x y; add rule inet x y drop; delete table inet x")

    desired = everything(host)
    _, others = heard(host, desired, live)
    assert not others.needs_comparison(desired)
    assert not others.underlay
    assert others.differing(desired) == ({}, {})


@pytest.mark.parametrize(
    "line",
    [
        "link set eth0 mtu 1400",
        "link set eth0 down",
        "addr add 198.51.100.1/24 dev eth0",
        "addr del 192.0.2.1/24 dev eth0",
        "link set eth0 name old",
    ],
)
def test_a_change_of_the_underlay(host: Host, line: str) -> None:
    undo = ["link set eth0 mtu 1500 up"] if "name" not in line else ["link set old name eth0", "link set eth0 up"]
    _, others = heard(host, {}, lambda: host.ip(line))
    if "addr" in line:
        verb = "del" if "addr add" in line else "add"
        undo.append(f"addr {verb} {line.split()[2]} dev eth0")
    host.ip(*undo)
    assert others.underlay
    assert not others.needs_comparison({})


def test_an_address_whose_lifetime_is_renewed_is_no_change(host: Host) -> None:
    """As with every router advertisement, or renewal of a DHCP lease."""
    own = ("198.51.100.1/24", "fd99::1/64")
    lines = [f"addr replace {one} dev eth0 valid_lft 5000 preferred_lft 5000" for one in own]
    host.ip("link set eth0 up", *(f"{line}{' nodad' if 'fd99' in line else ''}" for line in lines))

    def renew() -> None:
        host.ip(*lines)

    async def job() -> list[KernelChanges]:
        monitor, found = Monitor(), []
        monitor.watch([], "eth0")
        for _ in range(3):
            changes = KernelChanges()
            renew()
            drain(monitor, changes)
            found.append(changes)
        monitor.close()
        return found

    found = within(host.namespace, lambda: asyncio.run(job()))
    host.ip(*(f"addr del {one} dev eth0" for one in own))
    assert [one.underlay for one in found[1:]] == [False, False]
