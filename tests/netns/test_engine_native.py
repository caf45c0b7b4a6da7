"""The native engine on a real TUN: what leaves containers arrives unharmed, with offloads on the wire and without.

h1c1 10.1.1.2 -- br0 10.1.1.1 [h1] eth0 192.0.2.1 ======== eth0 192.0.2.2 [h2] br0 10.1.2.1 -- h2c1 10.1.2.2
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from overlayd.core.address import Address
from overlayd.datapath.native.offloads import kernel
from overlayd.lab import Host, Namespace, hosts
from support.waiting import eventually
from support.wire import FAMILIES, UDP_PORT, drops, inet, inject, ping_text, udp_echo, udp_packet

pytest.importorskip("overlayd.datapath.native._native", reason="the native engine is not built: needs a C compiler")

Pair = tuple[Host, Host]
TUNNEL_GSO = kernel() >= (6, 17)
MB = 1 << 20
ENGINE = {"udp": {"engine": "native"}}


UNDERLAYS = {
    "offloads": {"offloads": "on"},
    "frames of 1500 bytes": {"offloads": "off"},
    "overlayd's wire, offloads": {"offloads": "on", "wire": "overlayd"},
    "overlayd's wire, frames of 1500 bytes": {"offloads": "off", "wire": "overlayd"},
}


@pytest.fixture(scope="module", params=UNDERLAYS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    underlay = UNDERLAYS[request.param]
    with hosts(2, mode="udp", family="dual", underlay="dual", settings=ENGINE, **underlay) as (a, b):
        if "wire" in underlay:
            expected = ["partial_sums", "ecn", *(["tunnel_gso"] if underlay["offloads"] == "on" and TUNNEL_GSO else [])]
            for host in (a, b):
                eventually(lambda host=host: host.status()["peers"][0]["capabilities"] == expected, what="capabilities")
        yield a, b


def test_the_log_and_the_status_say_which_engine(pair: Pair) -> None:
    a, _ = pair
    (line,) = [line for line in a.log().splitlines() if 'msg="packet engine"' in line]
    assert "engine=native" in line
    assert "tso4" in line
    assert "udp_gso" in line
    assert a.status()["engine"] == "native"


@pytest.mark.parametrize("family", FAMILIES)
def test_ping_of_all_sizes(pair: Pair, family: int) -> None:
    a, b = pair
    for size in (0, 1, 56, 1400, 1424, 1425, 4000, 30000, 65507 if family == 4 else 65400):
        text = ping_text(a.container(0), b.container(0).address(family), "-s", str(size))
        assert " 0% packet loss" in text, size


def pour(sender: Namespace, receiver: Namespace, address: Address, size: int, seed: int) -> tuple[str, str]:
    """The sha256 of what was sent and of what came, of a stream of `size` random bytes."""
    block = hashlib.shake_256(seed.to_bytes(8, "big")).digest(MB + 7)  # no power of two: repeats show any shift

    def take(listener: socket.socket) -> str:
        connection, _ = listener.accept()
        digest = hashlib.sha256()
        with connection:
            connection.settimeout(60)
            while data := connection.recv(MB):
                digest.update(data)
        return digest.hexdigest()

    with (
        ThreadPoolExecutor(1) as pool,
        receiver.socket(inet(address), socket.SOCK_STREAM) as listener,
        sender.socket(inet(address), socket.SOCK_STREAM) as out,
    ):
        for one in (listener, out):
            one.settimeout(60)
        listener.bind((str(address), 0))
        listener.listen(1)
        out.connect((str(address), listener.getsockname()[1]))
        received = pool.submit(take, listener)
        digest, left = hashlib.sha256(), size
        while left:
            data = block[:left]
            out.sendall(data)
            digest.update(data)
            left -= len(data)
        out.shutdown(socket.SHUT_WR)
        return digest.hexdigest(), received.result()


def counter(node: Namespace, name: str) -> int:
    """One of the kernel's counters, by nstat's name for it."""
    return int(json.loads(node.run("nstat", "-asz", "-j", name).stdout)["kernel"][name])


def sums_wrong(*nodes: Namespace) -> int:
    return sum(
        counter(node, name) for node in nodes for name in ("TcpInCsumErrors", "UdpInCsumErrors", "IpInHdrErrors")
    )


def pour_many(a: Host, b: Host, family: int, streams: int, total: int) -> None:
    address = b.container(0).address(family)
    nodes = (a, b, a.container(0), b.container(0))
    before = sums_wrong(*nodes)
    with ThreadPoolExecutor(streams) as pool:
        jobs = [
            pool.submit(pour, a.container(0), b.container(0), address, total // streams, seed)
            for seed in range(streams)
        ]
        assert all(sent == came for sent, came in (job.result() for job in jobs))
    assert sums_wrong(*nodes) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("streams", [1, 4, 32])
def test_tcp_is_unharmed(pair: Pair, family: int, streams: int) -> None:
    a, b = pair
    pour_many(a, b, family, streams, 100 * MB)
    pour_many(b, a, family, streams, 32 * MB)


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_is_unharmed_where_the_underlay_loses_one_percent(pair: Pair, family: int) -> None:
    a, b = pair
    b.run("nft", "add table inet loss; add chain inet loss in { type filter hook input priority 0; };"
          f" add rule inet loss in udp dport {UDP_PORT} numgen random mod 100 < 1 counter drop")  # fmt: skip
    try:
        pour_many(a, b, family, 4, 64 * MB)
        assert "packets 0 " not in b.run("nft", "list", "table", "inet", "loss").stdout
    finally:
        b.run("nft", "delete", "table", "inet", "loss")


@pytest.mark.parametrize("pair", ["offloads", "frames of 1500 bytes"], indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_underlay_corrupts_is_left_to_the_receivers_checksum(pair: Pair, family: int) -> None:
    """nft changes a byte of the inner payload and mends the outer checksum: only the inner one can tell.

    Not so with overlayd's wire, where the outer checksum is the only one on the way.
    """
    a, b = pair
    address, taker = b.container(0).address(family), b.container(0)
    before = counter(taker, "TcpInCsumErrors")
    chain = "add table inet harm; add chain inet harm in { type filter hook prerouting priority -300; };"
    rule = f"add rule inet harm in udp dport {UDP_PORT} numgen random mod 200 < 1 counter @th,1600,8 set 0x5a"
    b.run("nft", f"{chain} {rule}")
    try:
        sent, came = pour(a.container(0), taker, address, 32 * MB, 1)
        harmed = b.run("nft", "list", "table", "inet", "harm").stdout
    finally:
        b.run("nft", "delete", "table", "inet", "harm")
    assert sent == came
    assert "packets 0 " not in harmed
    assert counter(taker, "TcpInCsumErrors") > before


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_of_all_sizes(pair: Pair, family: int) -> None:
    a, b = pair
    sizes = [*range(0, 1500, 7), *range(1400, 1460), 2000, 9000, 32000, 65507 if family == 4 else 65487]
    payloads, before = [os.urandom(size) for size in sizes], sums_wrong(a.container(0), b.container(0))
    assert udp_echo(a.container(0), b.container(0), b.container(0).address(family), *payloads) == payloads
    assert sums_wrong(a.container(0), b.container(0)) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 64, 1200])
def test_bursts_of_udp_arrive_in_order(pair: Pair, family: int, size: int) -> None:
    """A superpacket of the sender (UDP_SEGMENT) is cut, joined by the other side, and taken apart by its kernel."""
    a, b = pair
    address = b.container(0).address(family)
    payload = os.urandom(size * 40 + size // 2)
    with (
        a.container(0).socket(inet(address), socket.SOCK_DGRAM) as out,
        b.container(0).socket(inet(address), socket.SOCK_DGRAM) as there,
    ):
        there.settimeout(5)
        there.bind((str(address), 0))
        out.sendmsg([payload], [(17, 103, struct.pack("=H", size))], 0, there.getsockname())
        count = 40 + (size > 1)
        got = [there.recv(65536) for _ in range(count)]
    assert b"".join(got) == payload
    assert {len(one) for one in got[:40]} == {size}


def test_strangers_and_spoofers_are_counted_by_the_packet() -> None:
    with hosts(3, mode="udp", settings=ENGINE) as (a, b, c):
        a.lab.write_leases([host.plan.lease_entry() for host in (a, b)])
        eventually(lambda: len(a.status()["peers"]) == 1)
        before = drops(a)
        inject(c, a.public_ip, UDP_PORT, *[udp_packet("10.1.2.2", "10.1.1.2", b"x")] * 7)
        inject(b, a.public_ip, UDP_PORT, *[udp_packet("10.1.3.2", "10.1.1.2", b"x")] * 5)
        inject(b, a.public_ip, UDP_PORT, *[udp_packet("10.1.2.2", "10.1.9.2", b"x")] * 3)
        eventually(lambda: (drops(a) - before).total() == 15, timeout=5)
        assert drops(a) - before == {"unknown_peer": 7, "spoofed_source": 5, "destination_not_own": 3}


def test_a_narrow_path_is_learnt_by_the_container() -> None:
    """The underlay's MTU shrinks under the daemon: EMSGSIZE becomes an ICMP error, and TCP goes on."""
    with hosts(2, mode="udp", settings=ENGINE) as (a, b):
        for host in (a, b):
            host.ip("route change 192.0.2.0/24 dev eth0 mtu lock 1300")
        pour_many(a, b, 4, 1, 8 * MB)
        assert "too_long" in a.status()["drops"]["tx"]


