"""Dumps read by hand, held against pyroute2's reading of the same namespace.

[h1] eth0 192.0.2.1/24, fd00:192:0:2::1/64 ======== eth0 192.0.2.2/24, fd00:192:0:2::2/64 [h2]
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from pyroute2 import IPRoute

from overlayd.core.kernel.kinds import (
    FdbEntry,
    KernelObject,
    LinkAddress,
    Neighbour,
    Route,
    TunLink,
    VxlanLink,
    state_of,
)
from overlayd.lab import Host, hosts
from overlayd.lab.namespace import within
from support.dump import index_of
from support.kernel import bring_to, device, reading
from support.waiting import eventually

OURS = ("ovl.1", "ovl6.2", "ovl0")
KINDS = (Neighbour, FdbEntry, Route)


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with hosts(2, mode="none", underlay="dual", containers=0) as (one, two):
        yield one, two


def by_pyroute2(host: Host) -> set[KernelObject]:
    """Neighbours, FDB entries and routes of overlayd's, as a generic decoder reads them, from unfiltered dumps."""

    def read() -> set[KernelObject]:
        found: dict[Any, KernelObject] = {}
        with IPRoute() as kernel:
            names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in kernel.get_links()}
            ours = {index for index, name in names.items() if name in OURS}
            for message in [
                *kernel.get_neighbours(family=socket.AF_INET),
                *kernel.get_neighbours(family=socket.AF_INET6),
                *kernel.fdb("dump"),
            ]:
                name, mac, ip = names[message["ifindex"]], message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
                if message["ifindex"] in ours and message["state"] & 0x80 and mac and ip is not None:
                    if message["family"] == 7:
                        found["fdb", name, mac] = FdbEntry(name, mac, ip_address(ip))
                    else:
                        found["neighbour", name, ip] = Neighbour(name, ip_address(ip), mac)
            for family, default in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                for message in kernel.get_routes(family=family):
                    if message["proto"] == 178 and message.get_attr("RTA_TABLE") == 254:
                        destination = ip_network(f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}")
                        found["route", destination] = by_pyroute2_route(message, destination, names, ours)
        return set(found.values())

    return within(host.namespace, read)


def by_pyroute2_route(message: Any, destination: Any, names: dict[int, str], ours: set[int]) -> Route:
    if message["type"] == 7:
        return Route(destination)
    via = message.get_attr("RTA_GATEWAY") or (message.get_attr("RTA_VIA") or {}).get("addr")
    index = message.get_attr("RTA_OIF") or 0
    gateway = ip_address(via) if via else None
    metrics = dict((message.get_attr("RTA_METRICS") or {"attrs": []})["attrs"])
    onlink, mtu = bool(message["flags"] & 4), metrics.get("RTAX_MTU")
    return Route(destination, names.get(index, f"#{index}"), gateway, onlink, own_link=index in ours, mtu=mtu)


