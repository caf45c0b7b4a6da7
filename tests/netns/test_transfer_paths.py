"""A path that is narrower than both of its ends: TCP crosses it with nobody setting anything, in every mode.

    h1c1 -- br0 [h1] eth0 1500 ==== [r1] 1400 ==== 1400 [r2] ==== 1500 eth0 [h2] br0 -- h2c1

The routers answer ARP and neighbour solicitations for the hosts behind them, so that the hosts believe that they are on
one link: host-gw mode asks for no less.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from overlayd.backend.modes import SETTINGS, make_backend
from overlayd.core.attach.table import AttachmentTable
from overlayd.daemon.discovery import discover
from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.namespace import ip_batch, within
from overlayd.reconcile.paths import PathFollower
from overlayd.reconcile.providers import providers
from overlayd.reconcile.reconciler import Reconciler
from overlayd.registry.static import StaticRegistry
from overlayd.system.kernel import Kernel
from overlayd.system.netlink import Netlink
from support.streams import MB, exchange
from support.waiting import eventually
from support.wire import FAMILIES, MODES, ping_text

WIDE, NARROW = 1500, 1400
MIDDLE = {4: ("198.18.0.1", "198.18.0.2"), 6: ("fd00:18::1", "fd00:18::2")}
OUTSIDE = {4: "192.0.2.25{}", 6: "fd00:192:0:2::f{}"}


def insert_narrow_path(a: Host, b: Host) -> None:
    """Between the two hosts, in place of their cable; it is removed with the lab, of which it has two unused names."""
    routers = [Namespace(name, a.lab.spec.namespace(name)) for name in ("switch", "h9")]
    ip_batch([f"netns add {router.namespace}" for router in routers])
    a.ip("link delete eth0")
    routers[0].ip(f"link add middle mtu {NARROW} type veth peer name middle mtu {NARROW} netns {routers[1].namespace}")
    for number, (router, near, far) in enumerate(((routers[0], a, b), (routers[1], b, a))):
        router.ip(f"link add outside type veth peer name eth0 netns {near.namespace}")
        router.sysctl({
            "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1,
            "net/ipv4/conf/all/rp_filter": 0, "net/ipv4/conf/outside/rp_filter": 0,
            "net/ipv4/conf/middle/rp_filter": 0,
            "net/ipv4/conf/outside/proxy_arp": 1, "net/ipv6/conf/outside/proxy_ndp": 1,
            "net/ipv4/neigh/outside/proxy_delay": 0, "net/ipv6/neigh/outside/proxy_delay": 0,
        })  # fmt: skip
        router.ip("link set outside up", "link set middle up")
        near.ip("link set eth0 up", *(f"addr add {one} dev eth0{nodad(one.version)}" for one in near.plan.underlay))
        for one in near.plan.underlay:
            family, length = one.version, one.max_prefixlen
            neighbour = MIDDLE[family][1 - number]
            router.ip(
                f"addr add {MIDDLE[family][number]}/{length - 2} dev middle{nodad(family)}",
                f"addr add {OUTSIDE[family].format(number)}/{length} dev outside{nodad(family)}",
                f"route add {near.public(family)}/{length} dev outside",
                f"route add {far.public(family)}/{length} via {neighbour}",
                *([f"neigh add proxy {far.public(family)} dev outside"] if family == 6 else []),
                # In host-gw mode it is the containers' packets that pass, and the errors to them.
                *(f"route add {own} via {near.public(family)}" for own in near.subnets if own.version == family),
                *(f"route add {own} via {neighbour}" for own in far.subnets if own.version == family),
            )
        router.run("ethtool", "-K", "middle", "gso", "off", "tso", "off", "gro", "off")


def nodad(family: int) -> str:
    return " nodad" if family == 6 else ""


@pytest.fixture(
    scope="module",
    params=[("udp", "dual"), ("udp", "ipv6"), ("vxlan", "ipv4"), ("vxlan", "ipv6"), ("host-gw", "dual")],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    mode, underlay = request.param
    with hosts(2, mode=mode, family="dual", underlay=underlay, start=False) as (a, b):
        insert_narrow_path(a, b)
        a.lab.start()
        yield a, b


def underlay_family(host: Host, family: int) -> int:
    """The underlay family that carries this family's packets."""
    return family if host.public(family) is not None else 10 - family


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_crosses_it(pair: tuple[Host, Host], family: int) -> None:
    """flannel.md 6: a black hole there."""
    a, b = pair
    inner, outer = a.container(0), b.container(0)
    exchange(inner, outer, outer.address(family), 2, MB)
    exchange(outer, inner, inner.address(family), 2, MB)


