"""The underlay interface as it goes and comes: what is reported of it is what it is now."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import Any

from overlayd.core.underlay import HostInterface
from overlayd.reconcile.underlay import UnderlayFollower

ADDRESSES = (ip_interface("192.0.2.1/24"), ip_interface("fd00:192:0:2::1/64"))
ETH0 = HostInterface("eth0", 2, 1500, up=True, loopback=False, ours=False, addresses=ADDRESSES)


class Host:
    """An interface that tests change, and a follower that looks at it."""

    def __init__(self) -> None:
        self.interface = ETH0
        self.compared = self.changed = 0
        underlay = SimpleNamespace(name="eth0", index=2, mtu=1500, addresses=ADDRESSES)
        node: Any = SimpleNamespace(underlay=underlay, underlay_families=(4, 6))
        netlink: Any = SimpleNamespace(interfaces=self.interfaces)
        self.follower = UnderlayFollower(netlink, lambda: node, self.change, self.compare, lambda: None)

    async def interfaces(self) -> list[HostInterface]:
        return [self.interface]

    async def change(self) -> None:
        self.changed += 1

    async def compare(self) -> None:
        self.compared += 1


async def test_up_again_without_its_ipv6_address_it_is_not_reported_as_down() -> None:
    host = Host()
    host.interface = replace(ETH0, up=False)
    assert await host.follower.follow() is None
    assert host.follower.trouble == "interface eth0 is down: no peer can be reached"
    host.interface = replace(ETH0, addresses=ADDRESSES[:1])  # the kernel drops IPv6 addresses with the link
    assert await host.follower.follow() is not None, "it is given a while to come back"
    assert host.follower.trouble == "interface eth0 is up without an address that packets were sent from"
    host.interface = ETH0
    assert await host.follower.follow() is None
    assert (host.follower.trouble, host.compared, host.changed) == (None, 1, 0)


async def test_an_address_that_is_replaced_in_two_steps_is_no_trouble() -> None:
    host = Host()
    host.interface = replace(ETH0, addresses=ADDRESSES[1:])
    assert await host.follower.follow() is not None
    assert host.follower.trouble is None
    host.interface = ETH0
    assert await host.follower.follow() is None
    assert (host.follower.trouble, host.compared) == (None, 1)