def test_engines_may_change_over_one_device() -> None:
    """Each after the other, also killed: the TUN stays, and its offloads are those of its reader."""
    with hosts(2, mode="udp", settings={"udp": {"engine": "python"}}) as (a, b):
        for engine, end in (("native", "TERM"), ("python", "KILL"), ("native", "KILL"), ("python", "TERM")):
            a.stop() if end == "TERM" else a.stop(9)
            a.write_config({**a.config, "udp": {"engine": engine}})
            a.start()
            assert a.status()["engine"] == engine
            pour_many(a, b, 4, 1, 4 * MB)
            pour_many(b, a, 4, 1, 4 * MB)
            assert a.status()["drops"]["tx"] == {}


def test_a_host_that_announces_nothing_gets_flannels_format_from_those_that_do() -> None:
    """By etcd, where each host's own setting says what its lease announces."""
    with hosts(3, mode="udp", registry="etcd", settings=ENGINE, wire="overlayd") as (a, b, c):
        expected = ["partial_sums", "ecn", *(["tunnel_gso"] if TUNNEL_GSO else [])]
        for host in (a, b, c):
            eventually(
                lambda host=host: [peer["capabilities"] for peer in host.status()["peers"]] == [expected] * 2,
                what="them",
            )
        c.write_config({**c.config, "udp": {**c.config["udp"], "wire": "flannel"}})
        os.kill(c.pid, signal.SIGHUP)
        address = c.container(0).address()
        eventually(lambda: [peer["capabilities"] for peer in c.status()["peers"]] == [[], []], what="flannel's format")
        for host in (a, b):
            eventually(
                lambda host=host: (
                    {peer["public_ip"]: peer["capabilities"] for peer in host.status()["peers"]}[str(c.public_ip)] == []
                ),
                what="nobody uses another way to c",
            )
            sent, came = pour(host.container(0), c.container(0), address, 8 * MB, 3)
            assert sent == came