@pytest.mark.parametrize("family", FAMILIES)
def test_containers_are_told(pair: tuple[Host, Host], family: int) -> None:
    """The exact size, which then gets through. Over IPv4, vxlan's outer packets may be fragmented on the way, and are
    until this host has heard of the path, be it by its own traffic or a probe's."""
    a, b = pair
    inner, address, mode = a.container(0), b.container(0).address(family), a.lab.spec.mode
    under, header = underlay_family(a, family), 28 if family == 4 else 48
    if mode == "vxlan" and under == family == 4:
        assert inner.ping(address, size=a.status()["overlay"]["mtu"], dont_fragment=True), "in fragments"
        assert not a.ping(b.public(4), size=WIDE, dont_fragment=True, timeout=0.3)
    inner.run("ip", f"-{family}", "route", "flush", "cache")
    path = NARROW - SETTINGS.modes[mode].overhead(under)

    def told() -> bool:
        said = ping_text(inner, address, "-M", "do", "-s", str(a.status()["overlay"]["mtu"] - header), wait=0.2)
        return bool(re.search(rf"(Frag needed and DF set|Packet too big).*mtu ?= ?{path}\b", said))

    eventually(told, what=f"an ICMP error with MTU {path}")
    assert inner.ping(address, size=path, dont_fragment=True)
    assert a.status()["problems"] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_path_that_was_probed(mode: str) -> None:
    """Where no ICMP comes back somebody else finds out: what is said of a path gets into the routes, and out again."""
    peer, stranger = IPv4Address("192.0.2.2"), IPv4Address("192.0.2.77")
    said = [(peer, NARROW, NARROW), (peer, 300, 576), (peer, None, None), (stranger, NARROW, None), (peer, WIDE, None)]

    async def job(settings: Any) -> None:
        async with Netlink() as netlink:
            node = await discover(settings, StaticRegistry(), netlink)
            backend, reconciler = make_backend(node), Reconciler(Kernel(netlink))
            reconciler.table.replace(StaticRegistry().leases(settings))
            reconciler.use(node, providers(backend, settings, reconciler.table, AttachmentTable()))
            assert await reconciler.compare() == []
            probed: dict[IPv4Address, int] = {}
            follower = PathFollower(netlink, lambda: backend, reconciler, lambda: probed)
            for public, path, shown in said:
                probed.pop(public, None)
                probed.update({} if path is None else {public: path})
                await follower.follow()
                found = {line.split()[0]: mtu_of(line) for line in host.run("ip", "route").stdout.splitlines()}
                wide = None if shown is None else max(shown - SETTINGS.modes[mode].overhead(4), 576)
                assert found["10.1.2.0/24"] == wide
                assert found["10.1.3.0/24"] is None
                assert (await reconciler.plan()).operations == [], "the kernel has what is desired"

    leases = [{"subnet": f"10.1.{number}.0/24", "public_ip": f"192.0.2.{number}"} for number in (1, 2, 3)]
    with hosts(2, mode="none", containers=0) as (host, _):
        settings = SETTINGS.parse({"mode": mode, "network": "10.1.0.0/16", "leases": leases})
        within(host.namespace, lambda: asyncio.run(job(settings)))


def mtu_of(route: str) -> int | None:
    """The MTU that a line of `ip route` shows."""
    found = re.search(r" mtu (\d+)", route)
    return int(found[1]) if found else None
