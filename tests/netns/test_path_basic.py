"""Containers talk to each other: in every mode, with every pairing of families, at every size.

h1c1 10.1.1.2 ------ br0 10.1.1.1 [h1] eth0 192.0.2.1 ======= eth0 192.0.2.2 [h2] br0 10.1.2.1 ------ h2c1 10.1.2.2
     fd00:10:1:1::2                    fd00:192:0:2::1                           fd00:10:1:2::1       fd00:10:1:2::2
                                                       (and [h3] on a switch, for the full mesh)

What is inside and what is underneath is said as "inside over underlay": "ipv6 over ipv4".
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, hosts
from support.waiting import eventually
from support.wire import ENGINES, FAMILIES, MODES, Capture, ping_text, tcp_carries, udp_echo

STACKS = (("ipv4", "ipv4"), ("ipv6", "ipv6"), ("dual", "ipv4"), ("ipv4", "ipv6"), ("dual", "dual"))
OVERHEAD = {("udp", 4): 28, ("udp", 6): 48, ("vxlan", 4): 50, ("vxlan", 6): 70, ("host-gw", 4): 0, ("host-gw", 6): 0}

Path = tuple[Host, Host, int]


def cases() -> Iterator[tuple[str, str, str, str, int]]:
    """Mode, engine, families inside and underneath, and the one that is tried; host-gw has no next hop for 6 over 4."""
    ways = [("udp", engine) for engine in ENGINES] + [(mode, "auto") for mode in MODES if mode != "udp"]
    for (mode, engine), (inside, underlay), family in itertools.product(ways, STACKS, FAMILIES):
        if inside in ("dual", f"ipv{family}") and (mode != "host-gw" or inside == "ipv4" or underlay != "ipv4"):
            yield mode, engine, inside, underlay, family


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, id="{} {}: {} over {}, IPv{}".format(*case)) for case in cases()],
)
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Two hosts with a container each, and the family to try; shared by all tests of one case."""
    mode, engine, inside, underlay, family = request.param
    with hosts(2, mode=mode, family=inside, underlay=underlay, settings={"udp": {"engine": engine}}) as (a, b):
        yield a, b, family


def test_ping_both_ways(path: Path) -> None:
    a, b, family = path
    assert a.container(0).ping(b.container(0).address(family), count=3)
    assert b.container(0).ping(a.container(0).address(family), count=3)


def test_tcp_carries_megabytes_unharmed(path: Path) -> None:
    a, b, family = path
    for sender, receiver in ((a.container(0), b.container(0)), (b.container(0), a.container(0))):
        assert tcp_carries(3_000_000, sender, receiver, receiver.address(family))


def test_udp_datagrams_of_every_kind_of_size(path: Path) -> None:
    a, b, family = path
    fits = a.plan.overlay_mtu - (28 if family == 4 else 48)  # IP and UDP headers
    payloads = [os.urandom(size) for size in (0, 1, 2, 3, 100, fits - 1, fits, fits + 1, 4000, 20000)]
    answers = udp_echo(a.container(0), b.container(0), b.container(0).address(family), *payloads)
    assert [len(answer) for answer in answers] == [len(payload) for payload in payloads]
    assert answers == payloads


