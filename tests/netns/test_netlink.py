"""The kernel as a set of objects: thousands written and read back the same, and what is another's stays another's.

[h1] eth0 192.0.2.1/24 ======== eth0 [h2], no daemon anywhere
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_interface
from typing import Any

import pytest

from overlayd.core.kernel.diff import Operation, diff
from overlayd.core.kernel.firewall import TABLE, peer_element
from overlayd.core.kernel.kinds import (
    FdbEntry,
    LinkAddress,
    Neighbour,
    Route,
    SetElement,
    state_of,
)
from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within
from overlayd.system.kernel import Failure, Kernel
from overlayd.system.netlink.elements import ElementWriter
from overlayd.wire.netlink.nft import ELEMENTS_MAX
from support.dump import assert_same, dump
from support.kernel import bring_to, device, inside, peers, reading, rules
from support.waiting import eventually

PEERS = 5000


@pytest.fixture
def host() -> Iterator[Host]:
    with hosts(2, mode="none", underlay="dual", containers=0) as (one, _):
        # The kernel notices up to a second late that a new veth has a carrier (linkwatch), and dumps show it.
        eventually(lambda: "NO-CARRIER" not in one.run("ip", "link", "show", "eth0").stdout, "eth0 has a carrier")
        yield one


def test_five_thousand_peers_are_written_and_read_back(host: Host) -> None:
    before = dump(host)
    base = [device(host), LinkAddress("ovl.1", ip_interface("10.255.0.0/32")), Route(IPv4Network("11.0.0.0/8"))]
    desired = state_of([*base, *peers(PEERS)])
    assert len(desired) == 3 + PEERS * 3 + PEERS // 10 * 2
    assert bring_to(host, desired) == []
    found = reading(host)
    assert diff(found, desired) == []
    assert found == desired
    without = state_of(base)
    assert bring_to(host, without) == []
    assert reading(host) == without
    assert bring_to(host, {}) == []
    assert reading(host) == {}
    assert_same(before, dump(host))


def test_another_vtep_and_another_mac_replace_the_former_ones(host: Host) -> None:
    here = device(host)
    ip, subnet = IPv4Address("10.1.2.0"), IPv4Network("10.1.2.0/24")
    for mac, vtep in (("02:00:00:00:00:01", "192.0.2.2"), ("02:00:00:00:00:02", "192.0.2.2")):
        desired = state_of(
            [
                here,
                Neighbour("ovl.1", ip, mac),
                FdbEntry("ovl.1", mac, IPv4Address(vtep)),
                Route(subnet, "ovl.1", ip, onlink=True, own_link=True),
            ]
        )
        assert bring_to(host, desired) == []
        assert reading(host) == desired
    moved = state_of([here, FdbEntry("ovl.1", "02:00:00:00:00:02", IPv4Address("192.0.2.3"))])
    assert bring_to(host, moved) == []
    assert reading(host) == moved
    fdb = [line for line in host.run("bridge", "fdb", "show", "dev", "ovl.1").stdout.splitlines() if "02:00" in line]
    assert fdb == ["02:00:00:00:00:02 dst 192.0.2.3 self permanent"]


@pytest.mark.parametrize(
    "fields",
    [{"mtu": 1400}, {"mac": "02:00:00:00:00:07"}, {"learning": True}, {"gbp": True}, {"port": 9999}],
    ids=str,
)
def test_a_device_that_changes_keeps_what_hangs_on_it(host: Host, fields: dict[str, Any]) -> None:
    """A change in place can make the kernel forget (a new MAC flushes neighbours): one comparison must do."""
    first = device(host)
    second = replace(first, **fields)
    rest = [LinkAddress("ovl.1", ip_interface("10.1.1.0/32")), *peers(3)]
    assert bring_to(host, state_of([first, *rest])) == []
    for link in (second, first):
        desired = state_of([link, *rest])
        assert bring_to(host, desired) == []
        assert reading(host) == desired


def test_a_route_of_somebody_elses_is_reported_and_left(host: Host) -> None:
    host.ip("route add 10.1.2.0/24 via 192.0.2.9", "route add 10.1.3.0/24 via 192.0.2.9 proto static")
    before = host.run("ip", "route").stdout
    wanted = [Route(IPv4Network(f"10.1.{number}.0/24"), "eth0", IPv4Address("192.0.2.2")) for number in (2, 3, 4)]
    failures = bring_to(host, state_of(wanted))
    assert [failure.operation.object for failure in failures] == wanted[:2]
    for failure, number in zip(failures, (2, 3), strict=True):
        said = f"File exists: a route to 10.1.{number}.0/24 that overlayd did not make is there; remove it"
        assert failure.reason == said
        assert not failure.fatal
    after = host.run("ip", "route").stdout
    assert set(after.splitlines()) - set(before.splitlines()) == {"10.1.4.0/24 via 192.0.2.2 dev eth0 proto 178 "}
    assert set(before.splitlines()) <= set(after.splitlines())
    assert bring_to(host, {}) == []
    assert host.run("ip", "route").stdout == before


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (Route(IPv4Network("10.1.9.0/24"), "eth0", IPv4Address("203.0.113.1")), "gateway is not on the link"),
        (Route(IPv4Network("10.1.9.0/24"), "eth9", IPv4Address("192.0.2.2")), "its device is gone; it is made again"),
    ],
)
def test_a_route_that_cannot_be(host: Host, route: Route, said: str) -> None:
    good = Route(IPv4Network("10.1.4.0/24"), "eth0", IPv4Address("192.0.2.2"))
    failures = bring_to(host, state_of([route, good]))
    assert [failure.operation.object for failure in failures] == [route]
    assert said in failures[0].reason
    assert reading(host) == state_of([good])


def test_what_is_gone_already_is_no_error(host: Host) -> None:
    desired = state_of([device(host), *peers(3)])
    assert bring_to(host, desired) == []

    async def job(kernel: Kernel) -> list[Failure]:
        operations = diff(desired, {})
        individually = [*operations, *diff(state_of(peers(3)), {})]
        return await kernel.apply(individually)

    assert inside(host, job) == []
    assert inside(host, job) == []
    assert reading(host) == {}


def test_links_of_others_are_not_read(host: Host) -> None:
    host.ip(
        "link add theirs type vxlan id 5 dstport 5555 dev eth0 local 192.0.2.1",
        "link set theirs up",
        "addr add 10.44.0.0/32 dev theirs",
        "neigh add 10.44.0.9 lladdr 02:00:00:00:00:09 dev theirs nud permanent",
        "route add 10.44.1.0/24 via 10.44.0.9 dev theirs onlink",
        "route add 10.44.2.0/24 via 192.0.2.9 proto 178 table 5",
    )
    assert reading(host) == {}


def test_interfaces_are_seen_as_they_are(host: Host) -> None:
    async def job(kernel: Kernel) -> list[Any]:
        return await kernel.netlink.interfaces()

    host.ip("link set br0 down")
    bring_to(host, state_of([device(host)]))
    found = {one.name: one for one in inside(host, job)}
    assert set(found) == {"lo", "eth0", "br0", "ovl.1"}
    assert found["lo"].loopback
    assert not found["br0"].up
    assert found["ovl.1"].ours
    assert not found["eth0"].ours
    assert found["eth0"].mtu == 1500
    assert ip_interface("192.0.2.1/24") in found["eth0"].addresses
    assert ip_interface("fd00:192:0:2::1/64") in found["eth0"].addresses


# --- set elements -----------------------------------------------------------------------------------------------------


def elements(last: int, first: int = 1) -> list[SetElement]:
    """Elements of both families."""
    numbers = range(first, last + 1)
    return [peer_element(address) for n in numbers for address in (IPv4Address(n << 8), IPv6Address((0xFD << 120) + n))]


@pytest.mark.parametrize("count", [1, ELEMENTS_MAX // 2 - 1, ELEMENTS_MAX])
def test_elements_come_and_go(host: Host, count: int) -> None:
    """As nft reads them: few by a message of ours, many by nft."""
    assert bring_to(host, state_of([rules(), *elements(3)])) == []
    assert bring_to(host, state_of([rules(), *elements(3 + count, first=2)])) == []
    assert reading(host) == state_of([rules(), *elements(3 + count, first=2)])
    assert bring_to(host, state_of([rules()])) == []
    assert reading(host) == state_of([rules()])


def test_elements_are_all_changed_or_none(host: Host) -> None:
    assert bring_to(host, state_of([rules(), *elements(1)])) == []
    steps = [Operation("add", one) for one in elements(2)]
    for wrong, said in (
        (Operation("delete", elements(7)[-1]), "nftables set peers6: No such file or directory"),
        (Operation("add", SetElement(TABLE, "none", IPv4Address("192.0.2.9"))), "nftables set none: No such file"),
    ):

        async def job(kernel: Kernel, wrong: Operation = wrong) -> list[Failure]:
            return await kernel.apply([*steps, wrong])

        failures = inside(host, job)
        assert [failure.operation for failure in failures] == [*steps, wrong]
        assert all(failure.reason.startswith(said) for failure in failures)
        assert reading(host) == state_of([rules(), *elements(1)])


def test_elements_without_privileges(host: Host) -> None:
    """Refused as a whole."""

    def job() -> str | None:
        writer = ElementWriter()
        try:
            header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # <linux/capability.h>; of this thread alone
            assert ctypes.CDLL(None).capset(header, none) == 0
            return writer.apply([Operation("add", elements(1)[0])])
        finally:
            writer.close()

    assert within(host.namespace, job) == "nftables: Operation not permitted"