def populate(host: Host) -> None:
    """Many kinds of everything: overlayd's own and not, in forms that overlayd makes and in others."""
    local6, underlay = IPv6Address("fd00:192:0:2::1"), index_of(host, "eth0")
    own = [
        device(host),
        VxlanLink("ovl6.2", 1430, vni=2, port=8473, local=local6, underlay=underlay, mac="06:47:0f:9c:01:2b"),
        TunLink("ovl0", 1450, txqueuelen=1000),
        LinkAddress("ovl.1", ip_interface("10.1.1.0/32")),
        LinkAddress("ovl6.2", ip_interface("fd00:10:1:1::/128")),
    ]
    assert bring_to(host, state_of(own)) == []
    host.ip(
        "link add theirs type vxlan id 5 dstport 5555 dev eth0 local 192.0.2.1",
        "link set theirs up",
        "nexthop add id 5 via 192.0.2.2 dev eth0",
        "nexthop add id 6 via 192.0.2.3 fdb",
        "nexthop add id 7 group 6 fdb",
        *(
            f"route add proto 178 {route}"
            for route in (
                "10.2.0.0/24 via 10.2.0.0 dev ovl.1 onlink",
                "10.2.1.0/24 dev ovl.1",
                "10.2.2.0/24 via 192.0.2.2",
                "10.2.3.0/24 via inet6 fd00:192:0:2::2 dev eth0",
                "10.2.4.0/24 via 192.0.2.2 mtu 1400 advmss 1300",
                "10.2.5.4/31 via 192.0.2.2 metric 7",
                "10.2.5.6 via 192.0.2.2 src 192.0.2.1",
                "10.2.6.0/24 nhid 5",
                "10.2.7.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3",
                "unreachable 10.2.0.0/16",
                "blackhole 10.3.0.0/16",
                "0.0.0.0/0 via 192.0.2.2",
                "10.2.8.0/24 via 192.0.2.2 table 5",
                "10.2.9.0/24 via 192.0.2.2 table 1000",
                "fd00:20::/64 via fd00:20:: dev ovl6.2 onlink",
                "fd00:20:1::/64 dev ovl6.2",
                "fd00:20:2::/64 via fd00:192:0:2::2",
                "fd00:20:3::/64 via fd00:192:0:2::2 pref high expires 600",
                "fd00:20:4::/64 nexthop via fd00:192:0:2::2 nexthop via fd00:192:0:2::3",
                "fd00:20:5::5 via fd00:192:0:2::2 metric 9",
                "unreachable fd00:20::/32",
                "::/0 via fd00:192:0:2::2",
                "fd00:20:8::/64 via fd00:192:0:2::2 table 1000",
            )
        ),
        "route add 10.4.0.0/24 via 192.0.2.2",
        "route add 10.4.1.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3",
        "route add fd00:40::/64 via fd00:192:0:2::2",
        *(
            f"neigh add {neighbour}"
            for neighbour in (
                "10.2.0.0 lladdr 02:00:00:00:00:01 dev ovl.1 nud permanent",
                "10.2.0.1 lladdr 02:00:00:00:00:02 dev ovl.1 nud permanent router",
                "10.2.0.2 lladdr 02:00:00:00:00:03 dev ovl.1 nud stale",
                "10.2.0.3 lladdr 02:00:00:00:00:04 dev ovl.1 nud noarp",
                "proxy 10.2.0.4 dev ovl.1",
                "10.2.0.0 lladdr 02:00:00:00:00:05 dev theirs nud permanent",
                "10.2.0.5 dev ovl0 nud permanent",
                "192.0.2.9 lladdr 02:00:00:00:00:06 dev eth0 nud permanent",
                "fd00:20:: lladdr 02:00:00:00:00:01 dev ovl6.2 nud permanent",
                "fd00:20::1 lladdr 02:00:00:00:00:02 dev ovl6.2 nud reachable",
                "fd00:20::2 lladdr 02:00:00:00:00:03 dev ovl.1 nud permanent",
            )
        ),
    )
    for entry in (
        "append 02:00:00:00:00:01 dev ovl.1 dst 192.0.2.2",
        "append 02:00:00:00:00:02 dev ovl.1 dst 192.0.2.3 port 9999 vni 77",
        "append 02:00:00:00:00:03 dev ovl.1 dst 192.0.2.4 via eth0",
        "append 00:00:00:00:00:00 dev ovl.1 dst 192.0.2.2",
        "append 00:00:00:00:00:00 dev ovl.1 dst 192.0.2.3",
        "append 02:00:00:00:00:04 dev ovl.1 dst 192.0.2.5 static",
        "append 02:00:00:00:00:05 dev ovl.1 dst 192.0.2.5 dynamic",
        "append 02:00:00:00:00:01 dev ovl6.2 dst fd00:192:0:2::2",
        "append 02:00:00:00:00:01 dev theirs dst 192.0.2.9",
        "add 02:00:00:00:00:06 dev ovl.1 nhid 7",
    ):
        host.run("bridge", "fdb", *entry.split())


def test_it_reads_what_pyroute2_reads(pair: tuple[Host, Host]) -> None:
    host, _ = pair
    populate(host)
    expected = by_pyroute2(host)
    counts = [sum(isinstance(thing, kind) for thing in expected) for kind in KINDS]
    assert counts == [4, 5, 20], "the kernel did not take what this test is about"
    assert {thing for thing in reading(host).values() if isinstance(thing, KINDS)} == expected


def test_a_learnt_path_mtu_is_no_route_of_ours(pair: tuple[Host, Host]) -> None:
    """The kernel keeps it as a copy of the route, of the route's protocol, and dumps the two together."""
    host, router = pair
    router.ip("link add narrow mtu 1300 type bridge", "link set narrow up", "route add fd00:99::/64 dev narrow")
    router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    route = Route(ip_network("fd00:99::/64"), "eth0", IPv6Address("fd00:192:0:2::2"))
    assert bring_to(host, state_of([route])) == []

    def learnt() -> bool:
        host.run("ping", "-6", "-c", "1", "-W", "1", "-s", "1400", "fd00:99::1", check=False)
        return "mtu 1300" in host.run("ip", "-6", "route", "show", "cache").stdout

    eventually(learnt, "a path MTU of 1300")
    assert len(by_pyroute2(host)) == 2, "the copy, too"
    assert reading(host) == state_of([route])