def test_fragments_pass(path: Path) -> None:
    a, b, family = path
    with Capture(b.container(0), "eth0") as capture:
        assert a.container(0).ping(b.container(0).address(family), size=4000)
        echo = [frame for frame in capture.incoming("eth0") if len(frame.ip) > 500]
    assert len(echo) == -(-4000 // a.plan.overlay_mtu), "it did cross in pieces"


def test_the_overlay_mtu_fits_exactly(path: Path) -> None:
    a, b, family = path
    mtu = a.plan.overlay_mtu
    for sender, receiver in ((a, b), (b, a)):
        address = receiver.container(0).address(family)
        assert sender.container(0).ping(address, size=mtu, dont_fragment=True)
        assert not sender.container(0).ping(address, size=mtu + 1, dont_fragment=True, timeout=0.3)


def test_a_byte_more_than_the_overlay_mtu_is_answered_by_the_host(path: Path) -> None:
    """The container and its bridge are given a larger MTU than the overlay, as a careless runtime does."""
    a, b, family = path
    mtu, inner = a.plan.overlay_mtu, a.container(0)
    gateway = next(str(gateway.ip) for gateway in a.plan.bridge if gateway.version == family)
    header = 28 if family == 4 else 48

    def set_mtu(value: int) -> None:
        a.ip(f"link set c1 mtu {value}", f"link set br0 mtu {value}")
        inner.ip(f"link set eth0 mtu {value}")

    set_mtu(mtu + 200)
    try:
        said = ping_text(inner, b.container(0).address(family), "-M", "do", "-s", str(mtu + 1 - header))
        assert re.search(rf"From {gateway} .*(Frag needed and DF set|Packet too big).*mtu ?= ?{mtu}\b", said), said
        inner.run("ip", f"-{family}", "route", "flush", "cache")
        assert tcp_carries(300_000, inner, b.container(0), b.container(0).address(family)), "TCP learns it by itself"
    finally:
        set_mtu(mtu)
        inner.run("ip", f"-{family}", "route", "flush", "cache")


def test_a_host_and_a_remote_container(path: Path) -> None:
    a, b, family = path
    assert a.ping(b.container(0).address(family), count=2)
    assert tcp_carries(100_000, a, b.container(0), b.container(0).address(family))


def test_a_container_and_the_remote_hosts_gateway_address(path: Path) -> None:
    a, b, family = path
    gateway = next(gateway.ip for gateway in b.plan.bridge if gateway.version == family)
    assert a.container(0).ping(gateway, count=2)


def test_each_host_is_one_hop(path: Path) -> None:
    a, b, family = path
    address = b.container(0).address(family)
    with Capture(b.container(0), "eth0") as capture:
        assert "1 received" in ping_text(a.container(0), address, "-t", "33")
        packets = [frame.ip for frame in capture.incoming("eth0")]
    if family == 4:
        assert [one[8] for one in packets if one[20:21] == b"\x08"] == [31]
    else:
        assert [one[7] for one in packets if one[40:41] == b"\x80"] == [31]


@pytest.mark.parametrize("ttl", [1, 2])
def test_a_hop_that_takes_the_last_ttl_says_so(path: Path, ttl: int) -> None:
    a, b, family = path
    said = ping_text(a.container(0), b.container(0).address(family), "-t", str(ttl))
    answer = re.search(r"From (\S+) icmp_seq=1 Time (?:to live )?exceeded", said)
    assert answer, said
    if ttl == 1:
        assert answer[1] == next(str(gateway.ip) for gateway in a.plan.bridge if gateway.version == family)


def test_ip_options_pass(path: Path) -> None:
    a, b, family = path
    address = b.container(0).address(family)
    if family == 4:
        said = ping_text(a.container(0), address, "-R")  # record route: every router on the way adds an address
        assert "1 received" in said
        assert "RR:" in said
        return
    with (
        a.container(0).socket(socket.AF_INET6, socket.SOCK_DGRAM) as here,
        b.container(0).socket(socket.AF_INET6, socket.SOCK_DGRAM) as there,
    ):
        hop_by_hop = struct.pack("!BBBB4x", 0, 0, 1, 4)  # RFC 8200 section 4.3, filled by a PadN option
        here.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, hop_by_hop)
        there.settimeout(5)
        there.bind((str(address), 0))
        here.sendto(b"with options", there.getsockname())
        assert there.recv(100) == b"with options"


# --- other underlays, more hosts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("underlay_mtu", [1400, 9000])
@pytest.mark.parametrize("mode", MODES)
def test_other_underlay_mtus(mode: str, underlay_mtu: int) -> None:
    with hosts(2, mode=mode, family="dual", underlay="dual", underlay_mtu=underlay_mtu) as (a, b):
        mtu = underlay_mtu - OVERHEAD[mode, 6]  # the least that any underlay family in use leaves
        assert a.status()["overlay"]["mtu"] == mtu
        assert f"FLANNEL_MTU={mtu}" in a.subnet_file.read_text()
        inner = a.container(0)
        for family in FAMILIES:
            address = b.container(0).address(family)
            assert inner.ping(address, size=mtu, dont_fragment=True)
            assert not inner.ping(address, size=mtu + 1, dont_fragment=True, timeout=0.3)
            assert tcp_carries(1_000_000, inner, b.container(0), address)


@pytest.mark.parametrize("mode", MODES)
def test_a_mesh_of_three(mode: str) -> None:
    with hosts(3, mode=mode, family="dual", underlay="dual", containers=2) as nodes:
        for one, other in itertools.permutations(nodes, 2):
            for family in FAMILIES:
                assert one.container(1).ping(other.container(0).address(family)), (one, other, family)
                assert one.ping(other.container(1).address(family)), (one, other, family)
        if mode == "udp":
            a, b, c = nodes
            eventually(lambda: all(peer["traffic"]["rx_packets"] for peer in a.status()["peers"]), timeout=5)
            assert {peer["name"] for peer in a.status()["peers"]} == {b.name, c.name}
