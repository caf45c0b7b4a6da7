"""A path of which one end is narrower: TCP and UDP find their size through EMSGSIZE and ICMP.

    h1c1 -- br0 [h1] eth0 1500 ==== r1 1500 [router] r2 1400 ==== eth0 1400 [h2] br0 -- h2c1

h1 believes in 1500 until the router's ICMP reaches its socket. What h1c1 sent too long is then answered by h1's engine;
what fits the path but not the overlay MTU of h2, the least that any family leaves there, is answered by h2's engine.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from overlayd.lab import Host, Namespace, hosts
from overlayd.lab.namespace import ip_batch
from support.impaired import impaired_hosts
from support.streams import MB, exchange
from support.wire import ENGINES, FAMILIES, drops, inet, ping_text, udp_echo

WIDE, NARROW = 1500, 1400
OVERLAY = {WIDE: WIDE - 48, NARROW: NARROW - 48}
ROUTER = {4: "192.0.2.254", 6: "fd00:192:0:2::fe"}


def insert_router(a: Host, b: Host) -> None:
    """Between the two hosts, in place of their cable; it is removed with the lab, as its switch would be."""
    router = Namespace("switch", a.lab.spec.namespace("switch"))
    ip_batch([f"netns add {router.namespace}"])
    router.sysctl({
        "net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1,
        "net/ipv4/conf/all/rp_filter": 0, "net/ipv4/conf/default/rp_filter": 0,
    })  # fmt: skip
    a.ip("link delete eth0")
    for device, host, mtu in (("r1", a, WIDE), ("r2", b, NARROW)):
        router.ip(
            f"link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {host.namespace}",
            f"link set {device} up",
        )
        host.ip("link set eth0 up", *(f"addr add {one} dev eth0{nodad(one.version)}" for one in host.plan.underlay))
        for family, gateway in ROUTER.items():
            length = 32 if family == 4 else 128
            router.ip(
                f"addr add {gateway}/{length} dev {device}{nodad(family)}",
                f"route add {host.public(family)}/{length} dev {device}",
            )
            other = b if host is a else a
            host.ip(f"route add {other.public(family)}/{length} via {gateway} dev eth0")


def nodad(family: int) -> str:
    return " nodad" if family == 6 else ""


def set_mtu(host: Host, mtu: int) -> None:
    """Of everything on the container's side."""
    host.ip(*(f"link set {device} mtu {mtu}" for device in ("br0", "c1")))
    host.container(0).ip(f"link set eth0 mtu {mtu}")


def forget(*nodes: Namespace) -> None:
    """What they have learnt about paths."""
    for node in nodes:
        for family in FAMILIES:
            node.run("ip", f"-{family}", "route", "flush", "cache")


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Host]]:
    settings = {"udp": {"engine": request.param}, "probe": {"port": 0}}  # only what tests send finds out about paths
    with hosts(2, mode="udp", family="dual", underlay="dual", start=False, settings=settings) as (a, b):
        insert_router(a, b)
        a.lab.start()
        assert [host.status()["overlay"]["mtu"] for host in (a, b)] == [OVERLAY[WIDE], OVERLAY[NARROW]]
        yield a, b


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("containers", ["told their host's MTU", "told the larger one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_finds_its_size(pair: tuple[Host, Host], family: int, containers: str, streams: int) -> None:
    a, b = pair
    inner, outer = a.container(0), b.container(0)
    told = containers == "told their host's MTU"
    set_mtu(b, OVERLAY[NARROW if told else WIDE])
    forget(a, b, inner, outer)
    before = a.status()["drops"]["tx"].get("too_long", 0)
    exchange(inner, outer, outer.address(family), streams, MB // streams)
    exchange(outer, inner, inner.address(family), streams, MB // streams)
    learnt = a.status()["drops"]["tx"].get("too_long", 0) - before
    if told:
        assert learnt == 0, "the MSS of each end is enough"
    else:
        assert learnt > 0, "h1's engine met the narrow path"
        assert f"mtu {OVERLAY[NARROW]}" in inner.run("ip", "route", "get", str(outer.address(family))).stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_is_told(pair: tuple[Host, Host], family: int) -> None:
    """With DF: once h1 knows, then h1c1 is told; and again by h2, whose overlay MTU is smaller than the path."""
    a, b = pair
    inner, outer = a.container(0), b.container(0)
    address = outer.address(family)
    set_mtu(b, OVERLAY[NARROW])
    forget(a, b, inner, outer)
    path, header = NARROW - (28 if family == 4 else 48), 28 if family == 4 else 48

    said = ping_text(inner, address, "-M", "do", "-s", str(OVERLAY[WIDE] - header), wait=0.3)
    assert "0 received" in said, "the first one is what the router answers, to h1"
    said = ping_text(inner, address, "-M", "do", "-s", str(OVERLAY[WIDE] - header))
    assert re.search(rf"(Frag needed and DF set|Packet too big).*mtu ?= ?{path}\b", said), said
    if path > OVERLAY[NARROW]:
        before = drops(b)
        said = ping_text(inner, address, "-M", "do", "-s", str(path - header))
        assert re.search(rf"Frag needed and DF set.*mtu ?= ?{OVERLAY[NARROW]}\b", said), said
        assert drops(b) - before == {"too_long": 1}
    assert inner.ping(address, size=OVERLAY[NARROW], dont_fragment=True)

    with inner.socket(inet(address), socket.SOCK_DGRAM) as out:
        level, option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)  # IP(V6)_MTU_DISCOVER
        out.setsockopt(level, option, 2)  # IP_PMTUDISC_DO
        with pytest.raises(OSError, match="Message too long"):
            out.sendto(bytes(OVERLAY[NARROW] - header + 1), (str(address), 9))
    # Without DF the container's kernel fragments to what it has learnt.
    payloads = [
        bytes([size % 256]) * size for size in (OVERLAY[NARROW] - header + 1, OVERLAY[WIDE] - header, 5000, 65000)
    ]
    assert udp_echo(inner, outer, address, *payloads) == payloads


@pytest.mark.parametrize("engine", ENGINES)
def test_a_path_that_tells_nobody(engine: str) -> None:
    """It swallows what is too long without a word, and exactly that: the overhead is 28 or 48 bytes, no more."""
    settings = {"udp": {"engine": engine}, "probe": {"port": 0}}  # probes would find it
    with impaired_hosts(mode="udp", family="dual", underlay="dual", settings=settings) as (
        a,
        b,
        wire,
    ):
        inner, outer = a.container(0), b.container(0)
        for family in FAMILIES:
            address, fits = outer.address(family), NARROW - (28 if family == 4 else 48)
            with wire.harming(longest=NARROW) as harmed:
                assert inner.ping(address, size=fits, dont_fragment=True)
                assert not inner.ping(address, size=fits + 1, dont_fragment=True, timeout=0.3)
                set_mtu(a, fits)  # the MSS that h1c1 announces is then enough for both directions
                exchange(inner, outer, address, 2, MB)
                set_mtu(a, a.plan.overlay_mtu)
            assert harmed["too long"] == 1
        assert a.status()["drops"]["tx"].get("too_long", 0) == 0, "the engine knows nothing of it"
