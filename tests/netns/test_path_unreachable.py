"""What cannot be delivered is answered with ICMP, and the answer arrives in the container.

h1c1 10.1.1.2 ------ br0 [h1] eth0 192.0.2.1 ======= eth0 192.0.2.2 [h2] br0 ------ h2c1 10.1.2.2
                         ^
                         10.1.77.0/24 has no lease: h1 answers itself; its default route, by h2, is never taken
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts
from support.wire import ENGINES, FAMILIES, MODES, Capture, ping_text, tcp_carries

Pair = tuple[Host, Host]

UNLEASED = {4: "10.1.77.7", 6: "fd00:10:1:77::7"}
UNLEASED_SUBNET = {4: "10.1.77.0/24", 6: "fd00:10:1:77::/64"}
ENGINE = {4: "10.1.1.0", 6: "fd00:10:1:1::"}
"""h1's own overlay address: the source of the ICMP errors that the engine of udp mode makes."""


@pytest.fixture(scope="module", params=MODES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with hosts(2, mode=request.param, family="dual", underlay="dual") as (a, b):
        yield a, b


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unleased_subnet_is_answered_and_never_leaves_the_host(pair: Pair, family: int) -> None:
    """flannel.md 3."""
    a, b = pair
    a.run("ip", f"-{family}", "route", "replace", "default", "via", str(b.public(family)), "dev", "eth0")
    with Capture(a, "eth0") as capture:
        said = ping_text(a.container(0), UNLEASED[family])
        assert re.search(r"From \S+ icmp_seq=1 Destination (Host Unreachable|unreachable)", said), said
        assert "+1 errors" in said
        # The default route does work: what is not of the network leaves by it.
        assert a.ping(b.container(0).address(family))
        ping_text(a.container(0), {4: "198.51.100.1", 6: "2001:db8::1"}[family], wait=0.2)
        left = [frame.data.hex() for frame in capture.frames() if frame.outgoing]
    assert not [data for data in left if b"\x0a\x01\x4d\x07".hex() in data or "fd000010000100770" in data]
    assert [data for data in left if b"\xc6\x33\x64\x01".hex() in data or "20010db8" in data]


# --- the engine's own answers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ENGINES)
def udp(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with hosts(2, mode="udp", family="dual", underlay="dual", settings={"udp": {"engine": request.param}}) as (a, b):
        yield a, b


@pytest.mark.parametrize(("family", "rp_filter"), [(4, 0), (4, 1), (4, 2), (6, 0)])
def test_the_engine_answers_what_somebody_routes_into_it(udp: Pair, family: int, rp_filter: int) -> None:
    """rp_filter, an IPv4 matter, is strict (1) on many a distribution: neither answers nor traffic may fall for it."""
    a, b = udp
    for host in udp:
        host.sysctl({f"net/ipv4/conf/{name}/rp_filter": rp_filter for name in ("all", "default", "ovl0", "br0")})
    route = ("ip", f"-{family}", "route")
    a.run(*route, "replace", UNLEASED_SUBNET[family], "dev", "ovl0")
    try:
        before = a.status()["drops"]["tx"].get("no_lease", 0)
        said = ping_text(a.container(0), UNLEASED[family])
        expected = {4: "Destination Host Unreachable", 6: "Destination unreachable: Address unreachable"}[family]
        assert f"From {ENGINE[family]} icmp_seq=1 {expected}" in said
        assert a.status()["drops"]["tx"]["no_lease"] == before + 1
        assert a.container(0).ping(b.container(0).address(family))
        assert b.ping(a.container(0).address(family))
    finally:
        a.run(*route, "delete", UNLEASED_SUBNET[family], "dev", "ovl0")


@pytest.mark.parametrize(("family", "path_mtu", "overhead"), [(4, 1300, 28), (6, 1400, 48)])
def test_a_path_narrower_than_the_interface(udp: Pair, family: int, path_mtu: int, overhead: int) -> None:
    a, b = udp
    address, underlay = b.container(0).address(family), b.public(family)
    prefix = 32 if family == 4 else 128
    route = ("ip", f"-{family}", "route")
    a.run(*route, "replace", f"{underlay}/{prefix}", "dev", "eth0", "mtu", str(path_mtu))
    try:
        header = 28 if family == 4 else 48
        full = a.plan.overlay_mtu - header
        said = ping_text(a.container(0), address, "-M", "do", "-s", str(full))
        told = re.search(r"From (\S+) icmp_seq=1 (?:Frag needed and DF set|Packet too big).*mtu ?= ?(\d+)", said)
        assert told, said
        assert (told[1], int(told[2])) == (ENGINE[family], path_mtu - overhead)
        assert a.container(0).ping(address, size=path_mtu - overhead, dont_fragment=True)
        assert a.container(0).ping(address, size=4000), "fragments are made to fit"
        a.container(0).run("ip", f"-{family}", "route", "flush", "cache")
        for sender, receiver in ((a.container(0), b.container(0)), (b.container(0), a.container(0))):
            assert tcp_carries(500_000, sender, receiver, receiver.address(family)), "TCP learns it by itself"
    finally:
        a.run(*route, "delete", f"{underlay}/{prefix}", "dev", "eth0")
        a.container(0).run("ip", f"-{family}", "route", "flush", "cache")
    assert a.container(0).ping(address, size=a.plan.overlay_mtu, dont_fragment=True)
